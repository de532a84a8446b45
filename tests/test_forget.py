"""After `forget` no byte of a project shows the patient, and later commands go on with what is left."""

import base64
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from pneumonia import UserError, cli, forget, leases, outs
from pneumonia.data import removal, store, tables
from pneumonia.data.forgotten import FILE
from pneumonia.data.removal import PAGE
from pneumonia.names import file_name
from pneumonia.report import page
from pneumonia.tracking import descriptions, runs, stored
from pneumonia.workspace import sha256_bytes
from stages import preprocess
from tests.conftest import png

PATIENTS = {"P0007": "train", "P0008": "val", "P0009": "test", "P0010": "train"}
STAGES = {
    "fetch": ["data/raw", "data/manifest.csv", "data/boxes.csv"],
    "validate": ["reports/data.html"],
    "rebalance": ["data/splits.csv"],
    "preprocess": ["data/images.zarr"],
    "evaluate": ["reports/predictions.csv", "reports/evaluation.json"],
    "explain": ["reports/saliency"],
    "promote": ["reports/model_card.html", "reports/model_card.md"],
}
READ_BY = {"rebalance": ["data/manifest.csv"], "preprocess": ["data/raw", "data/splits.csv"]}
FILMS = {
    f"{patient}-{n}": png(np.random.default_rng(int(patient[1:]) * 9 + n).integers(0, 256, (8, 8), np.uint8))
    for patient in PATIENTS
    for n in (1, 2)
}


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow sets the variable itself, in any earlier test of this process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write_data(films: dict[str, bytes]) -> None:
    """What the data stages write, of films whose names begin with the patient."""
    Path("data/raw").mkdir(parents=True)
    with zipfile.ZipFile("data/raw/phantom.zip", "w") as archive:
        for name, film in films.items():
            archive.writestr(f"images/{name}.png", film)
            archive.writestr(f"masks/{name}.png", film[::-1])
        archive.writestr("radiographs.csv", "image_id,label\n" + "".join(f"{name},1\n" for name in films))
    tables.write_json({"data": "phantom", "n_images": len(films)}, "data/raw/source.json")
    rows = [
        {
            "image_id": name,
            "uri": f"zip://images/{name}.png::data/raw/phantom.zip",
            "label": number % 2,
            "patient_id": name[:5],
            "bytes": len(film),
            "sha256": sha256_bytes(film),
            "lung_mask_uri": f"zip://masks/{name}.png::data/raw/phantom.zip",
            "look_alike": "P0007-1" if name == "P0010-1" else "",
        }
        for number, (name, film) in enumerate(films.items())
    ]
    manifest = pd.DataFrame(rows)
    splits = manifest.assign(split=manifest["patient_id"].map(PATIENTS), weight=1.0, repeats=1)
    tables.write_table(manifest, "data/manifest.csv")
    tables.write_table(manifest[["image_id"]].assign(x=1, y=2, width=3, height=4), "data/boxes.csv")
    tables.write_table(splits, "data/splits.csv")
    made = store.create_store("data/images.zarr", {"digest": tables.data_digest(splits)})
    for split, part in splits.groupby("split"):
        images, _ = store.create_split(made, str(split), part, size=8, with_lungs=False)
        images[:] = np.stack([np.full((8, 8), int(name[-3]) * 10, np.uint8) for name in part["image_id"]])


def write_reports(names: Iterable[str]) -> None:
    for folder in ("saliency", "data_docs"):
        Path("reports", folder).mkdir(parents=True)
    scored = pd.DataFrame({"image_id": [*names], "split": "val", "label": 1, "score": 0.5})
    scored["sha256"] = [sha256_bytes(FILMS[name]) for name in names]
    tables.write_table(scored.assign(patient_id=scored["image_id"].str[:5]), "reports/predictions.csv")
    tables.write_json({"wrong": [{"image": name, "score": 0.5} for name in names]}, "reports/evaluation.json")
    for name in names:
        Path("reports/saliency", file_name(name, ".png")).write_bytes(FILMS[name][::-1])
    # A sheet names nobody; the table beside it has all of its images.
    index = pd.DataFrame({"image_id": [*names], "label": 1, "outcome": "true_positive", "picture": ""})
    tables.write_table(index, "reports/saliency/index.csv")
    Path("reports/saliency/sheets").mkdir()
    Path("reports/saliency/sheets/true_positive.png").write_bytes(b"".join(FILMS[name][::-1] for name in names))
    # Its pictures have no names, and its text names nobody.
    Path("reports/model_card.html").write_text('<img alt="Test image 1" src="data:image/png;base64,AAAA">')
    Path("reports/model_card.md").write_text("AUC .9\n")
    pictures = page.Thumbnails([page.Picture(f"{name}, normal: turned 90", FILMS[name]) for name in names])
    for path in ("reports/data.html", "reports/report.html"):
        Path(path).write_text(page.html("", "", [page.Section("Images", [pictures])]))
    Path("reports/data_docs/images.html").write_text("<td>P0007-1</td>")
    Path("reports/data_docs/other.html").write_text("<td>P0010-1</td>")


