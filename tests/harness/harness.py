"""A limaquota mount and QEMUs in it, for the tests of tests/vm and tests/commands.

Every `Home` ends with the same checks, whatever the test was about: the figures equal `du` of the backing tree,
the daemon ends with status 0, its log has no error, nothing stays mounted.
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

HELPERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "mount-helpers")
sys.path.insert(0, os.path.join(HELPERS, "demo"))
sys.dont_write_bytecode = True

import demo_guest  # noqa: E402 (needs the path above)
import qmp  # noqa: E402

MIB = demo_guest.MIB
# Seconds that a test waits for what must come. It is there so that what hangs fails, and judges no speed: no machine is
# so slow, and what is to outlast it takes several times as long.
DEADLINE = 300.0


class Broken(AssertionError):
    """What a test promises does not hold."""


class Skip(Exception):
    """The test cannot run here; the text says why."""


def expect(holds, sentence):
    if not holds:
        raise Broken(sentence)


def wait_for(condition, sentence, deadline=DEADLINE, progress=None, most_pause=0.02):
    """`sentence` may be a function, which is asked at the end. Only what takes longer by itself has another deadline. As
    long as what `progress` gives changes, it is waited for, however slow the machine."""
    until, pause, seen = time.monotonic() + deadline, 0.001, None
    while not condition():
        if progress is not None and progress() != seen:
            until, seen = time.monotonic() + deadline, progress()
        if time.monotonic() >= until:
            raise Broken(f"did not come: {sentence() if callable(sentence) else sentence}")
        time.sleep(pause)
        pause = min(2 * pause, most_pause)  # soon at first, since most come at once


class Sampler:
    """The largest `du` of a directory, sampled without pause by a thread."""

    def __init__(self, directory):
        self._directory = directory
        self._stop = threading.Event()
        self.largest = 0
        self.samples = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            self.largest = max(self.largest, demo_guest.allocated(self._directory))
            self.samples += 1
            time.sleep(0.005)

    def stop(self):
        self._stop.set()
        self._thread.join()


class Vm:
    """A VM whose directory is in the mount, and its QEMU."""

    def __init__(self, home, name, image_format, mib):
        self.home, self.name, self.format, self.mib = home, name, image_format, mib
        self.directory = os.path.join(home.mountpoint, name)
        self.backing = os.path.join(home.source, name)
        self.process = None
        self.sampler = None
        self.limit_mib = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def set_limit(self, mib):
        """By the command. What was sampled so far must be within the limit in force so far."""
        self.check_never_above()
        self.home.run("set", self.name, f"{mib}MiB", "--home", self.home.mountpoint)
        self.limit_mib = mib

    def check_never_above(self):
        if self.limit_mib is not None and self.sampler:
            largest, limit = self.sampler.largest, self.limit_mib * MIB
            expect(largest <= limit, f"{self.name}: du reached {largest}, the limit is {limit}")

    def start(self, memory="64", options=()):
        """Its QEMU, with options beside those that all have."""
        expect(len(self.path("qmp.sock")) < 108, "the work directory's path is too long for a socket")
        if self.home.reachable_source:
            self.sampler = Sampler(self.backing)
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", memory, "-display", "none", "-nodefaults",
             "-drive", f"file={self.path('disk')},if=virtio,format={self.format},discard=on",
             "-qmp", f"unix:{self.path('qmp.sock')},server=on,wait=off",
             "-serial", f"file:{self.path('serial.log')}", "-pidfile", self.path("qemu.pid"), *options],
            stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self._answers() or self.process.poll() is not None, "QEMU starts")
        if self.process.poll() is not None:
            raise Broken(f"QEMU ended at once: {self.process.stderr.read()}")

    def _answers(self):
        try:
            return os.path.exists(self.path("qemu.pid")) and bool(self.status())
        except (OSError, qmp.QmpError):
            return False

    def qmp(self, command):
        return qmp.ask(self.path("qmp.sock"), command, deadline=DEADLINE)

    def status(self):
        return self.qmp("query-status")["status"]

    def serial(self):
        try:
            with open(self.path("serial.log"), encoding="ascii", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def _wait_while_it_writes(self, condition, sentence):
        # A guest writes as fast as the machine lets it. Each question stops its QEMU for a moment.
        wait_for(condition, sentence, progress=lambda: demo_guest.allocated(self.directory), most_pause=0.2)

    def wait_paused(self):
        self._wait_while_it_writes(lambda: self.status() == "io-error" or "DONE" in self.serial(), f"{self.name} is paused")
        expect(self.status() == "io-error", f"{self.name} finished, where it should have met its limit")
        expect("ERR" not in self.serial(), f"{self.name}: the guest saw an error")
        devices = self.qmp("query-block")
        expect(any(device.get("io-status") == "nospace" for device in devices),
               f"{self.name} is paused, but not for space: {devices}")

    def wait_done(self, times=1):
        # One that overwrites what is there shows by its dots, one a MiB, that it goes on.
        wait_for(lambda: self.serial().count("DONE") >= times or "ERR" in self.serial(), f"{self.name} is done",
                 progress=lambda: (demo_guest.allocated(self.directory), len(self.serial())), most_pause=0.2)
        expect("ERR" not in self.serial(), f"{self.name}: the guest saw an error: {self.serial()!r}")

    def stop(self):
        """Ends QEMU, in order."""
        if self.process:
            self.qmp("quit")
            _, text = self.process.communicate(timeout=DEADLINE)
            expect(self.process.returncode == 0, f"QEMU ended with {self.process.returncode}: {text}")
            self.process = None
        if self.sampler:
            wait_for(lambda: self.sampler.samples > 10, "enough samples of du to mean anything")
            self.sampler.stop()
            self.check_never_above()
            self.sampler = None

    def verify(self):
        """Every byte that the guest wrote is in the image; a qcow2 is consistent."""
        self.stop()
        disk = os.path.join(self.directory, "disk")
        wrong = demo_guest.verify(disk, self.mib, self.format)
        expect(wrong is None, f"{self.name}: {wrong}")
        if self.format == "qcow2":
            result = subprocess.run(["qemu-img", "check", disk], capture_output=True, text=True, check=False)
            expect(result.returncode == 0, f"{self.name}: qemu-img check: {result.stdout}{result.stderr}")

    def abandon(self):
        """After a failure: no QEMU stays."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.sampler:
            self.sampler.stop()
            self.sampler = None


