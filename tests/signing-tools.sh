#!/usr/bin/env bash
# Put the tools that sign images into .cache/signing/bin: cosign, which Debian 12 lacks, and a skopeo that
# knows every requirement of a signature policy. Both are packages of Debian testing, with the
# libraries they were built for.
set -euo pipefail
cd "$(dirname "$0")/.."

[ ! -x .cache/signing/bin/skopeo ] || exit 0
. tests/debian-testing.sh

mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/signing.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
fetch_packages "$work" cosign skopeo libc6 libgpgme45 libsqlite3-0 libassuan9 libgpg-error0
mkdir "$work/bin"

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
rm -rf .cache/signing
mv "$work" .cache/signing
