"""The saliency methods: one row of `METHODS` each, and what of the network each one needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pneumonia.saliency import (
    detector_map,
    grad_cam,
    gradient_x_input,
    hires_cam,
    integrated_gradients,
    layer_cam,
    occlusion,
    smoothgrad,
)
from pneumonia.saliency.maps import Maps

METHODS: dict[str, Callable[..., Maps]] = {
    "hires_cam": hires_cam.hires_cam,
    "layer_cam": layer_cam.layer_cam,
    "grad_cam": grad_cam.grad_cam,
    "integrated_gradients": integrated_gradients.integrated_gradients,
    "smoothgrad": smoothgrad.smoothgrad,
    "gradient_x_input": gradient_x_input.gradient_x_input,
    "occlusion": occlusion.occlusion,
    "detector_map": detector_map.detector_map,
}

NEEDS = {
    "hires_cam": "features",
    "layer_cam": "features",
    "grad_cam": "features",
    "integrated_gradients": "gradients",
    "smoothgrad": "gradients",
    "gradient_x_input": "gradients",
    "occlusion": "logits",
    "detector_map": "cells",
}
"""Of each method the function of `network` that it calls; only a detector has `cells`."""

SEED = 0
"""Of the noise of a method: the same film has the same map in every run and at every prediction."""


def fitting(model: Any) -> list[str]:
    """The names of the methods that a Keras network has all parts for."""
    from pneumonia.models import detector

    return [name for name in METHODS if NEEDS[name] != "cells" or detector.is_detector(model)]
