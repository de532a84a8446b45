"""Stores in a file that other programs hold, that cannot be written, and that are made for the first time."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException

from pneumonia import UserError
from pneumonia.tracking import runs, sqlite
from tests.tracking.conftest import start


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.01)


def test_a_store_that_another_program_holds_is_one_line(root: Path, impatient: None) -> None:
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow.db is locked by another program, for more than 0.01 s"):
            runs.open_store()


def test_a_store_that_another_process_opens_for_too_long_is_one_line(root: Path, impatient: None) -> None:
    with FileLock(f"{root}/mlruns/mlflow.db.lock"), pytest.raises(UserError, match="no other program") as refusal:
        runs.open_store()
    assert "mlflow.db.lock' could not be acquired" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_store_that_another_program_holds_for_a_moment_is_waited_for(root: Path) -> None:
    assert sqlite.BUSY_SECONDS >= 60
    with closing(sqlite3.connect(root / "mlruns/mlflow.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        release.start()
        runs.open_store()
        release.join()


def test_a_store_that_cannot_be_written_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UserError, match="is not writable") as refusal:
        runs.open_store()
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_store_is_one_line(root: Path) -> None:
    (root / "mlruns" / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="file is not a database"):
        runs.open_store()


def test_a_folder_is_no_store(root: Path) -> None:
    (root / "mlruns" / "mlflow.db").unlink()
    (root / "mlruns" / "mlflow.db").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        runs.open_store()


@pytest.fixture
def in_use(root: Path) -> Path:
    """The database of a store in which this process has a finished run, so that MLflow has opened it."""
    with start():
        pass
    return root / "mlruns" / "mlflow.db"


def test_mlflow_waits_as_long_as_this_project(in_use: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    with closing(sqlite3.connect(in_use, isolation_level=None)) as other, closing(sqlite.connect(in_use)) as ours:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError):
            ours.execute("SELECT * FROM runs")
        with pytest.raises(MlflowException, match="database is locked"):
            mlflow.search_runs()
        assert 0.4 <= time.monotonic() - began < 5


def test_an_error_of_a_locked_store_is_not_waited_for_again(in_use: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a failing search would wait a minute for its trial, its study and its stage each."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.5)
    monkeypatch.setattr(sqlite, "SECONDS_AFTER_THAT", 0.01)
    with closing(sqlite3.connect(in_use, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MlflowException):
            mlflow.search_runs()
        began = time.monotonic()
        with pytest.raises(MlflowException):
            mlflow.search_runs()
        assert time.monotonic() - began < 0.4
        other.execute("ROLLBACK")
    assert len(mlflow.search_runs(search_all_experiments=True)) == 1


def test_a_store_in_use_writes_no_traceback(in_use: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(in_use) as other:
        other.execute("DROP TABLE tags")
    with pytest.raises(MlflowException, match="no such table"):
        mlflow.search_runs(search_all_experiments=True)
    assert capfd.readouterr() == ("", "")


def test_a_uri_names_the_file_itself_and_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[tuple[Callable[[Path], None], Path]] = []
    monkeypatch.setattr(sqlite.atexit, "register", lambda *call: at_exit.append(call))
    assert sqlite.uri(tmp_path / "50 %" / "a.db") == f"sqlite:///{tmp_path}/50 %/a.db"
    assert at_exit == []
    assert sqlite.uri(tmp_path / "a%20b?c" / "a.db") == f"sqlite:///{tmp_path}/a%2520b%3Fc/a.db"
    (tmp_path / "a%2520b%3Fc").mkdir()  # MLflow makes it
    (tmp_path / "other").mkdir()
    for remove, folder in at_exit:
        remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
