"""Stopped VMs with disks of known content, and reclaim run on them."""
import json
import os
import subprocess

from guest_disk import run
from harness import DEADLINE, MIB, expect

RANDOM, ZEROS = 6 * MIB, 10 * MIB


def add_disk(home, name, make, image_format="raw"):
    """Before the mount: a VM directory whose `disk` make(path) wrote, as raw; then in the format, zeros allocated."""
    directory = os.path.join(home.source, name)
    os.makedirs(directory)
    path = os.path.join(directory, "disk")
    made = make(path)
    if image_format == "qcow2":
        # -S 0: zeros take clusters too, as they do where a guest wrote them.
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-S", "0", path, path + ".new")
        os.rename(path + ".new", path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # from now on its allocated bytes stay what they are
    with open(os.path.join(directory, "lima.yaml"), "x", encoding="utf-8") as file:
        file.write("vmType: qemu\n")
    return made


def bytes_disk(path):
    """Random bytes, written zeros, random bytes, then a hole."""
    content = os.urandom(RANDOM // 2) + bytes(ZEROS) + os.urandom(RANDOM // 2)
    with open(path, "xb") as file:
        file.write(content)
        file.truncate(len(content) + 8 * MIB)
    return content


def content_of(path, image_format, directory):
    raw = os.path.join(directory, "content")
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
    with open(raw, "rb") as file:
        return file.read()


def reclaim(home, vm, *options, status=0):
    return home.run("reclaim", vm, "--home", home.mountpoint, *options, status=status)


def reclaim_json(home, vm, *options):
    """Standard output alone: on a busy machine progress lines go to standard error."""
    words = [home.limaquota, "reclaim", vm, "--home", home.mountpoint, "--json", *options]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=DEADLINE)
    expect(result.returncode == 0, f"{words}: status {result.returncode}: {result.stderr}")
    return json.loads(result.stdout)


def disk_of(home, vm):
    return os.path.join(home.mountpoint, vm, "disk")


def allocated(path):
    return os.stat(path).st_blocks * 512


def expect_clean(home, vm, image_format):
    left = [name for name in os.listdir(os.path.join(home.mountpoint, vm)) if name not in ("disk", "lima.yaml")]
    expect(not left, f"left behind: {left}")
    if image_format == "qcow2":
        run("qemu-img", "check", disk_of(home, vm))
