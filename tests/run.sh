#!/usr/bin/env bash
# Builds limaquota and runs its tests. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: tests/run.sh [--preset NAME]... [--check | --nightly[=long]] [--filter REGEX]

Installs what is missing, builds, runs the tests, and ends with a line
  N passed, N failed, N skipped
The exit status is 0 when none failed.

  --preset NAME   build and test this preset: release (the default), debug, asan or tsan; may be repeated
  --check         what a change has to pass: release, asan, tsan, clang-format, clang-tidy on what changed, the locks, Debian 13
  --nightly       all of that and debug, each suite on every filesystem, as root and as an ordinary user, longer, and
                  Debian unstable: up to two hours and a half
  --nightly=long  the same with a million random operations, an hour of mixed load, 1,000 kills of the worker in each test
                  that does so, 200 power cuts, ten minutes for each fuzzer: up to a day
  --filter REGEX  only tests whose name matches (SUITE.NAME/FILESYSTEM)

Mounts, loop devices and processes live in a namespace of their own and end with it.
TEXT
}

presets=()
releases=()
lint=no
nightly=no
filter=''
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) presets+=("${2:?--preset needs a name}"); shift ;;
    --check) presets=(release asan tsan) releases=(trixie) lint=yes ;;
    --nightly | --nightly=long)
      presets=(release asan tsan debug) releases=(trixie sid) lint=yes
      if [ "$1" = --nightly ]; then nightly=yes; else nightly=long; fi
      ;;
    --filter) filter="${2:?--filter needs a regular expression}"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#presets[@]} -gt 0 ] || presets=(release)
# Every preset's suites are run by the tests of the release.
[ "${presets[0]}" = release ] || presets=(release-tests "${presets[@]}")

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "tests/run.sh: mounting the backing filesystems needs root or sudo" >&2; exit 1; }
  as_root=(sudo --preserve-env=LIMAQUOTA_SHARED,LIMAQUOTA_RANDOM_OPERATIONS,LIMAQUOTA_SEED)
fi

started=$SECONDS
work=''
children=()

uring=/sys/module/fuse/parameters/enable_uring
uring_before=''
set_uring() { printf '%s\n' "$1" | "${as_root[@]}" tee "$uring" >/dev/null; }

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

# A child of ours has a process group of its own, and so have its children.
clean_up() {
  local child
  trap - EXIT INT TERM HUP
  # unshare waits for its child whatever TERM says; with it goes the namespace and all that is in it.
  if [ -s "$work/unshare.pid" ]; then "${as_root[@]}" kill -KILL "$(cat "$work/unshare.pid")" 2>/dev/null || true; fi
  for child in "${children[@]}"; do
    kill -- -"$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  done
  if [ -n "$uring_before" ]; then set_uring "$uring_before" || true; fi
  if [ -n "$work" ]; then "${as_root[@]}" rm -rf --one-file-system "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One check of ours counts as a test: a name and a command.
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then
    echo "1 0 0" >>"$work/counts"
    say "$name: passed"
  else
    echo "0 1 0" >>"$work/counts"
    say "$name: FAILED" | tee -a "$work/failures"
  fi
}

# What of a preset is built, and how. Only the release has the tests that mount: they are the same for each daemon.
build() {
  local preset=${1%-tests} targets=()
  case $1 in
    release-tests) targets=(mount_tests fault_tests) ;;
    debug) targets=(unit_tests seam_tests) ;;
    asan) targets=(limaquota limaquota_faulty unit_tests seam_tests fuzz_tests) ;;
    tsan) targets=(limaquota limaquota_faulty unit_tests seam_tests) ;;
  esac
  cmake --preset "$preset" -DLIMAQUOTA_TESTS=ON -DLIMAQUOTA_BENCH=ON -DLIMAQUOTA_WERROR=ON &&
    cmake --build --preset "$preset" ${targets:+--target} "${targets[@]}"
}

