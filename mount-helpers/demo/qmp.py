#!/usr/bin/env python3
"""Says one thing to a QEMU: qmp.py SOCKET COMMAND [JSON-ARGUMENTS]

Prints what came back ("return") as one line of JSON. Connects, asks, disconnects: QMP serves one client at
a time, and Lima wants its turn. Everything together takes at most DEADLINE seconds.
Exit status: 0 answered, 1 refused or no answer, 2 wrong use.

Example: qmp.py ~/.lima/default/qmp.sock query-status
"""
import json
import socket
import sys
import time

DEADLINE = 10.0


class QmpError(Exception):
    """QEMU refused the command, or did not answer in time."""


class _Lines:
    """Reads JSON lines from a socket until a moment."""

    def __init__(self, sock, until):
        self._sock = sock
        self._until = until
        self._pending = b""

    def next(self):
        while b"\n" not in self._pending:
            left = self._until - time.monotonic()
            if left <= 0:
                raise QmpError("no answer in time")
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(65536)
            except TimeoutError:  # an alias of socket.timeout since Python 3.10
                raise QmpError("no answer in time") from None
            if not data:
                raise QmpError("QEMU closed the connection")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)


def ask(path, command, arguments=None, deadline=DEADLINE):
    """Sends one command and returns its "return"; raises QmpError or OSError."""
    until = time.monotonic() + deadline
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(deadline)
        sock.connect(path)
        lines = _Lines(sock, until)
        lines.next()  # the greeting
        answer = None
        for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments or {}}):
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = lines.next()
            while "return" not in answer and "error" not in answer:  # an event
                answer = lines.next()
            if "error" in answer:
                raise QmpError(answer["error"].get("desc", "refused"))
        return answer["return"]


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        arguments = json.loads(sys.argv[3]) if len(sys.argv) == 4 else None
        print(json.dumps(ask(sys.argv[1], sys.argv[2], arguments)))
    except (QmpError, OSError, ValueError) as error:
        print(f"qmp.py: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
