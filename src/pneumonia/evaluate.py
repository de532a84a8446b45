"""Evaluate a model: threshold and calibration from validation, then figures with intervals on test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from pneumonia import UserError
from pneumonia.data import lung_boxes, tables
from pneumonia.data.store import (
    Pixels,
    Split,
    blocks,
    lungs,
    n_networks,
    read_split,
    read_validation,
    stored_preparation,
    subset,
)
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.images import geometry, stress
from pneumonia.metrics import boxes, calibration, decisions, ranking
from pneumonia.metrics.report import bootstrap_interval, classification_report
from pneumonia.metrics.text import format_with_interval
from pneumonia.models import detector, ensembles, scoring

HEADLINE = {
    "val": ("auc",),
    "test": ("n", "auc", "auc_low", "auc_high", "accuracy", "sensitivity", "specificity"),
}
"""The figures of each split in `metrics.json`, as many as a table of experiments shows; `evaluation.json` has all."""

GROUPS = ("subtype", "sex", "age", "view")
"""Columns of the manifest that define subgroups of test, if the source has them."""

AGES = (0, 2, 6, 18, 40, 65, 200)
"""Limits of the age groups in years: infants, small and older children, then adults."""


def validated(model: Any, store: zarr.Group, *, memory: float | None = None) -> Iterator[tuple[Any, Split]]:
    """The model with its validation split; with folds each of its networks with the images that it never saw.

    Args:
        model: trained.
        store: the image store.
        memory: as in `store.read_split`.
    """
    networks = ensembles.separate(model) if n_networks(store) > 1 else [model]
    yield from zip(networks, read_validation(store, memory=memory), strict=True)


def predict(model: Any, store: zarr.Group, splits: pd.DataFrame, *, memory: float | None = None) -> pd.DataFrame:
    """Scores of the validation and test images.

    With folds all images outside test are validation images, each with the score of the network that never saw it.

    Args:
        model: trained.
        store: the image store.
        splits: as `rebalance` wrote it.
        memory: as in `store.read_split`.

    Returns:
        `image_id, sha256, patient_id, split, label, score`, with folds `fold`, and those columns of `GROUPS` that the
        source has.
    """
    parts = [_scores(network, split) for network, split in validated(model, store, memory=memory)]
    parts.append(_scores(model, read_split(store, "test", memory=memory)))
    further = [name for name in ("fold", *GROUPS) if name in splits]
    facts = splits[["image_id", "sha256", "patient_id", "split", "label", *further]]
    if "fold" in splits:
        facts = facts.assign(split=facts["split"].replace("train", "val"))
    table = facts.merge(pd.concat(parts), on="image_id", validate="one_to_one")
    table["score"] = table["score"].round(7)
    order = ["image_id", "sha256", "patient_id", "split", "label", "score", *further]
    return table.sort_values(["split", "image_id"], ascending=[False, True], ignore_index=True)[order]


def _scores(model: Any, split: Split) -> pd.DataFrame:
    return pd.DataFrame({"image_id": split.image_ids, "score": scoring.predict_scores(model, split.images)})


def calibrated(predictions: pd.DataFrame) -> tuple[pd.DataFrame, calibration.Platt]:
    """The predictions with a column `calibrated` after `score`, and the calibration, fitted on validation only.

    Args:
        predictions: as `predict` returns them.
    """
    val = predictions[predictions["split"] == "val"]
    # Rounded as in the reports: the published calibration gives exactly these probabilities.
    platt = calibration.Platt(*tables.rounded(calibration.fit(val["label"], val["score"])))
    probability = calibration.apply(platt, predictions["score"]).round(7)
    names = list(predictions)
    place = names.index("score") + 1
    table = predictions.assign(calibrated=probability)[[*names[:place], "calibrated", *names[place:]]]
    return table, platt


def judge(
    predictions: pd.DataFrame,
    platt: calibration.Platt,
    *,
    level: float,
    target_sensitivity: float,
    target: Target = PNEUMONIA,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headline figures, and all figures with their intervals.

    Each operating point has a `threshold` on the raw scores and, in `calibrated`, one on the calibrated scores:

    - `youden`: Youden's threshold on validation.
    - `target_sensitivity`: the highest threshold that reaches this sensitivity on validation.
    - `one_half`: the fixed threshold 0.5. On calibrated scores it makes the fewest errors if pneumonia is as common as
      in validation. On raw scores it is what studies without a validation split report.
    - `prior_shift`, only on calibrated scores: the fewest errors at the share of pneumonia that EM estimates from the
      test scores. It uses no test labels but all test scores, so it is the only point that depends on test. It is
      correct only if the images of each class look as in validation. The report also has `test_prevalence`, which is
      used nowhere else. Absent if EM ends at 0 or 1.

    Calibration keeps the order of the images. So the AUC and the decisions at the first two points stay the same,
    except for rounding. Brier score, calibration error and the decisions at one half change. The calibration is fitted
    on validation, so calibrated figures are too good there. Intervals are Wilson's for ratios, DeLong's for the AUC and
    a bootstrap for the rest, all by patient. They do not include the uncertainty of threshold and calibration.

    Args:
        predictions: as `calibrated` returns them.
        platt: the calibration of the column `calibrated`.
        level: of the intervals.
        target_sensitivity: of the second operating point.
        target: of the labels. If its classes are subtypes, these are no subgroups.

    Returns:
        `metrics.json` and `evaluation.json`.
    """
    splits = {name: predictions[predictions["split"] == name] for name in ("val", "test")}
    val, test = splits.values()
    chosen = {
        "youden": decisions.youden_threshold(val["label"], val["score"]),
        "target_sensitivity": decisions.threshold_at_sensitivity(val["label"], val["score"], target_sensitivity),
        "one_half": 0.5,
    }
    full: dict[str, dict[str, Any]] = {}
    for point, value in chosen.items():
        # Rounded as in the reports: the published threshold gives exactly these figures.
        before = tables.rounded(value)
        after = before if point == "one_half" else tables.rounded(calibration.apply(platt, [before])[0])
        full[point] = {
            **_figures_at(before, "score", splits, level),
            "calibrated": _figures_at(after, "calibrated", splits, level),
        }
    full |= _prior_shift(val, test, level)
    youden = full["youden"]
    headline = {
        "threshold": youden["threshold"],
        **{
            split: {name: youden[split][name] for name in names if name in youden[split]}
            for split, names in HEADLINE.items()
        },
    }
    return headline, {
        "level": level,
        "calibration": platt._asdict(),
        **full,
        "reliability": _reliability(val, test, level),
        "subgroups": _subgroups(test, youden["threshold"], level, target),
    }


