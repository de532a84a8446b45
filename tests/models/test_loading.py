"""A saved network is loaded as it was; what is no network of this project is refused (see tests/faults)."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia import UserError
from pneumonia.models import loading, networks, scoring
from tests.models.conftest import IMAGES

pytestmark = pytest.mark.usefixtures("keras_started")


def test_a_saved_model_gives_equal_scores(model: Any, tmp_path: Path) -> None:
    scoring.save_model(model, tmp_path / "new" / "model.keras")
    loaded = loading.load_model(tmp_path / "new" / "model.keras")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.keras"]
    assert loaded.name == model.name  # explaining finds the row by it
    pixels = IMAGES[..., None].astype(np.float32)  # called and not predicted, which would compile each of them
    np.testing.assert_array_equal(loaded(pixels, training=False), model(pixels, training=False))
    assert [one.path for one in loaded.trainable_weights] == [one.path for one in model.trainable_weights]


def test_a_network_of_a_later_keras_that_cannot_be_loaded_names_both_versions(tmp_path: Path) -> None:
    scoring.save_model(networks.create_model("shallow"), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["class_name"] = "FutureResizing"
    members |= {"config.json": json.dumps(config).encode(), "metadata.json": b'{"keras_version": "99.0"}'}
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    message = r"FutureResizing.*, made with Keras 99\.0, here is 3\..*; dvc repro train makes it again$"
    with pytest.raises(UserError, match=message):
        loading.load_model(tmp_path / "model.keras")
