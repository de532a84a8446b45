"""Networks that ship answer right after installation; a damaged one is one line."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia import UserError
from pneumonia.images import geometry, lungs
from pneumonia.models import predictor, shipped
from pneumonia.models.predictor import Predictor
from tests import predictors
from tests.conftest import ROOT

GRAY = np.full((40, 40), 100, np.uint8)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ships is in this folder, which is empty."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr(predictor, "PRETRAINED", folder)
    return folder


def test_networks_are_found_by_their_files_and_the_best_one_is_the_first(package: Path) -> None:
    assert (shipped.names(), shipped.default()) == ([], "")
    for name in ("compact", "mobilenet", "zebra", ".partial-other"):
        predictors.write(package / name)
    (package / "lungs").mkdir()
    (package / "lungs" / "lungs.onnx").write_bytes(b"x")
    (package / "zebra" / "model.onnx").unlink()
    assert shipped.names() == ["mobilenet", "compact", "zebra"]
    assert shipped.default() == "pretrained:mobilenet"
    assert shipped.folder("pretrained:compact") == package / "compact"


@pytest.mark.parametrize("address", ["pretrained:other", "pretrained:", "pretrained:../predictor"])
def test_an_unknown_name_is_one_line_with_the_known_ones(package: Path, address: str) -> None:
    predictors.write(package.parent / "predictor")
    with pytest.raises(UserError, match="no such network ships with this version of pneumonia; known: none"):
        shipped.folder(address)
    predictors.write(package / "compact")
    with pytest.raises(UserError, match=r"^pretrained:.*; known: pretrained:compact$"):
        shipped.folder(address)


def test_a_network_around_the_lungs_uses_the_segmenter_of_the_package(package: Path) -> None:
    around = {"size": 32, "aspect": "lungs", "clip_limit": 0.0, "segmenter": geometry.SEGMENTER}
    folder = predictors.write(package / "mobilenet", preparation=around)
    assert next(Predictor(folder).scores([GRAY])).unusual.startswith("shows no two lungs")
    other = predictors.write(package.parent / "predictor", preparation=around)
    with pytest.raises(UserError, match=r"lungs\.onnx: the network that finds lungs cannot be read"):
        Predictor(other)


def change(**facts: Any) -> Callable[[Path], object]:
    return lambda folder: predictors.write(folder, **facts)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda folder: (folder / "predictor.json").unlink(), "has no predictor.json"),
    "half of the JSON": (lambda folder: (folder / "predictor.json").write_text('{"schema": "1'), "is damaged"),
    "a changed JSON": (
        change(digests={"model.onnx": "0", "predictor.json": "0"}),
        "is not as the stage export wrote it: it was changed or is damaged",
    ),
    "no network": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
    "another network": (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "it is damaged or was replaced"),
    "a network that is none": (lambda folder: predictors.write(folder, b"x"), "model.onnx cannot be opened"),
    "another schema": (change(schema="2.0"), "has schema 2.0, this version of pneumonia reads 1.x"),
    "no calibration": (change(calibration=None), "lacks calibration"),
    "no threshold": (change(operating_points={"youden": {}}), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_one_line_that_says_to_install_the_project_again(package: Path, damage: str) -> None:
    folder = predictors.write(package / "mobilenet")
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(UserError, match=message) as error:
        Predictor(shipped.folder("pretrained:mobilenet"))
    assert str(error.value).endswith("; install the project again")
    assert "\n" not in str(error.value)


def test_an_installation_contains_every_network_and_its_card() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pneumonia"]
    source = predictor.PRETRAINED.parent
    files = {path for pattern in packed for path in source.glob(pattern)}
    assert lungs.FILE in files
    assert {path for path in predictor.PRETRAINED.rglob("*") if path.is_file()} <= files
