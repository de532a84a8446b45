"""Decide which images learn, which choose and which judge: splits by patient, then the classes of train balanced."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from pneumonia import UserError
from pneumonia.data import tables

MAX_FOLDS = 20
"""A fraction is drawn as so many of at most so many folds."""

ACQUISITION_FOLDS = 5

ACQUISITION_DEGREE = 3
"""Of the products of measures."""

ACQUISITION_PATIENTS = 20
"""Fewer of a class, and nothing can be learnt of how its images were taken."""

ACQUISITION_MEASURES = ["mean", "std", "entropy", "saturated", "sharpness"]


def assign_splits(table: pd.DataFrame, *, test_fraction: float, val_fraction: float, seed: int) -> pd.DataFrame:
    """The valid rows with a `split`, no patient in two of them.

    A source's official test split stays as it is, all rows of it, and so does an official validation split. Elsewhere
    an exact duplicate keeps one row. Patients who share an identical file, or one that looks the same, count as one:
    one of them is a wrong number. Patients of an official split lose their rows in the splits that learn from it:
    test before validation before train.

    Args:
        table: as `validate` wrote it.
        test_fraction: of the images, where the source has no official test split.
        val_fraction: of what is not test, where the source has no official validation split.
        seed: of the draw.

    Raises:
        UserError: too few patients of a class to draw a split.
    """
    # Copies go, and files with both labels have gone, but they still say who is one patient.
    linking = table[table["valid"] | (table["reason"] == tables.BOTH_LABELS)].sort_values("image_id")
    groups = _patient_groups(linking)[linking["valid"].to_numpy()]
    valid = linking[linking["valid"]].drop(columns=["valid", "reason"]).reset_index(drop=True)
    official = valid["source_split"].where(valid["source_split"].isin(["test", "val"]), "train").to_numpy(object)
    # Of copies the one in the official validation split stays; those in a sealed test split all do.
    first = valid.assign(rank=official != "val").sort_values(["rank", "image_id"])["sha256"].duplicated()
    kept = (official == "test") | ~first.sort_index().to_numpy()
    valid, groups, split = valid[kept].reset_index(drop=True), groups[kept], official[kept]
    if not (split == "test").any():
        # Not from patients of an official validation split, which would lose rows by it.
        pool = np.flatnonzero((split == "train") & ~np.isin(groups, groups[split == "val"]))
        split[_draw(valid, groups, pool, test_fraction, seed, "test")] = "test"
    learnt = np.ones(len(valid), dtype=bool)
    for judge, learners in (("test", ["train", "val"]), ("val", ["train"])):
        learnt &= ~(np.isin(split, learners) & np.isin(groups, groups[split == judge]))
    if not (learnt & (split == "val")).any():
        pool = np.flatnonzero(learnt & (split == "train"))
        split[_draw(valid, groups, pool, val_fraction, seed, "validation")] = "val"
    rows: pd.DataFrame = valid.assign(split=split)[learnt]
    return rows.reset_index(drop=True)


def require_both_classes(splits: pd.DataFrame) -> None:
    """Stop before a model is trained that could not be judged.

    Raises:
        UserError: names the split that lacks a class.
    """
    for name in tables.SPLITS:
        part = splits[splits["split"] == name]
        if part["label"].nunique() < 2:
            what = f"{len(part)} images of one class only" if len(part) else "no images"
            raise UserError(
                f"split {name} has {what}; each split needs both classes, and patients of an official split leave the "
                "splits that learn"
            )


def balance(table: pd.DataFrame, *, strategy: str, seed: int) -> pd.DataFrame:
    """The splits with `weight` and `repeats`, which balance the classes of train and leave the rest alone.

    Args:
        table: as `assign_splits` returns it.
        strategy: `class_weight` weighs the loss of an image by 1 over the share of its class (mean 1);
            `oversample` shows images of the rarer class several times an epoch; `undersample` drops images of
            the commoner class; `none` leaves the classes as they are.
        seed: which images are repeated once more, or dropped.
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