def _reliability(val: pd.DataFrame, test: pd.DataFrame, level: float) -> dict[str, dict[str, dict[str, float]]]:
    """How well probabilities agree with frequencies, of both splits, before and after calibration.

    On validation, where the calibration was fitted, the calibrated scores are those of `calibration.cross_fitted`.
    """
    cross_fitted = calibration.cross_fitted(val["label"], val["score"], val["patient_id"])
    return {
        "val": {"raw": _agreement(val, val["score"], level), "calibrated": _agreement(val, cross_fitted, level)},
        "test": _agreements(test, level),
    }


_SCORES = {"raw": "score", "calibrated": "calibrated"}


def _agreements(part: pd.DataFrame, level: float) -> dict[str, dict[str, float]]:
    """As `_agreement`, of images on which no calibration was fitted, before and after calibration."""
    return {name: _agreement(part, part[column], level) for name, column in _SCORES.items()}


def _agreement(part: pd.DataFrame, probability: Any, level: float) -> dict[str, float]:
    """`ece_if_perfect` is the calibration error that a perfect model with the same scores would show."""
    label, patients = part["label"], part["patient_id"]
    figures = {
        "ece": calibration.expected_calibration_error(label, probability),
        "ece_if_perfect": calibration.error_if_perfect(probability),
    }
    if min(len(set(label)), len(set(patients))) > 1:
        figures |= calibration.line(label, probability, patients, level=level)._asdict()
    return figures


