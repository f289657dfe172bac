"""Real guests at their limit: guest.py --help. bench/guest.sh makes what it needs and calls it, as an ordinary user.

A run is a Debian guest (bench/guest_work.sh) that unpacks the kernel source, builds objects, deletes the source and trims.
Where it pauses is chosen by what the same work took in a chroot, without a limit: `reference`.
"""
import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "harness"))

import harness  # noqa: E402 (needs the path above)
from harness import MIB, Broken, Home, Vm, expect, wait_for  # noqa: E402

HOST_RESERVE = 256 * MIB
CONTROL_RESERVE = 16 * MIB
ROOMY = 8192  # MiB; more than the guest's disk can take
PAUSED_FOR = 2.0  # seconds that a pause is watched
STALLED = 900.0  # seconds without any growth or step, in a guest that is not paused
IO_ERRORS = re.compile(r"I/O error|EXT4-fs error|Buffer I/O|JBD2.*(abort|error)|remount.*read-only|critical (medium|space)")
COLOURS = {True: "\033[32m", False: "\033[31m"} if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}


class Promises:
    """What was promised, and whether it held; printed as it is found out."""

    def __init__(self):
        self.all = []

    def check(self, holds, sentence):
        self.all.append((bool(holds), sentence))
        colour, plain = COLOURS.get(bool(holds), ""), "\033[0m" if COLOURS else ""
        print(f"   {colour}{'[held]' if holds else '[BROKEN]'}{plain} {sentence}", flush=True)

    def broken(self):
        return sum(not holds for holds, _ in self.all)


class Progress:
    """One line, rewritten on a terminal; elsewhere a line now and then."""

    EVERY = {True: 1.0, False: 30.0}

    def __init__(self):
        self._terminal = sys.stdout.isatty()
        self._started = self._next = time.monotonic()

    def seconds(self):
        return time.monotonic() - self._started

    def show(self, text, now=False):
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY[self._terminal]
        line = f"   {self.seconds():5.0f} s  {text}"
        print(f"\r{line}\033[K" if self._terminal and not now else f"\r\033[K{line}\n" if self._terminal else f"{line}\n",
              end="", flush=True)


