"""Every row of `MODELS` in one parametrised set of tests, then what is known of single networks."""

import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pneumonia import UserError, __version__, dataset, explain, models
from tests.conftest import half_precision

ROOT = Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 90, 70), dtype=np.uint8)  # the size of no network
SIZES = {"vanilla": 32, "conv4": 64, "mobilenet": 64, "densenet": 64, "fusion": 64}  # small where the real one is slow


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    models.start_keras(1)


@contextmanager
def shallow_densenets() -> Iterator[None]:
    """DenseNets with one layer in each block: built, traced and saved in a tenth of the time, by the same code."""
    import keras
    from keras.src.applications import densenet

    with pytest.MonkeyPatch.context() as patch:
        for name in ("DenseNet121", "DenseNet169"):
            patch.setattr(keras.applications, name, partial(densenet.DenseNet, [1, 1, 1, 1], name=name.lower()))
        yield


@pytest.fixture(scope="module", params=models.MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    with shallow_densenets():
        made = models.create_model(request.param, dropout=0.35, size=SIZES.get(request.param))
    with_own_statistics(made, IMAGES[..., None])
    return made


def with_own_statistics(model: Any, pixels: NDArray) -> None:
    """Give batch normalisation the statistics of `pixels`: with those it starts with, deep networks score all alike."""
    import keras

    normalisations = [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]
    momenta = [one.momentum for one in normalisations]
    for one in normalisations:
        one.momentum = 0.0
    model(pixels.astype(np.float32), training=True)
    for one, momentum in zip(normalisations, momenta, strict=True):
        one.momentum = momentum


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


# --- every network --------------------------------------------------------------------------------------------------


def test_scores_are_probabilities_for_images_of_another_size(model: Any) -> None:
    scores = models.predict_scores(model, IMAGES)
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(set(scores)) == 3  # it looks at the image
    assert model(np.zeros((1, 300, 260, 1), np.float32), training=False).shape == (1, 1)


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


def test_a_saved_model_gives_equal_scores(model: Any, tmp_path: Path) -> None:
    models.save_model(model, tmp_path / "new" / "model.keras")
    loaded = models.load_model(tmp_path / "new" / "model.keras")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.keras"]
    assert loaded.name == model.name  # explaining finds the row by it
    pixels = IMAGES[..., None].astype(np.float32)  # called and not predicted, which would compile each of them
    np.testing.assert_array_equal(loaded(pixels, training=False), model(pixels, training=False))
    assert [one.path for one in loaded.trainable_weights] == [one.path for one in model.trainable_weights]


def test_no_layer_runs_code_from_the_file_and_none_is_a_model(model: Any) -> None:
    import keras

    assert not [one.name for one in model.layers if isinstance(one, (keras.layers.Lambda, keras.Model))]


def test_the_layer_to_explain_has_maps_in_space(model: Any) -> None:
    import keras

    row = models.MODELS[model.name]
    features = keras.Model(model.input, model.get_layer(row.explain).output)
    n, height, width, channels = features(IMAGES[..., None].astype(np.float32), training=False).shape
    assert n == 3
    assert min(height, width) > 1
    assert channels > 1


def test_grad_cam_reaches_the_layer_to_explain(model: Any) -> None:
    images = np.stack([image[:64, :64] for image in IMAGES])
    maps = explain.grad_cam(model, images, n_samples=1, seed=1)
    assert maps.shape == images.shape
    assert np.isfinite(maps).all()
    assert ((maps >= 0) & (maps <= 1)).all()


def test_the_network_sees_a_square_of_its_own_size(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = models.MODELS[model.name]
    resize = model.get_layer("resize")
    assert (resize.height, resize.width) == (SIZES.get(model.name, row.size),) * 2
    monkeypatch.setitem(models.MODELS, model.name, row._replace(build=lambda size, *_: size))
    assert models.create_model(model.name) == row.size


def test_the_summary_accounts_for_every_parameter_on_one_page(model: Any) -> None:
    table = models.summary(model)
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


def test_what_trains_is_named_with_its_version_and_its_hardware_in_general_words() -> None:
    made_with = models.made_with()
    hardware = made_with.pop("hardware")
    assert made_with == {
        "Python": ".".join(map(str, sys.version_info[:3])),
        "TensorFlow": version("tensorflow"),
        "Keras": version("keras"),
        "pneumonia": __version__,
    }
    assert re.fullmatch(r"CPU \(\w+, \d+ cores\), no GPU|\d+ GPU \(.+\)", hardware)


def test_a_row_says_where_it_comes_from(model: Any) -> None:
    row = models.MODELS[model.name]
    assert row.source
    assert len(row.weights_urls) == len(BACKBONES.get(model.name, ()))
    for url in row.weights_urls:
        assert url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")
        assert url.endswith(("_no_top.h5", "_notop.h5"))


# --- single networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("compact", 77_633),
        ("vanilla", 51_487_521),
        ("conv4", 6_794_881),
        ("shallow", 1_625_281),
        ("mobilenet", 2_257_984 + 1_281),  # of the backbone as Keras publishes it, and of the head
        ("densenet", 7_037_504 + 1_025),
        ("fusion", 2_257_984 + 12_642_880 + 11_776 + 753_920 + 32_896 + 129),
    ],
)
def test_a_network_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    import keras

    assert models.create_model(name).count_params() == parameters
    keras.utils.clear_session()


