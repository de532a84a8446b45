"""What happens during a fit, one class per subject: divergence, running average, validation, weights kept, backup.

The classes are plain, so that their names are known without Keras; `as_keras` makes callbacks of Keras from them. They
share the history of the fit, one dict per epoch: `Validate` adds the row of an epoch, the callbacks after it read it.
"""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pneumonia import UserError, workspace
from pneumonia.metrics import ranking
from pneumonia.training.recipe import DivergedError, Measure, ReportEpoch

AVERAGE_EVERY = 5
"""Steps between two updates of the running average: each update copies all weights."""

History = list[dict[str, float]]
"""One row per finished epoch: `epoch`, from 1, then `loss, val_loss, val_auc, learning_rate, seconds`."""


class Callback:
    """The methods of `keras.callbacks.Callback` that are used here; `epoch` and `batch` count from 0."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float]) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None: ...


def as_keras(callbacks: Sequence[Callback]) -> list[Any]:
    """Callbacks for `keras.Model.fit`, which calls them in this order."""
    from keras.callbacks import LambdaCallback

    return [
        LambdaCallback(
            on_epoch_begin=one.on_epoch_begin,
            on_train_batch_end=one.on_train_batch_end,
            on_epoch_end=one.on_epoch_end,
        )
        for one in callbacks
    ]


class StopOnDivergence(Callback):
    """Raises `DivergedError` after the first step whose loss is not finite."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            raise _diverged(self.epoch)


class RunningAverage(Callback):
    """Exponential moving average of all weights, updated every `AVERAGE_EVERY` steps.

    Args:
        network: keras.Model that learns.
        decay: of the average, 0-1; 0 = no average.
        step: steps before the first batch, where an earlier call has done some.

    Attributes:
        weights: the average, arrays in the order of `network.get_weights()`; empty where decay is 0.
    """

    def __init__(self, network: Any, decay: float, *, step: int = 0) -> None:
        self.network, self.decay, self.step = network, decay, step
        self.weights: list[npt.NDArray[Any]] = [one.copy() for one in network.get_weights()] if decay else []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        if self.weights and batch % AVERAGE_EVERY == 0:
            n_updates = self.step // AVERAGE_EVERY
            # The first updates weigh more: else the average of a short phase would contain much of its random start.
            decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
            for average, current in zip(self.weights, self.network.get_weights(), strict=True):
                average += (1 - decay) * (current - average)
        self.step += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the network has the average as its weights."""
        if not self.weights:
            yield
            return
        current = self.network.get_weights()
        self.network.set_weights(self.weights)
        try:
            yield
        finally:
            self.network.set_weights(current)


class Validate(Callback):
    """Adds a row to the history after each epoch; its metrics are those of the average of the weights.

    Args:
        network: compiled keras.Model that learns.
        rate: its learning rate by step, as `optimizer.warmup_cosine` makes it.
        score: returns float64 (n,), probabilities 0-1 of the validation images.
        labels: int8 (n,), 0 or 1, of these images.
        average: of the weights that `score` uses.
        history: gets the rows.
        measure: returns further figures of each row.

    Raises:
        DivergedError: a probability is not finite, which the last step of an epoch can cause.
    """

    def __init__(
        self,
        network: Any,
        rate: Callable[[Any], Any],
        score: Callable[[], npt.NDArray[np.float64]],
        labels: npt.NDArray[np.int8],
        average: RunningAverage,
        history: History,
        measure: Measure = dict,
    ) -> None:
        self.network, self.rate, self.score, self.measure = network, rate, score, measure
        self.labels, self.average, self.history = labels, average, history

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        with self.average.applied():
            scores, further = self.score(), self.measure()
        if not np.isfinite(scores).all():
            raise _diverged(epoch)
        row = {
            "epoch": epoch + 1,
            "loss": round(float(logs["loss"]), 6),
            **_val_metrics(scores, self.labels),
            **further,
            "learning_rate": float(self.rate(self.network.optimizer.iterations)),
            "seconds": round(time.monotonic() - self.start, 2),
        }
        self.history.append(row)


class KeepWeights(Callback):
    """Writes the weights of the best epoch, by validation AUC, or of the last epoch.

    Args:
        model: keras.Model whose weights are written.
        path: of the file, `….weights.h5`.
        keep: `best` or `last`.
        average: of its weights, which is what is written.
        history: of all epochs; its last row is that of the present epoch.
    """

    def __init__(
        self, model: Any, path: Path, keep: Literal["best", "last"], average: RunningAverage, history: History
    ) -> None:
        self.model, self.path, self.keep, self.average, self.history = model, path, keep, average, history

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        if self.keep == "last" or epochs_since_best(self.history) == 0:
            with self.average.applied():
                save_weights(self.model, self.path)


def save_weights(model: Any, path: Path) -> None:
    """Write the weights of a model, `….weights.h5`, for `load_weights`."""
    model.save_weights(str(path))
    workspace.seal(path)


def load_weights(model: Any, path: Path) -> None:
    """Give a model the weights that `save_weights` wrote.

    Raises:
        UserError: the file has changed; HDF5 itself would not notice it.
    """
    if not workspace.is_sealed(path):
        raise _damaged(path)
    model.load_weights(str(path))


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged since it was written; remove {path.parent} and run again, from the first epoch")


class Progress(Callback):
    """Moves the progress bar after each step, and reports each epoch.

    Args:
        bar: tqdm, its unit a step.
        report: called with the last row of the history.
        history: of all epochs; its last row is that of the present epoch.
    """

    def __init__(self, bar: Any, report: ReportEpoch, history: History) -> None:
        self.bar, self.report, self.history = bar, report, history

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        values = {name: value for name, value in self.history[-1].items() if name != "epoch"}
        self.bar.set_postfix(epoch=epoch + 1, val_auc=f"{values['val_auc']:.3f}")
        self.report(epoch + 1, values)


class Backup(Callback):
    """Writes all that the next epoch depends on, after each epoch.

    The file is written whole or not at all: a crash while it is written leaves that of the epoch before.

    Args:
        folder: that survives a crash.
        network: compiled keras.Model that learns.
        average: of its weights.
        history: of all epochs.
    """

    def __init__(self, folder: Path, network: Any, average: RunningAverage, history: History) -> None:
        self.folder, self.network, self.average, self.history = folder, network, average, history

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        arrays = [variable.numpy() for variable in _state(self.network)] + self.average.weights
        with workspace.written_whole(self.folder / "state.npz") as partial, open(partial, "wb") as file:
            np.savez(file, *arrays, history=np.array(json.dumps(self.history)))


def read_backup(folder: Path) -> tuple[History, list[npt.NDArray[Any]]]:
    """The history and the arrays that `Backup` wrote in an earlier call; both empty where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "state.npz"
    if not path.is_file():
        return [], []
    try:  # it has a checksum of each array
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
            history = json.loads(str(saved["history"]))
            return history, [saved[f"arr_{number}"] for number in range(len(saved.files) - 1)]
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError) as error:
        raise _damaged(path) from error