def log_runs() -> str:
    """Runs of `train` and `preprocess`, and a version; returns the id of the train run."""
    runs.open_store()
    digest = tables.data_digest(tables.read_table("data/splits.csv"))
    options: dict[str, Any] = {"data": "phantom", "model": "compact", "synthetic": True, "params": {}}
    with runs.start_run("preprocess", **options):
        runs.tag(data_digest=digest)
        Path("before_after.png").write_bytes(b"picture of P0007")
        runs.log_file("before_after.png", "plots")
        Path("before_after.png").unlink()
    with runs.start_run("validate", **options):
        runs.log_file("reports/data.html")
    with runs.start_run("train", **options) as run_id:
        runs.tag(data_digest=digest, **{"mlflow.note.content": "![map](data:image/png;base64,AAAA)"})
        for path, folder in (("reports/saliency", "saliency"), ("reports/model_card.html", "card")):
            runs.log_file(path, folder)
        table = tables.read_table("reports/predictions.csv").to_json(orient="split", index=False)
        mlflow.log_text(table, "predictions.json")
    runs.mirror(runs.TrainRun(run_id, "", adopted=False), {}, {runs.PREDICTIONS: Path("reports/predictions.csv")})
    client = mlflow.MlflowClient()
    client.create_registered_model("pneumonia-phantom")
    client.create_model_version("pneumonia-phantom", f"runs:/{run_id}/x", run_id, description="wrong: P0007-1")
    return run_id


@pytest.fixture
def project(stage_project: Path) -> str:
    """A small project after its stages, with an earlier state in DVC's cache; returns the id of its train run."""
    Path("reports").mkdir()
    for stage in STAGES:
        Path(f"{stage}.py").touch()
    definitions = {
        stage: {"cmd": f"echo {stage}", "deps": [f"{stage}.py", *READ_BY.get(stage, [])], "outs": made}
        for stage, made in STAGES.items()
    }
    Path("dvc.yaml").write_text(json.dumps({"stages": definitions}))
    write_data(FILMS)
    write_reports([*FILMS])
    with Repo.init(".", no_scm=True) as repo:
        repo.commit(force=True)
    for path in ("tune/0815/study.log", "runs/x", "by_hand/fetch.json"):
        Path(".resume", path).parent.mkdir(parents=True, exist_ok=True)
        Path(".resume", path).write_text(json.dumps({"data/raw": outs.digest(Path("data/raw"))}))
    Path(".resume/validate/0815").mkdir(parents=True)
    shutil.copy("reports/data.html", ".resume/validate/0815")
    return log_runs()


def shows(needles: Iterable[bytes]) -> list[str]:
    """The files of the project that contain one of these bytes, also as text in a page, or have one in their name."""
    needles = [form for one in needles for form in (one, base64.b64encode(one))]
    files = [path for path in Path().rglob("*") if path.is_file()]
    return [str(path) for path in files if any(one in path.read_bytes() or one in os.fsencode(path) for one in needles)]


def needles(patient: str) -> list[bytes]:
    films = [film for name, film in FILMS.items() if name.startswith(patient)]
    return [patient.encode(), *films, *(film[::-1] for film in films), *(sha256_bytes(film).encode() for film in films)]


