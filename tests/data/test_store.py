"""The image store: what is written comes back, from memory or in chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.data import tables
from pneumonia.data.store import (
    IMAGES_PER_BLOCK,
    IMAGES_PER_CHUNK,
    Pixels,
    blocks,
    create_split,
    create_store,
    open_store,
    read_folds,
    read_split,
    read_validation,
)
from tests.conftest import files_under


def write_store(path: Path) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "image_id": ["train/ä/0012", "b", "c"],
            "label": [0, 1, 1],
            "weight": [1.5, 0.75, 0.75],
            "repeats": [1, 0, 300],
        }
    )
    store = create_store(path, {"data": "phantom", "digest": "d" * 64})
    for split in tables.SPLITS:
        images, lungs = create_split(store, split, table, size=16, with_lungs=split == "test")
        images[:] = np.arange(3 * 16 * 16).reshape(3, 16, 16).astype(np.uint8)
        assert (lungs is not None) == (split == "test")
    return table


def test_a_split_comes_back_with_every_field_and_type(tmp_path: Path) -> None:
    table = write_store(tmp_path / "images.zarr")
    store = open_store(tmp_path / "images.zarr")
    split = read_split(store, "train")
    np.testing.assert_array_equal(split.images, np.arange(3 * 16 * 16).reshape(3, 16, 16) % 256)
    for values, column in zip(split[1:5], ["label", "weight", "repeats", "image_id"], strict=True):
        assert values.tolist() == table[column].to_list()
    assert [str(values.dtype) for values in split[:5]] == ["uint8", "int8", "float32", "int16", "StringDType()"]
    assert split.boxes is None
    assert dict(store.attrs) == {"data": "phantom", "digest": "d" * 64}


def test_the_same_store_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / name)
    first = files_under(tmp_path / "a")
    assert first == files_under(tmp_path / "b")
    assert "train/images/c/0/0/0" in first


def test_the_store_has_one_file_for_256_images(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [f"{n:03}" for n in range(257)], "label": 1, "weight": 1.0, "repeats": 1})
    images, _ = create_split(create_store(tmp_path / "s", {}), "train", table, size=16, with_lungs=False)
    images[:] = 7
    assert images.chunks == (256, 16, 16)
    assert sum(name.startswith("train/images/c/") for name in files_under(tmp_path / "s")) == 2


def test_a_split_without_images_can_be_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [], "label": [], "weight": [], "repeats": []})
    create_split(create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    split = read_split(open_store(tmp_path / "s"), "val")
    assert split.images.shape == (0, 16, 16)
    assert len(split.image_ids) == 0


def test_the_store_is_opened_for_reading_only(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"read.only"):
        open_store(tmp_path / "s").create_group("more")


def write_folds(path: Path) -> pd.DataFrame:
    """Three folds: image i of train has gray level i and is in fold i % 3."""
    number = np.arange(7)
    learns = [(number % 3 != fold).astype(int) for fold in range(3)]
    table = pd.DataFrame(
        {"image_id": number.astype(str), "label": number % 2, "fold": pd.array(number % 3, "Int64"), "weight": 9.0}
        | {"repeats": 9}
        | {f"weight_{fold}": 1.0 + fold for fold in range(3)}
        | {f"repeats_{fold}": 2 * learns[fold] for fold in range(3)}
    )
    store = create_store(path, {})
    for split, rows in (("train", table), ("test", table.head(2).assign(fold=pd.array([pd.NA] * 2, "Int64")))):
        images, _ = create_split(store, split, rows, size=16, with_lungs=False)
        images[:] = np.broadcast_to(number[: len(rows), None, None].astype(np.uint8), (len(rows), 16, 16))
    return table


def test_a_store_with_folds_has_weights_for_each_network(tmp_path: Path) -> None:
    table = write_folds(tmp_path / "s")
    store: Any = open_store(tmp_path / "s")
    assert sorted(store.group_keys()) == ["test", "train"]
    split = read_split(store, "train")
    assert split.weights.shape == split.repeats.shape == (7, 3)
    assert split.weights.tolist() == [[1, 2, 3]] * 7
    assert store["train/folds"][:].tolist() == table["fold"].to_list()
    assert store["test/folds"][:].tolist() == [-1, -1]


@pytest.mark.parametrize("memory", [None, 0])
def test_each_fold_validates_the_network_that_never_sees_it(memory: float | None, tmp_path: Path) -> None:
    write_folds(tmp_path / "s")
    pairs = list(read_folds(open_store(tmp_path / "s"), memory=memory))
    validated = list(read_validation(open_store(tmp_path / "s"), memory=memory))
    assert len(pairs) == 3
    for fold, ((train, val), again) in enumerate(zip(pairs, validated, strict=True)):
        expected = np.arange(7)[np.arange(7) % 3 == fold]
        assert val.images[:][:, 0, 0].tolist() == expected.tolist() == [int(name) for name in val.image_ids]
        assert val.labels.tolist() == (expected % 2).tolist()
        np.testing.assert_array_equal(again.images[:], val.images[:])
        assert set(np.repeat(np.arange(7), train.repeats)) == {*range(7)} - {*expected}
        assert (train.weights == 1 + fold).all()
        assert train.images is pairs[0][0].images, "in memory once"
        assert [values.dtype for values in train[1:4]] == [values.dtype for values in val[1:4]]


def test_without_folds_there_is_one_pair(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    store = open_store(tmp_path / "s")
    ((train, val),) = read_folds(store)
    (again,) = read_validation(store)
    for one, name in ((train, "train"), (val, "val"), (again, "val")):
        for values, expected in zip(one, read_split(store, name), strict=True):
            np.testing.assert_array_equal(values, expected)


SIDE = 3
PER_CHUNK = 8
N_STREAMED = 3 * PER_CHUNK + 5


class Counted:
    """An array of the store that notes the first row of each read."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array, self.reads = array, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __getitem__(self, rows: slice) -> Any:
        assert rows.stop - rows.start == PER_CHUNK
        self.reads.append(rows.start // PER_CHUNK)
        return self.array[rows]


def streamed(n: int = N_STREAMED, *, chunks_kept: float = 2) -> tuple[Pixels, np.ndarray, list[int]]:
    """Random images as they stream, the same in memory, and the chunks that were read so far."""
    whole = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    array = zarr.create_array({}, shape=whole.shape, chunks=(PER_CHUNK, SIDE, SIDE), dtype=np.uint8)
    array[:] = whole
    counted = Counted(array)
    pixels = Pixels(counted, chunks_kept * PER_CHUNK * SIDE * SIDE)  # type: ignore[arg-type]
    return pixels, whole, counted.reads


KEYS = st.one_of(
    st.slices(N_STREAMED),
    st.lists(st.integers(-N_STREAMED, N_STREAMED - 1), max_size=40),
    st.lists(st.integers(-N_STREAMED, N_STREAMED - 1), max_size=40).map(lambda rows: np.array(rows, np.int32)),
    st.lists(st.booleans(), min_size=N_STREAMED, max_size=N_STREAMED).map(np.array),
    st.integers(-N_STREAMED, N_STREAMED - 1),
)


def test_some_rows_of_images_in_the_store_are_indexed_as_in_memory() -> None:
    pixels, whole, _ = streamed()
    rows = np.arange(1, N_STREAMED, 3)
    some = pixels.subset(rows)
    assert (some.shape, len(some)) == (whole[rows].shape, len(rows))
    for key in (slice(None), [2, 0, -1], 3):
        np.testing.assert_array_equal(some[key], whole[rows][key])
    np.testing.assert_array_equal(some.subset(np.array([1, 2]))[:], whole[rows][[1, 2]])
    np.testing.assert_array_equal(pixels[:], whole)


@given(st.lists(KEYS, min_size=1, max_size=4))
def test_images_in_the_store_are_indexed_as_in_memory(keys: list[Any]) -> None:
    pixels, whole, _ = streamed()
    assert (pixels.shape, pixels.dtype, len(pixels)) == (whole.shape, whole.dtype, len(whole))
    for key in keys:
        found = pixels[key]
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, whole[key], strict=True)


