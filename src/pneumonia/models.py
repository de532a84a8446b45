"""The networks, one row of `MODELS` each, and the one function that scores images with them.

Every model takes pixels 0-255 `(n, height, width, 1)` of any size and carries its own resize and rescale
layers, so that the image store serves all of them. It ends in a float32 layer `logit` and its sigmoid,
`probability`. Keras is imported inside the functions: names and facts are known without it.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, __version__, dataset


class Model(NamedTuple):
    """A row of `MODELS`.

    Attributes:
        build: makes the network: `build(size, weights, dropout) -> keras.Model`; `weights` are files in the order of
            `weights_urls`, none for random ones.
        size: pixels, side of the square the network sees.
        explain: layer whose feature maps Grad-CAM weighs.
        weights_urls: published ImageNet weights, one file for each backbone; empty where there is no backbone.
        source: where the architecture comes from, and what was published of it.
    """

    build: Callable[[int, tuple[str, ...], float], Any]
    size: int
    explain: str
    weights_urls: tuple[str, ...]
    source: str


def _compact(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size)
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for block, filters in enumerate((8, 8, 8, 32, 32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
        # The first blocks have too few channels to lose one.
        x = layers.SpatialDropout2D(dropout if block > 3 else 0.0, name=f"drop{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    x = layers.Dense(32, activation="relu", name="dense2")(x)
    return _classifier("compact", pixels, x)


def _vanilla(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size, channels=3)
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for block, filters in enumerate((32, 64), start=1):
        for place in (2 * block - 1, 2 * block):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{place}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)  # 56 * 56 * 64 values, and with them 99.8 % of the parameters
    for place, units in enumerate((256, 128, 64), start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{place}")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name="norm")(x)
    # Published without; behind the normalisation, whose moving variance would else be that of thinned-out values.
    x = layers.Dropout(dropout, name="drop")(x)
    return _classifier("vanilla", pixels, x)


def _conv4(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size)
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for block, filters in enumerate((32, 64, 128, 128), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(padding="same", name=f"pool{block}")(x)  # 150 -> 75 -> 38 -> 19 -> 10
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(dropout, name="drop")(x)
    x = layers.Dense(512, activation="relu", name="dense1")(x)
    return _classifier("conv4", pixels, x)


def _shallow(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size, channels=3)
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for block, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)  # 64 -> 62 -> 31 -> 29 -> 14
    x = layers.Dropout(dropout, name="drop")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    return _classifier("shallow", pixels, x)


def _fine_tuned(
    name: str, application: str, scaling: Mapping[str, Any], size: int, weights: tuple[str, ...], dropout: float
) -> Any:
    """One of `keras.applications` under a pooling and a logit, all of it trained."""
    import keras
    from keras import layers

    pixels, x = _input(size, channels=3)
    x = layers.Rescaling(**scaling, name="rescale")(x)
    x = _backbone(getattr(keras.applications, application), x, weights, name)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dropout(dropout, name="drop")(x)
    return _classifier(name, pixels, x)


def _fusion(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    import keras
    from keras import layers

    pixels, rgb = _input(size, channels=3)
    halves = (
        ("mobilenet", keras.applications.MobileNetV2, _PLUS_MINUS_ONE, weights[:1]),
        ("densenet", keras.applications.DenseNet169, _IMAGENET, weights[1:]),
    )
    features = []
    for half, application, scaling, files in halves:
        x = layers.Rescaling(**scaling, name=f"{half}_rescale")(rgb)
        x = _backbone(application, x, files, "fusion", prefix=f"{half}_", frozen=True)
        features.append(layers.GlobalAveragePooling2D(name=f"{half}_pool")(x))
    x = layers.Concatenate(name="features")(features)  # 1,280 and 1,664
    x = layers.BatchNormalization(momentum=MOMENTUM, name="norm")(x)
    for place, units in enumerate((256, 128), start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{place}")(x)
        x = layers.Dropout(dropout, name=f"drop{place}")(x)
    return _classifier("fusion", pixels, x)


MOMENTUM = 0.9
"""Of batch normalisation that learns. Keras' .99 and .999 are made for ImageNet's million steps: after a few hundred
the moving statistics would still be those of the start, and the network useless outside training."""

_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
_MOBILENET_V2 = f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
_DENSENET = f"{_APPLICATIONS}/densenet/densenet{{depth}}_weights_tf_dim_ordering_tf_kernels_notop.h5"

_PLUS_MINUS_ONE: dict[str, Any] = {"scale": 1 / 127.5, "offset": -1.0}
_RGB_MEAN, _RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET: dict[str, Any] = {
    "scale": [1 / (255 * std) for std in _RGB_STD],
    "offset": [-mean / std for mean, std in zip(_RGB_MEAN, _RGB_STD, strict=True)],
}
"""`keras.applications.densenet.preprocess_input` as a `Rescaling`: mean and deviation of each channel on ImageNet."""

_UNFOLD_BATCH = 32

MODELS = {
    "compact": Model(
        build=_compact,
        size=256,
        explain="conv4",  # 32x32 cells; of all layers the one that points best on validation images of the phantom
        weights_urls=(),
        source="seven conv+pool blocks, 77,633 parameters, as published for the Kermany set",
    ),
    "vanilla": Model(
        build=_vanilla,
        size=224,
        explain="conv4",
        weights_urls=(),
        source="two blocks of two convolutions, three dense layers, 51,487,521 parameters, as published for the "
        "Kermany set with AUC .904, precision .738, recall .987",
    ),
    "conv4": Model(
        build=_conv4,
        size=150,
        explain="conv4",
        weights_urls=(),
        source="four conv+pool blocks, 6,794,881 parameters, as published for the Kermany set with accuracy and F1 .92",
    ),
    "shallow": Model(
        build=_shallow,
        size=64,
        explain="conv2",
        weights_urls=(),
        source="two conv+pool blocks, 1,625,281 parameters, as published for the Kermany set with accuracy .857",
    ),
    "mobilenet": Model(
        build=partial(_fine_tuned, "mobilenet", "MobileNetV2", _PLUS_MINUS_ONE),
        size=128,
        explain="out_relu",
        weights_urls=(_MOBILENET_V2,),
        source="Sandler et al. (2018), MobileNetV2, arXiv:1801.04381",
    ),
    "densenet": Model(
        build=partial(_fine_tuned, "densenet", "DenseNet121", _IMAGENET),
        size=224,
        explain="relu",
        weights_urls=(_DENSENET.format(depth=121),),
        source="Huang et al. (2017), DenseNet121, arXiv:1608.06993; for chest X-rays Rajpurkar et al. (2017), CheXNet, "
        "arXiv:1711.05225",
    ),
    "fusion": Model(
        build=_fusion,
        size=224,
        explain="densenet_relu",  # the half that brings more of what the head weighs: 1,664 of 2,944 features
        weights_urls=(_MOBILENET_V2, _DENSENET.format(depth=169)),
        source="frozen features of MobileNetV2 (arXiv:1801.04381) and DenseNet169 (arXiv:1608.06993), as published for "
        "the Kermany set with AUC .976, but stopped early on its test set",
    ),
}


def model_row(name: str) -> Model:
    """The row of `MODELS`, or one line that lists the known ones."""
    if name not in MODELS:
        raise UserError(f"model = {name!r} is unknown; known: {', '.join(MODELS)}")
    return MODELS[name]


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


def create_model(
    name: str,
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    dropout: float = 0.2,
    size: int | None = None,
) -> Any:
    """A new network, not yet trained.

    Args:
        name: a key of `MODELS`.
        weights: file of the backbone's ImageNet weights, or one for each backbone in the order of the row's
            `weights_urls`; None or empty = random. A model without a backbone has no use for them.
        dropout: share of channels dropped in training, 0-1.
        size: pixels, side of the square the network sees; None = the row's.

    Returns:
        keras.Model: float32 (n, None, None, 1), pixels 0-255 -> float32 (n, 1), probability of pneumonia.

    Raises:
        UserError: unknown name, a size too small for its layers, too many or too few files, or one that is not finite
            weights of the architecture.
    """
    row = model_row(name)
    given = [weights] if isinstance(weights, str | Path) else weights or []
    files = tuple(str(path) for path in given)
    if files and row.weights_urls and len(files) != len(row.weights_urls):
        raise UserError(
            f"weights = {', '.join(files)}: {len(files)} given, but {name} takes {len(row.weights_urls)}, one file for "
            "each backbone; give them all, or none"
        )
    try:
        return row.build(size or row.size, files, dropout)
    except ValueError as error:
        if size is None:
            raise
        raise UserError(
            f"size = {size}: {name} cannot be built for so small an image; its own is {row.size}"
        ) from error


def unfold(model: Any, images: npt.NDArray[np.uint8]) -> int:
    """Give batch normalisation back its work where the weights come with it folded into the convolutions.

    Converted weights (from TFLite, for one) often have: every normalisation then passes its input through, and a
    network trained on from there has none, and memorises. Here each gets the mean and variance that its input has on
    `images`, and a scale and shift that undo them: the network computes what it did, and has something to train with.

    Args:
        model: as `create_model` makes it, with weights of its backbone.
        images: uint8 (n, height, width); a few hundred of those it will be trained on.

    Returns:
        Layers that were changed; 0 where the weights have statistics of their own.
    """
    import keras

    folded = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and _passes_through(layer)
    ]
    if not folded:
        return 0
    inputs = keras.Model(model.input, [layer.input for layer in folded])
    n_values, sums, squares = np.zeros(len(folded)), [0.0] * len(folded), [0.0] * len(folded)
    for start in range(0, len(images), _UNFOLD_BATCH):
        arrived = inputs(images[start : start + _UNFOLD_BATCH, ..., None].astype(np.float32), training=False)
        for number, tensor in enumerate(arrived if isinstance(arrived, list) else [arrived]):
            values = np.asarray(tensor, dtype=np.float64).reshape(-1, tensor.shape[-1])
            n_values[number] += len(values)
            sums[number] = sums[number] + values.sum(axis=0)
            squares[number] = squares[number] + (values**2).sum(axis=0)
    for layer, n, total, square in zip(folded, n_values, sums, squares, strict=True):
        mean = np.asarray(total) / n
        variance = np.maximum(np.asarray(square) / n - mean**2, 0)
        gamma, beta, _, before = layer.get_weights()
        scale = gamma / np.sqrt(before + layer.epsilon)  # what the layer has done so far: scale * input + beta
        layer.set_weights([scale * np.sqrt(variance + layer.epsilon), beta + scale * mean, mean, variance])
    return len(folded)


def _passes_through(layer: Any) -> bool:
    """No mean to take off and one variance for all channels: nothing that was ever measured."""
    _, _, mean, variance = layer.get_weights()
    return bool((mean == 0).all() and np.ptp(variance) == 0)


def halves(model: Any) -> tuple[Any, Any]:
    """A network in two: its backbone, pixels to the layer `features`, and the head behind it; layers are shared.

    Returns:
        Two keras.Model; None and the network itself where it has no backbone.
    """
    import keras

    if all(layer.name != "features" for layer in model.layers):
        return None, model
    features = model.get_layer("features").output
    return keras.Model(model.input, features, name="backbone"), keras.Model(features, model.output, name="head")


def depths(model: Any) -> dict[str, int]:
    """Name of each backbone layer that has weights, and its block's place from the top: 1 is next to the head."""
    body, _ = halves(model)
    layers = [layer.name for layer in body.layers if layer.weights] if body else []
    blocks = list(dict.fromkeys(map(_block, layers)))
    return {name: len(blocks) - blocks.index(_block(name)) for name in layers}


