"""The place of a sqlite store: locations in it are absolute, and follow its folder.

Absolute, so that every MLflow client can open the store from any folder. A project can be moved, renamed, copied or
mounted at another path: then the locations that this project made are rewritten to the present place. A database that
was copied without its artifacts keeps the old locations of what it has, as long as the old place is there.

The name of a project's folder may contain what others read as a part of a URL or of a format, except where DVC or
MLflow fail or write to another folder.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import url2pathname

from pneumonia import UserError
from pneumonia.tracking import sqlite

OURS = "pneumonia.artifacts"
"""Tag of the experiments whose artifacts lie beside the database; others may have a place of the user's choice."""

MAX_BYTES = 470
"""Of the path of a project: sqlite opens files whose path has at most 512 bytes, and `mlruns/.partial-mlflow.db` is a
part of it."""

_UNUSABLE = re.compile(r"[{}?]|[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
    ("trace_tags", "value"),  # `mlflow.artifactLocation`
)
# Other places of experiments and of runs, and whether this project chose them. Experiments of earlier versions have no
# tag; they are in the default store, or the user chose their place. A run has <place>/<id>/artifacts.
_OLD_PLACES = f"""
    WITH ours AS (SELECT experiment_id FROM experiment_tags WHERE key = '{OURS}'),
    places AS (
        SELECT artifact_location AS place, experiment_id IN ours AS is_ours FROM experiments
        WHERE is_ours OR (name LIKE 'pneumonia-%' AND artifact_location LIKE '%/mlruns/artifacts')
        UNION
        SELECT substr(artifact_uri, 1, length(artifact_uri) - length('/' || run_uuid || '/artifacts')), 1 FROM runs
        WHERE experiment_id IN ours AND artifact_uri LIKE '%/' || run_uuid || '/artifacts'
    )
    SELECT place, max(is_ours) FROM places WHERE place LIKE 'file:///%/artifacts' AND place <> ? GROUP BY place
"""
_FOLDERS = """
    SELECT substr(uri, length(:old) + 1)
    FROM (SELECT artifact_uri AS uri FROM runs UNION ALL SELECT artifact_location FROM logged_models)
    WHERE substr(uri, 1, length(:old) + 1) = :old || '/'
"""


def artifacts(database: Path) -> str:
    """Location of the artifacts of a store, a `file://` URI; they lie beside its database."""
    return (database.parent / "artifacts").as_uri()


def require_usable(root: Path) -> None:
    """Check the name of a project's folder.

    Raises:
        UserError: it contains what DVC or MLflow cannot handle.
    """
    if sign := _UNUSABLE.search(str(root)):
        what = repr(sign[0]) if sign[0].isprintable() else "a sign that cannot be printed"
        raise UserError(
            f"the project lies in {root}: DVC and MLflow fail in a folder with {what} in its name; rename the folder"
        )
    if len(os.fsencode(root)) > MAX_BYTES:
        raise UserError(
            f"the project lies in a folder whose path has {len(os.fsencode(root))} bytes, more than the {MAX_BYTES} "
            "with which a sqlite database can be opened; move the project"
        )


def readable(location: str) -> str:
    """A location for messages: the path of a `file://` URI, any other one as it is."""
    return url2pathname(location.removeprefix("file://")) if location.startswith("file://") else location


def follow(database: Path) -> None:
    """Rewrite the locations in a store that was moved or copied; one query if it was not.

    All locations change in one transaction, or none. Only this file is written: a copied project leaves the original
    as it is, and logs new runs to its own place. Locations of existing runs and models change if one of their folders
    is at the present place, or if the old place is gone. Locations elsewhere, such as a bucket that the user chose for
    an experiment, stay. Call it under the lock of the store.

    Raises:
        sqlite3.Error: as `sqlite.require_writable` says.
    """
    here = artifacts(database)
    with closing(sqlite.connect(database)) as connection:
        if not connection.execute(_OLD_PLACES, (here,)).fetchone():
            return
        connection.execute("BEGIN IMMEDIATE")
        for old, is_ours in connection.execute(_OLD_PLACES, (here,)).fetchall():
            if _has_moved(connection, old, here) or (is_ours and not Path(readable(old)).is_dir()):
                for old_prefix, new_prefix in _prefixes(old, here):
                    for table, column in _COLUMNS:
                        connection.execute(
                            f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                            f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                            {"old": old_prefix, "new": new_prefix},
                        )
            elif is_ours:
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ? AND experiment_id IN "
                    f"(SELECT experiment_id FROM experiment_tags WHERE key = '{OURS}')",
                    (here, old),
                )
        connection.execute("COMMIT")


def _has_moved(connection: sqlite3.Connection, old: str, here: str) -> bool:
    """Whether a folder of a run or a model that the store places in `old` is at the present place."""
    return any(Path(readable(here + folder)).exists() for (folder,) in connection.execute(_FOLDERS, {"old": old}))


def _prefixes(old: str, new: str) -> list[tuple[str, str]]:
    """Pairs of an old and a new beginning of locations, from the locations of the artifacts.

    The folder `mlruns` is the store's own: other experiments in it, such as MLflow's `Default`, move with it. In
    another folder there may be anything, so only its `artifacts` are the store's.
    """
    if old.endswith("/mlruns/artifacts"):
        old, new = old.removesuffix("/artifacts"), new.removesuffix("/artifacts")
    # MLflow writes the location of `Default` as a path.
    return [(old, new), (readable(old), readable(new))]
