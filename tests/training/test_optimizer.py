"""The loss, beside that of Keras."""

from typing import Any

import numpy as np
import pytest

from pneumonia.models import runtime
from pneumonia.training.optimizer import adamw, cross_entropy
from tests.conftest import PLAIN


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


def test_weights_decay_by_the_share_that_papers_mean_and_biases_do_not() -> None:
    """Without a gradient a step multiplies a kernel by 1 - rate * decay, as Loshchilov and Hutter (2019) define it."""
    import keras
    import tensorflow as tf

    layers = [keras.layers.Dense(2), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    network = keras.Sequential([keras.Input((3,)), *layers])
    for variable in network.trainable_variables:
        variable.assign(tf.ones_like(variable))
    optimizer = adamw(lambda step: 0.1, PLAIN._replace(weight_decay=0.5), {}, network.trainable_variables)
    optimizer.build(network.trainable_variables)
    optimizer.apply_gradients([(tf.zeros_like(one), one) for one in network.trainable_variables])
    for variable in network.trainable_variables:
        expected = 1 - 0.1 * 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, err_msg=variable.path)
