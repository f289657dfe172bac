"""limaquota apply: the limit is there before limactl makes the VM, and goes where that fails. limactl is a stand-in."""
import json
import os
import signal
import subprocess

from harness import DEADLINE, HELPERS, MIB, expect, wait_for

os.environ["LIMAQUOTA_TEMPLATES"] = os.path.abspath(os.path.join(HELPERS, "templates"))

STAND_IN = """#!/bin/sh
# Records its arguments, and the limit as it is when it is called; makes the VM's directory as limactl does.
set -e
vm=$3
for word in "$@"; do case $word in --name=*) vm=${word#--name=} ;; esac; done
printf '%s|' "$@" >>"$RECORD"
printf '%s\\n' "$(grep -s limit "$LIMA_HOME/.quota/$vm")" >>"$RECORD"
# As Lima does, its lima.yaml first.
[ "$1" != create ] || [ -z "$HALF" ] || { mkdir "$LIMA_HOME/$vm"; echo "disk: 1GiB" >"$LIMA_HOME/$vm/lima.yaml"; }
[ -z "$HANGS" ] || [ "$1" = delete ] || exec sleep 3600
[ "$1" != delete ] || [ "$HALF" = stays ] || rm -r "$LIMA_HOME/$3"
[ "$1" != "$FAILS" ] || { echo "stand-in: no" >&2; exit 3; }
[ "$1" != create ] || { mkdir "$LIMA_HOME/$vm"; echo "disk: 1GiB" >"$LIMA_HOME/$vm/lima.yaml"; }
"""


