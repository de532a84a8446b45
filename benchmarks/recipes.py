"""Compare recipes on images that were taken unlike their class: `make recipes`, which writes docs/recipes.csv.

On unchanged validation images of the Kermany set all recipes with which a network learns have a similar AUC: validation
comes from the same archive, where brightness, contrast and sharpness alone separate the classes. So recipes are chosen
on images of train and validation that were taken like most images of the other class, by more measures than those of
`rebalance.acquisition`. Half of the patients of such images are left out of training, and the AUC on their unusual
images is compared. The measures are similar to those of `rebalance.acquisition`, so they favour its weights. The test
split is not used here, but the authors who chose the recipes knew its figures. Each row is one training, at seed 1:
differences below the half width of the intervals mean little.

    make recipes RECIPES="--url chest_xray=PATH --weights mobilenet=PATH compact mobilenet"
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from benchmarks import results
from pneumonia import evaluate, rebalance, train
from pneumonia.data import tables
from pneumonia.data.store import Split, open_store, read_split
from pneumonia.metrics import decisions, ranking
from pneumonia.models import networks, runtime, scoring
from pneumonia.training.recipe import Recipe, Schedule

TABLE = results.ROOT / "docs/recipes.csv"
CLONE = results.ROOT / ".resume/recipes"
DATA = "chest_xray"
UNUSUAL = {0: 0.15, 1: 0.10}
"""Share of each class that counts as taken like the other one: label -> share."""

SEED = 1
"""Of training, and of the choice of patients whose images are judged."""

CLAHE = {"preprocess.clip_limit": 2.0, "preprocess.tile_grid": 8}
RECIPES: dict[str, dict[str, Any]] = {
    "equalised as a whole": {},
    "plain": {"preprocess.clip_limit": 0.0, "preprocess.tile_grid": 8},
    "CLAHE": CLAHE,
    "64 px": {"preprocess.image_size": 64},
    "32 px": {"preprocess.image_size": 32},
    "12 epochs": {"train.epochs": 12},
    "weighed up to 30 times": {"rebalance.acquisition": 30.0},
    "unweighed": results.UNWEIGHED,
    "mixup": {"train.mixup": 0.2},
    "best epoch on validation": {"train.keep": "best"},
    "CLAHE, unweighed": CLAHE | results.UNWEIGHED,
    "CLAHE, unweighed, 12 epochs": CLAHE | results.UNWEIGHED | {"train.epochs": 12},
    "unweighed, 12 epochs": results.UNWEIGHED | {"train.epochs": 12},
    "strength 3, 12 epochs": {"train.strength": 3.0, "train.epochs": 12},
    "three as one": {"train.members": 3},
    "unweighed, augment .5, strength 1": results.UNWEIGHED | results.GENTLE,
    "CLAHE, unweighed, augment .5, strength 1": CLAHE | results.UNWEIGHED | results.GENTLE,
}
"""Differences from the settings of `base`."""

SAME = ["data", "model", "weights", "digest", "network_px", "seed", "judges"]
"""Columns that define a training and its judged images; a recipe is not run twice under another name."""


def main() -> None:
    arguments = results.arguments("make recipes", "Fill docs/recipes.csv.")
    urls, weights = dict(arguments.url), dict(arguments.weights)
    commit = results.check_out(CLONE, "make recipes")
    runtime.start_keras()
    workflow = {"data": DATA, "fetch.url": urls.get(DATA, "null")}
    results.run_until("preprocess", CLONE, workflow | {"preprocess.clip_limit": 0})
    measures = pd.DataFrame({name: acquisition_measures(image) for name, image in _pixels().items()}).T
    splits = tables.read_table(CLONE / "data/splits.csv")
    splits = splits.assign(split=roles(splits, measures, seed=SEED))
    judges = hashlib.sha256("\n".join(splits["image_id"][splits["split"] == "judge"]).encode()).hexdigest()[:8]
    for model in arguments.models or ("compact", "mobilenet"):
        selected = workflow | {"model": model, "weights": weights.get(model, "auto")}
        if (backbone := results.fetch_weights(CLONE, selected)) is None:
            continue
        for name, changes in RECIPES.items():
            settings = {**base(model), **changes}
            if any(key in settings for key in results.GONE):
                continue
            values = results.params_with(settings)
            known = {
                "data": DATA,
                "model": model,
                "recipe": name,
                "weights": Path(backbone.name).name,
                "digest": results.recipe(settings),
                "stored_px": values["preprocess"]["image_size"],
                "network_px": networks.MODELS[model].size,
                "seed": SEED,
                "judges": judges,
            }
            table = _table()
            if (name_in_table := _name_in_table(table, known)) is not None:
                print(f"{model}, {name}: is in the table as {name_in_table!r}")
                continue
            stored = {key: value for key, value in settings.items() if key.startswith("preprocess.")}
            results.run_until("preprocess", CLONE, workflow | stored)
            row = known | judge(model, splits, values, backbone.paths) | {"commit": commit}
            print({key: row[key] for key in ("model", "recipe", "auc", "auc_low", "auc_high", "val_robust_auc")})
            tables.write_table(pd.concat([table.astype(object), pd.DataFrame([row], dtype=object)]), TABLE)


def base(model: str) -> Mapping[str, Any]:
    """The settings from which the recipes of a network start; they do not depend on results.csv."""
    return results.FINE_TUNED if networks.MODELS[model].weights_urls else results.FROM_SCRATCH


def _table() -> pd.DataFrame:
    if not TABLE.is_file():
        return pd.DataFrame(columns=[*SAME, "recipe"])
    return pd.read_csv(TABLE, dtype={"digest": str, "judges": str, "commit": str})


def _name_in_table(table: pd.DataFrame, known: Mapping[str, Any]) -> str | None:
    """The name of a recipe in the table; None = it is not there."""
    same = (table[SAME] == pd.Series(known)[SAME]).all(axis=1)
    return str(table["recipe"][same].iloc[0]) if same.any() else None


def acquisition_measures(image: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Measures of how an image was taken and stored: sharpness at four scales, gray levels, the edge at each side.

    Args:
        image: uint8 (height, width).
    """
    measures, scaled = {}, image.astype(np.float32)
    for octave in range(4):
        measures[f"sharpness_{octave}"] = float(np.log1p(cv2.Laplacian(scaled, cv2.CV_32F).var()))
        scaled = cv2.pyrDown(scaled)
    percents = (1, 5, 25, 50, 75, 95, 99)
    measures |= {f"gray_{p}": float(value) for p, value in zip(percents, np.percentile(image, percents), strict=True)}
    measures |= {
        "contrast": float(image.std()),
        "black": float((image < 8).mean()),
        "white": float((image > 250).mean()),
    }
    for name, side in {
        "top": image[:12],
        "bottom": image[-12:],
        "left": image[:, :12],
        "right": image[:, -12:],
    }.items():
        measures |= {f"{name}_mean": float(side.mean()), f"{name}_contrast": float(side.std())}
    return measures


