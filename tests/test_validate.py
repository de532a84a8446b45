"""Every defect is found and named, and what is found stands in the report."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumonia import UserError, validate, workspace
from pneumonia.data import tables
from pneumonia.images import decode
from pneumonia.validate import (
    MEASURES,
    NEAR,
    border,
    corner,
    dhash,
    look_alike,
    measure,
    require_enough,
    sharpness,
    turned,
)
from stages import validate as stage
from tests.conftest import set_settings
from tests.images.test_decode import dicom

Manifest = Callable[..., pd.DataFrame]
LIMITS = {"min_side": 64, "min_std": 4.0}


def xray(seed: int, height: int = 96, width: int = 80) -> np.ndarray:
    """Soft random shadows, as different from one seed to the next as two patients."""
    noise = np.random.default_rng(seed).normal(128, 60, (7, 6))
    return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


# --- measuring ---


def test_a_good_image_is_measured(write_manifest: Manifest) -> None:
    manifest = write_manifest({"half": np.repeat([[0, 200]], 64, axis=0).repeat(50, axis=1).astype(np.uint8)})
    (row,) = measure(manifest, **LIMITS, workers=1).to_dict("records")
    assert {name: row[name] for name in MEASURES} == {
        "width": 100,
        "height": 64,
        "mode": "L",
        "mean": 100.0,
        "std": 100.0,
        "entropy": 1.0,
        "saturated": 0.5,
        "sharpness": 9.482,  # log2(1 + 2 * 200**2 / 112): one column up, one down
        "corner": 0.0,
        "border": 100.0,
        "turned": 0,
        "dhash": "0180" * 16,  # up to the mixed pixel in the middle of 17, and up again
        "look_alike": "",
        "valid": True,
        "reason": "",
        "note": "",
    }


def test_sharpness_is_of_the_content_not_of_the_size() -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.integers(0, 256, (112, 112)).astype(np.uint8), (0, 0), 1)
    large = cv2.resize(small, (448, 336), interpolation=cv2.INTER_NEAREST_EXACT)
    assert sharpness(large) == pytest.approx(sharpness(small), abs=0.01)
    assert sharpness(cv2.GaussianBlur(small, (0, 0), 2)) < sharpness(small) - 2
    assert sharpness(np.full((50, 60), 77, np.uint8)) == 0
    lonely = np.zeros((112, 112), np.uint8)
    lonely[50, 50] = 100  # -4 times it in its place, once at each of four neighbours
    assert sharpness(lonely) == pytest.approx(np.log2(1 + 20 * 100**2 / 112**2))


def test_letters_brighten_the_corner_and_a_frame_darkens_the_border() -> None:
    plain = np.full((224, 448), 100, np.uint8)
    assert (corner(plain), border(plain)) == (100, 100)
    letters = plain.copy()
    letters[4:12, 10:30] = 255
    assert corner(letters) == 255
    assert corner(letters[:, ::-1]) == 100, "only the left one"
    framed = plain.copy()
    framed[8:-8, 8:-8] = 200
    assert border(framed) == 100
    assert border(plain[:1, :1]) == 100


@pytest.mark.parametrize(
    ("values", "bits"),
    [([7], 0.0), ([7, 9], 1.0), ([0, 1, 200, 255], 2.0), ([1, 1, 2, 3], 1.5), (list(range(256)), 8.0)],
)
def test_entropy_of_known_values(write_manifest: Manifest, values: list[int], bits: float) -> None:
    pixels = np.resize(np.array(values, np.uint8), (64, 64))
    entropy = measure(write_manifest({"a": pixels}), **LIMITS, workers=1)["entropy"]
    assert entropy.to_list() == [bits]
    assert not np.signbit(entropy).any(), "-0.0 would stand in the table"


@pytest.mark.parametrize(
    ("values", "share"), [([1, 254], 0.0), ([0, 100], 0.5), ([255, 100, 100, 100], 0.25), ([0, 255], 1.0)]
)
def test_saturated_is_the_share_of_black_and_white_pixels(
    write_manifest: Manifest, values: list[int], share: float
) -> None:
    pixels = np.resize(np.array(values, np.uint8), (64, 64))
    assert measure(write_manifest({"a": pixels}), **LIMITS, workers=1)["saturated"].to_list() == [share]


def test_mode_is_that_of_the_file(write_manifest: Manifest) -> None:
    gray = xray(1)
    files = {
        "gray": gray,
        "colour": np.repeat(gray[..., None], 3, axis=2),
        "deep": encoded(gray.astype(np.uint16) << 4, "PNG"),
        "negative": dicom(255 - gray, PhotometricInterpretation="MONOCHROME1"),
        "broken": b"no image",
    }
    table = measure(write_manifest(files), **LIMITS, workers=1)
    assert table["mode"].to_list() == ["L", "RGB", "I;16", "MONOCHROME1", ""]
    readable = table.iloc[:4]
    assert readable["valid"].all()
    assert (readable[["mean", "std", "dhash"]] == readable.iloc[0][["mean", "std", "dhash"]]).all(axis=None)


def test_each_defect_is_quarantined_with_its_reason(write_manifest: Manifest) -> None:
    whole = encoded(xray(3, 200, 200), "JPEG")
    manifest = write_manifest(
        {
            "good": xray(1),
            "just-large-enough": xray(2, 64, 64),
            "cut": whole[: len(whole) // 2],
            "no-image": b"<html>not found</html>",
            "nothing": b"",
            "low": xray(4, 63, 400),
            "narrow": xray(5, 400, 63),
            "blank": np.full((80, 80), 12, np.uint8),
            "sick": xray(6),
            "same-but-healthy": xray(6),
        },
        labels={"good": 0, "same-but-healthy": 0},
    )
    table = measure(manifest, **LIMITS, workers=1).set_index("image_id")
    found = table["reason"].to_dict()
    assert found.pop("cut").startswith("cannot be read as an image (image file is truncated")
    assert found == {
        "no-image": "cannot be read as an image (not an image, expected JPEG, PNG, TIFF, BMP, WebP or DICOM)",
        "nothing": "cannot be read as an image (the file is empty)",
        "good": "",
        "just-large-enough": "",
        "low": "shorter side under 64 pixels",
        "narrow": "shorter side under 64 pixels",
        "blank": "blank: standard deviation under 4 gray levels",
        "sick": "the same file carries both labels",
        "same-but-healthy": "the same file carries both labels",
    }
    assert set(table.index[table["valid"]]) == {"good", "just-large-enough"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda path: path.unlink(),
            r"b\.png: no such file; restore it and run again, or read all files again: dvc repro -f",
        ),
        (
            lambda path: path.write_bytes(encoded(xray(3), "PNG")),
            r"b\.png: the file has changed since fetch read it; read",
        ),
    ],
)
def test_a_file_that_is_gone_or_another_one_stops_and_is_not_left_out(
    write_manifest: Manifest, change: Callable[[Path], Any], said: str
) -> None:
    """Left out, the data would depend on whether a disk answered today."""
    manifest = write_manifest({"a": xray(1), "b": xray(2)})
    change(Path(manifest.loc[1, "uri"]))
    with pytest.raises(UserError, match=said):
        measure(manifest, **LIMITS, workers=1)


def test_identical_files_of_one_label_are_valid(write_manifest: Manifest) -> None:
    table = measure(write_manifest({"a": xray(1), "b": xray(1)}), **LIMITS, workers=1)
    assert table["valid"].all()


def test_no_row_is_lost_and_columns_follow_the_contract(write_manifest: Manifest, tmp_path: Path) -> None:
    manifest = write_manifest({f"{n:03}": xray(n) for n in (5, 3, 4)}).assign(age=[1.0, np.nan, 3.0])
    manifest.index = pd.Index([7, 7, 0])
    table = measure(manifest, **LIMITS, workers=1)
    assert table["image_id"].to_list() == ["005", "003", "004"]
    assert list(table) == [*manifest, *MEASURES]
    tables.write_table(table, tmp_path / "valid.csv")
    pd.testing.assert_frame_equal(tables.read_table(tmp_path / "valid.csv"), table)


def test_measures_do_not_depend_on_the_number_of_workers(write_manifest: Manifest) -> None:
    few = write_manifest({f"{n}": xray(n) for n in range(5)} | {"broken": b"no image"})
    manifest = pd.concat([few] * 50, ignore_index=True)  # more than one chunk
    manifest["image_id"] = [f"i{n:03}" for n in range(300)]
    one = measure(manifest, **LIMITS, workers=1)
    assert one["valid"].sum() == 250
    pd.testing.assert_frame_equal(measure(manifest, **LIMITS, workers=2), one, check_exact=True)


def a_project(folder: Path) -> pd.DataFrame:
    """Good files and a bad one, named from the project's folder."""
    data = folder / "data"
    data.mkdir(parents=True)
    contents = {"good.png": encoded(xray(1), "PNG"), "broken.png": b"no image", "packed.png": encoded(xray(2), "PNG")}
    for name in ("good.png", "broken.png"):
        (data / name).write_bytes(contents[name])
    with zipfile.ZipFile(data / "a.zip", "w") as archive:
        archive.writestr("packed.png", contents["packed.png"])
    uris = ["data/good.png", "data/broken.png", "zip://packed.png::data/a.zip"]
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(uris))],
            "uri": uris,
            "label": [n % 2 for n in range(len(uris))],
            "patient_id": [f"p{n}" for n in range(len(uris))],
            "subtype": "s",
            "source_split": "",
            "bytes": 9,
            "sha256": [workspace.sha256_bytes(content) for content in contents.values()],
        }
    )


