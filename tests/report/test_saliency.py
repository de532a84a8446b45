"""The folder of saliency pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.names import file_name
from pneumonia.report import saliency


@pytest.mark.slow  # the first figure of a process takes seconds
@pytest.mark.parametrize("by_network", [True, False])
def test_each_image_is_found_by_its_id_and_the_page_says_whose_lungs_are_drawn(
    tmp_path: Path, by_network: bool
) -> None:
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
    boxes, title = {"c": np.ones((1, 4))}, "compact on phantom"
    index = saliency.write(
        tmp_path, shown, images, images > 90, maps, boxes, means, explained, 0.5, title, by_network=by_network
    )
    assert index["picture"].tolist() == [file_name("a/b.png", ".png"), "", file_name("d", ".png")]
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    sheets = [f"sheets/{name}.png" for name in ("false_negative", "mean", "true_negative", "true_positive")]
    assert written == sorted([*filter(None, index["picture"]), "index.csv", "index.html", *sheets])
    assert pd.read_csv(tmp_path / "index.csv", keep_default_na=False)["picture"].tolist() == index["picture"].tolist()
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "HiResCAM" in page
    assert ("a network found them" in page) == by_network
