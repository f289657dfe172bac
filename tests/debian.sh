#!/usr/bin/env bash
# Builds limaquota on releases of Debian, each in a clean chroot, and tries it there. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: tests/debian.sh [--new] [RELEASE]...

For each RELEASE (bookworm, trixie, sid; all three unless named): a clean chroot in which mount-helpers/install-needs.sh
installed what it names, and nothing else; there the build, with warnings as errors, the unit tests, the smoke tests as
root and as an ordinary user, the demo, the .deb and lintian. Ends with a line
  N passed, N failed, N skipped
The exit status is 0 when none failed.

  --new   makes the chroots anew

The mirror and the settings of apt are this machine's. A chroot (about 1.3 GB) is kept for a week in
${XDG_CACHE_HOME:-~/.cache}/limaquota, where root owns it, with what the compiler made: sudo rm -r gives the space back.
It is never written to while it is used. Mounts and processes live in a namespace of their own and end with it.
TEXT
}

new=no
releases=()
while [ $# -gt 0 ]; do
  case "$1" in
    --new) new=yes ;;
    -h|--help) usage; exit 0 ;;
    bookworm|trixie|sid) releases+=("$1") ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie sid)

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "tests/debian.sh: making a chroot needs root or sudo" >&2; exit 1; }
  as_root=(sudo --preserve-env=http_proxy,https_proxy,no_proxy)
fi

work=''
child=''
clean_up() {
  trap - EXIT INT TERM HUP
  # unshare waits for its child whatever TERM says; with it goes the namespace and all that is in it.
  if [ -s "$work/unshare.pid" ]; then "${as_root[@]}" kill -KILL "$(cat "$work/unshare.pid")" 2>/dev/null || true; fi
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$work" ]; then "${as_root[@]}" rm -rf --one-file-system "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

command -v mmdebstrap >/dev/null && command -v git >/dev/null || ./mount-helpers/install-needs.sh tests
work=$(mktemp -d /var/tmp/limaquota-debian.XXXXXX)
chmod 755 "$work"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/limaquota
mkdir -p "$cache" "$work/source"
# What git knows or would add; not what was removed and is not committed yet.
git ls-files -z --cached --others --exclude-standard |
  tar --null --files-from=- --ignore-failed-read --create 2>/dev/null | tar --extract --directory "$work/source"

passed=0
failed=0
skipped=0
for release in "${releases[@]}"; do
  : >"$work/counts"
  status=0
  # In the background, so that a signal to this script reaches its trap at once.
  # shellcheck disable=SC2016
  "${as_root[@]}" sh -c 'echo $$ >"$1/unshare.pid"; shift; exec "$@"' sh "$work" \
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    tests/debian-release.sh "$release" "$work" "$cache" "$new" &
  child=$!
  wait "$child" || status=$?
  child=''
  rm -f "$work/unshare.pid"
  while read -r p f s; do
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  done <"$work/counts"
  if [ "$status" -ne 0 ]; then
    failed=$((failed + 1))
    echo "FAILED: tests/debian-release.sh $release ended with status $status"
  fi
done
if [ -s "$work/took" ]; then
  echo
  echo "What it took, in seconds:"
  cat "$work/took"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
