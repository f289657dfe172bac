"""What the kernel offered a mount in its INIT request, and what the mount answered: as the daemon notes both for the worker
that takes over (fs/handover/notes.hpp)."""
import collections
import glob
import os
import struct

from harness import expect

# Of <linux/fuse.h>; INIT carries the upper half in flags2.
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
EXPORT_SUPPORT = 1 << 4
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30
DIRECT_IO_ALLOW_MMAP = 1 << 36
HAS_RESEND = 1 << 39
OVER_IO_URING = 1 << 41

_INIT = 26  # the opcode
_IN_HEADER, _OUT_HEADER = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
_IN, _OUT = struct.Struct("=IIIII44x"), struct.Struct("=IIIIHHIIHHII24x")
_KEPT_BYTES = 512  # of each, the answer right behind the request

Answer = collections.namedtuple("Answer", "major minor max_readahead flags max_background congestion_threshold max_write "
                                "time_gran max_pages map_alignment")
Negotiated = collections.namedtuple("Negotiated", "offered offered_readahead answer")


def _notes(pid):
    for path in glob.glob(f"/proc/{pid}/fd/*"):
        if os.readlink(path).startswith("/memfd:limaquota-notes"):
            with open(path, "rb") as file:
                return file.read(1 << 16)
    return b""


def negotiated(home):
    notes = _notes(home.daemon_pid())
    at = notes.find(struct.pack("=II", _IN_HEADER.size + _IN.size, _INIT))
    expect(at >= 0, "the daemon notes the INIT request")
    _, _, unique, *_ = _IN_HEADER.unpack_from(notes, at)
    _, _, readahead, flags, flags2 = _IN.unpack_from(notes, at + _IN_HEADER.size)
    offered = flags | (flags2 << 32 if flags & INIT_EXT else 0)
    at += _KEPT_BYTES
    expect(_OUT_HEADER.unpack_from(notes, at) == (_OUT_HEADER.size + _OUT.size, 0, unique), "and its answer")
    major, minor, max_readahead, flags, background, congestion, max_write, gran, pages, alignment, flags2, depth = \
        _OUT.unpack_from(notes, at + _OUT_HEADER.size)
    expect(depth == 0, f"no passthrough: {depth}")
    return Negotiated(offered, readahead, Answer(major, minor, max_readahead, flags | flags2 << 32, background, congestion,
                                                 max_write, gran, pages, alignment))
