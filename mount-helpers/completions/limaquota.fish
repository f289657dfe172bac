# fish completion of limaquota. It asks limaquota itself what fits.
function __limaquota_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l candidates (command $words[1] __complete -- $words[2..-1] "$word" 2>/dev/null)
    switch "$candidates[1]"
        case :directories
            __fish_complete_directories "$word"
        case :files
            __fish_complete_path "$word"
            printf '%s\n' $candidates[2..-1]
        case '*'
            printf '%s\n' $candidates
    end
end
complete -c limaquota -f -a '(__limaquota_complete)'
