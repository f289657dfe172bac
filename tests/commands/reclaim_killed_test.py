"""reclaim killed at any moment: the disk is whole, and nothing stays behind. By an ordinary user."""
import glob
import os
import random
import shutil
import signal
import subprocess
import time

from guest_disk import GuestDisk, run
from harness import MIB, expect, wait_for
from stopped_vm import add_disk, bytes_disk, disk_of, expect_clean, reclaim


def processes_that_name(text):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read()
        except OSError:
            continue
        if text.encode() in words and (b"qemu" in words or b"\0reclaim\0" in words):
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def killed_at_any_moment(new_home, make, image_format, options, check, rounds=14):
    """Kills so many runs, each after a longer time, and judges the disk each time."""
    home, chance = new_home(), random.Random(1)
    made = add_disk(home, "vm", make, image_format)
    home.mount()
    disk, master = disk_of(home, "vm"), os.path.join(home.directory, "master")
    shutil.copyfile(disk, master)
    words = [home.limaquota, "reclaim", "vm", "--home", home.mountpoint, *options]
    # Where its sockets are made, and nobody else's.
    environment = dict(os.environ, XDG_RUNTIME_DIR=home.directory)
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    whole, killed = time.monotonic() - started, 0
    while killed < rounds:
        shutil.copyfile(master, disk)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        # Spread over all of the run, each time at another point.
        started = time.monotonic()
        try:
            process.wait(whole * (killed + chance.random()) / rounds)
            whole = min(whole, time.monotonic() - started)  # that was too late: the machine has become quicker
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if killed % 2 else signal.SIGTERM)
        killed += process.wait() < 0
        wait_for(lambda: not processes_that_name(home.mountpoint), "no process stays behind")
        left = glob.glob(os.path.join(home.directory, "limaquota-*"))
        expect(not left, f"a socket stays behind: {left}")
        left = [name for name in os.listdir(os.path.dirname(disk)) if name not in ("disk", "lima.yaml")]
        expect(not left, f"left behind: {left}")
        if image_format == "qcow2":
            # A process that ends has no command line any more, but its locks for a moment.
            wait_for(lambda: subprocess.run(["qemu-img", "info", disk], capture_output=True, check=False).returncode == 0,
                     "nobody locks the disk")
            run("qemu-img", "check", disk, status=(0, 3))  # 3: leaked clusters, which the next run takes back
        check(made, disk)
    reclaim(home, "vm", *options)
    check(made, disk)
    expect_clean(home, "vm", image_format)
    home.close()


def test_killed_raw_stays_whole(new_home):
    killed_at_any_moment(new_home, lambda path: GuestDisk(path, "gpt"), "raw", ["--offline"],
                         lambda guest, disk: guest.check(disk))


def test_killed_qcow2_stays_whole(new_home):
    killed_at_any_moment(new_home, lambda path: GuestDisk(path, "gpt"), "qcow2", ["--offline"],
                         lambda guest, disk: guest.check(disk, "qcow2"))


def test_killed_while_compressing_stays_whole(new_home):
    killed_at_any_moment(new_home, lambda path: GuestDisk(path, "gpt"), "qcow2", ["--compress"],
                         lambda guest, disk: guest.check(disk, "qcow2"))


def test_leftovers_of_a_run_killed_with_its_guard_go_at_the_next(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk, "qcow2")
    with open(os.path.join(home.source, "vm", ".disk.limaquota-Abc123"), "wb") as file:
        file.write(bytes(MIB))
    home.mount()
    reclaim(home, "vm", "--offline")
    expect_clean(home, "vm", "qcow2")
    home.close()
