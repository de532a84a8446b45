"""Occlusion."""

import numpy as np
import pytest

from pneumonia.saliency import occlusion as module
from pneumonia.saliency.occlusion import occlusion
from tests.saliency import by_hand
from tests.saliency.conftest import OPTIONS


def test_occlusion_finds_the_one_patch_that_the_network_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logit is the gray level of a patch; only positions that cover it lower the logit."""
    by_hand.give_function(monkeypatch, lambda films: films[:, 20:24, 44:48].mean((1, 2)))
    films = np.full((2, 56, 56), 60, np.uint8)
    films[:, 20:24, 44:48] = 250
    maps = occlusion(None, films, **OPTIONS)
    np.testing.assert_array_equal(maps[0], maps[1])
    rows, columns = np.nonzero(maps[0] == maps[0].max())
    assert max(abs(rows.mean() - 21.5), abs(columns.mean() - 45.5)) <= 2
    assert maps[0][np.abs(np.arange(56) - 21.5) > 16].max() < 0.01


def test_a_patch_that_lowers_the_logit_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_function(monkeypatch, lambda films: -films[:, 20:24, 44:48].mean((1, 2)))
    films = np.full((1, 56, 56), 60, np.uint8)
    films[:, 20:24, 44:48] = 250
    assert occlusion(None, films, **OPTIONS).max() == 0


def test_all_pixels_away_from_the_border_are_covered_equally() -> None:
    covered = module._bells(56).sum(axis=0)[10:-10]
    assert covered.max() / covered.min() < 1.001
