"""A real QEMU meets its limit, pauses, and goes on when the limit is raised, with nothing lost."""
from harness import MIB, expect, wait_for


def within_a_mib_of_the_line(home, vm):
    account = home.account(vm.name)
    distance = account["disk_line"] - account["used"]
    expect(0 <= distance <= MIB, f"{vm.name} stopped {distance} bytes before its disk line")
    expect(account["state"] == "full", f"{vm.name}: state {account['state']}, paused at the limit")


def pause_and_go_on(new_home, image_format, **how):
    home = new_home(**how)
    vm = home.add_vm("vm", image_format, 16, 256)
    home.mount()
    vm.set_limit(8)  # so its disk line is 4 MiB
    vm.start()
    vm.wait_paused()
    within_a_mib_of_the_line(home, vm)
    vm.set_limit(64)
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
    vm = home.add_vm("vm", image_format, 20, 256)
    home.mount()
    vm.set_limit(8)
    vm.start()
    for limit in (14, 20, 22, 28):
        vm.wait_paused()
        vm.set_limit(limit)
        vm.qmp("cont")
    vm.wait_paused()
    vm.set_limit(64)
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
    vm = home.add_vm("vm", "qcow2", 8, 128)
    home.mount()
    vm.set_limit(8)
    vm.start()
    for _ in range(3):
        vm.wait_paused()
        refused = home.account("vm")["refused_writes"]
        vm.qmp("cont")
        wait_for(lambda: home.account("vm")["refused_writes"] > refused, "QEMU tries again and is refused")
    vm.wait_paused()
    vm.set_limit(64)
    vm.qmp("cont")
    vm.wait_done()
    vm.verify()
    home.close()


def test_the_other_vm_goes_on_while_one_is_paused(new_home):
    home = new_home()
    paused = home.add_vm("paused", "raw", 12, 128)
    other = home.add_vm("other", "qcow2", 8, 128)
    home.mount()
    paused.set_limit(8)
    paused.start()
    paused.wait_paused()
    other.start()
    other.wait_done()
    paused.wait_paused()
    other.verify()
    paused.set_limit(64)
    paused.qmp("cont")
    paused.wait_done()
    paused.verify()
    home.close()


def test_edquot_gives_the_guest_an_error_and_does_not_pause(new_home):
    home = new_home(options=["edquot"])
    vm = home.add_vm("vm", "raw", 12, 128)
    home.mount()
    vm.set_limit(8)
    vm.start()
    wait_for(lambda: "ERR" in vm.serial(), "the guest sees an error")
    expect(vm.status() == "running", f"QEMU is {vm.status()}")
    home.close()


def test_a_limit_below_usage_lets_the_guest_overwrite(new_home):
    home = new_home()
    vm = home.add_vm("vm", "raw", 8, 128)
    home.mount()
    vm.start()
    vm.wait_done()
    home.run("set", "vm", "4MiB", "--home", home.mountpoint)
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
