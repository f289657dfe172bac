"""reclaim of a running VM. The guest is a real QEMU's, but cannot run programs: a stand-in for limactl does what its
fstrim would, by having QEMU discard what the guest "deleted", and records how it was called."""
import json
import os
import signal
import stat
import subprocess
import sys
import time

from harness import DEADLINE, HELPERS, MIB, expect, wait_for
from terminal import on_terminal

JUNK_AT, JUNK = 128, 32  # MiB: what a trim gives back
GUEST = 24               # MiB that the guest writes, elsewhere
LIMIT = 56

STAND_IN = """#!{python}
import json, os, sys, time
sys.path.insert(0, {helpers!r})
import qmp
with open({calls!r}, "a") as file:
    file.write(json.dumps([os.environ.get("LIMA_HOME"), *sys.argv[1:]]) + "\\n")
how = open({how!r}).read()
if "df" in sys.argv:
    print("Filesystem 1B-blocks\\n/dev/vda1 1048576\\n/dev/vda1 1048576\\ntmpfs 99999999999\\n/dev/vda2 1048576")
if "fstrim" in sys.argv:
    if how == "hang":
        time.sleep(3600)
    arguments = {{"command-line": "qemu-io virtio0 \\"discard {at}M {length}M\\""}}
    qmp.ask({socket!r}, "human-monitor-command", arguments)
    print("/: {length} MiB trimmed")
    sys.exit(64 if how == "some" else 0)
"""


