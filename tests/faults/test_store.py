"""A store that is full, locked, read-only or gone: one line that says what helps, and right when run again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pneumonia import UserError, cli, workspace
from pneumonia.data import tables
from pneumonia.models import networks
from pneumonia.models.predictor import Predictor
from pneumonia.tracking import registry, runs, sqlite
from stages import run
from tests import predictors
from tests.conftest import ROOT
from tests.faults.store import FAULTS, FULL, fails, file_fails, fill, held, small_disk
from tests.tracking import conftest as tracking
from tests.tracking.conftest import RECORD, all_runs, candidate, predictions_of, run_of, start

if TYPE_CHECKING:
    from tests.test_end_to_end import Project

pytestmark = pytest.mark.fault(kind="store")

root, no_store, empty_versions, real_versions = (
    tracking.root,
    tracking.no_store,
    tracking.empty_versions,
    tracking.real_versions,
)
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
Operation = Callable[[], object]


def ended(operation: Operation) -> str:
    """The line in which an operation ends as a stage would."""
    with pytest.raises(SystemExit) as end:
        run(operation)  # type: ignore[arg-type]
    assert isinstance(end.value.code, str)  # which is printed, with exit status 1
    assert end.value.code.startswith("ERROR: ")
    assert "\n" not in end.value.code
    return end.value.code


def inside(call: Operation) -> Callable[[Path], Operation]:
    """A call in the run of a stage that was opened before."""

    def prepare(root: Path) -> Operation:
        stack = ExitStack()
        stack.enter_context(start())

        def operate() -> None:
            with stack:
                call()

        return operate

    return prepare


def trial() -> None:
    with runs.child_run("trial 0", {"learning_rate": 0.1}, killed_by=ZeroDivisionError) as report:
        report(1, {"val_auc": 0.5})


def trained_run() -> runs.TrainRun:
    with start() as run_id:
        pass
    return runs.TrainRun(run_id, tracking.empty_model(run_id), adopted=False)


def registered(root: Path) -> tuple[runs.TrainRun, Predictor]:
    """A champion with predictions."""
    trained = trained_run()
    predictor = Predictor(predictors.write(root / "predictor", data="phantom", synthetic=True))
    tables.write_table(predictions_of(1), root / "predictions.csv")
    runs.mirror(trained, {}, {runs.PREDICTIONS: root / "predictions.csv"})
    registry.register("phantom", trained, predictor, {"val_auc": 0.9, "eligible": "true"})
    registry.set_champion("phantom", lambda tags: (1,))
    return trained, predictor


def mirror(root: Path) -> Operation:
    trained = trained_run()
    tables.write_table(predictions_of(1), root / "predictions.csv")
    return lambda: runs.mirror(trained, {"val": {"auc": 0.9}}, {runs.PREDICTIONS: root / "predictions.csv"})


def registration(root: Path) -> Operation:
    trained = trained_run()
    predictor = Predictor(predictors.write(root / "predictor", data="phantom", synthetic=True))
    return lambda: registry.register("phantom", trained, predictor, {"val_auc": 0.9})


def with_champion(call: Callable[[runs.TrainRun], object]) -> Callable[[Path], Operation]:
    """A call in a store with a champion."""

    def prepare(root: Path) -> Operation:
        trained, _ = registered(root)
        return lambda: call(trained)

    return prepare


def champion(root: Path) -> Operation:
    registered(root)
    mlflow.MlflowClient().delete_registered_model_alias("pneumonia-phantom", registry.CHAMPION)
    return lambda: registry.set_champion("phantom", lambda tags: (1,))


OPERATIONS: dict[str, Callable[[Path], Operation]] = {
    "start of a run": lambda root: lambda: start().__enter__(),
    "settings": inside(lambda: runs.log_params({"dropout": 0.1})),
    "metrics": inside(lambda: runs.log_metrics({"auc": 0.9})),
    "tags": inside(lambda: runs.tag(weights="none")),
    "data set": inside(lambda: runs.log_dataset(["a", "b"], [0, 1], data="phantom", digest="d", context="train")),
    "trial of tune": inside(trial),
    "end of a run": inside(lambda: None),
    "figures on the train run": mirror,
    "registration": registration,
    "champion": champion,
    "decision": with_champion(lambda trained: registry.record_decision("phantom", 1, {"reason": "none"})),
    "model card": with_champion(lambda trained: registry.link_card("phantom", 1, trained, Path("predictions.csv"))),
}
"""What stages and commands write to the store; each is prepared in a store that works."""
QUICK = ("start of a run", "metrics", "trial of tune")


def operations(*names: str) -> list[Any]:
    """Parameters of a test; all but a few of them are for `make test-all`."""
    return [
        pytest.param(
            name, marks=[pytest.mark.fault(where=f"store: {name}"), *([] if name in QUICK else [pytest.mark.slow])]
        )
        for name in names
    ]


@pytest.mark.parametrize("name", operations(*OPERATIONS))
@pytest.mark.fault(injected="the disk is full, from the first write on", before="traceback", now="one line, status 1")
def test_a_full_store_is_one_line(name: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    operate = OPERATIONS[name](root)
    capfd.readouterr()
    with fails(FULL, times=inf) as writes:
        line = ended(operate)
    assert writes.failed
    assert line.startswith(f"ERROR: the disk of the MLflow store sqlite:///{root}/mlruns/mlflow.db is full (")
    assert line.endswith("free some space and run again: finished work is kept")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "error", [pytest.param(error, marks=pytest.mark.fault(injected=f"{error}, once")) for error in FAULTS]
)
@pytest.mark.fault(where="store: metrics", before="traceback", now="one line, status 1")
def test_an_error_of_the_database_is_one_line(error: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    operate = OPERATIONS["metrics"](root)
    with fails(error) as writes:
        line = ended(operate)
    assert writes.failed
    assert ("is locked by another program" if error == "database is locked" else f"({error})") in line
    assert "run again" in line
    assert "Traceback" not in capfd.readouterr().err
    assert [one.info.status for one in all_runs()] == ["FAILED"]


@pytest.mark.slow
@pytest.mark.fault(where="command line", injected="the disk is full", before="traceback", now="one line, status 1")
def test_a_command_ends_in_one_line(root: Path) -> None:
    registered(root)
    registered_again = trained_run()
    registry.register("phantom", registered_again, Predictor(root / "predictor"), {"val_auc": 1.0, "eligible": "true"})
    registry.set_champion("phantom", lambda tags: (2,))
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    tracking.write_settings(root)
    with fails(FULL, times=inf):
        done = CliRunner().invoke(cli.main, ["rollback"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("Error: the disk of the MLflow store sqlite:///")
    assert CliRunner().invoke(cli.main, ["rollback"]).output == "pneumonia-phantom: version 1 is champion again\n"


@pytest.mark.fault(
    where="store",
    injected="a folder in place of the database",
    before="earlier retried for 108 s, then a line at once that did not say why",
    now="one line at once",
)
def test_a_database_that_is_a_folder_is_refused_at_once(root: Path) -> None:
    (root / "mlruns" / "mlflow.db").unlink()
    (root / "mlruns" / "mlflow.db").mkdir()
    began = time.monotonic()
    assert f"({root}/mlruns/mlflow.db is a folder)" in ended(runs.open_store)
    assert time.monotonic() - began < 5


@pytest.mark.fault(
    where="promotion",
    injected="a full TMPDIR while the champion's predictions are read",
    before="earlier taken for none; then one line with another cause",
    now="one line; they are not taken for lost",
)
def test_a_full_tmpdir_loses_no_predictions(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = registered(root)
    record = RECORD | {"run_id": "0" * 32}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with small_disk(tmp_path / "temporary", "64k"):
        filler = fill(tmp_path / "temporary")
        for read in (lambda: runs.logged_predictions(trained.run_id), lambda: registry.require_comparable(record)):
            line = ended(read)
            assert line.startswith("ERROR: the disk is full ([Errno 28] No space left on device")
            assert str(tmp_path / "temporary") in line
        filler.unlink()
        assert len(runs.logged_predictions(trained.run_id)) == len(predictions_of(1))
        registry.require_comparable(record)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(lambda: runs.log_table(pd.DataFrame({"a": range(20000)}), "a.json"), id="table"),
        pytest.param(lambda: runs.log_file("large.bin"), id="file"),
    ],
)
@pytest.mark.fault(
    where="artifacts", injected="their disk is full", before="as now", now="one line, no part of the file; then right"
)
def test_a_full_disk_of_the_artifacts_is_one_line(log: Operation, root: Path) -> None:
    Path("large.bin").write_bytes(bytes(200_000))
    with small_disk(root / "mlruns" / "artifacts", "64k"):
        filler = fill(root / "mlruns" / "artifacts")
        assert ended(inside(log)(root)).startswith("ERROR: the disk is full ([Errno 28] No space left on device")
        assert {path.name for path in (root / "mlruns/artifacts").rglob("*") if path.is_file()} == {filler.name}


@pytest.mark.parametrize("name", operations("start of a run", "metrics", "registration"))
@pytest.mark.fault(
    injected="another program holds the store for longer than a minute (here: 0.1 s)",
    before="traceback after 20 s",
    now="one line",
)
def test_a_store_that_stays_locked_is_one_line(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sqlite.BUSY_SECONDS == 60
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    operate = OPERATIONS[name](root)
    capfd.readouterr()
    with held(root / "mlruns" / "mlflow.db"):
        line = ended(operate)
    assert line.endswith(
        "mlflow.db is locked by another program, for more than 0.1 s; close that program and run again"
    )
    assert capfd.readouterr().err == ""


@pytest.mark.fault(
    where="store: metrics", injected="another program holds it for 0.3 s", before="as now", now="waited for"
)
def test_a_store_that_is_locked_for_a_moment_is_waited_for(root: Path) -> None:
    operate = OPERATIONS["metrics"](root)
    with held(root / "mlruns" / "mlflow.db", seconds=0.3):
        run(operate)  # type: ignore[arg-type]
    assert all_runs()[0].data.metrics == {"auc": 0.9}


def two_trials() -> None:
    """What `tune` writes: one trial ends well, one is pruned."""
    with start("tune"):
        runs.tag(weights="none", data_digest="da7a")
        for number, pruned in enumerate((False, True)):
            try:
                with runs.child_run(f"trial {number}", {"dropout": 0.1}, killed_by=ZeroDivisionError) as report:
                    report(1, {"val_auc": 0.5})
                    if pruned:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
        runs.log_metrics({"val_auc": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before"),
    [
        pytest.param("two trials", "", marks=pytest.mark.fault(where="tune", before="traceback after 25 s")),
        pytest.param("promotion", "", marks=pytest.mark.fault(where="promote", before="traceback after 20 s")),
    ],
)
@pytest.mark.fault(injected="another program holds the store for 23 s in the middle", now="waited for")
def test_a_store_that_is_locked_for_longer_than_mlflow_waits_is_waited_for(
    name: str, before: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.open_store()
    if name == "promotion":
        promote = import_module("stages.promote").main
        monkeypatch.chdir(candidate(tmp_path / "candidate", predictions_of(1)))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
        real = runs.mirror

        def then_hold(*arguments: Any) -> None:
            real(*arguments)
            stack.enter_context(held(root / "mlruns" / "mlflow.db", seconds=23))

        with ExitStack() as stack:
            monkeypatch.setattr(runs, "mirror", then_hold)
            run(promote)
        assert registry.champion("phantom").version == 1
    else:
        operate = inside(two_trials_in_a_run)(root)
        with held(root / "mlruns" / "mlflow.db", seconds=23):
            run(operate)  # type: ignore[arg-type]
        assert sorted(one.info.status for one in all_runs()) == ["FINISHED"] * 2


def two_trials_in_a_run() -> None:
    trial()


@pytest.mark.slow
@pytest.mark.fault(
    where="tune",
    injected="each write of the store fails once, in turn",
    before="traceback; earlier once exit 0",
    now="one line each time, never swallowed",
)
def test_no_write_of_a_search_is_swallowed(root: Path) -> None:
    two_trials()  # makes the experiment
    with fails(FULL, at=10**6) as writes:
        two_trials()
    assert writes.count > 10
    for number in range(1, writes.count + 1):
        with fails(FULL, at=number) as once:
            assert ended(two_trials).startswith("ERROR: the disk of the MLflow store")
        assert once.failed == 1


@pytest.mark.slow
@pytest.mark.fault(
    where="tune",
    injected="the store of a trial fails, in a study of Optuna",
    before="traceback; earlier once exit 0",
    now="the study ends with the error",
)
def test_a_trial_that_cannot_be_logged_ends_the_study(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumonia import train, tune
    from tests import test_tune

    def fit(*arguments: Any, report: Callable[[int, dict[str, float]], None], **options: Any) -> pd.DataFrame:
        report(1, {"loss": 0.7, "val_loss": 0.7, "val_auc": 0.5})
        return pd.DataFrame({"val_auc": [0.5], "kept": [True]})

    class Logged:
        @staticmethod
        def trial_run(name: str, values: Mapping[str, Any]) -> Any:
            return runs.child_run(name, values, killed_by=tune.Pruned)

    monkeypatch.setitem(networks.MODELS, "tiny", test_tune.TINY)
    monkeypatch.setattr(train, "fit", fit)

    def study() -> None:
        with start("tune"), tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            test_tune.search(Path(folder), n_trials=3, recorder=cast("test_tune.Recorder", Logged))

    study()
    with fails(FULL, at=10**6) as writes:
        study()
    for number in range(1, writes.count + 1, 3):
        with fails(FULL, at=number):
            assert ended(study).startswith("ERROR: the disk of the MLflow store")


def artifacts(run_id: str, folder: str = "") -> list[str]:
    """The paths of all files of a run."""
    found = mlflow.MlflowClient().list_artifacts(run_id, folder)
    return sorted(path for one in found for path in (artifacts(run_id, one.path) if one.is_dir else [one.path]))


def state(folder: Path) -> dict[str, Any]:
    """What a promotion leaves behind, without ids and times."""
    version = registry.version_tags("phantom")
    model = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1")
    run_id = str(model.run_id)
    changing = ("crowned_at", "model_card", "predictor_digest")
    return {
        "tags": {one: {k: v for k, v in tags.items() if k not in changing} for one, tags in version.items()},
        "champion": registry.champion("phantom").version,
        "description": model.description.replace(run_id, "RUN"),
        "files": artifacts(run_id),
        "metrics": run_of(run_id).data.metrics,
        "promotion": tables.read_json(folder / "reports" / "promotion.json"),
    }


@pytest.fixture
def to_promote(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a candidate in a store of its own, which becomes the present one."""

    def make(name: str) -> Path:
        database = tmp_path / name / "mlruns" / "mlflow.db"
        database.parent.mkdir(parents=True)
        shutil.copyfile(root / "mlruns" / "mlflow.db", database)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        runs.open_store()
        folder = candidate(tmp_path / name, predictions_of(1))
        monkeypatch.chdir(folder)
        return folder

    return make


