"""How long a reading of .usage takes, on a home of 200 VMs with 20,000 files."""
import os
import statistics
import time

from place import LIMIT, make_vm

READINGS, VMS, FILES = 1000, 200, 99


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
    for vm in (f"vm{number}" for number in range(VMS)):
        if os.path.exists(f"{home}/{vm}"):
            continue
        make_vm(home, vm, LIMIT)
        for name in range(FILES):
            with open(f"{home}/{vm}/{name}", "w", encoding="ascii") as file:
                file.write("x")


def more_than_a_file(place, _):
    """What a reading of .usage takes beyond one of a small file through the same mount, in microseconds."""
    return reading(f"{place.view}/.usage/vm7") - reading(f"{place.view}/vm7/lima.yaml")
