"""A store in a sqlite file: made whole, checked before use, and waited for while another program holds it."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pneumonia import workspace

BUSY_SECONDS = 60
"""Time for which a program waits for another one that holds the store."""
SECONDS_AFTER_THAT = 1
"""The same, once a program has waited in vain: it ends, and closes its runs before."""

LOCKED = ("database is locked", "database table is locked")
"""Texts of sqlite for a file that another program holds."""


def uri(database: Path, options: str = "") -> str:
    """Address of a store. With `?` or `%20` in it MLflow would open another file, outside of the project."""
    escaped = re.sub("%(?=[0-9a-fA-F]{2})", "%25", str(database)).replace("?", "%3F")
    if escaped != str(database):
        # MLflow makes the folder whose name is the escaped one. It stays empty.
        atexit.register(_remove_empty, Path(escaped).parent)
    return f"sqlite:///{escaped}{options}"


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        os.removedirs(folder)


def connect(database: Path) -> sqlite3.Connection:
    """A connection that begins no transactions of its own, and waits for other programs."""
    return sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)


def require_writable(database: Path) -> None:
    """Check that a store can be written; waits for other programs that write to it.

    Raises:
        OSError: it is a folder, or read-only.
        sqlite3.Error: it cannot be opened, is no database, or another program holds it for a minute.
    """
    if database.is_dir():
        raise IsADirectoryError(f"{database} is a folder")
    if database.exists() and not os.access(database, os.W_OK):  # sqlite would notice it only later
        raise PermissionError(f"{database} is not writable")
    with closing(connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def make_tables(database: Path) -> None:
    """Make the tables of a store that lacks some. Call it under the lock of the store.

    A new store appears with all tables or not at all: MLflow cannot continue where it was stopped.
    """
    if database.exists() and database.stat().st_size:
        mlflow.MlflowClient(uri(database)).search_experiments(max_results=1)
        return
    with workspace.written_whole(database) as partial:
        # The client would write the path of the project into an SQL statement as it is, which fails with `'` in it.
        SqlAlchemyStore(uri(partial), database.parent.as_uri())


def wait_for_other_programs() -> None:
    """Let MLflow wait for other programs as long as `connect` does.

    It waits for 20 s, or 5 s before its first query, and has no setting for that.
    """
    if not event.contains(Engine, "before_cursor_execute", _set_seconds):
        event.listen(Engine, "connect", _begin_patient)
        event.listen(Engine, "before_cursor_execute", _set_seconds, retval=True)
        event.listen(Engine, "handle_error", _wait_no_more)
    # All that it logs is raised, too; here it would be a traceback on the screen.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _begin_patient(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


def _set_seconds(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    if statement.startswith("PRAGMA busy_timeout"):  # MLflow begins each session with it
        seconds = connection.get_execution_options().get("busy_seconds", BUSY_SECONDS)
        statement = f"PRAGMA busy_timeout = {seconds * 1000:.0f}"
    return statement, parameters


def _wait_no_more(context: Any) -> None:
    if str(context.original_exception) in LOCKED and context.engine:
        context.engine.update_execution_options(busy_seconds=min(BUSY_SECONDS, SECONDS_AFTER_THAT))
