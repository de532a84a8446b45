"""The place of a sqlite store: locations in it are absolute, and follow its folder.

Absolute, so that every MLflow client can open the store from any folder. A project can be moved, renamed, copied or
mounted at another path: then the locations that this project made are rewritten to the present place.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import url2pathname

OURS = "pneumonia.artifacts"
"""Tag of the experiments whose artifacts lie beside the database; others may have a place of the user's choice."""

_BUSY_SECONDS = 60
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
    ("trace_tags", "value"),  # `mlflow.artifactLocation`
)
# Experiments of earlier versions have no tag; they are in the default store.
_OLD_PLACES = f"""
    SELECT DISTINCT artifact_location FROM experiments AS e
    WHERE artifact_location LIKE 'file:///%/artifacts' AND artifact_location <> ? AND (
        EXISTS (SELECT 1 FROM experiment_tags AS t WHERE t.experiment_id = e.experiment_id AND t.key = '{OURS}')
        OR (name LIKE 'pneumonia-%' AND artifact_location LIKE '%/mlruns/artifacts')
    )
"""


def artifacts(database: Path) -> str:
    """Location of the artifacts of a store, a `file://` URI; they lie beside its database."""
    return (database.parent / "artifacts").as_uri()


def readable(location: str) -> str:
    """A location for messages: the path of a `file://` URI, any other one as it is."""
    return url2pathname(location.removeprefix("file://")) if location.startswith("file://") else location


def require_writable(database: Path) -> None:
    """Check that a store can be written; waits for other programs that write to it.

    Raises:
        OSError: it is read-only.
        sqlite3.Error: it cannot be opened, is no database, or another program holds it for a minute.
    """
    if database.exists() and not os.access(database, os.W_OK):  # sqlite would notice it only later
        raise PermissionError(f"{database} is not writable")
    with closing(_connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def follow(database: Path) -> None:
    """Rewrite the locations in a store that was moved or copied; one query if it was not.

    All locations change in one transaction, or none. Only this file is written: a copied project leaves the original
    as it is. Locations elsewhere, such as a bucket that the user chose for an experiment, stay. Call it under the lock
    of the store.

    Raises:
        sqlite3.Error: as `require_writable` says.
    """
    here = artifacts(database)
    with closing(_connect(database)) as connection:
        if not connection.execute(_OLD_PLACES, (here,)).fetchone():
            return
        connection.execute("BEGIN IMMEDIATE")
        for (old,) in connection.execute(_OLD_PLACES, (here,)).fetchall():
            for old_prefix, new_prefix in _prefixes(old, here):
                for table, column in _COLUMNS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                        f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                        {"old": old_prefix, "new": new_prefix},
                    )
        connection.execute("COMMIT")


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)


def _prefixes(old: str, new: str) -> list[tuple[str, str]]:
    """Pairs of an old and a new beginning of locations, from the locations of the artifacts.

    The folder `mlruns` is the store's own: other experiments in it, such as MLflow's `Default`, move with it. In
    another folder there may be anything, so only its `artifacts` are the store's.
    """
    if old.endswith("/mlruns/artifacts"):
        old, new = old.removesuffix("/artifacts"), new.removesuffix("/artifacts")
    # MLflow writes the location of `Default` as a path.
    return [(old, new), (readable(old), readable(new))]
