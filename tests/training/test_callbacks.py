"""Callbacks one by one, on a network of two weights and metrics that are written here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.models import runtime
from pneumonia.training import callbacks
from pneumonia.training.recipe import DivergedError


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def toy_network() -> Any:
    """Compiled: x -> 0 * x + 0, its step the plain gradient."""
    import keras
    from keras import layers

    inputs = layers.Input((1,))
    network = keras.Model(inputs, layers.Dense(1, kernel_initializer="zeros", name="logit")(inputs))
    network.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse", run_eagerly=True)
    network.optimizer.build(network.trainable_variables)
    return network


def set_all(network: Any, value: float) -> None:
    network.set_weights([np.full_like(weight, value) for weight in network.get_weights()])


def history_of(*aucs: float) -> callbacks.History:
    return [{"epoch": epoch, "val_auc": auc} for epoch, auc in enumerate(aucs, start=1)]


def is_all(weights: list[NDArray], value: float) -> bool:
    return all((weight == np.float32(value)).all() for weight in weights)


def test_keras_calls_them_in_order_epoch_by_epoch_and_batch_by_batch() -> None:
    calls: list[tuple[str, str, int]] = []

    class Recorder(callbacks.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_begin(self, epoch: int, logs: Any) -> None:
            calls.append((self.name, "begin", epoch))

        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            calls.append((self.name, "batch", batch))

        def on_epoch_end(self, epoch: int, logs: Any) -> None:
            calls.append((self.name, "end", epoch))
            assert np.isfinite(logs["loss"])

    both = callbacks.as_keras([Recorder("a"), Recorder("b")])
    toy_network().fit(
        np.ones((4, 1)), np.ones((4, 1)), batch_size=2, initial_epoch=1, epochs=3, callbacks=both, verbose=0
    )
    expected = [
        (what, n) for epoch in (1, 2) for what, n in (("begin", epoch), ("batch", 0), ("batch", 1), ("end", epoch))
    ]
    assert calls == [(name, *call) for call in expected for name in "ab"]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_the_fit_and_names_the_epoch(loss: float) -> None:
    stop = callbacks.StopOnDivergence()
    stop.on_epoch_begin(4, {})
    stop.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(DivergedError, match=r"not finite in epoch 5; lower tune\.learning_rate"):
        stop.on_train_batch_end(1, {"loss": loss})


def test_the_average_is_updated_every_few_steps_with_a_decay_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "AVERAGE_EVERY", 2)
    network, expected = toy_network(), 0.0
    average = callbacks.RunningAverage(network, 0.15)
    for step in range(6):
        set_all(network, step + 1)
        average.on_train_batch_end(step, {})
        if step % 2 == 0:
            decay = (1 / 10, 0.15, 0.15)[step // 2]  # (1 + 1) / (10 + 1) would be more than 0.15
            expected = decay * expected + (1 - decay) * (step + 1)
    for weight in average.weights:
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_an_average_after_a_resumed_fit_counts_its_earlier_steps() -> None:
    network = toy_network()
    average = callbacks.RunningAverage(network, 0.99, step=10 * callbacks.AVERAGE_EVERY)
    set_all(network, 1.0)
    average.on_train_batch_end(0, {})
    np.testing.assert_allclose(average.weights[0], 1 - 11 / 20, rtol=1e-6)


def test_the_network_has_the_average_inside_the_block_only() -> None:
    network = toy_network()
    average = callbacks.RunningAverage(network, 0.5)  # of zeros
    set_all(network, 3.0)
    with average.applied():
        assert is_all(network.get_weights(), 0.0)
    assert is_all(network.get_weights(), 3.0)
    with callbacks.RunningAverage(network, 0.0).applied():
        assert is_all(network.get_weights(), 3.0)


def validate(
    network: Any, scores: list[float], history: callbacks.History, score: Callable[[], Any] | None = None
) -> None:
    one = callbacks.Validate(
        network,
        lambda step: 0.5 + step,
        score or (lambda: np.array(scores)),
        np.array([0, 0, 1, 1], np.int8),
        callbacks.RunningAverage(network, 0.5),
        history,
    )
    one.on_epoch_begin(2, {})
    one.on_epoch_end(2, {"loss": 0.25})


def test_validation_adds_a_row_with_known_metrics() -> None:
    history = history_of(0.1, 0.2)
    validate(toy_network(), [0.1, 0.6, 0.4, 0.9], history)
    row = history[2]
    assert list(row) == ["epoch", "loss", "val_loss", "val_auc", "learning_rate", "seconds"]
    assert (row["epoch"], row["loss"], row["learning_rate"]) == (3, 0.25, 0.5)
    assert row["val_auc"] == 0.75  # three of four pairs are in order
    assert row["val_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.9]).mean(), abs=1e-6)


def test_validation_uses_the_average_of_the_weights() -> None:
    network, weights = toy_network(), []

    def score() -> NDArray:
        weights.extend(network.get_weights())
        return np.array([0.1, 0.2, 0.3, 0.4])

    validate(network, [], [], score)
    assert len(weights) == 2
    assert is_all(weights, 0.0)


def test_probabilities_that_are_not_finite_stop_the_fit_before_the_row() -> None:
    history: callbacks.History = []
    with pytest.raises(DivergedError, match="not finite in epoch 3"):
        validate(toy_network(), [0.1, np.nan, 0.3, 0.4], history)
    assert history == []


@pytest.mark.parametrize(("keep", "kept_epoch"), [("best", 2), ("last", 4)])
def test_the_weights_of_the_best_epoch_or_of_the_last_are_kept(keep: Any, kept_epoch: int, tmp_path: Path) -> None:
    network, aucs = toy_network(), (0.5, 0.9, 0.9, 0.7)  # of equal epochs the first is the best
    path = tmp_path / "all.weights.h5"
    history: callbacks.History = []
    one = callbacks.KeepWeights(network, path, keep, callbacks.RunningAverage(network, 0.0), history)
    for epoch, row in enumerate(history_of(*aucs)):
        set_all(network, epoch + 1)
        history.append(row)
        one.on_epoch_end(epoch, {})
    network.load_weights(str(path))
    assert is_all(network.get_weights(), kept_epoch)


def test_kept_weights_are_the_average(tmp_path: Path) -> None:
    """Seen at the moment of writing."""
    kept = tmp_path / "all.weights.h5"

    class Model:
        def save_weights(self, path: str) -> None:
            assert path == str(kept)
            kept.touch()
            saved.extend(network.get_weights())

    saved: list[NDArray] = []
    network = toy_network()
    average = callbacks.RunningAverage(network, 0.5)
    set_all(network, 3.0)
    callbacks.KeepWeights(Model(), kept, "best", average, history_of(0.5)).on_epoch_end(0, {})
    assert len(saved) == 2
    assert is_all(saved, 0.0)
    assert is_all(network.get_weights(), 3.0)


@pytest.mark.parametrize(
    ("aucs", "first", "is_due"),
    [
        ((), 0, False),
        ((0.9, 0.8), 0, False),
        ((0.9, 0.8, 0.7), 0, True),
        ((0.9, 0.9, 0.9), 0, True),  # as good is not better
        ((0.7, 0.6, 0.8), 0, False),
        ((0.9, 0.8, 0.7), 1, False),  # an epoch of the phase before does not count
    ],
)
def test_a_phase_stops_after_patience_epochs_without_a_better_auc(
    aucs: tuple[float, ...], first: int, is_due: bool
) -> None:
    network = toy_network()
    stopping = callbacks.EarlyStopping(network, 2, first, history_of(*aucs))
    assert stopping.is_due() == is_due
    stopping.on_epoch_end(len(aucs) - 1, {})
    assert network.stop_training == is_due


def step(network: Any) -> None:
    network.train_on_batch(np.ones((2, 1)), np.ones((2, 1)))


def test_a_backup_brings_back_weights_optimizer_average_and_history(tmp_path: Path) -> None:
    assert callbacks.read_backup(tmp_path) == ([], [])
    network = toy_network()
    average = callbacks.RunningAverage(network, 0.5)
    step(network)
    average.on_train_batch_end(0, {})
    callbacks.Backup(tmp_path, network, average, history_of(0.5)).on_epoch_end(0, {})
    history, arrays = callbacks.read_backup(tmp_path)
    again = toy_network()
    average_again = callbacks.RunningAverage(again, 0.5)
    callbacks.restore(again, average_again, arrays)
    assert history == history_of(0.5)
    for one, other in zip(average.weights, average_again.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    step(network)
    step(again)  # alike only with the moments of the optimizer
    for one, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_crash_while_a_backup_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def cut(file: Any, *arrays: NDArray, **named: NDArray) -> None:
        file.write(b"PK")
        raise Killed

    network, history = toy_network(), history_of(0.5)
    backup = callbacks.Backup(tmp_path, network, callbacks.RunningAverage(network, 0.0), history)
    backup.on_epoch_end(0, {})
    history.extend(history_of(0.5, 0.6)[1:])
    monkeypatch.setattr(np, "savez", cut)
    with pytest.raises(Killed):
        backup.on_epoch_end(1, {})
    assert callbacks.read_backup(tmp_path)[0] == history_of(0.5)
