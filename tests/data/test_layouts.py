"""Each layout says who is the patient, what the label is, and which split the source itself has."""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import pytest

from pneumonia import UserError
from pneumonia.data import sources
from pneumonia.files import Files
from tests.conftest import KERMANY, NORMALS, PNEUMONIAS


def place(contents: dict[str, bytes | str] | Iterable[str]) -> Files:
    """The files of a place that exists in the memory alone: names, or names with contents."""
    given = contents if isinstance(contents, dict) else dict.fromkeys(contents, b"")

    def read(name: str) -> bytes:
        content = given[name]
        return content if isinstance(content, bytes) else content.encode()

    return Files("here", sorted(given), read, lambda name: f"memory://{name}")


def rows_of(listing: sources.Listing) -> sources.Rows:
    """What a source without boxes lists."""
    rows, boxes = listing
    assert boxes == []
    return rows


def by_image(rows: sources.Rows, *columns: str) -> dict[str, Any]:
    """Columns of a row, or its one column, by `image_id`."""
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row[columns[0]] if len(columns) == 1 else tuple(map(row.get, columns)) for row in rows}


def table(*rows: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


# --- chest_xray ---


def chest_xray(names: Iterable[str]) -> sources.Rows:
    return rows_of(sources.read_chest_xray(place(names)))


def junk(names: Iterable[str]) -> list[str]:
    """What a Mac leaves behind, beside each of these files."""
    split = [name.rsplit("/", 1) for name in names]
    return [f"__MACOSX/chest_xray/{folder}/._{file}" for folder, file in split]


def as_on_kaggle(names: Iterable[str]) -> list[str]:
    """The tree twice, and junk."""
    names = list(names)
    return [
        *(f"chest_xray/chest_xray/{name}" for name in names),
        *(f"chest_xray/{name}" for name in names),
        *(f"chest_xray/{name}" for name in junk(names)),
        "chest_xray/chest_xray/train/.DS_Store",
        "chest_xray/train/NORMAL/._IM-0115-0001.jpeg",
        "chest_xray/train/NORMAL/.DS_Store",
        "chest_xray/__MACOSX/train/NORMAL/IM-9999-0001.jpeg",
    ]


@pytest.mark.parametrize("prefix", ["", "chest_xray/", "some/where/deep/"])
def test_chest_xray_is_found_in_any_folder(prefix: str) -> None:
    rows = chest_xray(prefix + name for name in KERMANY)
    assert by_image(rows, "member") == {name.removesuffix(".jpeg"): prefix + name for name in KERMANY}


def test_the_doubled_tree_of_kaggle_is_read_once_from_its_outer_copy() -> None:
    rows = chest_xray(as_on_kaggle(KERMANY))
    assert by_image(rows, "member") == {name.removesuffix(".jpeg"): f"chest_xray/{name}" for name in KERMANY}


def test_the_archive_of_mendeley_without_val_is_read_whole() -> None:
    names = [*NORMALS, *PNEUMONIAS]
    rows = chest_xray([*(f"chest_xray/{name}" for name in names), *junk(names), "chest_xray/.DS_Store"])
    assert sorted(by_image(rows, "label")) == sorted(name.removesuffix(".jpeg") for name in names)


def test_rows_of_chest_xray_say_what_the_names_say() -> None:
    assert by_image(chest_xray(KERMANY), "label", "patient_id", "subtype", "source_split") == {
        "train/NORMAL/IM-0115-0001": (0, "IM-0115", "normal", "train"),
        "train/NORMAL/IM-0666-0001-0002": (0, "IM-0666", "normal", "train"),
        "train/NORMAL/NORMAL2-IM-0115-0001": (0, "NORMAL2-IM-0115", "normal", "train"),
        "test/NORMAL/NORMAL2-IM-0666-0001": (0, "NORMAL2-IM-0666", "normal", "test"),
        "train/PNEUMONIA/person1_bacteria_1": (1, "bacteria-1", "bacteria", "train"),
        "train/PNEUMONIA/person1_bacteria_2": (1, "bacteria-1", "bacteria", "train"),
        "train/PNEUMONIA/person23_virus_60": (1, "virus-23", "virus", "train"),
        "test/PNEUMONIA/person1_virus_6": (1, "virus-1", "virus", "test"),
        "val/NORMAL/NORMAL2-IM-1427-0001": (0, "NORMAL2-IM-1427", "normal", "train"),
        "val/PNEUMONIA/person1946_bacteria_4874": (1, "bacteria-1946", "bacteria", "train"),
    }


def test_a_patient_of_chest_xray_is_subtype_and_number() -> None:
    patients = by_image(chest_xray(PNEUMONIAS), "patient_id")
    assert patients["train/PNEUMONIA/person1_bacteria_1"] == patients["train/PNEUMONIA/person1_bacteria_2"]
    assert patients["train/PNEUMONIA/person1_bacteria_1"] != patients["test/PNEUMONIA/person1_virus_6"]


def test_a_normal_patient_of_chest_xray_is_prefix_and_number() -> None:
    patients = by_image(chest_xray(NORMALS), "patient_id")
    assert patients["train/NORMAL/IM-0115-0001"] != patients["train/NORMAL/NORMAL2-IM-0115-0001"]
    assert patients["train/NORMAL/IM-0666-0001-0002"] != patients["test/NORMAL/NORMAL2-IM-0666-0001"]
    more = by_image(chest_xray(["train/NORMAL/IM-0115-0001.jpeg", "train/NORMAL/IM-0115-0001-0002.jpeg"]), "patient_id")
    assert set(more.values()) == {"IM-0115"}


def test_val_of_chest_xray_counts_as_train() -> None:
    splits = by_image(chest_xray(KERMANY), "source_split")
    assert {split for name, split in splits.items() if name.startswith("val/")} == {"train"}
    assert {split for name, split in splits.items() if name.startswith("test/")} == {"test"}


def test_a_name_of_no_known_form_in_chest_xray_is_a_patient_of_its_own() -> None:
    rows = chest_xray(["train/NORMAL/a.jpeg", "train/PNEUMONIA/a.JPG", "train/PNEUMONIA/b.jpeg", "test/normal/a.jpg"])
    facts = by_image(rows, "patient_id", "subtype", "source_split")
    assert facts == {
        "train/NORMAL/a": ("NORMAL-a", "normal", "train"),
        "train/PNEUMONIA/a": ("PNEUMONIA-a", "pneumonia", "train"),
        "train/PNEUMONIA/b": ("PNEUMONIA-b", "pneumonia", "train"),
        "test/NORMAL/a": ("NORMAL-a", "normal", "test"),
    }


@pytest.mark.parametrize(
    "name", ["NORMAL/a.jpeg", "train/a.jpeg", "train/OTHER/a.jpeg", "train/NORMAL/x/a.jpeg", "train/NORMAL/a.png"]
)
def test_what_is_not_in_the_layout_of_chest_xray_is_no_row(name: str) -> None:
    assert chest_xray([name]) == []


# --- pneumoniamnist and the phantom ---

ARRAYS = table(
    ("image_id", "member", "label", "patient_id", "subtype", "source_split"),
    ("train/00000", "images/train/00000.png", 1, "", "pneumonia", "train"),
    ("val/00000", "images/val/00000.png", 0, "", "normal", "val"),
    ("test/00000", "images/test/00000.png", 0, "", "normal", "test"),
)


def test_official_splits_of_pneumoniamnist_stay_as_they_are() -> None:
    rows, boxes = sources.read_pneumoniamnist(place({"pneumoniamnist.csv": ARRAYS}))
    assert by_image(rows, "source_split") == {"train/00000": "train", "val/00000": "val", "test/00000": "test"}
    assert boxes == []


def test_a_patient_of_pneumoniamnist_is_not_known() -> None:
    rows, _ = sources.read_pneumoniamnist(place({"pneumoniamnist.csv": ARRAYS}))
    assert set(by_image(rows, "patient_id").values()) == {""}  # `fetch` makes each image a patient


def test_a_patient_of_the_phantom_is_the_one_that_was_drawn() -> None:
    images = table(("image_id", "member", "patient_id"), ("P0-1", "a.jpeg", "P0"), ("P0-2", "b.jpeg", "P0"))
    found = table(("image_id", "x"), ("P0-1", 5))
    rows, boxes = sources.read_phantom(place({"radiographs.csv": images, "boxes.csv": found}))
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


def rsna(**more: bytes | str | None) -> sources.Listing:
    contents = {**IMAGES, "stage_2_train_labels.csv": LABELS, **more}
    return sources.read_rsna(place({name: content for name, content in contents.items() if content is not None}))


def test_an_image_of_rsna_is_one_row_and_every_box_is_kept() -> None:
    rows, boxes = rsna()
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
    rows, _ = rsna(**{"pneumonia-challenge-dataset-mappings_2018.json": json.dumps(MAPPING)})
    assert by_image(rows, "patient_id") == {"aa": "00000001", "bb": "00000001", "cc": "00030805"}


def test_a_patient_of_rsna_is_its_image_without_the_mapping_or_a_row_in_it() -> None:
    assert by_image(rsna()[0], "patient_id") == {"aa": "aa", "bb": "bb", "cc": "cc"}
    rows, _ = rsna(**{"pneumonia-challenge-dataset-mappings_2018.json": json.dumps(MAPPING[:1])})
    assert by_image(rows, "patient_id") == {"aa": "00000001", "bb": "bb", "cc": "cc"}


def test_the_detailed_class_of_rsna_is_the_subtype() -> None:
    rows, _ = rsna(**{"stage_2_detailed_class_info.csv": DETAILED})
    expected = {"aa": "normal", "bb": "lung opacity", "cc": "no lung opacity / not normal"}
    assert by_image(rows, "subtype") == expected


def test_rsna_is_found_below_any_folder_and_other_images_are_no_rows() -> None:
    names = {"stage_2_train_labels.csv": LABELS, **IMAGES, "stage_2_test_images/zz.dcm": b""}
    junk = {"__MACOSX/stage_2_train_labels.csv": b"\xff", "__MACOSX/._aa.dcm": b""}
    rows, _ = sources.read_rsna(place({**{f"deep/er/{name}": names[name] for name in names}, **junk}))
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
    "encoding": ({"stage_2_train_labels.csv": b"\xff\xfe"}, r"here: stage_2_train_labels\.csv is no CSV file in .*"),
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


# --- a folder of one's own ---


def folder(*names: str) -> sources.Rows:
    return rows_of(sources.read_folder(place(names)))


def test_a_folder_tree_names_class_patient_and_split() -> None:
    names = {
        "NORMAL/a.png": (0, "", "normal", ""),
        "NORMAL/p1/a.png": (0, "p1", "normal", ""),
        "PNEUMONIA/p2/a.jpeg": (1, "p2", "pneumonia", ""),
        "PNEUMONIA/p2/visit 2/b.jpg": (1, "p2", "pneumonia", ""),
        "train/0/a.dcm": (0, "", "normal", "train"),
        "val/1/p3/a.dicom": (1, "p3", "pneumonia", "val"),
        "deep/test/NORMAL/1/a.png": (0, "1", "normal", "test"),
        "Train/Pneumonia/A.PNG": (1, "", "pneumonia", "train"),
    }
    rows = folder(*names)
    assert by_image(rows, "label", "patient_id", "subtype", "source_split") == names
    assert by_image(rows, "member") == {name: name for name in names}


def test_a_patient_of_a_folder_tree_is_the_folder_between_class_and_image() -> None:
    patients = by_image(folder("NORMAL/p1/a.png", "NORMAL/p1/x/b.png", "PNEUMONIA/p1/a.png"), "patient_id")
    assert set(patients.values()) == {"p1"}


def test_junk_and_unknown_folders_of_a_tree_are_no_rows() -> None:
    assert folder(
        *("a.png", "train/a.png", "OTHER/a.png", "NORMALS/a.png", "NORMAL.png", "normal"),
        *("NORMAL/.DS_Store", "NORMAL/Thumbs.db", "NORMAL/a.txt", "NORMAL/a.png.part", "NORMAL/a.gif"),
        *("NORMAL/._a.png", "__MACOSX/NORMAL/a.png", "__MACOSX/NORMAL/._a.png"),
    ) == []  # fmt: skip


def patients(*names: str) -> dict[str, tuple[int, str]]:
    return {str(row["image_id"]): (int(row["label"]), str(row["patient_id"])) for row in folder(*names)}


def test_a_number_is_no_class_where_a_word_names_one() -> None:
    """Patients are numbered too: `0/PNEUMONIA` is patient 0."""
    assert patients("0/PNEUMONIA/a.png", "1/NORMAL/b.png", "7/NORMAL/c.png") == {
        "0/PNEUMONIA/a.png": (1, "0"),
        "1/NORMAL/b.png": (0, "1"),
        "7/NORMAL/c.png": (0, "7"),
    }
    assert patients("PNEUMONIA/0/a.png", "NORMAL/0/b.png") == {
        "PNEUMONIA/0/a.png": (1, "0"),
        "NORMAL/0/b.png": (0, "0"),
    }


def test_folders_above_the_class_are_the_patient_only_where_there_are_several() -> None:
    assert patients("set/NORMAL/a.png", "set/PNEUMONIA/b.png") == {
        "set/NORMAL/a.png": (0, ""),
        "set/PNEUMONIA/b.png": (1, ""),
    }
    assert patients("ann/first/NORMAL/a.png", "ann/next/NORMAL/b.png")["ann/next/NORMAL/b.png"] == (0, "ann/next")
    assert patients("x/NORMAL/p1/a.png", "y/NORMAL/p1/b.png")["y/NORMAL/p1/b.png"] == (0, "p1")


def test_a_split_may_stand_below_the_class_too() -> None:
    rows = {row["image_id"]: row for row in folder("NORMAL/test/a.png", "NORMAL/train/p1/b.png")}
    assert (rows["NORMAL/test/a.png"]["source_split"], rows["NORMAL/test/a.png"]["patient_id"]) == ("test", "")
    assert rows["NORMAL/train/p1/b.png"]["patient_id"] == "p1"


@pytest.mark.parametrize("name", ["NORMAL/PNEUMONIA/a.png", "normal/x/pneumonia/a.png", "0/1/a.png"])
def test_a_path_that_names_two_classes_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: two folders of this path name a class; keep one"):
        folder(name)


# --- a table of one's own ---

FILES = ("a.png", "b.png", "deep/c.dcm")


def read(text: str | bytes, names: Iterable[str] = FILES) -> sources.Rows:
    return rows_of(sources.read_table("mine.csv", place({**dict.fromkeys(names, b""), "mine.csv": text})))


def test_a_table_names_class_and_patient() -> None:
    rows = read("path,label,patient_id\na.png,0,p1\nb.png, Pneumonia ,p1\ndeep/c.dcm,NORMAL,\n")
    assert by_image(rows, "member", "label", "patient_id", "subtype", "source_split") == {
        "a.png": ("a.png", 0, "p1", "normal", ""),
        "b.png": ("b.png", 1, "p1", "pneumonia", ""),
        "deep/c.dcm": ("deep/c.dcm", 0, "", "normal", ""),
    }


def test_a_patient_of_a_table_is_its_column() -> None:
    assert by_image(read("patient_id,label,path\n 007 ,1,a.png\n"), "patient_id") == {"a.png": "007"}


def test_optional_columns_of_a_table_are_kept_and_others_are_not() -> None:
    head = "path,label,patient_id,split,subtype,sex,age,view,hospital\n"
    rows = read(f"{head}a.png,1,p,Test,bacteria,F,43,PA,north\nb.png,0,q,train, ,,,,\n")
    assert rows[0] == {
        "image_id": "a.png",
        "member": "a.png",
        "label": 1,
        "patient_id": "p",
        "subtype": "bacteria",
        "source_split": "test",
        "sex": "F",
        "age": "43",
        "view": "PA",
    }
    assert rows[1]["subtype"] == "normal"
    assert not {"sex", "age", "view"} & set(rows[1])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_table_as_excel_writes_it_is_read(mark: bytes, ending: str) -> None:
    text = mark + ending.join(["path,label,patient_id", 'ä b.png,1,"p, 1"', ""]).encode()
    assert by_image(read(text, ["ä b.png"]), "patient_id") == {"ä b.png": "p, 1"}


def test_a_table_may_be_written_by_hand() -> None:
    rows = read("Path, Label ,PATIENT_ID\n./a.png,0,p1\ndeep/../b.png,1,p2\n")
    assert [(row["member"], row["label"], row["patient_id"]) for row in rows] == [
        ("a.png", 0, "p1"),
        ("b.png", 1, "p2"),
    ]


def test_a_line_with_too_many_cells_is_refused() -> None:
    with pytest.raises(UserError, match=r"mine\.csv, line 2: more cells than columns; put quotes around"):
        read("path,label,patient_id\na.png,0,p1,more\n")


def test_a_field_that_a_line_lacks_is_empty() -> None:
    assert by_image(read("path,label,patient_id,split\na.png,1\n"), "patient_id", "source_split") == {"a.png": ("", "")}


TABLE = "path,label,patient_id,split\n"
WRONG_TABLE = {
    "column": (
        "path,label\na.png,0\n",
        r"mine\.csv lacks the column patient_id, it has path, label; it needs path, .*",
    ),
    "semicolons": (
        "path;label;patient_id\na.png;0;p\n",
        r"mine\.csv lacks the column path, it has path;label;patient_id; it needs .*, separated by commas",
    ),
    "no rows": (TABLE, r"mine\.csv has no rows; it needs path, label, patient_id and may have split, .*, view, .*"),
    "empty": ("", r"mine\.csv lacks the column path, it has none; .*"),
    "label": (f"{TABLE}a.png,0,p,\nb.png,sick,q\n", r"mine\.csv, line 3: label 'sick'; known: normal, 0, pneumonia, 1"),
    "no label": (f"{TABLE}a.png,,p,\n", r"mine\.csv, line 2: label ''; known: .*"),
    "split": (
        f"{TABLE}a.png,0,p,training\n",
        r"mine\.csv, line 2: split 'training'; known: train, val, test, or empty",
    ),
    "file": (f"{TABLE}z.png,0,p,\n", r"mine\.csv, line 2: z\.png: no such file below here; correct the path"),
    "outside": (f"{TABLE}../a.png,0,p,\n", r"mine\.csv, line 2: \.\./a\.png: no such file below here; .*"),
    "twice": (
        f"{TABLE}a.png,0,p,\na.png,0,p,\n",
        r"mine\.csv, line 3: a\.png occurs twice; keep one row for each image",
    ),
    "two splits": (
        f"{TABLE}a.png,0,p,train\nb.png,0,p,test\n",
        r"mine\.csv, line 3: patient p is in split test, in line 2 in train; a patient belongs to one split",
    ),
    "half a split": (
        f"{TABLE}a.png,0,p,train\nb.png,0,p,\n",
        r"mine\.csv, line 3: patient p is in split none, in line 2 in train; a patient belongs to one split",
    ),
    "after empty lines": (f"{TABLE}\n\na.png,0,p,\n\nb.png,sick,q,\n", r"mine\.csv, line 6: label 'sick'; known: .*"),
    "latin": (f"{TABLE}ä.png,0,p,\n".encode("latin-1"), r"here: mine\.csv is no CSV file in UTF-8 \('utf-8' .*\)"),
    "utf-16": (TABLE.encode("utf-16"), r"here: mine\.csv is no CSV file in UTF-8 .*"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(200), r"here: mine\.csv is no CSV file in UTF-8 .*"),
    "long field": (f"{TABLE}{'a' * 200_000},0,p,\n", r"here: mine\.csv is no CSV file in UTF-8 \(field larger .*\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_TABLE)
def test_what_is_wrong_with_a_table_is_one_line(kind: str) -> None:
    text, expected = WRONG_TABLE[kind]
    with pytest.raises(UserError, match=f"^{expected}$"):
        read(text)


def test_images_without_a_patient_may_be_in_any_split() -> None:
    splits = by_image(read(f"{TABLE}a.png,0,,train\nb.png,0,,test\ndeep/c.dcm,1,,\n"), "source_split")
    assert splits == {"a.png": "train", "b.png": "test", "deep/c.dcm": ""}


READERS = (
    sources.read_phantom,
    sources.read_chest_xray,
    sources.read_pneumoniamnist,
    sources.read_rsna,
    sources.read_folder,
)


@pytest.mark.parametrize("reader", READERS)
def test_a_place_in_another_layout_has_no_rows(reader: sources.Reader) -> None:
    assert reader(place(())) == ([], [])
    assert reader(place(("a.png", "deep/b.jpeg", "c.csv", "train/d.dcm"))) == ([], [])
