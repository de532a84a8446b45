"""Stages that are ended by a signal, in their middle and at their ends, leave nothing behind and go on well."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pneumonia import signals, workspace
from tests.conftest import ROOT, files_under

if TYPE_CHECKING:
    from tests.test_end_to_end import Project

pytestmark = pytest.mark.fault(kind="ends")

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
INSIDE = str(Path(__file__).parent / "inside")

IN_ORDER = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
BEFORE = {
    signal.SIGTERM: "ended silently, run RUNNING",
    signal.SIGHUP: "ended silently, run RUNNING",
    signal.SIGINT: "exit status 1",
    signal.SIGKILL: "run RUNNING for ever, files in TMPDIR",
}
MIDDLE = {
    "fetch": ("pneumonia.fetch:_encode", 40, "before"),
    "validate": ("pneumonia.validate:_measure", 40, "before"),
    "rebalance": ("pneumonia.data.tables:write_json", 1, "before"),  # its table is written, its report is not
    "preprocess": ("pneumonia.images.geometry:prepare", 40, "before"),
    "backbone": ("pneumonia.data.tables:write_json", 1, "before"),
    "tune": ("pneumonia.training.callbacks:Validate.on_epoch_end", 2, "before"),  # in its second trial
    "train": ("pneumonia.training.callbacks:Backup.on_epoch_end", 1, "after"),
    "evaluate": ("pneumonia.evaluate:audit", 1, "before"),
    "explain": ("pneumonia.explain:headline", 1, "before"),  # its pictures are written, its report is not
    "export": ("pneumonia.export:require_same_scores", 1, "before"),  # the folder is complete under another name
    "promote": ("pneumonia.report.card:write", 1, "before"),  # the version is registered
}
"""A call in the middle of each stage: its number, and whether the signal comes before or after it."""

GENERATES = ("tune", "train", "explain", "export")
"""TensorFlow writes code to temporary files in these stages."""


AT_EXIT = "threading:_shutdown"
"""What Python calls when the program is done."""


class Stage:
    """One stage of a project, run as DVC runs it: without its outs.

    Attributes:
        before: files of the project before the first call, with their content.
        temporary: the folder for temporary files.
    """

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name = project, name
        self.before = self.files()
        self.known = {run_id for run_id, *_ in self.runs()}
        self.temporary = project.folder.parent / "temporary"
        self.temporary.mkdir()

    @property
    def outs(self) -> list[Path]:
        return [
            self.project.folder / out for out in (*STAGES[self.name]["outs"], *STAGES[self.name].get("metrics", []))
        ]

    def run(
        self,
        number: int | None = None,
        at: str = "",
        call: int = 1,
        when: str = "before",
        to: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run the stage; a signal comes at a call of a function."""
        for out in self.outs:
            workspace.remove(out)
        fault = {"FAULT_IN": f"stages.{self.name}", "FAULT_AT": at, "FAULT_CALL": str(call), "FAULT_WHEN": when}
        with subprocess.Popen(
            [sys.executable, "-m", f"stages.{self.name}"],
            cwd=self.project.folder,
            env=self.project.environment
            | {"DVC_STAGE": self.name, "TMPDIR": str(self.temporary)}
            | ({"PYTHONPATH": INSIDE, "FAULT_SIGNAL": str(number), "FAULT_TO": to, **fault} if number else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            out, error = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def files(self) -> dict[str, bytes]:
        """Files of the project that are neither of git, DVC and MLflow nor to resume from."""
        elsewhere = (".git/", ".dvc/", "mlruns/", ".resume/", "reports/data_docs/")
        return {
            name: content
            for name, content in files_under(self.project.folder).items()
            if not name.startswith(elsewhere) and "__pycache__" not in name
        }

    def runs(self) -> list[tuple[str, str, str]]:
        """Id, stage and status of the runs in the store; those of trials with their number."""
        with closing(sqlite3.connect(self.project.folder / "mlruns/mlflow.db")) as database:
            return database.execute(
                "SELECT runs.run_uuid, coalesce(trial.value, stage.value), status FROM runs "
                "LEFT JOIN tags AS stage ON stage.run_uuid = runs.run_uuid AND stage.key = 'stage' "
                "LEFT JOIN tags AS trial ON trial.run_uuid = runs.run_uuid AND trial.key = 'trial' "
                "ORDER BY start_time"
            ).fetchall()

    def new_runs(self) -> list[tuple[str, str]]:
        """Stage and status of the runs since the first call."""
        return [(name, status) for run_id, name, status in self.runs() if run_id not in self.known]

    def left(self) -> list[str]:
        """Names of temporary files, of leases and of partial files."""
        folder = self.project.folder
        leases = [*(folder / ".resume" / "runs").glob("*")] if (folder / ".resume/runs").exists() else []
        partial = [path for path in folder.rglob("*partial*") if ".git" not in path.parts and "src" not in path.parts]
        return [str(path) for path in (*self.temporary.rglob("*"), *leases, *partial)]

    def without_outs(self) -> dict[str, bytes]:
        gone = tuple(str(out.relative_to(self.project.folder)) for out in self.outs)
        return {name: content for name, content in self.before.items() if not name.startswith(gone)}

    def results(self, files: dict[str, bytes]) -> dict[str, Any]:
        """The outs in a form without ids, dates and durations."""
        outs = tuple(str(out.relative_to(self.project.folder)) for out in self.outs)
        return {name: settled(name, content) for name, content in files.items() if name.startswith(outs)}


def settled(name: str, content: bytes) -> Any:
    """The content of an out without what differs from run to run: ids, dates and durations."""
    if name.endswith("history.csv"):
        return pd.read_csv(io.BytesIO(content)).drop(columns="seconds").to_csv()
    if name.endswith("model.keras"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read("model.weights.h5")  # the other members have a date and addresses in memory
    if name.endswith(("run.json", "explain.json", "predictor.json", "promotion.json")):
        return without(json.loads(content), ("run_id", "model_id", "model_sha256", "ms_per_image"))
    return content


def without(values: Any, names: tuple[str, ...]) -> Any:
    if isinstance(values, dict):
        return {name: without(value, names) for name, value in values.items() if name not in names}
    return values


def row(*values: Any, number: int, **fields: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.fault(**{"before": BEFORE[signal.Signals(number)], **fields}))


@pytest.mark.slow
@pytest.mark.fault(now="the next command closes the run and removes the files; the same results")
@pytest.mark.parametrize(
    "name", [row(name, number=signal.SIGKILL, where=name, injected="KILL in its middle") for name in MIDDLE]
)
def test_a_killed_stage_is_tidied_up_by_the_next_command_with_the_same_results(project: Project, name: str) -> None:
    stage = Stage(project, name)
    killed = stage.run(signal.SIGKILL, *MIDDLE[name])
    assert killed.returncode == -signal.SIGKILL
    assert {status for _, status in stage.new_runs()[-1:]} == {"RUNNING"}
    assert any(stage.temporary.rglob("__autograph_generated_file*")) == (name in GENERATES)
    again = stage.run()
    assert again.returncode == 0, again.stderr
    assert stage.left() == []
    if name == "train":  # it goes on
        assert stage.new_runs() == [("train", "FINISHED")]
    else:  # of `tune` the run of its second trial is closed, and that of the study goes on
        assert [status for _, status in stage.new_runs()].count("KILLED") == 1
        assert not any(status == "RUNNING" for _, status in stage.new_runs())
    after = stage.files()
    assert after.keys() == stage.before.keys()
    assert stage.results(after) == stage.results(stage.before)


@pytest.mark.slow
@pytest.mark.fault(now="one line, run KILLED, nothing left, no outs")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        row(name, number, number=number, where=name, injected=f"{number.name.removeprefix('SIG')} in its middle")
        for name in MIDDLE
        for number in IN_ORDER
        if number == signal.SIGTERM or name in ("fetch", "tune", "train")
    ],
)
def test_a_stage_ends_in_order(project: Project, name: str, number: signal.Signals) -> None:
    stage = Stage(project, name)
    ended = stage.run(number, *MIDDLE[name])
    assert (ended.returncode, ended.stderr) == (signals.status(number), f"{signals.line(number)}\n")
    assert "Traceback" not in ended.stdout
    assert stage.left() == []
    assert stage.files() == stage.without_outs()
    runs = stage.new_runs()
    assert runs[0] == (name, "KILLED")
    if name == "tune":
        assert runs[1:] == [("trial 0", "FINISHED"), ("trial 1", "KILLED")]
    else:
        assert runs[1:] == []


MOMENTS = {
    "while MLflow is imported": ("mlflow", 1, "before"),
    "while the store is opened": ("pneumonia.tracking.place:follow", 1, "after"),
    "while MLflow makes its run": ("mlflow.tracking.client:MlflowClient.create_run", 1, "after"),
    "while its run is closed": ("mlflow.tracking.client:MlflowClient.set_terminated", 1, "before"),
    "when its outs are complete": ("stages:show", 1, "before"),
    "while its process ends": (AT_EXIT, 1, "before"),
}
WITH_A_RUN = ("while MLflow makes its run", "while its run is closed")


def before_at(number: signal.Signals, moment: str) -> str:
    """How it ended before."""
    if moment in WITH_A_RUN:
        return BEFORE[number]
    if number == signal.SIGINT:
        return f"a traceback{', exit status 0' if moment == 'while its process ends' else ''}"
    return "ended silently" if number == signal.SIGTERM else "as now"


@pytest.mark.slow
@pytest.mark.fault(where="rebalance")
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        row(
            *(number, moment),
            number=number,
            injected=f"{number.name.removeprefix('SIG')} {moment}",
            before=before_at(number, moment),
            now="one line and the status" if number != signal.SIGKILL else "the next command works and leaves nothing",
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
        for moment in MOMENTS
        if number != signal.SIGINT or moment in ("while MLflow is imported", "while its process ends")
    ],
)
def test_a_signal_at_the_ends_of_a_stage(project: Project, number: signal.Signals, moment: str) -> None:
    stage = Stage(project, "rebalance")
    ended = stage.run(number, *MOMENTS[moment])
    if number == signal.SIGKILL:
        assert ended.returncode == -number
    else:
        assert (ended.returncode, ended.stderr) == (signals.status(number), f"{signals.line(number)}\n")
        assert not any(status == "RUNNING" for _, status in stage.new_runs())
        assert stage.left() == []
        assert stage.files() == (stage.before if "process" in moment else stage.without_outs())
    again = stage.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert stage.left() == []
    assert not any(status == "RUNNING" for _, status in stage.new_runs())
    assert stage.files() == stage.before


