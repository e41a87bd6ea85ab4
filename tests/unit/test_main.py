from __future__ import annotations

import json
import subprocess
import sys


def test_daemon_loads_nothing_it_has_no_use_for() -> None:
    code = (
        "import json, sys\n"
        "from bootcd.__main__ import leave_out\n"
        "leave_out()\n"
        "before = set(sys.modules)\n"
        "import bootcd.app\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "pydantic.main" in loaded
    for costly in ("importlib.metadata", "email.message", "pickle", "logging.handlers", "http.client"):
        assert costly not in loaded
    for package in ("gi", "aiohttp", "cryptography", "bootcd.registry", "bootcd.ostree"):
        assert package not in loaded
