"""The page of answers says what the numbers mean, and how far to trust them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia.models.predictor import DEFAULTS
from pneumonia.report import answers
from tests.conftest import png

FACTS: dict[str, Any] = DEFAULTS | {
    "model": "compact",
    "operating_points": {"youden": {"sensitivity": 0.908, "specificity": 0.75}},
    "figures": {
        "val": {"n": 200, "n_positive": 150, "auc": 0.95},
        "test": {"n": 160, "n_positive": 120, "auc": 0.912, "auc_low": 0.85, "auc_high": 0.96},
    },
    "learnt_from": {"title": "films of a hospital", "n_images": 5232},
}
ORIGIN = {"model": "0123456789ab", "version": "3", "data": "chest_xray", "caution": DEFAULTS["caution"]}
FILM = png(np.full((20, 20), 90, np.uint8))


def written(tmp_path: Path, n_images: int = 1, **facts: Any) -> str:
    path = tmp_path / "page.html"
    row = ("a.png", "normal", "30 %", "40 %", "")
    notes = ["answered by version 3"]
    answers.write(path, FACTS | facts, ORIGIN, "youden", [row], [("a.png: normal", FILM)], n_images, notes)
    return path.read_text()


def test_the_page_says_prevalence_and_test_figures(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "calibrated on 200 validation images, of which 75% show pneumonia" in text
    assert "test AUC is 0.912 [0.850, 0.960]" in text
    assert "of 160 test images of the same source, 91% of those with pneumonia and 75% of the others" in text
    assert "threshold (youden)" in text
    for fact in (
        "Answered by version 3.",
        "films of a hospital",
        "5,232",
        "0123456789ab",
        "Not a medical device",
        "data:image/png;base64,",
    ):
        assert fact in text


def test_a_page_of_a_part_says_of_how_many(tmp_path: Path) -> None:
    assert "The first 1 of 300 images." in written(tmp_path, n_images=300)
    assert "The first" not in written(tmp_path)


def test_a_model_of_synthetic_images_says_so_in_the_title(tmp_path: Path) -> None:
    text = written(tmp_path, synthetic=True)
    assert "<h1>Answers of a model of synthetic radiographs</h1>" in text
    assert "has never seen a patient" in text
    assert "calibrated" not in text
    assert "synthetic" not in written(tmp_path)


@pytest.mark.parametrize("missing", ["figures", "learnt_from"])
def test_facts_that_a_predictor_lacks_are_left_out(tmp_path: Path, missing: str) -> None:
    assert "None" not in written(tmp_path, **{missing: {}})
