"""limaquota status: the table, what could be freed, --watch on a terminal, and homes that are not mounted."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios

import demo_guest
from harness import DEADLINE, MIB, expect, wait_for
from turned_clock import TurnedClock


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_disk(path, mib):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(os.urandom(mib * MIB))
        file.truncate(1024 * MIB)
        os.fsync(file.fileno())


def make_home(home):
    """VMs near (50 MiB), far (20), work (temporary, 10); disks at (attached to far, 4) and loose (6)."""
    for name, mib in (("near/disk", 50), ("far/disk", 20), ("work/disk", 10), ("_disks/at/datadisk", 4),
                      ("_disks/loose/datadisk", 6)):
        write_disk(os.path.join(home.source, name), mib)
    os.symlink(os.path.join(home.source, "far"), os.path.join(home.source, "_disks/at/in_use_by"))
    write(os.path.join(home.source, ".quota/near"), "100MiB\n")
    write(os.path.join(home.source, ".quota/far"), "200MiB\n")
    write(os.path.join(home.source, ".quota/gone"), "limit 3GiB\n")
    write(os.path.join(home.source, ".quota/_disks/lost"), "nonsense\n")
    write(os.path.join(home.source, "_config/limaquota/work.yaml"), "limit: 1GiB\ntemporary: true # deleted later\n")
    write(os.path.join(home.source, "_config/limaquota/far.yaml"), "lines:\n- {name: x}\n  temporary: true\n")


def status_json(home, *arguments):
    return json.loads(home.run("status", "--json", "--home", home.mountpoint, *arguments))


def comparable(report):
    """Without what other programs on the host change between two looks."""
    for key in ("free", "overcommit"):
        del report["host"][key]
    for account in report["accounts"]:
        del account["writable"]
    del report["mounted"], report["notes"]
    return report


def test_unmounted_figures_are_those_of_the_mount_and_du(new_home):
    home = new_home(in_place=True)
    make_home(home)
    before = status_json(home)
    expect(not before["mounted"], "says that it is mounted")
    for account in before["accounts"]:
        if account["name"] in ("near", "work", "_disks/loose"):
            du = demo_guest.allocated(os.path.join(home.source, account["name"]))
            expect(account["used"] == du, f"{account['name']}: used {account['used']}, du {du}")
    text = home.run("status", "--home", home.mountpoint)
    expect("is not mounted: figures by du" in text, f"does not say so: {text}")
    home.mount()
    after = status_json(home)
    expect(after["mounted"], "says that it is not mounted")
    expect(comparable(before) == comparable(after), f"by du: {before}\nmounted: {after}")
    home.close()


def test_a_survey_counts_an_inode_once_and_changes_nothing(new_home):
    home = new_home(in_place=True)
    make_home(home)
    os.link(os.path.join(home.source, "near/disk"), os.path.join(home.source, "near/again"))
    left_behind = os.path.join(home.source, ".quota/.limaquota-new")
    write(left_behind, "of a daemon that writes just now\n")
    os.mkdir(os.path.join(home.source, "near/secret"), 0)
    report = status_json(home)
    near = next(account for account in report["accounts"] if account["name"] == "near")
    expect(50 * MIB <= near["used"] < 51 * MIB, f"near uses {near['used']}")
    expect(any("secret" in note for note in report["notes"]), f"what may not be read is not named: {report}")
    expect(os.path.exists(left_behind), "the survey removed a file")
    os.chmod(os.path.join(home.source, "near/secret"), 0o700)


def test_a_home_that_does_not_exist_is_a_no(new_home):
    home = new_home(in_place=True)
    text = home.run("status", "--home", home.source + "/nowhere", status=1)
    expect("No such file" in text, text)
    home.run("status", "nowhere", "--home", home.source, status=1)


def test_nearest_its_limit_first_then_what_could_be_freed(new_home):
    home = new_home(in_place=True)
    make_home(home)
    home.mount()
    runner = subprocess.Popen(["sleep", "3600"])
    try:
        write(os.path.join(home.mountpoint, "near/qemu.pid"), f"{runner.pid}\n")
        text = home.run("status", "--home", home.mountpoint)
        order = [text.index("\n" + name) for name in ("near ", "far ", "_disks/loose")]
        expect(order == sorted(order), f"not nearest first: {text}")
        report = status_json(home)
    finally:
        runner.kill()
        runner.wait()
    free = {item["name"]: item for item in report["freeable"]}
    expect({name: item["kind"] for name, item in free.items()} ==
           {"far": "stopped", "work": "temporary", "_disks/loose": "detached"}, f"freeable: {free}")
    expect(20 * MIB <= free["far"]["bytes"] < 21 * MIB, f"far's attached disk stays: {free}")
    expect([item["name"] for item in report["freeable"]] == ["far", "work", "_disks/loose"], "most bytes first")
    limits = {item["name"]: (item["limit"], item["damaged"]) for item in report["limits_without_vm"]}
    expect(limits == {"gone": (3 << 30, False), "_disks/lost": (None, True)}, f"limits without a VM: {limits}")
    for words in ("stopped VMs (limactl delete NAME): far 20", "temporary VMs (limactl delete NAME): work 10",
                  "detached disks (limactl disk delete NAME): _disks/loose 6", "gone 3 GiB"):
        expect(words in text, f"'{words}' is not in: {text}")
    home.close()


def with_limactl(home, script):
    """A directory for PATH whose limactl is this shell script; it records its words in `words` beside it."""
    directory = os.path.join(home.directory, "bin")
    write(os.path.join(directory, "limactl"), f'#!/bin/sh\necho "$LIMA_HOME $*" > {directory}/words\n{script}\n')
    os.chmod(os.path.join(directory, "limactl"), 0o755)
    return directory


def start_with_path(home, directory, clock, *arguments):
    environment = dict(os.environ, PATH=f"{directory}:{os.environ['PATH']}", **clock.environment())
    return subprocess.Popen([home.limaquota, "status", *arguments, "--home", home.mountpoint], env=environment, text=True,
                            stdout=subprocess.PIPE)


def ended(process):
    text, _ = process.communicate(timeout=DEADLINE)
    expect(process.returncode == 0, f"status {process.returncode}: {text}")
    return text


# Says who it is, and once so many of them live at the same time, that they do; never answers.
DEAF = """echo $$ >>{directory}/deaf
while :; do
  living=0
  for other in $(cat {directory}/deaf); do ! kill -0 $other || living=$((living + 1)); done
  [ $living -lt {together} ] || touch {directory}/together
  sleep 0.05
