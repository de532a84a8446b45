"""Several programs use one store at once: nothing is lost, nothing is registered twice, nobody waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from filelock import FileLock
from mlflow.entities import Run

from pneumonia import UserError, workspace
from pneumonia.tracking import registry, runs
from tests.conftest import ROOT
from tests.tracking import conftest as tracking
from tests.tracking.conftest import RECORD, all_runs, candidate, predictions_of, start

if TYPE_CHECKING:
    from tests.test_end_to_end import Project

pytestmark = pytest.mark.fault(kind="concurrency")

root, no_store, empty_versions = tracking.root, tracking.no_store, tracking.empty_versions


@pytest.mark.fault(
    where="registration",
    injected="another program holds the lock for longer than ten minutes (here: 0.1 s)",
    before="waited for ever",
    now="one line that names the lock",
)
def test_the_lock_of_the_registry_is_not_waited_for_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 60 < runs.REGISTRY_SECONDS <= 600
    monkeypatch.setattr(runs, "REGISTRY_SECONDS", 0.1)
    runs.open_store()
    lock = f"{root}/mlruns/mlflow.db.registry.lock"
    with FileLock(lock), pytest.raises(UserError, match=f"it holds the lock {lock}; wait for it or end it") as refusal:
        registry.set_champion("phantom", lambda tags: (1,))
    assert "\n" not in str(refusal.value)
    with runs.registry_lock(), runs.registry_lock():
        pass  # free again, and may be nested


HOLD = "import filelock, sys, time; filelock.FileLock(sys.argv[1]).acquire(); print(flush=True); time.sleep(60)"


@pytest.mark.fault(
    where="registration", injected="kill -9 of the program that holds the lock", before="as now", now="the next goes on"
)
def test_the_lock_of_a_killed_program_is_free(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "REGISTRY_SECONDS", 5)
    runs.open_store()
    command = [sys.executable, "-c", HOLD, f"{root}/mlruns/mlflow.db.registry.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        other.kill()
        with runs.registry_lock():
            pass


@pytest.mark.fault(
    where="register, in another store",
    injected="another process creates the train run while this one waits for the lock",
    before="two train runs of one model, two versions",
    now="that run is used",
)
def test_a_train_run_that_another_process_creates_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def lock_that_is_waited_for() -> Iterator[None]:
        with start() as run_id:
            runs.tag(original_run_id=RECORD["run_id"], model_id="m-1")
        created.append(run_id)
        yield

    created: list[str] = []
    monkeypatch.setattr(runs, "registry_lock", lock_that_is_waited_for)
    (root / "model.keras").write_bytes(b"network")
    record = RECORD | {"model_sha256": workspace.sha256_bytes(b"network")}
    run = runs.ensure_train_run(record, synthetic=True, model_path=root / "model.keras", history=root / "none")
    assert [run.run_id] == created


def together(commands: list[list[str]], folders: list[Path], **variables: str) -> list[str]:
    """What commands print that run at the same time, each in its folder; all must end well."""
    processes = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{folder}/src{os.pathsep}{folder}"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, folder in zip(commands, folders, strict=True)
    ]
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def runs_in(client: mlflow.MlflowClient, query: str = "") -> list[Run]:
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments, query, max_results=1000))


@pytest.mark.slow
@pytest.mark.fault(
    where="register",
    injected="five at once, into a store that does not exist yet",
    before="five versions of one model",
    now="one version, one train run",
)
def test_five_registrations_at_once_make_one_version(project: Project, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/other/mlflow.db"
    command = [sys.executable, "-m", "pneumonia.cli", "register"]
    outputs = together([command] * 5, [project.folder] * 5, MLFLOW_TRACKING_URI=uri)
    for output in outputs:
        assert "pneumonia-phantom version 1 (" in output
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    assert [int(one.version) for one in client.search_model_versions("name = 'pneumonia-phantom'")] == [1]
    assert len(runs_in(client, "tags.stage = 'train'")) == 1
    decided = runs_in(client, "tags.stage = 'promote'")
    assert [one.info.status for one in decided] == ["FINISHED"] * 5
    assert {one.data.tags["reason"] for one in decided} == {"the first model of this data set"}


@pytest.mark.slow
@pytest.mark.fault(
    where="promote", injected="five at once of one model", before="as now", now="one version, five equal decisions"
)
def test_five_promotions_of_one_model_make_one_version(root: Path, tmp_path: Path) -> None:
    from tests.tracking.test_registry import promote_at_once

    uri = runs.open_store()
    folder = candidate(tmp_path / "candidate", predictions_of(1))
    copies = [Path(shutil.copytree(folder, tmp_path / f"copy {number}")) for number in range(5)]
    decisions = promote_at_once(copies, uri)
    assert [one["version"] for one in decisions] == [1] * 5
    assert len({json.dumps(one) for one in decisions}) == 1
    assert sorted(registry.version_tags("phantom")) == [1]


OPEN_AND_LOG = """
import multiprocessing, sys
from pathlib import Path
import mlflow
from pneumonia.tracking import runs

