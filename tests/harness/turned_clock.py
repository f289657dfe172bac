"""A clock that a test turns, for a program that waits by the clock: libfaketime, which answers for the kernel what time
it is. What the program sleeps meanwhile it sleeps."""
import glob
import os
import re
import time

from harness import Skip


class TurnedClock:
    """Where it `stands`, no deadline of the program is ever over unless it is turned; else it also goes by itself."""

    def __init__(self, home, stands):
        libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        if not libraries:
            raise Skip("not installed: libfaketime")
        with open(home.limaquota, "rb") as file:
            if re.search(rb"__[at]san_init", file.read()):
                raise Skip("a sanitizer's library has to be loaded first; the release has this test")
        self._library, self._file = libraries[0], os.path.join(home.directory, "clock")
        self._stands, self._now = stands, time.time() if stands else 0.0
        self.turn(0)

    def turn(self, seconds):
        """Forward."""
        self._now += seconds
        shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._now)) if self._stands else f"+{self._now:.0f}"
        with open(self._file + ".new", "w", encoding="ascii") as file:
            file.write(shown + "\n")
        os.rename(self._file + ".new", self._file)

    def environment(self):
        """For the program, in which it is looked at each time."""
        return {"LD_PRELOAD": self._library, "FAKETIME_TIMESTAMP_FILE": self._file, "FAKETIME_NO_CACHE": "1"}
