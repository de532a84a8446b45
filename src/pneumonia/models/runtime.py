"""Keras and TensorFlow as this project runs them: start, devices, two operations that are faster than the default."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pneumonia import __version__


def start_keras(seed: int | None = None) -> None:
    """Import TensorFlow without its start-up chatter, and seed everything that draws random numbers, if anything does.

    Its C++ libraries write a dozen lines to stderr before any setting of theirs is read. They are held back
    while it is imported, and shown where the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            tf.zeros(1)  # looks for devices, which says more
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    if seed is not None:
        keras.utils.set_random_seed(seed)


def made_with() -> dict[str, str]:
    """What trains networks here: versions of the software, and the kind of hardware in general words.

    For the reader of a model card; nothing is decided by it.
    """
    import keras
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    gpus = Counter(one.get("device_name", "of unknown make") for one in details)
    shown = ", ".join(f"{n} GPU ({name})" for name, n in gpus.items())
    return {
        "Python": platform.python_version(),
        "TensorFlow": str(tf.__version__),
        "Keras": str(keras.__version__),
        "pneumonia": __version__,
        "hardware": shown or f"CPU ({platform.machine()}, {os.cpu_count()} cores), no GPU",
    }


@contextmanager
def on_devices() -> Iterator[None]:
    """Networks made and trained inside use the GPUs of this machine; without any nothing changes.

    Several share each batch (`tf.distribute.MirroredStrategy`). From Ampere on they compute in bfloat16, with weights
    and logits in float32.
    """
    import keras
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    before = keras.config.dtype_policy()
    if gpus and all(_has_bfloat16(gpu) for gpu in gpus):
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with tf.distribute.MirroredStrategy().scope() if len(gpus) > 1 else nullcontext():
            yield
    finally:
        keras.config.set_dtype_policy(before)


def _has_bfloat16(gpu: Any) -> bool:
    import tensorflow as tf

    return bool(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0))


@contextmanager
def fused_normalization() -> Iterator[None]:
    """Networks that learn inside normalise their batches in one operation of TensorFlow.

    Keras 3 composes batch normalisation from many (keras-team/keras-core issue 225); with those a step of MobileNetV2
    takes a CPU about one and a half times as long. The results differ by rounding only.
    """
    import tensorflow as tf
    from keras.layers import BatchNormalization

    composed = BatchNormalization.call

    def call(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        plain = layer.scale and layer.center and not layer.renorm and not layer.synchronized and mask is None
        images = len(inputs.shape) == 4 and layer.axis in (-1, 3) and inputs.dtype == "float32"
        if not (training and layer.trainable and plain and images):
            return composed(layer, inputs, training=training, mask=mask)
        empty = tf.zeros([0])  # in place of the moving statistics, which do not count while learning
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=layer.gamma, offset=layer.beta, mean=empty, variance=empty, epsilon=layer.epsilon
        )
        n = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= (n - 1) / n  # Keras keeps that of the batch, not an estimate of the population's
        for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(layer.momentum * moving + (1 - layer.momentum) * now)
        return outputs

    BatchNormalization.call = call
    try:
        yield
    finally:
        BatchNormalization.call = composed


def untuned() -> Any:
    """Options of a tf.data stream that is not tuned while it runs.

    Its tuner sleeps for ever longer and ends only when it wakes: who is through with the stream waits for it, up to as
    long again as the stream has lasted.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options