@pytest.mark.slow
@pytest.mark.fault(
    where="promote",
    injected="each write of the store fails once, in turn",
    before="traceback",
    now="one line; the next run ends as if nothing had happened",
)
def test_a_promotion_that_failed_half_way_is_right_after_the_next(to_promote: Callable[[str], Path]) -> None:
    from stages import promote

    folder = to_promote("reference")
    with fails(FULL, at=10**6) as writes:
        run(promote.main)
    expected = state(folder)
    assert expected["champion"] == 1
    for number in range(1, writes.count + 1):
        folder = to_promote(str(number))
        with fails(FULL, at=number) as once:
            assert ended(promote.main).startswith("ERROR: the disk of the MLflow store")
        assert once.failed == 1
        run(promote.main)
        assert state(folder) == expected, f"write {number} of {writes.count}"


@pytest.mark.slow
@pytest.mark.usefixtures("real_versions")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.fault(where=f"promote: {what}", before=before))
        for name, what, before in (
            ("predictions.csv", "predictions", "as now"),
            ("MLmodel", "predictor", "as now"),
            (runs.REGISTERED, "its number", "the version never had its number"),
            ("model_card.html", "model card", "as now"),
        )
    ],
)
@pytest.mark.fault(injected="the disk is full when it is logged", now="one line; right after the next run")
def test_files_of_a_promotion_are_complete_after_the_next(name: str, to_promote: Callable[[str], Path]) -> None:
    from stages import promote

    to_promote("reference")
    run(promote.main)
    expected = artifacts(registry.predictor("models:/pneumonia-phantom@champion", Path("cache"))[2])
    assert runs.PREDICTIONS in expected
    to_promote("candidate")
    with file_fails(name) as hit:
        assert ended(promote.main).startswith("ERROR: the disk is full")
    assert len(hit) == 1
    run(promote.main)
    assert sorted(registry.version_tags("phantom")) == [1]
    folder, version, run_id = registry.predictor("models:/pneumonia-phantom@champion", Path("cache"))
    assert version == "1"
    assert Predictor(folder).facts["data"] == "phantom"
    assert registered_number() == 1
    assert artifacts(run_id) == expected


