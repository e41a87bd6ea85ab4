#!/bin/sh
# Run a command under a real `systemd --user` of its own, in fresh mount, cgroup and pid namespaces:
# unshare --mount --cgroup --pid --fork --mount-proc user_manager.sh COMMAND [ARGUMENT...]
# Everything ends with the command, as it is a child of the namespace's first process.
set -eu
mount --make-rprivate /
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/user/0 /run/systemd/system
export XDG_RUNTIME_DIR=/run/user/0 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus
dbus-daemon --session --address="$DBUS_SESSION_BUS_ADDRESS" --nofork --nopidfile >/dev/null 2>&1 &
while ! [ -S /run/user/0/bus ]; do sleep 0.02; done
/lib/systemd/systemd --user >/dev/null 2>&1 &
until systemctl --user --wait is-system-running >/dev/null 2>&1; do sleep 0.02; done
"$@"