done"""


def test_what_a_running_guest_uses_is_asked_of_limactl(new_home):
    home = new_home(in_place=True)
    make_home(home)
    df = f"printf 'Filesystem Used\\n/dev/vda1 {30 * MIB}\\n/dev/vda15 {2 * MIB}\\n/dev/vda1 {30 * MIB}\\n'"
    path = with_limactl(home, df)
    words = os.path.join(path, "words")
    home.mount()
    clock = TurnedClock(home, stands=True)  # however long a guest takes on this machine, it is in time

    def run_with_path(home, directory, *arguments):
        return ended(start_with_path(home, directory, clock, *arguments))

    runner = subprocess.Popen(["sleep", "3600"])
    try:
        write(os.path.join(home.mountpoint, "near/qemu.pid"), f"{runner.pid}\n")
        run_with_path(home, path, "far")  # stopped
        expect(not os.path.exists(words), "a guest was asked that nobody asked for")
        report = json.loads(run_with_path(home, path, "--json"))
        inside = {account["name"]: account.get("inside", "absent") for account in report["accounts"]}
        expect(inside["near"] == {"used": 32 * MIB, "reclaimable": 18 * MIB}, f"of all: {inside}")
        expect(inside["far"] is None and inside["_shared"] == "absent", f"only VMs that run: {inside}")
        text = run_with_path(home, path)
        expect("RECLAIMABLE" in text and re.search(r"\nnear .* 18 MiB ", text), f"not in the table: {text}")
        expect(re.search(r"\nfar .* - ", text), f"what is not known is a -: {text}")
        expect("Could be freed, 18 MiB: reclaimable inside" in text, f"the sum: {text}")
        report = json.loads(run_with_path(home, path, "near", "--json"))
        expect(report["inside"] == {"used": 32 * MIB, "reclaimable": 18 * MIB}, f"inside: {report['inside']}")
        with open(words, encoding="utf-8") as file:
            expect(file.read().startswith(f"{home.mountpoint} shell --workdir / near df"), "other words to limactl")
        expect("18 MiB are reclaimable" in run_with_path(home, path, "near"), "not shown")
        for name in ("far", "work"):
            write(os.path.join(home.mountpoint, name, "qemu.pid"), f"{runner.pid}\n")
        # One is waited for 5 s; several that are deaf all at once, half as long.
        for together, arguments, seconds in ((1, ("near",), 5), (3, (), 2.5)):
            with_limactl(home, DEAF.format(directory=path, together=together))
            process = start_with_path(home, path, clock, *arguments)
            wait_for(lambda: os.path.exists(os.path.join(path, "together")), f"{together} guests are asked at once")
            expect(process.poll() is None, "it did not wait for the guest")
            clock.turn(seconds + 0.5)
            text = ended(process)
            if together == 1:
                expect("no answer within 5 s" in text, f"a deaf guest is not told of: {text}")
            else:
                expect("RECLAIMABLE" in text and "reclaimable inside" not in text, text)
            for name in ("deaf", "together"):
                os.unlink(os.path.join(path, name))
        os.unlink(words)
        terminal = Terminal([home.limaquota, "status", "--watch", "--home", home.mountpoint], 40, 120,
                            PATH=f"{path}:{os.environ['PATH']}")
        terminal.wait_for_text(lambda text: text.count("USED") >= 2, "it is drawn again")
        terminal.press(b"\x03")
        expect(terminal.end() == 0 and not os.path.exists(words), "a guest is logged into every other second")
    finally:
        runner.kill()
        runner.wait()
    home.close()


class Terminal:
    """A command on a terminal of its own; `text` is all that it wrote."""

    def __init__(self, words, rows, columns, **environment):
        self.text = ""
        self.process_id, self._master = pty.fork()
        if self.process_id == 0:
            self._set_size(0, rows, columns)  # before the command looks at it
            os.execvpe(words[0], words, dict(os.environ, TERM="xterm", **environment))

    @staticmethod
    def _set_size(terminal, rows, columns):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self._set_size(self._master, rows, columns)

    def read(self):
        while select.select([self._master], [], [], 0.01)[0]:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # EIO: it ended
                return
            if not part:
                return
            self.text += part.decode("utf-8", "replace")

    def press(self, key):
        os.write(self._master, key)

    def wait_for_text(self, condition, sentence):
        def look():
            self.read()
            return condition(self.text)
        wait_for(look, lambda: f"{sentence}: {self.text!r}")

    def end(self):
        """The exit status."""
        self.read()
        _, status = os.waitpid(self.process_id, 0)
        self.read()
        os.close(self._master)
        return os.waitstatus_to_exitcode(status)


def waits_for(process, number):
    """Whether the signal is one that the process looks for by itself: blocked, but for the moments in which it waits for it,
    when the kernel lets it through."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        blocked = next(line for line in file if line.startswith("SigBlk:")).split()[1]
    return bool(int(blocked, 16) >> (number - 1) & 1)


