"""Password prompts on a terminal: pkttyagent(1), started beside a command that may need to be authorised.

On a desktop the session's own agent asks; this one steps in only where there is none.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_READY_SECS = 3.0
_END_SECS = 1.0


@contextmanager
def password_agent(wanted: bool) -> Iterator[None]:
    """Have an agent on the terminal while the body runs; nothing happens for root or without pkttyagent."""
    program = shutil.which("pkttyagent") if wanted and os.geteuid() != 0 else None
    if program is None:
        yield
        return
    ready, notify = os.pipe()
    try:
        agent = subprocess.Popen(
            [program, "--notify-fd", str(notify), "--fallback"], pass_fds=[notify], stdout=subprocess.DEVNULL
        )
    except OSError:
        os.close(ready)
        yield
        return
    finally:
        os.close(notify)
    # An agent that ends while it asks may leave the terminal without echo.
    settings = termios.tcgetattr(sys.stdin)
    # A plain SIGTERM would leave the agent behind, holding the terminal.
    before = signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        # The agent closes its end when it is registered. It does so too when it fails; then nobody is asked.
        select.select([ready], [], [], _READY_SECS)
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(ready)
        _end(agent)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _exit_on_signal(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _end(agent: subprocess.Popen[bytes]) -> None:
    agent.terminate()
    agent.send_signal(signal.SIGCONT)
    try:
        agent.wait(_END_SECS)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