def registered_number() -> int:
    """The number of the champion, in the files of its model."""
    path = mlflow.artifacts.download_artifacts("models:/pneumonia-phantom@champion")
    return int(tables.read_json(Path(path) / runs.REGISTERED)["version"])


def model_files() -> Path:
    source = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1").source
    location = mlflow.MlflowClient().get_logged_model(str(source).removeprefix("models:/")).artifact_location
    return Path(str(location).removeprefix("file://"))


@pytest.mark.slow
@pytest.mark.usefixtures("real_versions")
@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(gone, marks=pytest.mark.fault(injected=f"deleted: {what}"))
        for gone, what in (
            (lambda run_id: model_files(), "all files of the champion's version"),
            (lambda run_id: model_files() / "artifacts" / "predictor" / "model.onnx", "its network"),
            (lambda run_id: model_files() / runs.REGISTERED, "its number"),
            (lambda run_id: model_files().parents[2] / run_id / "artifacts" / runs.PREDICTIONS, "its predictions"),
        )
    ],
)
@pytest.mark.fault(where="register --if-missing", before="exit 0, not noticed", now="logged again")
def test_what_was_deleted_of_the_present_model_is_logged_again(
    gone: Callable[[str], Path], to_promote: Callable[[str], Path]
) -> None:
    from stages import promote

    to_promote("candidate")
    run(promote.main)
    before = registry.version_tags("phantom")
    run_id = registry.champion("phantom").run_id
    workspace.remove(gone(run_id))
    for _ in range(2):
        done = CliRunner().invoke(cli.main, ["register", "--if-missing"])
        assert done.exit_code == 0, done.output
    assert registry.predictor("models:/pneumonia-phantom@champion", Path("cache"))[1] == "1"
    assert registered_number() == 1
    assert len(runs.logged_predictions(run_id)) == 2 * len(predictions_of(1))
    assert registry.version_tags("phantom").keys() == before.keys() == {1}
    assert len([one for one in all_runs() if one.data.tags["stage"] == "promote"]) == 2, "the second did nothing"