def external(
    model: Any,
    outside: zarr.Group,
    films: pd.DataFrame,
    full: Mapping[str, Any],
    store: zarr.Group,
    *,
    memory: float | None = None,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Scores and figures of external tests, at the threshold and with the calibration of validation.

    Args:
        model: trained.
        outside: the store of the external tests.
        films: the table of the stage `external`, for the patient identifiers.
        full: `evaluation.json`, which is complete but for this.
        store: the image store.
        memory: as in `store.read_split`.

    Returns:
        The table `source, image_id, patient_id, label, score, calibrated`; and what `evaluation.json` gains, nothing
        without external tests: in `external`, for each source, `data`; the figures of `classification_report` on raw
        scores, and in `calibrated` those on calibrated scores; `patients`, `prevalence`; `reliability` as of test;
        `left_out`, `n_in_run`; `no_lungs`: images in which no lungs are known.

    Raises:
        UserError: the images of both stores are not prepared in the same way.
    """
    if stored_preparation(outside) != stored_preparation(store):
        raise UserError(
            "data/external.zarr: its images are prepared in another way than those of data/images.zarr; dvc repro "
            "external makes it again"
        )
    level, youden, platt = full["level"], full["youden"], calibration.Platt(**full["calibration"])
    patients = films.set_index("image_id")["patient_id"]
    parts = [pd.DataFrame(columns=["source", "image_id", "patient_id", "label", "score", "calibrated"])]
    figures = {}
    for name, record in cast("dict[str, Any]", outside.attrs["sources"]).items():
        split = read_split(outside, name, memory=memory)
        score = scoring.predict_scores(model, split.images).round(7)
        ids = list(map(str, split.image_ids))
        part = pd.DataFrame({"source": name, "image_id": ids, "patient_id": patients[ids].to_numpy()})
        part = part.assign(label=split.labels, score=score, calibrated=calibration.apply(platt, score).round(7))
        parts.append(part)
        figures[name] = {
            "data": record["data"],
            **_report(part, part["score"], youden["threshold"], level),
            "patients": part["patient_id"].nunique(),
            "prevalence": float(part["label"].mean()),
            "calibrated": _report(part, part["calibrated"], youden["calibrated"]["threshold"], level),
            "reliability": _agreements(part, level),
            "left_out": record["left_out"],
            "n_in_run": record["n_in_run"],
            "no_lungs": list(lung_boxes.origins(outside, name).values()).count("none"),
        }
    return pd.concat(parts[1:] or parts, ignore_index=True), {"external": figures} if figures else {}


class Found(NamedTuple):
    """What a detector found; empty for another network.

    Attributes:
        figures: `detection` of `evaluation.json`: `threshold`, the least score of a box, chosen on validation; of `val`
            `rsna_map` and `ap50`; of test what `boxes.detection_report` returns; `n_unknown`: test images whose boxes
            are not known, which are left out.
        curves: `boxes_precision_recall` and `boxes_froc`, of test.
        films: the test images with known boxes, those with the lowest score of the challenge first: the prepared image,
            its boxes at the threshold, and its name.
    """

    figures: dict[str, Any]
    curves: dict[str, pd.DataFrame]
    films: list[tuple[npt.NDArray[np.uint8], boxes.Film, str]]


def detection(
    model: Any,
    store: zarr.Group,
    splits: pd.DataFrame,
    *,
    level: float,
    n_films: int = 12,
    memory: float | None = None,
) -> Found:
    """Evaluate the boxes of a detector.

    Args:
        model: trained.
        store: the image store.
        splits: as `rebalance` wrote it, for the patient identifiers.
        level: of the intervals, by patient.
        n_films: images that are returned.
        memory: as in `store.read_split`.
    """
    if not detector.is_detector(model):
        return Found({}, {}, [])
    val = [
        film
        for network, split in validated(model, store, memory=memory)
        for film in found_boxes(network, split).values()
    ]
    test = read_split(store, "test", memory=memory)
    films = found_boxes(model, test)
    of_test, rows = list(films.values()), list(films)
    if not all(any(len(film.truth) for film in part) for part in (val, of_test)):
        return Found({}, {}, [])
    threshold = tables.rounded(boxes.best_threshold(val)) if any(len(film.scores) for film in val) else 1.0
    shown = boxes.above(of_test, threshold)
    patients = splits.set_index("image_id")["patient_id"].loc[test.image_ids[rows]].to_numpy()
    figures = {
        "threshold": threshold,
        "val": {"rsna_map": boxes.rsna_map(boxes.above(val, threshold)), "ap50": boxes.average_precision(val)},
        **boxes.detection_report(shown, of_test, groups=patients, level=level),
        "n_unknown": len(test.labels) - len(rows),
    }
    recall, precision, score = boxes.precision_recall(of_test)
    curves = {
        "boxes_precision_recall": pd.DataFrame({"recall": recall, "precision": precision, "score": score}),
        "boxes_froc": pd.DataFrame(boxes.froc(of_test)._asdict()),
    }
    order = np.argsort([boxes.rsna_score(film) for film in shown], kind="stable")[
        :n_films
    ]  # NaN, nothing to find, last
    worst = [(np.asarray(test.images[rows[at]]), shown[at], str(test.image_ids[rows[at]])) for at in order]
    return Found({"detection": figures}, curves, worst)


def found_boxes(model: Any, split: Split) -> dict[int, boxes.Film]:
    """What a detector finds in the images of a split whose boxes are known, by row."""
    return boxes.judged(split.boxes, lambda rows: detector.find(model, subset(split.images, rows)))


def operating_points(full: Mapping[str, Any]) -> pd.DataFrame:
    """A short table: test figures at each operating point, before and after calibration.

    Args:
        full: `evaluation.json`.

    Returns:
        `point, scores, threshold, auc, accuracy, sensitivity, specificity` as text, intervals in brackets; an undefined
        figure is empty.
    """
    points = [
        (point, scores, at)
        for point in ("youden", "target_sensitivity", "one_half")
        for scores, at in (("raw", full[point]), ("calibrated", full[point]["calibrated"]))
    ]
    if "prior_shift" in full:
        points.append(("prior_shift", "calibrated", full["prior_shift"]))
    rows = []
    for point, scores, at in points:
        test, row = at["test"], {"point": point, "scores": scores, "threshold": f"{at['threshold']:.6g}"}
        row["auc"] = f"{test['auc']:.4f}" if "auc" in test else ""
        rows.append(
            row | {name: format_with_interval(test, name) for name in ("accuracy", "sensitivity", "specificity")}
        )
    return pd.DataFrame(rows)


def metrics(full: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the stage for MLflow: at the Youden threshold, calibrated, and under changes of the images.

    Args:
        full: `evaluation.json`, with `robustness`, the audit as `stress` and, if there are any, external tests.
    """
    youden = full["youden"]
    return {
        "threshold": youden["threshold"],
        "val": youden["val"] | {"robust_auc": full["robustness"]["mean"]},
        "test": youden["test"],
        "calibrated": youden["calibrated"]["test"],
        "robustness": full["robustness"],
        "stress": {name: part["auc"] for name, part in full["stress"]["auc"].items()},
        **({"detection": _shares(full["detection"])} if "detection" in full else {}),
        **{f"external_{name}": _shares(part) for name, part in full.get("external", {}).items()},
    }


def _shares(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are neither counts nor tables."""
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def summary(full: Mapping[str, Any], target: Target = PNEUMONIA) -> list[str]:
    """The lines that the stage prints at its end.

    Args:
        full: `evaluation.json`, with `robustness`, the audit as `stress` and, if there are any, external tests.
        target: of the labels.
    """
    test, after, robust = full["youden"]["test"], full["youden"]["calibrated"]["test"], full["robustness"]
    perfect = full["reliability"]["test"]["calibrated"]["ece_if_perfect"]
    weakest = min(robust, key=lambda name: robust[name])
    lines = [
        f"test AUC {format_with_interval(test, 'auc', 4)}, n = {test['n']} ({test['n_positive']} {target.positive})",
        f"validation AUC {robust['clean']:.4f}; under changes of sharpness, grays, noise and proportions "
        f"{robust['mean']:.4f} on average, lowest {robust[weakest]:.4f} ({weakest})",
        f"calibration on validation changes the test calibration error from {test['ece']:.3f} to {after['ece']:.3f} "
        f"(a perfect model with these scores: {perfect:.3f}), "
        f"the Brier score from {test['brier']:.3f} to {after['brier']:.3f}",
        f"prior_shift is left out: the unlabelled test scores give no share of {target.finding}, or a share of 0 or 1",
    ]
    if shift := full.get("prior_shift"):
        lines[-1] = (
            f"{target.finding}: {shift['val_prevalence']:.1%} of validation, {shift['estimated_prevalence']:.1%} of "
            f"test as estimated from its unlabelled scores (prior_shift), {shift['test_prevalence']:.1%} as labelled"
        )
    outside = [
        f"external test {name}: AUC {format_with_interval(part, 'auc')}, sensitivity "
        f"{format_with_interval(part, 'sensitivity')}, specificity {format_with_interval(part, 'specificity')}, "
        f"n = {part['n']} ({part['n_positive']} {target.positive})"
        for name, part in full.get("external", {}).items()
    ]
    if found := full.get("detection"):
        lines.append(
            f"boxes of {found['n']} test images: metric of the RSNA challenge "
            f"{format_with_interval(found, 'rsna_map')} with boxes from score {found['threshold']:.3f}, average "
            f"precision {format_with_interval(found, 'ap50')}"
        )
    return [*lines, str(full["stress"]["verdict"]), *outside]


def robustness(validated: Iterable[tuple[Any, Split]]) -> dict[str, float]:
    """AUC on validation without change and under each of `stress.STRESSES`, and the mean of all of them.

    Use it to choose between recipes that have the same AUC on unchanged validation images.

    Args:
        validated: networks and the images that validate them, never those of test, because recipes are chosen by it.
    """
    parts = [(split.labels, _scores_under(model, split.images, stress.STRESSES)) for model, split in validated]
    labels = np.concatenate([part for part, _ in parts]).astype(int)
    names = list(parts[0][1])
    aucs = {name: ranking.roc_auc(labels, np.concatenate([scores[name] for _, scores in parts])) for name in names}
    return aucs | {"mean": sum(aucs.values()) / len(aucs)}


def audit(
    model: Any,
    store: zarr.Group,
    splits: pd.DataFrame,
    *,
    level: float,
    memory: float | None = None,
    on: str = "test",
) -> dict[str, Any]:
    """AUC on test under every change of `stress`, and three tests of what a model sees beside the lungs.

    - What the proportions alone give, `frame_only`: every film becomes the mean of all films, and keeps only its black
      bars (`preprocess.aspect: pad`). Absent if all films have the same bars or none.
    - What could be used, `same_box_hidden`: the box that covers 95 % of the train lungs is black in every film. Lungs
      that are hidden by their own mask (`lungs_hidden`) leave their outline, which may tell the class too.
    - What is used, `swapped_lungs` and `swapped_surroundings`: the box of the lungs of each film on the surroundings of
      another; AUC for the label of the lungs, and for that of the surroundings, where 0.5 is right.

    A model is shortcut-prone if its scores follow the surroundings more than the lungs. That is stated only if the two
    intervals do not overlap, and only for a model with a lead over chance. If no lungs of test images are known, the
    middle of the image is used instead, also for a single image without lungs.

    Args:
        model: trained.
        store: the image store.
        splits: as `rebalance` wrote it; for the patient identifiers and the sizes of the films.
        level: of the intervals (DeLong, by patient).
        memory: as in `store.read_split`.
        on: the audited split; `val` shows a shortcut that films of test do not have.

    Returns:
        `auc`: name of the change -> `auc, auc_low, auc_high`; `n`: images; `hidden`: the hidden part, `lungs` or
        `middle`; `n_lungs`: images with known lungs, if there are any; `n_found`: those of them whose lungs no person
        drew, if there are any; `shortcut_prone`, absent if the intervals do not decide it; `verdict` in words.
    """
    split = read_split(store, on, memory=memory)
    labels = split.labels.astype(int)
    films = splits.set_index("image_id").loc[split.image_ids]
    patients = films["patient_id"].to_numpy()
    boxes, n_lungs = _lung_boxes(store, on)
    masks = lungs(store, on) if n_lungs else None
    hidden = "lungs" if n_lungs else "middle"
    n_found = lung_boxes.counts(lung_boxes.origins(store, on)).get("found", 0)
    frames = _frames(store, on, films)
    mean = _mean(split.images) if len(set(frames)) > 1 else None
    same = stress.common_box(_lung_boxes(store, "train")[0]).mask(*split.images.shape[1:])
    order = np.random.default_rng(0).permutation(len(labels))
    partners = np.empty_like(order)
    partners[order] = np.roll(order, 1)  # each film lends its lungs once and its surroundings once

    def changed(block: npt.NDArray[np.uint8], first: int) -> dict[str, npt.NDArray[np.uint8]]:
        rows = range(first, first + len(block))
        kept = np.broadcast_to(stress.middle(*block.shape[1:]), block.shape)
        if masks is not None:
            lung = np.asarray(masks[first : first + len(block)]) > 0
            kept = np.where(lung.any(axis=(1, 2), keepdims=True), lung, kept)
        others = split.images[partners[rows]]
        swaps = [
            stress.swapped(film, boxes[row], other, boxes[partners[row]])
            for row, film, other in zip(rows, block, others, strict=True)
        ]
        framed = {}
        if mean is not None:
            inside = np.stack([frames[row].mask(*mean.shape) for row in rows])
            framed = {"frame_only": stress.occluded(np.broadcast_to(mean, block.shape), inside)}
        return {
            **framed,
            f"{hidden}_only": stress.occluded(block, kept),
            f"{hidden}_hidden": stress.occluded(block, ~kept),
            "same_box_hidden": stress.occluded(block, ~same),
            "swapped_lungs": np.stack(swaps),
        }

    scores = _scores_under(model, split.images, (*stress.STRESSES, *stress.REPORTED), changed)
    aucs = {name: _auc(labels, values, patients, level) for name, values in scores.items()}
    aucs["swapped_surroundings"] = _auc(labels[partners], scores["swapped_lungs"], patients[partners], level)
    audited: dict[str, Any] = {"auc": aucs, "n": len(labels), "hidden": hidden}
    if n_lungs:
        audited["n_lungs"] = n_lungs
    if n_found:
        audited["n_found"] = n_found
    followed, around = aucs["swapped_lungs"], aucs["swapped_surroundings"]
    region = "lungs" if hidden == "lungs" else "middle of the images"
    if aucs["clean"]["auc_low"] <= 0.5:
        outcome = "not conclusive, because the model may have no lead over chance"
    elif around["auc_low"] > followed["auc_high"]:
        audited["shortcut_prone"] = True
        outcome = "shortcut-prone, its scores follow the surroundings"
    elif around["auc_high"] < followed["auc_low"]:
        audited["shortcut_prone"] = False
        outcome = "its scores follow this region more than the surroundings"
    else:
        outcome = f"{len(labels)} images are too few to tell what its scores follow"
    audited["verdict"] = (
        f"with the {region} of each test film on the surroundings of another, the AUC is "
        f"{format_with_interval(followed, 'auc')} for the label of the {region.partition(' ')[0]} and "
        f"{format_with_interval(around, 'auc')} for that of the surroundings, where 0.5 is right: {outcome}. "
        f"With the same box hidden in every film the AUC is {format_with_interval(aucs['same_box_hidden'], 'auc')}: "
        "so much could be told without it"
    )
    if n_found:
        audited["verdict"] += f". A network found the lungs of {n_found:,} of {len(labels):,} images"
    return audited


def _frames(store: zarr.Group, split: str, films: pd.DataFrame) -> list[stress.Box]:
    """Where in the square each film of a split lies: the rest are black bars."""
    preparation = geometry.Preparation(**stored_preparation(store))
    around = lung_boxes.read(store, split)
    frames = []
    for name, width, height in zip(films.index, films["width"], films["height"], strict=True):
        _, place = geometry.region(int(width), int(height), preparation, around.get(str(name)))
        frames.append(stress.Box(place.y, place.y + place.height, place.x, place.x + place.width))
    return frames


def _mean(images: npt.NDArray[np.uint8] | Pixels) -> npt.NDArray[np.uint8]:
    """The mean film, uint8 (size, size)."""
    total = sum(block.sum(axis=0, dtype=np.int64) for block in blocks(images))
    return np.asarray(np.rint(total / len(images)), np.uint8)


def _lung_boxes(store: zarr.Group, split: str) -> tuple[list[stress.Box], int]:
    """The box around the lungs of each image of a split, and the number of images with a mask."""
    masks = lungs(store, split)
    if masks is None:
        images = cast("zarr.Array[Any]", store[f"{split}/images"])
        return [stress.box_of(np.zeros(images.shape[1:], bool))] * images.shape[0], 0
    boxes, n_masks = [], 0
    for mask in (one for block in blocks(Pixels(masks, 0)) for one in block > 0):
        boxes.append(stress.box_of(mask))
        n_masks += bool(mask.any())
    return boxes, n_masks


def _scores_under(
    model: Any,
    images: npt.NDArray[np.uint8] | Pixels,
    changes: Iterable[str],
    more: Callable[[npt.NDArray[np.uint8], int], Mapping[str, npt.NDArray[np.uint8]]] = lambda block, first: {},
) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of unchanged images (`clean`), under changes of `stress` and under other changes, block by block.

    Args:
        model: trained.
        images: uint8 (n, size, size).
        changes: names of `stress`; each has its own random generator, used for all blocks.
        more: makes other versions of a block, from the block and the number of its first row.
    """
    noise = {name: np.random.default_rng(0) for name in changes}
    parts: list[dict[str, npt.NDArray[np.float64]]] = []
    first = 0
    for block in blocks(images):
        changed = {name: stress.stressed(block, name, seed=rng) for name, rng in noise.items()}
        versions = {"clean": block, **changed, **more(block, first)}
        parts.append({name: scoring.predict_scores(model, version) for name, version in versions.items()})
        first += len(block)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _auc(labels: Any, scores: Any, patients: Any, level: float) -> dict[str, float]:
    low, high = ranking.auc_interval(labels, scores, level, groups=patients)
    return {"auc": ranking.roc_auc(labels, scores), "auc_low": low, "auc_high": high}


def curves(
    predictions: pd.DataFrame, threshold: float, *, level: float, target: Target = PNEUMONIA
) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, on test.

    Args:
        predictions: as `calibrated` returns them.
        threshold: on the raw scores, of `confusion`.
        level: of the intervals of `calibration`, by patient.
        target: of the labels, for the names in `confusion`.

    Returns:
        `roc`, `precision_recall`, `calibration` (raw scores), `calibration_after`, `decision_curve` and `confusion`.
    """
    test = predictions[predictions["split"] == "test"]
    y_true, y_score = test["label"], test["score"]
    roc = ranking.roc_curve(y_true, y_score)
    pr = ranking.precision_recall_curve(y_true, y_score)
    benefit = {name: decisions.net_benefit(y_true, test[name]) for name in ("score", "calibrated")}
    plain = benefit["score"]
    diagrams = {
        name: pd.DataFrame(calibration.diagram(y_true, test[name], groups=test["patient_id"], level=level)._asdict())
        for name in ("score", "calibrated")
    }
    names = pd.Series(target.classes)
    return {
        "roc": pd.DataFrame({"fpr": roc.fpr, "tpr": roc.tpr}),
        "precision_recall": pd.DataFrame({"recall": pr.recall, "precision": pr.precision}),
        "calibration": diagrams["score"],
        "calibration_after": diagrams["calibrated"],
        "decision_curve": pd.DataFrame(
            {
                "threshold": plain.thresholds,
                **{name: curve.model for name, curve in benefit.items()},
                "treat_all": plain.treat_all,
                "treat_none": plain.treat_none,
            }
        ),
        "confusion": pd.DataFrame(
            {"actual": names[y_true].to_numpy(), "predicted": names[(y_score >= threshold).astype(int)].to_numpy()}
        ),
    }


def _figures_at(
    threshold: float, column: str, splits: Mapping[str, pd.DataFrame], level: float
) -> dict[str, dict[str, float] | float]:
    reports = {name: _report(part, part[column], threshold, level) for name, part in splits.items()}
    return {"threshold": threshold, **reports}


def _report(part: pd.DataFrame, scores: Any, threshold: float, level: float) -> dict[str, float]:
    return classification_report(part["label"], scores, threshold, groups=part["patient_id"], level=level)


def _prior_shift(val: pd.DataFrame, test: pd.DataFrame, level: float) -> dict[str, dict[str, Any]]:
    """The operating point from unlabelled test scores; test labels are used for its figures only."""
    old = float(val["label"].mean())
    try:
        new = calibration.prior_by_em(test["calibrated"], old)
    except ValueError:  # the share of pneumonia cannot be estimated from the scores
        return {}
    if new in (0, 1):
        return {}
    shares = {"val_prevalence": old, "estimated_prevalence": new}
    with suppress(ValueError):  # undefined in too many resamples
        shares["estimated_prevalence_low"], shares["estimated_prevalence_high"] = bootstrap_interval(
            lambda _, scores: calibration.prior_by_em(scores, old),
            test["label"],
            test["calibrated"],
            groups=test["patient_id"],
            level=level,
            seed=0,
        )
    shares["test_prevalence"] = float(test["label"].mean())
    # A probability of 0.5 in the new population, as a calibrated score.
    threshold = tables.rounded(calibration.adjust_prior([0.5], new, old)[0])
    cut, *adjusted = calibration.adjust_prior([threshold, *test["calibrated"]], old, new)
    return {"prior_shift": {"threshold": threshold, **shares, "test": _report(test, adjusted, cut, level)}}


def _subgroups(
    test: pd.DataFrame, threshold: float, level: float, target: Target
) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> group -> figures on test. A column with only one group is left out; images without a value belong to
    no group."""
    subgroups = {}
    for column in (name for name in GROUPS if name in test and not (name == "subtype" and target.subtypes)):
        values = test[column] if column != "age" else _age_group(test["age"])
        parts = {str(name): part for name, part in test.groupby(values.replace("", None), observed=True)}
        if len(parts) > 1:
            subgroups[column] = {name: _group(part, threshold, level) for name, part in parts.items()}
    for name, group in subgroups.get("subtype", {}).items():
        if group["n_positive"] == group["n"]:  # a type of pneumonia: its AUC is against all normals
            part = test[(test["subtype"] == name) | (test["label"] == 0)]
            if part["label"].nunique() == 2:
                group |= _auc(part["label"], part["score"], part["patient_id"], level)
    return subgroups


def _age_group(years: pd.Series) -> pd.Series:
    labels = [f"{low}-{high - 1} years" for low, high in pairwise(AGES)]
    labels[-1] = f"{AGES[-2]} years and older"
    return pd.cut(pd.to_numeric(years), AGES, right=False, labels=labels)


def _group(part: pd.DataFrame, threshold: float, level: float) -> dict[str, float]:
    report = _report(part, part["score"], threshold, level)
    figures = [f"{name}{end}" for name in ("auc", "sensitivity", "specificity") for end in ("", "_low", "_high")]
    return {name: report[name] for name in ("n", "n_positive", *figures) if name in report}
