"""The page of the lungs counts, lists and shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia.report import found_lungs

IMAGE = np.full((64, 64), 90, np.uint8)
LUNGS = np.zeros((64, 64), np.bool_)
LUNGS[20:50, 8:28] = LUNGS[20:50, 36:56] = True


def table(*, n_found: int, n_none: int) -> pd.DataFrame:
    names = [f"found{n}" for n in range(n_found)] + [f"<b>none{n}" for n in range(n_none)] + ["drawn"]
    rows = range(len(names))
    facts = {"label": [n % 2 for n in rows], "split": "train", "sha256": [f"{n:03}" for n in rows], "uri": names}
    return pd.DataFrame({"image_id": names, **facts})


def written(path: Path, films: pd.DataFrame, *, around_lungs: bool = False) -> tuple[str, list[str]]:
    """The source of the page, and the images that were read for it."""
    looked: list[str] = []

    def look(split: str, image_id: str) -> tuple[Any, Any]:
        assert split == "train"
        looked.append(image_id)
        return IMAGE, LUNGS & image_id.startswith("found")

    kinds = {"found": "found", "<b>no": "none", "drawn": "human"}
    origins = {name: kinds[name[:5]] for name in films["image_id"]}
    problems = {name: "one lung only" for name, origin in origins.items() if origin == "none"}
    found_lungs.write(path, films, origins, problems, look, "my films", around_lungs=around_lungs)
    return path.read_text(encoding="utf-8"), looked


def test_films_without_lungs_are_counted_and_the_first_are_listed_with_their_reason(tmp_path: Path) -> None:
    first = [f"found{n}" for n in (*range(0, 12, 2), *range(1, 12, 2))]
    source, looked = written(tmp_path / "lungs.html", table(n_found=20, n_none=60))
    assert "In 60 of 81 films no two lungs were found" in source
    assert source.count(">one lung only</td>") == found_lungs.N_LISTED
    assert "And 10 more: MLflow has all in without_lungs.json" in source
    assert "<b>none" not in source
    assert source.count("<img") == 2 * found_lungs.N_SHOWN
    assert looked == [*(f"<b>none{n}" for n in range(found_lungs.N_SHOWN)), *first]


def test_a_store_of_an_earlier_version_has_a_page_without_films(tmp_path: Path) -> None:
    path = tmp_path / "lungs.html"
    found_lungs.write(path, table(n_found=2, n_none=1), {}, {}, lambda *_: pytest.fail("read"), "t", around_lungs=False)
    assert "There are none." in path.read_text(encoding="utf-8")


def test_where_persons_drew_all_lungs_no_image_is_read(tmp_path: Path) -> None:
    source, looked = written(tmp_path / "lungs.html", table(n_found=0, n_none=0))
    assert looked == []
    assert "There are none." in source
    assert "<img" not in source


@pytest.mark.parametrize("around_lungs", [True, False])
def test_it_says_what_becomes_of_films_without_lungs(tmp_path: Path, around_lungs: bool) -> None:
    source, _ = written(tmp_path / "lungs.html", table(n_found=2, n_none=3), around_lungs=around_lungs)
    assert ("3 of 6 have none and are prepared as a whole" in source) == around_lungs