# All suites of one preset, inside a namespace that takes mounts, loop devices and processes with it.
run_suites() {
  local build=build/$1 status=0
  "${as_root[@]}" env LIMAQUOTA_NIGHTLY="$nightly" LIMAQUOTA_FILTER="$filter" \
    sh -c 'echo $$ >"$1/unshare.pid"; shift; exec "$@"' sh "$work" \
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    tests/run-suites.sh "$1" "$PWD/$build" "$PWD/build/release" "$work" || status=$?
  rm -f "$work/unshare.pid"
  if [ "$status" -ne 0 ]; then
    echo "0 1 0" >>"$work/counts"
    echo "FAILED: tests/run-suites.sh $1 ended with status $status" | tee -a "$work/failures"
  fi
}

debian() {
  local status=0
  tests/debian.sh "$@" >"$work/debian.log" 2>&1 || status=$?
  grep -vE '^\[[0-9]+/[0-9]+\]|^  *\[ *OK' "$work/debian.log"
  return "$status"
}

# What computes: the builds, in the order in which their suites are run, and what needs no other. Each build leaves a file
# built-PRESET with its status.
compute() {
  local preset status
  for preset in "${presets[@]}"; do
    say "building $preset"
    status=0
    build "$preset" || status=$?
    if [ "$status" -ne 0 ]; then say "building $preset: FAILED"; fi
    echo "$status" >"$work/building" && mv "$work/building" "$work/built-$preset"
  done
  if [ "$lint" = yes ]; then
    check "the walls between the wings" tests/lint.sh walls
    check "the locks" tests/lint.sh locks
    check clang-format tests/lint.sh format
    check clang-tidy tests/lint.sh tidy
  fi
  if [ ${#releases[@]} -gt 0 ]; then check "Debian ${releases[*]}" debian "${releases[@]}"; fi
}

# What waits, most of the time: the suites of each preset, once it is built.
wait_for_suites() {
  local preset
  for preset in "${presets[@]}"; do
    until [ -s "$work/built-$preset" ]; do
      kill -0 "$1" 2>/dev/null || [ -s "$work/built-$preset" ] || return 1  # who builds is gone
      sleep 0.2
    done
    if [ "$(cat "$work/built-$preset")" != 0 ]; then
      echo "0 1 0" >>"$work/counts"
      echo "-- building $preset" >>"$work/failures"
    elif [ "$preset" != release-tests ]; then
      say "the suites of $preset"
      run_suites "$preset"
    fi
  done
}

case "$nightly ${presets[*]}" in
  no\ release) takes='about ten minutes on two processors, 1 GB in build/' ;;
  no*) takes='up to half an hour on two processors, 2 GB in build/, 1.5 GB in ~/.cache/limaquota' ;;
  yes*) takes='up to two hours and a half on two processors, 2 GB in build/, 3 GB in ~/.cache/limaquota' ;;
  long*) takes='up to a day on two processors, 2 GB in build/, 3 GB in ~/.cache/limaquota' ;;
esac
echo "What this takes: $takes; for its time up to 10 GB in /var/tmp; of packages, on a bare Debian 12, 1.5 GB on the disk."
./mount-helpers/install-needs.sh build tests $([ "$lint" = no ] || echo lint)
work=$(mktemp -d /var/tmp/limaquota-tests.XXXXXX)
chmod 755 "$work"
: >"$work/counts"

# For the tests over io_uring; mounts that do not ask for it do not notice.
if [ "$(cat "$uring" 2>/dev/null)" = N ] && set_uring Y; then uring_before=N; fi

# Job control gives each its process group. They read no terminal.
set -m
compute </dev/null > >(sed -u 's/^/build: /') 2>&1 &
children+=($!)
builder=$!
wait_for_suites "$builder" </dev/null &
children+=($!)
set +m
for child in "${children[@]}"; do
  wait "$child" || echo "0 1 0" >>"$work/counts"
done

passed=0 failed=0 skipped=0
while read -r p f s; do
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done <"$work/counts"
say "done"
if [ -s "$work/failures" ]; then
  echo "What failed:"
  cat "$work/failures"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
