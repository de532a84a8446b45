"""Folders that belong to a process as long as it lives."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pneumonia import leases

HOLD = """
import sys
from pathlib import Path
from pneumonia import leases
print(leases.take(Path(sys.argv[1]), "test").folder, flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(parent: Path, repo: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a lease, and its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        env=os.environ | {"PYTHONPATH": f"{repo}/src"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_is_found_after_its_process_was_killed_and_only_then(tmp_path: Path, repo: Path) -> None:
    with holder(tmp_path, repo) as (killed, first), holder(tmp_path, repo) as (_, second):
        (first / "file").touch()
        assert list(leases.abandoned(tmp_path, "test")) == []
        killed.kill()
        killed.wait()
        assert list(leases.abandoned(tmp_path, "other")) == []
        for folder in leases.abandoned(tmp_path, "test"):
            assert folder == first
            assert (folder / "file").exists(), "it is removed when the caller is done"
            assert list(leases.abandoned(tmp_path, "test")) == [], "nobody else gets it"
        assert sorted(tmp_path.iterdir()) == [second]


def test_a_folder_that_its_caller_could_not_handle_stays_for_the_next_one(tmp_path: Path, repo: Path) -> None:
    with holder(tmp_path, repo) as (_, folder):
        pass

    def handle() -> None:
        for _ in leases.abandoned(tmp_path, "test"):
            raise OSError("no store")

    with pytest.raises(OSError, match="no store"):
        handle()
    assert list(leases.abandoned(tmp_path, "test")) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_a_process_leaves_its_own_folders_alone_and_removes_them_itself(tmp_path: Path) -> None:
    lease = leases.take(tmp_path, "test")
    assert list(leases.abandoned(tmp_path, "test")) == []
    (lease.folder / "file").touch()
    assert lease.folder.stat().st_mode & 0o777 == 0o700
    leases.release(lease)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_also_if_a_signal_comes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = leases.take(tmp_path, "test")
    remove, calls = shutil.rmtree, 0

    def interrupted(folder: Path, ignore_errors: bool) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise SystemExit(143)
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit):
        leases.release(lease)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [None, b"", b"another.example.org 1", b"\xff\xfe 1"])
def test_what_another_machine_or_another_program_has_made_stays(tmp_path: Path, lock: bytes | None) -> None:
    folder = tmp_path / "test-1"
    folder.mkdir()
    if lock is not None:
        (folder / "lock").write_bytes(lock)
    assert list(leases.abandoned(tmp_path, "test")) == []
    assert folder.is_dir()


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        leases.take(tmp_path, "test")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_as_long_as_its_process_lives(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "no-lease").mkdir()
    own = leases.take(tmp_path, "own")
    with holder(tmp_path, repo) as (process, folder):
        assert leases.held(tmp_path) == [own.folder.name, folder.name]
        process.kill()
        process.wait()
        assert leases.held(tmp_path) == [own.folder.name]
    leases.release(own)
    assert leases.held(tmp_path) == []
    assert folder.is_dir(), "the next command removes what its process has left"
