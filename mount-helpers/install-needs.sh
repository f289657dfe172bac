#!/bin/sh
# Installs what limaquota needs, on Debian 12 and Ubuntu 24.04 or later: install-needs.sh GROUP...
# Groups: build, package, demo, unit, tests, bench, kernel, guest, lint. Prints what is missing before it installs it; does
# nothing where nothing is.
set -eu

packages_of() {
  case $1 in
    build)
      echo g++ cmake ninja-build pkg-config libfuse3-dev fuse3 liburing-dev libboost-container-dev libfmt-dev libcli11-dev \
        nlohmann-json3-dev libyaml-cpp-dev libext2fs-dev comerr-dev libblkid-dev libnbd-dev
      ;;
    unit) echo libgtest-dev libgmock-dev ;;
    package) echo dpkg-dev file gzip lintian ;;
    bench) echo libbenchmark-dev gcc g++ python3 util-linux e2fsprogs fio bindfs mergerfs qemu-utils tar findutils libfuse3-dev ;;
    kernel) echo linux-source make gcc bc bison flex libelf-dev libssl-dev kmod cpio xz-utils ;;
    demo) echo binutils qemu-system-x86 qemu-utils python3 fuse3 util-linux ;;
    tests)
      echo xfsprogs btrfs-progs e2fsprogs attr acl binutils qemu-system-x86 qemu-utils python3 openssh-client \
        openssh-server psmisc procps util-linux prometheus prometheus-node-exporter libfaketime
      echo systemd mmdebstrap debian-archive-keyring git mandoc man-db bash zsh fish
      packages_of unit
      packages_of package
      echo libbenchmark-dev ccache
      ;;
    guest) echo debootstrap debian-archive-keyring dpkg xz-utils zstd e2fsprogs qemu-system-x86 qemu-utils python3 fuse3 util-linux ;;
    lint) echo clang clang-format clang-tidy ;;
    *)
      echo "install-needs.sh: no group '$1' (build, package, demo, unit, tests, bench, kernel, guest, lint)" >&2
      return 1
      ;;
  esac
}

is_installed() {
  dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

[ $# -gt 0 ] || {
  echo "usage: install-needs.sh build|package|demo|unit|tests|bench|kernel|guest|lint ..." >&2
  exit 2
}
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || {
  echo "install-needs.sh: no apt-get here: this script knows Debian and Ubuntu only" >&2
  exit 1
}

missing=
for group in "$@"; do
  packages=$(packages_of "$group")
  for package in $packages; do
    case " $missing " in
      *" $package "*) continue ;;
    esac
    is_installed "$package" || missing="$missing $package"
  done
done
missing=${missing# }
[ -n "$missing" ] || exit 0

echo "To be installed by apt-get for limaquota ($*):"
for package in $missing; do
  echo "  $package"
done
as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "install-needs.sh: not root, and there is no sudo; as root, run: apt-get install $missing" >&2
    exit 1
  }
  as_root=sudo
fi
# The tests start these two themselves, for a moment, on ports of their own; as services, open to the network, nobody asked
# for them. A masked unit is neither started by its installation nor at boot.
for unit in prometheus prometheus-node-exporter; do
  case " $missing " in
    *" $unit "*)
      echo "$unit will not run as a service (\"systemctl unmask $unit\" changes that)"
      $as_root mkdir -p /etc/systemd/system
      $as_root ln -sf /dev/null "/etc/systemd/system/$unit.service"
      ;;
  esac
done
$as_root apt-get update
# The names are split on purpose.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
