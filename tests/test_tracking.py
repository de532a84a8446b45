"""A real MLflow store in sqlite, made once and copied for each test."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from matplotlib import pyplot as plt
from mlflow.entities import LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from pneumonia import UserError, dataset, models, promote, restore, tracking
from tests.conftest import set_settings
from tests.test_card import write_reports

ROOT = Path(__file__).resolve().parent.parent
RECORD = {
    "run_id": "0" * 32,
    "model_id": "m-0",
    "model_sha256": "5e",
    "weights": "none",
    "data": "phantom",
    "model": "compact",
    "data_digest": "da7a",
}
HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "loss": [0.7, 0.5], "val_loss": [0.6, 0.65], "val_auc": [0.75, 0.875], "learning_rate": [0.1, 0]}
).assign(kept=[False, True])
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 9, 7), dtype=np.uint8)


# --- the store ------------------------------------------------------------------------------------------------------


def forget() -> None:
    """MLflow keeps the last store in its module and in the environment."""
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def no_store() -> Iterator[None]:
    """Each test begins and ends without a store and without a run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DVC_EXP_NAME"):
            patch.setenv(name, "")  # so that it is put back as it was
            patch.delenv(name)
        forget()
        yield
        left_open = mlflow.active_run()
        while mlflow.active_run():
            mlflow.end_run()
        forget()
    assert left_open is None


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its migrations take seconds, a copy none."""
    root = tmp_path_factory.mktemp("template")
    forget()
    tracking.open_store(root)
    forget()
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an empty store, and the working directory."""
    folder = tmp_path / "project"
    (folder / "mlruns").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "mlruns" / "mlflow.db")
    monkeypatch.chdir(folder)
    return folder


def start(stage: str = "train", **changes: Any) -> Any:
    options = {"data": "phantom", "model": "compact", "synthetic": True, "params": {"seed": 1}} | changes
    return tracking.start_run(stage, **options)


def run_of(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def all_runs() -> list[Run]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def artifacts(run_id: str, folder: str | None = None) -> list[str]:
    return sorted(one.path for one in mlflow.MlflowClient().list_artifacts(run_id, folder))


def test_runs_and_registry_lie_in_one_store_under_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///elsewhere.db")
    assert tracking.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{root}/mlruns/mlflow.db"
    assert mlflow.get_registry_uri() == mlflow.get_tracking_uri()


@pytest.mark.parametrize("folder", [".dvc/tmp/exps/standalone/tmpab12", ".dvc/tmp/exps/tmpab12"])
def test_an_experiment_of_dvc_logs_into_the_store_of_the_project(
    root: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root / folder)
    with start() as run_id:
        (Path.cwd() / "note.txt").write_text("kept")
        tracking.log_file("note.txt")
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
    assert tracking.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{root}/elsewhere/my.db"


def test_an_absolute_path_in_the_environment_is_taken_as_it_is(
    root: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_database, tmp_path / "my.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/my.db")
    assert tracking.open_store() == mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/my.db"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///:memory:"])
