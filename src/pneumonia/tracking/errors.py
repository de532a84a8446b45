"""Errors of the store as one line for the user: what happened, and what helps."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pneumonia import UserError, reason
from pneumonia.credentials import masked
from pneumonia.tracking import sqlite

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes of MLflow for a run, a registered model or an alias that does not exist, and for what is no id."""

_NO_SERVER = "Max retries exceeded"
_LAST_ATTEMPT = re.compile(r"\[Errno -?\d+\] (?P<system>[^\"'()]+)|(?P<rest>timed out|too many \d+ error responses)")
"""Of the text in which the HTTP client reports all that it tried: why the last attempt failed."""

_REMARKS = re.compile(
    r"^(\(raised as a result of .*\)\n|The following failures occurred .*:\n##### .* #####\n)?"
    r"([A-Z_]+: )?(\(\w+\.\w+\) )?"
)
"""What MLflow and SQLAlchemy say before the cause: circumstances, a file, codes and classes."""
_FREE = "free some space and run again: finished work is kept"
_LINES = {
    **dict.fromkeys(
        sqlite.LOCKED,
        "the MLflow store {uri} is locked by another program, for more than {seconds:g} s; close that program and run "
        "again",
    ),
    "database or disk is full": f"the disk of the MLflow store {{uri}} is full ({{cause}}); {_FREE}",
    f"[Errno {errno.ENOSPC}]": f"the disk is full ({{cause}}); {_FREE}",
    f"[Errno {errno.EDQUOT}]": f"the disk is full ({{cause}}); {_FREE}",
    "disk I/O error": (
        "the disk of the MLflow store {uri} cannot be written or read ({cause}): it may be full, damaged or not "
        "mounted; check it and run again"
    ),
    "readonly database": (
        "the MLflow store {uri} cannot be written ({cause}); let the file and its folder be writable, and run again"
    ),
}
"""Text in the message of a database or of the system -> line for the user."""


@contextmanager
def as_user_error(uri: str, instead: str = "") -> Iterator[None]:
    """Convert errors of a store that cannot be created or reached to a `UserError`.

    Args:
        uri: of the store.
        instead: what else the user can do: the end of the message.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        raise _explained(error, uri, instead) from error


def of_store(error: BaseException) -> UserError | None:
    """The line for an error in which a call of the present store has ended; None for all other errors.

    An unknown run or a wrong parameter of a call is none of the store: it stays as it is, with its traceback.
    """
    if isinstance(error, (SQLAlchemyError, sqlite3.Error)) or (
        isinstance(error, MlflowException) and error.error_code not in UNKNOWN
    ):
        return _explained(error, mlflow.get_tracking_uri())
    return None


def _explained(error: Exception, uri: str, instead: str = "") -> UserError:
    uri = masked(uri)  # that of a database may have a password
    # The first line says it, after remarks; others are a statement of SQL. Some errors have no text.
    cause = masked(_REMARKS.sub("", str(error).strip() or reason(error)).splitlines()[0])
    for text, line in _LINES.items():
        if text in cause:
            return UserError(line.format(uri=uri, cause=cause, seconds=sqlite.BUSY_SECONDS) + instead)
    if _NO_SERVER in str(error):
        last = _LAST_ATTEMPT.search(str(error))
        why = (last["system"] or last["rest"]).strip().lower() if last else "no answer"
        return UserError(f"the MLflow store {uri} cannot be reached ({why}); check MLFLOW_TRACKING_URI{instead}")
    file = ", that its folder can be written and that no other program holds it" if uri.startswith("sqlite:") else ""
    return UserError(f"the MLflow store {uri} cannot be used ({cause}); check MLFLOW_TRACKING_URI{file}{instead}")
