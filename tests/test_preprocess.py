"""Every image becomes one square of gray with its local contrast raised, and boxes and masks go along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from pneumonia import UserError, dataset, preprocess
from pneumonia.preprocess import placement, prepare, prepare_mask, to_store

Gray = npt.NDArray[np.uint8]
Manifest = Callable[..., pd.DataFrame]

PLAIN = {"clip_limit": 0.0, "tile_grid": 8}
CLAHE = {"clip_limit": 2.0, "tile_grid": 8}
# One tile and a limit that no histogram of these tests reaches: plain histogram equalisation.
EQUALISED = {"clip_limit": 40.0, "tile_grid": 1}
GOLDEN: dict[str, Any] = {"size": 64, "aspect": "pad", "clip_limit": 2.0, "tile_grid": 4}


def golden_source() -> Gray:
    """Two dark fields with a faint grain in a bright frame, 150 x 180 pixels."""
    y, x = np.mgrid[0:180, 0:150]
    lungs = np.maximum.reduce([np.exp(-(((x - at) / 28) ** 2) - ((y - 90) / 60) ** 2) for at in (42, 108)])
    grain = (x * 7 + y * 13) % 11
    return (190 - 120 * lungs + grain).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Gray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


# --- pixels ---


@pytest.mark.parametrize("aspect", ["pad", "squash"])
@pytest.mark.parametrize("settings", [PLAIN, CLAHE, {"clip_limit": 2.0, "tile_grid": 64}])
@pytest.mark.parametrize(
    ("height", "width"), [(300, 500), (500, 300), (200, 200), (1, 1), (3, 2), (1000, 3), (3, 1000), (33, 57)]
)
def test_an_image_of_any_form_becomes_one_square(
    height: int, width: int, aspect: str, settings: dict[str, Any]
) -> None:
    image = noise(height, width)
    before = image.copy()
    for size in (16, 57):
        prepared = prepare(image, size=size, aspect=aspect, **settings)
        assert (prepared.shape, prepared.dtype) == ((size, size), np.uint8)
        np.testing.assert_array_equal(prepare(image, size=size, aspect=aspect, **settings), prepared)
    np.testing.assert_array_equal(image, before)


def test_without_clahe_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = noise(64, 64)
    np.testing.assert_array_equal(prepare(image, size=64, aspect="pad", **PLAIN), image)


def test_without_clahe_shrinking_is_the_mean_of_what_a_pixel_covers() -> None:
    image = noise(96, 96)
    means = image.reshape(32, 3, 32, 3).mean(axis=(1, 3))
    prepared = prepare(image, size=32, aspect="squash", **PLAIN)
    assert np.abs(prepared - means).max() <= 0.51


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (79, 80)])
def test_padding_is_black_and_the_rest_is_not(height: int, width: int) -> None:
    x, y, w, h = placement(width, height, size=64, aspect="pad")
    prepared = prepare(np.full((height, width), 200, np.uint8), size=64, aspect="pad", **PLAIN)
    inside = np.zeros((64, 64), bool)
    inside[y : y + h, x : x + w] = True
    assert (prepared[inside] == 200).all()
    assert (prepared[~inside] == 0).all()
    assert (~inside).any()


def test_squashing_fills_the_square() -> None:
    assert (prepare(np.full((40, 80), 200, np.uint8), size=64, aspect="squash", **PLAIN) == 200).all()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (400, 200, (0, 25, 100, 50)),
        (200, 400, (25, 0, 50, 100)),
        (300, 300, (0, 0, 100, 100)),
        (1000, 1, (0, 49, 100, 1)),
    ],
)
def test_padded_content_lies_in_the_middle(width: int, height: int, expected: tuple[int, ...]) -> None:
    assert placement(width, height, size=100, aspect="pad") == expected
    assert placement(width, height, size=100, aspect="squash") == (0, 0, 100, 100)


def test_one_tile_without_a_limit_is_histogram_equalisation() -> None:
    image = np.random.default_rng(0).normal(100, 12, (64, 64)).clip(0, 255).astype(np.uint8)
    cumulated = np.cumsum(np.bincount(image.ravel(), minlength=256)) / image.size
    prepared = prepare(image, size=64, aspect="pad", **EQUALISED)
    assert np.abs(prepared - 255 * cumulated[image]).max() <= 0.51


def test_the_black_border_takes_no_part_in_the_equalisation() -> None:
    ramp = np.tile(np.arange(64, 192, dtype=np.uint8), (64, 1))
    prepared = prepare(ramp, size=128, aspect="pad", **EQUALISED)
    content = prepared[32:96]
    assert content.min() <= 2, "half of the square is border: with it, nothing of the image would be under 127"
    assert content.max() == 255
    assert not prepared[:32].any()
    assert not prepared[96:].any()


def local_contrast(image: Gray) -> float:
    return float(np.median(image.reshape(8, 16, 8, 16).transpose(0, 2, 1, 3).reshape(64, -1).std(axis=1)))


def test_clahe_raises_local_contrast_and_its_limit_holds_it_back() -> None:
    y, x = np.mgrid[0:128, 0:128]
    image = (60 + x // 2 + y // 3 + 6 * ((x // 2 + y // 2) % 2)).astype(np.uint8)
    contrast = [
        local_contrast(prepare(image, size=128, aspect="pad", clip_limit=limit, tile_grid=8)) for limit in (0, 2, 4, 40)
    ]
    assert contrast == sorted(contrast)
    assert contrast[1] > 1.5 * contrast[0]
    assert contrast[3] > 1.5 * contrast[1]


def test_clahe_works_tile_by_tile() -> None:
    """A dark half and a bright half: with tiles both use the whole range, equalised at once each uses half of it."""
    left = np.random.default_rng(0).integers(20, 40, (64, 32), dtype=np.uint8)
    image = np.hstack([left, left + 180])
    whole = prepare(image, size=64, aspect="pad", **EQUALISED)
    tiled = prepare(image, size=64, aspect="pad", clip_limit=40.0, tile_grid=4)
    assert np.ptp(whole[:, :16]) < 140
    assert np.ptp(tiled[:, :16]) > 220


def test_the_golden_image_has_not_changed() -> None:
    expected = np.asarray(Image.open(Path(__file__).with_name("golden") / "prepare.png"))
    prepared = prepare(golden_source(), **GOLDEN)
    assert expected.shape == prepared.shape
    # OpenCV's vector code may round differently on another processor.
    assert np.abs(prepared.astype(int) - expected).max() <= 2


@pytest.mark.slow
def test_clahe_agrees_with_that_of_keras() -> None:
    """Another implementation; it spreads what the limit cuts in fractions where OpenCV counts whole pixels."""
    from pneumonia import models

    models.start_keras(seed=1)
    import keras

    image = prepare(golden_source(), size=256, aspect="squash", **PLAIN)
    ours = prepare(image, size=256, aspect="pad", clip_limit=2.0, tile_grid=4).astype(float)
    layer = keras.layers.ContrastLimitedAdaptiveHistogramEqualization(clip_limit=2.0, tile_grid_size=(4, 4))
    theirs = np.asarray(layer(image[None, ..., None].astype("float32")))[0, ..., 0]
    assert np.abs(ours - theirs).mean() < 1.5
    assert np.abs(ours - theirs).max() < 6
    assert np.abs(ours - image).mean() > 15


# --- boxes and masks ---


def bounds(mask: npt.NDArray[np.bool_]) -> list[int]:
    """x0, y0, x1, y1 of what is set."""
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


@given(
    size=st.integers(32, 256),
    width=st.integers(40, 400),
    height=st.integers(40, 400),
    aspect=st.sampled_from(["pad", "squash"]),
    place=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_drawn_on_an_image_is_found_where_it_is_said_to_be(
    size: int, width: int, height: int, aspect: str, place: tuple[float, ...]
) -> None:
    x, y = int(place[0] * width * 0.8), int(place[1] * height * 0.8)
    w, h = 1 + int(place[2] * (width - x - 1)), 1 + int(place[3] * (height - y - 1))
    ((sx, sy, sw, sh),) = to_store(np.array([[x, y, w, h]]), width, height, size=size, aspect=aspect)
    assume(min(sw, sh) >= 3)  # of a thinner one too little is left to be found
    image = np.zeros((height, width), np.uint8)
    image[y : y + h, x : x + w] = 255
    expected = pytest.approx([sx, sy, sx + sw, sy + sh], abs=1.01)
    assert bounds(prepare(image, size=size, aspect=aspect, **PLAIN) > 127) == expected
    mask = prepare_mask(image, size=size, aspect=aspect)
    assert bounds(mask > 0) == expected
    assert (mask.shape, mask.dtype) == ((size, size), np.uint8)
    assert set(np.unique(mask)) <= {0, 255}


def test_boxes_of_known_places() -> None:
    boxes = np.array([[0, 0, 400, 200], [200, 100, 100, 50]])
    assert to_store(boxes, 400, 200, size=100, aspect="pad").tolist() == [[0, 25, 100, 50], [50, 50, 25, 12.5]]
    assert to_store(boxes, 400, 200, size=100, aspect="squash").tolist() == [[0, 0, 100, 100], [50, 50, 25, 25]]
    assert to_store(np.zeros((0, 4)), 400, 200, size=100, aspect="pad").shape == (0, 4)


def test_a_soft_mask_becomes_hard() -> None:
    mask = np.repeat(np.array([[100, 127, 128, 255]], np.uint8), 4, axis=0)
    assert prepare_mask(mask, size=4, aspect="pad")[0].tolist() == [0, 0, 255, 255]


def test_boxes_follow_the_size_of_their_own_image() -> None:
    splits = pd.DataFrame({"image_id": ["a", "b", "c"], "width": [100, 200, 100], "height": [100, 100, 100]})
    boxes = pd.DataFrame(
        [["b", 100, 50, 20, 10], ["a", 10, 20, 30, 40], ["b", 0, 0, 200, 100], ["quarantined", 1, 1, 1, 1]],
        columns=["image_id", "x", "y", "width", "height"],
    )
    found = preprocess.boxes_in_store(boxes, splits, size=100, aspect="pad")
    assert {image_id: its.tolist() for image_id, its in found.items()} == {
        "a": [[10, 20, 30, 40]],
        "b": [[50, 50, 10, 5], [0, 25, 100, 50]],
    }
    assert preprocess.boxes_in_store(boxes.iloc[:0], splits, size=100, aspect="pad") == {}


# --- the store ---

HOW: dict[str, Any] = {"size": 24, "aspect": "pad", **CLAHE, "attributes": {"data": "test", "digest": "d"}}


def splits_of(manifest: pd.DataFrame, split: list[str]) -> pd.DataFrame:
    return manifest.assign(split=split, weight=1.0, repeats=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_image_stands_once_in_its_split_prepared(write_manifest: Manifest, tmp_path: Path) -> None:
    images = {name: noise(40, 30 + number, seed=number) for number, name in enumerate("dbace")}
    splits = splits_of(write_manifest(images, labels={"a": 0}), ["train", "val", "train", "test", "train"])
    preprocess.write_store(splits.assign(weight=[1.5, 1, 0.5, 1, 2.0]), tmp_path / "images.zarr", **HOW, workers=1)
    store = dataset.open_store(tmp_path / "images.zarr")
    assert dict(store.attrs) == HOW["attributes"]
    for name, ids in {"train": "ade", "val": "b", "test": "c"}.items():
        split = dataset.read_split(store, name)
        assert split.image_ids.tolist() == list(ids)
        for image_id, pixels in zip(ids, split.images, strict=True):
            np.testing.assert_array_equal(pixels, prepare(images[image_id], size=24, aspect="pad", **CLAHE))
    train = dataset.read_split(store, "train")
    assert train.weights.tolist() == [0.5, 1.5, 2.0]
    assert train.labels.tolist() == [0, 1, 1]


def test_the_store_is_the_same_bytes_on_any_number_of_workers(write_manifest: Manifest, tmp_path: Path) -> None:
    few = write_manifest({f"{n}": noise(30, 30, seed=n) for n in range(7)})
    many = pd.concat([few] * 60, ignore_index=True)  # more than one chunk
    many["image_id"] = [f"{n:03}" for n in range(len(many))]
    splits = splits_of(many, ["train"] * 400 + ["val"] * 10 + ["test"] * 10)
    for workers in (1, 2):
        preprocess.write_store(splits, tmp_path / f"{workers}.zarr", **HOW, workers=workers)
    assert contents(tmp_path / "1.zarr") == contents(tmp_path / "2.zarr")
    train = dataset.read_split(dataset.open_store(tmp_path / "2.zarr"), "train")
    for row in (0, 255, 256, 399):
        np.testing.assert_array_equal(
            train.images[row], prepare(noise(30, 30, seed=row % 7), size=24, aspect="pad", **CLAHE)
        )


@pytest.mark.parametrize("change", ["other", "cut", "gone"])
def test_an_image_that_is_not_the_one_fetch_saw_is_refused_and_the_old_store_kept(
    write_manifest: Manifest, tmp_path: Path, change: str
) -> None:
    manifest = write_manifest({name: noise(30, 30, seed=number) for number, name in enumerate("abc")})
    splits = splits_of(manifest, ["train", "val", "test"])
    store = tmp_path / "data" / "images.zarr"
    preprocess.write_store(splits, store, **HOW, workers=1)
    before = contents(tmp_path / "data")
    changed = Path(manifest.loc[2, "uri"])
    if change == "other":
        Image.fromarray(noise(30, 30, seed=9)).save(changed)
    elif change == "cut":
        changed.write_bytes(changed.read_bytes()[:-100])
    else:
        changed.unlink()
    expected = "cannot be read" if change == "gone" else "has changed since fetch saw it; .* dvc repro -f -s fetch$"
    with pytest.raises(UserError, match=rf"c\.png: .*{expected}"):
        preprocess.write_store(splits, store, **HOW | {"size": 32}, workers=1)
    assert contents(tmp_path / "data") == before


def test_lungs_are_stored_where_every_image_has_a_mask(write_manifest: Manifest, tmp_path: Path) -> None:
    mask = np.zeros((40, 20), np.uint8)
    mask[10:30, 5:15] = 255
    masks = write_manifest({"mask": mask})["uri"]
    manifest = write_manifest({name: noise(40, 20, seed=number) for number, name in enumerate("abc")})
    splits = splits_of(manifest, ["train", "val", "test"])
    how = HOW | {"workers": 1}
    preprocess.write_store(splits.assign(lung_mask_uri=masks[0]), tmp_path / "with.zarr", **how)
    preprocess.write_store(splits.assign(lung_mask_uri=[masks[0], "", masks[0]]), tmp_path / "partly.zarr", **how)
    preprocess.write_store(splits, tmp_path / "without.zarr", **how)
    for split in dataset.SPLITS:
        lungs = np.asarray(dataset.open_store(tmp_path / "with.zarr")[f"{split}/lungs"][:])
        assert lungs.dtype == np.uint8
        np.testing.assert_array_equal(lungs, [prepare_mask(mask, size=24, aspect="pad")])
        assert "lungs" not in dataset.open_store(tmp_path / "partly.zarr")[split]
        assert "lungs" not in dataset.open_store(tmp_path / "without.zarr")[split]
