#!/usr/bin/env python3
"""Where each microsecond of a 4 KiB write goes: profile.py [PROGRAM], as root, in a namespace of its own.

Samples fio and the daemon by `perf record -e cpu-clock` (works without hardware counters) while fio overwrites a disk on
tmpfs, both on one CPU, and prints the CPU time of each part, in microseconds a write; then the same of a write that does
nothing, the floor.
PROGRAM is limaquota (the default) or one of bench/peers.py. bench/run.sh must have built what is looked at:

    sudo unshare --mount --pid --fork --kill-child --mount-proc bench/profile.py
"""
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter

sys.dont_write_bytecode = True

import workloads  # noqa: E402
from peers import COMPARED, EMPTY, UNMETERED  # noqa: E402
from place import FULL, backing, run  # noqa: E402

BUILD = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build"))
FREQUENCY = 9999  # samples a second of each CPU

SWITCHES = ("waits, is woken, is switched to", r"schedule|pick_next|dequeue_|enqueue_|try_to_wake_up|__wake_up|ttwu|finish_task")
# The first part that a function of the stack belongs to, from its innermost function outwards.
WRITER = (SWITCHES, ("the kernel's FUSE client", r"fuse_"))
DAEMON = (
    SWITCHES,
    ("fstat", r"newfstat|vfs_fstat|statx"),
    ("fstatfs", r"statfs"),
    ("pwrite to the backing filesystem", r"pwrite64|shmem_|generic_perform_write"),
    ("takes the request from /dev/fuse", r"fuse_dev_do_read|fuse_dev_read|ksys_read"),
    ("replies", r"fuse_dev_do_write|fuse_dev_write|do_writev"),
    ("locks", r"pthread_mutex|futex|lll_"),
    ("memory", r"malloc|free|operator new|operator delete|calloc"),
    ("own code", r"limaquota::|boost::"),
    ("libfuse", r"fuse_"),
)


def part_of(parts, stack):
    for function in stack:
        for name, pattern in parts:
            if re.search(pattern, function):
                return name
    return "other: system call entry, interrupts, own loop"


def samples(data):
    """(program, [functions from the innermost outwards]) of each sample of this pid namespace: others have no pid here."""
    text = run("perf", "script", "-i", data, "-F", "comm,pid,ip,sym")
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        program, _, pid = lines[0].strip().rpartition(" ") if lines else ("", "", "0")
        if int(pid) > 0:
            yield program.strip(), [line.strip().partition(" ")[2] for line in lines[1:]]


def profile(peer, place):
    place.use_home("home")
    workloads.full_and_cached(place, None)
    with peer.mounted(place.home, os.path.join(os.path.dirname(place.root), "view")) as (view, _), \
            tempfile.NamedTemporaryFile(dir=place.scratch) as data:
        place.view = view
        # The second in the middle: neither fio's start nor its end.
        with subprocess.Popen(["perf", "record", "-q", "-a", "-g", "-F", str(FREQUENCY), "-e", "cpu-clock", "-o", data.name,
                               "-D", "800", "--", "sleep", "1.8"], stderr=subprocess.DEVNULL):
            done = workloads.timed(place, "randwrite", bs="4k", size=place.sizes.disk)
        parts = Counter()
        programs = {"fio": WRITER, os.path.basename(peer.path() or "")[:15]: DAEMON}
        for program, stack in samples(data.name):
            if program in programs:
                parts[(program, part_of(programs[program], stack))] += 1
    microseconds = {part: count / FREQUENCY / done["iops"] * 1e6 for part, count in parts.items()}
    print(f"{peer.name}: {done['iops']:,.0f} writes/s, {1e6 / done['iops']:.1f} us each, {sum(microseconds.values()):.1f} us of CPU")
    for (program, part), cost in sorted(microseconds.items(), key=lambda item: -item[1]):
        if cost >= 0.05:
            print(f"  {cost:5.2f}  {program:<15}  {part}")


def main(arguments):
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    os.environ["PATH"] = f"{BUILD}/release:{BUILD}/bench/peers:{os.environ['PATH']}"
    wanted = arguments[0] if arguments else "limaquota"
    peers = [peer for peer in (*COMPARED, UNMETERED, EMPTY) if peer.name == wanted]
    if not peers or peers[0].why_missing():
        print(f"profile.py: no {wanted} here", file=sys.stderr)
        return 1
    run("mount", "--make-rprivate", "/")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with backing("tmpfs", os.path.join(BUILD, "bench", "work"), FULL) as place:
        for peer in (peers[0], EMPTY):
            profile(peer, place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
