"""Versions, champions, rollbacks, and models by name."""

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from pneumonia import UserError, promote
from pneumonia.data import tables
from pneumonia.images import geometry, lungs
from pneumonia.images.geometry import Preparation
from pneumonia.models.predictor import LUNGS, MAPS, Predictor
from pneumonia.tracking import registry, restore, runs
from stages import promote as promote_stage
from tests import predictors
from tests.conftest import png, set_settings
from tests.test_pipeline import import_closure
from tests.tracking.conftest import (
    LIMITS,
    RECORD,
    ROOT,
    all_runs,
    candidate,
    empty_model,
    predictions_of,
    run_of,
    start,
    write_predictions,
    write_settings,
)


def test_a_failing_stage_leaves_a_failed_run(root: Path) -> None:
    def stage() -> None:
        with start():
            raise UserError("no good")

    with pytest.raises(UserError, match="no good"):
        stage()
    assert [run.info.status for run in all_runs()] == ["FAILED"]


def test_runs_of_one_data_set_share_an_experiment_with_its_own_artifacts(root: Path) -> None:
    ids = {}
    for stage, data in (("train", "phantom"), ("evaluate", "phantom"), ("train", "chest_xray")):
        with start(stage, data=data) as run_id:
            ids[stage, data] = run_of(run_id).info.experiment_id
    assert ids["train", "phantom"] == ids["evaluate", "phantom"] != ids["train", "chest_xray"]
    assert mlflow.get_experiment_by_name("pneumonia-chest_xray").artifact_location == f"file://{root}/mlruns/artifacts"


def another_run(model: Any, saved: Path) -> runs.TrainRun:
    with start() as run_id:
        return runs.TrainRun(run_id, runs.log_model(model, saved), adopted=False)


def test_the_store_has_the_very_file_of_the_network(trained: runs.TrainRun, saved: Path, tmp_path: Path) -> None:
    """Else a saliency map of a registered version would be refused: its digest is that of the file."""
    mlflow.MlflowClient().set_tag(trained.run_id, "model_id", trained.model_id)  # as `train` does
    assert registry.network(trained.run_id, tmp_path).read_bytes() == saved.read_bytes()
    assert mlflow.tensorflow.load_model(f"models:/{trained.model_id}").name == "toy"


def version_of(number: int) -> Any:
    return mlflow.MlflowClient().get_model_version("pneumonia-phantom", str(number))


def tags_of(number: int) -> dict[str, str]:
    """The tags of a version, without the digest of its predictor."""
    return {name: value for name, value in registry.version_tags("phantom")[number].items() if "digest" not in name}


def crown(number: int) -> None:
    registry.set_champion("phantom", lambda tags: (number,))


def latest(tags: registry.Registry) -> tuple[int]:
    """Of those that were not rolled back."""
    return (max(version for version in tags if "rolled_back_at" not in tags[version]),)


def test_a_model_registered_twice_has_one_version(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path
) -> None:
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8, "weights": "none"}) == 1
    assert registry.register("phantom", trained, answering, {"val_auc": 0.9}) == 1
    assert registry.register("phantom", another_run(model, saved), answering, {}) == 2
    assert tags_of(1) == {"val_auc": "0.9", "weights": "none"}
    assert tags_of(2) == {}
    assert version_of(1).run_id == trained.run_id


