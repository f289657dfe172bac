"""limaquota plan: the cases people plan by, existing VMs, Lima's way of filling a template in, bad input."""
import hashlib
import json
import os
import platform
import shutil
import subprocess

from harness import HELPERS, MIB, Skip, expect

GIB = 1024 * MIB
PAIR = ("zfs-test-minimal", "zfs-kernel-build")
TEMPLATES = os.path.abspath(os.path.join(HELPERS, "templates"))
os.environ["LIMAQUOTA_TEMPLATES"] = TEMPLATES  # the tested program may stand anywhere


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def template(home, text, name="t.yaml"):
    return write(os.path.join(home.directory, "templates", name), text)


def plan(home, *arguments, status=0):
    # Not mounted, the home's own directory; mounted, where it is shown.
    where = home.mountpoint if os.path.ismount(home.mountpoint) else home.source
    return home.run("plan", *arguments, "--home", where, status=status)


def facts(home, *arguments, status=0):
    return json.loads(plan(home, *arguments, "--json", status=status))


def expect_equal(found, wanted, what):
    expect(found == wanted, f"{what}: {found}, not {wanted}")


def expect_in(words, text):
    for word in words:
        expect(word in text, f"{word!r} is not in: {text}")


# --- the cases people plan by

def test_20_gb_hold_the_separate_pair(new_home):
    home = new_home()
    text = plan(home, *PAIR, "--free", "20GB")
    expect_in(["VIRTUAL", "PEAK", "STEADY", "WORST CASE", "19 GiB", "16 GiB",
               "After deleting zfs-kernel-build: 3 GiB", "Answer: fits"], text)
    pair = facts(home, *PAIR, "--free", "20GB")
    expect_equal(pair["virtual"], 19 * GIB, "virtual")
    expect(abs(pair["peak"]["high"] - 16 * GIB) < 64 * MIB, f"about 16 GB at the peak: {pair['peak']}")
    expect(abs(pair["kept"]["high"] - 3 * GIB) < 64 * MIB, f"3 GB after deleting: {pair['kept']}")
    expect_equal(pair["free"], 20 * GIB, "GB is binary; free")


def test_10_gb_hold_only_the_ultra_minimal_combination(new_home):
    home = new_home()
    text = plan(home, *PAIR, "--free", "10GB", status=1)
    expect_in(["does not fit", "missing", "combined-ultra-minimal: fits, very tight"], text)
    text = plan(home, "combined-ultra-minimal", "--free", "10GB")
    expect_in(["fits, very tight", "not recommended", "What must be done", "apt-get clean", "fstrim",
               "delete the source right after the build", "8 to 9 GiB"], text)
    plan(home, "combined-minimal", "--free", "10GB", status=1)


def test_50_gb_are_plenty(new_home):
    home = new_home()
    expect_in(["plenty"], plan(home, *PAIR, "--free", "50GB"))
    for choice in facts(home, "--free", "50GB"):
        expect("plenty" in choice["answer"], f"50 GB: {choice['answer']}")


def test_5_gb_hold_the_zfs_test_only(new_home):
    home = new_home()
    plan(home, "zfs-test-minimal", "--free", "5GB")
    fitting = [[vm["template"] for vm in choice["vms"]]
               for choice in facts(home, "--free", "5GB") if choice["fits"]]
    expect_equal(fitting, [["zfs-test-minimal"]], "what fits into 5 GB")
    plan(home, "--free", "3GB", status=1)


def test_the_shipped_templates_are_as_the_table_says(new_home):
    home = new_home()
    table = {  # disk and limit, peak from and to, steady from and to, temporary
        "zfs-test-minimal": (4, 3, 3, 3, 3, False),
        "zfs-kernel-build": (15, 13, 13, 8, 8, True),
        "combined-minimal": (16, 13, 15, 5, 6, False),
        "combined-ultra-minimal": (10, 8, 9, 3, 3, False),
        "zfs-test-1g": (6, 4.5, 4.5, 4.5, 4.5, False),
    }
    for name, (disk, peak_low, peak_high, steady_low, steady_high, temporary) in table.items():
        vm = facts(home, name, "--free", "100GB")["vms"][0]
        expect_equal((vm["virtual"], vm["limit"], vm["temporary"]), (disk * GIB, disk * GIB, temporary), name)
        found = [vm["peak"]["low"], vm["peak"]["high"], vm["steady"]["low"], vm["steady"]["high"]]
        for figure, wanted in zip(found, (peak_low, peak_high, steady_low, steady_high)):
            expect(abs(figure - wanted * GIB) < 64 * MIB, f"{name}: {figure / GIB} GiB, not about {wanted}")
    expect_in(["combined-minimal: tight"], plan(home, "combined-minimal", "--free", "100GB"))


