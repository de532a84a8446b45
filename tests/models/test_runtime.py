"""Keras as this project starts and runs it."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia import UserError, __version__
from pneumonia.models import runtime
from tests.models.conftest import python

pytestmark = pytest.mark.usefixtures("keras_started")


def test_what_trains_is_named_with_its_version_and_its_hardware_in_general_words() -> None:
    made_with = runtime.made_with()
    hardware = made_with.pop("hardware")
    assert made_with == {
        "Python": ".".join(map(str, sys.version_info[:3])),
        "TensorFlow": version("tensorflow"),
        "Keras": version("keras"),
        "pneumonia": __version__,
    }
    assert re.fullmatch(r"CPU \(\w+, \d+ cores\), no GPU|\d+ GPU \(.+\)", hardware)


def test_keras_starts_in_silence_with_every_generator_seeded_and_no_settings_of_the_user(tmp_path: Path) -> None:
    mine = {"backend": "tensorflow", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(mine))
    ended = python(
        f"""
        import os, random, sys
        os.environ["KERAS_HOME"] = {str(tmp_path)!r}
        from pneumonia.models import runtime

        def draw():
            import keras
            import numpy as np
            return random.random(), np.random.random(), float(keras.random.uniform(()))

        runtime.start_keras(7)
        first = draw()
        runtime.start_keras(7)
        print(first == draw())
        runtime.start_keras(8)
        print([old == new for old, new in zip(first, draw())])
        import keras
        settings = keras.config
        print(settings.floatx(), settings.epsilon(), settings.image_data_format(), settings.dtype_policy())
        print("still heard", file=sys.stderr)
        """
    )
    assert ended.stdout == 'True\n[False, False, False]\nfloat32 1e-07 channels_last <DTypePolicy "float32">\n'
    assert ended.stderr == "still heard\n"


def test_what_was_held_back_is_shown_when_keras_cannot_be_imported(tmp_path: Path) -> None:
    lines = "import os", "os.write(2, b'words of a C library\\n')", "raise ImportError('broken')"
    (tmp_path / "keras.py").write_text("\n".join(lines))
    ended = python("from pneumonia.models import runtime; runtime.start_keras(1)", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("words of a C library\nTraceback")
    assert ended.stderr.endswith("ImportError: broken\n")


def test_without_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with runtime.on_devices():
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
    with runtime.on_devices():
        assert keras.config.dtype_policy().name == policy
    assert keras.config.dtype_policy().name == "float32"


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
    with runtime.fused_normalization():
        found, fused = step()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)
    assert "FusedBatchNormV3" not in composed
    assert ("FusedBatchNormV3" in fused) == trainable  # a frozen layer goes by its moving statistics
    assert "FusedBatchNormV3" not in step()[1]


def test_too_little_address_space_is_one_line_before_tensorflow_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.resource, "getrlimit", lambda kind: (4_000_000 * 1024, 4_000_000 * 1024))
    with pytest.raises(UserError, match=r"and this process may use 4\.1 GB \(ulimit -v\); raise the limit"):
        runtime.start_keras()
