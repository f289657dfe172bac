"""mount-helpers/build-kernel.sh: it stops cleanly at each step, and goes on. limactl is a stand-in whose VM is a directory."""
import os
import signal
import subprocess

from harness import DEADLINE, HELPERS, expect, wait_for

SCRIPT = os.path.abspath(os.path.join(HELPERS, "build-kernel.sh"))

# What the script runs inside is recorded, not run: its packages are made up. A step fails, or hangs until it is ended.
STAND_IN = """#!/bin/sh
set -e
step=$1
case "$*" in *bindeb-pkg*) step=build ;; *tar\\ -C*) step=copy ;; esac
echo "$step" >>"$RECORD"
vm=$3
for word in "$@"; do case $word in --name=*) vm=${word#--name=} ;; esac; done
if [ $step = create ]; then mkdir "$LIMA_HOME/$vm"; echo "disk: 1GiB" >"$LIMA_HOME/$vm/lima.yaml"; fi
if [ $step = "$FAILS" ]; then echo "stand-in: no" >&2; exit 3; fi
if [ $step = "$HANGS" ]; then touch "$RECORD.hangs"; exec sleep 3600; fi
case $step in
  build) cat >"$RECORD.config"; printf '%s' "$*" >"$RECORD.script" ;;
  copy)
    out=$(mktemp -d)
    echo package >"$out/linux-image.deb"
    echo config >"$out/config"
    (cd "$out" && sha256sum * >SHA256SUMS)
    [ -z "$SPOILED" ] || echo other >"$out/linux-image.deb"
    tar -C "$out" -cf - .
    rm -r "$out" ;;
  delete) rm -r "$LIMA_HOME/$3" ;;
esac
"""
STEPS = ("create", "start", "build", "copy", "delete")


