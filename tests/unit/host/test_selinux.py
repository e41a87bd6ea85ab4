"""Whether labels of another policy can be written; the kernel that refuses it cannot be had here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bootcd.host import selinux


def test_selinux_is_on_where_the_kernel_says_so(tmp_path: Path) -> None:
    assert not selinux.is_on(tmp_path)
    (tmp_path / "sys/fs/selinux").mkdir(parents=True)
    (tmp_path / "sys/fs/selinux/enforce").write_text("0")
    assert selinux.is_on(tmp_path)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [(errno.EINVAL, False), (errno.EACCES, False), (errno.EPERM, False), (errno.EOPNOTSUPP, True), (0, True)],
    ids=["unknown-label", "domain", "capability", "file-system", "allowed"],
)
def test_writing_unknown_labels_is_told_from_what_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch, code: int, allowed: bool
) -> None:
    def setxattr(target: int, name: str, value: bytes, *_: Any, **__: Any) -> None:
        assert (name, value[-1:]) == ("security.selinux", b"\0")
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", setxattr)
    assert selinux.may_write_unknown_labels() is allowed
