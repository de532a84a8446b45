"""Who learns boxes, asked in one place."""

from typing import Any

import pytest

from pneumonia import UserError
from pneumonia.models import boxed, networks
from pneumonia.saliency.methods import NEEDS


@pytest.mark.parametrize(
    ("box_weight", "space", "some", "all_"),
    [
        (0.5, None, True, True),
        (0.0, {"dropout": [0.0, 0.1]}, False, False),
        (0.0, {"box_weight": [0.0, 0.5]}, True, False),
        (0.5, {"box_weight": {"low": 0.0, "high": 1.0}}, True, False),
        (0.0, {"box_weight": {"low": 0.1, "high": 1.0}}, True, True),
    ],
)
def test_boxes_are_learnt_by_a_detector_whose_boxes_have_a_weight(
    box_weight: float, space: dict[str, Any] | None, some: bool, all_: bool
) -> None:
    assert boxed.learns_boxes("detector", box_weight, space) is some
    assert boxed.learns_boxes("detector", box_weight, space, always=True) is all_
    assert not boxed.learns_boxes("mobilenet", box_weight, space)


def test_the_map_of_boxes_needs_a_network_that_learns_them() -> None:
    methods = ["hires_cam", "detector_map"]
    boxed.require_for_maps(methods[:1], "mobilenet", 0.5, None)
    boxed.require_for_maps(methods, "detector", 0.0, {"box_weight": [0.0, 0.5]})
    for model, weight, why in (("mobilenet", 0.5, "model = mobilenet"), ("detector", 0.0, r"train\.box_weight = 0")):
        with pytest.raises(UserError, match=rf"^explain\.methods has detector_map, and with {why} no box is learnt; l"):
            boxed.require_for_maps(methods, model, weight, {"dropout": [0.0, 0.1]})


def test_the_names_are_those_of_the_tables() -> None:
    assert boxed.DETECTOR in networks.MODELS
    assert [name for name, part in NEEDS.items() if part == "cells"] == [boxed.MAP]
