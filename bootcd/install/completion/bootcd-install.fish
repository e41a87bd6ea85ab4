# Completion of bootcd-install(8) for fish; installed as /usr/share/fish/vendor_completions.d/bootcd-install.fish.

set -l verbs to-disk to-filesystem print-configuration
set -l no_verb "not __fish_seen_subcommand_from $verbs"
set -l install '__fish_seen_subcommand_from to-disk to-filesystem'
set -l disk '__fish_seen_subcommand_from to-disk'
set -l place '__fish_seen_subcommand_from to-filesystem'
set -l print '__fish_seen_subcommand_from print-configuration'

complete -c bootcd-install -n $no_verb -f
complete -c bootcd-install -s h -l help -d 'Show help'
complete -c bootcd-install -n $no_verb -l version -d 'Show the version'
complete -c bootcd-install -n $no_verb -a to-disk -d 'Partition a disk and install to it'
complete -c bootcd-install -n $no_verb -a to-filesystem -d 'Install to a file system that is mounted'
complete -c bootcd-install -n $no_verb -a print-configuration -d 'Print what an image says about its installation'

complete -c bootcd-install -l source-imgref -x -d 'What to install'
complete -c bootcd-install -l config-dir -r -d 'Where settings of registries are'
complete -c bootcd-install -n $install -l target-imgref -x -d 'What to follow from then on'
complete -c bootcd-install -n $install -l target-transport -x -a 'registry oci oci-archive' -d 'Transport of it'
complete -c bootcd-install -n $install -l enforce-container-sigpolicy -d 'Have upgrades demand a signature policy'
complete -c bootcd-install -n $install -l spool-dir -r -d 'Where layers are kept meanwhile'
complete -c bootcd-install -n $install -l run-fetch-check -d 'Make sure that what is followed can be fetched'
complete -c bootcd-install -n $install -l bound-images -x -a 'pull skip' -d 'What becomes of bound images'
complete -c bootcd-install -n $install -l karg -x -d 'Add a kernel argument'
complete -c bootcd-install -n $install -l karg-delete -x -d 'Leave out a kernel argument'
complete -c bootcd-install -n $install -l root-ssh-authorized-keys -r -d 'Let these keys in as root'
complete -c bootcd-install -n $install -l stateroot -x -d 'Name of the state root'
complete -c bootcd-install -n $install -l disable-selinux -d 'Boot with SELinux off'
complete -c bootcd-install -n $install -l generic-image -d 'The disk may be for any machine'
complete -c bootcd-install -n $install -l bootloader -x -a 'grub none' -d 'Boot loader'
complete -c bootcd-install -n $install -l bootupd-skip-boot-uuid -d 'Have bootupd write no UUID'
complete -c bootcd-install -n $install -l json -d 'Tell progress and result as lines of JSON'
complete -c bootcd-install -n $install -s q -l quiet -d 'Print errors and warnings only'

complete -c bootcd-install -n $disk -l wipe -d 'Lose everything on the disk'
complete -c bootcd-install -n $disk -l block-setup -x -a direct -d 'How root lies on the disk'
complete -c bootcd-install -n $disk -l filesystem -x -a 'ext4 xfs btrfs' -d 'Root file system'
complete -c bootcd-install -n $disk -l root-size -x -d 'Size of the root partition'
complete -c bootcd-install -n $disk -l via-loopback -d 'Install to a file'

complete -c bootcd-install -n $place -l root-mount-spec -x -d 'Source of the root file system'
complete -c bootcd-install -n $place -l boot-mount-spec -x -d 'Source of the file system at /boot'
complete -c bootcd-install -n $place -l replace -x -a 'wipe alongside' -d 'What may be lost'
complete -c bootcd-install -n $place -l acknowledge-destructive -d 'Mean it'
complete -c bootcd-install -n $place -l skip-finalize -d 'Leave the file systems writable'

complete -c bootcd-install -n $print -l all -d 'Print kernel arguments too'
