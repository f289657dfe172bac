"""What may sit at a qmp.sock instead of a QEMU that answers, for tests."""
import contextlib
import os
import socket
import threading

# What a QEMU says whose guest runs; is paused for space; is so again when it was told to go on; does go on.
GREETING = b"""{"QMP": {}}\n{"return": {}}\n"""
IS_RUNNING = b"""{"return": {"status": "running"}}\n"""
IS_PAUSED = b"""{"return": {"status": "io-error"}}\n{"return": [{"io-status": "nospace"}]}\n"""
TOLD = b"""{"return": {}}\n"""
RUNNING = GREETING + IS_RUNNING
PAUSED = GREETING + IS_PAUSED
PAUSED_AGAIN = PAUSED + TOLD + IS_PAUSED
GOES_ON = PAUSED + TOLD + IS_RUNNING
SILENT = b""


@contextlib.contextmanager
def silent_socket(path):
    """Somebody listens and accepts, and never says a word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(8)
        yield
    os.unlink(path)


@contextlib.contextmanager
def talking_socket(path, *texts):
    """Somebody who says the first text to the first client, whatever that says, and so on, and the last one to all that
    come after; gives a function that tells how many came."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(8)
        clients = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    clients.append(listener.accept()[0])
                    clients[-1].sendall(texts[min(len(clients), len(texts)) - 1] if texts else SILENT)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield lambda: len(clients)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
            for client in clients:  # each holds the socket's directory, and so the mount
                client.close()
    os.unlink(path)


def stale_socket(path):
    """What a QEMU that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)


@contextlib.contextmanager
def holding_client(path):
    """Another client that has QMP and does not let go."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        client.recv(65536)  # the greeting: it is this one's turn
        yield