def test_the_table_is_the_same_bytes_whatever_the_folder_of_the_project_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for name in ("here", "in another/place"):
        manifest = a_project(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        table = measure(manifest, **LIMITS, workers=1)
        assert table["valid"].to_list() == [True, False, True]
        tables.write_table(table, tmp_path / name / "valid.csv")
        written.append((tmp_path / name / "valid.csv").read_bytes())
    assert written[0] == written[1]


# --- resuming ---


@pytest.fixture
def ten(write_manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Ten images, one of them bad, in chunks of three."""
    monkeypatch.setattr(validate, "_CHUNK", 3)
    return write_manifest({f"{n}": xray(n) for n in range(9)} | {"9": b"no image"})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were measured; one that `calls` holds as `crash NAME` fails."""
    seen: list[str] = []
    really = validate._measure

    names: dict[bytes, str] = {}

    def measure_one(content: bytes) -> dict[str, Any]:
        name = names.setdefault(content, f"{len(names)}")  # the first run goes through all of them in their order
        if f"crash {name}" in seen:
            raise MemoryError
        seen.append(name)
        return really(content)

    monkeypatch.setattr(validate, "_measure", measure_one)
    return seen


def test_after_a_crash_only_the_rest_is_measured(ten: pd.DataFrame, calls: list[str], tmp_path: Path) -> None:
    resume = tmp_path / "resume"
    resume.mkdir()
    expected = measure(ten, **LIMITS, workers=1)
    assert len(calls) == 10
    calls[:] = ["crash 4"]  # in the middle of the second chunk
    with pytest.raises(MemoryError):
        measure(ten, **LIMITS, workers=1, resume=resume)
    assert calls[1:] == ["0", "1", "2", "3"]
    calls.clear()
    table = measure(ten, **LIMITS, workers=1, resume=resume)
    assert calls == ["3", "4", "5", "6", "7", "8", "9"]
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    calls.clear()
    pd.testing.assert_frame_equal(measure(ten, **LIMITS, workers=1, resume=resume), expected, check_exact=True)
    assert calls == []


def test_a_chunk_lost_from_the_middle_is_measured_again(ten: pd.DataFrame, calls: list[str], tmp_path: Path) -> None:
    resume = tmp_path / "resume"
    resume.mkdir()
    expected = measure(ten, **LIMITS, workers=1, resume=resume)
    (resume / "1.json").unlink()
    (resume / "3.json").unlink()
    calls.clear()
    pd.testing.assert_frame_equal(measure(ten, **LIMITS, workers=1, resume=resume), expected, check_exact=True)
    assert calls == ["3", "4", "5", "9"]


def test_limits_are_judged_anew_when_measures_are_resumed(ten: pd.DataFrame, tmp_path: Path) -> None:
    assert measure(ten, **LIMITS, workers=1, resume=tmp_path)["valid"].sum() == 9
    assert measure(ten, min_side=81, min_std=4.0, workers=1, resume=tmp_path)["valid"].sum() == 0


# --- the perceptual hash ---


def test_dhash_of_a_known_image() -> None:
    rising = np.tile(np.arange(17, dtype=np.uint8), (16, 1))
    assert dhash(rising) == "f" * 64
    assert dhash(rising[:, ::-1]) == "0" * 64
    one_step = np.zeros((16, 17), np.uint8)
    one_step[0, 1:] = 9  # the first pixel pair of the first row is the first bit
    assert dhash(one_step) == "8" + "0" * 63
    one_step[15, 16] = 9  # and the last of the last row the last
    assert dhash(one_step) == "8" + "0" * 62 + "1"


def test_dhash_looks_at_all_pixels_and_not_at_samples() -> None:
    """Blocks that grow brighter to the right, with dark grains that grow darker where sampling would look."""
    image = np.tile(np.repeat(np.arange(80, 250, 10), 10), (160, 1)).astype(np.uint8)
    for place in (0, 4, 5):
        image[place::10, place::10] = np.arange(80, -5, -5)
    assert dhash(image) == "f" * 64


def bits_apart(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@given(st.integers(0, 10_000), st.integers(60, 300), st.integers(60, 300))
def test_a_rescaled_copy_has_nearly_the_same_dhash_and_another_image_not(seed: int, height: int, width: int) -> None:
    image, other = xray(seed, 240, 200), xray(seed + 1, 240, 200)
    copy = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert bits_apart(dhash(image), dhash(copy)) <= NEAR
    assert bits_apart(dhash(image), dhash(other)) > 4 * NEAR


# --- look-alikes ---


def alike(*rows: tuple[str, str, int], **columns: Any) -> pd.DataFrame:
    """A measured table of `(image_id, patient_id, hash as a number)`; all files differ and are valid."""
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "dhash"])
    table["dhash"] = [f"{number:064x}" for number in table["dhash"]]
    table["sha256"] = [f"file {n}" for n in range(len(table))]
    return table.assign(valid=True, **columns)


def bits(first: int, count: int) -> int:
    return (2**count - 1) << first


FAR = bits(100, 100)


def test_a_copy_under_another_patient_is_found_however_it_was_saved(write_manifest: Manifest) -> None:
    image = xray(1, 240, 200)
    files = {
        "z-source": image,
        "other": xray(2, 240, 200),
        "compressed": encoded(image, "JPEG", quality=50),
        "smaller": cv2.resize(image, (150, 180), interpolation=cv2.INTER_AREA),
        "larger": cv2.resize(image, (260, 300), interpolation=cv2.INTER_CUBIC),
        "brighter": np.clip(image * 0.8 + 40, 0, 255).astype(np.uint8),
    }
    manifest = write_manifest(files)
    table = measure(manifest, **LIMITS, workers=1)
    assert table["look_alike"].to_list() == ["brighter", "", "brighter", "brighter", "brighter", "brighter"]
    assert table["valid"].all(), "which of them is wrong is for a person to say"
    same = measure(manifest.assign(patient_id="p"), **LIMITS, workers=1)
    assert same["look_alike"].eq("").all(), "of one patient two pictures may look the same"


def test_identical_files_are_no_look_alikes(write_manifest: Manifest) -> None:
    table = measure(write_manifest({"a": xray(1), "b": xray(1)}), **LIMITS, workers=1)
    assert table["look_alike"].to_list() == ["", ""]


def test_a_copy_of_identical_files_looks_like_both(write_manifest: Manifest) -> None:
    files = {"a": xray(1), "b": xray(1), "c": encoded(xray(1), "JPEG", quality=80)}
    assert measure(write_manifest(files), **LIMITS, workers=1)["look_alike"].to_list() == ["a", "a", "a"]


@pytest.mark.parametrize(("apart", "found"), [(0, True), (NEAR, True), (NEAR + 1, False)])
@pytest.mark.parametrize("first", [0, 59, 200], ids=["low word", "across words", "high word"])
def test_hashes_up_to_the_limit_apart_are_alike(first: int, apart: int, found: bool) -> None:
    table = alike(("a", "p", FAR), ("b", "q", FAR ^ bits(first, apart)), ("c", "r", bits(0, 256)))
    assert look_alike(table) == (["a", "a", ""] if found else ["", "", ""])


def test_a_chain_of_look_alikes_shares_the_smallest_id() -> None:
    """The ends are 20 bits apart, and the smallest id is neither the first row nor the middle."""
    table = alike(("n", "p", 0), ("z", "q", bits(0, 10)), ("a", "s", FAR), ("b", "r", bits(0, 20)))
    assert look_alike(table) == ["b", "b", "", "b"]


def test_a_patient_joins_the_group_with_the_images_that_look_like_anothers() -> None:
    table = alike(("a", "p", 0), ("b", "q", 1), ("c", "p", 3), ("d", "p", FAR))
    assert look_alike(table) == ["a", "a", "a", ""]


def test_quarantined_images_look_like_no_other() -> None:
    table = alike(("a", "p", 0), ("b", "q", 0), ("c", "r", 0))
    table.loc[0, ["valid", "dhash"]] = [False, ""]
    assert look_alike(table) == ["", "b", "b"]
    table.loc[1, "valid"] = False
    assert look_alike(table) == ["", "", ""]


@pytest.mark.parametrize("n_rows", [0, 1])
def test_a_table_of_no_or_one_row_holds_no_look_alikes_and_nothing_turned(n_rows: int) -> None:
    table = alike(("a", "p", 0)).assign(thumbnail="00ff" * 128).iloc[:n_rows]
    assert look_alike(table) == [""] * n_rows
    assert turned(table) == [0] * n_rows


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 40), st.booleans()), max_size=14))
def test_look_alikes_are_the_groups_that_pairs_form(rows: list[tuple[int, int, int, bool]]) -> None:
    """Against a search of all pairs, repeated until nothing changes."""
    table = alike(*((f"{n * 7 % 17:02}", f"p{who}", bits(0, 4 * length)) for n, (who, _, length, _) in enumerate(rows)))
    table["sha256"] = [f"file {content}" for _, content, _, _ in rows]
    table["valid"] = [valid for *_, valid in rows]
    group: dict[int, set[int]] = {n: {n} for n in range(len(rows))}
    for a, (who, content, length, valid) in enumerate(rows):
        for b, (other_who, other_content, other_length, other_valid) in enumerate(rows):
            near = 4 * abs(length - other_length) <= NEAR
            if valid and other_valid and near and who != other_who and content != other_content:
                merged = group[a] | group[b]
                group |= dict.fromkeys(merged, merged)
    ids = table["image_id"].to_list()
    assert look_alike(table) == [min(ids[n] for n in its) if len(its) > 1 else "" for its in group.values()]