def test_all_of_compact_is_trainable() -> None:
    compact = models.create_model("compact")
    assert sum(int(np.prod(one.shape)) for one in compact.trainable_weights) == 77_633


def test_only_the_head_of_fusion_learns() -> None:
    with shallow_densenets():
        fusion = models.create_model("fusion", size=32)
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
        table = models.summary(models.create_model("fusion", size=32)).set_index("name")
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


@pytest.mark.parametrize(
    ("name", "size", "black", "white"),
    [
        ("compact", 128, 0, 1),
        ("vanilla", 32, 0, 1),
        ("conv4", 32, 0, 1),
        ("shallow", 32, 0, 1),
        ("mobilenet", 32, -1, 1),
    ],
)
def test_pixels_arrive_in_the_range_the_network_was_made_for(name: str, size: int, black: float, white: float) -> None:
    import keras

    model = models.create_model(name, size=size)
    (rescaling,) = [one for one in model.layers if isinstance(one, keras.layers.Rescaling)]
    rescaled = keras.Model(model.inputs, rescaling.output)
    values = rescaled.predict(np.stack([np.zeros((40, 40, 1)), np.full((40, 40, 1), 255.0)]), verbose=0)
    np.testing.assert_allclose(values.min(axis=(1, 2, 3)), [black, white], atol=1e-6)
    np.testing.assert_allclose(values.max(axis=(1, 2, 3)), [black, white], atol=1e-6)


def test_the_logit_is_float32_also_in_mixed_precision() -> None:
    with half_precision():
        model = models.create_model("compact", size=128)
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
        model = models.create_model(name, weights=paths[0] if len(paths) == 1 else paths, size=64)
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
        model = models.create_model(name, weights=written(name, plain, tmp_path, "backbone.weights.h5"), size=32)
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
        models.create_model("fusion", weights=paths[::-1], size=32)
    assert str(refusal.value).startswith(f"weights = {paths[1]}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["mobilenet", "fusion"])
def test_half_the_weights_are_refused(name: str, tmp_path: Path) -> None:
    half = [tmp_path / f"{place}.h5" for place in range(len(BACKBONES[name]) % 2 + 1)]
    with pytest.raises(UserError, match=f"{len(half)} given, but {name} takes {len(BACKBONES[name])}, one file for"):
        models.create_model(name, weights=half, size=32)


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
            models.create_model("densenet", weights=tmp_path / file, size=32)
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
        models.create_model("mobilenet", weights=tmp_path / file, size=32)
    assert str(tmp_path / file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "size"), [("compact", 64), ("shallow", 8)])
def test_a_size_too_small_for_the_layers_is_refused_in_one_line(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"^size = {size}: {name} cannot be built .* its own is \d+$"):
        models.create_model(name, size=size)


@pytest.mark.parametrize("ask", [models.model_row, models.create_model])
def test_an_unknown_name_lists_the_known_ones(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="model = 'resnet' is unknown; known: ") as refusal:
        ask("resnet")
    assert all(name in str(refusal.value) for name in models.MODELS)


