#!/usr/bin/env bash
# Put systemd-bless-boot into .cache/systemd-boot: from Debian's package of the boot loader, which is not
# installed, as that may change how this machine boots.
set -euo pipefail
cd "$(dirname "$0")/.."

[ ! -x .cache/systemd-boot/systemd-bless-boot ] || exit 0
mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/systemd-boot.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root systemd-boot && dpkg-deb --extract ./*.deb root)
cp "$work"/root/lib/systemd/systemd-bless-boot "$work"
"$work/systemd-bless-boot" --version >/dev/null
rm -rf "$work"/root "$work"/*.deb .cache/systemd-boot
mv "$work" .cache/systemd-boot
