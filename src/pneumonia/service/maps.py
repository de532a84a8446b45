"""Saliency maps as pictures that a page can lay over a film. Those of some models need TensorFlow."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia import UserError, predict, reason, workspace
from pneumonia.models.predictor import MAPS
from pneumonia.saliency import maps, methods
from pneumonia.service.current import Model
from pneumonia.service.limits import RefusedError

_NOT_LOADED = "the network for maps cannot be loaded; the log of the service says why"
_AGAIN_SECONDS = 60
"""After a network that could not be loaded: the store may come back, but the service does not ask it at once."""

LOG = logging.getLogger("pneumonia.service")


def problem(model: Model) -> str:
    """Why there are no maps of a model, for its users; empty if there are. A store is not asked."""
    facts = model.predictor.facts
    if cause := predict.no_maps(facts):
        return cause
    if "method" not in facts["saliency"]:
        return "the predictor names no method for maps; export it again"
    if MAPS in facts["digests"]:
        return ""
    if find_spec("tensorflow") is None:
        return "TensorFlow, which computes the maps of this model, is not installed where the service runs"
    if not model.source.train_run:
        file, digest = predict.network_beside(model.source.folder), facts["digests"].get("model_sha256")
        if not file.is_file() or _digest(file, file.stat().st_size, file.stat().st_mtime_ns) != digest:
            return f"the Keras network of this predictor, {file.name}, is not beside its folder"
    return ""


@lru_cache(maxsize=4)
def _digest(file: Path, size: int, modified: int) -> str:
    """The digest of a file of this size and time: every page asks for it."""
    return workspace.sha256_file(file)


class Maps:
    """Maps of the model in service, whose network is loaded for the first of them.

    Not for several threads at once: TensorFlow would compile the same function in each.
    """

    def __init__(self) -> None:
        self._source: predict.Source | None = None
        self._network: Any = None
        self._failed: tuple[predict.Source, float] | None = None

    def problem(self, model: Model) -> str:
        """Why there are no maps of a model; also that its network could not be loaded, for a minute."""
        if self._failed and self._failed[0] == model.source and time.monotonic() < self._failed[1]:
            return _NOT_LOADED
        return problem(model)

    def draw(self, model: Model, content: bytes) -> bytes:
        """The map of an image file as PNG: (size, size) in RGBA, its colours those of inferno, its alpha the values.

        Raises:
            UserError: the file cannot be read.
            RefusedError: 503, there are no maps of this model.
        """
        prepared = model.predictor.prepare(content)
        if self._source != model.source:
            try:
                self._network = _load(model)
            except RefusedError:
                self._failed = model.source, time.monotonic() + _AGAIN_SECONDS
                raise
            self._source = model.source
        method = methods.METHODS[model.predictor.facts["saliency"]["method"]]
        (values,) = method(self._network, prepared[None], n_samples=predict.N_SAMPLES, seed=methods.SEED)
        return png(coloured(values))


def _load(model: Model) -> Any:
    if cause := problem(model):
        raise RefusedError(503, f"no map: {cause}")
    try:
        return predict.load_network(model.source, model.predictor, threads=1)
    except Exception as error:  # of the store, of TensorFlow, of a full disk
        LOG.warning("no maps: %s", error if isinstance(error, UserError) else reason(error))
        raise RefusedError(503, f"no map: {_NOT_LOADED}") from error


def coloured(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A map as a picture: uint8 (size, size, 4), in the order of OpenCV (BGRA).

    Args:
        values: (size, size), 0-1.
    """
    return np.dstack([maps.coloured(values), maps.levels(values)])


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """An image as a PNG file."""
    return bytes(cv2.imencode(".png", image)[1].tobytes())