class Stage:
    """A VM with junk in its disk, and a limactl in PATH."""

    def __init__(self, new_home, image_format="qcow2", limit=None):
        self.home = home = new_home()
        # Where nothing is to be paused the guest need not write much.
        self.vm = home.add_vm("vm", image_format, GUEST if limit == LIMIT else 2, 256)
        subprocess.run(["qemu-io", "-f", image_format, "-c", f"write -q -P 9 {JUNK_AT}M {JUNK}M",
                        os.path.join(home.source, "vm", "disk")], check=True)
        self.bin = os.path.join(home.directory, "bin")
        self.calls_file, self.how_file = os.path.join(self.bin, "calls"), os.path.join(self.bin, "how")
        os.makedirs(self.bin)
        self.behave("well")
        script = os.path.join(self.bin, "limactl")
        with open(script, "w", encoding="utf-8") as file:
            file.write(STAND_IN.format(python=sys.executable, helpers=os.path.join(HELPERS, "demo"), calls=self.calls_file, how=self.how_file,
                                       at=JUNK_AT, length=JUNK, socket=self.vm.path("qmp.sock")))
        os.chmod(script, os.stat(script).st_mode | stat.S_IXUSR)
        home.mount()
        if limit:
            self.vm.set_limit(limit)
        self.vm.start()

    def behave(self, how):
        with open(self.how_file, "w", encoding="utf-8") as file:
            file.write(how)

    def calls(self):
        if not os.path.exists(self.calls_file):
            return []
        with open(self.calls_file, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def words(self, *options):
        return [self.home.limaquota, "reclaim", "vm", "--home", self.home.mountpoint, *options]

    def environment(self):
        return dict(os.environ, PATH=f"{self.bin}:{os.environ['PATH']}")

    def on_terminal(self, typed, *options):
        return on_terminal(self.words(*options), typed, self.environment())

    def start(self, *options):
        return subprocess.Popen(self.words(*options), env=self.environment(), text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, *options, status=0):
        process = self.start(*options)
        text, _ = process.communicate(timeout=DEADLINE)
        expect(process.returncode == status, f"reclaim {options}: status {process.returncode}: {text}")
        return text

    def run_json(self, *options):
        """What comes before it are progress lines, on a busy machine."""
        text = self.run("--json", *options)
        return json.loads(text[text.index("{"):])

    def allow_loans(self, mib):
        """What was sampled so far must be within the limit; from now on a loan may be in force too."""
        self.vm.check_never_above()
        self.vm.limit_mib = LIMIT + mib + 16  # what it holds beyond its disk line is lent too

    def expect_no_loan(self):
        with open(os.path.join(self.home.mountpoint, ".quota", "vm"), encoding="utf-8") as file:
            text = file.read()
        expect("loan" not in text, f"the loan stays: {text!r}")
        expect(self.home.account("vm")["limit"] == LIMIT * MIB, f"another limit: {self.home.account('vm')}")

    def expect_no_stand_in(self):
        def running():
            found = subprocess.run(["pgrep", "-f", self.bin + "/limactl"], capture_output=True, check=False).stdout
            return bool(found)
        wait_for(lambda: not running(), "limactl is ended")

    def finish(self):
        self.vm.verify()
        self.home.close()


def a_paused_vm_is_lent_room_trimmed_and_goes_on(new_home, image_format):
    stage = Stage(new_home, image_format, LIMIT)
    stage.vm.wait_paused()
    stage.allow_loans(256)
    done = stage.run_json()
    stage.expect_no_loan()
    expect([call[1:] for call in stage.calls()] == [["shell", "--workdir", "/", "vm", "sudo", "fstrim", "-av"]],
           f"{stage.calls()}")
    expect(stage.calls()[0][0] == os.path.realpath(stage.home.mountpoint), f"LIMA_HOME: {stage.calls()}")
    expect(done["way"] == "fstrim" and done["used_before"] > done["used_after"] - JUNK * MIB, f"{done}")
    stage.vm.wait_done()
    expect(stage.home.account("vm")["used"] < (GUEST + 8) * MIB, f"the junk stays: {stage.home.account('vm')}")
    stage.finish()


def test_raw_paused_is_lent_room_trimmed_and_goes_on(new_home):
    a_paused_vm_is_lent_room_trimmed_and_goes_on(new_home, "raw")


def test_qcow2_paused_is_lent_room_trimmed_and_goes_on(new_home):
    a_paused_vm_is_lent_room_trimmed_and_goes_on(new_home, "qcow2")


def test_a_running_vm_is_trimmed_without_a_loan(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    quota = os.path.join(stage.home.mountpoint, ".quota", "vm")
    written = os.stat(quota).st_mtime_ns
    before = stage.home.account("vm")["used"]
    stage.behave("some")
    text = stage.run()
    won = before - stage.home.account("vm")["used"]
    expect(won >= JUNK * MIB * 0.95, f"{won} bytes given back: {text}")
    expect("guest: /: 32 MiB trimmed" in text and "could not be trimmed" in text and "given back" in text, text)
    expect(os.stat(quota).st_mtime_ns == written, "the limit was written")
    stage.finish()


def test_dry_run_asks_the_guest_what_it_uses(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    account = stage.home.account("vm")
    would = stage.run_json("--dry-run")
    expect(would["would_free"] == account["disks"][0]["allocated"] - 2 * MIB, f"{would} {account}")
    expect(all("fstrim" not in call for call in stage.calls()), f"{stage.calls()}")
    expect(stage.home.account("vm")["used"] == account["used"], "a dry run changed something")
    stage.finish()


def test_clean_asks_first(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    text = stage.run("--clean", status=1)
    expect("--yes" in text and not stage.calls(), f"{text} {stage.calls()}")
    stage.run("--path", "/usr/src/my linux", "--yes")
    calls = [call[5:] for call in stage.calls()]
    expect(calls[0][:3] == ["sudo", "sh", "-c"] and "apt-get clean" in calls[0][3], f"{calls}")
    expect(calls[1] == ["sudo", "rm", "-rf", "--one-file-system", "--", "/usr/src/my linux"], f"{calls}")
    expect(calls[2] == ["sudo", "fstrim", "-av"], f"{calls}")
    stage.finish()


def test_clean_takes_no_for_an_answer(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    status, shown = stage.on_terminal(b"n\n", "--clean")
    expect(status == 1 and "Go on? [y/N]" in shown and "nothing was done" in shown, f"{status}: {shown}")
    expect(not stage.calls(), f"{stage.calls()}")
    status, shown = stage.on_terminal(b"y\n", "--clean")
    expect(status == 0 and "given back" in shown and len(stage.calls()) == 2, f"{status}: {shown} {stage.calls()}")
    stage.finish()


def test_pausing_again_is_tried_once_more_then_said(new_home):
    stage = Stage(new_home, limit=LIMIT)
    stage.vm.wait_paused()
    stage.allow_loans(4)
    stage.behave("hang")
    text = stage.run("--loan", "1MiB", status=1)
    expect("paused again" in text and "limaquota set vm SIZE" in text, text)
    stage.expect_no_loan()
    stage.expect_no_stand_in()
    stage.allow_loans(256)
    stage.behave("well")
    stage.run()
    stage.vm.wait_done()
    stage.finish()


def test_the_deadline_ends_what_hangs(new_home):
    stage = Stage(new_home, limit=LIMIT)
    stage.vm.wait_paused()
    stage.allow_loans(256)
    stage.behave("hang")
    text = stage.run("--deadline", "2", status=1)
    expect("did not end within 2 s" in text, text)
    stage.expect_no_loan()
    stage.expect_no_stand_in()
    stage.home.run("set", "vm", "160MiB", "--home", stage.home.mountpoint)
    stage.vm.limit_mib = 160 + 256
    if stage.vm.status() == "io-error":
        stage.vm.qmp("cont")
    stage.vm.wait_done()
    stage.finish()


def killed_while_lent(new_home, number):
    stage = Stage(new_home, limit=LIMIT)
    stage.vm.wait_paused()
    stage.allow_loans(256)
    stage.behave("hang")
    process = stage.start()
    wait_for(stage.calls, "fstrim is started")
    expect(stage.home.account("vm")["limit"] >= (LIMIT + 256) * MIB, "no loan is in force")
    process.send_signal(number)
    expect(process.wait(DEADLINE) == -number, "it ended by itself")
    # Sooner than by its own time, which is longer than is waited for here.
    wait_for(lambda: stage.home.account("vm")["limit"] == LIMIT * MIB, "the loan ends")
    stage.expect_no_loan()
    stage.expect_no_stand_in()
    stage.home.run("set", "vm", "160MiB", "--home", stage.home.mountpoint)
    stage.vm.limit_mib = 160 + 256
    if stage.vm.status() == "io-error":
        stage.vm.qmp("cont")
    stage.vm.wait_done()
    stage.finish()


def test_sigkill_ends_the_loan(new_home):
    killed_while_lent(new_home, signal.SIGKILL)


def test_sigterm_ends_the_loan(new_home):
    killed_while_lent(new_home, signal.SIGTERM)


def test_a_qmp_socket_that_nobody_answers(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    os.kill(stage.vm.process.pid, signal.SIGSTOP)
    try:
        text = stage.run(status=1)
    finally:
        os.kill(stage.vm.process.pid, signal.SIGCONT)
    expect("no answer in time" in text and text.count("\n") == 1, text)
    stage.finish()


def test_offline_refuses_a_vm_whose_qemu_runs_without_a_pid_file(new_home):
    stage = Stage(new_home, limit=160)
    stage.vm.wait_done()
    os.unlink(stage.vm.path("qemu.pid"))
    text = stage.run("--offline", status=1)
    expect("is in use" in text, text)
    stage.finish()
