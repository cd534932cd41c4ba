#!/usr/bin/env bash
# Instructions that allocating and freeing one object takes, counted by callgrind, without the loop around it:
#
#   bash alloc/benches/instructions.sh           prints the table
#   bash alloc/benches/instructions.sh --check   only looks whether 64 bytes stay below what README promises
#
# `const` is 64 bytes that the compiler knows of; every other row hides the layout from it. Each figure is the difference
# between a short and a long run, so that what happens once does not count.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v valgrind >/dev/null; then
    echo "skipped: there is no valgrind here (apt-get install valgrind)"
    exit 0
fi

SHORT=10000 LONG=60000

collected() { valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 | awk '/Collected/ { print $4 }'; }

# pair PROGRAM WHAT: tenths of instructions.
pair() { echo $((($(collected "$1" $LONG "$2") - $(collected "$1" $SHORT "$2")) * 10 / (LONG - SHORT))); }

# build PROFILE [OPTION...]: builds the program and leaves a copy's path in $program.
build() {
    local profile=$1
    shift
    cargo build -q --profile "$profile" -p baton-alloc --example pair "$@"
    program=$(mktemp)
    cp "${CARGO_TARGET_DIR:-target}/$profile/examples/pair" "$program"
    chmod +x "$program"
}

tenths() { printf '%d.%d' $(($1 / 10)) $(($1 % 10)); }

if [ "${1:-}" = --check ]; then
    build fat
    loop=$(pair "$program" empty) constant=$(pair "$program" const)
    rm "$program"
    build release
    hidden=$(pair "$program" 64)
    rm "$program"
    constant=$((constant - loop)) hidden=$((hidden - loop))
    echo "a pair of 64 bytes: $(tenths $constant) instructions with a constant layout and fat optimisation, $(tenths $hidden) otherwise"
    [ $constant -le 260 ] && [ $hidden -le 420 ] || { echo "more than 26 and 42"; exit 1; }
    exit 0
fi

declare -A table
for column in release fat hardened; do
    case $column in
    hardened) build release --features hardened ;;
    *) build $column ;;
    esac
    loop=$(pair "$program" empty)
    for what in const 8 64 256 1024 4096 8192 32768; do
        table[$column,$what]=$(($(pair "$program" $what) - loop))
    done
    rm "$program"
done
echo "| layout | release | fat | release, hardened |"
echo "|---|---|---|---|"
for what in const 8 64 256 1024 4096 8192 32768; do
    printf '| %s | %s | %s | %s |\n' "$what" "$(tenths "${table[release,$what]}")" "$(tenths "${table[fat,$what]}")" \
        "$(tenths "${table[hardened,$what]}")"
done
