"""enable and disable: the units they write, what they say to systemd, and a mount told to be ready.

systemctl and loginctl are stand-ins that record what they are asked; tests/install runs the units by a real systemd.
"""
import os
import pwd
import shutil
import socket
import subprocess

from harness import DEADLINE, Skip, expect, wait_for

UNITS = (".config", "systemd", "user")
ALL = {"limaquota.service", "limaquota-watch.service", "lima-vm@.service.d/limaquota.conf",
       "default.target.wants/limaquota.service", "limaquota.service.wants/limaquota-watch.service"}
METRICS = {"limaquota-metrics.service", "limaquota-metrics.timer", "timers.target.wants/limaquota-metrics.timer"}


def user_name():
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class Login:
    """A user's home with a Lima home in it, and a systemd that is a stand-in."""

    def __init__(self, new_home, lima=".lima"):
        self.home = new_home()
        self.directory = os.path.join(self.home.directory, "u")
        self.lima = os.path.join(self.directory, lima)
        self.units = os.path.join(self.directory, *UNITS)
        self.bin = os.path.join(self.home.directory, "bin")
        self.calls = os.path.join(self.home.directory, "calls")
        os.makedirs(self.lima)
        os.makedirs(self.bin)
        self.stand_in("loginctl", "exit 0")
        self.stand_in("systemctl", 'case "$*" in *is-active*) exit 3 ;; esac')

    def stand_in(self, name, script):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n{script}\n')
        os.chmod(path, 0o755)

    def run(self, *words, status=0, **environment):
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": self.directory, **environment}
        result = subprocess.run([self.home.limaquota, *words], capture_output=True, text=True, check=False, env=env,
                                timeout=DEADLINE)
        text = result.stdout + result.stderr
        expect(result.returncode == status, f"limaquota {' '.join(words)}: status {result.returncode}: {text}")
        return text

    def recorded(self):
        if not os.path.exists(self.calls):
            return []
        with open(self.calls, encoding="utf-8") as file:
            lines = file.read().splitlines()
        os.unlink(self.calls)
        return lines

    def files(self):
        return {os.path.relpath(os.path.join(directory, name), self.units)
                for directory, _, names in os.walk(self.units) for name in names}

    def unit(self, name="limaquota.service"):
        with open(os.path.join(self.units, name), encoding="utf-8") as file:
            return file.read()

    def verify(self):
        """By systemd itself, with Lima's own unit beside ours."""
        if not shutil.which("systemd-analyze"):
            raise Skip("no systemd-analyze")
        limas = os.path.join(self.units, "lima-vm@.service")
        with open(limas, "w", encoding="utf-8") as file:
            file.write("[Service]\nExecStart=/bin/true start %i --foreground\nType=simple\nTimeoutSec=10\n")
        names = sorted(name for name in self.files() if name.startswith("limaquota") and "/" not in name)
        runtime = os.path.join(self.home.directory, "run")
        os.makedirs(runtime, mode=0o700, exist_ok=True)
        result = subprocess.run(["systemd-analyze", "--user", "verify", "--man=no", *names, "lima-vm@x.service"],
                                capture_output=True, text=True, check=False, cwd=self.units,
                                env={"PATH": os.environ["PATH"], "HOME": self.directory, "XDG_RUNTIME_DIR": runtime})
        os.unlink(limas)
        # It reads the system's own units too; only what it says of ours counts.
        said = [line for line in result.stderr.splitlines() if "lima" in line]
        expect(result.returncode == 0 and not said, f"systemd-analyze verify: {result.stderr}")


def test_enable_writes_units_that_systemd_accepts_and_starts_them(new_home):
    login = Login(new_home)
    text = login.run("enable")
    expect(login.files() == ALL, f"files: {sorted(login.files())}")
    expect(login.recorded() == [f"loginctl enable-linger {user_name()}", "systemctl --user daemon-reload",
                                "systemctl --user is-active --quiet limaquota.service",
                                "systemctl --user start limaquota.service limaquota-watch.service"], "what was asked")
    expect("is mounted" in text, text)
    unit = login.unit()
    expect("Type=notify" in unit and f'mount --foreground -- "{login.lima}"' in unit, unit)
    expect("NoNewPrivileges=" not in unit, "fusermount3 is set-uid")
    drop_in = login.unit("lima-vm@.service.d/limaquota.conf").splitlines()
    expect("Requires=limaquota.service" in drop_in and "After=limaquota.service" in drop_in, drop_in)
    expect(f'ExecStop=-"{login.home.limaquota}" stop %i --home "{login.lima}"' in drop_in, drop_in)
    limits = [int(line.split("=")[1]) for text in (unit, "\n".join(drop_in)) for line in text.splitlines()
              if line.startswith("TimeoutStopSec=")]
    expect(limits == [420, 400], f"a guest's three minutes, twice, and the mount's end after that: {limits}")
    expect(os.path.samefile(os.path.join(login.units, "default.target.wants/limaquota.service"),
                            os.path.join(login.units, "limaquota.service")), "it is wanted by the login")
    login.verify()


def test_disable_leaves_nothing(new_home):
    login = Login(new_home)
    metrics = os.path.join(login.home.directory, "textfiles")
    os.makedirs(metrics)
    login.run("enable", "--metrics", metrics)
    expect(login.files() == ALL | METRICS, f"files: {sorted(login.files())}")
    [name] = [line.split("Metrics=")[1] for line in login.unit().splitlines() if line.startswith("Metrics=")]
    expect(os.path.dirname(name) == metrics and name.endswith(".prom"), name)
    expect(f'--output "{name}"' in login.unit("limaquota-metrics.service"), login.unit("limaquota-metrics.service"))
    login.verify()
    with open(name, "w", encoding="utf-8") as file:
        file.write("limaquota_up 1\n")
    login.recorded()
    login.run("disable")
    expect("systemctl --user stop limaquota-metrics.timer limaquota-watch.service limaquota.service"
           in login.recorded(), "the units are stopped first")
    expect(not login.files() and not os.path.exists(name), f"left: {login.files()} {os.listdir(metrics)}")
    expect(not os.listdir(login.units), f"directories left: {os.listdir(login.units)}")
    expect("nothing was enabled" in login.run("disable"), "a second time")


