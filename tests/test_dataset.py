"""What travels between stages arrives as it was sent, whole or not at all."""

import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumonia import UserError, dataset
from tests.test_files import zipped
from tests.test_images import GRADIENT, encoded

# No control characters: Python 3.11 writes a carriage return unquoted, and pandas reads it as the end of a row.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- written whole or not at all ---


def test_a_file_appears_when_its_writer_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "report.json"
    with dataset.written_whole(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert files_under(tmp_path) == {"deep/down/report.json": b"new"}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write_half() -> None:
        with dataset.written_whole(path) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert files_under(tmp_path) == {"report.json": b"old"}


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("a longer old text")
    with dataset.written_whole(path) as partial:
        partial.write_text("new")
    assert files_under(tmp_path) == {"report.json": b"new"}


def test_a_failing_writer_of_a_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "old").write_text("old")

    def write_half() -> None:
        with dataset.written_whole(folder) as partial:
            partial.mkdir()
            (partial / "new").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert files_under(tmp_path) == {"store/old": b"old"}


def test_a_new_folder_replaces_the_old_one_without_mixing(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "old").write_text("old")
    with dataset.written_whole(folder) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert files_under(tmp_path) == {"store/new": b"new"}


@pytest.mark.parametrize("leftover", ["file", "folder"])
def test_what_a_killed_writer_left_behind_does_not_get_into_the_result(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "store"
    with dataset.written_whole(path) as partial:
        partial.mkdir()
    path.rmdir()
    if leftover == "folder":
        partial.mkdir()
        (partial / "stale").write_text("stale")
    else:
        partial.write_text("stale")
    with dataset.written_whole(path) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert files_under(tmp_path) == {"store/new": b"new"}


# --- what survives a crash ---


def test_what_a_crash_leaves_behind_is_found_again_under_the_same_key(in_project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), dataset.resumable("fetch", "chest_xray", None, 7) as first:  # noqa: PT012
        (first / "part").write_text("half")
        raise KeyboardInterrupt
    with dataset.resumable("fetch", "chest_xray", None, 7) as again:
        assert again == first
        assert files_under(again) == {"part": b"half"}


@pytest.mark.parametrize(
    ("stage", "key"),
    [("validate", ("a", 1)), ("fetch", ("a", 2)), ("fetch", ("b", 1)), ("fetch", ("a",)), ("fetch", (1, "a"))],
)
def test_another_stage_or_key_has_a_folder_of_its_own(in_project: Path, stage: str, key: tuple[Any, ...]) -> None:
    with dataset.resumable("fetch", "a", 1) as one, dataset.resumable(stage, *key) as other:
        assert one != other
        assert one.is_dir()
        assert other.is_dir()


def test_a_folder_to_resume_from_goes_when_all_is_done(in_project: Path) -> None:
    with dataset.resumable("fetch", "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text("all")
    assert not folder.exists()
    with dataset.resumable("fetch", "a") as folder:
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpX"])
def test_a_folder_to_resume_from_lies_under_the_root_of_the_project(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    with dataset.resumable("fetch", "a") as folder:
        assert folder.parent == tmp_path / ".resume" / "fetch"


RESUME = """
import sys, time
from pathlib import Path
from pneumonia import dataset
with dataset.resumable("fetch", "a") as folder:
    assert not any(folder.iterdir()), "left by the other"
    for number in range(1000):  # takes its time to remove
        (folder / str(number)).touch()
    print("inside", flush=True)
    time.sleep(float(sys.argv[1]))
    assert len(list(folder.iterdir())) == 1000
    print("done", time.monotonic_ns(), flush=True)
"""


def test_a_second_process_waits_until_the_first_is_done(in_project: Path, repo: Path) -> None:
    def start(seconds: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RESUME, seconds],
            env={**os.environ, "PYTHONPATH": str(repo / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("1") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        with start("0") as second, start("0") as third:
            ends = [(process.communicate(timeout=60), process.returncode) for process in (first, second, third)]
    assert [(code, error) for (_, error), code in ends] == [(0, "")] * 3
    done = [int(output.split()[-1]) for (output, _), _ in ends]
    assert done[0] == min(done)


def test_a_process_that_was_killed_blocks_no_other(in_project: Path, repo: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", RESUME, "60"],
        env={**os.environ, "PYTHONPATH": str(repo / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "inside\n"
        killed.kill()
    with dataset.resumable("fetch", "a") as folder:
        assert len(list(folder.iterdir())) == 1000


# --- tables ---


def test_text_of_a_table_stays_text(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_id": ["0012", "1e5", "12"],
            "patient_id": ["007", "08", "9"],
            "subtype": ["null", "nan", ""],
            "sha256": ["1" * 64, "0" * 64, "e" * 64],
            "dhash": ["0000000000000001", "1234567890123456", "00e1"],
            "source_split": ["", "test", ""],
            "label": [0, 1, 1],
            "mean": [1.5, 0.1, 254.999],
            "valid": [True, False, True],
            "reason": ["", "blank, or nearly\n\"so\"", ""],
        }
    )  # fmt: skip
    dataset.write_table(table, tmp_path / "valid.csv")
    back = dataset.read_table(tmp_path / "valid.csv")
    pd.testing.assert_frame_equal(back, table)
    assert back.dtypes.astype(str)[["label", "mean", "valid"]].to_list() == ["int64", "float64", "bool"]


def test_unknown_age_is_a_gap_and_unknown_sex_is_empty(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image_id,sex,age\n1,F,43\n2,,\n")
    table = dataset.read_table(tmp_path / "manifest.csv")
    assert table["age"].isna().to_list() == [False, True]
    assert table["sex"].to_list() == ["F", ""]


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 1), st.booleans()), min_size=1, max_size=5))
def test_any_table_survives_the_file_with_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = pd.DataFrame(rows, columns=["image_id", "reason", "label", "valid"])
    dataset.write_table(table, folder / "a.csv")
    back = dataset.read_table(folder / "a.csv")
    dataset.write_table(back, folder / "b.csv")
    assert list(back.itertuples(index=False, name=None)) == rows
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    dataset.write_table(pd.DataFrame(columns=["image_id", "x"]), tmp_path / "boxes.csv")
    back = dataset.read_table(tmp_path / "boxes.csv")
    assert (len(back), list(back)) == (0, ["image_id", "x"])


# --- reports ---


def test_reports_keep_eight_significant_digits(tmp_path: Path) -> None:
    report = {
        "auc": 0.975312468,
        "tiny": 1.23456789e-9,
        "large": 123456789.5,
        "n": 123456789,
        "passed": True,
        "rows": [{"share": np.float32(1 / 3)}, (0.1 + 0.2,)],
        7: "text",
    }
    dataset.write_json(report, tmp_path / "report.json")
    assert dataset.read_json(tmp_path / "report.json") == {
        "auc": 0.97531247,
        "tiny": 1.2345679e-9,
        "large": 123456790.0,
        "n": 123456789,
        "passed": True,
        "rows": [{"share": 0.33333334}, [0.3]],
        "7": "text",
    }
    assert (tmp_path / "report.json").read_text().endswith("}\n")


# --- digests ---

SPLITS = pd.DataFrame(
    {"image_id": ["a", "b", "c"], "sha256": ["1", "2", "3"], "label": [0, 1, 1], "split": ["train", "val", "test"]}
)


def test_digest_does_not_depend_on_row_order_or_other_columns() -> None:
    assert dataset.digest(SPLITS.iloc[::-1]) == dataset.digest(SPLITS)
    assert dataset.digest(SPLITS.assign(mean=1.5)) == dataset.digest(SPLITS)


@pytest.mark.parametrize(
    ("column", "value"), [("label", [1, 1, 1]), ("split", ["train", "val", "val"]), ("sha256", ["1", "2", "4"])]
)
def test_digest_depends_on_labels_splits_and_content(column: str, value: list[Any]) -> None:
    assert dataset.digest(SPLITS.assign(**{column: value})) != dataset.digest(SPLITS)
    assert dataset.digest(SPLITS.iloc[:2]) != dataset.digest(SPLITS)


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example B.1
    assert dataset.sha256_file(tmp_path / "abc") == dataset.sha256_bytes(b"abc") == expected


# --- images ---


def test_an_image_is_the_same_from_an_archive_a_path_and_a_url(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(GRADIENT), "PNG")
    (tmp_path / "one image.png").write_bytes(content)
    zipped(tmp_path / "a.zip", {"deep/one image.png": content})
    for uri in (
        f"zip://deep/one image.png::{tmp_path / 'a.zip'}",
        str(tmp_path / "one image.png"),
        f"file://{tmp_path}/one image.png",
    ):
        image = dataset.read_image(uri)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, GRADIENT)


def test_an_archive_may_be_named_from_the_current_folder(in_project: Path) -> None:
    zipped(in_project / "a.zip", {"x.png": encoded(Image.fromarray(GRADIENT), "PNG")})
    np.testing.assert_array_equal(dataset.read_image("zip://x.png::a.zip"), GRADIENT)


def test_a_truncated_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)), "JPEG")
    (tmp_path / "cut.jpeg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.jpeg: cannot be read as an image .*truncated"):
        dataset.read_image(str(tmp_path / "cut.jpeg"))


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png: cannot be read as an image"):
        dataset.read_image(str(tmp_path / "x.png"))


