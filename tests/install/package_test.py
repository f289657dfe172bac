"""cmake --install, the Debian package in a clean chroot, /etc/fstab there, and an upgrade under what it mounts."""
import glob
import gzip
import os
import re
import shutil
import subprocess

from harness import Skip, expect

FILES = {"bin/limaquota", "bin/limactl-quota", "sbin/mount.fuse.limaquota", "share/man/man1/limaquota.1",
         "share/man/man1/limactl-quota.1", "share/man/man5/limaquota.5", "share/man/man8/mount.fuse.limaquota.8",
         "share/bash-completion/completions/limaquota", "share/fish/vendor_completions.d/limaquota.fish"}
# Covers a home in place and shows another elsewhere; each must answer, hold a limit, and go.
FSTAB_SCRIPT = """
mv /etc/fstab /etc/fstab.before
mkdir -p /srv/lima/vm /srv/other/vm /mnt/other
echo '/srv/lima  /srv/lima   fuse.limaquota  allow_other,nofail  0  0'  > /etc/fstab
echo '/srv/other /mnt/other  fuse.limaquota  defaults,edquot     0  0' >> /etc/fstab
mount -a
for home in /srv/lima /mnt/other; do
  findmnt -n -o FSTYPE $home | grep -x fuse.limaquota
  limaquota set vm 1MiB --home $home
  ! head -c 4M /dev/zero > $home/vm/disk
  [ $(du -s --block-size=1 $home/vm | cut -f 1) -le 1048576 ]
done
setpriv --reuid 65534 --regid 65534 --clear-groups ls /srv/lima/.usage/vm
# Installed anew: what is mounted, and has a file open, is served by what lies there now.
exec 3> /srv/lima/open
worker() { sed -n 's/^worker_pid //p' $1/.usage/_host; }
before=$(worker /srv/lima) other_before=$(worker /mnt/other)
dpkg -i /limaquota.deb
[ $before != $(worker /srv/lima) ]
[ $other_before != $(worker /mnt/other) ]
[ $(readlink /proc/$(worker /srv/lima)/exe) = /usr/bin/limaquota ]
echo text >&3
exec 3>&-
grep -x text /srv/lima/open
umount /srv/lima
umount /mnt/other
! findmnt -t fuse.limaquota
[ -s /srv/lima/.quota/vm ] && [ -s /srv/other/.quota/vm ]
rm -r /srv/lima /srv/other /mnt/other
mv /etc/fstab.before /etc/fstab
"""


def build_directory():
    build = os.environ.get("LIMAQUOTA_BUILD", "")
    if not os.path.exists(os.path.join(build, "CPackConfig.cmake")):
        raise Skip("LIMAQUOTA_BUILD names no build directory")
    return build


def run(*words, **how):
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
                            **how)
    expect(result.returncode == 0, f"{' '.join(words)}: status {result.returncode}: {result.stdout[-2000:]}")
    return result.stdout


def files_below(root):
    return {os.path.relpath(os.path.join(directory, name), root)
            for directory, names, others in os.walk(root) for name in names + others}