@pytest.mark.parametrize("n", [0, 1, PER_CHUNK - 1, PER_CHUNK, PER_CHUNK + 1, 2 * PER_CHUNK])
def test_any_number_of_images_streams_in_order(n: int) -> None:
    pixels, whole, _ = streamed(n)
    assert len(pixels) == n
    np.testing.assert_array_equal(pixels[:], whole, strict=True)
    assert [one.tolist() for one in pixels] == whole.tolist()


@pytest.mark.parametrize("key", [N_STREAMED, -N_STREAMED - 1, [0, N_STREAMED], np.array([0.5]), "a"])
def test_a_row_that_is_not_there_is_an_error(key: Any) -> None:
    with pytest.raises(IndexError):
        streamed()[0][key]


def test_only_rows_are_indexed() -> None:
    """`numpy` would read further axes of the images; here they would be lost."""
    with pytest.raises(TypeError, match="by rows only"):
        streamed()[0][:2, ..., None]  # type: ignore[index]


def test_what_is_taken_can_be_changed_without_changing_what_is_kept() -> None:
    pixels, whole, _ = streamed()
    for key in (slice(0, PER_CHUNK), [0], 0):
        pixels[key][...] = 0
    np.testing.assert_array_equal(pixels[:], whole)


def test_batches_drawn_pool_by_pool_read_each_chunk_once() -> None:
    pixels, whole, reads = streamed(6 * PER_CHUNK, chunks_kept=2)
    rng = np.random.default_rng(1)
    for pool in ([4, 0], [1, 5], [3, 2]):
        rows = rng.permutation(np.concatenate([np.arange(PER_CHUNK) + PER_CHUNK * number for number in pool]))
        for batch in rows.reshape(-1, 4):
            np.testing.assert_array_equal(pixels[batch], whole[batch])
    assert sorted(reads) == [0, 1, 2, 3, 4, 5]