@pytest.mark.slow
@pytest.mark.usefixtures("real_versions")
@pytest.mark.fault(
    where="register",
    injected="deleted in the UI: the model of the champion's version",
    before="exit 0, not noticed",
    now="one line; right when the version is deleted too",
)
def test_a_version_whose_model_was_deleted_is_named(to_promote: Callable[[str], Path]) -> None:
    from stages import promote

    to_promote("candidate")
    run(promote.main)
    model_id = str(mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1").source).removeprefix("models:/")
    mlflow.MlflowClient().delete_logged_model(model_id)
    for options in ((), ("--if-missing",)):
        done = CliRunner().invoke(cli.main, ["register", *options])
        assert done.exit_code == 1
        assert done.output.startswith(f"Error: pneumonia-phantom version 1 has no files: its model {model_id} was ")
        assert done.output.count("\n") == 1
    mlflow.MlflowClient().delete_model_version("pneumonia-phantom", "1")
    assert CliRunner().invoke(cli.main, ["register"]).exit_code == 0
    assert registry.predictor("models:/pneumonia-phantom@champion", Path("cache"))[1] == "2"


@pytest.mark.slow
@pytest.mark.fault(
    where="promotion of another model",
    injected="deleted: the champion's predictions",
    before="as now",
    now="one line that names the file",
)
def test_predictions_of_the_champion_that_are_gone_are_named(root: Path) -> None:
    trained, _ = registered(root)
    runs.mirror(trained, {"val": {"auc": 0.9}}, {})
    workspace.remove(root / "mlruns" / "artifacts" / trained.run_id / "artifacts" / runs.PREDICTIONS)
    line = ended(lambda: registry.require_comparable(RECORD))
    assert f"{runs.PREDICTIONS} of its run {trained.run_id} is gone from {root}/mlruns/artifacts/" in line


@pytest.mark.fault(
    where="predict --saliency", injected="deleted: the Keras network", before="as now", now="one line that names it"
)
def test_a_network_that_is_gone_is_named(root: Path, tmp_path: Path) -> None:
    with start() as run_id:
        runs.tag(model_id=tracking.empty_model(run_id))
    with pytest.raises(UserError, match=f"(network of the train run {run_id} is missing|cannot be used)"):
        registry.network(run_id, tmp_path)


PATHS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
CANNOT_BE_MADE = """
import sys
from pathlib import Path
from stages import run
from pneumonia.tracking import runs
from tests.faults.store import FULL, fails
with fails(FULL, at=int(sys.argv[2])):
    run(lambda: runs.open_store(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(at, marks=pytest.mark.fault(injected=f"the disk is full at write {at}", before=before))
        for at, before in ((1, "as now"), (60, "one line; then the store was broken"), (400, "as now"))
    ],
)
@pytest.mark.fault(where="a new store", now="one line, no file; then right")
def test_a_store_that_could_not_be_made_is_made_again(number: int, tmp_path: Path) -> None:
    done = subprocess.run(  # in this process MLflow would keep its connection to the file
        [sys.executable, "-c", CANNOT_BE_MADE, str(tmp_path), str(number)],
        env=os.environ | PATHS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: the disk of the MLflow store")
    assert done.stderr.count("\n") == 1
    assert sum(path.stat().st_size for path in (tmp_path / "mlruns").iterdir()) == 0
    runs.open_store(tmp_path)
    assert mlflow.MlflowClient().create_experiment("first")


OPEN_STORE = """
import sys
from pathlib import Path
from pneumonia.tracking import runs
runs.open_store(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.fault(where="a new store", injected="kill -9 while it is made", before="as now", now="made again")
def test_a_store_whose_maker_was_killed_is_made_again(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", OPEN_STORE, str(tmp_path)], env=os.environ | PATHS)
    partial = tmp_path / "mlruns" / ".partial-mlflow.db"
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size > 50_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    runs.open_store(tmp_path)
    assert mlflow.MlflowClient().create_experiment("first")
    assert {path.name for path in (tmp_path / "mlruns").iterdir()} == {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.fault(where=name))
        for name in STAGES
        if name != "external"  # without sources it logs nothing
    ],
)
@pytest.mark.fault(
    injected="the disk is full, from the first write of the store on",
    before="traceback",
    now="one line, status 1, no outs; then right",
)
def test_a_stage_with_a_full_store_leaves_no_outs(
    name: str, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("DVC_STAGE", name)
    stage = import_module(f"stages.{name}")
    with fails(FULL, times=inf) as writes:
        line = ended(stage.main)
    assert writes.failed
    assert line.startswith("ERROR: the disk of the MLflow store sqlite:///")
    assert "Traceback" not in capfd.readouterr().err
    outs = [*STAGES[name].get("outs", []), *STAGES[name].get("metrics", [])]
    assert outs
    assert not any(Path(out).exists() for out in outs)
    assert "changed" not in project.dvc("checkout")  # the outs before are DVC's


@pytest.mark.slow
@pytest.mark.fault(
    where="rebalance, as DVC runs it",
    injected="a real full disk under the store",
    before="traceback",
    now="one line, status 1; right when space is free",
)
def test_a_real_full_disk_under_the_store_is_one_line(project: Project, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        shutil.copyfile(project.folder / "mlruns" / "mlflow.db", tmp_path / "disk" / "mlflow.db")
        filler = fill(tmp_path / "disk")
        command = (sys.executable, "-m", "stages.rebalance")
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/disk/mlflow.db", "DVC_STAGE": "rebalance"}
        output = project.run(*command, expect=1, **store)
        assert output.count("\n") == 1, output
        assert output.startswith("ERROR: the disk ")
        assert not (project.folder / "data" / "splits.csv").exists()
        filler.unlink()
        project.run(*command, **store)
        assert (project.folder / "data" / "splits.csv").is_file()
