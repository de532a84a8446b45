"""Each kind of file loses a patient and nothing else."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.data import removal, store, traces
from pneumonia.names import file_name, printable
from pneumonia.report import page
from tests.data.test_traces import P1, ROW, packed


def test_a_table_loses_the_rows_of_the_patient_and_other_cells_that_name_one() -> None:
    text = (
        "image_id,patient_id,sha256,look_alike,score\n"
        "NORMAL/P1/a.png,P1,00,,0.10\n"
        f"NORMAL/P9/copy.png,P9,{ROW['sha256']},,0.20\n"
        'NORMAL/P9/b.png,P9,11,NORMAL/P1/a.png,0.30\n"NORMAL/P11/a,b.png",P11,22,,1\n'
    )
    kept = 'image_id,patient_id,sha256,look_alike,score\nNORMAL/P9/b.png,P9,11,,0.30\n"NORMAL/P11/a,b.png",P11,22,,1\n'
    assert removal.without_rows(text, P1) == kept
    assert removal.without_rows(kept, P1) == kept


def test_a_short_identifier_counts_in_its_column_only() -> None:
    one = traces.of_rows(["1"], [{"image_id": "x/1.png", "patient_id": "1"}])
    text = "image_id,patient_id,label\nx/1.png,1,1\nx/2.png,2,1\ny/1.png,11,0\n"
    assert removal.without_rows(text, one) == "image_id,patient_id,label\nx/2.png,2,1\ny/1.png,11,0\n"


def test_a_table_without_images_loses_rows_that_name_one() -> None:
    assert removal.without_rows("image,score\nNORMAL/P1/a.png,1\nother,2\n", P1) == "image,score\nother,2\n"


def test_an_image_store_loses_the_images_of_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IMAGES_PER_CHUNK", 2)
    ids = {"train": ["a", "NORMAL/P1/a.png", "b", "c"], "val": ["NORMAL/P1/a.png"], "test": ["d"]}
    made = store.create_store(tmp_path / "images.zarr", {"digest": "old", "data": "folder"})
    for split, names in ids.items():
        table = pd.DataFrame({"image_id": names, "label": 1, "weight": 0.5, "repeats": range(len(names))})
        images, lungs = store.create_split(made, split, table, size=4, with_lungs=True)
        images[:] = np.arange(len(names), dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 4), np.uint8)
        assert lungs is not None
    removal.rewrite_store(tmp_path / "images.zarr", P1, {"digest": "new"})
    kept = store.open_store(tmp_path / "images.zarr")
    assert dict(kept.attrs) == {"digest": "new", "data": "folder"}
    train = store.read_split(kept, "train")
    assert list(train.image_ids) == ["a", "b", "c"]
    assert train.images[:, 0, 0].tolist() == train.repeats.tolist() == [0, 2, 3]
    assert store.read_split(kept, "val").images.shape == (0, 4, 4)
    assert store.read_split(kept, "test").image_ids.tolist() == ["d"]
    assert store.lungs(kept, "train") is not None
    assert not any(mask.any() for mask in removal.in_store(tmp_path / "images.zarr", P1).values())


EMBEDS = '<img src="data:image/png;base64,AAAA">'


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("data.html", "<td>NORMAL/P1/a.png</td>", f"{removal.PAGE.format(command='make repro')}\n"),
        ("report.html", "<td>NORMAL/P1/a.png</td>", f"{removal.PAGE.format(command='pneumonia report')}\n"),
        ("card.md", "most wrong: NORMAL/P1/a.png", f"{removal.PAGE.format(command='make repro')}\n"),
        ("notes.txt", "NORMAL/P1/a.png", None),
        ("rows.jsonl", '{"a": "NORMAL/P1/a.png"}\n{"a": 1}\n', '{"a": 1}\n'),
        (file_name("NORMAL/P1/a.png", ".png"), "picture", None),
        (file_name("NORMAL/P1/b.png", ".png"), "picture", "picture"),
        ("scan.png", "NORMAL/P1/a.png", "NORMAL/P1/a.png"),
    ],
)
def test_a_file_is_rewritten_replaced_or_deleted(tmp_path: Path, name: str, content: str, kept: str | None) -> None:
    path = tmp_path / name
    path.write_text(content)
    (tmp_path / "other.html").write_text("other")
    for found in removal.search([tmp_path], P1):
        removal.rewrite(found, P1, [], {})
    assert (path.read_text() if path.exists() else None) == kept
    assert removal.search([tmp_path], P1) == []
    assert (tmp_path / "other.html").read_text() == "other"


def test_a_page_may_embed_a_picture_of_the_patient_that_is_beside_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "card.html").write_text(EMBEDS)
        (tmp_path / folder / "style.css").write_text(EMBEDS)
    (tmp_path / "a" / file_name("NORMAL/P1/a.png", ".png")).touch()
    assert {path.name for path in removal.search([tmp_path / "a"], P1)} >= {"card.html"}
    assert "style.css" not in {path.name for path in removal.search([tmp_path / "a"], P1)}
    assert removal.search([tmp_path / "b"], P1) == []


@pytest.mark.parametrize("sibling", ["index.csv", file_name("NORMAL/P1/a.png", ".png")])
def test_a_sheet_is_of_the_patient_if_a_file_beside_its_folder_is(tmp_path: Path, sibling: str) -> None:
    for name, image in {"a": "NORMAL/P1/a.png", "b": "NORMAL/P9/a.png"}.items():
        (tmp_path / name / "saliency/sheets").mkdir(parents=True)
        (tmp_path / name / "saliency/sheets/mean.png").touch()
        (tmp_path / name / "saliency/index.csv").write_text("image_id,label\nNORMAL/P9/b.png,1\n")
        beside = sibling if name == "a" else "index.csv"
        (tmp_path / name / "saliency" / beside).write_text(f"image_id,label\n{image},1\n")
    found = [path.relative_to(tmp_path).as_posix() for path in removal.search([tmp_path], P1)]
    assert found == ["a/saliency/sheets/mean.png", f"a/saliency/{sibling}"], "what is beside it is changed after it"


@pytest.mark.parametrize(
    "name",
    ["NORMAL/P\u202e7/a.png", "a  b|c.png", "IM~1.png", "Müller/1.png", "a&b's`x.png", "tab\tx.png", "x\udcffy.png"],
)
def test_a_page_that_shows_a_picture_is_found_whatever_the_name_of_the_image_is(tmp_path: Path, name: str) -> None:
    pictures = page.Thumbnails([page.Picture(f"{printable(name)}, normal: turned 90", b"changed pixels")])
    sections = [page.Section("Images", [page.Table(("image",), [(printable(name),)]), pictures])]
    (tmp_path / "data.html").write_text(page.html("", "", sections), encoding="utf-8")
    (tmp_path / "card.md").write_text(page.markdown("", "", sections), encoding="utf-8")
    (tmp_path / "rows.html").write_text(f"<script>{json.dumps([name])}</script>", encoding="utf-8")
    of = traces.of_rows(["P"], [{"image_id": name, "patient_id": "P"}])
    assert [path.name for path in removal.search([tmp_path], of)] == ["card.md", "data.html", "rows.html"]
    assert removal.search([tmp_path], P1) == []


def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    packed(tmp_path / "archive", {"NORMAL/P1/a.png": b"x"})
    contents = {"table": "image_id,n\nNORMAL/P1/a.png,1\n", "report": '{"a": "NORMAL/P1/a.png"}', "page": ROW["sha256"]}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "weights").write_bytes(b"\0NORMAL/P1/a.png")
    kinds = {path.name: removal.kind_of(path) for path in tmp_path.iterdir()}
    assert kinds == {"archive": ".zip", "table": ".csv", "report": ".json", "page": ".html", "weights": ""}
    assert sorted(path.name for path in tmp_path.iterdir() if removal.holds(path, P1)) == sorted({*kinds} - {"weights"})
