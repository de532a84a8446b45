"""What several test files of this folder share."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.models import networks, runtime
from tests.conftest import shallow_densenets

ROOT = Path(__file__).resolve().parents[2]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 90, 70), dtype=np.uint8)  # the size of no network
SIZES = {"vanilla": 32} | dict.fromkeys(("conv4", "mobilenet", "efficientnet", "densenet", "fusion", "detector"), 64)
"""Small where the real one is slow."""
SLOW = ("efficientnet", "fusion")
"""Their parts are those of other networks."""


@pytest.fixture(scope="module")
def keras_started() -> None:
    runtime.start_keras(1)


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in networks.MODELS],
)
def model(request: pytest.FixtureRequest) -> Any:
    runtime.start_keras(1)
    with shallow_densenets():
        made = networks.create_model(request.param, dropout=0.35, size=SIZES.get(request.param))
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


def normalisations(model: Any) -> list[Any]:
    import keras

    return [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]


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
