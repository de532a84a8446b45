"""The model in service, which follows its alias: a new champion answers without a restart."""

from __future__ import annotations

import io
import json
import logging
import math
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from pneumonia import UserError, predict, reason
from pneumonia.data import targets
from pneumonia.models.predictor import Predictor, remedy

POLL_SECONDS = 5.0

LOG = logging.getLogger("pneumonia.service")


class Model(NamedTuple):
    """A model that has passed the self-test.

    Attributes:
        source: its folder, version and train run.
        predictors: by operating point.
        operating_point: of the answers, if a request names none.
    """

    source: predict.Source
    predictors: Mapping[str, Predictor]
    operating_point: str

    @property
    def predictor(self) -> Predictor:
        """That of the default operating point."""
        return self.predictors[self.operating_point]

    @property
    def title(self) -> str:
        """For the log."""
        origin = self.predictor.origin
        version = origin["version"]
        version = f"version {version}, " if version.isdigit() else f"{version}, " if version else ""
        return f"{version}predictor {origin['model']} ({self.predictor.facts['model']} on {origin['data']})"


class Current:
    """The model in service.

    Args:
        name: a folder, `pretrained:NAME`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        operating_point: of the answers, if a request names none.
        poll_seconds: between two looks at the alias.

    Raises:
        UserError: no such model, or one that fails the self-test.
    """

    def __init__(self, name: str, operating_point: str, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._name, self._operating_point, self._poll_seconds = name, operating_point, poll_seconds
        self._problem = ""
        self._stop = threading.Event()
        self.model = open_model(predict.resolve(name), operating_point)

    def follow(self) -> None:
        """Look at the alias from time to time, in a thread; a folder or a version cannot change."""
        if self._name.startswith("models:/") and "@" in self._name:
            threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.look()

    def look(self) -> None:
        """Take the model to which the alias points now, if it is another one and passes the self-test."""
        try:
            source = predict.resolve(self._name)
            model = self.model if source == self.model.source else open_model(source, self._operating_point)
        except Exception as error:  # the store may fail in any way; the present model goes on
            self._say(str(error) if isinstance(error, UserError) else reason(error))
            return
        self._problem = ""
        if model is not self.model:
            self.model = model
            LOG.warning("now in service: %s", model.title)

    def _say(self, problem: str) -> None:
        """Log a problem once, not every few seconds."""
        if problem != self._problem:
            LOG.warning("%s stays in service: %s", self.model.title, problem)
        self._problem = problem


def open_model(source: predict.Source, operating_point: str) -> Model:
    """A model, opened and tested.

    Raises:
        UserError: it cannot be opened, or fails the self-test.
    """
    first = Predictor(
        source.folder, operating_point=operating_point, version=source.version, threads=1, only_bytes=True
    )
    predictors = {operating_point: first}
    for name in first.facts["operating_points"]:
        if name != operating_point:
            predictors[name] = Predictor(
                source.folder, operating_point=name, version=source.version, threads=1, only_bytes=True
            )
    model = Model(source, predictors, operating_point)
    self_test(model)
    return model


def self_test(model: Model) -> None:
    """Check that a model answers for its input example, and the same twice.

    Raises:
        UserError: it does not.
    """
    for predictor in model.predictors.values():
        first, second = predictor.scores([example()] * 2)
        if first.error or not math.isfinite(first.probability) or first[1:] != second[1:]:
            raise UserError(
                f"{model.source.folder} fails its self-test ({first.error or 'two answers for one image differ'}); "
                f"{remedy(model.source.folder, 'export the model again')}"
            )
    try:
        json.dumps(model.predictor.facts, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{model.source.folder} fails its self-test (a fact is no number); export it again") from error


def example() -> bytes:
    """The input example of a registered version: a gray picture of 64 pixels as PNG."""
    content = io.BytesIO()
    Image.new("L", (64, 64), 128).save(content, "PNG")
    return content.getvalue()


def describe(model: Model) -> dict[str, Any]:
    """What a client should know of a model: the facts of `predictor.json` without its numbers for the network."""
    predictor = model.predictor
    facts = predictor.facts
    target = targets.of(facts)
    origin = predictor.origin
    return {
        "model": origin["model"],
        "version": origin["version"],
        "data": facts["data"],
        "caution": origin["caution"],
        "advice": predict.advice(predictor),
        "synthetic": facts["synthetic"],
        "target": facts["target"],
        "finding": target.finding,
        "limit": target.limit,
        "labels": facts["labels"],
        "network": facts["model"],
        "weights": facts["weights"],
        "operating_point": model.operating_point,
        "operating_points": facts["operating_points"],
        "figures": facts["figures"],
        "learnt_from": facts["learnt_from"],
        "unusual": bool(facts["unusual"]),
        "boxes": facts["boxes"],
    }