def test_each_key_reads_a_chunk_once_and_no_chunk_that_it_does_not_need() -> None:
    pixels, _, reads = streamed(6 * PER_CHUNK, chunks_kept=1)
    pixels[[PER_CHUNK * number + row for row in range(3) for number in (4, 1)]]
    assert sorted(reads) == [1, 4]


@pytest.mark.parametrize(
    ("chunks_kept", "expected"),
    [
        (2, [0, 1, 2, 1]),  # 0 was used after 1, so 2 takes the place of 1, and 1 that of 2
        (3, [0, 1, 2]),
        (2.9, [0, 1, 2, 1]),
        (1, [0, 1, 0, 2, 0, 1, 0]),
        (0, [0, 1, 0, 2, 0, 1, 0]),
    ],
)
def test_no_more_chunks_are_kept_than_the_budget_has_room_for(chunks_kept: float, expected: list[int]) -> None:
    pixels, _, reads = streamed(chunks_kept=chunks_kept)
    for number in (0, 1, 0, 2, 0, 1, 0):
        pixels[number * PER_CHUNK]
    assert reads == expected


def test_a_split_is_streamed_when_its_images_take_more_than_the_memory(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    store = open_store(tmp_path / "s")
    whole, size = read_split(store, "test"), 3 * 16 * 16 / 2**30
    for memory, kind in ((None, np.ndarray), (size, np.ndarray), (size * 0.99, Pixels), (0, Pixels)):
        split = read_split(store, "test", memory=memory)
        assert type(split.images) is kind
        for one, other in zip(split[:5], whole[:5], strict=True):
            np.testing.assert_array_equal(one[:], other, strict=True)


def test_a_streamed_split_keeps_chunks_for_half_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 2)
    table = pd.DataFrame({"image_id": list("abcdefgh"), "label": 1, "weight": 1.0, "repeats": 1})
    images, _ = create_split(create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    images[:] = 7
    budgets = []
    monkeypatch.setattr("pneumonia.data.store.Pixels", lambda array, budget: budgets.append((array.shape, budget)))
    read_split(open_store(tmp_path / "s"), "val", memory=6 * 256 / 2**30)
    assert budgets == [((8, 16, 16), 3 * 256)]


def test_an_empty_split_is_read_under_any_limit(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [], "label": [], "weight": [], "repeats": []})
    create_split(create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    split = read_split(open_store(tmp_path / "s"), "val", memory=0)
    assert split.images.shape == (0, 16, 16)


@pytest.mark.parametrize("n", [0, 7, 10, 11])
def test_blocks_hold_every_image_once_in_order(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_BLOCK", 5)
    pixels, whole, _ = streamed(n)
    for images in (pixels, whole):
        found = list(blocks(images))
        assert [len(block) for block in found] == [5] * (n // 5) + [n % 5] * (n % 5 > 0)
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, SIDE, SIDE), np.uint8), *found]), whole)


def test_a_block_is_whole_chunks() -> None:
    assert IMAGES_PER_BLOCK % IMAGES_PER_CHUNK == 0
