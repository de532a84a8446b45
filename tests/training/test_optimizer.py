"""The loss, beside that of Keras."""

from typing import Any

import numpy as np
import pytest

from pneumonia.models import runtime
from pneumonia.training.optimizer import cross_entropy


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_the_loss_is_the_cross_entropy_of_keras_without_its_clipping(smoothing: float) -> None:
    import keras

    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (64, 1)).astype(np.float32)
    logit = rng.normal(0, 10, (64, 1)).astype(np.float32)
    logit[:2] = [[90.0], [-90.0]]
    expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    np.testing.assert_allclose(cross_entropy(smoothing)(label, logit), expected(label, logit), rtol=1e-5, atol=1e-6)


def test_gradients_of_the_loss_are_sums_of_two_at_most() -> None:
    """Of more, TensorFlow may add them in the order they come: the last bits differ between runs."""
    import keras
    import tensorflow as tf

    def most_terms(loss: Any) -> int:
        def slope(label: Any, logit: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(logit)
                value = tf.reduce_sum(loss(label, logit))
            return tape.gradient(value, logit)

        graph = tf.function(slope).get_concrete_function(*[tf.TensorSpec((8, 1), tf.float32)] * 2).graph
        return max(len(one.inputs) for one in graph.get_operations() if one.type == "AddN")

    assert most_terms(cross_entropy(0.05)) == 2
    assert most_terms(keras.losses.BinaryCrossentropy(from_logits=True)) > 2
