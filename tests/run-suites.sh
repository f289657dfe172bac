#!/usr/bin/env bash
# run-suites.sh PRESET BUILD TESTS WORK: runs all suites of a build, with the tests that TESTS, the build of the release,
# holds; tests/run.sh calls it as root in a mount and pid namespace of its own. Appends a line "passed failed skipped" for
# each suite to WORK/counts, and what failed tests printed to WORK/failures.
# The ordinary user of the tests is `nobody`, who need not be able to reach the sources: what he runs is copied to WORK.
set -euo pipefail
preset=$1 build=$2 tests=$3 work=$4
nightly=${LIMAQUOTA_NIGHTLY:-no}
here=$(cd "$(dirname "$0")" && pwd)
shared=${LIMAQUOTA_SHARED:-$here/../../shared}
nobody=65534
as_nobody=(setpriv --reuid $nobody --regid $nobody --clear-groups env HOME=/nonexistent)
bin=$work/$preset
export LIMAQUOTA_SCRATCH=$work

# What GoogleTest printed of the tests that failed.
failed_parts() {
  awk '/^\[ RUN      \]/ { part = "" } { part = part $0 "\n" } /^\[  FAILED  \] .*\([0-9]+ ms\)$/ { printf "%s", part }' "$1"
}

# Counts what GoogleTest printed. A binary that died, or failed without naming a test, is one failure.
count_gtest() {
  local log=$1 status=$2 p f s
  p=$(grep -cE '\[       OK \] .*\([0-9]+ ms\)$' "$log" || true)
  f=$(grep -cE '\[  FAILED  \] .*\([0-9]+ ms\)$' "$log" || true)
  s=$(grep -cE '\[  SKIPPED \] .*\([0-9]+ ms\)$' "$log" || true)
  if [ "$status" -ne 0 ] && { [ "$f" -eq 0 ] || [ "$status" -gt 1 ]; }; then
    f=$((f + 1))
    echo "FAILED: the binary ended with status $status; its last test: $(grep '\[ RUN      \]' "$log" | tail -n 1)" |
      tee -a "$log"
    { echo "-- $preset, ${log##*/}"; tail -n 30 "$log"; } >>"$work/failures"
  fi
  if [ "$f" -gt 0 ]; then
    { echo "-- $preset, ${log##*/}"; failed_parts "$log" | tail -n 60; } >>"$work/failures"
  fi
  echo "$p $f $s" >>"$work/counts"
}

