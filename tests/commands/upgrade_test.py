"""limaquota upgrade: another binary goes on with a live mount."""
import fcntl
import os
import shutil
import signal
import subprocess
import time

from harness import DEADLINE, MIB, expect, wait_for


def new_version(home):
    """The same program, as if it had been installed anew."""
    path = os.path.join(home.directory, "new-limaquota")
    shutil.copy2(home.limaquota, path)
    return path


def run(binary, *arguments, status=0):
    result = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE)
    text = result.stdout + result.stderr
    expect(result.returncode == status, f"{' '.join(arguments)}: status {result.returncode}: {text}")
    return text


def host_figures(home):
    with open(os.path.join(home.mountpoint, ".usage", "_host"), encoding="ascii") as file:
        return dict(line.split(maxsplit=1) for line in file.read().splitlines())


def binary_of(pid):
    return os.readlink(f"/proc/{pid}/exe")


def kept_by_programs(pid):
    """Descriptors that a program which the process executes would have, too."""
    kept = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
                flags = int(next(line for line in file if line.startswith("flags:")).split()[1], 8)
            if int(number) > 2 and not flags & os.O_CLOEXEC:
                kept.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return kept


def check_goes_on(home, in_place):
    os.makedirs(os.path.join(home.source, "vm"))
    home.mount()
    path = os.path.join(home.mountpoint, "vm", "disk")
    with open(os.path.join(home.mountpoint, ".quota", "vm"), "w", encoding="ascii") as limit:
        limit.write("limit 8MiB\ncontrol_reserve 1MiB\n")
    with open(path, "w+b", buffering=0) as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        disk.write(b"a" * MIB)
        before = host_figures(home)
        binary = new_version(home)
        advice = f"limaquota upgrade {home.mountpoint}"
        expect(advice in run(binary, "doctor", "--home", home.mountpoint), "doctor does not tell of another version")
        text = run(binary, "upgrade", home.mountpoint)
        expect(advice not in run(binary, "doctor", "--home", home.mountpoint), "doctor tells of it still")
        expect(f"{home.mountpoint}: served by limaquota " in text, text)
        after = host_figures(home)
        expect(after["supervisor_pid"] == before["supervisor_pid"], f"another daemon: {before}, {after}")
        expect(after["worker_pid"] != before["worker_pid"], f"the same worker: {after}")
        expect(not kept_by_programs(home.daemon_pid()), f"not closed on exec: {kept_by_programs(home.daemon_pid())}")
        for process in ("supervisor_pid", "worker_pid"):
            expect(binary_of(after[process]) == binary, f"{process} runs {binary_of(after[process])}")
        disk.write(b"b" * MIB)
        disk.seek(0)
        expect(disk.read() == b"a" * MIB + b"b" * MIB, "the file holds something else")
        expect(home.account("vm")["used"] >= 2 * MIB, str(home.account("vm")))
        expect(home.account("vm")["limit"] == 8 * MIB, str(home.account("vm")))
        # And once more, from there.
        run(home.limaquota, "upgrade", home.mountpoint)
        expect(binary_of(home.daemon_pid()) == home.limaquota, "the daemon does not run the other binary again")
        disk.write(b"c" * MIB)
        # A crash is still survived, and hangs are still looked for.
        worker = home.worker_pid()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: home.worker_pid() not in (None, worker), "another worker")
        disk.write(b"d" * MIB)
    expect(in_place or os.path.getsize(os.path.join(home.source, "vm", "disk")) == 4 * MIB, "the file's size")
    home.close()


def test_open_files_go_on(new_home):
    check_goes_on(new_home(), False)


def test_in_place_too(new_home):
    check_goes_on(new_home(in_place=True), True)


def test_who_cannot_take_over_is_refused(new_home):
    home = new_home()
    home.mount()
    worker = home.worker_pid()
    # This very process asks, which is no limaquota.
    home.signal_daemon(signal.SIGUSR1)
    wait_for(lambda: "no upgrade" in home.log(), "the daemon says no")
    time.sleep(0.2)
    expect(home.worker_pid() == worker, "the worker was ended all the same")
    expect("cannot take over from this version" in home.log(), home.log())
    home.close()


def test_a_binary_that_others_may_write_is_refused(new_home):
    home = new_home()
    home.mount()
    binary = new_version(home)
    os.chmod(binary, 0o777)
    text = run(binary, "upgrade", home.mountpoint, status=1)
    expect("is not upgraded" in text and "its log says" in text, text)
    expect("others than you may write" in home.log(), home.log())
    home.close()


def test_a_binary_in_the_mount_itself_is_refused(new_home):
    home = new_home()
    home.mount()
    inside = os.path.join(home.mountpoint, "new-limaquota")
    shutil.copy2(home.limaquota, inside)
    run(inside, "upgrade", home.mountpoint, status=1)
    expect("lies in a mount of limaquota" in home.log(), home.log())
    os.remove(inside)
    home.close()


def test_two_at_once_are_both_told_of_success(new_home):
    home = new_home()
    home.mount()
    askers = [subprocess.Popen([home.limaquota, "upgrade", home.mountpoint], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True) for _ in range(3)]
    for asker in askers:
        text = asker.communicate(timeout=DEADLINE)[0]
        expect(asker.returncode == 0, f"status {asker.returncode}: {text}")
    home.close()


def test_others_notes_are_no_daemon(new_home):
    """Whoever calls some memory of his own so: it is too small, it holds nothing, it may shrink."""
    home = new_home()
    home.mount()
    fakes = [os.memfd_create("limaquota-notes") for _ in range(2)]
    os.ftruncate(fakes[1], 64 * MIB)
    try:
        text = run(home.limaquota, "upgrade", home.mountpoint)
        expect("served by" in text, text)
    finally:
        for fake in fakes:
            os.close(fake)
    home.close()


def test_says_where_there_is_nothing_to_do(new_home):
    home = new_home()
    text = home.run("upgrade", home.mountpoint, status=1)
    expect("is not mounted" in text, text)
    home.run("upgrade", "/nonexistent/place", status=1)
