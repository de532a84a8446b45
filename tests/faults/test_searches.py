"""A search whose processes are killed, whose database is restarted and whose store is locked has every trial once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from tests.faults.conftest import copied

if TYPE_CHECKING:
    from tests.test_end_to_end import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault(kind="searches", where="tune", now="every trial once, no run RUNNING"),
]

N_TRIALS = 12
SEARCH = {"tune.n_trials": N_TRIALS, "tune.epochs": 3, "train.epochs": 4, "tune.pruner": "median"}
MINUTES = 8


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project with images, before its search; not to be changed."""
    from tests.test_end_to_end import Project

    project = Project(tmp_path_factory.mktemp("prepared") / "project")
    project.set(SEARCH)
    project.dvc("repro", "preprocess", "backbone")
    return project


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Project:
    return copied(prepared, tmp_path / "project")


class Search:
    """`dvc repro tune` in the background, as a group of processes of its own."""

    def __init__(self, project: Project, **variables: str) -> None:
        self.project = project
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "tune"],
            cwd=project.folder,
            env=project.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, seen: Callable[[], bool]) -> None:
        give_up = time.monotonic() + MINUTES * 60
        while not seen():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < give_up, "this has not come"
            time.sleep(0.05)

    def trials(self) -> int:
        """Number of trials in the journal that have ended."""
        journals = list((self.project.folder / ".resume" / "tune").glob("*/study.log"))
        if not journals:
            return 0
        ended = 0
        for line in journals[0].read_text().splitlines():
            entry = json.loads(line) if line.endswith("}") else {}
            ended += entry.get("op_code") == 6 and entry.get("state") in (1, 2)  # complete, pruned
        return ended

    def end(self) -> str:
        output, _ = self.process.communicate(timeout=MINUTES * 60)
        assert self.process.returncode == 0, output
        return str(output)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def require_every_trial_once(project: Project) -> None:
    trials = pd.read_csv(project.folder / "reports" / "tune" / "trials.csv")
    assert Counter(trials["state"].isin(["complete", "pruned"]))[True] == N_TRIALS
    values = trials.loc[trials["state"] != "fail", ["learning_rate", "dropout"]]
    assert len(values.drop_duplicates()) == N_TRIALS, "a trial was repeated"
    runs = {run.info.run_id: run for run in project.runs()}
    assert "RUNNING" not in {run.info.status for run in runs.values()}
    (study,) = project.runs("tune")
    assert study.info.status == "FINISHED"
    children = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    done = [run.data.tags["trial"] for run in children if "epoch/val_auc" in run.data.metrics]
    # A trial that failed before its first epoch has no curve: the database was away when its settings were asked for.
    began = trials.loc[(trials["state"] != "fail") | (trials["epochs"] > 0), "trial"]
    assert {f"trial {number}" for number in began} <= set(done)


@pytest.mark.fault(injected="kill -9 of all processes in trial 5 of 12", before="all trials lost, two runs RUNNING")
def test_a_killed_search_goes_on_and_has_every_trial_once(project: Project) -> None:
    search = Search(project)
    search.wait_for(lambda: search.trials() == 5)
    search.kill()
    project.dvc("repro", "tune")
    require_every_trial_once(project)
    assert not list((project.folder / ".resume" / "tune").glob("*/study.log"))


@pytest.mark.fault(injected="kill -9 of one of three workers", before="no workers")
def test_the_trial_of_a_killed_worker_is_trained_again(project: Project) -> None:
    project.set({"compute.trial_workers": 3})
    search = Search(project)
    search.wait_for(lambda: search.trials() == 2)
    workers = [pid for pid in members(search.process.pid) if b"spawn_main" in command_of(pid)]
    assert len(workers) == 3
    os.kill(workers[1], signal.SIGKILL)
    output = search.end()
    assert "a worker process was killed; a new one does its work again" in output
    assert "absl::InitializeLog" not in output  # messages of TensorFlow about its start
    require_every_trial_once(project)


@pytest.mark.fault(injected="the MLflow store is locked for 20 s", before="traceback")
def test_a_search_waits_for_a_store_that_is_locked(project: Project) -> None:
    search = Search(project)
    search.wait_for(lambda: search.trials() == 3)
    store = sqlite3.connect(project.folder / "mlruns" / "mlflow.db", timeout=60, isolation_level=None)
    store.execute("begin exclusive")
    time.sleep(20)
    store.execute("rollback")
    store.close()
    search.end()
    require_every_trial_once(project)


def members(group: int) -> list[int]:
    """The processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return sorted(found)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class PostgreSQL:
    """A server for one test on 127.0.0.1, run as another user where the tests run as root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        folder.mkdir()
        (folder / "password").write_text("s3cret-of-the-study")
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "nobody")
        self.call("initdb", "-U", "study", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
        self.start()

    def call(self, program: str, *arguments: str) -> None:
        as_other = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] * (os.geteuid() == 0)
        command = [*as_other, program, "-D", str(self.folder / "data"), *arguments]
        # To a file: the server keeps the output of pg_ctl open.
        with open(self.folder.with_suffix(".log"), "a") as log:
            subprocess.run(command, cwd="/", check=True, stdout=log, stderr=log)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self.call("pg_ctl", "-o", options, "-w", "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    if not shutil.which("initdb"):
        pytest.skip("needs a PostgreSQL server (Debian: apt install postgresql, its bin folder on the PATH)")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # another user must be able to enter it
        os.chmod(folder, 0o755)
        made = PostgreSQL(Path(folder) / "server")
        try:
            yield made
        finally:
            made.stop()


def finished(port: int) -> int:
    import psycopg2

    try:
        with psycopg2.connect(
            host="127.0.0.1", port=port, user="study", password="s3cret-of-the-study", dbname="postgres"
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')")
            return int(cursor.fetchone()[0])
    except psycopg2.Error:
        return 0


@pytest.mark.fault(injected="PostgreSQL is restarted in trial 4 of 12", before="no database of studies")
def test_a_search_survives_a_restart_of_its_database(project: Project, server: PostgreSQL) -> None:
    project.set({"compute.study_storage": f"postgresql+psycopg2://study@127.0.0.1:{server.port}/postgres"})
    search = Search(project, PNEUMONIA_STUDY_PASSWORD="s3cret-of-the-study")
    search.wait_for(lambda: finished(server.port) >= 3)
    server.stop()
    time.sleep(5)
    server.start()
    output = search.end()
    require_every_trial_once(project)
    secret = b"s3cret-of-the-study"
    assert secret.decode() not in output
    assert not [path for path in project.folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.mark.fault(injected="the database does not answer", before="no database of studies", now="one line")
def test_a_database_that_is_away_is_one_line(project: Project) -> None:
    project.set({"compute.study_storage": "postgresql+psycopg2://study@127.0.0.1:1/postgres"})
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    output: Any = project.dvc("repro", "tune", expect=255)
    assert "ERROR: compute.study_storage = postgresql+psycopg2://study@127.0.0.1:1/postgres cannot be used" in output
    assert "Traceback" not in output