def test_facts_that_change_ask_for_a_new_decision_and_others_do_not(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    def known(facts: dict[str, Any], **origin: str) -> dict[str, str]:
        assert registry.register("phantom", trained, answering, facts, origin) == 1
        return tags_of(1)

    known({"val_auc": 0.8}, test_split="drawn")
    registry.tag_version("phantom", 1, {"reason": "the first"})
    decided = {"val_auc": "0.8", "test_split": "drawn", "reason": "the first"}
    assert known({"val_auc": 0.8}, test_split="official") == decided
    assert known({"val_auc": 0.8}, target="bacteria") == decided | {"target": "bacteria"}
    assert known({"val_auc": 0.8, "limit": 3}, test_split="official") == {
        "val_auc": "0.8",
        "test_split": "official",
        "target": "bacteria",
    }, "a fact that is no tag has changed"


def test_a_confidence_that_is_off_asks_for_no_new_decision_on_versions_that_lack_it(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    """Such as those of 0.2.0, with the digest of their facts, and of 0.1.0, without."""
    known, off, on = {"val_auc": 0.8}, {"val_auc": 0.8, "confidence": 0}, {"val_auc": 0.8, "confidence": 0.95}
    registry.register("phantom", trained, answering, known)
    registry.tag_version("phantom", 1, {"reason": "the first"})
    registry.register("phantom", trained, answering, off)
    assert tags_of(1)["reason"] == "the first"
    registry.remove_tag("phantom", 1, "facts_digest")
    registry.register("phantom", trained, answering, off)
    assert tags_of(1)["reason"] == "the first"
    for facts in (on, off):
        registry.tag_version("phantom", 1, {"reason": "decided"})
        registry.register("phantom", trained, answering, facts)
        assert "reason" not in tags_of(1)
        assert tags_of(1)["confidence"] == str(facts["confidence"])


def test_a_tag_confidence_of_a_person_is_none_of_the_registry(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    registry.register("phantom", trained, answering, {"val_auc": 0.8, "confidence": 0.9})
    mlflow.MlflowClient().set_model_version_tag("pneumonia-phantom", "1", "confidence", "high")
    assert promote.confidence_of(registry.version_tags("phantom")[1]) == 0.9
    mlflow.MlflowClient().delete_model_version_tag("pneumonia-phantom", "1", "registry.confidence")
    assert promote.confidence_of(registry.version_tags("phantom")[1]) == 0


def test_a_run_that_another_process_registers_at_the_same_moment_keeps_one_version(
    answering: Predictor, root: Path, trained: runs.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server, where no lock keeps another process out: both find no version, both make one."""
    real = mlflow.register_model

    def both(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        return real(*arguments, **options)

    monkeypatch.setattr(mlflow, "register_model", both)
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8}) == 1
    assert list(registry.version_tags("phantom")) == [1]
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8}) == 1


def test_a_version_comes_into_being_with_its_tags(
    answering: Predictor, root: Path, trained: runs.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set one by one afterwards, another process could see a version without them."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a tag of its own")

    monkeypatch.setattr(mlflow.MlflowClient, "set_model_version_tag", refuse)
    registry.register("phantom", trained, answering, {"val_auc": 0.8, "eligible": "true"})
    assert tags_of(1) == {"val_auc": "0.8", "eligible": "true"}


# --- several predictors of one train run ---


def other(tmp_path: Path, caution: str) -> Predictor:
    return Predictor(predictors.write(tmp_path / caution, data="phantom", caution=caution))


def test_another_predictor_of_a_run_is_another_version_and_the_same_is_not(
    answering: Predictor, root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    again = other(tmp_path, "again")
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8}) == 1
    assert registry.register("phantom", trained, again, {"val_auc": 0.8}) == 2
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8}) == 1
    assert registry.register("phantom", trained, again, {"val_auc": 0.8}) == 2
    assert registry.version_tags("phantom")[2]["same_run_as"] == "1"


def test_another_predictor_of_the_champion_takes_over_the_alias_without_a_contest(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path, tmp_path: Path
) -> None:
    choose = registry.by_evidence("phantom")
    facts = {"val_auc": 0.8, "val_digest": "v", "val_smaller": 20}
    registry.register("phantom", trained, answering, facts)
    registry.register("phantom", another_run(model, saved), answering, facts | {"val_auc": 0.7})
    registry.set_champion("phantom", choose)
    assert registry.champion("phantom").version == 1
    registry.register("phantom", trained, other(tmp_path, "again"), facts)
    registry.set_champion("phantom", choose)
    assert registry.champion("phantom").version == 3
    registry.register("phantom", another_run(model, saved), answering, facts | {"val_auc": 0.9})
    registry.set_champion("phantom", choose)
    assert registry.champion("phantom").version == 4
    assert registry.roll_back("phantom", promote.rollback, choose) == "pneumonia-phantom: version 3 is champion again"


def test_another_predictor_of_a_run_that_was_rolled_back_stays_out(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path, tmp_path: Path
) -> None:
    choose = registry.by_evidence("phantom")
    facts = {"val_digest": "v", "val_smaller": 20}
    registry.register("phantom", trained, answering, facts | {"val_auc": 0.7})
    registry.set_champion("phantom", choose)
    better = another_run(model, saved)
    registry.register("phantom", better, answering, facts | {"val_auc": 0.8})
    registry.set_champion("phantom", choose)
    registry.roll_back("phantom", promote.rollback, choose)
    registry.register("phantom", better, other(tmp_path, "again"), facts | {"val_auc": 0.8})
    registry.set_champion("phantom", choose)
    assert registry.champion("phantom").version == 1


def unlogged_run() -> runs.TrainRun:
    """A train run without a network."""
    with start() as run_id:
        return runs.TrainRun(run_id, "m-0", adopted=False)


FACTS = {"val_auc": 0.8, "val_digest": "v", "val_smaller": 20, "eligible": "true"}


def promoted(run: runs.TrainRun, predictor: Predictor, **changes: Any) -> tuple[int, int]:
    """The version of a predictor, and the champion after its registration."""
    version = registry.register("phantom", run, predictor, FACTS | changes)
    registry.set_champion("phantom", registry.by_evidence("phantom"))
    return version, registry.champion("phantom").version


def delete(version: int) -> None:
    mlflow.MlflowClient().delete_model_version("pneumonia-phantom", str(version))


def test_an_earlier_predictor_that_is_registered_again_is_in_use(
    answering: Predictor, root: Path, tmp_path: Path
) -> None:
    run, again = unlogged_run(), other(tmp_path, "again")
    record = RECORD | {"run_id": run.run_id}
    tables.write_table(predictions_of(1), tmp_path / "predictions.csv")
    runs.mirror(run, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})

    def in_use() -> list[bool]:
        return [registry.is_registered("phantom", record, one) for one in (answering, again)]

    assert promoted(run, answering) == (1, 1)
    assert in_use() == [True, False]
    assert promoted(run, again) == (2, 2)
    assert in_use() == [False, True]
    assert promoted(run, answering) == (1, 1)
    assert in_use() == [True, False]
    before = registry.version_tags("phantom")
    assert promoted(run, answering) == (1, 1)
    assert registry.version_tags("phantom") == before
    assert promoted(run, other(tmp_path, "third")) == (3, 3)
    registry.register("phantom", run, again, FACTS)  # killed before the alias was set
    assert in_use() == [False, False]


def test_a_run_that_was_rolled_back_stays_out_when_its_first_version_is_deleted(
    answering: Predictor, root: Path, tmp_path: Path
) -> None:
    first, better = unlogged_run(), unlogged_run()
    again, third = other(tmp_path, "again"), other(tmp_path, "third")
    assert promoted(first, answering) == (1, 1)
    assert promoted(better, answering, val_auc=0.9) == (2, 2)
    assert promoted(better, again, val_auc=0.9) == (3, 3)
    registry.roll_back("phantom", promote.rollback, registry.by_evidence("phantom"))
    assert promoted(better, third, val_auc=0.9) == (4, 1)
    delete(2)
    assert promoted(first, again) == (5, 5)
    assert promoted(better, other(tmp_path, "fourth"), val_auc=0.9) == (6, 5)
    for version in (3, 4):
        delete(version)
    assert promoted(better, again, val_auc=0.9) == (7, 5)
    tags = registry.version_tags("phantom")
    assert {tags[version]["same_run_as"] for version in (6, 7)} == {"2"}
    for version in (6, 7):
        mlflow.MlflowClient().delete_model_version_tag("pneumonia-phantom", str(version), "registry.rolled_back_at")
    assert promoted(better, again, val_auc=0.9) == (7, 7), "without the tag it competes again"


def test_a_champion_whose_first_version_is_deleted_is_champion_and_can_be_rolled_back(
    answering: Predictor, root: Path, tmp_path: Path
) -> None:
    choose = registry.by_evidence("phantom")
    first, better = unlogged_run(), unlogged_run()
    again = other(tmp_path, "again")
    promoted(first, answering)
    promoted(first, again)
    promoted(better, answering, val_auc=0.9)
    assert promoted(better, again, val_auc=0.9) == (4, 4)
    delete(1)
    delete(3)
    assert promoted(first, again) == (2, 4)
    assert registry.roll_back("phantom", promote.rollback, choose) == "pneumonia-phantom: version 2 is champion again"
    delete(4)
    assert promoted(first, again) == (2, 2)


def test_all_versions_of_a_withdrawn_run_say_so(answering: Predictor, root: Path, tmp_path: Path) -> None:
    first, better = unlogged_run(), unlogged_run()
    promoted(first, answering)
    promoted(better, answering, val_auc=0.9)
    promoted(better, other(tmp_path, "again"), val_auc=0.9)
    for version in (2, 3):
        registry.record_decision("phantom", version, {"reason": "higher", "promoted": "true"})
    registry.roll_back("phantom", promote.rollback, registry.by_evidence("phantom"))
    tags = registry.version_tags("phantom")
    reasons = {2: "rolled back with version 3: version 1 is champion again"}
    reasons[3] = "rolled back: version 1 is champion again"
    for version, reason in reasons.items():
        assert tags[version]["promoted"] == "false"
        assert tags[version]["rolled_back_at"]
        assert tags[version]["reason"] == version_of(version).description == reason
    assert list(registry.versions("phantom")["why"])[:2] == [reasons[3], reasons[2]]


# --- versions that answer ---


@pytest.mark.usefixtures("real_versions")
def test_a_version_takes_image_files_and_gives_the_answers_of_its_predictor(
    answering: Predictor, root: Path, trained: runs.TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the code of the version first
    registry.register("phantom", trained, answering, {"val_auc": 0.8})
    crown(1)
    films = [png(np.full((40, 50), level, np.uint8)) for level in (90, 170)]
    expected = answering.predict(films).assign(version="1")
    version = mlflow.pyfunc.load_model("models:/pneumonia-phantom@champion")
    pd.testing.assert_frame_equal(version.predict(pd.DataFrame({"image": films})), expected)
    assert sys.modules[Predictor.__module__].Predictor is Predictor, "the project stays the one that was imported"
    assert not Path(import_module("pneumonia.report.answers").__file__).is_relative_to(root)
    assert version_of(1).run_id == trained.run_id
    assert list(version.metadata.signature.outputs.input_names()) == list(expected)
    assert not list((root / "mlruns").rglob("*.pkl"))
    folder, number, run_id = registry.predictor("models:/pneumonia-phantom@champion", tmp_path / "cache")
    assert (number, run_id) == ("1", trained.run_id)
    assert Predictor(folder).digest == answering.digest
    shutil.rmtree(root / "mlruns" / "artifacts")
    assert registry.predictor("models:/pneumonia-phantom/1", tmp_path / "cache")[0] == folder, "it was copied before"


@pytest.mark.usefixtures("real_versions")
def test_a_version_is_copied_whole_and_once_or_not_at_all(
    answering: Predictor, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("phantom", unlogged_run(), answering, FACTS)
    uri, cache = "models:/pneumonia-phantom/1", tmp_path / "cache"
    (stored,) = (root / "mlruns" / "artifacts").rglob("artifacts/predictor")
    network = (stored / "model.onnx").read_bytes()

    def refused() -> None:
        with pytest.raises(UserError, match="is version 1, but files of its predictor are missing or damaged in /"):
            registry.predictor(uri, cache)

    (stored / "model.onnx").write_bytes(network[:-1])
    refused()
    (stored / "model.onnx").unlink()
    refused()
    stored.parents[1].rename(tmp_path / "away")
    refused()
    shutil.rmtree(stored.parents[1], ignore_errors=True)
    (tmp_path / "away").rename(stored.parents[1])
    (stored / "model.onnx").write_bytes(network)

    downloads, real = [], mlflow.artifacts.download_artifacts

    def slow(*arguments: Any, **options: Any) -> str:
        downloads.append(arguments)
        time.sleep(0.2)
        return str(real(*arguments, **options))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", slow)
    with ThreadPoolExecutor() as pool:
        copies = list(pool.map(lambda _: registry.predictor(uri, cache), range(4)))
    assert set(copies) == {(cache / answering.digest, "1", copies[0][2])}
    assert len(downloads) == 1
    assert Predictor(copies[0][0]).digest == answering.digest


@pytest.mark.usefixtures("real_versions")
def test_a_file_for_maps_that_is_lost_or_damaged_is_copied_and_logged_again(root: Path, tmp_path: Path) -> None:
    run, predictor = unlogged_run(), Predictor(predictors.write_with_maps(tmp_path / "predictor"))
    registry.register("phantom", run, predictor, FACTS)
    copy = registry.predictor("models:/pneumonia-phantom/1", tmp_path / "cache")[0] / MAPS
    copy.write_bytes(b"damaged")
    registry.predictor("models:/pneumonia-phantom/1", tmp_path / "cache")
    assert copy.read_bytes() == predictors.maps()
    (stored,) = (root / "mlruns" / "artifacts").rglob(f"artifacts/predictor/{MAPS}")
    crown(1)
    write_predictions(predictions_of(1), tmp_path / "predictions.csv")
    runs.mirror(run, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    record = RECORD | {"run_id": run.run_id}
    assert registry.is_registered("phantom", record, predictor)
    stored.unlink()
    assert not registry.is_registered("phantom", record, predictor)
    registry.register("phantom", run, predictor, FACTS)
    assert stored.read_bytes() == predictors.maps()


@pytest.mark.usefixtures("real_versions")
def test_a_segmenter_that_is_lost_or_damaged_is_copied_and_logged_again(root: Path, tmp_path: Path) -> None:
    around = {"size": 32, "aspect": "lungs", "margin": 0.1, "segmenter": geometry.SEGMENTER}
    shutil.copyfile(lungs.FILE, predictors.write(tmp_path / "predictor", preparation=around) / LUNGS)
    run, predictor = unlogged_run(), Predictor(tmp_path / "predictor")
    registry.register("phantom", run, predictor, FACTS)
    uri, cache = "models:/pneumonia-phantom/1", tmp_path / "cache"
    copy = registry.predictor(uri, cache)[0] / LUNGS
    copy.write_bytes(b"damaged")
    registry.predictor(uri, cache)
    copy.unlink()
    registry.predictor(uri, cache)
    assert Predictor(copy.parent).digest == predictor.digest
    (stored,) = (root / "mlruns" / "artifacts").rglob(f"artifacts/predictor/{LUNGS}")
    crown(1)
    write_predictions(predictions_of(1), tmp_path / "predictions.csv")
    runs.mirror(run, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    record = RECORD | {"run_id": run.run_id, "preparation": around}
    assert registry.is_registered("phantom", record, predictor)
    stored.unlink()
    copy.unlink()
    assert not registry.is_registered("phantom", record, predictor)
    with pytest.raises(UserError, match="files of its predictor are missing or damaged in /"):
        registry.predictor(uri, cache)
    registry.register("phantom", run, predictor, FACTS)
    assert stored.read_bytes() == lungs.FILE.read_bytes()


def test_a_server_that_does_not_answer_is_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    runs.open_store()
    with pytest.raises(UserError) as refusal:
        registry.predictor("models:/pneumonia-phantom@champion", tmp_path)
    assert str(refusal.value) == (
        "the MLflow store http://127.0.0.1:9 cannot be reached (connection refused); check MLFLOW_TRACKING_URI, or "
        "use a folder: --model models/predictor"
    )


def test_a_network_that_is_gone_is_one_line(root: Path, tmp_path: Path) -> None:
    with start() as run_id:
        runs.tag(model_id=empty_model(run_id))
    with pytest.raises(
        UserError, match=f"the Keras network of the train run {run_id} is missing from the MLflow store"
    ):
        registry.network(run_id, tmp_path)


def test_modules_that_a_version_carries_are_those_that_the_predictor_imports() -> None:
    closure = import_closure("src/pneumonia/models/predictor.py") | {"src/pneumonia/__init__.py"}
    carried = {f"src/pneumonia/{name}" for name in runs.CARRIED if not name.endswith("/__init__.py")}
    assert carried == closure


def test_an_unknown_version_is_one_line_with_the_known_ones(answering: Predictor, root: Path, tmp_path: Path) -> None:
    runs.open_store(root)
    with pytest.raises(
        UserError, match=r"no such registered model, alias or version \(versions of .*: none\); make repro"
    ):
        registry.predictor("models:/pneumonia-phantom@champion", tmp_path)


def test_a_version_of_an_earlier_release_says_that_it_has_no_predictor(
    root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    mlflow.register_model(f"models:/{trained.model_id}", "pneumonia-phantom")
    with pytest.raises(
        UserError, match="is version 1, which an earlier release registered without a predictor; dvc repro"
    ):
        registry.predictor("models:/pneumonia-phantom/1", tmp_path)


def test_a_predictor_takes_over_from_a_version_of_an_earlier_release(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    mlflow.register_model(f"models:/{trained.model_id}", "pneumonia-phantom", tags={"val_auc": "0.8"})
    registry.set_champion("phantom", registry.by_evidence("phantom"))
    assert registry.register("phantom", trained, answering, {"val_auc": 0.8}) == 2
    registry.set_champion("phantom", registry.by_evidence("phantom"))
    assert registry.champion("phantom").version == 2


def test_the_champion_is_who_was_crowned_last(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path
) -> None:
    assert registry.champion("phantom") is None  # no such name
    registry.register("phantom", trained, answering, {})
    assert registry.champion("phantom") is None  # a name without a champion
    crown(1)
    assert registry.champion("phantom") == registry.Champion(1, trained.run_id)
    better = another_run(model, saved)
    crown(registry.register("phantom", better, answering, {}))
    assert registry.champion("phantom") == registry.Champion(2, better.run_id)
    reigns = {version: tags["crowned_at"] for version, tags in registry.version_tags("phantom").items()}
    assert reigns[1] < reigns[2]


def test_a_champion_that_stays_is_not_crowned_again(answering: Predictor, root: Path, trained: runs.TrainRun) -> None:
    registry.register("phantom", trained, answering, {})
    crown(1)
    before = registry.version_tags("phantom")
    assert registry.set_champion("phantom", lambda tags: (1, "more")) == (before, (1, "more"))
    assert registry.version_tags("phantom") == before


def test_who_has_set_the_champion_looks_again(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path
) -> None:
    """A better version that comes while the alias is being set is not overlooked."""
    registry.register("phantom", trained, answering, {"val_auc": 0.5})
    seen = []

    def choose(tags: registry.Registry) -> tuple[int]:
        seen.append(sorted(tags))
        return (max(tags, key=lambda version: float(tags[version]["val_auc"])),)

    def choose_slowly(tags: registry.Registry) -> tuple[int]:
        chosen = choose(tags)
        if len(seen) == 1:  # as a process elsewhere would, which no lock keeps out
            run = another_run(model, saved)
            mlflow.register_model(f"models:/{run.model_id}", "pneumonia-phantom", tags={"val_auc": 0.9})
            mlflow.MlflowClient().set_registered_model_alias("pneumonia-phantom", "champion", "2")
        return chosen

    _, (champion,) = registry.set_champion("phantom", choose_slowly)
    assert champion == registry.champion("phantom").version == 2
    assert seen == [[1], [1, 2], [1, 2]]


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_tag_or_alias_that_another_process_makes_at_the_same_moment_is_set_again(
    answering: Predictor, root: Path, trained: runs.TrainRun, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """MLflow answers the slower of the two with the broken constraint of its database, seen with twenty at once."""
    registry.register("phantom", trained, answering, {})
    real, failures = getattr(mlflow.MlflowClient, call), [BAD_REQUEST]

    def collide(*arguments: Any) -> None:
        if failures:
            raise MlflowException("UNIQUE constraint failed", error_code=failures.pop())
        real(*arguments)

    monkeypatch.setattr(mlflow.MlflowClient, call, collide)
    crown(1)
    assert registry.champion("phantom").version == 1
    assert "crowned_at" in registry.version_tags("phantom")[1]
    mlflow.MlflowClient().delete_registered_model_alias("pneumonia-phantom", "champion")
    failures.append(INTERNAL_ERROR)  # which is no collision
    with pytest.raises(MlflowException, match="UNIQUE"):
        crown(1)


def test_each_data_set_has_its_own_champion(answering: Predictor, root: Path, trained: runs.TrainRun) -> None:
    registry.register("phantom", trained, answering, {})
    crown(1)
    assert registry.champion("chest_xray") is None
    assert registry.version_tags("chest_xray") == {}
    assert runs.registered_name("chest_xray") != runs.registered_name("phantom")


def test_a_registry_out_of_reach_is_not_one_without_a_champion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next candidate would be crowned unseen."""
    runs.open_store()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_registry_uri("http://127.0.0.1:9")
    with pytest.raises(MlflowException, match="Connection refused"):
        registry.champion("phantom")


def test_a_version_is_described_in_plain_words(answering: Predictor, root: Path, trained: runs.TrainRun) -> None:
    registry.register("phantom", trained, answering, {})
    registry.record_decision("phantom", 1, {"reason": "the first model of this data set"})
    assert version_of(1).description == "the first model of this data set"


def test_predictions_of_a_version_are_those_of_its_run(
    answering: Predictor, root: Path, trained: runs.TrainRun, tmp_path: Path
) -> None:
    registry.register("phantom", trained, answering, {})
    assert registry.version_predictions("phantom", 1).empty
    (tmp_path / "predictions.csv").write_text("image_id,sha256,split,label,score\na,ff,val,1,0.5\n")
    runs.mirror(trained, {}, {runs.PREDICTIONS: tmp_path / "predictions.csv"})
    assert registry.version_predictions("phantom", 1)["sha256"].tolist() == ["ff"]


def test_what_was_rolled_back_stays_out_when_it_is_registered_again(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path
) -> None:
    registry.register("phantom", trained, answering, {"eligible": "true"})
    registry.register("phantom", another_run(model, saved), answering, {"eligible": "true"})
    crown(1)
    asked = []

    def plan(tags: registry.Registry, champion: int, choose: Any) -> tuple[int, tuple[int, ...]]:
        asked.append((sorted(tags), champion, *choose(tags)))
        return 2, (1,)

    assert registry.roll_back("phantom", plan, latest) == "pneumonia-phantom: version 2 is champion again"
    assert asked == [([1, 2], 1, 2)]
    assert registry.champion("phantom").version == 2
    assert version_of(1).description == "rolled back: version 2 is champion again"
    registry.register("phantom", trained, answering, {"eligible": "true", "val_auc": 0.9})
    tags = registry.version_tags("phantom")
    assert tags[1]["rolled_back_at"]
    assert tags[1].items() >= {"eligible": "true", "val_auc": "0.9", "promoted": "false"}.items()


def test_plan_tags_and_crown_of_a_rollback_are_under_one_lock(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    registry.register("phantom", trained, answering, {})
    crown(1)
    lock = FileLock(root / "mlruns" / "mlflow.db.registry.lock", timeout=0)
    held = []

    def choose(tags: registry.Registry) -> tuple[int]:
        with pytest.raises(Timeout):
            lock.acquire()
        held.append("rolled_back_at" in tags[1])
        return (1,)

    registry.roll_back("phantom", lambda tags, champion, choose: (*choose(tags), (1,)), choose)
    assert held == [False, True]
    with lock:
        pass


def test_a_promotion_between_reading_and_planning_is_planned_for(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path
) -> None:
    """As on a server, where no lock keeps another process out."""
    registry.register("phantom", trained, answering, {})
    registry.register("phantom", another_run(model, saved), answering, {})
    crown(2)
    better, asked = another_run(model, saved), []

    def plan(tags: registry.Registry, champion: int, choose: Any) -> tuple[int, tuple[int, ...]]:
        asked.append((sorted(tags), champion))
        if len(asked) == 1:
            mlflow.register_model(f"models:/{better.model_id}", "pneumonia-phantom")
            mlflow.MlflowClient().set_registered_model_alias("pneumonia-phantom", "champion", "3")
        return champion - 1, (champion,)

    assert registry.roll_back("phantom", plan, latest) == "pneumonia-phantom: version 2 is champion again"
    assert asked == [([1, 2], 2), ([1, 2, 3], 3)]
    assert [version for version, tags in registry.version_tags("phantom").items() if "rolled_back_at" in tags] == [3]
    assert version_of(3).description == "rolled back: version 2 is champion again"


def test_who_was_promoted_during_a_rollback_is_champion_and_the_tags_say_so(
    answering: Predictor, root: Path, trained: runs.TrainRun, model: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("phantom", trained, answering, {})
    registry.register("phantom", another_run(model, saved), answering, {})
    crown(2)
    better, real = another_run(model, saved), registry.set_champion

    def late(*arguments: Any) -> Any:
        mlflow.register_model(f"models:/{better.model_id}", "pneumonia-phantom")
        return real(*arguments)

    monkeypatch.setattr(registry, "set_champion", late)
    said = "version 3 is champion now, promoted at the same time"
    assert registry.roll_back("phantom", lambda *_: (1, (2,)), latest) == f"pneumonia-phantom: {said}"
    assert version_of(2).description == registry.version_tags("phantom")[2]["reason"] == f"rolled back: {said}"


def test_without_an_earlier_champion_a_rollback_is_one_line(
    answering: Predictor, root: Path, trained: runs.TrainRun
) -> None:
    runs.open_store()
    with pytest.raises(
        UserError, match=r"^pneumonia-phantom: no version to go back to, there is no champion yet; train "
    ):
        registry.roll_back("phantom", lambda *_: None, latest)
    registry.register("phantom", trained, answering, {})
    crown(1)
    with pytest.raises(UserError, match="version 1 has no champion before it; train and promote another model"):
        registry.roll_back("phantom", lambda *_: None, latest)


@pytest.fixture
def asked(root: Path, trained: runs.TrainRun, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Version 1 without and version 2 with a dvc.lock; what git and DVC are asked to bring, for version 3 in vain."""
    for version in (1, 2, 3):
        mlflow.register_model(f"models:/{trained.model_id}", "pneumonia-phantom")
        tags = {"dvc_lock_digest": f"lock {version}"} if version > 1 else {}
        registry.tag_version("phantom", version, {"model_sha256": f"model {version}", **tags})
    calls = []

    def bring_back(wanted: str, model: Path, sha256: str) -> str:
        calls.append((wanted, str(model), sha256))
        if wanted == "lock 3":
            raise restore.GoneError("no commit here")
        return "from here"

    monkeypatch.setattr(restore, "restore_files", bring_back)
    return calls


def test_a_version_is_brought_back_by_its_lock_and_checked_by_its_model(asked: list[tuple[str, ...]]) -> None:
    assert registry.restore_version("phantom", "2", Path("m")) == "pneumonia-phantom version 2 from here"
    crown(2)
    assert registry.restore_version("phantom", "champion", Path("m")) == "pneumonia-phantom version 2 from here"
    assert asked == [("lock 2", "m", "model 2")] * 2


@pytest.mark.parametrize("name", ["4", "champion", "", "two"])
def test_an_unknown_version_ends_in_one_line_with_those_there_are(asked: list[tuple[str, ...]], name: str) -> None:
    with pytest.raises(
        UserError, match=rf"^'{name}' is no version of pneumonia-phantom; it has 1, 2, 3 \(see: pneumonia versions"
    ):
        registry.restore_version("phantom", name, Path("m"))
    with pytest.raises(UserError, match="it has none"):
        registry.restore_version("chest_xray", name, Path("m"))
    assert asked == []


@pytest.mark.parametrize(("version", "why"), [("1", "was registered without a dvc.lock"), ("3", ": no commit here; ")])
def test_of_a_version_that_cannot_be_brought_back_the_model_is_in_mlflow(
    asked: list[tuple[str, ...]], version: str, why: str
) -> None:
    with pytest.raises(UserError, match=why) as refusal:
        registry.restore_version("phantom", version, Path("m"))
    assert f"as models:/pneumonia-phantom/{version}" in str(refusal.value)
    assert mlflow.get_tracking_uri() in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_version_names_commit_and_lock_only_where_they_are_its_own(
    root: Path, trained: runs.TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_path = Path("models/model.keras")
    model_path.parent.mkdir()
    model_path.write_bytes(b"model")
    assert registry.lineage(model_path, {}) == {}

    def lock(md5: str, **more: Any) -> None:
        train = {"cmd": "python -m stages.train", "outs": [{"path": "models/model.keras", "md5": md5}]}
        Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train": train, **more}}))

    lock("0" * 32)
    assert registry.lineage(model_path, {}) == {}, "the entry is of another model"
    lock(hashlib.md5(b"model").hexdigest())
    found = registry.lineage(model_path, {})
    assert list(found) == ["dvc_lock_digest"]
    lock(hashlib.md5(b"model").hexdigest(), promote={"cmd": "python -m stages.promote"})
    assert registry.lineage(model_path, {}) == found, "what ends later does not matter"
    Path("dvc.lock").write_text("schema: '2.0'\n")
    assert registry.lineage(model_path, {}) == {}
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-toad")
    assert registry.lineage(model_path, {}) == {"dvc_experiment": "muddy-toad"}


PROMOTE_AT_ONCE = """
import multiprocessing, os, sys
from stages import promote

def work(folder, barrier):
    os.chdir(folder)
    sys.stdout = sys.stderr = open("printed", "w")
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


def promote_at_once(folders: list[Path], uri: str) -> list[dict[str, Any]]:
    """One process for each folder, all let go at the same moment; what they wrote."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-W", "ignore", "-c", PROMOTE_AT_ONCE, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr + "".join((folder / "printed").read_text() for folder in folders)
    return [tables.read_json(folder / "reports" / "promotion.json") for folder in folders]


def assert_history_is_complete(promotions: list[dict[str, Any]], aucs: list[float]) -> None:
    """Each has its own version with its figures, its reason and its finished run; the champion's reign is noted."""
    versions = registry.version_tags("phantom")
    assert sorted(versions) == sorted(one["version"] for one in promotions) == list(range(1, len(promotions) + 1))
    for promotion, auc in zip(promotions, aucs, strict=True):
        tags, version = versions[promotion["version"]], version_of(promotion["version"])
        assert float(tags["val_auc"]) == pytest.approx(auc)
        assert tags["reason"] == version.description.split("\n")[0] == promotion["reason"]
        assert promotion["promoted"] == (promotion["version"] == promotion["champion_version"])
    judged = [run for run in all_runs() if run.data.tags.get("stage") == "promote"]
    assert [run.info.status for run in judged] == ["FINISHED"] * len(promotions)
    assert "crowned_at" in versions[registry.champion("phantom").version]


def record_of(number: int) -> dict[str, Any]:
    """All facts of a version, and the decision."""
    path = mlflow.MlflowClient().download_artifacts(version_of(number).run_id, registry.record_path(number))
    return dict(tables.read_json(path))


def test_a_version_says_what_it_is_and_what_was_decided(stage: Any) -> None:
    promotion = stage(3, max_ece=0.01)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (1, 1, True)
    assert promotion["reason"].startswith("the first model of this data set, although its calibration error of 0.0705")
    assert [(gate["name"], gate["passed"]) for gate in promotion["gates"]] == [
        ("min_sensitivity", True),
        ("max_ece", False),
    ]
    assert not {"champion_auc", "p_value", "test_difference", "test_p_value"} & set(promotion)
    tags = version_of(1).tags
    assert {name: text for name, text in tags.items() if not name.startswith("registry.")} == {
        "model": "compact",
        "weights": "none",
        "data": "phantom, synthetic",
        "target": "pneumonia",
        "preparation": "64 px, pad, CLAHE 2",
        "validation AUC": "0.993",
        "test_split": "drawn, official left out",
        "verdict": "became champion",
    }, "at most 8 for people"
    read = {"eligible": "false", "promoted": "true", "reason": promotion["reason"]}
    read |= {"model_sha256": RECORD["model_sha256"]}
    assert {f"registry.{name}": text for name, text in read.items()}.items() <= tags.items()
    facts = record_of(1)
    assert facts["decision"]["gates"] == promotion["gates"]
    assert {"data_digest": "da7a", "synthetic": "true", "max_ece": "0.01"}.items() <= facts.items()
    assert json.loads(facts["preparation"]) == RECORD["preparation"]
    assert facts["preparation_digest"] == Preparation(size=64).digest
    assert version_of(1).description.startswith(f"{promotion['reason']}\n\n| &emsp; | validation")

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
    assert registry.version_tags("phantom")[1]["eligible"] == "true"


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


@pytest.mark.slow
def test_with_a_confidence_a_model_that_is_not_distinguishable_does_not_become_champion(stage: Any) -> None:
    assert stage(3)["promoted"]
    promotion = stage(2, confidence=0.95)
    assert (promotion["champion_version"], promotion["promoted"]) == (1, False)
    assert promotion["comparison"] == "not distinguishable"
    assert promotion["difference_low"] < promotion["difference"] == pytest.approx(1 / 400)
    tags = registry.version_tags("phantom")[2]
    assert tags["confidence"] == "0.95"
    assert tags["against_1"].endswith(" on 20 at 0.95")
    again = stage(2)
    assert (again["champion_version"], again["comparison"]) == (2, "not distinguishable")


def test_asked_again_the_answer_is_the_same_unless_the_limits_changed(stage: Any) -> None:
    first, second = stage(3), stage(2, min_gain=0.1)
    assert stage(2, min_gain=0.1) == second
    assert stage(3) == first
    assert second["champion_version"] == 1
    assert stage(2)["champion_version"] == 2


def test_what_was_decided_stays_as_it_was_when_a_version_is_promoted_again(stage: Any) -> None:
    def decided(version: int) -> tuple[dict[str, str], str]:
        return registry.version_tags("phantom")[version], version_of(version).description

    stage(3)
    stage(2)
    stage(1)
    stage(None, "rollback")
    before = [decided(version) for version in (1, 2, 3)]
    assert [tags["reason"][:9] for tags, _ in before] == ["the first", "higher va", "rolled ba"]
    for number in (3, 2, 1):
        again = stage(number)
        assert again["champion_version"] == 2
        assert again["promoted"] == (number == 2)
    assert [decided(version) for version in (1, 2, 3)] == before
    stage(3, max_ece=0.01)
    assert [gate["passed"] for gate in record_of(1)["decision"]["gates"]][-1] is False
    assert decided(1)[0]["reason"] == decided(1)[1].split("\n")[0]
    assert decided(1)[1].startswith("not higher: ")
    assert [decided(version) for version in (2, 3)] == before[1:]


def test_rollbacks_walk_back_and_what_was_rolled_back_stays_out(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for version, number in enumerate((4, 3, 5, 1), start=1):
        assert stage(number)["version"] == version
    capsys.readouterr()
    stage(None, "rollback")
    assert capsys.readouterr().out == "pneumonia-phantom: version 2 is champion again\n"
    tags = registry.version_tags("phantom")
    assert (tags[4]["eligible"], tags[4]["promoted"]) == ("true", "false")
    again = stage(1)
    assert (again["version"], again["champion_version"], again["promoted"]) == (4, 2, False)
    assert "but it was rolled back; without its tag registry.rolled_back_at it would compete again" in again["reason"]
    stage(None, "rollback")
    assert registry.champion("phantom").version == 1
    capsys.readouterr()
    stage(None, "rollback")
    assert capsys.readouterr().out.startswith(
        "Error: pneumonia-phantom: no version to go back to, version 1 has no champion"
    )
    assert stage(2)["champion_version"] == 5, "a better one becomes champion as ever"
    assert stage(0)["champion_version"] == 6
    stage(None, "rollback")
    assert registry.champion("phantom").version == 5
    mlflow.MlflowClient().delete_model_version_tag("pneumonia-phantom", "4", "registry.rolled_back_at")
    assert stage(2)["champion_version"] == 4, "it competes again"


@pytest.mark.slow
def test_five_promotions_at_once_into_a_file_end_with_the_best(root: Path, tmp_path: Path) -> None:
    numbers = [3, 1, 4, 0, 2]
    uri = runs.open_store()
    folders = [candidate(tmp_path / str(number), predictions_of(number)) for number in numbers]
    promotions = promote_at_once(folders, uri)
    assert_history_is_complete(promotions, [1 - number / 400 for number in numbers])
    assert registry.champion("phantom").version == promotions[3]["version"]


def test_promotions_at_once_on_different_images_end_as_one_after_the_other(root: Path, tmp_path: Path) -> None:
    numbers = [4, 3, 2, 1]
    uri = runs.open_store()
    tables = [predictions_of(number, first_image=5 * (number % 2)) for number in numbers]
    folders = [candidate(tmp_path / str(number), table) for number, table in zip(numbers, tables, strict=True)]
    promotions = promote_at_once(folders, uri)
    by_version = {one["version"]: table for one, table in zip(promotions, tables, strict=True)}
    champion = 1
    for version in (2, 3, 4):
        if promote.decide(by_version[version], by_version[champion], first=False, threshold=0.2, **LIMITS).promoted:
            champion = version
    assert registry.champion("phantom").version == champion

    def unasked(challenger: int, holder: int) -> promote.Gain:
        raise AssertionError("every comparison is a tag")

    assert promote.standing(registry.version_tags("phantom"), unasked).champion == champion


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
    runs.open_store()
    numbers = np.random.default_rng(7).permutation(20).tolist()
    folders = [candidate(tmp_path / str(number), predictions_of(number)) for number in numbers]
    promotions = promote_at_once(folders, server)
    assert_history_is_complete(promotions, [1 - number / 400 for number in numbers])
    best = promotions[numbers.index(0)]["version"]
    assert registry.champion("phantom").version == best
    # Each of them saw the best that there was so far.
    assert {one["champion_version"] for one in promotions if one["version"] > best} <= {best}


def judged(predictions: pd.DataFrame, **tags: str) -> str:
    """A train run whose model was evaluated; its id."""
    with start() as run_id:
        runs.tag(**tags)
    tables.write_table(predictions, "predictions.csv")
    target = runs.TrainRun(run_id, "no model", adopted=False)
    runs.mirror(target, {}, {runs.PREDICTIONS: Path("predictions.csv")})
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
        found = registry.scored(name, "phantom")
        assert (found.run_id, found.title) == (run_id, title)
        pd.testing.assert_frame_equal(found.predictions, table)


def test_a_name_that_nothing_has_ends_in_one_line_that_says_what_there_is(root: Path) -> None:
    names = ["3", "champion", "0" * 32, "it's; \n", "../etc", "0", "9" * 40]
    for name in names:
        with pytest.raises(UserError) as refusal:
            registry.scored(name, "phantom")
        said = str(refusal.value)
        assert "(it has none)" in said
        assert "\n" not in said
        assert "pneumonia versions and pneumonia experiments list them" in said
    versions_of(judged(predictions_of(1)), judged(predictions_of(2)))
    for name in names:
        with pytest.raises(UserError, match=r"no version of pneumonia-phantom \(it has 1, 2\)"):
            registry.scored(name, "phantom")


def test_a_version_is_one_of_the_chosen_data_set(root: Path) -> None:
    versions_of(judged(predictions_of(1)))
    with pytest.raises(UserError, match=r"no version of pneumonia-chest_xray \(it has none\)"):
        registry.scored("1", "chest_xray")


def test_a_run_without_scores_ends_in_one_line(root: Path) -> None:
    with start("evaluate") as run_id:
        pass
    with pytest.raises(
        UserError, match=rf"is evaluate run {run_id[:8]} \(compact on phantom\), which has no {runs.PREDICTIONS}"
    ):
        registry.scored(run_id, "phantom")


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
    tables.write_table(predictions_of(3), root / "made.csv")
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
    found = registry.scored("muddy-toad", "phantom")
    assert (found.title, found.run_id) == ("experiment muddy-toad (shallow on phantom)", "1" * 32)
    pd.testing.assert_frame_equal(found.predictions, predictions_of(3))


def test_a_revision_without_scores_is_no_experiment(root: Path, experiment: None) -> None:
    with pytest.raises(UserError, match="no DVC experiment with predictions in DVC's cache"):
        registry.scored("HEAD", "phantom")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(UserError, match="no DVC experiment with predictions in DVC's cache"):
        registry.scored("muddy-toad", "phantom")


def test_an_experiment_that_dvc_has_forgotten_is_found_by_the_tag_of_its_run(root: Path) -> None:
    judged(predictions_of(1), dvc_experiment="other-owl")
    run_id = judged(predictions_of(2), dvc_experiment="muddy-toad")
    found = registry.scored("muddy-toad", "phantom")
    assert found.run_id == run_id
    pd.testing.assert_frame_equal(found.predictions, predictions_of(2))


def test_the_verdict_on_the_maps_and_figures_of_boxes_are_tags_of_the_version(
    root: Path, stage: Any, tmp_path: Path
) -> None:
    folder = candidate(tmp_path / "1", predictions_of(1))
    shutil.rmtree(folder / "models" / "predictor")
    maps = {"method": "hires_cam", "verdict": "cannot be told (n = 3)"}
    boxes = {"threshold": 0.3, "ap50": 0.92, "ap50_low": 0.89, "rsna_map": 0.79}
    predictors.write(folder / "models" / "predictor", data="phantom", synthetic=True, saliency=maps, boxes=boxes)
    stage(1)
    assert tags_of(1)["saliency"] == "hires_cam: cannot be told (n = 3)"
    assert (tags_of(1)["ap50"], tags_of(1)["rsna_map"]) == ("0.92", "0.79")
    assert registry.versions("phantom").loc[0, ["ap50", "rsna_map"]].tolist() == ["0.9200", "0.7900"]


# --- another target ---


@pytest.fixture
def bacterial(stage: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a promoted model of the target bacterial, after a better one of the target pneumonia."""
    stage(1)
    folder = candidate(tmp_path / "bacterial", predictions_of(5))
    record = tables.read_json(folder / "models" / "run.json")
    with start(target="bacterial") as run_id:
        record |= {"run_id": run_id, "target": "bacterial", "model_id": empty_model(run_id)}
    tables.write_json(record, folder / "models" / "run.json")
    facts = {"target": "bacterial", "labels": ["viral", "bacterial"], "data": "phantom", "synthetic": True}
    predictors.write(folder / "models" / "predictor", **facts)
    path = folder / "reports" / "rebalance.json"
    path.write_text(path.read_text().replace("_normal", "_viral").replace("_pneumonia", "_bacterial"))
    write_settings(folder, target="bacterial")
    monkeypatch.chdir(folder)
    promote_stage.main()
    return folder


def test_models_of_another_target_have_a_name_and_a_champion_of_their_own(bacterial: Path) -> None:
    decision = tables.read_json("reports/promotion.json")
    assert (decision["version"], decision["promoted"]) == (1, True)  # it was compared with no other
    assert registry.champion("phantom-bacterial").run_id != registry.champion("phantom").run_id
    client, name = mlflow.MlflowClient(), "pneumonia-phantom-bacterial"
    tags = client.get_registered_model(name).tags
    assert (tags["data"], tags["target"]) == ("phantom", "bacterial")
    version = client.get_model_version_by_alias(name, "champion")
    assert (version.tags["data"], version.tags["target"]) == ("phantom, synthetic", "bacterial")
    assert "`phantom`, viral or bacterial" in client.get_registered_model(name).description
    assert "images (bacterial)" in version.description
    assert "pneumonia-phantom-bacterial version 1" in Path("reports/model_card.md").read_text(encoding="utf-8")


def test_a_model_by_name_has_its_target(bacterial: Path) -> None:
    runs_of = {name: registry.champion(name).run_id for name in ("phantom", "phantom-bacterial")}
    assert registry.scored("champion", "phantom").target.name == "pneumonia"
    assert registry.scored("champion", "phantom-bacterial").target.name == "bacterial"
    found = registry.scored(runs_of["phantom-bacterial"], "phantom")  # by its run, whatever params.yaml says
    assert (found.target.name, "phantom, viral or bacterial" in found.title) == ("bacterial", True)


def test_a_model_of_another_target_than_that_of_the_settings_is_refused(bacterial: Path) -> None:
    write_settings(bacterial, target="pneumonia")
    with pytest.raises(UserError, match=r"models/ has a model with target = bacterial, params\.yaml says "):
        promote_stage.main()
