"""The units of `limaquota enable`, run by a real user manager of systemd.

The manager has a /run, a control group and a home of its own, and runs as an ordinary user. limactl is a stand-in that
writes down what it is asked and whether the mount was there at that moment.
"""
import os
import pwd
import shutil
import signal
import subprocess
import time

from harness import DEADLINE, Skip, expect, wait_for

USER = pwd.getpwnam("nobody")
SYSTEMD = "/usr/lib/systemd/systemd"
HIERARCHIES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
# Ends the VM as Lima does, while the mount must still be there.
LIMACTL = """#!/bin/sh
[ -e "$LIMA_HOME/.usage/_host" ] && seen=mounted || seen=bare
echo "$* $seen" >> %(log)s
[ "$1" = stop ] || exit 0
kill $(cat "$LIMA_HOME/$2/qemu.pid") && rm "$LIMA_HOME/$2/qemu.pid"
"""


class Login:
    """A user manager; a context, so that it ends with the test."""

    def __init__(self, new_home):
        if os.geteuid() != 0 or not os.access(SYSTEMD, os.X_OK):
            raise Skip("needs root, and systemd installed")
        self.directory = new_home().directory
        os.chmod(self.directory, 0o755)
        self.limaquota = shutil.copy(new_home().limaquota, self.directory)
        self.home, self.run_directory, self.bin = (self.path(name) for name in ("u", "run", "bin"))
        self.lima = os.path.join(self.home, ".lima")
        self.log = os.path.join(self.home, "limactl.log")
        for directory in (self.bin, self.home, self.run_directory, self.lima, os.path.join(self.lima, "vm")):
            os.makedirs(directory, mode=0o700 if directory == self.run_directory else 0o755)
        self.script(os.path.join(self.bin, "limactl"), LIMACTL % {"log": self.log})
        for directory, _, _ in os.walk(self.directory):
            os.chown(directory, USER.pw_uid, USER.pw_gid)
        self.groups = self.make_groups()
        self.manager = None

    def path(self, name):
        return os.path.join(self.directory, name)

    @staticmethod
    def script(path, text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def make_groups(self):
        groups = []
        for hierarchy in HIERARCHIES:
            # A name of no other test's: process ids are the same in several namespaces.
            group = os.path.join(hierarchy, "limaquota-test." + os.path.basename(self.directory) + os.urandom(4).hex())
            if not os.path.exists(os.path.join(hierarchy, "cgroup.procs")):
                continue
            try:
                os.mkdir(group)
            except OSError as error:
                raise Skip(f"no control group can be made here: {error}") from error
            for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
                if os.path.exists(os.path.join(group, name)):
                    os.chown(os.path.join(group, name), USER.pw_uid, USER.pw_gid)
            groups.append(group)
        return groups

    def as_user(self, *words):
        return ["setpriv", "--reuid", str(USER.pw_uid), "--regid", str(USER.pw_gid), "--clear-groups", "env", "-i",
                f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.run_directory}",
                f"PATH={self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", *words]

    def __enter__(self):
        # /run says that systemd booted this machine.
        script = ("mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/systemd/system; "
                  + "".join(f"echo $$ > {group}/cgroup.procs; " for group in self.groups) + 'exec "$@"')
        with open(self.path("manager.log"), "w", encoding="utf-8") as log:
            self.manager = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh",
                 *self.as_user(SYSTEMD, "--user", "--log-target=console")], stdout=log, stderr=log)
        wait_for(lambda: self.manager.poll() is not None or self.call("systemctl", "--user", "is-system-running")[0] == 0,
                 "the user manager runs")
        if self.manager.poll() is not None:
            raise Skip(f"systemd --user does not run here: {self.manager_log()[-300:]}")
        return self

    def __exit__(self, *_):
        self.manager.send_signal(signal.SIGTERM)
        try:
            self.manager.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.manager.kill()
            self.manager.wait()
        until = time.monotonic() + DEADLINE
        while any(os.path.exists(group) for group in self.groups) and time.monotonic() < until:
            for group in self.groups:
                for directory, _, _ in os.walk(group, topdown=False):
                    with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                        for pid in file.read().split():
                            if pid != "0":  # of another namespace: to kill 0 is to kill oneself
                                os.kill(int(pid), signal.SIGKILL)
                    try:
                        os.rmdir(directory)
                    except OSError:  # until its last process is gone
                        time.sleep(0.05)

    def manager_log(self):
        with open(self.path("manager.log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def call(self, *words):
        """As the user, where the manager is: (status, output)."""
        result = subprocess.run(["nsenter", "-t", str(self.manager.pid), "-m", *self.as_user(*words)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=DEADLINE)
        return result.returncode, result.stdout.strip()

    def run(self, *words, status=0):
        got, text = self.call(*words)
        expect(got == status, f"{' '.join(words)}: status {got}: {text} [{self.manager_log()[-1500:]}]")
        return text

    def show(self, name, unit="limaquota.service"):
        return self.call("systemctl", "--user", "show", "--value", f"--property={name}", unit)[1]

    def is_mounted(self):
        return self.call("test", "-e", os.path.join(self.lima, ".usage", "_host"))[0] == 0

    def start_vm(self):
        """A process of the user's with a file of the VM open, as QEMU has; its pid file says so."""
        vm = os.path.join(self.lima, "vm")
        return subprocess.Popen(["nsenter", "-t", str(self.manager.pid), "-m", *self.as_user(
            "sh", "-c", f"exec 3>>{vm}/disk; echo $$ > {vm}/qemu.pid; exec sleep 3600")])

    def limactl_calls(self):
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding="utf-8") as file:
            return file.read().splitlines()


def test_enabled_the_mount_is_there_and_stopping_it_stops_its_vms_first(new_home):
    with Login(new_home) as login:
        text = login.run(login.limaquota, "enable")
        expect("is mounted and watched" in text and login.is_mounted(), text)
        expect(login.show("ActiveState") == "active", "the unit is active")
        vm = login.start_vm()
        wait_for(lambda: login.call("test", "-s", os.path.join(login.lima, "vm", "qemu.pid"))[0] == 0, "the VM runs")
        refused = login.run(login.limaquota, "disable", status=1)
        expect("limactl stop vm" in refused and vm.poll() is None, refused)
        login.run("systemctl", "--user", "stop", "limaquota.service")
        expect(vm.wait(DEADLINE) == -signal.SIGTERM, "the VM was ended")
        expect("stop vm mounted" in login.limactl_calls(), f"through limactl, mounted: {login.limactl_calls()}")
        expect(not login.is_mounted() and login.show("Result") == "success", f"Result {login.show('Result')}")
        login.run(login.limaquota, "disable")
        expect(not os.path.exists(os.path.join(login.home, ".config/systemd/user/limaquota.service")), "disabled")


def test_a_crash_is_followed_by_a_mount_and_an_unmount_by_hand_by_none(new_home):
    with Login(new_home) as login:
        login.run(login.limaquota, "enable")
        first = login.show("MainPID")
        os.kill(int(first), signal.SIGKILL)
        wait_for(lambda: login.show("MainPID") not in ("0", first) and login.is_mounted(), "it is mounted again")
        if " watch " in login.run(login.limaquota, "--help"):
            wait_for(lambda: login.show("ActiveState", "limaquota-watch.service") == "active", "it is watched again")
        login.run(login.limaquota, "umount")
        wait_for(lambda: login.show("ActiveState") == "inactive", "the unit is inactive")
        expect(login.show("Result") == "success" and not login.is_mounted(), f"Result {login.show('Result')}")
        expect(login.limactl_calls() == [], "no VM was looked for")


def test_limas_own_units_start_no_vm_on_the_bare_tree(new_home):
    with Login(new_home) as login:
        login.run(login.limaquota, "enable")
        login.run("systemctl", "--user", "stop", "limaquota.service")
        units = os.path.join(login.home, ".config/systemd/user")
        Login.script(os.path.join(login.bin, "start-vm"), f"#!/bin/sh\n[ -e {login.lima}/.usage/_host ] && touch "
                     f"{login.home}/mounted\nexec sleep 3600\n")
        with open(os.path.join(units, "lima-vm@.service"), "w", encoding="utf-8") as file:
            file.write(f"[Service]\nExecStart={login.bin}/start-vm %i\nType=simple\nTimeoutSec=10\n")
        login.run("systemctl", "--user", "daemon-reload")
        login.run("systemctl", "--user", "start", "lima-vm@vm.service")
        wait_for(lambda: os.path.exists(os.path.join(login.home, "mounted")), "it started, on the mount")
        login.run("systemctl", "--user", "stop", "limaquota.service")
        expect(login.show("ActiveState", "lima-vm@vm.service") == "inactive", "it stops with the mount")
        # A mount that is refused starts no VM either.
        os.unlink(os.path.join(login.home, "mounted"))
        holder = subprocess.Popen(login.as_user("sleep", "3600"), cwd=os.path.join(login.lima, "vm"))
        try:
            status, text = login.call("systemctl", "--user", "start", "lima-vm@vm.service")
            expect(status != 0 and not os.path.exists(os.path.join(login.home, "mounted")), text)
            expect(login.show("ActiveState") == "failed", "the mount was refused")
        finally:
            holder.kill()
            holder.wait()


def test_metrics_are_written_again_and_again(new_home):
    with Login(new_home) as login:
        if " metrics " not in login.run(login.limaquota, "--help"):
            raise Skip("no command metrics")
        login.run(login.limaquota, "enable", "--metrics", login.home)
        file = os.path.join(login.home, "limaquota-nobody.prom")
        wait_for(lambda: os.path.exists(file), "the file is there")
        with open(file, encoding="utf-8") as text:
            expect("limaquota_" in text.read(), "metrics")
        first = os.stat(file).st_ino, os.stat(file).st_mtime_ns
        wait_for(lambda: os.path.exists(file) and (os.stat(file).st_ino, os.stat(file).st_mtime_ns) != first,
                 "it is written anew")
        login.run(login.limaquota, "disable")
        expect(not os.path.exists(file), "nothing stale is left for the collector")
