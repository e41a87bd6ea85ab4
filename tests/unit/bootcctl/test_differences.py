from typing import Any

import pytest

from bootcctl.differences import choose_deployments, render_config_diff, render_diff
from bootcctl.exitcodes import Failure
from bootcd.model.comparison import (
    ConfigDiff,
    DeploymentDiff,
    DeploymentSummary,
    FileChange,
    FileChanges,
    KernelArguments,
    PackageChange,
    PackageChanges,
    Totals,
)


def entry(digit: str, serial: int = 0) -> dict[str, Any]:
    return {"ostree": {"checksum": digit * 64, "deploySerial": serial, "stateroot": "default"}}


def host(**roles: Any) -> dict[str, Any]:
    return {"status": {"staged": None, "booted": entry("b"), "rollback": None, **roles}}


A, B, C = ("a" * 64 + ".0", "b" * 64 + ".0", "c" * 64 + ".0")


@pytest.mark.parametrize(
    ("roles", "names", "expected"),
    [
        ({"staged": entry("a"), "rollback": entry("c")}, ("", ""), (B, A)),
        ({"rollback": entry("c")}, ("", ""), (B, C)),
        ({"rollback": entry("c")}, ("rollback", ""), (C, B)),
        ({"staged": entry("a"), "rollback": entry("c")}, ("rollback", "staged"), (C, A)),
        ({"otherDeployments": [entry("a")]}, ("aaaa", ""), (A, B)),
        ({"otherDeployments": [entry("b", 1)]}, ("booted", "b" * 64 + ".1"), (B, "b" * 64 + ".1")),
    ],
)
def test_deployments_are_chosen_by_role_and_beginning(
    roles: dict[str, Any], names: tuple[str, str], expected: tuple[str, str]
) -> None:
    assert choose_deployments(host(**roles), *names) == expected


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("", ""), "WrongState"),
        (("staged", ""), "WrongState"),
        (("bbb", "booted"), "InvalidArguments"),
        (("dddd", "booted"), "InvalidArguments"),
        (("/etc/passwd", "booted"), "InvalidArguments"),
    ],
)
def test_deployment_that_is_not_there_is_a_failure(names: tuple[str, str], kind: str) -> None:
    with pytest.raises(Failure) as caught:
        choose_deployments(host(), *names)
    assert caught.value.kind == kind


def test_deployment_that_several_names_fit_is_a_failure() -> None:
    with pytest.raises(Failure, match="several deployments begin with bbbb"):
        choose_deployments(host(otherDeployments=[entry("b", 1)]), "bbbb", "booted")


def document(files: int = 1) -> dict[str, Any]:
    diff = DeploymentDiff(
        before=DeploymentSummary(id=B, image="quay.io/x/os:1", version="1.0"),
        after=DeploymentSummary(id=A),
        kernel_arguments=KernelArguments(added=("quiet",), removed=("debug",)),
        packages=PackageChanges(
            database="rpm",
            added=(PackageChange(name="vim", after="9"),),
            changed=(PackageChange(name="bash", before="5.1", after="5.2\x1b[31m"),),
        ),
        files=FileChanges(
            added=tuple(FileChange(path=f"/usr/bin/{at}", size_after=1000) for at in range(files)),
            changed=(FileChange(path="/usr/lib/os-release", size_before=10, size_after=20),),
        ),
        totals=Totals(files_added=files, files_changed=1, bytes_added=1000 * files + 20, bytes_removed=10),
    )
    found: dict[str, Any] = diff.model_dump(mode="json", by_alias=True)
    return found


def test_diff_is_rendered_with_packages_arguments_and_sizes() -> None:
    assert render_diff(document()) == (
        "From  quay.io/x/os:1 1.0  bbbbbbbbbbbb\n"
        f"To    {A}\n"
        "\n"
        "Kernel arguments\n"
        "  + quiet\n"
        "  - debug\n"
        "\n"
        "Packages (rpm): 1 added, 0 removed, 1 changed\n"
        "  + vim 9\n"
        "  ! bash 5.1 -> 5.2�[31m\n"
        "\n"
        "Files: 1 added, 0 removed, 1 changed; 1.0 kB new, 10 B gone\n"
        "  + /usr/bin/0  (1.0 kB)\n"
        "  ! /usr/lib/os-release  (10 B -> 20 B)\n"
    )


def test_diff_of_many_files_shows_some_unless_all_are_wanted() -> None:
    assert "  + and 80 more\n" in render_diff(document(100))
    assert "/usr/bin/99 " in render_diff(document(100), verbose=True)


def test_config_diff_is_rendered_as_ostree_does() -> None:
    diff = ConfigDiff(deployment=B, added=("/etc/new",), modified=("/etc/fstab",), removed=("/etc/old",))
    assert render_config_diff(diff.model_dump(mode="json", by_alias=True)) == (
        "M    /etc/fstab\nD    /etc/old\nA    /etc/new\n"
    )
    assert "as the image made it" in render_config_diff(
        ConfigDiff(deployment=B).model_dump(mode="json", by_alias=True)
    )
