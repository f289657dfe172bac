"""reclaim of stopped VMs: what is given back, and what stays. By an ordinary user."""
import json
import os
import random
import shutil
import struct

from guest_disk import GONE, GuestDisk, run, tool
from harness import MIB, expect
from stopped_vm import (RANDOM, ZEROS, add_disk, allocated, bytes_disk, content_of, disk_of, expect_clean, reclaim,
                        reclaim_json)
from terminal import on_terminal


def zeros_are_given_back(new_home, image_format):
    home = new_home()
    content = add_disk(home, "vm", bytes_disk, image_format)
    home.mount()
    disk = disk_of(home, "vm")
    before = home.account("vm")["used"]
    would = reclaim_json(home, "vm", "--offline", "--dry-run")
    expect(home.account("vm")["used"] == before, f"a dry run changed something: {before} became {home.account('vm')}")
    expect(ZEROS <= would["would_free"] <= ZEROS + 9 * MIB, f"would free {would}")
    done = reclaim_json(home, "vm", "--offline")
    won = before - home.account("vm")["used"]
    expect(won == done["used_before"] - done["used_after"], f"the figures are not those of .usage: {done}")
    expect(won >= ZEROS - MIB, f"{won} bytes given back of {ZEROS} zeros: {done}")
    # What a dry run says is what is won, but for metadata.
    expect(abs(won - would["would_free"]) <= MIB, f"won {won}, the dry run said {would['would_free']}")
    now = content_of(disk, image_format, home.directory)
    expect(now[:len(content)] == content and not now[len(content):].strip(b"\0"), "the content changed")
    again = reclaim_json(home, "vm", "--offline")
    expect(again["used_before"] - again["used_after"] <= 65536, f"a second run won again: {again}")
    expect_clean(home, "vm", image_format)
    home.close()


def test_raw_zeros_are_given_back(new_home):
    zeros_are_given_back(new_home, "raw")


def test_qcow2_zeros_are_given_back(new_home):
    zeros_are_given_back(new_home, "qcow2")


def test_every_granule_of_zeros_goes_and_nothing_else(new_home):
    """Holes, zeros and bytes in runs of random length, compared with a count block by block."""
    block, granule, blocks = 4096, 16384, 6000
    kinds, chance = [], random.Random(1)
    while len(kinds) < blocks:
        kinds += [chance.choice("h0x")] * chance.choice((1, 2, 3, 5, 8, 40, 300))
    kinds = kinds[:blocks - 1] + ["x"]  # the last granule is not a whole one

    def make(path):
        with open(path, "xb") as file:
            for number, kind in enumerate(kinds):
                if kind != "h":
                    file.seek(number * block)
                    file.write(bytes(block) if kind == "0" else os.urandom(block))
    home = new_home()
    add_disk(home, "vm", make)
    home.mount()
    disk = disk_of(home, "vm")
    before = content_of(disk, "raw", home.directory)
    per = granule // block
    kept = sum(sum(kind != "h" for kind in kinds[at:at + per]) * block
               for at in range(0, len(kinds), per) if "x" in kinds[at:at + per])
    would = reclaim_json(home, "vm", "--offline", "--dry-run")
    reclaim(home, "vm", "--offline")
    expect(kept <= allocated(disk) <= kept + 65536, f"allocated {allocated(disk)}, expected {kept}")
    expect(abs(would["used_before"] - would["would_free"] - home.account("vm")["used"]) <= 65536, f"{would}")
    expect(content_of(disk, "raw", home.directory) == before, "the content changed")
    home.close()


def ext4_free_blocks_are_given_back(new_home, image_format, table, options=()):
    home = new_home()
    guest = add_disk(home, "vm", lambda path: GuestDisk(path, table, options=options), image_format)
    home.mount()
    done = reclaim_json(home, "vm", "--offline")
    won = done["used_before"] - done["used_after"]
    expect(won >= GONE * 0.95, f"{won} bytes given back, of a removed file of {GONE}: {done}")
    expect(done["disks"][0]["free_bytes"] >= GONE * 0.9, f"not known to be free: {done}")
    guest.check(disk_of(home, "vm"), image_format)
    expect_clean(home, "vm", image_format)
    home.close()


