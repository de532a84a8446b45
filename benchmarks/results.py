"""The table of published models and our own on real data: `make results`, which writes docs/results.csv.

Each line is one run of the workflow up to `export`, without a search, in a clone of this checkout. It evaluates the
official test split once. Lines that exist are skipped, and a run that was killed continues from its last epoch. So the
table can be made in several sessions. Rows are written down here before they are run: all seeds, or all folds, of a row
are one look at the test split.

    make results
    make results RESULTS="--url chest_xray=PATH --weights mobilenet=PATH --keep FOLDER mobilenet compact"

It ends with the tables in Markdown, our models and the published ones; docs/results.md shows the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML

from benchmarks import lung_geometry
from pneumonia import params, rebalance, workspace
from pneumonia.data import tables, targets
from pneumonia.data.store import n_networks, open_store, read_split
from pneumonia.images import augmentation
from pneumonia.models import backbones, loading, networks, runtime, scoring
from pneumonia.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/results.csv"
CLONE = ROOT / ".resume/results"
COLUMNS = [
    "data",
    "target",
    "model",
    "seed",
    "val_auc",
    "val_robust_auc",
    "test_auc",
    "test_auc_low",
    "test_auc_high",
    "accuracy",
    "sensitivity",
    "specificity",
    "threshold",
    "params",
    "weights",
    "train_minutes",
    "ms_per_image",
    "recipe",
    "test_look",
    "commit",
    "accuracy_at_target",
    "specificity_at_target",
    "auc_middle_hidden",
    "oof_auc",
    "folds",
    "operating_point",
    "auc_within_geometry",
    "swapped_lungs",
    "swapped_surroundings",
]
TIMED = 256  # images, for ms_per_image
LATER_FIGURES = {
    "choosing_auc": "AUC out of fold",
    "auc_within_geometry": "the same, lungs alike",
    "test_auc": "test AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "swapped_lungs": "AUC, lungs of",
    "swapped_surroundings": "AUC, surroundings of",
}
"""Of rows at the operating point `target_sensitivity`; without folds the AUC is that of validation."""

BACTERIAL_FIGURES = LATER_FIGURES | {"sensitivity": "bacterial found", "specificity": "viral found"}
"""Of rows with the target `bacterial`, at Youden's threshold out of fold."""

AUDITED = {
    "middle_hidden": "auc_middle_hidden",
    "swapped_lungs": "swapped_lungs",
    "swapped_surroundings": "swapped_surroundings",
}
"""Figures of the audit -> columns; the first only where no lungs are known, the others only where they are."""

FIGURES = {
    "val_auc": "validation AUC",
    "val_robust_auc": "validation AUC, robust",
    "test_auc": "test AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy_at_target": "accuracy at 95 % validation sensitivity",
    "auc_middle_hidden": "test AUC, middle blacked out",
}


LOOKS_BY_HAND = {"chest_xray": 40}
"""Looks at a test split before the rows at `target_sensitivity`; the last four by hand, not in this table."""


class Row(NamedTuple):
    """Runs of one model on one data set.

    Attributes:
        settings: differences from params.yaml, without `target`.
        note: distinguishes rows of one model.
        operating_point: of `evaluation.json`, that of the threshold, and so of accuracy, sensitivity and specificity.
    """

    data: str
    model: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    note: str = ""
    operating_point: str = "youden"
    target: str = "pneumonia"


