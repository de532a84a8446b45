"""Check every image before training: measure it, check expectations, quarantine bad images.

A bad image becomes a row with a reason and never a crash. Too many bad images fail the stage.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumonia import UserError, compute, files, workspace
from pneumonia.data import tables
from pneumonia.images import decode

MEASURES = (
    "width",
    "height",
    "mode",
    "mean",
    "std",
    "entropy",
    "saturated",
    "sharpness",
    "corner",
    "border",
    "turned",
    "dhash",
    "look_alike",
    "valid",
    "reason",
    "note",
)

NEAR = 10
"""Maximum number of different bits, of 256, in the hashes of two copies of one image.

Of 400 images of the Kermany set, 99 % are within this limit after compression at quality 50, a resize by up to a third
in either direction or a brightening. None of its 17 million pairs of different files is within it.
"""

TURNED_MARGIN = 0.1
"""Minimum gain in the correlation with the typical image after a rotation, for an image to count as turned.

On the Kermany set it detects every image turned by 90 or 270 degrees, 88 % of those turned by 180 degrees, and no
upright one.
"""

IMAGES_SUITE = "images"
"""Name of the expectations on single images; the expectations on classes have their own page."""

MIN_PATIENTS = 10
"""Minimum number of patients of a class for a useful split by patient."""

_IN_WORDS = {
    "image_id": "names of images that occur more than once",
    "patient_id": "images without a patient",
    "sha256": "files that are identical to another one",
    "source_split": "images of an unknown split",
    "width": "images whose width is not between {low} and {high} pixels",
    "height": "images whose height is not between {low} and {high} pixels",
    "mean": "images whose mean gray level is not between {low} and {high}",
    "std": "images whose standard deviation is not between {low} and {high} gray levels",
    "entropy": "images whose entropy is not between {low} and {high} bits",
    "saturated": "images of which more than half is black or white",
    "turned": "images that look rotated",
    "look_alike": "images that look like one of another patient",
    "valid": "images that are quarantined",
    "reason": "images whose file is in both classes",
}
"""What does not meet an expectation on the images: column -> words; `low` and `high` are its limits."""

_CLASSES_IN_WORDS = {
    "share": "classes with less than 2 % or more than 98 % of the images",
    "n_patients": f"classes of fewer than {MIN_PATIENTS} patients, too few for a split by patient",
}

_OTHERS_IN_WORDS = {
    "expect_column_values_to_match_regex(sha256)": "files without a SHA-256",
    "expect_column_to_exist": "a table without the column {column}",
    "expect_table_row_count_to_be_between": "a table of fewer than two images",
    "expect_column_distinct_values_to_equal_set": "a class without images, or a third class",
}

_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
_POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline' https:; font-src https:"
_HEAD = f"""
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<style>.collapse {{ display: block !important; }}</style>
"""

PICTURE = 220

_N_SHOWN = 10
_CHUNK = 256
_THUMBNAIL = 16
_SHARPNESS = 112
_CORNER = (14 / 224, 36 / 224)  # of height and width
_BORDER = 8 / 224  # of the shorter side


class Check(NamedTuple):
    """The result of one expectation.

    Attributes:
        name: of Great Expectations, with the column in brackets.
        words: what does not meet it, such as "images that look rotated".
        column: that it is about; "" for the whole table.
        unexpected: number of images or classes that do not meet it.
        allowed: largest share of them with which it is met, 0-1.
        success: whether it is met.
        rows: positions in the table of the first images that do not meet it; none for classes and the whole table.
    """

    name: str
    words: str
    column: str
    unexpected: int
    allowed: float
    success: bool
    rows: tuple[int, ...]


class ValidationReport(NamedTuple):
    """The content of `validation.json`, and what the pages for readers show.

    Attributes:
        summary: without timestamps, so the out is the same for the same data.
        failed: the failed expectations in words.
        checks: all expectations.
        page: the page with the results of Great Expectations Data Docs; its folder is a static site.
    """

    summary: dict[str, Any]
    failed: list[str]
    checks: list[Check]
    page: Path


def measure(
    manifest: pd.DataFrame,
    *,
    min_side: int,
    min_std: float,
    workers: int | None,
    dask: str | None = None,
    resume: Path | None = None,
) -> pd.DataFrame:
    """The manifest with the columns `MEASURES`: every image is decoded and measured.

    Args:
        manifest: as `fetch` wrote it.
        min_side: pixels; a smaller image is quarantined.
        min_std: gray levels; an image with a smaller standard deviation is blank.
        workers, dask: as in `compute.run`.
        resume: an existing folder that survives a crash; holds the chunks that an earlier run finished.

    Returns:
        All rows. `mode` of the file (`L`, `RGB`, `MONOCHROME1`), `mean` and `std` in gray levels, `entropy` in bits,
        `saturated` the share of black and white pixels, `sharpness`, `corner` and `border` as the functions of these
        names, `turned` in degrees, `dhash` a perceptual hash of 64 hex digits, `look_alike` as the function of that
        name, `valid` a bool, `reason` the reason of a quarantine, else "", `note` of the image reader on a readable
        image, else "". Missing values of an unreadable image are 0 or "".

    Raises:
        UserError: a file is missing, cannot be reached, or has changed since `fetch` listed it.
    """
    jobs = list(zip(manifest["uri"].map(files.absolute), manifest["sha256"], strict=True))
    parts = dict(enumerate(compute.chunks(jobs, _CHUNK)))
    rows: dict[int, list[dict[str, Any]]] = {}
    for number in parts:
        if resume and workspace.is_sealed(resume / f"{number}.json"):
            rows[number] = tables.read_json(resume / f"{number}.json")["rows"]
    pending = {number: part for number, part in parts.items() if number not in rows}
    results = compute.run(_measure_chunk, list(pending.values()), workers=workers, label="validate", dask=dask)
    for number, part in zip(pending, results, strict=True):
        rows[number] = part
        if resume:
            tables.write_json({"rows": part}, resume / f"{number}.json")
            workspace.seal(resume / f"{number}.json")
    measured = pd.DataFrame([row for number in parts for row in rows[number]])
    table = pd.concat([manifest.reset_index(drop=True), measured], axis=1)
    small = table["reason"].eq("") & (table[["width", "height"]].min(axis=1) < min_side)
    table.loc[small, "reason"] = f"shorter side under {min_side} pixels"
    blank = table["reason"].eq("") & (table["std"] < min_std)
    table.loc[blank, "reason"] = f"blank: standard deviation under {min_std:g} gray levels"
    clash = table["reason"].eq("") & (table.groupby("sha256")["label"].transform("nunique") > 1)
    table.loc[clash, "reason"] = tables.BOTH_LABELS
    table["valid"] = table["reason"].eq("")
    table["turned"] = turned(table)
    table["look_alike"] = look_alike(table)
    return table[[*manifest.columns, *MEASURES]]


def _measure_chunk(jobs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)  # the processes already use all cores; threads of OpenCV would slow them down
    # A missing or unreachable file is an error and not a bad image: else the result would depend on the network.
    return [_measure(decode.read_unchanged(uri, sha256)) for uri, sha256 in jobs]


def _measure(content: bytes) -> dict[str, Any]:
    try:
        (image, note), mode = decode.decode_noted(content), decode.mode(content)
    except UserError as error:
        names = ("mean", "std", "entropy", "saturated", "sharpness", "corner", "border")
        missing = {"width": 0, "height": 0, **dict.fromkeys(names, 0.0)}
        reason = f"cannot be read as an image ({error})"
        return missing | {"mode": "", "dhash": "", "thumbnail": "", "reason": reason, "note": ""}
    height, width = image.shape
    mean, std = cv2.meanStdDev(image)
    shares = np.bincount(image.ravel(), minlength=256) / image.size
    nonzero = shares[shares > 0]
    return {
        "width": width,
        "height": height,
        "mode": mode,
        "mean": round(float(mean[0, 0]), 3),
        "std": round(float(std[0, 0]), 3),
        "entropy": round(float(-(nonzero * np.log2(nonzero)).sum()) + 0.0, 3),
        "saturated": round(float(shares[0] + shares[255]), 4),
        "sharpness": round(sharpness(image), 3),
        "corner": round(corner(image), 3),
        "border": round(border(image), 3),
        "dhash": dhash(image),
        "thumbnail": cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).tobytes().hex(),
        "reason": "",
        "note": note,
    }


def sharpness(image: npt.NDArray[np.uint8]) -> float:
    """Amount of fine structure, independent of the image size; it differs between devices, exposures and archives.

    Args:
        image: uint8 (height, width), 0-255.

    Returns:
        log2(1 + v) with v = variance of the Laplacian of the image at 112x112 pixels, in squared gray levels.

    Source:
        Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.
    """
    small = cv2.resize(image, (_SHARPNESS, _SHARPNESS), interpolation=cv2.INTER_AREA)
    return float(np.log2(1 + cv2.Laplacian(small.astype(np.float32), cv2.CV_32F).var()))


def corner(image: npt.NDArray[np.uint8]) -> float:
    """Brightness of the upper left corner, where letters are: the 95th percentile of its gray levels.

    In the Kermany set this alone tells the classes with an AUC of .75.
    """
    height, width = image.shape
    rows, columns = (max(1, round(side * share)) for side, share in ((height, _CORNER[0]), (width, _CORNER[1])))
    return float(np.percentile(image[:rows, :columns], 95))


def border(image: npt.NDArray[np.uint8]) -> float:
    """Mean gray level of the outermost pixels on all sides: collimators, frames, bars of another program."""
    width = max(1, round(min(image.shape) * _BORDER))
    inside = image[width:-width, width:-width]
    n_outside = image.size - inside.size
    return float((image.sum(dtype=np.int64) - inside.sum(dtype=np.int64)) / n_outside)


def dhash(image: npt.NDArray[np.uint8]) -> str:
    """A perceptual hash: the hashes of two copies of an image differ in few of 256 bits.

    The image is shrunk to 17x16 pixels. A bit is 1 if a pixel is brighter than its left neighbour. The usual 64 bits
    are too few for X-rays: 997 pairs of different images of the Kermany set have the same 64 bits.

    Args:
        image: uint8 (height, width).

    Returns:
        64 hex digits.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    small = cv2.resize(image, (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def hashes(texts: pd.Series) -> npt.NDArray[np.uint64]:
    """Values of `dhash` as numbers, whose bits can be compared: uint64 (n, 4)."""
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint64).reshape(-1, 4)


def look_alike(table: pd.DataFrame, *, near: int = NEAR) -> list[str]:
    """For each row the first `image_id` of its group of images that look the same and are of different patients.

    Such images are probably one image saved under two patients. A model that is trained on one must not be evaluated on
    the other. This function ignores files that are equal byte by byte.

    Args:
        table: `image_id, patient_id, sha256, dhash, valid`.
        near: maximum number of different bits of two hashes.

    Returns:
        "" for images that look like no image of another patient.
    """
    rows = np.flatnonzero(table["valid"])
    bits = hashes(table["dhash"].iloc[rows])
    patients = pd.factorize(table["patient_id"])[0][rows]
    contents = pd.factorize(table["sha256"])[0][rows]
    pairs = []
    for number in range(len(rows) - 1):  # 17 million pairs take a second
        apart = np.bitwise_count(bits[number + 1 :] ^ bits[number]).sum(axis=1)
        for other in number + 1 + np.flatnonzero(apart <= near):
            if patients[other] != patients[number] and contents[other] != contents[number]:
                pairs.append((number, other))
    first_ids = [""] * len(table)
    if pairs:
        first, second = np.array(pairs).T
        links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(rows), len(rows)))
        component = connected_components(links, directed=False)[1]
        ids = table["image_id"].iloc[rows].to_numpy()
        for number in np.unique(np.concatenate([first, second])):
            first_ids[rows[number]] = min(ids[component == component[number]])
    return first_ids


