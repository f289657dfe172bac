"""limaquota doctor: one line a finding, with what to do; exit status 1 only for what keeps limits from being held."""
import contextlib
import json
import os
import re
import signal
import subprocess

from harness import MIB, expect, wait_for


def write(path, text=""):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def environment(**values):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def examine(home, status):
    """Findings; those of the machine must agree with the exit status too."""
    report = json.loads(home.run("doctor", "--json", "--home", home.mountpoint, status=status))
    problems = [finding for finding in report["findings"] if finding["severity"] == "problem"]
    expect(report["limits_held"] == (not problems) == (status == 0), f"status {status}, but {problems}")
    return report["findings"]


def expect_finding(findings, severity, topic, words, advice):
    found = [f for f in findings if f["topic"] == topic and words in f["text"]]
    expect(len(found) == 1, f"not one finding '{topic}: {words}': {findings}")
    expect(found[0]["severity"] == severity and advice in found[0]["advice"], f"{severity}, {advice}: {found[0]}")


def healthy(home):
    write(os.path.join(home.source, "vm/disk"))
    write(os.path.join(home.source, ".quota/vm"), "1GiB\n")
    return home


def test_a_healthy_mount_has_no_problem_and_a_line_for_each_part(new_home):
    home = healthy(new_home(in_place=True))
    home.mount()
    findings = examine(home, 0)
    expect_finding(findings, "ok", "mount", "its daemon answers", "")
    expect_finding(findings, "ok", "/dev/fuse", "mode 0666", "")
    expect_finding(findings, "ok", "fusermount3", "set-uid root", "")
    expect_finding(findings, "ok", "libfuse", "can hold limits", "")
    topics = {finding["topic"] for finding in findings}
    expect({"kernel", "backing", "units"} <= topics, f"topics: {topics}")
    release = re.match(r"\d+\.\d+", os.uname().release).group()
    expect(any(f["text"].startswith(f"Linux {release} ") for f in findings), f"not this kernel: {findings}")
    # Mounts elsewhere, which come and go with other tests, are told of too.
    wait_for(lambda: len(home.run("doctor", "--home", home.mountpoint).splitlines()) == len(examine(home, 0)),
             "a line for each finding")
    home.close()


@contextlib.contextmanager
def process_with_open(path):
    with open(path, "ab") as file:
        process = subprocess.Popen(["sleep", "3600"], pass_fds=[file.fileno()])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_no_mount_is_a_problem_and_vms_on_the_bare_tree_are_named(new_home):
    home = healthy(new_home(in_place=True))
    with process_with_open(os.path.join(home.source, "vm/disk")) as qemu:
        write(os.path.join(home.source, "vm/qemu.pid"), f"{qemu.pid}\n")
        findings = examine(home, 1)
    expect_finding(findings, "problem", "mount", "is not mounted", f"limaquota mount {home.mountpoint}")
    expect_finding(findings, "problem", "VM vm", "bare tree", "limactl stop vm")


def test_a_vm_that_runs_past_the_mount_is_a_problem(new_home):
    home = healthy(new_home())
    home.mount()
    for tree, status in ((home.mountpoint, 0), (home.source, 1)):
        with process_with_open(os.path.join(tree, "vm/disk")) as qemu:
            write(os.path.join(home.mountpoint, "vm/qemu.pid"), f"{qemu.pid}\n")
            findings = examine(home, status)
    expect_finding(findings, "problem", "VM vm", "runs past the mount", "shut it down inside")
    bare = json.loads(home.run("doctor", "--json", "--home", home.source, status=1))["findings"]
    expect_finding(bare, "problem", "mount", f"shown at {home.mountpoint}", "limaquota mount")
    home.close()


def test_a_dead_mount_is_a_problem_and_elsewhere_a_warning(new_home):
    home, other = healthy(new_home(in_place=True)), healthy(new_home(in_place=True))
    for each in (home, other):
        each.mount()
    other.kill_daemon()
    expect_finding(examine(home, 0), "warning", "mount", f"{other.mountpoint} is left of a daemon", "umount --lazy")
    expect_finding(examine(other, 1), "problem", "mount", "is gone", f"limaquota mount {other.mountpoint}")
    # As it says, one command does it.
    other.run("mount", other.mountpoint)
    examine(other, 0)
    other.run("umount", other.mountpoint)
    home.close()


def test_a_daemon_that_hangs_is_told_of_without_hanging(new_home):
    home = healthy(new_home(in_place=True))
    home.mount()
    home.signal_worker(signal.SIGSTOP)
    try:
        expect_finding(examine(home, 1), "problem", "mount", "does not answer within 5 s", "ps -C limaquota")
    finally:
        home.signal_worker(signal.SIGCONT)
    examine(home, 0)
    home.close()


