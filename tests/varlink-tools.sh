#!/usr/bin/env bash
# Put varlinkctl into .cache/varlink/bin: the Varlink client of a systemd newer than that of Debian 12, from
# Debian testing, unpacked beside the system with the libraries it was built for; apt verifies them as it does
# its own.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=forky
packages=(systemd libsystemd-shared libc6)
[ ! -x .cache/varlink/bin/varlinkctl ] || exit 0

mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/varlink.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,unpacked,root,bin}
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} $suite main" >"$work/sources.list"
apt=(-qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
  -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update
(cd "$work/debs" && apt-get "${apt[@]}" download "${packages[@]}")
for package in "$work"/debs/*.deb; do dpkg-deb --extract "$package" "$work/unpacked"; done

# Of some hundred files it needs these; it is started by the loader of the C library it was built for.
(cd "$work/unpacked" && find . -name varlinkctl -path './usr/bin/*' -o -name 'libsystemd-shared-*.so' -o \
  -name 'ld-linux-*.so.*' -o -name 'libc.so.6' -o -name 'libm.so.6') |
  while read -r file; do cp -L "$work/unpacked/$file" "$work/root/"; done
cat >"$work/bin/varlinkctl" <<'EOF'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
exec "$root"/ld-linux-*.so.* --library-path "$root" "$root/varlinkctl" "$@"
EOF
chmod 755 "$work/bin/varlinkctl" "$work"/root/ld-linux-*
"$work/bin/varlinkctl" --version >/dev/null
rm -rf "$work"/{lists,cache,debs,unpacked,sources.list}
rm -rf .cache/varlink
mv "$work" .cache/varlink
