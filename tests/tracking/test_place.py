"""Stores that were moved, renamed and copied: real ones, with a run, a model and a champion."""

import multiprocessing
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.tracking import place, registry, runs
from tests.conftest import files_under
from tests.tracking.conftest import forget, predictions_of, run_of, start


@pytest.fixture
def champion(root: Path) -> str:
    """The run of a registered champion with predictions and a model file, in the store of `root`."""
    runs.open_store()
    with start() as run_id:
        pass
    client = mlflow.MlflowClient()
    tables.write_table(predictions_of(1), root / "predictions.csv")
    runs.mirror(runs.TrainRun(run_id, "", adopted=False), {}, {runs.PREDICTIONS: root / "predictions.csv"})
    model = client.create_logged_model(run_of(run_id).info.experiment_id, source_run_id=run_id)
    (root / "weights.txt").write_text("the weights")
    client.log_model_artifact(model.model_id, str(root / "weights.txt"))
    client.finalize_logged_model(model.model_id, "READY")
    mlflow.register_model(f"models:/{model.model_id}", "pneumonia-phantom")
    client.set_registered_model_alias("pneumonia-phantom", "champion", "1")
    # Of another program, where MLflow itself would place it.
    client.create_experiment("notebook", artifact_location=str(root / "mlruns" / "7"))
    return run_id


@pytest.fixture
def go_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Opens the store of another folder, as a command in a new process there does."""

    def go(folder: Path) -> None:
        monkeypatch.chdir(folder)
        forget()
        runs.open_store()

    return go


def locations(database: Path) -> set[str]:
    """All texts in a store that name a folder of artifacts."""
    with closing(sqlite3.connect(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = {
            str(value) for name in names for row in connection.execute(f'SELECT * FROM "{name}"') for value in row
        }
    return {value for value in values if value.startswith(("file:", "/")) and "mlruns" in value}


def assert_all_is_found(folder: Path, run_id: str) -> None:
    assert registry.champion("phantom") == registry.Champion(1, run_id)
    assert len(registry.version_predictions("phantom", 1)) == len(predictions_of(1))
    model = Path(mlflow.artifacts.download_artifacts("models:/pneumonia-phantom@champion"))
    assert (model / "weights.txt").read_text() == "the weights"
    with start() as later:
        (folder / "note.txt").write_text("new")
        runs.log_file("note.txt")
    assert (folder / "mlruns" / "artifacts" / later / "artifacts" / "note.txt").read_text() == "new"


NAMES = ["renamed", "with space", "ümläut 日本", "a%20b #1", 'it\'s "1" & 50%']


@pytest.mark.parametrize("name", NAMES)
def test_a_moved_project_has_all_it_had_and_writes_nothing_elsewhere(
    root: Path, champion: str, go_to: Callable[[Path], None], name: str
) -> None:
    moved = root.parent / "deep" / name
    moved.parent.mkdir()
    root.rename(moved)
    go_to(moved)
    found = locations(moved / "mlruns" / "mlflow.db") - {_default(moved)}
    uri = (moved / "mlruns").as_uri()
    assert {location for location in found if not location.startswith(f"{uri}/artifacts")} == {str(moved / "mlruns/7")}
    assert len(found) >= 4, "of an experiment, a run, a model and a version"
    assert_all_is_found(moved, champion)
    assert not root.exists()


def _default(folder: Path) -> str:
    """Location of MLflow's experiment `Default`, which the database of the tests has from the folder it was made in."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection:
        return str(connection.execute("SELECT artifact_location FROM experiments WHERE name = 'Default'").fetchone()[0])


