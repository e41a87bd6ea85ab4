import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bootcd.host.files import read_bounded, remove_leftovers, sealed_memory, write_atomic


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_write_atomic_replaces_content_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    write_atomic(target, b"old")
    write_atomic(target, b"new" * 100_000)
    assert target.read_bytes() == b"new" * 100_000
    assert names(tmp_path) == ["record.json"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_write_atomic_under_any_umask_gives_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "status.json"
    old = os.umask(0o077)
    try:
        write_atomic(target, b"x", mode=mode, durable=False)
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_write_atomic_over_a_symlink_replaces_the_link_and_not_its_target(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep")
    link = tmp_path / "link"
    link.symlink_to(victim)
    write_atomic(link, b"new")
    assert (victim.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"keep", b"new", False)


def test_write_atomic_that_fails_keeps_the_old_file_and_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()  # a file cannot be renamed over a directory
    with pytest.raises(IsADirectoryError):
        write_atomic(target, b"new")
    assert names(tmp_path) == ["target"]


def test_write_atomic_from_many_threads_never_tears(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    contents = [bytes([65 + number]) * 50_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_atomic, args=(target, content), kwargs={"durable": False})
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert names(tmp_path) == ["record.json"]


WRITER = """
import itertools, sys
from pathlib import Path
from bootcd.host.files import write_atomic, sealed_memory
target = Path(sys.argv[1])
for number in itertools.count():
    write_atomic(target, bytes([65 + number % 26]) * 200_000, durable=False)
    if number == 20:
        print("going", flush=True)
"""


def test_write_atomic_killed_at_any_moment_leaves_a_whole_file_and_sweepable_litter(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == b"going\n"
            writer.send_signal(signal.SIGKILL)
        content = target.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1
    (tmp_path / ".record.json.0badcafe.new").write_bytes(b"litter")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["record.json"]


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_read_bounded_up_to_the_limit_returns_everything(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_bounded(path, 100) == b"x" * size


def test_read_bounded_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 101)
    with pytest.raises(OSError, match=r"Longer than 100 bytes: .*/file") as caught:
        read_bounded(path, 100)
    assert caught.value.errno == errno.EFBIG


def test_read_bounded_of_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="Not a regular file"):
        read_bounded(path, 100)


def test_read_bounded_of_a_directory_or_nothing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"directory|regular"):
        read_bounded(tmp_path, 100)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "absent", 100)


def test_sealed_memory_is_read_from_its_beginning_and_cannot_be_changed() -> None:
    descriptor = sealed_memory("document", b"content")
    try:
        assert os.read(descriptor, 100) == b"content"
        for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(descriptor)
