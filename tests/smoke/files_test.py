"""Names and data: through the mount as underneath it."""
import errno
import mmap
import os

from harness import MIB, expect
from negotiated import DIRECT_IO_ALLOW_MMAP, negotiated
from plain_home import close, mounted, refused, write_all

NOBODY = 65534


def test_names(new_home):
    home, vm, beneath = mounted(new_home)
    for i in range(300):
        os.close(os.open(f"{vm}/file{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    refused(errno.EEXIST, os.open, f"{vm}/file0", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    expect(sorted(os.listdir(vm)) == sorted(os.listdir(beneath)) and len(os.listdir(vm)) == 300, "all are listed, once")
    os.link(f"{vm}/file0", f"{vm}/second")
    expect(os.stat(f"{vm}/second").st_nlink == 2 and os.stat(f"{vm}/second").st_ino == os.stat(f"{vm}/file0").st_ino, "a link")
    os.symlink("file0", f"{vm}/symbolic")
    expect(os.readlink(f"{beneath}/symbolic") == "file0", "a symbolic link")
    os.mkdir(f"{vm}/directory", 0o750)
    os.rename(f"{vm}/file1", f"{vm}/directory/moved")
    refused(errno.ENOENT, os.stat, f"{vm}/file1")
    refused(errno.ENOTEMPTY, os.rmdir, f"{vm}/directory")
    os.mkfifo(f"{vm}/pipe")
    for name in ("file0", "directory", "directory/moved", "pipe"):
        seen, is_so = os.lstat(f"{vm}/{name}"), os.lstat(f"{beneath}/{name}")
        for what in ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_mtime_ns"):
            expect(getattr(seen, what) == getattr(is_so, what), f"{name}: {what}: {seen}, underneath {is_so}")
    os.remove(f"{vm}/directory/moved")
    os.rmdir(f"{vm}/directory")
    expect(not os.path.exists(f"{beneath}/directory"), "gone underneath, too")
    close(home, beneath)


def test_data(new_home):
    home, vm, beneath = mounted(new_home)
    content = bytearray(6 * MIB)
    with open(f"{vm}/disk", "xb", buffering=0) as file:
        for at, size in ((0, 3 * MIB), (4 * MIB - 1000, 70001), (17, 4096), (6 * MIB - 5, 5)):
            data = os.urandom(size)
            content[at:at + size] = data
            expect(write_all(file.fileno(), data, at) is None, f"{size} bytes at {at}")
        os.fsync(file.fileno())
    for path in (f"{vm}/disk", f"{beneath}/disk"):
        with open(path, "rb") as file:
            expect(file.read() == content, f"{path}: what was written, and zeros between")
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            expect(3 * MIB <= hole < 4 * MIB, f"{path}: the hole is seen: {hole}")
    os.truncate(f"{vm}/disk", 1000)
    with open(f"{vm}/disk", "ab") as file:
        file.write(b"end")
    with open(f"{beneath}/disk", "rb") as file:
        expect(file.read() == bytes(content[:1000]) + b"end", "cut and appended to")
    os.setxattr(f"{vm}/disk", "user.limaquota", b"value")
    expect(os.getxattr(f"{beneath}/disk", "user.limaquota") == b"value", "extended attributes")
    close(home, beneath)


def test_a_disk_is_mapped_shared_while_it_is_written(new_home):
    home, vm, beneath = mounted(new_home)
    offered = negotiated(home).offered & DIRECT_IO_ALLOW_MMAP
    with open(f"{vm}/disk", "x+b", buffering=0) as file:
        file.write(bytes(65536))
        if not offered:
            refused(errno.ENODEV, mmap.mmap, file.fileno(), 65536)
        else:
            with mmap.mmap(file.fileno(), 65536) as memory:
                memory[5000:5004] = b"text"
                memory.flush()
            with open(f"{beneath}/disk", "rb") as same:
                expect(same.read()[5000:5004] == b"text", "what was stored is underneath")
    close(home, beneath)


def write_as_somebody(descriptor):
    """Without the privilege to keep set-id bits."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit(0 if os.write(descriptor, b"text") == 4 else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    expect(status == 0, f"the write ends with {status}")


def test_a_write_takes_set_id_bits_away(new_home):
    home, vm, beneath = mounted(new_home, ["allow_other"] if os.geteuid() == 0 else [])
    for name in ("disk", "program"):  # by direct I/O, and through the page cache
        with open(f"{vm}/{name}", "xb", buffering=0) as file:
            os.chmod(f"{vm}/{name}", 0o6777)
            expect(os.stat(f"{beneath}/{name}").st_mode & 0o7777 == 0o6777, f"{name}: set-id bits are set")
            write_as_somebody(file.fileno())
            for path in (f"{vm}/{name}", f"{beneath}/{name}"):
                expect(os.stat(path).st_mode & 0o7777 == 0o777, f"{path}: {os.stat(path).st_mode:o}")
    close(home, beneath)


def test_a_file_without_a_name_gets_one_or_is_refused_as_unsupported(new_home):
    home, vm, beneath = mounted(new_home)
    # "yes" or "no": whether this libfuse hands the request on.
    expected = os.environ.get("LIMAQUOTA_O_TMPFILE")
    try:
        file = os.open(vm, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        expect(error.errno == errno.EOPNOTSUPP, f"what callers know to fall back from: {error}")
        expect(expected != "yes", "this libfuse offers it")
        close(home, beneath)
        return
    expect(expected != "no", "this libfuse does not offer it")
    content = os.urandom(100000)
    expect(os.write(file, content) == len(content) and not os.listdir(vm), "written, and without a name")
    used = home.account("vm")["used"]
    expect(used >= len(content), f"counted without a name: {used}")
    root = os.open("/", os.O_RDONLY)  # with it Python calls linkat(2), which follows
    os.link(f"/proc/self/fd/{file}", f"{vm}/named", src_dir_fd=root, follow_symlinks=True)
    os.close(root)
    with open(f"{beneath}/named", "rb") as named:
        expect(named.read() == content, "its data have the name")
    expect(os.stat(f"{vm}/named").st_mode & 0o7777 == 0o640 and os.fstat(file).st_nlink == 1, "its mode, its one link")
    os.close(file)
    unnamed = os.open(vm, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    os.write(unnamed, content)
    os.close(unnamed)
    close(home, beneath)
