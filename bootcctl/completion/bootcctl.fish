# Completion of bootcctl(1) for fish; installed as /usr/share/fish/vendor_completions.d/bootcctl.fish.

set -l verbs status check upgrade switch rollback edit apply kargs pin unpin drop usr-overlay cancel jobs monitor history diff config-diff notes reload
set -l no_verb "not __fish_seen_subcommand_from $verbs"

function __bootcctl_active_jobs
    bootcctl jobs 2>/dev/null | string match -rg '^(\d+ +\S+) +(?:running|cancelling)' | string replace -r ' +' \t
end

complete -c bootcctl -f
complete -c bootcctl -s h -l help -d 'Show help'
complete -c bootcctl -l json -d 'Print one JSON document'
complete -c bootcctl -s q -l quiet -d 'Print errors only'
complete -c bootcctl -l no-color -d 'No colours'
complete -c bootcctl -n $no_verb -l version -d 'Show the version'

complete -c bootcctl -n $no_verb -a status -d 'Show what is booted, staged and available'
complete -c bootcctl -n $no_verb -a check -d 'Ask the registry for a newer version'
complete -c bootcctl -n $no_verb -a upgrade -d 'Stage the newest version of the tracked image'
complete -c bootcctl -n $no_verb -a switch -d 'Track another image and stage it'
complete -c bootcctl -n $no_verb -a rollback -d 'Boot the previous deployment next time'
complete -c bootcctl -n $no_verb -a edit -d 'Change image or boot order in an editor'
complete -c bootcctl -n $no_verb -a apply -d 'Reboot now into what is staged or queued'
complete -c bootcctl -n $no_verb -a kargs -d 'Show or change the kernel arguments'
complete -c bootcctl -n $no_verb -a pin -d 'Keep a deployment'
complete -c bootcctl -n $no_verb -a unpin -d 'Let a pinned deployment go'
complete -c bootcctl -n $no_verb -a drop -d 'Take a deployment off the host'
complete -c bootcctl -n $no_verb -a usr-overlay -d 'Make /usr writable until the next reboot'
complete -c bootcctl -n $no_verb -a cancel -d 'Stop a job'
complete -c bootcctl -n $no_verb -a jobs -d 'List active and recent jobs'
complete -c bootcctl -n $no_verb -a monitor -d 'Follow the service and its jobs'
complete -c bootcctl -n $no_verb -a history -d 'List ended jobs'
complete -c bootcctl -n $no_verb -a notes -d 'Show the release notes of the update'
complete -c bootcctl -n $no_verb -a diff -d 'Show what differs between two deployments'
complete -c bootcctl -n $no_verb -a config-diff -d 'List what was changed in /etc'
complete -c bootcctl -n $no_verb -a reload -d 'Have the service read its configuration again'

complete -c bootcctl -n '__fish_seen_subcommand_from status' -l format -x -a 'human yaml json' -d 'Form of the answer'
complete -c bootcctl -n '__fish_seen_subcommand_from status' -l format-version -x -a '0 1' -d 'Of YAML and JSON'
complete -c bootcctl -n '__fish_seen_subcommand_from status' -s v -l verbose -d 'All that is known'
complete -c bootcctl -n '__fish_seen_subcommand_from status' -l booted -d 'The booted deployment only'
complete -c bootcctl -n '__fish_seen_subcommand_from switch' -l transport -x -a 'registry oci oci-archive docker-archive dir containers-storage' -d 'Where the image is'
complete -c bootcctl -n '__fish_seen_subcommand_from switch' -F
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade' -l check -d 'Only look'
complete -c bootcctl -n '__fish_seen_subcommand_from switch' -l enforce-container-sigpolicy -d 'Refuse images that may come unsigned'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade switch' -l download-only -d 'Stage it locked'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade switch' -l progress-fd -x -d 'Write progress to this descriptor'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade switch rollback kargs' -l apply -d 'Reboot into it now'
complete -c bootcctl -n '__fish_seen_subcommand_from check upgrade switch rollback edit apply kargs pin unpin drop usr-overlay cancel' -l no-wait -d 'Return at once'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade' -l from-downloaded -d 'Take what is staged'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade' -l tag -x -d 'Track this tag'
complete -c bootcctl -n '__fish_seen_subcommand_from switch' -l retain -d 'Keep the ref followed before'
complete -c bootcctl -n '__fish_seen_subcommand_from upgrade switch rollback apply' -l soft-reboot -x -a 'required auto' -d 'Reboot user space alone'
complete -c bootcctl -n '__fish_seen_subcommand_from kargs' -l delete -x -d 'Take an argument out'
complete -c bootcctl -n '__fish_seen_subcommand_from kargs' -l replace -x -d 'Give it another value'
complete -c bootcctl -n '__fish_seen_subcommand_from kargs' -l append -x -d 'Add an argument'
complete -c bootcctl -n '__fish_seen_subcommand_from pin unpin drop' -a 'booted staged rollback'
complete -c bootcctl -n '__fish_seen_subcommand_from usr-overlay' -l read-only -d 'For those alone who mount it anew'
complete -c bootcctl -n '__fish_seen_subcommand_from history' -s n -l limit -x -d 'At most this many entries'
complete -c bootcctl -n '__fish_seen_subcommand_from cancel' -a '(__bootcctl_active_jobs)'
complete -c bootcctl -n '__fish_seen_subcommand_from diff' -s v -l verbose -d 'List every file'
complete -c bootcctl -n '__fish_seen_subcommand_from diff' -a 'staged booted rollback'
complete -c bootcctl -n '__fish_seen_subcommand_from edit' -s f -l filename -r -F -d 'Take it from a file'