def unfreeze(model: Any, share: float) -> None:
    """Let the upper `share` of the backbone's blocks learn, 0-1; in the others normalisation keeps its statistics."""
    place = depths(model)
    learns = math.ceil(share * max(place.values(), default=0))
    for name, depth in place.items():
        model.get_layer(name).trainable = depth <= learns


def load_model(path: str | Path) -> Any:
    """The model of a `.keras` file; code in it is not run (`safe_mode`)."""
    import keras

    return keras.saving.load_model(path, compile=False, safe_mode=True)


def in_float32(model: Any) -> Any:
    """The network as it computes on any machine: one trained in half precision made anew in single precision."""
    import keras

    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def single(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    plain = keras.models.clone_model(model, clone_function=single)
    plain.set_weights(model.get_weights())
    return plain


def ensemble(networks: Sequence[Any]) -> Any:
    """One network whose logit is the mean of the logits of some; of a single one itself. Computes in single precision.

    Args:
        networks: of one name, as `create_model` makes them.

    Returns:
        keras.Model like theirs, which are its layers `member1`, `member2`, ….

    Source: deep ensembles, Lakshminarayanan et al. (2017), arXiv:1612.01474, who average the probabilities.
    """
    import keras
    from keras import layers

    networks = [in_float32(network) for network in networks]
    if len(networks) == 1:
        return networks[0]
    pixels = layers.Input((None, None, 1), name="pixels")
    parts = [
        keras.Model(network.input, network.get_layer("logit").output, name=f"member{number}")
        for number, network in enumerate(networks, start=1)
    ]
    logit = layers.Average(name="logit")([part(pixels) for part in parts])
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name=networks[0].name)