def test_raw_gpt_ext4_free_blocks_are_given_back(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "gpt")


def test_raw_mbr_ext4_with_1k_blocks(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "mbr", ("-b", "1024"))


def test_raw_whole_disk_ext4_with_bigalloc(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "none", ("-O", "bigalloc", "-C", "16384"))


def test_qcow2_gpt_ext4_free_blocks_are_given_back(new_home):
    ext4_free_blocks_are_given_back(new_home, "qcow2", "gpt")


def not_believed(new_home, spoil, word, options=()):
    """Only zeros are given back, and the reason is said."""
    home = new_home()
    add_disk(home, "vm", lambda path: GuestDisk(path, "gpt", options=options, spoil=spoil))
    home.mount()
    before = content_of(disk_of(home, "vm"), "raw", home.directory)
    done = reclaim_json(home, "vm", "--offline")
    expect(done["disks"][0]["free_bytes"] == 0, f"believed: {done}")
    expect(any(word in note for note in done["notes"]), f"does not say {word!r}: {done}")
    expect(content_of(disk_of(home, "vm"), "raw", home.directory) == before, "the content changed")
    home.close()


def debugfs(*requests):
    def spoil(part):
        for request in requests:
            run(tool("debugfs"), "-w", "-R", request, part)
    return spoil


def test_a_journal_that_needs_recovery_is_not_believed(new_home):
    not_believed(new_home, debugfs("feature needs_recovery"), "journal")


def test_an_error_state_is_not_believed(new_home):
    not_believed(new_home, debugfs("ssv state 3"), "errors")


def change_bitmap(change):
    """Spoils the first group's block bitmap: change(bytearray)."""
    def spoil(part):
        text = run(tool("debugfs"), "-R", "stats", part)
        block = int(text.split("block bitmap at ")[1].split(",")[0])
        size = 4096 if "Block size:               4096" in text else 1024  # the default depends on the disk's size
        with open(part, "r+b") as file:
            file.seek(block * size)
            bitmap = bytearray(file.read(size))
            change(bitmap)
            file.seek(block * size)
            file.write(bitmap)
    return spoil


def flip(bitmap):
    bitmap[100] ^= 0xff


def clear(bitmap):
    bitmap[:] = bytes(len(bitmap))


def free_the_superblock(bitmap):
    """As many free blocks as before."""
    bitmap[0] &= ~1
    at = next(at for at, byte in enumerate(bitmap) if byte != 0xff and at > 0)
    bitmap[at] |= bitmap[at] + 1


def test_a_damaged_bitmap_is_not_believed(new_home):
    not_believed(new_home, change_bitmap(flip), "is damaged")


def test_a_damaged_bitmap_without_checksums_is_not_believed(new_home):
    for options in (("-O", "^metadata_csum"), ("-t", "ext3")):
        for change in (flip, clear, free_the_superblock):
            not_believed(new_home, change_bitmap(change), "is damaged", options)


def test_raw_gpt_ext3_free_blocks_are_given_back(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "gpt", ("-t", "ext3"))


def test_raw_ext4_without_checksums(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "gpt", ("-O", "^metadata_csum,^flex_bg"))


def test_raw_ext4_with_meta_bg(new_home):
    ext4_free_blocks_are_given_back(new_home, "raw", "gpt", ("-O", "^resize_inode,meta_bg"))


def test_an_ext4_under_another_filesystem_is_not_believed(new_home):
    """What remains of an old ext4 in an md member or under XFS must not free the new one's blocks."""
    def spoil(part):
        with open(part, "r+b") as file:
            # An md 1.2 superblock: at 4096, magic, version 1; its checksum over 256 bytes.
            block = bytearray(struct.pack("<III", 0xa92b4efc, 1, 0) + bytes(256 - 12))
            struct.pack_into("<Q", block, 144, 8)  # super_offset
            total = sum(struct.unpack("<64I", block))
            struct.pack_into("<I", block, 216, ((total & 0xffffffff) + (total >> 32)) & 0xffffffff)
            file.seek(4096)
            file.write(block)
    home = new_home()
    add_disk(home, "vm", lambda path: GuestDisk(path, "gpt", spoil=spoil))
    home.mount()
    before = content_of(disk_of(home, "vm"), "raw", home.directory)
    done = reclaim_json(home, "vm", "--offline")
    expect(done["disks"][0]["free_bytes"] == 0, f"believed: {done}")
    expect(content_of(disk_of(home, "vm"), "raw", home.directory) == before, "the content changed")
    home.close()


