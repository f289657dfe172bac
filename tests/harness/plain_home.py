"""A mounted home with one VM's directory, and files in it that this process writes itself."""
import errno
import os

import demo_guest
from harness import expect, wait_for


def refused(number, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except OSError as error:
        expect(error.errno == number, f"{call.__name__}{arguments}: {error}, not {errno.errorcode[number]}")
        return
    expect(False, f"{call.__name__}{arguments} is not refused")


def mounted(new_home, options=()):
    """The home; the path of `vm` in the mount and underneath."""
    home = new_home(options=options)
    home.mount()
    os.mkdir(os.path.join(home.mountpoint, "vm"))
    return home, os.path.join(home.mountpoint, "vm"), os.path.join(home.source, "vm")


def write_all(descriptor, data, at):
    """As programs do, which go on after a short write. None, or the error."""
    while data:
        try:
            written = os.pwrite(descriptor, data, at)
        except OSError as error:
            return error.errno
        data, at = data[written:], at + written
    return None


def close(home, beneath):
    """The checks with which each test ends; the backing filesystem may still settle for a moment."""
    wait_for(lambda: home.account("vm")["used"] == demo_guest.allocated(beneath), "used == du", 20)
    home.close()