def acquisition(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """How likely each train image is of pneumonia by how it was taken, without a look at what it shows.

    Brightness, contrast, sharpness and form of the frame differ between devices, wards and archives. Where the two
    classes came from different ones, a network learns these; on images of another archive it then errs.

    A logistic regression on the measures and their products up to the third degree; how far its coefficients are drawn
    to 0 is chosen by patient too, so that it says one half where acquisition says nothing.

    Args:
        table: as `balance` returns it; `mean, std, entropy, saturated, sharpness, width, height` as `validate`
            measured them and, where a source has it, `view`.
        seed: of the folds.

    Returns:
        `probability`, 0-1, were both classes equally common, and `fold`, with the index of the train rows that an epoch
        shows. The model of each fold has not seen its patients.

    Raises:
        UserError: too few patients of a class in train, or a table without these measures.
    """
    missing = [name for name in ACQUISITION_MEASURES if name not in table]
    if missing:
        raise UserError(f"data/valid.csv has no {', '.join(missing)}; measure again: dvc repro -f -s validate")
    train = table[(table["split"] == "train") & (table["repeats"] > 0)]
    taken = train[ACQUISITION_MEASURES].assign(
        proportions=np.log(train["width"] / train["height"]), pixels=np.log(train["width"] * train["height"])
    )
    if "view" in train:
        taken = taken.join(pd.get_dummies(train["view"], prefix="view", dtype=float))
    label, groups = train["label"].to_numpy(), _patient_groups(train)
    patients = [len(np.unique(groups[label == one])) for one in tables.LABELS]
    if min(patients) < ACQUISITION_PATIENTS:
        raise UserError(
            f"rebalance.acquisition > 1 needs {ACQUISITION_PATIENTS} patients of each class in train, here are "
            f"{patients[0]} normal and {patients[1]} with pneumonia; set it to 1, or bring more patients"
        )
    folds = StratifiedGroupKFold(ACQUISITION_FOLDS, shuffle=True, random_state=seed)
    found = pd.DataFrame({"probability": 0.5, "fold": 0}, index=train.index)
    for fold, (known, asked) in enumerate(folds.split(taken, label, groups)):
        model = make_pipeline(
            StandardScaler(),
            PolynomialFeatures(ACQUISITION_DEGREE, include_bias=False),
            StandardScaler(),
            LogisticRegressionCV(
                Cs=np.logspace(-4, 0, 5),
                cv=list(folds.split(taken.iloc[known], label[known], groups[known])),
                class_weight="balanced",
                scoring=_likelihood,
                l1_ratios=(0,),
                max_iter=2000,
                use_legacy_attributes=False,
            ),
        )
        model.fit(taken.iloc[known], label[known])
        found.iloc[asked, 0], found.iloc[asked, 1] = model.predict_proba(taken.iloc[asked])[:, 1], fold
    return found


def _likelihood(model: Any, taken: Any, label: Any) -> float:
    """Mean log-likelihood of the labels, both classes weighing the same."""
    own = np.log(np.maximum(model.predict_proba(taken)[np.arange(len(label)), label], 1e-12))
    return float(np.mean([own[label == one].mean() for one in tables.LABELS]))


def weigh_acquisition(table: pd.DataFrame, found: pd.DataFrame, *, at_most: float) -> pd.DataFrame:
    """The splits with more weight for train images that were taken as the other class mostly is.

    In the weighted classes acquisition says less of the label, so that a network gains less by it: inverse probability
    weighting, truncated.

    Args:
        table: as `balance` returns it; the classes keep what they weigh together.
        found: as `acquisition` returns it.
        at_most: times what the image of its class weighs least that an image may weigh.

    Source:
        Rosenbaum & Rubin 1983, doi:10.1093/biomet/70.1.41; truncation: Cole & Hernan 2008, doi:10.1093/aje/kwn164.
    """
    weight = table["weight"].copy()
    shown, label = table.loc[found.index, "repeats"], table.loc[found.index, "label"]
    for one in tables.LABELS:
        rows = found.index[label == one]
        own = found.loc[rows, "probability"] if one else 1 - found.loc[rows, "probability"]
        rare = (1 / own.clip(lower=1e-6)).clip(upper=at_most)  # from 1: taken as no image of the other class is
        weight[rows] *= rare * shown[rows].sum() / (rare * shown[rows]).sum()
    return table.assign(weight=weight.round(4))


def summarise_acquisition(table: pd.DataFrame, found: pd.DataFrame) -> dict[str, float]:
    """What `rebalance.json` says of acquisition: how well it alone tells the classes apart, and what weighing costs.

    Args:
        table: as `weigh_acquisition` returns it.
        found: as `acquisition` returns it.

    Returns:
        `n`: train images; `auc`: of the probability, 0-1, the mean over the folds, each judged by a model that has not
        seen it; `n_effective_normal`, `n_effective_pneumonia`: images of equal weight that would tell as much (Kish
        1965).
    """
    train = table.loc[found.index]
    aucs = [roc_auc_score(train.loc[part.index, "label"], part["probability"]) for _, part in found.groupby("fold")]
    effective = {
        f"n_effective_{name}": float(weight.sum() ** 2 / (weight**2).sum())
        for label, name in tables.LABELS.items()
        for weight in [(train["weight"] * train["repeats"])[train["label"] == label]]
    }
    return {"n": len(train), "auc": float(np.mean(aucs)), **effective}


def summarise(valid: pd.DataFrame, splits: pd.DataFrame, strategy: str) -> dict[str, Any]:
    """`rebalance.json`: images, patients and images an epoch shows, per split and class; what was left out.

    `n_` counts images, `shown_` how often an epoch shows them, `weight_` what they weigh in its loss. `age` and `sex`
    count patients, those of whom the source tells it.
    """
    rows = {
        split: {
            "n_images": len(part),
            "n_patients": int(part["patient_id"].nunique()),
            **{f"n_{name}": int(part["label"].eq(label).sum()) for label, name in tables.LABELS.items()},
            **{
                f"shown_{name}": int(part.loc[part["label"].eq(label), "repeats"].sum())
                for label, name in tables.LABELS.items()
            },
            **{
                f"weight_{name}": round(float((part["weight"] * part["repeats"])[part["label"].eq(label)].sum()), 1)
                for label, name in tables.LABELS.items()
            },
            **_age_and_sex(part),
        }
        for split, part in splits.groupby("split")
    }
    kept = set(splits["image_id"])
    left_out = valid[valid["valid"] & ~valid["image_id"].isin(kept)]
    return {
        "strategy": strategy,
        "official_test": bool(valid["source_split"].eq("test").any()),
        "splits": {split: rows[split] for split in tables.SPLITS},
        "n_left_out_duplicates_or_test_patients": len(left_out),
        "digest": tables.data_digest(splits),
    }


def _age_and_sex(part: pd.DataFrame) -> dict[str, Any]:
    """Of the patients of a split, each as its first image that tells it says; what no image tells is left out."""
    told = [name for name in ("age", "sex") if name in part]
    patients = part[["patient_id", *told]].replace("", None).groupby("patient_id").first()
    found: dict[str, Any] = {}
    if "age" in told and len(years := pd.to_numeric(patients["age"], errors="coerce").dropna()):
        quartiles = years.quantile([0, 0.25, 0.5, 0.75, 1])
        names = ("lowest", "lower_quartile", "median", "upper_quartile", "highest")
        found["age"] = {"n": len(years), **dict(zip(names, map(float, quartiles), strict=True))}
    if "sex" in told and len(counts := patients["sex"].value_counts().sort_index()):
        found["sex"] = [{"value": str(value), "n": int(n)} for value, n in counts.items()]
    return found


def _patient_groups(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """A number for each row, equal for rows of one patient and of patients who share an image."""
    alike = table["look_alike"].where(table["look_alike"] != "", table["sha256"])
    patients, n_patients = pd.factorize(table["patient_id"])[0], table["patient_id"].nunique()
    images = pd.factorize(pd.concat([table["sha256"], alike]))[0] + n_patients
    nodes = int(images.max()) + 1
    links = coo_array((np.ones(len(images)), (np.tile(patients, 2), images)), shape=(nodes, nodes))
    components = connected_components(links, directed=False)[1]
    return np.asarray(components[patients], dtype=np.intp)


def _draw(
    table: pd.DataFrame, groups: npt.NDArray[np.intp], pool: npt.NDArray[np.intp], fraction: float, seed: int, name: str
) -> npt.NDArray[np.intp]:
    labels = table["label"].to_numpy()[pool]
    # So many of so many folds come nearest to the fraction: .3 is 3 of 10, .15 is 3 of 20.
    share = Fraction(fraction).limit_denominator(MAX_FOLDS) or Fraction(1, MAX_FOLDS)
    patients = pd.DataFrame({"group": groups[pool], "label": labels}).groupby("label")["group"].nunique()
    smaller = int(patients.min()) if len(patients) == 2 else 0
    if smaller < share.denominator:
        raise UserError(
            f"too few patients to draw a {name} split of {fraction:.0%}: {smaller} in the smaller class, at least "
            f"{share.denominator} are needed; bring more patients, or take a fraction such as 0.5 or 0.25"
        )
    folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
    drawn = [fold for _, fold in folds.split(pool, labels, groups[pool])][: share.numerator]
    return np.asarray(pool[np.sort(np.concatenate(drawn))], dtype=np.intp)