HERE = f"{socket.gethostname()} 0"
"""A process of this machine, which does not live."""


def left_by(owner: str, root: Path, kind: str = "") -> str:
    """A lease as a process leaves it when it is killed; returns its name.

    Args:
        owner: machine and number of the process.
        root: of the project.
        kind: of the lease; that of the only lease there is.
    """
    folder = root / ".resume" / "runs"
    if not kind:
        (lease,) = (path for path in folder.iterdir() if not path.name.endswith("dead"))
        kind = lease.name.partition("-")[0]
    lease = folder / f"{kind}-0000dead"
    lease.mkdir()
    (lease / "lock").write_text(owner)
    return lease.name


@pytest.mark.fault(where="store", injected="a process with a run and a trial was killed")
@pytest.mark.parametrize(
    ("owner", "kind", "status"),
    [
        pytest.param(
            HERE,
            "",
            "KILLED",
            marks=pytest.mark.fault(before="runs RUNNING for ever", now="the next command closes both as KILLED"),
            id="here",
        ),
        pytest.param(
            "another.example.org 0",
            "",
            "RUNNING",
            marks=pytest.mark.fault(before="as now", now="on another machine: its runs stay as they are"),
            id="another machine",
        ),
        pytest.param(
            HERE,
            "another store",
            "RUNNING",
            marks=pytest.mark.fault(before="as now", now="in another store: a command with this store leaves it"),
            id="another store",
        ),
    ],
)
def test_the_runs_of_a_killed_process_are_closed_and_no_others(
    stage_project: Path, owner: str, kind: str, status: str
) -> None:
    import mlflow

    from pneumonia.tracking import runs

    with runs.start_run("train", data="phantom", model="compact", synthetic=True, params={}) as living:
        name = left_by(owner, stage_project, kind)
        client = mlflow.MlflowClient()
        experiment = client.get_run(living).info.experiment_id
        dead = client.create_run(experiment, tags={"owner": name}, run_name="tune").info.run_id
        trial = client.create_run(experiment, tags={"owner": name, "mlflow.parentRunId": dead}).info.run_id
        ended = client.create_run(experiment, tags={"owner": name}).info.run_id
        client.set_terminated(ended, "FAILED")
        nobodys = client.create_run(experiment).info.run_id
        runs.open_store()
        statuses = [client.get_run(run_id).info.status for run_id in (dead, trial, ended, nobodys, living)]
    assert statuses == [status, status, "FAILED", "RUNNING", "RUNNING"]
    assert (stage_project / ".resume/runs" / name).exists() == (status == "RUNNING")


