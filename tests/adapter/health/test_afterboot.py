"""Hooks of a good boot: once in each, and told of when they fail."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootcd.engine.hooks import Hooks
from bootcd.health.afterboot import run_post_boot
from bootcd.health.store import HealthStore
from bootcd.model.health import BootHealth

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> HealthStore:
    return HealthStore(tmp_path / "state", tmp_path / "run")


def booted(store: HealthStore, *, boot_id: str = "b1", digest: str = "sha256:1", good: bool = True) -> None:
    health = BootHealth(boot_id=boot_id, digest=digest, version="1", time=NOW, good=good)
    store.update(lambda record: record.model_copy(update={"last": health}))


def hook(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "etc/bootcd/hooks.d/post-boot/10-test"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_hooks_run_once_in_each_boot(tmp_path: Path, store: HealthStore) -> None:
    hook(tmp_path, f'echo "$BOOTCD_DIGEST" >>{tmp_path}/ran')
    hooks = Hooks(tmp_path, deadline_secs=60)

    for boot_id, digest in (("b1", "sha256:1"), ("b1", "sha256:1"), ("b1", "sha256:2"), ("b2", "sha256:2")):
        booted(store, boot_id=boot_id, digest=digest)
        run_post_boot(hooks, store, tmp_path / "run")

    assert (tmp_path / "ran").read_text().split() == ["sha256:1", "sha256:2", "sha256:2"]


def test_hooks_do_not_run_after_a_bad_boot(tmp_path: Path, store: HealthStore) -> None:
    hook(tmp_path, f"touch {tmp_path}/ran")
    booted(store, good=False)

    run_post_boot(Hooks(tmp_path, deadline_secs=60), store, tmp_path / "run")

    assert not (tmp_path / "ran").exists()


def test_hook_that_fails_is_a_warning_of_a_boot_that_stays_good(tmp_path: Path, store: HealthStore) -> None:
    path = hook(tmp_path, "echo nobody home; exit 1")
    booted(store)

    run_post_boot(Hooks(tmp_path, deadline_secs=60), store, tmp_path / "run")

    last = store.load().last
    assert last is not None
    assert last.good
    assert last.warnings == (f"the post-boot hook {path} failed: exit status 1: nobody home",)
