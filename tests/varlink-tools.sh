#!/usr/bin/env bash
# Put varlinkctl into .cache/varlink/bin: the Varlink client of a systemd newer than that of Debian 12, from
# Debian testing, with the libraries it was built for.
set -euo pipefail
cd "$(dirname "$0")/.."

[ ! -x .cache/varlink/bin/varlinkctl ] || exit 0
. tests/debian-testing.sh

mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/varlink.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
fetch_packages "$work/packages" systemd libsystemd-shared libc6
mkdir "$work"/{root,bin}

# Of some hundred files it needs these; it is started by the loader of the C library it was built for.
(cd "$work/packages/root" && find . -name varlinkctl -path './usr/bin/*' -o -name 'libsystemd-shared-*.so' -o \
  -name 'ld-linux-*.so.*' -o -name 'libc.so.6' -o -name 'libm.so.6') |
  while read -r file; do cp -L "$work/packages/root/$file" "$work/root/"; done
cat >"$work/bin/varlinkctl" <<'EOF'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
exec "$root"/ld-linux-*.so.* --library-path "$root" "$root/varlinkctl" "$@"
EOF
chmod 755 "$work/bin/varlinkctl" "$work"/root/ld-linux-*
"$work/bin/varlinkctl" --version >/dev/null
rm -rf "$work/packages"
rm -rf .cache/varlink
mv "$work" .cache/varlink
