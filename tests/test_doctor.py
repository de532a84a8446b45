"""Each check finds what is right and what is wrong, on machines that are made up."""

import builtins
import shutil
import socket
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pneumonia import UserError, doctor
from pneumonia.models import runtime
from pneumonia.tracking import runs
from tests.conftest import set_settings


class Usage(NamedTuple):
    """Of a disk, bytes."""

    free: float


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.fixture
def project(stage_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in order, on a machine in order."""
    for name in (".dvc", ".git"):
        (stage_project / name).mkdir()
    (stage_project / "dvc.yaml").touch()
    set_settings(stage_project / "params.yaml", {"data": "phantom", "fetch.url": None})
    monkeypatch.setattr(doctor.workspace, "project_root", lambda: stage_project)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(80e9))
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "git" else None)
    monkeypatch.setattr(runtime, "start_keras", lambda: None)
    monkeypatch.setattr(runtime, "made_with", lambda: {"hardware": "CPU (2 cores), no GPU"})
    monkeypatch.setattr(runs, "open_store", lambda: "sqlite:///mlflow.db")
    return stage_project


def found() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine()}


def test_a_machine_in_order_has_nothing_to_note(project: Path) -> None:
    findings = found()
    assert set(findings) == set(doctor.CHECKS)
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["settings"].text.startswith("data phantom, model ")
    assert findings["network"].text == "not needed for data phantom"


def test_an_old_python_is_wrong(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    python = found()["python"]
    assert python.level == "wrong"
    assert "install Python 3.11 to 3.13" in python.text


def test_a_missing_package_is_wrong(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "version", lambda name: fails(PackageNotFoundError(name))() if name == "optuna" else "1.0"
    )
    assert found()["packages"] == ("packages", "wrong", "optuna not installed; run: make clean setup")


@pytest.mark.parametrize(("free", "level"), [(0.5e9, "wrong"), (3e9, "note"), (9e9, "ok")])
def test_a_disk_is_judged_by_its_free_space(
    project: Path, monkeypatch: pytest.MonkeyPatch, free: float, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
    assert found()["disk"].level == level


def test_a_folder_that_is_no_clone_is_wrong(project: Path) -> None:
    (project / "dvc.yaml").unlink()
    assert found()["project"].text.endswith("has no dvc.yaml; run from a clone of the repository")


def test_wrong_settings_are_the_line_that_a_stage_would_print(project: Path) -> None:
    set_settings(project / "params.yaml", {"tune.n_trials": -1})
    settings = found()["settings"]
    assert settings.level == "wrong"
    assert "tune.n_trials" in settings.text


def test_a_gpu_that_tensorflow_does_not_use_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    devices = found()["devices"]
    assert devices.level == "note"
    assert "pip install -e '.[gpu]'" in devices.text


@pytest.mark.parametrize(("what", "target"), [("devices", (runtime, "start_keras")), ("MLflow", (runs, "open_store"))])
def test_what_cannot_be_used_is_wrong_in_the_words_of_its_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, what: str, target: tuple[Any, str]
) -> None:
    monkeypatch.setattr(*target, fails(UserError("it is full; empty it")))
    assert found()[what] == (what, "wrong", "it is full; empty it")


@pytest.mark.parametrize(("answers", "level"), [(True, "ok"), (False, "note")])
def test_a_server_that_does_not_answer_is_noted(
    project: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, level: str
) -> None:
    set_settings(project / "params.yaml", {"fetch.url": "https://images.example.org/x.zip"})
    asked: list[Any] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        if not answers:
            raise builtins.ConnectionRefusedError("refused")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    network = found()["network"]
    assert network.level == level
    assert "images.example.org" in network.text
    assert asked == [("images.example.org", 443)]
