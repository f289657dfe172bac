"""The rows without peers: what metering costs, what a mount and a look at the figures take, and what must stay flat."""
import json
import os
import shutil
import time

import disks
import usage_read
import workloads
from peers import EMPTY, LIMAQUOTA, NATIVE, UNMETERED
from place import GIB, KIB, LIMIT, MIB, VM, disk_in, drop_caches, make_vm, meminfo, run, write_limit
from workloads import Goal, Limit, Row, Variant

OURS = (Variant(LIMAQUOTA.name, LIMAQUOTA),)
METERING = (*OURS, Variant(UNMETERED.name, UNMETERED))
METERING_GOALS = (Goal(0.97, UNMETERED.name),)
MICRO_BENCH = "micro_bench"


# --- a mount of 200 VMs with 20,000 files ---
def many_files(place, _):
    usage_read.make_home(place.home)
    place.settle()
    drop_caches()


# `limaquota mount` returns when the mount answers.
def mount_seconds(place, _):
    view = os.path.join(os.path.dirname(place.root), "view")
    start = time.perf_counter()
    run(LIMAQUOTA.path(), "mount", place.home, view)
    seconds = time.perf_counter() - start
    run("umount", view)
    return seconds


def resident(place):
    # Of the daemon's processes the one that serves.
    with open(os.path.join(place.view, ".usage", "_host"), encoding="ascii") as file:
        worker = dict(line.split() for line in file)["worker_pid"]
    with open(f"/proc/{worker}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * KIB / MIB for line in file if line.startswith("VmRSS:"))


def resident_mounted(place, _):
    return resident(place)


# Every name looked up: the kernel remembers all of them, and so must the daemon.
def resident_walked(place, _):
    run("find", place.view, "-printf", "%s\n")
    return resident(place)


# --- the allocation map, at its design size ---
def map_figures(place, name):
    text = run(MICRO_BENCH, f"--benchmark_filter=^{name}", "--benchmark_format=json", "--benchmark_min_time=0.1")
    return next(run for run in json.loads(text)["benchmarks"] if run.get("aggregate_name") == "median")


def map_query(place, _):
    return map_figures(place, "count_and_set/blocks:256/")["cpu_time"]


def map_memory(place, _):
    return map_figures(place, "fill_whole_disk")["memory_bytes"] / MIB


def without_micro_bench(_):
    return None if shutil.which(MICRO_BENCH) else f"{MICRO_BENCH} is not here"


# --- flat: the number of VMs ---
def vms(place, variant):
    for number in range(variant.argument - 1):
        make_vm(place.home, f"vm{number}", LIMIT)
    workloads.small_and_cached(place, variant)


def random_write(place, _):
    return workloads.timed(place, "randwrite", bs="4k", size=place.sizes.warm_disk)["iops"]


VM_COUNTS = tuple(Variant(f"{count} VMs", LIMAQUOTA, f"vms-{count}", count) for count in (1, 10, 100, 1000))

# --- flat: the extents of a disk, each a block of 4 KiB in 64: 1.6 million in 100 GiB ---
SPACING = 64 * KIB


def spaced(place, variant):
    extents, limit = variant.argument
    write_limit(place.home, VM, limit)
    if os.path.exists(place.disk):
        return
    fd = os.open(place.disk, os.O_WRONLY | os.O_CREAT, 0o644)
    block = b"x" * (4 * KIB)
    for number in range(extents):
        os.pwrite(fd, block, number * SPACING)
    os.ftruncate(fd, extents * SPACING)  # fio makes a file anew that is shorter than it was told
    os.close(fd)
    place.settle()


# Only where blocks are. The warm-up also lets the daemon learn the extents.
def overwrite(place, variant):
    extents, _ = variant.argument
    return workloads.timed(place, "randwrite", bs="4k", blockalign=SPACING, size=extents * SPACING,
                           ramp_time=f"{place.sizes.ramp * 1000:.0f}ms")["iops"]


def extents_of(count, peer, limit, how):
    return Variant(f"{count:,} extents{how}", peer, f"extents-{count}", (count, limit))


MOST_EXTENTS = 1_600_000
# Over its limit a write that the map cannot vouch for would be refused.
EXTENT_COUNTS = tuple(
    extents_of(count, peer, limit, how)
    for count in (1_000, 40_000, MOST_EXTENTS)
    for peer, limit, how in ((NATIVE, LIMIT, ", native"), (LIMAQUOTA, LIMIT, ""), (LIMAQUOTA, "1MiB", ", over the limit")))


# The blocks twice: in the file that is the device, and in the page cache above it.
def too_little_memory(_):
    need = 2 * MOST_EXTENTS * 4 * KIB + 2 * GIB
    return None if meminfo("MemAvailable") > need else f"needs {need // GIB} GiB of free memory"


ROWS = (
    Row("metering-randwrite", "cost of metering, 4 KiB random write", "writes/s", workloads.random_write(1),
        workloads.full_and_cached, goals=METERING_GOALS, variants=(*METERING, Variant(EMPTY.name, EMPTY))),
    Row("metering-write", "cost of metering, 1 MiB sequential write", "MiB/s", workloads.sequential_write,
        workloads.new_disk, goals=METERING_GOALS, variants=METERING),
    Row("metering-untar", "cost of metering, untar", "files/s", workloads.untar, workloads.no_files,
        goals=METERING_GOALS, variants=METERING),
    Row("usage", "a reading of .usage beyond one of a small file", "us", usage_read.more_than_a_file, many_files,
        more_is_better=False, goals=(Limit(100),), variants=(Variant(LIMAQUOTA.name, LIMAQUOTA, "many"),)),
    Row("mount-time", "mount of 200 VMs with 20,000 files, nothing cached", "s", mount_seconds, many_files,
        more_is_better=False, goals=(Limit(1),), variants=(Variant(LIMAQUOTA.name, NATIVE, "many"),)),
    Row("mount-memory", "memory of its daemon after the mount", "MiB", resident_mounted, many_files,
        more_is_better=False, goals=(Limit(30),), variants=(Variant(LIMAQUOTA.name, LIMAQUOTA, "many"),)),
    Row("walk-memory", "memory of its daemon after a walk through all of it", "MiB", resident_walked, many_files,
        more_is_better=False, goals=(Limit(30),), variants=(Variant(LIMAQUOTA.name, LIMAQUOTA, "many"),)),
    Row("map-query", "allocation map of 1.6 million extents, a query and a change of 1 MiB", "ns", map_query,
        more_is_better=False, goals=(Limit(200),), variants=(Variant(LIMAQUOTA.name, NATIVE),), filesystems=("tmpfs",),
        why_not=without_micro_bench, most_rounds=3),
    Row("map-memory", "its memory", "MiB", map_memory, more_is_better=False, goals=(Limit(7),),
        variants=(Variant(LIMAQUOTA.name, NATIVE),), filesystems=("tmpfs",), why_not=without_micro_bench, most_rounds=3),
    Row("vms", "4 KiB random write by the number of VMs", "writes/s", random_write, vms,
        goals=(Goal(0.95, VM_COUNTS[0].name, VM_COUNTS[-1].name),), variants=VM_COUNTS, filesystems=("tmpfs",)),
    Row("extents", "4 KiB overwrites by the extents of the disk", "writes/s", overwrite, spaced,
        goals=tuple(Goal(0.95, EXTENT_COUNTS[at].name, EXTENT_COUNTS[at + 6].name) for at in range(3)),
        variants=EXTENT_COUNTS, filesystems=("ext4",), why_not=too_little_memory, most_rounds=3),
)