class Guest(Vm):
    """A VM of the image; ends by switching itself off."""

    def __init__(self, home, name, image_format, given):
        super().__init__(home, name, image_format, 0)
        self.given = given
        os.makedirs(self.backing)
        source = os.path.join(given.images, "root.raw")
        disk = os.path.join(self.backing, "disk")
        words = ["cp", "--sparse=always", source, disk] if image_format == "raw" else [
            "qemu-img", "convert", "-f", "raw", "-O", image_format, source, disk]
        subprocess.run(words, check=True)
        with open(os.path.join(self.backing, "lima.yaml"), "x", encoding="utf-8") as file:
            file.write(f"vmType: qemu\ndisk: {os.path.getsize(source) // MIB}MiB\n")
        home.adopt(self)

    def boot(self):
        objects = ",".join(self.given.objects.split())
        self.start(str(self.given.memory), [
            "-smp", "2", "-no-reboot", "-kernel", os.path.join(self.given.images, "vmlinuz"),
            "-initrd", os.path.join(self.given.images, "initrd"), "-append",
            f"root=/dev/vda ro console=ttyS0 panic=-1 loglevel=4 init=/sbin/guest-work limaquota.objects={objects}",
            "-drive", f"file={os.path.join(self.given.images, 'source.raw')},if=virtio,format=raw,readonly=on"])

    def steps(self):
        """What the guest told of, step to figures."""
        return {name: words.split() for name, words in re.findall(r"^GUEST: (\S+) ?(.*?)\r?$", self.serial(), re.MULTILINE)}

    def is_off(self):
        return self.process.poll() is not None

    def is_paused(self):
        with contextlib.suppress(OSError, harness.qmp.QmpError):
            if self.status() == "io-error":
                return True
        return False

    def stop(self):
        if self.process and self.is_off():
            self.process.communicate()
            self.process = None
        super().stop()

    def set_writable(self, amount):
        """A limit that leaves the disk so many bytes, as of now."""
        used = self.home.account(self.name)["used"]
        self.set_limit(-(-(max(used, self.sampler.largest) + amount + CONTROL_RESERVE) // MIB))


class RealHome(Home):
    def adopt(self, vm):
        self._vms.append(vm)


class LowestFree:
    """The least free space of a filesystem, sampled without pause by a thread."""

    def __init__(self, path):
        self._path, self._stop = path, threading.Event()
        self.least, self.samples = self.now(), 1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self):
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize

    def _run(self):
        while not self._stop.wait(0.001):
            self.least = min(self.least, self.now())
            self.samples += 1

    def stop(self):
        self._stop.set()
        self._thread.join()


class Run:
    """A guest from its start until it is off; `on_pause` says what is done about a pause, `on_step` about a step."""

    def __init__(self, guest, promises):
        self.guest, self.promises, self.progress = guest, promises, Progress()
        self.pauses = 0
        self._told = set()
        self._grown_at, self._grown = time.monotonic(), None

    def mib(self, key):
        return (self.guest.home.account(self.guest.name)[key] or 0) // MIB

    def go(self, on_pause, on_step):
        self.guest.boot()
        while not self.guest.is_off():
            self._look_at_steps(on_step)
            if self.guest.is_paused():
                self._pause(on_pause)
            time.sleep(0.3)
        self._look_at_steps(on_step)

    def _look_at_steps(self, on_step):
        steps = self.guest.steps()
        for step in [step for step in steps if step not in self._told]:
            self._told.add(step)
            self.progress.show(f"{step} {' '.join(steps[step])}", now=True)
            on_step(step)
        used = self.mib("used")
        if (used, steps) != self._grown:
            self._grown, self._grown_at = (used, steps), time.monotonic()
        expect(time.monotonic() - self._grown_at < STALLED, f"the guest does nothing: {self.guest.serial()[-500:]}")
        last = list(steps)[-1] if steps else "boot"
        self.progress.show(f"used {used} MiB, writable {self.mib('writable')} MiB, {self.pauses} pauses, "
                           f"last step: {' '.join([last, *steps.get(last, [])])}")

    def _pause(self, on_pause):
        expect(any(device.get("io-status") == "nospace" for device in self.guest.qmp("query-block")),
               "the guest is paused, but not for space")
        self.pauses += 1
        self.progress.show(f"paused, used {self.mib('used')} MiB", now=True)
        before = self.guest.home.account(self.guest.name)["used"]
        time.sleep(PAUSED_FOR)
        expect(self.guest.is_paused(), "the guest went on by itself")
        expect(self.guest.home.account(self.guest.name)["used"] <= before, "a paused guest's disk grew")
        on_pause(self.pauses)

    def check_end(self, reference):
        """After it is off: everything that the guest was to do, was done and is on its disk."""
        guest, check = self.guest, self.promises.check
        steps, log = guest.steps(), guest.serial()
        peak = guest.sampler.largest
        guest.stop()
        check("off" in steps and "failed" not in steps, f"the guest did all its work, in {self.progress.seconds():.0f} s")
        told = re.search(r"GUEST: log begins(.*)GUEST: log ends", log, re.DOTALL)
        lines = told.group(1).count("\n") if told else 0
        found = IO_ERRORS.findall(log)
        check(lines > 50 and not found, f"its kernel log has no I/O error ({lines} lines{', ' if found else ''}{found or ''})")
        result = steps.get("result", ["", ""])
        check(result[-1] == reference["sha256"],
              f"the build's result is the same file: {result[0]} objects, sha256 {result[-1][:16]}")
        self._check_disk(reference)
        after, trimmed = guest.home.account(guest.name)["used"], steps.get("trimmed", ["/:", "?"])
        check(peak - after > 0.9 * reference["unpacked"],
              f"deleted and trimmed: {peak // MIB} MiB at the peak, {after // MIB} MiB after it")
        return {"seconds": round(self.progress.seconds()), "pauses": self.pauses, "peak": peak, "after": after,
                "trimmed": " ".join(trimmed)}

    def _check_disk(self, reference):
        """As it is on the host, the guest being off."""
        with tempfile.TemporaryDirectory(dir=self.guest.given.work) as scratch:
            disk = self.guest.path("disk")
            if self.guest.format != "raw":
                checked = subprocess.run(["qemu-img", "check", disk], capture_output=True, text=True, check=False)
                self.promises.check(checked.returncode == 0, "qemu-img check finds nothing")
                raw = os.path.join(scratch, "raw")
                subprocess.run(["qemu-img", "convert", "-f", self.guest.format, "-O", "raw", disk, raw], check=True)
                disk = raw
            fsck = subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True, text=True, check=False)
            self.promises.check(fsck.returncode == 0, f"e2fsck -fn: clean: {fsck.stdout.strip().splitlines()[-1].split(': ')[-1]}")
            kept = os.path.join(scratch, "result.tar")
            subprocess.run(["/sbin/debugfs", "-R", f"dump /root/result.tar {kept}", disk], capture_output=True, check=True)
            with open(kept, "rb") as file:
                digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
            self.promises.check(digest.hexdigest() == reference["sha256"], "and it is on its disk, read on the host")


