"""The Kermany set has one patient rule for each of its versions, whatever the format of its files."""

from collections.abc import Iterable

import pytest

from pneumonia import UserError
from pneumonia.data import contents, kermany
from tests.conftest import KERMANY, NORMALS, PNEUMONIAS
from tests.data.conftest import by_image, place, rows_of


def chest_xray(names: Iterable[str]) -> contents.Rows:
    return rows_of(kermany.read_chest_xray(place(names)))


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


def read(names: Iterable[str]) -> contents.Listing:
    return kermany.read_chest_xray(place(names))


def test_an_image_with_a_name_of_no_published_form_is_left_out_because_its_patient_is_not_known() -> None:
    others = ["test/PNEUMONIA/patient 7.jpg", "train/NORMAL/a.jpeg", "train/NORMAL/person1_virus_1.jpg"]
    listing = read([*KERMANY, *others])
    assert len(listing.rows) == len(KERMANY)
    assert [sorted(names) for names in listing.left_out.values()] == [others]


@pytest.mark.parametrize("name", ["NORMAL/IM-1-1.jpeg", "train/IM-1-1.jpeg", "train/OTHER/IM-1-1.jpeg", "IM-1-1.jpeg"])
def test_an_image_outside_the_folders_of_chest_xray_is_left_out(name: str) -> None:
    assert read([name]).rows == []
    assert list(read([name]).left_out.values()) == [[name]]


VERSION_3 = {
    "train/NORMAL/NORMAL-1000-0001": (0, "NORMAL-1000", "normal", "train"),
    "train/NORMAL/NORMAL-1000-0002": (0, "NORMAL-1000", "normal", "train"),
    "train/PNEUMONIA/BACTERIA-2001-0001": (1, "bacteria-2001", "bacteria", "train"),
    "train/PNEUMONIA/BACTERIA-2001-0002": (1, "bacteria-2001", "bacteria", "train"),
    "test/PNEUMONIA/VIRUS-7000-0001": (1, "virus-7000", "virus", "test"),
}
EYES = [
    f"CellData/OCT/{split}/{name}/{name}-{number}-1.jpeg"
    for split in ("train", "test")
    for number, name in enumerate(("CNV", "DME", "DRUSEN", "NORMAL"), 5000)
]


def test_version_3_has_other_names_and_its_eye_scans_are_not_read() -> None:
    listing = read([*(f"CellData/chest_xray/{name}.jpeg" for name in VERSION_3), *EYES])
    assert by_image(listing.rows, "label", "patient_id", "subtype", "source_split") == VERSION_3
    assert listing.companions == {contents.EYES: sorted(EYES)}
    assert not listing.left_out


def test_chest_xrays_beside_folders_of_eye_scans_are_read() -> None:
    eyes = [name.removeprefix("CellData/OCT/") for name in EYES]
    listing = read([*(f"chest_xray/{name}.jpeg" for name in VERSION_3), *eyes])
    assert (len(listing.rows), listing.companions) == (len(VERSION_3), {contents.EYES: sorted(eyes)})


@pytest.mark.parametrize("top", ["CellData/OCT", "OCT2017", "eyes", ""])
def test_eye_scans_alone_are_no_chest_xrays(top: str) -> None:
    names = [name.replace("CellData/OCT", top).lstrip("/") for name in EYES]
    assert (read(names).rows, read(names).companions) == ([], {contents.EYES: sorted(names)})
    normals = [name.replace("CellData/OCT", "x") for name in EYES if "NORMAL" in name]  # the other classes are gone
    assert read(normals).rows == []


def test_names_of_two_versions_are_refused() -> None:
    with pytest.raises(UserError, match=r"^here: names of two versions of the Kermany set, .* and .*; keep one$"):
        read([*KERMANY, *(f"v3/{name}.jpeg" for name in VERSION_3)])


@pytest.mark.parametrize("ending", [".png", ".JPG", ".tif", ".dcm", ".jpeg.png", ".bmp", ".webp"])
def test_the_patients_are_the_same_in_another_format(ending: str) -> None:
    rows = chest_xray(name.replace(".jpeg", ending) for name in KERMANY)
    assert sorted(row["patient_id"] for row in rows) == sorted(row["patient_id"] for row in chest_xray(KERMANY))
    assert [row["subtype"] for row in rows] == [row["subtype"] for row in chest_xray(KERMANY)]


def test_an_image_in_two_formats_is_read_once() -> None:
    listing = read([*KERMANY, *(name.replace(".jpeg", ".png") for name in KERMANY)])
    assert len(listing.rows) == len(KERMANY)
    assert [len(names) for names in listing.companions.values()] == [len(KERMANY)]
    assert list(listing.companions) == [contents.COPIES]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("TRAIN/Normal/im-0115-0001.JPEG", "IM-0115 normal train"),
        ("Test/pneumonia/Person1_Virus_6.png", "virus-1 virus test"),
        ("Training/images/NORMAL/NORMAL2-IM-0115-0001.png", "NORMAL2-IM-0115 normal train"),
        ("validation/PNEUMONIA/png/person1_bacteria_2.png", "bacteria-1 bacteria train"),
        ("NORMAL/test/IM-0001-0001.jpeg", "IM-0001 normal test"),
        ("train/PNEUMONIA/bacteria/person3_bacteria_10.jpeg", "bacteria-3 bacteria train"),
        ("train/BACTERIA/person3_bacteria_10.jpeg", "bacteria-3 bacteria train"),
        ("train/Viral Pneumonia/person3_virus_15.jpeg", "virus-3 virus train"),
        ("test/VIRUS/VIRUS-3-0001.jpeg", "virus-3 virus test"),
    ],
)
def test_the_tree_is_recognised_as_people_change_it(written: str, meant: str) -> None:
    (row,) = chest_xray([written])
    assert f"{row['patient_id']} {row['subtype']} {row['source_split']}" == meant


def test_the_further_copies_of_the_doubled_tree_are_counted() -> None:
    companions = read(as_on_kaggle(KERMANY)).companions
    assert {kind: len(names) for kind, names in companions.items()} == {
        contents.COPIES: len(KERMANY),
        contents.JUNK: len(KERMANY) + 4,
    }


def test_masks_beside_the_images_are_no_second_tree() -> None:
    names = [*(f"lungs/masks/{name}" for name in KERMANY), *(f"xrays/{name}" for name in KERMANY)]
    assert all(row["member"].startswith("xrays/") for row in read(names).rows)
    assert len(read(names).rows) == len(KERMANY)
