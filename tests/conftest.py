"""What several test files share: small images in a temporary folder, the way to the real archive, plain training."""

import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Before numpy reads it: on small arrays further threads of BLAS only wait for work, each at the cost of a core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image
from ruamel.yaml import YAML

from pneumonia import fetch, workspace
from pneumonia.data import tables
from pneumonia.training.recipe import Recipe

pytest_plugins = ["tests.faults.table"]  # here, because the process that starts the workers reads no other conftest

# A shell that starts the tests in the background lets them ignore these, and so would the programs that they start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# The same examples every time and no time limit for one: a test must not depend on the day or on other work.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", settings.get_profile("steady"), max_examples=200)  # of `make test-all`
settings.load_profile("steady")

# Names as in the Kermany set: patients with several images, numbers that occur twice, and one of each kind in `val`.
NORMALS = (
    "train/NORMAL/IM-0115-0001.jpeg",
    "train/NORMAL/IM-0666-0001-0002.jpeg",
    "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
    "test/NORMAL/NORMAL2-IM-0666-0001.jpeg",
)
PNEUMONIAS = (
    "train/PNEUMONIA/person1_bacteria_1.jpeg",
    "train/PNEUMONIA/person1_bacteria_2.jpeg",
    "train/PNEUMONIA/person23_virus_60.jpeg",
    "test/PNEUMONIA/person1_virus_6.jpeg",
)
VAL = ("val/NORMAL/NORMAL2-IM-1427-0001.jpeg", "val/PNEUMONIA/person1946_bacteria_4874.jpeg")
KERMANY = (*NORMALS, *PNEUMONIAS, *VAL)

ROOT = Path(__file__).resolve().parent.parent


# Files that take longest. Two workers take file by file: one that began last would leave the other waiting.
LONGEST = ("test_end_to_end", "test_train", "test_registry", "test_networks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """All 5,856 images of the Kermany set at 224 px, which are too many to carry along."""
    path = ROOT.parent / "shared" / "data" / "chest_xray_224.zip"
    if not path.is_file():
        pytest.skip("the 224 px archive of the Kermany set does not lie beside the checkout")
    return path


@pytest.fixture(scope="session")
def real_manifest(real_archive: Path) -> pd.DataFrame:
    return fetch.read_archive("chest_xray", real_archive)[0]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an MLflow store: its migrations take seconds, a copy none."""
    import mlflow

    from pneumonia.tracking import runs

    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # MLflow sets them itself, and leaves them so
            patch.setenv(name, f"sqlite:///{root}/mlflow.db")
        runs.open_store(root)
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    return root / "mlflow.db"


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, the current one while the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stage_project(in_project: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the settings of the checkout and an empty store, for a stage in this process."""
    shutil.copyfile(ROOT / "params.yaml", in_project / "params.yaml")
    (in_project / "mlruns").mkdir()
    shutil.copyfile(empty_database, in_project / "mlruns" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # MLflow sets them itself, and leaves them so
        monkeypatch.setenv(name, f"sqlite:///{in_project}/mlruns/mlflow.db")
    return in_project


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Makes a manifest of image files: `write_manifest({name: pixels or bytes}, labels={name: label})`.

    Pixels become PNG files; bytes are written as they are. A name is both `image_id` and `patient_id`; the label is
    1 where the name is not in `labels`.
    """

    def write(files: dict[str, npt.NDArray[np.uint8] | bytes], labels: dict[str, int] | None = None) -> pd.DataFrame:
        rows = []
        for name, pixels in files.items():
            content = pixels if isinstance(pixels, bytes) else png(pixels)
            path = tmp_path / f"{name}.png"
            path.write_bytes(content)
            label = (labels or {}).get(name, 1)
            rows.append(
                {
                    "image_id": name,
                    "uri": str(path),
                    "label": label,
                    "patient_id": name,
                    "subtype": tables.LABELS[label],
                    "source_split": "",
                    "bytes": len(content),
                    "sha256": workspace.sha256_bytes(content),
                }
            )
        return pd.DataFrame(rows)

    return write


def set_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Change a params.yaml, comments kept; keys are dotted.

    A copy of the checkout's own may hold anything that `dvc exp run -S` has left there: a test sets what it counts on.
    """
    yaml = YAML()
    content = yaml.load(path.read_text())
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[name] = value
    with open(path, "w") as file:
        yaml.dump(content, file)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PLAIN = Recipe(
    batch_size=8,
    image_size=None,
    weight_decay=0.0,
    crop=1.0,
    flip=False,
    hide_edges=0.0,
    augment=0.0,
    strength=1.0,
    mixup=0.0,
    label_smoothing=0.0,
    average=0.0,
    keep="best",
    head_epochs=0,
    copies=1,
    unfreeze=1.0,
    layer_decay=1.0,
    box_weight=0.5,
)
"""Training without anything that helps it, to which a test adds what it is about."""


@contextmanager
def half_precision() -> Iterator[None]:
    """Networks made inside compute in bfloat16."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@contextmanager
def shallow_densenets() -> Iterator[None]:
    """DenseNets with one layer in each block: built, traced and saved in a tenth of the time, by the same code."""
    import keras
    from keras.src.applications import densenet

    with pytest.MonkeyPatch.context() as patch:
        for name in ("DenseNet121", "DenseNet169"):
            patch.setattr(keras.applications, name, partial(densenet.DenseNet, [1, 1, 1, 1], name=name.lower()))
        yield


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


Gray = npt.NDArray[np.uint8]
CLAHE = {"clip_limit": 2.0, "tile_grid": 8}


def noise(height: int, width: int, seed: int = 0) -> Gray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
