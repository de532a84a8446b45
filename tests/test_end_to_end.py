"""The whole workflow as a user runs it: real DVC, real MLflow store, a phantom in small, in a repository of its own."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from ruamel.yaml import YAML

from pneumonia import evaluate, workspace
from pneumonia.data import image_boxes, phantom, tables
from pneumonia.data.store import open_store, read_split
from pneumonia.files import read_bytes
from pneumonia.models import loading, networks, predictor, scoring
from tests.conftest import noise, png, set_settings
from tests.images.test_decode import dicom

ROOT = Path(__file__).resolve().parent.parent
Settings = dict[str, Any]
"""Dotted keys of params.yaml and their values."""

# Every stage does its real work, on as little as it can.
SMALL: Settings = {
    "data": "phantom",
    "model": "shallow",
    "weights": "auto",
    "fetch.n_images": 80,
    "fetch.url": None,
    "fetch.sha256": None,
    "preprocess.image_size": 64,
    "tune.n_trials": 2,
    "tune.epochs": 1,
    "train.epochs": 2,
    "explain.n_images": 2,
    "explain.n_scored": 4,
    "explain.n_samples": 2,
    "promote.min_common": 2,
    "promote.min_gain": 0.0,
    "promote.min_sensitivity": 0.0,  # two epochs make no good model
    "promote.max_ece": 1.0,
    "compute.workers": 1,
}


class Project:
    """A copy of this checkout with small settings, as a git repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.first = folder, ""
        self.params_read = folder.with_name("params_read")
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        wanted = ("stages/", "src/", ".dvc/", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "mlruns/")
        for name in listed:
            if name.startswith(wanted) and (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        self.set(SMALL)
        for command in (["init", "-q", "-b", "master"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
            self.run("git", *command)

    def set(self, settings: Settings) -> None:
        """Change params.yaml, comments kept."""
        set_settings(self.folder / "params.yaml", settings)

    @contextmanager
    def changed(self, settings: Settings) -> Iterator[None]:
        """Other settings for as long as the block lasts."""
        path = self.folder / "params.yaml"
        text = path.read_text()
        self.set(settings)
        try:
            yield
        finally:
            path.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        who = {
            f"GIT_{role}_{fact}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for fact in ("NAME", "EMAIL")
        }
        return kept | who | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *command: str, expect: int = 0, **variables: str) -> str:
        """What a command prints, stderr included; it must end with the status `expect`."""
        environment = self.environment | variables
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == expect, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def dvc(self, *command: str, expect: int = 0, **variables: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *command, expect=expect, **variables)

    def pneumonia(self, *command: str, expect: int = 0, **variables: str) -> str:
        """What the command line prints, run with the code of this project."""
        variables["PYTHONPATH"] = str(self.folder / "src")
        return self.run(sys.executable, "-m", "pneumonia.cli", *command, expect=expect, **variables)

    def stages_run(self, output: str) -> list[str]:
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]

    def report(self, name: str) -> Any:
        return json.loads((self.folder / "reports" / name).read_text())

    @property
    def client(self) -> mlflow.MlflowClient:
        return self.client_of("mlruns/mlflow.db")

    def client_of(self, path: str) -> mlflow.MlflowClient:
        uri = f"sqlite:///{self.folder}/{path}"
        return mlflow.MlflowClient(uri, registry_uri=uri)

    def runs(self, stage: str | None = None) -> list[Run]:
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        wanted = f"tags.stage = '{stage}'" if stage else ""
        return list(self.client.search_runs(experiments, wanted, max_results=1000))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first `dvc repro`; the tests below go on from there, in their order."""
    made = Project(tmp_path_factory.mktemp("project"))
    made.first = made.dvc(
        "repro", PYTHONPATH=f"{made.folder}/src:{ROOT}/tests/recorder", PARAMS_READ=str(made.params_read)
    )
    return made


STAGES = list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"])


def test_repro_runs_every_stage_once_and_says_who_is_champion(project: Project) -> None:
    output = project.first
    assert project.stages_run(output) == STAGES
    assert "champion is version 1" in output
    assert "Traceback" not in output
    assert "UserWarning" not in output


# They read a selector only to name an MLflow experiment and what they have made: no reason to run the stage again, and
# another data set or target is another image store. `fetch` checks the external sources before it works for hours, and
# whether there are boxes for a detector; `tune` checks that maps of boxes are asked of one. `compute` never changes a
# result.
ONLY_NAMES = {
    ("validate", "data"),
    ("rebalance", "data"),
    ("train", "data"),
    ("train", "target"),
    ("fetch", "external.sources"),
    ("fetch", "model"),
    ("fetch", "train.box_weight"),
    ("fetch", "tune.space"),
    ("tune", "explain.methods"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_params_it_reads_and_no_others(project: Project, stage: str) -> None:
    """Seen while it ran: DVC runs a stage again where a param that it declares changes, and only there."""
    settings = YAML(typ="safe").load((project.folder / "params.yaml").read_text())
    lines = {tuple(line.split()) for line in project.params_read.read_text().splitlines()}
    read = {key for name, key in lines if name == stage and not key.startswith("compute.")}
    read -= {key for name, key in ONLY_NAMES if name == stage}
    declared = set()
    for key in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][stage]["params"]:
        values = settings[key] if "." not in key else None
        declared |= {f"{key}.{name}" for name in values} if isinstance(values, dict) else {key}
    assert read == declared


def test_reports_keep_their_contracts(project: Project) -> None:
    validation, metrics = project.report("validation.json"), project.report("metrics.json")
    # Four defects are planted in the phantom: two copies, a file cut short, a blank image.
    assert validation["n_images"] == 84
    assert validation["n_quarantined"] == 2
    assert validation["duplicate_groups"] == 2
    assert {"threshold", "val", "test"} <= set(metrics)
    assert {"n", "auc", "auc_low", "auc_high", "accuracy", "sensitivity", "specificity"} == set(metrics["test"])
    val = project.report("evaluation.json")["youden"]["val"]
    assert metrics["test"]["auc_low"] <= metrics["test"]["auc"] <= metrics["test"]["auc_high"]
    explained = project.report("explain.json")
    figures = {"pointing_game", "energy_in_box", "randomisation_corr", "ms_per_image", "verdict"}
    assert all(figures <= set(row) for row in explained["methods"].values())
    assert explained["default"] in explained["methods"]
    assert {"train_boxes", "uniform_in_lungs"} < set(explained["baselines"])
    assert list(project.report("saliency.json")) == ["pointing_game"]
    promotion = project.report("promotion.json")
    assert promotion["promoted"] is True
    assert promotion["version"] == promotion["champion_version"] == 1
    assert [gate["name"] for gate in promotion["gates"]] == ["min_sensitivity", "max_ece"]
    assert all(gate["passed"] for gate in promotion["gates"])
    assert promotion["gates"][0]["value"] == pytest.approx(val["sensitivity"])
    judged = project.report("evaluation.json")["reliability"]["val"]["calibrated"]
    assert promotion["gates"][1]["value"] == pytest.approx(judged["ece"])
    assert len(list((project.folder / "reports/saliency").glob("*.png"))) == 2
    assert (project.folder / "models/predictor/maps.onnx").is_file(), "maps of predictions need no TensorFlow"


def test_no_patient_is_in_two_splits(project: Project) -> None:
    splits = pd.read_csv(project.folder / "data/splits.csv")
    assert splits.groupby("patient_id")["split"].nunique().max() == 1
    assert splits["sha256"].is_unique


def test_every_stage_left_one_run_and_trials_are_under_their_study(project: Project) -> None:
    stages = [run.data.tags["stage"] for run in project.runs()]
    # Without external tests their stage has nothing to log.
    assert sorted(stage for stage in stages if stage != "trial") == sorted({*STAGES} - {"external"})
    (study,) = project.runs("tune")
    trials = project.runs("trial")
    assert len(trials) == SMALL["tune.n_trials"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    assert {run.info.experiment_id for run in trials} == {study.info.experiment_id}


def test_judgements_lie_under_the_train_run_with_pictures(project: Project) -> None:
    (train,) = project.runs("train")
    record = json.loads((project.folder / "models/run.json").read_text())
    assert train.info.run_id == record["run_id"]
    for stage in ("evaluate", "explain", "export", "promote"):
        (run,) = project.runs(stage)
        assert run.data.tags["mlflow.parentRunId"] == train.info.run_id
    artifacts = {
        item.path
        for folder in (None, "plots", "saliency")
        for item in project.client.list_artifacts(record["run_id"], folder)
    }
    assert {"plots/roc.png", "plots/history.png", "plots/architecture.png", "architecture.json"} <= artifacts
    assert any(path.startswith("saliency/") for path in artifacts)
    assert train.data.metrics["test/auc"] == pytest.approx(project.report("metrics.json")["test"]["auc"])
    history = project.client.get_metric_history(record["run_id"], "epoch/val_auc")
    assert [point.step for point in history] == [1, 2]
    assert train.inputs.dataset_inputs


def facts_of(client: mlflow.MlflowClient, version: Any) -> dict[str, Any]:
    """What the store says of a version, as the registry has recorded it."""
    path = client.download_artifacts(str(version.run_id), f"registry/version_{version.version}.json")
    return dict(json.loads(Path(path).read_text()))


def test_champion_loads_by_its_alias_and_scores_as_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:

    client = project.client
    version = client.get_model_version_by_alias("pneumonia-phantom", "champion")
    assert version.tags["data"] == "phantom, synthetic"
    assert facts_of(client, version)["git_commit"] == project.run("git", "rev-parse", "HEAD").strip()
    lock = version.tags["registry.dvc_lock_digest"]
    assert len(lock) == 64, "DVC has noted the training by the time of promotion"
    assert version.tags["registry.model_sha256"] == workspace.sha256_file(project.folder / "models/model.keras")
    uri = f"sqlite:///{project.folder}/mlruns/mlflow.db"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, uri)  # MLflow sets them itself below, and leaves them so
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    reported = tables.read_table(project.folder / "reports/predictions.csv").set_index("image_id")["score"]
    # The Keras network is the model of the train run; the version takes image files.
    record = json.loads((project.folder / "models/run.json").read_text())
    local = mlflow.artifacts.download_artifacts(f"models:/{record['model_id']}")
    model = loading.load_model(next(Path(local).rglob("*.keras")))
    test = read_split(open_store(project.folder / "data/images.zarr"), "test")
    assert scoring.predict_scores(model, test.images) == pytest.approx(
        reported[list(test.image_ids)].to_numpy(), abs=1e-5
    )
    manifest = tables.read_table(project.folder / "data/manifest.csv").set_index("image_id")
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow puts the modules that the version carries first
    films = [read_bytes(manifest.loc[name, "uri"]) for name in reported.index]
    answers = mlflow.pyfunc.load_model("models:/pneumonia-phantom@champion").predict(pd.DataFrame({"image": films}))
    assert answers["score"].to_numpy() == pytest.approx(reported.to_numpy(), abs=1e-4)
    assert set(answers["version"]) == {"1"}


def test_the_champion_gives_the_reported_scores_for_the_files(project: Project) -> None:
    output = project.folder / "answers.csv"
    project.pneumonia("predict", "data/raw/phantom.zip", "--output", str(output), expect=1)  # a planted file is damaged
    answers = pd.read_csv(output, keep_default_na=False)
    output.unlink()
    answers["image_id"] = answers["image"].str.extract(r"::images/(.+)\.jpeg$")[0]
    reported = pd.read_csv(project.folder / "reports/predictions.csv")
    images = answers.dropna(subset="image_id")  # not the lung masks, which are pictures too
    both = reported.merge(images, on="image_id", suffixes=("_reported", ""), validate="one_to_one")
    assert len(both) == len(reported)
    assert np.abs(both["score"].astype(float) - both["score_reported"]).max() < 1e-4
    assert np.abs(both["probability"].astype(float) - both["calibrated"]).max() < 1e-4
    threshold = project.report("metrics.json")["threshold"]
    assert ((both["score_reported"] >= threshold) == (both["label"] == "pneumonia")).all()
    assert set(answers["data"]) == {"phantom (synthetic)"}
    assert set(answers["version"]) == {1}


def test_second_repro_runs_nothing(project: Project) -> None:
    assert project.stages_run(project.dvc("repro")) == []


def test_another_model_would_rerun_from_backbone_on(project: Project) -> None:
    with project.changed({"model": "compact"}):
        assert (
            project.stages_run(project.dvc("repro", "--dry", "--force-downstream"))
            == STAGES[STAGES.index("backbone") :]
        )
    assert project.stages_run(project.dvc("repro", "--dry")) == []


@pytest.mark.slow
def test_another_model_reruns_from_backbone_on_and_coming_back_runs_nothing(project: Project) -> None:
    before = len(project.runs())
    output = project.dvc("exp", "run", "-S", "model=compact", "-S", "tune.n_trials=1")
    assert project.stages_run(output) == STAGES[STAGES.index("backbone") :]
    versions = project.client.search_model_versions("name = 'pneumonia-phantom'")
    assert sorted(int(one.version) for one in versions) == [1, 2]
    promotion = project.report("promotion.json")
    champion = project.client.get_model_version_by_alias("pneumonia-phantom", "champion").version
    assert str(champion) == ("2" if promotion["auc"] > promotion["champion_auc"] else "1")
    between = len(project.runs())
    assert between > before

    project.run("git", "checkout", "-q", "params.yaml")
    output = project.dvc("repro")
    assert project.stages_run(output) == []
    assert len(project.runs()) == between
    assert project.report("promotion.json")["version"] == 1


@pytest.mark.slow
def test_a_queued_experiment_logs_to_the_same_store(project: Project) -> None:
    def versions() -> dict[int, float]:
        """Their validation AUC."""
        registered = project.client.search_model_versions("name = 'pneumonia-phantom'")
        return {int(one.version): float(one.tags["registry.val_auc"]) for one in registered}

    before, earlier = {run.info.run_id for run in project.runs()}, versions()
    text = (project.folder / "params.yaml").read_text()
    project.dvc("exp", "run", "--queue", "-S", "train.epochs=1")
    project.dvc("queue", "start")
    deadline = time.monotonic() + 300

    def ended() -> bool:
        """By the runs, of which looking costs nothing: `dvc queue status` takes seconds of its CPU."""
        new = [run for run in project.runs() if run.info.run_id not in before]
        return any(run.info.status == "FAILED" or run.data.tags["stage"] == "promote" for run in new)

    looked = time.monotonic()
    while not ended() and time.monotonic() < looked + 60:
        time.sleep(0.5)
    while "Success" not in (status := project.dvc("queue", "status")):
        assert "Failed" not in status, project.dvc("queue", "logs", status.splitlines()[1].split()[0])
        assert time.monotonic() < deadline, status
        time.sleep(1)
    project.dvc("queue", "stop", "--kill")
    new = [run for run in project.runs() if run.info.run_id not in before]
    # A search runs again too: its trials follow the schedule of `train.epochs`.
    trials = ["trial"] * SMALL["tune.n_trials"]
    stages = ["evaluate", "explain", "export", "promote", "train", *trials, "tune"]
    assert sorted(run.data.tags["stage"] for run in new) == stages
    assert len({run.data.tags["dvc_experiment"] for run in new}) == 1
    assert not list((project.folder / ".dvc/tmp/exps").rglob("mlflow.db"))
    # The workspace is as it was; the version competes with those before it.
    assert (project.folder / "params.yaml").read_text() == text
    assert project.report("promotion.json")["version"] == 1
    aucs = versions()
    assert sorted(aucs) == [*sorted(earlier), max(earlier) + 1]
    champion = int(project.client.get_model_version_by_alias("pneumonia-phantom", "champion").version)
    assert champion == max(aucs, key=lambda version: (aucs[version], -version))


@pytest.mark.slow
def test_an_empty_store_gets_a_champion_again(project: Project) -> None:
    # As after `rm -rf mlruns`, or on another machine that shares DVC's cache. The path counts from the root.
    elsewhere = {"MLFLOW_TRACKING_URI": "sqlite:///mlruns/other/mlflow.db"}
    register = ("register", "--if-missing")
    assert "pneumonia-phantom version 1 (shallow)" in project.pneumonia(*register, **elsewhere)
    client = project.client_of("mlruns/other/mlflow.db")
    version = client.get_model_version_by_alias("pneumonia-phantom", "champion")
    adopted = client.get_run(str(version.run_id))
    record = json.loads((project.folder / "models/run.json").read_text())
    assert adopted.data.tags["original_run_id"] == record["run_id"]
    assert adopted.data.metrics["test/auc"] == pytest.approx(project.report("metrics.json")["test"]["auc"])
    # Asked again, it finds what it needs and makes nothing.
    n_runs = len(client.search_runs([adopted.info.experiment_id]))
    project.pneumonia(*register, **elsewhere)
    assert len(client.search_runs([adopted.info.experiment_id])) == n_runs


@pytest.mark.slow
def test_no_byte_shows_a_forgotten_patient_and_the_workflow_goes_on(project: Project, tmp_path: Path) -> None:
    there = copy.copy(project)
    there.folder = Path(shutil.copytree(project.folder, tmp_path / "copy", symlinks=True))
    splits = tables.read_table(there.folder / "data/splits.csv")
    patient = splits.loc[splits["split"] == "train", "patient_id"].iloc[0]
    manifest = tables.read_table(there.folder / "data/manifest.csv")
    theirs = manifest[manifest["patient_id"] == patient]
    archive = there.folder / "data/raw/phantom.zip"
    with zipfile.ZipFile(archive) as before:
        films = [before.read(uri[6:].partition("::")[0]) for uri in theirs["uri"]]

    def shows() -> list[Path]:
        needles = [patient.encode(), *films, *(digest.encode() for digest in theirs["sha256"])]
        kept = [path for path in there.folder.rglob("*") if path.is_file() and "src" not in path.parts]
        return [path for path in kept if any(one in path.read_bytes() or one in os.fsencode(path) for one in needles)]

    n_files = len(shows())
    assert n_files > 8, "tables, archive, boxes and what DVC has of them"
    there.pneumonia("forget", patient)
    assert len(shows()) == n_files, "without --yes nothing is removed"
    said = there.pneumonia("forget", patient, "--yes")
    assert "pneumonia-phantom version 1 (patient in train): is tagged" in said
    assert shows() == []
    # The outs are accepted, and what has learnt from the patient is out of date.
    there.pneumonia("register", "--if-missing")
    there.pneumonia("compare", "1", "champion")
    stays = ("fetch", "backbone", "promote")  # the last one runs when there is another model
    assert there.stages_run(there.dvc("repro", "--dry")) == [one for one in STAGES if one not in stays]
    rewritten = {name: (there.folder / "data" / name).read_bytes() for name in ("manifest.csv", "boxes.csv")}
    said = there.dvc("repro", "--force", "--single-item", "fetch")
    assert f"{len(theirs)} of {len(manifest)} images are left out" in said
    assert {name: (there.folder / "data" / name).read_bytes() for name in rewritten} == rewritten
    with zipfile.ZipFile(archive) as after:
        assert not any(patient in name for name in after.namelist())
    assert shows() == []
    there.dvc("repro", "rebalance")
    assert shows() == []


def test_a_wrong_setting_ends_in_one_line(project: Project) -> None:
    with project.changed({"model": "moon"}):
        output = project.run(sys.executable, "-m", "stages.backbone", expect=1)
    assert "model = 'moon' is unknown; known: compact, vanilla" in output
    assert len(output.splitlines()) == 1, output


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train.epochs", "many", "train.epochs = 'many'"),
        ("rebalance.strategy", "magic", "'class_weight', 'oversample', 'undersample' or 'none'"),
        ("data", "moon", "data = 'moon' is unknown; known: phantom, chest_xray"),
        ("target", "viral", "target = 'viral' is unknown; known: pneumonia, bacterial"),
    ],
)
def test_every_wrong_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, said: str
) -> None:
    """In this process: what a process of its own shows of it is seen above."""
    from stages import fetch, run

    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    set_settings(tmp_path / "params.yaml", SMALL | {key: value})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        run(fetch.main)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def failing(project: Project, stage: str, settings: Settings, said: str, *, force: bool = False) -> None:
    """A stage that fails says why and leaves no outs; with the old settings back, all is as it was."""
    outs = YAML(typ="safe").load((project.folder / "dvc.yaml").read_text())["stages"][stage]["outs"]
    before = {path: path.read_bytes() for out in outs for path in files(project.folder / out)}
    assert before
    with project.changed(settings):
        output = project.dvc("repro", "--single-item", stage, expect=255)
    assert said in output
    assert "Traceback" not in output
    assert not any(files(project.folder / out) for out in outs)
    assert not list(project.folder.rglob(".partial-*"))
    project.dvc("checkout", *(["--force"] if force else []))
    assert project.stages_run(project.dvc("repro")) == []
    assert {path: path.read_bytes() for out in outs for path in files(project.folder / out)} == before


def files(path: Path) -> list[Path]:
    return [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]


def test_failed_fetch_leaves_nothing_and_loses_nothing(project: Project, tmp_path: Path) -> None:
    cut = tmp_path / "cut.zip"
    whole = (project.folder / "data/raw/phantom.zip").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    failing(project, "fetch", {"data": "chest_xray", "fetch.url": str(cut)}, "not a complete zip archive")


@pytest.mark.slow
def test_failed_preprocess_leaves_nothing_and_loses_nothing(project: Project) -> None:
    # A bit that flips in the middle of an image after `fetch`.
    archive = project.folder / "data/raw/phantom.zip"
    whole = archive.read_bytes()
    position = whole.index(b"images/") + 4000
    archive.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
    failing(
        project, "preprocess", {"preprocess.clip_limit": 3.0}, "data/raw is not what the stage fetch wrote", force=True
    )


@pytest.mark.slow
def test_failed_train_leaves_nothing_and_loses_nothing(project: Project) -> None:
    # The artifact store breaks while the model is trained: it fails after it has written the model.
    artifacts, away = project.folder / "mlruns/artifacts", project.folder / "mlruns/away"
    artifacts.rename(away)
    artifacts.write_text("no folder")
    try:
        failing(project, "train", {"train.epochs": 3}, "ERROR: ")
    finally:
        artifacts.unlink()
        away.rename(artifacts)


@pytest.mark.parametrize(
    "uri", ["sqlite:////dev/null/mlflow.db", pytest.param("http://127.0.0.1:9", marks=pytest.mark.slow)]
)
def test_a_store_that_cannot_be_used_is_one_line(project: Project, uri: str) -> None:
    command = (sys.executable, "-m", "stages.rebalance")
    output = project.run(*command, expect=1, MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert output.startswith(f"ERROR: the MLflow store {uri} cannot be {'used' if 'sqlite' in uri else 'reached'} (")
    assert len(output.splitlines()) == 1


def test_a_model_is_not_registered_under_another_data_set(project: Project) -> None:
    with project.changed({"data": "chest_xray"}):
        output = project.pneumonia("register", expect=1)
    assert "data = phantom, params.yaml says chest_xray" in output


def mixed_folder(folder: Path) -> Path:
    """A tree `CLASS/PATIENT/image` of DICOM files, PNG files of 16 bits and JPEG files in turn."""
    radiographs = [one for patient in phantom.plan(60, seed=5) for one in phantom.render(patient)]
    for number, one in enumerate(radiographs):
        place = folder / tables.LABELS[one.label].upper() / one.patient_id
        place.mkdir(parents=True, exist_ok=True)
        twelve_bits = one.image.astype(np.uint16) * 16
        kind = (".dcm", ".png", ".jpeg")[number % 3]
        if kind == ".dcm":
            (place / f"{one.image_id}.dcm").write_bytes(dicom(twelve_bits, bits=12, PatientSex="F", PatientAge="034Y"))
        else:
            pixels = twelve_bits if kind == ".png" else one.image
            (place / f"{one.image_id}{kind}").write_bytes(cv2.imencode(kind, pixels)[1].tobytes())
    return folder


def small_arrays(path: Path) -> Path:
    """What MedMNIST publishes, in small."""
    rng = np.random.default_rng(3)
    arrays = {}
    for split, n_images in (("train", 40), ("val", 20), ("test", 20)):
        labels = np.arange(n_images)[:, None] % 2
        noise = rng.integers(0, 120, (n_images, 28, 28))
        arrays[f"{split}_images"] = (noise + 100 * labels[:, :, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("data", "make"), [("folder", mixed_folder), ("pneumoniamnist", small_arrays)])
def test_images_of_ones_own_run_end_to_end(tmp_path: Path, data: str, make: Callable[[Path], Path]) -> None:
    project = Project(tmp_path / "project")
    place = make(tmp_path / ("own" if data == "folder" else "own.npz"))
    settings = {"data": data, "fetch.url": str(place), "validate.max_bad_fraction": 0.0, "train.epochs": 1}
    output = project.dvc(
        "exp", "run", *(word for pair in settings.items() for word in ("-S", "=".join(map(str, pair))))
    )
    assert project.stages_run(output) == STAGES
    assert f"registered pneumonia-{data} version 1; champion is version 1" in output
    manifest = tables.read_table(project.folder / "data/manifest.csv")
    archives = [path.name for path in (project.folder / "data/raw").glob("*.zip")]
    if data == "folder":
        assert archives == [], "a folder is used in place"
        assert {Path(uri).suffix for uri in manifest["uri"]} == {".dcm", ".png", ".jpeg"}
        assert set(manifest["sex"]) == {"F", ""}
    else:
        assert archives == ["pneumoniamnist.zip"]
        splits = tables.read_table(project.folder / "data/splits.csv")
        assert splits["split"].value_counts().to_dict() == {"train": 40, "val": 20, "test": 20}


@pytest.mark.slow
@pytest.mark.parametrize("model", networks.MODELS)
def test_every_model_runs_as_an_experiment(project: Project, model: str) -> None:
    path = project.folder / "params.yaml"
    text = path.read_text()
    little = ("-S", "tune.n_trials=0", "-S", "train.epochs=1", "-S", "weights=none")
    try:
        project.dvc("exp", "run", "-S", f"model={model}", *little)
        record = tables.read_json(project.folder / "models/run.json")
        run = project.client.get_run(record["run_id"])
        assert (record["model"], run.data.tags["model"]) == (model, model)
        assert 0 <= project.report("metrics.json")["test"]["auc"] <= 1
        assert project.report("promotion.json")["version"]
        assert len(list((project.folder / "reports/saliency").glob("*.png"))) > 0
    finally:
        path.write_text(text)


@pytest.mark.slow
def test_two_folds_go_through_as_one_model(project: Project) -> None:
    with project.changed({"rebalance.folds": 2, "tune.n_trials": 1}):
        output = project.dvc("repro")
    assert {*project.stages_run(output)} == {*STAGES} - {"fetch", "validate", "backbone"}
    splits = tables.read_table(project.folder / "data/splits.csv")
    predictions = tables.read_table(project.folder / "reports/predictions.csv")
    assert dict(zip(predictions["image_id"], predictions["split"].replace("val", "train"), strict=True)) == dict(
        zip(splits["image_id"], splits["split"], strict=True)
    ), "every image has a score"
    folds = predictions.merge(splits, on="image_id", suffixes=("", "_drawn"))
    assert folds["fold"].equals(folds["fold_drawn"])
    model = loading.load_model(project.folder / "models/model.keras")
    store = open_store(project.folder / "data/images.zarr")
    score_of = predictions.set_index("image_id")["score"]
    for network, split in evaluate.validated(model, store):
        np.testing.assert_allclose(scoring.predict_scores(network, split.images), score_of[split.image_ids], atol=1e-6)
    test = read_split(store, "test")
    answers = predictor.Predictor(project.folder / "models/predictor").answers(test.images)
    np.testing.assert_allclose([answer.score for answer in answers], score_of[test.image_ids], atol=1e-4)
    history = pd.read_csv(project.folder / "reports/history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history.groupby("fold")["kept"].sum().tolist() == [1, 1]
    run_id = json.loads((project.folder / "models/run.json").read_text())["run_id"]
    of_folds = [run for run in project.runs("fold") if run.data.tags["mlflow.parentRunId"] == run_id]
    assert sorted(run.data.tags["fold"] for run in of_folds) == ["fold 0", "fold 1"]
    for run in of_folds:
        steps = [one.step for one in project.client.get_metric_history(run.info.run_id, "epoch/val_auc")]
        assert (run.info.status, steps) == ("FINISHED", [1, 2])
    promotion = project.report("promotion.json")
    assert promotion["difference_low"] <= promotion["difference"] <= promotion["difference_high"]
    assert "mean logit of 2 networks, one for each fold" in (project.folder / "reports/model_card.html").read_text()


@pytest.mark.slow
def test_the_files_of_a_version_come_back(tmp_path: Path) -> None:
    """Versions 1 and 2 are committed by hand, 3 and 4 by DVC as experiments, in the workspace and beside it."""
    project = Project(tmp_path / "project")
    for epochs in (1, 2):
        project.set({"train.epochs": epochs, "tune.n_trials": 0})
        project.dvc("repro")
        project.run("git", "add", "-A")
        project.run("git", "commit", "-q", "-m", f"{epochs} epochs")
    project.dvc("exp", "run", "--name", "muddy-toad", "-S", "train.epochs=3")
    project.run("git", "checkout", "-q", ".")
    project.dvc("checkout")
    project.dvc("exp", "run", "--temp", "--name", "other-owl", "-S", "train.epochs=4")
    versions = project.client.search_model_versions("name = 'pneumonia-phantom'")
    facts = {int(one.version): facts_of(project.client, one) for one in versions}
    assert [facts[version].get("dvc_experiment") for version in (1, 2, 3, 4)] == [None, None, "muddy-toad", "other-owl"]
    assert len({one["model_sha256"] for one in facts.values()}) == 4

    def restore(version: int | str, expect: int = 0) -> str:
        said = project.pneumonia("restore", str(version), expect=expect)
        assert len(said.splitlines()) == 1, said
        return said

    def is_there(version: int) -> bool:
        settings = YAML(typ="safe").load((project.folder / "params.yaml").read_text())
        return (
            workspace.sha256_file(project.folder / "models/model.keras") == facts[version]["model_sha256"]
            and project.report("promotion.json")["version"] == version
            and settings["train"]["epochs"] == version
        )

    assert is_there(2)
    for version in (1, 3, 4):
        assert restore(version).endswith("back: git checkout - && dvc checkout\n")
        assert is_there(version)
        assert project.stages_run(project.dvc("repro", "--dry")) == []
        project.run("git", "checkout", "-q", "-")
        project.dvc("checkout")
        assert is_there(2)
        assert project.run("git", "branch", "--show-current").strip() == "master"
    assert "is already in dvc.lock here" in restore(2)
    champion = int(project.client.get_model_version_by_alias("pneumonia-phantom", "champion").version)
    restore("champion")
    assert is_there(champion)
    project.run("git", "checkout", "-q", "master")
    project.dvc("checkout")
    project.set({"train.epochs": 9})
    assert "params.yaml: not committed" in restore(1, expect=1)
    assert "is no version of pneumonia-phantom; it has 1, 2, 3, 4" in restore(9, expect=1)


@pytest.mark.slow
def test_a_temporary_experiment_logs_to_the_same_store_with_dvc_lock_committed(project: Project) -> None:
    project.run("git", "add", "dvc.lock")
    project.run("git", "commit", "-q", "-m", "lock")
    before = len(project.runs())
    output = project.dvc("exp", "run", "--temp", "-S", "train.epochs=4")
    assert project.stages_run(output) == ["tune", "train", "evaluate", "explain", "export", "promote"]
    assert len(project.runs()) == before + 6 + SMALL["tune.n_trials"]


@pytest.mark.slow
def test_a_killed_train_goes_on_from_its_last_epoch_in_the_same_run(project: Project) -> None:
    def kept() -> set[Path]:
        return {path for path in (project.folder / ".resume").rglob("*") if path.is_file() and path.suffix != ".lock"}

    with project.changed({"train.epochs": 40, "train.patience": 40}):
        project.dvc("repro", "tune")
        leftovers = kept()
        started = {run.info.run_id for run in project.runs("train")}
        command = [sys.executable, "-m", "dvc", "repro", "train"]
        killed = subprocess.Popen(command, cwd=project.folder, env=project.environment, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(finished := epochs_logged(project, started)) < 3:
            assert time.monotonic() < deadline
            assert killed.poll() is None, "it ended before it could be killed"
            time.sleep(0.1)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        # It may have got further before the signal came.
        before = epochs_logged(project, started)
        assert finished <= before
        assert project.stages_run(project.dvc("repro", "train")) == ["train"]
    (run,) = [run for run in project.runs("train") if run.info.run_id not in started]
    assert run.info.status == "FINISHED"
    history = project.client.get_metric_history(run.info.run_id, "epoch/val_auc")
    steps = [one.step for one in history]
    assert sorted(set(steps)) == list(range(1, 41))
    # The epoch in which it was killed may be done twice, those before are not.
    assert all(steps.count(step) == 1 for step in before if step < max(before))
    assert pd.read_csv(project.folder / "reports/history.csv")["epoch"].tolist() == list(range(1, 41))
    assert json.loads((project.folder / "models/run.json").read_text())["run_id"] == run.info.run_id
    assert kept() <= leftovers


def epochs_logged(project: Project, known: set[str]) -> set[int]:
    """Epochs of the new train run that the store knows of."""
    new = [run.info.run_id for run in project.runs("train") if run.info.run_id not in known]
    return {one.step for run_id in new for one in project.client.get_metric_history(run_id, "epoch/val_auc")}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_ui_shows_the_runs_in_a_browser(project: Project, tmp_path: Path) -> None:
    port = 5057
    server = subprocess.Popen(
        [sys.executable, "-m", "pneumonia.cli", "ui", "--port", str(port)],
        cwd=project.folder,
        env=project.environment,
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/health"]).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        (train, *_) = project.runs("train")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        page = f"http://127.0.0.1:{port}/#/experiments/{train.info.experiment_id}/runs"
        shown = subprocess.run(
            ["chromium", *options, "--virtual-time-budget=20000", "--dump-dom", page],
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    finally:
        server.terminate()
        server.wait()
    tops = [run for run in project.runs() if "mlflow.parentRunId" not in run.data.tags]
    newest = sorted(tops, key=lambda run: -run.info.start_time)[:4]  # the table loads as many as fit the window
    assert [run.info.run_name for run in newest if run.info.run_name not in shown] == []


@pytest.mark.slow
def test_an_external_test_changes_nothing_but_its_own_figures(project: Project, tmp_path: Path) -> None:
    for number in range(24):
        folder = tmp_path / "films" / ("NORMAL", "PNEUMONIA")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(noise(90, 100, number)))
    chosen = ("reports/metrics.json", "reports/predictions.csv", "models/model.keras", "reports/tune/best.json")
    project.dvc("repro")  # a test before this one leaves outs of other settings
    before = [(project.folder / name).read_bytes() for name in chosen]
    source = {"name": "clinic", "data": "folder", "url": str(tmp_path / "films")}
    with project.changed({"external.sources": [source]}):
        output = project.dvc("repro")
    assert project.stages_run(output) == ["external", "evaluate", "export", "promote"]
    assert [(project.folder / name).read_bytes() for name in chosen] == before
    scored = tables.read_table(project.folder / "reports/external_predictions.csv")
    assert (set(scored["source"]), len(scored)) == ({"clinic"}, 24)
    assert project.report("evaluation.json")["external"]["clinic"]["n_positive"] == 12
    facts = tables.read_json(project.folder / "models/predictor/predictor.json")
    assert facts["external"]["clinic"]["unusual"] == 1, "noise is no chest"
    assert "External test" in (project.folder / "reports/model_card.html").read_text()
    (run,) = project.runs("external")
    assert run.info.status == "FINISHED"
    assert project.stages_run(project.dvc("repro")) == [], "without it all is as before"
    assert "external" not in project.report("evaluation.json")


@pytest.mark.slow
def test_the_challenge_of_rsna_trains_a_detector(tmp_path: Path) -> None:
    """Its layout in small: DICOM files, both tables, the mapping to patients, findings that are no opacities."""
    place = tmp_path / "challenge"
    (place / "stage_2_train_images").mkdir(parents=True)
    labels, detailed, mapping = ["patientId,x,y,width,height,Target"], ["patientId,class"], []
    n_boxes: dict[str, int] = {}
    for number, film in enumerate(one for patient in phantom.plan(60, 3) for one in phantom.render(patient)):
        name = f"{number:08}-0000"
        (place / "stage_2_train_images" / f"{name}.dcm").write_bytes(dicom(film.image, PatientID=name))
        mapping.append({"subset_img_id": name, "img_id": f"{film.patient_id[1:]}_{number:03}.png"})
        kind = "Lung Opacity" if film.label else "Normal" if number % 3 else "No Lung Opacity / Not Normal"
        for box in film.boxes or [("", "", "", "")]:  # two rows in both tables for an image with two boxes
            labels.append(f"{name},{','.join(map(str, box))},{film.label}")
            detailed.append(f"{name},{kind}")
        n_boxes[name] = len(film.boxes)
    (place / "stage_2_train_labels.csv").write_text("\n".join(labels))
    (place / "stage_2_detailed_class_info.csv").write_text("\n".join(detailed))
    (place / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    assert max(n_boxes.values()) > 1
    folder = tmp_path / "project"
    folder.mkdir()
    one = Project(folder)
    chosen = {"data": "rsna", "fetch.url": str(place), "model": "detector", "tune.n_trials": 0, "train.epochs": 1}
    one.set(chosen | {"preprocess.image_size": 96, "train.image_size": 96})
    one.dvc("init", "-q", "-f")
    one.dvc("repro", "evaluate")
    splits, store = tables.read_table(folder / "data/splits.csv"), open_store(folder / "data/images.zarr")
    kinds = splits.groupby("subtype")["label"].unique().map(list).to_dict()
    assert kinds == {"lung opacity": [1], "no lung opacity / not normal": [0], "normal": [0]}
    assert splits["patient_id"].nunique() < len(splits)
    assert splits.groupby("patient_id")["split"].nunique().max() == 1
    for name in tables.SPLITS:
        split = read_split(store, name)
        assert split.boxes is not None
        assert image_boxes.are_known(split.boxes).all()
        kept = {image: len(image_boxes.of_image(split.boxes, row)) for row, image in enumerate(split.image_ids)}
        assert kept == {image: n_boxes[image] for image in kept}
    found = one.report("evaluation.json")["detection"]
    test = splits.loc[splits["split"].eq("test"), "image_id"]
    assert (found["n"], found["n_boxes"], found["n_unknown"]) == (len(test), sum(map(n_boxes.get, test)), 0)
