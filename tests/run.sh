#!/usr/bin/env bash
# Builds limaquota and runs its tests. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: tests/run.sh [--preset NAME]... [--all] [--lint] [--nightly] [--filter REGEX]

Installs what is missing, builds, runs every suite, and ends with a line
  N passed, N failed, N skipped
The exit status is 0 when none failed.

  --preset NAME   build and test this preset: release (the default), debug, asan or tsan; may be repeated
  --all           all presets
  --lint          also clang-format on all sources and clang-tidy on the changed ones
  --nightly       long runs: a million random operations over all filesystems, an hour of mixed load, 1,000 kills of the
                  worker in each test that does so, 200 power cuts; ten minutes for each fuzzer, in asan
  --filter REGEX  only tests whose name matches (SUITE.NAME/FILESYSTEM)

Mounts, loop devices and processes live in a namespace of their own and end with it.
TEXT
}

presets=()
lint=no
nightly=no
filter=''
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) presets+=("${2:?--preset needs a name}"); shift ;;
    --all) presets=(release debug asan tsan) ;;
    --lint) lint=yes ;;
    --nightly) nightly=yes ;;
    --filter) filter="${2:?--filter needs a regular expression}"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#presets[@]} -gt 0 ] || presets=(release)

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "tests/run.sh: mounting the backing filesystems needs root or sudo" >&2; exit 1; }
  as_root=(sudo --preserve-env=LIMAQUOTA_SHARED,LIMAQUOTA_RANDOM_OPERATIONS,LIMAQUOTA_SEED)
fi

passed=0
failed=0
skipped=0
started=$SECONDS
work=''
child=''

uring=/sys/module/fuse/parameters/enable_uring
uring_before=''
set_uring() { printf '%s\n' "$1" | "${as_root[@]}" tee "$uring" >/dev/null; }

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

clean_up() {
  trap - EXIT INT TERM HUP
  # unshare waits for its child whatever TERM says; with it goes the namespace and all that is in it.
  if [ -s "$work/unshare.pid" ]; then "${as_root[@]}" kill -KILL "$(cat "$work/unshare.pid")" 2>/dev/null || true; fi
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$uring_before" ]; then set_uring "$uring_before" || true; fi
  if [ -n "$work" ]; then "${as_root[@]}" rm -rf --one-file-system "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command in the background and waits, so that a signal to this script reaches its trap at once.
waited() {
  local status=0
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

# Adds "passed failed skipped" lines of a file to the sums.
add_counts() {
  local p f s
  while read -r p f s; do
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  done <"$1"
}

# One check of ours: a name and a command.
check() {
  local name=$1
  shift
  say "$name"
  if waited "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

build() {
  local targets=()
  # Without optimization only these are run.
  [ "$1" != debug ] || targets=(--target unit_tests)
  say "building $1"
  waited cmake --preset "$1" && waited cmake --build --preset "$1" "${targets[@]}"
}

# All suites of one preset, inside a namespace that takes mounts, loop devices and processes with it.
run_suites() {
  local build=build/$1 status=0
  : >"$work/counts"
  waited "${as_root[@]}" env LIMAQUOTA_NIGHTLY="$nightly" LIMAQUOTA_FILTER="$filter" \
    sh -c 'echo $$ >"$1/unshare.pid"; shift; exec "$@"' sh "$work" \
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    tests/run-suites.sh "$1" "$PWD/$build" "$work" || status=$?
  rm -f "$work/unshare.pid"
  add_counts "$work/counts"
  if [ "$status" -ne 0 ]; then
    failed=$((failed + 1))
    echo "FAILED: tests/run-suites.sh $1 ended with status $status"
  fi
}

./mount-helpers/install-needs.sh build tests $([ "$lint" = no ] || echo lint)
work=$(mktemp -d /var/tmp/limaquota-tests.XXXXXX)
chmod 755 "$work"

# For the tests over io_uring; mounts that do not ask for it do not notice.
if [ "$(cat "$uring" 2>/dev/null)" = N ] && set_uring Y; then uring_before=N; fi

[ "$lint" = no ] || check clang-format tests/lint.sh format
for preset in "${presets[@]}"; do
  if build "$preset"; then
    run_suites "$preset"
  else
    failed=$((failed + 1))
    echo "FAILED: building $preset"
  fi
done
[ "$lint" = no ] || check clang-tidy tests/lint.sh tidy "build/${presets[0]}"

say "done"
if [ -s "$work/failures" ]; then
  echo "What failed, also at its first try only:"
  cat "$work/failures"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
