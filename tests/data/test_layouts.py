"""Each layout says who is the patient, what the label is, and which split the source itself has."""

import json

import pytest

from pneumonia import UserError
from pneumonia.data import contents, layouts, sources
from tests.data.conftest import by_image, place, table

# --- pneumoniamnist and the phantom ---

ARRAYS = table(
    ("image_id", "member", "label", "patient_id", "subtype", "source_split"),
    ("train/00000", "images/train/00000.png", 1, "", "pneumonia", "train"),
    ("val/00000", "images/val/00000.png", 0, "", "normal", "val"),
    ("test/00000", "images/test/00000.png", 0, "", "normal", "test"),
)


def test_official_splits_of_pneumoniamnist_stay_as_they_are() -> None:
    rows, boxes, *_ = layouts.read_pneumoniamnist(place({"pneumoniamnist.csv": ARRAYS}))
    assert by_image(rows, "source_split") == {"train/00000": "train", "val/00000": "val", "test/00000": "test"}
    assert boxes == []


def test_a_patient_of_pneumoniamnist_is_not_known() -> None:
    rows, *_ = layouts.read_pneumoniamnist(place({"pneumoniamnist.csv": ARRAYS}))
    assert set(by_image(rows, "patient_id").values()) == {""}  # `fetch` makes each image a patient


def test_a_patient_of_the_phantom_is_the_one_that_was_drawn() -> None:
    images = table(("image_id", "member", "patient_id"), ("P0-1", "a.jpeg", "P0"), ("P0-2", "b.jpeg", "P0"))
    found = table(("image_id", "x"), ("P0-1", 5))
    rows, boxes, *_ = layouts.read_phantom(place({"radiographs.csv": images, "boxes.csv": found}))
    assert by_image(rows, "patient_id") == {"P0-1": "P0", "P0-2": "P0"}
    assert boxes == [{"image_id": "P0-1", "x": "5"}]


# --- rsna ---

LABELS = table(
    ("patientId", "x", "y", "width", "height", "Target"),
    ("aa", "", "", "", "", 0),
    ("bb", "264.0", "152.5", "213", "379", 1),
    ("bb", "562.0", "152.0", "256.0", "453.0", 1),
    ("cc", "", "", "", "", 0),
)
DETAILED = table(
    ("patientId", "class"),
    ("aa", "Normal"),
    ("bb", "Lung Opacity"),
    ("bb", "Lung Opacity"),
    ("cc", "No Lung Opacity / Not Normal"),
)
MAPPING = [
    {"subset_img_id": "aa", "img_id": "00000001_000.png", "orig_labels": []},
    {"subset_img_id": "bb", "img_id": "00000001_017.png", "orig_labels": ["Infiltration"]},
    {"subset_img_id": "cc", "img_id": "00030805_000.png", "orig_labels": []},
]
IMAGES = {f"stage_2_train_images/{name}.dcm": b"" for name in ("aa", "bb", "cc")}


def rsna(**more: bytes | str | None) -> contents.Listing:
    contents = {**IMAGES, "stage_2_train_labels.csv": LABELS, **more}
    return layouts.read_rsna(place({name: content for name, content in contents.items() if content is not None}))


def test_an_image_of_rsna_is_one_row_and_every_box_is_kept() -> None:
    rows, boxes, *_ = rsna()
    assert by_image(rows, "label", "subtype", "source_split", "member") == {
        "aa": (0, "normal", "", "stage_2_train_images/aa.dcm"),
        "bb": (1, "pneumonia", "", "stage_2_train_images/bb.dcm"),
        "cc": (0, "normal", "", "stage_2_train_images/cc.dcm"),
    }
    assert boxes == [
        {"image_id": "bb", "x": 264.0, "y": 152.5, "width": 213.0, "height": 379.0},
        {"image_id": "bb", "x": 562.0, "y": 152.0, "width": 256.0, "height": 453.0},
    ]


def test_a_patient_of_rsna_is_that_of_chestxray14_where_the_mapping_lies_beside() -> None:
    rows, *_ = rsna(**{"pneumonia-challenge-dataset-mappings_2018.json": json.dumps(MAPPING)})
    assert by_image(rows, "patient_id") == {"aa": "00000001", "bb": "00000001", "cc": "00030805"}


def test_a_patient_of_rsna_is_its_image_without_the_mapping_or_a_row_in_it() -> None:
    assert by_image(rsna()[0], "patient_id") == {"aa": "aa", "bb": "bb", "cc": "cc"}
    rows, *_ = rsna(**{"pneumonia-challenge-dataset-mappings_2018.json": json.dumps(MAPPING[:1])})
    assert by_image(rows, "patient_id") == {"aa": "00000001", "bb": "bb", "cc": "cc"}