def test_blocks_allocated_ahead_are_given_back(new_home):
    def make(path):
        with open(path, "xb") as file:
            file.write(os.urandom(MIB))
            os.posix_fallocate(file.fileno(), 0, 16 * MIB)
    home = new_home()
    add_disk(home, "vm", make)
    home.mount()
    would = reclaim_json(home, "vm", "--offline", "--dry-run")
    done = reclaim_json(home, "vm", "--offline")
    won = done["used_before"] - done["used_after"]
    expect(won >= 15 * MIB - 65536 and abs(won - would["would_free"]) <= 65536, f"{would} {done}")
    home.close()


def test_zero_clusters_that_keep_their_place_are_given_back(new_home):
    """A guest's write of zeros without unmap leaves clusters with the zero flag and an offset."""
    def make(path):
        with open(path, "xb") as file:
            file.write(os.urandom(16 * MIB))
    home = new_home()
    add_disk(home, "vm", make, "qcow2")
    source = os.path.join(home.source, "vm", "disk")
    run("qemu-img", "resize", "-q", source, "24M")
    # Whole clusters and, in the last, a part; then clusters that never had a place.
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -z {MIB} {9 * MIB}",
        "-c", f"write -q -z {12 * MIB} {MIB + 4096}", "-c", f"write -q -z -u {20 * MIB} {MIB}", source)
    kept = [part for part in json.loads(run("qemu-img", "map", "--output=json", source))
            if part["zero"] and "offset" in part]
    expect(sum(part["length"] for part in kept) == 10 * MIB, f"not what is to be tried: {kept}")
    home.mount()
    before = allocated(disk_of(home, "vm"))
    content = content_of(disk_of(home, "vm"), "qcow2", home.directory)
    would = reclaim_json(home, "vm", "--offline", "--dry-run")
    expect(abs(would["would_free"] - 10 * MIB) <= 65536, f"{would}")
    done = reclaim_json(home, "vm", "--offline")
    won = before - allocated(disk_of(home, "vm"))
    expect(abs(won - 10 * MIB) <= 65536 and done["used_before"] - done["used_after"] == won, f"won {won}: {done}")
    expect(content_of(disk_of(home, "vm"), "qcow2", home.directory) == content, "the content changed")
    again = reclaim_json(home, "vm", "--offline", "--dry-run")
    expect(again["would_free"] == 0, f"a second run would win again: {again}")
    expect_clean(home, "vm", "qcow2")
    home.close()


def add_overlay(home, name):
    """A VM of a raw `basedisk` and an empty qcow2 `name` above it: (what the basedisk holds, the path of the qcow2)."""
    content = add_disk(home, "vm", bytes_disk)
    directory = os.path.join(home.source, "vm")
    os.rename(os.path.join(directory, "disk"), os.path.join(directory, "basedisk"))
    overlay = os.path.join(directory, name)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "basedisk", overlay)
    return content, overlay


def test_zero_clusters_above_a_backing_file_still_read_as_zeros(new_home):
    home = new_home()
    content, disk = add_overlay(home, "disk")
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 7 0 {2 * MIB}", "-c", f"write -q -z 0 {MIB}", disk)
    home.mount()
    before = allocated(disk_of(home, "vm"))
    reclaim(home, "vm", "--offline")
    expect(before - allocated(disk_of(home, "vm")) >= MIB - 65536, "nothing was given back")
    now = content_of(disk_of(home, "vm"), "qcow2", home.directory)
    expect(now[:len(content)] == bytes(MIB) + b"\7" * MIB + content[2 * MIB:], "the content changed")
    expect(not now[len(content):].strip(b"\0"), "the content changed")
    run("qemu-img", "check", disk_of(home, "vm"))
    home.close()


