#!/usr/bin/env bash
# Bring a Debian 12 machine to the point where the suite, the demo and the bench can run; with the argument
# `interop`, the peer of the interoperability tests as well, with `vm`, what virtual machines need.
# Safe to repeat; with nothing to do it ends in well under a second.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

packages=(
  gir1.2-ostree-1.0 ostree python3-gi python3-systemd python3-venv  # the product's own needs
  dbus-daemon openssl polkitd systemd docker-registry skopeo podman # real counterparts in the tests
  gpg gpg-agent gpgv                                                # signatures
  mmdebstrap zstd                                                   # the test operating system
  policycoreutils                                                   # Debian's SELinux policy, built for a test
  btrfs-progs dosfstools fdisk grub-common grub-efi-amd64-bin mtools xfsprogs  # installations
  gjs python3-dbusmock                                  # what clients are written with and against
  curl fish iproute2 libglib2.0-bin man-db procps rpm zsh  # shells, ip, man, pgrep, packages, curl and gdbus, for single tests
)

[ -x /usr/bin/python3 ] || die "python3 is missing: apt-get install python3"
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
command -v dpkg-query >/dev/null || die "this set-up knows Debian 12; install by hand: ${packages[*]}"

interop_packages=(
  libostree-dev libssl-dev libzstd-dev pkg-config                                 # what the peer is built against
)

vm_packages=(
  qemu-system-x86 qemu-utils ovmf openssh-client socat              # the machine, and ways into it and out of it
)

case "${1:-}" in
  '') ;;
  interop) packages+=("${interop_packages[@]}") ;;
  vm) packages+=("${vm_packages[@]}") ;;
  *) die "unknown argument: $1" ;;
esac

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || die "missing Debian packages, and only root can install them: apt-get install ${missing[*]}"
  say "setup: installing Debian packages: ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null || { grep -E '^(E|W): ' "$log" | head -n 6 >&2 || true; die "apt-get failed, for the reasons above"; }
  # Its package starts a registry on a fixed port; the tests start their own, on free ones.
  if [[ " ${missing[*]} " = *" docker-registry "* && -d /run/systemd/system ]]; then
    systemctl disable --quiet --now docker-registry.service >/dev/null 2>&1 || true
  fi
fi

if [ ! -x .cache/signing/bin/skopeo ]; then
  say "setup: fetching cosign and a newer skopeo from Debian testing into .cache"
  tests/signing-tools.sh >&2 || die "the tools that sign images could not be fetched, for the reasons above"
fi

if [ ! -x .cache/varlink/bin/varlinkctl ]; then
  say "setup: fetching varlinkctl from Debian testing into .cache"
  tests/varlink-tools.sh >&2 || say "setup: varlinkctl could not be fetched, for the reasons above; tests with it are skipped"
fi

if [ ! -x .cache/systemd-boot/systemd-bless-boot ]; then
  say "setup: fetching systemd-bless-boot into .cache"
  tests/systemd-boot-tools.sh >&2 || say "setup: systemd-bless-boot could not be fetched; the test with it is skipped"
fi

stamp=.venv/.bootcd-setup
want=$(cat requirements.lock pyproject.toml tests/setup.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  say "setup: installing Python packages in .venv"
  # System site packages give PyGObject and systemd-python, which must match the host's libraries.
  /usr/bin/python3 -m venv --clear --system-site-packages .venv || die "python3 -m venv failed"
  pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check)  # -qq: no word but of errors
  "${pip[@]}" --require-hashes -r requirements.lock \
    || die "pip could not install requirements.lock"
  "${pip[@]}" --no-deps --no-build-isolation --editable . \
    || die "pip could not install the project"
  printf '%s\n' "$want" >"$stamp"
fi
