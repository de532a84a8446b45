"""A user's own images say who is the patient, what the label is, and which split they have."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from pneumonia import UserError
from pneumonia.data import columns, contents, own
from pneumonia.files import in_folder
from tests.data.conftest import by_image, place, rows_of


def folder(*names: str) -> contents.Rows:
    return rows_of(own.read_folder(place(names)))


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
    with pytest.raises(
        UserError, match=rf"^{name}: folders \S+ and \S+ both name a class; rename one, set fetch\.url to a"
    ):
        folder(name)


def facts(*names: str) -> dict[str, str]:
    return {row["image_id"]: f"{row['subtype']} {row['source_split']} {row['patient_id']}" for row in folder(*names)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"{split}/NORMAL/a.png", "normal val ") for split in ("valid", "Validation", "dev", "EVAL", "val")),
        *((f"NORMAL/{split}/a.png", "normal test ") for split in ("test", "Testing")),
        ("Training/PNEUMONIA/p1/a.png", "pneumonia train p1"),
        *((f"NORMAL/{name}/a.png", "normal  ") for name in ("images", "IMG", "jpg", "dicom", "X-rays", "images_001")),
        *((f"{name}/NORMAL/a.png", "normal  ") for name in ("images", "data", "films", "chest_xray")),
        ("NORMAL/images/p1/a.png", "normal  p1"),
        ("PNEUMONIA/bacteria/a.png", "bacteria  "),
        ("PNEUMONIA/Viral Pneumonia/p1/a.png", "virus  p1"),
        ("train/PNEUMONIA/virus/images/a.png", "virus train "),
        ("NORMAL/NORMAL/p1/a.png", "normal  p1"),
    ],
)
def test_folders_with_the_name_of_a_split_a_format_or_a_subtype_are_no_patients(name: str, expected: str) -> None:
    assert facts(name, "images/PNEUMONIA/z.png")[name] == expected


def test_a_folder_above_all_images_is_no_split_where_another_one_names_it() -> None:
    assert facts("test/train/NORMAL/a.png", "test/val/NORMAL/b.png") == {
        "test/train/NORMAL/a.png": "normal train ",
        "test/val/NORMAL/b.png": "normal val ",
    }
    with pytest.raises(
        UserError, match=r"^dev/train/NORMAL/a\.png: folders dev and train both name a split; rename one, set"
    ):
        folder("dev/train/NORMAL/a.png", "test/NORMAL/b.png")


@pytest.mark.parametrize("name", ["unknown", "ANONYMOUS", "nan"])
def test_a_folder_for_unknown_patients_is_no_patient(name: str) -> None:
    listing = own.read_folder(place([f"NORMAL/{name}/a.png", "NORMAL/p1/b.png"]))
    assert by_image(listing.rows, "patient_id") == {f"NORMAL/{name}/a.png": "", "NORMAL/p1/b.png": "p1"}
    assert listing.notes == (f"folder {name} names no patient; images in it: 1",)


def test_a_folder_of_all_images_of_a_class_is_no_patient() -> None:
    names = [f"{name}/first export/{number}.png" for name in ("NORMAL", "PNEUMONIA") for number in range(10)]
    listing = own.read_folder(place(names))
    assert {row["patient_id"] for row in listing.rows} == {""}
    assert listing.notes == ("folder first export names no patient; images in it: 20",)


def test_a_patient_with_very_many_images_is_named() -> None:
    names = [f"NORMAL/north/{number}.png" for number in range(60)] + [f"NORMAL/p{number}/a.png" for number in range(40)]
    listing = own.read_folder(place(names))
    assert sum(row["patient_id"] == "north" for row in listing.rows) == 60
    assert listing.notes == (
        "north counts as one patient and has 60 of 100 images, such as NORMAL/north/0.png; if it is none, name the "
        "patients in a table",
    )


def test_names_as_in_the_kermany_set_give_the_patients_where_no_folder_does() -> None:
    listing = own.read_folder(place(["NORMAL/IM-0001-0001.png", "PNEUMONIA/person7_virus_12.png"]))
    assert by_image(listing.rows, "patient_id", "subtype") == {
        "NORMAL/IM-0001-0001.png": ("IM-0001", "normal"),
        "PNEUMONIA/person7_virus_12.png": ("virus-7", "virus"),
    }
    assert "names as in data = chest_xray" in listing.notes[0]
    # Programs for DICOM export IM-0001-0001 for every patient.
    assert patients("NORMAL/IM-0001-0001.png", "PNEUMONIA/IM-0001-0001.png") == {
        "NORMAL/IM-0001-0001.png": (0, ""),
        "PNEUMONIA/IM-0001-0001.png": (1, ""),
    }


def test_images_without_a_class_are_left_out_and_masks_are_companions() -> None:
    listing = own.read_folder(place(["NORMAL/a.png", "COVID/b.png", "masks/NORMAL/a.png", "NORMAL/a_mask.png"]))
    assert [row["member"] for row in listing.rows] == ["NORMAL/a.png"]
    assert listing.left_out == {"images in no class folder, but in COVID": ["COVID/b.png"]}
    assert listing.companions == {contents.MASKS: ["NORMAL/a_mask.png", "masks/NORMAL/a.png"]}


def test_folders_that_may_be_classes_are_named_with_the_images_in_no_class_folder() -> None:
    names = ["train/Gesund/p1/a.png", "train/c.png", "train/images/Viral/b.png", "train/NORMAL/d.png"]
    listing = own.read_folder(place(names))
    assert listing.left_out == {"images in no class folder, but in Gesund, Viral": names[:3]}
    many = own.read_folder(place([f"{n}x/a.png" for n in range(6)]))
    assert list(many.left_out) == ["images in no class folder, but in 0x, 1x, 2x, 3x, 4x, …"]
    assert list(own.read_folder(place(["a.png"])).left_out) == ["images in no class folder"]


def test_an_image_that_a_link_gives_a_second_name_is_read_once_under_the_name_with_a_class() -> None:
    files = place(["NORMAL/a.png", "store/healthy/a.png", "PNEUMONIA/b.png", "all/PNEUMONIA/b.png"])
    files = files._replace(aliases={"NORMAL/a.png": "store/healthy/a.png", "all/PNEUMONIA/b.png": "PNEUMONIA/b.png"})
    listing = own.read_folder(files)
    assert [row["member"] for row in listing.rows] == ["NORMAL/a.png", "PNEUMONIA/b.png"]
    assert listing.companions == {contents.LINKED: ["all/PNEUMONIA/b.png", "store/healthy/a.png"]}
    assert not listing.left_out


def with_links(links: dict[str, str]) -> contents.Listing:
    """A place with these links: name -> real name."""
    return own.read_folder(place({*links, *links.values()})._replace(aliases=links))


def test_a_split_made_of_links_into_a_folder_of_all_images_is_read() -> None:
    links = {"test/NORMAL/1.png": "all/NORMAL/p1/1.png", "train/PNEUMONIA/2.png": "all/PNEUMONIA/virus/2.png"}
    listing = with_links(links)
    assert by_image(listing.rows, "label", "source_split", "patient_id", "subtype") == {
        "test/NORMAL/1.png": (0, "test", "p1", "normal"),
        "train/PNEUMONIA/2.png": (1, "train", "", "virus"),
    }
    assert listing.companions == {contents.LINKED: sorted(links.values())}


@pytest.mark.parametrize(
    ("links", "kind"),
    [
        ({"corrected/PNEUMONIA/a.png": "old/NORMAL/a.png"}, "class"),
        ({"train/NORMAL/a.png": "all/NORMAL/a.png", "test/NORMAL/a.png": "all/NORMAL/a.png"}, "split"),
    ],
)
def test_names_of_one_file_with_two_classes_or_two_splits_are_refused(links: dict[str, str], kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"^\S+ and \S+ are one file \(a link\) with two names of a {kind}; remove one$"
    ):
        with_links(links)


def test_the_inner_copy_of_a_doubled_tree_is_a_companion() -> None:
    names = {"x/x/NORMAL/a.png": b"1", "x/NORMAL/a.png": b"1", "x/NORMAL/7/7/b.png": b"2", "x/NORMAL/7/b.png": b"3"}
    listing = own.read_folder(place(names))
    assert listing.companions == {contents.COPIES: ["x/x/NORMAL/a.png"]}
    assert len(listing.rows) == 3


def of_two_classes(*paths: str) -> list[str]:
    return [f"{label}/{path}" for label in ("NORMAL", "PNEUMONIA") for path in paths]


@pytest.mark.parametrize("around", ["patients", "Subjects", "2019", "my export", "export/2019", "study1"])
def test_patients_below_another_folder_are_found(around: str) -> None:
    rows = folder(*of_two_classes(*(f"{around}/p{number}/{n}.png" for number in range(4) for n in range(4))))
    assert {row["patient_id"] for row in rows} == {"p0", "p1", "p2", "p3"}


def test_visits_of_many_patients_are_no_patients() -> None:
    names = of_two_classes(*(f"{visit}/p{n}/a.png" for visit in ("study1", "study2", "baseline") for n in range(4)))
    assert {row["patient_id"] for row in folder(*names)} == {"p0", "p1", "p2", "p3"}
    listing = own.read_folder(place(names))
    assert listing.notes[0] == "folders such as baseline name no patient, but a visit; the patient is the folder below"


@pytest.mark.parametrize("who", ["P{}", "study{}", "201{}"])
def test_the_studies_and_series_of_a_patient_stay_one_patient(who: str) -> None:
    names = of_two_classes(*(f"{who.format(n)}/1.2.{n}{series}/a.png" for n in range(4) for series in range(2)))
    assert {row["patient_id"] for row in folder(*names)} == {who.format(n) for n in range(4)}


def test_visits_above_the_class_do_not_divide_a_patient() -> None:
    rows = folder("p1/visit1/NORMAL/a.png", "p1/visit2/PNEUMONIA/b.png", "p2/visit1/NORMAL/c.png")
    assert [row["patient_id"] for row in rows] == ["p1", "p1", "p2"]


def test_a_folder_with_the_name_of_a_patient_below_both_classes_is_said() -> None:
    notes = own.read_folder(place(of_two_classes("000/a.png", "001/b.png"))).notes
    assert notes == (
        "2 patients have images of both classes, such as 000; if they are different persons, give them different names",
    )
    # Here the user says that it is one patient.
    assert not own.read_folder(place(["000/NORMAL/a.png", "000/PNEUMONIA/b.png", "001/NORMAL/c.png"])).notes


def test_initials_are_patients_although_they_may_be_words() -> None:
    initials = ("NA", "GT", "PA", "AP", "ROI", "DX", "AB")
    listing = own.read_folder(place(of_two_classes(*(f"{one}/{n}.png" for one in initials for n in range(3)))))
    assert {row["patient_id"] for row in listing.rows} == set(initials)
    assert not listing.companions
    assert {row["patient_id"] for row in folder(*of_two_classes("PA/a.png", "AP/b.png", "IMG_0001/c.png"))} == {
        "",
        "IMG_0001",
    }


@pytest.mark.parametrize(("train", "test"), [("Training Set", "Test Set"), ("train_images", "test_images")])
def test_folders_of_splits_are_read_as_cells_are(train: str, test: str) -> None:
    rows = folder(*(f"{split}/{name}" for split in (train, test) for name in of_two_classes("a.png")))
    assert {(row["source_split"], row["patient_id"]) for row in rows} == {("train", ""), ("test", "")}


def test_a_folder_that_looks_like_a_split_and_is_none_is_said() -> None:
    listing = own.read_folder(place(["NORMAL/trainval/a.png", "PNEUMONIA/a.png"]))
    assert listing.notes == (
        "folder trainval looks like a split, but is none of train, val, test; it gives no split; rename it if it is "
        "one",
    )


# --- a table of one's own ---

FILES = ("a.png", "b.png", "deep/c.dcm")


def listed(text: str | bytes, names: Iterable[str] = FILES) -> contents.Listing:
    return own.read_table("mine.csv", place({**dict.fromkeys(names, b""), "mine.csv": text}))


def read(text: str | bytes, names: Iterable[str] = FILES) -> contents.Rows:
    return rows_of(listed(text, names))


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


def test_a_table_may_be_written_by_hand() -> None:
    rows = read("Path, Label ,PATIENT_ID\n./a.png,0,p1\ndeep/../b.png,1,p2\n")
    assert [(row["member"], row["label"], row["patient_id"]) for row in rows] == [
        ("a.png", 0, "p1"),
        ("b.png", 1, "p2"),
    ]


def test_a_field_that_a_line_lacks_is_empty() -> None:
    assert by_image(read("path,label,patient_id,split\na.png,1\n"), "patient_id", "source_split") == {"a.png": ("", "")}


TABLE = "path,label,patient_id,split\n"
WRONG_TABLE = {
    "column": (
        "path,label\na.png,0\n",
        r"mine\.csv lacks the column patient_id, it has path, label; it needs path, .*",
    ),
    "label": (
        f"{TABLE}a.png,0,p,\nb.png,sick,q\n",
        r"mine\.csv, line 3: label 'sick'; known: normal, 0, pneumonia, 1; fetch\.classes adds other names",
    ),
    "no label": (f"{TABLE}a.png,,p,\n", r"mine\.csv, line 2: label ''; known: .*"),
    "split": (
        f"{TABLE}a.png,0,p,fold 3\n",
        r"mine\.csv, line 2: split 'fold 3'; known: train, val, test, or empty",
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
    "shortened patient": (
        f"{TABLE}a.png,0,1.23457E+12,\n",
        r"mine\.csv, line 2: patient 1\.23457E\+12 was shortened by a spreadsheet program, .* export the table again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_TABLE)
def test_what_is_wrong_with_a_table_is_one_line(kind: str) -> None:
    text, expected = WRONG_TABLE[kind]
    with pytest.raises(UserError, match=f"^{expected}$"):
        read(text)


def test_images_without_a_patient_may_be_in_any_split() -> None:
    splits = by_image(read(f"{TABLE}a.png,0,,train\nb.png,0,NaN,test\ndeep/c.dcm,1,None,\n"), "source_split")
    assert splits == {"a.png": "train", "b.png": "test", "deep/c.dcm": ""}


@pytest.mark.parametrize("patient", ["ANONYMOUS", "nan", "None", "0", "N/A", "unknown", "anon"])
def test_a_placeholder_is_no_patient_of_a_table_and_a_note_says_so(patient: str) -> None:
    listing = listed(f"path,label,patient_id\na.png,0,{patient}\nb.png,1,{patient}\ndeep/c.dcm,1,1e5\n")
    assert by_image(listing.rows, "patient_id") == {"a.png": "", "b.png": "", "deep/c.dcm": "1e5"}
    assert f"mine.csv: patient_id {patient!r} names no patient, in 2 rows" in listing.notes


def test_an_identifier_of_most_rows_of_a_table_is_no_patient() -> None:
    names = [f"{number}.png" for number in range(40)]
    text = TABLE + "".join(
        f"{name},{number % 2},{'X17' if number < 30 else f'p{number}'},{'train' if number % 3 else 'test'}\n"
        for number, name in enumerate(names)
    )
    assert {row["patient_id"] for row in read(text, names)} == {"", *(f"p{number}" for number in range(30, 40))}


PLACES = {
    "windows": (r"deep\c.dcm", "deep/c.dcm"),
    "windows absolute": (r"D:\films\deep\c.dcm", "deep/c.dcm"),
    "absolute here": ("/data/xrays/deep/c.dcm", "deep/c.dcm"),
    "absolute elsewhere": ("/home/ann/deep/c.dcm", "deep/c.dcm"),
    "file url": ("file:///home/ann/deep/c.dcm", "deep/c.dcm"),
    "from the folder above": ("xrays/deep/c.dcm", "deep/c.dcm"),
    "by hand": ("./deep/../a.png", "a.png"),
    "other case": ("Deep/C.DCM", "deep/c.dcm"),
    "composed": ("\u00e9.png", "e\u0301.png"),
    "other computer, other folder": ("/home/ann/other/c.dcm", None),
    "other folder": ("other/a.png", None),
    "above": ("../a.png", None),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_file_is_found_by_the_path_that_a_program_writes(kind: str) -> None:
    path, member = PLACES[kind]
    files = place({**dict.fromkeys((*FILES, "e\u0301.png"), b""), "mine.csv": f"path,label,patient_id\n{path},1,p\n"})
    files = files._replace(place="/data/xrays")
    if member:
        assert [row["member"] for row in own.read_table("mine.csv", files).rows] == [member]
    else:
        with pytest.raises(UserError, match=r"line 2: .*: no such file below /data/xrays; correct the path$"):
            own.read_table("mine.csv", files)


def test_a_path_of_a_bucket_is_found() -> None:
    files = place({"a.png": b"", "mine.csv": "path,label,patient_id\ns3://bucket/x/a.png,1,p\n"})
    assert own.read_table("mine.csv", files._replace(place="s3://bucket/x")).rows[0]["member"] == "a.png"


def test_absolute_paths_of_two_other_places_are_not_guessed() -> None:
    text = "path,label,patient_id\nC:/x/a.png,0,p\nD:/y/b.png,1,q\n"
    with pytest.raises(
        UserError,
        match=r"line 3: D:/y/b\.png: no such file below here; correct the path; those of another computer must all "
        r"begin with the same folders, here C:/x$",
    ):
        read(text)


def test_two_files_that_differ_in_case_are_not_confused() -> None:
    text = "path,label,patient_id\na.png,0,p\nA.png,1,q\n"
    assert by_image(read(text, ["a.png", "A.png"]), "label") == {"a.png": 0, "A.png": 1}
    with pytest.raises(UserError, match="no such file"):
        read("path,label,patient_id\nA.PNG,0,p\n", ["a.png", "A.png"])


def test_age_sex_and_view_of_a_table_are_read_or_not_known_and_a_note_names_the_line() -> None:
    listing = listed(
        "path,label,patient_id,age,sex,view\n"
        'a.png,0,p,"58,5",female,pa\n'
        "b.png,1,q,1956-03-01,1,unknown\n"
        "deep/c.dcm,1,r,7 months,NaN,AP supine\n"
    )
    assert by_image(listing.rows, "age", "sex", "view") == {
        "a.png": ("58.5", "F", "PA"),
        "b.png": (None, None, None),
        "deep/c.dcm": ("0.583", None, "AP supine"),
    }
    assert listing.notes == (
        "mine.csv: sex is not understood in 1 of 3 rows, where it counts as not known: '1' (1); first in line 3",
        "mine.csv: age is not understood in 1 of 3 rows, where it counts as not known: '1956-03-01' (1); first "
        "in line 3",
    )


def test_values_that_are_not_understood_are_counted_and_the_most_frequent_ones_named() -> None:
    ages = ["67 J", *["6 Wochen"] * 3, "67 J", "a", "b", "c", "d", "> 89"]
    rows = [f"{n}.png,0,,{age}\n" for n, age in enumerate(ages)]
    listing = listed("path,label,patient_id,age\n" + "".join(rows), [f"{n}.png" for n in range(len(ages))])
    assert listing.notes == (
        "mine.csv: age is not understood in 9 of 10 rows, where it counts as not known: '6 Wochen' (3), '67 J' (2), "
        "'a' (1), 'b' (1), 'c' (1), …; first in line 2",
    )


def test_labels_are_read_as_programs_write_them() -> None:
    for zero, one in (("0.0", "1.0"), ("False", "True"), ("0,0", "1,0"), (" normal", "PNEUMONIA ")):
        text = f'path;label;patient_id\na.png;{zero};p\nb.png;"{one}";q\n'
        assert by_image(read(text), "label") == {"a.png": 0, "b.png": 1}


def test_further_names_of_a_class_are_labels_and_folders() -> None:
    classes = columns.class_names({"normal": ["Healthy"], "pneumonia": ["sick", "bacteria"]})
    files = place({**dict.fromkeys(FILES, b""), "t.csv": "path,label,patient_id\na.png,healthy,p\nb.png,SICK,q\n"})
    assert by_image(own.read_table("t.csv", files, classes).rows, "label") == {"a.png": 0, "b.png": 1}
    names = ["HEALTHY/a.png", "Sick/b.png", "pneumonia/c.png", "bacteria/d.png", "NORMAL/1/sick 2/e.png"]
    rows = own.read_folder(place(names), classes).rows
    assert by_image(rows, "label", "subtype", "patient_id") == {
        "HEALTHY/a.png": (0, "normal", ""),
        "Sick/b.png": (1, "pneumonia", ""),
        "pneumonia/c.png": (1, "pneumonia", ""),
        "bacteria/d.png": (1, "bacteria", ""),
        "NORMAL/1/sick 2/e.png": (0, "normal", "1"),
    }


def test_images_beside_a_table_are_counted_apart_from_other_companions() -> None:
    listing = listed("path,label,patient_id\na.png,0,p\n", [*FILES, "notes.txt", "empty", "Thumbs.db"])
    assert listing.companions == {
        contents.IMAGES_NOT_NAMED: ["b.png", "deep/c.dcm"],
        contents.NOT_NAMED: ["empty", "notes.txt"],
    }
    assert listing.notes == ()


def test_a_link_to_nothing_is_no_file_of_a_table() -> None:
    files = place({"a.png": b"", "t.csv": "path,label,patient_id\na.png,0,p\n"})._replace(broken={"a.png"})
    with pytest.raises(UserError, match=r"^t\.csv, line 2: a\.png: no such file below here; correct the path$"):
        own.read_table("t.csv", files)


def test_a_patient_of_most_images_of_a_class_stays_one_patient_and_a_note_says_so() -> None:
    names = [f"{number:02}.png" for number in range(60)]
    who = ["P07"] * 10 + [f"p{number}" for number in range(10, 60)]
    lines = [f"{name},{int(number < 19)},{who[number]}\n" for number, name in enumerate(names)]
    listing = listed("path,label,patient_id\n" + "".join(lines), names)
    assert sum(row["patient_id"] == "P07" for row in listing.rows) == 10
    assert listing.notes == (
        "P07 counts as one patient and has 10 of 19 images of pneumonia, such as 00.png; if it is none, name the "
        "patients in a table",
    )


def test_numbers_with_and_without_a_decimal_point_are_one_patient() -> None:
    assert set(by_image(read("path,label,patient_id\na.png,0,7\nb.png,1,7.0\n"), "patient_id").values()) == {"7"}


def test_a_file_outside_the_folder_of_the_table_is_never_replaced_by_another_one(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / "a.png").write_bytes(folder.encode())
    (tmp_path / "new" / "t.csv").write_text(f"path,label,patient_id\n{tmp_path}/old/images/a.png,0,p\n")
    with pytest.raises(
        UserError, match=r"^t\.csv, line 2: .*/old/images/a\.png is a file outside .*/new, the folder of"
    ):
        own.read_table("t.csv", in_folder(f"{tmp_path}/new"))
    (tmp_path / "again").symlink_to("old")
    (tmp_path / "again" / "t.csv").write_text((tmp_path / "new" / "t.csv").read_text())
    assert own.read_table("t.csv", in_folder(f"{tmp_path}/again")).rows[0]["member"] == "images/a.png"


def test_a_note_says_where_the_beginning_of_paths_was_replaced() -> None:
    assert listed("path,label,patient_id\n/home/ann/deep/c.dcm,1,p\n").notes == (
        "mine.csv: paths begin with /home/ann; the files of the same names in here are read",
    )


def test_a_file_with_two_names_is_two_rows_of_a_table_and_refused() -> None:
    files = place({"a.png": b"", "b.png": b"", "t.csv": "path,label,patient_id\na.png,0,p\nb.png,1,q\n"})
    with pytest.raises(UserError, match=r"^t\.csv, line 3: b\.png occurs twice, also as a\.png; keep one row"):
        own.read_table("t.csv", files._replace(aliases={"b.png": "a.png"}))