class Built:
    """A mounted home, a limactl, and the script."""

    def __init__(self, new_home):
        self.home = new_home()
        self.home.mount()
        self.bin, self.record = (os.path.join(self.home.directory, name) for name in ("bin", "record"))
        self.output = os.path.join(self.home.directory, "out")
        os.makedirs(self.bin)
        with open(os.path.join(self.bin, "limactl"), "w", encoding="utf-8") as file:
            file.write(STAND_IN)
        os.chmod(file.name, 0o755)
        self.template = self.write("t.yaml", "disk: 64MiB\n")

    def write(self, name, text):
        path = os.path.join(self.home.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def start(self, *options, **how):
        environment = {"FAILS": "", "HANGS": "", "SPOILED": "", **os.environ, "RECORD": self.record,
                       "LIMAQUOTA": self.home.limaquota, "TMPDIR": self.home.directory,
                       "PATH": f"{self.bin}:{os.environ['PATH']}", **how}
        return subprocess.Popen([SCRIPT, "--template", self.template, "--output", self.output, "--home",
                                 self.home.mountpoint, *options], text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)

    def run(self, *options, status=0, **how):
        process = self.start(*options, **how)
        text, _ = process.communicate(timeout=DEADLINE)
        expect(process.returncode == status, f"{options} {how}: status {process.returncode}: {text}")
        return text

    def steps(self):
        """What limactl was asked for since this was last called."""
        try:
            with open(self.record, encoding="utf-8") as file:
                steps = file.read().split()
            os.unlink(self.record)
        except FileNotFoundError:
            return []
        return steps

    def exists(self, name="kernel-build"):
        return os.path.exists(os.path.join(self.home.mountpoint, name))

    def expect_nothing_left(self):
        expect(not self.exists() and not self.exists(".quota/kernel-build"), "a VM or its limit is left")

    def expect_packages(self):
        expect(sorted(os.listdir(self.output)) == ["SHA256SUMS", "config", "linux-image.deb"], os.listdir(self.output))

    def expect_no_parts(self):
        left = [name for name in (os.listdir(self.output) if os.path.exists(self.output) else []) if ".part" in name]
        expect(not left, f"left in the output: {left}")


def test_plan_make_build_copy_and_delete(new_home):
    built = Built(new_home)
    config = built.write("my.config", "CONFIG_SMP=y\n")
    text = built.run("--config", config, "--jobs", "3")
    expect(built.steps() == list(STEPS), "the steps")
    built.expect_packages()
    built.expect_nothing_left()
    with open(built.record + ".config", encoding="utf-8") as file:
        expect(file.read() == "CONFIG_SMP=y\n", "the configuration reaches the VM")
    with open(built.record + ".script", encoding="utf-8") as file:
        expect("-j3" in file.read(), "--jobs")
    expect("Answer: fits" in text and "at the peak, of a limit of 64.0 MiB" in text, f"plan and cost: {text}")
    built.home.close()


def test_a_failing_step_leaves_what_it_says_and_continue_goes_on(new_home):
    built = Built(new_home)
    for index, step in enumerate(STEPS):
        text = built.run(FAILS=step, status=1)
        left = list(STEPS[:index + 1])
        expect([each for each in built.steps() if each in left] [:index + 1] == left, f"{step}: no later step")
        built.expect_no_parts()
        if step == "create":
            expect("nothing is left" in text, text)
            built.expect_nothing_left()
            continue
        expect(built.exists() and built.exists(".quota/kernel-build"), f"{step}: the VM and its limit stay")
        expect("limactl delete --force kernel-build" in text, f"{step}: how to be rid of it: {text}")
        text = built.run("--continue")
        expect(built.steps() == list(STEPS[1:]), f"{step}: goes on without another VM")
        built.expect_packages()
        built.expect_nothing_left()
    built.home.close()


def test_a_signal_at_any_step_ends_it_and_says_what_is_left(new_home):
    built = Built(new_home)
    for step in STEPS:
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with built.start(HANGS=step) as process:
                wait_for(lambda: os.path.exists(built.record + ".hangs") or process.poll() is not None, f"{step} is reached")
                os.unlink(built.record + ".hangs")
                process.send_signal(number)
                text, _ = process.communicate(timeout=DEADLINE)
            expect(process.returncode == status, f"{step}, {number}: status {process.returncode}: {text}")
            expect("ended while: " in text, f"{step}: {text}")
            built.expect_no_parts()
            expect(built.exists() == (step != "create"), f"{step}: what is left: {text}")
            if step == "create":
                built.expect_nothing_left()
                continue
            expect("of it" in text or "goes by" in text, f"{step}: {text}")
            built.run("--continue")
            built.expect_nothing_left()
    built.home.close()


def test_packages_that_changed_on_their_way_are_no_result(new_home):
    built = Built(new_home)
    text = built.run(SPOILED="yes", status=1)
    expect("not what the VM sent" in text and os.listdir(built.output) == [], f"{text} {os.listdir(built.output)}")
    expect(built.exists(), "the VM with the packages stays")
    built.run("--continue", "--keep")
    built.expect_packages()
    expect(built.exists(), "kept")
    text = built.run(status=1)
    expect("--continue goes on" in text and "ended while" not in text, text)
    built.home.close()


def test_what_does_not_fit_is_not_begun(new_home):
    built = Built(new_home)
    built.template = built.write("huge.yaml", "disk: 8000PiB\n")
    text = built.run(status=1)
    expect("does not fit" in text and not built.steps(), text)
    built.expect_nothing_left()
    built.home.close()


def test_wrong_use_and_an_uncovered_home(new_home):
    built = Built(new_home)
    for options in (["--nonsense"], ["--name", "../x"], ["--name"], ["--jobs", "x"], ["--config-target", "a b"],
                    ["--config", SCRIPT, "--config-target", "defconfig"]):
        built.run(*options, status=2)
    text = built.run("--home", built.home.source, status=1)
    expect("limaquota mount" in text and not built.steps(), text)
    text = built.run("--continue", status=1)
    expect("no VM 'kernel-build'" in text, text)
    expect("Examples:" in built.run("--help"), "--help")
    built.home.close()
