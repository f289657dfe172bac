#!/usr/bin/env bash
# lint.sh format: clang-format on every source, changing nothing.
# lint.sh walls: no include that climbs, or that its wing does not declare (tests/walls.py).
# lint.sh locks: clang's thread-safety analysis of all that shares memory among threads (accounting/mutex.hpp).
# lint.sh tidy [REVISION]: clang-tidy on the sources that changed since REVISION, else since the last common commit with the
# main branch (on it: since the last commit), or on all where there is none. It reads each source without a precompiled
# header, so that each has to include what it uses.
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- '*.cpp' '*.hpp' | while read -r f; do [ ! -f "$f" ] || echo "$f"; done; }

changed_since() {
  { git diff --name-only "$1"; git ls-files -o --exclude-standard; } | sort -u | grep -E '\.[ch]pp$' || true
}

# A changed header is checked through the sources that include it.
changed_sources() {
  local base=${1:-} file
  [ -n "$base" ] || base=$(git merge-base HEAD origin/HEAD 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD 2>/dev/null)" ]; then
    base=$(git rev-parse --verify --quiet HEAD~ || true)
  fi
  if [ -z "$base" ]; then
    sources | grep '\.cpp$'
    return
  fi
  changed_since "$base" | while read -r file; do
    case $file in
      *.hpp) sources | grep '\.cpp$' | xargs grep -lF "\"$file\"" || true ;;
      *) [ ! -f "$file" ] || echo "$file" ;;
    esac
  done | sort -u
}

case ${1:-} in
  walls) python3 tests/walls.py ;;
  locks)
    cmake --preset debug -B build/locks -DCMAKE_CXX_COMPILER=clang++ -DCCACHE=OFF -DLIMAQUOTA_TESTS=OFF -DLIMAQUOTA_WERROR=ON \
      -DCMAKE_CXX_FLAGS_DEBUG='-O0 -Wthread-safety' -DCMAKE_OPTIMIZE_DEPENDENCIES=ON >/dev/null
    cmake --build build/locks --target accounting/all fs/all command_watch
    ;;
  format) sources | xargs clang-format --dry-run -Werror ;;
  tidy)
    cmake --preset release -B build/lint -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON -DCCACHE=OFF -DLIMAQUOTA_TESTS=ON \
      -DLIMAQUOTA_BENCH=ON >/dev/null
    changed_sources "${2:-}" | xargs -r -P "$(nproc)" -n 1 clang-tidy --quiet -p build/lint
    ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