def test_the_detailed_class_of_rsna_is_the_subtype() -> None:
    rows, *_ = rsna(**{"stage_2_detailed_class_info.csv": DETAILED})
    expected = {"aa": "normal", "bb": "lung opacity", "cc": "no lung opacity / not normal"}
    assert by_image(rows, "subtype") == expected


def test_rsna_is_found_below_any_folder_and_other_images_are_no_rows() -> None:
    names = {"stage_2_train_labels.csv": LABELS, **IMAGES, "stage_2_test_images/zz.dcm": b""}
    junk = {"__MACOSX/stage_2_train_labels.csv": b"\xff", "__MACOSX/._aa.dcm": b""}
    rows, _, companions, *_ = layouts.read_rsna(place({**{f"deep/er/{name}": names[name] for name in names}, **junk}))
    assert companions == {"files that the table of labels does not name": ["deep/er/stage_2_test_images/zz.dcm"]}
    assert by_image(rows, "member")["aa"] == "deep/er/stage_2_train_images/aa.dcm"
    assert len(rows) == 3


HEAD = "patientId,x,y,width,height,Target\n"
WRONG_RSNA = {
    "image": (
        {"stage_2_train_images/bb.dcm": None, "stage_2_train_images/cc.dcm": None},
        r"here: 2 of the 3 images in stage_2_train_labels\.csv are missing \(the first: bb\.dcm\); add them.*",
    ),
    "column": (
        {"stage_2_train_labels.csv": LABELS.replace("Target", "label")},
        r"stage_2_train_labels\.csv lacks the column Target, it has .*; it needs patientId, .*, Target, separated .*",
    ),
    "no rows": ({"stage_2_train_labels.csv": HEAD}, r"stage_2_train_labels\.csv has no rows; it needs .*"),
    "box": (
        {"stage_2_train_labels.csv": LABELS.replace("213", "wide")},
        r"stage_2_train_labels\.csv, line 3: could not convert string to float: 'wide'; download it again",
    ),
    "endless box": (
        {"stage_2_train_labels.csv": LABELS.replace("213", "nan")},
        r"stage_2_train_labels\.csv, line 3: a box of \[264\.0, 152\.5, nan, 379\.0\]; download it again",
    ),
    "box of no size": (
        {"stage_2_train_labels.csv": LABELS.replace("213", "0")},
        r"stage_2_train_labels\.csv, line 3: a box of \[264\.0, 152\.5, 0\.0, 379\.0\]; download it again",
    ),
    "box of none": (
        {"stage_2_train_labels.csv": f"{HEAD}aa,,,,,1\n"},
        r"stage_2_train_labels\.csv, line 2: could not convert string to float: ''; download it again",
    ),
    "no number": ({"stage_2_train_labels.csv": f"{HEAD}aa,,,,,yes\n"}, r".*line 2: invalid literal .*'yes'; .*"),
    "third class": (
        {"stage_2_train_labels.csv": f"{HEAD}aa,,,,,0\nbb,,,,,2\n"},
        r"stage_2_train_labels\.csv, line 3: Target 2; known: 0, 1; download it again",
    ),
    "detailed": (
        {"stage_2_detailed_class_info.csv": "patientId,kind\naa,Normal\n"},
        r"stage_2_detailed_class_info\.csv lacks the column class, it has .*; it needs patientId, class, .*",
    ),
    "encoding": ({"stage_2_train_labels.csv": b"\x81\xff"}, r"here: stage_2_train_labels\.csv is no table .*"),
    "mapping": (
        {"pneumonia-challenge-dataset-mappings_2018.json": "<html>"},
        r"pneumonia-challenge-dataset-mappings_2018\.json is not the published mapping \(JSONDecodeError.*",
    ),
    "other mapping": (
        {"pneumonia-challenge-dataset-mappings_2018.json": '[{"subset_img_id": "aa"}]'},
        r".*_2018\.json is not the published mapping \(KeyError: 'img_id'\); download it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_RSNA)
def test_what_is_wrong_with_rsna_is_one_line(kind: str) -> None:
    changed, expected = WRONG_RSNA[kind]
    with pytest.raises(UserError, match=f"^{expected}$"):
        rsna(**changed)


@pytest.mark.parametrize("name", layouts.READERS)
def test_a_place_in_another_layout_has_no_rows(name: str) -> None:
    for names in ((), ("a.png", "deep/b.jpeg", "c.csv", "train/d.dcm")):
        listing = layouts.READERS[name](place(names))
        assert (listing.rows, listing.boxes) == ([], [])


def test_every_source_has_a_reader() -> None:
    assert list(layouts.READERS) == list(sources.DATASETS)
