"""Every image becomes one square of gray with its local contrast raised, and boxes and masks go along."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia import UserError, preprocess
from pneumonia.data import image_boxes, lung_boxes, phantom, tables
from pneumonia.data.store import create_store, open_store, read_split
from pneumonia.images import decode, lungs
from pneumonia.images.geometry import SEGMENTER, Preparation, prepare, prepare_mask
from tests.conftest import CLAHE, noise

Manifest = Callable[..., pd.DataFrame]
HOW: dict[str, Any] = {"size": 24, "aspect": "pad", "crop": 0.1, "clahe": "after", **CLAHE}
ATTRIBUTES = {"data": "test", "digest": "d"}


def write(splits: pd.DataFrame, path: Path, *, resume: Path | None = None, **changes: Any) -> int:
    """`write_store` under `HOW`, in a folder to resume in of its own where none is named."""
    resume = resume or path.with_name(f"resume {path.name}")
    resume.mkdir(parents=True, exist_ok=True)
    where = {"workers": 1, "attributes": ATTRIBUTES} | {
        name: changes.pop(name) for name in (*changes,) if name not in {*HOW, "segmenter"}
    }
    return preprocess.write_store(splits, path, Preparation(**HOW | changes), **where, resume=resume)


@pytest.fixture(autouse=True)
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heights of the films that were searched, in which there is nothing; films of `chests` are really searched."""
    seen: list[int] = []

    def nothing(image: Any, crop: float) -> lungs.Finding:
        seen.append(image.shape[0])
        return lungs.Finding(None, "no lungs")

    if "chests" not in request.fixturenames:
        monkeypatch.setattr(lungs, "search", nothing)
    return seen


