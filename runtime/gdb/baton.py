"""Goroutines in gdb, of a live process or of a core:

    gdb -p PID -x runtime/gdb/baton.py           or: gdb PROGRAM CORE -x runtime/gdb/baton.py
    (gdb) goroutines                             all of them, those that are alike as one
    (gdb) goroutine 17                           one of them

A core must be the kernel's (kill -ABRT, with ulimit -c unlimited). gcore leaves out what lies behind the first page that it
cannot read, and stacks have guards; of a process with BATON_GUARD=mprotect it may be gcore's.

Each with its state, what it waits for and for how long, who holds the lock if it is one, where it was started, and its backtrace. Nothing of the process is
changed and nothing of it is run. Goroutines that have not run yet are not shown: they have no stack.

How: the program says where things lie (BATON_GDB, filled by runtime/src/debug/gdb.rs), so that a release build will do. Stacks
are a list that is never shortened; each that has an owner has a goroutine's body at its top. Who runs is whose stack a thread's
stack pointer is in. For a goroutine that does not run, gdb is told, by an unwinder of its own, that it is what called the
innermost frame of the selected thread.
"""

import gdb
import gdb.unwinder

FIELDS = [
    "version", "stacks", "stack_older", "stack_base", "stack_floor", "stack_owner", "body_room", "body_seen",
    "g_body", "g_baggage", "baggage_name", "text_start", "text_len",
    "seen_ip", "seen_sp", "seen_fp", "seen_id", "seen_place", "seen_wait", "seen_lock",
    "lock_state", "lock_writer", "lock_reader", "lock_holder", "lock_reasons",
    "place_file", "place_file_len", "place_line", "reasons", "reasons_len", "clock",
]
VERSION = 2
FRAMES = 64
# What of a backtrace says only how a goroutine is parked, not what it does.
PLUMBING = ("baton::debug::", "baton::g::", "baton::park::", "baton::sched::", "baton::waitlist::", "corosensei::")
# The first function on every goroutine's stack.
FIRST = "baton_goroutine_begins"


class Process:
    """The memory of the process, and where things lie in it."""

    def __init__(self):
        self.memory = gdb.selected_inferior()
        language = gdb.parameter("language")
        gdb.execute("set language c")
        try:
            table = int(gdb.parse_and_eval("(unsigned long)&BATON_GDB"))
        except gdb.error as error:
            raise gdb.GdbError("no symbol BATON_GDB: is this a program with Baton, and not stripped? (%s)" % error)
        finally:
            gdb.execute("set language " + language)
        self.at = {name: self.word(table + 8 * i) for i, name in enumerate(FIELDS)}
        if self.at["version"] != VERSION:
            raise gdb.GdbError("Baton has not started yet, or this script is of another version")
        self.reasons = self.text(self.at["reasons"], self.at["reasons_len"]).splitlines()
        self.now = self.word(self.at["clock"])

    def word(self, address, bytes=8):
        return int.from_bytes(self.memory.read_memory(address, bytes), "little")

    def text(self, address, length):
        return bytes(self.memory.read_memory(address, length)).decode(errors="replace")

    def goroutines(self):
        """All that have run. A stack of `stack::grow` has an owner too, whose body is elsewhere."""
        at, found, grown = self.at, {}, []
        stack = self.word(at["stacks"])
        while stack:
            owner = self.word(stack + at["stack_owner"])
            if owner:
                base = self.word(stack + at["stack_base"])
                stack_range = (self.word(stack + at["stack_floor"]), base)
                body = base - at["body_room"]
                seen = body + at["body_seen"]
                id = self.word(seen + at["seen_id"])
                try:
                    is_body = self.word(owner + at["g_body"]) == body
                except gdb.MemoryError:
                    is_body = False
                if id and is_body:
                    found[owner] = Goroutine(self, id, owner, seen, stack_range)
                else:
                    grown.append((owner, stack_range))
            stack = self.word(stack + at["stack_older"])
        for owner, stack_range in grown:
            if owner in found:
                found[owner].stacks.append(stack_range)
        return list(found.values())

    def name_of(self, g):
        """What its builder called it, or None."""
        at = self.at
        baggage = self.word(g + at["g_baggage"])
        name = baggage and baggage + at["baggage_name"]
        start = name and self.word(name + at["text_start"])
        return self.text(start, self.word(name + at["text_len"])) if start else None

    def held_by(self, lock):
        """In whose hands a lock is, in words."""
        at = self.at
        state = self.word(lock + at["lock_state"])
        if state & at["lock_writer"]:
            holder = self.word(lock + at["lock_holder"])
            return "held by " + ("goroutine %d" % holder if holder else "a thread that runs no goroutine")
        readers = state // at["lock_reader"]
        return {0: "free now", 1: "held by a reader"}.get(readers, "held by %d readers" % readers)


