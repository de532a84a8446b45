"""The project's folder: files written whole, folders to resume from."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pneumonia import UserError, workspace
from tests.conftest import files_under


def test_a_file_appears_when_its_writer_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "report.json"
    with workspace.written_whole(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert files_under(tmp_path) == {"deep/down/report.json": b"new"}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write_half() -> None:
        with workspace.written_whole(path) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert files_under(tmp_path) == {"report.json": b"old"}


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("a longer old text")
    with workspace.written_whole(path) as partial:
        partial.write_text("new")
    assert files_under(tmp_path) == {"report.json": b"new"}


def test_a_failing_writer_of_a_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "old").write_text("old")

    def write_half() -> None:
        with workspace.written_whole(folder) as partial:
            partial.mkdir()
            (partial / "new").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert files_under(tmp_path) == {"store/old": b"old"}


def test_a_new_folder_replaces_the_old_one_without_mixing(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "old").write_text("old")
    with workspace.written_whole(folder) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert files_under(tmp_path) == {"store/new": b"new"}


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "old").write_text("old")

    def write() -> None:
        with workspace.written_whole(folder) as partial:
            partial.write_text("new")

    with pytest.raises(UserError, match="films is a folder, where a file is to be written; move it or name another"):
        write()
    assert files_under(tmp_path) == {"films/old": b"old"}


@pytest.mark.parametrize("leftover", ["file", "folder"])
def test_what_a_killed_writer_left_behind_does_not_get_into_the_result(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "store"
    with workspace.written_whole(path) as partial:
        partial.mkdir()
    path.rmdir()
    if leftover == "folder":
        partial.mkdir()
        (partial / "stale").write_text("stale")
    else:
        partial.write_text("stale")
    with workspace.written_whole(path) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert files_under(tmp_path) == {"store/new": b"new"}


def test_what_a_crash_leaves_behind_is_found_again_under_the_same_key(in_project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workspace.resumable("fetch", "chest_xray", None, 7) as first:  # noqa: PT012
        (first / "part").write_text("half")
        raise KeyboardInterrupt
    with workspace.resumable("fetch", "chest_xray", None, 7) as again:
        assert again == first
        assert files_under(again) == {"part": b"half"}


@pytest.mark.parametrize(
    ("stage", "key"),
    [("validate", ("a", 1)), ("fetch", ("a", 2)), ("fetch", ("b", 1)), ("fetch", ("a",)), ("fetch", (1, "a"))],
)
def test_another_stage_or_key_has_a_folder_of_its_own(in_project: Path, stage: str, key: tuple[Any, ...]) -> None:
    with workspace.resumable("fetch", "a", 1) as one, workspace.resumable(stage, *key) as other:
        assert one != other
        assert one.is_dir()
        assert other.is_dir()


def test_a_folder_to_resume_from_goes_when_all_is_done(in_project: Path) -> None:
    with workspace.resumable("fetch", "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text("all")
    assert not folder.exists()
    with workspace.resumable("fetch", "a") as folder:
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpX"])
def test_a_folder_to_resume_from_lies_under_the_root_of_the_project(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    with workspace.resumable("fetch", "a") as folder:
        assert folder.parent == tmp_path / ".resume" / "fetch"


RESUME = """
import sys, time
from pathlib import Path
from pneumonia import workspace
with workspace.resumable("fetch", "a") as folder:
    assert not any(folder.iterdir()), "left by the other"
    for number in range(1000):  # takes its time to remove
        (folder / str(number)).touch()
    print("inside", flush=True)
    time.sleep(float(sys.argv[1]))
    assert len(list(folder.iterdir())) == 1000
    print("done", time.monotonic_ns(), flush=True)
"""


def test_a_second_process_waits_until_the_first_is_done(in_project: Path, repo: Path) -> None:
    def start(seconds: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RESUME, seconds],
            env={**os.environ, "PYTHONPATH": str(repo / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("1") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        with start("0") as second, start("0") as third:
            ends = [(process.communicate(timeout=60), process.returncode) for process in (first, second, third)]
    assert [(code, error) for (_, error), code in ends] == [(0, "")] * 3
    done = [int(output.split()[-1]) for (output, _), _ in ends]
    assert done[0] == min(done)


def test_a_process_that_was_killed_blocks_no_other(in_project: Path, repo: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", RESUME, "60"],
        env={**os.environ, "PYTHONPATH": str(repo / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "inside\n"
        killed.kill()
    with workspace.resumable("fetch", "a") as folder:
        assert len(list(folder.iterdir())) == 1000


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example B.1
    assert workspace.sha256_file(tmp_path / "abc") == workspace.sha256_bytes(b"abc") == expected


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/t/a"])
def test_the_root_is_the_same_from_a_temporary_experiment(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    assert workspace.project_root(folder) == tmp_path
    monkeypatch.chdir(folder)
    assert workspace.project_root() == tmp_path


def test_other_folders_of_dvc_are_no_experiment(tmp_path: Path) -> None:
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    assert workspace.project_root(folder) == folder
