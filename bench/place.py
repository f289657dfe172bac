"""Where a sample is taken: a backing filesystem made for the run, and the Lima home on it that everything mounts in turn."""
import contextlib
import os
import resource
import subprocess
import sys
from dataclasses import dataclass

from peers import Broken

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
VM = "bench"  # the VM that is written to
LIMIT = "40GiB"  # far, but finite: every write is metered


def run(*command, **options):
    """Runs a program that must succeed; returns what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise Broken(f"{command[0]} ended with status {done.returncode}: {last}")
    return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Sizes:
    """How much is done in one sample."""

    disk: int  # bytes of the disk file for reads and overwrites
    warm_disk: int  # bytes of the one that is read from the cache
    sequential: int  # bytes written to a new file
    cold_reads: int  # bytes read at random after the caches were dropped
    seconds: float  # of the jobs that run for a time
    ramp: float  # before those that need a warm cache: enough to read all of warm_disk
    image: int  # virtual size of what qemu-img converts; a quarter of it is data
    bench_writes: int  # of qemu-img bench
    files: int  # untar, stat, unlink
    memory_disk: int  # bytes of the disk that is read for the memory row


def files_for_all(wanted):
    """As many files as libfuse's examples, which hold a descriptor for each, can have here."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(wanted, most - most // 20)


FULL = Sizes(512 * MIB, 64 * MIB, GIB, 64 * MIB, 2.0, 2.0, 4 * GIB, 20000, 20000, 2 * GIB)
QUICK = Sizes(128 * MIB, 32 * MIB, 128 * MIB, 16 * MIB, 0.5, 1.0, 256 * MIB, 2000, 2000, 128 * MIB)


@dataclass
class Place:
    """One backing filesystem. `root` is its mountpoint, `home` a Lima home on it, `view` where that home is seen while a
    sample is taken, `scratch` a tmpfs for what is read natively by all."""

    filesystem: str
    root: str
    scratch: str
    sizes: Sizes
    home: str = ""
    view: str = ""
    daemon: int | None = None

    def use_home(self, name):
        """The home `name`, made where it is missing: one VM with a limit, its disk the file `disk`."""
        self.home = os.path.join(self.root, name)
        make_vm(self.home, VM, LIMIT)

    @property
    def disk(self):
        """The disk file on the backing filesystem; the same in a view: disk_in(view)."""
        return disk_in(self.home)

    def settle(self):
        """Everything written is on the backing's device, so that one sample's writeback is not in the next."""
        run("sync", "--file-system", self.root)


def disk_in(home):
    return os.path.join(home, VM, "disk")


def make_vm(home, name, limit):
    if os.path.exists(os.path.join(home, ".quota", name)):
        return
    os.makedirs(os.path.join(home, name))
    os.makedirs(os.path.join(home, ".quota"), exist_ok=True)
    with open(os.path.join(home, name, "lima.yaml"), "w", encoding="ascii") as file:
        file.write("cpus: 2\n")
    write_limit(home, name, limit)


def write_limit(home, name, limit):
    """In force at the next mount."""
    with open(os.path.join(home, ".quota", name), "w", encoding="ascii") as file:
        file.write(f"limit {limit}\n")


def drop_caches(what=3):
    """1: file data; 2: names and inodes; 3: both."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write(str(what))


def meminfo(field):
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * KIB
    raise KeyError(field)


@contextlib.contextmanager
def mounted_tmpfs(directory):
    os.makedirs(directory, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=90%,mode=755", "tmpfs", directory)
    try:
        yield
    finally:
        run("umount", directory)


@contextlib.contextmanager
def backing(filesystem, work, sizes):
    """A fresh filesystem, in memory: what is measured is the way through the filesystems, not a disk. ext4 is on a loop
    device over a sparse file in a tmpfs."""
    root, scratch, under = (os.path.join(work, name) for name in ("backing", "scratch", "under"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(mounted_tmpfs(scratch))
        if filesystem == "tmpfs":
            stack.enter_context(mounted_tmpfs(root))
        else:
            stack.enter_context(mounted_tmpfs(under))
            image = os.path.join(under, "ext4.img")
            with open(image, "wb") as file:
                file.truncate(128 * GIB)
            # Few inodes, and nothing left to be initialized later: a thread of the kernel's would run beside the samples.
            run("mkfs.ext4", "-q", "-N", "200000", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)
            os.makedirs(root, exist_ok=True)
            run("mount", "-o", "loop", image, root)
            stack.callback(run, "umount", root)
        os.makedirs(os.path.join(work, "view"), exist_ok=True)
        yield Place(filesystem, root, scratch, sizes)