# The gray levels are the best of benchmarks/recipes.py for `mobilenet`, but by less than it can resolve. The rest was
# chosen before that table was made, on images outside the test split or to save time. Looks at test were known: the
# first five when this was chosen, 20 when `LONGER` was.
STRONG = {
    "preprocess.clip_limit": 40.0,  # with one tile: equalises the gray levels of the whole image
    "preprocess.tile_grid": 1,
    "rebalance.acquisition": 10.0,
    "tune.n_trials": 0,
    "train.augment": 0.8,
    "train.strength": 2.0,
    "train.average": 0.98,
    "train.keep": "last",
    "train.label_smoothing": 0.05,
}
FINE_TUNED = STRONG | {"train.epochs": 6, "train.head_epochs": 1}
# Tried because 12 epochs were better than 6 on images taken unlike their class and on robust validation, at one seed.
LONGER = FINE_TUNED | {"train.epochs": 12}
FROM_SCRATCH = STRONG | {"train.epochs": 20, "rebalance.acquisition": 3.0}
# An ensemble of three, because a trial by hand was better than each of its networks on images taken unlike their class
# (.975; .969 to .970); 33 looks were known. The later one in docs/recipes.csv is better only on robust validation.
THREE = FINE_TUNED | {"train.members": 3}
# `mobilenet` without weights has the highest robust validation AUC of all recipes, by very little, and .04 less on
# images taken unlike their class; 28 looks were known when it was added.
UNWEIGHED = {"rebalance.acquisition": 1.0}
GENTLE = {"train.augment": 0.5, "train.strength": 1.0}
# `compact` stayed at chance with FROM_SCRATCH (looks 12 to 14). `shallow` was better with this recipe on robust
# validation and on images taken unlike their class; 24 looks were known. `conv4` uses it without its own trial; 27 were
# known.
GENTLER = FROM_SCRATCH | UNWEIGHED | GENTLE
EARLIER = {
    "tune.n_trials": 3,
    "tune.epochs": 10,
    "tune.learning_rate": [0.0005, 0.003],
    "tune.dropout": [0.0, 0.3],
    "train.epochs": 40,
    "train.batch_size": 32,
    "train.weight_decay": 0.0005,
}
"""Defaults of params.yaml when the rows up to look 36 were trained, where they have changed since."""

# Written down before the first of these rows looked at the test split. Random crops, on the evidence of three public
# repositories; films around the lungs, because frame, letters and the place of the lungs tell the class of this set;
# thresholds from scores out of fold, because one validation split depends on chance. The best row is named beforehand
# too: it is `mobilenet`. The networks without pretrained weights learn longer, from larger crops: `compact` once stayed
# at chance with strong distortions.
CROPS = {
    "preprocess.clip_limit": 0.0,
    "rebalance.strategy": "none",
    "tune.n_trials": 0,
    "train.batch_size": 32,
    "train.crop": 0.2,
    "train.augment": 1.0,
    "train.average": 0.98,
    "train.keep": "last",
    "train.label_smoothing": 0.05,
}
AROUND_LUNGS = CROPS | {
    "preprocess.aspect": "lungs",
    "preprocess.image_size": 160,  # crops of less than the image keep their details
}
FIVE_FOLDS = AROUND_LUNGS | {"rebalance.folds": 5, "train.epochs": 6, "train.head_epochs": 1}
# Written down after look 41, before any other of these rows: six epochs were too few, and ten had been tried by hand.
# One learning rate for all layers: on the first fold, after four epochs, AUC out of fold .986, and .984 with the decay.
TEN_EPOCHS = FIVE_FOLDS | {"train.epochs": 10, "train.layer_decay": 1.0}
LUNGS_FROM_SCRATCH = AROUND_LUNGS | {"train.epochs": 20, "train.crop": 0.5, "train.augment": 0.5}
# Films of 28 pixels, cropped to the chest by their authors: no lungs are searched for, and crops are larger.
SMALL_FILMS = CROPS | {"train.crop": 0.5, "train.epochs": 10, "train.head_epochs": 1, "train.layer_decay": 1.0}
GONE = ("train.members",)
"""Settings that params.yaml no longer has. Rows with them stay in the tables, and are not made again."""

ROWS = [
    Row("chest_xray", "mobilenet", (1,), FIVE_FOLDS, "five folds around the lungs", "target_sensitivity"),
    Row("chest_xray", "mobilenet", (1,), TEN_EPOCHS, "five folds around the lungs, 10 epochs", "target_sensitivity"),
    Row("chest_xray", "efficientnet", (1,), FIVE_FOLDS, "five folds around the lungs", "target_sensitivity"),
    Row("chest_xray", "compact", (1, 2, 3), LUNGS_FROM_SCRATCH, "around the lungs", "target_sensitivity"),
    Row("chest_xray", "conv4", (1,), LUNGS_FROM_SCRATCH, "around the lungs", "target_sensitivity"),
    Row("chest_xray", "shallow", (1,), LUNGS_FROM_SCRATCH, "around the lungs", "target_sensitivity"),
    Row("chest_xray", "mobilenet", (1, 2, 3), FINE_TUNED, "6 epochs"),
    Row("chest_xray", "mobilenet", (1, 2, 3), LONGER, "12 epochs"),
    Row("chest_xray", "mobilenet", (1, 2, 3), LONGER | UNWEIGHED, "12 epochs, not weighed"),
    Row("chest_xray", "mobilenet", (1, 2, 3), THREE, "three of 6 epochs as one"),
    Row("chest_xray", "compact", (1, 2, 3), GENTLER),
    Row("chest_xray", "shallow", (1, 2, 3), GENTLER),
    Row("chest_xray", "conv4", (1, 2, 3), GENTLER),
    # Written down before its look. At Youden's threshold, because neither kind is the one that must not be missed.
    Row("chest_xray", "mobilenet", (1,), TEN_EPOCHS, "five folds around the lungs, 10 epochs", target="bacterial"),
    Row("pneumoniamnist", "mobilenet", (1,), SMALL_FILMS, "random crops", "target_sensitivity"),
    Row("pneumoniamnist", "shallow", (1,), FROM_SCRATCH),
    Row("pneumoniamnist", "compact", (1,), FROM_SCRATCH),
    Row("pneumoniamnist", "mobilenet", (1,), FINE_TUNED),
    Row("chest_xray", "vanilla", (1,), FROM_SCRATCH | {"train.epochs": 8}),  # each takes four to nine minutes
]