def new_home(given, directory):
    home = RealHome(given.limaquota, tempfile.mkdtemp(prefix="h", dir=directory))
    return home


@contextlib.contextmanager
def ended(home):
    """Whatever happens, nothing of the home stays."""
    try:
        yield
    except BaseException:
        print(f"   log of the mount: {home.log().strip() or 'empty'}")
        raise
    finally:
        home.abandon()
        home.remove()


def run_limited(given, promises, image_format, times):
    """The limit is met `times` times while the source is unpacked, and once more while objects are built."""
    reference = given.reference
    home = new_home(given, given.work)
    guest = Guest(home, "guest", image_format, given)
    with ended(home):
        home.mount()
        with open(os.path.join(home.mountpoint, ".quota", "guest"), "w", encoding="ascii") as file:
            file.write(f"control_reserve {CONTROL_RESERVE}\n")
        step = reference["unpacked"] // (times + 1)
        guest.set_limit((home.account("guest")["used"] + step + CONTROL_RESERVE) // MIB)
        print(f"   base {home.account('guest')['used'] // MIB} MiB, limit {guest.limit_mib} MiB; without a limit the source "
              f"takes {reference['unpacked'] // MIB} MiB and the objects {reference['built'] // MIB} MiB")
        run = Run(guest, promises)
        building = []

        def on_pause(count):
            if count < times:
                guest.set_writable(step)
            else:
                guest.set_limit(ROOMY)

        def on_step(name):
            if name == "unpacked":
                guest.set_writable(reference["built"] // 4)
                building.append(run.pauses)

        run.go(on_pause, on_step)
        promises.check(building and building[0] == times and run.pauses > times,
                       f"paused {building[0] if building else run.pauses} times while the source was unpacked, "
                       f"{run.pauses - (building or [run.pauses])[0]} times while objects were built; each time it went on")
        largest = guest.sampler.largest
        figures = run.check_end(reference)
        promises.check(True, f"du never passed the limit in force; {largest // MIB} MiB at most")
        home.close()
        promises.check(True, "used is what du says; the mount ended in order, its log is clean")
    return figures


def run_on_full_host(given, promises):
    """No limit but the host's: what is free ends while the source is unpacked."""
    reference = given.reference
    home = new_home(given, given.full_host)
    guest = Guest(home, "guest", "raw", given)
    other = home.add_vm("other", "raw", 32, 64)
    with open(os.path.join(other.backing, "disk"), "r+b") as disk:  # all its blocks are there already
        sector = disk.read(512)
        disk.seek(0)
        disk.write(sector.ljust(64 * MIB, b"\0"))
        os.fsync(disk.fileno())
    with ended(home):
        home.mount()
        home.run("set", "_host", str(HOST_RESERVE), "--home", home.mountpoint)
        ballast = os.path.join(given.full_host, "ballast")
        free = LowestFree(given.full_host)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.now() - HOST_RESERVE - reference["unpacked"] // 2)
        free.least = free.now()
        print(f"   a filesystem with {free.least // MIB} MiB free, {HOST_RESERVE // MIB} MiB of it the host reserve")
        run = Run(guest, promises)

        def on_pause(_):
            if os.path.exists(ballast):
                on_full_host(given, promises, home, other, free)
                os.unlink(ballast)
            home.run("resume", "guest", "--home", home.mountpoint)

        run.go(on_pause, lambda _: None)
        promises.check(run.pauses > 0, f"the guest paused {run.pauses} times, and went on when the host had space again")
        figures = run.check_end(reference)
        home.close()
    return figures


def on_full_host(given, promises, home, other, free):
    """While the guest is paused."""
    free.stop()
    promises.check(free.least >= HOST_RESERVE and free.samples > 1000,
                   f"the host reserve holds: never less than {free.least} bytes free of {HOST_RESERVE}, {free.samples} samples")
    state = home.account("guest")["state"]
    promises.check(state == "host_full", f"the guest's state is {state}")
    other.start()
    wait_for(lambda: "DONE" in other.serial() or other.status() != "running", "the other VM is done")
    promises.check("DONE" in other.serial() and "ERR" not in other.serial(), "another VM writes its 32 MiB, where blocks are")
    other.verify()
    path = os.path.join(given.full_host, "host-file")
    with open(path, "wb") as file:
        file.write(os.urandom(64 * MIB))
        os.fsync(file.fileno())
    promises.check(os.path.getsize(path) == 64 * MIB, "the host writes 64 MiB and syncs them")
    os.unlink(path)


RUNS = {
    "raw": ("a raw disk, the limit met while unpacking and while building", lambda g, p: run_limited(g, p, "raw", 1)),
    "qcow2": ("the same as qcow2", lambda g, p: run_limited(g, p, "qcow2", 1)),
    "ten": ("raw, the limit met ten times in a row, then while building", lambda g, p: run_limited(g, p, "raw", 10)),
    "ten-qcow2": ("the same as qcow2", lambda g, p: run_limited(g, p, "qcow2", 10)),
    "full-host": ("a host filesystem that is nearly full, no limit but the host reserve", run_on_full_host),
}


def one(given, promises, name):
    print(f"\n== {name}: {RUNS[name][0]} ==", flush=True)
    before = promises.broken()
    try:
        figures = RUNS[name][1](given, promises)
    except (Broken, OSError, subprocess.SubprocessError, harness.qmp.QmpError) as error:
        promises.check(False, f"{name} got to its end: {error}")
        figures = {}
    return {"run": name, **figures, "broken": promises.broken() - before}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("limaquota", "images", "work", "reference", "objects"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--full-host", help="a directory on the filesystem that is to be full")
    parser.add_argument("--memory", type=int, default=1024, help="of the guest, in MiB")
    parser.add_argument("--json", help="write the figures there")
    parser.add_argument("runs", nargs="+", choices=RUNS)
    given = parser.parse_args()
    with open(given.reference, encoding="utf-8") as file:
        given.reference = json.load(file)
    for tool in ("qemu-system-x86_64", "qemu-img"):
        if not shutil.which(tool):
            parser.error(f"not installed: {tool}")
    promises, started = Promises(), time.monotonic()
    figures = [one(given, promises, name) for name in given.runs]
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"objects": given.objects, "reference": given.reference, "runs": figures}, file, indent=2)
    print(f"\n== {time.monotonic() - started:.0f} seconds; promises held: {len(promises.all) - promises.broken()}, "
          f"broken: {promises.broken()} ==")
    return 1 if promises.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