def test_an_image_that_claims_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(UserError, match=r"bomb\.png: cannot be read as an image"):
        dataset.read_image(str(tmp_path / "bomb.png"))


@pytest.mark.parametrize("uri", ["zip://x.png::no.zip", "zip://y.png::a.zip", "no.png", "zip://x.png::text.zip"])
def test_a_missing_file_archive_or_member_is_one_clear_error(in_project: Path, uri: str) -> None:
    zipped(in_project / "a.zip", {"x.png": b""})
    (in_project / "text.zip").write_text("no archive")
    with pytest.raises(UserError, match=f"^{uri}: (no such file|cannot be read)"):
        dataset.read_image(uri)


def test_a_damaged_member_of_an_archive_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(range(256)) * 8)
    whole = path.read_bytes()
    start = 30 + len("x.png")
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))
        with pytest.raises(UserError, match=r"a\.zip: cannot be read"):
            dataset.read_image(f"zip://x.png::{path}")


def test_an_archive_replaced_under_its_name_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for level in (10, 200):
        with dataset.written_whole(path) as partial:
            zipped(partial, {"x.png": encoded(Image.new("L", (8, 8), level), "PNG")})
        assert dataset.read_image(f"zip://x.png::{path}").max() == level


# --- the image store ---


def write_store(path: Path) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "image_id": ["train/ä/0012", "b", "c"],
            "label": [0, 1, 1],
            "weight": [1.5, 0.75, 0.75],
            "repeats": [1, 0, 300],
        }
    )
    store = dataset.create_store(path, {"data": "phantom", "digest": "d" * 64})
    for split in dataset.SPLITS:
        images, lungs = dataset.create_split(store, split, table, size=16, with_lungs=split == "test")
        images[:] = np.arange(3 * 16 * 16).reshape(3, 16, 16).astype(np.uint8)
        assert (lungs is not None) == (split == "test")
    return table


