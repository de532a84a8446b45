"""A real MLflow store in sqlite, made once and copied for each test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from mlflow.entities import LoggedModelStatus, Run
from mlflow.exceptions import MlflowException

from pneumonia import UserError, dataset, models, tracking

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
)
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
        assert {"sha256", "split", "label", "score"} <= set(table)


# --- the registry ---------------------------------------------------------------------------------------------------


def another_run(model: Any) -> tracking.TrainRun:
    with start() as run_id:
        return tracking.TrainRun(run_id, tracking.log_model(model), adopted=False)


def test_a_model_registered_twice_has_one_version(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    assert tracking.register("phantom", trained, {"val_auc": 0.8, "weights": "none"}) == "1"
    assert tracking.register("phantom", trained, {"val_auc": 0.9}) == "1"
    assert tracking.register("phantom", another_run(model), {}) == "2"
    versions = mlflow.MlflowClient().search_model_versions("name = 'pneumonia-phantom'")
    assert sorted(one.version for one in versions) in ([1, 2], ["1", "2"])
    first = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1")
    assert first.tags == {"val_auc": "0.9", "weights": "none"}
    assert first.run_id == trained.run_id


def test_the_champion_is_who_was_crowned_last(root: Path, trained: tracking.TrainRun, model: Any) -> None:
    assert tracking.champion("phantom") is None  # no such name
    tracking.register("phantom", trained, {})
    assert tracking.champion("phantom") is None  # a name without a champion
    tracking.crown("phantom", "1")
    assert tracking.champion("phantom") == tracking.Champion("1", trained.run_id)
    better = another_run(model)
    tracking.crown("phantom", tracking.register("phantom", better, {}))
    assert tracking.champion("phantom") == tracking.Champion("2", better.run_id)


def test_each_data_set_has_its_own_champion(root: Path, trained: tracking.TrainRun) -> None:
    tracking.crown("phantom", tracking.register("phantom", trained, {}))
    assert tracking.champion("chest_xray") is None
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
    tracking.describe("phantom", "1", "the first model of this data set")
    version = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1")
    assert version.description == "the first model of this data set"


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


def test_an_adopted_run_has_the_history_and_the_model(restored: dict[str, Any], model: Any) -> None:
    adopted = tracking.train_run(RECORD, **restored)
    steps = mlflow.MlflowClient().get_metric_history(adopted.run_id, "val_auc")
    assert [(one.step, one.value) for one in steps] == [(1, 0.75), (2, 0.875)]
    assert {"loss", "val_loss", "learning_rate"} <= set(run_of(adopted.run_id).data.metrics)
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
