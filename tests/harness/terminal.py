"""Programs as a person sees them: on a terminal."""
import os
import pty
import subprocess

from harness import DEADLINE


def on_terminal(words, typed=b"", environment=None):
    """Runs a program on a terminal of its own; (its status, what the terminal showed)."""
    parent, child = pty.openpty()
    process = subprocess.Popen(words, env=dict(environment or os.environ, TERM="xterm"), stdin=child, stdout=child,
                               stderr=child)
    os.close(child)
    os.write(parent, typed)
    shown = b""
    try:
        while data := os.read(parent, 65536):
            shown += data
    except OSError:  # EIO: its last holder closed the terminal
        pass
    os.close(parent)
    return process.wait(DEADLINE), shown.decode()
