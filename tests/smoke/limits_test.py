"""Limits: met to the block, never passed, and lifted."""
import errno
import os

import demo_guest
from harness import MIB, Sampler, expect
from plain_home import close, mounted, refused, write_all

LIMIT = 64 * MIB
RESERVE = 16 * MIB  # for control files, of so small a limit


def fill(descriptor, at, most):
    """Writes until it is refused; how far it came."""
    while at < most:
        wrong = write_all(descriptor, os.urandom(65536), at)
        if wrong is not None:
            expect(wrong == errno.ENOSPC, f"refused with {errno.errorcode[wrong]}")
            break
        at += 65536
    return at


def test_a_limit_is_met_never_passed_and_raised(new_home):
    home, vm, beneath = mounted(new_home)
    home.run("set", "vm", "64MiB", "--home", home.mountpoint)
    sampler = Sampler(beneath)
    with open(f"{vm}/disk", "x+b", buffering=0) as disk:
        line = LIMIT - RESERVE
        end = fill(disk.fileno(), 0, 2 * LIMIT)
        used = home.account("vm")["used"]
        expect(line - MIB <= used <= line, f"a disk comes within 1 MiB of its line: {used} of {line}")
        expect(home.account("vm")["state"] == "full", f"state {home.account('vm')['state']}")
        expect(write_all(disk.fileno(), os.urandom(MIB), 4096) is None, "what is there may be overwritten")
        with open(f"{vm}/ha.stderr.log", "xb", buffering=0) as log:
            expect(fill(log.fileno(), 0, MIB) == MIB, "a log is still written")
            fill(log.fileno(), MIB, 2 * LIMIT)
        expect(demo_guest.allocated(beneath) <= LIMIT, "and ends at the limit")
        refused(errno.ENOSPC, os.posix_fallocate, disk.fileno(), end, 2 * LIMIT)
        os.remove(f"{vm}/ha.stderr.log")
        os.truncate(f"{vm}/disk", MIB)
        expect(fill(disk.fileno(), MIB, end - MIB) == end - MIB, "what was freed can be written again")
        sampler.stop()
        expect(sampler.samples > 10 and sampler.largest <= LIMIT, f"du reached {sampler.largest}")
        home.run("set", "vm", "128MiB", "--home", home.mountpoint)
        expect(fill(disk.fileno(), end, LIMIT) == LIMIT, "a raised limit is in force at once")
        os.fsync(disk.fileno())
    home.run("set", "vm", "32MiB", "--home", home.mountpoint)
    expect(home.account("vm")["state"] == "over", "a limit below what is used")
    refused(errno.ENOSPC, os.mkdir, f"{vm}/directory")
    os.remove(f"{vm}/disk")
    close(home, beneath)


def test_df_tells_the_disk_line(new_home):
    home, vm, beneath = mounted(new_home)
    home.run("set", "vm", "64MiB", "--home", home.mountpoint)
    figures = os.statvfs(vm)
    expect(figures.f_blocks * figures.f_frsize == LIMIT - RESERVE, f"{figures}")
    close(home, beneath)
