"""The worker is killed while a real QEMU writes: the guest only waits, at its limit and away from it."""
import os
import random
import signal
import threading

from harness import expect


class Killer:
    """Kills the worker at random moments until it is stopped."""

    def __init__(self, home, least=0.03, most=0.3):
        self.home, self.pauses, self.kills = home, (least, most), 0
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
        while not self._done.wait(self._random.uniform(*self.pauses)):
            worker = self.home.worker_pid()
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                self.kills += 1


def written_while_killed(new_home, image_format):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", image_format, 64, 256)
    home.mount()
    vm.set_limit(48)
    with Killer(home) as killer:
        vm.start()
        vm.wait_paused()
        vm.set_limit(128)
        vm.qmp("cont")
        vm.wait_done()
    expect(killer.kills >= 5, f"only {killer.kills} kills")
    expect("ERR" not in vm.serial(), f"the guest saw an error: {vm.serial()}")
    vm.verify()
    with open(os.path.join(home.mountpoint, ".usage", "_host"), encoding="ascii") as file:
        figures = dict(line.split() for line in file)
    expect(int(figures["worker_restarts"]) == killer.kills, f"{killer.kills} kills, and {figures}")
    print(f"{killer.kills} workers killed")
    home.close()


def test_a_guest_on_raw_does_not_notice(new_home):
    written_while_killed(new_home, "raw")


def test_a_guest_on_qcow2_does_not_notice(new_home):
    written_while_killed(new_home, "qcow2")
