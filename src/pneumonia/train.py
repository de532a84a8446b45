"""Train a network: where its backbone is pretrained the head first, then all of it. An interrupted fit can be resumed.

The validation split decides which epoch is kept; the test split is not used here. Progress is reported to a callable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError
from pneumonia.data.store import Pixels, Split
from pneumonia.models import backbones, networks, runtime, scoring
from pneumonia.training.batches import batches, epoch_rows
from pneumonia.training.callbacks import (
    Backup,
    EarlyStopping,
    KeepWeights,
    Progress,
    RunningAverage,
    StopOnDivergence,
    Validate,
    as_keras,
    load_weights,
    progress_bar,
    read_backup,
    restore,
    save_weights,
)
from pneumonia.training.features import Features, frozen_features
from pneumonia.training.optimizer import adamw, cross_entropy, warmup_cosine
from pneumonia.training.recipe import Recipe, ReportEpoch, Schedule, derived_seed


def start(
    name: str,
    weights: Sequence[Path],
    dropout: float,
    images: npt.NDArray[np.uint8] | Pixels,
    *,
    size: int | None = None,
    n_images: int = 512,
) -> Any:
    """A new network, ready for `fit`.

    Args:
        name: a key of `networks.MODELS`.
        weights: files of its backbone; none = random weights.
        dropout: share of channels dropped in training, 0-1.
        images: uint8 (n, height, width), of the train split.
        size: side of its input in pixels; None = that of its row in `MODELS`.
        n_images: number of images used for statistics that the weights lack, see `backbones.unfold`.
    """
    model = networks.create_model(name, weights=weights, dropout=dropout, size=size)
    if weights:
        backbones.unfold(model, images[:: max(1, len(images) // n_images)])
    return model


def check(train: Split, val: Split, recipe: Recipe) -> None:
    """Check that a network can learn from these splits, before time is spent on it.

    Raises:
        UserError: a split without both classes, weights of images that are negative or not finite, or a batch larger
            than an epoch.
    """
    for name, split in (("train", train), ("val", val)):
        if len(np.unique(split.labels)) < 2:
            raise UserError(f"split {name} has {len(split.labels)} images of one class; training needs both classes")
    weights = train.weights[train.repeats > 0]
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError(
            "split train has weights that are negative or not finite; dvc repro -f -s rebalance makes new ones"
        )
    n_images = int(train.repeats.sum())
    if n_images < recipe.batch_size:
        raise UserError(
            f"train.batch_size = {recipe.batch_size} is larger than the {n_images} images of an epoch; lower it"
        )


class Phase(NamedTuple):
    """Epochs of a fit in which the same layers learn.

    Attributes:
        name: `head`: on features of the frozen backbone; `all`: on images.
        part: keras.Model, the head or all of the model.
        first: number of epochs before the phase.
        last: number of epochs at its end.
        patience: of its `EarlyStopping`.
    """

    name: Literal["head", "all"]
    part: Any
    first: int
    last: int
    patience: int


def head_epochs(model: Any, recipe: Recipe, epochs: int) -> int:
    """Number of epochs in which only the head learns: none without a backbone, all where the backbone never learns."""
    body, _ = backbones.halves(model)
    if body is None:
        return 0
    if not body.trainable_weights or recipe.unfreeze == 0:
        return epochs
    return min(recipe.head_epochs, epochs)


def phases(model: Any, recipe: Recipe, schedule: Schedule) -> list[Phase]:
    """The one or two phases of a fit, in order."""
    epochs = schedule.epochs
    n_head = head_epochs(model, recipe, epochs)
    _, head = backbones.halves(model)
    patience = schedule.patience if recipe.keep == "best" else epochs
    both = (
        # Never stopped early where a phase follows: its epochs are few, and the next begins with a lower AUC.
        Phase("head", head, 0, n_head, patience if n_head == epochs else epochs),
        Phase("all", model, n_head, epochs, patience),
    )
    return [phase for phase in both if phase.first < phase.last]


def fit(
    model: Any,
    train: Split,
    val: Split,
    recipe: Recipe,
    schedule: Schedule,
    *,
    resume: Path | None = None,
    features: Features | None = None,
    report: ReportEpoch = lambda epoch, values: None,
    label: str = "train",
) -> pd.DataFrame:
    """Train `model` in place; it ends with the weights of its best epoch or of its last one, as the recipe says.

    A model with a pretrained backbone learns in two phases: first only the head, then the upper blocks of the backbone
    with it. A backbone that is built frozen stays frozen: it has the first phase only. All other models have the
    second phase only. In each phase the learning rate warms up over the first epoch and falls along a cosine to 0.

    After each epoch all that the next one depends on is written to `resume`. A call that finds it there continues from
    it, and ends with the same weights as an uninterrupted one, bit by bit.

    Args:
        model: as `start` makes it; the recipe is the one `for_weights` of its backbone.
        train, val: splits of the image store.
        recipe: how to train.
        schedule: epochs, patience, learning rate and seed.
        resume: existing folder that survives a crash, for these arguments only; the caller removes it once the model
            is saved. None = an interrupted fit cannot be resumed.
        features: as `frozen_features` computes them with this recipe and seed; None = computed here where needed.
        report: called after each epoch, not again for epochs of an earlier call.
        label: text of the progress bar.

    Returns:
        One row per epoch, with those of earlier calls: `epoch, loss, val_loss, val_auc, learning_rate, seconds`, and
        `kept`, true for the epoch whose weights the model has.

    Raises:
        UserError: as `check` says; a file in `resume` is damaged.
        DivergedError: the loss is not finite.
    """
    check(train, val, recipe)
    rows = epoch_rows(train)
    steps = len(rows) // recipe.batch_size
    stop = min(schedule.stop_after or schedule.epochs, schedule.epochs)
    history, arrays = read_backup(resume) if resume else ([], [])
    with (
        nullcontext(resume) if resume else tempfile.TemporaryDirectory() as folder,
        progress_bar(stop * steps, len(history) * steps, label, "batch") as bar,
    ):
        for phase in phases(model, recipe, schedule):
            if len(history) > phase.last:
                continue  # an earlier call was already in the next phase
            if phase.first >= stop:
                break
            if phase.name == "all":
                networks.unfreeze(model, recipe.unfreeze)
            peak = schedule.learning_rate if phase.name == "all" else schedule.head_learning_rate
            rate = warmup_cosine(peak or schedule.learning_rate, epochs=phase.last - phase.first, steps=steps)
            network = _compiled(model, phase, rate, recipe)
            n_done = len(history) - phase.first
            average = RunningAverage(network, recipe.average, step=n_done * steps)
            kept = Path(folder) / f"{phase.name}.weights.h5"
            if n_done:
                restore(network, average, arrays)
            elif phase.first:
                save_weights(model, kept)  # the best so far, from the phase before
            stopping = EarlyStopping(network, phase.patience, phase.first, history)
            last = min(phase.last, stop)
            if len(history) < last and not stopping.is_due():
                inputs: tuple[Any, Any] = (train.images, val.images)
                if phase.name == "head":
                    inputs = features or frozen_features(
                        model, train, val, recipe, epochs=phase.last, seed=schedule.seed
                    )
                callbacks = [
                    StopOnDivergence(),
                    average,
                    Validate(network, rate, partial(_scores, phase, inputs[1]), val.labels, average, history),
                    KeepWeights(phase.part, kept, recipe.keep, average, history),
                    Progress(bar, report, history),
                    stopping,
                ]
                if resume:
                    callbacks.append(Backup(resume, network, average, history))
                with runtime.fused_normalization():
                    network.fit(
                        batches(
                            inputs[0],
                            train,
                            rows,
                            recipe,
                            seed=schedule.seed,
                            size=networks.input_size(model),
                            first_epoch=len(history),
                        ),
                        steps_per_epoch=steps,
                        initial_epoch=len(history),
                        epochs=last,
                        shuffle=False,  # the stream is shuffled already
                        callbacks=as_keras(callbacks),
                        verbose=0,
                    )
            load_weights(phase.part, kept)
    table = pd.DataFrame(history)
    row = len(table) - 1 if recipe.keep == "last" else int(table["val_auc"].argmax())
    return table.assign(kept=np.arange(len(table)) == row)


def fit_members(
    make: Callable[[], Any],
    n: int,
    train: Split,
    val: Split,
    recipe: Recipe,
    schedule: Schedule,
    *,
    resume: Path | None = None,
    report: ReportEpoch = lambda epoch, values: None,
) -> tuple[list[Any], pd.DataFrame]:
    """Train the networks of an ensemble, which differ in their initial weights and in the order of the images.

    Args:
        make: returns a new network, as `start` does; called for each one after Keras has got its seed.
        n: number of networks; the first is the one that `fit` alone would train with this seed.
        train, val, recipe: as in `fit`.
        schedule: of each network; its seed is that of the first one, from which the seeds of the others are derived.
        resume: as in `fit`; each network has a folder in it.
        report: as in `fit`; epochs count on from one network to the next.

    Returns:
        The networks, from which `networks.ensemble` makes one; and the tables that `fit` returns, one after the other:
        `epoch` counts on, one epoch of each network is `kept`, and `member` is its number, from 1.
    """
    import keras

    members, histories, n_done = [], [], 0
    for number in range(1, n + 1):
        own = schedule._replace(seed=_member_seed(schedule.seed, number))
        keras.utils.set_random_seed(own.seed)
        members.append(make())
        folder = resume / f"member{number}" if resume else None
        if folder:
            folder.mkdir(exist_ok=True)
        history = fit(
            members[-1],
            train,
            val,
            recipe,
            own,
            resume=folder,
            report=_counted_on(report, n_done),
            label=f"train {number}/{n}" if n > 1 else "train",
        )
        histories.append(history.assign(epoch=history["epoch"] + n_done, member=number))
        n_done += len(history)
    return members, pd.concat(histories, ignore_index=True)


def _compiled(model: Any, phase: Phase, rate: Any, recipe: Recipe) -> Any:
    """A network that ends in the logit, with the layers that learn in a phase and their optimizer."""
    import keras

    # Another network than the model: what is compiled would be saved with its optimizer.
    inputs = model.get_layer("features").output if phase.name == "head" else model.input
    network = keras.Model(inputs, model.get_layer("logit").output)
    network.compile(
        optimizer=adamw(rate, recipe, networks.depths(model), network.trainable_variables),
        loss=cross_entropy(recipe.label_smoothing),
        jit_compile=False,  # on a CPU compiling costs more than it saves
    )
    network.optimizer.build(network.trainable_variables)
    return network


def _scores(phase: Phase, inputs: Any) -> npt.NDArray[np.float64]:
    """Probabilities, float64 (n,), from features (`head`) or from images (`all`)."""
    if phase.name == "head":
        return scoring.outputs(phase.part, inputs, batch_size=1024)[:, 0].astype(np.float64)
    return scoring.predict_scores(phase.part, inputs)


def _member_seed(seed: int, number: int) -> int:
    return seed if number == 1 else derived_seed(seed, number - 1)


def _counted_on(report: ReportEpoch, n_done: int) -> ReportEpoch:
    """Reports epochs as those after `n_done` others."""

    def count_on(epoch: int, values: Mapping[str, float]) -> None:
        report(n_done + epoch, values)

    return count_on
