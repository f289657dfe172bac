#!/usr/bin/env bash
# Makes what bench/guest.sh boots, as root: guest_image.sh DIRECTORY
#
#   root.raw         a Debian with gcc and make on ext4, no partitions; its /sbin/guest-work is bench/guest_work.sh
#   source.raw       an ext4 with the kernel's source as Debian's linux-source package has it, packed by zstd
#   vmlinuz, initrd  Debian's kernel
# Does nothing where they are there and were made by the scripts as they now stand.
set -euo pipefail

readonly release=bookworm source_package=linux-source-6.1
readonly root_mib=6144 source_mib=512
readonly build_tools=gcc,libc6-dev,make,bc,bison,flex,zstd,kmod,initramfs-tools
here=$(cd "$(dirname "$0")" && pwd)
directory=$(realpath -m -- "${1:?usage: guest_image.sh DIRECTORY}")

made_by=$(cat "$0" "$here/guest_work.sh" | sha256sum)
if [ "$(cat "$directory/made-by" 2>/dev/null)" = "$made_by" ]; then exit 0; fi
[ "$(dpkg --print-architecture)" = amd64 ] || {
  echo "guest_image.sh: the guest is made for amd64 only" >&2
  exit 1
}
[ "$(id -u)" -eq 0 ] || {
  echo "guest_image.sh: debootstrap needs root" >&2
  exit 1
}

say() { printf '   image: %s (%d s)\n' "$*" "$SECONDS"; }
tree=$directory/tree
trap 'rm -rf --one-file-system "$tree" "$directory/package" "$directory/tarball"' EXIT
in_tree() { DEBIAN_FRONTEND=noninteractive chroot "$tree" "$@" >>"$directory/log" 2>&1; }
or_show_log() { "$@" || { tail -n 20 "$directory/log" >&2; exit 1; }; }

rm -rf --one-file-system "$directory"
mkdir -p "$tree/etc/initramfs-tools/conf.d"
chmod 755 "$directory"
: >"$directory/log"

say "debootstrap $release, with what builds a kernel"
or_show_log debootstrap --variant=minbase --include="$build_tools" "$release" "$tree" >>"$directory/log" 2>&1
# Only what the guest's disks need: an initrd that TCG unpacks in a moment.
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$tree/etc/initramfs-tools/conf.d/guest"
printf '%s\n' virtio_pci virtio_blk ext4 >"$tree/etc/initramfs-tools/modules"

say "Debian's kernel and $source_package"
or_show_log in_tree apt-get install -y --no-install-recommends linux-image-cloud-amd64
or_show_log in_tree sh -c "cd /tmp && apt-get download $source_package"
cp "$tree"/boot/vmlinuz-* "$directory/vmlinuz"
cp "$tree"/boot/initrd.img-* "$directory/initrd"
chmod 644 "$directory/vmlinuz" "$directory/initrd"

say "the source, packed so that TCG unpacks it in reasonable time"
dpkg-deb -x "$tree"/tmp/$source_package*.deb "$directory/package"
mkdir "$directory/tarball"
xz -dc -T0 "$directory/package/usr/src/$source_package.tar.xz" |
  zstd -q -T0 -3 -o "$directory/tarball/linux-source.tar.zst"
mke2fs -q -t ext4 -m 0 -d "$directory/tarball" "$directory/source.raw" ${source_mib}M

say "the guest's disk"
in_tree apt-get clean
rm -rf "$tree"/tmp/* "$tree"/var/lib/apt/lists/* "${tree:?}"/boot/*
install -m 755 "$here/guest_work.sh" "$tree/sbin/guest-work"
mkdir -p "$tree/media/source"
mke2fs -q -t ext4 -m 0 -d "$tree" "$directory/root.raw" ${root_mib}M
chmod 644 "$directory/root.raw" "$directory/source.raw"
echo "$made_by" >"$directory/made-by"
say "made"