def test_zfs_overhead_is_told(new_home):
    home = new_home()
    text = plan(home, "zfs-test-minimal", "--free", "20GB")
    expect_in(["a mirror of 256 MiB files is full at about 120 MiB", "quota of 200 MiB is never reached",
               "files of 357 MiB"], text)
    expect("never reached" not in plan(home, "zfs-test-1g", "--free", "20GB"), "1 GB files hold more than that")


# --- what is there already

def test_an_empty_home_adds_nothing_but_the_reserve(new_home):
    home = new_home()
    path = template(home, "disk: 4GiB\nimages: [{location: 'https://example.org/x.qcow2'}]\n")
    fits = facts(home, path, "--free", "5GiB")
    expect_equal((fits["needed"], fits["left"], fits["growth"]), (5 * GIB, 0, 0), "needed, left, growth")
    expect_equal(facts(home, path, "--free", str(5 * GIB - 1), status=1)["missing"], 1, "missing")
    missing = os.path.join(home.directory, "no", "such", "home")
    home.run("plan", path, "--free", "5GiB", "--home", missing)


def test_growth_of_existing_vms_is_only_in_the_worst_case(new_home):
    home = new_home()
    home.add_vm("old", "raw", 64, 4096)
    home.mount()
    home.run("set", "old", "3GiB", "--home", home.mountpoint)
    path = template(home, "disk: 2GiB\n")
    growth = 3 * GIB - home.account("old")["used"]
    found = facts(home, path, "--free", "4GiB")
    expect_equal((found["mounted"], found["growth"], found["fits"]), (True, growth, True), "beside a VM")
    expect_equal(found["overcommitted"], 2 * GIB + growth + GIB - 4 * GIB, "overcommitted")
    expect_in(["overcommitted by", "existing VMs may still grow by"], plan(home, path, "--free", "4GiB"))
    expect_in(["--strict"], plan(home, path, "--free", "4GiB", "--strict", status=1))
    plan(home, path, "--free", "8GiB", "--strict")
    home.close()


def test_a_home_that_is_not_mounted_is_surveyed(new_home):
    home = new_home()
    home.add_vm("old", "raw", 64, 4096)
    path = template(home, "disk: 1MiB\n")
    found = facts(home, path, "--free", "40GiB")
    allocated = sum(os.lstat(os.path.join(place, name)).st_blocks * 512
                    for place, _, names in os.walk(os.path.join(home.source, "old")) for name in ["", *names])
    expect_equal((found["mounted"], found["growth"]), (False, 4096 * MIB - allocated), "growth by du")
    expect_in(["not mounted", "by du"], plan(home, path, "--free", "40GiB"))
    stat = os.statvfs(home.source)
    free = json.loads(home.run("plan", path, "--json", "--home", home.source,
                               status=0 if stat.f_bavail * stat.f_frsize > 2 * GIB else 1))["free"]
    expect(abs(free - stat.f_bavail * stat.f_frsize) < 4 * GIB, f"this host's free space: {free}")


# --- Lima's way of filling in

def test_the_disk_comes_from_the_config_as_in_lima(new_home):
    home = new_home()
    config = os.path.join(home.source, "_config")
    silent, telling = template(home, "cpus: 2\n", "a.yaml"), template(home, "disk: 6GiB\n", "b.yaml")

    def disk(path):
        return facts(home, path, "--free", "500GB")["virtual"]

    expect_equal(disk(silent), 100 * GIB, "Lima's default")
    write(os.path.join(config, "default.yaml"), "disk: 20GiB\n")
    expect_equal((disk(silent), disk(telling)), (20 * GIB, 6 * GIB), "default.yaml")
    write(os.path.join(config, "override.yaml"), "disk: 30GiB\n")
    expect_equal((disk(silent), disk(telling)), (30 * GIB, 30 * GIB), "override.yaml")