def test_watch_redraws_in_place_and_gives_the_cursor_back(new_home):
    home = new_home(in_place=True)
    make_home(home)
    home.mount()
    terminal = Terminal([home.limaquota, "status", "--watch", "--home", home.mountpoint], 40, 120)
    terminal.wait_for_text(lambda text: text.count("USED") >= 2, "it is drawn again")
    first = terminal.text.split("USED")[1]
    rows = first.count("\n")
    expect(f"\033[{rows}A" in first.split("\n")[-1], f"the cursor does not go up its {rows} rows: {first!r}")
    expect(terminal.text.startswith("\033[?25l"), "the cursor is not hidden")
    write_disk(os.path.join(home.mountpoint, "near/more"), 40)
    terminal.wait_for_text(lambda text: "90 MiB" in text, "the figures are fresh")
    wait_for(lambda: waits_for(terminal.process_id, signal.SIGWINCH), "it waits for a change of the window", most_pause=0.001)
    drawn = terminal.text.count("\033[H\033[2J")
    terminal.resize(8, 60)
    # The new size, whole. It may be met by a drawing that was due, and the signal then draws it once more.
    terminal.wait_for_text(lambda text: text.count("\033[H\033[2J") > drawn and "\033[?7h" in text.rsplit("\033[2J")[-1],
                           "a new size is drawn")
    resized = terminal.text.split("\033[H\033[2J")[-1].split("\033[?7h")[0]
    expect("USED" in resized and resized.count("\n") == 7, f"8 rows: 7 lines and the cursor's row: {resized!r}")
    terminal.press(b"\x03")
    expect(terminal.end() == 0, "Ctrl-C is its end: status 0")
    expect(terminal.text.rstrip().endswith("\033[?25h"), f"the cursor is not back: {terminal.text[-80:]!r}")
    home.close()