def test_no_byte_shows_a_forgotten_patient_and_the_others_stay(project: str) -> None:
    others = {path: n for path, n in counts().items() if n}
    listed = forget.forget("P0007", yes=False)
    assert listed[-1] == "Nothing was removed. This removes it: pneumonia forget P0007 --yes"
    assert counts() == {**others, "archive": 8, "predictions": 8}
    assert {line.split(":")[0] for line in listed} >= {
        "DVC cache",
        ".resume",
        "MLflow",
        "reports",
        "data",
        "tables",
        "model stays",
    }
    assert any("pneumonia-phantom version 1 (patient in train): is tagged" in line for line in listed)
    assert len(shows(needles("P0007"))) > 15, "it is everywhere"

    done = forget.forget("P0007", yes=True)

    assert done[:-2] == listed[:-1]
    assert done[-1] == "Train again without this patient: make repro"
    assert shows(needles("P0007")) == []
    assert counts() == {
        "archive": 6,
        "predictions": 6,
        "manifest": 6,
        "store": 6,
        "saliency": 6,
        "boxes": 6,
        "splits": 6,
    }
    splits = tables.read_table("data/splits.csv")
    assert set(splits["look_alike"]) == {""}
    assert store.open_store("data/images.zarr").attrs["digest"] == tables.data_digest(splits)
    commands = {"model_card.html": "make repro", "data.html": "make repro", "report.html": "pneumonia report"}
    for name, command in commands.items():
        assert Path("reports", name).read_text() == f"{PAGE.format(command=command)}\n"
    (logged,) = Path("mlruns/artifacts").rglob("data.html")
    assert logged.read_text() == f"{PAGE.format(command='make repro')}\n"
    assert Path("reports/model_card.md").read_text() == "AUC .9\n"
    assert not Path(".resume/tune").exists()
    assert not Path(".resume/validate").exists()
    artifacts = Path("mlruns/artifacts", project, "artifacts")
    assert len(list((artifacts / "saliency").glob("*.png"))) == 6
    assert not list(Path("mlruns/artifacts").rglob("before_after.png")), "it shows images without their names"
    assert len(json.loads((artifacts / "predictions.json").read_text())["data"]) == 6

    assert len(runs.logged_predictions(project)) == 6, "later models are compared on these"
    tags = mlflow.MlflowClient().get_run(project).data.tags
    assert tags["mlflow.note.content"] == descriptions.REMOVED
    version = mlflow.MlflowClient().get_model_version("pneumonia-phantom", "1")
    assert version.description == descriptions.REMOVED
    assert "make repro" in version.tags[stored.LEARNT_FROM_REMOVED] == tags[stored.LEARNT_FROM_REMOVED]

    outs.require_unchanged({out: stage for stage, made in STAGES.items() for out in made})
    with Repo(".") as repo:
        assert {*repo.status()} == {"rebalance", "preprocess"}, "they read what has changed; DVC knows the rest"
        assert [out for stage in repo.index.stages for out in stage.outs if out.changed_cache()] == []
    remembered = list(Path(".dvc/cache/runs").glob("??/*"))
    assert all(any(run.iterdir()) for run in remembered), "DVC fails at a run that it remembers without outs"
    assert json.loads(Path(".resume/by_hand/fetch.json").read_text()) == {"data/raw": outs.digest(Path("data/raw"))}

    listed = forget.forget("P0008", yes=False)
    assert any("version 1 (its splits are not known any more): is tagged" in line for line in listed)

    again = ["P0007 was forgotten before, and nothing of this patient is left"]
    assert forget.forget("P0007", yes=True) == again
    assert "P0007" not in Path(FILE).read_text()


def counts() -> dict[str, int]:
    """Number of images in each place."""
    with zipfile.ZipFile("data/raw/phantom.zip") as archive:
        names = archive.namelist()
    images = store.open_store("data/images.zarr")
    return {
        "archive": sum(name.startswith("images/") for name in names),
        "manifest": len(tables.read_table("data/manifest.csv")),
        "boxes": len(tables.read_table("data/boxes.csv")),
        "splits": len(tables.read_table("data/splits.csv")),
        "store": sum(len(store.read_split(images, split).images) for split in tables.SPLITS),
        "predictions": len(tables.read_table("reports/predictions.csv")),
        "saliency": len(list(Path("reports/saliency").glob("*.png"))),
    }


def test_an_unknown_patient_is_one_line(in_project: Path) -> None:
    write_data(dict(list(FILMS.items())[:2]))
    with pytest.raises(UserError, match=r"^no table of this project has the patient 'P0'; data/manifest\.csv has all"):
        forget.forget("P0", yes=True)
    assert not Path(FILE).exists()


def test_a_project_without_data_has_nothing_to_remove(in_project: Path) -> None:
    with pytest.raises(UserError, match=r"^nothing to remove: this project has no table of images; make repro"):
        forget.forget("P0007", yes=True)


def test_nothing_is_removed_while_a_stage_runs(in_project: Path) -> None:
    write_data(dict(list(FILMS.items())[:2]))
    lease = leases.take(Path(".resume/runs"), "0815")
    with pytest.raises(
        UserError, match=r"^a stage runs in this project \(0815-\w+\); wait until it ends, and run again$"
    ):
        forget.forget("P0007", yes=True)
    leases.release(lease)
    assert forget.forget("P0007", yes=False)


def test_nothing_is_removed_while_dvc_runs(in_project: Path) -> None:
    write_data(dict(list(FILMS.items())[:2]))
    with Repo.init(".", no_scm=True):
        pass
    busy = {"write": {str(in_project / "data/raw"): {"pid": os.getppid(), "cmd": "dvc repro"}}, "read": {}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(busy))
    with pytest.raises(UserError, match=r"^a DVC command runs in this project; wait until it ends"):
        forget.forget("P0007", yes=True)
    assert not Path(FILE).exists()


