"""Every row of `MODELS` in one parametrised set of tests, then what is known of single networks."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia import UserError, models

ROOT = Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 90, 70), dtype=np.uint8)  # the size of no network


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    models.start_keras(1)


@pytest.fixture(scope="module", params=models.MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    made = models.create_model(request.param, dropout=0.35)
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


@pytest.fixture(scope="module")
def plain_mobilenet() -> Any:
    """MobileNetV2 as Keras ships it, with weights as different from each other as if it had been trained."""
    import keras

    rng = np.random.default_rng(1)
    plain = keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None)
    plain.set_weights([rng.random(one.shape) if one.ndim == 1 else one for one in plain.get_weights()])
    with_own_statistics(plain, rng.uniform(-1, 1, (4, 32, 32, 3)))
    return plain


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
    assert models.predict_scores(model, np.zeros((1, 300, 260), np.uint8)).shape == (1,)


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
    values, scores = keras.Model(model.inputs, [logit.output, probability.output]).predict(pixels, verbose=0)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-values)), rtol=1e-6)


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
    np.testing.assert_array_equal(models.predict_scores(loaded, IMAGES), models.predict_scores(model, IMAGES))


def test_no_layer_runs_code_from_the_file_and_none_is_a_model(model: Any) -> None:
    import keras

    assert not [one.name for one in model.layers if isinstance(one, (keras.layers.Lambda, keras.Model))]


def test_the_layer_to_explain_has_maps_in_space(model: Any) -> None:
    import keras

    row = models.MODELS[model.name]
    features = keras.Model(model.inputs, model.get_layer(row.explain).output)
    n, height, width, channels = features.predict(IMAGES[..., None].astype(np.float32), verbose=0).shape
    assert n == 3
    assert min(height, width) > 1
    assert channels > 1


def test_the_network_sees_a_square_of_its_own_size(model: Any) -> None:
    resize = model.get_layer("resize")
    assert (resize.height, resize.width) == (models.MODELS[model.name].size,) * 2


def test_dropout_reaches_the_network(model: Any) -> None:
    assert 0.35 in [one.rate for one in model.layers if hasattr(one, "rate")]


def test_moving_statistics_forget_their_start_within_a_hundred_steps(model: Any) -> None:
    """Else a network scores by the statistics it started with, whatever it has learnt."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.momentum**100 < 0.01


def test_a_row_says_where_it_comes_from(model: Any) -> None:
    row = models.MODELS[model.name]
    assert row.source
    assert row.weights_url == "" or row.weights_url.endswith("_no_top.h5")


# --- single networks ------------------------------------------------------------------------------------------------


def test_compact_has_the_published_number_of_parameters() -> None:
    compact = models.create_model("compact")
    assert sum(int(np.prod(one.shape)) for one in compact.trainable_weights) == 77_633
    assert compact.count_params() == 77_633


@pytest.mark.parametrize(("name", "size", "black", "white"), [("compact", 128, 0, 1), ("mobilenet", 32, -1, 1)])
def test_pixels_arrive_in_the_range_the_network_was_made_for(name: str, size: int, black: float, white: float) -> None:
    import keras

    model = models.create_model(name, size=size)
    (rescaling,) = [one for one in model.layers if isinstance(one, keras.layers.Rescaling)]
    rescaled = keras.Model(model.inputs, rescaling.output)
    values = rescaled.predict(np.stack([np.zeros((40, 40, 1)), np.full((40, 40, 1), 255.0)]), verbose=0)
    np.testing.assert_allclose(values.min(axis=(1, 2, 3)), [black, white], atol=1e-6)
    np.testing.assert_allclose(values.max(axis=(1, 2, 3)), [black, white], atol=1e-6)


def test_the_logit_is_float32_also_in_mixed_precision() -> None:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.create_model("compact", size=128)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.get_layer("logit").compute_dtype == model.get_layer("probability").compute_dtype == "float32"


@pytest.mark.parametrize("file", FORMATS)
def test_mobilenet_takes_the_weights_of_the_keras_backbone(file: str, plain_mobilenet: Any, tmp_path: Path) -> None:
    FORMATS[file](plain_mobilenet, tmp_path / file)
    model = models.create_model("mobilenet", weights=tmp_path / file, size=64)
    layers = [one for one in plain_mobilenet.layers if one.weights]
    assert sum(len(one.weights) for one in layers) > 200
    for layer in layers:
        for ours, theirs in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_mobilenet_computes_what_the_keras_backbone_computes(plain_mobilenet: Any, tmp_path: Path) -> None:
    import keras

    plain_mobilenet.save_weights(tmp_path / "backbone.weights.h5")
    model = models.create_model("mobilenet", weights=tmp_path / "backbone.weights.h5", size=32)
    gray = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 1)).astype(np.float32)
    colour = keras.applications.mobilenet_v2.preprocess_input(np.repeat(gray, 3, axis=3))
    ours = keras.Model(model.inputs, model.get_layer("out_relu").output).predict(gray, verbose=0)
    assert np.abs(ours[0] - ours[1]).mean() > 0.01
    np.testing.assert_allclose(ours, plain_mobilenet.predict(colour, verbose=0), atol=0.005)


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


@pytest.mark.parametrize("ask", [models.model_row, models.create_model])
def test_an_unknown_name_lists_the_known_ones(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="model = 'resnet' is unknown; known: ") as refusal:
        ask("resnet")
    assert all(name in str(refusal.value) for name in models.MODELS)


# --- scoring, saving ------------------------------------------------------------------------------------------------


def test_no_images_have_no_scores(model: Any) -> None:
    scores = models.predict_scores(model, IMAGES[:0])
    assert scores.shape == (0,)
    assert scores.dtype == np.float64


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    compact = models.create_model("compact", size=128)
    together = models.predict_scores(compact, IMAGES)
    np.testing.assert_allclose(models.predict_scores(compact, IMAGES, batch_size=1), together, atol=1e-6)
    np.testing.assert_allclose(models.predict_scores(compact, IMAGES[::-1]), together[::-1], atol=1e-6)


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
