"""`limaquota stop`: a VM that is paused for space is lent room, goes on, and is stopped by limactl."""
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import time

import qmp_peers
from harness import DEADLINE, HELPERS, Skip, expect, wait_for

# A stand-in for limactl: says what it was called with, waits until the guest has written everything, as a guest
# that shuts down writes what it still holds, and ends QEMU.
LIMACTL = """#!/bin/sh
echo "$LIMA_HOME: $*" >>"{record}"
[ "$1" = stop ] || exit 9
until grep -q DONE "$LIMA_HOME/$2/serial.log"; do sleep 0.1; done
exec python3 {helpers}/demo/qmp.py "$LIMA_HOME/$2/qmp.sock" quit
"""

# One that ends when the test says so.
WAITING_LIMACTL = """#!/bin/sh
echo "$*" >>"{record}"
until [ -e "{record}.end" ]; do sleep 0.1; done
"""


class Stop:
    """The command with a stand-in limactl first in PATH."""

    def __init__(self, home, script=LIMACTL):
        self.home = home
        self.record = os.path.join(home.directory, "record")
        path = os.path.join(home.directory, "bin")
        os.mkdir(path)
        with open(os.path.join(path, "limactl"), "w", encoding="utf-8") as file:
            file.write(script.format(record=self.record, helpers=os.path.abspath(HELPERS)))
            os.fchmod(file.fileno(), stat.S_IRWXU)
        self._path = f"{path}:{os.environ['PATH']}"

    def start(self, *words, stderr=subprocess.STDOUT):
        return subprocess.Popen([self.home.limaquota, "stop", *words, "--home", self.home.mountpoint], text=True,
                                stdout=subprocess.PIPE, stderr=stderr,
                                env=dict(os.environ, PATH=self._path))

    def run(self, *words, status=0):
        process = self.start(*words)
        text, _ = process.communicate(timeout=DEADLINE)
        expect(process.returncode == status, f"stop {' '.join(words)}: status {process.returncode}: {text}")
        return text

    def recorded(self):
        with contextlib.suppress(FileNotFoundError), open(self.record, encoding="utf-8") as file:
            return file.read().splitlines()
        return []


def limits(home, name="vm"):
    with open(os.path.join(home.mountpoint, ".quota", name), encoding="utf-8") as file:
        return file.read()


def paused(new_home, mib=24, limited="vm"):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", mib, 256)
    home.mount()
    home.run("set", limited, "32MiB", "--home", home.mountpoint)
    vm.start()
    vm.wait_paused()
    return home, vm


def ended(vm):
    """QEMU ended by itself."""
    vm.process.communicate(timeout=DEADLINE)
    expect(vm.process.returncode == 0, f"QEMU ended with {vm.process.returncode}")
    vm.process = None


def test_a_paused_vm_is_lent_room_and_stopped_and_the_loan_ends(new_home):
    home, vm = paused(new_home, 40)
    before = limits(home)
    stop = Stop(home)
    text = stop.run("vm")
    expect("vm: paused for space; lent 256 MiB\n" in text and "vm: the loan has ended\n" in text, text)
    expect("warning: vm occupies" in text, f"says that it is over its limit now: {text}")
    expect(stop.recorded() == [f"{home.mountpoint}: stop vm"], f"limactl was called with {stop.recorded()}")
    expect(limits(home) == before, f"the limits are not what they were: {limits(home)}")
    ended(vm)
    vm.verify()
    home.close()


