"""Keras and TensorFlow in this project: start, devices, and two settings that are faster than the default."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import platform
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pneumonia import UserError, __version__

GB = 10**9
ADDRESS_SPACE, ADDRESS_SPACE_PER_CORE = 5 * GB, 15 * 10**7
"""Bytes: `evaluate` of the default run reserves 5.2 GB on two cores, and each core has two threads."""
MEMORY = 1_500_000_000
"""Bytes that `evaluate` of the default run uses."""
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container says how much it may use; the second is that of older systems."""
_MALLOC = {-1: 2_000_000_000, -2: 64 * 2**20, -4: 0, -8: 1}
"""M_TRIM_THRESHOLD and M_TOP_PAD of mallopt(3) in bytes, M_MMAP_MAX and M_ARENA_MAX in numbers. There is one heap for
all threads: each of the others is limited to 64 MB, and what is larger would be mapped and given back each time."""


def start_keras(seed: int | None = None, *, threads: int | None = None) -> None:
    """Import TensorFlow without its start-up messages; with a `seed`, seed all random generators.

    What the user's `keras.json` says about numbers and channels has no effect.

    Args:
        seed: of Keras, NumPy and Python.
        threads: that one operation may use; None = one for each core. Only the first call in a process can set it.

    Its C++ libraries write a dozen lines to stderr before they read any setting. These are collected during the import
    and printed only if it fails.
    """
    _require_memory()
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several processes share a GPU
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            if threads:
                with suppress(RuntimeError):  # TensorFlow has started already
                    tf.config.threading.set_intra_op_parallelism_threads(threads)
                    tf.config.threading.set_inter_op_parallelism_threads(threads)
            tf.zeros(1)  # searches for devices, which writes further messages
        except BaseException:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    # Each network of several folds is traced once, which is as it should be.
    tf.get_logger().addFilter(_is_not_about_tracing)
    gc.freeze()  # what the imports made stays: a full collection, which Keras starts for each network, skips it
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    if seed is not None:
        keras.utils.set_random_seed(seed)


def _is_not_about_tracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _keep_freed_memory() -> None:
    """Let freed memory stay with the process, where the C library is glibc.

    By default it gives large blocks back to the system, which clears each page of them before the next step of training
    gets it again: a third of the time of `compact` and of `mobilenet`. The process takes about 200 MB more.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in _MALLOC.items():
            mallopt(option, size)


def _require_memory() -> None:
    """Refuse to start with less memory than any stage with TensorFlow takes: its C++ libraries would end the process.

    Raises:
        UserError: a limit of this process, of its container, or the memory of this machine is too low.
    """
    needed = ADDRESS_SPACE + (os.cpu_count() or 1) * ADDRESS_SPACE_PER_CORE
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise UserError(
            f"TensorFlow needs an address space of {needed / GB:.1f} GB on this machine, and this process may use "
            f"{limit / GB:.1f} GB (ulimit -v); raise the limit: ulimit -v unlimited"
        )
    limits = [int(path.read_text()) for path in MEMORY_LIMITS if path.is_file() and path.read_text().strip().isdigit()]
    memory = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])
    if memory < MEMORY:
        raise UserError(
            f"TensorFlow needs {MEMORY / GB:.1f} GB of memory here, and there are {memory / GB:.1f} GB on this machine "
            "or in this container; use a larger one"
        )


def made_with() -> dict[str, str]:
    """Versions of the software and kind of hardware on which networks are trained here.

    For readers of the model card; it has no effect on the workflow.
    """
    import keras
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    gpus = Counter(device.get("device_name", "unknown model") for device in details)
    gpu_text = ", ".join(f"{n} GPU ({name})" for name, n in gpus.items())
    return {
        "Python": platform.python_version(),
        "TensorFlow": str(tf.__version__),
        "Keras": str(keras.__version__),
        "pneumonia": __version__,
        "hardware": gpu_text or f"CPU ({platform.machine()}, {os.cpu_count()} cores), no GPU",
    }


@contextmanager
def on_devices() -> Iterator[None]:
    """Networks made and trained in this context use the GPUs of the machine; without GPUs it has no effect.

    Several GPUs divide each batch (`tf.distribute.MirroredStrategy`). GPUs from Ampere on compute in bfloat16, with
    weights and logits in float32.
    """
    import keras
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    policy = keras.config.dtype_policy()
    if gpus and all(_has_bfloat16(gpu) for gpu in gpus):
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with tf.distribute.MirroredStrategy().scope() if len(gpus) > 1 else nullcontext():
            yield
    finally:
        keras.config.set_dtype_policy(policy)


def _has_bfloat16(gpu: Any) -> bool:
    import tensorflow as tf

    return bool(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0))


@contextmanager
def fused_normalization() -> Iterator[None]:
    """Networks trained in this context normalise their batches in one operation of TensorFlow.

    Keras 3 uses many operations (keras-team/keras-core issue 225); with these a step of MobileNetV2 on a CPU takes
    about 1.5 times as long. The results differ only by rounding.
    """
    import tensorflow as tf
    from keras.layers import BatchNormalization

    keras_call = BatchNormalization.call

    def call(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        plain = layer.scale and layer.center and not layer.renorm and not layer.synchronized and mask is None
        images = len(inputs.shape) == 4 and layer.axis in (-1, 3) and inputs.dtype == "float32"
        if not (training and layer.trainable and plain and images):
            return keras_call(layer, inputs, training=training, mask=mask)
        empty = tf.zeros([0])  # instead of the moving statistics, which are not used in training
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=layer.gamma, offset=layer.beta, mean=empty, variance=empty, epsilon=layer.epsilon
        )
        n = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= (n - 1) / n  # Keras stores the variance of the batch, not the unbiased estimate
        for moving, batch in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(layer.momentum * moving + (1 - layer.momentum) * batch)
        return outputs

    BatchNormalization.call = call
    try:
        yield
    finally:
        BatchNormalization.call = keras_call


def untuned() -> Any:
    """Options of a tf.data stream without autotuning.

    The autotuner sleeps for longer and longer periods and ends only after the present one: closing a stream can take as
    long as the stream has run.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options