def test_a_split_comes_back_with_every_field_and_type(tmp_path: Path) -> None:
    table = write_store(tmp_path / "images.zarr")
    store = dataset.open_store(tmp_path / "images.zarr")
    split = dataset.read_split(store, "train")
    np.testing.assert_array_equal(split.images, np.arange(3 * 16 * 16).reshape(3, 16, 16) % 256)
    for values, column in zip(split[1:], ["label", "weight", "repeats", "image_id"], strict=True):
        assert values.tolist() == table[column].to_list()
    assert [str(values.dtype) for values in split] == ["uint8", "int8", "float32", "int16", "StringDType()"]
    assert dict(store.attrs) == {"data": "phantom", "digest": "d" * 64}


def test_the_same_store_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / name)
    first = files_under(tmp_path / "a")
    assert first == files_under(tmp_path / "b")
    assert "train/images/c/0/0/0" in first


def test_the_store_has_one_file_for_256_images(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [f"{n:03}" for n in range(257)], "label": 1, "weight": 1.0, "repeats": 1})
    images, _ = dataset.create_split(
        dataset.create_store(tmp_path / "s", {}), "train", table, size=16, with_lungs=False
    )
    images[:] = 7
    assert images.chunks == (256, 16, 16)
    assert sum(name.startswith("train/images/c/") for name in files_under(tmp_path / "s")) == 2


