#!/usr/bin/env bash
# Real guests that meet their limit while they build a kernel. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: bench/guest.sh [--run NAME]... [--objects 'TARGET...'] [--memory MIB] [--limaquota BINARY] [--json FILE]

A Debian guest (debootstrap, Debian's kernel, ext4) under QEMU without KVM, its disk in a Lima home that an ordinary user
covers with limaquota. It unpacks the kernel's source, builds objects of a tinyconfig, deletes, trims. The limit is below
what that needs: the guest is paused, the limit raised, the guest goes on. Checked: the build's result is the same file
as one built without a limit; no I/O error in the guest's log; its filesystem is clean; du never passed the limit.

  --run NAME        raw, qcow2, ten (the limit met ten times in a row), ten-qcow2, full-host (a host filesystem that is
                    nearly full: its reserve holds, another VM and the host go on); may be repeated. Without: raw,
                    ten-qcow2 and full-host
  --objects '...'   what is built: 'lib/' unless given (96 objects). Without KVM a guest builds ten to twenty times more
                    slowly than its host: a run takes about ten minutes, with 'lib/ kernel/' (179) twice that, and the
                    whole kernel ('vmlinux') an hour and more
  --memory MIB      of the guest; 1024 unless given
  --limaquota FILE  this program rather than one that is built
  --json FILE       the figures, also there

The image is made once, in build/guest. Root or sudo is needed for debootstrap and for the namespace in which everything
runs, with which it also ends; the mount and the QEMUs are an ordinary user's. About 5 GiB of disk and 2 GiB of memory.
Exit status: 0 where every promise held.

Examples:
  bench/guest.sh --run raw
  bench/guest.sh --run ten-qcow2 --objects 'lib/ kernel/'
TEXT
}

die() {
  echo "guest.sh: $*" >&2
  exit 1
}

runs=() objects='lib/' memory=1024 limaquota='' json='' inside=no
while [ $# -gt 0 ]; do
  case "$1" in
    --run) runs+=("${2:?--run needs a name}"); shift ;;
    --objects) objects=${2:?--objects needs targets of make}; shift ;;
    --memory) memory=${2:?--memory needs a number}; shift ;;
    --limaquota) limaquota=$(realpath -- "${2:?--limaquota needs a program}"); shift ;;
    --json) json=$(realpath -m -- "${2:?--json needs a file}"); shift ;;
    --inside) inside=${2:?}; shift ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#runs[@]} -gt 0 ] || runs=(raw ten-qcow2 full-host)
for run in "${runs[@]}"; do
  case $run in
    raw|qcow2|ten|ten-qcow2|full-host) ;;
    *) usage >&2; exit 2 ;;
  esac
