"""External test sets: films of other places, which are fetched, checked and prepared as those of the run.

No stage learns from them, and none chooses by them: `evaluate` scores them when all else is decided. A film that the
run has too is no test, so it is left out, with the other films of its patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, fetch, preprocess, validate, workspace
from pneumonia.data import relabel, sources, store, tables, targets
from pneumonia.data.forgotten import NOBODY, Forgotten
from pneumonia.data.targets import Target
from pneumonia.images.geometry import Preparation

IN_RUN = "an image of this run"
PATIENT_IN_RUN = "of a patient who has an image of this run"
COPY = "a copy of another image of this source"
"""Reasons, in the column `left_out`, for which a valid image is not tested."""

COLUMNS = ("source", *fetch.MANIFEST, *validate.MEASURES, "left_out")


class Source(NamedTuple):
    """An item of `external.sources`: a name of the user, a key of `DATASETS`, and a place as in `fetch.url`."""

    name: str
    data: str
    url: str | None


class Films(NamedTuple):
    """The films of one source.

    Attributes:
        table: the columns `COLUMNS` and further ones of the source; an image that is not tested says why in `left_out`.
            `place` is the address of an image after the stage, empty in an archive that is no zip; `uri` where it is
            now.
        boxes: of the tested images: `source`, and the columns of `fetch.BOXES`.
        record: `data`, `n_images`, `left_out` (a list of `reason, n`) and `n_in_run`, films of the run and of their
            patients.
        notes: what a reader should know of the patient identifiers.
    """

    table: pd.DataFrame
    boxes: pd.DataFrame
    record: dict[str, Any]
    notes: list[str]


def collect(
    one: Source,
    splits: pd.DataFrame,
    *,
    classes: Mapping[str, Sequence[str]],
    max_left_out: float,
    min_side: int,
    min_std: float,
    max_bad_fraction: float,
    workers: int | None,
    resume: Path,
    dask: str | None = None,
    removed: Forgotten = NOBODY,
    target: Target = targets.PNEUMONIA,
) -> Films:
    """Fetch the films of a source, measure them as `validate` does, and find those that the run has too.

    All images of the target count, whatever official split they are in. Identifiers of images and of patients get the
    name of the source in front.

    Args:
        one: the source.
        splits: the table of the run, as `rebalance` wrote it.
        classes, max_left_out, removed: as of `fetch.fetch`.
        min_side, min_std, max_bad_fraction: as of `validate`.
        workers, dask: as in `compute.run`.
        resume: an existing folder that survives a crash; an archive stays in it until its images are prepared.
        target: of the run; images that are not of it are left out.

    Raises:
        UserError: it cannot be fetched or checked, or lacks a class when all that is not tested is left out; the
            message names the source.
    """
    folder = resume / "sources" / one.name
    for part in ("raw", "download"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    try:
        manifest, boxes, _ = fetch.fetch(
            one.data,
            folder / "raw",
            url=one.url,
            sha256=None,
            n_images=0,
            seed=0,
            workers=workers,
            resume=folder / "download",
            classes=classes,
            max_left_out=max_left_out,
            removed=removed,
        )
        measured = folder / f"measured-{_digest(manifest)}"  # of these films: the source may have changed since
        measured.mkdir(exist_ok=True)
        table = validate.measure(
            manifest, min_side=min_side, min_std=min_std, workers=workers, dask=dask, resume=measured
        )
        validate.require_enough(table, max_bad_fraction)
    except UserError as error:
        raise _of(one, error) from error
    table = relabel.relabel(table, target)
    table["left_out"] = why_left_out(table, splits)
    _require_both_classes(one, table, target)
    notes = [fetch.unidentified(manifest), _same_names(table, splits)]
    prefix = f"{one.name}/"
    record = {
        "data": one.data,
        "n_images": len(table),
        "left_out": [{"reason": reason, "n": n} for reason, n in _reasons(table).items()],
        "n_in_run": int(table["left_out"].isin([IN_RUN, PATIENT_IN_RUN]).sum()),
    }
    boxes = boxes[boxes["image_id"].isin(table.loc[table["left_out"].eq(""), "image_id"])]
    # The copy of an archive is gone when the stage ends: the table names the archive itself, where that is a zip too.
    archive = str(one.url or sources.source(one.data).url)
    member = table["uri"].str.rpartition("::")[0]
    address = member + f"::{archive}" if archive.lower().endswith(".zip") else ""
    table["place"] = table["uri"].mask(table["uri"].str.startswith("zip://"), address)
    return Films(
        # Two places may have the same identifier for different persons.
        table.assign(source=one.name, image_id=prefix + table["image_id"], patient_id=prefix + table["patient_id"]),
        boxes.assign(source=one.name, image_id=prefix + boxes["image_id"])[["source", *fetch.BOXES]],
        record,
        [note for note in notes if note],
    )


def why_left_out(table: pd.DataFrame, splits: pd.DataFrame) -> pd.Series:
    """For each image the reason for which it is not tested; "" for a tested one.

    Args:
        table: as `validate.measure` returns it.
        splits: the table of the run, as `rebalance` wrote it.
    """
    in_run = table["valid"] & is_in(table, splits)
    of_patient = table["valid"] & table["patient_id"].isin(table.loc[in_run, "patient_id"])
    is_copy = table["valid"] & table.duplicated("sha256")
    # Of several reasons the first one.
    return pd.Series(
        np.select([~table["valid"], in_run, of_patient, is_copy], [table["reason"], IN_RUN, PATIENT_IN_RUN, COPY], ""),
        index=table.index,
        dtype="str",
    )


def is_in(table: pd.DataFrame, splits: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which images the run has too, also compressed again, in another size or brightness: bool (n,).

    Args:
        table: `sha256, dhash`; an empty hash is that of an image that cannot be read.
        splits: the same of the run.
    """
    same = table["sha256"].isin(splits["sha256"]).to_numpy(bool, copy=True)
    rows = np.flatnonzero(table["dhash"].ne(""))
    theirs = validate.hashes(splits["dhash"])
    for row, mine in zip(rows, validate.hashes(table["dhash"].iloc[rows]), strict=True):
        same[row] |= bool((np.bitwise_count(theirs ^ mine).sum(axis=1) <= validate.NEAR).any())
    return same


