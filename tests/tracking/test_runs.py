"""Runs and what is logged to them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from pneumonia import UserError, explain, workspace
from pneumonia.data import tables
from pneumonia.images.geometry import Preparation
from pneumonia.models import scoring
from pneumonia.tracking import runs
from tests.conftest import png
from tests.tracking.conftest import RECORD, ROOT, all_runs, run_of, start

HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "loss": [0.7, 0.5], "val_loss": [0.6, 0.65], "val_auc": [0.75, 0.875], "learning_rate": [0.1, 0]}
).assign(kept=[False, True])
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 9, 7), dtype=np.uint8)


def artifacts(run_id: str, folder: str | None = None) -> list[str]:
    return sorted(one.path for one in mlflow.MlflowClient().list_artifacts(run_id, folder))


def test_runs_and_registry_lie_in_one_store_under_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///elsewhere.db")
    assert runs.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{root}/mlruns/mlflow.db"
    assert mlflow.get_registry_uri() == mlflow.get_tracking_uri()


@pytest.mark.parametrize("folder", [".dvc/tmp/exps/standalone/tmpab12", ".dvc/tmp/exps/tmpab12"])
def test_an_experiment_of_dvc_logs_into_the_store_of_the_project(
    root: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root / folder)
    with start() as run_id:
        (Path.cwd() / "note.txt").write_text("kept")
        runs.log_file("note.txt")
    assert mlflow.get_tracking_uri() == f"sqlite:///{root}/mlruns/mlflow.db"
    assert (root / "mlruns" / "artifacts" / run_id / "artifacts" / "note.txt").read_text() == "kept"
    assert not (root / folder / "mlruns").exists()


@pytest.mark.parametrize("folder", [".", ".dvc/tmp/exps/standalone/tmpab12"])
def test_a_relative_path_in_the_environment_counts_from_the_project(
    root: Path, folder: str, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "elsewhere").mkdir()
    shutil.copyfile(empty_database, root / "elsewhere" / "my.db")
    monkeypatch.chdir(root / folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere/my.db")
    assert runs.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{root}/elsewhere/my.db"


def test_an_absolute_path_in_the_environment_is_taken_as_it_is(
    root: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_database, tmp_path / "my.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/my.db")
    assert runs.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/my.db"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///:memory:"])
def test_any_other_address_in_the_environment_is_taken_as_it_is(
    root: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert runs.open_store() == mlflow.get_tracking_uri() == uri


@pytest.mark.parametrize("uri", ["nonsense://here", "sqlite:////dev/null/my.db"])
def test_a_store_that_cannot_be_used_ends_in_one_line(root: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="check MLFLOW_TRACKING_URI") as refusal, start():
        pass
    assert uri in str(refusal.value)
    assert "\n" not in str(refusal.value)


OPEN_FRESH_STORE = """
import sys, time
from pathlib import Path
import mlflow
from pneumonia.tracking import runs
root, name = Path(sys.argv[1]), sys.argv[2]
if name == "second":  # comes when the file is there and its tables are not
    while not (root / "mlruns" / "mlflow.db").exists():
        time.sleep(0.005)
