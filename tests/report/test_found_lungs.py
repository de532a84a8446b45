"""The page of the lungs counts, lists and shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia.images.geometry import Box
from pneumonia.images.lungs import SIDE, Finding, Lungs
from pneumonia.report import found_lungs

FILM = np.full((60, 90), 90, np.uint8)


def probability() -> Any:
    values = np.zeros((SIDE, SIDE), np.float32)
    values[20:70, 15:40], values[20:70, 55:80] = 1, 1
    return values


FOUND = Finding(Lungs(probability(), Box(0, 0, 90, 60), Box(10, 10, 60, 40), 0.3), "")
NOTHING = Finding(None, "one lung only")


def table(*, n_found: int, n_none: int) -> pd.DataFrame:
    names = [f"found{n}" for n in range(n_found)] + [f"<b>none{n}" for n in range(n_none)] + ["drawn"]
    rows = range(len(names))
    facts = {"label": [n % 2 for n in rows], "split": "train", "sha256": [f"{n:03}" for n in rows], "uri": names}
    return pd.DataFrame({"image_id": names, **facts})


def written(path: Path, films: pd.DataFrame, *, around_lungs: bool = False) -> tuple[str, list[str]]:
    """The source of the page, and the films that were looked at."""
    looked: list[str] = []

    def look(row: Mapping[str, Any]) -> tuple[Any, Finding]:
        looked.append(row["image_id"])
        return FILM, FOUND if row["image_id"].startswith("found") else NOTHING

    kinds = {"found": "found", "<b>no": "none", "drawn": "human"}
    origins = {name: kinds[name[:5]] for name in films["image_id"]}
    without = [name for name, origin in origins.items() if origin == "none"]
    found_lungs.write(path, films, origins, without, look, "my films", around_lungs=around_lungs)
    return path.read_text(encoding="utf-8"), looked


def test_films_without_lungs_are_counted_and_the_first_are_listed_with_their_reason(tmp_path: Path) -> None:
    first = [f"found{n}" for n in (*range(0, 12, 2), *range(1, 12, 2))]
    source, looked = written(tmp_path / "lungs.html", table(n_found=20, n_none=60))
    assert "In 60 of 81 films no two lungs were found" in source
    assert source.count(">one lung only</td>") == found_lungs.N_LISTED
    assert "And 10 more: MLflow has all in without_lungs.json" in source
    assert "<b>none" not in source
    assert source.count("<img") == 2 * found_lungs.N_SHOWN
    assert len(looked) == found_lungs.N_LISTED + found_lungs.N_SHOWN
    assert looked[found_lungs.N_LISTED :] == first


def test_where_persons_drew_all_lungs_no_film_is_opened(tmp_path: Path) -> None:
    source, looked = written(tmp_path / "lungs.html", table(n_found=0, n_none=0))
    assert looked == []
    assert "There are none." in source
    assert "<img" not in source


@pytest.mark.parametrize("around_lungs", [True, False])
def test_it_says_what_becomes_of_films_without_lungs(tmp_path: Path, around_lungs: bool) -> None:
    source, _ = written(tmp_path / "lungs.html", table(n_found=2, n_none=3), around_lungs=around_lungs)
    assert ("3 of 6 have none and are prepared as a whole" in source) == around_lungs
