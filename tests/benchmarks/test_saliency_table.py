"""The benchmark of saliency methods measures what the stage `explain` measures."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from benchmarks import bench, saliency
from pneumonia import UserError, explain
from pneumonia.data import lung_boxes, store, tables
from pneumonia.images.geometry import Box, Preparation
from pneumonia.models import loading
from pneumonia.saliency.methods import METHODS
from tests.conftest import noise, png


def test_boxes_follow_the_lungs_around_which_the_images_were_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda path: None)
    for folder in ("data", "reports"):
        (tmp_path / folder).mkdir()
    how = Preparation(size=100, aspect="lungs", margin=0.0)
    made = store.create_store(tmp_path / "data/images.zarr", {"preparation": asdict(how)})
    splits = pd.DataFrame({"image_id": ["a", "b", "c"], "split": tables.SPLITS, "label": 1})
    splits = splits.assign(patient_id=splits["image_id"], weight=1.0, repeats=1, width=400, height=200)
    for split, part in splits.groupby("split"):
        store.create_split(made, str(split), part, size=100, with_lungs=False)
        lung_boxes.create(made, str(split), 1, with_boxes=True)
        made[f"{split}/{lung_boxes.NAME}"][:] = lung_boxes.as_rows([(Box(90, 40, 100, 50), 0.2)])
    boxes = splits[["image_id"]].assign(x=100, y=50, width=20, height=10)
    scored = splits[splits["split"] != "train"].assign(sha256="0", score=0.5)
    for name, table in {"data/splits": splits, "data/boxes": boxes, "reports/predictions": scored}.items():
        tables.write_table(table, tmp_path / f"{name}.csv")
    run = saliency.read(tmp_path)
    expected = np.zeros((100, 100), bool)
    expected[20:40, 10:30] = True
    np.testing.assert_array_equal(run.scored.boxes[0], expected)
    np.testing.assert_array_equal(run.train_boxes > 0, expected)


def finished(model: int, films: NDArray[np.uint8], size: int = 64) -> saliency.Run:
    """A run whose network is only a number."""
    nothing = np.zeros(films.shape, bool)
    sample = explain.Sample(films, np.arange(len(films)).astype(str).astype(object), nothing, nothing)
    return saliency.Run(model, Preparation(size=size), sample, sample, sample, np.zeros(films.shape[1:], np.float32))


def test_networks_with_the_same_maps_repeat_each_other_and_those_with_opposite_maps_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        METHODS, "occlusion", lambda model, images, **_: (images if model else 255 - images).astype(np.float32)
    )
    films = np.stack([noise(64, 64, seed) for seed in range(3)])
    table = saliency.repeatability([finished(model, films) for model in (1, 1, 0)], ["occlusion"])
    (row,) = table.to_dict("records")
    assert row["method"] == "occlusion"
    assert (row["highest pair"], row["lowest pair"]) == pytest.approx((1, -1))
    assert (row["correlation"], row["n"]) == (pytest.approx(-1 / 3), 3)
    with pytest.raises(UserError, match="prepare their films in different ways"):
        saliency.repeatability([finished(1, films), finished(1, films, size=32)], ["occlusion"])


def test_other_films_are_prepared_as_those_of_the_run_with_their_boxes(tmp_path: Path) -> None:
    for name in ("7_001.png", "7_002.png", "8.png"):
        (tmp_path / name).write_bytes(png(noise(100, 200)))
    boxes = pd.DataFrame({"image": ["7_001.png", "7_001.png", "7_002.png", "8.png"], "x": [0, 100, 0, 50]})
    boxes.assign(y=0, width=50, height=100).to_csv(tmp_path / "boxes.csv", index=False)
    films = saliency.read_films(tmp_path, Preparation(size=40, aspect="squash", clip_limit=0.0))
    assert films.images.shape == films.boxes.shape == films.lungs.shape == (3, 40, 40)
    assert films.patients.tolist() == ["7", "7", "8"]
    assert films.boxes.any(axis=1)[0].tolist() == 2 * [*[True] * 10, *[False] * 10]
    assert films.boxes.any(axis=1)[2].tolist() == [*[False] * 10, *[True] * 10, *[False] * 20]
    assert not films.lungs.any(), "there are none in noise"


def test_each_network_has_the_methods_that_fit_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = {1: ["occlusion", "detector_map"], 2: ["occlusion"]}
    films = np.stack([noise(64, 64, seed) for seed in range(2)])
    tables_of: dict[int, list[str]] = {}

    def table_of(run: saliency.Run, methods: list[str]) -> tuple[dict[str, float], str]:
        tables_of[run.model] = methods
        return {}, ""

    monkeypatch.setattr(saliency, "fitting", fits.get)
    monkeypatch.setattr(saliency, "read", lambda folder: finished(int(folder.name), films))
    monkeypatch.setattr(saliency, "_table_of", table_of)
    monkeypatch.setattr(saliency.runtime, "start_keras", lambda seed: None)
    monkeypatch.setitem(METHODS, "occlusion", lambda model, images, **_: images.astype(np.float32))
    monkeypatch.setattr(sys, "argv", ["saliency", "1", "2"])
    saliency.main()
    assert tables_of == fits
    compared = capsys.readouterr().out.partition("networks of other seeds")[2]
    assert "occlusion" in compared
    assert "detector_map" not in compared


def test_without_a_finished_run_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bench.BENCHES["saliency"]()
    assert capsys.readouterr().out == "saliency: no finished run in this folder, skipped; make repro makes one\n"