done
[[ $objects =~ ^[A-Za-z0-9_./\ -]+$ && $memory =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }

readonly images=$PWD/build/guest nobody=65534
reference=$images/reference-$(tr -c 'A-Za-z0-9\n' '-' <<<"$objects").json
readonly reference

# The same work in a chroot, at the host's speed and without a limit: what the result must be, and what it takes.
make_reference() {
  local root=$1/reference log=$1/reference.log
  [ ! -s "$reference" ] || return 0
  echo "   the result to compare with: '$objects' in a chroot, without a limit"
  mkdir "$root"
  cp --sparse=always "$images/root.raw" "$root.raw"
  mount -o loop "$root.raw" "$root"
  mount -o loop,ro "$images/source.raw" "$root/media/source"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  chroot "$root" /sbin/guest-work build "$objects" >"$log" 2>&1 || {
    tail -n 5 "$log" "$root/root/build.log" >&2
    die "'$objects' cannot be built"
  }
  umount -l "$root"
  awk '$1 == "GUEST:" { figure[$2] = $3; last[$2] = $NF }
    END {
      printf "{\"unpacked\": %.0f, \"built\": %.0f, \"count\": %d, \"sha256\": \"%s\"}\n",
        figure["unpacked"] - figure["unpack"], figure["built"] - figure["unpacked"], figure["result"], last["result"]
    }' "$log" >"$reference.new"
  rm -rf --one-file-system "$root.raw"
  mv "$reference.new" "$reference"
}

# A filesystem of its own for full-host, on a sparse file: the base disk, what the work takes, and the same again, which
# is taken away by a file at first.
make_full_host() {
  local mib
  mib=$(du -m "$images/root.raw" | cut -f 1)
  truncate -s "$((mib + 4096))M" "$1/full.raw"
  mke2fs -q -t ext4 -m 0 "$1/full.raw"
  mkdir "$1/full"
  mount -o loop "$1/full.raw" "$1/full"
  install -d -o $nobody -g $nobody "$1/full/f"
}

# In a mount and pid namespace, as root: everything that the ordinary user finds in WORK.
prepare() {
  local work=$1
  mkdir "$work/dev"
  mount -t tmpfs -o mode=755 tmpfs "$work/dev"
  mknod -m 666 "$work/dev/fuse" c 10 229
  mount --bind "$work/dev/fuse" /dev/fuse
  make_reference "$work"
  make_full_host "$work"
  # The user need not be able to reach the sources.
  mkdir -p "$work/source/tests" "$work/images"
  cp -r mount-helpers bench "$work/source"
  cp -r tests/harness "$work/source/tests"
  install -m 755 "$limaquota" "$work/limaquota"
  mount --bind -o ro "$images" "$work/images"
  install -d -o $nobody -g $nobody "$work/w"
}

if [ "$inside" != no ]; then
  work=$inside
  prepare "$work"
  cd "$work/w"
  exec setpriv --reuid $nobody --regid $nobody --clear-groups env HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 \
    python3 "$work/source/bench/guest.py" --limaquota "$work/limaquota" --images "$work/images" --work "$work/w" \
    --full-host "$work/full/f" --reference "$work/images/${reference##*/}" --objects "$objects" --memory "$memory" \
    ${json:+--json "$work/w/figures.json"} "${runs[@]}"
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || die "debootstrap needs root or sudo"
  as_root=(sudo)
fi
echo "== What is needed, the build, and the guest's image =="
./mount-helpers/install-needs.sh build guest
if [ -z "$limaquota" ]; then
  cmake --preset release >/dev/null
  cmake --build --preset release --target limaquota
  limaquota=$PWD/build/release/limaquota
fi
"${as_root[@]}" bench/guest_image.sh "$images"

work=$(mktemp -d /var/tmp/lqg.XXXXXX)
chmod 755 "$work"
child=''
clean_up() {
  trap - EXIT INT TERM HUP
  # unshare waits for its child whatever TERM says; with it goes the namespace and all that is in it.
  if [ -s "$work/unshare.pid" ]; then "${as_root[@]}" kill -KILL "$(cat "$work/unshare.pid")" 2>/dev/null || true; fi
  [ -z "$child" ] || wait "$child" 2>/dev/null || true
  "${as_root[@]}" rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

status=0
arguments=(--inside "$work" --objects "$objects" --memory "$memory" --limaquota "$limaquota")
for run in "${runs[@]}"; do arguments+=(--run "$run"); done
[ -z "$json" ] || arguments+=(--json "$json")
# In the background, so that a signal reaches the trap at once. `$1` and `$@` are the inner shell's.
# shellcheck disable=SC2016
"${as_root[@]}" sh -c 'echo $$ >"$1/unshare.pid"; shift; exec "$@"' sh "$work" \
  unshare --mount --propagation private --pid --fork --kill-child --mount-proc bench/guest.sh "${arguments[@]}" &
child=$!
wait "$child" || status=$?
child=''
rm -f "$work/unshare.pid"
if [ -n "$json" ] && [ -f "$work/w/figures.json" ]; then cp "$work/w/figures.json" "$json"; fi
[ "$status" -eq 0 ]
