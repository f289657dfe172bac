# bash completion of limaquota. It asks limaquota itself what fits.
_limaquota() {
  local candidates line
  COMPREPLY=()
  mapfile -t candidates < <("$1" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  case ${candidates[0]-} in
    :directories)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -d -- "$2")
      ;;
    :files)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -f -- "$2")
      ;;
  esac
  for line in "${candidates[@]}"; do
    [[ $line == :* ]] || COMPREPLY+=("$(printf %q "${line%%$'\t'*}")")
  done
}
complete -F _limaquota limaquota
