#!/usr/bin/env python3
"""How long a reading of .usage takes: usage_read.py LIMAQUOTA [DIRECTORY]

Makes a scratch home of 200 VMs and 20,000 files in DIRECTORY (else the temporary directory), mounts it elsewhere, and
reads, in turns, `.usage/vm7`, a small file beside it through the same mount, and the same small file without the mount.
Prints the medians of each of 7 rounds of 1,000 readings, in microseconds, and what `.usage` takes more (the goal: at
most 100). The files are removed at the end.
"""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS, READINGS, VMS, FILES = 7, 1000, 200, 99


def reading(path):
    """The median time of an open, a read to the end and a close, in microseconds."""
    times = []
    for _ in range(READINGS):
        start = time.perf_counter_ns()
        fd = os.open(path, os.O_RDONLY)
        while os.read(fd, 8192):
            pass
        os.close(fd)
        times.append((time.perf_counter_ns() - start) / 1000)
    return statistics.median(times)


def make_home(home):
    for vm in range(VMS):
        os.makedirs(f"{home}/vm{vm}")
        for name in [str(number) for number in range(FILES)] + ["lima.yaml"]:
            with open(f"{home}/vm{vm}/{name}", "w", encoding="ascii") as file:
                file.write("x")


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    scratch = tempfile.mkdtemp(prefix="usage-read.", dir=sys.argv[2] if len(sys.argv) == 3 else None)
    home, mount = os.path.join(scratch, "home"), os.path.join(scratch, "mount")
    os.mkdir(mount)
    make_home(home)
    subprocess.run([sys.argv[1], "mount", home, mount], check=True)
    try:
        print("round  .usage/vm7  small file  without the mount  more than a small file")
        more = []
        for number in range(ROUNDS):
            usage, small = reading(f"{mount}/.usage/vm7"), reading(f"{mount}/vm7/lima.yaml")
            bare = reading(f"{home}/vm7/lima.yaml")
            more.append(usage - small)
            print(f"{number + 1:5}  {usage:10.1f}  {small:10.1f}  {bare:17.1f}  {more[-1]:22.1f}")
        print(f"median {statistics.median(more):.1f} us more, from {min(more):.1f} to {max(more):.1f}")
    finally:
        subprocess.run([sys.argv[1], "umount", mount], check=True)
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
