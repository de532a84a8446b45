"""What films prepared around the lungs change, on real data: `python -m benchmarks.around_lungs`, in docs/lungs.csv.

    python -m benchmarks.around_lungs --films chest_xray_proportions.zip --masks chest_xray_lungs.zip \
        --adults nih_adults.zip --weights mobilenet_v2_no_top.weights.h5

Each row is one run of the workflow up to `export`, without a search: `mobilenet` at 128 px with random crops, on films
of the Kermany set that are not in its official test split. Rows that exist are skipped. The adults of another hospital
choose nothing here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import results
from pneumonia import fetch, validate
from pneumonia.data import tables
from pneumonia.data.store import Split, open_store, read_split
from pneumonia.images import decode
from pneumonia.metrics import ranking
from pneumonia.models.predictor import Predictor

TABLE = results.ROOT / "docs/lungs.csv"
CLONE = results.ROOT / ".resume/around_lungs"
ASPECTS, SEEDS = ("pad", "lungs"), (1, 2, 3)
LEVEL = 0.95
RECIPE = {
    "data": "chest_xray",
    "model": "mobilenet",
    "rebalance.official_test": "leave_out",
    "train.epochs": 4,
    "train.head_epochs": 1,
    **results.CROPS,
}
"""The recipe of the results with random crops, in 4 epochs, so that six rows take two hours."""

BORDER = 8
"""Width of the border in pixels of an image of 224 px."""


def main() -> None:
    arguments = _arguments()
    commit = results.check_out(CLONE, "python -m benchmarks.around_lungs")
    for seed in SEEDS:
        for aspect in ASPECTS:
            table = _table()
            if ((table["aspect"] == aspect) & (table["seed"] == seed)).any():
                print(f"{aspect}, seed {seed}: is in the table")
                continue
            places = {
                "fetch.url": arguments.films.resolve(),
                "fetch.lungs": arguments.masks.resolve(),
                "weights": arguments.weights.resolve(),
            }
            settings = {**RECIPE, **places, "preprocess.aspect": aspect, "seed": seed}
            results.run_until("export", CLONE, settings)
            row = {"aspect": aspect, "seed": seed} | measure(CLONE, arguments.adults) | {"commit": commit}
            print(row)
            if arguments.keep:  # first: a line in the table is never made again
                results.keep(CLONE, arguments.keep / f"{aspect}-{seed}")
            tables.write_table(pd.concat([_table().astype(object), pd.DataFrame([row], dtype=object)]), TABLE)
    print(_table().groupby("aspect", sort=False).mean(numeric_only=True).round(3).T.to_string())


def measure(folder: Path, adults: Path) -> Mapping[str, Any]:
    """Figures of a finished run: AUC on validation and on adults, the audit of surroundings, and shortcuts that remain.

    Args:
        folder: of the run, up to `export`.
        adults: archive of adult films with a table of labels, of another hospital.
    """
    metrics, evaluation = (tables.read_json(folder / f"reports/{name}.json") for name in ("metrics", "evaluation"))
    audit = evaluation["stress"]["auc"]
    auc, low, high, unusual = on_adults(Predictor(folder / "models/predictor"), adults)
    store = open_store(folder / "data/images.zarr")
    train, val = read_split(store, "train"), read_split(store, "val")
    figures = {
        "val_auc": metrics["val"]["auc"],
        "adults_auc": auc,
        "adults_auc_low": low,
        "adults_auc_high": high,
        "adults_unusual": unusual,
        **{name: audit[name]["auc"] for name in ("swapped_lungs", "swapped_surroundings", "same_box_hidden")},
        "border_auc": border_auc(train, val),
        "corner_auc": corner_auc(val),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def on_adults(predictor: Predictor, archive: Path) -> tuple[float, float, float, float]:
    """AUC on an archive with a table of labels, its interval, and the share of films that are called unusual."""
    manifest, _ = fetch.read_archive("folder", archive)
    answers = predictor.predict(decode.read_image(uri) for uri in manifest["uri"])
    labels, scores = manifest["label"].to_numpy(), answers["score"].to_numpy()
    return (
        ranking.roc_auc(labels, scores),
        *ranking.auc_interval(labels, scores, level=LEVEL),
        float((answers["unusual"] != "").mean()),
    )


def border_auc(train: Split, val: Split) -> float:
    """Validation AUC of a linear model that sees only the outer pixels, 8 of 224, at a quarter of the resolution."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2_000))
    model.fit(_border(train), train.labels)
    return ranking.roc_auc(val.labels, model.predict_proba(_border(val))[:, 1])


def corner_auc(val: Split) -> float:
    """AUC of how bright the brightest pixels of the upper left corner are, without a model."""
    return ranking.roc_auc(val.labels, np.array([validate.corner(image) for image in val.images]))


def _border(split: Split) -> npt.NDArray[np.float32]:
    side = 56
    width = round(BORDER * side / 224)
    inside = np.zeros((side, side), bool)
    inside[width:-width, width:-width] = True
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in split.images]
    return np.stack(small)[:, ~inside].astype(np.float32)


def _table() -> pd.DataFrame:
    if not TABLE.is_file():
        return pd.DataFrame(columns=["aspect", "seed"])
    return pd.read_csv(TABLE, dtype={"commit": str})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.around_lungs", description="Fill docs/lungs.csv.")
    for option, text in (
        ("--films", "chest_xray_proportions.zip"),
        ("--masks", "chest_xray_lungs.zip"),
        ("--adults", "nih_adults.zip"),
        ("--weights", "ImageNet weights of MobileNetV2"),
    ):
        parser.add_argument(option, type=Path, required=True, help=text)
    parser.add_argument("--keep", type=Path, help="folder in which the models and reports of each run are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
