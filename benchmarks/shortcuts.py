"""What a planted shortcut does to a network, who notices, and what helps: `python -m benchmarks.shortcuts`.

Each row of docs/shortcuts.csv is one training on the phantom, without a search. The shortcut is in train and
validation, never in test: the difference of the two AUCs is what the network owes to it. The audit is made on
validation here, whose films carry the shortcut; that of a run is of its test films, which carry nothing. Rows that
exist are skipped. It ends with the table in Markdown that docs/shortcuts.md shows.

    python -m benchmarks.shortcuts
    python -m benchmarks.shortcuts --seeds 1 2
    python -m benchmarks.shortcuts --weights    # a minute: how much of a shortcut `rebalance.acquisition` takes away
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import zarr

from benchmarks import results
from pneumonia import evaluate, params, rebalance, train, validate
from pneumonia.data import phantom, shortcuts, tables
from pneumonia.data.store import open_store, read_split
from pneumonia.metrics import ranking
from pneumonia.models import networks, runtime, scoring
from pneumonia.report import plots
from pneumonia.training.recipe import Schedule

TABLE = results.ROOT / "docs/shortcuts.csv"
CLONE = results.ROOT / ".resume/shortcuts"
LEVEL = 0.95
DATA, MODEL = "phantom", "compact"
RECIPE = {"train.epochs": 16}
"""Differences from params.yaml; a row takes about a minute of one core, and its images as long again."""

STRENGTH, RATIO = 0.9, 10.0
"""`fetch.shortcut_strength` and `rebalance.acquisition`."""

REMEDIES: dict[str, dict[str, Any]] = {
    "no remedy": {},
    "random crops": {"train.crop": 0.2},
    "hidden edges": {"train.hide_edges": 0.5},
    "weights": {"rebalance.acquisition": RATIO},
    "around the lungs": {"preprocess.aspect": "lungs"},
}
"""Differences from `RECIPE`."""

AUDITED = ("frame_only", "letters_removed", "same_box_hidden", "swapped_lungs", "swapped_surroundings")
"""Figures of the audit that may notice a shortcut; `frame_only` only of films with bars."""

SHOWN = {
    "val_auc": "validation",
    "test_auc": "test",
    "frame_only": "frame only",
    "letters_removed": "letters removed",
    "swapped_lungs": "lungs of",
    "swapped_surroundings": "surroundings of",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortcuts", description="Fill docs/shortcuts.csv.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="of the training")
    parser.add_argument("--weights", action="store_true", help="only measure weights; no network is trained")
    options = parser.parse_args()
    if options.weights:
        print(weights_against_shortcuts(params.load(results.ROOT / "params.yaml").fetch.n_images, seed=1).to_string())
        return
    commit = results.check_out(CLONE, "python -m benchmarks.shortcuts")
    runtime.start_keras()
    for shortcut in ("none", *shortcuts.SHORTCUTS):
        for remedy, changes in REMEDIES.items():
            for seed in options.seeds:
                known = {"shortcut": shortcut, "remedy": remedy, "seed": seed}
                table = _table()
                if (table[list(known)] == pd.Series(known)).all(axis=1).any():
                    print(f"{shortcut}, {remedy}, seed {seed}: is in the table")
                    continue
                stored = {key: value for key, value in changes.items() if key.startswith("preprocess.")}
                results.run_until(
                    "preprocess",
                    CLONE,
                    {"data": DATA, "fetch.shortcut": shortcut, "fetch.shortcut_strength": STRENGTH, **stored},
                )
                row = known | figures(CLONE, results.params_with(RECIPE | changes), seed) | {"commit": commit}
                print(row, flush=True)
                tables.write_table(pd.concat([table.astype(object), pd.DataFrame([row], dtype=object)]), TABLE)
    print(f"\n{summary(_table())}")


def figures(folder: Path, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Figures of one training: AUC on validation and test, the audit on validation, and what the data report says.

    Args:
        folder: of a run up to `preprocess`.
        settings: as in params.yaml.
        seed: of the training.
    """
    splits, valid = (tables.read_table(folder / f"data/{name}.csv") for name in ("splits", "valid"))
    store = open_store(folder / "data/images.zarr")
    model = fit(store, splits, settings, seed)
    val, test = (read_split(store, name) for name in ("val", "test"))
    scores = scoring.predict_scores(model, test.images)
    patients = splits.set_index("image_id")["patient_id"].loc[test.image_ids]
    low, high = ranking.auc_interval(test.labels.astype(int), scores, LEVEL, groups=patients)
    audit = evaluate.audit(model, store, splits, level=LEVEL, on="val")
    aucs = audit["auc"]
    measure, alone = told_by(valid)
    numbers = {
        "val_auc": aucs["clean"]["auc"],
        "test_auc": ranking.roc_auc(test.labels.astype(int), scores),
        "test_auc_low": low,
        "test_auc_high": high,
        **{name: aucs[name]["auc"] for name in AUDITED if name in aucs},
        "data_auc": alone,
    }
    counts = {"n_val": len(val.labels), "n_test": len(test.labels)}
    rounded = {name: round(float(value), 4) for name, value in numbers.items()}
    return counts | rounded | {"data_measure": measure, "shortcut_prone": audit.get("shortcut_prone", "not decided")}


