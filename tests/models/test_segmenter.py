"""The segmenter learns what it is shown, and its ONNX form gives what Keras gives."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from pneumonia.images import lungs
from pneumonia.images.lungs import SIDE
from pneumonia.models import runtime, segmenter
from pneumonia.models.predictor import PRETRAINED
from tests.conftest import files_under


@pytest.mark.slow
def test_the_segmenter_learns_two_squares_and_its_onnx_form_gives_the_same(tmp_path: Path) -> None:
    runtime.start_keras(1)
    import keras

    rng = np.random.default_rng(0)
    masks = np.zeros((32, SIDE, SIDE, 1), np.float32)
    for mask in masks:
        top = int(rng.integers(15, 35))
        mask[top : top + 45, 12:40] = mask[top : top + 45, 56:84] = 1
    images = (200 - 150 * masks + rng.normal(0, 10, masks.shape)).clip(0, 255).astype(np.float32)
    network = segmenter.create()
    assert network.count_params() < 1_000_000
    network.compile(keras.optimizers.Adam(0.003), loss=segmenter.loss)
    before = float(network.evaluate(images, masks, verbose=0))
    network.fit(images, masks, batch_size=16, epochs=12, verbose=0)
    assert float(network.evaluate(images, masks, verbose=0)) < 0.8 * before
    content = segmenter.convert(network)
    assert len(content) < 4_000_000
    path = tmp_path / "lungs.onnx"
    path.write_bytes(content)
    found = lungs.Segmenter(path, content)
    image = images[0, ..., 0].astype(np.uint8)
    seen = cv2.equalizeHist(image)
    both = np.stack([seen, seen[:, ::-1]])[..., None].astype(np.float32)
    direct, mirrored = np.asarray(keras.ops.sigmoid(network(both)))[..., 0]
    assert found.probability(image) == pytest.approx((direct + mirrored[:, ::-1]) / 2, abs=0.01)  # float16 weights


@pytest.mark.slow
def test_the_loss_of_a_perfect_answer_is_zero_also_without_lungs() -> None:
    runtime.start_keras(1)
    truth = np.zeros((3, SIDE, SIDE, 1), np.float32)
    truth[1, 20:60, 20:60] = truth[2] = 1
    right, wrong = (np.asarray(segmenter.loss(truth, sign * (truth * 60 - 30))) for sign in (1, -1))
    assert right == pytest.approx(0, abs=1e-3)
    assert (wrong > 20).all()


@pytest.mark.slow
def test_the_wheel_holds_every_network_and_its_card(tmp_path: Path, repo: Path) -> None:
    shutil.copytree(repo / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(repo / name, tmp_path / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, content in files_under(PRETRAINED).items():
            assert archive.read(f"pneumonia/pretrained/{name}") == content