def turned(table: pd.DataFrame) -> list[int]:
    """Estimated rotation of each image in degrees, anticlockwise: 0, 90, 180 or 270.

    An image counts as turned if one of its rotations fits the typical image clearly better than the image itself. This
    works if most images are upright.

    Args:
        table: `thumbnail`, hex digits of uint8 (16, 16), "" for an image that cannot be read.
    """
    rows = np.flatnonzero(table["thumbnail"] != "")
    degrees = np.zeros(len(table), dtype=int)
    if len(rows):
        pixels = np.array([np.frombuffer(bytes.fromhex(text), np.uint8) for text in table["thumbnail"].iloc[rows]])
        unit = _centred(pixels.astype(np.float64)).reshape(-1, _THUMBNAIL, _THUMBNAIL)
        typical = _centred(np.median(unit, axis=0).reshape(1, -1))[0]
        # The same number of quarter turns clockwise makes a turned image upright.
        fits = np.stack([np.rot90(unit, -turn, axes=(1, 2)).reshape(len(rows), -1) @ typical for turn in range(4)])
        best = fits.argmax(axis=0)
        degrees[rows] = np.where(fits.max(axis=0) > fits[0] + TURNED_MARGIN, 90 * best, 0)
    return [int(one) for one in degrees]


def _centred(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))