# --- folded normalisation -------------------------------------------------------------------------------------------


def normalisations(model: Any) -> list[Any]:
    import keras

    return [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]


@pytest.fixture
def folded() -> Any:
    """A network as converters leave it: its normalisations add a shift to their input, and no more."""
    model = models.create_model("mobilenet", size=64)
    rng = np.random.default_rng(3)
    for one in normalisations(model):
        channels = len(one.get_weights()[0])
        shift = rng.normal(0, 0.3, channels)
        one.set_weights([np.ones(channels), shift, np.zeros(channels), np.full(channels, 1 - one.epsilon)])
    return model


def test_unfolding_gives_each_normalisation_the_statistics_of_its_input_and_keeps_the_function(folded: Any) -> None:
    import keras

    images = np.random.default_rng(4).integers(0, 256, (40, 64, 64), dtype=np.uint8)
    features = keras.Model(folded.inputs, folded.get_layer("features").output)
    layers = normalisations(folded)
    before = features.predict(images[..., None], verbose=0)
    assert models.unfold(folded, images) == len(layers)
    np.testing.assert_allclose(features.predict(images[..., None], verbose=0), before, atol=1e-3, rtol=1e-3)
    arrived = keras.Model(folded.inputs, [one.input for one in layers]).predict(images[..., None], verbose=0)
    for layer, values in zip(layers, arrived, strict=True):
        _, _, mean, variance = layer.get_weights()
        np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2)), rtol=1e-2, atol=1e-4)
    # Asked again, it finds statistics and leaves them.
    assert models.unfold(folded, images) == 0


def test_statistics_of_their_own_are_left_alone() -> None:
    model = models.create_model("mobilenet", size=64)
    with_own_statistics(model, IMAGES[..., None])
    weights = model.get_weights()
    assert models.unfold(model, IMAGES) == 0
    for one, two in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)


# --- scoring, saving ------------------------------------------------------------------------------------------------


def test_no_images_have_no_scores(model: Any) -> None:
    scores = models.predict_scores(model, IMAGES[:0])
    assert scores.shape == (0,)
    assert scores.dtype == np.float64


def test_an_ensemble_has_the_mean_logit_of_its_members_and_their_mean_map(tmp_path: Path) -> None:
    import keras

    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        members.append(models.create_model("shallow"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 80, 80), np.uint8)
    one, other = (logit(models.predict_scores(member, pixels)) for member in members)
    models.save_model(models.ensemble(members), tmp_path / "model.keras")
    loaded = models.load_model(tmp_path / "model.keras")
    assert loaded.name == "shallow"
    np.testing.assert_allclose(logit(models.predict_scores(loaded, pixels)), (one + other) / 2, atol=1e-5)
    assert not np.allclose(one, other)
    assert loaded.count_params() == 2 * members[0].count_params() == models.summary(loaded)["parameters"].sum()
    inner = [explain._cam(member, "conv2")(pixels[..., None].astype(np.float32)) for member in members]
    both = explain._cam(loaded, "conv2")(pixels[..., None].astype(np.float32))
    np.testing.assert_allclose(both, (inner[0] + inner[1]) / 2, rtol=1e-4, atol=1e-6)
    how = {"n_samples": 2, "seed": 1}
    assert all(method(loaded, pixels, **how).max() == 1 for method in explain.METHODS.values())


def test_an_ensemble_of_one_is_the_one() -> None:
    network = models.create_model("shallow")
    assert models.ensemble([network]) is network
    assert models.members(network) == [network]


def test_an_ensemble_of_half_precision_computes_in_single_precision() -> None:
    with half_precision():
        networks = [models.create_model("shallow", size=32) for _ in range(2)]
    members = models.members(models.ensemble(networks))
    assert {layer.compute_dtype for member in members for layer in member.layers} == {"float32"}


def logit(probability: NDArray) -> NDArray:
    return np.log(probability / (1 - probability))


