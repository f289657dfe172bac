"""`limaquota watch` tells of events once each, lets paused VMs go on, and is held up by nobody."""
import contextlib
import json
import os
import signal
import stat
import subprocess
import time

import qmp_peers
from harness import DEADLINE, MIB, expect, wait_for
from looks import Looks
from turned_clock import TurnedClock


class Watch:
    """The command in the background; its output in files."""

    def __init__(self, home, *words, path=None, clock=None):
        self.home = home
        self._out, self._err = (os.path.join(home.directory, name) for name in ("watch.out", "watch.err"))
        environment = dict(os.environ, **({"PATH": f"{path}:{os.environ['PATH']}"} if path else {}),
                           **(clock.environment() if clock else {}))
        with open(self._out, "w", encoding="utf-8") as out, open(self._err, "w", encoding="utf-8") as err:
            self.process = subprocess.Popen([home.limaquota, "watch", "--home", home.mountpoint, *words], stdout=out,
                                            stderr=err, env=environment)

    def lines(self):
        with open(self._out, encoding="utf-8") as file:
            return file.read().splitlines()

    def complaints(self):
        with open(self._err, encoding="utf-8") as file:
            return file.read()

    def events(self):
        """(VM, event) of each line."""
        return [tuple(line.split(": ")[0].split(" ")[1:3]) for line in self.lines()]

    def wait_for(self, *event):
        wait_for(lambda: event in self.events(),
                 lambda: f"watch tells of {event}; it told {self.lines()}, {self.complaints()}")

    def wait_looks(self, times):
        """Until it has looked at the figures so often, and told of what it saw. Nobody else may look meanwhile."""
        with Looks(os.path.join(self.home.mountpoint, ".usage", "_all.json")) as looks:
            looks.wait(times)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        expect(status == 0, f"watch ended with {status}: {self.complaints()}")


def set_limit(home, name, text):
    """Without the command, which resumes by itself."""
    with open(os.path.join(home.mountpoint, ".quota", name), "w", encoding="ascii") as file:
        file.write(text + "\n")


def refuse_a_write(vm):
    """As a write of QEMU would be."""
    with open(vm.path("disk"), "r+b") as disk, contextlib.suppress(OSError):
        os.posix_fallocate(disk.fileno(), 8 * MIB, MIB)
    expect(vm.home.account(vm.name)["refused_writes"] > 0, "the write was not refused")


def home_with_vm(new_home, mib=24, virtual=512):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", mib, virtual)
    home.mount()
    return home, vm


def test_a_vm_that_meets_its_limit_is_told_of_and_goes_on_once_it_has_room(new_home):
    home, vm = home_with_vm(new_home)
    set_limit(home, "vm", "32MiB")
    watch = Watch(home)
    vm.start()
    watch.wait_for("vm", "paused")
    expect(("vm", "full") in watch.events(), f"it is full before it is paused: {watch.events()}")
    set_limit(home, "vm", "96MiB")  # room, but less than 256 MiB
    watch.wait_looks(3)
    expect(vm.status() == "io-error" and ("vm", "resumed") not in watch.events(), "it goes on with too little room")
    set_limit(home, "vm", "400MiB")
    watch.wait_for("vm", "resumed")
    vm.wait_done()
    watch.end()
    events = watch.events()
    expect(sorted(set(events)) == sorted(events), f"an event was told twice: {events}")
    expect(any("used 16 MiB of 32 MiB, writable " in line for line in watch.lines()), f"no figures: {watch.lines()}")
    vm.verify()
    home.close()