def report(
    table: pd.DataFrame, *, min_side: int, min_std: float, max_bad_fraction: float, docs: Path
) -> ValidationReport:
    """Run the expectation suite on the measured table and write the results as a page.

    Args:
        table: as `measure` returns it.
        min_side, min_std, max_bad_fraction: limits of the suite, as in params.yaml.
        docs: folder for the Data Docs; replaced.
    """
    checks = _run_suite(table, min_side, min_std, max_bad_fraction, docs)
    copies = table.groupby("sha256")["sha256"].transform("size") > 1
    alike = table["look_alike"] != ""
    # Without the details of a single file in brackets.
    reasons = table.loc[~table["valid"], "reason"].str.split(" (", regex=False).str[0].value_counts()
    summary = {
        "n_images": len(table),
        "n_valid": int(table["valid"].sum()),
        "n_quarantined": int((~table["valid"]).sum()),
        "quarantined": [{"reason": str(reason), "n": int(n)} for reason, n in reasons.items()],
        "n_patients": {name: int(row["n_patients"]) for name, row in _classes(table).set_index("class").iterrows()},
        "n_patients_of_both_classes": int(table.groupby("patient_id")["label"].nunique().gt(1).sum()),
        "duplicate_groups": int(table.loc[copies, "sha256"].nunique()),
        "duplicate_files": int(copies.sum()),
        "label_conflicts": int(table.groupby("sha256")["label"].nunique().gt(1).sum()),
        "look_alike_groups": int(table.loc[alike, "look_alike"].nunique()),
        "look_alike_files": int(alike.sum()),
        "n_turned": int((table["turned"] != 0).sum()),
        "expectations": [
            {"name": check.name, "success": check.success, "unexpected": check.unexpected, "words": check.words}
            for check in checks
        ],
    }
    failed = [_sentence(check) for check in checks if not check.success]
    return ValidationReport(summary, failed, checks, next((docs / "validations" / IMAGES_SUITE).rglob("*.html")))