runs.open_store(root)
print(mlflow.MlflowClient().create_experiment(name))
"""


@pytest.mark.slow
def test_two_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_FRESH_STORE, str(tmp_path), name],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert sorted(out.strip() for out, _ in ended) == ["1", "2"]


def test_a_run_says_which_stage_data_model_and_settings_it_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-toad")
    with start("tune", model="mobilenet", params={"tune.n_trials": 4, "dropout": [0.0, 0.4]}) as run_id:
        assert run_of(run_id).info.status == "RUNNING"
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tune · mobilenet · phantom"
    assert mlflow.get_experiment(run.info.experiment_id).name == "pneumonia-phantom"
    assert run.data.params == {"tune.n_trials": "4", "dropout": "[0.0, 0.4]"}
    tags = {
        "stage": "tune",
        "data": "phantom",
        "model": "mobilenet",
        "synthetic": "true",
        "dvc_experiment": "muddy-toad",
    }
    assert tags.items() <= run.data.tags.items()


def test_two_clahe_settings_of_the_same_images_are_told_apart(root: Path) -> None:
    digests = set()
    for clip_limit in (2.0, 3.0):
        preparation = Preparation(size=64, clip_limit=clip_limit)
        with start(preparation=preparation) as run_id:
            runs.tag(data_digest="da7a")
        run = run_of(run_id)
        prefix = "preparation."
        params = {name.removeprefix(prefix): one for name, one in run.data.params.items() if name.startswith(prefix)}
        assert params == {name: str(value) for name, value in preparation.as_dict().items()}
        digests.add(run.data.tags["preparation_digest"])
    assert len(digests) == 2


def test_a_run_outside_of_git_and_dvc_has_no_empty_tags(root: Path) -> None:
    with start(synthetic=False) as run_id:
        pass
    tags = run_of(run_id).data.tags
    assert not {"git_commit", "dvc_experiment", "preparation_digest", "mlflow.parentRunId"} & set(tags)
    assert tags["synthetic"] == "false"


def test_a_run_names_the_git_commit(root: Path) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "-m", "first")
    with start() as run_id:
        pass
    assert run_of(run_id).data.tags["git_commit"] == git("rev-parse", "HEAD")


def test_a_stage_that_judges_belongs_under_the_train_run(root: Path) -> None:
    with start() as parent:
        pass
    with start("evaluate", parent=parent) as run_id:
        pass
    assert run_of(run_id).data.tags["mlflow.parentRunId"] == parent


class StopHere(Exception):  # noqa: N818 - as `TrialPruned`, no error
    pass


def test_a_trial_is_a_finished_run_under_its_study(root: Path) -> None:
    values = {"learning_rate": 0.00112}
    with start("tune") as parent:
        runs.tag(data_digest="da7a")
        with runs.child_run("trial 0", values, killed_by=StopHere) as report:
            report(1, {"val_auc": 0.7})
            report(2, {"val_auc": 0.8})
            child = mlflow.active_run().info.run_id
    run = run_of(child)
    assert (run.info.run_name, run.info.status) == ("compact · trial 0 · lr 1.1e-3", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent
    own = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    of_study = {name: value for name, value in run_of(parent).data.tags.items() if not name.startswith("mlflow.")}
    assert own == of_study | {"stage": "trial", "trial": "trial 0"}
    assert own["data_digest"] == "da7a"
    assert run.data.params == {"learning_rate": "0.00112"}
    steps = mlflow.MlflowClient().get_metric_history(child, "epoch/val_auc")
    assert [(one.step, one.value) for one in steps] == [(1, 0.7), (2, 0.8)]
    assert run_of(parent).data.metrics == {}


@pytest.mark.parametrize(
    ("error", "status"), [(SystemExit, "KILLED"), (KeyboardInterrupt, "KILLED"), (OSError, "FAILED")]
)
def test_a_stage_ended_by_a_signal_is_killed_and_a_broken_one_failed(
    root: Path, error: type[BaseException], status: str
) -> None:
    def stage() -> None:
        with start():
            raise error

    with pytest.raises(error):
        stage()
    (run,) = all_runs()
    assert run.info.status == status
    assert list((root / ".resume" / "runs").iterdir()) == []


def test_a_run_that_could_not_be_closed_is_left_to_the_next_command(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(self: Any, run_id: str, status: str) -> None:
        raise MlflowException("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_terminated", locked)
        with pytest.raises(MlflowException, match="locked"), start() as run_id:
            pass
    assert run_of(run_id).info.status == "RUNNING"
    (lease,) = (root / ".resume" / "runs").iterdir()
    assert run_of(run_id).data.tags["owner"] == lease.name


@pytest.mark.parametrize(("error", "status"), [(StopHere, "KILLED"), (SystemExit, "KILLED"), (OSError, "FAILED")])
def test_a_pruned_trial_is_killed_and_a_broken_one_failed(root: Path, error: type[BaseException], status: str) -> None:
    def trial() -> None:
        with runs.child_run("trial 0", {}, killed_by=StopHere):
            raise error

    with start("tune") as parent:
        with pytest.raises(error):
            trial()
        assert mlflow.active_run().info.run_id == parent
        runs.log_metrics({"val_auc": 0.9})
    (child,) = (run for run in all_runs() if run.info.run_name == "compact · trial 0")
    assert child.info.status == status
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert (run_of(parent).info.status, run_of(parent).data.metrics) == ("FINISHED", {"val_auc": 0.9})


def test_the_run_of_a_fold_goes_on_in_the_same_run_and_is_left_alone_when_it_is_finished(root: Path) -> None:
    folder = root / "fold0"
    folder.mkdir()

    def fit(*epochs: int, error: type[BaseException] | None = None) -> None:
        with runs.fold_run(0, folder) as report:
            for epoch in epochs:
                report(epoch, {"val_auc": 0.7})
            if error:
                raise error

    with start() as parent:
        with pytest.raises(KeyboardInterrupt):
            fit(1, error=KeyboardInterrupt)
        child = (folder / "run_id").read_text()
        assert run_of(child).info.status == "KILLED"
        fit(2, 3)
        ended = run_of(child).info
        fit(4)
        assert mlflow.active_run().info.run_id == parent
    assert (ended.status, run_of(child).info.end_time) == ("FINISHED", ended.end_time)
    assert [one.step for one in mlflow.MlflowClient().get_metric_history(child, "epoch/val_auc")] == [1, 2, 3]
    tags = run_of(child).data.tags
    assert (tags["stage"], tags["fold"], tags["mlflow.parentRunId"]) == ("fold", "fold 0", parent)
    assert run_of(child).info.run_name == "compact · fold 0"
    with start() as other:  # a new train run has folds of its own
        fit(1)
    assert run_of((folder / "run_id").read_text()).data.tags["mlflow.parentRunId"] == other
    assert len(all_runs()) == 4


def test_nested_numbers_get_names_with_a_slash_and_words_and_counts_stay_out(root: Path) -> None:
    with start() as run_id:
        test = {"n": 160, "n_positive": 120, "auc": 0.9, "negative": 0.1}
        runs.log_metrics({"threshold": 0.5, "n": 9, "test": test, "reason": "higher"})
        runs.log_epoch(3, {"epoch": 3, "member": 1, "loss": 0.25, "val_auc": 0.8})
        runs.log_params({"learning_rate": 0.001})
        runs.tag(weights="imagenet")
    run = run_of(run_id)
    figures = {"threshold": 0.5, "test/auc": 0.9, "test/negative": 0.1}
    assert run.data.metrics == figures | {"epoch/train_loss": 0.25, "epoch/val_auc": 0.8}
    assert mlflow.MlflowClient().get_metric_history(run_id, "epoch/train_loss")[0].step == 3
    assert run.data.params == {"seed": "1", "learning_rate": "0.001"}
    assert run.data.tags["weights"] == "imagenet"


def test_the_images_used_are_a_dataset_of_the_run(root: Path) -> None:
    digest = "0123456789abcdef" * 4
    with start() as run_id:
        runs.log_dataset(np.array(["a", "b"]), np.array([0, 1]), data="phantom", digest=digest, context="train")
    run = run_of(run_id)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("phantom", digest[:32])
    assert [tag.value for tag in used.tags] == ["train"]
    assert run.data.tags["data_digest"] == digest


def test_figures_files_and_tables_are_artifacts_under_the_project(root: Path) -> None:
    (root / "saliency").mkdir()
    (root / "saliency" / "a.png").write_bytes(b"png")
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    plt.close(figure)
    with start() as trained:
        pass
    with start("evaluate") as run_id:
        runs.log_figure(figure, "plots/roc.png", runs.TrainRun(trained, "m-0", adopted=False))
        runs.log_file(root / "saliency", "saliency")
        runs.log_file(root / "saliency" / "a.png")
        runs.log_table(pd.DataFrame({"state": ["pruned", "complete"], "val_auc": [0.5, 0.75]}), "trials.json")
    assert artifacts(run_id) == ["a.png", "plots", "saliency", "trials.json"]
    assert artifacts(run_id, "saliency") == ["saliency/a.png"]
    assert artifacts(trained, "plots") == ["plots/roc.png"]
    folder = root / "mlruns" / "artifacts" / run_id / "artifacts"
    assert (folder / "plots" / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert tables.read_json(folder / "trials.json") == {
        "columns": ["state", "val_auc"],
        "data": [["pruned", 0.5], ["complete", 0.75]],
    }
    assert sorted(one.name for one in (root / "mlruns").iterdir() if "mlflow.db" not in one.name) == ["artifacts"]


def test_a_logged_model_loads_back_and_predicts_the_same(root: Path, trained: runs.TrainRun, model: Any) -> None:
    loaded = mlflow.pyfunc.load_model(f"models:/{trained.model_id}")
    pixels = IMAGES[..., None].astype(np.float32)
    np.testing.assert_allclose(loaded.predict(pixels)[:, 0], scoring.predict_scores(model, IMAGES), atol=1e-6)
    signature = loaded.metadata.signature
    assert [(one.type, one.shape) for one in signature.inputs] == [(np.float32, (-1, -1, -1, 1))]
    assert [(one.type, one.shape) for one in signature.outputs] == [(np.float32, (-1, 1))]


def test_a_logged_model_belongs_to_its_run_and_lies_under_the_project(root: Path, trained: runs.TrainRun) -> None:
    logged = mlflow.get_logged_model(trained.model_id)
    assert logged.source_run_id == trained.run_id
    assert logged.status == LoggedModelStatus.READY
    assert logged.artifact_location.startswith(f"file://{root}/mlruns/artifacts/")
    assert list((root / "mlruns" / "artifacts").rglob("*.keras"))


def test_a_logged_model_needs_no_pickle(root: Path, trained: runs.TrainRun) -> None:
    files = [one.name for one in (root / "mlruns" / "artifacts").rglob("*") if one.is_file()]
    assert "requirements.txt" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]


def test_a_description_leaves_no_copy_of_what_it_shows(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.write_json({"youden": {"threshold": 0.5}, "level": 0.95}, tmp_path / runs.EVALUATION)
    (tmp_path / "roc.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    with start() as run_id:
        runs.log_file(tmp_path / runs.EVALUATION)
        runs.log_file(tmp_path / "roc.png", "plots")
    copies, real = [], mlflow.artifacts.download_artifacts

    def download(**options: Any) -> str:
        copies.append(Path(real(**options)))
        return str(copies[-1])

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    evidence = runs.evidence(run_id, draw=True)
    assert evidence.figures == {"threshold": 0.5, "level": 0.95}
    assert list(evidence.pictures) == ["description/roc.png"]
    assert sorted(copy.name for copy in copies) == ["evaluation.json", "roc.png"]
    assert not any(copy.exists() for copy in copies)


def test_figures_of_a_later_stage_reach_the_run_and_its_model(
    root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    (tmp_path / "saliency").mkdir()
    (tmp_path / "saliency" / "a.png").write_bytes(b"png")
    (tmp_path / "predictions.csv").write_text("sha256\n")
    files = {runs.PREDICTIONS: tmp_path / "predictions.csv", "saliency": tmp_path / "saliency"}
    with start("evaluate", parent=trained.run_id) as later:
        runs.mirror(trained, {"threshold": 0.5, "test": {"auc": 0.9, "f1": 0.8}}, files)
    assert run_of(trained.run_id).data.metrics == {"threshold": 0.5, "test/auc": 0.9}
    on_model = {one.key: one.value for one in mlflow.get_logged_model(trained.model_id).metrics}
    assert on_model == {"threshold": 0.5, "test/auc": 0.9}
    assert artifacts(trained.run_id, "evaluation") == [runs.PREDICTIONS]
    assert artifacts(trained.run_id, "saliency") == ["saliency/a.png"]
    assert run_of(later).data.metrics == {}


def test_whatever_figure_stands_for_a_saliency_method_is_a_headline() -> None:
    assert {f"saliency/{name}" for name in explain.HEADLINES} <= {*runs.HEADLINES}
    assert len(runs.HEADLINES) <= 12


PREDICTIONS = pd.DataFrame(
    {
        "image_id": ["0012", "13"],
        "sha256": ["0e1", "ff"],
        "split": ["val", "test"],
        "label": [0, 1],
        "score": [0.1, 0.7],
    }
)


def test_logged_predictions_come_back_as_they_were(root: Path, trained: runs.TrainRun, tmp_path: Path) -> None:
    tables.write_table(PREDICTIONS, tmp_path / "predictions.csv")
    runs.mirror(trained, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    pd.testing.assert_frame_equal(runs.logged_predictions(trained.run_id), PREDICTIONS, check_dtype=False)


def test_logged_predictions_are_held_against_the_digest_of_their_tag(
    root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    tables.write_table(PREDICTIONS, tmp_path / "predictions.csv")
    runs.mirror(trained, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    assert run_of(trained.run_id).data.tags["predictions_sha256"] == workspace.sha256_file(tmp_path / "predictions.csv")
    logged = next((root / "mlruns").rglob("predictions.csv"))
    tables.write_table(PREDICTIONS.assign(score=[0.1, 0.8]), logged)
    with pytest.raises(runs.ChangedError, match=f"^{runs.PREDICTIONS} of run {trained.run_id} in .* is not the file"):
        runs.logged_predictions(trained.run_id)
    mlflow.MlflowClient().set_tag(trained.run_id, "predictions_sha256", "")  # as of a version without the tag
    assert list(runs.logged_predictions(trained.run_id)["score"]) == [0.1, 0.8]


def test_predictions_that_are_gone_are_an_empty_table(root: Path, trained: runs.TrainRun) -> None:
    for run_id in (trained.run_id, "0" * 32):
        table = runs.logged_predictions(run_id)
        assert table.empty
        assert {"sha256", "patient_id", "split", "label", "score"} <= set(table)


def test_a_disk_that_is_not_mounted_is_one_line_and_no_lost_predictions(root: Path, tmp_path: Path) -> None:
    tables.write_table(PREDICTIONS, tmp_path / "predictions.csv")
    with start() as run_id:
        runs.log_metrics({"val": {"auc": 0.9}})
    run = runs.TrainRun(run_id, "", adopted=False)
    runs.mirror(run, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    (root / "mlruns" / "artifacts").rename(root / "away")
    calls: list[Callable[[], Any]] = [
        lambda: runs.logged_predictions(run_id),
        lambda: start().__enter__(),
        lambda: runs.ensure_train_run(
            RECORD | {"run_id": run_id}, synthetic=True, model_path=root / "m", history=root / "h"
        ),
    ]
    for call in calls:
        with pytest.raises(
            UserError, match=f"^the folder {root}/mlruns/artifacts with .* is missing; mount"
        ) as refusal:
            call()
        assert "\n" not in str(refusal.value)
    assert not (root / "mlruns" / "artifacts").exists()
    (root / "away").rename(root / "mlruns" / "artifacts")
    assert list(runs.logged_predictions(run_id)["sha256"]) == ["0e1", "ff"]


@pytest.mark.parametrize("error", [PermissionError("denied"), MlflowException("no disk")])
@pytest.mark.parametrize("call", ["mlflow.MlflowClient.list_artifacts", "mlflow.artifacts.download_artifacts"])
def test_predictions_that_cannot_be_read_are_not_gone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: Exception
) -> None:
    with start() as run_id:
        pass
    (tmp_path / "predictions.csv").write_text("sha256\n")
    mlflow.MlflowClient().log_artifact(run_id, str(tmp_path / "predictions.csv"), "evaluation")

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(call, fail)
    with pytest.raises(UserError, match=f"mlflow.db cannot be used \\({error}\\); check"):
        runs.logged_predictions(run_id)


@pytest.fixture
def restored(root: Path, model: Any) -> dict[str, Any]:
    """What `dvc checkout` brings on a machine whose store never saw the training."""
    scoring.save_model(model, root / "models" / "model.keras")
    tables.write_table(HISTORY, root / "reports" / "history.csv")
    return {
        "synthetic": True,
        "model_path": root / "models" / "model.keras",
        "history": root / "reports" / "history.csv",
    }


@pytest.fixture
def record(restored: dict[str, Any]) -> dict[str, Any]:
    return RECORD | {"model_sha256": workspace.sha256_file(restored["model_path"])}


def test_a_known_run_is_found(trained: runs.TrainRun, record: dict[str, Any], restored: dict[str, Any]) -> None:
    record |= {"run_id": trained.run_id, "model_id": trained.model_id}
    assert runs.find_train_run(record) == trained
    assert runs.ensure_train_run(record, **restored) == trained
    assert len(all_runs()) == 1


def test_an_unknown_run_is_not_found(trained: runs.TrainRun) -> None:
    assert runs.find_train_run(RECORD) is None


def test_an_unknown_run_is_adopted_once(record: dict[str, Any], restored: dict[str, Any]) -> None:
    adopted = runs.ensure_train_run(record, **restored)
    assert adopted.adopted
    assert adopted.run_id != RECORD["run_id"]
    again = runs.ensure_train_run(record, **restored)
    assert again == runs.find_train_run(RECORD) == adopted._replace(adopted=False)
    (run,) = all_runs()
    assert (run.info.run_name, run.info.status) == ("train · compact · phantom", "FINISHED")
    tags = {"stage": "train", "original_run_id": "0" * 32, "data_digest": "da7a", "weights": "none", "model": "compact"}
    assert (tags | {"model_id": adopted.model_id}).items() <= run.data.tags.items()


@pytest.mark.parametrize("history", [HISTORY, HISTORY.drop(columns="kept")], ids=["", "of an earlier version"])
def test_an_adopted_run_has_the_history_and_the_model(
    history: pd.DataFrame, record: dict[str, Any], restored: dict[str, Any], model: Any
) -> None:
    tables.write_table(history, restored["history"])
    adopted = runs.ensure_train_run(record, **restored)
    assert run_of(adopted.run_id).data.params["preparation.size"] == "64"
    steps = mlflow.MlflowClient().get_metric_history(adopted.run_id, "epoch/val_auc")
    assert [(one.step, one.value) for one in steps] == [(1, 0.75), (2, 0.875)]
    names = {f"epoch/{name}" for name in ("train_loss", "val_loss", "val_auc", "learning_rate")}
    assert set(run_of(adopted.run_id).data.metrics) == names
    loaded = mlflow.tensorflow.load_model(f"models:/{adopted.model_id}")
    np.testing.assert_allclose(scoring.predict_scores(loaded, IMAGES), scoring.predict_scores(model, IMAGES), atol=1e-6)


def test_a_deleted_run_is_adopted(trained: runs.TrainRun, record: dict[str, Any], restored: dict[str, Any]) -> None:
    mlflow.MlflowClient().delete_run(trained.run_id)
    record |= {"run_id": trained.run_id, "model_id": trained.model_id}
    assert runs.find_train_run(record) is None
    assert runs.ensure_train_run(record, **restored).adopted


def test_an_adoption_that_broke_off_is_made_again(record: dict[str, Any], restored: dict[str, Any]) -> None:
    missing = restored | {"history": Path("missing.csv")}
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        runs.ensure_train_run(record, **missing)
    assert [run.info.status for run in all_runs()] == ["FAILED"]
    assert runs.find_train_run(RECORD) is None
    adopted = runs.ensure_train_run(record, **restored)
    assert adopted.adopted
    assert runs.find_train_run(RECORD) == adopted._replace(adopted=False)


def test_another_model_than_that_of_the_record_is_one_line_and_makes_no_run(
    record: dict[str, Any], restored: dict[str, Any]
) -> None:
    with open(restored["model_path"], "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"model\.keras is not the file that models/run\.json describes"):
        runs.ensure_train_run(record, **restored)
    assert all_runs() == []


@pytest.mark.parametrize("ask", [runs.was_evaluated, runs.has_artifacts])
def test_an_error_of_the_store_says_nothing_about_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], bool]
) -> None:
    runs.open_store(root)
    assert ask("0" * 32) is False, "no such run"

    def fail(*arguments: Any) -> None:
        raise MlflowException("the disk is gone", error_code=INTERNAL_ERROR)

    monkeypatch.setattr(mlflow, "get_run", fail)
    monkeypatch.setattr(mlflow.MlflowClient, "list_artifacts", fail)
    with pytest.raises(UserError, match=r"cannot be used .*the disk is gone"):
        ask("0" * 32)


def test_links_lead_to_the_runs_and_the_models_in_the_view_for_training(root: Path) -> None:
    runs.open_store()
    with runs.start_run("tune", data="phantom", model="compact", synthetic=True, params={}):
        pass
    mlflow.MlflowClient().create_registered_model("pneumonia-phantom")
    (of_runs, runs_link), (of_model, model_link) = runs.links(5001)
    (experiment,) = [one for one in mlflow.MlflowClient().search_experiments() if one.name != "Default"]
    assert of_runs == f"runs of {experiment.name}"
    view = "workflowType=machine_learning"
    assert runs_link == f"http://127.0.0.1:5001/#/experiments/{experiment.experiment_id}/runs?{view}"
    assert (of_model, model_link) == (
        "model pneumonia-phantom",
        f"http://127.0.0.1:5001/#/models/pneumonia-phantom?{view}",
    )
    assert runs.links(5001, subject="phantom") == [(of_runs, runs_link), (of_model, model_link)]
    assert runs.links(subject="folder") == []
