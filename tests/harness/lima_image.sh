#!/bin/sh
# Makes an image that Lima boots, as root: lima_image.sh DIRECTORY; guest.raw, vmlinuz and initrd are then there.
# A Debian with cloud-init on ext4, without partitions; trims what is freed at once.
set -eu
directory=${1:?usage: lima_image.sh DIRECTORY}
tree=$directory/tree
trap 'rm -rf --one-file-system "$tree"' EXIT
packages=linux-image-cloud-amd64,systemd-sysv,dbus,udev,cloud-init,openssh-server,sudo,iproute2,isc-dhcp-client,netplan.io
mkdir -p "$directory"
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages,ca-certificates,procps,e2fsprogs,fdisk" bookworm "$tree"
echo '/dev/vda / ext4 defaults,discard 0 1' >"$tree/etc/fstab"
echo lima-guest >"$tree/etc/hostname"
: >"$tree/etc/machine-id"
rm -rf "$tree"/etc/ssh/ssh_host_* "$tree"/var/cache/apt/archives/*.deb
cp "$tree"/boot/vmlinuz-* "$directory/vmlinuz"
cp "$tree"/boot/initrd.img-* "$directory/initrd"
mke2fs -q -t ext4 -d "$tree" "$directory/guest.raw" 4G
chmod 644 "$directory/vmlinuz" "$directory/initrd" "$directory/guest.raw"