def test_watch_of_a_mount_that_dies_ends_with_the_cursor_back(new_home):
    home = new_home(in_place=True)
    make_home(home)
    home.mount()
    terminal = Terminal([home.limaquota, "status", "near", "--watch", "--home", home.mountpoint], 24, 100)
    terminal.wait_for_text(lambda text: "NAME" in text, "it is drawn")
    home.kill_daemon()
    terminal.wait_for_text(lambda text: "daemon" in text, "it says why it ends")
    expect(terminal.end() == 1, "the answer is no")
    expect("\033[?25h" in terminal.text, "the cursor is not back")


def test_watch_stopped_by_the_shell_shows_the_cursor_meanwhile(new_home):
    home = new_home(in_place=True)
    make_home(home)
    terminal = Terminal([home.limaquota, "status", "--watch", "--home", home.mountpoint], 24, 100)
    terminal.wait_for_text(lambda text: "NAME" in text, "it is drawn")
    os.kill(terminal.process_id, signal.SIGTSTP)
    terminal.wait_for_text(lambda text: text.endswith("\033[?25h"), "the cursor is shown")
    os.kill(terminal.process_id, signal.SIGCONT)
    terminal.wait_for_text(lambda text: re.search(r"\033\[\?25h\033\[\?25l.*NAME", text, re.DOTALL), "it goes on")
    os.kill(terminal.process_id, signal.SIGTERM)
    expect(terminal.end() == 0, "SIGTERM is its end too")


def test_watch_on_a_pipe_prints_each_time_without_controls(new_home):
    home = new_home(in_place=True)
    make_home(home)
    process = subprocess.Popen([home.limaquota, "status", "--watch", "--json", "--home", home.mountpoint],
                               stdout=subprocess.PIPE, text=True)
    lines = [line for line in (process.stdout.readline() for _ in range(3)) if line.strip()]
    process.send_signal(signal.SIGINT)
    expect(process.wait(DEADLINE) == 0, "SIGINT is its end")
    process.stdout.close()
    expect(len(lines) == 2 and all(json.loads(line)["home"] == home.mountpoint for line in lines), f"{lines}")


def test_colour_only_on_a_terminal_and_not_with_no_color(new_home):
    home = new_home(in_place=True)
    make_home(home)
    words = [home.limaquota, "status", "--home", home.mountpoint]
    shown = Terminal(words, 24, 100)
    expect(shown.end() == 0 and "\033[32mok\033[0m" in shown.text, f"no colour: {shown.text!r}")
    plain = Terminal(words, 24, 100, NO_COLOR="1")
    expect(plain.end() == 0 and "\033" not in plain.text and "near" in plain.text, f"coloured: {plain.text!r}")
    expect("\033" not in home.run(*words[1:]), "colour on a pipe")


def test_a_standard_error_that_is_full_or_closed_ends_nothing(new_home):
    home = new_home(in_place=True)
    for stream in ("2>/dev/full", "2>&-"):
        done = subprocess.run(["sh", "-c", f'"$0" status --home /nonexistent {stream}', home.limaquota], check=False)
        expect(done.returncode == 1, f"{stream}: status {done.returncode}")


def test_watch_ends_in_order_when_its_terminal_is_gone(new_home):
    home = new_home(in_place=True)
    parent, child = pty.openpty()
    with subprocess.Popen([home.limaquota, "status", "--watch", "--home", home.mountpoint], stdin=child, stdout=child,
                          stderr=child) as process:
        os.close(child)
        os.read(parent, 1)
        os.close(parent)
        try:
            expect(process.wait(DEADLINE) == 1, f"ended with {process.returncode}")
        finally:
            process.kill()
