"""Split the images by patient into train, validation and test, and balance the classes of train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from pneumonia import UserError
from pneumonia.data import relabel, tables, targets
from pneumonia.data.targets import Target

MAX_FOLDS = 20
"""Maximum number of folds; a fraction is drawn as a number of these folds."""

ACQUISITION_FOLDS = 5

ACQUISITION_DEGREE = 3
"""Maximum degree of the products of measures."""

ACQUISITION_PATIENTS = 20
"""Minimum number of patients of a class to learn how its images were taken."""

ACQUISITION_MEASURES = ["mean", "std", "entropy", "saturated", "sharpness"]

ACQUISITION_MARKS = ["corner", "border"]
"""Letters and frames; without products, which would be too many."""


def assign_splits(
    table: pd.DataFrame, *, official_test: str, test_fraction: float, val_fraction: float, seed: int, folds: int = 1
) -> pd.DataFrame:
    """The valid rows with a `split`; no patient is in two splits.

    With several folds there is no validation split. All rows outside test have the split `train` and a `fold`, 0 to
    `folds` - 1, by patient; fold k validates network k, which learns from the other folds. `fold` is empty in test.

    A source's official test split keeps all its rows, and an official validation split is kept too. Outside the test
    split, one of several identical files is kept. Patients with an identical file, or with images that look the same,
    count as one: one of the identifiers is wrong. Patients of an official test split lose their rows in validation and
    train, patients of an official validation split those in train.

    Args:
        table: as `validate` wrote it, or `relabel.relabel` returned it.
        official_test: `use`, or `leave_out`: the official test split stays unseen. Its patients are left out, and a
            test split is drawn from the other ones, as for a source that has none. So no image of a run takes part
            in a later judgement on the official test split.
        test_fraction: of the images, if no official test split is used.
        val_fraction: of the images outside test, if the source has no official validation split. Has no effect with
            several folds.
        seed: of the random splits and folds.
        folds: 1 = a validation split. With more, an official validation split is divided into folds like train. Both
            have the same test split: nothing of it is drawn from patients of an official validation split.

    Raises:
        UserError: too few patients of a class to draw a split or the folds, or no image to train on.
    """
    valid, groups = _valid_rows(table)
    valid = valid.drop(columns=["valid", "reason"])
    lost = _patients_left_out_of_train(valid, groups, _official_splits(valid, folds))
    official = _official_splits(valid)
    # Of several copies, that in the official validation split is kept. In a sealed test split all are kept.
    first = valid.assign(rank=official != "val").sort_values(["rank", "image_id"])["sha256"].duplicated()
    kept = (official == "test") | ~first.sort_index().to_numpy()
    valid, groups, split = valid[kept].reset_index(drop=True), groups[kept], official[kept]
    if official_test == "leave_out":
        seen = ~np.isin(groups, groups[split == "test"])
        valid, groups, split = valid[seen].reset_index(drop=True), groups[seen], split[seen]
    if not (split == "test").any():
        # Not from patients of an official validation split, because that split would lose rows.
        pool = np.flatnonzero((split == "train") & ~np.isin(groups, groups[split == "val"]))
        split[_draw(valid, groups, pool, test_fraction, seed, "test", lost)] = "test"
    if folds > 1:
        split[split == "val"] = "train"  # only now, so that folds do not change the test split
    keep = np.ones(len(valid), dtype=bool)
    for later, earlier in (("test", ["train", "val"]), ("val", ["train"])):
        keep &= ~(np.isin(split, earlier) & np.isin(groups, groups[split == later]))
    if folds == 1 and not (keep & (split == "val")).any():
        pool = np.flatnonzero(keep & (split == "train"))
        split[_draw(valid, groups, pool, val_fraction, seed, "validation", lost)] = "val"
    rows: pd.DataFrame = valid.assign(split=split)[keep]
    rows = rows.reset_index(drop=True)
    return rows if folds == 1 else rows.assign(fold=_draw_folds(rows, groups[keep], folds, seed, lost))


def require_both_classes(splits: pd.DataFrame, target: Target = targets.PNEUMONIA) -> None:
    """Check that each split and each fold has both classes, before a model is trained that could not be evaluated.

    Args:
        splits: as `assign_splits` returns them.
        target: of their labels.

    Raises:
        UserError: a split or a fold lacks a class; the message names both, and the remedy.
    """
    for name in tables.splits_of(splits):
        part = splits[splits["split"] == name]
        missing = [label for label in target.classes if not part["label"].eq(label).any()]
        if not missing:
            continue
        official = name != "train" and part["source_split"].eq(name).any()
        lacks = " or ".join(target.classes[label] for label in missing)
        if official and name == "test":
            remedy = "add such images to it, or draw another test split: rebalance.official_test: leave_out"
        elif official:
            remedy = "add such images to it, or move its images to train: then a validation split is drawn"
        elif name == "train":
            remedy = "patients of an official split are left out of train; add others, or give persons different names"
        else:
            remedy = "add patients of this class, or use another rebalance.seed"
        raise UserError(
            f"the {'official ' if official else ''}{name} split has {len(part)} images, none of class {lacks}; each "
            f"split needs both classes; {remedy}"
        )
    for fold, part in _by_fold(splits).items():
        for label, name in target.classes.items():
            if not part["label"].eq(label).any():
                raise UserError(
                    f"fold {fold} has {len(part)} images, none of class {name}; each fold validates a network, which "
                    "needs both classes; use fewer folds (rebalance.folds), or another rebalance.seed"
                )


def weigh(
    table: pd.DataFrame, *, strategy: str, max_ratio: float, seed: int, target: Target = targets.PNEUMONIA
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The splits with `weight` and `repeats`, against unequal classes and, with `max_ratio` > 1, against acquisition.

    Args:
        table: as `assign_splits` returns it.
        strategy, seed: as in `balance`.
        max_ratio: as in `weight_by_acquisition`; 1 = off.
        target: of the labels.

    Returns:
        The table, and what `summarise_acquisition` says; empty if it is off.
    """
    table = balance(table, strategy=strategy, seed=seed)
    if max_ratio <= 1:
        return table, {}
    estimate = acquisition(table, seed=seed, target=target)
    table = weight_by_acquisition(table, estimate, max_ratio=max_ratio)
    return table, summarise_acquisition(table, estimate, target)


