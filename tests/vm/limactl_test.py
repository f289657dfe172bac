"""The real limactl, over a mount in place, both by an ordinary user: a VM's whole life."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import traceback

import demo_guest
from harness import MIB, Broken, Skip, expect, wait_for

NOBODY = 65534
IMAGE = ("guest.raw", "vmlinuz", "initrd")
# KVM may be there and not work.
QEMU = "qemu-system-x86_64 -machine q35,vmport=off -accel tcg,thread=multi -cpu max"
TEMPLATE = """vmType: qemu
arch: x86_64
cpus: 2
memory: 1GiB
disk: 4GiB
images:
- location: {image}/guest.raw
  arch: x86_64
  kernel: {{location: {image}/vmlinuz, cmdline: "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"}}
  initrd: {{location: {image}/initrd}}
firmware: {{legacyBIOS: true}}
video: {{display: none}}
user: {{name: guest, home: /home/guest, uid: 1000}}
mounts: []
containerd: {{system: false, user: false}}
"""


def image_for(directory):
    """$LIMAQUOTA_LIMA_IMAGE, or one that is made (tests/harness/lima_image.sh)."""
    given = os.environ.get("LIMAQUOTA_LIMA_IMAGE")
    if given:
        expect(all(os.path.exists(os.path.join(given, name)) for name in IMAGE), f"{given}: no {', '.join(IMAGE)}")
        return given
    if not shutil.which("mmdebstrap"):
        raise Skip("no mmdebstrap to make an image for limactl")
    path = os.path.join(directory, "image")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "harness", "lima_image.sh")
    made = subprocess.run([script, path], capture_output=True, text=True, check=False, timeout=900)
    if made.returncode != 0:
        raise Skip(f"no image for limactl: {made.stderr[-300:]}")
    return path


def as_ordinary_user(home, body):
    """Runs body() in a process that is nobody, with a HOME; the outcome is raised here."""
    user = os.path.join(home.directory, "user")
    os.makedirs(user, exist_ok=True)
    for path in (home.directory, home.source, user):
        os.chown(path, NOBODY, NOBODY)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = ["ok", ""]
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.environ.update(HOME=user, LIMA_HOME=home.mountpoint, QEMU_SYSTEM_X86_64=QEMU)
            os.chdir(user)
            body()
        except Skip as skip:
            outcome = ["skip", str(skip)]
        except Broken as broken:
            outcome = ["broken", str(broken)]
        except BaseException:  # told to the parent
            outcome = ["broken", traceback.format_exc()]
        finally:
            os.write(writing, json.dumps(outcome)[:60000].encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        kind, why = json.loads(pipe.read() or '["broken", "ended without a word"]')
    os.waitpid(child, 0)
    if kind != "ok":
        raise Skip(why) if kind == "skip" else Broken(why)


class Lima:
    """limactl on a mounted home."""

    def __init__(self, home):
        self.home = home

    def __call__(self, *words, status=0, deadline=900):
        log = os.path.join(self.home.directory, "limactl.log")
        with open(log, "w+", encoding="utf-8", errors="replace") as out:  # its daemons keep a pipe open
            started = time.monotonic()
            result = subprocess.run(["limactl", "--tty=false", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                    check=False, timeout=deadline)
            out.seek(0)
            text = out.read()
        print(f"limactl {words[0]}: {time.monotonic() - started:.0f} s", flush=True)
        expect(result.returncode == status, f"limactl {' '.join(words)}: status {result.returncode}: {text[-1500:]}")
        return text

    def inside(self, script, vm="vm"):
        return self("shell", "--workdir", "/", vm, "sudo", "sh", "-euc", script)

    def used(self, account):
        return self.home.account(account)["used"]

    def check_figures(self, *accounts):
        for name in accounts:
            path = os.path.join(self.home.mountpoint, name)
            wait_for(lambda name=name, path=path: self.used(name) == demo_guest.allocated(path), f"{name}: used == du")

    def limit_of(self, name):
        with contextlib.suppress(FileNotFoundError), \
                open(os.path.join(self.home.mountpoint, ".quota", name), encoding="utf-8") as file:
            return file.read().strip()
        return None

    def set(self, name, mib):
        self.home.run("set", name, f"{mib}MiB", "--home", self.home.mountpoint)


def write_and_trim(lima):
    full = lima.used("vm")
    lima.inside("fstrim /")
    expect(lima.used("vm") < full / 2, f"what was written of the image's holes is given back: {full} to {lima.used('vm')}")
    before = lima.used("vm")
    lima.inside("head -c 200M /dev/urandom >/var/tmp/junk; sync")
    grown = lima.used("vm")
    expect(grown - before >= 200 * MIB, f"written: {before} to {grown}")
    lima.inside("rm /var/tmp/junk; sync; fstrim /")
    expect(lima.used("vm") <= grown - 190 * MIB, f"trimmed: {grown} to {lima.used('vm')}")
    lima.check_figures("vm")


def meet_the_limit(lima):
    """While a command in the guest waits, the limit is raised; the command ends as if nothing had been."""
    lima.set("vm", lima.used("vm") // MIB + 64)
    script = "head -c 150M /dev/urandom >/var/tmp/more; sync; sha256sum </var/tmp/more; dmesg | grep -ci 'i/o error' || true"
    with subprocess.Popen(["limactl", "--tty=false", "shell", "--workdir", "/", "vm", "sudo", "sh", "-euc", script],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: lima.home.account("vm")["state"] == "full" or process.poll() is not None, "the limit is met", 300)
        expect(process.poll() is None, "the guest ended, where it should have been paused")
        limit = lima.home.account("vm")["limit"]
        expect(demo_guest.allocated(os.path.join(lima.home.mountpoint, "vm")) <= limit, "du is within the limit")
        lima.set("vm", 5120)
        text, _ = process.communicate(timeout=300)
    expect(process.returncode == 0 and re.fullmatch(r"[0-9a-f]{64} +-\n0\n", text), f"no error in the guest: {text!r}")
    lima.inside("rm /var/tmp/more; sync; fstrim /")


def clone_and_rename(lima):
    """Of a stopped VM."""
    lima("clone", "vm", "copy")
    lima.check_figures("vm", "copy")
    expect(lima.used("copy") <= lima.used("vm") * 1.05, f"holes stay holes: {lima.used('vm')}, {lima.used('copy')}")
    lima.set("copy", 3000)
    kept, used = lima.limit_of("copy"), lima.used("copy")
    lima("rename", "copy", "other")
    expect(lima.limit_of("other") == kept and lima.limit_of("copy") is None, "the limit follows its VM")
    lima.check_figures("other")
    expect(abs(lima.used("other") - used) <= MIB, f"the charge follows too: {used}, {lima.used('other')}")


def attach_a_disk(lima):
    lima("disk", "create", "data", "--size", "256MiB", "--format", "raw")
    lima("edit", "vm", "--set", '.additionalDisks=["data"]')
    lima("start", "vm")
    expect(os.path.islink(os.path.join(lima.home.mountpoint, "_disks", "data", "in_use_by")), "in use")
    before = lima.used("vm")
    lima.inside("head -c 100M /dev/urandom >/mnt/lima-data/junk; sync")
    disks = {disk["name"]: disk for disk in lima.home.account("vm")["disks"]}
    expect(disks["_disks/data/datadisk"]["allocated"] >= 100 * MIB, f"an attached disk: {disks}")
    expect(lima.used("vm") - before >= 100 * MIB, "counts as its VM's")
    lima("stop", "vm")
    expect(lima.used("_disks/data") >= 100 * MIB, "detached it counts by itself")


def life_of_a_vm(home, image):
    template = os.path.join(home.directory, "t.yaml")
    with open(template, "w", encoding="utf-8") as file:
        file.write(TEMPLATE.format(image=image))
    lima = Lima(home)
    home.mount()
    try:
        with open(os.path.join(home.mountpoint, ".quota", "vm"), "w", encoding="utf-8") as file:
            file.write("5GiB\n")  # Lima copies a local image with its holes written
        lima("create", "--name=vm", template)
        lima.check_figures("vm")
        lima("start", "vm")
        write_and_trim(lima)
        meet_the_limit(lima)
        lima("stop", "vm")
        lima.check_figures("vm")
        clone_and_rename(lima)
        attach_a_disk(lima)
        for name in ("vm", "other"):
            lima("delete", name)
        lima("disk", "delete", "data")
        names = [account["name"] for account in home.usage()["accounts"]]
        expect(not {"vm", "other", "_disks/data"} & set(names), f"nothing is left: {names}")
        home.close()
    finally:
        with contextlib.suppress(Broken, subprocess.TimeoutExpired):
            for name in ("vm", "copy", "other"):
                if os.path.exists(os.path.join(home.mountpoint, name)):
                    lima("delete", "--force", name)
        home.abandon()


def test_create_start_write_trim_stop_clone_rename_attach_delete(new_home):
    if not shutil.which("limactl"):
        raise Skip("no limactl")
    home = new_home(in_place=True)
    image = image_for(home.directory)
    as_ordinary_user(home, lambda: life_of_a_vm(home, image))