def findings(table: pd.DataFrame) -> pd.DataFrame:
    """Images to check by eye: `image_id, finding` of quarantined, turned, look-alike and noted images."""
    notes = [
        table[~table["valid"]].assign(finding=lambda rows: "quarantined: " + rows["reason"]),
        table[table["turned"] != 0].assign(finding=lambda rows: "turned by " + rows["turned"].astype(str) + " degrees"),
        table[table["look_alike"] != ""].assign(finding=_resemblances),
        table[table["note"] != ""].assign(finding=lambda rows: rows["note"]),
    ]
    return pd.concat(notes)[["image_id", "finding"]]


def first_findings(findings: pd.DataFrame) -> list[str]:
    """The first findings as lines, quarantined images first, and the number of the others."""
    lines = [f"{row.image_id}: {row.finding}" for row in findings.head(_N_SHOWN).itertuples()]
    n_more = len(findings) - len(lines)
    return [*lines, f"and {n_more} more: findings.json of the MLflow run has all"] if n_more else lines


def _resemblances(alike: pd.DataFrame) -> list[str]:
    """For each image of a group that looks the same, the name of another one in words; one of the other class first."""
    groups = dict(list(alike.groupby("look_alike")))
    sentences = []
    for row in alike.to_dict("records"):
        group = groups[row["look_alike"]]
        others = group[group["patient_id"] != row["patient_id"]]
        of_other_class = others.loc[others["label"] != row["label"], "image_id"]
        if len(of_other_class):
            sentences.append(f"looks like {of_other_class.min()} of the other class")
        else:
            sentences.append(f"looks like {others['image_id'].min()} of another patient")
    return sentences


