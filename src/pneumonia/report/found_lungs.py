"""The page of the lungs: whose masks the images have, films without lungs with the reason, and lungs that were found.

The stage `preprocess` writes it, as part of the report on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import workspace
from pneumonia.data import tables
from pneumonia.images.lungs import Finding
from pneumonia.names import printable
from pneumonia.report import page
from pneumonia.report.page import Block, Picture, Section, Table, Thumbnails

N_LISTED, N_SHOWN = 50, 12
"""Films without lungs that are listed; pictures of them, and pictures of films with lungs that were found."""

_SIDE = 220
"""Pixels of a picture, at most."""
_YELLOW = (0, 220, 255)

_ORIGINS = {"human": "drawn by a person", "found": "found by the network", "none": "no lungs"}

Look = Callable[[Mapping[str, Any]], tuple[npt.NDArray[np.uint8], Finding]]
"""A film and what is found in it, from its row."""


def write(
    path: Path,
    table: pd.DataFrame,
    origins: Mapping[str, str],
    without: Sequence[str],
    look: Look,
    title: str,
    *,
    around_lungs: bool,
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: of the HTML file.
        table: `splits.csv`.
        origins: image id -> where its mask comes from, as `lung_boxes.origins`.
        without: ids of the images without lungs, as `preprocess.without_lungs` returns them.
        look: for the reason and the pictures; used for the first of them only.
        title: of the data set.
        around_lungs: whether images are prepared around the lungs.
    """
    rows = table.set_index("image_id").loc[list(origins)].assign(lungs=list(origins.values()))
    sections = [_summary(rows, len(without), around_lungs), _without(rows, without, look), *_found(rows, look)]
    lead = "Lungs are used in the stress audit, in the figures of the maps and for outlines on pictures."
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(f"Lungs: {title}", lead, sections), encoding="utf-8")


def _summary(rows: pd.DataFrame, n_without: int, around_lungs: bool) -> Section:
    classes = tables.LABELS
    counts = [
        (words, *(f"{int(((rows['lungs'] == origin) & (rows['label'] == label)).sum()):,}" for label in classes))
        for origin, words in _ORIGINS.items()
    ]
    sentences = ["A mask that a person drew is preferred. A network searches the other films."]
    if around_lungs:
        sentences.append(
            f"Films are prepared around the lungs that the network finds; {n_without:,} of {len(rows):,} have none and "
            "are prepared as a whole. A prediction does the same, and calls such a film unusual."
        )
    return Section("Whose masks", [*sentences, Table(("lungs", *classes.values()), counts)])


def _without(rows: pd.DataFrame, without: Sequence[str], look: Look) -> Section:
    if not without:
        return Section("Films without lungs", ["There are none."])
    listed: list[tuple[str, ...]] = []
    pictures: list[Picture] = []
    for row in _dicts(rows.loc[list(without[:N_LISTED])]):
        film, finding = look(row)
        name, label = printable(str(row["image_id"])), tables.LABELS[int(row["label"])]
        listed.append((name, label, str(row["split"]), finding.problem))
        if len(pictures) < N_SHOWN:
            pictures.append(_picture(f"{name}, {label}: {finding.problem}", film, finding))
    n_more = len(without) - len(listed)
    more = [f"And {n_more:,} more: MLflow has all in without_lungs.json of the run preprocess."] if n_more > 0 else []
    blocks: list[Block] = [
        f"In {len(without):,} of {len(rows):,} films no two lungs were found. Look at them: a picture that is no "
        "frontal film of a chest should not be in the data.",
        Table(("film", "class", "split", "reason"), listed),
        *more,
        Thumbnails(pictures),
    ]
    return Section("Films without lungs", blocks)


def _found(rows: pd.DataFrame, look: Look) -> list[Section]:
    films = rows[rows["lungs"] == "found"]
    # By the digest: the same for the same films, and in no order of names, patients or classes.
    chosen = films.sort_values(["sha256", "image_id"]).groupby("label").head(N_SHOWN // 2)
    if chosen.empty:
        return []
    pictures = [
        _picture(f"{printable(str(row['image_id']))}, {tables.LABELS[int(row['label'])]}", *look(row))
        for row in _dicts(chosen.sort_values("label", kind="stable"))
    ]
    words = "Outlines that the network has drawn, for some films of each class. Look whether they are right."
    return [Section("Lungs that were found", [words, Thumbnails(pictures)])]


def _dicts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.reset_index().to_dict("records")]


def _picture(caption: str, film: npt.NDArray[np.uint8], finding: Finding) -> Picture:
    scale = min(1.0, _SIDE / max(film.shape))
    size = (max(1, round(scale * film.shape[1])), max(1, round(scale * film.shape[0])))
    picture = cv2.cvtColor(cv2.resize(film, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    if finding.lungs:
        mask = cv2.resize(finding.lungs.mask(*film.shape).astype(np.uint8), size)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, _YELLOW, 1)
    return Picture(caption, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