class Home:
    """A Lima home, covered in place or shown elsewhere (`in_place` false: the backing tree stays reachable)."""

    def __init__(self, limaquota, directory, in_place=False, options=()):
        self.limaquota = limaquota
        self.directory = directory
        self.source = os.path.join(directory, "home")
        self.reachable_source = not in_place
        self.mountpoint = self.source if in_place else os.path.join(directory, "m")
        self._options = [word for option in options for word in ("-o", option)]
        self._vms = []
        self._daemon = None
        os.makedirs(self.source)
        os.makedirs(self.mountpoint, exist_ok=True)

    def run(self, *arguments, status=0):
        """Runs limaquota; returns what it printed on both streams."""
        result = subprocess.run([self.limaquota, *arguments], capture_output=True, text=True, check=False,
                                timeout=DEADLINE)
        text = result.stdout + result.stderr
        expect(result.returncode == status, f"limaquota {' '.join(arguments)}: status {result.returncode}: {text}")
        return text

    def add_vm(self, name, image_format, mib, virtual_mib=None):
        """Before the mount."""
        demo_guest.make_vm(os.path.join(self.source, name), image_format, mib, virtual_mib)
        self._vms.append(Vm(self, name, image_format, mib))
        return self._vms[-1]

    def mount(self):
        words = [self.source] if self.mountpoint == self.source else [self.source, self.mountpoint]
        with open(os.path.join(self.directory, "log"), "w", encoding="utf-8") as log:
            self._daemon = subprocess.Popen([self.limaquota, "mount", "-f", *self._options, *words], stderr=log)
        ready = os.path.join(self.mountpoint, ".usage", "_all.json")
        wait_for(lambda: os.path.exists(ready) or self._daemon.poll() is not None, "the mount answers")
        expect(self._daemon.poll() is None, f"mounting failed: {self.log()}")

    def worker_pid(self):
        """The process that serves; the daemon looks after it. None in the moment when there is none."""
        pid = self._daemon.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = file.read().split()
        for child in children:
            with contextlib.suppress(OSError), open(f"/proc/{child}/comm", encoding="ascii") as file:
                if file.read().strip() != "limaquota-probe":
                    return int(child)
        return None

    def signal_daemon(self, number):
        self._daemon.send_signal(number)

    def signal_worker(self, number):
        os.kill(self.worker_pid(), number)

    def kill_daemon(self):
        """The mount is dead then."""
        self._daemon.kill()
        self._daemon.wait()

    def daemon_pid(self):
        return self._daemon.pid

    def daemon_status(self):
        """None while it runs."""
        return self._daemon.poll()

    def log(self):
        with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def usage(self):
        with open(os.path.join(self.mountpoint, ".usage", "_all.json"), encoding="utf-8") as file:
            return json.load(file)

    def account(self, name):
        return next(account for account in self.usage()["accounts"] if account["name"] == name)

    def reserve_of_full_host(self):
        """A host reserve in bytes that leaves disks nothing, and control files something (a quarter of it holds)."""
        return self.usage()["host"]["free"] * 2

    def check_figures(self):
        """used == du, of the account and of its disk; the backing filesystem may still settle for a moment."""
        for vm in self._vms:
            # In place the mount shows the backing's st_blocks.
            seen = vm.backing if self.reachable_source else vm.directory
            wait_for(lambda: self.account(vm.name)["used"] == demo_guest.allocated(seen), f"{vm.name}: used == du")
            wait_for(lambda: self.account(vm.name)["disks"][0]["allocated"] ==
                     os.stat(os.path.join(seen, "disk")).st_blocks * 512,
                     lambda: f"{vm.name}: the disk's figure is st_blocks: {self.account(vm.name)}")
            disk = self.account(vm.name)["disks"][0]
            expect(disk["format"] == vm.format, f"{vm.name}: format {disk['format']}")

    def close(self):
        """The checks with which each test ends."""
        for vm in self._vms:
            vm.stop()
        self.check_figures()
        self.unmount()

    def unmount(self):
        self.run("umount", self.mountpoint)
        expect(self._daemon.wait(DEADLINE) == 0, f"the daemon ended with {self._daemon.returncode}: {self.log()}")
        self._daemon = None
        expect(not os.path.ismount(self.mountpoint), "still mounted")
        log = self.log()
        expect("error" not in log.lower(), f"the log is not clean: {log}")

    def abandon(self):
        """After a failure: no process and no mount stays."""
        for vm in self._vms:
            vm.abandon()
        if self._daemon:
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*command, self.mountpoint], check=False, stderr=subprocess.DEVNULL)
            try:
                self._daemon.wait(10)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()

    def remove(self):
        """Never what is behind a mount that would not go."""
        if os.path.ismount(self.mountpoint):
            raise OSError("still mounted")
        shutil.rmtree(self.directory)
