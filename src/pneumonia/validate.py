"""Look at every image before anything learns from it: measure, check against expectations, quarantine.

A bad image becomes a row with a reason, never a crash; too many of them fail the stage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, compute, dataset

MEASURES = ("width", "height", "mean", "std", "dhash", "valid", "reason")


class Report(NamedTuple):
    """What `validation.json` holds, and the page for people.

    Attributes:
        summary: free of timestamps, so that it is a stable out.
        page: Great Expectations Data Docs, the page with the results; its folder is a static site.
    """

    summary: dict[str, Any]
    page: Path


def measure(manifest: pd.DataFrame, *, min_side: int, min_std: float, workers: int | None) -> pd.DataFrame:
    """The manifest with every image decoded and measured: the columns `MEASURES`.

    Args:
        manifest: as `fetch` wrote it.
        min_side: pixels; a smaller image is quarantined.
        min_std: gray levels; an image with a smaller standard deviation is blank.
        workers: processes.

    Returns:
        All rows. `mean` and `std` in gray levels, `dhash` a perceptual hash of 16 hex digits, `valid` a bool,
        `reason` the reason of a quarantine, else "". What an unreadable image has no value for is 0 or "".
    """
    rows: list[dict[str, Any]] = []
    for part in compute.run(_measure_chunk, list(manifest["uri"]), workers=workers, chunk=256, label="validate"):
        rows += part
    table = pd.concat([manifest.reset_index(drop=True), pd.DataFrame(rows)], axis=1)
    small = table["reason"].eq("") & (table[["width", "height"]].min(axis=1) < min_side)
    table.loc[small, "reason"] = f"shorter side under {min_side} pixels"
    blank = table["reason"].eq("") & (table["std"] < min_std)
    table.loc[blank, "reason"] = f"blank: standard deviation under {min_std:g} gray levels"
    clash = table["reason"].eq("") & (table.groupby("sha256")["label"].transform("nunique") > 1)
    table.loc[clash, "reason"] = "the same file carries both labels"
    table["valid"] = table["reason"].eq("")
    return table[[*manifest.columns, *MEASURES]]


def _measure_chunk(uris: Sequence[str]) -> list[dict[str, Any]]:
    return [_measure(uri) for uri in uris]


def _measure(uri: str) -> dict[str, Any]:
    try:
        image = dataset.read_image(uri)
    except UserError as error:
        return {"width": 0, "height": 0, "mean": 0.0, "std": 0.0, "dhash": "", "reason": str(error)}
    height, width = image.shape
    mean, std = cv2.meanStdDev(image)
    return {
        "width": width,
        "height": height,
        "mean": round(float(mean[0, 0]), 3),
        "std": round(float(std[0, 0]), 3),
        "dhash": dhash(image),
        "reason": "",
    }


def dhash(image: npt.NDArray[np.uint8]) -> str:
    """A perceptual hash: near-duplicates differ in few of its 64 bits.

    Each bit says whether a pixel of the image, shrunk to 9x8, is brighter than its left neighbour.

    Args:
        image: uint8 (height, width).

    Returns:
        16 hex digits.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def report(table: pd.DataFrame, *, min_side: int, min_std: float, max_bad_fraction: float, docs: Path) -> Report:
    """Run the expectation suite over the measured table and render it as a page.

    Args:
        table: as `measure` returns it.
        min_side, min_std, max_bad_fraction: the settings the suite expects.
        docs: folder for the Data Docs; replaced.
    """
    results = _run_suite(table, min_side, min_std, max_bad_fraction, docs)
    copies = table.groupby("sha256")["sha256"].transform("size") > 1
    summary = {
        "n_images": len(table),
        "n_valid": int(table["valid"].sum()),
        "n_quarantined": int((~table["valid"]).sum()),
        "duplicate_groups": int(table.loc[copies, "sha256"].nunique()),
        "duplicate_files": int(copies.sum()),
        "expectations": results,
    }
    return Report(summary, next((docs / "validations").rglob("*.html")))


def require_enough(table: pd.DataFrame, max_bad_fraction: float) -> None:
    """Stop where too much is quarantined, or a class has nothing left.

    Raises:
        UserError: names the share, the limit and the commonest reason.
    """
    bad = table[~table["valid"]]
    if len(bad) > max_bad_fraction * len(table):
        worst = bad["reason"].str.replace(r"^.*: cannot", "cannot", regex=True).value_counts()
        raise UserError(
            f"{len(bad)} of {len(table)} images are bad ({len(bad) / len(table):.1%}), validate.max_bad_fraction "
            f"allows {max_bad_fraction:.1%}; commonest: {worst.index[0]} ({worst.iloc[0]}); mend the source "
            "or raise the limit"
        )
    for label, name in dataset.LABELS.items():
        if not (table["valid"] & table["label"].eq(label)).any():
            reasons = table.loc[table["label"].eq(label), "reason"].value_counts()
            raise UserError(
                f"no valid image of class {label} ({name}) is left; commonest reason: "
                f"{reasons.index[0] if len(reasons) else 'the source has none'}"
            )


def _run_suite(
    table: pd.DataFrame, min_side: int, min_std: float, max_bad_fraction: float, docs: Path
) -> list[dict[str, Any]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # Imported here: 3 s that a reader of this module's table functions need not wait for.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("images")
        .add_dataframe_asset("measured")
        .add_batch_definition_whole_dataframe("all")
    )
    mostly = 1 - max_bad_fraction
    expectations = [
        *(gxe.ExpectColumnToExist(column=name) for name in table.columns[:8]),
        gxe.ExpectTableRowCountToBeBetween(min_value=2),
        gxe.ExpectColumnValuesToBeUnique(column="image_id"),
        gxe.ExpectColumnValuesToNotBeNull(column="patient_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="label", value_set=[0, 1]),
        gxe.ExpectColumnValuesToBeInSet(column="source_split", value_set=["", "train", "val", "test"]),
        gxe.ExpectColumnMeanToBeBetween(column="label", min_value=0.02, max_value=0.98),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=min_side, max_value=20_000, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=min_side, max_value=20_000, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="mean", min_value=10, max_value=245, mostly=mostly),
        gxe.ExpectColumnValuesToBeBetween(column="std", min_value=min_std, max_value=128, mostly=mostly),
        gxe.ExpectColumnValuesToBeInSet(column="valid", value_set=[True], mostly=mostly),
        gxe.ExpectColumnValuesToBeUnique(column="sha256", mostly=0.95),
    ]
    suite = context.suites.add(gx.ExpectationSuite(name="chest X-rays", expectations=expectations))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="images against chest X-rays", data=batch, suite=suite)
    )
    with dataset.written_whole(docs) as partial:
        context.add_data_docs_site(
            site_name="local",
            site_config={
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(partial.resolve()),
                },
            },
        )
        checkpoint = gx.Checkpoint(
            name="validate",
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])],
        )
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    (result,) = outcome.run_results.values()
    return [_row(one) for one in result.results]


def _row(result: Any) -> dict[str, Any]:
    config = result.expectation_config
    column = config.kwargs.get("column", "")
    return {
        "name": f"{config.type}({column})",
        "success": bool(result.success),
        "unexpected": int(result.result.get("unexpected_count") or 0),
    }
