#!/usr/bin/env bash
# run-suites.sh PRESET BUILD WORK: runs all suites of a build; tests/run.sh calls it as root in a mount and pid
# namespace of its own. Appends a line "passed failed skipped" for each suite to WORK/counts, and what failed tests
# printed to WORK/failures.
# The ordinary user of the tests is `nobody`, who need not be able to reach the sources: what he runs is copied to WORK.
set -euo pipefail
preset=$1 build=$2 work=$3
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

# The names that GoogleTest lists, as a --gtest_filter of those that match the regular expression.
gtest_filter() {
  "$@" --gtest_list_tests 2>/dev/null | awk '
    /^[^ ]/ { suite = $1; next }
    /^  /   { print suite $1 }' | grep -E -e "$LIMAQUOTA_FILTER" | paste -sd: || true
}

# run_gtest NAME COMMAND...: shows every result; the rest of the output only of what failed.
run_gtest() {
  local name=$1 log=$work/${1// /-}.log status=0 only
  shift
  local options=()
  if [ -n "${LIMAQUOTA_FILTER:-}" ]; then
    only=$(gtest_filter "$@")
    [ -n "$only" ] || return 0
    options+=("--gtest_filter=$only")
  else
    # A lane with few filesystems leaves some suites without a case: no failure.
    options+=("--gtest_filter=-GoogleTestVerification.*")
  fi
  printf '\n-- %s, %s\n' "$preset" "$name"
  set +e
  "$@" "${options[@]}" 2>&1 | tee "$log" | grep --line-buffered -vE '^\[( RUN      |-{10}|={10})\]|^Note: Google|^$'
  status=${PIPESTATUS[0]}
  set -e
  count_gtest "$log" "$status"
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
  local name=$1 directory=$2 at_once=$4 log=$work/$2.log status=0 line
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
}

run_gtest "unit tests" "$build/unit_tests"
# Without optimization nothing is tried in the others that the sanitizers do not try.
[ "$preset" != debug ] || exit 0

open_dev_fuse
install -d -m 755 "$bin"
install -m 755 "$build/limaquota" "$build/mount_tests" "$build/fault_tests" "$build/limaquota_faulty" "$bin"
mkdir -p "$bin/source/tests"
cp -r "$here/../mount-helpers" "$bin/source"
cp -r "$here/harness" "$here/vm" "$here/commands" "$here/install" "$bin/source/tests"
if [ -f "$shared/checks/lima_ops.py" ]; then install -m 755 "$shared/checks/lima_ops.py" "$bin"; fi

# One run of the mount tests, on filesystems of its own: lane NAME "FILESYSTEMS" COMMAND...
lane() {
  local name=$1 backings=$work/b${#1}  # short: a socket path has 108 bytes
  export LIMAQUOTA_TEST_DIR=$backings LIMAQUOTA_FILESYSTEMS=$2
  shift 2
  mkdir -p "$backings"
  if ! "$bin/mount_tests" --prepare "$backings"; then
    echo "0 1 0" >>"$work/counts"
    return 0
  fi
  run_gtest "$name" "$@"
}

roots='tmpfs ext4 ext4_1k xfs btrfs'
users=$roots
# With a sanitizer everything takes several times as long: two filesystems each.
if [ "$preset" != release ] && [ "${LIMAQUOTA_NIGHTLY:-no}" = no ]; then
  roots='ext4 xfs'
  users='tmpfs btrfs'
fi
export LIMAQUOTA_BINARY=$bin/limaquota LIMAQUOTA_LIMA_OPS=$bin/lima_ops.py
# A million operations over five filesystems, for each of the two users.
# And hundreds of workers killed, in each test that does so.
if [ "${LIMAQUOTA_NIGHTLY:-no}" = yes ]; then
  export LIMAQUOTA_RANDOM_OPERATIONS=${LIMAQUOTA_RANDOM_OPERATIONS:-200000}
  export LIMAQUOTA_KILLS=${LIMAQUOTA_KILLS:-1000} LIMAQUOTA_TAKEOVER_ROUNDS=${LIMAQUOTA_TAKEOVER_ROUNDS:-5000}
  export LIMAQUOTA_SOAK_SECONDS=${LIMAQUOTA_SOAK_SECONDS:-3600} LIMAQUOTA_POWER_CUTS=${LIMAQUOTA_POWER_CUTS:-200}
fi
# All at once: they mostly wait, for the disk or for something to happen.
lane "mounted by root" "$roots" "$bin/mount_tests" 2>&1 | sed -u 's/^/root: /' &
lane "mounted by an ordinary user" "$users" \
  "${as_nobody[@]}" "$bin/mount_tests" 2>&1 | sed -u 's/^/user: /' &
if [ "$preset" = release ]; then
  if [ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" = Y ]; then
    lane "over io_uring" ext4 \
      "${as_nobody[@]}" LIMAQUOTA_MOUNT_OPTIONS=io_uring "$bin/mount_tests" 2>&1 | sed -u 's/^/io_uring: /' &
  else
    echo "skipped: over io_uring: the kernel does not offer it (/sys/module/fuse/parameters/enable_uring)"
    echo "0 0 1" >>"$work/counts"
  fi
fi
if [ -z "${LIMAQUOTA_FILTER:-}" ]; then
  # What the daemon may do to its files, root may always.
  LIMAQUOTA_FILTER=Kill lane "kills, by an ordinary user too" ext4 \
    "${as_nobody[@]}" "$bin/fault_tests" 2>&1 | sed -u 's/^/kills: /' &
fi
run_gtest "fault tests" "$build/fault_tests" 2>&1 | sed -u 's/^/faults: /' &
# Where a wrong access shows; with the time that the others leave. Other inputs every night.
if [ "$preset" = asan ]; then
  fuzz_seconds=60 fuzz_seed=${LIMAQUOTA_SEED:-1}
  if [ "${LIMAQUOTA_NIGHTLY:-no}" = yes ]; then fuzz_seconds=600 fuzz_seed=${LIMAQUOTA_SEED:-$(date +%s)}; fi
  run_gtest "fuzzers" nice env LIMAQUOTA_FUZZ_SECONDS=$fuzz_seconds LIMAQUOTA_SEED="$fuzz_seed" \
    "$build/fuzz_tests" 2>&1 | sed -u 's/^/fuzzers: /' &
fi
wait
install -d -o $nobody -g $nobody "$work/commands"
# With a sanitizer: of the QEMUs those that try the daemon; with the thread sanitizer no commands, which have one thread.
[ "$preset" = release ] || only=(pause)
# The commands mostly wait; QEMUs take a whole core each.
if [ "$preset" != tsan ]; then
  {
    only=()
    run_scripted "commands, by an ordinary user" commands --at-once 3 "${as_nobody[@]}"
    if [ "$preset" = release ]; then run_scripted "installed" install --at-once 1 env LIMAQUOTA_BUILD="$build"; fi
  } 2>&1 | sed -u 's/^/commands: /' &
fi
run_scripted "a real QEMU" vm --at-once 1 env
wait