def roles(splits: pd.DataFrame, measures: pd.DataFrame, *, seed: int) -> pd.Series:
    """The use of each image of train and validation: `train`, `val`, `judge`, or "" if it is left out.

    Args:
        splits: as `rebalance` wrote it; its test rows are left out.
        measures: of the images of train and validation, by `image_id`.
        seed: selects the patients whose unusual images are judged.
    """
    known = splits[splits["split"] != "test"]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    probability = pd.Series(
        cross_val_predict(
            HistGradientBoostingClassifier(max_iter=150, random_state=seed),
            measures.loc[known["image_id"]].to_numpy(),
            known["label"],
            groups=known["patient_id"],
            cv=folds,
            method="predict_proba",
        )[:, 1],
        index=known.index,
    )
    unusual = pd.Series(False, index=known.index)
    for label, share in UNUSUAL.items():
        of_class = probability[known["label"] == label]
        most_unlike = of_class.nlargest if label == 0 else of_class.nsmallest
        unusual[most_unlike(round(share * len(of_class))).index] = True
    patients = np.unique(known["patient_id"][unusual])
    held_out = np.random.default_rng(seed).permutation(patients)[: len(patients) // 2]
    is_held_out = known["patient_id"].isin(held_out)
    # The other unusual images keep their split: without them validation would be easier.
    role = known["split"].mask(is_held_out, "").mask(is_held_out & unusual, "judge")
    return role.reindex(splits.index, fill_value="")


def judge(
    model_name: str, splits: pd.DataFrame, settings: Mapping[str, Any], weights: Sequence[Path]
) -> dict[str, Any]:
    """Train without the judged images, and score them.

    Args:
        model_name: a key of `networks.MODELS`.
        splits: data/splits.csv with the `split` of `roles`.
        settings: as in params.yaml.
        weights: files of the backbone.

    Returns:
        AUC of the judged images with its interval, by patient; sensitivity and specificity at the threshold chosen on
        validation; and the AUCs of validation. Compare the robust AUC only between recipes with the same
        `preprocess.image_size`: the same noise has more effect on smaller images.
    """
    pixels, balancing = _pixels(), settings["rebalance"]
    table, _ = rebalance.weigh(splits, strategy=balancing["strategy"], max_ratio=balancing["acquisition"], seed=SEED)
    train_split, val_split, judged = (
        _split(table[table["split"] == name], pixels) for name in ("train", "val", "judge")
    )
    options = settings["train"]
    guess, _ = networks.search_space(model_name, pretrained=bool(weights))
    recipe = Recipe(**{name: options[name] for name in Recipe._fields})
    (model,), history = train.fit_folds(
        lambda split: train.start(
            model_name, weights, guess["dropout"], split, size=recipe.image_size, box_weight=recipe.box_weight
        ),
        1,
        [(train_split, val_split)],
        recipe.for_weights(weights),
        Schedule(options["epochs"], options["patience"], guess["learning_rate"], SEED, guess.get("head_learning_rate")),
    )
    scores, labels = scoring.predict_scores(model, judged.images), judged.labels.astype(int)
    low, high = ranking.auc_interval(labels, scores, groups=table["patient_id"][table["split"] == "judge"])
    val_scores = scoring.predict_scores(model, val_split.images)
    threshold = decisions.youden_threshold(val_split.labels.astype(int), val_scores)
    y_pred = scores >= threshold
    return {
        "n": len(labels),
        "n_pneumonia": int(labels.sum()),
        "auc": round(ranking.roc_auc(labels, scores), 4),
        "auc_low": round(low, 4),
        "auc_high": round(high, 4),
        "sensitivity": round(float(y_pred[labels == 1].mean()), 4),
        "specificity": round(float(1 - y_pred[labels == 0].mean()), 4),
        "val_auc": round(ranking.roc_auc(val_split.labels.astype(int), val_scores), 4),
        "val_robust_auc": round(evaluate.robustness([(model, val_split)])["mean"], 4),
        "epochs": len(history),
        "minutes": round(history["seconds"].sum() / 60, 1),
    }


def _pixels() -> dict[str, npt.NDArray[np.uint8]]:
    """The images of train and validation, by `image_id`."""
    store = open_store(CLONE / "data/images.zarr")
    pixels: dict[str, npt.NDArray[np.uint8]] = {}
    for name in ("train", "val"):
        split = read_split(store, name)
        pixels |= dict(zip(map(str, split.image_ids), split.images[:], strict=True))
    return pixels


def _split(part: pd.DataFrame, pixels: Mapping[str, npt.NDArray[np.uint8]]) -> Split:
    return Split(
        images=np.stack([pixels[name] for name in part["image_id"]]),
        labels=part["label"].to_numpy(np.int8),
        weights=part["weight"].to_numpy(np.float32),
        repeats=part["repeats"].to_numpy(np.int16),
        image_ids=part["image_id"].to_numpy(),
    )


if __name__ == "__main__":
    main()
