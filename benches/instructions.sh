#!/usr/bin/env bash
# Instructions and locked instructions that one operation of the scheduler executes, by callgrind: exact and repeatable, where
# times are not.
#
#     bash benches/instructions.sh              the table
#     bash benches/instructions.sh --check      fails if a row has more locked instructions or fences than it may have
#
# Each row is run 1,000 and 11,000 times, and the difference divided by 10,000. Locked: an instruction with a lock prefix, an
# exchange with memory, or a fence; where they are is said below the table. Needs valgrind (and its perl) and objdump.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in valgrind objdump perl; do
    command -v "$tool" >/dev/null || { echo "instructions.sh: skipped, there is no $tool"; exit 0; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
program=$(cargo bench --bench steps --no-run --message-format=json 2>/dev/null |
    perl -ne 'print $1 if /"name":"steps".*"executable":"([^"]+)"/')
objdump -d -C --no-show-raw-insn "$program" | perl -ne '
    $f = $1 if /^[0-9a-f]+ <(.*)>:$/;
    print "$1 $f\n" if /^ *([0-9a-f]+):\s+(lock |mfence|lfence|sfence|xchg .*\()/' >"$dir/locked"

# Locked instructions that each row may have: a goroutine and its handle settle by one who frees the block, and a join by a
# second one who wakes whom; a channel that both sides use has a lock; who selects and finds nothing takes four
# locks three times over, once to look, once to wait, once to leave. Letting such a lock go is a plain store.
declare -A may=([yield]=0 [spawn_end]=1 [spawn_join]=2 [ping_pong]=4 [select_4]=10 [select_ready]=4 [mutex]=2 [rwlock_read]=2 [blocking]=0 [allocate_free]=0)

row() {
    for n in 1000 11000; do
        valgrind --tool=callgrind --dump-instr=yes --callgrind-out-file="$dir/$n" "$program" "$1" "$n" >/dev/null 2>&1
    done
    perl -e '
        my ($row, $program, $locked, $few, $many, $may) = @ARGV;
        open my $l, "<", $locked or die; my %in;
        while (<$l>) { my ($at, $f) = /^(\S+) (.*)$/; $in{hex $at} = $f }
        sub counts {
            open my $f, "<", $_[0] or die;
            my (%at, $at, $ours, $called, %name, $all) = ((), 0, 0, 0);
            while (<$f>) {
                if (/^ob=\((\d+)\)(?: (.*))?/) { $name{$1} = $2 if defined $2; $ours = $name{$1} eq $program }
                elsif (/^cob=\((\d+)\)(?: (.*))?/) { $name{$1} = $2 if defined $2 }
                elsif (/^calls=/) { $called = 1 }
                elsif (/^(?:(0x[0-9a-f]+)|([+-]\d+)|\*) \S+ (\d+)/) {
                    $at = defined $1 ? hex $1 : defined $2 ? $at + $2 : $at;
                    if ($called) { $called = 0; next }
                    $all += $3;
                    $at{$at} += $3 if $ours && $in{$at};
                }
            }
            return ($all, \%at);
        }
        my ($all1, $at1) = counts($few);
        my ($all2, $at2) = counts($many);
        my ($sum, %where) = (0);
        for my $at (keys %$at2) {
            my $n = ($at2->{$at} - ($at1->{$at} // 0)) / 10000;
            $sum += $n;
            $where{$in{$at}} += $n if $n >= 0.005;
        }
        printf "%-14s %13.1f %9.2f\n", $row, ($all2 - $all1) / 10000, $sum;
        printf "    %9.2f in %s\n", $where{$_}, $_ for sort { $where{$b} <=> $where{$a} } keys %where;
        exit 1 if $sum >= $may + 0.1;
    ' "$1" "$program" "$dir/locked" "$dir/1000" "$dir/11000" "$2"
}

printf '%-14s %13s %9s\n' row instructions locked
failed=
for name in yield spawn_end spawn_join ping_pong select_4 select_ready mutex rwlock_read blocking allocate_free; do
    row "$name" "${may[$name]}" || failed="$failed $name"
done
if [ "${1:-}" = --check ] && [ -n "$failed" ]; then
    echo "more locked instructions than there may be:$failed"
    exit 1
fi
