"""Which recipe errs least on images that were taken unlike their class: `make recipes`, which writes docs/recipes.csv.

On clean validation images of the Kermany set all recipes are alike, with AUCs above .995: validation comes from the
same archive, where brightness, contrast and sharpness alone tell the classes apart. So recipes are chosen on the images
of train and validation that were taken as the other class mostly is, as `rebalance.acquisition` finds them: half of
their patients are kept from training, and the AUC on their unusual images counts. The test split takes no part.

    make recipes RECIPES="--url chest_xray=PATH --weights mobilenet=PATH compact mobilenet"
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import dataset, metrics, models, rebalance, train, tune
from tests import results

TABLE = results.ROOT / "docs/recipes.csv"
CLONE = results.ROOT / ".resume/recipes"
DATA = "chest_xray"
UNUSUAL = {0: 0.15, 1: 0.10}
"""Share of a class that counts as taken like the other: of normals, of pneumonias."""

PLAIN = {"preprocess.clip_limit": 0.0, "rebalance.acquisition": 1.0}
RECIPES: dict[str, dict[str, float]] = {
    "CLAHE": PLAIN | {"preprocess.clip_limit": 2.0},
    "plain": PLAIN,
    "plain, strength 1": PLAIN | {"train.strength": 1.0},
    "plain, mixup": PLAIN | {"train.mixup": 1.0},
    "plain, weighed": PLAIN | {"rebalance.acquisition": 10.0},
}
"""What differs from the settings of the model's row in `results.ROWS`."""


def main() -> None:
    arguments = results.arguments("make recipes", "Fill docs/recipes.csv.")
    urls, weights = (dict(pair.split("=", 1) for pair in pairs) for pairs in (arguments.url, arguments.weights))
    commit = results.check_out(CLONE, "make recipes")
    models.start_keras()
    for row in results.ROWS:
        if row.data != DATA or row.model not in (arguments.models or ("compact", "mobilenet")):
            continue
        for name, changes in RECIPES.items():
            settings = {**row.settings, **changes}
            known = {"data": DATA, "model": row.model, "recipe": name, "digest": results.recipe(settings)}
            text = {"digest": str, "commit": str}
            table = pd.read_csv(TABLE, dtype=text) if TABLE.is_file() else pd.DataFrame(columns=list(known))
            if (table[list(known)] == pd.Series(known)).all(axis=1).any():
                print(f"{row.model}, {name}: is in the table")
                continue
            workflow = {"data": DATA, "fetch.url": urls.get(DATA, "null")}
            results.run_until(
                "preprocess", CLONE, workflow | {"preprocess.clip_limit": settings["preprocess.clip_limit"]}
            )
            files = [Path(weights[row.model])] if row.model in weights else []
            found = known | judge(row.model, results.params_with(settings), files) | {"commit": commit}
            print({key: found[key] for key in ("model", "recipe", "auc", "auc_low", "auc_high", "val_auc")})
            dataset.write_table(pd.concat([table.astype(object), pd.DataFrame([found], dtype=object)]), TABLE)


def roles(splits: pd.DataFrame, *, seed: int = 1) -> pd.Series:
    """What each image of train and validation is for: `train`, `val`, `judge`, or "" where it is left out.

    Args:
        splits: as `rebalance` wrote it; its test rows are left out.
        seed: which patients' unusual images judge.
    """
    known = splits[splits["split"] != "test"]
    probability = rebalance.acquisition(known.assign(split="train", repeats=1), seed=seed)["probability"]
    unusual = pd.Series(False, index=known.index)
    for label, share in UNUSUAL.items():
        of_class = probability[known["label"] == label]
        most_unlike = of_class.nlargest if label == 0 else of_class.nsmallest
        unusual[most_unlike(round(share * len(of_class))).index] = True
    patients = np.unique(known["patient_id"][unusual])
    held_out = np.random.default_rng(seed).permutation(patients)[: len(patients) // 2]
    held = known["patient_id"].isin(held_out)
    # The other unusual ones are trained on, also those of validation, as are all of their patients' images.
    kept = known["patient_id"].isin(set(patients) - set(held_out))
    role = known["split"].mask(kept, "train").mask(held, "").mask(held & unusual, "judge")
    return role.reindex(splits.index, fill_value="")


def judge(model_name: str, settings: Mapping[str, Any], weights: list[Path]) -> dict[str, Any]:
    """Train without the images that judge, and score them."""
    import keras

    splits = dataset.read_table(CLONE / "data/splits.csv")
    role, store = roles(splits), dataset.open_store(CLONE / "data/images.zarr")
    pixels = {}
    for name in ("train", "val"):
        split = dataset.read_split(store, name)
        pixels |= dict(zip(map(str, split.image_ids), split.images, strict=True))
    table = rebalance.balance(splits.assign(split=role), strategy="class_weight", seed=1)
    at_most = settings["rebalance"]["acquisition"]
    if at_most > 1:
        table = rebalance.weigh_acquisition(table, rebalance.acquisition(table, seed=1), at_most=at_most)
    learnt, chosen, judged = (_split(table[role == name], pixels) for name in ("train", "val", "judge"))
    how, guess = settings["train"], tune.middle(settings["tune"]["learning_rate"], settings["tune"]["dropout"])
    keras.utils.set_random_seed(1)
    model = train.start(model_name, weights=weights, dropout=guess["dropout"], images=learnt.images)
    with tempfile.TemporaryDirectory() as resume:
        history = train.fit(
            model,
            learnt,
            chosen,
            train.Recipe(**{name: how[name] for name in train.Recipe._fields}),
            seed=1,
            epochs=how["epochs"],
            patience=how["patience"],
            learning_rate=guess["learning_rate"],
            resume=Path(resume),
            pretrained=bool(weights),
        )
    scores, labels = models.predict_scores(model, judged.images), judged.labels.astype(int)
    low, high = metrics.auc_interval(labels, scores, groups=table["patient_id"][role == "judge"])
    return {
        "n": len(labels),
        "n_pneumonia": int(labels.sum()),
        "auc": round(metrics.roc_auc(labels, scores), 4),
        "auc_low": round(low, 4),
        "auc_high": round(high, 4),
        "val_auc": round(history["val_auc"].max(), 4),
        "epochs": len(history),
        "minutes": round(history["seconds"].sum() / 60, 1),
    }


def _split(part: pd.DataFrame, pixels: Mapping[str, npt.NDArray[np.uint8]]) -> dataset.Split:
    return dataset.Split(
        images=np.stack([pixels[name] for name in part["image_id"]]),
        labels=part["label"].to_numpy(np.int8),
        weights=part["weight"].to_numpy(np.float32),
        repeats=part["repeats"].to_numpy(np.int16),
        image_ids=part["image_id"].to_numpy(),
    )


if __name__ == "__main__":
    main()
