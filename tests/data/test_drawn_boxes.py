"""Boxes beside a user's own images, as a table and as a COCO file."""

import json
from typing import Any

import pytest

from pneumonia import UserError
from pneumonia.data import columns, drawn_boxes, own
from pneumonia.data.contents import Listing
from tests.data.conftest import place, table

IMAGES = ("NORMAL/p1/n.png", "PNEUMONIA/p2/a.png", "PNEUMONIA/p3/b.png", "PNEUMONIA/p4/same.png", "PNEUMONIA/same.png")
HEAD = ("image", "x", "y", "width", "height")
BOXES = [
    {"image_id": "PNEUMONIA/p2/a.png", "x": 10.0, "y": 20.5, "width": 30.0, "height": 40.0},
    {"image_id": "PNEUMONIA/p2/a.png", "x": 50.0, "y": 20.0, "width": 5.0, "height": 6.0},
    {"image_id": "PNEUMONIA/p3/b.png", "x": 0.0, "y": 0.0, "width": 7.5, "height": 8.0},
]
TABLE = (
    ("PNEUMONIA/p2/a.png", 10, 20.5, 30, 40),
    ("PNEUMONIA/p2/a.png", 50, 20, 5, 6),
    ("b.png", 0, 0, 7.5, "8"),
)


def coco(**changes: Any) -> str:
    """A COCO file with the boxes of `TABLE`, after changes to it."""
    images = [
        {"id": 1, "file_name": "PNEUMONIA/p2/a.png", "width": 100, "height": 80},
        {"id": 2, "file_name": "b.png"},
        {"id": 3, "file_name": "NORMAL/p1/n.png"},
    ]
    image_of = {"PNEUMONIA/p2/a.png": 1, "b.png": 2}
    boxes = [[*row[1:4], float(row[4])] for row in TABLE]
    drawn = [
        {"id": n, "image_id": image_of[row[0]], "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": 0}
        for n, (row, box) in enumerate(zip(TABLE, boxes, strict=True), 5)
    ]
    content = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "opacity"}], "info": {}}
    return json.dumps(content | changes)


def listing(files: dict[str, Any], images: tuple[str, ...] = IMAGES, **classes: list[str]) -> Listing:
    return own.read_folder(place({**dict.fromkeys(images, b""), **files}), columns.class_names(classes))


def boxes(files: dict[str, Any], **classes: list[str]) -> list[dict[str, Any]]:
    return [{name: box[name] for name in BOXES[0]} for box in listing(files, **classes).boxes]


@pytest.mark.parametrize(
    "files",
    [
        {"boxes.csv": table(HEAD, *TABLE)},
        {"boxes.csv": table((*HEAD, "reader"), *((*row, "A. B.") for row in TABLE))},
        {"Boxes.CSV": table(("Image", "X", "Y", "Width", "Height"), *TABLE).replace(",", ";")},
        {
            "boxes.csv": table(
                ("image", "x_min", "y_min", "x_max", "y_max"),
                *((name, x, y, x + w, y + float(h)) for name, x, y, w, h in TABLE),
            )
        },
        {"annotations.json": coco()},
        {"my export.json": coco()},
        {"_annotations.coco.json": "\ufeff" + coco()},
    ],
    ids=["table", "more columns", "other spelling", "corners", "coco", "coco of another name", "coco with a mark"],
)
def test_a_table_and_a_coco_file_say_the_same(files: dict[str, str]) -> None:
    assert boxes(files) == BOXES
    found = listing(files)
    assert found.companions == {}
    assert [note for note in found.notes if "not known" in note] == [
        f"{next(iter(files))}: images with pneumonia whose boxes are not known: 2 of 4"
    ]


def test_other_files_beside_images_are_no_boxes() -> None:
    other = {
        "notes.json": '{"author": "me"}',
        "broken.json": "{",
        "PNEUMONIA/p2/a.json": coco(),
        "x/boxes.csv": "x",
        "__MACOSX/annotations.json": "",
    }
    found = listing(other)
    assert found.boxes == []
    assert sorted(name for names in found.companions.values() for name in names) == sorted(other)


