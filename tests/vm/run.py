#!/usr/bin/env python3
"""Tests of limaquota with a real QEMU: run.py LIMAQUOTA WORKDIR [TEST...]

As root or as an ordinary user. Prints a line for each test: `ok NAME`, `not ok NAME why` or `skip NAME why`; last a
line `N passed, N failed, N skipped`. Exit status 1 where one failed. WORKDIR is made where it does not exist; what
the tests make in it is removed.
"""
import os
import shutil
import sys
import tempfile
import traceback

sys.dont_write_bytecode = True  # no __pycache__ in the source tree

from harness import MIB, Broken, Home, expect, wait_for  # noqa: E402

NEEDED = ("qemu-system-x86_64", "qemu-img", "as", "ld")


def within_a_mib_of_the_line(home, vm):
    account = home.account(vm.name)
    distance = account["disk_line"] - account["used"]
    expect(0 <= distance <= MIB, f"{vm.name} stopped {distance} bytes before its disk line")
    expect(account["state"] == "full", f"{vm.name}: state {account['state']}, paused at the limit")


def pause_and_go_on(new_home, image_format, **how):
    home = new_home(**how)
    vm = home.add_vm("vm", image_format, 64, 256)
    home.mount()
    vm.set_limit(48)
    vm.start()
    vm.wait_paused()
    within_a_mib_of_the_line(home, vm)
    vm.set_limit(128)
    vm.qmp("cont")
    vm.wait_done()
    vm.verify()
    home.close()


def test_raw_pauses_at_the_limit_and_goes_on(new_home):
    pause_and_go_on(new_home, "raw")


def test_qcow2_pauses_at_the_limit_and_goes_on(new_home):
    pause_and_go_on(new_home, "qcow2")


def test_covered_in_place_pauses_and_goes_on(new_home):
    pause_and_go_on(new_home, "qcow2", in_place=True)


def limit_met_again_and_again(new_home, image_format):
    home = new_home()
    vm = home.add_vm("vm", image_format, 48, 256)
    home.mount()
    vm.set_limit(32)
    vm.start()
    for limit in (35, 40, 41, 56):
        vm.wait_paused()
        vm.set_limit(limit)
        vm.qmp("cont")
    vm.wait_paused()
    vm.set_limit(96)
    vm.qmp("cont")
    vm.wait_done()
    vm.verify()
    home.close()


def test_raw_meets_its_limit_again_and_again(new_home):
    limit_met_again_and_again(new_home, "raw")


def test_qcow2_meets_its_limit_again_and_again(new_home):
    limit_met_again_and_again(new_home, "qcow2")


def test_cont_without_more_budget_pauses_again_and_loses_nothing(new_home):
    home = new_home()
    vm = home.add_vm("vm", "qcow2", 40, 128)
    home.mount()
    vm.set_limit(32)
    vm.start()
    for _ in range(3):
        vm.wait_paused()
        refused = home.account("vm")["refused_writes"]
        vm.qmp("cont")
        wait_for(lambda: home.account("vm")["refused_writes"] > refused, "QEMU tries again and is refused")
    vm.wait_paused()
    vm.set_limit(128)
    vm.qmp("cont")
    vm.wait_done()
    vm.verify()
    home.close()


def test_the_other_vm_goes_on_while_one_is_paused(new_home):
    home = new_home()
    paused = home.add_vm("paused", "raw", 64, 128)
    other = home.add_vm("other", "qcow2", 32, 128)
    home.mount()
    paused.set_limit(48)
    paused.start()
    paused.wait_paused()
    other.start()
    other.wait_done()
    paused.wait_paused()
    other.verify()
    paused.set_limit(128)
    paused.qmp("cont")
    paused.wait_done()
    paused.verify()
    home.close()


def test_edquot_gives_the_guest_an_error_and_does_not_pause(new_home):
    home = new_home(options=["edquot"])
    vm = home.add_vm("vm", "raw", 64, 128)
    home.mount()
    vm.set_limit(32)
    vm.start()
    wait_for(lambda: "ERR" in vm.serial(), "the guest sees an error")
    expect(vm.status() == "running", f"QEMU is {vm.status()}")
    home.close()


def test_a_limit_below_usage_lets_the_guest_overwrite(new_home):
    home = new_home()
    vm = home.add_vm("vm", "raw", 32, 128)
    home.mount()
    vm.start()
    vm.wait_done()
    home.run("set", "vm", "16MiB", "--home", home.mountpoint)
    expect(home.account("vm")["state"] == "over", "the account is over")
    before = home.account("vm")["used"]
    vm.qmp("system_reset")
    vm.wait_done(times=2)
    expect(home.account("vm")["used"] == before, "overwriting changed `used`")
    vm.verify()
    home.close()


def test_umount_refuses_while_a_vm_runs_and_names_it(new_home):
    home = new_home()
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    vm.start()
    text = home.run("umount", home.mountpoint, status=1)
    expect(f"vm (process {vm.process.pid})" in text, f"does not name the VM: {text}")
    vm.wait_done()
    vm.verify()
    home.close()


def run_test(function, limaquota, workdir):
    """None where it passed, else why not."""
    homes = []

    def new_home(**how):
        homes.append(Home(limaquota, tempfile.mkdtemp(prefix="t", dir=workdir), **how))
        return homes[-1]

    why = None
    try:
        function(new_home)
    except Broken as broken:
        why = str(broken)
    except Exception:  # whatever it is, the other tests still run
        why = traceback.format_exc()
    for home in homes:
        log = home.log() if why and os.path.exists(os.path.join(home.directory, "log")) else ""
        if log:
            why += f" [log: {log.strip()}]"
        home.abandon()
        try:
            home.remove()
        except OSError as error:
            why = f"{why or ''} cannot remove {home.directory}: {error}"
    return why


def why_skip():
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not open to this user"
    return None


def main():
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    limaquota, workdir = map(os.path.abspath, sys.argv[1:3])
    os.makedirs(workdir, exist_ok=True)
    tests = {name[5:]: function for name, function in globals().items() if name.startswith("test_")}
    passed = failed = skipped = 0
    skip = why_skip()
    for name in sys.argv[3:] or tests:
        if skip:
            skipped += 1
            print(f"skip {name} {skip}", flush=True)
            continue
        why = run_test(tests[name], limaquota, workdir)
        passed, failed = passed + (why is None), failed + (why is not None)
        print(f"ok {name}" if why is None else f"not ok {name} {' '.join(why.split())}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
