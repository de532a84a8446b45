"""Human lung masks are found by the names of the images."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonia import UserError, files
from pneumonia.data import masks
from pneumonia.images import decode

URIS = {"1": "zip://set/train/a.jpeg::data.zip", "2": "zip://set/test/a.jpeg::data.zip", "3": "/films/c.dcm"}


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def mask(side: int = 8, value: int = 255) -> np.ndarray:
    pixels = np.zeros((side, side), np.uint8)
    pixels[2:5, 2:5] = value
    return pixels


def folder(path: Path, **pictures: bytes) -> files.Files:
    for name, content in pictures.items():
        target = path / name.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".png").write_bytes(content)
    return files.in_folder(str(path))


def test_the_folders_decide_between_masks_of_one_name() -> None:
    found = masks.match(["lungs/train/a.png", "lungs/test/a.png", "any/where/c.tif"], URIS)
    assert found == {"1": "lungs/train/a.png", "2": "lungs/test/a.png", "3": "any/where/c.tif"}


def test_a_mask_that_could_be_of_two_films_is_of_neither() -> None:
    assert masks.match(["x/a.png", "y/a.png"], URIS) == {}
    assert masks.match(["c.png"], {"3": "/films/c.dcm", "4": "/films/d.dcm"}) == {"3": "c.png"}
    films = {"1": "/set/normal/a.jpeg", "2": "/set/pneumonia/a.jpeg"}
    assert masks.match(["a.png"], films) == {}
    assert masks.match(["lungs/pneumonia/a.png"], films) == {"2": "lungs/pneumonia/a.png"}


def test_masks_are_kept_as_black_and_white_and_those_of_other_images_are_not(tmp_path: Path) -> None:
    pictures = {"set__train__a": png(mask()), "set__test__a": png(mask()), "c": png(mask(value=1))}
    place = folder(tmp_path / "m", **pictures, other=png(mask()))
    found = masks.store(place, URIS, tmp_path / "lungs.zip")
    assert sorted(found) == ["1", "2", "3"]
    for uri in found.values():
        np.testing.assert_array_equal(decode.read_image(uri), mask())
    with zipfile.ZipFile(tmp_path / "lungs.zip") as archive:
        assert len(archive.namelist()) == 3
    before = (tmp_path / "lungs.zip").read_bytes()
    masks.store(place, URIS, tmp_path / "lungs.zip")
    assert (tmp_path / "lungs.zip").read_bytes() == before


def test_a_mask_without_lungs_counts_as_missing(tmp_path: Path) -> None:
    place = folder(tmp_path / "m", set__train__a=png(mask()), c=png(np.full((8, 8), 255, np.uint8)))
    assert "3" not in masks.store(place, URIS, tmp_path / "lungs.zip")


def test_masks_that_match_nothing_are_one_line_with_the_expected_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 1 files has the name of an image, such as a\.png; name each mask"):
        masks.store(folder(tmp_path / "m", x=png(mask())), URIS, tmp_path / "lungs.zip")
    assert not (tmp_path / "lungs.zip").exists()


def test_a_picture_in_grays_is_no_mask_and_nothing_is_left(tmp_path: Path) -> None:
    gray = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    with pytest.raises(UserError, match=r"c\.png has 64 gray levels; a mask has two"):
        masks.store(folder(tmp_path / "m", c=gray), URIS, tmp_path / "lungs.zip")
    assert not (tmp_path / "lungs.zip").exists()