def members(model: Any) -> list[Any]:
    """The networks that `ensemble` made one of; the model itself where it is none."""
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]


def save_model(model: Any, path: str | Path) -> None:
    """Write a `.keras` file, whole or not at all."""
    with dataset.written_whole(path) as partial:
        model.save(partial)


def predict_scores(
    model: Any, images: npt.NDArray[np.uint8] | dataset.Pixels, batch_size: int = 64
) -> npt.NDArray[np.float64]:
    """Probability of pneumonia for each image.

    Args:
        model: as `create_model` makes it.
        images: uint8 (n, height, width), 0-255, as `preprocess.prepare` makes them; in memory or in the store.
        batch_size: images scored at once.

    Returns:
        float64 (n,), 0-1.
    """
    if len(images) == 0:
        return np.zeros(0)
    scores = [outputs(model, block[..., None], batch_size=batch_size) for block in dataset.blocks(images)]
    return np.concatenate(scores)[:, 0].astype(np.float64)


def outputs(network: Any, inputs: npt.NDArray[Any], *, batch_size: int) -> npt.NDArray[np.float32]:
    """What a network makes of arrays: `predict` of Keras without its waiting, see `untuned`.

    Args:
        network: a Keras model.
        inputs: (n, …), as it takes them.
        batch_size: of them at once.

    Returns:
        float32 (n, …).
    """
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices(inputs).batch(batch_size).prefetch(2)
    return np.asarray(network.predict(stream.with_options(untuned()), verbose=0))


