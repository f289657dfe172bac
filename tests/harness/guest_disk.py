"""Disks with partitions and an ext4 inside, made without root; what reclaim's tests work on."""
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import zlib

from harness import MIB, Skip, expect

START = 1 * MIB  # of the partition
KEPT, GONE = 6 * MIB, 16 * MIB


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Skip(f"not installed: {name}")
    return path


def run(*words, status=(0,)):
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    expect(result.returncode in status, f"{words}: status {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout


def mbr(sectors, kind):
    table = bytearray(512)
    table[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", kind, b"\xff\xff\xff", START // 512, sectors)
    table[510:512] = b"\x55\xaa"
    return bytes(table)


def gpt(total, sectors):
    """The first 34 sectors and the last 33 of a disk of `total` sectors with one Linux partition."""
    linux = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    entries = struct.pack("<16s16sQQQ72s", linux, b"p" * 16, START // 512, START // 512 + sectors - 1, 0, b"")
    entries = entries.ljust(128 * 128, b"\0")

    def header(here, other, entries_at):
        fields = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 34, total - 34,
                             b"d" * 16, entries_at, 128, 128, zlib.crc32(entries))
        fields = fields[:16] + struct.pack("<I", zlib.crc32(fields)) + fields[20:]
        return fields.ljust(512, b"\0")

    protective = bytearray(mbr(total - 1, 0xee))
    protective[454:458] = struct.pack("<I", 1)
    return bytes(protective) + header(1, total - 1, 2) + entries, entries + header(total - 1, 1, total - 33)


def make_ext4(path, mib, options=(), remove=True):
    """An ext4 with the file `kept` and the blocks of a file that was removed, all of them random bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = os.path.join(scratch, "tree")
        os.mkdir(tree)
        for name, size in (("gone", GONE), ("kept", KEPT)):
            with open(os.path.join(tree, name), "wb") as file:
                file.write(os.urandom(size))
        with open(path, "wb") as file:
            file.truncate(mib * MIB)
        kind = () if "-t" in options else ("-t", "ext4")
        run(tool("mke2fs"), "-q", "-F", *kind, *options, "-d", tree, path)
        digest = hashlib.sha256(open(os.path.join(tree, "kept"), "rb").read()).hexdigest()
    if remove:
        run(tool("debugfs"), "-w", "-R", "rm gone", path)
    return digest


class GuestDisk:
    """A raw file at `path`; `table` is mbr, gpt, or none: the filesystem is the whole disk."""

    def __init__(self, path, table="gpt", mib=48, options=(), spoil=None):
        self.table, self.mib = table, mib
        part = path + ".part"
        self.kept = make_ext4(part, mib, options)
        if spoil:
            spoil(part)
        self.start = 0 if table == "none" else START
        with open(part, "rb") as source, open(path, "wb") as file:
            data = source.read()
            file.truncate(self.start + len(data) + (START if self.start else 0))
            for at in range(0, len(data), 4096):
                if data[at:at + 4096].strip(b"\0"):
                    file.seek(self.start + at)
                    file.write(data[at:at + 4096])
            if table == "mbr":
                file.seek(0)
                file.write(mbr(len(data) // 512, 0x83))
            elif table == "gpt":
                head, tail = gpt(os.fstat(file.fileno()).st_size // 512, len(data) // 512)
                file.seek(0)
                file.write(head)
                file.seek(-len(tail), os.SEEK_END)
                file.write(tail)
        os.unlink(part)

    def check(self, path, image_format="raw"):
        """The filesystem is consistent and the kept file has its bytes."""
        with tempfile.TemporaryDirectory() as scratch:
            raw, part = os.path.join(scratch, "raw"), os.path.join(scratch, "part")
            run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
            with open(raw, "rb") as file, open(part, "wb") as out:
                if self.table != "none":
                    expect(file.read(512)[510:] == b"\x55\xaa", "the partition table is gone")
                file.seek(self.start)
                out.write(file.read(self.mib * MIB))
            run(tool("e2fsck"), "-fn", part)
            run(tool("debugfs"), "-R", f"dump kept {scratch}/kept", part)
            with open(os.path.join(scratch, "kept"), "rb") as file:
                expect(hashlib.sha256(file.read()).hexdigest() == self.kept, "the kept file has other bytes")