def test_a_full_vm_is_reclaimed(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk, "qcow2")
    home.mount()
    home.run("set", "vm", "8MiB", "--home", home.mountpoint)
    expect(home.account("vm")["state"] == "over", "the VM should be over its limit")
    reclaim(home, "vm", "--offline")
    expect(home.account("vm")["state"] != "over", f"still over: {home.account('vm')}")
    home.close()


def test_a_symlinked_disk_and_its_backing_file(new_home):
    """Lima 2.0's layout, migrated: disk -> diffdisk, backed by basedisk. The overlay alone is worked on."""
    home = new_home()
    content, diff = add_overlay(home, "diffdisk")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0 0 4M", "-c", "write -P 7 4M 1M", diff)
    os.symlink("diffdisk", os.path.join(home.source, "vm", "disk"))
    expected = bytes(4 * MIB) + b"\7" * MIB + content[5 * MIB:]
    home.mount()
    base = allocated(os.path.join(home.mountpoint, "vm", "basedisk"))
    done = reclaim_json(home, "vm", "--offline")
    expect(done["used_before"] - done["used_after"] >= 4 * MIB - 65536, f"{done}")
    expect([disk["name"] for disk in done["disks"]] == ["vm/diffdisk"], f"{done}")
    expect(allocated(os.path.join(home.mountpoint, "vm", "basedisk")) == base, "the backing file was changed")
    now = content_of(disk_of(home, "vm"), "qcow2", home.directory)
    expect(now[:len(expected)] == expected, "what the overlay had zeroed shows the backing file's bytes")
    done = reclaim_json(home, "vm", "--compress")
    expect(os.path.islink(disk_of(home, "vm")), "the symlink was replaced")
    expect(content_of(disk_of(home, "vm"), "qcow2", home.directory) == now, "compressing changed the content")
    info = json.loads(run("qemu-img", "info", "--output=json", os.path.join(home.mountpoint, "vm", "diffdisk")))
    expect(info["backing-filename"] == "basedisk", f"another backing file: {info}")
    home.close()


