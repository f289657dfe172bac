"""The filesystems that are compared: how each is mounted and unmounted. All mount one and the same backing tree, in turn."""
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass

DEADLINE = 60.0  # seconds for a mount to answer, or to end


class Broken(Exception):
    """A filesystem did not do what it had to; the text says which and what."""


def switched_on(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


@dataclass(frozen=True)
class Peer:
    """`program` is looked up in the environment variable, then on PATH; `arguments` has {source} and {mountpoint}."""

    name: str
    title: str
    arguments: tuple = ()
    program: str = ""
    variable: str = ""
    version_option: str = "--version"
    is_peer: bool = True  # counts for "the best of the peers"
    switch: str = ""  # a parameter of the kernel that has to be on

    def path(self):
        named = os.environ.get(self.variable) if self.variable else None
        return named or shutil.which(self.program)

    def why_missing(self):
        """None where it can be mounted."""
        if self.switch and not switched_on(self.switch):
            return f"{self.name}: {self.switch} is not there, or not Y"
        if not self.program or self.path():
            return None
        named = f" and ${self.variable} names none" if self.variable else ""
        return f"{self.program} is not here{named}"

    def version(self):
        if not self.program:
            return "the kernel"
        done = subprocess.run([self.path(), self.version_option], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else "unknown"

    @contextlib.contextmanager
    def mounted(self, source, mountpoint):
        """Yields where the tree is seen, and the pid of the daemon (None without one)."""
        if not self.program:
            yield source, None
            return
        command = [self.path()] + [part.format(source=source, mountpoint=mountpoint) for part in self.arguments]
        with tempfile.TemporaryFile(mode="w+") as words, subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words) as daemon:
            try:
                self._wait(lambda: os.path.ismount(mountpoint) or daemon.poll() is not None, "did not mount")
                if daemon.poll() is not None:
                    words.seek(0)
                    raise Broken(f"{self.name} ended with status {daemon.returncode} instead of mounting: {words.read()}")
                os.stat(mountpoint)
                yield mountpoint, daemon.pid
            finally:
                self._unmount(mountpoint, daemon)

    def _unmount(self, mountpoint, daemon):
        try:
            if daemon.poll() is None:
                self._wait(lambda: subprocess.run(["umount", mountpoint], check=False, capture_output=True).returncode == 0
                           or not os.path.ismount(mountpoint), "could not be unmounted")
                daemon.wait(DEADLINE)
        finally:
            daemon.kill()

    def _wait(self, condition, sentence):
        until = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > until:
                raise Broken(f"{self.name} {sentence} within {DEADLINE:.0f} s")
            time.sleep(0.005)


def passthrough_ll(cache):
    return Peer(f"passthrough_ll {cache}", f"libfuse's passthrough_ll, cache={cache}",
                ("-f", "-o", f"source={{source}},cache={cache}", "{mountpoint}"), "passthrough_ll", "PASSTHROUGH_LL")


NATIVE = Peer("native", "the backing filesystem itself", is_peer=False)
LIMAQUOTA = Peer("limaquota", "limaquota, limits on", ("mount", "-f", "{source}", "{mountpoint}"), "limaquota",
                 is_peer=False)
URING = Peer("limaquota io_uring", "limaquota -o io_uring, limits on",
             ("mount", "-f", "-o", "io_uring", "{source}", "{mountpoint}"), "limaquota", is_peer=False,
             switch="/sys/module/fuse/parameters/enable_uring")
UNMETERED = Peer("unmetered", "limaquota with data that go by no metering", LIMAQUOTA.arguments, "limaquota_unmetered",
                 is_peer=False)
EMPTY = Peer("empty write", "limaquota with writes that do nothing: the floor", LIMAQUOTA.arguments, "limaquota_empty",
             is_peer=False)
LL_AUTO = passthrough_ll("auto")
COMPARED = (
    NATIVE,
    LL_AUTO,
    passthrough_ll("never"),
    Peer("passthrough_hp", "libfuse's passthrough_hp", ("--foreground", "{source}", "{mountpoint}"), "passthrough_hp",
         "PASSTHROUGH_HP", "--help"),
    Peer("bindfs", "bindfs", ("-f", "{source}", "{mountpoint}"), "bindfs"),
    # mergerfs by default refuses to create where less than 4 GiB are free.
    Peer("mergerfs", "mergerfs", ("-f", "-o", "minfreespace=0", "{source}", "{mountpoint}"), "mergerfs"),
    LIMAQUOTA,
    URING,
)
