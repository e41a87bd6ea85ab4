# Completion of bootcd-image(1) for bash; installed as /usr/share/bash-completion/completions/bootcd-image.

_bootcd_image() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    case "$COMP_CWORD:${COMP_WORDS[1]}:${COMP_WORDS[2]}" in
        1:*) mapfile -t COMPREPLY < <(compgen -W 'notes rechunk --help --version' -- "$current") ;;
        2:notes:*) mapfile -t COMPREPLY < <(compgen -W 'push --help' -- "$current") ;;
        *:rechunk:*)
            if [[ $current == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W '--help --previous --max-layers --compression --level --arch
                    --spool-dir --json --authfile --plain-http --ca-file' -- "$current")
            elif [[ $previous == --compression ]]; then
                # A colon begins a word of its own in what bash hands over.
                mapfile -t COMPREPLY < <(compgen -W 'zstd zstd:chunked gzip' -- "$current")
            elif [[ $previous == --arch ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'amd64 arm64 ppc64le riscv64 s390x' -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -W 'docker:// oci: oci-archive:' -f -- "$current")
            fi
            ;;
        *:notes:push)
            if [[ $current == -* && $previous != --authfile && $previous != --ca-file ]]; then
                mapfile -t COMPREPLY < <(compgen -W '--help --authfile --plain-http --ca-file' -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
            fi
            ;;
    esac
}

complete -F _bootcd_image bootcd-image
