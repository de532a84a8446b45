"""Networks as plain functions of numpy: what a method makes of known gradients and features needs no TensorFlow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.saliency import network

Array = NDArray[np.float32]


def give_features(patch: pytest.MonkeyPatch, *members: tuple[Any, Any]) -> None:
    """Every image has these features and gradients, (rows, columns, channels), one pair for each member."""
    pairs = [(np.asarray(values, np.float32), np.asarray(slopes, np.float32)) for values, slopes in members]
    patch.setattr(
        network,
        "features",
        lambda model: lambda batch: [(v[None].repeat(len(batch), 0), s[None].repeat(len(batch), 0)) for v, s in pairs],
    )


def give_function(
    patch: pytest.MonkeyPatch, logit: Callable[[Array], Any], gradient: Callable[[Array], Any] | None = None
) -> None:
    """A network by its logit and gradient, functions of (n, size, size)."""
    patch.setattr(network, "logits", lambda model: lambda batch: np.asarray(logit(batch[..., 0]), np.float32))
    if gradient:
        patch.setattr(network, "gradients", lambda model: lambda batch: np.asarray(gradient(batch[..., 0]), np.float32))


def films(n: int = 2, size: int = 32, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)