def test_any_other_address_in_the_environment_is_taken_as_it_is(
    root: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking.open_store() == mlflow.get_tracking_uri() == uri


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
from pneumonia import tracking
root, name = Path(sys.argv[1]), sys.argv[2]
if name == "second":  # comes when the file is there and its tables are not
    while not (root / "mlruns" / "mlflow.db").exists():
        time.sleep(0.005)
tracking.open_store(root)
print(mlflow.MlflowClient().create_experiment(name))
"""


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


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_says_which_stage_data_model_and_settings_it_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-toad")
    with start("tune", model="mobilenet", params={"tune.n_trials": 4, "dropout": [0.0, 0.4]}) as run_id:
        assert run_of(run_id).info.status == "RUNNING"
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tune"
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


def test_a_run_outside_of_git_and_dvc_has_no_empty_tags(root: Path) -> None:
    with start(synthetic=False) as run_id:
        pass
    tags = run_of(run_id).data.tags
    assert not {"git_commit", "dvc_experiment", "mlflow.parentRunId"} & set(tags)
    assert tags["synthetic"] == "false"


def test_a_run_names_the_git_commit(root: Path) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "-m", "first")
    with start() as run_id:
        pass
    assert run_of(run_id).data.tags["git_commit"] == git("rev-parse", "HEAD")


def test_a_failing_stage_leaves_a_failed_run(root: Path) -> None:
    def stage() -> None:
        with start():
            raise UserError("no good")

    with pytest.raises(UserError, match="no good"):
        stage()
    assert [run.info.status for run in all_runs()] == ["FAILED"]


def test_a_stage_that_judges_belongs_under_the_train_run(root: Path) -> None:
    with start() as parent:
        pass
    with start("evaluate", parent=parent) as run_id:
        pass
    assert run_of(run_id).data.tags["mlflow.parentRunId"] == parent


def test_runs_of_one_data_set_share_an_experiment_with_its_own_artifacts(root: Path) -> None:
    ids = {}
    for stage, data in (("train", "phantom"), ("evaluate", "phantom"), ("train", "chest_xray")):
        with start(stage, data=data) as run_id:
            ids[stage, data] = run_of(run_id).info.experiment_id
    assert ids["train", "phantom"] == ids["evaluate", "phantom"] != ids["train", "chest_xray"]
    assert mlflow.get_experiment_by_name("pneumonia-chest_xray").artifact_location == f"file://{root}/mlruns/artifacts"


class StopHere(Exception):  # noqa: N818 - as `TrialPruned`, no error
    pass


def test_a_trial_is_a_finished_run_under_its_study(root: Path) -> None:
    with start("tune") as parent, tracking.child_run("trial-0", {"dropout": 0.2}, killed_by=StopHere) as report:
        report(1, {"val_auc": 0.7})
        report(2, {"val_auc": 0.8})
        child = mlflow.active_run().info.run_id
    run = run_of(child)
    assert (run.info.run_name, run.info.status) == ("trial-0", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params == {"dropout": "0.2"}
    steps = mlflow.MlflowClient().get_metric_history(child, "val_auc")
    assert [(one.step, one.value) for one in steps] == [(1, 0.7), (2, 0.8)]
    assert run_of(parent).data.metrics == {}


@pytest.mark.parametrize(("error", "status"), [(StopHere, "KILLED"), (OSError, "FAILED")])
def test_a_pruned_trial_is_killed_and_a_broken_one_failed(root: Path, error: type[Exception], status: str) -> None:
    def trial() -> None:
        with tracking.child_run("trial-0", {}, killed_by=StopHere):
            raise error

    with start("tune") as parent:
        with pytest.raises(error):
            trial()
        assert mlflow.active_run().info.run_id == parent
        tracking.log_metrics({"val_auc": 0.9})
    (child,) = (run for run in all_runs() if run.info.run_name == "trial-0")
    assert child.info.status == status
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert (run_of(parent).info.status, run_of(parent).data.metrics) == ("FINISHED", {"val_auc": 0.9})


# --- what a run holds -----------------------------------------------------------------------------------------------


def test_nested_numbers_get_dotted_names_and_words_stay_out(root: Path) -> None:
    with start() as run_id:
        tracking.log_metrics({"threshold": 0.5, "test": {"n": 160, "auc": 0.9}, "promoted": True, "reason": "higher"})
        tracking.log_metrics({"loss": 0.25}, step=3)
        tracking.log_params({"learning_rate": 0.001})
        tracking.tag(weights="imagenet")
    run = run_of(run_id)
    assert run.data.metrics == {"threshold": 0.5, "test.n": 160, "test.auc": 0.9, "promoted": 1, "loss": 0.25}
    assert mlflow.MlflowClient().get_metric_history(run_id, "loss")[0].step == 3
    assert run.data.params == {"seed": "1", "learning_rate": "0.001"}
    assert run.data.tags["weights"] == "imagenet"


def test_the_images_used_are_a_dataset_of_the_run(root: Path) -> None:
    digest = "0123456789abcdef" * 4
    with start() as run_id:
        tracking.log_dataset(np.array(["a", "b"]), np.array([0, 1]), data="phantom", digest=digest, context="train")
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
        tracking.log_figure(figure, "plots/roc.png", tracking.TrainRun(trained, "m-0", adopted=False))
        tracking.log_file(root / "saliency", "saliency")
        tracking.log_file(root / "saliency" / "a.png")
        tracking.log_table(pd.DataFrame({"trial": [0, 1], "val_auc": [0.5, 0.75]}), "trials.json")
    assert artifacts(run_id) == ["a.png", "plots", "saliency", "trials.json"]
    assert artifacts(run_id, "saliency") == ["saliency/a.png"]
    assert artifacts(trained, "plots") == ["plots/roc.png"]
    folder = root / "mlruns" / "artifacts" / run_id / "artifacts"
    assert (folder / "plots" / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert dataset.read_json(folder / "trials.json") == {"columns": ["trial", "val_auc"], "data": [[0, 0.5], [1, 0.75]]}
    assert sorted(one.name for one in (root / "mlruns").iterdir() if "mlflow.db" not in one.name) == ["artifacts"]


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    models.start_keras(1)
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="toy")


@pytest.fixture
def trained(root: Path, model: Any) -> tracking.TrainRun:
    with start() as run_id:
        model_id = tracking.log_model(model)
    return tracking.TrainRun(run_id, model_id, adopted=False)


def test_a_logged_model_loads_back_and_predicts_the_same(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    loaded = mlflow.pyfunc.load_model(f"models:/{trained.model_id}")
    pixels = IMAGES[..., None].astype(np.float32)
    np.testing.assert_allclose(loaded.predict(pixels)[:, 0], models.predict_scores(model, IMAGES), atol=1e-6)
    signature = loaded.metadata.signature
    assert [(one.type, one.shape) for one in signature.inputs] == [(np.float32, (-1, -1, -1, 1))]
    assert [(one.type, one.shape) for one in signature.outputs] == [(np.float32, (-1, 1))]


def test_a_logged_model_belongs_to_its_run_and_lies_under_the_project(root: Path, trained: tracking.TrainRun) -> None:
    logged = mlflow.get_logged_model(trained.model_id)
    assert logged.source_run_id == trained.run_id
    assert logged.status == LoggedModelStatus.READY
    assert logged.artifact_location.startswith(f"file://{root}/mlruns/artifacts/")
    assert list((root / "mlruns" / "artifacts").rglob("*.keras"))


def test_a_logged_model_needs_no_pickle(root: Path, trained: tracking.TrainRun) -> None:
    files = [one.name for one in (root / "mlruns" / "artifacts").rglob("*") if one.is_file()]
    assert "requirements.txt" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]


def test_figures_of_a_later_stage_reach_the_run_and_its_model(
    root: Path, trained: tracking.TrainRun, tmp_path: Path
) -> None:
    (tmp_path / "saliency").mkdir()
    (tmp_path / "saliency" / "a.png").write_bytes(b"png")
    (tmp_path / "predictions.csv").write_text("sha256\n")
    files = {tracking.PREDICTIONS: tmp_path / "predictions.csv", "saliency": tmp_path / "saliency"}
    with start("evaluate", parent=trained.run_id) as later:
        tracking.mirror(trained, {"threshold": 0.5, "test": {"auc": 0.9}}, files)
    assert run_of(trained.run_id).data.metrics == {"threshold": 0.5, "test.auc": 0.9}
    on_model = {one.key: one.value for one in mlflow.get_logged_model(trained.model_id).metrics}
    assert on_model == {"threshold": 0.5, "test.auc": 0.9}
    assert artifacts(trained.run_id, "evaluation") == [tracking.PREDICTIONS]
    assert artifacts(trained.run_id, "saliency") == ["saliency/a.png"]
    assert run_of(later).data.metrics == {}


def test_logged_predictions_come_back_as_they_were(root: Path, trained: tracking.TrainRun, tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["0012", "13"], "sha256": ["0e1", "ff"], "split": ["val", "test"]})
    table = table.assign(label=[0, 1], score=[0.1, 0.7])
    dataset.write_table(table, tmp_path / "predictions.csv")
    tracking.mirror(trained, {}, {tracking.PREDICTIONS: tmp_path / "predictions.csv"})
    pd.testing.assert_frame_equal(tracking.logged_predictions(trained.run_id), table, check_dtype=False)


def test_predictions_that_are_gone_are_an_empty_table(root: Path, trained: tracking.TrainRun) -> None:
    for run_id in (trained.run_id, "0" * 32):
        table = tracking.logged_predictions(run_id)
        assert table.empty
        assert {"sha256", "patient_id", "split", "label", "score"} <= set(table)


# --- the registry ---------------------------------------------------------------------------------------------------


def another_run(model: Any) -> tracking.TrainRun:
    with start() as run_id:
        return tracking.TrainRun(run_id, tracking.log_model(model), adopted=False)


def version_of(number: int) -> Any:
    return mlflow.MlflowClient().get_model_version("pneumonia-phantom", str(number))


def crown(number: int) -> None:
    tracking.crown("phantom", lambda tags: (number,))


def latest(tags: tracking.Registry) -> tuple[int]:
    """Of those that were not rolled back."""
    return (max(version for version in tags if "rolled_back_at" not in tags[version]),)


def test_a_model_registered_twice_has_one_version(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    assert tracking.register("phantom", trained, {"val_auc": 0.8, "weights": "none"}) == 1
    assert tracking.register("phantom", trained, {"val_auc": 0.9}) == 1
    assert tracking.register("phantom", another_run(model), {}) == 2
    assert tracking.version_tags("phantom") == {1: {"val_auc": "0.9", "weights": "none"}, 2: {}}
    assert version_of(1).run_id == trained.run_id


def test_facts_that_change_ask_for_a_new_decision_and_others_do_not(root: Path, trained: tracking.TrainRun) -> None:
    def known(facts: dict[str, Any], **origin: str) -> dict[str, str]:
        assert tracking.register("phantom", trained, facts, origin) == 1
        return tracking.version_tags("phantom")[1]

    known({"val_auc": 0.8}, git_commit="a")
    tracking.tag_version("phantom", 1, {"reason": "the first"})
    decided = {"val_auc": "0.8", "git_commit": "a", "reason": "the first"}
    assert known({"val_auc": 0.8}, git_commit="b") == decided
    assert known({"val_auc": 0.8}, dvc_experiment="muddy-toad") == decided | {"dvc_experiment": "muddy-toad"}
    assert known({"val_auc": 0.9}, git_commit="b") == {
        "val_auc": "0.9",
        "git_commit": "b",
        "dvc_experiment": "muddy-toad",
    }


def test_a_run_that_another_process_registers_at_the_same_moment_keeps_one_version(
    root: Path, trained: tracking.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server, where no lock keeps another process out: both find no version, both make one."""
    real = mlflow.register_model

    def both(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        return real(*arguments, **options)

    monkeypatch.setattr(mlflow, "register_model", both)
    assert tracking.register("phantom", trained, {"val_auc": 0.8}) == 1
    assert tracking.version_tags("phantom") == {1: {"val_auc": "0.8"}}
    assert tracking.register("phantom", trained, {"val_auc": 0.8}) == 1


def test_a_version_comes_into_being_with_its_tags(
    root: Path, trained: tracking.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set one by one afterwards, another process could see a version without them."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a tag of its own")

    monkeypatch.setattr(mlflow.MlflowClient, "set_model_version_tag", refuse)
    tracking.register("phantom", trained, {"val_auc": 0.8, "eligible": "true"})
    assert tracking.version_tags("phantom") == {1: {"val_auc": "0.8", "eligible": "true"}}


def test_the_champion_is_who_was_crowned_last(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    assert tracking.champion("phantom") is None  # no such name
    tracking.register("phantom", trained, {})
    assert tracking.champion("phantom") is None  # a name without a champion
    crown(1)
    assert tracking.champion("phantom") == tracking.Champion(1, trained.run_id)
    better = another_run(model)
    crown(tracking.register("phantom", better, {}))
    assert tracking.champion("phantom") == tracking.Champion(2, better.run_id)
    reigns = {version: tags["crowned_at"] for version, tags in tracking.version_tags("phantom").items()}
    assert reigns[1] < reigns[2]


def test_a_champion_that_stays_is_not_crowned_again(root: Path, trained: tracking.TrainRun) -> None:
    tracking.register("phantom", trained, {})
    crown(1)
    before = tracking.version_tags("phantom")
    assert tracking.crown("phantom", lambda tags: (1, "more")) == (before, (1, "more"))
    assert tracking.version_tags("phantom") == before


def test_who_has_set_the_champion_looks_again(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    """A better version that comes while the alias is being set is not overlooked."""
    tracking.register("phantom", trained, {"val_auc": 0.5})
    seen = []

    def choose(tags: tracking.Registry) -> tuple[int]:
        seen.append(sorted(tags))
        return (max(tags, key=lambda version: float(tags[version]["val_auc"])),)

    def choose_slowly(tags: tracking.Registry) -> tuple[int]:
        chosen = choose(tags)
        if len(seen) == 1:  # as a process elsewhere would, which no lock keeps out
            run = another_run(model)
            mlflow.register_model(f"models:/{run.model_id}", "pneumonia-phantom", tags={"val_auc": 0.9})
            mlflow.MlflowClient().set_registered_model_alias("pneumonia-phantom", "champion", "2")
        return chosen

    _, (champion,) = tracking.crown("phantom", choose_slowly)
    assert champion == tracking.champion("phantom").version == 2
    assert seen == [[1], [1, 2], [1, 2]]


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_tag_or_alias_that_another_process_makes_at_the_same_moment_is_set_again(
    root: Path, trained: tracking.TrainRun, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """MLflow answers the slower of the two with the broken constraint of its database, seen with twenty at once."""
    tracking.register("phantom", trained, {})
    real, failures = getattr(mlflow.MlflowClient, call), [BAD_REQUEST]

    def collide(*arguments: Any) -> None:
        if failures:
            raise MlflowException("UNIQUE constraint failed", error_code=failures.pop())
        real(*arguments)

    monkeypatch.setattr(mlflow.MlflowClient, call, collide)
    crown(1)
    assert tracking.champion("phantom").version == 1
    assert "crowned_at" in tracking.version_tags("phantom")[1]
    mlflow.MlflowClient().delete_registered_model_alias("pneumonia-phantom", "champion")
    failures.append(INTERNAL_ERROR)  # which is no collision
    with pytest.raises(MlflowException, match="UNIQUE"):
        crown(1)


def test_each_data_set_has_its_own_champion(root: Path, trained: tracking.TrainRun) -> None:
    tracking.register("phantom", trained, {})
    crown(1)
    assert tracking.champion("chest_xray") is None
    assert tracking.version_tags("chest_xray") == {}
    assert tracking.registered_name("chest_xray") != tracking.registered_name("phantom")


def test_a_registry_out_of_reach_is_not_one_without_a_champion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next candidate would be crowned unseen."""
    tracking.open_store()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_registry_uri("http://127.0.0.1:9")
    with pytest.raises(MlflowException, match="Connection refused"):
        tracking.champion("phantom")


def test_a_version_is_described_in_plain_words(root: Path, trained: tracking.TrainRun) -> None:
    tracking.register("phantom", trained, {})
    tracking.decide("phantom", 1, {"reason": "the first model of this data set"})
    assert version_of(1).description == "the first model of this data set"


def test_predictions_of_a_version_are_those_of_its_run(root: Path, trained: tracking.TrainRun, tmp_path: Path) -> None:
    tracking.register("phantom", trained, {})
    assert tracking.version_predictions("phantom", 1).empty
    (tmp_path / "predictions.csv").write_text("sha256,split,label,score\nff,val,1,0.5\n")
    tracking.mirror(trained, {}, {tracking.PREDICTIONS: tmp_path / "predictions.csv"})
    assert tracking.version_predictions("phantom", 1)["sha256"].tolist() == ["ff"]


def test_what_was_rolled_back_stays_out_when_it_is_registered_again(
    root: Path, trained: tracking.TrainRun, model: Any
) -> None:
    tracking.register("phantom", trained, {"eligible": "true"})
    tracking.register("phantom", another_run(model), {"eligible": "true"})
    crown(1)
    asked = []

    def plan(tags: tracking.Registry, champion: int, choose: Any) -> tuple[int, tuple[int, ...]]:
        asked.append((sorted(tags), champion, *choose(tags)))
        return 2, (1,)

    assert tracking.roll_back("phantom", plan, latest) == "pneumonia-phantom: version 2 is champion again"
    assert asked == [([1, 2], 1, 2)]
    assert tracking.champion("phantom").version == 2
    assert version_of(1).description == "rolled back: version 2 is champion again"
    tracking.register("phantom", trained, {"eligible": "true", "val_auc": 0.9})
    tags = tracking.version_tags("phantom")
    assert tags[1]["rolled_back_at"]
    assert tags[1].items() >= {"eligible": "true", "val_auc": "0.9", "promoted": "false"}.items()


def test_plan_tags_and_crown_of_a_rollback_are_under_one_lock(root: Path, trained: tracking.TrainRun) -> None:
    tracking.register("phantom", trained, {})
    crown(1)
    lock = FileLock(root / "mlruns" / "mlflow.db.registry.lock", timeout=0)
    held = []

    def choose(tags: tracking.Registry) -> tuple[int]:
        with pytest.raises(Timeout):
            lock.acquire()
        held.append("rolled_back_at" in tags[1])
        return (1,)

    tracking.roll_back("phantom", lambda tags, champion, choose: (*choose(tags), (1,)), choose)
    assert held == [False, True]
    with lock:
        pass


def test_a_promotion_between_reading_and_planning_is_planned_for(
    root: Path, trained: tracking.TrainRun, model: Any
) -> None:
    """As on a server, where no lock keeps another process out."""
    tracking.register("phantom", trained, {})
    tracking.register("phantom", another_run(model), {})
    crown(2)
    better, asked = another_run(model), []

    def plan(tags: tracking.Registry, champion: int, choose: Any) -> tuple[int, tuple[int, ...]]:
        asked.append((sorted(tags), champion))
        if len(asked) == 1:
            mlflow.register_model(f"models:/{better.model_id}", "pneumonia-phantom")
            mlflow.MlflowClient().set_registered_model_alias("pneumonia-phantom", "champion", "3")
        return champion - 1, (champion,)

    assert tracking.roll_back("phantom", plan, latest) == "pneumonia-phantom: version 2 is champion again"
    assert asked == [([1, 2], 2), ([1, 2, 3], 3)]
    assert [version for version, tags in tracking.version_tags("phantom").items() if "rolled_back_at" in tags] == [3]
    assert version_of(3).description == "rolled back: version 2 is champion again"


def test_who_was_promoted_during_a_rollback_is_champion_and_the_tags_say_so(
    root: Path, trained: tracking.TrainRun, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.register("phantom", trained, {})
    tracking.register("phantom", another_run(model), {})
    crown(2)
    better, real = another_run(model), tracking.crown

    def late(*arguments: Any) -> Any:
        mlflow.register_model(f"models:/{better.model_id}", "pneumonia-phantom")
        return real(*arguments)

    monkeypatch.setattr(tracking, "crown", late)
    said = "version 3 is champion, promoted in the same moment"
    assert tracking.roll_back("phantom", lambda *_: (1, (2,)), latest) == f"pneumonia-phantom: {said}"
    assert version_of(2).description == tracking.version_tags("phantom")[2]["reason"] == f"rolled back: {said}"


def test_without_an_earlier_champion_a_rollback_is_one_line(root: Path, trained: tracking.TrainRun) -> None:
    tracking.open_store()
    with pytest.raises(UserError, match=r"^pneumonia-phantom: nothing to go back to, there is no champion yet; train "):
        tracking.roll_back("phantom", lambda *_: None, latest)
    tracking.register("phantom", trained, {})
    crown(1)
    with pytest.raises(UserError, match="version 1 has no champion before it; train and promote another model"):
        tracking.roll_back("phantom", lambda *_: None, latest)


@pytest.fixture
def asked(root: Path, trained: tracking.TrainRun, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Version 1 without and version 2 with a dvc.lock; what git and DVC are asked to bring, for version 3 in vain."""
    for version in (1, 2, 3):
        mlflow.register_model(f"models:/{trained.model_id}", "pneumonia-phantom")
        tags = {"dvc_lock_digest": f"lock {version}"} if version > 1 else {}
        tracking.tag_version("phantom", version, {"model_sha256": f"model {version}", **tags})
    calls = []

    def bring_back(wanted: str, model: Path, sha256: str) -> str:
        calls.append((wanted, str(model), sha256))
        if wanted == "lock 3":
            raise restore.GoneError("no commit here")
        return "from here"

    monkeypatch.setattr(restore, "bring_back", bring_back)
    return calls


def test_a_version_is_brought_back_by_its_lock_and_checked_by_its_model(asked: list[tuple[str, ...]]) -> None:
    assert tracking.bring_back("phantom", "2", Path("m")) == "pneumonia-phantom version 2 from here"
    crown(2)
    assert tracking.bring_back("phantom", "champion", Path("m")) == "pneumonia-phantom version 2 from here"
    assert asked == [("lock 2", "m", "model 2")] * 2


@pytest.mark.parametrize("name", ["4", "champion", "", "two"])
def test_an_unknown_version_ends_in_one_line_with_those_there_are(asked: list[tuple[str, ...]], name: str) -> None:
    with pytest.raises(
        UserError, match=rf"^'{name}' is no version of pneumonia-phantom; it has 1, 2, 3 \(make restore"
    ):
        tracking.bring_back("phantom", name, Path("m"))
    with pytest.raises(UserError, match="it has none"):
        tracking.bring_back("chest_xray", name, Path("m"))
    assert asked == []


@pytest.mark.parametrize(("version", "why"), [("1", "was registered without a dvc.lock"), ("3", ": no commit here; ")])
def test_of_a_version_that_cannot_be_brought_back_the_model_is_in_mlflow(
    asked: list[tuple[str, ...]], version: str, why: str
) -> None:
    with pytest.raises(UserError, match=why) as refusal:
        tracking.bring_back("phantom", version, Path("m"))
    assert f"as models:/pneumonia-phantom/{version}" in str(refusal.value)
    assert mlflow.get_tracking_uri() in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_version_names_commit_and_lock_only_where_they_are_its_own(
    root: Path, trained: tracking.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_path = Path("models/model.keras")
    model_path.parent.mkdir()
    model_path.write_bytes(b"model")
    assert tracking.lineage(model_path) == {}

    def lock(md5: str, **more: Any) -> None:
        train = {"cmd": "python -m stages.train", "outs": [{"path": "models/model.keras", "md5": md5}]}
        Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train": train, **more}}))

    lock("0" * 32)
    assert tracking.lineage(model_path) == {}, "the entry is of another model"
    lock(hashlib.md5(b"model").hexdigest())
    found = tracking.lineage(model_path)
    assert list(found) == ["dvc_lock_digest"]
    lock(hashlib.md5(b"model").hexdigest(), promote={"cmd": "python -m stages.promote"})
    assert tracking.lineage(model_path) == found, "what ends later does not matter"
    Path("dvc.lock").write_text("schema: '2.0'\n")
    assert tracking.lineage(model_path) == {}
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-toad")
    assert tracking.lineage(model_path) == {"dvc_experiment": "muddy-toad"}


# --- many at once ---------------------------------------------------------------------------------------------------

LABELS = [0] * 20 + [1] * 20
LIMITS = {"min_common": 10, "min_gain": 0.0, "min_sensitivity": 0.8, "max_ece": 0.3}
PROMOTE_AT_ONCE = """
import multiprocessing, os, sys
from stages import promote

def work(folder, barrier):
    os.chdir(folder)
    sys.stdout = sys.stderr = open("printed", "w")
    sys.argv = ["promote"]
    barrier.wait()
    promote.main()

processes = multiprocessing.get_context("fork")  # so that they need not import one after the other
barrier = processes.Barrier(len(sys.argv) - 1)
started = [processes.Process(target=work, args=(folder, barrier)) for folder in sys.argv[1:]]
for process in started:
    process.start()
for process in started:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in started))
"""


def predictions_of(number: int, first_image: int = 0) -> pd.DataFrame:
    """Of a model that scores one pneumonia below `number` of 20 normals: AUC 1 - `number` / 400."""
    scores = np.concatenate([np.linspace(0.01, 0.2, 20), np.linspace(0.8, 0.99, 20)])
    scores[20] = scores[20 - number] - 0.001
    numbers = range(first_image, first_image + 40)
    table = pd.DataFrame({"image_id": [f"i{i}" for i in numbers], "sha256": [f"{i:064x}" for i in numbers]})
    return table.assign(patient_id=table["image_id"], split="val", label=LABELS, score=scores)


def write_settings(folder: Path, **limits: float) -> None:
    """A params.yaml for the models below, whatever an experiment has left in that of the checkout."""
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    chosen = {f"promote.{name}": value for name, value in (LIMITS | limits).items()}
    set_settings(folder / "params.yaml", {"data": "phantom", "model": "compact", "weights": "none", **chosen})


def candidate(folder: Path, predictions: pd.DataFrame) -> Path:
    """A folder with all that the stage `promote` reads, of a model that was trained in the store of this moment."""
    with start() as run_id:
        made = mlflow.MlflowClient().create_logged_model(run_of(run_id).info.experiment_id, source_run_id=run_id)
        mlflow.MlflowClient().finalize_logged_model(made.model_id, "READY")
    dataset.write_json(RECORD | {"run_id": run_id, "model_id": made.model_id}, folder / "models" / "run.json")
    (folder / "models" / "model.keras").write_bytes(b"never read")
    dataset.write_table(pd.concat([predictions, predictions.assign(split="test")]), folder / "reports/predictions.csv")
    write_reports(folder / "reports")
    figures = dataset.read_json(folder / "reports" / "metrics.json")
    dataset.write_json(figures | {"threshold": 0.2}, folder / "reports" / "metrics.json")
    write_settings(folder)
    return folder


def promote_at_once(folders: list[Path], uri: str) -> list[dict[str, Any]]:
    """One process for each folder, all let go at the same moment; what they wrote."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-W", "ignore", "-c", PROMOTE_AT_ONCE, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr + "".join((folder / "printed").read_text() for folder in folders)
    return [dataset.read_json(folder / "reports" / "promotion.json") for folder in folders]


def assert_history_is_complete(promotions: list[dict[str, Any]], aucs: list[float]) -> None:
    """Each has its own version with its figures, its reason and its finished run; the champion's reign is noted."""
    registry = tracking.version_tags("phantom")
    assert sorted(registry) == sorted(one["version"] for one in promotions) == list(range(1, len(promotions) + 1))
    for promotion, auc in zip(promotions, aucs, strict=True):
        tags, version = registry[promotion["version"]], version_of(promotion["version"])
        assert float(tags["val_auc"]) == pytest.approx(auc)
        assert tags["reason"] == version.description == promotion["reason"]
        assert promotion["promoted"] == (promotion["version"] == promotion["champion_version"])
    judged = [run for run in all_runs() if run.data.tags.get("stage") == "promote"]
    assert [run.info.status for run in judged] == ["FINISHED"] * len(promotions)
    assert "crowned_at" in registry[tracking.champion("phantom").version]


@pytest.fixture
def stage(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`stages.promote` in this process: for a model of `predictions_of(number)`, or with an option."""
    from stages import promote, run

    def call(number: int | None = None, *options: str, **limits: float) -> dict[str, Any]:
        folder = tmp_path / str(number)
        if number is not None and not folder.exists():
            candidate(folder, predictions_of(number))
        monkeypatch.chdir(root if number is None else folder)
        write_settings(Path(), **limits)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
        monkeypatch.setattr(sys, "argv", ["promote", *options])
        run(promote.main)
        return {} if number is None else dataset.read_json("reports/promotion.json")

    return call


def test_a_version_says_what_it_is_and_what_was_decided(stage: Any) -> None:
    promotion = stage(3, max_ece=0.01)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (1, 1, True)
    assert promotion["reason"].startswith("the first model of this data set, although its calibration error of 0.0795")
    assert [(gate["name"], gate["passed"]) for gate in promotion["gates"]] == [
        ("min_sensitivity", True),
        ("max_ece", False),
    ]
    assert not {"champion_auc", "p_value", "test_difference", "test_p_value"} & set(promotion)
    tags = tracking.version_tags("phantom")[1]
    said = {"model": "compact", "weights": "none", "data_digest": "da7a", "model_sha256": "5e", "synthetic": "true"}
    assert (said | {"eligible": "false", "promoted": "true", "reason": promotion["reason"]}).items() <= tags.items()
    assert tags["gate_max_ece"].startswith("failed: 0.07")
    assert version_of(1).description == promotion["reason"]

    promotion = stage(2)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (2, 2, True)
    assert promotion["test_difference"] == pytest.approx(1 / 400)
    assert {"champion_auc", "p_value", "test_p_value"} <= set(promotion)
    promotion = stage(1, max_ece=0.01)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (3, 2, False)
    assert promotion["reason"].endswith("above 0.01 (promote.max_ece); the champion stays")


def test_what_an_experiment_left_in_params_yaml_changes_no_test(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copyfile(ROOT / "params.yaml", checkout / "params.yaml")
    left = {"data": "chest_xray", "model": "shallow", "promote.max_ece": 0.0, "promote.min_sensitivity": 1.0}
    set_settings(checkout / "params.yaml", left)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", checkout)
    assert stage(3)["promoted"]
    assert tracking.version_tags("phantom")[1]["eligible"] == "true"


def test_a_first_version_that_was_deleted_is_first_for_ever(stage: Any) -> None:
    """Else the second, which fails its gates, would be taken for the first and displace the champion."""
    assert stage(3)["champion_version"] == 1
    assert not stage(1, max_ece=0.0)["promoted"]
    assert stage(2)["champion_version"] == 3
    mlflow.MlflowClient().delete_model_version("pneumonia-phantom", "1")
    again = stage(1, max_ece=0.0)
    assert (again["version"], again["champion_version"], again["promoted"]) == (2, 3, False)
    for version in (2, 3):
        mlflow.MlflowClient().delete_model_version("pneumonia-phantom", str(version))
    alone = stage(4)
    assert (alone["version"], alone["champion_version"]) == (4, 4)
    assert alone["reason"] == "the earliest model that passes its gates"


def test_asked_again_the_answer_is_the_same_unless_the_limits_changed(stage: Any) -> None:
    first, second = stage(3), stage(2, min_gain=0.1)
    assert stage(2, min_gain=0.1) == second
    assert stage(3) == first
    assert second["champion_version"] == 1
    assert stage(2)["champion_version"] == 2


def test_what_was_decided_stays_as_it_was_when_a_version_is_promoted_again(stage: Any) -> None:
    def decided(version: int) -> tuple[dict[str, str], str]:
        return tracking.version_tags("phantom")[version], version_of(version).description

    stage(3)
    stage(2)
    stage(1)
    stage(None, "--rollback")
    before = [decided(version) for version in (1, 2, 3)]
    assert [tags["reason"][:9] for tags, _ in before] == ["the first", "higher va", "rolled ba"]
    for number in (3, 2, 1):
        again = stage(number)
        assert again["champion_version"] == 2
        assert again["promoted"] == (number == 2)
    assert [decided(version) for version in (1, 2, 3)] == before
    stage(3, max_ece=0.01)
    assert decided(1)[0]["gate_max_ece"].startswith("failed: ")
    assert decided(1)[0]["reason"] == decided(1)[1]
    assert decided(1)[1].startswith("not higher: ")
    assert [decided(version) for version in (2, 3)] == before[1:]


def test_rollbacks_walk_back_and_what_was_rolled_back_stays_out(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for version, number in enumerate((4, 3, 5, 1), start=1):
        assert stage(number)["version"] == version
    capsys.readouterr()
    stage(None, "--rollback")
    assert capsys.readouterr().out == "pneumonia-phantom: version 2 is champion again\n"
    tags = tracking.version_tags("phantom")
    assert (tags[4]["eligible"], tags[4]["promoted"]) == ("true", "false")
    again = stage(1)
    assert (again["version"], again["champion_version"], again["promoted"]) == (4, 2, False)
    assert "but it was rolled back; without its tag rolled_back_at it would compete again" in again["reason"]
    stage(None, "--rollback")
    assert tracking.champion("phantom").version == 1
    with pytest.raises(
        SystemExit, match=r"^ERROR: pneumonia-phantom: nothing to go back to, version 1 has no champion"
    ):
        stage(None, "--rollback")
    assert stage(2)["champion_version"] == 5, "a better one becomes champion as ever"
    assert stage(0)["champion_version"] == 6
    stage(None, "--rollback")
    assert tracking.champion("phantom").version == 5
    mlflow.MlflowClient().delete_model_version_tag("pneumonia-phantom", "4", "rolled_back_at")
    assert stage(2)["champion_version"] == 4, "it competes again"


def test_five_promotions_at_once_into_a_file_end_with_the_best(root: Path, tmp_path: Path) -> None:
    numbers = [3, 1, 4, 0, 2]
    uri = tracking.open_store()
    folders = [candidate(tmp_path / str(number), predictions_of(number)) for number in numbers]
    promotions = promote_at_once(folders, uri)
    assert_history_is_complete(promotions, [1 - number / 400 for number in numbers])
    assert tracking.champion("phantom").version == promotions[3]["version"]


def test_promotions_at_once_on_different_images_end_as_one_after_the_other(root: Path, tmp_path: Path) -> None:
    numbers = [4, 3, 2, 1]
    uri = tracking.open_store()
    tables = [predictions_of(number, first_image=5 * (number % 2)) for number in numbers]
    folders = [candidate(tmp_path / str(number), table) for number, table in zip(numbers, tables, strict=True)]
    promotions = promote_at_once(folders, uri)
    by_version = {one["version"]: table for one, table in zip(promotions, tables, strict=True)}
    champion = 1
    for version in (2, 3, 4):
        if promote.decide(by_version[version], by_version[champion], first=False, threshold=0.2, **LIMITS).promoted:
            champion = version
    assert tracking.champion("phantom").version == champion

    def unasked(challenger: int, holder: int) -> promote.Gain:
        raise AssertionError("every comparison is a tag")

    assert promote.standing(tracking.version_tags("phantom"), unasked).champion == champion


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[str]:
    """A real MLflow server over a store in sqlite; its address."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=tmp_path,
            env=os.environ | quiet,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


@pytest.mark.slow
def test_twenty_promotions_at_once_through_a_server_end_with_the_best(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracking.open_store()
    numbers = np.random.default_rng(7).permutation(20).tolist()
    folders = [candidate(tmp_path / str(number), predictions_of(number)) for number in numbers]
    promotions = promote_at_once(folders, server)
    assert_history_is_complete(promotions, [1 - number / 400 for number in numbers])
    best = promotions[numbers.index(0)]["version"]
    assert tracking.champion("phantom").version == best
    # Each of them saw the best that there was so far.
    assert {one["champion_version"] for one in promotions if one["version"] > best} <= {best}


# --- the train run of a model ---------------------------------------------------------------------------------------


@pytest.fixture
def restored(root: Path, model: Any) -> dict[str, Any]:
    """What `dvc checkout` brings on a machine whose store never saw the training."""
    models.save_model(model, root / "models" / "model.keras")
    dataset.write_table(HISTORY, root / "reports" / "history.csv")
    return {
        "synthetic": True,
        "model_path": root / "models" / "model.keras",
        "history": root / "reports" / "history.csv",
    }


def test_a_known_run_is_found(trained: tracking.TrainRun, restored: dict[str, Any]) -> None:
    record = RECORD | {"run_id": trained.run_id, "model_id": trained.model_id}
    assert tracking.find_train_run(record) == trained
    assert tracking.train_run(record, **restored) == trained
    assert len(all_runs()) == 1


def test_an_unknown_run_is_not_found(trained: tracking.TrainRun) -> None:
    assert tracking.find_train_run(RECORD) is None


def test_an_unknown_run_is_adopted_once(restored: dict[str, Any], model: Any) -> None:
    adopted = tracking.train_run(RECORD, **restored)
    assert adopted.adopted
    assert adopted.run_id != RECORD["run_id"]
    again = tracking.train_run(RECORD, **restored)
    assert again == tracking.find_train_run(RECORD) == adopted._replace(adopted=False)
    (run,) = all_runs()
    assert (run.info.run_name, run.info.status) == ("train", "FINISHED")
    tags = {"stage": "train", "original_run_id": "0" * 32, "data_digest": "da7a", "weights": "none", "model": "compact"}
    assert (tags | {"model_id": adopted.model_id}).items() <= run.data.tags.items()


@pytest.mark.parametrize("history", [HISTORY, HISTORY.drop(columns="kept")], ids=["", "of an earlier version"])
def test_an_adopted_run_has_the_history_and_the_model(
    history: pd.DataFrame, restored: dict[str, Any], model: Any
) -> None:
    dataset.write_table(history, restored["history"])
    adopted = tracking.train_run(RECORD, **restored)
    steps = mlflow.MlflowClient().get_metric_history(adopted.run_id, "val_auc")
    assert [(one.step, one.value) for one in steps] == [(1, 0.75), (2, 0.875)]
    assert set(run_of(adopted.run_id).data.metrics) == {"epoch", "loss", "val_loss", "val_auc", "learning_rate"}
    loaded = mlflow.tensorflow.load_model(f"models:/{adopted.model_id}")
    np.testing.assert_allclose(models.predict_scores(loaded, IMAGES), models.predict_scores(model, IMAGES), atol=1e-6)


def test_a_deleted_run_is_adopted(trained: tracking.TrainRun, restored: dict[str, Any]) -> None:
    mlflow.MlflowClient().delete_run(trained.run_id)
    record = RECORD | {"run_id": trained.run_id, "model_id": trained.model_id}
    assert tracking.find_train_run(record) is None
    assert tracking.train_run(record, **restored).adopted


def test_an_adoption_that_broke_off_is_made_again(restored: dict[str, Any]) -> None:
    missing = restored | {"model_path": Path("missing.keras")}
    with pytest.raises(ValueError, match=r"missing\.keras"):
        tracking.train_run(RECORD, **missing)
    assert [run.info.status for run in all_runs()] == ["FAILED"]
    assert tracking.find_train_run(RECORD) is None
    adopted = tracking.train_run(RECORD, **restored)
    assert adopted.adopted
    assert tracking.find_train_run(RECORD) == adopted._replace(adopted=False)


# --- what a model scored, by any of its names -----------------------------------------------------------------------


def judged(predictions: pd.DataFrame, **tags: str) -> str:
    """A train run whose model was evaluated; its id."""
    with start() as run_id:
        tracking.tag(**tags)
    dataset.write_table(predictions, "predictions.csv")
    target = tracking.TrainRun(run_id, "no model", adopted=False)
    tracking.mirror(target, {}, {tracking.PREDICTIONS: Path("predictions.csv")})
    return run_id


def versions_of(*run_ids: str) -> None:
    """Registered versions 1, 2, ... of the data set phantom."""
    mlflow.MlflowClient().create_registered_model("pneumonia-phantom")
    for run_id in run_ids:
        mlflow.MlflowClient().create_model_version("pneumonia-phantom", "", run_id=run_id, tags={"model": "compact"})


def test_a_model_is_found_by_run_by_version_and_as_champion(root: Path) -> None:
    first, second = judged(predictions_of(1)), judged(predictions_of(2))
    versions_of(first, second)
    mlflow.MlflowClient().set_registered_model_alias("pneumonia-phantom", "champion", "2")
    for name, run_id, table, title in (
        (first, first, predictions_of(1), f"train run {first[:8]} (compact on phantom)"),
        ("1", first, predictions_of(1), "pneumonia-phantom version 1 (compact)"),
        ("2", second, predictions_of(2), "pneumonia-phantom version 2 (compact)"),
        ("champion", second, predictions_of(2), "pneumonia-phantom version 2 (compact, champion)"),
    ):
        found = tracking.scored(name, "phantom")
        assert (found.run_id, found.title) == (run_id, title)
        pd.testing.assert_frame_equal(found.predictions, table)


@pytest.mark.parametrize("name", ["3", "champion", "0" * 32, "it's; \n", "../etc", "0", "9" * 40])
def test_a_name_that_nothing_has_ends_in_one_line_that_says_what_there_is(root: Path, name: str) -> None:
    with pytest.raises(UserError) as refusal:
        tracking.scored(name, "phantom")
    said = str(refusal.value)
    assert "(it has none)" in said
    assert "\n" not in said
    assert "make ui lists versions and runs, dvc exp show lists experiments" in said
    versions_of(judged(predictions_of(1)), judged(predictions_of(2)))
    with pytest.raises(UserError, match=r"no version of pneumonia-phantom \(it has 1, 2\)"):
        tracking.scored(name, "phantom")


def test_a_version_is_one_of_the_chosen_data_set(root: Path) -> None:
    versions_of(judged(predictions_of(1)))
    with pytest.raises(UserError, match=r"no version of pneumonia-chest_xray \(it has none\)"):
        tracking.scored("1", "chest_xray")


def test_a_run_without_scores_ends_in_one_line(root: Path) -> None:
    with start("evaluate") as run_id:
        pass
    with pytest.raises(
        UserError, match=rf"is evaluate run {run_id[:8]} \(compact on phantom\), which has no {tracking.PREDICTIONS}"
    ):
        tracking.scored(run_id, "phantom")


@pytest.fixture
def experiment(root: Path) -> None:
    """`muddy-toad` is an experiment of DVC; its train run is not in this store."""
    record = json.dumps(RECORD | {"run_id": "1" * 32, "model": "shallow"})
    command = f"cp made.csv reports/predictions.csv && echo '{record}' > models/run.json"
    outs = ["reports/predictions.csv", "models/run.json"]
    stage = {"cmd": command, "deps": ["made.csv"], "params": ["seed"], "outs": outs}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"all": stage}}))
    (root / "params.yaml").write_text("seed: 1\n")
    (root / ".gitignore").write_text("/mlruns/\n")
    dataset.write_table(predictions_of(3), root / "made.csv")
    names = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for line in (
        ("git", "init", "--quiet"),
        (sys.executable, "-m", "dvc", "init", "--quiet"),
        ("git", "add", "."),
        ("git", "commit", "--quiet", "-m", "first"),
        (sys.executable, "-m", "dvc", "exp", "run", "--quiet", "--name", "muddy-toad", "-S", "seed=2"),
    ):
        subprocess.run(line, check=True, env=os.environ | names | {"DVC_NO_ANALYTICS": "1"}, timeout=300)
    shutil.rmtree(root / "reports")


def test_an_experiment_that_made_no_run_has_its_scores_from_dvc(root: Path, experiment: None) -> None:
    judged(predictions_of(9), dvc_experiment="muddy-toad")  # from before it was run anew under the same name
    found = tracking.scored("muddy-toad", "phantom")
    assert (found.title, found.run_id) == ("experiment muddy-toad (shallow on phantom)", "1" * 32)
    pd.testing.assert_frame_equal(found.predictions, predictions_of(3))


def test_a_revision_without_scores_is_no_experiment(root: Path, experiment: None) -> None:
    with pytest.raises(UserError, match="no DVC experiment with predictions in DVC's cache"):
        tracking.scored("HEAD", "phantom")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(UserError, match="no DVC experiment with predictions in DVC's cache"):
        tracking.scored("muddy-toad", "phantom")


def test_an_experiment_that_dvc_has_forgotten_is_found_by_the_tag_of_its_run(root: Path) -> None:
    judged(predictions_of(1), dvc_experiment="other-owl")
    run_id = judged(predictions_of(2), dvc_experiment="muddy-toad")
    found = tracking.scored("muddy-toad", "phantom")
    assert found.run_id == run_id
    pd.testing.assert_frame_equal(found.predictions, predictions_of(2))