def test_a_base_that_is_not_read_is_told(new_home):
    home = new_home()
    path = template(home, "base: template:_images/debian-12\n")
    expect_in(["100GiB assumed", "warning"], plan(home, path, "--free", "500GB"))
    expect_equal(facts(home, path, "--free", "500GB")["virtual"], 100 * GIB, "virtual")
    told = template(home, "base: template:_images/debian-12\ndisk: 7GiB\n", "told.yaml")
    expect("warning" not in plan(home, told, "--free", "500GB"), "its disk is known")
    template(home, "disk: 8GiB\n", "base.yaml")
    local = template(home, "base: [base.yaml]\n", "local.yaml")
    expect_equal(facts(home, local, "--free", "500GB")["virtual"], 8 * GIB, "a base that is a file")
    loop = template(home, "base: [loop.yaml]\n", "loop.yaml")
    expect_in(["100GiB assumed"], plan(home, loop, "--free", "500GB"))


def test_additional_disks_count_with_their_virtual_size(new_home):
    home = new_home()
    path = template(home, "disk: 4GiB\nadditionalDisks:\n- name: data\n")
    expect_in(["'data'", "limactl disk create data"], plan(home, path, "--free", "100GB", status=1))
    datadisk = write(os.path.join(home.source, "_disks", "data", "datadisk"), "")
    os.truncate(datadisk, 2 * GIB)
    found = facts(home, path, "--free", "7GiB")
    expect_equal((found["virtual"], found["peak"]["high"], found["left"]), (6 * GIB, 6 * GIB, 0), "with its disk")
    expect_equal((found["growth"], found["overcommitted"]), (0, 0), "its growth is the new VM's")
    os.makedirs(os.path.join(home.source, "_disks", "other"))
    os.truncate(write(os.path.join(home.source, "_disks", "other", "datadisk"), ""), GIB)
    growth = facts(home, path, "--free", "7GiB")["growth"]
    expect(0 < GIB - growth < MIB, f"another disk may grow by its own: {growth}")
    os.makedirs(os.path.join(home.source, "vm"))
    os.symlink(os.path.join(home.source, "vm"), os.path.join(home.source, "_disks", "data", "in_use_by"))
    expect_in(["warning", "in use by another VM"], plan(home, path, "--free", "7GiB"))


def test_additional_disks_come_on_top_of_the_profile(new_home):
    home = new_home()
    path = template(home, "disk: 4GiB\nadditionalDisks:\n- name: data\n")
    template(home, "limit: 3GiB\nlines:\n- {name: all, peak: 2GiB, steady: 1GiB}\n", "t.profile.yaml")
    datadisk = write(os.path.join(home.source, "_disks", "data", "datadisk"), "x" * MIB)
    os.truncate(datadisk, 2 * GIB)
    present = os.stat(datadisk).st_blocks * 512
    found = facts(home, path, "--free", "20GiB")
    vm = found["vms"][0]
    expect_equal((vm["virtual"], vm["limit"], vm["peak"]["high"], vm["steady"]["high"], vm["present"]),
                 (6 * GIB, 5 * GIB, 4 * GIB, 3 * GIB, present), "virtual, limit, peak, steady, present")
    expect_equal((found["needed"], found["worst_case"]), (5 * GIB - present, 5 * GIB - present), "without what is there")
    expect_in(["4 GiB - 1 MiB there already + reserve 1 GiB"], plan(home, path, "--free", "20GiB"))


def test_images_are_counted_where_lima_has_to_download_them(new_home):
    home = new_home()
    url = "https://example.org/image.qcow2"
    path = template(home, f"disk: 1MiB\nimages:\n- location: {url}\n  arch: {platform.machine()}\n")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = os.path.join(home.directory, "cache")
    try:
        expect_in(["image not counted: size unknown"], plan(home, path))
        template(home, "image: 3MiB\n", "t.profile.yaml")
        expect_equal(facts(home, path)["images"], 3 * MIB, "one download")
        expect_equal(facts(home, path, path)["images"], 3 * MIB, "two VMs share a download")
        digest = hashlib.sha256(url.encode()).hexdigest()
        write(os.path.join(home.directory, "cache", "lima", "download", "by-url-sha256", digest, "data"), "")
        expect_equal(facts(home, path)["images"], 0, "in the cache")
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def test_without_a_profile_the_peak_is_the_virtual_size(new_home):
    home = new_home()
    found = facts(home, template(home, "disk: 12GiB\n"), "--free", "50GB")
    expect_equal((found["peak"]["low"], found["peak"]["high"]), (12 * GIB, 12 * GIB), "peak")
    expect("no profile" in str(found["vms"][0]["notes"]), f"{found['vms'][0]}")


