"""limaquota umount: refuses while anything runs from the mount, detaches when told to, clears a dead mount."""
import contextlib
import errno
import os
import signal
import socket
import subprocess

from harness import MIB, expect, wait_for


def vm_directory(home, name="vm"):
    os.makedirs(os.path.join(home.source, name))
    return os.path.join(home.mountpoint, name)


def run_as_qemu(directory):
    """A process that Lima takes for the VM's QEMU, by its pid file."""
    process = subprocess.Popen(["sleep", "3600"])
    with open(os.path.join(directory, "qemu.pid"), "w", encoding="ascii") as file:
        file.write(f"{process.pid}\n")
    return process


def end(process):
    process.kill()
    process.wait()


def test_refuses_while_a_vm_runs_and_names_it(new_home):
    home = new_home(in_place=True)
    directory = vm_directory(home)
    home.mount()
    qemu = run_as_qemu(directory)
    try:
        text = home.run("umount", "--home", home.mountpoint, status=1)
        expect(f"vm (process {qemu.pid})" in text, f"does not name the VM: {text}")
        expect(os.path.ismount(home.mountpoint), "it is unmounted all the same")
    finally:
        end(qemu)
    home.close()


def test_names_the_process_that_has_a_file_open(new_home):
    home = new_home(in_place=True)
    path = os.path.join(vm_directory(home), "log")
    home.mount()
    with open(path, "w", encoding="ascii"):
        text = home.run("umount", home.mountpoint, status=1)
        expect(f"(pid {os.getpid()}) has {path} open" in text, f"does not name who: {text}")
    home.close()


def write_until_refused(file):
    """How many bytes went in, and the errno that ended it."""
    written = 0
    while written < 64 * MIB:
        try:
            written += os.write(file, b"x" * MIB)
        except OSError as error:
            return written, error.errno
    return written, None


def test_lazy_leaves_what_is_open_within_its_limit_and_out_of_reach(new_home):
    home = new_home(in_place=True)
    directory = vm_directory(home)
    home.mount()
    home.run("set", "vm", "64MiB", "--home", home.mountpoint)
    qemu = run_as_qemu(directory)
    listener = socket.socket(socket.AF_UNIX)
    disk = os.open(os.path.join(directory, "disk"), os.O_WRONLY | os.O_CREAT)
    try:
        listener.bind(os.path.join(directory, "qmp.sock"))
        listener.listen()
        text = home.run("umount", "--lazy", home.mountpoint)
        expect(f"vm (process {qemu.pid})" in text, f"does not name what goes on: {text}")
        expect(not os.path.ismount(home.mountpoint), "still mounted")
        written, why = write_until_refused(disk)
        expect(why == errno.ENOSPC and 47 * MIB < written <= 48 * MIB,
               f"disk line 48 MiB: {written} bytes were written, then errno {why}")
        with socket.socket(socket.AF_UNIX) as client:
            refused = client.connect_ex(os.path.join(directory, "qmp.sock"))
        expect(refused == errno.ECONNREFUSED, f"the help says that QMP is out of reach: errno {refused}")
        expect(home.daemon_status() is None, "the daemon left an open file alone")
    finally:
        os.close(disk)
        listener.close()
        end(qemu)
    wait_for(lambda: home.daemon_status() == 0, lambda: f"the daemon ends with the last file: {home.log()}")


def test_clears_a_dead_mount(new_home):
    home = new_home(in_place=True)
    vm_directory(home)
    home.mount()
    home.kill_daemon()
    text = home.run("status", "--home", home.mountpoint, status=1)
    expect("daemon" in text and "limaquota umount" in text, f"status of a dead mount: {text}")
    home.run("umount", home.mountpoint)
    expect(not os.path.ismount(home.mountpoint), "still mounted")


def test_a_dead_mount_in_use_goes_lazily(new_home):
    home = new_home(in_place=True)
    path = os.path.join(vm_directory(home), "log")
    home.mount()
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        home.kill_daemon()
        text = home.run("umount", home.mountpoint, status=1)
        expect("--lazy" in text, f"does not say what helps: {text}")
        home.run("umount", "--lazy", "--home", home.mountpoint)
        expect(not os.path.ismount(home.mountpoint), "still mounted")
    finally:
        with contextlib.suppress(OSError):  # ENOTCONN: there is nobody to tell
            os.close(file)


def test_nothing_mounted_is_a_no_and_two_directories_are_wrong_use(new_home):
    home = new_home(in_place=True)
    expect("not mounted" in home.run("umount", home.mountpoint, status=1), "nothing is mounted")
    home.run("umount", home.mountpoint, "--home", home.mountpoint, status=2)


def test_a_daemon_that_hangs_is_refused_and_taken_away_lazily(new_home):
    home = new_home(in_place=True)
    directory = vm_directory(home)
    home.mount()
    qemu = run_as_qemu(directory)
    home.signal_worker(signal.SIGSTOP)
    try:
        text = home.run("umount", home.mountpoint, status=1)
        expect("does not answer" in text and "--lazy" in text, f"does not say what helps: {text}")
        text = home.run("umount", "--lazy", home.mountpoint)
        expect(f"vm (process {qemu.pid})" in text, f"does not name what hangs with it: {text}")
        expect(not os.path.ismount(home.mountpoint), "still mounted")
        text = home.run("doctor", "--home", home.mountpoint, status=1)
        expect("bare tree" in text, f"its disk is not open in the mount: {text}")
    finally:
        home.signal_worker(signal.SIGCONT)
        end(qemu)


def test_a_pid_file_that_is_a_fifo_stops_nobody(new_home):
    home = new_home(in_place=True)
    os.mkfifo(os.path.join(home.source, os.path.basename(vm_directory(home)), "ha.pid"))
    os.environ["LIMA_HOME"] = home.mountpoint
    try:
        home.run("mount")  # without arguments: the home of all commands
        home.run("umount")
    finally:
        del os.environ["LIMA_HOME"]