# --- turned images ---


def upright(seed: int) -> np.ndarray:
    """Like any other of these: a bright corner at the top left, a dark side to the right, and own shadows."""
    y, x = np.mgrid[0:1:96j, 0:1:80j]
    picture = 120 + 80 * np.exp(-((x - 0.2) ** 2 + (y - 0.15) ** 2) / 0.05) - 60 * x + 0.2 * (xray(seed) - 128.0)
    return np.clip(picture, 0, 255).astype(np.uint8)


def test_turned_images_are_found_with_their_degrees_anticlockwise(write_manifest: Manifest) -> None:
    files = {f"{n:02}": upright(n) for n in range(40)}
    planted = {"03": 90, "14": 180, "15": 270, "39": 90}
    files |= {name: np.rot90(files[name], degrees // 90).copy() for name, degrees in planted.items()}
    table = measure(write_manifest(files), **LIMITS, workers=1).set_index("image_id")
    assert table["turned"][table["turned"] != 0].to_dict() == planted
    assert table["valid"].all(), "a turned image is reported, and learnt from"


def test_pillow_turns_as_many_degrees_in_the_same_direction(write_manifest: Manifest) -> None:
    files = {f"{n:02}": upright(n) for n in range(20)}
    files["07"] = np.asarray(Image.fromarray(files["07"]).rotate(90, expand=True))  # "counter clockwise"
    assert measure(write_manifest(files), **LIMITS, workers=1)["turned"].to_list() == [0] * 7 + [90] + [0] * 12


@pytest.mark.parametrize(("share", "degrees"), [(0.9, 0), (1.05, 0), (1.5, 90), (5.0, 90)])
def test_an_image_is_turned_only_where_that_fits_clearly_better(share: float, degrees: int) -> None:
    """One that is as much its own turned form as itself may be a symmetrical patient."""
    typical = np.zeros((16, 16))
    typical[:4, 3:9] = 20
    mixed = typical + share * np.rot90(typical)
    pictures = [np.rint(100 + one).astype(np.uint8) for one in (*[typical] * 5, mixed)]
    table = pd.DataFrame({"thumbnail": [one.tobytes().hex() for one in pictures]})
    assert turned(table) == [0] * 5 + [degrees]


def test_one_image_counts_as_upright(write_manifest: Manifest) -> None:
    manifest = write_manifest({"a": np.rot90(upright(1)).copy()})
    assert measure(manifest, **LIMITS, workers=1)["turned"].to_list() == [0]


def test_flat_and_unreadable_images_count_as_upright(write_manifest: Manifest) -> None:
    manifest = write_manifest({name: np.full((80, 80), 90, np.uint8) for name in "abc"} | {"d": b"no image"})
    table = measure(manifest, min_side=64, min_std=0.0, workers=1)
    assert table["turned"].to_list() == [0, 0, 0, 0]
    assert table["valid"].to_list() == [True, True, True, False]


# --- findings ---


def test_findings_name_each_image_and_what_is_wrong_with_it() -> None:
    table = pd.DataFrame(
        {
            "image_id": ["good", "bad", "turned", "copy", "both"],
            "label": [0, 0, 1, 1, 0],
            "patient_id": ["p0", "p1", "p2", "p3", "p4"],
            "valid": [True, False, True, True, True],
            "reason": ["", "blank", "", "", ""],
            "turned": [0, 0, 180, 0, 90],
            "look_alike": ["", "", "", "both", "both"],
            "note": ["", "", "a window", "", ""],
        }
    )
    assert validate.findings(table).to_numpy().tolist() == [
        ["bad", "quarantined: blank"],
        ["turned", "turned by 180 degrees"],
        ["both", "turned by 90 degrees"],
        ["copy", "looks like both of the other class"],
        ["both", "looks like copy of the other class"],
        ["turned", "a window"],
    ]
    assert list(validate.findings(table)) == ["image_id", "finding"]


def test_an_image_looks_like_another_one_and_not_like_itself() -> None:
    table = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d", "e"],
            "label": [1, 1, 1, 0, 1],
            "patient_id": ["p1", "p1", "p2", "p3", "p4"],
            "valid": True,
            "reason": "",
            "turned": 0,
            "look_alike": ["a", "a", "a", "d", "d"],
            "note": "",
        }
    )
    assert dict(validate.findings(table).to_numpy().tolist()) == {
        "a": "looks like c of another patient",
        "b": "looks like c of another patient",
        "c": "looks like a of another patient",
        "d": "looks like e of the other class",
        "e": "looks like d of the other class",
    }