def untuned() -> Any:
    """Options of a tf.data stream that is not tuned while it runs.

    Its tuner sleeps for ever longer and ends only when it wakes: who is through with the stream waits for it, up to as
    long again as the stream has lasted.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def summary(model: Any) -> pd.DataFrame:
    """What a network is made of, one row per block from the pixels to the probability.

    A layer is a block of its own, except in backbones: there the layers of a stage (`conv4_block1_1_conv` to
    `conv4_block32_concat`) or of an inverted residual (`block_3_expand` to `block_3_project_BN`) are one.

    Args:
        model: as `create_model` makes it.

    Returns:
        `name`; `kind`: classes of its layers, with their number, of those with a kernel where it has any;
        `output`: shape behind its last layer without the batch, such as `7 x 7 x 1664`;
        `parameters`; `trainable`: those that training changes.
    """
    import keras

    blocks: dict[str, list[Any]] = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.ZeroPadding2D):  # part of the convolution or pooling that follows
            blocks.setdefault(_block(layer.name), []).append(layer)
    # Keras lists the layers of parallel backbones in turns; each is read in one piece, from where it begins.
    begins: dict[str, int] = {}
    for place, name in enumerate(blocks):
        begins.setdefault(_half(name), place)
    return pd.DataFrame(
        [
            {
                "name": name,
                "kind": _kinds(blocks[name]),
                "output": " x ".join(str(side or "any") for side in blocks[name][-1].output.shape[1:]),
                "parameters": sum(one.count_params() for one in blocks[name]),
                "trainable": sum(int(np.prod(w.shape)) for one in blocks[name] for w in one.trainable_weights),
            }
            for name in sorted(blocks, key=lambda name: begins[_half(name)])
        ]
    )


def _block(layer: str) -> str:
    found = re.match(r"((?:mobilenet_|densenet_)?(?:expanded_conv|block_\d+|conv\d+|pool\d+))_", layer)
    return found[1] if found else layer


def _half(block: str) -> str:
    found = re.match(r"mobilenet_|densenet_", block)
    return found[0] if found else block


def _kinds(block: list[Any]) -> str:
    kernels = [one for one in block if hasattr(one, "kernel")]
    counts = Counter(type(one).__name__ for one in kernels or block)
    return ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in counts.items())


def _input(size: int, channels: int = 1) -> tuple[Any, Any]:
    """Pixels of any size, and the square the network sees; three channels are the one repeated."""
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.Resizing(size, size, name="resize")(pixels)
    return pixels, x if channels == 1 else layers.Concatenate(name="gray_to_rgb")([x] * channels)


def _backbone(
    application: Callable[..., Any],
    x: Any,
    weights: tuple[str, ...],
    name: str,
    *,
    prefix: str = "",
    frozen: bool = False,
) -> Any:
    """The last feature maps of one of `keras.applications`, its layers flat behind `x`.

    Args:
        application: makes it.
        x: scaled as it expects, three channels.
        weights: one file, or none for random weights.
        name: of the whole model, for the error.
        prefix: of its layers' names; tells two backbones in one graph apart.
        frozen: its weights do not learn, and its batch normalisation keeps its statistics also in training.
    """
    import keras
    from keras import layers

    loaded = []
    for path in weights:
        plain = application(input_shape=tuple(x.shape[1:]), include_top=False, weights=None)
        _load_weights(plain, path, name)
        loaded = plain.get_weights()
    before = {id(one) for one in keras.Model(keras.utils.get_source_inputs(x), x).layers}
    # `input_tensor` builds the backbone flat: Grad-CAM could not reach the layers of a nested model.
    backbone = application(input_tensor=x, include_top=False, weights=None)
    if loaded:
        backbone.set_weights(loaded)
    for layer in backbone.layers:
        if id(layer) in before:
            continue
        layer.name = f"{prefix}{layer.name}"
        if frozen:
            layer.trainable = False  # which for batch normalisation also means inference mode
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return backbone.output


def _classifier(name: str, pixels: Any, features: Any) -> Any:
    import keras
    from keras import layers

    # float32 whatever the precision policy: a sigmoid in half precision has no scores near 0 and 1.
    logit = layers.Dense(1, name="logit", dtype="float32")(features)
    probability = layers.Activation("sigmoid", name="probability", dtype="float32")(logit)
    return keras.Model(pixels, probability, name=name)


def _load_weights(model: Any, path: str, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a hundred of them come before the error below
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"weights = {path}: not the weights of the backbone of {name} ({model.name}: "
            f"{str(error).splitlines()[0]}); give the file made for this architecture without top"
        ) from error
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise UserError(
                f"weights = {path}: {weight.path} has values that are not finite, so {name} could not learn from them; "
                "bring the file again"
            )