def test_a_copy_leaves_the_original_as_it_is(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    before = files_under(root)
    go_to(copy)
    assert_all_is_found(copy, champion)
    assert files_under(root) == before
    go_to(root)
    assert_all_is_found(root, champion)
    assert champion in str(locations(copy / "mlruns" / "mlflow.db"))
    assert str(root) + "/" not in str(locations(copy / "mlruns" / "mlflow.db") - {_default(copy)})


def test_a_project_comes_back_to_its_first_place(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    before = locations(root / "mlruns" / "mlflow.db")
    root.rename(root.parent / "other")
    go_to(root.parent / "other")
    assert locations(root.parent / "other" / "mlruns" / "mlflow.db") != before
    (root.parent / "other").rename(root)
    go_to(root)
    assert locations(root / "mlruns" / "mlflow.db") == before


def test_locations_that_the_user_chose_stay(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    chosen = [
        "s3://bucket/mlruns/artifacts",
        f"file://{root}-more/mlruns/artifacts",
        f"file://{root}/mlruns-of-mine/artifacts",
        f"{root.parent}/elsewhere",
    ]
    for number, location in enumerate(chosen):
        mlflow.create_experiment(f"mine {number}", artifact_location=location)
    root.rename(root.parent / "moved")
    go_to(root.parent / "moved")
    kept = [mlflow.get_experiment_by_name(f"mine {number}").artifact_location for number in range(len(chosen))]
    assert kept == chosen


@pytest.mark.parametrize("is_there", [True, False], ids=["disk there", "disk not mounted"])
def test_a_place_that_the_user_chose_for_our_experiment_stays(
    root: Path, go_to: Callable[[Path], None], is_there: bool
) -> None:
    """It has the name and the form of those of earlier versions, but nothing of it lies beside the database."""
    shared = root.parent / "shared" / "mlruns" / "artifacts"
    shared.mkdir(parents=True)
    go_to(root)
    experiment = mlflow.create_experiment("pneumonia-phantom", artifact_location=shared.as_uri())
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    (root / "note.txt").write_text("kept")
    mlflow.MlflowClient().log_artifact(run_id, str(root / "note.txt"))
    (root / "mlruns" / "artifacts").mkdir()
    if not is_there:
        (root.parent / "shared").rename(root.parent / "away")
    go_to(root)
    assert mlflow.get_experiment(experiment).artifact_location == shared.as_uri()
    assert run_of(run_id).info.artifact_uri == f"{shared.as_uri()}/{run_id}/artifacts"


def test_a_database_copied_alone_finds_the_original_and_writes_beside_itself(
    root: Path, champion: str, go_to: Callable[[Path], None]
) -> None:
    copy = root.parent / "copy"
    (copy / "mlruns").mkdir(parents=True)
    shutil.copyfile(root / "mlruns" / "mlflow.db", copy / "mlruns" / "mlflow.db")
    before = files_under(root)
    for _ in range(2):
        go_to(copy)
        assert_all_is_found(copy, champion)
    assert files_under(root) == before
    assert run_of(champion).info.artifact_uri.startswith((root / "mlruns" / "artifacts").as_uri())
    shutil.copytree(root / "mlruns" / "artifacts", copy / "mlruns" / "artifacts", dirs_exist_ok=True)
    shutil.rmtree(root)
    go_to(copy)
    assert_all_is_found(copy, champion)


def test_a_store_of_another_name_moves_with_its_artifacts_alone(
    root: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its folder may hold other things, of which this project knows nothing."""
    for folder in ("disk", "other"):
        (tmp_path / folder).mkdir()
    shutil.copyfile(empty_database, tmp_path / "disk" / "my.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/disk/my.db")
    with start() as run_id:
        pass
    mlflow.create_experiment("mine", artifact_location=f"file://{tmp_path}/disk/mine")
    (tmp_path / "disk" / "my.db").rename(tmp_path / "other" / "my.db")
    forget()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/my.db")
    runs.open_store()
    assert run_of(run_id).info.artifact_uri == f"file://{tmp_path}/other/artifacts/{run_id}/artifacts"
    assert mlflow.get_experiment_by_name("mine").artifact_location == f"file://{tmp_path}/disk/mine"


def test_stores_of_earlier_versions_move_too(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    """Their experiments have no tag that says whose they are."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as connection, connection:
        assert connection.execute(f"DELETE FROM experiment_tags WHERE key = '{place.OURS}'").rowcount == 1
    root.rename(root.parent / "moved")
    go_to(root.parent / "moved")
    assert_all_is_found(root.parent / "moved", champion)


def test_an_experiment_of_dvc_in_a_moved_project_finds_all(
    root: Path, champion: str, go_to: Callable[[Path], None]
) -> None:
    moved = root.parent / "moved"
    root.rename(moved)
    (moved / ".dvc/tmp/exps/tmpab12").mkdir(parents=True)
    go_to(moved / ".dvc/tmp/exps/tmpab12")
    assert len(registry.version_predictions("phantom", 1)) == len(predictions_of(1))
    assert run_of(champion).info.artifact_uri.startswith(f"file://{moved}/mlruns/artifacts/")


def test_an_unmoved_store_is_not_written(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    before = (root / "mlruns" / "mlflow.db").read_bytes()
    go_to(root)
    assert (root / "mlruns" / "mlflow.db").read_bytes() == before


def test_a_move_is_written_whole_or_not_at_all(
    root: Path, champion: str, go_to: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = root.parent / "moved"
    root.rename(moved)
    before = locations(moved / "mlruns" / "mlflow.db")
    with monkeypatch.context() as patch:
        patch.setattr(place, "_COLUMNS", (*place._COLUMNS, ("no_such_table", "value")))
        with pytest.raises(UserError, match="no such table"):
            go_to(moved)
    assert locations(moved / "mlruns" / "mlflow.db") == before
    go_to(moved)
    assert_all_is_found(moved, champion)


def _open(folder: str) -> None:
    place.follow(Path(folder) / "mlruns" / "mlflow.db")


def test_two_processes_may_find_a_moved_store_at_once(root: Path, champion: str, go_to: Callable[[Path], None]) -> None:
    moved = root.parent / "moved"
    root.rename(moved)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_open, [str(moved)] * 8)
    go_to(moved)
    assert_all_is_found(moved, champion)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "BUSY_SECONDS", 0.01)


def test_a_store_that_another_program_holds_is_one_line(root: Path, champion: str, impatient: None) -> None:
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow.db cannot be used \(database is locked\); .*no other program"):
            runs.open_store()


def test_a_store_that_another_process_opens_for_too_long_is_one_line(root: Path, impatient: None) -> None:
    with FileLock(f"{root}/mlruns/mlflow.db.lock"), pytest.raises(UserError, match="no other program") as refusal:
        runs.open_store()
    assert "mlflow.db.lock' could not be acquired" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_store_that_another_program_holds_for_a_moment_is_waited_for(root: Path, champion: str) -> None:
    assert place.BUSY_SECONDS >= 60
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


def test_a_uri_names_the_file_itself_and_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[tuple[Callable[[Path], None], Path]] = []
    monkeypatch.setattr(place.atexit, "register", lambda *call: at_exit.append(call))
    assert place.uri(tmp_path / "50 %" / "a.db") == f"sqlite:///{tmp_path}/50 %/a.db"
    assert at_exit == []
    assert place.uri(tmp_path / "a%20b?c" / "a.db") == f"sqlite:///{tmp_path}/a%2520b%3Fc/a.db"
    (tmp_path / "a%2520b%3Fc").mkdir()  # MLflow makes it
    (tmp_path / "other").mkdir()
    for remove, folder in at_exit:
        remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