def test_what_is_not_limited_is_a_problem(new_home):
    home = healthy(new_home(in_place=True))
    os.symlink("/var/tmp", os.path.join(home.source, "led-out"))
    os.symlink("/var/tmp/no-disk", os.path.join(home.source, "vm/diffdisk"))
    write(os.path.join(home.source, "torn/disk"))
    write(os.path.join(home.source, ".quota/torn"), "limit 1Gi limit")
    write(os.path.join(home.source, "free/disk"))
    for mounted in (False, True):
        if mounted:
            home.mount()
        findings = examine(home, 1)
        for vm in ("led-out", "vm"):
            expect_finding(findings, "problem", f"VM {vm}", "leads out of the home", "move what it names")
        expect_finding(findings, "problem", "VM torn", "cannot be read", "limaquota set torn SIZE")
        expect_finding(findings, "note", "VM free", "has no limit", "limaquota set free SIZE")
    home.close()


def test_what_a_cut_off_reclaim_left_is_a_warning(new_home):
    home = healthy(new_home(in_place=True))
    left = os.path.join(home.source, "vm/.disk.limaquota-a1B2c3")
    write(left, "x" * MIB)
    write(os.path.join(home.source, "vm/.disk.somebody-else"), "x")
    home.mount()
    expect_finding(examine(home, 0), "warning", "reclaim", left, "rm " + left)
    os.unlink(left)
    expect(not [f for f in examine(home, 0) if f["topic"] == "reclaim"], "nothing is left")
    home.close()


def test_links_across_accounts_and_unreadable_directories_are_warnings(new_home):
    home = healthy(new_home(in_place=True))
    write(os.path.join(home.source, "other/disk"), "x" * MIB)
    write(os.path.join(home.source, ".quota/other"), "1GiB\n")
    os.link(os.path.join(home.source, "other/disk"), os.path.join(home.source, "vm/copy"))
    os.link(os.path.join(home.source, "other/disk"), os.path.join(home.source, "other/again"))
    os.link(os.path.join(home.source, "vm/disk"), os.path.join(home.source, "vm/same-account"))
    home.mount()
    findings = examine(home, 0)
    expect_finding(findings, "warning", "tree", "other/again and other/disk and vm/copy", "delete one")
    expect(not any("same-account" in finding["text"] for finding in findings), "a link in one account is no finding")
    home.close()


def test_a_filesystem_mounted_inside_is_a_problem(new_home):
    home, inner = healthy(new_home(in_place=True)), new_home(in_place=True)
    inside = os.path.join(home.source, "vm/inside")
    os.mkdir(inside)
    home.run("mount", inner.source, inside)
    try:
        findings = examine(home, 1)
    finally:
        home.run("umount", inside)
    expect_finding(findings, "problem", "tree", f"is mounted inside, at {inside}", f"umount {inside}")
    wait_for(lambda: not os.path.ismount(inside), "unmounted")


def test_limas_units_that_do_not_wait_for_the_mount_are_a_problem(new_home):
    home = healthy(new_home(in_place=True))
    units = os.path.join(home.directory, "config/systemd/user")
    write(os.path.join(units, "default.target.wants/lima-vm@vm.service"))
    write(os.path.join(units, "default.target.wants/lima-vm@of-another-home.service"))
    home.mount()
    with environment(XDG_CONFIG_HOME=os.path.join(home.directory, "config")):
        expect_finding(examine(home, 1), "problem", "units", "lima-vm@vm.service start at login", "limaquota enable")
        expect("of-another-home" not in home.run("doctor", "--home", home.mountpoint, status=1), "not of this home")
        write(os.path.join(units, "limaquota.service"), f"[X-Limaquota]\nHome={os.path.realpath(home.mountpoint)}\n")
        write(os.path.join(units, "lima-vm@.service.d/limaquota.conf"))
        findings = examine(home, 0)
    expect(not any("bare tree" in finding["text"] for finding in findings), f"they wait now: {findings}")
    home.close()


def test_what_the_next_mount_lacks_is_a_problem_only_without_a_mount(new_home):
    home = healthy(new_home(in_place=True))
    with environment(PATH="/nonexistent"):
        expect_finding(examine(home, 1), "problem", "fusermount3", "not in PATH", "package fuse3")
    home.mount()
    with environment(PATH="/nonexistent"):
        expect_finding(examine(home, 0), "warning", "fusermount3", "not in PATH", "package fuse3")
    home.close()


def test_a_home_that_does_not_exist_is_a_problem_and_the_machine_is_looked_at(new_home):
    home = new_home(in_place=True)
    home.mountpoint += "/nowhere"
    findings = examine(home, 1)
    expect_finding(findings, "problem", "home", "is no directory", "--home")
    expect_finding(findings, "ok", "/dev/fuse", "mode 0666", "")
