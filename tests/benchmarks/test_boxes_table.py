"""The benchmark of boxes compares on the same images, and draws boxes where a map is bright."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from benchmarks import boxed_films
from benchmarks import boxes as bench
from pneumonia import UserError
from pneumonia.data import image_boxes, store, tables
from pneumonia.images.geometry import Preparation
from pneumonia.metrics import ranking
from pneumonia.metrics.boxes import Film
from tests.conftest import noise, png


def finished(folder: Path, score: NDArray[np.float64], detection: dict[str, float] | None) -> Path:
    n = len(score)
    names = [f"i{row}" for row in range(n)]
    table = pd.DataFrame({"image_id": names, "sha256": names[::-1], "patient_id": names, "split": "test"})
    tables.write_table(table.assign(label=np.arange(n) % 2, score=score), folder / "reports/predictions.csv")
    report = {"youden": {"test": {"auc": 0.9, "auc_low": 0.8, "auc_high": 0.95}}}
    tables.write_json(report | ({"detection": detection} if detection else {}), folder / "reports/evaluation.json")
    return folder


def scores(n: int, seed: int, shift: float) -> NDArray[np.float64]:
    return np.clip(np.random.default_rng(seed).normal(0.4, 0.15, n) + shift * (np.arange(n) % 2), 0, 1).round(7)


FOUND = {"ap50": 0.6, "ap50_low": 0.5, "ap50_high": 0.7, "rsna_map": 0.4, "n": 60, "n_boxes": 40, "threshold": 0.3}


def test_figures_of_seeds_have_their_mean_and_a_run_without_boxes_is_refused(tmp_path: Path) -> None:
    runs = [
        bench.read(finished(tmp_path / str(ap50), scores(60, 1, 0.2), {**FOUND, "ap50": ap50})) for ap50 in (0.6, 0.7)
    ]
    table = bench.table(runs)
    assert table["ap50"].tolist() == ["0.600 [0.500, 0.700]", "0.700 [0.500, 0.700]", "0.650", "0.071"]
    assert table["auc"].tolist()[::2] == ["0.900 [0.800, 0.950]", "0.900"]
    without = runs[1]._replace(detection={name: FOUND[name] for name in ("ap50", "n", "n_boxes")})
    table = bench.table([runs[0], without, runs[1]])
    assert table["rsna_map"].tolist() == ["0.400", "", "0.400", "0.400", "0.000"]
    with pytest.raises(UserError, match="has no figures of boxes"):
        bench.read(finished(tmp_path / "none", scores(60, 1, 0.2), None))
    with pytest.raises(UserError, match="is missing: finish the run with dvc repro evaluate"):
        bench.read(tmp_path / "nowhere")


def test_gains_in_auc_are_paired_and_their_mean_is_less_uncertain(tmp_path: Path) -> None:
    tests = [bench._test(finished(tmp_path / str(seed), scores(60, seed, 0.2), None)) for seed in range(4)]
    table = bench.auc_gains(tests[:2], tests[2:])
    one, other = (ranking.roc_auc(part["label"], part["score"]) for part in (tests[0], tests[2]))
    assert table["gain"].iloc[0] == pytest.approx(one - other)
    assert table.loc["mean", "gain"] == pytest.approx(table["gain"].iloc[:2].mean())
    width = table["high"] - table["low"]
    assert width["mean"] < width.iloc[:2].mean()
    assert (bench.auc_gains(tests[:1], tests[:1])[["gain", "low", "high"]] == 0).all(axis=None)
    with pytest.raises(UserError, match="1 classifiers for 2 detectors"):
        bench.auc_gains(tests[:2], tests[2:3])
    with pytest.raises(UserError, match="pair 1 was tested on different images"):
        bench.auc_gains(tests[:1], [tests[2].iloc[1:]])


def spots(*places: tuple[int, int, int, int, float]) -> NDArray[np.float32]:
    values = np.zeros((100, 100), np.float32)
    for x, y, width, height, value in places:
        values[y : y + height, x : x + width] = value
    return values


def test_boxes_lie_around_the_regions_of_a_map_that_are_bright_and_large_enough() -> None:
    values = spots((10, 20, 30, 10, 0.8), (15, 22, 1, 1, 1.0), (60, 60, 20, 20, 0.5), (90, 90, 4, 4, 0.9))
    boxes, score = bench.boxes_of(values, 0.5, bench.Rule(0.4, 0.005, "max"))
    assert boxes.tolist() == [[10, 20, 30, 10], [60, 60, 20, 20]]
    assert score.tolist() == pytest.approx([0.5, 0.25])
    (mean,) = bench.boxes_of(values, 0.5, bench.Rule(0.6, 0.005, "mean"))[1]
    assert mean == pytest.approx(0.5 * (299 * 0.8 + 1) / 300)
    assert bench.boxes_of(np.zeros((9, 9), np.float32), 0.5, bench.Rule(0.1, 0.0, "mean"))[0].shape == (0, 4)


def test_validation_chooses_the_map_and_the_rule_that_find_the_boxes() -> None:
    places = [(10, 20, 30, 20), (50, 40, 20, 30)]
    truth = [np.array([place], np.float64) for place in places] + [np.zeros((0, 4))]
    good = np.stack([spots((0, 0, 100, 100, 0.35), (*place, 1.0)) for place in places] + [spots((5, 5, 20, 20, 1.0))])
    choice = bench.choose(truth, {"bad": good[:, ::-1], "good": good}, np.array([0.9, 0.8, 0.1]))
    assert (choice.method, choice.rsna_map) == ("good", 1.0)
    assert choice.rule.share > 0.35
    assert 0.1 < choice.threshold <= 0.8, "what a normal image shows is below it"
    with pytest.raises(UserError, match="all maps of validation are 0"):
        bench.choose(truth, {"none": np.zeros_like(good)}, np.ones(3))


def test_a_detector_is_compared_with_other_boxes_on_the_same_images() -> None:
    place, off = np.array([[0, 0, 10, 10.0]]), np.array([[50, 50, 10, 10.0]])
    right = {str(row): Film(place, place, np.array([0.9])) for row in range(20)}
    half = {name: Film(place, off if int(name) % 2 else place, np.array([0.9])) for name in right}
    patients = pd.Series({name: name for name in right})
    gains = bench.box_gains(half, right, (0.5, 0.5), patients)
    assert gains["rsna_map"]["rsna_map"] == pytest.approx(0.5)
    assert 0.2 < gains["rsna_map"]["rsna_map_low"] < 0.5 < gains["rsna_map"]["rsna_map_high"] < 0.8
    assert gains["ap50"]["ap50_low"] > 0
    unseen = bench.box_gains(half, right, (0.5, 0.95), patients)
    assert unseen["rsna_map"]["rsna_map"] == pytest.approx(-0.5), "the detector shows none above its threshold"
    with pytest.raises(UserError, match="tested on different images"):
        bench.box_gains(half, {"0": right["0"]}, (0.5, 0.5), patients)


def test_boxes_of_other_films_lie_in_the_prepared_image(tmp_path: Path) -> None:
    for name in ("7_001.png", "8.png"):
        (tmp_path / name).write_bytes(png(noise(100, 200)))
    table = pd.DataFrame({"image": ["7_001.png", "7_001.png", "8.png"], "x": [0, 100, 50]})
    table.assign(y=0, width=50, height=100).to_csv(tmp_path / "boxes.csv", index=False)
    films = boxed_films.read(tmp_path, Preparation(size=40, aspect="squash", clip_limit=0.0))
    assert films.images.shape == (2, 40, 40)
    assert [one.tolist() for one in films.boxes] == [[[0, 0, 10, 40], [20, 0, 10, 40]], [[10, 0, 10, 40]]]
    assert films.patients.tolist() == ["7", "8"]
    assert films.lungs is None
    (tmp_path / "8.png").unlink()
    with pytest.raises(UserError, match=r"boxes\.csv names 1 files that are not there, the first 8\.png"):
        boxed_films.table_of(tmp_path)
    with pytest.raises(UserError, match=r"boxes\.csv is missing: other films need a table with the columns image"):
        boxed_films.table_of(tmp_path / "none")


class Toy:
    """Stands for the network of a project."""


def bright(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.nonzero(image > 200)
    if not len(rows):
        return np.zeros((0, 4)), np.zeros(0)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return np.array([box], np.float64), np.array([0.9])


def project(folder: Path, n: int = 24) -> Path:
    """A finished project: every second film has a bright square, whose box is known."""
    size, rows = 32, np.arange(n)
    truth = np.zeros((n, 1, 4), np.float32)
    images = np.full((n, size, size), 50, np.uint8)
    for row in rows[::2]:
        x, y = 2 + row % 10, 3 + row % 7
        truth[row, 0] = x, y, 12, 10
        images[row, y : y + 10, x : x + 12] = 255
    finished(folder, np.where(truth[:, 0, 2] > 0, 0.8, 0.2) + rows / 1000, FOUND)
    tables.write_json({"methods": {"occlusion": {}, "saliency": {}}}, folder / "reports/explain.json")
    (folder / "data").mkdir()
    made = store.create_store(
        folder / "data/images.zarr", {"preparation": asdict(Preparation(size=size, clip_limit=0.0))}
    )
    for split in ("train", "val", "test"):
        table = pd.DataFrame(
            {"image_id": [f"i{row}" for row in rows], "label": 1 - rows % 2, "weight": 1.0, "repeats": 1}
        )
        store.create_split(made, split, table, size=size, with_lungs=False)[0][:] = images
        image_boxes.write(made, split, truth)
    (folder / "models").mkdir()
    (folder / "models/model.keras").touch()
    return folder


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    def maps(model: Any, methods: list[str], images: NDArray[np.uint8], **_: Any) -> dict[str, NDArray[np.float32]]:
        shown = (images > 200).astype(np.float32)
        return {name: shown if name == "saliency" else shown[:, ::-1] for name in methods}

    monkeypatch.setattr(bench.loading, "load_model", lambda path: Toy())
    monkeypatch.setattr(bench.detector, "find", lambda model, images: [bright(image) for image in images[:]])
    monkeypatch.setattr(bench.scoring, "predict_scores", lambda model, images: np.full(len(images), 0.5))
    monkeypatch.setattr(bench.explain, "maps", maps)
    monkeypatch.setattr(bench.runtime, "start_keras", lambda: None)
    monkeypatch.setattr(bench, "SHARES", (0.5,))
    monkeypatch.setattr(bench, "N_RESAMPLES", 50)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["boxes", *map(str, arguments)])
    bench.main()


@pytest.mark.usefixtures("toys")
def test_all_options_together_print_and_keep_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (project(tmp_path / name) for name in ("one", "two"))
    film = np.full((32, 32), 50, np.uint8)
    film[5:15, 4:16] = 255
    (tmp_path / "a.png").write_bytes(png(film))
    table = pd.DataFrame({"image": ["a.png"], "x": [4], "y": [5], "width": [12], "height": [10]})
    table.to_csv(tmp_path / "boxes.csv", index=False)
    options = ["--classifier", one, two, "--saliency", two, "--films", tmp_path, "--output", tmp_path / "all.json"]
    call(monkeypatch, one, two, *options)
    kept = tables.read_json(tmp_path / "all.json")
    assert list(kept) == ["detectors", "auc_gain", "saliency", "films"]
    assert kept["auc_gain"]["mean"] == {"gain": 0.0, "low": 0.0, "high": 0.0, "n": 24}
    assert kept["saliency"]["choice"]["method"] == "saliency", "the other maps are upside down"
    assert kept["saliency"]["test"]["rsna_map"] == 1
    assert kept["saliency"]["gains"][str(one)]["rsna_map"]["rsna_map"] == 0, "both find all boxes"
    assert kept["films"][str(two)]["n_boxes"] == kept["films"][str(two)]["n_shown"] == 1
    assert "boxes around the maps of" in capsys.readouterr().out


@pytest.mark.usefixtures("toys")
def test_what_an_option_lacks_is_one_line_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = project(tmp_path / "done")
    monkeypatch.setattr(bench, "table", lambda runs: pytest.fail("has begun"))
    lines = {
        (tmp_path / "nope",): "nope/reports/evaluation.json is missing: finish the run with dvc repro evaluate",
        (done, "--classifier", tmp_path): "reports/predictions.csv is missing: finish the run with dvc repro evaluate",
        (done, "--saliency", tmp_path): "reports/explain.json is missing: finish the run with dvc repro explain",
        (done, "--films", tmp_path): "boxes.csv is missing: other films need a table",
    }
    for arguments, line in lines.items():
        with pytest.raises(SystemExit, match=re.escape(line)):
            call(monkeypatch, *arguments)
    (done / "models/model.keras").unlink()
    with pytest.raises(SystemExit, match=r"models/model\.keras is missing"):
        call(monkeypatch, done, "--saliency", done)


@pytest.mark.usefixtures("toys")
def test_a_mean_over_different_test_images_has_no_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [finished(tmp_path / str(n), scores(n, n, 0.2), FOUND) for n in (60, 50)]
    call(monkeypatch, *folders, "--classifier", *folders, "--output", tmp_path / "all.json")
    kept = tables.read_json(tmp_path / "all.json")["auc_gain"]
    assert kept["mean"] == {"gain": 0.0}
    assert kept["1"]["n"] == 60
    assert "nan" not in capsys.readouterr().out.lower()