class Applied:
    """A home, and a limactl that records its calls."""

    def __init__(self, home):
        self.home = home
        self.bin = os.path.join(home.directory, "bin")
        self.record = os.path.join(home.directory, "record")
        os.makedirs(self.bin)
        os.chmod(self.write("bin/limactl", STAND_IN), 0o755)
        self.template = self.write("t.yaml", "disk: 64MiB\n")

    def write(self, name, text):
        path = os.path.join(self.home.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run(self, *arguments, status=0, fails="", half="", path=None):
        environment = {**os.environ, "PATH": path or f"{self.bin}:{os.environ['PATH']}", "RECORD": self.record,
                       "FAILS": fails, "HALF": half}
        result = subprocess.run([self.home.limaquota, "apply", *arguments, "--home", self.home.mountpoint],
                                capture_output=True, text=True, check=False, env=environment, timeout=DEADLINE)
        text = result.stdout + result.stderr
        expect(result.returncode == status, f"apply {arguments}: status {result.returncode}: {text}")
        return text

    def start(self, half=""):
        """apply of "vm", whose limactl hangs: a process."""
        environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": self.record, "FAILS": "",
                       "HANGS": "yes", "HALF": half}
        return subprocess.Popen([self.home.limaquota, "apply", self.template, "--name", "vm", "--home",
                                 self.home.mountpoint], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env=environment)

    def calls(self):
        if not os.path.exists(self.record):
            return []
        with open(self.record, encoding="utf-8") as file:
            return file.read().splitlines()

    def limit_text(self, vm):
        try:
            with open(os.path.join(self.home.mountpoint, ".quota", vm), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def set_limit_text(self, vm, text):
        """Returns it as it is kept."""
        with open(os.path.join(self.home.mountpoint, ".quota", vm), "w", encoding="utf-8") as file:
            file.write(text)
        return self.limit_text(vm)


def mounted(new_home):
    home = new_home()
    home.mount()
    return Applied(home)


def test_the_limit_is_there_when_limactl_creates(new_home):
    applied = mounted(new_home)
    text = applied.run(applied.template, "--name", "vm")
    expect("Answer: fits" in text, f"the plan is shown: {text}")
    calls = applied.calls()
    expect(calls == [f"create|--tty=false|--name=vm|{applied.template}|limit 64MiB"], f"calls: {calls}")
    expect(applied.home.account("vm")["limit"] == 64 * MIB, "the limit stays")
    applied.home.close()


def test_a_failing_limactl_takes_the_limit_back(new_home):
    applied = mounted(new_home)
    text = applied.run(applied.template, "--name", "vm", status=1, fails="create")
    expect("the limit is taken back" in text and len(applied.calls()) == 1, text)
    expect(applied.limit_text("vm") is None, "there was no limit before")
    kept = applied.set_limit_text("vm", "limit 64MiB\nwarn 80%\n")
    applied.run(applied.template, "--name", "vm", status=1, fails="create")
    expect(applied.limit_text("vm") == kept, f"the former file is back: {applied.limit_text('vm')!r}")
    kept = applied.set_limit_text("vm", "limit 1GiB\nwarn 70%\n")
    applied.run(applied.template, "--name", "vm", "--force", status=1, fails="create")
    expect("64MiB" in applied.calls()[-1] and applied.limit_text("vm") == kept,
           f"also with --force: {applied.limit_text('vm')!r}")
    applied.home.close()


def test_an_apply_that_is_ended_takes_the_limit_back(new_home):
    applied = mounted(new_home)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        calls = len(applied.calls())
        process = applied.start()
        wait_for(lambda before=calls: len(applied.calls()) > before, "limactl is called")
        expect(applied.limit_text("vm") == "limit 64MiB\n", "the limit is there meanwhile")
        process.send_signal(number)
        expect(process.wait(DEADLINE) == 1, f"{number}: status {process.returncode}")
        expect(applied.limit_text("vm") is None, f"{number}: the limit is taken back")
    applied.home.close()


def test_a_vm_that_is_made_half_way_goes_or_keeps_its_limit(new_home):
    applied = mounted(new_home)
    directory = os.path.join(applied.home.mountpoint, "vm")
    text = applied.run(applied.template, "--name", "vm", status=1, fails="create", half="yes")
    expect("the limit is taken back" in text and applied.limit_text("vm") is None, text)
    expect(applied.calls()[-1] == "delete|--force|vm|limit 64MiB", f"held until it is gone: {applied.calls()}")
    expect(not os.path.exists(directory), "nothing could be started without a limit")
    text = applied.run(applied.template, "--name", "vm", status=1, fails="create", half="stays")
    expect("keeps its limit" in text and "limactl delete vm" in text, text)
    expect(os.path.exists(directory) and applied.limit_text("vm") == "limit 64MiB\n", applied.limit_text("vm"))
    applied.home.close()


def test_a_half_made_vm_goes_where_apply_is_ended(new_home):
    applied = mounted(new_home)
    with applied.start(half="yes") as process:
        wait_for(lambda: os.path.exists(os.path.join(applied.home.mountpoint, "vm", "lima.yaml")), "it is half made")
        process.send_signal(signal.SIGTERM)
        expect(process.wait(DEADLINE) == 1, f"status {process.returncode}")
    expect(not os.path.exists(os.path.join(applied.home.mountpoint, "vm")), "the half is deleted")
    expect(applied.limit_text("vm") is None, "the limit is taken back")
    applied.home.close()


def test_a_second_apply_of_the_name_touches_nothing_of_the_first(new_home):
    applied = mounted(new_home)
    with applied.start() as first:
        wait_for(lambda: len(applied.calls()) == 1, "limactl is called")
        for options in ((), ("--force",)):
            text = applied.run(applied.template, "--name", "vm", *options, status=1, fails="create")
            expect("another apply makes 'vm' just now" in text and len(applied.calls()) == 1, text)
            expect(applied.limit_text("vm") == "limit 64MiB\n", f"the first's limit: {applied.limit_text('vm')}")
        applied.run(applied.template, "--name", "other")  # another name waits for nobody
        first.send_signal(signal.SIGTERM)
        expect(first.wait(DEADLINE) == 1, f"status {first.returncode}")
    applied.run(applied.template, "--name", "vm")
    applied.home.close()


def test_a_limit_that_somebody_set_meanwhile_is_not_taken_back(new_home):
    applied = mounted(new_home)
    with applied.start() as process:
        wait_for(lambda: len(applied.calls()) == 1, "limactl is called")
        kept = applied.set_limit_text("vm", "limit 3GiB\n")
        process.send_signal(signal.SIGTERM)
        expect(process.wait(DEADLINE) == 1, f"status {process.returncode}")
    expect(applied.limit_text("vm") == kept, f"it is gone: {applied.limit_text('vm')!r}")
    applied.home.close()


def test_another_limit_or_a_vm_of_that_name_is_refused(new_home):
    applied = mounted(new_home)
    applied.set_limit_text("vm", "limit 1GiB\n")
    text = applied.run(applied.template, "--name", "vm", status=1)
    expect("a limit of 1 GiB" in text and not applied.calls(), text)
    applied.run(applied.template, "--name", "vm", "--force")
    expect(applied.home.account("vm")["limit"] == 64 * MIB, "the new limit")
    text = applied.run(applied.template, "--name", "vm", "--force", status=1)
    expect("a VM 'vm' already" in text and len(applied.calls()) == 1, text)
    applied.home.close()


def test_what_does_not_fit_is_not_made(new_home):
    applied = mounted(new_home)
    huge = applied.write("huge.yaml", "disk: 8000PiB\n")
    text = applied.run(huge, "--name", "vm", status=1)
    expect("does not fit" in text and not applied.calls() and applied.limit_text("vm") is None, text)
    applied.run(huge, "--name", "vm", "--force")
    expect(len(applied.calls()) == 1, "forced")
    applied.home.close()


def test_start_starts_it_and_a_failing_start_keeps_it(new_home):
    applied = mounted(new_home)
    applied.run(applied.template, "--name", "vm", "--start")
    calls = applied.calls()
    expect(len(calls) == 2 and calls[1] == "start|--tty=false|vm|limit 64MiB", f"calls: {calls}")
    text = applied.run(applied.template, "--name", "other", "--start", status=1, fails="start")
    expect("the VM and its limit stay" in text and applied.limit_text("other"), text)
    applied.home.close()


def test_the_profile_is_kept_for_status(new_home):
    applied = mounted(new_home)
    profile = "limit: 48MiB\ntemporary: true\nlines:\n- {name: all, bytes: 40MiB}\n"
    applied.write("t.profile.yaml", profile)
    applied.run(applied.template, "--name", "vm")
    expect(applied.home.account("vm")["limit"] == 48 * MIB, "the profile's limit")
    kept = os.path.join(applied.home.mountpoint, "_config", "limaquota", "vm.yaml")
    with open(kept, encoding="utf-8") as file:
        expect(file.read() == profile, "the profile is kept")
    expect(os.listdir(os.path.dirname(kept)) == ["vm.yaml"], "nothing else is left there")
    applied.home.close()


def test_a_home_that_is_not_mounted_is_refused(new_home):
    applied = Applied(new_home())
    text = applied.run(applied.template, "--name", "vm", status=1)
    expect("limaquota mount" in text and not applied.calls(), text)


def test_bad_names_and_a_missing_limactl(new_home):
    applied = mounted(new_home)
    for name in ("", "_x", ".x", "a/b", "a b", "a--b", "a-", "x" * 77, "../x"):
        text = applied.run(applied.template, f"--name={name}", status=2)
        expect(not applied.calls(), f"{name}: {text}")
    applied.run(applied.template, status=2)
    text = applied.run(applied.template, "--name", "vm", status=1, path="/nonexistent")
    expect("no limactl" in text and applied.limit_text("vm") is None, text)
    with open(os.path.join(applied.home.mountpoint, ".usage", "_all.json"), encoding="utf-8") as file:
        expect("vm" not in [account["name"] for account in json.load(file)["accounts"]], "nothing was made")
    applied.home.close()