def test_a_vm_that_runs_is_lent_nothing(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    vm.start()
    vm.wait_done()
    stop = Stop(home)
    text = stop.run("vm")
    expect("lent" not in text and len(stop.recorded()) == 1, text)
    expect(not os.path.exists(os.path.join(home.mountpoint, ".quota", "vm")), "it got a limit file")
    ended(vm)
    home.close()


def test_one_that_pauses_again_is_lent_once_more(new_home):
    home, vm = paused(new_home, 48)
    text = Stop(home).run("vm", "--lend", "20MiB")
    expect(text.count("lent 20 MiB") == 2, f"lent twice: {text}")
    ended(vm)
    vm.verify()
    home.close()


def test_one_far_over_its_limit_is_lent_what_it_is_over_too(new_home):
    home, vm = paused(new_home)
    home.run("set", "vm", "2MiB", "--home", home.mountpoint)
    text = Stop(home).run("vm", "--lend", "12MiB")  # it still writes 8 MiB
    expect(text.count("lent 12 MiB") == 1 and home.account("vm")["limit"] == 2 << 20, text)
    ended(vm)
    vm.verify()
    home.close()


def test_two_loans_that_are_used_up_are_the_last(new_home):
    home, vm = paused(new_home, 96)
    before = limits(home)
    stop = Stop(home)
    process = stop.start("vm", "--lend", "16MiB")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "would lose data" in line:
            break
        if "paused for space again" in line:  # limactl waits for a guest that is paused
            process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    text = "".join(lines)
    expect(process.returncode == 1 and text.count("lent 16 MiB") == 2, f"{process.returncode}: {text}")
    expect("paused for space again" in text or "would lose data" in text, f"says that it is paused: {text}")
    expect(limits(home) == before, f"the limits are not what they were: {limits(home)}")
    home.run("set", "vm", "max", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()


def ends_the_loan_on(new_home, number):
    home, vm = paused(new_home)
    before = limits(home)
    stop = Stop(home, "#!/bin/sh\necho called >>{record}\nexec sleep 3600\n")
    process = stop.start("vm")
    wait_for(stop.recorded, "limactl is called")
    expect("loan" in limits(home), "a loan is in force")
    process.send_signal(number)
    text, _ = process.communicate(timeout=DEADLINE)
    expect(process.returncode == 1 and "interrupted" in text, f"{process.returncode}: {text}")
    expect(limits(home) == before, f"the limits are not what they were: {limits(home)}")
    home.run("set", "vm", "max", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()


def test_interrupted_it_ends_the_loan(new_home):
    ends_the_loan_on(new_home, signal.SIGINT)


def test_terminated_it_ends_the_loan(new_home):
    ends_the_loan_on(new_home, signal.SIGTERM)


def test_killed_it_leaves_a_vm_of_the_default_without_a_limit_of_its_own(new_home):
    home, vm = paused(new_home, limited="_default")
    stop = Stop(home, "#!/bin/sh\necho called >>{record}\nexec sleep 3600\n")
    process = stop.start("vm")
    wait_for(stop.recorded, "limactl is called")
    expect("loan" in limits(home), "a loan is in force")
    process.kill()
    process.wait()
    own = os.path.join(home.mountpoint, ".quota", "vm")
    wait_for(lambda: not os.path.exists(own), "the loan and its file are gone")
    home.run("set", "_default", "max", "--home", home.mountpoint)
    expect(home.account("vm")["limit"] is None, f"it follows the default no more: {home.account('vm')}")
    home.run("resume", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()


def test_its_reader_gone_it_stops_the_vm_all_the_same(new_home):
    home, vm = paused(new_home)
    before = limits(home)
    stop = Stop(home)
    process = stop.start("vm", stderr=subprocess.DEVNULL)
    process.stdout.close()
    process.wait(DEADLINE)
    expect(process.returncode in (0, 1), f"status {process.returncode}")
    expect(stop.recorded() == [f"{home.mountpoint}: stop vm"], f"limactl was called with {stop.recorded()}")
    expect(limits(home) == before, f"the limits are not what they were: {limits(home)}")
    ended(vm)
    vm.verify()
    home.close()


def test_one_that_is_paused_and_then_silent_is_not_stopped(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    stop = Stop(home)
    with qmp_peers.talking_socket(vm.path("qmp.sock"), qmp_peers.PAUSED, qmp_peers.SILENT):
        text = stop.run("vm", status=1)
        expect("is paused for space and would lose data" in text and not stop.recorded(), f"refused: {text}")
    home.close()


def test_one_that_is_silent_once_while_it_is_helped_is_asked_again(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    home.run("set", "vm", "24MiB", "--home", home.mountpoint)

    def meet_the_limit():
        with open(vm.path("disk"), "r+b", buffering=0) as disk, contextlib.suppress(OSError):
            while disk.write(os.urandom(1 << 20)):
                pass

    meet_the_limit()
    refused = home.account("vm")["refused_writes"]
    expect(refused > 0, "nothing was refused")
    stop = Stop(home, WAITING_LIMACTL)
    before, helped = [qmp_peers.RUNNING] * 2, [qmp_peers.PAUSED, qmp_peers.SILENT, qmp_peers.PAUSED, qmp_peers.GOES_ON]
    with qmp_peers.talking_socket(vm.path("qmp.sock"), *before, *helped) as clients:
        process = stop.start("vm")
        wait_for(lambda: stop.recorded(), "limactl is called")
        expect(clients() == len(before), f"{clients()} were asked before the stop")
        meet_the_limit()
        wait_for(lambda: clients() >= len(before + helped), "it is asked again, and told to go on")
        open(f"{stop.record}.end", "w", encoding="utf-8").close()
        text, _ = process.communicate(timeout=DEADLINE)
    expect(process.returncode == 0 and "paused for space again" in text, f"{process.returncode}: {text}")
    expect("the loan has ended" in text, text)
    home.close()


def test_one_that_pauses_again_though_it_has_room_is_not_tried_for_ever(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    stop = Stop(home)
    with qmp_peers.talking_socket(vm.path("qmp.sock"), qmp_peers.PAUSED_AGAIN):
        text = stop.run("vm", status=1)
        expect("it has room here and is paused again" in text and not stop.recorded(), f"refused: {text}")
    home.close()


def test_a_loan_by_hand_outlives_it(new_home):
    home, vm = paused(new_home)
    until = int(time.time()) + 3600
    by_hand = f"limit 16MiB\nloan 16MiB until {until}\n"
    with open(os.path.join(home.mountpoint, ".quota", "vm"), "w", encoding="ascii") as file:
        file.write(by_hand)
    before = limits(home)
    text = Stop(home).run("vm")
    expect("lent 256 MiB" in text and limits(home) == before, f"{before!r} became {limits(home)!r}: {text}")
    ended(vm)
    vm.verify()
    home.close()


def test_two_do_not_lend_to_one_vm(new_home):
    home, vm = paused(new_home)
    before = limits(home)
    stop = Stop(home, "#!/bin/sh\necho called >>{record}\nexec sleep 3600\n")
    process = stop.start("vm")
    wait_for(stop.recorded, "limactl is called")
    vm.wait_done()
    with contextlib.ExitStack() as renamed:
        os.rename(vm.path("qmp.sock"), vm.path("qmp"))
        renamed.callback(lambda: os.rename(vm.path("qmp"), vm.path("qmp.sock")))
        with qmp_peers.talking_socket(vm.path("qmp.sock"), qmp_peers.PAUSED_AGAIN):
            home.run("set", "vm", "32MiB", "--home", home.mountpoint)
            text = stop.run("vm", "--lend", "512MiB", status=1)
    expect("another stop or reclaim lends room to vm" in text, f"refused: {text}")
    expect("loan " in limits(home), "the first one's loan is in force")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    expect(limits(home) == before, f"the limits are not what they were: {limits(home)}")
    vm.verify()
    home.close()


def test_killed_its_loan_ends(new_home):
    home, vm = paused(new_home)
    before = limits(home)
    stop = Stop(home, "#!/bin/sh\necho called >>{record}\nexec sleep 3600\n")
    process = stop.start("vm")
    wait_for(stop.recorded, "limactl is called")
    expect("loan " in limits(home), f"it is lent room: {limits(home)}")
    process.kill()
    process.wait()
    wait_for(lambda: limits(home) == before, "the limits are what they were")
    home.run("set", "vm", "64MiB", "--home", home.mountpoint)  # what the person does next
    vm.wait_done()
    vm.verify()
    home.close()


def test_a_vm_that_was_of_the_default_limit_has_no_file_afterwards(new_home):
    home, vm = paused(new_home, limited="_default")
    Stop(home).run("vm")
    expect(not os.path.exists(os.path.join(home.mountpoint, ".quota", "vm")), "it has a limit file now")
    ended(vm)
    vm.verify()
    home.close()


def test_a_full_host_cannot_be_lent_to_so_nothing_is_stopped(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 24, 128)
    home.mount()
    home.run("set", "_host", str(home.reserve_of_full_host()), "--home", home.mountpoint)
    vm.start()
    vm.wait_paused()
    stop = Stop(home)
    text = stop.run("vm", status=1)
    expect("the host has no room" in text and not stop.recorded(), f"refused: {text}")
    home.run("set", "_host", "0", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()


def test_a_paused_vm_whose_qmp_is_taken_is_not_stopped(new_home):
    home, vm = paused(new_home)
    stop = Stop(home)
    with qmp_peers.holding_client(vm.path("qmp.sock")):
        text = stop.run("vm", status=1)
    expect("may be paused for space" in text and not stop.recorded(), f"refused: {text}")
    home.run("set", "vm", "max", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()


def test_the_real_limactl_has_the_command_that_is_run(new_home):
    del new_home
    if shutil.which("limactl") is None:
        raise Skip("no limactl")
    result = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env",
                             "HOME=/nonexistent", "limactl", "stop", "--help"], capture_output=True, text=True,
                            check=False)
    expect(result.returncode == 0 and "limactl stop INSTANCE" in result.stdout, result.stdout + result.stderr)


def test_wrong_use_and_what_is_missing(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    home.mount()
    stop = Stop(home, "#!/bin/sh\necho 'it is not running' >&2\nexit 3\n")
    expect("no VM 'nix'" in stop.run("nix", status=1), "names the VM")
    for size in ("15 parsecs", "-1", "1e3G", "99999999999T", "0", ""):
        stop.run("vm", f"--lend={size}", status=2)
    expect("limactl stop vm: status 3" in stop.run("vm", status=1), "limactl's failure is told")
    os.unlink(os.path.join(home.directory, "bin", "limactl"))
    if subprocess.run(["sh", "-c", "command -v limactl"], capture_output=True, check=False).returncode != 0:
        expect("no limactl" in stop.run("vm", status=1), "names limactl")
    home.close()