# The names that GoogleTest lists, as a --gtest_filter of those that match all of the regular expressions.
gtest_filter() {
  local names
  names=$("${@:3}" --gtest_list_tests 2>/dev/null | awk '
    /^[^ ]/ { suite = $1; next }
    /^  /   { print suite $1 }' | grep -v '^GoogleTestVerification')
  grep -E -e "$1" <<<"$names" | grep -E -e "${LIMAQUOTA_FILTER:-.}" | { [ -z "$2" ] && cat || grep -vE -e "$2"; } |
    paste -sd: || true
}

# run_gtest NAME ONLY CUT COMMAND...: the tests whose names match ONLY and not CUT (regular expressions; "" for neither);
# in the nightly run all of them. Shows every result; the rest of the output only of what failed.
run_gtest() {
  local name=$1 only=${2:-.} cut=$3 log=$work/${1// /-}.log status=0 started=$SECONDS
  shift 3
  if [ "$nightly" != no ]; then only=. cut=''; fi
  only=$(gtest_filter "$only" "$cut" "$@")
  [ -n "$only" ] || return 0
  printf '\n-- %s, %s\n' "$preset" "$name"
  set +e
  "$@" "--gtest_filter=$only" 2>&1 | tee "$log" | grep --line-buffered -vE '^\[( RUN      |-{10}|={10})\]|^Note: Google|^$'
  status=${PIPESTATUS[0]}
  set -e
  count_gtest "$log" "$status"
  printf -- '-- %s, %s: %d s\n' "$preset" "$name" $((SECONDS - started))
}

# In this mount namespace only: an ordinary user may open /dev/fuse, as distributions have it.
open_dev_fuse() {
  [ "$(stat -c %a /dev/fuse)" != 666 ] || return 0
  mkdir -p "$work/dev"
  mount -t tmpfs -o mode=755 tmpfs "$work/dev"
  mknod -m 666 "$work/dev/fuse" c 10 229
  mount --bind "$work/dev/fuse" /dev/fuse
}

# run_scripted NAME DIRECTORY --at-once N COMMAND...: the tests of a directory of Python tests, or those that `only` names;
# COMMAND makes them run as somebody.
only=()
run_scripted() {
  local name=$1 directory=$2 at_once=$4 log=$work/$2.log status=0 line started=$SECONDS
  shift 4
  if [ -n "${LIMAQUOTA_FILTER:-}" ]; then return 0; fi
  printf '\n-- %s, %s\n' "$preset" "$name"
  set +e
  "$@" python3 "$bin/source/tests/harness/run.py" --at-once "$at_once" "$bin/limaquota" "$work/$directory" \
    "$bin/source/tests/$directory" "${only[@]}" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  set -e
  line=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log" | tail -n 1)
  if [ -z "$line" ]; then line="0 1 0"; fi
  if [ "$status" -ne 0 ] && [[ $line =~ ^[0-9]+\ 0\  ]]; then line="0 1 0"; fi
  if [ "$status" -ne 0 ]; then
    { echo "-- $preset, $name"; grep '^not ok' "$log" || tail -n 20 "$log"; } >>"$work/failures"
  fi
  echo "$line" >>"$work/counts"
  printf -- '-- %s, %s: %d s\n' "$preset" "$name" $((SECONDS - started))
}

{
  run_gtest "unit tests" "" "" "$build/unit_tests"
  run_gtest "behind the seam" "" "" "$build/seam_tests"
} 2>&1 | sed -u 's/^/unit: /' &
# Without optimization nothing is tried in the others that the sanitizers do not try.
if [ "$preset" = debug ]; then
  wait
  exit 0
fi

# What the tests do more of at night: random operations for each filesystem and owner, workers killed in each test that does
# so, rounds of a takeover, seconds of mixed load, cuts of the power. With a sanitizer only in the long run: there each path
# is to be gone, not often.
more=''
case "$nightly $preset" in
  yes\ release) more='20000 30 500 300 40' ;;
  long*) more='200000 1000 5000 3600 200' ;;
esac
if [ -n "$more" ]; then
  read -r operations kills rounds soak cuts <<<"$more"
  export LIMAQUOTA_RANDOM_OPERATIONS=${LIMAQUOTA_RANDOM_OPERATIONS:-$operations} LIMAQUOTA_KILLS=${LIMAQUOTA_KILLS:-$kills}
  export LIMAQUOTA_TAKEOVER_ROUNDS=${LIMAQUOTA_TAKEOVER_ROUNDS:-$rounds}
  export LIMAQUOTA_SOAK_SECONDS=${LIMAQUOTA_SOAK_SECONDS:-$soak} LIMAQUOTA_POWER_CUTS=${LIMAQUOTA_POWER_CUTS:-$cuts}
fi

open_dev_fuse
install -d -m 755 "$bin"
install -m 755 "$build/limaquota" "$build/limaquota_faulty" "$tests/mount_tests" "$tests/fault_tests" "$bin"
mkdir -p "$bin/source/tests"
cp -r "$here/../mount-helpers" "$bin/source"
cp -r "$here/harness" "$here/vm" "$here/commands" "$here/install" "$bin/source/tests"
if [ -f "$shared/checks/lima_ops.py" ]; then install -m 755 "$shared/checks/lima_ops.py" "$bin"; fi
export LIMAQUOTA_BINARY=$bin/limaquota LIMAQUOTA_LIMA_OPS=$bin/lima_ops.py

# lane NAME FILESYSTEMS AT_NIGHT ONLY CUT COMMAND...: one run of GoogleTests in the background, on filesystems of its own,
# and at night on more. ONLY and CUT as run_gtest has them. Each line of what it prints begins with the first word of NAME.
lane() {
  local name=$1 backings=$work/b${1:0:1}  # short: a socket path has 108 bytes
  {
    export LIMAQUOTA_TEST_DIR=$backings LIMAQUOTA_FILESYSTEMS=$2
    if [ "$nightly" != no ]; then LIMAQUOTA_FILESYSTEMS=$3; fi
    mkdir -p "$backings"
    if "$bin/mount_tests" --prepare "$backings"; then
      run_gtest "$name" "$4" "$5" "${@:6}"
    else
      echo "0 1 0" >>"$work/counts"
    fi
  } 2>&1 | sed -u "s/^/${name%% *}: /" &
}

