"""The worker is killed, or replaced by an upgrade, while a real QEMU writes: the guest only waits, at its limit and away
from it."""
import os
import random
import signal
import threading

from harness import expect


class Disturber:
    """Does something to a mount that has served for a moment, again and again, until it is stopped."""

    def __init__(self, home, disturb, least=0.03, most=0.3):
        self.home, self.disturb, self.pauses, self.times, self.error = home, disturb, (least, most), 0, None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._random = random.Random(1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _run(self):
        try:
            while not self._done.is_set():
                # Once it serves: on a slow machine none would come so far, and the guest would wait for ever.
                host_figure(self.home, "worker_pid")
                if not self._done.wait(self._random.uniform(*self.pauses)) and self.disturb(self.home):
                    self.times += 1
        except Exception as error:  # told by who waits for it
            self.error = error

    def check(self):
        if self.error:
            raise self.error


def host_figure(home, key):
    with open(os.path.join(home.mountpoint, ".usage", "_host"), encoding="ascii") as file:
        return int(dict(line.split() for line in file)[key])


def restarts(home):
    return host_figure(home, "worker_restarts")


def written_while(new_home, image_format, disturb, least_often):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", image_format, 40, 256)
    home.mount()
    vm.set_limit(32)
    with Disturber(home, disturb) as disturber:
        vm.start()
        vm.wait_paused()
        vm.set_limit(128)
        vm.qmp("cont")
        vm.wait_done()
        rounds = 1
        while restarts(home) < least_often:  # it writes once more, over what it has
            disturber.check()
            vm.qmp("system_reset")
            rounds += 1
            vm.wait_done(rounds)
    disturber.check()
    expect("ERR" not in vm.serial(), f"the guest saw an error: {vm.serial()}")
    vm.verify()
    # One that was dying already may have been killed once more.
    expect(restarts(home) <= disturber.times, f"{disturber.times} times, and {restarts(home)} restarts")
    print(f"{restarts(home)} workers replaced")
    home.close()


def kill_worker(home):
    worker = home.worker_pid()
    if worker is None:
        return False
    os.kill(worker, signal.SIGKILL)
    return True


def upgrade(home):
    home.run("upgrade", home.mountpoint)
    return True


def test_a_guest_on_raw_does_not_notice(new_home):
    written_while(new_home, "raw", kill_worker, 5)


def test_a_guest_on_qcow2_does_not_notice(new_home):
    written_while(new_home, "qcow2", kill_worker, 5)


def test_nor_an_upgrade(new_home):
    written_while(new_home, "qcow2", upgrade, 1)
