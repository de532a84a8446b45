"""Fit a network: where its backbone is pretrained the head first, then all of it. A fit that was cut goes on.

Validation chooses the epoch, or none is chosen; test is not known here. Compute code tells its progress to a plain
callable.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, augmentation, dataset, metrics, models

Report = Callable[[int, Mapping[str, float]], None]
"""Told after each epoch: its number from 1, and its metrics. May raise to stop the fit."""

AVERAGE_EVERY = 5
"""Steps between two takes of the running average of the weights: each costs a copy of all of them."""

POOL_BYTES = 2**30
"""Of images that are shuffled together: chunks of the store, drawn anew in each epoch, so that a set which does not fit
memory is read chunk by chunk. Sets up to this size are shuffled as a whole. Never depends on where the images lie."""


class DivergedError(UserError):
    """The loss of a fit is not finite: its learning rate is too high, or an image weight is absurd."""


class Recipe(NamedTuple):
    """How a network is trained, beside what is searched for; section `train` of params.yaml.

    Attributes:
        batch_size: images a step.
        weight_decay: of AdamW.
        augment: fraction of the images that are distorted, 0-1.
        strength: how far, as in `augmentation.distort`.
        mixup: alpha of `augmentation.mixup`; 0 = none.
        label_smoothing: how far labels are drawn towards one half, 0-1.
        average: decay of the running average of all weights, taken every `AVERAGE_EVERY` steps, which is what is
            judged and kept; 0 = the weights themselves.
        keep: the epoch a fit ends with: `best` on validation, or the `last`, for where nearly every epoch is perfect
            there and their order is chance.
        head_epochs: epochs in which only the head learns, on features that the pretrained backbone computes once.
        copies: of each train image, differently distorted, whose features these epochs use in turn.
        unfreeze: share of the backbone's blocks, from the top, that learn afterwards, 0-1.
        layer_decay: factor of the learning rate from each block of the backbone to the one below, 0-1.
    """

    batch_size: int
    weight_decay: float
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


class Features(NamedTuple):
    """What a frozen backbone makes of the images, computed once.

    Attributes:
        train: float32 (copies, n, d); copies of an image differ in their augmentation.
        val: float32 (m, d).
    """

    train: npt.NDArray[np.float32]
    val: npt.NDArray[np.float32]


def start(
    name: str,
    *,
    weights: Sequence[Path],
    dropout: float,
    images: npt.NDArray[np.uint8] | dataset.Pixels,
    n_images: int = 512,
) -> Any:
    """A new network, ready for `fit`.

    Args:
        name: a key of `models.MODELS`.
        weights: files of its backbone; none = random.
        dropout: share of channels dropped in training, 0-1.
        images: uint8 (n, height, width), of the train split.
        n_images: of them that are looked at where the weights lack statistics, see `models.unfold`.
    """
    model = models.create_model(name, weights=weights, dropout=dropout)
    if weights:
        models.unfold(model, images[:: max(1, len(images) // n_images)])
    return model


def check(train: dataset.Split, val: dataset.Split, recipe: Recipe) -> None:
    """See that there is something to learn from, before time is spent.

    Raises:
        UserError: a split without both classes, weights of images that are not finite, or a batch larger than the data.
    """
    for name, split in (("train", train), ("val", val)):
        if len(np.unique(split.labels)) < 2:
            raise UserError(f"split {name} has {len(split.labels)} images of one class; training needs both classes")
    used = train.weights[train.repeats > 0]
    if not (np.isfinite(used).all() and (used >= 0).all()):
        raise UserError(
            "split train has weights that are negative or not finite; dvc repro -f -s rebalance makes new ones"
        )
    shown = int(train.repeats.sum())
    if shown < recipe.batch_size:
        raise UserError(
            f"train.batch_size = {recipe.batch_size} is larger than the {shown} images of an epoch; lower it"
        )


def frozen_features(
    model: Any,
    train: dataset.Split,
    val: dataset.Split,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 64,
) -> Features:
    """Run all images through the backbone, the train images `copies` times, each time distorted anew.

    Where the recipe distorts none, one copy is all there is; nor are there more than epochs to use them.

    Args:
        model: as `start` makes it, with a backbone.
        train, val: splits of the image store.
        recipe: how.
        epochs: that will use the copies.
        seed: of the augmentation.
        batch_size: images at once.
    """
    import tensorflow as tf

    body, _ = models.halves(model)
    copies, n = min(recipe.copies, epochs) if recipe.augment else 1, len(train.labels)
    made = np.empty((copies, n, body.output.shape[-1]), np.float32)
    compute = tf.function(lambda pixels: body(pixels, training=False), reduce_retracing=True)
    with _progress_bar(copies * n + len(val.labels), 0, "features", "image") as bar:

        def run(images: Any, order: npt.NDArray[np.intp], fraction: float, first: int) -> Iterator[tuple[Any, Any]]:
            for begin in range(0, len(order), batch_size):
                rows = order[begin : begin + batch_size]
                pixels = tf.cast(images[rows][..., None], tf.float32)
                draw = tf.constant([seed, first + begin], tf.int64)
                distorted = augmentation.distort(pixels, fraction=fraction, strength=recipe.strength, seed=draw)
                yield rows, compute(distorted)
                bar.update(len(rows))

        for copy in range(copies):
            # `distort` expects shuffled batches: in their own order the same images would stay untouched in each copy.
            order = _order(np.arange(n), train.images, np.random.default_rng((seed, copy)))
            for rows, values in run(train.images, order, recipe.augment, copy * n):
                made[copy, rows] = values
        rest = run(val.images, np.arange(len(val.labels)), 0.0, 0)
        return Features(made, np.concatenate([np.asarray(values, np.float32) for _, values in rest]))


def head_epochs(model: Any, recipe: Recipe, epochs: int, *, pretrained: bool) -> int:
    """Epochs that train the head alone: all where the backbone never learns, none where it came without weights."""
    body, _ = models.halves(model)
    if body is None:
        return 0
    if not body.trainable_weights or (pretrained and recipe.unfreeze == 0):
        return epochs
    return min(recipe.head_epochs, epochs) if pretrained else 0


def fit(
    model: Any,
    train: dataset.Split,
    val: dataset.Split,
    recipe: Recipe,
    *,
    seed: int,
    epochs: int,
    patience: int,
    learning_rate: float,
    resume: Path | None = None,
    pretrained: bool = False,
    features: Features | None = None,
    report: Report = lambda epoch, values: None,
    label: str = "train",
) -> pd.DataFrame:
    """Train `model` in place and leave it with the weights of its best epoch, or of its last, as the recipe says.

    A model with a pretrained backbone learns in two phases: first the head alone, then the upper blocks of the
    backbone with it. A backbone that is built frozen stays so, and the first phase is all there is; for any other
    model the second is.

    After each epoch all that the next one depends on is written to `resume`, where that is given. A call that finds
    it there goes on from it, and ends with the weights that an uninterrupted one would have ended with, bit by bit.

    Args:
        model: as `start` makes it.
        train, val: splits of the image store.
        recipe: how.
        seed: of the order of the images and of the augmentation; the model's initial weights are the caller's.
        epochs: at most, of both phases; in each the learning rate warms up over its first epoch and falls along a
            cosine to its last.
        patience: epochs of the last phase without a better validation AUC before a fit stops that keeps the best.
        learning_rate: peak of AdamW.
        resume: an existing folder that survives a crash, of these settings and data alone; the caller's to remove, once
            the model is safe. None = a fit that is cut is lost.
        pretrained: the backbone came with weights; without them all of it learns from the first epoch.
        features: what `frozen_features` makes with this recipe and seed; None = made here where needed.
        report: told after each epoch, not again after those of an earlier call.
        label: what the progress bar says.

    Returns:
        One row per epoch, those of earlier calls included: `epoch, loss, val_loss, val_auc, learning_rate, seconds`,
        and `kept`, true for the epoch that the model ends with.

    Raises:
        UserError: as `check` says.
        DivergedError: a loss that is not finite.
    """
    import keras

    check(train, val, recipe)
    shown = np.repeat(np.arange(len(train.labels)), train.repeats)
    steps = len(shown) // recipe.batch_size
    n_head = head_epochs(model, recipe, epochs, pretrained=pretrained)
    history, saved = _read(resume) if resume else ([], {})
    n_saved = len(history)
    _, head = models.halves(model)

    def learn(part: Any, images: Any, score: Callable[[], npt.NDArray[np.float64]], first: int, last: int) -> None:
        """Epochs `first` + 1 to `last` of `part`, the head or all of `model`, on features or images."""
        # Another network of the same layers: what is compiled would be saved with its optimizer.
        begins = model.input if part is model else model.get_layer("features").output
        network = keras.Model(begins, model.get_layer("logit").output)
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=learning_rate / 10,
            decay_steps=max(1, (last - first - 1) * steps),
            warmup_target=learning_rate,
            warmup_steps=steps,
        )
        network.compile(
            optimizer=_optimizer(schedule, recipe, models.depths(model) if pretrained else {}),
            loss=_cross_entropy(recipe.label_smoothing),
            jit_compile=False,  # on a CPU compiling costs more than it saves
        )
        network.optimizer.build(network.trainable_variables)
        mean = [one.copy() for one in network.get_weights()] if recipe.average else []
        if len(history) > first:
            _restore(_variables(network) + network.optimizer.variables, saved, mean)
        began = time.monotonic()

        def end_of_batch(batch: int, logs: dict[str, float]) -> None:
            if not np.isfinite(logs["loss"]):
                raise diverged()
            bar.update()
            if mean and batch % AVERAGE_EVERY == 0:
                taken = ((len(history) - first) * steps + batch) // AVERAGE_EVERY
                # The first takes weigh more: else a short phase would end in an average with its random start.
                decay = min(recipe.average, (1 + taken) / (10 + taken))
                for kept, now in zip(mean, network.get_weights(), strict=True):
                    kept += (1 - decay) * (now - kept)

        def end_of_epoch(epoch: int, logs: dict[str, float]) -> None:
            nonlocal began
            if mean:
                current = network.get_weights()
                network.set_weights(mean)
            scores = score()
            if not np.isfinite(scores).all():  # the last step of an epoch can do that
                raise diverged()
            values = {
                "loss": round(float(logs["loss"]), 6),
                **_judge(scores, val.labels),
                "learning_rate": float(schedule((epoch + 1 - first) * steps)),
                "seconds": round(time.monotonic() - began, 2),
            }
            if recipe.keep == "last" or all(values["val_auc"] > row["val_auc"] for row in history):
                part.save_weights(str(files["all" if part is model else "head"]))
            if mean:
                network.set_weights(current)
            history.append({"epoch": epoch + 1, **values})
            bar.set_postfix(epoch=epoch + 1, val_auc=f"{values['val_auc']:.3f}")
            report(epoch + 1, values)
            if resume:
                _back_up(network, mean, history, resume)
            began = time.monotonic()
            network.stop_training = stopped()

        with models.fused_normalization():
            network.fit(
                batches(images, train, shown, recipe, seed=seed, first_epoch=len(history)),
                steps_per_epoch=steps,
                initial_epoch=len(history),
                epochs=last,
                shuffle=False,  # the stream comes shuffled
                callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_of_epoch, on_train_batch_end=end_of_batch)],
                verbose=0,
            )

    def diverged() -> DivergedError:
        return DivergedError(
            f"the loss is not finite in epoch {len(history) + 1}; lower tune.learning_rate and run again"
        )

    def stopped() -> bool:
        # The head's epochs are few, and what comes after them begins lower than they ended.
        last_phase = history[n_head if n_head < epochs else 0 :]
        return recipe.keep == "best" and _waited(last_phase) >= patience

    kept_in = nullcontext(resume) if resume else tempfile.TemporaryDirectory()
    with kept_in as folder, _progress_bar(epochs * steps, len(history) * steps, label, "batch") as bar:
        files = {phase: Path(folder) / f"{phase}.weights.h5" for phase in ("head", "all")}
        if len(history) < n_head and not stopped():
            if features is None:
                features = frozen_features(model, train, val, recipe, epochs=n_head, seed=seed)
            cached = features
            learn(head, cached.train, lambda: _scores(head, cached.val), 0, n_head)
        if n_head == epochs:
            head.load_weights(str(files["head"]))
        else:
            if len(history) == n_head > 0:
                if n_saved == n_head:  # the weights file has no seeds of dropout
                    _restore(_variables(head), saved)
                head.load_weights(str(files["head"]))  # the kept one, which need not be the last
                model.save_weights(str(files["all"]))  # kept until an epoch of all takes its place
            if pretrained:
                models.unfreeze(model, recipe.unfreeze)
            if len(history) < epochs and not stopped():
                learn(model, train.images, lambda: models.predict_scores(model, val.images), n_head, epochs)
            model.load_weights(str(files["all"]))
    table = pd.DataFrame(history)
    row = len(table) - 1 if recipe.keep == "last" else int(table["val_auc"].argmax())
    return table.assign(kept=np.arange(len(table)) == row)


def fit_members(
    make: Callable[[], Any],
    n: int,
    train: dataset.Split,
    val: dataset.Split,
    recipe: Recipe,
    *,
    seed: int,
    epochs: int,
    patience: int,
    learning_rate: float,
    resume: Path | None = None,
    pretrained: bool = False,
    report: Report = lambda epoch, values: None,
) -> tuple[list[Any], pd.DataFrame]:
    """Train some networks that begin, and see the images, each in its own way.

    Args:
        make: called for each network, after Keras has been seeded for it; as `start` makes one.
        n: how many; the first is the one that `fit` alone would train with this seed.
        train, val, recipe: as in `fit`.
        seed: of the first; the others have seeds of their own that follow from it.
        epochs, patience, learning_rate, pretrained: of each, as in `fit`.
        resume: as in `fit`; each has a folder in it.
        report: as in `fit`; epochs count on from one network to the next.

    Returns:
        The networks, of which `models.ensemble` makes one; and what `fit` returns, of one after the other: `epoch`
        counts on, one of each is `kept`, and `member` says which it is, from 1.
    """
    import keras

    members, histories, done = [], [], 0
    for number in range(n):
        own = seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        keras.utils.set_random_seed(own)
        members.append(make())
        folder = resume / f"member{number + 1}" if resume else None
        if folder:
            folder.mkdir(exist_ok=True)

        def count_on(epoch: int, values: Mapping[str, float], done: int = done) -> None:
            report(done + epoch, values)

        history = fit(
            members[-1],
            train,
            val,
            recipe,
            seed=own,
            epochs=epochs,
            patience=patience,
            learning_rate=learning_rate,
            resume=folder,
            pretrained=pretrained,
            report=count_on,
            label="train" if n == 1 else f"train {number + 1}/{n}",
        )
        histories.append(history.assign(epoch=history["epoch"] + done, member=number + 1))
        done += len(history)
    return members, pd.concat(histories, ignore_index=True)


def batches(
    images: Any,
    split: dataset.Split,
    shown: npt.NDArray[np.intp],
    recipe: Recipe,
    *,
    seed: int,
    first_epoch: int = 0,
) -> Any:
    """An endless tf.data stream of training batches; each epoch in a new order, the last, smaller batch left out.

    Args:
        images: uint8 (n, size, size), those of the split, which are distorted and mixed; or float32 (copies, n, d),
            their features as `frozen_features` computes them, which are mixed.
        split: of the image store.
        shown: rows of the split that make an epoch, with repetitions.
        recipe: how.
        seed: the same seed gives the same batches.
        first_epoch: epochs that are left out at the start; what follows is the same as without.

    Returns:
        tf.data.Dataset of (float32 (batch, size, size, 1) 0-255 or (batch, d), float32 (batch, 1),
        float32 (batch, 1)): pixels or features, labels, weights.
    """
    import tensorflow as tf

    # Constants on purpose out of the graph: a captured uint8 array is shared, not copied.
    labels, weights = split.labels.astype(np.float32), split.weights
    features = images.dtype == np.float32

    def rows() -> Iterator[tuple[Any, Any, Any, Any]]:
        rng, step = np.random.default_rng(seed), 0
        turn = np.random.default_rng((seed, 1)).integers(len(images), size=images.shape[1]) if features else None
        for epoch in itertools.count():
            order = _order(shown, split.images, rng)
            for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
                take = order[start : start + recipe.batch_size]
                if epoch >= first_epoch:
                    if turn is not None:
                        inputs = images[(turn[take] + epoch) % len(images), take]
                    else:
                        inputs = images[take][..., None]
                    yield inputs, labels[take, None], weights[take, None], np.int64(step)
                step += 1

    signature = (
        tf.TensorSpec((recipe.batch_size, *(images.shape[2:] if features else (*images.shape[1:], 1))), images.dtype),
        tf.TensorSpec((recipe.batch_size, 1), tf.float32),
        tf.TensorSpec((recipe.batch_size, 1), tf.float32),
        tf.TensorSpec((), tf.int64),
    )

    def augmented(inputs: Any, label: Any, weight: Any, step: Any) -> tuple[Any, Any, Any]:
        draw = tf.stack([np.int64(seed), step])
        if not features:
            inputs = augmentation.distort(
                tf.cast(inputs, tf.float32), fraction=recipe.augment, strength=recipe.strength, seed=draw
            )
        return augmentation.mixup(inputs, label, weight, alpha=recipe.mixup, seed=draw)

    stream = tf.data.Dataset.from_generator(rows, output_signature=signature)
    parallel = min(8, os.cpu_count() or 1)  # each holds a batch; has no influence on what comes out
    stream = stream.map(augmented, num_parallel_calls=parallel, deterministic=True).prefetch(4)
    return stream.with_options(models.untuned())


def _order(shown: npt.NDArray[np.intp], images: Any, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """The rows of one epoch: pools of chunks one after the other, shuffled within."""
    chunk = shown // dataset.IMAGES_PER_CHUNK
    n_pools = -(-int(np.prod(images.shape)) // POOL_BYTES)
    if n_pools <= 1:
        return rng.permutation(shown)
    pools = np.array_split(rng.permutation(np.unique(chunk)), n_pools)
    return np.concatenate([rng.permutation(shown[np.isin(chunk, pool)]) for pool in pools])


def _optimizer(schedule: Any, recipe: Recipe, depths: Mapping[str, int]) -> Any:
    """AdamW; one for each block of the backbone where lower blocks learn more slowly."""
    import keras

    def adamw(depth: int) -> Any:
        class Slower(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
            def __call__(self, step: Any) -> Any:
                return schedule(step) * recipe.layer_decay**depth

        return keras.optimizers.AdamW(Slower(), weight_decay=recipe.weight_decay, clipnorm=1.0)

    if recipe.layer_decay == 1 or not depths:
        return adamw(0)
    one_each = {depth: adamw(depth) for depth in {0, *depths.values()}}
    return keras.optimizers.MultiOptimizer(lambda variable: one_each[depths.get(variable.path.split("/")[0], 0)])


def _cross_entropy(label_smoothing: float) -> Callable[[Any, Any], Any]:
    """Binary cross-entropy of logits.

    That of Keras has four terms, whose gradients TensorFlow sums as they come where a network takes much memory: the
    last bits of the sum, and with them the weights, would be chance. Of two the order does not matter.
    """
    from keras import ops

    def loss(label: Any, logit: Any) -> Any:
        label = label + label_smoothing * (0.5 - label)
        return ops.mean(label * ops.softplus(-logit) + (1 - label) * ops.softplus(logit), axis=-1)

    return loss


def _scores(head: Any, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return models.outputs(head, features, batch_size=1024)[:, 0].astype(np.float64)


def _judge(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> dict[str, float]:
    y_true = labels.astype(int)
    likelihood = np.clip(np.where(y_true == 1, scores, 1 - scores), 1e-7, 1)
    return {
        "val_loss": round(float(-np.log(likelihood).mean()), 6),
        # The exact AUC over all validation images; the streaming one of Keras is an approximation.
        "val_auc": round(metrics.roc_auc(y_true, scores), 6),
    }


def _waited(history: Sequence[Mapping[str, float]]) -> int:
    """Epochs since the best one."""
    aucs = [row["val_auc"] for row in history]
    return len(aucs) - 1 - aucs.index(max(aucs)) if aucs else 0


def _variables(network: Any) -> list[Any]:
    """All of a network that changes in training: weights, moving statistics, the seeds of dropout."""
    return [one for layer in network.layers for one in layer.variables]


def _back_up(network: Any, mean: list[npt.NDArray[Any]], history: list[dict[str, float]], resume: Path) -> None:
    arrays = [one.numpy() for one in _variables(network) + network.optimizer.variables] + mean
    with dataset.written_whole(resume / "state.npz") as partial, open(partial, "wb") as file:
        np.savez(file, *arrays, history=np.array(json.dumps(history)))


def _read(resume: Path) -> tuple[list[dict[str, float]], dict[str, npt.NDArray[Any]]]:
    """History and state that an earlier call left; empty where there is nothing."""
    if not (resume / "state.npz").is_file():
        return [], {}
    with np.load(resume / "state.npz", allow_pickle=False) as saved:
        state = dict(saved)
    return json.loads(str(state.pop("history"))), state


def _restore(
    variables: Sequence[Any], saved: Mapping[str, npt.NDArray[Any]], mean: Sequence[npt.NDArray[Any]] = ()
) -> None:
    for number, variable in enumerate(variables):
        variable.assign(saved[f"arr_{number}"])
    for number, kept in enumerate(mean, start=len(variables)):
        kept[...] = saved[f"arr_{number}"]


def _progress_bar(total: int, done: int, label: str, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=label, unit=unit, disable=None, leave=False)