# --- bad input

def test_bad_input_is_wrong_use_in_one_line(new_home):
    home = new_home()
    good = template(home, "disk: 1GiB\n", "good.yaml")
    cases = [[good, "--free", size] for size in ("15 parsecs", "-1", "1e3G", "99999999999T", "")]
    for name, text in (("words.yaml", "just words\n"), ("open.yaml", "a: [\n"), ("list.yaml", "- a\n"),
                       ("size.yaml", "disk: 15 parsecs\n"), ("deep.yaml", "a: " + "[" * 100000)):
        cases.append([template(home, text, name)])
    template(home, "limt: 1GiB\n", "bad.profile.yaml")
    cases.append([template(home, "disk: 1GiB\n", "bad.yaml")])
    fifo = os.path.join(home.directory, "templates", "fifo.yaml")
    os.mkfifo(fifo)
    cases += [["no-such-template"], ["./no/such.yaml"], ["template:debian"], [home.directory + "/"], [fifo]]
    for arguments in cases:
        text = plan(home, *arguments, status=2)
        expect(text.startswith("limaquota: ") and text.count("\n") == 1, f"{arguments}: not one line: {text!r}")


def scripts_of(name):
    """The provisioning scripts of a shipped template."""
    with open(os.path.join(TEMPLATES, name + ".yaml"), encoding="utf-8") as file:
        blocks = file.read().split("  script: |\n")[1:]
    return ["\n".join(line[4:] for line in block.splitlines() if line.startswith("    ") or not line)
            for block in blocks]


def provision(home, name, **statuses):
    """Runs them with stand-ins that record their calls and end as told; the guest's directories are in the home's."""
    guest = os.path.join(home.directory, "guest")
    for program in ("modprobe", "zpool", "zfs", "apt-get", "uname"):
        path = write(os.path.join(guest, "bin", program),
                     f'#!/bin/sh\necho "{program} $*" >>{guest}/calls\nexit {statuses.get(program.replace("-", "_"), 0)}\n')
        os.chmod(path, 0o755)
    os.makedirs(os.path.join(guest, "etc/apt/sources.list.d"), exist_ok=True)
    write(os.path.join(guest, "calls"), "")
    for script in scripts_of(name):
        for directory in ("/etc/", "/var/lib/", "/usr/src/"):
            script = script.replace(directory, guest + directory)
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False,
                                env={"PATH": f"{guest}/bin:/usr/bin:/bin"})
        if result.returncode != 0:
            break
    with open(os.path.join(guest, "calls"), encoding="utf-8") as file:
        return result, file.read()


def test_provisioning_does_nothing_where_its_work_is_there(new_home):
    for name in ("zfs-test-minimal", "zfs-test-1g", "zfs-kernel-build", "combined-minimal", "combined-ultra-minimal"):
        home = new_home()
        write(os.path.join(home.directory, "guest/var/lib/kernel-source-unpacked"), "")
        result, calls = provision(home, name)
        expect(result.returncode == 0, f"{name}: {result.stderr}")
        expect("apt-get" not in calls and "create" not in calls, f"{name}: {calls}")
        expect(("zpool" in calls) == (name != "zfs-kernel-build"), f"{name}: {calls}")


def test_provisioning_fails_where_the_module_is_missing(new_home):
    for name in ("zfs-test-minimal", "zfs-test-1g", "combined-minimal", "combined-ultra-minimal"):
        home = new_home()
        write(os.path.join(home.directory, "guest/var/lib/kernel-source-unpacked"), "")
        result, calls = provision(home, name, modprobe=1)
        expect(result.returncode != 0 and "no zfs module" in result.stderr, f"{name}: {result}")
        expect("zfs-dkms" in calls, f"{name} tried to install it: {calls}")


def test_limactl_validates_the_shipped_templates(new_home):
    if shutil.which("limactl") is None or os.geteuid() == 0:
        raise Skip("no limactl" if os.geteuid() else "limactl does not run as root")
    home = new_home()
    for name in sorted(os.listdir(TEMPLATES)):
        if name.endswith(".profile.yaml"):
            continue
        result = subprocess.run(["limactl", "validate", os.path.join(TEMPLATES, name)], capture_output=True,
                                text=True, check=False, env={**os.environ, "HOME": home.directory})
        expect(result.returncode == 0 and "level=warn" not in result.stderr, f"{name}: {result.stderr}")