def fit(store: zarr.Group, splits: pd.DataFrame, settings: Mapping[str, Any], seed: int) -> Any:
    """The network of the defaults of `MODEL`, trained with these settings, as the stage `train` does it."""
    balancing, options = settings["rebalance"], settings["train"]
    table, _ = rebalance.weigh(
        splits, strategy=balancing["strategy"], max_ratio=balancing["acquisition"], seed=balancing["seed"]
    )
    learnt, val = (read_split(store, name) for name in ("train", "val"))
    weights = table.set_index("image_id")["weight"].loc[learnt.image_ids].to_numpy("float32")
    guess, _ = networks.search_space(MODEL, pretrained=False)
    recipe = results.training(settings)
    (model,), _ = train.fit_folds(
        lambda split: train.start(
            MODEL, (), guess["dropout"], split, size=recipe.image_size, box_weight=recipe.box_weight
        ),
        1,
        [(learnt._replace(weights=weights), val)],
        recipe.for_weights(()),
        Schedule(options["epochs"], options["patience"], guess["learning_rate"], seed, guess.get("head_learning_rate")),
    )
    return model


def weights_against_shortcuts(n_images: int, *, seed: int) -> pd.DataFrame:
    """What the weights of `rebalance.acquisition` take away from each shortcut, on the films of train and validation.

    Args:
        n_images: of the phantom.
        seed: of the phantom, and of the folds in which acquisition is learnt.

    Returns:
        A row for each shortcut: `acquisition_auc`; `gap_before` and `gap_after`, the share of the films with pneumonia
        that carry it less that of the normal films, by weight; the effective numbers of images after it.
    """
    films = [film for film in phantom.generate(n_images, seed) if shortcuts.split(film.patient_id) == "train"]
    rows = {}
    for kind in shortcuts.SHORTCUTS:
        planted = [shortcuts.plant(film, kind, STRENGTH, seed=seed) for film in films]
        facts = [
            {
                **validate._measure(cv2.imencode(".jpeg", after.image)[1].tobytes()),
                "image_id": film.image_id,
                "patient_id": film.patient_id,
                "label": film.label,
                "carries": after is not film,
            }
            for film, after in zip(films, planted, strict=True)
        ]
        table = pd.DataFrame(facts).assign(split="train", look_alike="", sha256=lambda films: films["image_id"])
        weighed, summary = rebalance.weigh(table, strategy="class_weight", max_ratio=RATIO, seed=seed)
        before, after = (gap(one) for one in (weighed.assign(weight=1.0), weighed))
        sizes = {name: summary[f"n_effective_{name}"] for name in tables.LABELS.values()}
        rows[kind] = {"acquisition_auc": summary["auc"], "gap_before": before, "gap_after": after, **sizes}
    return pd.DataFrame(rows).T.round(3)


def gap(table: pd.DataFrame) -> float:
    """The share, by weight, of the films with pneumonia that carry a shortcut, less that of the normal ones.

    >>> gap(pd.DataFrame({"label": [0, 0, 1, 1], "carries": [False, True, True, True], "weight": [3, 1, 1, 1]}))
    0.75
    """
    carried = {
        label: float(np.average(part["carries"], weights=part["weight"])) for label, part in table.groupby("label")
    }
    return carried[1] - carried[0]


def told_by(valid: pd.DataFrame) -> tuple[str, float]:
    """The measure of the data report that tells the classes best, and its AUC.

    Args:
        valid: as `validate` wrote it.
    """
    films = plots.with_ratio(valid[valid["valid"]])
    alone = {name: ranking.roc_auc(films["label"], films[name].astype(float)) for name in plots.MEASURES}
    best = max(alone, key=lambda name: abs(alone[name] - 0.5))
    return best, max(alone[best], 1 - alone[best])


def summary(table: pd.DataFrame) -> str:
    """The table in Markdown, the mean over seeds; a network by the shortcut and the remedy."""
    head = ["shortcut", "remedy", *SHOWN.values()]
    lines: list[list[str]] = [head, ["---"] * len(head)]
    for (shortcut, remedy), rows in table.groupby(["shortcut", "remedy"], sort=False):
        lines.append([str(shortcut), str(remedy), *(_mean(rows[name]) for name in SHOWN)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: pd.Series) -> str:
    return "" if values.isna().any() else f"{values.mean():.3f}".removeprefix("0")


def _table() -> pd.DataFrame:
    if not TABLE.is_file():
        return pd.DataFrame(columns=["shortcut", "remedy", "seed"])
    return pd.read_csv(TABLE, dtype={"commit": str}, keep_default_na=False, na_values=[""])  # "none" is a word


if __name__ == "__main__":
    main()
