"""What a store has of a patient who is removed: files, texts, and the models that learnt from the patient.

Only the files and texts of a local store can be removed here. A server keeps its own; of it the models are tagged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException

from pneumonia import workspace
from pneumonia.credentials import masked
from pneumonia.tracking import place, runs, sqlite
from pneumonia.tracking.descriptions import REMOVED
from pneumonia.tracking.errors import UNKNOWN, as_user_error

LEARNT_FROM_REMOVED = "registry.learnt_from_removed"
"""Tag of a train run, and of its versions, with the day on which data were removed that it learnt from."""

PREVIEW = "plots/before_after.png"
"""Artifact of a `preprocess` run: a picture of the first images of the splits."""

_ANY_RUN = 50_000


class Learner(NamedTuple):
    """A trained model that a patient was part of.

    Attributes:
        name: for the reader.
        run_id: of its train run.
        versions: names and numbers of registered models.
        splits: those with images of the patient, such as `train`; empty if the splits are not known any more.
    """

    name: str
    run_id: str
    versions: tuple[tuple[str, str], ...]
    splits: tuple[str, ...]

    @property
    def learnt(self) -> bool:
        """Whether the model learnt from the patient, or may have: validation chooses its epoch and its threshold."""
        return self.splits != ("test",)


def folders(root: Path, uri: str) -> tuple[list[Path], list[str]]:
    """The folders with artifacts on this machine, and the places elsewhere, for a message.

    Args:
        root: of the project.
        uri: of the store, as `runs.open_store` returns it.
    """
    local = {database.parent / "artifacts" for database in _databases(root, uri)}
    elsewhere = []
    if runs.database_path(uri):
        with as_user_error(uri):
            locations = {str(one.artifact_location) for one in mlflow.MlflowClient().search_experiments()}
        local |= {Path(place.readable(one)) for one in locations if "://" not in place.readable(one)}
        elsewhere = sorted(one for one in locations if "://" in place.readable(one))
    else:
        elsewhere = [masked(uri)]
    return sorted(folder for folder in local if folder.is_dir()), elsewhere


def previews() -> dict[str, str]:
    """Id of each `preprocess` run -> digest of its splits: its picture shows images without their names as text."""
    return {str(run.info.run_id): str(run.data.tags.get("data_digest", "")) for run in _runs("preprocess")}


def learners(splits_of: Mapping[str, tuple[str, ...]], data_sets: Collection[str]) -> list[Learner]:
    """The trained models that a patient was part of, or may have been.

    Args:
        splits_of: data digest of the splits that are known -> splits with images of the patient.
        data_sets: those of the patient. Splits of earlier models may not be known any more.
    """
    trained = [(run, str(run.data.tags.get("data_digest", ""))) for run in _runs("train")]
    return [
        Learner(
            f"{run.data.tags.get('model', 'a model')}, run {run.info.run_id}",
            str(run.info.run_id),
            tuple(_versions(str(run.info.run_id))),
            splits_of.get(digest, ()),
        )
        for run, digest in trained
        if splits_of.get(digest) or (digest not in splits_of and run.data.tags.get("data") in data_sets)
    ]


def _runs(stage: str) -> list[mlflow.entities.Run]:
    with as_user_error(mlflow.get_tracking_uri()):
        return list(
            mlflow.search_runs(
                search_all_experiments=True,
                filter_string=f"tags.stage = '{stage}'",
                max_results=_ANY_RUN,
                output_format="list",
            )
        )


def _versions(run_id: str) -> Iterator[tuple[str, str]]:
    for version in mlflow.search_model_versions(filter_string=f"run_id = '{run_id}'"):
        yield str(version.name), str(version.version)


def mark(learner: Learner, day: str) -> None:
    """Tag a model and its versions; the tag names no patient."""
    client, text = mlflow.MlflowClient(), f"{day}; train it again: make repro"
    with as_user_error(mlflow.get_tracking_uri()):
        client.set_tag(learner.run_id, LEARNT_FROM_REMOVED, text)
        for name, version in learner.versions:
            client.set_model_version_tag(name, version, LEARNT_FROM_REMOVED, text)


def record_predictions(file: Path) -> None:
    """Note the new digest of predictions of a train run from which rows were removed: later comparisons check it."""
    if not file.as_posix().endswith(f"/artifacts/{runs.PREDICTIONS}"):
        return
    client, run_id = mlflow.MlflowClient(), file.parents[2].name
    with as_user_error(mlflow.get_tracking_uri()):
        try:
            tags = client.get_run(run_id).data.tags
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            return  # another store has it
        if tags.get(runs.PREDICTIONS_DIGEST):
            client.set_tag(run_id, runs.PREDICTIONS_DIGEST, workspace.sha256_file(file))


def texts(root: Path, uri: str, shows: Callable[[str], bool], *, remove: bool) -> int:
    """The number of texts in local databases that show a patient, such as descriptions; `remove` replaces them.

    Also what the database has kept of removed texts is overwritten.
    """
    n_texts = 0
    for database in _databases(root, uri):
        lock = FileLock(f"{database}.lock", timeout=sqlite.BUSY_SECONDS)
        with as_user_error(str(database)), lock, closing(sqlite.connect(database)) as connection:
            rows = list(_texts(connection, shows))
            n_texts += len(rows)
            if remove and rows:
                connection.execute("BEGIN IMMEDIATE")
                for table, column, rowid in rows:
                    connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (REMOVED, rowid))
                connection.execute("COMMIT")
                connection.execute("VACUUM")
    return n_texts


def _texts(connection: sqlite3.Connection, shows: Callable[[str], bool]) -> Iterator[tuple[str, str, int]]:
    """Table, column and row of texts; metrics have none, and are many."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for table in (name for (name,) in tables if "metric" not in name and not name.startswith("sqlite_")):
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        for rowid, *cells in connection.execute(f'SELECT rowid, * FROM "{table}"').fetchall():
            for column, cell in zip(columns, cells, strict=True):
                if isinstance(cell, str) and shows(cell):
                    yield table, column, rowid


def _databases(root: Path, uri: str) -> list[Path]:
    """Those of the project and of the present store: a server may use the first one."""
    known = {root / "mlruns" / "mlflow.db", runs.database_path(uri)}
    return sorted(path for path in known if path and path.is_file())
