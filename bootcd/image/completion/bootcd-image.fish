# Completion of bootcd-image(1) for fish; installed as /usr/share/fish/vendor_completions.d/bootcd-image.fish.

complete -c bootcd-image -s h -l help -d 'Show help'
complete -c bootcd-image -n __fish_use_subcommand -f -l version -d 'Show the version'
complete -c bootcd-image -n __fish_use_subcommand -f -a notes -d 'Release notes of an image'
complete -c bootcd-image -n '__fish_seen_subcommand_from notes; and not __fish_seen_subcommand_from push' \
    -f -a push -d 'Attach a Markdown file to an image in its registry'
complete -c bootcd-image -n '__fish_seen_subcommand_from push' -l authfile -r -d 'Credentials'
complete -c bootcd-image -n '__fish_seen_subcommand_from push' -l plain-http -d 'The registry speaks no TLS'
complete -c bootcd-image -n '__fish_seen_subcommand_from push' -l ca-file -r -d 'Certificates to accept the registry by'