def test_notes_of_single_images_are_no_boxes() -> None:
    images = ("a.png", "b.png")
    labels = table(("path", "label", "patient_id"), ("a.png", 0, ""), ("b.png", 1, ""))
    found = listing({"labels.csv": labels, "b.json": coco()}, images)
    assert (len(found.rows), found.boxes) == (2, [])


def test_a_table_of_labels_in_a_folder_or_an_archive_has_its_boxes_beside_it() -> None:
    """As the 43 films of adults with boxes lie: all in one folder, named by their files."""
    for top in ("", "set/"):
        files = {
            f"{top}labels.csv": table(("path", "label", "patient_id"), ("n.png", 0, 1), ("sick/a.png", 1, 2)),
            f"{top}boxes.csv": table(HEAD, ("sick/a.png", 1, 2, 3, 4), ("a.png", 2, 2, 3, 4)),
        }
        found = listing(files, (f"{top}n.png", f"{top}sick/a.png"))
        assert [(row["image_id"], row["patient_id"]) for row in found.rows] == [
            (f"{top}n.png", "1"),
            (f"{top}sick/a.png", "2"),
        ]
        assert [(box["image_id"], box["x"]) for box in found.boxes] == [(f"{top}sick/a.png", x) for x in (1, 2)]
        assert found.companions == {}


def test_a_table_of_labels_is_found_in_any_case_and_below_a_readme() -> None:
    labels = table(("path", "label", "patient_id"), ("n.png", 0, 1), ("sick/a.png", 1, 2))
    images = ("set/n.png", "set/sick/a.png")
    assert len(listing({"set/Labels.CSV": labels, "README.md": "x"}, images).rows) == 2
    assert listing({"set/sick/labels.csv": labels}, images).rows == []
    with pytest.raises(UserError, match=r"^here: labels in labels\.csv and in set/labels\.csv; keep the one table"):
        listing({"set/labels.csv": labels, "labels.csv": labels}, images)


def test_class_folders_count_before_a_table_of_labels() -> None:
    labels = table(("path", "label", "patient_id"), ("NORMAL/p1/n.png", 1, "x"))
    assert len(listing({"labels.csv": labels}).rows) == len(IMAGES)


def test_a_row_without_numbers_and_a_box_that_occurs_twice_change_nothing() -> None:
    rows = (*TABLE, TABLE[0], ("NORMAL/p1/n.png", "", "", "", ""))
    assert boxes({"boxes.csv": table(HEAD, *rows)}) == BOXES
    notes = listing({"boxes.csv": table(HEAD, *rows)}).notes
    assert "boxes.csv: boxes that occur twice count once: 1 of 4" in notes


def test_only_categories_of_pneumonia_are_read_where_there_are_several() -> None:
    content = json.loads(coco())
    names = ("Pneumonia", "cardiomegaly", "bacterial", "never used")
    content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    for n, one in enumerate(content["annotations"], 1):
        one["category_id"] = n
    found = listing({"annotations.json": json.dumps(content)})
    assert [box["where"] for box in found.boxes] == [f"annotations.json, annotation {n}" for n in (5, 7)]
    note = (
        "annotations.json: boxes of other categories are not read: {} of 3 annotations, of {}; add the names of those "
    )
    note += "that are pneumonia to fetch.classes"
    assert note.format(1, "'cardiomegaly'") in found.notes
    for one in content["annotations"]:
        one["category_id"] = 2 if one["category_id"] == 2 else 4
    files = {"annotations.json": json.dumps(content)}
    found = listing(files)
    assert (found.boxes, len(found.rows)) == ([], len(IMAGES)), "a classifier needs none"
    assert note.format(3, "'cardiomegaly', 'never used'") in found.notes
    assert boxes(files, pneumonia=["never used"]) == [BOXES[0], BOXES[2]]


