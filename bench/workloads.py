"""The rows that are compared with peers: what is prepared natively, what is timed in the mount, and the goal."""
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Callable

import disks
from peers import COMPARED, LL_AUTO, NATIVE, Peer
from place import KIB, MIB, Place, disk_in, drop_caches, run

BEST_PEER = "best peer"


@dataclass(frozen=True)
class Goal:
    """`ours` is to be at least `at_least` times as good as `against`: a variant, or the best of the peers."""

    at_least: float = 1.0
    against: str = BEST_PEER
    ours: str = "limaquota"


@dataclass(frozen=True)
class Limit:
    """The figure of `ours` is to be at most this."""

    at_most: float
    ours: str = "limaquota"


@dataclass(frozen=True)
class Variant:
    """One column of a row: a filesystem over a home of that name. `argument` is for the row."""

    name: str
    peer: Peer
    home: str = "home"
    argument: object = None


PEERS = tuple(Variant(peer.name, peer) for peer in COMPARED)


def nothing(*_):
    pass


@dataclass(frozen=True)
class Row:
    """`prepare(place, variant)` is run before the mount, `measure(place, variant)` in it; its answer is the sample."""

    name: str
    title: str
    unit: str
    measure: Callable[[Place, Variant], float]
    prepare: Callable[[Place, Variant], None] = nothing
    more_is_better: bool = True
    goals: tuple = (Goal(),)
    variants: tuple = PEERS
    filesystems: tuple = ("tmpfs", "ext4")
    on_demand: bool = False  # only where --rows names it
    why_not: Callable[[Place], str | None] = field(default=lambda _: None)
    most_rounds: int = 1000


def fio(place, rw, **options):
    """One job on the VM's disk through the page cache, as QEMU's default is; the report's part of it. fio's data and
    offsets are the same in every run."""
    direction = "write" if "write" in rw else "read"
    arguments = {"filename": disk_in(place.view), "rw": rw, "ioengine": "psync", "invalidate": 0, "fallocate": "none",
                 "randseed": 1, "group_reporting": 1, "output-format": "json", **options}
    report = json.loads(run("fio", "--name=bench", *(f"--{key}={value}" for key, value in arguments.items())))
    job = report["jobs"][0]
    if job["error"]:
        raise OSError(job["error"], f"fio failed on {place.view}")
    return job[direction]


def timed(place, rw, **options):
    return fio(place, rw, time_based=1, runtime=f"{place.sizes.seconds * 1000:.0f}ms", **options)


def random_write(jobs):
    def measure(place, _):
        return timed(place, "randwrite", bs="4k", size=place.sizes.disk, numjobs=jobs)["iops"]
    return measure


def full_and_cached(place, _):
    disks.full_disk(place, place.sizes.disk)
    place.settle()
    disks.in_cache(place)


def full_and_cold(place, _):
    disks.full_disk(place, place.sizes.disk)
    place.settle()
    drop_caches(1)


def small_and_cached(place, _):
    disks.full_disk(place, place.sizes.warm_disk)
    place.settle()
    disks.in_cache(place)


# Warm: one open, as QEMU's of its disk; the whole file was read through it before the time that counts.
def random_read_warm(place, _):
    return timed(place, "randread", bs="4k", size=place.sizes.warm_disk, ramp_time=f"{place.sizes.ramp * 1000:.0f}ms")["iops"]


# Cold: a part of the blocks, none twice.
def random_read_cold(place, _):
    return fio(place, "randread", bs="4k", size=place.sizes.disk, io_size=place.sizes.cold_reads)["iops"]


def sequential_write(place, _):
    return fio(place, "write", bs="1m", size=place.sizes.sequential)["bw_bytes"] / MIB


def new_disk(place, _):
    disks.empty_disk(place, place.sizes.sequential)
    place.settle()


def sequential_read_cold(place, _):
    return fio(place, "read", bs="1m", size=place.sizes.disk)["bw_bytes"] / MIB


def sequential_read_warm(place, _):
    return timed(place, "read", bs="1m", size=place.sizes.warm_disk,
                 ramp_time=f"{place.sizes.ramp * 500:.0f}ms")["bw_bytes"] / MIB


