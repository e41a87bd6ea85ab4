# Completion of bootcd-install(8) for bash; installed as /usr/share/bash-completion/completions/bootcd-install.

_bootcd_install() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local verbs='to-disk to-filesystem print-configuration' verb='' word words=''
    local common='--help --source-imgref --target-imgref --target-transport --enforce-container-sigpolicy
        --spool-dir --config-dir --run-fetch-check --bound-images --karg --karg-delete --root-ssh-authorized-keys --stateroot
        --disable-selinux --generic-image --bootloader --bootupd-skip-boot-uuid --json --quiet'

    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " $verbs " == *" $word "* ]] && verb=$word && break
    done

    case $previous in
        --filesystem) words='ext4 xfs btrfs' ;;
        --block-setup) words='direct' ;;
        --bootloader) words='grub none' ;;
        --bound-images) words='pull skip' ;;
        --replace) words='wipe alongside' ;;
        --target-transport) words='registry oci oci-archive' ;;
        --root-ssh-authorized-keys | --spool-dir | --config-dir)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --source-imgref | --target-imgref | --karg | --karg-delete | --stateroot | --root-size | --*-mount-spec)
            return
            ;;
        *)
            case $verb in
                '') words="$verbs --help --version" ;;
                to-disk) words="$common --wipe --block-setup --filesystem --root-size --via-loopback" ;;
                to-filesystem)
                    words="$common --root-mount-spec --boot-mount-spec --replace --acknowledge-destructive
                        --skip-finalize"
                    ;;
                print-configuration) words='--help --all --source-imgref --config-dir' ;;
            esac
            if [[ $current != -* && -n $verb ]]; then
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
                return
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _bootcd_install bootcd-install