def text_disk(path):
    with open(path, "xb") as file:
        file.write(b"what compresses well, and is no zero. " * (12 * MIB // 38))
        file.truncate(16 * MIB)


def test_compress(new_home):
    home = new_home()
    add_disk(home, "vm", text_disk, "qcow2")
    os.chmod(os.path.join(home.source, "vm", "disk"), 0o640)
    home.mount()
    before = content_of(disk_of(home, "vm"), "qcow2", home.directory)
    done = reclaim_json(home, "vm", "--compress")
    expect(done["used_after"] < done["used_before"] / 4, f"{done}")
    expect(os.stat(disk_of(home, "vm")).st_mode & 0o777 == 0o640, "another mode")
    expect(content_of(disk_of(home, "vm"), "qcow2", home.directory) == before, "the content changed")
    expect_clean(home, "vm", "qcow2")
    home.close()


def test_a_dry_run_of_compress_tells_about_what_it_wins(new_home):
    def make(path):
        with open(path, "xb") as file:
            for number in range(96):  # more than a sample; of half of it nothing is won
                text = os.urandom(32) + b"what compresses, about that well. " * (MIB // 34)
                file.write(text[:MIB] if number % 2 else os.urandom(MIB))
    for make_disk, tolerance in ((make, 0.1), (text_disk, 0.1)):
        home = new_home()
        add_disk(home, "vm", make_disk, "qcow2")
        home.mount()
        before = os.stat(disk_of(home, "vm"))
        would = reclaim_json(home, "vm", "--compress", "--dry-run")
        after = os.stat(disk_of(home, "vm"))
        expect((after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "the disk was written to")
        expect(any("would become about" in note for note in would["notes"]), f"{would}")
        done = reclaim_json(home, "vm", "--compress")
        won = done["used_before"] - done["used_after"]
        expect(won > 0 and abs(would["would_free"] - won) <= won * tolerance, f"{would['would_free']}, won {won}")
        again = reclaim_json(home, "vm", "--compress", "--dry-run")
        expect(again["would_free"] <= won * tolerance, f"what is compressed would be so again: {again}")
        home.close()


def slow_qemu_img(home):
    """An environment in which each qemu-img -p or check runs longer than the second in which no bar is shown."""
    directory = os.path.join(home.directory, "bin")
    os.makedirs(directory)
    script = os.path.join(directory, "qemu-img")
    with open(script, "x", encoding="utf-8") as file:
        file.write(f"""#!/bin/sh
case $1 in convert|compare|check) ;; *) exec {shutil.which("qemu-img")} "$@" ;; esac
sleep 1.2
{shutil.which("qemu-img")} "$@"
status=$?
sleep 0.5
exit $status
""")
    os.chmod(script, 0o755)
    return dict(os.environ, PATH=f"{directory}:{os.environ['PATH']}")


def test_what_does_not_compress_stays_and_a_bar_shows_how_far_it_is(new_home):
    def make(path):
        with open(path, "xb") as file:
            for _ in range(8):
                file.write(os.urandom(MIB))
    home = new_home()
    add_disk(home, "vm", make, "qcow2")
    home.mount()
    before = os.stat(disk_of(home, "vm"))
    status, shown = on_terminal([home.limaquota, "reclaim", "vm", "--compress", "--home", home.mountpoint],
                                environment=slow_qemu_img(home))
    expect(status == 0 and "does not become smaller" in shown, shown)
    for what in ("check", "compress"):
        expect(f"{what} disk: " in shown and " %)" in shown and "\r" in shown, f"no bar: {shown!r}")
    after = os.stat(disk_of(home, "vm"))
    expect((after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "the disk was written to")
    expect_clean(home, "vm", "qcow2")
    home.close()


def test_an_attached_disk_is_reclaimed_with_its_vm(new_home):
    home = new_home()
    add_disk(home, "vm", bytes_disk)
    data = os.path.join(home.source, "_disks", "data")
    os.makedirs(data)
    os.rename(os.path.join(home.source, "vm", "disk"), os.path.join(data, "datadisk"))
    os.symlink(os.path.join(home.source, "vm"), os.path.join(data, "in_use_by"))
    with open(os.path.join(home.source, "vm", "disk"), "wb") as file:
        file.truncate(MIB)
    home.mount()
    done = reclaim_json(home, "vm", "--offline")
    expect([disk["name"] for disk in done["disks"]] == ["vm/disk", "_disks/data/datadisk"], f"{done}")
    expect(done["used_before"] - done["used_after"] >= ZEROS - MIB, f"{done}")
    home.close()


def test_a_hostile_disk_is_survived(new_home):
    """Bytes of the partition table, the superblock and the bitmaps that are anything at all."""
    home = new_home()
    add_disk(home, "vm", lambda path: GuestDisk(path, "gpt", mib=32, options=("-O", "^metadata_csum")))
    home.mount()
    disk = disk_of(home, "vm")
    with open(disk, "rb") as file:
        whole = file.read()
    meta = 65536  # of the start of the partition: superblock, descriptors, bitmaps
    chance = random.Random(20)
    for number in range(40):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 4, 40))):
            place = chance.choice((chance.randrange(17408), (1 << 20) + 1024 + chance.randrange(256),
                                   (1 << 20) + chance.randrange(meta)))
            changed[place] = chance.choice((0, 1, 0x7f, 0x80, 0xff, chance.randrange(256)))
        with open(disk, "r+b") as file:
            file.write(changed[:(1 << 20) + meta])
        done = reclaim_json(home, "vm", "--offline", "--dry-run")
        found = done["disks"][0]
        expect(found["zero_bytes"] + found["free_bytes"] <= len(whole), f"{number}: {done}")
    home.close()


def test_compress_that_does_not_fit_is_refused_with_the_figures(new_home):
    home = new_home()
    add_disk(home, "vm", text_disk, "qcow2")
    home.mount()
    home.run("set", "vm", "40MiB", "--home", home.mountpoint)  # 24 MiB before the disk line
    used = home.account("vm")["used"]
    home.run("set", "vm", f"{used // MIB + 20}MiB", "--home", home.mountpoint)
    text = reclaim(home, "vm", "--compress", status=1)
    expect("is writable (limit" in text.splitlines()[-1], text)
    expect_clean(home, "vm", "qcow2")
    home.close()
