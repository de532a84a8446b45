"""The page of the lungs: whose masks the images have, films without lungs with the reason, and lungs that were found.

The stage `evaluate` writes it from the image store: a change of this page prepares no image again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import workspace
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.names import printable
from pneumonia.report import page
from pneumonia.report.page import Block, Picture, Section, Table, Thumbnails

N_LISTED, N_SHOWN = 50, 12
"""Films without lungs that are listed; pictures of them, and pictures of films with lungs that were found."""

_SIDE = 220
"""Pixels of a picture, at most."""
_YELLOW = (0, 220, 255)

_ORIGINS = {"human": "drawn by a person", "found": "found by the network", "none": "no lungs"}

Look = Callable[[str, str], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]
"""The prepared image of a split and an id, and the mask of its lungs, as `lung_boxes.picture`."""


def write(
    path: Path,
    table: pd.DataFrame,
    origins: Mapping[str, str],
    problems: Mapping[str, str],
    look: Look,
    title: str,
    *,
    around_lungs: bool,
    target: Target = PNEUMONIA,
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: of the HTML file.
        table: `splits.csv`.
        origins: image id -> where its mask comes from, as `lung_boxes.all_origins`.
        problems: image id -> why no lungs were found, as `lung_boxes.problems`.
        look: for the pictures; used for the first of them only.
        title: of the data set.
        around_lungs: whether images are prepared around the lungs.
        target: of the labels.
    """
    rows = table.set_index("image_id").loc[list(origins)].assign(lungs=list(origins.values()))
    sections = [
        _summary(rows, len(problems), around_lungs, target),
        _without(rows, problems, look, target),
        *_found(rows, look, target),
    ]
    lead = "Lungs are used in the stress audit, in the figures of the maps and for outlines on pictures."
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(f"Lungs: {title}", lead, sections), encoding="utf-8")


def _summary(rows: pd.DataFrame, n_without: int, around_lungs: bool, target: Target) -> Section:
    classes = target.classes
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


def _without(rows: pd.DataFrame, problems: Mapping[str, str], look: Look, target: Target) -> Section:
    if not problems:
        return Section("Films without lungs", ["There are none."])
    first = rows.loc[list(problems)[:N_LISTED]]
    reasons = [problems[str(name)] for name in first.index]
    listed = [
        (printable(str(name)), target.classes[label], str(split), problem)
        for name, label, split, problem in zip(first.index, first["label"], first["split"], reasons, strict=True)
    ]
    captions = [f"{caption}: {problem}" for caption, problem in zip(_captions(first, target), reasons, strict=True)]
    pictures = _pictures(first.head(N_SHOWN), captions[:N_SHOWN], look)
    n_more = len(problems) - len(listed)
    more = [f"And {n_more:,} more: MLflow has all in without_lungs.json of the run preprocess."] if n_more > 0 else []
    blocks: list[Block] = [
        f"In {len(problems):,} of {len(rows):,} films no two lungs were found. Look at them: a picture that is no "
        "frontal film of a chest should not be in the data.",
        Table(("film", "class", "split", "reason"), listed),
        *more,
        Thumbnails(pictures),
    ]
    return Section("Films without lungs", blocks)


def _found(rows: pd.DataFrame, look: Look, target: Target) -> list[Section]:
    films = rows[rows["lungs"] == "found"]
    # By the digest: the same for the same films, and in no order of names, patients or classes.
    chosen = films.sort_values(["sha256", "image_id"]).groupby("label").head(N_SHOWN // 2)
    if chosen.empty:
        return []
    chosen = chosen.sort_values("label", kind="stable")
    words = "Outlines that the network has drawn, for some films of each class. Look whether they are right."
    return [Section("Lungs that were found", [words, Thumbnails(_pictures(chosen, _captions(chosen, target), look))])]


def _captions(rows: pd.DataFrame, target: Target) -> list[str]:
    return [
        f"{printable(str(name))}, {target.classes[label]}"
        for name, label in zip(rows.index, rows["label"], strict=True)
    ]


def _pictures(rows: pd.DataFrame, captions: Sequence[str], look: Look) -> list[Picture]:
    """The images of these rows with the outlines of their lungs."""
    places = zip(rows["split"], rows.index, strict=True)
    return [_picture(words, *look(*map(str, place))) for words, place in zip(captions, places, strict=True)]


def _picture(caption: str, film: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> Picture:
    scale = min(1.0, _SIDE / max(film.shape))
    size = (max(1, round(scale * film.shape[1])), max(1, round(scale * film.shape[0])))
    picture = cv2.cvtColor(cv2.resize(film, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(cv2.resize(mask.astype(np.uint8), size), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, _YELLOW, 1)
    return Picture(caption, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