def test_cmake_install_lays_out_a_prefix_from_which_everything_runs(new_home):
    prefix = os.path.join(new_home().directory, "prefix")
    run("cmake", "--install", build_directory(), "--prefix", prefix)
    missing = FILES - files_below(prefix)
    expect(not missing, f"not installed: {missing}")
    program = os.path.join(prefix, "bin", "limaquota")
    version = run(program, "--version")
    env = {"PATH": f"{prefix}/bin:{os.environ['PATH']}"}
    expect(run(os.path.join(prefix, "bin", "limactl-quota"), "--version", env=env) == version, "the plugin")
    result = subprocess.run([os.path.join(prefix, "bin", "limactl-quota"), "nonsense"], env=env, check=False,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    expect(result.returncode == 2, "the plugin hands its exit status on")
    helper = os.path.join(prefix, "sbin", "mount.fuse.limaquota")
    home, elsewhere = os.path.join(prefix, "home"), os.path.join(prefix, "elsewhere")
    os.makedirs(home)
    os.makedirs(elsewhere)
    run(helper, home, elsewhere, "-o", "rw,nofail")
    expect(os.path.exists(os.path.join(elsewhere, ".usage", "_host")), "the helper finds limaquota beside it")
    run("umount", elsewhere)


def test_the_plugin_is_what_limactl_looks_for(new_home):
    prefix = os.path.join(new_home().directory, "prefix")
    run("cmake", "--install", build_directory(), "--prefix", prefix)
    with open(os.path.join(prefix, "bin", "limactl-quota"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    expect(len(lines) == 2 and lines[0].startswith("#!"), f"a two-line script: {lines}")
    expect(re.search(r"<limactl-desc>.+</limactl-desc>", lines[1]), f"described: {lines}")
    if not shutil.which("limactl"):
        raise Skip("no limactl")
    env = {**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}"}
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"HOME={prefix}/home"]
    run("install", "-d", "-o", "65534", f"{prefix}/home")
    expect("limaquota" in run(*user, "limactl", "quota", "--version", env=env), "limactl quota")
    expect("hard disk budget" in run(*user, "limactl", "--help", env=env), "the help of limactl names it")


def release_of_host():
    with open("/etc/os-release", encoding="utf-8") as file:
        found = re.search(r"^VERSION_CODENAME=(\w+)", file.read(), re.MULTILINE)
    if not found or not shutil.which("mmdebstrap"):
        raise Skip("no mmdebstrap, or no Debian release")
    return found.group(1)


def apt_sources(release):
    """The files of the host's apt that speak of its own release."""
    named = re.compile(rf"(^|\s){release}(\s|-|$)", re.MULTILINE)
    sources = []
    for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list"),
                 *glob.glob("/etc/apt/sources.list.d/*.sources")]:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                if named.search(file.read()):
                    sources.append(path)
    return sources


class Chroot:
    """A clean system of the host's release; commands run in it with mounts and processes of their own."""

    def __init__(self, root):
        self.root = root
        release = release_of_host()
        result = subprocess.run(["mmdebstrap", "--mode=root", "--variant=apt", "--skip=cleanup/apt/lists", release, root,
                                 *apt_sources(release)], capture_output=True, text=True, check=False, timeout=600)
        if result.returncode != 0:
            raise Skip(f"mmdebstrap: {result.stderr[-300:]}")
        shutil.copy("/etc/resolv.conf", os.path.join(root, "etc", "resolv.conf"))
        subprocess.run(["mknod", "-m", "666", os.path.join(root, "dev", "fuse"), "c", "10", "229"], check=True)

    def packages(self):
        return set(self.run("dpkg-query -W -f '${Package}\\n'").split("\n")[1:])

    def run(self, script):
        return run("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-euc",
                   'mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/run"; exec chroot "$0" sh -euxc "$1"', self.root, script,
                   env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"})


def test_the_package_installs_in_a_clean_chroot_works_by_fstab_and_purged_leaves_nothing(new_home):
    directory = new_home().directory
    run("cpack", "--config", os.path.join(build_directory(), "CPackConfig.cmake"), "-B", directory)
    [package] = glob.glob(os.path.join(directory, "*.deb"))
    chroot = Chroot(os.path.join(directory, "root"))
    # What it depends on is to be had, and is all that comes with it.
    depends = run("dpkg-deb", "-f", package, "Depends").strip()
    chroot.run(f"apt-get satisfy -qq -y --no-install-recommends '{depends}'; apt-get clean")
    before, packages = files_below(chroot.root), chroot.packages()
    shutil.copy(package, os.path.join(chroot.root, "limaquota.deb"))
    chroot.run("apt-get install -qq -y --no-install-recommends ./limaquota.deb")
    expect(chroot.packages() - packages == {"limaquota"}, f"more came with it: {chroot.packages() - packages}")
    installed = {os.path.relpath(path, "usr") for path in files_below(chroot.root)}
    missing = {name for name in FILES if name not in installed and name + ".gz" not in installed}
    expect(not missing, f"not in the package: {missing}")
    expect("share/zsh/vendor-completions/_limaquota" in installed, "zsh looks there on Debian")
    chroot.run("limaquota --version; limactl-quota --version; ! ldd /usr/bin/limaquota | grep 'not found'")
    chroot.run(FSTAB_SCRIPT)
    os.remove(os.path.join(chroot.root, "limaquota.deb"))
    chroot.run("apt-get purge -qq -y limaquota; apt-get clean")
    after = files_below(chroot.root)
    expect(after == before, f"left: {after - before}, gone: {before - after}")


def packed(new_home):
    """The package and that of its debug symbols, and each unpacked."""
    directory = new_home().directory
    run("cpack", "--config", os.path.join(build_directory(), "CPackConfig.cmake"), "-B", directory)
    packages = [*glob.glob(os.path.join(directory, "limaquota_*.deb")),
                *glob.glob(os.path.join(directory, "limaquota-dbgsym_*.ddeb"))]
    expect(len(packages) == 2, f"a package, and one of its symbols: {packages}")
    trees = [package + ".tree" for package in packages]
    for package, tree in zip(packages, trees):
        run("dpkg-deb", "--raw-extract", package, tree)
    return packages, trees


def check_release(packages, tree):
    """The package says for which release it was made."""
    with open("/etc/os-release", encoding="utf-8") as file:
        system = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    release = (system.get("VERSION_ID") or system["VERSION_CODENAME"]).strip('"')
    version = run("dpkg-deb", "-f", packages[0], "Version").strip()
    name = {"debian": "deb"}.get(system["ID"], system["ID"])
    expect(version.endswith(f"~{name}{release}"), f"version {version} on {system['ID']} {release}")
    expect(f"_{version}_" in os.path.basename(packages[0]), f"the file's name: {packages[0]}")
    with gzip.open(f"{tree}/usr/share/doc/limaquota/changelog.gz", "rt", encoding="utf-8") as file:
        expect(file.readline().startswith(f"limaquota ({version}) "), "the newest entry of the changelog is of this version")
    expect(run("dpkg-deb", "-f", packages[1], "Version").strip() == version, "the symbols are those of the same version")
    depends = run("dpkg-deb", "-f", packages[1], "Depends").strip()
    expect(depends == f"limaquota (= {version})", f"the symbols are for no other: {depends}")


def check_symbols(tree, symbols):
    """The program is stripped, and its symbols are in the package apart."""
    program = f"{tree}/usr/bin/limaquota"
    sections = run("readelf", "--wide", "--sections", program)
    expect(".debug_info" not in sections and ".symtab" not in sections, f"not stripped: {sections}")
    [build_id] = re.findall(r"Build ID: ([0-9a-f]+)", run("readelf", "--notes", program))
    debug = f"{symbols}/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    expect(os.path.exists(debug), f"the symbols of {build_id} are not there: {files_below(symbols)}")
    expect(".debug_info" in run("readelf", "--wide", "--sections", debug), "they are debug symbols")
    expect("limaquota::Ledger" in run("nm", "--demangle", debug), "of this program")
    # What its list of files says is so.
    run("md5sum", "--check", "--quiet", "DEBIAN/md5sums", cwd=symbols)


def test_the_packages_are_as_debian_wants_them(new_home):
    if not shutil.which("lintian"):
        raise Skip("no lintian")
    packages, trees = packed(new_home)
    check_release(packages, trees[0])
    check_symbols(*trees)
    run("lintian", "--allow-root", "--fail-on", "error,warning", *packages)