def test_ten_findings_are_shown_and_the_others_counted() -> None:
    findings = pd.DataFrame({"image_id": [f"i{n:02}" for n in range(13)], "finding": "blank"})
    lines = validate.first_findings(findings)
    assert lines[:2] == ["i00: blank", "i01: blank"]
    assert lines[9:] == ["i09: blank", "and 3 more: findings.json of the MLflow run has all"]
    assert len(validate.first_findings(findings.head(10))) == 10
    assert validate.first_findings(findings.head(0)) == []


def test_a_window_that_shows_nothing_is_a_finding_and_no_reason_for_a_quarantine(write_manifest: Manifest) -> None:
    film = xray(1).astype(np.uint16) * 16 + 12000
    files = {"beside": dicom(film, WindowCenter=3174, WindowWidth=2426), "none": dicom(film)}
    table = measure(write_manifest(files), **LIMITS, workers=1)
    assert table["valid"].all()
    assert table["mean"].iloc[0] == table["mean"].iloc[1]
    assert table["note"].to_list() == [decode.IGNORED_WINDOW, ""]
    assert ["beside", decode.IGNORED_WINDOW] in validate.findings(table).to_numpy().tolist()


def test_a_table_without_findings_has_none(write_manifest: Manifest) -> None:
    table = measure(write_manifest({"a": xray(1), "b": xray(2)}), **LIMITS, workers=1)
    assert validate.findings(table).empty
    assert list(validate.findings(table)) == ["image_id", "finding"]