def test_a_split_without_images_can_be_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [], "label": [], "weight": [], "repeats": []})
    dataset.create_split(dataset.create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    split = dataset.read_split(dataset.open_store(tmp_path / "s"), "val")
    assert split.images.shape == (0, 16, 16)
    assert len(split.image_ids) == 0


def test_the_store_is_opened_for_reading_only(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"read.only"):
        dataset.open_store(tmp_path / "s").create_group("more")


# --- images that stay in the store ---

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


def streamed(n: int = N_STREAMED, *, chunks_kept: float = 2) -> tuple[dataset.Pixels, np.ndarray, list[int]]:
    """Random images as they stream, the same in memory, and the chunks that were read so far."""
    whole = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    array = zarr.create_array({}, shape=whole.shape, chunks=(PER_CHUNK, SIDE, SIDE), dtype=np.uint8)
    array[:] = whole
    counted = Counted(array)
    pixels = dataset.Pixels(counted, chunks_kept * PER_CHUNK * SIDE * SIDE)  # type: ignore[arg-type]
    return pixels, whole, counted.reads


KEYS = st.one_of(
    st.slices(N_STREAMED),
    st.lists(st.integers(-N_STREAMED, N_STREAMED - 1), max_size=40),
    st.lists(st.integers(-N_STREAMED, N_STREAMED - 1), max_size=40).map(lambda rows: np.array(rows, np.int32)),
    st.lists(st.booleans(), min_size=N_STREAMED, max_size=N_STREAMED).map(np.array),
    st.integers(-N_STREAMED, N_STREAMED - 1),
)


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
    store = dataset.open_store(tmp_path / "s")
    whole, size = dataset.read_split(store, "test"), 3 * 16 * 16 / 2**30
    for memory, kind in ((None, np.ndarray), (size, np.ndarray), (size * 0.99, dataset.Pixels), (0, dataset.Pixels)):
        split = dataset.read_split(store, "test", memory=memory)
        assert type(split.images) is kind
        for one, other in zip(split, whole, strict=True):
            np.testing.assert_array_equal(one[:], other, strict=True)


def test_a_streamed_split_keeps_chunks_for_half_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IMAGES_PER_CHUNK", 2)
    table = pd.DataFrame({"image_id": list("abcdefgh"), "label": 1, "weight": 1.0, "repeats": 1})
    images, _ = dataset.create_split(dataset.create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    images[:] = 7
    budgets = []
    monkeypatch.setattr(dataset, "Pixels", lambda array, budget: budgets.append((array.shape, budget)))
    dataset.read_split(dataset.open_store(tmp_path / "s"), "val", memory=6 * 256 / 2**30)
    assert budgets == [((8, 16, 16), 3 * 256)]


def test_an_empty_split_is_read_under_any_limit(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [], "label": [], "weight": [], "repeats": []})
    dataset.create_split(dataset.create_store(tmp_path / "s", {}), "val", table, size=16, with_lungs=False)
    split = dataset.read_split(dataset.open_store(tmp_path / "s"), "val", memory=0)
    assert split.images.shape == (0, 16, 16)


@pytest.mark.parametrize("n", [0, 7, 10, 11])
def test_blocks_hold_every_image_once_in_order(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IMAGES_PER_BLOCK", 5)
    pixels, whole, _ = streamed(n)
    for images in (pixels, whole):
        found = list(dataset.blocks(images))
        assert [len(block) for block in found] == [5] * (n // 5) + [n % 5] * (n % 5 > 0)
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, SIDE, SIDE), np.uint8), *found]), whole)


def test_a_block_is_whole_chunks() -> None:
    assert dataset.IMAGES_PER_BLOCK % dataset.IMAGES_PER_CHUNK == 0


# --- the project's root ---


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/t/a"])
def test_the_root_is_the_same_from_a_temporary_experiment(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    assert dataset.project_root(folder) == tmp_path
    monkeypatch.chdir(folder)
    assert dataset.project_root() == tmp_path


def test_other_folders_of_dvc_are_no_experiment(tmp_path: Path) -> None:
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    assert dataset.project_root(folder) == folder
