# Completion of bootcd-image(1) for fish; installed as /usr/share/fish/vendor_completions.d/bootcd-image.fish.

complete -c bootcd-image -s h -l help -d 'Show help'
complete -c bootcd-image -n __fish_use_subcommand -f -l version -d 'Show the version'
complete -c bootcd-image -n __fish_use_subcommand -f -a notes -d 'Release notes of an image'
complete -c bootcd-image -n __fish_use_subcommand -f -a rechunk -d 'Write an image in layers that follow what changes together'
complete -c bootcd-image -n '__fish_seen_subcommand_from notes; and not __fish_seen_subcommand_from push' \
    -f -a push -d 'Attach a Markdown file to an image in its registry'
complete -c bootcd-image -n '__fish_seen_subcommand_from push rechunk' -l authfile -r -d 'Credentials'
complete -c bootcd-image -n '__fish_seen_subcommand_from push rechunk' -l plain-http -d 'Registries speak no TLS'
complete -c bootcd-image -n '__fish_seen_subcommand_from push rechunk' -l ca-file -r -d 'Certificates to accept registries by'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l previous -x -d 'An older version'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l max-layers -x -d 'Bound of layers'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l level -x -d 'Of compression'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l compression -x -a 'zstd:chunked zstd gzip' \
    -d 'Of layers'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l arch -x -a 'amd64 arm64 ppc64le riscv64 s390x' \
    -d 'Platform of an index'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -l spool-dir -x -a '(__fish_complete_directories)' \
    -d 'Directory for the files meanwhile'
complete -c bootcd-image -n '__fish_seen_subcommand_from rechunk' -f -l json -d 'Print the report as JSON'