def test_enabling_again_keeps_the_metrics(new_home):
    login = Login(new_home)
    login.run("enable", "--metrics", login.home.directory)
    before = login.unit("limaquota-metrics.service")
    login.run("enable")
    expect(login.files() == ALL | METRICS and login.unit("limaquota-metrics.service") == before, "as before")


def test_without_a_user_manager_the_files_are_there_for_the_next_login(new_home):
    login = Login(new_home)
    login.stand_in("systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1")
    text = login.run("enable")
    expect("from the next login" in text and "No medium found" in text, text)
    expect(login.files() == ALL, f"files: {sorted(login.files())}")
    expect("no longer mounted at login" in login.run("disable") and not login.files(), "disable works as well")


def test_where_lingering_cannot_be_turned_on_it_says_why_it_matters(new_home):
    login = Login(new_home)
    login.stand_in("loginctl", "echo 'Could not enable linger: Access denied' >&2; exit 1")
    text = login.run("enable")
    expect("Access denied" in text and "sudo loginctl enable-linger" in text and "log out" in text, text)


def test_odd_home_names_are_escaped_or_refused(new_home):
    login = Login(new_home, 'a %h "q" $HOME {0}')
    login.run("enable", LIMA_HOME=login.lima)
    text = login.unit()
    expect('-- "' + login.directory + '/a %%h \\"q\\" $$HOME {0}"\n' in text, text)
    login.verify()
    expect("no longer mounted" in login.run("disable"), "it finds its home again")
    for name in ("new\nline", "back\\slash", "\udcff"):
        path = os.path.join(login.directory, name)
        os.makedirs(path)
        login.run("enable", "--home", path, status=2)
    expect(not login.files(), f"left: {login.files()}")


def test_a_second_home_and_units_of_others_are_refused(new_home):
    login = Login(new_home)
    login.run("enable")
    other = os.path.join(login.directory, "other")
    os.makedirs(other)
    expect("limaquota disable" in login.run("enable", "--home", other, status=1), "one home")
    login.run("disable")
    path = os.path.join(login.units, "limaquota-watch.service")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[Service]\nExecStart=/bin/mine\n")
    expect(path in login.run("enable", status=1), "names the file")
    login.run("disable")
    expect(login.files() == {"limaquota-watch.service"}, f"the file of another: {login.files()}")


def test_bad_directories_are_refused_and_nothing_is_written(new_home):
    login = Login(new_home)
    expect("mkdir -p /nowhere" in login.run("enable", "--home", "/nowhere", status=1), "says what to do")
    login.run("enable", "--metrics", "/nowhere", status=1)
    if os.geteuid() != 0:
        expect("sudo install -d" in login.run("enable", "--metrics", "/usr", status=1), "says what to do")
    login.run("enable", "--nonsense", status=2)
    expect(not login.files() and not login.recorded(), "nothing is done")


def test_vms_on_the_bare_tree_are_named_and_nothing_is_started(new_home):
    login = Login(new_home)
    os.makedirs(os.path.join(login.lima, "busy"))
    with open(os.path.join(login.lima, "busy", "qemu.pid"), "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    text = login.run("enable")
    expect("limactl stop busy" in text, text)
    expect(not any("start" in line for line in login.recorded()), "not started over a running VM")


def test_what_is_mounted_by_hand_is_left_as_it_is(new_home):
    login = Login(new_home)
    home = new_home(in_place=True)
    home.mount()
    text = login.run("enable", "--home", home.source)
    expect("mounted by hand" in text and login.files() == ALL, text)
    expect(not any(" start" in line for line in login.recorded()), "nothing is started over it")
    expect("still mounted" in login.run("disable"), "disable says that it is")
    home.close()


def test_a_failing_start_says_where_to_look(new_home):
    login = Login(new_home)
    login.stand_in("systemctl", 'case "$*" in *is-active*) exit 3 ;; *start*) echo "Job failed." >&2; exit 1 ;; esac')
    expect("journalctl --user" in login.run("enable", status=1), "journalctl is named")


def test_mount_tells_systemd_that_it_is_ready(new_home):
    for name in ("path", "abstract"):
        home = new_home(in_place=True)
        address = os.path.join(home.directory, "notify") if name == "path" else f"\0lq{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(address)
            receiver.settimeout(DEADLINE)
            os.environ["NOTIFY_SOCKET"] = address.replace("\0", "@")
            try:
                home.mount()
            finally:
                del os.environ["NOTIFY_SOCKET"]
            text = receiver.recv(4096)
        expect(b"READY=1" in text.split(b"\n"), f"{name}: {text!r}")
        home.close()


def test_mount_clears_a_dead_mount_of_its_own(new_home):
    home = new_home(in_place=True)
    vm = home.add_vm("vm", "raw", 1)
    home.mount()
    home.run("set", "vm", "1GiB", "--home", home.source)
    home.kill_daemon()
    wait_for(lambda: not os.path.exists(vm.directory), "the mount is dead")
    home.mount()
    expect("cleared a dead mount" in home.log(), home.log())
    expect(home.account("vm")["limit"] == 1 << 30, "the limit holds again")
    home.close()
