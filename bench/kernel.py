"""The kernel build: Linux tinyconfig on an ext4 in a disk image, as a guest would have it, natively and through the mount.
Takes minutes a sample and a kernel's sources, so it runs only where --rows names it."""
import glob
import os
import time

import disks
from peers import LIMAQUOTA, NATIVE
from place import GIB, disk_in, meminfo, run
from workloads import Goal, Row, Variant

IMAGE = 4 * GIB
MEMORY = 12 * GIB  # the image, what is cached of it, the compilers


def sources():
    """The newest archive that a linux-source package has brought."""
    return max(glob.glob("/usr/src/linux-source-*.tar.xz"), default=None)


def without_sources(_):
    if not sources():
        return "no kernel sources: mount-helpers/install-needs.sh kernel brings them"
    return None if meminfo("MemAvailable") > MEMORY else f"needs {MEMORY // GIB} GiB of free memory"


def new_image(place, _):
    disks.empty_disk(place, IMAGE)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", place.disk)
    place.settle()


def build(place, _):
    """Seconds from the unpacking of the sources to everything written."""
    inside = os.path.join(place.scratch, "inside")
    os.makedirs(inside, exist_ok=True)
    start = time.perf_counter()
    run("mount", "-o", "loop", disk_in(place.view), inside)
    try:
        run("tar", "-xf", sources(), "-C", inside, "--strip-components=1")
        run("make", "-C", inside, "-s", "tinyconfig")
        run("make", "-C", inside, "-s", f"-j{os.cpu_count()}", "vmlinux")
    finally:
        run("umount", inside)
    run("sync", disk_in(place.view))
    return time.perf_counter() - start


ROWS = (
    Row("kernel", "Linux tinyconfig build on ext4 in a disk image", "s", build, new_image, more_is_better=False,
        goals=(Goal(1 / 1.01, NATIVE.name),),
        variants=(Variant(NATIVE.name, NATIVE), Variant(LIMAQUOTA.name, LIMAQUOTA)), on_demand=True,
        why_not=without_sources),
)
