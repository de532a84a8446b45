"""Fit a network: augmented batches, warm-up and cosine, the best epoch kept by validation AUC; a cut fit goes on.

Validation chooses the epoch; test is not known here. Compute code tells its progress to a plain callable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, dataset, metrics, models

Report = Callable[[int, Mapping[str, float]], None]
"""Told after each epoch: its number from 1, and its metrics. May raise to stop the fit."""

# How far augmentation goes. No flips: they move the heart.
MAX_ROTATION = 8.0  # degrees
MAX_SHIFT = 0.06  # of the side
MAX_ZOOM = 0.10
MAX_GAMMA = 0.35  # natural logarithm
MAX_CONTRAST = 0.25
MAX_BRIGHTNESS = 20.0  # gray levels
MAX_NOISE = 8.0  # gray levels

AVERAGE_EVERY = 5
"""Steps between two takes of the running average of the weights: each costs a copy of all of them."""


def start(
    name: str, *, weights: Sequence[Path], dropout: float, images: npt.NDArray[np.uint8], n_images: int = 512
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


def fit(
    model: Any,
    train: dataset.Split,
    val: dataset.Split,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    patience: int,
    augment: float,
    label_smoothing: float,
    average: float,
    resume: Path,
    report: Report = lambda epoch, values: None,
    label: str = "train",
) -> pd.DataFrame:
    """Train `model` in place and leave it with the weights of its best epoch.

    After each epoch all that the next one depends on is written to `resume`. A call that finds it there goes on
    from it, and ends with the weights that an uninterrupted one would have ended with, bit by bit.

    Args:
        model: as `models.create_model` makes it.
        train, val: splits of the image store.
        seed: of the order of the images and of the augmentation; the model's initial weights are the caller's.
        epochs: at most; the learning rate warms up over the first and falls along a cosine to the last.
        batch_size: images a step.
        learning_rate: peak of AdamW.
        weight_decay: of AdamW.
        patience: epochs without a better validation AUC before the fit stops.
        augment: fraction of the images that are distorted, 0-1.
        label_smoothing: how far labels are drawn towards one half, 0-1.
        average: decay of the running average of all weights, taken every `AVERAGE_EVERY` steps, which is what is
            judged and kept; 0 = the weights themselves.
        resume: an existing folder that survives a crash, of these settings and data alone. Empty at the end.
        report: told after each epoch, not again after those of an earlier call.
        label: what the progress bar says.

    Returns:
        One row per epoch, those of earlier calls included: `epoch, loss, val_loss, val_auc, learning_rate`.

    Raises:
        UserError: a split without both classes, a batch larger than the data, or a loss that is not finite.
    """
    import keras

    shown = np.repeat(np.arange(len(train.labels)), train.repeats)
    _check(train, val, len(shown), batch_size)
    steps = len(shown) // batch_size
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / 10,
        decay_steps=max(1, (epochs - 1) * steps),
        warmup_target=learning_rate,
        warmup_steps=steps,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=weight_decay, clipnorm=1.0),
        loss=keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing),
        jit_compile=False,  # on a CPU compiling costs more than it saves
    )
    model.optimizer.build(model.trainable_variables)
    mean = [one.copy() for one in model.get_weights()] if average else []
    history = _restore(model, mean, resume)
    best = resume / "best.weights.h5"
    with _progress_bar(epochs * steps, len(history) * steps, label) as bar:

        def end_of_batch(batch: int, logs: dict[str, float]) -> None:
            if not np.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is not finite in epoch {len(history) + 1}; lower tune.learning_rate and run again"
                )
            bar.update()
            if average and batch % AVERAGE_EVERY == 0:
                for kept, now in zip(mean, model.get_weights(), strict=True):
                    kept += (1 - average) * (now - kept)

        def end_of_epoch(epoch: int, logs: dict[str, float]) -> None:
            if average:
                current = model.get_weights()
                model.set_weights(mean)
            values = {"loss": round(float(logs["loss"]), 6), **_judge(model, val)}
            if all(values["val_auc"] > row["val_auc"] for row in history):
                model.save_weights(str(best))
            if average:
                model.set_weights(current)
            history.append({"epoch": epoch + 1, **values})
            bar.set_postfix(epoch=epoch + 1, val_auc=f"{values['val_auc']:.3f}")
            report(epoch + 1, values)
            _back_up(model, mean, history, resume)
            model.stop_training = _waited(history) >= patience

        if len(history) < epochs and _waited(history) < patience:
            model.fit(
                batches(train, shown, batch_size=batch_size, augment=augment, seed=seed, first_epoch=len(history)),
                steps_per_epoch=steps,
                initial_epoch=len(history),
                epochs=epochs,
                shuffle=False,  # the stream comes shuffled
                callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_of_epoch, on_train_batch_end=end_of_batch)],
                verbose=0,
            )
        model.load_weights(str(best))
    for file in (best, resume / "state.npz"):
        file.unlink()
    return pd.DataFrame(history)


def batches(
    split: dataset.Split,
    shown: npt.NDArray[np.intp],
    *,
    batch_size: int,
    augment: float,
    seed: int,
    first_epoch: int = 0,
) -> Any:
    """An endless tf.data stream of training batches; each epoch in a new order, the last, smaller batch left out.

    Args:
        split: of the image store.
        shown: rows of the split that make an epoch, with repetitions.
        batch_size: images a batch.
        augment: fraction of the images that are distorted.
        seed: the same seed gives the same batches.
        first_epoch: epochs that are left out at the start; what follows is the same as without.

    Returns:
        tf.data.Dataset of (float32 (batch, size, size, 1) 0-255, float32 (batch, 1), float32 (batch, 1)):
        pixels, labels, weights.
    """
    import tensorflow as tf

    # Constants on purpose out of the graph: a captured uint8 array is shared, not copied.
    images, labels, weights = split.images, split.labels.astype(np.float32), split.weights

    def rows() -> Any:
        rng = np.random.default_rng(seed)
        for _ in range(first_epoch):
            rng.permutation(shown)
        step = first_epoch * (len(shown) // batch_size)
        while True:
            order = rng.permutation(shown)
            for start in range(0, len(order) - batch_size + 1, batch_size):
                take = order[start : start + batch_size]
                yield images[take][..., None], labels[take, None], weights[take, None], np.int64(step)
                step += 1

    signature = (
        tf.TensorSpec((batch_size, *images.shape[1:], 1), tf.uint8),
        tf.TensorSpec((batch_size, 1), tf.float32),
        tf.TensorSpec((batch_size, 1), tf.float32),
        tf.TensorSpec((), tf.int64),
    )
    stream = tf.data.Dataset.from_generator(rows, output_signature=signature)
    return stream.map(
        lambda pixels, label, weight, step: (
            distort(tf.cast(pixels, tf.float32), fraction=augment, seed=tf.stack([np.int64(seed), step])),
            label,
            weight,
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(4)


def distort(pixels: Any, *, fraction: float, seed: Any) -> Any:
    """Augmentation of a batch: small rotation, shift and zoom, then gamma, contrast, brightness and noise.

    Args:
        pixels: float32 tensor (n, height, width, 1), 0-255.
        fraction: of the images that are touched; each draws its own amounts.
        seed: int64 tensor (2,); the same seed gives the same result.

    Returns:
        float32 tensor of the same shape, 0-255.
    """
    import tensorflow as tf

    if fraction == 0:
        return pixels
    n, height, width = pixels.shape[0], pixels.shape[1], pixels.shape[2]
    draws = tf.random.stateless_uniform((9, n), seed=seed, minval=-1.0, maxval=1.0)
    touched = tf.cast((draws[0] + 1) / 2 < fraction, tf.float32)
    angle, shift_x, shift_y, zoom, gamma, contrast, brightness, noise = tf.unstack(draws[1:] * touched)
    # Output-to-input map about the centre: x' = a x - b y + c, y' = b x + a y + d.
    radians, scale = angle * (MAX_ROTATION * np.pi / 180), 1 + zoom * MAX_ZOOM
    a, b = tf.cos(radians) * scale, tf.sin(radians) * scale
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    c = centre_x - a * centre_x + b * centre_y + shift_x * (MAX_SHIFT * width)
    d = centre_y - b * centre_x - a * centre_y + shift_y * (MAX_SHIFT * height)
    zero = tf.zeros_like(a)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.stack([a, -b, c, b, a, d, zero, zero], axis=1),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )

    def per_image(values: Any) -> Any:
        return values[:, None, None, None]

    bent = 255.0 * tf.pow(moved / 255.0, per_image(tf.exp(gamma * MAX_GAMMA)))
    mean = tf.reduce_mean(bent, axis=(1, 2, 3), keepdims=True)
    stretched = mean + (bent - mean) * per_image(1 + contrast * MAX_CONTRAST) + per_image(brightness * MAX_BRIGHTNESS)
    grain = tf.random.stateless_normal(tf.shape(pixels), seed=seed + 1) * per_image(tf.abs(noise) * MAX_NOISE)
    return tf.clip_by_value(stretched + grain, 0.0, 255.0)


def _check(train: dataset.Split, val: dataset.Split, shown: int, batch_size: int) -> None:
    for name, split in (("train", train), ("val", val)):
        if len(np.unique(split.labels)) < 2:
            raise UserError(f"split {name} has {len(split.labels)} images of one class; training needs both classes")
    if shown < batch_size:
        raise UserError(f"train.batch_size = {batch_size} is larger than the {shown} images of an epoch; lower it")


def _judge(model: Any, val: dataset.Split) -> dict[str, float]:
    scores = models.predict_scores(model, val.images)
    y_true = val.labels.astype(int)
    likelihood = np.clip(np.where(y_true == 1, scores, 1 - scores), 1e-7, 1)
    return {
        "val_loss": round(float(-np.log(likelihood).mean()), 6),
        # The exact AUC over all validation images; the streaming one of Keras is an approximation.
        "val_auc": round(metrics.roc_auc(y_true, scores), 6),
        "learning_rate": float(model.optimizer.learning_rate),
    }


def _waited(history: list[dict[str, float]]) -> int:
    """Epochs since the best one."""
    aucs = [row["val_auc"] for row in history]
    return len(aucs) - 1 - aucs.index(max(aucs)) if aucs else 0


def _state(model: Any) -> list[Any]:
    """All that changes in training: weights, moving statistics, the seeds of dropout, moments of the optimiser."""
    return [one for layer in model.layers for one in layer.variables] + list(model.optimizer.variables)


def _back_up(model: Any, mean: list[npt.NDArray[Any]], history: list[dict[str, float]], resume: Path) -> None:
    arrays = [one.numpy() for one in _state(model)] + mean
    with dataset.written_whole(resume / "state.npz") as partial, open(partial, "wb") as file:
        np.savez(file, *arrays, history=np.array(json.dumps(history)))


def _restore(model: Any, mean: list[npt.NDArray[Any]], resume: Path) -> list[dict[str, float]]:
    """Put back what an earlier call left in `resume`; returns its history, empty where there is nothing."""
    if not (resume / "state.npz").is_file():
        return []
    state = _state(model)
    with np.load(resume / "state.npz", allow_pickle=False) as saved:
        for number, variable in enumerate(state):
            variable.assign(saved[f"arr_{number}"])
        for number, kept in enumerate(mean, start=len(state)):
            kept[...] = saved[f"arr_{number}"]
        history: list[dict[str, float]] = json.loads(str(saved["history"]))
    return history


def _progress_bar(total: int, done: int, label: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=label, unit="batch", disable=None, leave=False)