def test_the_categories_of_a_file_decide_and_not_those_that_it_uses() -> None:
    categories = [{"id": 0, "name": "pneumonia"}, {"id": 1, "name": "cardiomegaly"}]
    found = listing({"annotations.json": coco(categories=categories)})
    assert found.boxes == []
    assert any("not read: 3 of 3 annotations, of 'cardiomegaly'; add" in note for note in found.notes)
    many = [{"id": n, "name": f"finding {n}"} for n in range(1, 501)]
    drawn = [json.loads(coco())["annotations"][0] | {"id": n, "category_id": n} for n in range(1, 501)]
    (note,) = [note for note in listing({"a.json": coco(categories=many, annotations=drawn)}).notes if "other" in note]
    assert (
        "500 of 500 annotations, of 'finding 1', 'finding 10', 'finding 100', 'finding 101', 'finding 102', …" in note
    )


def test_the_only_category_of_a_file_counts_with_a_note_unless_it_is_on_normal_images() -> None:
    assert "a.json: its only category, 'opacity', counts as pneumonia" in listing({"a.json": coco()}).notes
    named = listing({"a.json": coco(categories=[{"id": 1, "name": "Pneumonia"}])})
    assert len(named.boxes) == 3
    assert not any("category" in note for note in named.notes)
    lungs = {
        "a.json": coco(annotations=[{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in (1, 3)])
    }
    found = listing(lungs)
    assert found.boxes == []
    assert any("2 of 2 annotations, of 'opacity', 1 of them on normal images; add" in note for note in found.notes)
    with pytest.raises(UserError, match="is a normal image, in 1 of 2 boxes"):
        listing(lungs, pneumonia=["opacity"])


def test_a_file_that_is_left_out_is_never_replaced_by_one_of_its_name() -> None:
    for name in ("COVID/b.png", "b.png"):
        with pytest.raises(
            UserError, match=f"line 2: '{name}': {name} is no image of the data set, it is left out: unkn"
        ):
            listing({"boxes.csv": table(HEAD, (name, 1, 2, 3, 4))}, (*IMAGES, name))


@pytest.mark.parametrize("name", ["PNEUMONIA/_annotations.coco.json", "annotations/instances.json", "x/Boxes.csv"])
def test_boxes_in_other_folders_are_a_note(name: str) -> None:
    found = listing({name: "[]", "PNEUMONIA/p2/a_annotations.txt": "", "PNEUMONIA/p3/b.json": "[]"})
    assert found.boxes == []
    assert found.notes == (
        f"files that seem to have boxes are not read, because they are not above all images: 1, {name}; make one file "
        "of them, in the folder of the images (docs/detector.md)",
    )
    many = listing({f"{split}/annotations.json": "" for split in "abcdefg"} | {"boxes.csv": table(HEAD, *TABLE)})
    assert len(many.boxes) == 3
    assert any(": 7, a/annotations.json, b/annotations.json, " in note and ", …; make" in note for note in many.notes)


def test_whole_numbers_may_be_written_as_pandas_writes_them() -> None:
    content = json.loads(coco())
    for entries, keys in (("images", ("id", "width", "height")), ("annotations", ("image_id", "category_id"))):
        for entry in content[entries]:
            entry.update({key: float(entry[key]) for key in keys if key in entry})
    found = listing({"a.json": json.dumps(content)}).boxes
    assert found == listing({"a.json": coco()}).boxes
    assert found[0]["size"] == (100, 80)


def csv_of(*rows: tuple[Any, ...]) -> dict[str, str]:
    return {"boxes.csv": table(HEAD, *rows, *TABLE)}


def annotated(**changes: Any) -> dict[str, str]:
    drawn = json.loads(coco())["annotations"]
    return {"annotations.json": coco(annotations=[drawn[0] | changes, *drawn[1:]])}


A = "PNEUMONIA/p2/a.png"
LINE_2 = r"boxes\.csv, line 2: "
WRONG = {
    "both": ({"boxes.csv": "", "annotations.json": coco()}, r"here: boxes in annotations\.json and in boxes\.csv; .*"),
    "two": ({"a.json": coco(), "b.json": coco()}, r"here: boxes in a\.json and in b\.json; keep the one file .*"),
    "column": (
        {"boxes.csv": table(("image", "x", "y"), ("a", 1, 2))},
        r"boxes\.csv has the columns image, x, y; it needs image and x, y, width, height, or image and x_min, .*",
    ),
    "image": ({"boxes.csv": table(HEAD[1:], (1, 2, 3, 4))}, r"boxes\.csv lacks the column image, it has x, .*"),
    "empty": ({"boxes.csv": table(HEAD)}, r"boxes\.csv has no rows; it needs .*"),
    "no number": (
        csv_of((A, 1, "wide", 3, 4), (A, 1, 2, 3, "nan")),
        LINE_2 + r"y 'wide' is no number, in 2 of 5 rows; write numbers such as 107\.8, or leave all four cells .*",
    ),
    "no end": (csv_of((A, 1, "1e999", 3, 4)), LINE_2 + r"y '1e999' is no number, in 1 of 4 rows; .*"),
    "a part": (csv_of((A, 1, 2, "", 4)), LINE_2 + r"width '' is no number, in 1 of 4 rows; .*"),
    "order": (
        csv_of((A, 1, 2, -3, 4), (A, 1, 2, -3, -4)),
        LINE_2 + r"x 1, y 2, width -3, height 4: corners in the wrong order, in 2 of 5 boxes; x and y are of the .*",
    ),
    "order of corners": (
        {"boxes.csv": table(("image", "xmin", "ymin", "xmax", "ymax"), (A, 30, 20, 10, 40))},
        LINE_2 + r"x 30, y 20, width -20, height 20: corners in the wrong order, in 1 of 1 boxes; .*",
    ),
    "no size": (csv_of((A, 1, 2, 0, 4)), LINE_2 + r".* width 0, .*: a box of no size, in 1 of 4 boxes; draw .*"),
    "shares": (
        {"boxes.csv": table(HEAD, (A, 0.1, 0.2, 0.3, 0.4))},
        LINE_2 + r"no number is above 1, as in shares of the image; boxes are in pixels of the file: .*",
    ),
    "shares beyond the edge": (
        {"boxes.csv": table(HEAD, (A, -0.01, 0.2, 0.3, 0.4))},
        LINE_2 + r"no number is above 1, as in shares of the image; .*",
    ),
    "unknown": (
        csv_of(("x.png", 1, 2, 3, 4), ("y.png", 1, 2, 3, 4), ("x.png", 1, 2, 3, 4)),
        LINE_2 + r"'x\.png': no image of the data set has this name: unknown images, in 3 of 6 boxes; write .*",
    ),
    "several": (csv_of(("same.png", 1, 2, 3, 4)), None),  # the path at the top of a class, see below
    "normal": (
        csv_of(("n.png", 1, 2, 3, 4)),
        LINE_2 + r"NORMAL/p1/n\.png is a normal image, in 1 of 4 boxes; correct the class of the image, or remove .*",
    ),
    "json": ({"annotations.json": '{"images": ['}, r"annotations\.json is no JSON \(JSONDecodeError: .*\); export .*"),
    "nested": ({"annotations.json": "[" * 100_000}, r"annotations\.json is no JSON \(RecursionError: .*\); .*"),
    "cut": ({"export.json": coco()[:-9]}, r"export\.json is no JSON \(JSONDecodeError: .*\); export it again, .*"),
    "no coco": ({"annotations.json": "[]"}, r"annotations\.json is no COCO detection file: it needs the lists .*"),
    "missing image": (
        {"annotations.json": coco(images=[{"id": n, "file_name": f"{n}.png"} for n in range(4)])},
        r"annotations\.json, image 0: file_name '0\.png': no such image, in 4 of 4 images; add the files, correct .*",
    ),
    "annotation without image": (
        annotated(image_id=99),
        r"annotations\.json, annotation 5: image_id 99 is none of its images, in 1 of 3 annotations; add the images .*",
    ),
    "category": (
        annotated(category_id=9),
        r"annotations\.json, annotation 5: category_id 9 is none of its categories, in 1 of 3 annotations; export .*",
    ),
    "no categories": (
        {"annotations.json": coco(categories=[])},
        r"annotations\.json, annotation 5: category_id 1 is none of its categories, in 3 of 3 annotations; export .*",
    ),
    "list as category": (
        annotated(category_id=[1]),
        r"annotations\.json, annotation 1 of 3 has no category_id: damaged; export the file again",
    ),
    "entry": (
        {"annotations.json": coco(images=["a.png"])},
        r"annotations\.json, image 1 of 1 has no id: damaged; export the file again",
    ),
    "id twice": (annotated(id=6), r"annotations\.json, annotation 6: two entries have this id; export the file again"),
    "bbox": (
        annotated(bbox=[1, 2, 3]),
        r"annotations\.json, annotation 5: bbox \[1, 2, 3\] is not \[x, y, width, height\] in numbers, in 1 of 3 .*",
    ),
    "bbox of nothing": (annotated(bbox=[1, 2, None, float("nan")]), r".*: bbox \[1, 2, None, nan\] is not .*"),
    "order in coco": (
        annotated(bbox=[1, 2, -3, 4]),
        r"annotations\.json, annotation 5: x 1, y 2, width -3, height 4: corners in the wrong order, in 1 of 3 .*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_boxes_is_one_line_with_counts_and_remedy(kind: str) -> None:
    files, expected = WRONG[kind]
    expected = expected or LINE_2 + r"'same\.png': 2 images have this name: unknown images, in 1 of 4 boxes; .*"
    with pytest.raises(UserError, match=f"^{expected}$"):
        boxes(files)


SIZE = {"PNEUMONIA/p2/a.png": (100, 80), "PNEUMONIA/p3/b.png": (20, 20)}


def test_boxes_end_at_the_edge_of_their_image_up_to_rounding() -> None:
    near = listing(csv_of((A, -1, -0.5, 102, 81))).boxes
    drawn_boxes.require_inside(near, SIZE)
    drawn_boxes.require_inside(near, {})  # nothing can be said of a damaged image
    for box in ((A, -1.5, 0, 9, 9), (A, 0, -2, 9, 9), (A, 99, 0, 3, 9), (A, 0, 79, 9, 3), (A, 100, 0, 1, 1)):
        with pytest.raises(UserError, match=rf"^{LINE_2}from \(.*\), but {A} has 100 x 80 pixels: outside the image"):
            drawn_boxes.require_inside(listing(csv_of(box)).boxes, SIZE)
    with pytest.raises(
        UserError, match=r"from \(90, 70\) to \(120, 90\), but .*: .*, in 2 of 5 boxes; give boxes in p"
    ):
        drawn_boxes.require_inside(listing(csv_of((A, 90, 70, 30, 20), (A, 200, 70, 30, 20))).boxes, SIZE)


def test_a_coco_file_of_images_of_another_size_is_refused() -> None:
    found = listing({"annotations.json": coco()}).boxes
    drawn_boxes.require_inside(found, SIZE)
    with pytest.raises(
        UserError,
        match=r"^annotations\.json, annotation 5: its image has 50 x 40 pixels, in the file with boxes 100 x 80, in 2 "
        r"of 3 boxes; use the images on which the boxes were drawn",
    ):
        drawn_boxes.require_inside(found, {A: (50, 40)})