def test_outputs_are_those_of_predict_for_any_batch_size() -> None:
    network = models.create_model("shallow")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 1), np.uint8)
    expected = network.predict(pixels, batch_size=2, verbose=0)
    given: list[Any] = []
    predict = network.predict
    network.predict = lambda stream, **how: (given.append(stream), predict(stream, **how))[1]
    np.testing.assert_array_equal(models.outputs(network, pixels, batch_size=2), expected)
    np.testing.assert_allclose(models.outputs(network, pixels, batch_size=9), expected, rtol=1e-5)
    # Tuned, the end of a stream would be waited for.
    assert [stream.options().autotune.enabled for stream in given] == [False, False]


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    compact = models.create_model("compact", size=128)
    together = models.predict_scores(compact, IMAGES)
    np.testing.assert_allclose(models.predict_scores(compact, IMAGES, batch_size=1), together, atol=1e-6)
    np.testing.assert_allclose(models.predict_scores(compact, IMAGES[::-1]), together[::-1], atol=1e-6)


def test_scores_in_blocks_are_those_of_one_call_in_memory_and_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(1).integers(0, 256, (150, 32, 32), dtype=np.uint8)
    model = models.create_model("compact", size=128)
    at_once = model.predict(images[..., None], batch_size=64, verbose=0)[:, 0]
    assert len(set(at_once)) > 140
    array = zarr.create_array({}, data=images, chunks=(50, 32, 32))
    monkeypatch.setattr(dataset, "IMAGES_PER_BLOCK", 64)
    np.testing.assert_array_equal(models.predict_scores(model, images), at_once)
    np.testing.assert_array_equal(models.predict_scores(model, dataset.Pixels(array, 0)), at_once)


def test_a_block_is_whole_batches() -> None:
    (batch_size,) = [one.default for one in signature(models.predict_scores).parameters.values()][2:]
    assert dataset.IMAGES_PER_BLOCK % batch_size == 0


def test_a_model_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def save(self, path: Path) -> None:
            path.write_text("half a model")
            raise OSError("disk full")

    (tmp_path / "model.keras").write_text("the old one")
    with pytest.raises(OSError, match="disk full"):
        models.save_model(Broken(), tmp_path / "model.keras")
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_text() == "the old one"


# --- starting -------------------------------------------------------------------------------------------------------