def restore(network: Any, average: RunningAverage, arrays: Sequence[npt.NDArray[Any]]) -> None:
    """Give a compiled network and its average the values of a backup."""
    variables = _state(network)
    for variable, value in zip(variables, arrays[: len(variables)], strict=True):
        variable.assign(value)
    average.weights = list(arrays[len(variables) :])


class EarlyStopping(Callback):
    """Stops a phase after `patience` epochs without a better validation AUC.

    Args:
        network: keras.Model that learns.
        patience: epochs.
        first: number of epochs before the phase, which do not count.
        history: of all epochs.
    """

    def __init__(self, network: Any, patience: int, first: int, history: History) -> None:
        self.network, self.patience, self.first, self.history = network, patience, first, history

    def is_due(self) -> bool:
        """Whether the phase ends here."""
        return epochs_since_best(self.history[self.first :]) >= self.patience

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.network.stop_training = self.is_due()


def epochs_since_best(history: History) -> int:
    """Number of epochs after the first one with the highest validation AUC; 0 without epochs."""
    aucs = [row["val_auc"] for row in history]
    return len(aucs) - 1 - aucs.index(max(aucs)) if aucs else 0


def progress_bar(total: int, done: int, label: str, unit: str) -> Any:
    """A tqdm bar, only on a terminal; it disappears when it is closed."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=label, unit=unit, disable=None, leave=False)


def _diverged(epoch: int) -> DivergedError:
    return DivergedError(f"the loss is not finite in epoch {epoch + 1}; lower tune.learning_rate and run again")


def _val_metrics(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> dict[str, float]:
    y_true = labels.astype(int)
    likelihood = np.clip(np.where(y_true == 1, scores, 1 - scores), 1e-7, 1)
    return {
        "val_loss": round(float(-np.log(likelihood).mean()), 6),
        # The exact AUC over all validation images; the streaming one of Keras is an approximation.
        "val_auc": round(ranking.roc_auc(y_true, scores), 6),
    }


def _state(network: Any) -> list[Any]:
    """Variables that change in training: weights, moving statistics, seeds of dropout, those of the optimizer."""
    return [*(variable for layer in network.layers for variable in layer.variables), *network.optimizer.variables]