# --- the report ---


def forty(**columns: Any) -> pd.DataFrame:
    """A measured table of 40 good images of 40 patients."""
    n = 40
    table = pd.DataFrame(
        {
            "image_id": [f"i{k:02}" for k in range(n)],
            "uri": "x",
            "label": [k % 2 for k in range(n)],
            "patient_id": [f"p{k}" for k in range(n)],
            "subtype": "s",
            "source_split": "train",
            "bytes": 9,
            "sha256": [f"{k:064x}" for k in range(n)],
            "width": 300,
            "height": 200,
            "mode": "L",
            "mean": 120.0,
            "std": 50.0,
            "entropy": 7.0,
            "saturated": 0.01,
            "turned": 0,
            "dhash": "0" * 64,
            "look_alike": "",
            "valid": True,
            "reason": "",
        }
    )
    return table.assign(**columns)


def failed(report: validate.ValidationReport) -> dict[str, int]:
    """Names of the expectations that were not met, and how many values did not meet them."""
    return {row["name"]: row["unexpected"] for row in report.summary["expectations"] if not row["success"]}


Reported = tuple[pd.DataFrame, validate.ValidationReport]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A table of 40 images, three of them bad, five of them copies, and what the suites say of it."""
    table = forty()
    table.loc[:2, ["valid", "reason", "width"]] = [False, "shorter side under 64 pixels", 20]
    table.loc[[10, 11, 12], "sha256"] = "a" * 64
    table.loc[[20, 21], "sha256"] = "b" * 64
    table.loc[[30, 32, 34], "patient_id"] = "p30"
    folder = tmp_path_factory.mktemp("reports") / "data_docs"
    folder.mkdir()
    (folder / "stale.html").touch()
    return table, validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=folder)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> validate.ValidationReport:
    """What the suites say where every new defect is planted, each one in no more than 5 % of the images."""
    table = forty()
    table.loc[[4, 5], "sha256"] = "c" * 64
    table.loc[[4, 5], ["valid", "reason"]] = [False, "the same file carries both labels"]
    table.loc[[10, 11], "look_alike"] = "i10"
    table.loc[[20, 21], "turned"] = 180
    table.loc[30, "patient_id"] = "p31"  # of a child of both classes
    table.loc[table["label"] == 1, "patient_id"] = [f"q{k % 9}" for k in range(20)]
    table.loc[[30, 31], "patient_id"] = "q0"
    docs = tmp_path_factory.mktemp("planted") / "data_docs"
    return validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=docs)


@pytest.fixture(scope="module")
def measures_off(tmp_path_factory: pytest.TempPathFactory) -> validate.ValidationReport:
    """What the suites say where three images, more than 5 %, are turned, empty of information or saturated."""
    table = forty()
    table.loc[:2, "turned"] = 90
    table.loc[10:12, "entropy"] = 3.9
    table.loc[20:22, "saturated"] = 0.51
    docs = tmp_path_factory.mktemp("off") / "data_docs"
    return validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=docs)


def test_summary_keeps_the_contract(reported: Reported, tmp_path: Path) -> None:
    summary = reported[1].summary
    rows = summary["expectations"]
    assert {name: value for name, value in summary.items() if name != "expectations"} == {
        "n_images": 40,
        "n_valid": 37,
        "n_quarantined": 3,
        "quarantined": [{"reason": "shorter side under 64 pixels", "n": 3}],
        "n_patients": {"normal": 16, "pneumonia": 19},
        "n_patients_of_both_classes": 0,
        "duplicate_groups": 2,
        "duplicate_files": 5,
        "label_conflicts": 2,
        "look_alike_groups": 0,
        "look_alike_files": 0,
        "n_turned": 0,
    }
    assert len(rows) >= 20
    assert all(set(row) == {"name", "success", "unexpected", "words"} for row in rows)
    assert len({row["name"] for row in rows}) == len({row["words"] for row in rows}) == len(rows)
    tables.write_json(summary, tmp_path / "validation.json")
    assert tables.read_json(tmp_path / "validation.json") == summary


def test_without_bad_images_nothing_is_quarantined_for_any_reason(tmp_path: Path) -> None:
    table = forty().astype({"reason": "str"})  # as it is read from a file; of an empty column pandas makes no parts
    summary = validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=tmp_path / "data_docs").summary
    assert (summary["n_quarantined"], summary["quarantined"]) == (0, [])


def test_summary_counts_what_was_planted(planted: validate.ValidationReport) -> None:
    summary = planted.summary
    expected = {
        "n_quarantined": 2,
        "n_patients": {"normal": 19, "pneumonia": 9},
        "n_patients_of_both_classes": 1,
        "duplicate_groups": 1,
        "label_conflicts": 1,
        "look_alike_groups": 1,
        "look_alike_files": 2,
        "n_turned": 2,
    }
    assert {name: summary[name] for name in expected} == expected


def test_summary_counts_reasons_without_what_they_say_of_the_single_file(tmp_path: Path) -> None:
    table = forty()
    for row, reason in enumerate(("cannot be read (9 bytes missing)", "blank", "cannot be read (7 bytes missing)")):
        table.loc[row, ["valid", "reason"]] = [False, reason]
    summary = validate.report(table, **LIMITS, max_bad_fraction=0.1, docs=tmp_path / "data_docs").summary
    assert summary["quarantined"] == [{"reason": "cannot be read", "n": 2}, {"reason": "blank", "n": 1}]


def test_what_fails_shows_and_the_rest_passes(reported: Reported) -> None:
    assert failed(reported[1]) == {
        "expect_column_values_to_be_between(width)": 3,
        "expect_column_values_to_be_in_set(valid)": 3,
        "expect_column_values_to_be_unique(sha256)": 5,
    }


def test_one_look_alike_or_label_conflict_or_class_of_few_patients_is_too_much(
    planted: validate.ValidationReport,
) -> None:
    """Of bad and turned images and copies 5 % are allowed."""
    assert failed(planted) == {
        "expect_column_values_to_be_in_set(look_alike)": 2,
        "expect_column_values_to_not_match_regex(reason)": 2,
        "expect_column_values_to_be_between(n_patients)": 1,
    }


def test_more_turned_empty_or_saturated_images_than_allowed_fail(measures_off: validate.ValidationReport) -> None:
    assert failed(measures_off) == {
        "expect_column_values_to_be_in_set(turned)": 3,
        "expect_column_values_to_be_between(entropy)": 3,
        "expect_column_values_to_be_between(saturated)": 3,
    }


def test_failed_expectations_are_also_given_in_words(reported: Reported, planted: validate.ValidationReport) -> None:
    assert sorted(reported[1].failed) == [
        "files that are identical to another one: 5 (sha256 in data/valid.csv)",
        "images that are quarantined: 3 (valid in data/valid.csv)",
        "images whose width is not between 64 and 20000 pixels: 3 (width in data/valid.csv)",
    ]
    assert sorted(planted.failed) == [
        "classes of fewer than 10 patients, too few for a split by patient: 1",
        "images that look like one of another patient: 2 (look_alike in data/valid.csv)",
        "images whose file is in both classes: 2 (reason in data/valid.csv)",
    ]


def test_each_expectation_names_the_images_that_do_not_meet_it(
    reported: Reported, planted: validate.ValidationReport
) -> None:
    rows = {check.name: check.rows for check in reported[1].checks if check.unexpected}
    assert rows == {
        "expect_column_values_to_be_between(width)": (0, 1, 2),
        "expect_column_values_to_be_in_set(valid)": (0, 1, 2),
        "expect_column_values_to_be_unique(sha256)": (10, 11, 12, 20, 21),
    }
    classes = {check.name: check for check in planted.checks}["expect_column_values_to_be_between(n_patients)"]
    assert (classes.unexpected, classes.rows) == (1, ()), "a row of its table is a class"
    assert all(check.words and "{" not in check.words for check in planted.checks)


def test_a_picture_for_pages_is_small_and_an_unreadable_file_has_none(write_manifest: Manifest) -> None:
    files = {"good": xray(1, 900, 600), "broken": b"no image"}
    good, broken = measure(write_manifest(files), **LIMITS, workers=1).to_dict("records")
    with Image.open(io.BytesIO(validate.picture(good))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", (147, 220))
        small = np.asarray(picture, dtype=float)
    assert np.abs(small - cv2.resize(xray(1, 900, 600), (147, 220), interpolation=cv2.INTER_AREA)).mean() < 4
    assert validate.picture(broken) == b""


def test_a_class_of_hardly_any_images_fails(tmp_path: Path) -> None:
    table = pd.concat([forty()] * 4, ignore_index=True)
    names = [f"{n:064x}" for n in range(160)]
    table = table.assign(image_id=names, sha256=names, patient_id=names, label=[0] * 158 + [1] * 2)
    report = validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=tmp_path / "data_docs")
    assert failed(report) == {
        "expect_column_values_to_be_between(share)": 2,  # one class has too little, the other too much
        "expect_column_values_to_be_between(n_patients)": 1,
    }


class Words(HTMLParser):
    """What a page says without a script."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def handle_data(self, data: str) -> None:
        self.said += "" if self.cdata_elem else data


