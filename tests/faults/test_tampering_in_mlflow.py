"""Files of the MLflow store, and those that a registration reads, that were changed behind the back of this project."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from pneumonia import workspace
from pneumonia.data import tables
from pneumonia.models.predictor import Predictor
from pneumonia.tracking import registry, runs
from tests.test_cli import pneumonia
from tests.tracking import conftest as tracking

# Fixtures of a store with models in it.
no_store, root, stage = tracking.no_store, tracking.root, tracking.stage
empty_versions, real_versions, answering = tracking.empty_versions, tracking.real_versions, tracking.answering

pytestmark = [pytest.mark.slow, pytest.mark.fault(kind="tampering")]

Change = Callable[[Path], Any]
UNNOTICED = "used without a word"


def row(change: Any, injected: str, before: str) -> Any:
    return pytest.param(change, marks=pytest.mark.fault(injected=injected, before=before), id=injected)


def edit_table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda path: tables.write_table(change(tables.read_table(path)), path)


def logged(version: int) -> Path:
    """The predictions of a version in the store."""
    run_id = mlflow.MlflowClient().get_model_version("pneumonia-phantom", str(version)).run_id
    return Path(runs.artifact_place(str(run_id))) / runs.PREDICTIONS


CHANGES = [
    row(edit_table(lambda table: table.iloc[1:]), "champion's predictions: a row removed", UNNOTICED),
    row(edit_table(lambda table: pd.concat([table, table[:1]])), "champion's predictions: a row duplicated", UNNOTICED),
    row(
        edit_table(lambda table: table.assign(score=0.5 + 0.4 * (table["label"] - 0.5))),
        "champion's predictions: perfect scores",
        UNNOTICED,
    ),
    row(edit_table(lambda table: table.assign(label=1 - table["label"])), "champion's predictions: labels", UNNOTICED),
    row(edit_table(lambda table: table[::-1]), "champion's predictions: another order", UNNOTICED),
    row(
        edit_table(lambda table: table.assign(score="high")),
        "champion's predictions: text instead of scores",
        "a traceback",
    ),
    row(edit_table(lambda table: table.drop(columns="score")), "champion's predictions: no scores", "a traceback"),
    row(lambda path: path.write_bytes(b""), "champion's predictions: an empty file", "a traceback"),
]


@pytest.mark.fault(where="promote, another candidate", now="one line with both remedies; nothing is registered")
@pytest.mark.parametrize("change", CHANGES)
def test_no_model_is_compared_with_predictions_that_were_changed(stage: Any, change: Change) -> None:
    stage(3)
    change(logged(1))
    before = registry.version_tags("phantom")
    with pytest.raises(SystemExit) as refusal:
        stage(2)
    said = str(refusal.value)
    assert said.startswith("ERROR: evaluation/predictions.csv of run ")
    assert said.endswith("put that back, or leave its version out: pneumonia register --without-champion")
    assert "\n" not in said
    assert registry.version_tags("phantom") == before
    assert pneumonia("register", expect=1) == said.replace("ERROR", "Error")


@pytest.mark.fault(
    where="register --without-champion",
    injected="champion's predictions: a row removed",
    before=UNNOTICED,
    now="the champion is left out, and the reason says it",
)
def test_a_champion_whose_predictions_were_changed_can_be_left_out(stage: Any) -> None:
    stage(3)
    edit_table(lambda table: table.iloc[1:])(logged(1))
    with pytest.raises(SystemExit):
        stage(4)
    assert "without champion version 1, whose predictions are lost" in pneumonia("register", "--without-champion")
    assert stage(3)["champion_version"] == 1, "its predictions are logged again"


@pytest.mark.fault(
    where="compare", injected="predictions of a version: a row removed", before=UNNOTICED, now="one line"
)
def test_predictions_that_were_changed_are_not_compared(stage: Any) -> None:
    for number in (3, 2):
        stage(number)
    edit_table(lambda table: table.iloc[1:])(logged(2))
    assert "is not the file that was logged" in pneumonia("compare", "1", "2", expect=1)
    assert not Path("reports/compare.html").exists()


@pytest.mark.fault(
    where="promote, another candidate",
    injected="nothing, a store of an earlier version: no digest",
    before="as now",
    now="compared",
)
def test_predictions_of_an_earlier_version_have_no_digest_and_are_compared(stage: Any) -> None:
    stage(3)
    (run,) = [one for one in tracking.all_runs() if runs.PREDICTIONS_DIGEST in one.data.tags]
    assert run.data.tags[runs.PREDICTIONS_DIGEST] == workspace.sha256_file(logged(1))
    mlflow.MlflowClient().delete_tag(run.info.run_id, runs.PREDICTIONS_DIGEST)
    assert stage(2)["reason"].startswith("higher validation AUC")


def use_another_model(folder: Path) -> None:
    (folder / "models" / "model.keras").write_bytes(b"of another training")


def use_another_predictor(folder: Path) -> None:
    path = folder / "models" / "predictor" / "predictor.json"
    facts = json.loads(path.read_text())
    facts["digests"]["model_sha256"] = "6f" * 32
    path.write_text(json.dumps(facts))


def use_another_table(folder: Path) -> None:
    edit_table(lambda table: pd.concat([table, table[:1]]))(folder / "reports" / "predictions.csv")


@pytest.mark.fault(where="promote and register", now="one line; nothing is registered")
@pytest.mark.parametrize(
    "change",
    [
        row(use_another_model, "model.keras of another training", "registered under the SHA of the original"),
        row(use_another_predictor, "predictor of another model", UNNOTICED),
        row(use_another_table, "predictions.csv with a row twice, no dvc.lock", UNNOTICED),
    ],
)
def test_what_does_not_belong_together_is_not_registered(stage: Any, change: Change, tmp_path: Path) -> None:
    stage(3)
    folder = tracking.candidate(tmp_path / "2", tracking.predictions_of(2))
    change(folder)
    before = registry.version_tags("phantom")
    with pytest.raises(SystemExit) as refusal:
        stage(2)
    assert str(refusal.value).startswith("ERROR: models/") or "predictions.csv has 1 rows" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert registry.version_tags("phantom") == before
    assert "Error: " in pneumonia("register", expect=1)
    assert registry.version_tags("phantom") == before


def edit_facts(folder: Path) -> None:
    facts = json.loads((folder / "predictor.json").read_text())
    facts["operating_points"]["youden"]["threshold"] = 0.1
    (folder / "predictor.json").write_text(json.dumps(facts))


@pytest.mark.usefixtures("real_versions")
@pytest.mark.fault(where="predict, .resume/predictors", now="copied again from the store")
@pytest.mark.parametrize(
    "change",
    [
        row(edit_facts, "copied predictor: another threshold", UNNOTICED),
        row(lambda folder: (folder / "model.onnx").write_bytes(b"x"), "copied predictor: another network", "one line"),
        row(lambda folder: (folder / "model.onnx").unlink(), "copied predictor: no network", "one line"),
        row(
            lambda folder: (folder / "predictor.json").write_text("{"), "copied predictor: half of the JSON", "one line"
        ),
    ],
)
def test_a_copied_predictor_that_was_changed_is_copied_again(
    answering: Predictor, root: Path, tmp_path: Path, change: Change
) -> None:
    with tracking.start() as run_id:
        run = runs.TrainRun(run_id, "m-0", adopted=False)
    registry.register("phantom", run, answering, {})
    uri, cache = "models:/pneumonia-phantom/1", tmp_path / "cache"
    folder, *_ = registry.predictor(uri, cache)
    change(folder)
    again, *_ = registry.predictor(uri, cache)
    assert again == folder
    assert Predictor(again).digest == answering.digest
