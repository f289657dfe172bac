"""Whatever libfuse knows by itself, and whatever it leaves to us: the kernel is told the same."""
import os
import resource

from harness import MIB, Skip, expect
from negotiated import (ASYNC_READ, ATOMIC_O_TRUNC, AUTO_INVAL_DATA, BIG_WRITES, DIRECT_IO_ALLOW_MMAP, DO_READDIRPLUS, DONT_MASK,
                        EXPORT_SUPPORT, HANDLE_KILLPRIV_V2, INIT_EXT, MAX_PAGES, OVER_IO_URING, PARALLEL_DIROPS, POSIX_ACL,
                        READDIRPLUS_AUTO, negotiated)

WANTED = (ASYNC_READ | ATOMIC_O_TRUNC | AUTO_INVAL_DATA | BIG_WRITES | DIRECT_IO_ALLOW_MMAP | DO_READDIRPLUS | DONT_MASK |
          EXPORT_SUPPORT | HANDLE_KILLPRIV_V2 | INIT_EXT | MAX_PAGES | PARALLEL_DIROPS | POSIX_ACL | READDIRPLUS_AUTO)


def check(home, wanted):
    offered, readahead, answer = negotiated(home)
    print(f"INIT: offered {offered:#x}, answered {answer.flags:#x}, {answer}", flush=True)
    expect(answer.flags == wanted & offered, f"missing {wanted & offered & ~answer.flags:#x}, "
           f"too much {answer.flags & ~(wanted & offered):#x}")
    expect(answer.max_write == MIB, f"the largest write: {answer.max_write}")
    expect(answer.max_pages == MIB // resource.getpagesize(), f"its pages: {answer.max_pages}")
    expect(answer.max_readahead == readahead, f"readahead {answer.max_readahead}, offered {readahead}")
    expect((answer.max_background, answer.congestion_threshold) == (64, 48), f"{answer}")
    expect((answer.major, answer.time_gran, answer.map_alignment) == (7, 1, 0), f"{answer}")


def test_the_kernel_is_told_the_same_with_every_libfuse(new_home):
    home = new_home()
    home.mount()
    check(home, WANTED)
    home.close()


def test_libfuse_starts_no_queues_of_its_own(new_home):
    os.environ["FUSE_URING_ENABLE"] = "1"  # enough for libfuse 3.18
    try:
        home = new_home()
        home.mount()
    finally:
        del os.environ["FUSE_URING_ENABLE"]
    check(home, WANTED)
    home.close()


def test_requests_come_through_io_uring_where_that_is_asked_for(new_home):
    try:
        with open("/sys/module/fuse/parameters/enable_uring", encoding="ascii") as file:
            offers = file.read().strip() == "Y"
    except FileNotFoundError:
        offers = False
    if not offers:
        raise Skip("the kernel does not offer FUSE over io_uring")
    home = new_home(options=["io_uring"])
    home.mount()
    check(home, WANTED | OVER_IO_URING)
    directory = os.path.join(home.mountpoint, "vm")
    os.mkdir(directory)
    content = os.urandom(3 * MIB)
    with open(os.path.join(directory, "disk"), "xb") as file:
        file.write(content)
    with open(os.path.join(home.source, "vm", "disk"), "rb") as file:
        expect(file.read() == content, "what was written through the queues is underneath")
    home.close()