def python(code: str, *first_on_path: Path) -> subprocess.CompletedProcess[str]:
    """Run in a fresh process; what this one has set for TensorFlow is not passed on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))}
    path = os.pathsep.join(map(str, (*first_on_path, ROOT / "src")))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**kept, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_names_are_known_without_keras() -> None:
    ended = python(
        """
        import sys
        from pneumonia import models
        print(sorted(models.MODELS), sorted({"keras", "tensorflow"} & set(sys.modules)))
        """
    )
    assert ended.stdout == f"{sorted(models.MODELS)} []\n", ended.stderr


def test_keras_starts_in_silence_with_every_generator_seeded() -> None:
    ended = python(
        """
        import random, sys
        from pneumonia import models

        def draw():
            import keras
            import numpy as np
            return random.random(), np.random.random(), float(keras.random.uniform(()))

        models.start_keras(7)
        first = draw()
        models.start_keras(7)
        print(first == draw())
        models.start_keras(8)
        print([old == new for old, new in zip(first, draw())])
        print("still heard", file=sys.stderr)
        """
    )
    assert ended.stdout == "True\n[False, False, False]\n"
    assert ended.stderr == "still heard\n"


def test_what_was_held_back_is_shown_when_keras_cannot_be_imported(tmp_path: Path) -> None:
    lines = "import os", "os.write(2, b'words of a C library\\n')", "raise ImportError('broken')"
    (tmp_path / "keras.py").write_text("\n".join(lines))
    ended = python("from pneumonia import models; models.start_keras(1)", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("words of a C library\nTraceback")
    assert ended.stderr.endswith("ImportError: broken\n")


# --- parts of a network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet", "densenet", "fusion"])
def test_the_halves_of_a_network_with_a_backbone_are_the_network(name: str) -> None:
    model = models.create_model(name, size=32)
    body, head = models.halves(model)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 1)).astype(np.float32)
    features = np.asarray(body(pixels, training=False))
    np.testing.assert_allclose(head(features, training=False), model(pixels, training=False), rtol=1e-5, atol=1e-7)
    learning = {layer.name for layer in head.layers if layer.trainable_weights}
    assert "logit" in learning
    assert not learning & set(models.depths(model))


@pytest.mark.parametrize("name", ["compact", "vanilla", "conv4", "shallow"])
def test_a_network_without_backbone_is_all_head(name: str) -> None:
    model = models.create_model(name)
    assert models.halves(model) == (None, model)
    assert models.depths(model) == {}


def test_blocks_are_counted_from_the_head_down() -> None:
    depths = models.depths(models.create_model("mobilenet", size=32))
    assert depths["Conv_1_bn"] <= depths["Conv_1"] <= 2  # the last convolution and its normalisation
    assert depths["block_16_expand"] == depths["block_16_project_BN"] == depths["Conv_1"] + 1
    assert depths["block_1_expand"] == depths["block_16_expand"] + 15
    assert depths["Conv1"] == max(depths.values())
    densenet = models.depths(models.create_model("densenet", size=32))
    assert densenet["conv5_block1_1_conv"] == densenet["conv5_block16_2_conv"]  # there a stage is a block
    assert densenet["conv2_block1_1_conv"] > densenet["conv3_block1_1_conv"] > densenet["conv5_block1_1_conv"]


def test_unfreezing_goes_from_the_top() -> None:
    model = models.create_model("mobilenet", size=32)
    depths = models.depths(model)
    deepest = max(depths.values())
    for share in (0.0, 0.01, 0.3, 1.0):
        models.unfreeze(model, share)
        learns = {depths[name] for name in depths if model.get_layer(name).trainable_weights}
        assert learns == set(range(1, math.ceil(share * deepest) + 1))
        assert model.get_layer("logit").trainable


# --- devices --------------------------------------------------------------------------------------------------------


def test_without_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with models.on_devices():
        assert keras.config.dtype_policy().name == "float32"
        assert not isinstance(tf.distribute.get_strategy(), tf.distribute.MirroredStrategy)


@pytest.mark.parametrize(
    ("capability", "policy"), [((9, 0), "mixed_bfloat16"), ((8, 0), "mixed_bfloat16"), ((7, 5), "float32")]
)
def test_a_gpu_that_has_bfloat16_computes_in_it(
    capability: tuple[int, int], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    import tensorflow as tf

    details = {"compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    with models.on_devices():
        assert keras.config.dtype_policy().name == policy
    assert keras.config.dtype_policy().name == "float32"


def test_a_network_of_half_precision_is_saved_in_single_precision() -> None:
    with half_precision():
        half = models.create_model("shallow", size=32)
    assert half.get_layer("conv1").compute_dtype == "bfloat16"
    plain = models.in_float32(half)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert plain.name == half.name
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32), np.uint8)
    np.testing.assert_allclose(models.predict_scores(plain, images), models.predict_scores(half, images), atol=0.02)
    assert models.in_float32(plain) is plain


@pytest.mark.parametrize("trainable", [True, False])
def test_fused_normalisation_learns_what_that_of_keras_learns(trainable: bool) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    rng = np.random.default_rng(1)
    inputs = tf.constant(rng.normal(2.0, 3.0, (6, 5, 4, 3)).astype(np.float32))
    starts = [rng.uniform(0.5, 2.0, 3).astype(np.float32) for _ in range(4)]

    def step() -> tuple[list[NDArray[np.float32]], list[str]]:
        pixels = layers.Input((5, 4, 3))
        norm = layers.BatchNormalization(momentum=0.7, epsilon=0.01, trainable=trainable)
        network = keras.Model(pixels, norm(pixels))
        norm.set_weights(starts)

        @tf.function
        def forward() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = network(inputs, training=True)
                loss = tf.reduce_sum(outputs**3)
            return outputs, tape.gradient(loss, [inputs, norm.gamma.value, norm.beta.value])

        outputs, gradients = forward()
        operations = {one.type for one in forward.get_concrete_function().graph.get_operations()}
        return [values.numpy() for values in (outputs, *gradients)] + norm.get_weights(), sorted(operations)

    expected, composed = step()
    with models.fused_normalization():
        found, fused = step()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)
    assert "FusedBatchNormV3" not in composed
    assert ("FusedBatchNormV3" in fused) == trainable  # a frozen layer goes by its moving statistics
    assert "FusedBatchNormV3" not in step()[1]
