#!/usr/bin/env bash
# libfuse's example filesystems as peers: where PATH, $PASSTHROUGH_LL and $PASSTHROUGH_HP name none, what Debian's
# libfuse3-dev has of them as examples is compiled into build/bench/peers.
set -euo pipefail
cd "$(dirname "$0")/.."
examples=/usr/share/doc/libfuse3-dev/examples
peers=build/bench/peers
mkdir -p "$peers"

compile() {
  local name=$1 variable=$2 compiler=$3 source
  if [ -n "${!variable:-}" ] || command -v "$name" >/dev/null || [ -x "$peers/$name" ]; then return; fi
  for source in "$examples/$name".c "$examples/$name".cc; do
    [ -f "$source" ] || continue
    # What libfuse's own build finds on Linux; the flags are split on purpose.
    # shellcheck disable=SC2046
    "$compiler" -O2 -DHAVE_UTIMENSAT -DHAVE_SETXATTR -DHAVE_POSIX_FALLOCATE -DHAVE_COPY_FILE_RANGE -o "$peers/$name" "$source" $(pkg-config --cflags --libs fuse3)
    return
  done
  echo "$name is not here, nor its source in $examples: set $variable to it for a row more"
}
compile passthrough_ll PASSTHROUGH_LL gcc
compile passthrough_hp PASSTHROUGH_HP g++
