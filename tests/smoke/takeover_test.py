"""The worker is killed while files are open: another takes over, programs only wait."""
import errno
import fcntl
import os
import signal

from harness import MIB, Skip, expect, wait_for
from negotiated import HAS_RESEND, negotiated
from plain_home import close, mounted, refused, write_all

KILLS = 5


def replace_worker(home, times):
    wait_for(lambda: home.worker_pid() is not None, "there is a worker")
    home.signal_worker(signal.SIGKILL)
    # Nobody answers until another has taken over.
    with open(os.path.join(home.mountpoint, ".usage", "_host"), encoding="ascii") as file:
        restarts = [line for line in file.read().splitlines() if line.startswith("worker_restarts ")]
    expect(restarts == [f"worker_restarts {times}"], f"{restarts} after {times} kills")


def test_open_files_go_on_when_the_worker_is_killed(new_home):
    home, vm, beneath = mounted(new_home)
    if not negotiated(home).offered & HAS_RESEND:
        close(home, beneath)
        raise Skip("this kernel sends nothing again: before Linux 6.9 nobody takes over")
    answer = negotiated(home).answer
    home.run("set", "vm", "64MiB", "--home", home.mountpoint)
    disk = os.open(f"{vm}/disk", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    gone = os.open(f"{vm}/gone", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.remove(f"{vm}/gone")
    files = {"disk": disk, "gone": gone}
    try:
        files["without a name"] = os.open(vm, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        expect(error.errno == errno.EOPNOTSUPP, f"{error}")
    fcntl.flock(disk, fcntl.LOCK_EX)
    content = {name: b"" for name in files}
    for times in range(1, KILLS + 1):
        for name, file in files.items():
            more = os.urandom(MIB)
            expect(write_all(file, more, len(content[name])) is None, f"{name}: a write after {times - 1} kills")
            content[name] += more
        used = home.account("vm")["used"]
        replace_worker(home, times)
        expect(home.account("vm")["used"] == used, f"used was {used}, is {home.account('vm')['used']}")
        for name, file in files.items():
            expect(os.pread(file, 2 * KILLS * MIB, 0) == content[name], f"{name}: its data after {times} kills")
        os.mkdir(f"{vm}/directory{times}")
    expect(negotiated(home).answer == answer, "the next worker was answered for as the first")
    other = os.open(f"{vm}/disk", os.O_RDWR)
    refused(errno.EWOULDBLOCK, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    expect(write_all(disk, bytes(2 * 64 * MIB), 0) == errno.ENOSPC, "the limit holds")
    expect(home.account("vm")["used"] <= 64 * MIB, f"used {home.account('vm')['used']}")
    for file in (other, *files.values()):
        os.close(file)
    expect(os.path.getsize(f"{beneath}/disk") >= KILLS * MIB, "the disk is underneath")
    close(home, beneath)