@pytest.mark.fault(
    where="train",
    injected="KILL, then the same stage again",
    before="the run is resumed",
    now="the run is closed as KILLED, then resumed, and its new owner is named",
)
def test_a_killed_run_is_resumed(stage_project: Path, tmp_path: Path) -> None:
    import mlflow

    from pneumonia.tracking import runs

    resume = tmp_path / "resume"
    resume.mkdir()
    options: Any = {"data": "phantom", "model": "compact", "synthetic": True, "params": {"seed": 1}, "resume": resume}
    with runs.start_run("train", **options) as first:
        name = left_by(HERE, stage_project)
    client = mlflow.MlflowClient()
    client.set_tag(first, "owner", name)
    client.update_run(first, status="RUNNING")
    with runs.start_run("train", **options) as second:
        run = client.get_run(second)
        assert (second, run.info.status) == (first, "RUNNING")
        assert run.data.tags["owner"] != name
        (lease,) = (stage_project / ".resume" / "runs").iterdir()
        assert run.data.tags["owner"] == lease.name
    assert client.get_run(second).info.status == "FINISHED"


@pytest.mark.fault(
    where="TMPDIR",
    injected="KILL of a process with files in its temporary folder",
    before="they stay for ever",
    now="the next command removes them, and nothing else",
)
def test_temporary_files_of_a_killed_process_are_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumonia import environment

    others = [tmp_path / "pneumonia-report.txt", tmp_path / "pneumonia-aaaa", tmp_path / "tmp1"]
    others[0].touch()
    others[1].mkdir()
    others[2].mkdir()
    killed = tmp_path / "pneumonia-0000dead"
    killed.mkdir()
    (killed / "lock").write_text(HERE)
    (killed / "__autograph_generated_file1.py").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with environment.own_temporary_folder():
        own = Path(tempfile.mkdtemp())
        assert own.parent.parent == tmp_path
        assert os.environ["TMPDIR"] == str(own.parent)
        assert not killed.exists()
        with environment.own_temporary_folder():
            assert own.is_dir()
    assert tempfile.gettempdir() == str(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def processes_in(folder: Path) -> list[str]:
    """Numbers of the processes whose current folder this is."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has just ended
            if place.readlink() == folder:
                found.append(place.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.fault(where="worker processes")
@pytest.mark.parametrize(
    ("number", "to"),
    [
        row(signal.SIGKILL, "", number=signal.SIGKILL, injected="KILL of their stage", now="they end with it"),
        *(
            row(
                *(number, "group"),
                number=number,
                injected=f"{number.name.removeprefix('SIG')} to the stage and to them",
                now="they end with it, and only the stage says so",
            )
            for number in IN_ORDER
        ),
    ],
)
def test_workers_end_with_their_stage(project: Project, number: signal.Signals, to: str) -> None:
    project.set({"compute.workers": 2})
    stage = Stage(project, "preprocess")
    ended = stage.run(number, "pneumonia.preprocess:_digest_of_chunk", 1, "before", to)
    give_up = time.monotonic() + 20
    while processes_in(project.folder):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    if number == signal.SIGKILL:
        assert ended.returncode == -number
    else:
        assert (ended.returncode, ended.stderr) == (signals.status(number), f"{signals.line(number)}\n")
        assert stage.left() == []
    again = stage.run()
    assert again.returncode == 0, again.stderr
    assert stage.left() == []
    assert stage.files() == stage.before


NAMING = ("pathlib:Path.replace", 1, "before")  # an out is complete, and has not got its name


@pytest.mark.slow
@pytest.mark.fault(now="with the old settings, dvc checkout brings the previous outs")
@pytest.mark.parametrize(
    ("name", "number", "moment", "settings"),
    [
        pytest.param(
            *(name, number, moment, settings),
            marks=pytest.mark.fault(
                where=name,
                injected=f"{number.name.removeprefix('SIG')} under other settings",
                before="dvc checkout refused, because of a partial file" if name == "fetch" else "as now",
            ),
        )
        for name, number, moment, settings in (
            ("fetch", signal.SIGKILL, NAMING, {"fetch.seed": 3}),
            ("rebalance", signal.SIGKILL, NAMING, {"rebalance.seed": 3}),
            ("tune", signal.SIGTERM, MIDDLE["tune"], {"tune.epochs": 2}),
            ("train", signal.SIGINT, MIDDLE["train"], {"train.epochs": 3}),
            ("promote", signal.SIGHUP, MIDDLE["promote"], {"promote.min_common": 3}),
        )
    ],
)
def test_previous_outs_come_back_after_a_signal(
    project: Project, name: str, number: signal.Signals, moment: tuple[str, int, str], settings: dict[str, Any]
) -> None:
    stage = Stage(project, name)
    at, call, when = moment
    fault = {"FAULT_IN": f"stages.{name}", "FAULT_AT": at, "FAULT_CALL": str(call), "FAULT_WHEN": when}
    with project.changed(settings):
        said = project.dvc(
            *("repro", "--single-item", name),
            expect=255,
            PYTHONPATH=INSIDE,
            TMPDIR=str(stage.temporary),
            FAULT_SIGNAL=str(int(number)),
            **fault,
        )
    assert "Traceback" not in said
    project.dvc("checkout")
    assert project.stages_run(project.dvc("repro", TMPDIR=str(stage.temporary))) == []
    project.pneumonia("versions", TMPDIR=str(stage.temporary))  # the next command
    # After KILL a partial file stays until its stage runs again; DVC does not see it.
    partial = [name for name in stage.left() if "/.partial-" in name]
    assert len(partial) == (number == signal.SIGKILL)
    assert stage.left() == partial
    for path in partial:
        Path(path).unlink()
    assert stage.files() == stage.before
    assert not any(status == "RUNNING" for _, status in stage.new_runs())


@pytest.mark.slow
@pytest.mark.fault(before="as now", now="the stage is run again, with the same results")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.fault(where=name, injected="KILL of DVC between the end of the stage and dvc.lock")
        )
        for name in ("fetch", "rebalance", "backbone")
    ],
)
def test_a_stage_whose_end_dvc_could_not_note_is_run_again(project: Project, name: str) -> None:
    stage = Stage(project, name)
    lock = (project.folder / "dvc.lock").read_bytes()
    at = {"FAULT_IN": "dvc", "FAULT_AT": "dvc.dvcfile:Lockfile.dump_stages", "FAULT_SIGNAL": str(int(signal.SIGKILL))}
    project.dvc("repro", "--single-item", "--force", name, expect=-signal.SIGKILL, PYTHONPATH=INSIDE, **at)
    assert (project.folder / "dvc.lock").read_bytes() == lock
    project.dvc("repro", "--single-item", "--force", name)
    assert stage.left() == []
    assert stage.files() == stage.before
