"""Who may do what, asked of the real polkit about real sessions of logind."""

from __future__ import annotations

import shlex

import pytest

from bootcctl import exitcodes
from tests.vm.conftest import Host
from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

ALLOWED, DENIED = exitcodes.DONE, exitcodes.DENIED
# What the action file says of an active, an inactive and a remote session; a password counts as no.
VERBS = ("check", "upgrade", "rollback", "switch localhost/x:1", "reload", "apply")
EXPECTED = {
    "active": {"check": ALLOWED},
    "inactive": {"check": ALLOWED},
    "remote": {},
}
ACTIVE_TTY, OTHER_TTY = 1, 2


async def test_sessions_may_do_what_the_defaults_say(host: Host) -> None:
    guest = host.guest
    await host.publish("v2")
    await guest.run(f"systemctl stop getty@tty{ACTIVE_TTY}.service")
    command = "; ".join(f'bootcctl {verb} </dev/null >/dev/null 2>&1; echo "$? {verb}"' for verb in VERBS)

    found = {
        "active": await in_session(guest, ACTIVE_TTY, command),
        "inactive": await in_session(guest, OTHER_TTY, command),
        "remote": "yes - \n" + await guest.text(command, user="person"),
    }

    assert found["active"].splitlines()[0] == "Active=yes Remote=no Seat=seat0"
    assert found["inactive"].splitlines()[0] == "Active=no Remote=no Seat=seat0"
    for session, output in found.items():
        codes = {
            verb: int(code) for code, _, verb in (line.partition(" ") for line in output.splitlines()[1:])
        }
        assert codes == {verb: EXPECTED[session].get(verb, DENIED) for verb in VERBS}, session


async def in_session(guest: Guest, tty: int, command: str) -> str:
    """Run a command in a session of `person` at a virtual terminal, opened by PAM as a login is."""
    show = (
        'loginctl show-session "$XDG_SESSION_ID" --property=Active --property=Remote --property=Seat'
        " | sort | paste -sd' '"
    )
    output = f"/run/session-{tty}"
    properties = {
        "User": "person",
        "PAMName": "login",
        "TTYPath": f"/dev/tty{tty}",
        "StandardInput": "tty",
        "StandardOutput": f"truncate:{output}",
        "StandardError": "journal",
        "UtmpIdentifier": f"tty{tty}",
        "UtmpMode": "user",
        "Environment": f"XDG_SEAT=seat0 XDG_VTNR={tty} XDG_SESSION_TYPE=tty XDG_SESSION_CLASS=user",
    }
    words = ["systemd-run", "--quiet", "--wait", "--collect", f"--unit=session-{tty}"]
    words += [f"--property={name}={value}" for name, value in properties.items()]
    await guest.run(shlex.join([*words, "/bin/bash", "-c", f"{show}; {command}"]))
    return await guest.text(f"cat {output}")