PUBLISHED = [
    # data (and target), system, AUC, accuracy, as published by the authors.
    ("chest_xray", "Kermany et al. (2018), ImageNet network", ".968", ".928"),
    ("chest_xray", "a public study's ResNet-18 from ImageNet, images of full resolution", ".979", ".835"),
    ("chest_xray", "`fusion` as published, stopped early on the test set", ".976", ".865"),
    ("chest_xray", "`vanilla` as published", ".904", ""),
    ("chest_xray", "`compact` as published", "", "about .93"),
    ("chest_xray", "`conv4` as published", "", ".92"),
    ("chest_xray", "`shallow` as published", "", ".857"),
    ("chest_xray bacterial", "Kermany et al. (2018), ImageNet network", ".940", ".907"),
    ("chest_xray bacterial", "a public ConvNeXt", "", ".923"),
    ("pneumoniamnist", "ResNet-18, Yang et al. (2023)", ".944", ".854"),
    ("pneumoniamnist", "ResNet-18, images of 224 px, the same", ".956", ".864"),
    ("pneumoniamnist", "ResNet-50, the same", ".948", ".854"),
    ("pneumoniamnist", "ResNet-50, images of 224 px, the same", ".962", ".884"),
    ("pneumoniamnist", "auto-sklearn, the same", ".942", ".855"),
    ("pneumoniamnist", "AutoKeras, the same", ".947", ".878"),
    ("pneumoniamnist", "Google AutoML Vision, the same", ".991", ".946"),
]


def main() -> None:
    options = arguments("make results", "Fill docs/results.csv.")
    urls, weights = dict(options.url), dict(options.weights)
    commit = check_out(CLONE, "make results")
    for row in ROWS:
        if options.models and row.model not in options.models:
            continue
        settings = {
            "data": row.data,
            "target": row.target,
            "model": row.model,
            "weights": weights.get(row.model, "auto"),
            "fetch.url": urls.get(row.data, "null"),
            **row.settings,
        }
        if any(name in settings for name in GONE):
            print(f"{row.data} {row.model}, {row.note}: of an earlier version")
            continue
        for seed in row.seeds:
            digest = recipe(settings)
            name = targets.subject(row.data, row.target)
            if any(_is_done(row, seed, one, weights.get(row.model)) for one in digests(settings)):
                print(f"{name} {row.model} seed {seed}: is in the table")
                continue
            print(f"{name} {row.model} seed {seed}: starts", flush=True)
            figures = _run(row, seed, settings)
            if options.keep and "test_auc" in figures:  # first: a line in the table is never made again
                keep(CLONE, options.keep / f"{name}-{row.model}-{digest}-{seed}")
            _append(figures | {"recipe": digest, "commit": commit})
    for target in dict.fromkeys(row.target for row in ROWS):
        print(f"\n{summary(_table(), target)}")