def splits_of(manifest: pd.DataFrame, split: list[str]) -> pd.DataFrame:
    return manifest.assign(split=split, weight=1.0, repeats=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_image_stands_once_in_its_split_prepared(write_manifest: Manifest, tmp_path: Path) -> None:
    images = {name: noise(40, 30 + number, seed=number) for number, name in enumerate("dbace")}
    splits = splits_of(write_manifest(images, labels={"a": 0}), ["train", "val", "train", "test", "train"])
    write(splits.assign(weight=[1.5, 1, 0.5, 1, 2.0]), tmp_path / "images.zarr")
    store = open_store(tmp_path / "images.zarr")
    assert dict(store.attrs) == {**ATTRIBUTES, "preparation": HOW}
    for name, ids in {"train": "ade", "val": "b", "test": "c"}.items():
        split = read_split(store, name)
        assert split.image_ids.tolist() == list(ids)
        for image_id, pixels in zip(ids, split.images, strict=True):
            np.testing.assert_array_equal(pixels, prepare(images[image_id], Preparation(**HOW)))
    train = read_split(store, "train")
    assert train.weights.tolist() == [0.5, 1.5, 2.0]
    assert train.labels.tolist() == [0, 1, 1]


def test_with_folds_there_is_no_validation_split(write_manifest: Manifest, tmp_path: Path) -> None:
    manifest = write_manifest({name: noise(30, 30, seed=number) for number, name in enumerate("dbac")})
    columns = {"weight_0": 1.0, "weight_1": 2.0, "repeats_0": [0, 1, 1, 1], "repeats_1": [1, 0, 1, 1]}
    fold = pd.array([0, 1, pd.NA, 0], "Int64")
    splits = splits_of(manifest, ["train", "train", "test", "train"]).assign(fold=fold, **columns)
    assert write(splits, tmp_path / "images.zarr") == 4
    store: Any = open_store(tmp_path / "images.zarr")
    assert sorted(store.group_keys()) == ["test", "train"]
    assert read_split(store, "train").image_ids.tolist() == ["b", "c", "d"]
    assert store["train/folds"][:].tolist() == [1, 0, 0]
    assert store["train/repeats"][:].tolist() == [[1, 0], [1, 1], [0, 1]]
    assert lung_boxes.problems(store) == dict.fromkeys("bcda", "no lungs"), "noise has none"


@pytest.mark.parametrize("change", [{"crop": 0.0}, {"clahe": "before"}, {"aspect": "squash"}, {"clip_limit": 0.0}])
def test_the_store_holds_what_each_setting_asks_for(
    write_manifest: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    images = {name: noise(40, 60, seed=number) for number, name in enumerate("abc")}
    write(splits_of(write_manifest(images), ["train", "val", "test"]), tmp_path / "images.zarr", **change)
    (pixels,) = read_split(open_store(tmp_path / "images.zarr"), "train").images
    np.testing.assert_array_equal(pixels, prepare(images["a"], Preparation(**HOW | change)))
    assert (pixels != prepare(images["a"], Preparation(**HOW))).any()


def test_the_store_is_the_same_bytes_on_any_number_of_workers(
    write_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 5)  # 9 chunks, so that there is work for 4
    few = write_manifest({f"{n}": noise(30, 30, seed=n) for n in range(7)})
    few["lung_mask_uri"] = write_manifest({"mask": np.eye(30, dtype=np.uint8) * 255})["uri"][0]
    many = pd.concat([few] * 8, ignore_index=True)
    many["image_id"] = [f"{n:03}" for n in range(len(many))]
    splits = splits_of(many, ["train"] * 44 + ["val"] * 6 + ["test"] * 6)
    for workers in (1, 2, 4):
        write(splits, tmp_path / f"{workers}.zarr", workers=workers)
    assert contents(tmp_path / "1.zarr") == contents(tmp_path / "2.zarr") == contents(tmp_path / "4.zarr")
    train = read_split(open_store(tmp_path / "4.zarr"), "train")
    assert len(train.images) == 44
    for row in (0, 4, 5, 39, 43):
        np.testing.assert_array_equal(train.images[row], prepare(noise(30, 30, seed=row % 7), Preparation(**HOW)))


@pytest.mark.parametrize("change", ["other", "cut", "gone"])
def test_an_image_that_is_not_the_one_fetch_saw_is_refused_and_the_old_store_kept(
    write_manifest: Manifest, tmp_path: Path, change: str
) -> None:
    manifest = write_manifest({name: noise(30, 30, seed=number) for number, name in enumerate("abc")})
    splits = splits_of(manifest, ["train", "val", "test"])
    store = tmp_path / "data" / "images.zarr"
    write(splits, store, resume=tmp_path / "first")
    before = contents(tmp_path / "data")
    assert before
    changed = Path(manifest.loc[2, "uri"])
    if change == "other":
        Image.fromarray(noise(30, 30, seed=9)).save(changed)
    elif change == "cut":
        changed.write_bytes(changed.read_bytes()[:-100])
    else:
        changed.unlink()
    expected = (
        "no such file; restore it and run again, or .*"
        if change == "gone"
        else "has changed since fetch read it; .* dvc repro -f -s fetch$"
    )
    with pytest.raises(UserError, match=rf"c\.png: .*{expected}"):
        write(splits, store, resume=tmp_path / "second", size=32)
    assert contents(tmp_path / "data") == before


def test_a_film_with_a_human_mask_is_not_searched_and_the_store_says_whose_mask_it_is(
    write_manifest: Manifest, tmp_path: Path, searched: list[int]
) -> None:
    mask = np.zeros((40, 20), np.uint8)
    mask[10:30, 5:15] = 255
    masks = write_manifest({"mask": mask})["uri"]
    manifest = write_manifest({name: noise(40, 20, seed=number) for number, name in enumerate("abc")})
    splits = splits_of(manifest, ["train", "val", "test"])
    write(splits.assign(lung_mask_uri=masks[0]), tmp_path / "with.zarr")
    assert searched == []
    write(splits.assign(lung_mask_uri=[masks[0], "", masks[0]]), tmp_path / "partly.zarr")
    assert searched == [40]
    for split in tables.SPLITS:
        with_all, partly = (open_store(tmp_path / f"{name}.zarr") for name in ("with", "partly"))
        stored = np.asarray(with_all[f"{split}/lungs"][:])
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored, [prepare_mask(mask, Preparation(size=24, aspect="pad", crop=0.1))])
        np.testing.assert_array_equal(partly[f"{split}/lungs"][:], 0 * stored if split == "val" else stored)
        assert set(lung_boxes.origins(with_all, split).values()) == {"human"}
    assert lung_boxes.all_origins(partly) == {"a": "human", "b": "none", "c": "human"}
    assert lung_boxes.problems(partly) == {"b": "no lungs"}
    assert lung_boxes.problems(with_all) == {}


@pytest.fixture
def chests(write_manifest: Manifest) -> pd.DataFrame:
    """Splits of four images of the phantom with their masks, and of two pictures without lungs."""
    films = [phantom.render(patient)[0] for patient in phantom.plan(24, seed=3)[:4]]
    images = {f"film{number}": film.image for number, film in enumerate(films)}
    others = {name: noise(*film.image.shape) for name, film in zip(("nothing", "more"), films, strict=False)}
    manifest = write_manifest(images | others)
    masks = write_manifest({f"mask{number}": film.lung_mask for number, film in enumerate(films)})
    manifest["lung_mask_uri"] = [*masks["uri"], *masks["uri"][:2]]
    return splits_of(manifest, ["train", "train", "val", "test", "train", "test"])


def test_around_the_lungs_images_masks_and_boxes_lie_alike_and_films_without_lungs_are_named(
    chests: pd.DataFrame, tmp_path: Path
) -> None:
    around = {"aspect": "lungs", "segmenter": SEGMENTER, "crop": 0.0}
    write(chests, tmp_path / "images.zarr", **around)
    write(chests.drop(columns="lung_mask_uri"), tmp_path / "without masks.zarr", **around)
    store = open_store(tmp_path / "images.zarr")
    how = Preparation(**HOW | around)
    assert store.attrs["preparation"] == how.as_dict()
    for split in tables.SPLITS:
        boxes = lung_boxes.read(store, split)
        read = read_split(store, split)
        for image_id, pixels, mask in zip(read.image_ids, read.images, store[f"{split}/lungs"][:], strict=True):
            row = chests.set_index("image_id").loc[image_id]
            image, human = (decode.read_image(uri) for uri in (row["uri"], row["lung_mask_uri"]))
            found = lungs.find(image)
            assert boxes[image_id] == (found.box if found else None)
            np.testing.assert_array_equal(pixels, prepare(image, how, boxes[image_id]))
            np.testing.assert_array_equal(mask, prepare_mask(human, how, boxes[image_id]))
        without = open_store(tmp_path / "without masks.zarr")
        assert lung_boxes.read(without, split) == boxes
        np.testing.assert_array_equal(read_split(without, split).images, read.images)
    assert list(lung_boxes.problems(store)) == ["nothing", "more"]


def test_films_without_human_masks_have_those_that_are_found_in_any_way_of_preparation(
    chests: pd.DataFrame, tmp_path: Path
) -> None:
    without = chests.drop(columns="lung_mask_uri").iloc[[0, 2, 3, 4]]
    write(without, tmp_path / "images.zarr")
    store = open_store(tmp_path / "images.zarr")
    assert lung_boxes.all_origins(store) == {
        "film0": "found", "nothing": "none", "film2": "found", "film3": "found",
    }  # fmt: skip
    assert lung_boxes.problems(store) == {"nothing": lungs.search(decode.read_image(without["uri"][4]), 0.1).problem}
    image = decode.read_image(without["uri"][0])
    finding = lungs.search(image, 0.1)
    assert finding.lungs is not None
    mask = 255 * finding.lungs.mask(*image.shape).astype(np.uint8)
    np.testing.assert_array_equal(store["train/lungs"][0], prepare_mask(mask, Preparation(**HOW)))
    np.testing.assert_array_equal(read_split(store, "train").images[0], prepare(image, Preparation(**HOW)))
    assert not store["train/lungs"][1].any()
    assert lung_boxes.read_all(store) == {}


def test_the_line_on_films_without_lungs_names_the_first() -> None:
    names = [f"film{number}" for number in range(12)]
    line = preprocess.in_words(names, Preparation(size=24, aspect="lungs"))
    assert line.startswith("no two lungs were found in 12 images, prepared as a whole: film0, film1")
    assert line.endswith("film9, …; evaluate shows them in reports/lungs.html")
    one = preprocess.in_words(names[:1], Preparation(size=24))
    assert one == "no two lungs were found in 1 image: film0; evaluate shows them in reports/lungs.html"


@pytest.mark.slow
def test_around_the_lungs_the_store_has_the_same_bytes_on_any_number_of_workers_and_after_a_crash(
    chests: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 1)
    around = {"aspect": "lungs", "segmenter": SEGMENTER}
    for workers in (1, 2):
        write(chests, tmp_path / f"{workers}.zarr", workers=workers, **around)
    assert contents(tmp_path / "1.zarr") == contents(tmp_path / "2.zarr")
    file = Path(chests.loc[3, "uri"])
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        write(chests, tmp_path / "3.zarr", resume=tmp_path / "resume", **around)
    file.write_bytes(content)
    (tmp_path / "resume/3.zarr/train" / lung_boxes.NAME / "c/1/0/0").unlink()
    assert write(chests, tmp_path / "3.zarr", resume=tmp_path / "resume", **around) == 3  # this, and two of test
    assert contents(tmp_path / "1.zarr") == contents(tmp_path / "3.zarr")


def test_a_store_is_not_made_with_another_segmenter_than_that_of_this_version(
    chests: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the network that finds lungs is damaged or of another version"):
        write(chests, tmp_path / "images.zarr", aspect="lungs", segmenter="0" * 64)
    assert not (tmp_path / "images.zarr").exists()


@pytest.fixture
def fifteen(write_manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Splits of 10, 3 and 2 images with lungs, in chunks of three."""
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 3)
    manifest = write_manifest({f"{n:02}": noise(30, 30, seed=n) for n in range(15)})
    masks = write_manifest({f"mask {n}": np.where(noise(30, 30, seed=n) > 99, 255, 0).astype(np.uint8) for n in (0, 1)})
    manifest["lung_mask_uri"] = [masks.loc[n % 2, "uri"] for n in range(15)]
    return splits_of(manifest, ["train"] * 10 + ["val"] * 3 + ["test"] * 2)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were read to be prepared, in order."""
    seen: list[str] = []
    really = preprocess._prepare_chunk

    def count(jobs: Any, **settings: Any) -> Any:
        result = really(jobs, **settings)
        seen.extend(Path(uri).stem for uri, _, _ in jobs)
        return result

    monkeypatch.setattr(preprocess, "_prepare_chunk", count)
    return seen


def broken_off(splits: pd.DataFrame, path: Path, resume: Path, image: int) -> None:
    """A run that ends at an image which cannot be read, and the image mended."""
    file = Path(splits.loc[image, "uri"])
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        write(splits, path, resume=resume)
    file.write_bytes(content)


@pytest.mark.parametrize(("image", "rest"), [(0, range(15)), (4, range(3, 15)), (9, range(9, 15)), (14, range(13, 15))])
def test_after_a_crash_only_the_rest_is_prepared_to_the_same_bytes(
    fifteen: pd.DataFrame, prepared: list[str], tmp_path: Path, image: int, rest: range
) -> None:
    store, resume = tmp_path / "data" / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    broken_off(fifteen, store, resume, image)
    assert not store.exists()
    prepared.clear()
    assert write(fifteen, store, resume=resume) == len(rest)
    assert prepared == [f"{n:02}" for n in rest]
    assert contents(store) == contents(tmp_path / "whole.zarr")
    assert [path.name for path in store.parent.iterdir()] == ["images.zarr"]
    assert list(resume.iterdir()) == [], "a finished run leaves nothing to resume"


def test_lost_pixels_are_prepared_again_also_where_no_image_of_a_chunk_has_a_mask(
    fifteen: pd.DataFrame, tmp_path: Path
) -> None:
    """Zarr writes no file for a chunk of empty masks: a missing file of masks is no sign that pixels are missing."""
    fifteen.loc[:3, "lung_mask_uri"] = ""
    store, resume = tmp_path / "data" / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    broken_off(fifteen, store, resume, 9)
    (lost,) = resume.rglob("train/images/c/0/0/0")
    lost.unlink()
    write(fifteen, store, resume=resume)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_the_old_store_stays_until_the_new_one_is_whole(fifteen: pd.DataFrame, tmp_path: Path) -> None:
    store = tmp_path / "data" / "images.zarr"
    write(fifteen, store, resume=tmp_path / "old", crop=0.2)
    before = contents(tmp_path / "data")
    broken_off(fifteen, store, tmp_path / "new", 4)
    assert contents(tmp_path / "data") == before
    write(fifteen, store, resume=tmp_path / "new")
    assert contents(tmp_path / "data") != before
    assert [path.name for path in store.parent.iterdir()] == ["images.zarr"]


def test_what_a_killed_writer_left_half_written_is_not_in_the_store(fifteen: pd.DataFrame, tmp_path: Path) -> None:
    """Zarr writes beside a chunk's name; a process that is killed then cannot clean up."""
    store, resume = tmp_path / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    broken_off(fifteen, store, resume, 4)
    first = resume / "images.zarr" / "train" / "images" / "c" / "0" / "0" / "0"
    (first.parent / "0.0123456789abcdef.partial").write_bytes(first.read_bytes()[:10])
    write(fifteen, store, resume=resume)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_a_chunk_without_its_masks_is_prepared_again(
    fifteen: pd.DataFrame, prepared: list[str], tmp_path: Path
) -> None:
    store, resume = tmp_path / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    broken_off(fifteen, store, resume, 9)
    (resume / "images.zarr" / "train" / "lungs" / "c" / "1" / "0" / "0").unlink()
    prepared.clear()
    write(fifteen, store, resume=resume)
    assert prepared == [f"{n:02}" for n in (3, 4, 5, *range(9, 15))]
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_a_run_killed_before_its_store_was_laid_out_starts_anew(fifteen: pd.DataFrame, tmp_path: Path) -> None:
    store, resume = tmp_path / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    create_store(resume / "images.zarr", {}).create_group("train")
    write(fifteen, store, resume=resume)
    assert contents(store) == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("moment", ["moved away", "not replaced"])
def test_a_run_that_fails_as_its_store_is_put_in_place_can_be_repeated(
    fifteen: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store, resume = tmp_path / "images.zarr", tmp_path / "resume"
    write(fifteen, tmp_path / "whole.zarr")
    replace = Path.replace

    def move(source: Path, target: Path) -> None:
        """To another disk, killed while it removes what it has copied."""
        shutil.copytree(source, target)
        shutil.rmtree(source / "train" / "labels" / "c")
        raise OSError(errno.EIO, "pulled the plug")

    def fail_at_the_store(source: Path, target: Path) -> Path:
        if target == store:
            raise OSError(errno.EIO, "pulled the plug")
        return replace(source, target)

    with monkeypatch.context() as patch:
        if moment == "moved away":
            patch.setattr(shutil, "move", move)
        else:
            patch.setattr(Path, "replace", fail_at_the_store)
        with pytest.raises(OSError, match="pulled the plug"):
            write(fifteen, store, resume=resume)
    assert not store.exists()
    write(fifteen, store, resume=resume)
    assert contents(store) == contents(tmp_path / "whole.zarr")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not shutil.which("mount") or os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs a Linux on which a tmpfs may be mounted")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_old_store_stays_and_with_more_space_the_run_goes_on(
    write_manifest: Manifest, prepared: list[str], small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 4)
    manifest = write_manifest({f"{n:02}": noise(128, 128, seed=n) for n in range(60)})
    splits = splits_of(manifest, ["train"] * 52 + ["val"] * 4 + ["test"] * 4)
    store, resume = small_disk / "data" / "images.zarr", small_disk / "resume"
    write(splits, store, resume=tmp_path / "other")
    before = contents(store)
    write(splits, tmp_path / "whole.zarr", size=128)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_400_000))
    prepared.clear()
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(splits, store, resume=resume, size=128)
    assert caught.value.errno == errno.ENOSPC
    assert contents(store) == before
    assert [path.name for path in store.parent.iterdir()] == ["images.zarr"]
    n_before = len(prepared)
    assert 8 <= n_before < 52, "the disk was full from the start, or never"
    ballast.unlink()
    prepared.clear()
    write(splits, store, resume=resume, size=128)
    assert prepared == [f"{n:02}" for n in range(n_before - 4, 60)], "the chunk that did not fit, and those after it"
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_a_mask_of_another_size_lies_where_the_lungs_are() -> None:
    """The same proportions are resized; a film that was squashed to a square stretches its mask as it was stretched."""
    mask = np.zeros((60, 80), np.uint8)
    mask[15:45, 20:40] = 255
    for height, width in ((120, 160), (90, 121), (100, 100)):
        fitted = preprocess.fitted(mask, height, width, names=("m.png", "f.png"))
        assert set(np.unique(fitted)) == {0, 255}
        rows, columns = np.nonzero(fitted)
        edges = (rows.min() / height, (rows.max() + 1) / height, columns.min() / width, (columns.max() + 1) / width)
        np.testing.assert_allclose(edges, (1 / 4, 3 / 4, 1 / 4, 1 / 2), atol=0.012)
    assert preprocess.fitted(mask, 60, 80, names=("", "")) is mask


def test_a_mask_of_another_film_is_one_line_with_both_sizes() -> None:
    message = r"m\.png: a lung mask of 80 x 60 pixels for the film f\.png of 60 x 80: the proportions differ by 78%"
    with pytest.raises(UserError, match=message):
        preprocess.fitted(np.zeros((60, 80), np.uint8), 80, 60, names=("m.png", "f.png"))


def test_boxes_come_into_the_store_with_the_image(write_manifest: Manifest, tmp_path: Path) -> None:
    film = np.full((80, 60), 40, np.uint8)
    film[30:50, 20:35] = 220
    manifest = write_manifest(
        {"box": film, "none": film, "normal": film, "virus": film, "written": film},
        labels={"normal": 0, "virus": 0, "written": 0},
    )
    # Class 0 of the target `bacterial`; people write subtypes in several ways.
    manifest.loc[manifest["image_id"].eq("virus"), "subtype"] = "virus"
    manifest.loc[manifest["image_id"].eq("written"), "subtype"] = "Viral Pneumonia"
    splits = splits_of(manifest, ["train"] * 5).assign(width=60, height=80)
    table = pd.DataFrame(
        [("box", 20, 30, 15, 20), ("elsewhere", 0, 0, 5, 5)], columns=["image_id", *"xy", "width", "height"]
    )
    for name, boxes, n in (("with", table, 2), ("without", table.tail(1), None), ("no_table", None, None)):
        write(splits, tmp_path / name, boxes=boxes, size=96, crop=0.0, clip_limit=0.0, groups=["train"])
        read = image_boxes.read(open_store(tmp_path / name), "train")
        assert (None if read is None else image_boxes.are_known(read).sum()) == n
    store = open_store(tmp_path / "with")
    places, split = image_boxes.read(store, "train"), read_split(store, "train")
    assert places is not None
    row = split.image_ids.tolist().index("box")
    ((x, y, width, height),) = image_boxes.of_image(places, row)
    ys, xs = np.nonzero(np.asarray(split.images[row]) > 130)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((x, x + width, y, y + height), abs=1)
    assert image_boxes.are_known(places)[split.image_ids.tolist().index("normal")]
