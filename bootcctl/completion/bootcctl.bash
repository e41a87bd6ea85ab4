# Completion of bootcctl(1) for bash; installed as /usr/share/bash-completion/completions/bootcctl.

_bootcctl_active_jobs() {
    bootcctl jobs 2>/dev/null | while read -r number _ state _; do
        case $state in running | cancelling) printf '%s\n' "$number" ;; esac
    done
}

_bootcctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local common='--help --json --quiet --no-color'
    local verbs='status check upgrade switch rollback edit apply kargs pin unpin drop usr-overlay inhibit pause resume cancel jobs log monitor notify history health why diff config-diff notes reload mock'
    local verb='' word words=''

    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            -*) ;;
            *) [[ " $verbs " == *" $word "* ]] && verb=$word && break ;;
        esac
    done

    case $verb:$previous in
        status:--format)
            mapfile -t COMPREPLY < <(compgen -W 'human yaml json' -- "$current")
            return
            ;;
        status:--format-version)
            mapfile -t COMPREPLY < <(compgen -W '0 1' -- "$current")
            return
            ;;
        switch:--transport)
            mapfile -t COMPREPLY < <(compgen -W 'registry oci oci-archive docker-archive dir containers-storage' -- "$current")
            return
            ;;
        mock:--scenario)
            mapfile -t COMPREPLY < <(compgen -W 'idle available staged busy slow failing older denied unmanaged' -- "$current")
            return
            ;;
        mock:--interfaces)
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            return
            ;;
        mock:--speed | mock:--address)
            return
            ;;
        edit:-f | edit:--filename | mock:--script)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        *:--soft-reboot)
            mapfile -t COMPREPLY < <(compgen -W 'required auto' -- "$current")
            return
            ;;
        kargs:--delete | kargs:--replace | kargs:--append | upgrade:--tag | upgrade:--expect-digest)
            return
            ;;
        inhibit:--what)
            mapfile -t COMPREPLY < <(compgen -W 'check download stage reboot' -- "$current")
            return
            ;;
        inhibit:--mode)
            mapfile -t COMPREPLY < <(compgen -W 'block delay' -- "$current")
            return
            ;;
        inhibit:--who | inhibit:--why)
            return
            ;;
        check:--max-age)
            mapfile -t COMPREPLY < <(compgen -W '1h 1d' -- "$current")
            return
            ;;
        why:--metered | why:--on-battery | why:--power-saver)
            mapfile -t COMPREPLY < <(compgen -W 'yes no' -- "$current")
            return
            ;;
        why:--battery-percent)
            return
            ;;
        apply:--at | why:--at)
            mapfile -t COMPREPLY < <(compgen -W 'tomorrow' -- "$current")
            return
            ;;
        apply:--defer)
            mapfile -t COMPREPLY < <(compgen -W '1h 1d' -- "$current")
            return
            ;;
        pause:--until)
            mapfile -t COMPREPLY < <(compgen -W 'tomorrow' -- "$current")
            return
            ;;
        history:-n | history:--limit)
            return
            ;;
    esac

    case $verb in
        '') words="$verbs $common --version" ;;
        status) words="$common --format --format-version --booted --verbose" ;;
        check) words="$common --max-age --ignore-inhibitors --no-wait" ;;
        apply) words="$common --at --defer --cancel --soft-reboot --ignore-inhibitors --no-wait" ;;
        upgrade)
            words="$common --check --download-only --from-downloaded --tag --soft-reboot --apply --no-wait"
            words="$words --progress-fd --allow-downgrade --expect-digest --ignore-inhibitors"
            ;;
        switch)
            words="$common --tag --transport --enforce-container-sigpolicy --retain --download-only --soft-reboot"
            words="$words --apply --no-wait --progress-fd --ignore-inhibitors"
            if [[ $current != -* && " ${COMP_WORDS[*]} " == *" --transport "* ]]; then
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
                return
            fi
            ;;
        edit)
            words="$common --filename --ignore-inhibitors --no-wait"
            ;;
        rollback) words="$common --ignore-inhibitors --soft-reboot --apply --no-wait" ;;
        kargs) words="$common --ignore-inhibitors --delete --replace --append --apply --no-wait" ;;
        pin | unpin | drop)
            words="$common --no-wait"
            [[ $current == -* ]] || words="$words booted staged rollback"
            ;;
        usr-overlay) words="$common --read-only --no-wait" ;;
        inhibit)
            words="$common --list --what --who --why --mode"
            if [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -c -- "$current")
                return
            fi
            ;;
        pause)
            words="$common --until"
            [[ $current == -* ]] || words="$words 1d 3d 1w indefinitely"
            ;;
        cancel)
            words="$common --no-wait"
            [[ $current == -* ]] || words="$words $(_bootcctl_active_jobs)"
            ;;
        mock) words="$common --scenario --script --list --speed --system --address --interfaces" ;;
        history) words="$common --limit" ;;
        why) words="$common --at --metered --on-battery --battery-percent --power-saver" ;;
        health)
            words="$common --verbose"
            [[ $current == -* ]] || words="$words clear"
            ;;
        diff)
            words="$common --verbose"
            [[ $current == -* ]] || words="$words staged booted rollback"
            ;;
        *) words=$common ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _bootcctl bootcctl
