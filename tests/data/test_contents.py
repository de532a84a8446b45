"""Images are recognised by their first bytes, and what else lies in a place is known by its kind."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pneumonia import UserError
from pneumonia.data import contents
from pneumonia.files import Files, in_folder
from tests.conftest import png
from tests.data.conftest import place
from tests.images.test_decode import dicom

PNG = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
FILM = dicom(np.zeros((4, 4), np.uint8), PatientID="7")
STATE = "1.2.840.10008.5.1.4.1.1.11.1"


def object_of(sop_class: str, *, pixels: bool = False) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(FILM))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    if not pixels:
        del dataset.PixelData
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def kinds(**files: bytes) -> dict[str, str]:
    """What each file counts as; empty text for an image."""
    images, companions, left_out, _ = contents.classify(place(files))
    return dict.fromkeys(images, "") | {
        name: kind for found in (companions, left_out) for kind, names in found.items() for name in names
    }


@pytest.mark.parametrize(
    "name", ["1.2.840.113619.2.586", "CR.1.2.826.0", "a", "a.ima", "a.dic", "a.IMG", "a.dcm", "a.bin", "a.txt"]
)
def test_the_name_of_an_image_has_no_effect(name: str) -> None:
    for content in (FILM, FILM[128 + 4 :], PNG):
        assert kinds(**{name: content}) == {name: ""}


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jfif", "a.png", "a.tif", "a.bmp", "a.webp", "a.dcm"])
def test_a_damaged_image_is_listed_for_validation(name: str) -> None:
    assert kinds(**{name: b""}) == {name: ""}


def test_other_files_are_texts_or_left_out() -> None:
    files = {
        "README": b"Images of ...",
        "labels.csv": "path;ä\n".encode("cp1252"),
        "a.xlsx": b"PK\x03\x04" + bytes(99),
        "a.pdf": b"%PDF-1.7\n" + bytes(99),
        "empty": b"",
        "a.npy": b"\x93NUMPY\x01\x00" + bytes(99),
        "a.zip": b"PK\x03\x04" + bytes(99),
        "a.gif": b"GIF89a" + bytes(99),
    }
    texts = dict.fromkeys(("README", "labels.csv", "a.xlsx", "a.pdf"), contents.TEXTS)
    others = dict.fromkeys(("a.npy", "a.zip"), contents.NO_IMAGES)
    rest = {"empty": contents.EMPTY, "a.gif": "images in GIF, which is not supported"}
    assert kinds(**files) == {**texts, **others, **rest}


@pytest.mark.parametrize("name", ["IM4", "CR.1.2.3", "a.svg", "a.pgm", "a.ima"])
def test_text_with_the_name_of_an_image_is_left_out_and_counted(name: str) -> None:
    assert kinds(**{name: b"<html>403 Forbidden</html>"}) == {name: contents.NO_IMAGES}


@pytest.mark.parametrize(
    ("sop_class", "image"),
    [
        ("1.2.840.10008.5.1.4.1.1.1", True),  # computed radiography
        ("1.2.840.10008.5.1.4.1.1.1.1", True),  # digital X-ray
        ("1.2.840.10008.5.1.4.1.1.7", True),  # secondary capture
        (STATE, False),
        ("1.2.840.10008.5.1.4.1.1.88.11", False),  # structured report
        ("1.2.840.10008.5.1.4.1.1.88.59", False),  # key objects
        ("1.2.840.10008.5.1.4.1.1.66.4", False),  # segmentation
        ("1.2.840.10008.5.1.4.1.1.104.1", False),  # PDF
        ("1.2.840.10008.1.3.10", False),  # DICOMDIR
    ],
)
def test_a_dicom_object_is_an_image_by_its_class(sop_class: str, image: bool) -> None:
    assert kinds(a=object_of(sop_class, pixels=True), **{"b.dcm": object_of(sop_class)[132:]}) == dict.fromkeys(
        ("a", "b.dcm"), "" if image else contents.NO_FILMS
    )


def test_a_dicom_object_of_a_class_outside_the_standard_is_an_image_by_its_pixels() -> None:
    private = "1.3.12.2.1107.5.9.1"
    assert kinds(a=object_of(private), b=object_of(private, pixels=True)) == {"a": contents.NO_FILMS, "b": ""}


JUNK = [
    *("__MACOSX/NORMAL/a.png", "NORMAL/._a.png", "NORMAL/.DS_Store", "NORMAL/Thumbs.db", "desktop.ini", "Icon\r"),
    *("@eaDir/a.jpg/SYNO.jpg", ".ipynb_checkpoints/a-checkpoint.png", "$RECYCLE.BIN/a.png", "~$labels.xlsx"),
]


@pytest.mark.parametrize("name", JUNK)
def test_what_other_programs_add_is_junk(name: str) -> None:
    assert kinds(**{name: PNG}) == {name: contents.JUNK}


@pytest.mark.parametrize("name", ["NORMAL/a.png", "./NORMAL/a.png", "..a/b.png", "a.b/c.png", "iconic.png"])
def test_what_looks_like_junk_is_none(name: str) -> None:
    assert kinds(**{name: PNG}) == {name: ""}


MASKS = [
    *("masks/a.png", "NORMAL/Mask/a.png", "lung masks/a.png", "NORMAL/segmentation/a.png", "annotations/a.png"),
    *(
        "labels/a.png",
        "ground_truth/a.png",
        "NORMAL/a_mask.png",
        "NORMAL/a-seg.png",
        "infection_masks/a.dcm",
        "NORMAL/masks/a.dcm",
    ),
]


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_no_films(name: str) -> None:
    assert kinds(**{name: PNG, "NORMAL/a.png": PNG})[name] == contents.MASKS


def test_a_folder_above_all_images_does_not_make_them_masks() -> None:
    names = ["labels/NORMAL/a.png", "labels/PNEUMONIA/b.png", "README"]
    assert set(kinds(**dict.fromkeys(names, PNG)).values()) == {""}
    assert kinds(**{"NORMAL/b_mask.png": PNG, "x/c.png": PNG})["NORMAL/b_mask.png"] == ""  # a mask of nothing


@pytest.mark.parametrize(
    ("mask", "beside", "kind"),
    [
        ("NORMAL/gt/a.png", "NORMAL/a.png", contents.MASKS),
        ("NORMAL/p1/roi/a.png", "NORMAL/p1/a.jpg", contents.MASKS),
        ("train/labels/a.png", "train/images/b.png", contents.MASKS),
        ("labels/a.png", "PNEUMONIA/a.png", contents.MASKS),
        ("NORMAL/gt/a.png", "PNEUMONIA/gt/b.png", contents.MASKS_ALONE),
        ("NORMAL/p1/seg/a.png", "NORMAL/p2/b.png", contents.MASKS_ALONE),
        ("NORMAL/GT/a.png", "NORMAL/PA/b.png", contents.MASKS_ALONE),
        ("NORMAL/GT/0.png", "NORMAL/AB/0.png", ""),  # initials
    ],
)
def test_a_short_name_means_masks_only_beside_the_images(mask: str, beside: str, kind: str) -> None:
    assert kinds(**{mask: PNG, beside: PNG})[mask] == kind


@pytest.mark.parametrize("month", ["OCT", "OCT2019"])
def test_a_month_and_initials_are_no_eye_scans(month: str) -> None:
    names = [f"{label}/{folder}/a.png" for label in ("NORMAL", "PNEUMONIA") for folder in ("SEP", month, "CNV")]
    assert set(kinds(**dict.fromkeys([*names, f"{month}/NORMAL/b.png"], PNG)).values()) == {""}
    eyes = ["OCT2017/train/CNV/a.png", "OCT2017/train/NORMAL/b.png", "OCT2017/test/NORMAL/c.png"]
    eyes += ["x/DME/a.png", "x/CNV/a.png", "x/NORMAL/a.png"]
    found = kinds(**dict.fromkeys([*names, *eyes], PNG))
    assert {name for name, kind in found.items() if kind} == set(eyes)


def test_only_first_bytes_are_read_and_only_where_the_name_does_not_tell() -> None:
    heads = []

    def head(name: str, n_bytes: int) -> bytes:
        heads.append((name, n_bytes))
        return FILM[:n_bytes]

    names = ["a.jpg", "b.png", "c.dcm", "d"]
    listed = contents.classify(Files("here", names, pytest.fail, pytest.fail, head))
    assert listed.images == names
    assert sorted(heads) == [("c.dcm", 4096), ("d", 4096)]


def test_a_link_to_an_image_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.dcm"):
        (tmp_path / name).symlink_to("gone")
    listed = contents.classify(in_folder(str(tmp_path)))
    assert (listed.images, listed.left_out) == ([], {contents.BROKEN: ["a.png", "b.dcm"]})


def test_a_link_to_nothing_that_may_be_a_folder_is_an_error_because_many_files_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to("gone")
    with pytest.raises(UserError, match=r": val is a link to nothing, or was removed; restore it, or remove the link$"):
        contents.classify(in_folder(str(tmp_path)))


def test_shared_folders_are_those_above_all_files() -> None:
    assert contents.shared_folders(["a/b/c.png", "a/b/d/e.png"]) == ["a", "b"]
    assert contents.shared_folders(["a/b.png", "c.png"]) == []
    assert contents.shared_folders(["a/bc/d.png", "a/b/d.png"]) == ["a"]
    assert contents.shared_folders([]) == []
