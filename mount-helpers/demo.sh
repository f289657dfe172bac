#!/bin/bash
# The main job of limaquota, shown on a scratch Lima home: demo.sh [--binary LIMAQUOTA]
#
# Installs what is missing and builds (unless a binary is given), then: a VM meets its limit and is paused, nothing
# passes the limit, another VM goes on, the limit is raised, the VM goes on and every byte is there.
# Works in a directory that it makes for itself, and in no other, whatever the environment says.
# Exit status: 0 where every promise held.
set -euo pipefail
unset LIMA_HOME
export PYTHONDONTWRITEBYTECODE=1

helpers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(dirname "$helpers")
guest=$helpers/demo/demo_guest.py
qmp=$helpers/demo/qmp.py

readonly vm_mib=96         # what the guest of kernel-build writes
readonly small_limit=64    # MiB
readonly raised_limit=160  # MiB
readonly other_mib=32
readonly bytes_per_second=$((16 << 20))
readonly patience=300       # seconds; a machine with other work to do takes many times as long

bold='' green='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\033[1m' green=$'\033[32m' red=$'\033[31m' plain=$'\033[0m'
fi
failures=0
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }
die() {
  printf '%sdemo.sh: %s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}
# check SENTENCE COMMAND...: whether a promise held.
check() {
  local sentence=$1
  shift
  if "$@"; then
    printf '   %s[held]%s %s\n' "$green" "$plain" "$sentence"
  else
    printf '   %s[BROKEN]%s %s\n' "$red" "$plain" "$sentence"
    failures=$((failures + 1))
  fi
}

scratch='' home='' mounted='' watcher='' view=''
declare -A qemu_of=()

# Ends a process of ours and waits for it.
end_process() {
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# Whatever happens: our processes end, the mount goes, the scratch directory goes.
clean_up() {
  local status=$?
  trap - EXIT
  set +e
  local vm
  for vm in "${!qemu_of[@]}"; do end_process "${qemu_of[$vm]}"; done
  [ -z "$watcher" ] || end_process "$watcher"
  if [ -n "$mounted" ]; then
    cd /
    "$limaquota" umount "$home" || {
      echo "demo.sh: $home is still mounted and left as it is" >&2
      exit 1
    }
  fi
  [ -z "$scratch" ] || rm -rf --one-file-system -- "$scratch"
  exit "$status"
}

build() {
  step "What this takes"
  say "packages:  what is missing of a compiler, libraries and QEMU; on a bare Debian 12, 300 MB on the disk"
  say "a build:   about two minutes on two processors, 400 MB in build/release"
  say "the demo:  half a minute and 300 MB in /tmp, which it removes"
  "$helpers/install-needs.sh" build demo
  (cd "$source_tree" && cmake --preset release >/dev/null && cmake --build --preset release --target limaquota)
  limaquota=$source_tree/build/release/limaquota
}

make_home() {
  scratch=$(mktemp -d /tmp/limaquota-demo.XXXXXXXX)
  home=$scratch/lima
  mkdir "$home"
  step "A scratch Lima home with two VMs: $home"
  python3 "$guest" make "$home/kernel-build" raw "$vm_mib" 256
  python3 "$guest" make "$home/other" qcow2 "$other_mib" 256
  say "kernel-build: a raw disk of 256 MiB, whose guest wants to write $vm_mib MiB"
  say "other:        a qcow2 disk of 256 MiB, whose guest wants to write $other_mib MiB"
}

# Starts the process that samples `du` of kernel-build underneath the mount: in a mount namespace made before
# the mount, where that is allowed; else through the mount, which shows the same st_blocks.
start_watcher() {
  local namespace=()
  view="underneath the mount"
  if unshare -m true 2>/dev/null; then
    namespace=(unshare -m)
  elif unshare -Urm true 2>/dev/null; then
    namespace=(unshare -Urm)
  else
    view="through the mount"
  fi
  "${namespace[@]}" python3 "$guest" watch "$home/kernel-build" "$scratch/du" &
  watcher=$!
  wait_for "$patience" test -e "$scratch/du.ready" || die "the sampling process does not start"
}

mount_home() {
  if [ ! -w /dev/fuse ]; then
    die "/dev/fuse is not open to you: run this as root, or: sudo modprobe fuse; sudo chmod 666 /dev/fuse"
  fi
  if [ "$(id -u)" -eq 0 ] && [ "$(stat -L -c %a /dev/fuse)" != 666 ]; then
    say "(/dev/fuse is not 0666 here: mounting works as root only)"
  fi
  "$limaquota" mount "$home"
  mounted=yes
  say "limaquota mount $home"
  touch "$scratch/du"
}

# wait_for SECONDS COMMAND...: polls until it succeeds.
wait_for() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

# start_vm NAME FORMAT [DRIVE-OPTIONS]: a QEMU, as Lima lays it out.
start_vm() {
  local directory=$home/$1
  qemu-system-x86_64 -accel tcg,thread=multi -m 64 -display none -nodefaults \
    -drive "file=$directory/disk,if=virtio,format=$2,discard=on${3:-}" \
    -qmp "unix:$directory/qmp.sock,server=on,wait=off" \
    -serial "file:$directory/serial.log" -pidfile "$directory/qemu.pid" &
  qemu_of[$1]=$!
  wait_for "$patience" answers_or_ended "$1" || true
  answers "$1" || die "QEMU of $1 does not start"
}

stop_vm() {
  python3 "$qmp" "$home/$1/qmp.sock" quit >/dev/null
  wait "${qemu_of[$1]}" || die "QEMU of $1 failed"
  unset "qemu_of[$1]"
}

status_of() { python3 "$qmp" "$home/$1/qmp.sock" query-status 2>/dev/null; }
answers() { status_of "$1" >/dev/null; }
answers_or_ended() { answers "$1" || ! kill -0 "${qemu_of[$1]}" 2>/dev/null; }
is_paused_for_space() { status_of "$1" | grep -q '"status": "io-error"'; }
is_running() { status_of "$1" | grep -q '"status": "running"'; }
has_finished() { grep -q DONE "$home/$1/serial.log"; }
figure() { awk -v key="$2" '$1 == key { print $2 }' "$home/.usage/$1"; }
disk_bytes() { du -s --block-size=1 "$home/$1" | cut -f 1; }

# Shows .usage/kernel-build until the guest is paused or has finished.
show_growth() {
  local until=$((SECONDS + patience))
  while [ "$SECONDS" -lt "$until" ]; do
    awk '{ v[$1] = $2 } END { printf "   used %6.1f MiB   writable %6.1f MiB   growth %5.1f MiB/s   state %s\n",
      v["used"] / 1048576, v["writable"] / 1048576, v["growth_per_second"] / 1048576, v["state"] }' \
      "$home/.usage/kernel-build"
    if is_paused_for_space kernel-build || has_finished kernel-build; then return; fi
    sleep 0.3
  done
}

# Whether the largest `du` that was seen is within so many MiB, and the samples saw the growth at all.
never_above() {
  local largest samples
  read -r largest samples <"$scratch/du"
  say "largest du, $view, of $samples samples: $largest bytes; the limit: $(($1 << 20)) bytes"
  [ "$samples" -gt 10 ] && [ "$largest" -gt $(($1 << 18)) ] && [ "$largest" -le $(($1 << 20)) ]
}

meet_the_limit() {
  step "kernel-build gets $small_limit MiB and its QEMU starts; cat .usage/kernel-build, again and again:"
  "$limaquota" set kernel-build "${small_limit}MiB" --home "$home" | sed 's/^/   /'
  start_vm kernel-build raw ",throttling.bps-write=$bytes_per_second"
  show_growth
  check "QEMU is paused for want of space: $(status_of kernel-build || true)" is_paused_for_space kernel-build
  check "du never passed the limit" never_above "$small_limit"
  "$limaquota" status --home "$home" | sed 's/^/   /'
}

other_goes_on() {
  step "Meanwhile the other VM writes"
  start_vm other qcow2
  wait_for "$patience" has_finished other || true
  check "the other VM wrote all it wanted: used $(figure other used)" has_finished other
  check "kernel-build is still paused, not ended" is_paused_for_space kernel-build
}

raise_and_go_on() {
  step "The limit is raised, and QEMU told to continue"
  "$limaquota" set kernel-build "${raised_limit}MiB" --home "$home" | sed 's/^/   /'
  python3 "$qmp" "$home/kernel-build/qmp.sock" cont >/dev/null
  wait_for "$patience" has_finished kernel-build || true
  check "the guest finished, and saw no error: $(tr -d '\r\n' <"$home/kernel-build/serial.log")" \
    has_finished kernel-build
  check "QEMU runs" is_running kernel-build
  check "du never passed the raised limit" never_above "$raised_limit"
  stop_vm kernel-build
  stop_vm other
}

verify() {
  step "What the guests wrote, byte by byte"
  check "kernel-build: .usage says what du says" \
    test "$(figure kernel-build used)" = "$(disk_bytes kernel-build)"
  check "other: .usage says what du says" test "$(figure other used)" = "$(disk_bytes other)"
  end_process "$watcher"
  watcher=''
  "$limaquota" umount "$home"
  mounted=''
  say "limaquota umount $home; from here on, the plain directory:"
  check "kernel-build: every byte is there" python3 "$guest" verify "$home/kernel-build/disk" "$vm_mib" raw
  check "other: every byte is there" python3 "$guest" verify "$home/other/disk" "$other_mib" qcow2
  check "other: qemu-img check finds nothing" qemu-img check -q "$home/other/disk"
}

limaquota=''
case ${1:-} in
  '') build ;;
  --binary)
    [ $# -eq 2 ] && [ -x "$2" ] || die "--binary needs the path of a limaquota"
    limaquota=$(realpath -- "$2")
    ;;
  *) die "usage: demo.sh [--binary LIMAQUOTA]" ;;
esac
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
started=$SECONDS
make_home
start_watcher
mount_home
meet_the_limit
other_goes_on
raise_and_go_on
verify
step "$((SECONDS - started)) seconds; promises broken: $failures"
[ "$failures" -eq 0 ]
