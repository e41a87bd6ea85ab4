from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import parse_reference
from bootcd.registry.configuration import load_registries

MAIN = "etc/containers/registries.conf"
DROP_INS = "etc/containers/registries.conf.d"


def write(root: Path, name: str, location: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[[registry]]\nprefix = "a.test"\nlocation = "{location}"\n')
    return path


def asked(root: Path) -> str:
    (source,) = load_registries(root).sources(parse_reference("a.test/os"))
    return source.reference.registry


def test_no_files_change_nothing(tmp_path: Path) -> None:
    assert asked(tmp_path) == "a.test"


def test_main_file_of_the_administrator_replaces_that_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, "usr/share/containers/registries.conf", "image.test")
    assert asked(tmp_path) == "image.test"
    write(tmp_path, MAIN, "admin.test")
    assert asked(tmp_path) == "admin.test"
    (tmp_path / MAIN).write_text("")
    assert asked(tmp_path) == "a.test"


def test_drop_ins_are_put_over_the_main_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, MAIN, "main.test")
    write(tmp_path, f"{DROP_INS}/10.conf", "ten.test")
    assert asked(tmp_path) == "ten.test"
    write(tmp_path, "usr/share/containers/registries.conf.d/20.conf", "image.test")
    assert asked(tmp_path) == "image.test"
    write(tmp_path, f"{DROP_INS}/20.conf", "twenty.test")
    assert asked(tmp_path) == "twenty.test"


def test_what_is_no_drop_in_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, f"{DROP_INS}/10.conf.rpmsave", "b.test")
    write(tmp_path, f"{DROP_INS}/20.conf/below.conf", "b.test")
    (tmp_path / DROP_INS / "30.conf").symlink_to("gone")
    assert asked(tmp_path) == "a.test"


@pytest.mark.parametrize("name", [MAIN, f"{DROP_INS}/10.conf"])
def test_file_that_is_not_valid_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "https://b.test")
    with pytest.raises(InvalidConfig) as caught:
        load_registries(tmp_path)
    assert caught.value.fields["path"] == f"/{name}"


def test_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / MAIN).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / MAIN)
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_registries(tmp_path)


def test_drop_in_of_the_old_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f"{DROP_INS}/10.conf", "b.test").write_text(
        "[registries.block]\nregistries = ['b.test']\n"
    )
    with pytest.raises(InvalidConfig, match="version 1"):
        load_registries(tmp_path)