def write(
    parts: Mapping[str, Films],
    folder: Path,
    preparation: Preparation,
    *,
    workers: int | None,
    resume: Path | None = None,
    dask: str | None = None,
) -> pd.DataFrame:
    """Write `external.zarr`, `external.csv` and `external_boxes.csv`.

    The store is as that of `preprocess`, with a group for each source in the place of the splits: what reads a split
    reads a source. Its attribute `sources` has the record of each source.

    Args:
        parts: name of each source -> its films; empty = no external test.
        folder: `data/`.
        preparation: that of the run.
        workers, dask: as in `compute.run`.
        resume: an existing folder that survives a crash; needed only if there are sources.

    Returns:
        `external.csv`: the images of all sources.

    Raises:
        UserError: an image cannot be read, or has changed since it was listed.
    """
    attributes = {"sources": {name: films.record for name, films in parts.items()}}
    path = folder / "external.zarr"
    if resume is None:
        with workspace.written_whole(path) as partial:
            store.create_store(partial, {**attributes, "preparation": preparation.as_dict()})
        films, boxes = pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=["source", *fetch.BOXES])
    else:
        films = pd.concat([one.table for one in parts.values()], ignore_index=True)
        boxes = pd.concat([one.boxes for one in parts.values()], ignore_index=True)
        tested = films[films["left_out"].eq("")].assign(split=lambda rows: rows["source"], weight=1.0, repeats=1)
        if "lung_mask_uri" in tested:
            tested = tested.fillna({"lung_mask_uri": ""})
        prepared = resume / f"prepared-{_digest(tested)}"
        prepared.mkdir(exist_ok=True)
        try:
            preprocess.write_store(
                tested,
                path,
                preparation,
                groups=list(parts),
                workers=workers,
                dask=dask,
                attributes=attributes,
                resume=prepared,
            )
        except UserError as error:
            raise UserError(_remedied(str(error))) from error
        films["uri"] = films["place"]
    more = [name for name in films if name not in (*COLUMNS, "lung_mask_uri", "place")]
    films = films[[*COLUMNS, *more]]
    tables.write_table(films, folder / "external.csv")
    tables.write_table(boxes, folder / "external_boxes.csv")
    return films


def in_words(name: str, films: Films, target: Target = targets.PNEUMONIA) -> list[str]:
    """The lines of the stage on a source."""
    tested = films.table[films.table["left_out"].eq("")]
    lines = [
        f"{name}: {len(tested):,} images of {tested['patient_id'].nunique():,} patients, "
        f"{int(tested['label'].sum()):,} with {target.finding}"
    ]
    lines += [f"left out: {row['n']:,}, {row['reason']}" for row in films.record["left_out"]]
    return lines + films.notes


def _same_names(table: pd.DataFrame, splits: pd.DataFrame) -> str:
    """A note on patient identifiers of tested images that patients of the run have too; else empty."""
    named = table[table["left_out"].eq("") & table["patient_id"].ne(table["image_id"])]
    n_same = len(set(named["patient_id"]) & set(splits["patient_id"]))
    if not n_same:
        return ""
    return (
        f"NOTE: patient identifiers that patients of this run have too: {n_same:,}; if they name the same persons, "
        "remove their images: this is no external test of them"
    )


def _require_both_classes(one: Source, table: pd.DataFrame, target: Target) -> None:
    needed = f", with the subtypes {' and '.join(target.subtypes)}" if target.subtypes else ""
    for label, name in target.classes.items():
        part = table[table["label"] == label]
        if part["left_out"].ne("").all():
            reasons = ", ".join(f"{n:,} {why}" for why, n in _reasons(part).items())
            raise UserError(
                f"external source {one.name}: no image of class {label} ({name}) is left ({reasons}); a test needs "
                f"both classes{needed}: remove the source or give another one"
            )


def _reasons(table: pd.DataFrame) -> dict[str, int]:
    """Why images are not tested, without details of single files, and how many."""
    reasons = table.loc[table["left_out"] != "", "left_out"].str.split(" (", regex=False).str[0].value_counts()
    return {str(reason): int(n) for reason, n in reasons.items()}


def _digest(table: pd.DataFrame) -> str:
    """Of which films these are: what was done for others in an earlier call must not be taken for them."""
    columns = [name for name in ("image_id", "sha256", "label", "uri", "lung_mask_uri") if name in table]
    return workspace.sha256_bytes(table[columns].to_csv(index=False).encode())[:16]


def _of(one: Source, error: UserError) -> UserError:
    return UserError(f"external source {one.name}: {_remedied(str(error))}")


def _remedied(text: str) -> str:
    """A message of `fetch` or of the reader of images with the remedy that helps here."""
    return text.replace("fetch.url", "its url").replace("-s fetch", "-s external")
