"""`limaquota set`: what it accepts, and that it warns of, or refuses, limits that the host cannot give."""
import json
import os
import subprocess

from harness import DEADLINE, MIB, expect

GIB = 1024 * MIB


def run(home, *words, status=0):
    """(standard output, standard error)"""
    result = subprocess.run([home.limaquota, "set", *words, "--home", home.mountpoint], capture_output=True, text=True,
                            check=False, timeout=DEADLINE)
    expect(result.returncode == status, f"set {words}: status {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout, result.stderr


def set_reserve(home, room):
    """Leaves the host so much room beyond its reserve."""
    home.run("set", "_host", str(home.usage()["host"]["free"] - room), "--home", home.mountpoint)


def test_sizes_that_are_none_are_wrong_use_and_change_nothing(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    home.mount()
    run(home, "vm", "40MiB")
    for size in ("15 parsecs", "-1", "1e3G", "99999999999T", "", " ", "G", "1.", "0x10", "40MiB\n50MiB", "nan", "max1"):
        for words in (("vm", size), ("_host", size), ("vm", size, "--strict")):
            _, complaint = run(home, *words, status=2)
            expect(len(complaint) > 0, f"{size!r} is refused without a word")
    run(home, "_host", "max", status=2)
    expect(home.account("vm")["limit"] == 40 * MIB, "the limit was changed")
    home.close()


def test_names_that_are_none_are_refused_and_those_there_are_named(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    home.mount()
    for name in ("nix", "../vm", "_disks/nix", "_usage", "vm/disk", "n\nx"):
        _, complaint = run(home, name, "1GiB", status=1)
        expect(complaint.count("\n") == 1 and "there are: " in complaint, f"{name!r}: {complaint!r}")
    home.close()


def test_limits_beyond_what_the_host_can_give_are_warned_of(new_home):
    home = new_home(in_place=True)
    home.add_vm("a", "raw", 1, 8 * 1024)
    home.add_vm("b", "raw", 1, 8 * 1024)
    home.mount()
    run(home, "a", "1GiB")
    run(home, "b", "1GiB")
    set_reserve(home, 3 * GIB)
    expect(run(home, "a", "1.5GiB")[1] == "", "2.5 GiB fit into 3 GiB")
    _, warning = run(home, "a", "4GiB")
    expect(warning.startswith("warning: all limits together let the VMs grow by ") and warning.count("\n") == 1,
           f"warns: {warning!r}")
    host = home.usage()["host"]
    expect(abs(host["worst_case"] - 5 * GIB) < 64 * MIB and host["overcommit"] > 0, f"4 GiB and 1 GiB: {host}")
    expect("grow by 5 GiB, " in warning or "grow by 4.9 GiB, " in warning, f"the figures: {warning!r}")
    expect(home.account("a")["limit"] == 4 * GIB, "the limit is set all the same")
    # Beyond the virtual size a limit lets nothing grow.
    _, warning = run(home, "b", "max")
    expect("grow by 12 GiB, " in warning or "grow by 11.9 GiB, " in warning, f"4 GiB and 8 GiB virtual: {warning!r}")
    home.close()


def test_strict_refuses_them_and_changes_nothing(new_home):
    home = new_home(in_place=True)
    for name in ("a", "b"):
        home.add_vm(name, "raw", 1, 8 * 1024)
    home.mount()
    run(home, "_default", "1GiB")
    set_reserve(home, 3 * GIB)
    before = home.usage()["host"]
    for words in (("a", "4GiB"), ("a", "max"), ("_default", "2GiB"), ("--all", "virtual"),
                  ("_host", str(before["free"] - GIB))):
        _, complaint = run(home, *words, "--strict", status=1)
        expect("nothing was changed" in complaint and complaint.count("\n") == 1, f"{words}: {complaint!r}")
    files = os.listdir(os.path.join(home.mountpoint, ".quota"))
    expect(not {"a", "b"} & set(files), f"a limit file was made: {files}")
    after = home.usage()["host"]
    expect(after["limits"] == before["limits"] and after["reserve"] == before["reserve"], f"{before} became {after}")
    run(home, "a", "1.5GiB", "--strict")
    expect(home.account("a")["limit"] == GIB * 3 // 2, "what fits is set")
    home.close()


def test_strict_allows_what_makes_it_less(new_home):
    home = new_home(in_place=True)
    for name in ("a", "b"):
        home.add_vm(name, "raw", 1, 8 * 1024)
    home.mount()
    set_reserve(home, 3 * GIB)
    _, warning = run(home, "a", "4GiB", "--strict")
    expect(warning.startswith("warning: all limits together") and warning.count("\n") == 1, f"warns: {warning!r}")
    _, complaint = run(home, "a", "5GiB", "--strict", status=1)
    expect("nothing was changed" in complaint and home.account("a")["limit"] == 4 * GIB, complaint)
    home.close()


def test_a_limit_that_is_not_held_is_warned_of(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    elsewhere = os.path.join(home.directory, "elsewhere")
    os.mkdir(elsewhere)
    os.symlink(elsewhere, os.path.join(home.source, "away"))
    home.mount()
    expect(home.account("away")["state"] == "outside", f"the figures: {home.account('away')}")
    _, warning = run(home, "away", "1GiB")
    expect("leads out of the home: its limit is not held" in warning and warning.count("\n") == 1, repr(warning))
    expect(run(home, "vm", "64MiB")[1] == "", "one in the home is not warned of")
    home.close()


def test_not_mounted_is_said(new_home):
    home = new_home(in_place=True)
    home.add_vm("vm", "raw", 1, 64)
    _, complaint = run(home, "vm", "1GiB", status=1)
    expect("is not mounted: run" in complaint, complaint)
    home.mount()
    home.close()


def test_a_name_that_is_no_utf8_is_set_and_shown_escaped(new_home):
    """Beside one that differs in that byte only: both are the same in JSON."""
    home = new_home(in_place=True)
    names = [os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe8")]
    for name in names:
        os.mkdir(os.path.join(home.source, name))
    home.mount()
    said, _ = run(home, names[0], "40MiB")
    expect(said.startswith("caf\\351: limit 40 MiB"), f"said: {said}")
    run(home, names[1], "50MiB")
    limits = {account.get("name_escaped"): account["limit"] for account in home.usage()["accounts"]}
    expect((limits["caf\\351"], limits["caf\\350"]) == (40 * MIB, 50 * MIB), f"limits: {limits}")
    expect("caf\\351" in home.run("status", names[0], "--home", home.mountpoint), "status does not know it")
    home.close()


def as_written(home, command):
    """Runs a command as a message says it."""
    path = os.path.join(home.directory, "path")
    if not os.path.exists(path):
        os.mkdir(path)
        os.symlink(home.limaquota, os.path.join(path, "limaquota"))
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=DEADLINE,
                            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "LIMA_HOME": home.mountpoint})
    expect(result.returncode == 0, f"{command}: status {result.returncode}: {result.stdout}{result.stderr}")


def test_commands_that_messages_name_can_be_pasted(new_home):
    home = new_home(in_place=True)
    strange = os.path.join(home.directory, "it's a home")
    os.makedirs(os.path.join(strange, "vm"))
    text = home.run("set", "vm", "1GiB", "--home", strange, status=1)
    as_written(home, text.split('"')[1])
    try:
        expect(os.path.ismount(strange), f"not mounted by: {text}")
    finally:
        home.run("umount", strange)
    names = ["a b", "it's", "$(x)", os.fsdecode(b"caf\xe9")]
    for name in names:
        os.mkdir(os.path.join(home.source, name))
    home.mount()
    report = subprocess.run([home.limaquota, "doctor", "--json", "--home", home.mountpoint], capture_output=True,
                            text=True, check=False, timeout=DEADLINE)
    advice = [finding["advice"] for finding in json.loads(report.stdout)["findings"] if "SIZE" in finding["advice"]]
    expect(len(advice) == len(names), f"a piece of advice for each: {advice}")
    for command in advice:
        as_written(home, command.replace("SIZE", "1GiB"))
    limits = [account["limit"] for account in home.usage()["accounts"] if account["name"] != "_shared"]
    expect(limits == [GIB] * len(names), f"limits: {limits}")
    home.close()