def _classes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per class, from valid rows: `class, label, n_images, share, n_patients`."""
    valid = table[table["valid"]]
    parts = [(label, name, valid[valid["label"] == label]) for label, name in tables.LABELS.items()]
    return pd.DataFrame(
        {
            "class": name,
            "label": label,
            "n_images": len(part),
            "share": round(len(part) / max(len(valid), 1), 4),
            "n_patients": part["patient_id"].nunique(),
        }
        for label, name, part in parts
    )


def require_enough(table: pd.DataFrame, max_bad_fraction: float) -> None:
    """Check that not too many images are quarantined and that each class has valid images.

    Raises:
        UserError: with the share, the limit and the most frequent reason.
    """
    bad = table[~table["valid"]]
    if len(bad) > max_bad_fraction * len(table):
        worst = bad["reason"].value_counts()
        raise UserError(
            f"{len(bad)} of {len(table)} images are bad ({len(bad) / len(table):.1%}), validate.max_bad_fraction "
            f"allows {max_bad_fraction:.1%}; most frequent: {worst.index[0]} ({worst.iloc[0]}); fix the "
            "source or raise the limit"
        )
    for label, name in tables.LABELS.items():
        if not (table["valid"] & table["label"].eq(label)).any():
            reasons = table.loc[table["label"].eq(label), "reason"].value_counts()
            raise UserError(
                f"no valid image of class {label} ({name}) is left; most frequent reason: "
                f"{reasons.index[0] if len(reasons) else 'the source has none'}"
            )


def _run_suite(table: pd.DataFrame, min_side: int, min_std: float, max_bad_fraction: float, docs: Path) -> list[Check]:
    """The results of both suites; their pages are written into `docs`."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # Imported here because it takes 3 s, which the functions on tables do not need.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("X-rays")
    mostly = 1 - max_bad_fraction
    of_images = [
        *(gxe.ExpectColumnToExist(column=name) for name in table.columns[:8]),
        gxe.ExpectTableRowCountToBeBetween(min_value=2),
        gxe.ExpectColumnValuesToBeUnique(column="image_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="patient_id", regex="."),
        gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="label", value_set=[0, 1]),
        gxe.ExpectColumnValuesToBeInSet(column="source_split", value_set=["", "train", "val", "test"]),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=min_side, max_value=20_000, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=min_side, max_value=20_000, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="mean", min_value=10, max_value=245, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="std", min_value=min_std, max_value=128, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="entropy", min_value=4, max_value=8, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="saturated", min_value=0, max_value=0.5, mostly=mostly),
        gxe.ExpectColumnValuesToBeInSet(column="turned", value_set=[0], mostly=mostly),
        gxe.ExpectColumnValuesToBeInSet(column="look_alike", value_set=[""]),
        gxe.ExpectColumnValuesToBeInSet(column="valid", value_set=[True], mostly=mostly),
        gxe.ExpectColumnValuesToNotMatchRegex(column="reason", regex=tables.BOTH_LABELS),
        gxe.ExpectColumnValuesToBeUnique(column="sha256", mostly=0.95),
    ]
    of_classes = [
        gxe.ExpectColumnValuesToBeBetween(column="share", min_value=0.02, max_value=0.98),
        gxe.ExpectColumnValuesToBeBetween(column="n_patients", min_value=MIN_PATIENTS),
    ]
    checks: list[Check] = []
    with workspace.written_whole(docs) as partial:
        store = {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(partial.resolve()).replace("$", r"\$"),
        }
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
        context.add_data_docs_site(site_name="local", site_config=site)
        for name, frame, expectations in (
            (IMAGES_SUITE, table, of_images),
            ("classes", _classes(table), of_classes),
        ):
            escaped = frame.map(lambda cell: html.escape(cell) if isinstance(cell, str) else cell)
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
            definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
            action = gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])
            checkpoint = gx.Checkpoint(
                name=name, validation_definitions=[context.validation_definitions.add(definition)], actions=[action]
            )
            outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": escaped})
            results = [result for run in outcome.run_results.values() for result in run.results]
            checks += [_check(result, of_images=name == IMAGES_SUITE) for result in results]
        for page in partial.rglob("*.html"):
            page.write_text(_without_scripts(page.read_text(encoding="utf-8")), encoding="utf-8")
        (partial / "index.html").write_text(_index(partial), encoding="utf-8")
    return checks


