"""The folder of saliency pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.names import file_name
from pneumonia.report import saliency


@pytest.mark.slow  # the first figure of a process takes seconds
def test_each_image_is_found_by_its_id(tmp_path: Path) -> None:
    shown = pd.DataFrame(
        {
            "image_id": ["a/b.png", "c", "d"],
            "label": [1, 1, 0],
            "subtype": ["virus", "bacteria", "normal"],
            "score": [0.2, 0.9, 0.1],
            "outcome": ["false_negative", "true_positive", "true_negative"],
            "drawn": [True, False, True],
        }
    )
    images = np.random.default_rng(1).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    maps = {"hires_cam": np.random.default_rng(2).random((3, 48, 48)).astype(np.float32)}
    explained = {"default": "hires_cam", "methods": {"hires_cam": {"verdict": "cannot be told (n = 3)"}}}
    means = {"true_positive": (maps["hires_cam"][1], 1)}, "frame: the whole film"
    explained["lungs"] = {"human": 3}  # of the scored images, none of which is in the gallery
    boxes, origins, title = {"c": np.ones((1, 4))}, {"a/b.png": "human", "c": "found"}, "compact on phantom"
    index = saliency.write(tmp_path, shown, images, images > 90, maps, boxes, means, explained, 0.5, title, origins)
    assert index["picture"].tolist() == [file_name("a/b.png", ".png"), "", file_name("d", ".png")]
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    sheets = [f"sheets/{name}.png" for name in ("false_negative", "mean", "true_negative", "true_positive")]
    assert written == sorted([*filter(None, index["picture"]), "index.csv", "index.html", *sheets])
    assert pd.read_csv(tmp_path / "index.csv", keep_default_na=False)["picture"].tolist() == index["picture"].tolist()
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "HiResCAM" in page
    assert "a network found them" in page
