"""What an installation adds to the deployed image."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.install.system import add_fstab_line, add_root_keys, aleph, boot_fstab_line, first_kargs
from bootcd.model.errors import NotBootable
from bootcd.oci.manifest import parse_config
from bootcd.ostreefmt.origin import TrackedImage

CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "Labels": {"version": "42.1", "org.opencontainers.image.created": "2026-01-02T03:04:05+01:00"}
    },
    "rootfs": {"type": "layers", "diff_ids": []},
}


def test_kernel_arguments_come_in_bootc_s_order_without_the_deleted() -> None:
    assert first_kargs(
        ["root=UUID=1", "rw"],
        ["console=tty0", "console=ttyS0"],
        ["quiet", "a=1"],
        ["console=tty0", "a"],
        ["x"],
    ) == ["root=UUID=1", "rw", "console=ttyS0", "quiet", "x"]


def test_kernel_argument_that_is_added_is_not_deleted() -> None:
    assert first_kargs(["rw"], [], ["quiet"], ["quiet"], ["quiet"]) == ["rw", "quiet"]


def test_boot_line_is_added_to_fstab_once(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("# none")
    line = boot_fstab_line("UUID=abcd")
    add_fstab_line(tmp_path, line)
    add_fstab_line(tmp_path, line)
    assert (tmp_path / "etc/fstab").read_text() == "# none\nUUID=abcd /boot auto ro 0 0\n"


def test_root_keys_go_where_root_s_link_leads(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "root").symlink_to("var/roothome")
    add_root_keys(tmp_path, b"ssh-ed25519 ABCDE example\n")
    encoded = base64.b64encode(b"ssh-ed25519 ABCDE example\n").decode()
    assert (tmp_path / "etc/tmpfiles.d/bootc-root-ssh.conf").read_text() == (
        f"f~ /var/roothome/.ssh/authorized_keys 600 root root - {encoded}\n"
    )


@pytest.mark.parametrize(
    ("link", "add"),
    [
        ("etc/fstab", lambda deployment: add_fstab_line(deployment, boot_fstab_line("UUID=abcd"))),
        ("etc/tmpfiles.d", lambda deployment: add_root_keys(deployment, b"key\n")),
    ],
    ids=["fstab", "keys"],
)
def test_link_of_an_image_leads_nothing_out_of_its_deployment(
    tmp_path: Path, link: str, add: Callable[[Path], None]
) -> None:
    outside, deployment = tmp_path / "outside", tmp_path / "deployment"
    outside.mkdir()
    (deployment / "etc").mkdir(parents=True)
    (deployment / link).symlink_to(outside)
    with pytest.raises(NotBootable, match=f"/{link} of the image is a symbolic link"):
        add(deployment)
    assert list(outside.iterdir()) == []


def test_root_keys_go_to_root_where_it_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "root").mkdir()
    add_root_keys(tmp_path, b"key\n")
    text = (tmp_path / "etc/tmpfiles.d/bootc-root-ssh.conf").read_text()
    assert text.startswith("f~ /root/.ssh/authorized_keys 600 root root - ")


def test_provenance_is_canonical_and_leaves_out_temporary_places() -> None:
    config = parse_config(json.dumps(CONFIG).encode())
    target = TrackedImage.registry("quay.io/x/os:1")
    text = aleph(source=target, target=target, digest="sha256:1", config=config, selinux="disabled").decode()
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert document["image"] == document["target-image"] == "quay.io/x/os:1"
    assert document["version"] == "42.1"
    assert document["timestamp"] == "2026-01-02T02:04:05Z"
    assert document["selinux"] == "disabled"
    assert document["labels"]["version"] == "42.1"
    temporary = TrackedImage("oci", "/tmp/layout:1")
    document = json.loads(
        aleph(source=temporary, target=target, digest="sha256:1", config=config, selinux="disabled")
    )
    assert "image" not in document
