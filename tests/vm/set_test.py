"""`limaquota set` lets a VM go on that was paused for space, and never fails for want of an answer of QEMU."""
import json

import qmp_peers
from harness import MIB, expect


def start_paused(home, name="vm"):
    vm = home.add_vm(name, "raw", 24, 128)
    home.mount()
    home.run("set", name, "32MiB", "--home", home.mountpoint)
    vm.start()
    vm.wait_paused()
    return vm


def test_more_room_lets_the_vm_go_on_and_says_so(new_home):
    home = new_home(in_place=True)
    vm = start_paused(home)
    text = home.run("set", "vm", "96MiB", "--home", home.mountpoint)
    expect("vm: resumed\n" in text, f"says that it goes on: {text}")
    vm.wait_done()
    answer = json.loads(home.run("set", "vm", "97MiB", "--home", home.mountpoint, "--json"))
    expect(answer["vms"] == [], f"a VM that runs is not spoken of: {answer}")
    expect([account["limit"] for account in answer["accounts"]] == [97 * MIB] and answer["host"]["free"] > 0,
           f"the figures: {answer}")
    vm.verify()
    home.close()


def test_a_lower_default_limit_or_a_larger_one_reaches_the_vms_that_have_it(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 24, 128)
    home.mount()
    home.run("set", "_default", "32MiB", "--home", home.mountpoint)
    vm.start()
    vm.wait_paused()
    text = home.run("set", "_default", "24MiB", "--home", home.mountpoint)
    expect("vm: not resumed: its limit of 24 MiB" in text, f"says that it stays paused: {text}")
    text = home.run("set", "_default", "96MiB", "--home", home.mountpoint)
    expect("vm: resumed\n" in text, f"says that it goes on: {text}")
    vm.wait_done()
    vm.verify()
    home.close()


def test_a_host_reserve_that_is_lowered_lets_vms_go_on(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 24, 128)
    home.mount()
    home.run("set", "_host", str(home.reserve_of_full_host()), "--home", home.mountpoint)
    vm.start()
    vm.wait_paused()
    expect(home.account("vm")["state"] == "host_full", "the host is full")
    text = home.run("set", "_host", "0", "--home", home.mountpoint)
    expect("vm: resumed\n" in text, f"says that it goes on: {text}")
    vm.wait_done()
    vm.verify()
    home.close()


def test_the_limit_is_set_though_another_client_holds_qmp(new_home):
    home = new_home(in_place=True)
    vm = start_paused(home)
    with qmp_peers.holding_client(vm.path("qmp.sock")):
        text = home.run("set", "vm", "96MiB", "--home", home.mountpoint)  # and ends, though the client stays
        expect("vm: it may be paused for space; not resumed:" in text and "another client" in text,
               f"says that it could not ask: {text}")
    expect(home.account("vm")["limit"] == 96 * MIB, "the limit is in force")
    home.run("resume", "vm", "--home", home.mountpoint)
    vm.wait_done()
    vm.verify()
    home.close()
