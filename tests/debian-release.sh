#!/usr/bin/env bash
# debian-release.sh RELEASE WORK CACHE NEW: limaquota on one release of Debian; tests/debian.sh calls it as root in a mount
# and pid namespace of its own. WORK/source holds the sources; the chroot is CACHE/debian-RELEASE, made where it is
# missing, older than a week, made for other needs, or where NEW is yes. Appends a line "passed failed skipped" for each
# step to WORK/counts, and what each took to WORK/took.
set -euo pipefail
release=$1 work=$2 cache=$3 new=$4
chroot=$cache/debian-$release
groups=(build unit package demo)
needs=$work/source/mount-helpers/install-needs.sh
nobody=65534
here=$work/$release  # the release's own part of WORK; /work in the chroot

say() { printf '\n== %s: %s\n' "$release" "$*"; }

# step NAME COMMAND...: counts it as passed or failed, unless the command counted tests itself, and notes its time.
step() {
  local name=$1 started=$SECONDS status=0 lines
  shift
  say "$name"
  lines=$(wc -l <"$work/counts")
  "$@" || status=$?
  if [ "$(wc -l <"$work/counts")" -eq "$lines" ]; then
    if [ "$status" -eq 0 ]; then echo "1 0 0"; else echo "0 1 0"; fi >>"$work/counts"
  fi
  printf '%-9s %5d  %s%s\n' "$release" $((SECONDS - started)) "$name" "$([ "$status" -eq 0 ] || echo ': FAILED')" |
    tee -a "$work/took"
  return "$status"
}

# --- the chroot ---

# Where this machine has its own Debian from, and so can have another; nothing where it is no Debian.
mirror_of_this_machine() {
  # The format is apt-get's.
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|Debian|//p' |
    head -n 1
}

# How this machine's apt reaches a mirror, and how old it lets one be.
apt_settings() {
  apt-config dump | grep '^Acquire::' |
    grep -vE '^Acquire::(IndexTargets|Changelogs|CompressionTypes|Languages|GzipIndexes|cdrom)'
}

# In a directory beside it, which takes its name when it is whole.
make_chroot() {
  local making=$chroot.new mirror
  rm -rf --one-file-system "$making"
  mirror=$(mirror_of_this_machine)
  if [ -z "$mirror" ]; then
    apt-get update -qq || true
    mirror=$(mirror_of_this_machine)
  fi
  apt_settings >"$work/apt.conf"
  # Nothing in it need outlive a crash: dpkg does not wait for the disk. And /etc/mtab is what it is on every Debian that was
  # installed: else fusermount3 would write to it.
  mmdebstrap --quiet --mode=root --variant=apt --format=directory --aptopt="$work/apt.conf" --dpkgopt=force-unsafe-io \
    --customize-hook="copy-in '$needs' /root" \
    --customize-hook="chroot \"\$1\" /root/install-needs.sh ${groups[*]}" \
    --customize-hook='rm "$1/root/install-needs.sh"; mkdir "$1/work" "$1/ccache"' \
    --customize-hook='ln -sf ../proc/self/mounts "$1/etc/mtab"' \
    "$release" "$making" ${mirror:+"$mirror"} >"$work/making.log" 2>&1 || {
    tail -n 40 "$work/making.log"
    rm -rf --one-file-system "$making"
    return 1
  }
  sha256sum <"$needs" >"$making/work/made-for"
  rm -rf --one-file-system "$chroot"
  mv "$making" "$chroot"
}

is_usable() {
  [ "$new" = no ] && [ -e "$chroot/work/made-for" ] && [ "$(cat "$chroot/work/made-for")" = "$(sha256sum <"$needs")" ] &&
    [ -n "$(find "$chroot/work/made-for" -mtime -7)" ]
}

# Two runs may use it at once; who makes it has it alone. It ends with this process and its children.
lock_chroot() {
  exec 9>"$chroot.lock"
  flock --exclusive 9
  if is_usable; then
    echo "$release: $chroot is from $(date -r "$chroot/work/made-for" +%F)"
  else
    step "making the chroot" make_chroot 9>&- || exit 0
  fi
  flock --shared 9
}