def said(page: Path) -> str:
    words = Words()
    words.feed(page.read_text())
    return " ".join(words.said.split())


def test_the_page_for_people_is_that_of_the_images_and_says_what_failed(reported: Reported) -> None:
    page = reported[1].page
    docs = next(folder for folder in page.parents if folder.name == "data_docs")
    assert page.relative_to(docs).parts[:2] == ("validations", "images")
    for word in ("Failed", "patient_id", "look_alike", "turned"):
        assert word in said(page)
    assert "values must be unique, at least 95 % of the time. 5 unexpected values found." in said(page)
    assert not (docs / "stale.html").exists()
    assert [path.name for path in docs.parent.iterdir()] == ["data_docs"]


def test_the_site_has_a_page_for_the_images_and_one_for_the_classes(planted: validate.ValidationReport) -> None:
    docs = next(folder for folder in planted.page.parents if folder.name == "data_docs")
    pages = {page.relative_to(docs).parts[1]: page for page in (docs / "validations").rglob("*.html")}
    assert set(pages) == {"images", "classes"}
    index = (docs / "index.html").read_text()
    assert all(quote(page.relative_to(docs).as_posix()) in index for page in pages.values())
    assert "n_patients" in said(pages["classes"])
    assert "n_patients" not in said(pages["images"])