def test_images_that_are_read_in_place_stay_and_are_named(in_project: Path) -> None:
    write_data(dict(list(FILMS.items())[:2]))
    place = in_project / "films" / "NORMAL"
    place.mkdir(parents=True)
    (place / "P0007-1.png").write_bytes(FILMS["P0007-1"])
    manifest = tables.read_table("data/manifest.csv").assign(uri=f"{place}/P0007-1.png", lung_mask_uri="")
    tables.write_table(manifest, "data/manifest.csv")
    tables.write_json({"data": "folder", "url": "films", "lungs": "masks.zip"}, "data/raw/source.json")
    lines = forget.forget("P0007", yes=True)
    assert [line.removeprefix("stays, it is not a part of this project: ") for line in lines[-4:-2]] == [
        str(place),
        "masks.zip",
    ]
    assert (place / "P0007-1.png").is_file()
    assert tables.read_table("data/manifest.csv").empty


def test_files_that_are_links_into_the_cache_lose_the_patient_too(in_project: Path) -> None:
    write_data({name: FILMS[name] for name in ("P0007-1", "P0010-1")})
    definition = {"cmd": "echo", "outs": [*STAGES["fetch"], *STAGES["rebalance"], *STAGES["preprocess"]]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"fetch": definition}}))
    with Repo.init(".", no_scm=True) as repo, repo.config.edit() as config:
        config["cache"]["type"] = "symlink"
    with Repo(".") as repo:
        repo.commit(force=True)
    assert Path("data/manifest.csv").is_symlink()
    Path("dvc.yaml").write_text(json.dumps({"stages": {"fetch": definition | {"cmd": "echo other"}}}))
    forget.forget("P0007", yes=True)
    assert shows(needles("P0007")) == []
    assert list(tables.read_table("data/manifest.csv")["image_id"]) == ["P0010-1"]
    assert list(store.read_split(store.open_store("data/images.zarr"), "train").image_ids) == ["P0010-1"]
    with Repo(".") as repo:
        assert repo.status() == {"fetch": ["changed command"]}, "the outs are recorded, and nothing else"


def test_a_page_that_stays_is_in_the_cache_again(in_project: Path) -> None:
    """An earlier experiment has a saliency map of the patient, so that cached cards may show it; this one has none."""
    write_data({name: FILMS[name] for name in ("P0007-1", "P0010-1")})
    Path("reports/saliency").mkdir(parents=True)
    Path("reports/model_card.html").write_text('<img alt="Test image 1" src="data:image/png;base64,AAAA">')
    made = ["reports/saliency", "reports/model_card.html"]
    Path("dvc.yaml").write_text(json.dumps({"stages": {"explain": {"cmd": "echo", "outs": made}}}))
    with Repo.init(".", no_scm=True) as repo:
        for name in ("P0007-1", "P0010-1"):
            picture = Path("reports/saliency", file_name(name, ".png"))
            picture.write_bytes(FILMS[name][::-1])
            repo.commit(force=True)
            if name == "P0007-1":
                picture.unlink()
    forget.forget("P0007", yes=True)
    assert "Test image 1" in Path("reports/model_card.html").read_text()
    with Repo(".") as repo:
        assert repo.status() == {}


def test_the_picture_of_preprocess_has_as_many_images_as_forget_looks_for() -> None:
    assert preprocess.N_EXAMPLES // 2 == forget._N_PREVIEWED


def test_after_an_error_the_command_removes_the_rest(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    write_data({name: FILMS[name] for name in ("P0007-1", "P0010-1")})
    with monkeypatch.context() as patch:
        patch.setattr(removal, "rewrite_store", full)
        with pytest.raises(OSError, match="no space left"):
            forget.forget("P0007", yes=True)
    assert forget.forget("P0007", yes=True)[-1] == "Train again without this patient: make repro"
    assert shows(needles("P0007")) == []


def test_the_command_ends_in_one_line(in_project: Path) -> None:
    done = CliRunner().invoke(cli.main, ["forget", "P0007"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("Error: nothing to remove: ")
    write_data(dict(list(FILMS.items())[:2]))
    done = CliRunner().invoke(cli.main, ["forget", "P0007"])
    assert done.exit_code == 0
    assert done.output.startswith("P0007: 2 image files\n")


def test_the_archive_of_an_external_test_is_said_to_stay(in_project: Path) -> None:
    rows = [{"source": "clinic", "uri": "zip://a.png::/data/clinic.zip"}, {"source": "clinic", "image_id": "a"}]
    assert forget._sources([*rows, {"uri": "zip://a.png::data/raw/phantom.zip"}]) == ["/data/clinic.zip"]