def test_what_wavers_around_a_mark_is_told_once(new_home):
    home, vm = home_with_vm(new_home)
    set_limit(home, "vm", "100MiB")
    line = home.account("vm")["disk_line"]
    disk = os.open(vm.path("disk"), os.O_RDWR)
    used = home.account("vm")["used"]
    os.posix_fallocate(disk, 64 * MIB, (line * 9 // 10 - used) + MIB // 2)
    expect(home.account("vm")["state"] == "warn", "it is at its mark")
    watch = Watch(home, "--json")
    wait_for(watch.lines, "a warning")
    for _ in range(3):  # a MiB less, a MiB more
        os.ftruncate(disk, 64 * MIB)
        os.ftruncate(disk, 512 * MIB)
        os.posix_fallocate(disk, 64 * MIB, (line * 9 // 10 - used) - MIB // 2)
        expect(home.account("vm")["state"] == "ok", "it is below its mark")
        watch.wait_looks(1)
        os.posix_fallocate(disk, 64 * MIB, (line * 9 // 10 - used) + MIB // 2)
        expect(home.account("vm")["state"] == "warn", "it is at its mark")
        watch.wait_looks(1)
    expect(len(watch.lines()) == 1, f"told again: {watch.lines()}")
    os.ftruncate(disk, 64 * MIB)
    os.ftruncate(disk, 512 * MIB)
    watch.wait_looks(1)
    os.posix_fallocate(disk, 64 * MIB, (line * 9 // 10 - used) + MIB // 2)
    wait_for(lambda: len(watch.lines()) == 2, "after it was clearly over it is told again")
    event = json.loads(watch.lines()[1])
    expect(event["event"] == "warn" and event["vm"] == "vm" and event["state"] == "warn" and
           event["limit"] == 100 * MIB and event["used"] >= line * 9 // 10, f"the facts: {event}")
    os.close(disk)
    watch.end(signal.SIGINT)
    home.close()


def test_a_vm_that_had_no_limit_in_between_is_told_of_again(new_home):
    home, _ = home_with_vm(new_home)
    set_limit(home, "vm", "16KiB")
    watch = Watch(home)
    watch.wait_for("vm", "full")
    set_limit(home, "vm", "max")
    watch.wait_looks(1)
    set_limit(home, "vm", "16KiB")
    wait_for(lambda: watch.events().count(("vm", "full")) == 2, "it is full again")
    watch.end()
    home.close()


def test_a_full_host_is_one_event_and_its_vms_go_on_when_it_has_room(new_home):
    home = new_home(in_place=True)
    vms = [home.add_vm(name, "raw", 8, 64) for name in ("a", "b")]
    home.mount()
    watch = Watch(home)
    set_limit(home, "_host", f"reserve {home.reserve_of_full_host()}")
    for vm in vms:
        vm.start()
    for name in ("a", "b"):
        watch.wait_for(name, "paused")
    set_limit(home, "_host", "reserve 0")
    for name in ("a", "b"):
        watch.wait_for(name, "resumed")
    for vm in vms:
        vm.wait_done()
    watch.end()
    expect(watch.events().count(("_host", "host_full")) == 1 and ("a", "full") not in watch.events(),
           f"the host is full, no budget is: {watch.events()}")
    home.close()


def test_it_resumes_a_vm_at_most_once_a_minute(new_home):
    home, vm = home_with_vm(new_home, 320, 1024)  # more than it may write the first time
    set_limit(home, "vm", "32MiB")
    clock = TurnedClock(home, stands=True)
    watch = Watch(home, clock=clock)
    vm.start()
    watch.wait_for("vm", "paused")
    set_limit(home, "vm", "300MiB")  # with less than 256 MiB to write it is not resumed
    watch.wait_for("vm", "resumed")
    vm.wait_paused()
    wait_for(lambda: watch.events().count(("vm", "paused")) == 2, "it is paused again, with nothing left")
    clock.turn(59)
    set_limit(home, "vm", "1000MiB")
    watch.wait_looks(3)
    expect(watch.events().count(("vm", "resumed")) == 1, f"it goes on within the minute: {watch.lines()}")
    clock.turn(2)
    wait_for(lambda: watch.events().count(("vm", "resumed")) == 2, lambda: f"it goes on again: {watch.lines()}")
    watch.end()
    home.close()


def test_a_vm_paused_before_and_one_resumed_by_another_hand_are_seen(new_home):
    home, vm = home_with_vm(new_home)
    set_limit(home, "vm", "32MiB")
    vm.start()
    vm.wait_paused()
    watch = Watch(home)
    watch.wait_for("vm", "paused")
    home.run("set", "vm", "96MiB", "--home", home.mountpoint)
    watch.wait_for("vm", "resumed")
    vm.wait_done()
    watch.end()
    home.close()


HOOK = 'echo "$LIMAQUOTA_EVENT $LIMAQUOTA_VM $LIMAQUOTA_USED $LIMAQUOTA_LIMIT $LIMAQUOTA_WRITABLE ' \
       '$LIMAQUOTA_HOST_FREE" >>"$HOOKED"; echo noise; '


def test_a_command_is_told_of_each_event_and_one_that_hangs_holds_nothing_up(new_home):
    home, vm = home_with_vm(new_home)
    hooked = os.path.join(home.directory, "hooked")
    os.environ["HOOKED"] = hooked
    set_limit(home, "vm", "32MiB")
    watch = Watch(home, "--on-event", HOOK + "trap '' TERM; sleep 3600 & wait; sleep 3600")
    vm.start()
    watch.wait_for("vm", "paused")
    set_limit(home, "vm", "400MiB")
    watch.wait_for("vm", "resumed")  # the command still hangs
    vm.wait_done()
    wait_for(lambda: os.path.exists(hooked) and os.path.getsize(hooked) > 0, "the command was run")
    with open(hooked, encoding="utf-8") as file:
        first = file.read().split()
    expect(first[0] in ("warn", "full", "paused") and first[1] == "vm" and first[3] == str(32 * MIB) and
           all(word.isdigit() for word in first[2:]), f"the facts in its environment: {first}")
    watch.end()  # sooner than the command
    expect("noise" not in "".join(watch.lines()), "the command's output is among the events")
    home.close()


def test_the_desktop_is_told_where_notify_send_exists(new_home):
    home, _ = home_with_vm(new_home)
    path, told = os.path.join(home.directory, "bin"), os.path.join(home.directory, "told")
    os.mkdir(path)
    with open(os.path.join(path, "notify-send"), "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nprintf "%s|" "$@" >>{told}\n')
        os.fchmod(file.fileno(), stat.S_IRWXU)
    watch = Watch(home, path=path)
    home.run("set", "vm", "16KiB", "--home", home.mountpoint)
    watch.wait_for("vm", "full")
    wait_for(lambda: os.path.exists(told), "notify-send is run")
    watch.end()
    with open(told, encoding="utf-8") as file:
        text = file.read()
    expect("|vm has used up its disk limit|used " in text, f"what the desktop shows: {text}")
    home.close()


def test_qmp_is_asked_only_where_the_figures_tell_of_a_pause(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    watch = Watch(home)
    with qmp_peers.talking_socket(vm.path("qmp.sock")) as clients:
        watch.wait_looks(3)
        expect(clients() == 0, f"a VM that was never refused was asked {clients()} times")
        home.run("set", "vm", "16KiB", "--home", home.mountpoint)
        watch.wait_for("vm", "full")
        refuse_a_write(vm)
        began = time.monotonic()
        wait_for(lambda: clients() > 0, "after a refusal it is asked")
        watch.wait_looks(6)
        # By `set`, three times after the refusal, then every half minute.
        most = 4 + (time.monotonic() - began) / 30
        expect(clients() <= most, f"a QEMU that does not answer was asked {clients()} times, more than {most:.1f}")
    expect("may be paused" in watch.complaints(), f"says that it could not ask: {watch.complaints()}")
    expect(watch.complaints().count("may be paused") == 1, f"says so more than once: {watch.complaints()}")
    watch.end()
    home.close()


def test_a_silent_qmp_does_not_keep_another_vm_from_going_on(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 24, 512)
    dead = home.add_vm("dead", "raw", 1, 64)
    home.mount()
    set_limit(home, "vm", "32MiB")
    with qmp_peers.silent_socket(dead.path("qmp.sock")):
        home.run("set", "dead", "16KiB", "--home", home.mountpoint)
        refuse_a_write(dead)
        watch = Watch(home)
        vm.start()
        watch.wait_for("vm", "paused")
        set_limit(home, "vm", "400MiB")
        watch.wait_for("vm", "resumed")
        vm.wait_done()
        watch.end()
    home.close()


def test_unmounting_and_mounting_again_are_survived(new_home):
    home, vm = home_with_vm(new_home)
    set_limit(home, "vm", "32MiB")
    watch = Watch(home)
    watch.wait_looks(1)
    home.unmount()
    wait_for(lambda: "is not mounted" in watch.complaints(), "says that it is not mounted")
    time.sleep(2.5)  # it looks each second
    expect(watch.complaints().count("is not mounted") == 1, f"says so more than once: {watch.complaints()}")
    home.mount()
    wait_for(lambda: "answers again" in watch.complaints(), "says that it is mounted again")
    vm.start()
    watch.wait_for("vm", "paused")
    set_limit(home, "vm", "400MiB")
    watch.wait_for("vm", "resumed")
    vm.wait_done()
    watch.end()
    home.close()
