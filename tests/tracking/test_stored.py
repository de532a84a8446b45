"""What a store has of a patient, and the models that learnt from one."""

from pathlib import Path

import mlflow

from pneumonia import workspace
from pneumonia.tracking import descriptions, runs, stored
from tests.tracking.conftest import run_of, start

SPLITS = {"seen": ("train", "val"), "tested": ("test",), "without": ()}


def train(digest: str, data: str = "phantom") -> str:
    with start(data=data) as run_id:
        runs.tag(data_digest=digest)
    return str(run_id)


def test_models_learnt_from_a_patient_of_train_and_val_and_maybe_from_unknown_splits(root: Path) -> None:
    runs.open_store()
    ids = {name: train(name) for name in (*SPLITS, "unknown")}
    train("unknown", data="rsna")
    found = {learner.run_id: learner for learner in stored.learners(SPLITS, ["phantom"])}
    assert {*found} == {ids["seen"], ids["tested"], ids["unknown"]}, "another data set is of other patients"
    assert [found[ids[name]].learnt for name in ("seen", "tested", "unknown")] == [True, False, True]
    assert found[ids["seen"]].name == f"compact, run {ids['seen']}"


def test_a_learner_and_its_versions_are_tagged(root: Path) -> None:
    runs.open_store()
    run_id, client = train("seen"), mlflow.MlflowClient()
    client.create_registered_model("pneumonia-phantom")
    client.create_model_version("pneumonia-phantom", f"runs:/{run_id}/x", run_id)
    (learner,) = stored.learners(SPLITS, ["phantom"])
    stored.mark(learner, "2026-11-30")
    text = "2026-11-30; train it again: make repro"
    assert run_of(run_id).data.tags[stored.LEARNT_FROM_REMOVED] == text
    assert client.get_model_version("pneumonia-phantom", "1").tags[stored.LEARNT_FROM_REMOVED] == text


def test_only_files_on_this_machine_can_be_removed(root: Path) -> None:
    uri = runs.open_store()
    mlflow.MlflowClient().create_experiment("theirs", artifact_location="s3://bucket/films")
    (root / "mlruns" / "artifacts").mkdir()
    assert stored.folders(root, uri) == ([root / "mlruns" / "artifacts"], ["s3://bucket/films"])
    # The files of the project's own store stay in reach, and the password is not shown.
    local, elsewhere = stored.folders(root, "https://me:secret@mlflow.example.org")
    assert local == [root / "mlruns" / "artifacts"]
    assert len(elsewhere) == 1
    assert "mlflow.example.org" in elsewhere[0]
    assert "secret" not in elsewhere[0]


def test_texts_are_replaced_and_what_the_database_has_kept_of_them_is_overwritten(root: Path) -> None:
    uri, secret = runs.open_store(), "film of P0007 " * 500
    with start() as run_id:
        runs.tag(note=secret, other="film of P0008")
    database = root / "mlruns" / "mlflow.db"
    assert stored.texts(root, uri, lambda text: "P0007" in text, remove=False) == 1
    assert run_of(run_id).data.tags["note"] == secret
    assert stored.texts(root, uri, lambda text: "P0007" in text, remove=True) == 1
    tags = run_of(run_id).data.tags
    assert (tags["note"], tags["other"]) == (descriptions.REMOVED, "film of P0008")
    assert b"P0007" not in database.read_bytes()
    assert b"P0008" in database.read_bytes()


def test_predictions_without_some_rows_are_those_that_were_logged(root: Path) -> None:
    runs.open_store()
    run_id = train("seen")
    (root / "predictions.csv").write_text("rows\n")
    runs.mirror(runs.TrainRun(run_id, "", adopted=False), {}, {runs.PREDICTIONS: root / "predictions.csv"})
    logged = root / "mlruns" / "artifacts" / run_id / "artifacts" / runs.PREDICTIONS
    logged.write_text("fewer\n")
    stored.record_predictions(logged)
    assert run_of(run_id).data.tags[runs.PREDICTIONS_DIGEST] == workspace.sha256_file(logged)
    stored.record_predictions(root / "predictions.csv")  # no artifact: nothing to note


def test_predictions_of_a_run_that_the_store_does_not_have_are_only_rewritten(root: Path) -> None:
    runs.open_store()
    stored.record_predictions(root / "mlruns" / "artifacts" / ("0" * 32) / "artifacts" / runs.PREDICTIONS)