def summary(table: pd.DataFrame, target: str = "pneumonia") -> str:
    """Markdown, a table for each data set and operating point: the best on validation first, then the published ones.

    Rows of recipes that are no longer in `ROWS` stay in the file, because they are looks at test; they are not shown.

    Args:
        table: docs/results.csv. For several seeds the mean is shown, with the lowest and the highest in brackets.
        target: of the rows that are shown.
    """
    labels = {
        (row.data, row.model, digest): f"`{row.model}`{row.note and ', ' + row.note}"
        for row in ROWS
        if row.target == target
        for digest in digests(row.settings)
    }
    in_rows = pd.Series([key in labels for key in zip(table["data"], table["model"], table["recipe"], strict=True)])
    shown = table[table["test_auc"].notna() & (table["target"] == target) & in_rows].assign(
        choosing_auc=lambda rows: rows["oof_auc"].fillna(rows["val_auc"])
    )
    by_target = {"pneumonia": (FIGURES, "val_robust_auc"), "bacterial": (BACTERIAL_FIGURES, "oof_auc")}
    parts = []
    for data in shown["data"].unique():
        name = data if target == "pneumonia" else f"{data} {target}"
        theirs = [(system, auc, accuracy) for known, system, auc, accuracy in PUBLISHED if known == name]
        for point, figures, by in (
            ("target_sensitivity", LATER_FIGURES, "choosing_auc"),
            ("youden", *by_target[target]),
        ):
            rows = shown[(shown["data"] == data) & (shown["operating_point"] == point)]
            if rows.empty:
                continue
            ours = [
                [labels[data, model, digest], len(runs), *(_over_seeds(runs[figure]) for figure in figures)]
                for (model, digest, _), runs in sorted(
                    rows.groupby(["model", "recipe", "weights"], dropna=False),
                    key=lambda group: -group[1][by].mean(),
                )
            ]
            head = [f"`{name}`", "seeds", *figures.values()]
            published = [
                [system, "", "", "", auc, accuracy, *[""] * (len(head) - 6)] for system, auc, accuracy in theirs
            ]
            cells = [head, ["---"] * len(head), *ours, *published]
            parts.append("\n".join(f"| {' | '.join(map(str, line))} |" for line in cells))
            theirs = []  # beside our best only
    return "\n\n".join(parts)


def _over_seeds(values: pd.Series) -> str:
    if values.isna().all():
        return ""
    mean, low, high = (f"{value:.3f}".removeprefix("0") for value in (values.mean(), values.min(), values.max()))
    return mean if len(values) == 1 else f"{mean} [{low}, {high}]"


def keep(clone: Path, folder: Path) -> None:
    """Copy models, reports and settings of a finished run; complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with workspace.written_whole(folder) as partial:
        partial.mkdir()
        for name in ("models", "reports", "params.yaml"):
            subprocess.run(["cp", "-rL", str(clone / name), str(partial)], check=True)


def arguments(command: str, description: str) -> argparse.Namespace:
    """Models, and the places of archives and weights, from the command line."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("models", nargs="*", type=_model, help="only these models")
    data = list(dict.fromkeys(row.data for row in ROWS))
    with_backbone = [name for name, entry in networks.MODELS.items() if entry.weights_urls]
    for option, thing, known in (("--url", "an archive", data), ("--weights", "weights", with_backbone)):
        text = f"the place of {thing}"
        parser.add_argument(option, action="append", default=[], type=_place(known), metavar="NAME=PLACE", help=text)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep models and reports of each run there")
    return parser.parse_args()


def _model(name: str) -> str:
    if name not in networks.MODELS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(networks.MODELS)}")
    return name


def _place(known: Collection[str]) -> Callable[[str], tuple[str, str]]:
    def place(pair: str) -> tuple[str, str]:
        name, _, value = pair.partition("=")
        if name not in known or not value:
            raise argparse.ArgumentTypeError(f"{pair!r} is not NAME=PLACE with one of {', '.join(known)}")
        path = Path(value).expanduser()
        return name, str(path.resolve()) if path.exists() else value  # absolute: rows are made in another folder

    return place


