"""What several test files of this folder share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.entities import Run

from pneumonia import workspace
from pneumonia.data import tables
from pneumonia.images.geometry import Preparation
from pneumonia.models import runtime, scoring
from pneumonia.models.predictor import Predictor
from pneumonia.tracking import registry, runs
from tests import predictors
from tests.conftest import set_settings
from tests.report.test_card import write_reports

ROOT = Path(__file__).resolve().parents[2]

MODEL = b"never read"
RECORD = {
    "run_id": "0" * 32,
    "model_id": "m-0",
    "model_sha256": workspace.sha256_bytes(MODEL),
    "weights": "none",
    "data": "phantom",
    "model": "compact",
    "data_digest": "da7a",
    "preparation": Preparation(size=64).as_dict(),
}


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
    return runs.start_run(stage, **options)


def run_of(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def all_runs() -> list[Run]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


@pytest.fixture(autouse=True)
def empty_versions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Versions of the registry contain nothing, which takes a tenth of the time; `real_versions` undoes it."""

    def log_nothing(run: runs.TrainRun, folder: Path, model_id: str | None = None) -> str:
        return model_id or empty_model(run.run_id)

    if "real_versions" not in request.fixturenames:
        monkeypatch.setattr(runs, "log_predictor", log_nothing)
        monkeypatch.setattr(registry, "_missing_files", lambda *_: (False, False))


@pytest.fixture
def real_versions() -> None:
    """Versions contain their predictor."""


def empty_model(run_id: str) -> str:
    """The id of a LoggedModel without files."""
    made = mlflow.MlflowClient().create_logged_model(run_of(run_id).info.experiment_id, source_run_id=run_id)
    mlflow.MlflowClient().finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


@pytest.fixture
def answering(tmp_path: Path) -> Predictor:
    return Predictor(predictors.write(tmp_path / "predictor", data="phantom", synthetic=True))


@pytest.fixture(scope="module")
def model() -> Any:
    runtime.start_keras(1)
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="toy")


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the model, as `train` writes it."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    scoring.save_model(model, path)
    return path


@pytest.fixture
def trained(root: Path, model: Any, saved: Path) -> runs.TrainRun:
    with start() as run_id:
        model_id = runs.log_model(model, saved)
    return runs.TrainRun(run_id, model_id, adopted=False)


LABELS = [0] * 20 + [1] * 20
LIMITS = {"min_common": 10, "min_gain": 0.0, "confidence": None, "min_sensitivity": 0.8, "max_ece": 0.3}


def predictions_of(number: int, first_image: int = 0) -> pd.DataFrame:
    """Of a model that scores one pneumonia below `number` of 20 normals: AUC 1 - `number` / 400."""
    scores = np.concatenate([np.linspace(0.01, 0.2, 20), np.linspace(0.8, 0.99, 20)])
    scores[20] = scores[20 - number] - 0.001
    numbers = range(first_image, first_image + 40)
    table = pd.DataFrame({"image_id": [f"i{i}" for i in numbers], "sha256": [f"{i:064x}" for i in numbers]})
    return table.assign(patient_id=table["image_id"], split="val", label=LABELS, score=scores)


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Those on validation, and the same on test."""
    test = predictions.assign(split="test", image_id="test-" + predictions["image_id"])
    tables.write_table(pd.concat([predictions, test]), path)


def write_settings(folder: Path, target: str = "pneumonia", **limits: float) -> None:
    """A params.yaml for the models below, whatever an experiment has left in that of the checkout."""
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    chosen = {f"promote.{name}": value for name, value in (LIMITS | limits).items()}
    selected = {"data": "phantom", "model": "compact", "weights": "none", "target": target}
    set_settings(folder / "params.yaml", selected | chosen)


def candidate(folder: Path, predictions: pd.DataFrame, run_id: str | None = None) -> Path:
    """A folder with all that the stage `promote` reads, of a model that was trained in the store of this moment.

    Args:
        folder: to write to.
        predictions: of the model on validation; those on test are the same.
        run_id: of its train run; None = a new one.
    """
    if run_id is None:
        with start() as run_id:
            pass
    model_id = empty_model(run_id)
    tables.write_json(RECORD | {"run_id": run_id, "model_id": model_id}, folder / "models" / "run.json")
    predictors.write(folder / "models" / "predictor", data="phantom", synthetic=True)
    (folder / "models" / "model.keras").write_bytes(MODEL)
    write_predictions(predictions, folder / "reports/predictions.csv")
    write_reports(folder / "reports")
    figures = tables.read_json(folder / "reports" / "metrics.json")
    tables.write_json(figures | {"threshold": 0.2}, folder / "reports" / "metrics.json")
    write_settings(folder)
    return folder


@pytest.fixture
def stage(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`stages.promote` in this process for a model of `predictions_of(number)`, or a command of the command line."""
    from pneumonia import cli
    from stages import promote, run

    def call(number: int | None = None, *options: str, **limits: float) -> dict[str, Any]:
        folder = tmp_path / str(number)
        if number is not None and not folder.exists():
            candidate(folder, predictions_of(number))
        monkeypatch.chdir(root if number is None else folder)
        write_settings(Path(), **limits)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
        if number is None:
            done = CliRunner().invoke(cli.main, options)
            print(done.output, end="")
            assert done.exit_code in (0, 1), done.output
            return {}
        run(promote.main)
        return dict(tables.read_json("reports/promotion.json"))

    return call
