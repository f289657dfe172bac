"""reclaim refuses what it must not touch, and wrong use. By an ordinary user."""
import fcntl
import os
import struct
import subprocess

from guest_disk import run
from harness import MIB, expect
from stopped_vm import add_disk, bytes_disk, disk_of, reclaim, reclaim_json


def test_refused_disks(new_home):
    home = new_home()
    for name in ("snapshots", "base", "dirty", "corrupt", "encrypted", "datafile", "old"):
        add_disk(home, name, bytes_disk, "qcow2")
    paths = {name: os.path.join(home.source, name, "disk") for name in os.listdir(home.source)}
    run("qemu-img", "snapshot", "-c", "one", paths["snapshots"])
    os.makedirs(os.path.join(home.source, "overlay"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "../base/disk",
        os.path.join(home.source, "overlay", "disk"))
    for name, bit in (("dirty", 1), ("corrupt", 2)):
        with open(paths[name], "r+b") as file:
            file.seek(79)  # the last byte of incompatible_features
            file.write(bytes([bit]))
    os.unlink(paths["encrypted"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x",
        "-o", "encrypt.format=aes,encrypt.key-secret=s", paths["encrypted"], "4M")
    os.unlink(paths["datafile"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={paths['datafile']}.data", paths["datafile"], "4M")
    os.unlink(paths["old"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-F", "qcow2", "-b", paths["base"],
        paths["old"])
    home.mount()
    for name, word in (("snapshots", "internal snapshots"), ("base", "is the backing file of"), ("dirty", "dirty"),
                       ("corrupt", "corrupt"), ("encrypted", "encrypted"), ("datafile", "data file"),
                       ("old", "version 2")):
        before = os.stat(disk_of(home, name))
        for option in ("--offline", "--compress"):
            text = reclaim(home, name, option, status=1)
            expect(word in text and text.count("\n") == 1, f"{name}: {text}")
        after = os.stat(disk_of(home, name))
        expect((before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino), f"{name} was written to")
    home.close()


def test_backing_files_are_found_however_they_are_named(new_home):
    home = new_home()
    names = {"plain": "{}", "prefixed": "file:{}", "json": 'json:{{"driver":"raw","file.filename":"{}"}}',
             "nested": 'json:{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}'}
    for name, how in names.items():
        add_disk(home, name, bytes_disk)
        directory = os.path.join(home.source, "over-" + name)
        os.makedirs(directory)
        # By the path that it has once the home is mounted; nothing is opened now.
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw",
            "-b", how.format(disk_of(home, name)), os.path.join(directory, "work.qcow2"), "32M")
    home.mount()
    for name in names:
        text = reclaim(home, name, "--offline", status=1)
        expect("is the backing file of" in text and "work.qcow2" in text, f"{name}: {text}")
    home.close()


def test_an_empty_qcow2(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    path = os.path.join(home.source, "vm", "disk")
    os.unlink(path)
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "0")
    home.mount()
    reclaim(home, "vm", "--offline")
    home.close()


def test_leftovers_are_named_by_a_dry_run_and_go_with_the_next_run(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    names = (".disk.limaquota-abcdef", ".disk.limaquota-Abc123", ".other.limaquota-abcdef", ".disk.limaquota-long123")
    for name in names:
        with open(os.path.join(home.source, "vm", name), "xb") as file:
            file.write(os.urandom(MIB))
    home.mount()
    paths = [os.path.join(home.mountpoint, "vm", name) for name in names]
    before = reclaim_json(home, "vm", "--offline", "--dry-run")
    told = [note for note in before["notes"] if "left behind" in note]
    expect(len(told) == 2 and all(f"vm/{name}:" in " ".join(told) for name in names[:2]), f"{before}")
    expect(all(map(os.path.exists, paths)), "a dry run deleted something")
    with open(paths[0], "rb") as at_work:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        during = reclaim_json(home, "vm", "--offline", "--dry-run")
    expect([names[1] in note for note in during["notes"]] == [True], f"one that is worked on is named: {during}")
    expect(before["would_free"] - during["would_free"] >= MIB, f"{before} {during}")
    done = reclaim_json(home, "vm", "--offline")
    expect(done["used_before"] - done["used_after"] >= before["would_free"] - 65536, f"{before} {done}")
    expect([os.path.exists(path) for path in paths] == [False, False, True, True], "others' files, or not cleaned up")
    home.close()


def test_a_disk_in_use_is_refused_and_a_reclaimed_one_is_locked(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    home.mount()
    disk = disk_of(home, "vm")
    user = subprocess.Popen(["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    user.stdin.write(b"length\n")
    user.stdin.flush()
    user.stdout.readline()  # it is open
    text = reclaim(home, "vm", "--offline", status=1)
    expect("is in use" in text, text)
    user.communicate(b"quit\n")
    with open(disk, "r+b") as file:
        # The lock that reclaim takes: QEMU must refuse to open beside it.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 104, 0))
        run("qemu-io", "-f", "raw", "-c", "length", disk, status=(1,))
    reclaim(home, "vm", "--offline")
    home.close()


def test_a_disk_that_another_process_has_open_is_refused(new_home):
    """A loop device, dd, a backup: none of them takes QEMU's locks."""
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    add_disk(home, "other", bytes_disk, "qcow2")
    home.mount()
    for name, options in (("vm", ["--offline"]), ("other", ["--offline"]), ("other", ["--compress"])):
        for mode in ("rb", "r+b"):
            used = home.account(name)["used"]
            with open(disk_of(home, name), mode):
                text = reclaim(home, name, *options, status=1)
                expect("is open in another process" in text and text.count("\n") == 1, text)
            expect(home.account(name)["used"] == used, f"{name} was changed")
    for name, option in (("vm", "--offline"), ("other", "--compress")):
        reclaim(home, name, option)
    home.close()


def test_a_running_vm_is_refused_offline(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    home.mount()
    with open(os.path.join(home.mountpoint, "vm", "qemu.pid"), "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    text = reclaim(home, "vm", "--offline", status=1)
    expect(f"runs (process {os.getpid()})" in text, text)
    os.unlink(os.path.join(home.mountpoint, "vm", "qemu.pid"))
    home.close()


def test_wrong_use(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    home.mount()
    for options in (["--offline", "--clean"], ["--compress", "--path", "/usr/src/x"], ["--path", "/"],
                    ["--path", "usr/src"], ["--path", "/etc/ssh"], ["--path", "/home/../etc"],
                    ["--path", "/usr/bin"], ["--path", "/usr/lib/modules"], ["--path", "/usr/src"],
                    ["--path", "/usr/local/lib"], ["--path", "/var/lib"], ["--path", "/home/me"],
                    ["--loan", "15 parsecs"], ["--loan", "-1"],
                    ["--loan", "1e3G"], ["--loan", "99999999999T"], ["--deadline", "0"], ["--surely"]):
        text = reclaim(home, "vm", *options, status=2)
        expect(text.strip(), f"{options}: says nothing")
    text = reclaim(home, "nobody", "--offline", status=1)
    expect("no VM 'nobody'" in text and "vm" in text, text)
    text = reclaim(home, "vm", status=1)
    expect("--offline" in text, text)
    home.close()
    text = reclaim(home, "vm", "--offline", status=1)
    expect("not mounted" in text, text)
