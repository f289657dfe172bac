"""What stands on the backing filesystem before a sample: disk files, images and archives. All of it is made natively."""
import ctypes
import os
import random
import tarfile

from place import MIB, disk_in, run

CACHESTAT = 451  # the system call's number, on every processor


def write_pattern(fd, offset, length, seed):
    """Data that is the same in every run, and that no filesystem can make smaller."""
    block = random.Random(seed).randbytes(MIB)
    for at in range(offset, offset + length, MIB):
        size = min(MIB, offset + length - at)
        os.pwrite(fd, (at // MIB).to_bytes(8, "little") + block[8:size], at)


def full_disk(place, size):
    """The VM's disk, every block written."""
    try:
        st = os.stat(place.disk)
        if st.st_size == size and st.st_blocks * 512 >= size:
            return
        os.unlink(place.disk)
    except FileNotFoundError:
        pass
    fd = os.open(place.disk, os.O_WRONLY | os.O_CREAT, 0o644)
    write_pattern(fd, 0, size, 1)
    os.close(fd)


def no_disk(place):
    try:
        os.unlink(place.disk)
    except FileNotFoundError:
        pass


def empty_disk(place, size):
    """The VM's disk, all of it a hole."""
    no_disk(place)
    with open(place.disk, "wb") as file:
        file.truncate(size)


def read_all(path):
    """Reads a file to its end, 1 MiB at a time, through one open that the caller closes; returns it."""
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(MIB)
    while os.readv(fd, [buffer]):
        pass
    return fd


def cached_bytes(fd):
    """What the page cache holds of an open file: cachestat(2), Linux 6.5. To open it anew would empty the cache of some."""
    whole_file, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(CACHESTAT, fd, whole_file, counts, 0) != 0:
        raise OSError(ctypes.get_errno(), "cachestat(2), which Linux has from 6.5 on")
    return counts[0] * os.sysconf("SC_PAGE_SIZE")


def in_cache(place):
    """The backing's cache holds the disk, whatever was dropped before."""
    os.close(read_all(place.disk))


def sparse_image(place):
    """A raw image outside the mount, of which a quarter is data: 4 MiB in each 16."""
    path = os.path.join(place.scratch, "image")
    if not os.path.exists(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(fd, place.sizes.image)
        for at in range(0, place.sizes.image, 16 * MIB):
            write_pattern(fd, at, 4 * MIB, 2)
        os.close(fd)
    return path


def archive(place):
    """A tar of many small files, 200 to a directory, of 0 to 4 KiB, as source trees are."""
    path = os.path.join(place.scratch, "files.tar")
    if not os.path.exists(path):
        numbers = random.Random(3)
        with tarfile.open(path, "w") as tar:
            for number in range(place.sizes.files):
                info = tarfile.TarInfo(f"files/{number // 200}/file-{number}")
                info.size = numbers.randrange(4096)
                with open("/dev/zero", "rb") as zeros:
                    tar.addfile(info, zeros)
    return path


def files_in(home):
    return os.path.join(os.path.dirname(disk_in(home)), "files")


def no_files(place):
    run("rm", "-rf", files_in(place.home))


def unpacked(place):
    no_files(place)
    run("tar", "-xf", archive(place), "-C", os.path.dirname(place.disk))
