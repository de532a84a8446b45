"""The folder `reports/saliency`: a picture of each drawn image, sheets, the gallery, and the table of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.data import tables
from pneumonia.names import file_name
from pneumonia.report import gallery, plots
from pneumonia.saliency import verdicts

N_ON_A_SHEET = 6

_NO_BOXES = np.zeros((0, 4))


def write(
    folder: Path,
    shown: pd.DataFrame,
    images: npt.NDArray[np.uint8],
    lungs: npt.NDArray[np.bool_],
    maps: Mapping[str, npt.NDArray[np.float32]],
    boxes: Mapping[str, npt.NDArray[np.float64]],
    means: tuple[Mapping[str, tuple[npt.NDArray[np.float32], int]], str],
    explained: Mapping[str, Any],
    threshold: float,
    title: str,
    origins: Mapping[str, str],
) -> pd.DataFrame:
    """Fill an empty folder.

    Args:
        folder: for `<image>.png`, `sheets/`, `index.html` and `index.csv`.
        shown: as `explain.choose_shown` returns it.
        images, lungs: of these images, (n, size, size).
        maps: method -> float32 (n, size, size), 0-1.
        boxes: image id -> float (k, 4), in pixels of the images.
        means: as `explain.mean_maps` returns them, of the default method.
        explained: `explain.json`.
        threshold: on the raw scores.
        title: model and data.
        origins: image id -> where its lungs come from, as `lung_boxes.origins` returns them.

    Returns:
        `index.csv`: each image with its outcome and the name of its picture, empty if it is only in the gallery.
    """
    verdict_of = {name: row["verdict"] for name, row in explained["methods"].items()}
    default = explained["default"]
    method = verdicts.in_words(default, verdict_of[default])
    entries = [
        gallery.Entry(
            image_id,
            outcome,
            subtype,
            score,
            images[place],
            {name: values[place] for name, values in maps.items()},
            boxes.get(image_id, _NO_BOXES),
            lungs[place],
        )
        for place, (image_id, outcome, subtype, score) in enumerate(
            zip(shown["image_id"], shown["outcome"], shown["subtype"], shown["score"], strict=True)
        )
    ]
    pictures = np.where(shown["drawn"], [file_name(name, ".png") for name in shown["image_id"]], "")
    for entry, picture in zip(entries, pictures, strict=True):
        if picture:
            facts = f"{entry.image_id}, {entry.subtype}, {entry.outcome.replace('_', ' ')}"
            figure = plots.saliency(
                entry.film,
                {verdicts.in_words(name, verdict_of[name]): values for name, values in entry.maps.items()},
                entry.boxes,
                f"{title}, test: {facts}, score {entry.score:.3f}, threshold {threshold:.3f}",
                entry.lungs,
            )
            plots.save(figure, folder / picture)
    (folder / "sheets").mkdir()
    for outcome in shown["outcome"].unique():
        rows = [entry for entry in entries if entry.outcome == outcome][:N_ON_A_SHEET]
        figure = plots.saliency_sheet(
            [(one.film, one.maps[default], one.boxes, f"{one.image_id}, {one.score:.3f}") for one in rows],
            f"{title}, test: {outcome.replace('_', ' ')}, worst first (threshold {threshold:.3f})\n{method}",
        )
        plots.save(figure, folder / "sheets" / f"{outcome}.png")
    figure = plots.mean_maps(means[0], f"{title}, images of the gallery; {method}", means[1])
    plots.save(figure, folder / "sheets" / "mean.png")
    methods = {name: (verdicts.title(name), verdict_of[name]) for name in maps}
    by_network = "found" in {origins.get(image_id) for image_id in shown["image_id"]}
    source = gallery.html(entries, methods, default, threshold, title, by_network=by_network)
    (folder / "index.html").write_text(source, encoding="utf-8")
    index = shown[["image_id", "label", "subtype", "score", "outcome"]].assign(picture=pictures)
    tables.write_table(index, folder / "index.csv")
    return index
