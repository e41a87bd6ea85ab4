#!/usr/bin/env bash
# Put the tools that sign images into .cache/signing/bin: cosign, which Debian 12 lacks, and a skopeo that
# knows every requirement of a signature policy. Both are packages of Debian testing, unpacked beside the
# system with the libraries they were built for; apt verifies them as it does its own.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=forky
packages=(cosign skopeo libc6 libgpgme45 libsqlite3-0 libassuan9 libgpg-error0)
[ ! -x .cache/signing/bin/skopeo ] || exit 0

mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/signing.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,root,bin}
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} $suite main" >"$work/sources.list"
apt=(-qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
  -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update
(cd "$work/debs" && apt-get "${apt[@]}" download "${packages[@]}")
for package in "$work"/debs/*.deb; do dpkg-deb --extract "$package" "$work/root"; done

# skopeo wants a newer C library than the system has: it is started by that library's own loader.
loader=$(cd "$work/root" && find . -name 'ld-linux-*.so.*' | head -n 1)
libraries=$(dirname "$(cd "$work/root" && find . -name 'libgpgme.so.45' | head -n 1)")
cat >"$work/bin/skopeo" <<EOF
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../root
exec "\$root/$loader" --library-path "\$root/$libraries" "\$root/usr/bin/skopeo" "\$@"
EOF
chmod 755 "$work/bin/skopeo"
ln -s ../root/usr/bin/cosign "$work/bin/cosign"
"$work/bin/skopeo" --version >/dev/null && "$work/bin/cosign" version >/dev/null
rm -rf "$work"/{lists,cache,debs,sources.list}
rm -rf .cache/signing
mv "$work" .cache/signing
