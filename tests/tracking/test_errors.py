"""Errors of stores and servers, and the lines that are made of them."""

import sqlite3

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from pneumonia import UserError
from pneumonia.tracking import errors


def test_an_error_without_text_is_named() -> None:
    with (
        pytest.raises(UserError, match=r"sqlite:///x cannot be used \(TimeoutError\)"),
        errors.as_user_error("sqlite:///x"),
    ):
        raise TimeoutError


@pytest.mark.parametrize(
    ("attempt", "why"),
    [
        (
            "NewConnectionError('...: Failed to establish a new connection: [Errno 111] Connection refused')",
            "connection refused",
        ),
        (
            "NameResolutionError(\"Failed to resolve 'no.host' ([Errno -2] Name or service not known)\")",
            "name or service not known",
        ),
        ("ConnectTimeoutError('Connection to 10.0.0.1 timed out. (connect timeout=120)')", "timed out"),
        ("ResponseError('too many 502 error responses')", "too many 502 error responses"),
        ("ProtocolError('something else')", "no answer"),
    ],
)
def test_of_all_attempts_to_reach_a_server_the_last_cause_is_said(attempt: str, why: str) -> None:
    text = (
        f"API request failed: HTTPConnectionPool(host='x'): Max retries exceeded with url: /api (Caused by {attempt})"
    )
    with pytest.raises(UserError) as refusal, errors.as_user_error("http://x"):
        raise MlflowException(text)
    assert str(refusal.value) == f"the MLflow store http://x cannot be reached ({why}); check MLFLOW_TRACKING_URI"


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        ("database is locked", "s is locked by another program, for more than 60 s; close that program and run again"),
        ("database or disk is full", "the disk of the MLflow store s is full (database or disk is full); free some "),
        ("disk I/O error", "the disk of the MLflow store s cannot be written or read (disk I/O error): it may be full"),
        ("attempt to write a readonly database", "s cannot be written (attempt to write a readonly database); let "),
        ("no such table: runs", "the MLflow store s cannot be used (no such table: runs); check MLFLOW_TRACKING_URI"),
    ],
)
@pytest.mark.parametrize("raised_by", ["sqlite", "sqlalchemy", "mlflow", "server"])
def test_an_error_of_a_database_says_what_helps_whoever_reports_it(
    cause: str, line: str, raised_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: "s")
    original = sqlite3.OperationalError(cause)
    wrapped = OperationalError("SELECT 1", {"value": "database is locked"}, original)
    error = {
        "sqlite": original,
        "sqlalchemy": wrapped,
        "mlflow": MlflowException(wrapped, TEMPORARILY_UNAVAILABLE),
        "server": MlflowException(f"TEMPORARILY_UNAVAILABLE: {wrapped}", TEMPORARILY_UNAVAILABLE),
    }[raised_by]
    told = str(errors.of_store(error))
    assert line in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "error", [ValueError("a mistake"), MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), KeyboardInterrupt()]
)
def test_a_mistake_of_the_code_is_no_error_of_the_store(error: BaseException) -> None:
    assert errors.of_store(error) is None
