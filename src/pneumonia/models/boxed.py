"""Which networks learn boxes. Not in `networks`, because `fetch` asks too, and must not run again with each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pneumonia import UserError

DETECTOR = "detector"
"""The key of `networks.MODELS` whose network has heads for boxes."""

MAP = "detector_map"
"""The saliency method that needs them."""


def learns_boxes(
    model: str, box_weight: float, space: Mapping[str, Any] | None = None, *, always: bool = False
) -> bool:
    """Whether a network learns boxes: it is a detector, and its boxes have a weight.

    Args:
        model: a key of `networks.MODELS`.
        box_weight: that of the recipe.
        space: of a search, whose `box_weight`, if it has one, counts in place of that of the recipe.
        always: whether all networks of the space do, not only some.

    >>> learns_boxes("detector", 0.5), learns_boxes("detector", 0.0), learns_boxes("mobilenet", 0.5)
    (True, False, False)
    """
    choice = (space or {}).get("box_weight", [box_weight])
    weights = [choice["low"], choice["high"]] if isinstance(choice, Mapping) else choice
    return bool(model == DETECTOR and (min(weights) if always else max(weights)) > 0)


def require_for_maps(methods: Sequence[str], model: str, box_weight: float, space: Mapping[str, Any] | None) -> None:
    """Check before hours of training that a network may have the boxes of which a map is asked for.

    Args:
        methods: as in `explain.methods`.
        model, box_weight, space: as in `learns_boxes`.

    Raises:
        UserError: `MAP` is among the methods, and no network learns boxes.
    """
    if MAP in methods and not learns_boxes(model, box_weight, space):
        why = "train.box_weight = 0" if model == DETECTOR else f"model = {model}"
        raise UserError(f"explain.methods has {MAP}, and with {why} no box is learnt; leave it out")
