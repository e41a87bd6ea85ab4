from __future__ import annotations

import json
import subprocess
import sys

DAEMON = "from bootcd.__main__ import leave_out; leave_out(); import bootcd.app"
QUESTION = "import sys; sys.argv = ['bootcd-worker', 'inspect', '--sysroot=/nonexistent']; main()"
JOB = "import bootcd.worker.job, bootcd.engine.native"


def loaded_by(code: str) -> set[str]:
    """Return the modules a process has loaded that were not there at its start."""
    code = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "print()\n"
        "print(json.dumps(sorted(name for name in set(sys.modules) - before if sys.modules[name])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_daemon_loads_nothing_it_has_no_use_for() -> None:
    loaded = loaded_by(DAEMON)
    assert "pydantic.main" in loaded
    assert not loaded & {
        "importlib.metadata",
        "email.message",
        "pickle",
        "logging.handlers",
        "http.client",
        "gi",
        "aiohttp",
        "cryptography",
        "bootcd.registry",
        "bootcd.ostree",
    }


def test_worker_that_is_asked_a_question_loads_nothing_for_jobs() -> None:
    loaded = loaded_by("from bootcd.worker.__main__ import main\n" + QUESTION)
    assert "bootcd.ostree.status" in loaded
    assert not loaded & {
        "aiohttp",
        "asyncio",
        "bootcd.engine.native",
        "bootcd.registry",
        "cryptography",
        "email.message",
        "importlib.metadata",
        "sqlite3",
        "ssl",
        "yaml",
    }


def test_worker_loads_what_imports_an_image_only_when_there_is_something_new() -> None:
    loaded = loaded_by("from bootcd.model.plugins import leave_out_plugins; leave_out_plugins()\n" + JOB)
    assert "bootcd.registry.client" in loaded
    assert not loaded & {
        "aiohttp.web",
        "bootcd.ostree.fetch",
        "bootcd.ostree.importer",
        "bootcd.ostree.layer",
        "cryptography",
        "importlib.metadata",
        "isal",
        "sqlite3",
        "yaml",
        "zstandard",
    }