def check_out(clone: Path, command: str) -> str:
    """Check out the last commit in the clone, and return its id: each row names the commit of its code.

    The tables docs/*.csv may have changes that are not committed, because this script writes them.
    """
    if _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/*.csv"):
        sys.exit(f"{command}: some changes are not committed; commit them first, because the table names the commit")
    if not clone.is_dir():
        clone.parent.mkdir(exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    commit = _git("rev-parse", "HEAD")
    for git_command in (["fetch", "--quiet", "origin", "HEAD"], ["checkout", "--quiet", "--force", commit]):
        subprocess.run(["git", *git_command], cwd=clone, check=True)
    return commit[:7]


def run_until(stage: str, clone: Path, settings: Mapping[str, Any], *options: str) -> None:
    """Run the workflow up to a stage, in the clone, with only these settings; `options` are those of DVC."""
    # DVC leaves the settings of the previous run in the file.
    subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", "params.yaml"], cwd=clone, check=True)
    changes = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    subprocess.run(["dvc", "exp", "run", *options, *changes, stage], cwd=clone, env=_environment(clone), check=True)


def fetch_weights(clone: Path, settings: Mapping[str, Any]) -> backbones.Backbone | None:
    """The weights of `settings["model"]`, in the clone; None = its backbone needs weights and there are none."""
    # Forced: DVC's cache may hold the result of an earlier try without weights.
    run_until("backbone", clone, settings, "--force", "--single-item")
    backbone = backbones.read(clone / "data/backbone")
    if networks.MODELS[settings["model"]].weights_urls and not backbone.paths:
        print(f"{settings['model']}: no ImageNet weights")
        return None
    return backbone


def _environment(clone: Path) -> dict[str, str]:
    """This interpreter with the package of the clone: the installed package may be edited while rows are made."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(clone / "src")}


def _git(*command: str) -> str:
    return subprocess.check_output(["git", *command], cwd=ROOT, text=True).strip()


def params_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """params.yaml with other values for `section.key`, checked as the stages check them; those in `GONE` are added."""
    values: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    dotted = {tuple(name.split(".")): value for name, value in settings.items() if "." in name}
    for (section, key), value in dotted.items():
        values[section][key] = value
    known = {name: dict(part) if isinstance(part, dict) else part for name, part in values.items()}
    for section, key in (name.split(".") for name in GONE):
        known[section].pop(key, None)
    params.Params.model_validate(known)
    return values


def training(values: Mapping[str, Any]) -> Recipe:
    """How a network is trained with all settings, as `params_with` returns them."""
    return Recipe(**{name: values["train"][name] for name in Recipe._fields})


def recipe(settings: Mapping[str, Any], *, earlier: bool = False) -> str:
    """Digest of all settings of data and training: runs of one network with the same digest can be compared.

    Args:
        settings: differences from params.yaml.
        earlier: with the defaults `EARLIER`: the digest that the rows of that time have in the table.
    """
    values = params_with(settings)
    if earlier:
        values["tune"] = {}
        for name, default in EARLIER.items():
            section, key = name.split(".")
            values[section][key] = settings.get(name, default)
    # Rows are older than these settings.
    later = {"image_size": None, "crop": 1.0, "flip": False, "hide_edges": 0.0, "box_weight": 0.5}
    for name, default in later.items():
        if values["train"][name] == default:
            del values["train"][name]
    if values["tune"].get("select") == "auc":
        del values["tune"]["select"]
    if values["preprocess"]["aspect"] != "lungs":
        del values["preprocess"]["margin"]  # and this, which then has no effect
    for name, default in {"official_test": "use", "folds": 1}.items():
        if values["rebalance"][name] == default:
            del values["rebalance"][name]
    relevant = {name: values[name] for name in ("rebalance", "preprocess", "tune", "train")}
    for module, prefix in ((augmentation, "MAX_"), (rebalance, "ACQUISITION_")):
        relevant[prefix] = {name: value for name, value in vars(module).items() if name.startswith(prefix)}
    if earlier or values["rebalance"]["acquisition"] == 1:  # letters and frames were not measured then
        del relevant["ACQUISITION_"]["ACQUISITION_MARKS"]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]


def digests(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Digest of a recipe with the defaults `EARLIER`, and with those of today: its row may have either in the table."""
    return recipe(settings, earlier=True), recipe(settings)


def _table() -> pd.DataFrame:
    if not TABLE.is_file():
        return pd.DataFrame(columns=COLUMNS)
    # Int64: counts stay integers beside rows without a count.
    counts = dict.fromkeys(("params", "test_look", "folds"), "Int64")
    return pd.read_csv(TABLE, dtype={"commit": str, "recipe": str, **counts})


def _is_done(row: Row, seed: int, recipe: str, weights: str | None = None) -> bool:
    """Whether a row has figures; a row without weights is tried again. A weights file is compared by its name."""
    table = _table()
    same = (table["data"] == row.data) & (table["target"] == row.target) & (table["model"] == row.model)
    same &= table["seed"] == seed
    if weights is not None:
        same &= table["weights"] == Path(weights).name
    return bool((same & (table["recipe"] == recipe) & table["test_auc"].notna()).any())


def _run(row: Row, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    settings = {"seed": seed, **settings}
    known = {"data": row.data, "target": row.target, "model": row.model, "seed": seed}
    if (backbone := fetch_weights(CLONE, settings)) is None:
        return known | {"weights": "missing"}
    run_until("export", CLONE, settings)
    return known | {"weights": Path(backbone.name).name, "operating_point": row.operating_point} | _figures(row)


def _figures(row: Row) -> dict[str, Any]:
    metrics, evaluation = (tables.read_json(CLONE / f"reports/{name}.json") for name in ("metrics", "evaluation"))
    store = open_store(CLONE / "data/images.zarr")
    n_folds, audit = n_networks(store), evaluation["stress"]["auc"]
    runtime.start_keras()
    model = loading.load_model(CLONE / "models/model.keras")
    test = read_split(store, "test").images[:TIMED]
    scoring.predict_scores(model, test)  # traces the graph
    start = time.perf_counter()
    scoring.predict_scores(model, test)
    milliseconds = 1000 * (time.perf_counter() - start) / len(test)
    history = tables.read_table(CLONE / "reports/history.csv")
    point, at_target = evaluation[row.operating_point], evaluation["target_sensitivity"]["test"]
    test_metrics = point["test"]
    figures = {
        "oof_auc" if n_folds > 1 else "val_auc": metrics["val"]["auc"],
        "folds": n_folds,
        "val_robust_auc": evaluation["robustness"]["mean"],
        "test_auc": test_metrics["auc"],
        "test_auc_low": test_metrics["auc_low"],
        "test_auc_high": test_metrics["auc_high"],
        **{name: test_metrics[name] for name in ("accuracy", "sensitivity", "specificity")},
        "threshold": point["threshold"],
        "params": model.count_params(),
        "train_minutes": round(history["seconds"].sum() / 60, 1),
        "ms_per_image": round(milliseconds, 2),
        **{f"{name}_at_target": at_target[name] for name in ("accuracy", "specificity")},
        **{column: audit[name]["auc"] for name, column in AUDITED.items() if name in audit},
    }
    geometry = lung_geometry.table(store, tables.read_table(CLONE / "data/splits.csv"))
    if len(geometry):  # of films prepared around the lungs
        predictions = tables.read_table(CLONE / "reports/predictions.csv")
        unseen = predictions[predictions["split"] == "val"][["image_id", "patient_id", "label", "score"]]
        _, figures["auc_within_geometry"] = lung_geometry.auc_within(geometry, unseen)
    return {name: round(value, 6) for name, value in figures.items()}


def _append(row: Mapping[str, Any]) -> None:
    table = _table()
    unfinished = table["test_auc"].isna() & _alike(table, row, "data", "target", "model", "seed", "recipe")
    if "test_auc" not in row and unfinished.any():
        return  # the table already has a line for the missing weights
    table = table[~unfinished]
    if "test_auc" in row:
        row = {**row, "test_look": _look(table, row)}
        print(
            f"  validation AUC {row.get('oof_auc', row.get('val_auc')):.4f}, robust {row['val_robust_auc']:.4f}; "
            f"test AUC {row['test_auc']:.4f}, accuracy {row['accuracy']:.3f}"
        )
    table = pd.concat([table.astype(object), pd.DataFrame([row], dtype=object)])[COLUMNS]
    tables.write_table(table, TABLE)


def _alike(table: pd.DataFrame, row: Mapping[str, Any], *names: str) -> pd.Series:
    """Which rows of the table have the same values as a row in these columns."""
    return (table[[*names]] == pd.Series(row)[[*names]]).all(axis=1)


def _look(table: pd.DataFrame, row: Mapping[str, Any]) -> int:
    """Number of the look at the test split: that of the other seeds of the same row, or a new one."""
    same = _alike(table, row, "data", "target", "model", "recipe", "operating_point")
    if row["operating_point"] != "youden" and same.any():
        return int(table.loc[same, "test_look"].iloc[0])
    earlier = table.loc[table["data"] == row["data"], "test_look"].max()
    return max(0 if pd.isna(earlier) else int(earlier), LOOKS_BY_HAND.get(row["data"], 0)) + 1


if __name__ == "__main__":
    main()
