"""A daemon that hangs: each command says so in one line and ends, though what it asked cannot be taken back."""
import concurrent.futures
import contextlib
import glob
import os
import re
import signal
import subprocess
import threading
import time

from harness import DEADLINE, expect, wait_for


def hung_home(new_home, in_place=True):
    home = new_home(in_place=in_place)
    os.makedirs(os.path.join(home.source, "vm"))
    home.mount()
    home.signal_worker(signal.SIGSTOP)
    return home


def is_held(home):
    """Whether a process that asked still has something open there."""
    for directory in glob.glob("/proc/[0-9]*/fd"):
        if directory in (f"/proc/{home.daemon_pid()}/fd", f"/proc/{home.worker_pid()}/fd"):
            continue
        with contextlib.suppress(OSError):
            if any(os.readlink(entry.path).startswith(home.mountpoint) for entry in os.scandir(directory)):
                return True
    return False


def close(home):
    """What was left alone gets its answer a moment later than the daemon goes on, and ends."""
    wait_for(lambda: not is_held(home), "nobody waits any more")
    home.close()


def run_hung(home, *words, environment=None, status=1):
    """What the command said, which ends while the daemon still hangs, with no more than one line on standard error."""
    result = subprocess.run([home.limaquota, *words], capture_output=True, text=True, check=False, timeout=DEADLINE,
                            env={**os.environ, **(environment or {})})
    expect(result.returncode == status, f"{words}: status {result.returncode}: {result.stdout}{result.stderr}")
    expect(result.stderr.count("\n") <= 1, f"{words}: more than one line: {result.stderr}")
    return result.stdout + result.stderr


def says_so(text, home):
    where = home.mountpoint
    expect(f"the daemon of {where} does not answer" in text and f"umount --lazy {where}" in text, text)


def test_every_command_says_so_and_ends(new_home):
    home = hung_home(new_home)
    try:
        at = ("--home", home.mountpoint)
        output = os.path.join(home.directory, "x.prom")
        commands = (("status", *at), ("status", "vm", "--json", *at), ("set", "vm", "1GiB", *at), ("stop", "vm", *at),
                    ("resume", *at), ("metrics", "--output", output, *at), ("mount", home.mountpoint),
                    ("mount", home.mountpoint + "/"), ("umount", home.mountpoint), ("plan", *at), ("__stop-vms", *at),
                    ("status", "--watch", *at))
        with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:  # each waits for 5 s
            for text in pool.map(lambda words: run_hung(home, *words), commands):
                says_so(text, home)
        with open(output, encoding="ascii") as file:
            text = file.read()
        expect(re.search(r"^limaquota_up\{.*\} 0$", text, re.M), f"the metrics do not say that it is down: {text}")
        run_hung(home, "__complete", "--", "status", "--home", home.mountpoint, "", status=0)
    finally:
        home.signal_worker(signal.SIGCONT)
    close(home)


def test_a_question_that_the_daemon_has_taken_holds_nobody(new_home):
    """Stopped again and again while it is asked: whoever waits for an answer then cannot be killed."""
    home = hung_home(new_home)
    process = subprocess.Popen([home.limaquota, "status", "--home", home.mountpoint], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(40):
            home.signal_worker(signal.SIGCONT)
            home.signal_worker(signal.SIGSTOP)
        text, _ = process.communicate(timeout=DEADLINE)
        expect(process.returncode in (0, 1), text)
        if process.returncode == 1:
            says_so(text, home)
    finally:
        home.signal_worker(signal.SIGCONT)
    close(home)


class Lines:
    """What a process says on standard error, line by line."""

    def __init__(self, words):
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._thread = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._thread.start()

    def count(self, words):
        return sum(words in line for line in self.lines)

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        self._thread.join(DEADLINE)
        expect(status == 0, f"status {status}: {self.lines}")


def lines_of_watch(home):
    watch = Lines([home.limaquota, "watch", "--home", home.mountpoint])
    wait_for(lambda: watch.count("does not answer") > 0, lambda: f"watch says it: {watch.lines}")
    return watch


def test_watch_says_it_once_and_when_it_answers_again(new_home):
    home = hung_home(new_home)
    watch = lines_of_watch(home)
    try:
        says_so(watch.lines[0], home)
        time.sleep(8)  # it would have asked again by now
        expect(len(watch.lines) == 1, f"said more than once: {watch.lines}")
        with open(f"/proc/{watch.process.pid}/task/{watch.process.pid}/children", encoding="ascii") as file:
            children = file.read().split()
        expect(len(children) == 1, f"its questions pile up: {children}")
        home.signal_worker(signal.SIGCONT)
        wait_for(lambda: watch.count("answers again") == 1, lambda: f"watch says that it answers: {watch.lines}")
        watch.end(signal.SIGTERM)
    finally:
        watch.process.kill()
        home.signal_worker(signal.SIGCONT)
    close(home)


def test_watch_ends_while_the_daemon_hangs(new_home):
    for number in (signal.SIGTERM, signal.SIGINT):
        home = hung_home(new_home)
        watch = lines_of_watch(home)
        try:
            watch.end(number)
            expect(len(watch.lines) == 1, f"said more: {watch.lines}")
        finally:
            watch.process.kill()
            home.signal_worker(signal.SIGCONT)
        close(home)


LIMACTL = """#!/bin/sh
touch "{directory}/called"
cat "$LIMA_HOME/vm/lima.yaml"
exec sleep 3600
"""


def test_a_stop_whose_daemon_hangs_says_so_and_can_be_ended(new_home):
    """limactl then waits for the daemon too, and cannot be killed."""
    home = new_home(in_place=True)
    os.makedirs(os.path.join(home.source, "vm"))
    home.mount()
    os.mkdir(os.path.join(home.directory, "bin"))
    limactl = os.path.join(home.directory, "bin", "limactl")
    with open(limactl, "w", encoding="ascii") as file:
        file.write(LIMACTL.format(directory=home.directory))
        os.fchmod(file.fileno(), 0o755)
    stop = Lines(["env", f"PATH={home.directory}/bin:{os.environ['PATH']}", home.limaquota, "stop", "vm", "--home",
                  home.mountpoint])
    try:
        wait_for(lambda: os.path.exists(os.path.join(home.directory, "called")), "limactl is called")
        home.signal_worker(signal.SIGSTOP)
        wait_for(lambda: stop.count("does not answer") == 1, lambda: f"stop says it: {stop.lines}")
        stop.process.send_signal(signal.SIGINT)
        expect(stop.process.wait(DEADLINE) == 1, f"interrupted: {stop.lines}")
    finally:
        stop.process.kill()
        home.signal_worker(signal.SIGCONT)
    close(home)
