"""The benchmark of boxes compares on the same images, and draws boxes where a map is bright."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from benchmarks import boxes as bench
from pneumonia import UserError
from pneumonia.data import tables
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
    images, truth, patients = bench.read_films(tmp_path, Preparation(size=40, aspect="squash", clip_limit=0.0))
    assert images.shape == (2, 40, 40)
    assert [one.tolist() for one in truth] == [[[0, 0, 10, 40], [20, 0, 10, 40]], [[10, 0, 10, 40]]]
    assert patients.tolist() == ["7", "8"]
