#!/bin/sh
# What the guest of bench/guest.sh does; installed in its disk as /sbin/guest-work.
#
# As the guest's first process: the kernel source is unpacked, objects are built (limaquota.objects=lib/,kernel/ on the
# kernel's command line), the result is kept, the rest deleted and trimmed; then the machine is switched off. Each step is
# told on the serial line as "GUEST: STEP".
# guest-work build OBJECTS: only unpacks and builds; in a chroot, for the result to compare with.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C TZ=UTC HOME=/root
# Whatever of the moment, the builder and the machine would get into objects.
export KBUILD_BUILD_TIMESTAMP=@1700000000 KBUILD_BUILD_USER=guest KBUILD_BUILD_HOST=guest KBUILD_BUILD_VERSION=1

say() { echo "GUEST: $*"; }
used() { df --block-size=1 --output=used / | tail -n 1; }

build() {
  mkdir -p /usr/src/build && cd /usr/src/build || return
  say "unpack $(used)"
  tar --zstd -xf /media/source/linux-source.tar.zst || return
  sync
  cd linux-source-* || return
  say "unpacked $(used)"
  make tinyconfig >/root/build.log 2>&1 || return
  while sleep 20; do say "compiled $(grep -cE '^ +(HOST)?CC ' /root/build.log)"; done &
  teller=$!
  # Names of objects are words on purpose.
  # shellcheck disable=SC2086
  make -j2 $1 >>/root/build.log 2>&1
  status=$?
  kill $teller
  [ $status -eq 0 ] || return
  sync
  say "built $(used)"
  # vmlinux too, where it was built.
  find . -name '*.o' -o -name vmlinux | sort >/root/objects
  tar --no-recursion --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 -cf /root/result.tar -T /root/objects || return
  sync
  say "result $(wc -l </root/objects) $(sha256sum </root/result.tar | cut -d ' ' -f 1)"
}

guest() {
  mountpoint -q /proc || mount -t proc proc /proc
  mountpoint -q /sys || mount -t sysfs sysfs /sys
  mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
  mount -t tmpfs tmpfs /tmp || return
  mount -o remount,rw / && mount -o ro /dev/vdb /media/source || return
  objects=$(sed -nE 's/.*limaquota\.objects=([^ ]*).*/\1/p' /proc/cmdline | tr , ' ')
  build "$objects" || {
    say "failed"
    tail -n 20 /root/build.log
    return
  }
  cd / && rm -rf /usr/src/build && sync || return
  say "deleted $(used)"
  say "trimmed $(fstrim -v /)"
}

if [ "${1:-}" = build ]; then
  build "$2"
  exit
fi
guest
dmesg >/root/kernel.log
echo "GUEST: log begins"
dmesg
echo "GUEST: log ends"
cd /
sync
umount /media/source
mount -o remount,ro / && say "read-only"
sync
say "off"
sleep 1
echo o >/proc/sysrq-trigger
sleep 60
