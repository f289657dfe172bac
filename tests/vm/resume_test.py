"""`limaquota resume`: VMs that QEMU paused because a write did not fit go on, and only those."""
import json
import os

import qmp_peers
from harness import expect, wait_for


def resume(home, *names, status=0):
    return home.run("resume", *names, "--home", home.mountpoint, status=status)


def write_limit(home, name, text):
    """Without the command, which resumes by itself."""
    with open(os.path.join(home.mountpoint, ".quota", name), "w", encoding="ascii") as file:
        file.write(text + "\n")


def paused_vm(home, name, mib=24):
    return home.add_vm(name, "raw", mib, 128)


def start_paused(vm):
    """Its disk gets half of 32 MiB, and it writes more."""
    write_limit(vm.home, vm.name, "32MiB")
    vm.start()
    vm.wait_paused()


def test_a_paused_vm_with_room_goes_on_and_loses_nothing(new_home):
    home = new_home(in_place=True)
    vm = paused_vm(home, "vm")
    home.mount()
    start_paused(vm)
    write_limit(home, "vm", "96MiB")
    expect(resume(home, "vm") == "vm: resumed\n", "says that it resumed")
    vm.wait_done()
    vm.verify()
    home.close()


def test_without_names_all_paused_go_on_and_the_others_are_left_alone(new_home):
    home = new_home(in_place=True)
    paused = [paused_vm(home, name) for name in ("a", "b")]
    idle = home.add_vm("idle", "raw", 1, 64)
    stopped = home.add_vm("stopped", "raw", 1, 64)
    home.mount()
    for vm in paused:
        start_paused(vm)
        write_limit(home, vm.name, "96MiB")
    idle.start()
    idle.wait_done()
    idle.qmp("stop")
    expect(resume(home) == "a: resumed\nb: resumed\n", "resumes a and b, and says no more")
    expect(idle.status() == "paused", "what was paused by hand stays paused")
    expect(not os.path.exists(stopped.path("qmp.sock")), "the stopped VM has no QEMU")
    for vm in paused:
        vm.wait_done()
    idle.qmp("cont")
    for vm in (*paused, idle):
        vm.verify()
    home.close()


def test_none_paused_is_no_failure_but_a_named_vm_that_is_not_paused_is(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.add_vm("off", "raw", 1, 64)
    home.mount()
    vm.start()
    vm.wait_done()
    expect("no VM is paused" in resume(home), "says that none is paused")
    expect("vm: not resumed: it is running" in resume(home, "vm", status=1), "says that it runs")
    expect("off: not resumed: it is not running" in resume(home, "off", status=1), "says that it does not run")
    text = resume(home, "vm", "nix", status=1)
    expect("no VM 'nix' in" in text and "there are: off, vm" in text, f"names those there are: {text}")
    vm.qmp("stop")
    expect("it is paused, not paused for space" in resume(home, "vm", status=1), "says that it is paused by hand")
    expect(vm.status() == "paused", "it stays paused")
    home.close()


def test_without_room_it_is_not_sent_on_and_the_way_out_is_named(new_home):
    home = new_home(in_place=True)
    vm = paused_vm(home, "vm")
    home.mount()
    start_paused(vm)
    write_limit(home, "vm", "24MiB")  # now it is over
    refused = home.account("vm")["refused_writes"]
    text = resume(home, "vm", status=1)
    expect("limaquota set vm SIZE" in text, f"names what to do: {text}")
    expect(home.account("vm")["refused_writes"] == refused, "it was sent on, into another refusal")
    write_limit(home, "vm", "max")
    write_limit(home, "_host", f"reserve {home.reserve_of_full_host()}")
    text = resume(home, "vm", status=1)
    expect("the host has no room" in text and "limaquota set _host" in text, f"names the host: {text}")
    expect(home.account("vm")["refused_writes"] == refused, "it was sent on, into another refusal")
    write_limit(home, "_host", "reserve 0")
    resume(home, "vm")
    vm.wait_done()
    vm.verify()
    home.close()


def test_room_that_is_used_up_at_once_is_told(new_home):
    """By a stand-in for QEMU: when a real one tries its write again is the machine's affair."""
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1, 64)
    home.mount()
    with qmp_peers.talking_socket(vm.path("qmp.sock"), qmp_peers.PAUSED_AGAIN):
        text = resume(home, "vm", status=1)
    expect("paused for space again at once" in text, f"says that it paused again: {text}")
    home.close()


def test_qemus_that_do_not_answer_hold_nobody_up(new_home):
    home = new_home(in_place=True)
    vm = paused_vm(home, "vm")
    dead = [home.add_vm(name, "raw", 1, 64) for name in ("d1", "d2", "d3", "stale", "liar")]
    home.mount()
    start_paused(vm)
    write_limit(home, "vm", "96MiB")
    qmp_peers.stale_socket(dead[3].path("qmp.sock"))
    with qmp_peers.silent_socket(dead[0].path("qmp.sock")), qmp_peers.silent_socket(dead[1].path("qmp.sock")), \
            qmp_peers.silent_socket(dead[2].path("qmp.sock")), \
            qmp_peers.talking_socket(dead[4].path("qmp.sock"), b'{"QMP":1}\n{"return":3}\n{"return":{"status":[]}}\n'):
        text = resume(home, status=1)  # and ends, though they stay silent
        expect("vm: resumed" in text, f"the paused VM goes on: {text}")
        for name in ("d1", "d2", "d3"):
            expect(f"{name}: not resumed:" in text and "no answer in time" in text, f"names {name}: {text}")
        expect("stale" not in text, f"a stale socket is a VM that does not run: {text}")
        resume(home, "liar", status=1)
    vm.wait_done()
    vm.verify()
    os.unlink(dead[3].path("qmp.sock"))
    home.close()


def test_another_client_that_holds_qmp_is_named_and_waited_for_not_long(new_home):
    home = new_home(in_place=True)
    vm = paused_vm(home, "vm")
    home.mount()
    start_paused(vm)
    write_limit(home, "vm", "96MiB")
    with qmp_peers.holding_client(vm.path("qmp.sock")):
        text = resume(home, "vm", status=1)  # and ends, though the client stays
        expect("another client" in text, f"says why: {text}")
    wait_for(lambda: "resumed" in home.run("resume", "--home", home.mountpoint), "once the client is gone")
    vm.wait_done()
    vm.verify()
    home.close()


def test_json_says_what_each_was_found_to_be(new_home):
    home = new_home(in_place=True)
    vm = paused_vm(home, "vm")
    home.add_vm("off", "raw", 1, 64)
    home.mount()
    start_paused(vm)
    write_limit(home, "vm", "96MiB")
    answer = {vm["name"]: vm for vm in json.loads(resume(home, "vm", "off", "--json", status=1))["vms"]}
    expect(answer["vm"]["resumed"] is True and answer["vm"]["found"] == "paused for space", f"vm: {answer}")
    expect(answer["off"]["resumed"] is False and answer["off"]["found"] == "not running", f"off: {answer}")
    vm.wait_done()
    expect(json.loads(resume(home, "--json")) == {"vms": []}, "none is paused now")
    vm.verify()
    home.close()


def test_an_unmounted_home_is_named(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    expect("is not mounted" in resume(home, status=1), "says that it is not mounted")
    home.mount()
    home.close()