def seconds_of(*command):
    start = time.perf_counter()
    run(*command)
    return time.perf_counter() - start


def convert(image_format):
    def measure(place, _):
        return seconds_of("qemu-img", "convert", "-f", "raw", "-O", image_format, disks.sparse_image(place),
                          disk_in(place.view))
    return measure


def no_disk_but_image(place, _):
    disks.no_disk(place)
    disks.sparse_image(place)
    place.settle()


# Each write 68 KiB after the last, so that no two are neighbours.
def qemu_writes(place, _):
    writes = place.sizes.bench_writes
    text = run("qemu-img", "bench", "-w", "-f", "raw", "-t", "writeback", "-c", str(writes), "-d", "16", "-s", str(4 * KIB),
               "-S", str(68 * KIB), "--flush-interval", "64", disk_in(place.view))
    return writes / float(re.search(r"Run completed in ([0-9.]+) seconds", text).group(1))


def untar(place, _):
    archive, directory = disks.archive(place), os.path.dirname(disk_in(place.view))
    return place.sizes.files / seconds_of("tar", "-xf", archive, "-C", directory)


def stat_all(place, _):
    return place.sizes.files / seconds_of("find", disks.files_in(place.view), "-printf", "%s\n")


def unlink_all(place, _):
    return place.sizes.files / seconds_of("rm", "-rf", disks.files_in(place.view))


def no_files(place, _):
    disks.archive(place)
    disks.no_files(place)
    place.settle()


def cold_files(place, _):
    disks.unpacked(place)
    place.settle()
    drop_caches()


def files(place, _):
    disks.unpacked(place)
    place.settle()


# How often the page cache holds the disk after all of it was read, while it is open: as a file of the mount, and as one
# of the backing filesystem.
def cached_copies(place, variant):
    fds = [disks.read_all(disk_in(place.view))]
    if variant.peer is not NATIVE:
        fds.append(os.open(place.disk, os.O_RDONLY))
    cached = sum(disks.cached_bytes(fd) for fd in fds)
    for fd in fds:
        os.close(fd)
    return cached / place.sizes.memory_disk


def memory_disk(place, _):
    disks.full_disk(place, place.sizes.memory_disk)
    place.settle()
    drop_caches()


WRITE_GOALS = (Goal(), Goal(2.5, LL_AUTO.name))
ROWS = (
    Row("randwrite-1", "4 KiB random write, 1 job", "writes/s", random_write(1), full_and_cached, goals=WRITE_GOALS),
    Row("randwrite-4", "4 KiB random write, 4 jobs", "writes/s", random_write(4), full_and_cached, goals=WRITE_GOALS),
    Row("randread-warm", "4 KiB random read, warm", "reads/s", random_read_warm, small_and_cached),
    Row("randread-cold", "4 KiB random read, cold", "reads/s", random_read_cold, full_and_cold),
    Row("write", "1 MiB sequential write", "MiB/s", sequential_write, new_disk),
    Row("read-cold", "1 MiB sequential read, cold", "MiB/s", sequential_read_cold, full_and_cold),
    Row("read-warm", "1 MiB sequential read, warm", "MiB/s", sequential_read_warm, small_and_cached),
    Row("convert-raw", "qemu-img convert to raw", "s", convert("raw"), no_disk_but_image, more_is_better=False),
    Row("convert-qcow2", "qemu-img convert to qcow2", "s", convert("qcow2"), no_disk_but_image, more_is_better=False),
    Row("qemu-bench", "qemu-img bench, flush every 64 writes", "writes/s", qemu_writes, full_and_cached),
    Row("untar", "untar small files", "files/s", untar, no_files),
    Row("stat", "stat them, cold", "files/s", stat_all, cold_files),
    Row("unlink", "unlink them", "files/s", unlink_all, files),
    Row("memory", "page cache after reading a disk", "copies", cached_copies, memory_disk, more_is_better=False,
        filesystems=("ext4",), most_rounds=3),
)