def work(number):
    runs.open_store(Path(sys.argv[1]))
    run = mlflow.MlflowClient().create_run("0")
    for step in range(5):
        mlflow.MlflowClient().log_metric(run.info.run_id, "loss", float(step), step=step)

with multiprocessing.get_context("fork").Pool(4) as pool:  # so that they need not import one after the other
    pool.map(work, range(4), chunksize=1)
"""


@pytest.mark.slow
@pytest.mark.fault(where="a new store", injected="four processes make it at once", before="as now", now="all log to it")
def test_four_processes_may_make_a_store_at_once(tmp_path: Path) -> None:
    together([[sys.executable, "-c", OPEN_AND_LOG, str(tmp_path)]], [ROOT])
    runs.open_store(tmp_path)
    client = mlflow.MlflowClient()
    logged = client.search_runs(["0"])
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in logged] == [5] * 4


@contextmanager
def often_held(database: Path) -> Iterator[None]:
    """Another program that holds the store for most of the time, with short breaks."""
    done = threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as other:
            while not done.is_set():
                other.execute("BEGIN EXCLUSIVE")
                time.sleep(0.2)
                other.execute("ROLLBACK")
                time.sleep(0.03)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.fault(
    where="tune",
    injected="another program holds the store nine tenths of the time",
    before="as now",
    now="all is there",
)
def test_a_busy_store_loses_nothing(root: Path) -> None:
    with start("tune"):
        pass
    with often_held(root / "mlruns" / "mlflow.db"), start("tune"):
        for number in range(3):
            with runs.child_run(f"trial {number}", {"dropout": 0.1}, killed_by=ZeroDivisionError) as report:
                for epoch in range(1, 4):
                    report(epoch, {"val_auc": 0.5 + epoch / 10})
    trials = [one for one in all_runs() if "trial" in one.data.tags]
    assert [one.info.status for one in trials] == ["FINISHED"] * 3
    for trial in trials:
        history = mlflow.MlflowClient().get_metric_history(trial.info.run_id, "epoch/val_auc")
        assert [(one.step, one.value) for one in history] == [(1, 0.6), (2, 0.7), (3, 0.8)]


@contextmanager
def open_ui(folder: Path, **variables: str) -> Iterator[list[int]]:
    """The UI of the store of a project, in which a reader looks at all runs again and again; number of answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "ui.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumonia.cli", "ui", "--port", str(port)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{folder}/src"} | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    done, answers = threading.Event(), [0]

    def read() -> None:
        while not done.is_set():
            with urllib.request.urlopen(f"{address}/experiments/search?max_results=10", timeout=60) as answer:
                found = json.load(answer)["experiments"]
            ids = [one["experiment_id"] for one in found]
            query = urllib.request.Request(
                f"{address}/runs/search",
                json.dumps({"experiment_ids": ids, "max_results": 100}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(query, timeout=60) as answer:
                answers[0] += "runs" in json.load(answer)

    reader = threading.Thread(target=read)
    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, (folder / "ui.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.3)
        reader.start()
        yield answers
    finally:
        done.set()
        if reader.is_alive():
            reader.join()
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


STAGES_IN_TURN = """
from stages import promote, rebalance, run, validate
if __name__ == "__main__":
    for stage in (validate, rebalance, promote):
        run(stage.main)
"""


def content(client: mlflow.MlflowClient, run: Run) -> dict[str, Any]:
    """All that a run has, without values that depend on time and place."""
    return {
        "status": run.info.status,
        "params": run.data.params,
        "metrics": sorted(run.data.metrics),
        "files": sorted(one.path for one in client.list_artifacts(run.info.run_id)),
        "data sets": len(run.inputs.dataset_inputs),
    }


@pytest.mark.slow
@pytest.mark.fault(
    where="validate, rebalance, promote",
    injected="three copies of a project into one store at once, with the UI open",
    before="as now",
    now="nothing lost, one version",
)
def test_three_copies_of_a_project_lose_nothing_in_one_store(project: Project, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(project.folder / "mlruns", shared)
    uri = f"sqlite:///{shared}/mlflow.db"
    copies = [Path(shutil.copytree(project.folder, tmp_path / f"copy{number}", symlinks=True)) for number in range(3)]
    for copy in copies:
        (copy / "in_turn.py").write_text(STAGES_IN_TURN)
    with open_ui(copies[0], MLFLOW_TRACKING_URI=uri) as answers:
        together([[sys.executable, "in_turn.py"]] * 3, copies, MLFLOW_TRACKING_URI=uri)
    assert answers[0] > 3
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    for stage in ("validate", "rebalance", "promote"):
        first, *later = sorted(runs_in(client, f"tags.stage = '{stage}'"), key=lambda one: one.info.start_time)
        assert len(later) == 3
        for run in later:
            assert content(client, run) == content(client, first)
    assert [int(one.version) for one in client.search_model_versions("name = 'pneumonia-phantom'")] == [1]
    (train,) = runs_in(client, "tags.stage = 'train'")
    assert len(client.get_metric_history(train.info.run_id, "val/auc")) >= 3
    with closing(sqlite3.connect(shared / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