class Goroutine:
    def __init__(self, process, id, g, seen, stack):
        at = process.at
        self.id, self.name, self.stacks = id, process.name_of(g), [stack]
        self.ip, self.sp, self.fp = (process.word(seen + at[name]) for name in ("seen_ip", "seen_sp", "seen_fp"))
        place = process.word(seen + at["seen_place"])
        file = process.text(process.word(place + at["place_file"]), process.word(place + at["place_file_len"]))
        self.place = "%s:%d" % (file, process.word(place + at["place_line"], 4))
        wait = process.word(seen + at["seen_wait"])
        self.reason = process.reasons[wait & 0xFF] if wait & 0xFF else None
        self.lock = at["lock_reasons"] >> (wait & 0xFF) & 1 and process.word(seen + at["seen_lock"])
        self.process = process
        self.age = max(0, process.now - (wait >> 8)) / 1e9
        self.thread = None

    def label(self):
        return '%d "%s"' % (self.id, self.name) if self.name else str(self.id)

    def state(self):
        if self.thread:
            return "running on %s" % (self.thread.name or "thread %d" % self.thread.num)
        return self.reason or "runnable"

    def held_by(self):
        """In whose hands the lock is that it waits for, if it waits for one."""
        return self.process.held_by(self.lock) if self.lock and not self.thread else ""

    def kind(self):
        """Equal for goroutines that are alike: started at the same place, they wait at the same place, equally deep, for the same party."""
        if self.thread:
            return (0, self.id)
        return (1, self.reason or "", self.held_by(), self.place, self.ip, self.stacks[0][1] - self.sp)


class Parked(gdb.unwinder.Unwinder):
    """Says that a goroutine is what called the innermost frame of the selected thread."""

    def __init__(self):
        super().__init__("baton")
        self.goroutine = None

    def __call__(self, pending):
        goroutine = self.goroutine
        if goroutine is None or pending.level() != 0:
            return None
        # The innermost frame is made to lie below all stacks, as if it had been called by the goroutine.
        word = gdb.selected_inferior().architecture().integer_type(64, False)
        info = pending.create_unwind_info(FrameId(gdb.Value(1).cast(word), pending.read_register("pc").cast(word)))
        names = ("pc", "sp", "x29") if "aarch64" in pending.architecture().name() else ("rip", "rsp", "rbp")
        for name, value in zip(names, (goroutine.ip, goroutine.sp, goroutine.fp)):
            info.add_saved_register(name, gdb.Value(value).cast(word))
        return info


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


def backtrace(goroutine, parked):
    """A line for each call, the innermost first."""
    chosen = gdb.selected_thread()
    if goroutine.thread:
        goroutine.thread.switch()
    else:
        parked.goroutine = goroutine
    gdb.invalidate_cached_frames()
    lines = []
    try:
        frame = gdb.newest_frame() if goroutine.thread else gdb.newest_frame().older()
        while frame and len(lines) < FRAMES:
            name = frame.name() or "?"
            if name == FIRST:
                break
            if lines or goroutine.thread or not name.startswith(PLUMBING):
                where = frame.find_sal()
                at = " at %s:%d" % (where.symtab.filename, where.line) if where.symtab else ""
                lines.append("    %#x %s%s" % (frame.pc(), name, at))
            frame = frame.older()
    except gdb.error as error:
        lines.append("    (%s)" % error)
    finally:
        parked.goroutine = None
        gdb.invalidate_cached_frames()
        if chosen:
            chosen.switch()
    return lines


def all_goroutines():
    goroutines = Process().goroutines()
    chosen = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        sp = int(gdb.newest_frame().read_register("sp"))
        for goroutine in goroutines:
            if any(floor <= sp <= base for floor, base in goroutine.stacks):
                goroutine.thread = thread
    if chosen:
        chosen.switch()
    return goroutines


def show(group, parked):
    first, age = group[0], ""
    if first.reason and not first.thread:
        ages = sorted(goroutine.age for goroutine in group)
        age = ", %.3fs" % ages[-1] if len(group) == 1 else ", %.3fs to %.3fs" % (ages[0], ages[-1])
    held_by = first.held_by()
    held_by = held_by and ", " + held_by
    head = "goroutine" if len(group) == 1 else "%d goroutines" % len(group)
    some = " ".join(goroutine.label() for goroutine in group[:8]) + (" ..." if len(group) > 8 else "")
    print("\n%s %s [%s%s]%s, started at %s" % (head, some, first.state(), age, held_by, first.place))
    print("\n".join(backtrace(first, parked)))


class Goroutines(gdb.Command):
    """All goroutines: state, wait, where started, backtrace. Those that are alike (the same place of start, the same wait at the
same depth) are one entry, with the backtrace of the first."""

    def __init__(self, parked):
        super().__init__("goroutines", gdb.COMMAND_STACK)
        self.parked = parked

    def invoke(self, argument, from_tty):
        groups = {}
        for goroutine in all_goroutines():
            groups.setdefault(goroutine.kind(), []).append(goroutine)
        print("%d goroutines that have run" % sum(map(len, groups.values())))
        for _, group in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[1][0].id)):
            show(sorted(group, key=lambda goroutine: goroutine.id), self.parked)


class OneGoroutine(gdb.Command):
    """goroutine N: state, wait, where started and backtrace of goroutine N."""

    def __init__(self, parked):
        super().__init__("goroutine", gdb.COMMAND_STACK)
        self.parked = parked

    def invoke(self, argument, from_tty):
        wanted = int(argument)
        for goroutine in all_goroutines():
            if goroutine.id == wanted:
                return show([goroutine], self.parked)
        raise gdb.GdbError("there is no goroutine %d that has run" % wanted)


PARKED = Parked()
gdb.unwinder.register_unwinder(None, PARKED, replace=True)
Goroutines(PARKED)
OneGoroutine(PARKED)
