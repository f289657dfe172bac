#!/usr/bin/env python3
"""The demo's guest (demo-guest.S) from the outside: builds it, lays out its VM, verifies what it wrote.

  demo_guest.py make VM-DIRECTORY raw|qcow2 MIB [VIRTUAL-MIB]   a VM as Lima lays it out; the guest writes MIB
  demo_guest.py verify DISK MIB [raw|qcow2]                     every byte that the guest wrote, or exit status 1
  demo_guest.py watch DIRECTORY FILE      keeps the largest `du` of DIRECTORY in FILE, from when FILE exists on;
                                          makes FILE.ready at once
"""
import os
import struct
import subprocess
import sys
import tempfile
import time

SECTOR = 512
FIRST_SECTOR = 2048
SECTORS_PER_MIB = 2048
MIB = 1 << 20
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo-guest.S")


def boot_sector(mib):
    """The guest, assembled, told to write so many MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        code, image = os.path.join(scratch, "guest.o"), os.path.join(scratch, "guest.bin")
        subprocess.run(["as", "--32", SOURCE, "-o", code], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-e", "start", code,
                        "-o", image], check=True)
        with open(image, "rb") as file:
            sector = bytearray(file.read())
    if len(sector) != SECTOR:
        raise RuntimeError(f"the boot sector has {len(sector)} bytes")
    struct.pack_into("<I", sector, 4, mib)
    return bytes(sector)


def make_vm(directory, image_format, mib, virtual_mib=None):
    """A VM directory with a `disk` that boots the guest, sparse but for the boot sector."""
    virtual = (virtual_mib or mib + 64) * MIB
    os.makedirs(directory, exist_ok=True)
    disk = os.path.join(directory, "disk")
    raw = disk if image_format == "raw" else disk + ".raw"
    with open(raw, "xb") as file:
        file.write(boot_sector(mib))
        file.truncate(virtual)
    if image_format != "raw":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, disk], check=True)
        os.unlink(raw)
    with open(os.path.join(directory, "lima.yaml"), "x", encoding="utf-8") as file:
        file.write(f"vmType: qemu\ndisk: {virtual // MIB}MiB\n")
    return disk


def verify_raw(path, mib):
    """None where every sector holds its number; else a sentence on the first that does not."""
    with open(path, "rb") as file:
        file.seek(FIRST_SECTOR * SECTOR)
        for lba in range(FIRST_SECTOR, FIRST_SECTOR + mib * SECTORS_PER_MIB):
            sector = file.read(SECTOR)
            if sector != struct.pack("<I", lba) * (SECTOR // 4):
                return f"sector {lba} holds {sector[:8].hex()}..., not its number"
    return None


def verify(path, mib, image_format="raw"):
    """As verify_raw, of any format; the image must not be in use."""
    if image_format == "raw":
        return verify_raw(path, mib)
    with tempfile.TemporaryDirectory() as scratch:
        raw = os.path.join(scratch, "raw")
        subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw], check=True)
        return verify_raw(raw, mib)


def allocated(directory):
    """What `du -s --block-size=1` says of the directory: each inode once, links not followed."""
    seen, total, pending = set(), 0, [directory]
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
            if os.path.isdir(path) and not os.path.islink(path):
                pending += (os.path.join(path, name) for name in os.listdir(path))
        except FileNotFoundError:  # gone since it was listed
            pass
    return total


def watch(directory, out):
    """Until terminated: the largest `allocated` so far, in `out`, a line "BYTES SAMPLES".

    Looks at nothing before `out` exists, so that it can be started before a mount that must find the directory
    unused: in a mount namespace of its own it then goes on seeing what is underneath.
    """
    with open(out + ".ready", "w", encoding="ascii"):
        pass
    while not os.path.exists(out):
        time.sleep(0.01)
    largest = samples = 0
    while True:
        samples += 1
        largest = max(largest, allocated(directory))
        with open(out + ".new", "w", encoding="ascii") as file:
            file.write(f"{largest} {samples}\n")
        os.replace(out + ".new", out)
        time.sleep(0.01)


def main():
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["make"] and len(arguments) in (3, 4):
        make_vm(arguments[0], arguments[1], *map(int, arguments[2:]))
        return 0
    if command == ["verify"] and len(arguments) in (2, 3):
        wrong = verify(arguments[0], int(arguments[1]), *arguments[2:])
        print(wrong or f"all {int(arguments[1]) * MIB} bytes are as written")
        return 1 if wrong else 0
    if command == ["watch"] and len(arguments) == 2:
        watch(*arguments)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
