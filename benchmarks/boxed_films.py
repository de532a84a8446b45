"""Other films with boxes, for the benchmarks of boxes and of saliency maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError
from pneumonia.images import decode, geometry, lungs


class Films(NamedTuple):
    """Films that are prepared as those of a run.

    Attributes:
        images: uint8 (n, size, size).
        boxes: of each film, float64 (k, 4), in pixels of `images`; those outside are left out.
        patients: (n,), object.
        lungs: bool (n, size, size), where `images.lungs` finds some; without them None.
    """

    images: npt.NDArray[np.uint8]
    boxes: list[npt.NDArray[np.float64]]
    patients: npt.NDArray[Any]
    lungs: npt.NDArray[np.bool_] | None


def table_of(folder: Path) -> pd.DataFrame:
    """The boxes of a folder.

    Raises:
        UserError: it has no `boxes.csv`, one without the columns, or not the files that it names.
    """
    path = folder / "boxes.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: other films need a table with the columns image, x, y, width, height")
    table = pd.read_csv(path, dtype={"image": str, "patient_id": str})
    if missing := [name for name in ("image", "x", "y", "width", "height") if name not in table]:
        raise UserError(f"{path} lacks {', '.join(missing)}; it needs the columns image, x, y, width, height")
    if missing := [name for name in table["image"].unique() if not (folder / name).is_file()]:
        raise UserError(
            f"{path} names {len(missing)} files that are not there, the first {missing[0]}; correct the table"
        )
    return table


def read(folder: Path, preparation: geometry.Preparation, *, with_lungs: bool = False) -> Films:
    """The films of a folder.

    Args:
        folder: with `boxes.csv`: the columns image, x, y, width, height in pixels of the image, and the files that it
            names. Without a column `patient_id`, the patient is the name up to its first underscore.
        preparation: of the run.
        with_lungs: whether lungs are looked for.

    Raises:
        UserError: as `table_of` says; a file that cannot be read.
    """
    images, boxes, patients, masks = [], [], [], []
    for name, rows in table_of(folder).groupby("image"):
        film = decode.read_image(str(folder / str(name)))
        around = lungs.box(film, preparation)
        sides = rows[["x", "y", "width", "height"]].to_numpy(float)
        placed = geometry.to_store(sides, film.shape[1], film.shape[0], preparation, around)
        images.append(geometry.prepare(film, preparation, around))
        boxes.append(placed[(placed[:, 2:] > 0).all(axis=1)])
        patients.append(rows["patient_id"].iloc[0] if "patient_id" in rows else Path(str(name)).stem.split("_")[0])
        if with_lungs:
            found = lungs.find(film)
            mask = 255 * (found.mask(*film.shape) if found else np.zeros(film.shape, bool)).astype(np.uint8)
            masks.append(geometry.prepare_mask(mask, preparation, around) > 127)
    return Films(np.stack(images), boxes, np.array(patients, dtype=object), np.stack(masks) if with_lungs else None)
