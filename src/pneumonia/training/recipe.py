"""Values and types of a fit: what is told to it, and the error it may end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pneumonia import UserError

ReportEpoch = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number, from 1, and its metrics. It may raise to stop the fit."""

Measure = Callable[[], Mapping[str, float]]
"""Called after each epoch for further figures of the network, on validation."""


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all the numbers, such as a seed and the place of a network among several.

    >>> derived_seed(1, 2) == derived_seed(1, 2), derived_seed(1, 2) == derived_seed(2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class DivergedError(UserError):
    """The loss of a fit is not finite: the learning rate is too high, or the weight of an image is extreme."""


class Recipe(NamedTuple):
    """How a network is trained, without what is searched for; section `train` of params.yaml.

    Attributes:
        batch_size: images per step.
        image_size: side of the network's input in pixels; None = that of its row in `MODELS`.
        weight_decay: of AdamW.
        crop: smallest share of the area that a random crop of a train image keeps, as in `augmentation.crop`; 1 = no
            crops.
        flip: whether train images are mirrored at random, left to right.
        hide_edges: fraction of the images of which a corner or the border is hidden, 0-1.
        augment: fraction of the images that are distorted, 0-1.
        strength: factor of the distortion, as in `augmentation.distort`.
        mixup: alpha of `augmentation.mixup`; 0 = no mixup.
        label_smoothing: share of one half in each label, 0-1.
        average: decay of the running average of all weights, see `callbacks.RunningAverage`. Validation and the final
            model use the average; 0 = the weights themselves.
        keep: the epoch whose weights a fit ends with: `best` on validation, or `last`. `last` is for data on which
            nearly every epoch has a perfect validation AUC, so that the choice of the best one is chance.
        head_epochs: epochs in which only the head learns, on features that the pretrained backbone computes once.
        copies: versions of each train image with different distortions; these epochs use their features in turn.
        unfreeze: share of the backbone's blocks, from the top, that learn after these epochs, 0-1.
        layer_decay: factor of the learning rate from each block of the backbone to the block below it, 0-1.
        box_weight: factor of the loss of the boxes, beside that of the image; only of a detector.
    """

    batch_size: int
    image_size: int | None
    weight_decay: float
    crop: float
    flip: bool
    hide_edges: float
    augment: float
    strength: float
    mixup: float
    label_smoothing: float
    average: float
    keep: Literal["best", "last"]
    head_epochs: int
    copies: int
    unfreeze: float
    layer_decay: float
    box_weight: float

    def with_values(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with those of the values that are its fields, such as what a search found."""
        return self._replace(**{key: value for key, value in values.items() if key in self._fields})

    def for_weights(self, weights: Sequence[object]) -> Recipe:
        """The recipe as it is for pretrained weights; without any, all layers learn from the first epoch, at one rate.

        Args:
            weights: files of the backbone; empty = random weights.
        """
        return self if weights else self._replace(head_epochs=0, unfreeze=1.0, layer_decay=1.0)


class Schedule(NamedTuple):
    """What differs from one fit with a recipe to the next.

    Attributes:
        epochs: maximum number of epochs, of both phases together.
        patience: epochs of the last phase without a better validation AUC after which a fit with `keep: best` stops.
        learning_rate: peak of AdamW's learning rate.
        seed: of the order of the images and of their augmentation. The initial weights are the caller's.
        head_learning_rate: the peak while only the head learns; None = `learning_rate`.
        stop_after: epochs after which the fit ends, on its way along the schedule; None = all of them.
    """

    epochs: int
    patience: int
    learning_rate: float
    seed: int
    head_learning_rate: float | None = None
    stop_after: int | None = None
