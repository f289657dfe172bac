#!/usr/bin/env bash
# Builds a kernel in a temporary Lima VM, held to a hard disk budget. See --help.
set -euo pipefail

readonly me=${0##*/}
readonly source=/usr/src/linux-source-6.1 packages=/usr/src/kernel-packages

usage() {
  cat <<TEXT
usage: $me [--name VM] [--template TEMPLATE] [--config FILE | --config-target TARGET] [--output DIR]
                       [--jobs N] [--home DIR] [--keep] [--continue]

Plans whether it fits, makes a VM with its limit, builds Debian's kernel source in it as packages, copies these out,
deletes the VM, and says what it cost. Each step may be interrupted: it then says what is left, and how to go on.

  --name VM               the temporary VM; kernel-build unless given
  --template TEMPLATE     of the VM, as "limaquota apply" takes it; zfs-kernel-build unless given
  --config FILE           the kernel's configuration; unless given that of the VM's own kernel, without debug information
  --config-target TARGET  rather a target of make, such as defconfig
  --output DIR            where the packages go; made where it is not there; ./kernel-packages unless given
  --jobs N                make -j; the number of the VM's processors unless given
  --home DIR              the Lima home; \$LIMA_HOME or ~/.lima unless given; limaquota must be mounted over it
  --keep                  do not delete the VM in the end
  --continue              go on with a VM that an interrupted run, or --keep, left; what was built is not built again

Exit status: 0 done; 1 a step failed, or it does not fit; 2 wrong use; 130 or 143 ended by a signal.

Examples:
  $me
  $me --config my.config --output ~/kernels --jobs 8
  $me --continue --name kernel-build
TEXT
}

say() { printf '%s\n' "$me: $*"; }
die() {
  printf '%s\n' "$me: $*" >&2
  exit 1
}
wrong_use() {
  printf '%s\n' "$me: $* ($me --help)" >&2
  exit 2
}

vm=kernel-build template=zfs-kernel-build config='' target='' output=kernel-packages jobs='' keep=no go_on=no
home=${LIMA_HOME:-${HOME:-}/.lima}
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=yes ;;
    --continue) go_on=yes ;;
    -h|--help) usage; exit 0 ;;
    --name|--template|--config|--config-target|--output|--jobs|--home)
      [ $# -ge 2 ] || wrong_use "$1 needs a value"
      case "$1" in
        --name) vm=$2 ;;
        --template) template=$2 ;;
        --config) config=$2 ;;
        --config-target) target=$2 ;;
        --output) output=$2 ;;
        --jobs) jobs=$2 ;;
        --home) home=$2 ;;
      esac
      shift
      ;;
    *) wrong_use "unknown: $1" ;;
  esac
  shift
done
[[ $vm =~ ^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$ ]] || wrong_use "'$vm' is no name for a VM"
[[ $target =~ ^[a-z0-9_]*$ ]] || wrong_use "'$target' is no target that makes a configuration"
[[ $jobs =~ ^[0-9]*$ ]] || wrong_use "--jobs needs a number"
[ -z "$config" ] || [ -z "$target" ] || wrong_use "--config and --config-target exclude each other"
[ -z "$config" ] || [ -r "$config" ] || die "$config: no such configuration, or not readable"

limaquota=${LIMAQUOTA:-limaquota}
for program in limactl "$limaquota" sha256sum tar; do
  command -v "$program" >/dev/null || die "no $program in PATH: install it first"
done
[ -r "$home/.usage/_host" ] || die "$home: limaquota is not mounted there: limaquota mount $home"
home=$(realpath -- "$home")
export LIMA_HOME=$home

# Each program is a process group of its own: a signal is for this script, which hands it on.
set -m
# The step that is running, its process group, and the one that shows how the VM grows.
step='' child='' shower='' made=no there=no part='' started=$SECONDS peak=0
declare -a costs=()

figure() { awk -v key="$2" '$1 == key { print $2 }' "$home/.usage/$1" 2>/dev/null || true; }
mib() { awk -v bytes="${1:-0}" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }
quoted() { printf '%q' "$1"; }

how_to_remove() {
  printf 'limactl delete --force %s && rm -f %s' "$vm" "$(quoted "$home/.quota/$vm")"
}

