"""A store that the commit 4b4c3eb wrote, before tags had a prefix and metrics a slash: all commands go on with it."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pneumonia import promote
from pneumonia.models.predictor import Predictor
from pneumonia.tracking import registry, restore, runs
from tests import predictors
from tests.tracking.conftest import RECORD, ROOT, candidate, predictions_of, run_of, write_predictions

NUMBERS = {"c": 4, "b": 2, "a": 1, "d": 6}
"""Run of the store, in the order of the versions 1 to 4 -> number of its `predictions_of`."""


@pytest.fixture
def earlier(root: Path, tmp_path: Path) -> Predictor:
    """The store of `root` has four versions: 2 is champion, 3 was rolled back. Their predictor."""
    predictor = Predictor(predictors.write(tmp_path / "of_versions", data="phantom", synthetic=True))
    text = (ROOT / "tests" / "tracking" / "before.sql").read_text()
    # Other versions of ONNX write other bytes.
    text = re.sub("'predictor_digest', '[0-9a-f]+'", f"'predictor_digest', '{predictor.digest}'", text)
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as database:
        database.executescript(text.replace("{root}", str(root)))
        models = database.execute("SELECT storage_location FROM model_versions").fetchall()
    for name, number in NUMBERS.items():
        logged = root / "mlruns" / "artifacts" / (name * 32) / "artifacts" / runs.PREDICTIONS
        write_predictions(predictions_of(number), logged)
    for (location,) in models:
        shutil.copytree(predictor.folder, Path(location.removeprefix("file://")) / registry.PREDICTOR_FILES)
    runs.open_store()
    return predictor


def champion() -> int:
    holder = registry.champion("phantom")
    assert holder
    return holder.version


def test_its_versions_are_listed_and_named(earlier: Predictor) -> None:
    table = registry.versions("phantom")
    assert table["version"].tolist() == [4, 3, 2, 1]
    assert table["alias"].tolist() == ["", "", "champion", ""]
    assert table["val_auc"].tolist() == ["0.9850", "0.9975", "0.9950", "0.9900"]
    assert set(table["test_auc"]) == {"0.8940"}
    assert set(table["test_split"]) == {"drawn, official left out"}
    assert table["why"][1] == "rolled back: version 2 is champion again"
    assert registry.scored("champion", "phantom").title == "pneumonia-phantom version 2 (compact, champion)"
    assert len(registry.scored("1", "phantom").predictions) == 80
    assert runs.was_evaluated("b" * 32)


def test_its_champion_is_compared_with_new_models(earlier: Predictor, stage: Any) -> None:
    worse = stage(3)
    assert (worse["version"], worse["champion_version"], worse["promoted"]) == (5, 2, False)
    assert worse["champion_auc"] == 0.995
    best = stage(0)
    assert (best["version"], best["champion_version"], best["promoted"]) == (6, 6, True)
    assert registry.roll_back("phantom", promote.rollback, registry.by_evidence("phantom")).endswith(
        "version 2 is champion again"
    )


@pytest.mark.slow
def test_a_version_of_it_that_is_promoted_again_keeps_its_decision(
    earlier: Predictor, stage: Any, tmp_path: Path
) -> None:
    before = registry.version_tags("phantom")[2]
    candidate(tmp_path / "2", predictions_of(2), run_id="b" * 32)
    again = stage(2)
    assert (again["version"], again["champion_version"]) == (2, 2)
    after = registry.version_tags("phantom")[2]
    assert {name: after[name] for name in before} == before
    assert run_of("b" * 32).info.run_name == "compact · phantom · val AUC 0.902"
    stage(2, max_ece=0.01)
    stored = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "2").tags
    assert (stored["eligible"], stored["registry.eligible"]) == ("true", "false")
    assert registry.version_tags("phantom")[2]["eligible"] == "false", "the later one counts"
    assert registry.version_tags("phantom")[2]["reason"] != before["reason"]


@pytest.mark.slow
def test_a_version_that_it_has_rolled_back_stays_out_until_its_tag_is_removed(
    earlier: Predictor, stage: Any, tmp_path: Path
) -> None:
    candidate(tmp_path / "1", predictions_of(1), run_id="a" * 32)
    assert stage(1)["champion_version"] == 2
    mlflow.MlflowClient().delete_model_version_tag("pneumonia-phantom", "3", "rolled_back_at")
    assert stage(1)["champion_version"] == 3


def test_its_champion_can_be_rolled_back(earlier: Predictor) -> None:
    choose = registry.by_evidence("phantom")
    assert registry.roll_back("phantom", promote.rollback, choose) == "pneumonia-phantom: version 1 is champion again"
    assert champion() == 1
    assert "rolled_back_at" in registry.version_tags("phantom")[2]


def test_its_versions_answer(earlier: Predictor, tmp_path: Path) -> None:
    for name in ("models:/pneumonia-phantom@champion", "models:/pneumonia-phantom/2"):
        folder, number, run_id = registry.predictor(name, tmp_path / "cache")
        assert (number, run_id) == ("2", "b" * 32)
        assert Predictor(folder).digest == earlier.digest
    assert registry.is_registered("phantom", RECORD | {"run_id": "b" * 32}, earlier)


def test_its_versions_are_restored(earlier: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.MlflowClient().set_model_version_tag("pneumonia-phantom", "2", "dvc_lock_digest", "lock")
    monkeypatch.setattr(restore, "restore_files", lambda *arguments: f"from {arguments}")
    text = registry.restore_version("phantom", "champion", Path("m"))
    assert text == f"pneumonia-phantom version 2 from ('lock', {Path('m')!r}, '{RECORD['model_sha256']}')"
