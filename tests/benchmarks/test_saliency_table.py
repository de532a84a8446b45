"""The benchmark of saliency methods measures what the stage `explain` measures."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import saliency
from pneumonia.data import lung_boxes, store, tables
from pneumonia.images.geometry import Box, Preparation
from pneumonia.models import loading


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
        lung_boxes.create(made, str(split), 1)
        made[f"{split}/{lung_boxes.NAME}"][:] = lung_boxes.as_rows([Box(90, 40, 100, 50)])
    boxes = splits[["image_id"]].assign(x=100, y=50, width=20, height=10)
    scored = splits[splits["split"] != "train"].assign(sha256="0", score=0.5)
    for name, table in {"data/splits": splits, "data/boxes": boxes, "reports/predictions": scored}.items():
        tables.write_table(table, tmp_path / f"{name}.csv")
    run = saliency.read(tmp_path)
    expected = np.zeros((100, 100), bool)
    expected[20:40, 10:30] = True
    np.testing.assert_array_equal(run.scored.boxes[0], expected)
    np.testing.assert_array_equal(run.train_boxes > 0, expected)