# What a lane of the check leaves out another lane of it has: each filesystem has one owner's lane, each sanitizer two of
# the filesystems, the way of a request over io_uring the suites that go it, and not what lies behind. The nightly run has
# all of it: without a sanitizer everything everywhere, with one each suite on each filesystem by one of the owners.
all='tmpfs ext4 ext4_1k xfs btrfs'
# What Lima, ssh and QEMU do, as one program that takes a while: once for each owner.
lima_on() { echo "LimaOpsTest.*/($(tr ' ' '|' <<<"$1"))"; }
uring='Doors|RandomOps|LimaOps|LimaFiles|LimaHandles|ShortWrite|Usage|Soak|FewDescriptors|HostReserve|Lines|DaemonLife|Stopped|Setuid|Edquot|ReadOnly'
# What is killed, and when, has nothing to do with the filesystem; where the data are, and what comes late, has.
killed='Kill|SlowTakeover'
case $preset in
  release)
    lane "root" "ext4 xfs" "$all" "" "$(lima_on xfs)" "$bin/mount_tests"
    lane "user" "tmpfs ext4_1k btrfs" "$all" "" "$(lima_on 'tmpfs ext4_1k')" "${as_nobody[@]}" "$bin/mount_tests"
    if [ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" = Y ]; then
      lane "io_uring, by an ordinary user" "ext4" "$all" "$uring" "" \
        "${as_nobody[@]}" LIMAQUOTA_MOUNT_OPTIONS=io_uring "$bin/mount_tests"
    else
      echo "skipped: over io_uring: the kernel does not offer it (/sys/module/fuse/parameters/enable_uring)"
      echo "0 0 1" >>"$work/counts"
    fi
    lane "faults" "ext4 xfs" "$all" "" "($killed).*/xfs" "$bin/fault_tests"
    # What the daemon may do to its files, root may always.
    lane "kills, by an ordinary user" "ext4" "$all" "$killed" "" "${as_nobody[@]}" "$bin/fault_tests"
    ;;
  asan)
    lane "root" "xfs" "ext4 xfs" "" "" "$bin/mount_tests"
    lane "user" "btrfs" "tmpfs ext4_1k btrfs" "" "LimaOpsTest" "${as_nobody[@]}" "$bin/mount_tests"
    lane "faults" "ext4" "$all" "" "" "$bin/fault_tests"
    ;;
  tsan)
    lane "root" "ext4" "ext4 xfs" "" "LimaOpsTest" "$bin/mount_tests"
    lane "user" "tmpfs" "tmpfs ext4_1k btrfs" "" "LimaOpsTest" "${as_nobody[@]}" "$bin/mount_tests"
    lane "kills, by an ordinary user" "ext4" "$all" "$killed" "" "${as_nobody[@]}" "$bin/fault_tests"
    ;;
esac
# Where a wrong access shows; with the time that the others leave. Other inputs every night.
if [ "$preset" = asan ]; then
  case $nightly in no) fuzz_seconds=20 ;; yes) fuzz_seconds=120 ;; long) fuzz_seconds=600 ;; esac
  run_gtest "fuzzers" "" "" nice env LIMAQUOTA_FUZZ_SECONDS=$fuzz_seconds "$build/fuzz_tests" 2>&1 | sed -u 's/^/fuzzers: /' &
fi

install -d -o $nobody -g $nobody "$work/commands"
case $preset in
  release)
    # The commands mostly wait; QEMUs take a whole core each.
    {
      run_scripted "commands, by an ordinary user" commands --at-once 3 "${as_nobody[@]}"
      run_scripted "installed" install --at-once 1 env LIMAQUOTA_BUILD="$build"
    } 2>&1 | sed -u 's/^/commands: /' &
    run_scripted "a real QEMU" vm --at-once 1 env 2>&1 | sed -u 's/^/vm: /' &
    ;;
  asan)
    run_scripted "commands, by an ordinary user" commands --at-once 2 "${as_nobody[@]}" 2>&1 | sed -u 's/^/commands: /' &
    ;;
esac
# With a sanitizer, of the QEMUs those that try the daemon.
if [ "$preset" != release ]; then
  only=(pause)
  if [ "$nightly" != no ]; then only=(); fi
  run_scripted "a real QEMU" vm --at-once 1 env 2>&1 | sed -u 's/^/vm: /' &
fi
wait