def weigh_folds(table: pd.DataFrame, add_weights: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """The splits with `weight_0`, `repeats_0`, `weight_1` and so on: what network k learns from, in `weight_k`.

    `repeats_k` is 0 in fold k, which validates network k, and nothing of that fold has an effect on `weight_k`.

    Args:
        table: as `assign_splits` returns it with several folds.
        add_weights: returns a table with a validation split with its `weight` and `repeats`, as `weigh` does.
    """
    for fold in range(tables.n_folds(table)):
        validates = tables.in_fold(table, fold)
        own = add_weights(table.assign(split=table["split"].mask(validates, "val")))
        repeats = own["repeats"].mask(validates, 0)
        table = table.assign(**{f"weight_{fold}": own["weight"], f"repeats_{fold}": repeats})
    return table


def balance(table: pd.DataFrame, *, strategy: str, seed: int) -> pd.DataFrame:
    """The splits with `weight` and `repeats`, which balance the classes of train; other splits are not changed.

    Args:
        table: as `assign_splits` returns it.
        strategy: `class_weight` weights the loss of an image by 1 / share of its class (mean 1); `oversample` repeats
            images of the rarer class in an epoch; `undersample` drops images of the more frequent class; `none` changes
            nothing.
        seed: selects the images that are repeated once more, or dropped.
    """
    weight = np.ones(len(table))
    repeats = np.ones(len(table), dtype=int)
    train = table["split"].eq("train").to_numpy()
    labels = table["label"].to_numpy()
    counts = {label: int((train & (labels == label)).sum()) for label in tables.LABELS}
    target = {"oversample": max(counts.values()), "undersample": min(counts.values())}
    rng = np.random.default_rng(seed)
    for label, count in counts.items():
        rows = np.flatnonzero(train & (labels == label))
        if strategy == "class_weight":
            weight[rows] = round(sum(counts.values()) / (len(counts) * count), 6)
        elif strategy in target:
            whole, rest = divmod(target[strategy], count)
            repeats[rows] = whole
            repeats[rng.permutation(rows)[:rest]] += 1
    return table.assign(weight=weight, repeats=repeats)


def acquisition(table: pd.DataFrame, *, seed: int, target: Target = targets.PNEUMONIA) -> pd.DataFrame:
    """The probability of class 1 of each train image, estimated only from how the image was taken.

    Brightness, contrast, sharpness, image size, letters and frames differ between devices, wards and archives. If the
    classes come from different ones, a network learns these differences and fails on images of another archive.

    The model is a logistic regression on the measures and their products up to the third degree, and on the brightness
    of corner and border. Its regularisation is
    chosen by cross-validation by patient, so the probability is near 0.5 if acquisition has no relation to the class.

    Args:
        table: as `balance` returns it; `ACQUISITION_MEASURES`, `ACQUISITION_MARKS`, `width` and `height` as
            `validate` measured them and, if the source has it, `view`.
        seed: of the folds.
        target: of the labels.

    Returns:
        `probability`, 0-1, for equally frequent classes, and `fold`, with the index of the train rows that an epoch
        uses. The model of a fold is not fitted on the patients of the fold.

    Raises:
        UserError: too few patients of a class in train, or a table without these measures.
    """
    missing = [name for name in (*ACQUISITION_MEASURES, *ACQUISITION_MARKS) if name not in table]
    if missing:
        raise UserError(f"data/valid.csv has no {', '.join(missing)}; measure again: dvc repro -f -s validate")
    train = table[(table["split"] == "train") & (table["repeats"] > 0)]
    features = train[ACQUISITION_MEASURES].assign(
        proportions=np.log(train["width"] / train["height"]), pixels=np.log(train["width"] * train["height"])
    )
    if "view" in train:
        features = features.join(pd.get_dummies(train["view"], prefix="view", dtype=float))
    with_products = [str(name) for name in features]
    features = features.join(train[ACQUISITION_MARKS])
    label, groups = train["label"].to_numpy(), _patient_groups(train)
    patients = [len(np.unique(groups[label == one])) for one in tables.LABELS]
    if min(patients) < ACQUISITION_PATIENTS:
        raise UserError(
            f"rebalance.acquisition > 1 needs {ACQUISITION_PATIENTS} patients of each class in train; there are "
            f"{patients[0]} {target.negative} and {patients[1]} with {target.finding}; set it to 1, or add patients"
        )
    folds = StratifiedGroupKFold(ACQUISITION_FOLDS, shuffle=True, random_state=seed)
    estimate = pd.DataFrame({"probability": 0.5, "fold": 0}, index=train.index)
    for fold, (fitted, held_out) in enumerate(folds.split(features, label, groups)):
        model = make_pipeline(
            make_column_transformer(
                (
                    make_pipeline(StandardScaler(), PolynomialFeatures(ACQUISITION_DEGREE, include_bias=False)),
                    with_products,
                ),
                remainder="passthrough",
            ),
            StandardScaler(),
            LogisticRegressionCV(
                Cs=np.logspace(-4, 0, 5),
                cv=list(folds.split(features.iloc[fitted], label[fitted], groups[fitted])),
                class_weight="balanced",
                scoring=_likelihood,
                l1_ratios=(0,),
                max_iter=2000,
                use_legacy_attributes=False,
            ),
        )
        model.fit(features.iloc[fitted], label[fitted])
        estimate.iloc[held_out, 0] = model.predict_proba(features.iloc[held_out])[:, 1]
        estimate.iloc[held_out, 1] = fold
    return estimate


def _likelihood(model: Any, features: Any, label: Any) -> float:
    """Mean log-likelihood of the labels, with the same weight for both classes."""
    own = np.log(np.maximum(model.predict_proba(features)[np.arange(len(label)), label], 1e-12))
    return float(np.mean([own[label == one].mean() for one in tables.LABELS]))


def weight_by_acquisition(table: pd.DataFrame, estimate: pd.DataFrame, *, max_ratio: float) -> pd.DataFrame:
    """The splits with more weight for train images that were taken like most images of the other class.

    With these weights acquisition tells less about the label, so a network gains less from it. The method is truncated
    inverse probability weighting.

    Args:
        table: as `balance` returns it; the total weight of each class stays the same.
        estimate: as `acquisition` returns it.
        max_ratio: maximum weight, as a multiple of the smallest weight in the image's class.

    Source:
        Rosenbaum & Rubin 1983, doi:10.1093/biomet/70.1.41; truncation: Cole & Hernan 2008, doi:10.1093/aje/kwn164.
    """
    weight = table["weight"].copy()
    repeats, label = table.loc[estimate.index, "repeats"], table.loc[estimate.index, "label"]
    for one in tables.LABELS:
        rows = estimate.index[label == one]
        own = estimate.loc[rows, "probability"] if one else 1 - estimate.loc[rows, "probability"]
        inverse = (1 / own.clip(lower=1e-6)).clip(upper=max_ratio)  # 1: taken like no image of the other class
        weight[rows] *= inverse * repeats[rows].sum() / (inverse * repeats[rows]).sum()
    return table.assign(weight=weight.round(4))


def summarise_acquisition(
    table: pd.DataFrame, estimate: pd.DataFrame, target: Target = targets.PNEUMONIA
) -> dict[str, float]:
    """Acquisition in `rebalance.json`: how well it alone separates the classes, and what the weights cost.

    Args:
        table: as `weight_by_acquisition` returns it.
        estimate: as `acquisition` returns it.
        target: of the labels.

    Returns:
        `n`: train images; `auc`: of the probability, 0-1, the mean over the folds, each predicted by a model that was
        not fitted on it; `n_effective_normal`, `n_effective_pneumonia`, or as the classes of the target are named:
        effective sample sizes (Kish 1965).
    """
    train = table.loc[estimate.index]
    aucs = [roc_auc_score(train.loc[part.index, "label"], part["probability"]) for _, part in estimate.groupby("fold")]
    effective = {
        f"n_effective_{name}": float(weight.sum() ** 2 / (weight**2).sum())
        for label, name in target.classes.items()
        for weight in [(train["weight"] * train["repeats"])[train["label"] == label]]
    }
    return {"n": len(train), "auc": float(np.mean(aucs)), **effective}


def summarise(
    valid: pd.DataFrame, splits: pd.DataFrame, strategy: str, target: Target = targets.PNEUMONIA
) -> dict[str, Any]:
    """The content of `rebalance.json`: images, patients and weights per split and class, and images left out.

    `test_split`: `official`, the one of the source; `drawn` if it has none; or `drawn, official left out`. Then
    `n_left_out_official_test` is the number of images of the official one. `official_val`: the validation split is the
    one of the source.

    `n_left_out_duplicates_or_test_patients` are all other images that are left out: `n_left_out_duplicates`, and those
    of `left_out_of_official_patients`. That has a row for each official split whose patients have images in another
    one (`left_out_of`), with their number of patients and images and the `first` patient.

    `n_` is the number of images, `shown_` their number in an epoch with repeats, `weight_` their total weight in the
    loss. `age` and `sex` count the patients for whom the source gives them. With folds, `shown_` and `weight_` are
    those of an epoch over all images of train, and `folds` has a row for each fold.

    Classes have the names of the target. `left_out_of_target` is there if it leaves images out: a row for each kind of
    them, with their number `n`. They are in no other number.

    Args:
        valid: as `validate` wrote it.
        splits: with weights.
        strategy: as in `balance`.
        target: of the labels of `splits`.
    """
    outside = relabel.left_out(valid, target)
    valid = relabel.relabel(valid, target)
    rows = {
        split: {
            **_count(part, target),
            **{
                f"shown_{name}": int(part.loc[part["label"].eq(label), "repeats"].sum())
                for label, name in target.classes.items()
            },
            **{
                f"weight_{name}": round(float((part["weight"] * part["repeats"])[part["label"].eq(label)].sum()), 1)
                for label, name in target.classes.items()
            },
            **_age_and_sex(part),
        }
        for split, part in splits.groupby("split")
    }
    kept = set(splits["image_id"])
    is_kept, is_official = valid["image_id"].isin(kept), valid["source_split"].eq("test")
    n_left_out = int((valid["valid"] & ~is_kept).sum())
    n_unseen = int((valid["valid"] & ~is_kept & is_official).sum())
    folds = _by_fold(splits)
    of_official_patients = _left_out_of_official_patients(valid, kept, len(folds)) if n_left_out else []
    n_of_official_patients = sum(row["n_images"] for row in of_official_patients)
    official = bool((is_kept & is_official).any())
    return {
        "strategy": strategy,
        "official_test": official,
        "official_val": bool((splits["split"].eq("val") & splits["source_split"].eq("val")).any()),
        "test_split": "official" if official else "drawn, official left out" if n_unseen else "drawn",
        "splits": {split: rows[split] for split in tables.splits_of(splits)},
        **({"folds": [{"fold": fold, **_count(part, target)} for fold, part in folds.items()]} if folds else {}),
        **({"left_out_of_target": [{"kind": kind, "n": n} for kind, n in outside.items()]} if outside else {}),
        **({"n_left_out_official_test": n_unseen} if n_unseen else {}),
        "n_left_out_duplicates_or_test_patients": n_left_out - n_unseen,
        "n_left_out_duplicates": n_left_out - n_unseen - n_of_official_patients,
        **({"left_out_of_official_patients": of_official_patients} if of_official_patients else {}),
        "digest": tables.data_digest(splits),
    }


def describe(summary: Mapping[str, Any], official_test: str) -> list[str]:
    """Sentences for the user: the origin of the splits, and a note on each thing that may not be intended.

    Args:
        summary: as `summarise` returns it.
        official_test: the setting, as for `assign_splits`.
    """
    unseen = summary.get("n_left_out_official_test", 0)
    test = "the official one, sealed" if summary["official_test"] else "drawn by patient"
    test += f", the official one of {unseen} images left out" if unseen else ""
    val = f"validation split: {'the official one' if summary['official_val'] else 'drawn by patient'}"
    if "folds" in summary:
        sizes = [row["n_images"] for row in summary["folds"]]
        val = f"validation: {len(sizes)} folds by patient, of {min(sizes)} to {max(sizes)} images"
    sentences = [f"test split: {test}; {val}; train rows balanced by {summary['strategy']}"]
    if outside := summary.get("left_out_of_target"):
        kinds = ", ".join(f"{row['n']:,} {row['kind']}" for row in outside)
        sentences.append(f"left out, not of the target: {kinds}")
    for row in summary.get("left_out_of_official_patients", []):
        patients = "1 patient" if row["n_patients"] == 1 else f"{row['n_patients']} patients"
        verb = "has" if row["n_patients"] == 1 else "have"
        images = "1 image" if row["n_images"] == 1 else f"{row['n_images']} images"
        sentences.append(
            f"NOTE: {patients} of the official {row['split']} split also {verb} {images} in {row['left_out_of']} "
            f"(by name or by an image that looks the same, such as {row['first']}); all such images are left out; "
            "give different names if they are different persons"
        )
    if official_test == "leave_out" and not unseen:
        sentences.append(
            "NOTE: rebalance.official_test: leave_out has no effect; the source has no official test split"
        )
    return sentences


def _by_fold(splits: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of each fold; empty where there is a validation split."""
    n_folds = tables.n_folds(splits)
    return {fold: splits[tables.in_fold(splits, fold)] for fold in range(n_folds)} if n_folds > 1 else {}


def _count(part: pd.DataFrame, target: Target) -> dict[str, int]:
    return {
        "n_images": len(part),
        "n_patients": int(part["patient_id"].nunique()),
        **{f"n_{name}": int(part["label"].eq(label).sum()) for label, name in target.classes.items()},
    }


def _age_and_sex(part: pd.DataFrame) -> dict[str, Any]:
    """Age and sex of the patients of a split, from the first image that has the value; unknown values are left out."""
    columns = [name for name in ("age", "sex") if name in part]
    patients = part[["patient_id", *columns]].replace("", None).groupby("patient_id").first()
    summary: dict[str, Any] = {}
    if "age" in columns and len(years := pd.to_numeric(patients["age"], errors="coerce").dropna()):
        quartiles = years.quantile([0, 0.25, 0.5, 0.75, 1])
        names = ("lowest", "lower_quartile", "median", "upper_quartile", "highest")
        summary["age"] = {"n": len(years), **dict(zip(names, map(float, quartiles), strict=True))}
    if "sex" in columns and len(counts := patients["sex"].value_counts().sort_index()):
        summary["sex"] = [{"value": str(value), "n": int(n)} for value, n in counts.items()]
    return summary


def _valid_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.intp]]:
    """The valid rows in the order of `image_id`, and for each the number of its group of patients that count as one."""
    # Files with both labels, and those of no class, are left out, but they still show which patients are one.
    linking = table[table["valid"] | table["reason"].isin([tables.BOTH_LABELS, relabel.OUTSIDE])]
    linking = linking.sort_values("image_id")
    is_valid = linking["valid"].to_numpy()
    return linking[is_valid].reset_index(drop=True), _patient_groups(linking)[is_valid]


def _official_splits(valid: pd.DataFrame, folds: int = 1) -> npt.NDArray[np.object_]:
    """`test` of the source and, without folds, `val`; all other images count as train."""
    names = ["test"] if folds > 1 else ["test", "val"]
    return valid["source_split"].where(valid["source_split"].isin(names), "train").to_numpy(object)


def _patients_left_out_of_train(
    valid: pd.DataFrame, groups: npt.NDArray[np.intp], official: npt.NDArray[np.object_]
) -> str:
    """A clause on the patients whose train images are left out because of an official split; empty if there are none.

    Raises:
        UserError: no image of train is left.
    """
    train = official == "train"
    if not train.any():
        raise UserError(
            "all images are in the official test or val split of the source; a model needs others to learn from; add "
            "images of train, or name no splits: then they are drawn by patient"
        )
    others = [name for name in ("test", "val") if np.isin(groups[train], groups[official == name]).any()]
    lost = train & np.isin(groups, groups[~train])
    patients = valid.loc[lost, "patient_id"]
    where = f"also in the official {' or '.join(others)} split, by name or by image"
    if lost.sum() == train.sum():
        raise UserError(
            f"all {patients.nunique()} patients of train are {where} (such as {patients.iloc[0]}), so no image is left "
            "to learn from; give different names to different persons; if they are the same, name no splits: then they "
            "are drawn by patient"
        )
    if not others:
        return ""
    return f"{patients.nunique()} patients of train are left out: they are {where} (such as {patients.iloc[0]})"


def counts(splits: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The numbers and the age of each split as a table, for MLflow.

    Args:
        splits: of `summarise`.
    """
    rows = [{"split": name, **part} for name, part in splits.items()]
    return pd.json_normalize(rows, sep="_").drop(columns="sex", errors="ignore")


def _left_out_of_official_patients(valid: pd.DataFrame, kept: set[str], folds: int) -> list[dict[str, Any]]:
    """How many patients of each official split have images elsewhere that are left out for this reason."""
    rows, groups = _valid_rows(valid)
    official, left_out = _official_splits(rows, folds), ~rows["image_id"].isin(kept).to_numpy()
    counts = []
    for split, elsewhere in (("test", "train"), ("test", "val"), ("val", "train")):
        part = left_out & (official == elsewhere) & np.isin(groups, groups[official == split])
        left_out &= ~part
        patients = rows.loc[part, "patient_id"]
        if len(patients):
            facts = {"n_patients": int(patients.nunique()), "n_images": len(patients), "first": str(patients.iloc[0])}
            counts.append({"split": split, "left_out_of": elsewhere, **facts})
    return counts


def _patient_groups(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """A number for each row, equal for rows of one patient and of patients with a common image."""
    alike = table["look_alike"].where(table["look_alike"] != "", table["sha256"])
    patients, n_patients = pd.factorize(table["patient_id"])[0], table["patient_id"].nunique()
    images = pd.factorize(pd.concat([table["sha256"], alike]))[0] + n_patients
    nodes = int(images.max()) + 1
    links = coo_array((np.ones(len(images)), (np.tile(patients, 2), images)), shape=(nodes, nodes))
    components = connected_components(links, directed=False)[1]
    return np.asarray(components[patients], dtype=np.intp)


def _draw(
    table: pd.DataFrame,
    groups: npt.NDArray[np.intp],
    pool: npt.NDArray[np.intp],
    fraction: float,
    seed: int,
    name: str,
    lost: str,
) -> npt.NDArray[np.intp]:
    labels = table["label"].to_numpy()[pool]
    # The nearest number of folds: 0.3 is 3 of 10 folds, 0.15 is 3 of 20.
    share = Fraction(fraction).limit_denominator(MAX_FOLDS) or Fraction(1, MAX_FOLDS)
    if too_few := _too_few_patients(table, groups[pool], labels, share.denominator, lost):
        raise UserError(
            f"too few patients to draw a {name} split of {fraction:.0%}: {too_few}; add patients, or use a fraction "
            "such as 0.5 or 0.25"
        )
    folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
    drawn = [fold for _, fold in folds.split(pool, labels, groups[pool])][: share.numerator]
    return np.asarray(pool[np.sort(np.concatenate(drawn))], dtype=np.intp)


def _draw_folds(table: pd.DataFrame, groups: npt.NDArray[np.intp], folds: int, seed: int, lost: str) -> Any:
    """The fold of each row, Int64 (n,), empty in test."""
    pool = np.flatnonzero(table["split"] == "train")
    labels = table["label"].to_numpy()[pool]
    if too_few := _too_few_patients(table, groups[pool], labels, folds, lost):
        raise UserError(
            f"too few patients for {folds} folds: {too_few}; add patients, or use fewer folds (rebalance.folds)"
        )
    drawn = pd.array([pd.NA] * len(table), dtype="Int64")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(pool, labels, groups[pool])):
        drawn[pool[rows]] = fold
    return drawn


def _too_few_patients(
    table: pd.DataFrame, groups: npt.NDArray[np.intp], labels: npt.NDArray[Any], needed: int, lost: str
) -> str:
    """A clause that says that a class has fewer patients than are needed; empty if it has enough."""
    patients = pd.DataFrame({"group": groups, "label": labels}).groupby("label")["group"].nunique()
    smaller = int(patients.min()) if len(patients) == 2 else 0
    if smaller >= needed:
        return ""
    counts = table["patient_id"].value_counts()
    large = f" ({counts.index[0]} has {counts.iloc[0]} images: is it a patient?)" if counts.iloc[0] > 10 else ""
    why = f"; {lost}" if lost else ""
    return f"{smaller} in the smaller class{large}, at least {needed} are needed{why}"
