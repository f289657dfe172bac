"""How often a file was opened by anybody: a program that looks again and again is seen to have looked."""
import ctypes
import os
import struct

from harness import wait_for

IN_OPEN, EVENT = 0x20, struct.Struct("iIII")
LIBC = ctypes.CDLL(None, use_errno=True)


class Looks:
    def __init__(self, path):
        self._path = path
        self._watch = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._watch < 0 or LIBC.inotify_add_watch(self._watch, os.fsencode(path), IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify", path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._watch)

    def _count(self):
        """Since it was last asked."""
        count = 0
        while True:
            try:
                events = os.read(self._watch, 65536)
            except BlockingIOError:
                return count
            at = 0
            while at < len(events):
                _, mask, _, name = EVENT.unpack_from(events, at)
                count += bool(mask & IN_OPEN)
                at += EVENT.size + name

    def wait(self, times):
        """Until so many looks are over that began after this: a look ends before the next begins."""
        self._count()
        seen = 0

        def enough():
            nonlocal seen
            seen += self._count()
            return seen > times
        wait_for(enough, lambda: f"{self._path} is looked at {times} times; it was {seen}")