def _without_scripts(page: str) -> str:
    """A page of the Data Docs in which no script runs and nothing stays hidden that a script would show.

    Great Expectations writes names of files into it as they are, and loads scripts from other sites.
    """
    return _SCRIPT.sub("", page).replace("<head>", f"<head>{_HEAD}", 1)


def _index(docs: Path) -> str:
    """The first page of the Data Docs; that of Great Expectations is made by a script."""
    pages = sorted(page.relative_to(docs) for page in (docs / "validations").rglob("*.html"))
    links = "".join(f'<li><a href="{quote(page.as_posix())}">{page.parts[1]}</a></li>\n' for page in pages)
    return f"<!DOCTYPE html>\n<html>\n<head>{_HEAD}<title>Checks</title></head>\n<ul>\n{links}</ul>\n</html>\n"


def _check(result: Any, *, of_images: bool) -> Check:
    """A result of Great Expectations; it names the first 20 rows that do not meet the expectation.

    >>> from types import SimpleNamespace
    >>> kwargs = {"column": "mean", "min_value": 10, "max_value": 245, "mostly": 0.95}
    >>> config = SimpleNamespace(type="expect_column_values_to_be_between", kwargs=kwargs)
    >>> found = {"unexpected_count": 1, "partial_unexpected_index_list": [7]}
    >>> check = _check(SimpleNamespace(expectation_config=config, result=found, success=True), of_images=True)
    >>> check.words, check.unexpected, round(check.allowed, 2), check.rows
    ('images whose mean gray level is not between 10 and 245', 1, 0.05, (7,))
    """
    config = result.expectation_config
    column = config.kwargs.get("column", "")
    name = f"{config.type}({column})"
    if other := _OTHERS_IN_WORDS.get(name, _OTHERS_IN_WORDS.get(config.type)):
        words = other.format(column=column)
    else:
        low, high = (f"{config.kwargs.get(name) or 0:g}" for name in ("min_value", "max_value"))
        words = (_IN_WORDS if of_images else _CLASSES_IN_WORDS)[column].format(low=low, high=high)
    rows = (result.result.get("partial_unexpected_index_list") or ()) if of_images else ()
    return Check(
        name=name,
        words=words,
        column=column,
        unexpected=int(result.result.get("unexpected_count") or 0),
        allowed=1 - config.kwargs.get("mostly", 1),
        success=bool(result.success),
        rows=tuple(int(row) for row in rows),
    )


def _sentence(check: Check) -> str:
    """A failed expectation for the printed summary, with the number of images or classes that do not meet it."""
    if not check.unexpected:
        return check.words
    place = f" ({check.column} in data/valid.csv)" if check.column in _IN_WORDS else ""
    return f"{check.words}: {check.unexpected}{place}"


def picture(row: Mapping[str, Any]) -> bytes:
    """A small JPEG of an image for pages, of at most `PICTURE` pixels a side; b"" for an image that cannot be read.

    Args:
        row: `uri, sha256, width` of the measured table.

    Raises:
        UserError: the file is missing, cannot be reached, or has changed since `fetch` listed it.
    """
    if not row["width"]:
        return b""
    image = Image.fromarray(decode.decode(decode.read_unchanged(files.absolute(row["uri"]), row["sha256"])))
    image.thumbnail((PICTURE, PICTURE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
