"""Train a network: where its backbone is pretrained the head first, then all of it. An interrupted fit can be resumed.

The validation split decides which epoch is kept; the test split is not used here. Progress is reported to a callable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError
from pneumonia.data import image_boxes
from pneumonia.data.store import Split
from pneumonia.models import backbones, boxed, detector, networks, runtime, scoring
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
from pneumonia.training.recipe import Measure, Recipe, ReportEpoch, Schedule, derived_seed

FoldRun = Callable[[int, Path | None], AbstractContextManager[ReportEpoch]]
"""Opened around the fit of each network with its number and its folder, as `fit_folds` says; its value is called after
each epoch."""


def start(
    name: str,
    weights: Sequence[Path],
    dropout: float,
    train: Split,
    *,
    size: int | None = None,
    n_images: int = 512,
    box_weight: float,
) -> Any:
    """A new network, ready for `fit`.

    Args:
        name: a key of `networks.MODELS`.
        weights: files of its backbone; none = random weights.
        dropout: share of channels dropped in training, 0-1.
        train: the split that it will learn from.
        size: side of its input in pixels; None = that of its row in `MODELS`.
        n_images: number of images used for statistics that the weights lack, see `backbones.unfold`.
        box_weight: that of the recipe; without a weight a detector learns no boxes, and is a classifier.
    """
    model = networks.create_model(name, weights=weights, dropout=dropout, size=size)
    if name == boxed.DETECTOR and not boxed.learns_boxes(name, box_weight):
        model = detector.without_boxes(model)
    if weights:
        rows = np.flatnonzero(train.repeats)  # not those of its own fold
        backbones.unfold(model, train.images[rows[:: max(1, len(rows) // n_images)]])
    return model


FEW_BOXES = 8
"""Train images with boxes; with fewer a note is printed."""


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


def check_boxes(train: Split, recipe: Recipe) -> None:
    """Check that a detector can learn from a split, before time is spent on it.

    Raises:
        UserError: no train image has boxes, or images would be mixed.
    """
    if not n_with_boxes(_of_an_epoch(train)):
        raise UserError(
            "model = detector needs boxes, and data/boxes.csv has none for the train images; dvc repro -f -s fetch "
            "reads those that were drawn since; or take another model, or images with boxes (docs/detector.md)"
        )
    if recipe.mixup:
        raise UserError(f"train.mixup = {recipe.mixup} mixes two images, whose boxes cannot be mixed; set it to 0")


def notes_on_boxes(train: Split, val: Split) -> list[str]:
    """What a person should know about the boxes of a detector: sentences, none with enough of them."""
    notes = []
    if (n := n_with_boxes(_of_an_epoch(train))) < FEW_BOXES:
        notes.append(f"only {n} train image{'s' * (n > 1)} with boxes: a detector hardly learns where to look")
    if not n_with_boxes(val.boxes):
        notes.append(
            "no validation image with boxes: the least score of a shown box is 0.5 instead of chosen, and no figure of "
            "boxes is computed; boxes of more patients help (docs/detector.md)"
        )
    return notes


def n_with_boxes(boxes: image_boxes.Boxes | None) -> int:
    """Number of images with a box."""
    return 0 if boxes is None else int((np.nan_to_num(boxes[..., 2]) > 0).any(axis=1).sum())


def _of_an_epoch(train: Split) -> image_boxes.Boxes | None:
    return None if train.boxes is None else train.boxes[train.repeats > 0]


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
    measure: Measure = dict,
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
        measure: gives further columns; they have no effect on the fit.
        report: called after each epoch, not again for epochs of an earlier call.
        label: text of the progress bar.

    Returns:
        One row per epoch, with those of earlier calls: `epoch, loss, val_loss, val_auc, learning_rate, seconds`, and
        `kept`, true for the epoch whose weights the model has.

    Raises:
        UserError: as `check` says, of a detector as `check_boxes` says; a file in `resume` is damaged.
        DivergedError: the loss is not finite.
    """
    check(train, val, recipe)
    boxes = train.boxes if detector.is_detector(model) else None
    if detector.is_detector(model):
        check_boxes(train, recipe)
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
            network = _compiled(model, phase, rate, recipe, with_boxes=boxes is not None)
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
                    Validate(network, rate, partial(_scores, phase, inputs[1]), val.labels, average, history, measure),
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
                            boxes=boxes,
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


def fit_folds(
    make: Callable[[Split], Any],
    n: int,
    splits: Iterable[tuple[Split, Split]],
    recipe: Recipe,
    schedule: Schedule,
    *,
    resume: Path | None = None,
    run: FoldRun = lambda fold, folder: nullcontext(lambda epoch, values: None),
) -> tuple[list[Any], pd.DataFrame]:
    """Train a network for each fold; they differ in what they learn from, in initial weights and order of the images.

    Args:
        make: returns a new network for a train split, as `start` does; called after Keras has got its seed.
        n: number of networks; 1 = a single one with a validation split.
        splits: n pairs of a train and a validation split, as `store.read_folds` reads them.
        recipe: as in `fit`.
        schedule: of each network; its seed is that of the first one, from which the seeds of the others are derived.
        resume: as in `fit`; each network has a folder in it.
        run: opened around the fit of each network.

    Returns:
        The networks, from which `ensembles.ensemble` makes one; and the tables that `fit` returns, one after the other:
        `epoch` counts on and, with several networks, `fold` is the number of the network, from 0. One epoch of each
        network is `kept`.
    """
    import keras

    models, histories, n_done = [], [], 0
    for fold, (train, val) in enumerate(splits):
        own = schedule._replace(seed=derived_seed(schedule.seed, fold) if fold else schedule.seed)
        keras.utils.set_random_seed(own.seed)
        models.append(make(train))
        folder = resume / f"fold{fold}" if resume else None
        if folder:
            folder.mkdir(exist_ok=True)
        label = f"fold {fold} of {n}" if n > 1 else "train"
        with run(fold, folder) as report:
            history = fit(models[-1], train, val, recipe, own, resume=folder, report=report, label=label)
        histories.append(history.assign(epoch=history["epoch"] + n_done, **({"fold": fold} if n > 1 else {})))
        n_done += len(history)
    return models, pd.concat(histories, ignore_index=True)


def _compiled(model: Any, phase: Phase, rate: Any, recipe: Recipe, *, with_boxes: bool) -> Any:
    """A network that ends in the logit, with the layers that learn in a phase and their optimizer.

    With boxes it has the cells of a detector as its second output.
    """
    import keras

    # Another network than the model: what is compiled would be saved with its optimizer.
    inputs = model.get_layer("features").output if phase.name == "head" else model.input
    of_image = cross_entropy(recipe.label_smoothing)
    network = keras.Model(inputs, detector.trained_outputs(model) if with_boxes else model.get_layer("logit").output)
    network.compile(
        optimizer=adamw(rate, recipe, networks.depths(model), network.trainable_variables),
        loss=[of_image, detector.loss] if with_boxes else of_image,
        loss_weights=[1.0, recipe.box_weight] if with_boxes else None,
        jit_compile=False,  # on a CPU compiling costs more than it saves
    )
    network.optimizer.build(network.trainable_variables)
    return network


def _scores(phase: Phase, inputs: Any) -> npt.NDArray[np.float64]:
    """Probabilities, float64 (n,), from features (`head`) or from images (`all`)."""
    if phase.name == "head":
        return scoring.outputs(phase.part, inputs, batch_size=1024)[:, 0].astype(np.float64)
    return scoring.predict_scores(phase.part, inputs)