def test_the_report_of_a_table_is_the_same_every_time(reported: Reported, tmp_path: Path) -> None:
    again = validate.report(reported[0], **LIMITS, max_bad_fraction=0.05, docs=tmp_path / "data_docs")
    assert again.summary == reported[1].summary


def test_the_report_takes_its_limits_from_the_settings(reported: Reported, tmp_path: Path) -> None:
    loose = validate.report(reported[0], min_side=10, min_std=60.0, max_bad_fraction=0.1, docs=tmp_path / "data_docs")
    assert set(failed(loose)) == {
        "expect_column_values_to_be_between(std)",
        "expect_column_values_to_be_unique(sha256)",
    }


def test_great_expectations_and_tensorflow_wait_until_they_are_needed(repo: Path) -> None:
    modules = (
        "pneumonia.backbone, pneumonia.compute, pneumonia.data.store, pneumonia.external, pneumonia.fetch, "
        "pneumonia.models.networks, pneumonia.models.scoring, pneumonia.params, pneumonia.preprocess, "
        "pneumonia.rebalance, pneumonia.validate"
    )
    heavy = "{'great_expectations', 'tensorflow', 'keras', 'mlflow', 'matplotlib'}"
    code = f"import sys; import {modules}; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(repo / "src")}
    )
    assert done.stderr == "set()\n"


