#!/usr/bin/env bash
# Builds limaquota and measures it beside its peers. `bench/run.sh --help` says more; bench/README.md explains the rows.
set -euo pipefail
cd "$(dirname "$0")/.."

case " $* " in *" --help "* | *" -h "*) exec python3 bench/run.py --help ;; esac
[ "$(id -u)" -eq 0 ] || { echo "bench/run.sh: loop devices and tmpfs need root: run it with sudo" >&2; exit 1; }

groups=(build bench)
case " $* " in *" --rows kernel "*) groups+=(kernel) ;; esac
./mount-helpers/install-needs.sh "${groups[@]}" >&2
cmake --preset release -DLIMAQUOTA_BENCH=ON >&2
cmake --build --preset release --target limaquota --target limaquota_unmetered --target limaquota_empty \
  --target micro_bench >&2
bench/find-peers.sh >&2

# For the column with io_uring; mounts that do not ask for it do not notice.
uring=/sys/module/fuse/parameters/enable_uring
if [ "$(cat $uring 2>/dev/null)" = N ] && echo Y >$uring; then trap 'echo N >$uring' EXIT; fi

# Mounts, loop devices and processes live in a namespace of their own and end with it. unshare itself does not heed TERM.
unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
  env PATH="$PWD/build/release:$PWD/build/bench/peers:$PATH" python3 bench/run.py "$@" &
child=$!
trap 'kill -KILL "$child"; exit 130' INT TERM HUP
wait "$child"