end_group() {
  [ -n "$1" ] || return 0
  kill -TERM -- "-$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# Said once, on the way out of anything but success.
what_is_left() {
  local status=$1
  trap - EXIT INT TERM HUP
  set +e
  end_group "$shower"
  end_group "$child"
  [ -z "$part" ] || rm -rf -- "$part"
  if [ "$status" -eq 0 ] || [ -z "$step" ]; then exit "$status"; fi
  # apply may have made it before it was ended.
  [ ! -e "$home/$vm" ] || [ "$made" = no ] || there=yes
  {
    say "ended while: $step"
    if [ "$there" = no ]; then
      say "nothing is left; to begin anew: the same command"
    elif [ "$step" = "deleting the VM" ]; then
      say "the packages are in $output; what may be left of the VM '$vm' goes by: $(how_to_remove)"
    else
      say "the VM '$vm' is left, held to its limit of $(mib "$(figure "$vm" limit)")"
      say "  to go on:         $me --continue --name $vm and the options as before (LIMA_HOME=$(quoted "$home"))"
      say "  to be rid of it:  LIMA_HOME=$(quoted "$home"); $(how_to_remove)"
    fi
  } >&2
  exit "$status"
}
trap 'what_is_left $?' EXIT
trap 'what_is_left 130' INT
trap 'what_is_left 143' TERM
trap 'what_is_left 129' HUP

# Runs a program so that a signal reaches the trap at once, and the program by it.
waited() {
  local status=0
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

begin() {
  step=$1
  began=$SECONDS
  say "$step"
}
finish() {
  costs+=("$(printf '%-22s %5d s   %s' "$step" $((SECONDS - began)) "$(mib "$(figure "$vm" used)")")")
}

in_vm() { limactl shell --tty=false --workdir / "$vm" sudo "$@"; }

# What runs inside, with the configuration on its standard input. Only one at a time: that of a run that was interrupted
# may still be at work. A failing step ends it.
build_script() {
  cat <<TEXT
set -eu
exec 9>/run/build-kernel.lock
flock 9
cd $source
case '${config:+file}${target:+target}' in
  file) cat >.config.new; mv .config.new .config; make -s olddefconfig ;;
  target) make -s ${target:-help} ;;
  *)
    if [ ! -e .config ]; then
      cp /boot/config-\$(uname -r) .config
      ./scripts/config --disable DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT --disable DEBUG_INFO_BTF --enable DEBUG_INFO_NONE \\
        --set-str SYSTEM_TRUSTED_KEYS '' --set-str SYSTEM_REVOCATION_KEYS ''
    fi
    make -s olddefconfig ;;
esac
rm -f ../*.deb
make -s -j${jobs:-\$(nproc)} KBUILD_PKG_ROOTCMD=env bindeb-pkg
rm -rf $packages.new $packages
mkdir $packages.new
mv ../*.deb $packages.new
cp .config $packages.new/config
cd $packages.new
sha256sum * >SHA256SUMS
mv $packages.new $packages
sync
TEXT
}

# Shows how the VM grows, and what to do where it is paused, until it is ended.
show_growth() {
  local state last=''
  while sleep 5; do
    state=$(figure "$vm" state)
    if [ -t 1 ]; then
      printf '\r  used %s of %s, %s\033[K' "$(mib "$(figure "$vm" used)")" "$(mib "$(figure "$vm" limit)")" "$state"
    fi
    if [ "$state" != "$last" ]; then
      case $state in
        full) say "'$vm' met its limit and is paused; it goes on by: $limaquota set $vm SIZE" ;;
        host_full) say "the host's disk is full and '$vm' is paused; free space, then: $limaquota resume $vm" ;;
      esac
    fi
    last=$state
  done
}

build() {
  local status=0
  show_growth &
  shower=$!
  waited in_vm sh -c "$(build_script)" <"${config:-/dev/null}" || status=$?
  end_group "$shower"
  shower=''
  return "$status"
}

copy_out() { in_vm tar -C "$packages" -cf - . | tar -C "$part" -xf -; }

step='planning'
if [ "$go_on" = yes ]; then
  [ -e "$home/$vm/lima.yaml" ] || { step=''; die "no VM '$vm' in $home to go on with"; }
  there=yes made=yes
else
  [ ! -e "$home/$vm" ] || { step=''; die "there is a VM '$vm' already: --continue goes on with it, --name takes another"; }
  begin "planning"
  waited "$limaquota" plan "$template" --home "$home" || die "it does not fit, or could not be planned"
  finish
  begin "making the VM"
  made=yes
  waited "$limaquota" apply "$template" --name "$vm" --home "$home" || die "limaquota apply failed"
  there=yes
  finish
fi
begin "starting the VM"
waited limactl start --tty=false "$vm" || die "limactl start failed"
finish
begin "building the kernel"
build || die "the build failed"
finish
begin "copying the packages"
mkdir -p -- "$output"
output=$(realpath -- "$output")
part=$(mktemp -d -- "$output/.part.XXXXXX")
waited copy_out || die "the packages could not be copied"
(cd "$part" && sha256sum --quiet -c SHA256SUMS) || die "the packages are not what the VM sent"
mv -f -- "$part"/* "$output"
rmdir -- "$part"
part=''
finish
peak=$(figure "$vm" peak)
limit=$(figure "$vm" limit)
refused=$(figure "$vm" refused_writes)
if [ "$keep" = no ]; then
  begin "deleting the VM"
  waited limactl delete --force "$vm" || die "limactl delete failed"
  rm -f -- "$home/.quota/$vm" "$home/_config/limaquota/$vm.yaml"
  finish
fi
step=''
say "done: $(find "$output" -maxdepth 1 -name '*.deb' | wc -l) packages in $output, in $((SECONDS - started)) s"
printf '  %s\n' "${costs[@]}"
say "disk: $(mib "$peak") at the peak, of a limit of $(mib "$limit"); ${refused:-0} writes refused"
if [ "$keep" = yes ]; then
  say "the VM '$vm' is kept: $(how_to_remove)"
else
  say "free now: $(mib "$(figure _host free)"); of the VM nothing is left"
fi