# --- enough ---


def measured(valid: list[bool], labels: list[int], reasons: dict[int, str] | None = None) -> pd.DataFrame:
    table = pd.DataFrame({"valid": valid, "label": labels})
    return table.assign(reason=[(reasons or {}).get(k, "" if ok else "blank") for k, ok in enumerate(valid)])


def test_a_share_of_bad_images_up_to_the_limit_passes() -> None:
    table = measured([False, *[True] * 19], [0, 1] * 10)
    require_enough(table, 0.05)
    with pytest.raises(UserError):
        require_enough(table, 0.049)
    require_enough(measured([True, True], [0, 1]), 0.0)


def test_too_many_bad_images_stop_with_share_limit_and_commonest_reason() -> None:
    reasons = dict.fromkeys(range(3), "cannot be read as an image (truncated)")
    table = measured([False] * 5 + [True] * 5, [0, 1] * 5, reasons)
    with pytest.raises(UserError) as caught:
        require_enough(table, 0.1)
    assert str(caught.value) == (
        "5 of 10 images are bad (50.0%), validate.max_bad_fraction allows 10.0%; most frequent: cannot be read as an "
        "image (truncated) (3); fix the source or raise the limit"
    )


@pytest.mark.parametrize(("lost", "name"), [(0, "normal"), (1, "pneumonia")])
def test_a_class_without_a_valid_image_stops_whatever_the_limit(lost: int, name: str) -> None:
    labels = [0, 1] * 5
    with pytest.raises(UserError, match=rf"^no valid image of class {lost} \({name}\) is left"):
        require_enough(measured([label != lost for label in labels], labels), 1.0)


@pytest.mark.slow  # Great Expectations and MLflow
def test_the_stage_names_the_bad_images_before_it_fails(
    write_manifest: Manifest, stage_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"data": "folder", "compute.workers": 1, "validate.max_bad_fraction": 0.05}
    set_settings(stage_project / "params.yaml", chosen)
    files = {f"good{n}": xray(n) for n in range(4)} | {f"bad{n:02}": b"no image %d" % n for n in range(12)}
    tables.write_table(write_manifest(files), "data/manifest.csv")
    with pytest.raises(UserError, match="12 of 16 images are bad"):
        stage.main()
    said = capsys.readouterr().out
    assert said.startswith("4 of 16 images valid, 12 quarantined")
    assert all(f"bad{n:02}: quarantined: cannot be read" in said for n in range(10))
    assert "and 2 more: findings.json of the MLflow run has all" in said
    assert not Path("data/valid.csv").exists()
    assert not Path("reports/validation.json").exists()
    (page,) = Path("mlruns").rglob("data.html")
    assert "bad11" in page.read_text(encoding="utf-8"), "the page of a failed stage is in MLflow"


# --- the real archive ---


@pytest.fixture(scope="module")
def real_table(real_manifest: pd.DataFrame) -> pd.DataFrame:
    return measure(real_manifest, **LIMITS, workers=2)


@pytest.mark.slow
def test_every_image_of_the_real_archive_is_valid(real_table: pd.DataFrame) -> None:
    assert len(real_table) == 5856
    assert real_table["valid"].all()
    assert (real_table[["width", "height"]] == 224).all(axis=None)


@pytest.mark.slow
def test_the_real_archive_holds_copies_within_a_patient_and_no_look_alikes_of_others(real_table: pd.DataFrame) -> None:
    copies = real_table[real_table["sha256"].duplicated(keep=False)]
    assert (copies["sha256"].nunique(), len(copies)) == (30, 62)
    assert real_table["look_alike"].eq("").all()
    assert copies.groupby("sha256")["label"].nunique().max() == 1


@pytest.mark.slow
def test_an_image_of_the_real_archive_under_another_patient_is_found(real_table: pd.DataFrame) -> None:
    planted = pd.concat([real_table, real_table.iloc[[100]].assign(image_id="a", patient_id="b", sha256="c")])
    found = np.array(look_alike(planted))
    assert set(np.flatnonzero(found != "")) == {100, 5856}


@pytest.mark.slow
def test_no_image_of_the_real_archive_is_turned(real_table: pd.DataFrame) -> None:
    assert real_table["turned"].eq(0).all()