# A disk of this machine's is what is mounted on; /dev holds what programs need, and /dev/fuse as distributions have it.
enter_chroot() {
  local node
  install -d "$here" "$here/home" "$cache/ccache"
  install -d -m 1777 "$here/tmp"
  cp -r "$work/source" "$here/source"
  mount --bind "$chroot" "$chroot"
  mount -o remount,bind,ro,suid,exec "$chroot"
  mount --bind "$here" "$chroot/work"
  mount -o remount,bind,suid,exec "$chroot/work"
  mount --bind "$here/tmp" "$chroot/tmp"
  mount --bind "$here/tmp" "$chroot/var/tmp"
  mount --bind "$cache/ccache" "$chroot/ccache"
  mount -t tmpfs -o mode=755 tmpfs "$chroot/run"
  mount -t proc proc "$chroot/proc"
  mount --rbind /sys "$chroot/sys"
  mount -t tmpfs -o mode=755 tmpfs "$chroot/dev"
  for node in null zero full random urandom; do
    touch "$chroot/dev/$node"
    mount --bind "/dev/$node" "$chroot/dev/$node"
  done
  mknod -m 666 "$chroot/dev/fuse" c 10 229
  mkdir -m 1777 "$chroot/dev/shm"
  ln -s /proc/self/fd "$chroot/dev/fd"
}

# inside COMMAND...: in the chroot, with nothing of this machine's environment.
inside() {
  chroot "$chroot" /usr/bin/env -i -C /work/source PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/work/home LANG=C.UTF-8 \
    CCACHE_DIR=/ccache CCACHE_MAXSIZE=2G PYTHONDONTWRITEBYTECODE=1 "$@" 9>&-
}
as_nobody=(setpriv --reuid $nobody --regid $nobody --clear-groups env HOME=/nonexistent)

# --- the steps ---

# Optimized as users have it: only then the compiler sees all that it warns of. What is installed needs not all that could
# be built.
build() {
  inside cmake -G Ninja -S . -B /work/build -DLIMAQUOTA_TESTS=ON -DLIMAQUOTA_WERROR=ON \
    -DCMAKE_SKIP_INSTALL_ALL_DEPENDENCY=ON >"$here/cmake.log" 2>&1 || {
    cat "$here/cmake.log"
    return 1
  }
  # All that is wrong is told, not the first of it only.
  inside cmake --build /work/build --parallel "$(nproc)" --target limaquota unit_tests -- -k 0
}

unit_tests() {
  local status=0 log=$here/unit.log
  inside /work/build/unit_tests --gtest_brief=1 >"$log" 2>&1 || status=$?
  grep -vE '^(Note: Google|$)' "$log" || true
  local passed failed skipped
  passed=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) tests?\.$/\1/p' "$log")
  failed=$(grep -cE '^\[  FAILED  \] .*\([0-9]+ ms\)$' "$log" || true)
  skipped=$(grep -cE '^\[  SKIPPED \] .*\([0-9]+ ms\)$' "$log" || true)
  # One that died named no test.
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  echo "${passed:-0} $failed $skipped" >>"$work/counts"
  return "$status"
}

# smoke DIRECTORY COMMAND...: COMMAND, which ends with env, makes the tests run as somebody.
smoke() {
  local directory=$1 status=0 log=$here/smoke.log line o_tmpfile=no
  if inside grep -q tmpfile /usr/include/fuse3/fuse_lowlevel.h; then o_tmpfile=yes; fi
  shift
  inside "$@" LIMAQUOTA_O_TMPFILE="$o_tmpfile" \
    python3 tests/harness/run.py /work/build/limaquota "/work/$directory" tests/smoke 2>&1 | tee "$log" || status=$?
  line=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log" | tail -n 1)
  if [ -z "$line" ] || { [ "$status" -ne 0 ] && [[ $line =~ ^[0-9]+\ 0\  ]]; }; then line="0 1 0"; fi
  echo "$line" >>"$work/counts"
  return "$status"
}

demo() { inside mount-helpers/demo.sh --binary /work/build/limaquota; }

package() { inside cpack --config /work/build/CPackConfig.cmake -B /work/package; }

lintian_finds_nothing() {
  inside sh -ec 'exec lintian --allow-root --fail-on error,warning /work/package/*.deb /work/package/*.ddeb'
}

versions() {
  inside sh -ec 'g++ --version | head -n 1; echo "libfuse $(pkg-config --modversion fuse3)," \
    "e2fsprogs $(pkg-config --modversion ext2fs), cmake $(cmake --version | sed -n "s/cmake version //p")"'
}

say "its chroot"
lock_chroot
enter_chroot
versions
# What only the chroot has by now is no need that was named.
inside mount-helpers/install-needs.sh "${groups[@]}"
step "building" build || exit 0
step "unit tests" unit_tests || true
step "smoke tests, by root" smoke root env || true
install -d -o $nobody -g $nobody "$here/user"
step "smoke tests, by an ordinary user" smoke user "${as_nobody[@]}" || true
step "the demo" demo || true
step "the package" package || exit 0
step "lintian" lintian_finds_nothing || true
