"""Films of other places are prepared as those of the run, and none that the run has is tested."""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pneumonia import UserError, external, fetch, validate
from pneumonia.data import lung_boxes, relabel, tables
from pneumonia.data.store import create_store, open_store, read_split
from pneumonia.data.targets import TARGETS
from pneumonia.images import lungs
from pneumonia.images.geometry import Preparation, prepare
from stages import external as stage
from stages import fetch as fetch_stage
from tests.conftest import ROOT, Gray, noise, png, set_settings

BACTERIAL = TARGETS["bacterial"]
HOW = Preparation(size=16)
RULES: dict[str, Any] = {
    "classes": {},
    "max_left_out": 0.05,
    "min_side": 8,
    "min_std": 4.0,
    "max_bad_fraction": 0.2,
    "workers": 1,
}
COLUMNS = ["image_id", "sha256", "dhash", "patient_id"]
NOBODY = pd.DataFrame(columns=COLUMNS)

Zipped = Callable[[Mapping[str, Gray | bytes]], Path]


@pytest.fixture(autouse=True)
def nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lungs, "search", lambda image, crop: lungs.Finding(None, "no lungs"))


@pytest.fixture
def zipped(tmp_path: Path) -> Zipped:
    """Makes an archive of films, `CLASS/PATIENT/NAME` -> pixels or the bytes of a file."""

    def make(films: Mapping[str, Gray | bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
            for name, film in films.items():
                archive.writestr(f"{name}.png", film if isinstance(film, bytes) else png(film))
        return tmp_path / "films.zip"

    return make


def smooth(seed: int, side: int = 64) -> Gray:
    """A film in which neighbours are alike, so that a copy in another size has the same hash."""
    return cv2.resize(noise(12, 12, seed), (side, side), interpolation=cv2.INTER_CUBIC)


def films(n: int = 6) -> dict[str, Gray | bytes]:
    return {f"{('NORMAL', 'PNEUMONIA')[k % 2]}/p{k}/{k}": smooth(k) for k in range(n)}


def collect(url: Path, tmp_path: Path, splits: pd.DataFrame = NOBODY, **changes: Any) -> external.Films:
    one = external.Source("clinic", changes.pop("data", "folder"), str(url))
    (tmp_path / "resume").mkdir(exist_ok=True)
    return external.collect(one, splits, **RULES | changes, resume=tmp_path / "resume")


def of_run(*pixels: Gray, patient: str = "own") -> pd.DataFrame:
    """The table of a run with these films."""
    rows = [(f"r{k}", f"{k:064x}", validate.dhash(film), f"{patient}{k}") for k, film in enumerate(pixels)]
    return pd.DataFrame(rows, columns=COLUMNS)


def reasons(collected: external.Films) -> dict[str, str]:
    table = collected.table[collected.table["left_out"] != ""]
    return dict(zip(table["image_id"], table["left_out"], strict=True))


def test_a_source_is_a_group_of_the_store_with_images_prepared_as_those_of_the_run(
    zipped: Zipped, tmp_path: Path
) -> None:
    url = zipped(films())
    parts = {"clinic": collect(url, tmp_path)}
    external.write(parts, tmp_path, HOW, workers=1, resume=tmp_path / "resume")
    store, table = open_store(tmp_path / "external.zarr"), tables.read_table(tmp_path / "external.csv")
    assert store.attrs["preparation"] == HOW.as_dict()
    record = {"data": "folder", "n_images": 6, "left_out": [], "n_in_run": 0}
    assert store.attrs["sources"] == {"clinic": record}
    split = read_split(store, "clinic")
    assert split.image_ids.tolist() == sorted(f"clinic/{name}.png" for name in films())
    for name, pixels, label in zip(split.image_ids, split.images, split.labels, strict=True):
        np.testing.assert_array_equal(pixels, prepare(smooth(int(name[-5])), HOW))
        assert label == int(name[-5]) % 2
    assert set(lung_boxes.origins(store, "clinic").values()) == {"none"}
    assert list(table)[: len(external.COLUMNS)] == list(external.COLUMNS)
    assert table["patient_id"].tolist() == [f"clinic/p{number}" for number in (0, 2, 4, 1, 3, 5)]
    assert table["left_out"].eq("").all()
    # The copy of the archive goes with the stage: the table names the archive of the user.
    assert table["uri"][0] == f"zip://NORMAL/p0/0.png::{url}"


def test_a_source_that_has_changed_since_an_earlier_call_is_measured_again(zipped: Zipped, tmp_path: Path) -> None:
    name = "NORMAL/p0/0"
    collect(zipped(films()), tmp_path)
    table = collect(zipped(films() | {name: smooth(30)}), tmp_path).table.set_index("image_id")
    assert table.loc[f"clinic/{name}.png", "dhash"] == validate.dhash(smooth(30)) != validate.dhash(smooth(0))


def test_boxes_of_tested_films_are_kept(zipped: Zipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that `fetch` finds; which sources have some is its matter."""
    really = fetch.fetch

    def with_boxes(*args: Any, **settings: Any) -> fetch.Fetched:
        found = really(*args, **settings)
        boxes = [(f"PNEUMONIA/p{k}/{k}.png", 1, 2, 3, 4) for k in (1, 3)]
        return found._replace(boxes=pd.DataFrame(boxes, columns=list(fetch.BOXES)))

    monkeypatch.setattr(fetch, "fetch", with_boxes)
    collected = collect(zipped(films()), tmp_path, of_run(smooth(3)))
    assert collected.boxes.to_numpy().tolist() == [["clinic", "clinic/PNEUMONIA/p1/1.png", 1, 2, 3, 4]]


def test_a_film_that_the_run_has_and_its_patient_are_left_out_and_counted(zipped: Zipped, tmp_path: Path) -> None:
    made = films(8) | {"PNEUMONIA/p1/another": smooth(20)}
    splits = pd.concat(
        [
            of_run(smooth(1, side=90)),  # resized
            of_run(np.clip(0.8 * smooth(2) + 30, 0, 255).astype(np.uint8)),  # brighter
        ]
    )
    exact = collect(zipped(made), tmp_path).table.set_index("image_id").loc["clinic/NORMAL/p4/4.png", "sha256"]
    splits = pd.concat([splits, of_run(smooth(30)).assign(sha256=exact)])
    collected = collect(zipped(made), tmp_path, splits)
    assert reasons(collected) == {
        "clinic/NORMAL/p2/2.png": external.IN_RUN,
        "clinic/NORMAL/p4/4.png": external.IN_RUN,
        "clinic/PNEUMONIA/p1/1.png": external.IN_RUN,
        "clinic/PNEUMONIA/p1/another.png": external.PATIENT_IN_RUN,
    }
    assert collected.record["n_in_run"] == 4
    said = external.in_words("clinic", collected)
    assert said[0] == "clinic: 5 images of 5 patients, 3 with pneumonia"
    assert f"left out: 3, {external.IN_RUN}" in said
    external.write({"clinic": collected}, tmp_path, HOW, workers=1, resume=tmp_path / "resume")
    assert len(read_split(open_store(tmp_path / "external.zarr"), "clinic").labels) == 5


def test_names_of_patients_that_the_run_has_too_are_said(zipped: Zipped, tmp_path: Path) -> None:
    splits = of_run(smooth(40), patient="p")  # p0, another film
    (line,) = external.in_words("clinic", collect(zipped(films()), tmp_path, splits))[1:]
    assert line.startswith("NOTE: patient identifiers that patients of this run have too: 1; if they name the same")
    assert not reasons(collect(zipped(films()), tmp_path, splits)), "names alone prove nothing"


def test_films_without_a_patient_are_said(zipped: Zipped, tmp_path: Path) -> None:
    (line,) = external.in_words("clinic", collect(zipped({**films(), "NORMAL/alone": smooth(9)}), tmp_path))[1:]
    assert line.startswith("NOTE: images without a patient identifier: 1 of 7; each of them counts as one patient")


def test_unreadable_films_and_copies_are_left_out_with_their_reason(zipped: Zipped, tmp_path: Path) -> None:
    made = films() | {"NORMAL/p0/again": smooth(0), "NORMAL/p9/cut": png(smooth(9))[:60]}
    collected = collect(zipped(made), tmp_path)
    found = reasons(collected)
    assert found["clinic/NORMAL/p0/again.png"] == external.COPY
    assert found["clinic/NORMAL/p9/cut.png"].startswith("cannot be read as an image (")
    assert collected.record["left_out"] == [
        {"reason": external.COPY, "n": 1},
        {"reason": "cannot be read as an image", "n": 1},
    ]
    assert collected.record["n_in_run"] == 0
    with pytest.raises(UserError, match=r"^external source clinic: 1 of 8 images are bad .* raise the limit$"):
        collect(zipped(made), tmp_path, max_bad_fraction=0.1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"NORMAL": None}, "no image of class 0 (normal); a classifier needs both classes"),
        ({"NORMAL": "HEALTHY", "PNEUMONIA": "COPD"}, "no images in the layout of data = folder"),
    ],
)
def test_other_labels_and_one_class_are_one_line_that_names_the_source(
    change: dict[str, str | None], expected: str, zipped: Zipped, tmp_path: Path
) -> None:
    named = {(change.get(cls := name.partition("/")[0], cls), name): film for name, film in films().items()}
    url = zipped({f"{cls}/{name.partition('/')[2]}": film for (cls, name), film in named.items() if cls})
    with pytest.raises(UserError) as caught:
        collect(url, tmp_path)
    assert str(caught.value).startswith("external source clinic: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "fetch.url" not in str(caught.value)


def test_a_class_of_which_nothing_is_left_is_one_line(zipped: Zipped, tmp_path: Path) -> None:
    splits = of_run(*(smooth(k) for k in (1, 3, 5)))
    with pytest.raises(
        UserError, match=r"no image of class 1 \(pneumonia\) is left \(3 an image of this run\); a test"
    ):
        collect(zipped(films()), tmp_path, splits)


def test_films_outside_of_the_target_are_left_out_and_the_classes_are_those_of_the_target(
    zipped: Zipped, tmp_path: Path
) -> None:
    made = {"NORMAL/p9/9": smooth(9)}
    made |= {f"PNEUMONIA/{('virus', 'bacteria')[k % 2]}/p{k}/{k}": smooth(k) for k in range(6)}
    collected = collect(zipped(made), tmp_path, target=BACTERIAL)
    assert reasons(collected) == {"clinic/NORMAL/p9/9.png": relabel.OUTSIDE}
    tested = collected.table[collected.table["left_out"] == ""]
    assert tested["label"].eq(tested["subtype"] == "bacteria").all()
    assert external.in_words("clinic", collected, BACTERIAL)[:2] == [
        "clinic: 6 images of 6 patients, 3 with bacterial pneumonia",
        f"left out: 1, {relabel.OUTSIDE}",
    ]


def test_a_source_without_the_subtypes_of_the_target_is_one_line(zipped: Zipped, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        collect(zipped(films()), tmp_path, target=BACTERIAL)
    line = str(caught.value)
    assert line.startswith("external source clinic: no image of class 0 (viral) is left (3 not of the target); a test ")
    assert line.endswith("with the subtypes virus and bacteria: remove the source or give another one")
    assert "\n" not in line


def test_a_missing_archive_names_the_setting_of_the_source(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        collect(tmp_path / "none.zip", tmp_path)
    assert str(caught.value).startswith("external source clinic: ")
    assert "fetch.url" not in str(caught.value)


def test_an_unchanged_table_needs_no_hash_of_what_cannot_be_read() -> None:
    table = pd.DataFrame({"sha256": ["a", "b"], "dhash": ["", validate.dhash(smooth(1))]})
    assert external.is_in(table, of_run(smooth(1))).tolist() == [False, True]
    assert external.is_in(table, NOBODY).tolist() == [False, False]


# --- the stage ---


def before_the_stage(project: Path, **settings: Any) -> None:
    """The files that the stage reads: those of a run that has one film."""
    create_store(project / "data" / "images.zarr", {"preparation": HOW.as_dict(), "digest": "d"})
    tables.write_table(of_run(smooth(50)), project / "data" / "splits.csv")
    set_settings(project / "params.yaml", {"compute.workers": 1} | settings)


def test_without_sources_the_store_is_empty_and_no_run_is_made(
    in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "tracked", None)
    shutil.copyfile(ROOT / "params.yaml", in_project / "params.yaml")
    before_the_stage(in_project, **{"external.sources": []})
    stage.main()
    store = open_store("data/external.zarr")
    assert dict(store.attrs) == {"sources": {}, "preparation": HOW.as_dict()}
    assert list(store.groups()) == []
    assert list(tables.read_table("data/external.csv")) == list(external.COLUMNS)
    assert Path("data/external_boxes.csv").read_text() == "source,image_id,x,y,width,height\n"


@pytest.mark.parametrize("main", [fetch_stage.main, stage.main])
def test_an_unknown_data_set_ends_the_first_stage_and_this_one(main: Callable[[], None], stage_project: Path) -> None:
    before_the_stage(stage_project, **{"external.sources": [{"name": "clinic", "data": "kermany", "url": None}]})
    with pytest.raises(UserError, match=r"^external source clinic: data = 'kermany' is unknown; known: phantom, "):
        main()
    assert not Path("data/manifest.csv").exists()


def test_each_source_is_said_and_logged(
    stage_project: Path, zipped: Zipped, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    made = zipped(films() | {"NORMAL/p0/again": smooth(0)})
    chosen = [{"name": name, "data": "folder", "url": str(made)} for name in ("here", "there")]
    before_the_stage(stage_project, **{"external.sources": chosen})
    stage.main()
    said = capsys.readouterr().out
    assert "here: 6 images of 6 patients, 3 with pneumonia\nleft out: 1, a copy of another" in said
    assert "there: 6 images" in said
    store, table = open_store("data/external.zarr"), tables.read_table("data/external.csv")
    assert list(store.attrs["sources"]) == ["here", "there"]
    assert [len(read_split(store, name).labels) for name in ("here", "there")] == [6, 6]
    assert table["image_id"].is_unique
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage"] == "external"
    assert run.inputs.dataset_inputs[0].dataset.name == "external"
    folders = [path for path in (stage_project / ".resume" / "external").iterdir() if path.is_dir()]
    assert not folders, "no copy of the archive stays"
