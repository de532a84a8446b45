"""Where a model looks: saliency maps, and figures that say whether the maps can be trusted.

Where the maps point is measured on test images with known boxes, against maps that know nothing of the network. What
needs no boxes is measured on validation images: whether a map depends on the weights, whether its pixels matter for the
score, whether it is stable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from pneumonia import UserError
from pneumonia.data.store import Pixels, Split, lungs, read_split
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.images.geometry import Box, affine
from pneumonia.metrics.text import format_with_interval, with_interval
from pneumonia.saliency import baselines, network, scores, verdicts
from pneumonia.saliency.maps import Maps
from pneumonia.saliency.methods import METHODS, SEED, fitting

N_CHECKED = 16
"""Validation images of class 1 for the figures that need no boxes."""

N_DEPTHS, N_SEEDS = 4, 3
"""Depths of the randomisation check, from the logit alone to all layers, and draws of the weights."""

_MASKS_IN_MEMORY = 2e8
"""Bytes of lung masks that are cached."""

_NOISE = 2.0
"""Gray levels, of the check of stability: less than a reader can see."""

N_WORST = 6
"""Test images of each outcome that the gallery shows."""

HEADLINES = ("pointing_game", "energy_in_lungs", "randomisation_corr")
"""Figures that can stand for a method, the most telling first."""

OUTCOMES = ("false_negative", "false_positive", "true_positive", "true_negative")


class Sample(NamedTuple):
    """Images on which maps are scored.

    Attributes:
        images: uint8 (n, size, size), 0-255.
        patients: identifiers, (n,).
        boxes: for each image bool (size, size), the pixels in its boxes; without any where no box is known.
        lungs: the same for the lungs.
    """

    images: npt.NDArray[np.uint8]
    patients: npt.NDArray[np.object_]
    boxes: scores.Bools
    lungs: scores.Bools


def known(methods: Sequence[str], model: Any) -> list[str]:
    """The names of methods, each once.

    Args:
        methods: as a user wrote them.
        model: that is to be explained.

    Raises:
        UserError: an unknown name, with the known ones, or one that this network has no part for.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise UserError(f"explain.methods has {', '.join(unknown)}; known: {', '.join(METHODS)}")
    possible = fitting(model)
    if foreign := [name for name in methods if name not in possible]:
        raise UserError(f"explain.methods has {', '.join(foreign)}, and this {model.name} draws no boxes; leave it out")
    return list(dict.fromkeys(methods))


def choose(predictions: pd.DataFrame, n_images: int, seed: int) -> list[str]:
    """Test images for the saliency pictures: half of each class if there are enough, drawn at random, not by score."""
    test = predictions[predictions["split"] == "test"]
    rng = np.random.default_rng(seed)
    halves = [test.loc[test["label"] == label, "image_id"].to_numpy() for label in (1, 0)]
    shares = (n_images - n_images // 2, n_images // 2)
    return [str(name) for half, n in zip(halves, shares, strict=True) for name in rng.permutation(half)[:n]]


def choose_scored(predictions: pd.DataFrame, boxes: Mapping[str, Any], n_scored: int, seed: int) -> list[str]:
    """Test images on which maps are scored: those with boxes or, if the source has no boxes, any."""
    test = predictions.loc[predictions["split"] == "test", "image_id"]
    boxed = test[test.isin(list(boxes))]
    rng = np.random.default_rng(seed)
    return [str(name) for name in rng.permutation(boxed if len(boxed) else test)[:n_scored]]


def choose_checked(predictions: pd.DataFrame, seed: int) -> list[str]:
    """Validation images of class 1 for the figures that need no boxes, at most `N_CHECKED`."""
    val = predictions.loc[(predictions["split"] == "val") & (predictions["label"] == 1), "image_id"]
    return [str(name) for name in np.random.default_rng(seed).permutation(val)[:N_CHECKED]]


def outcomes(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The test images with their `outcome`, one of `OUTCOMES`, and in each the worst first.

    The worst of the right answers are those nearest to the threshold, of the wrong ones those farthest from it.

    Args:
        predictions: as `evaluate` writes them.
        threshold: on the raw scores.
    """
    test = predictions[predictions["split"] == "test"]
    positive = test["score"] >= threshold
    right = positive == (test["label"] == 1)
    names = np.where(right, "true_", "false_") + np.where(positive, "positive", "negative").astype(object)
    away = (test["score"] - threshold).abs().where(right, -(test["score"] - threshold).abs())
    table = test.assign(outcome=names, away=away).sort_values(["away", "image_id"], kind="stable")
    order = {name: place for place, name in enumerate(OUTCOMES)}
    return table.sort_values("outcome", key=lambda values: values.map(order), kind="stable").drop(columns="away")


def mean_of_train_boxes(
    splits: pd.DataFrame, boxes: Mapping[str, npt.NDArray[np.float64]], size: int
) -> npt.NDArray[np.float32]:
    """Share of the train images with boxes that have one at each pixel, float32 (size, size): a baseline."""
    train = splits.loc[splits["split"] == "train", "image_id"]
    return baselines.mean_of_boxes((boxes[name] for name in train if name in boxes), size)


def choose_shown(predictions: pd.DataFrame, threshold: float, n_images: int, seed: int) -> pd.DataFrame:
    """The images of the gallery: those of `choose`, which are `drawn`, and the `N_WORST` of each outcome.

    Returns:
        The rows of `outcomes` of these images.
    """
    listed = outcomes(predictions, threshold)
    drawn = listed["image_id"].isin(choose(predictions, n_images, seed))
    worst = listed.groupby("outcome").cumcount() < N_WORST
    return listed.assign(drawn=drawn)[drawn | worst].reset_index(drop=True)


def sampler(
    store: zarr.Group, splits: pd.DataFrame, boxes: Mapping[str, npt.NDArray[np.float64]]
) -> Callable[[str, Sequence[str]], Sample]:
    """A function that reads images of a split by their ids, as `sample` returns them; with folds `val` is `train`.

    Args:
        store: the image store.
        splits: as `rebalance` wrote it.
        boxes: as `geometry.boxes_in_store` returns them.
    """
    patient_of = dict(zip(splits["image_id"], splits["patient_id"], strict=True))

    def read(split: str, image_ids: Sequence[str]) -> Sample:
        split = split if split in store else "train"
        masks = lungs(store, split)
        cached = None if masks is None else Pixels(masks, _MASKS_IN_MEMORY)
        return sample(read_split(store, split, memory=0), image_ids, boxes, cached, patient_of)  # only a few images

    return read


def sample(
    split: Split,
    image_ids: Sequence[str],
    boxes: Mapping[str, npt.NDArray[np.float64]],
    masks: npt.NDArray[np.uint8] | Pixels | None,
    patient_of: Mapping[str, str],
) -> Sample:
    """The images with these ids, in their order, with what is known of them.

    Args:
        split: that holds them.
        image_ids: of the images.
        boxes: image id -> float (k, 4): x, y, width, height in pixels of the store.
        masks: of the lungs of the split, uint8 (n, size, size), 255 = lung; None if the source has none.
        patient_of: image id -> identifier of the patient.
    """
    images = pick(split, image_ids)
    size = images.shape[1]
    nothing = np.zeros((0, 4))
    return Sample(
        images,
        np.array([patient_of[name] for name in image_ids], dtype=object),
        np.array([scores.inside(boxes.get(name, nothing), size) for name in image_ids]).reshape(images.shape),
        np.zeros(images.shape, bool) if masks is None else _rows(masks, split, image_ids) > 127,
    )


def pick(split: Split, image_ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The images with these ids, in the order of the ids: uint8 (n, size, size)."""
    return _rows(split.images, split, image_ids)


def _rows(images: npt.NDArray[np.uint8] | Pixels, split: Split, image_ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    rows = {name: row for row, name in enumerate(split.image_ids)}
    return images[[rows[name] for name in image_ids]]


def score(
    model: Any,
    methods: Sequence[str],
    scored: Sample,
    checked: Sample,
    train_boxes: npt.NDArray[np.float32],
    *,
    n_samples: int,
    thorough: bool = False,
) -> dict[str, Any]:
    """The content of `explain.json`.

    Args:
        model: trained.
        methods: keys of `METHODS`.
        scored: of test, for the figures of where the maps point.
        checked: of validation, for the figures that need no boxes.
        train_boxes: as `mean_of_train_boxes` returns it.
        n_samples: of methods that average or integrate.
        thorough: also what no verdict needs: `independent_corr`.

    Returns:
        `default`: the method for predictions. `methods` and `baselines`: name -> figures, each with `_low` and `_high`,
        the limits of its 95 % interval by patient:

        - `pointing_game`, `energy_in_box`, `energy_in_lungs`: the means of `scores`, on the `n_boxed` or `n_lungs` of
          the `n` images for which boxes or lungs are known. `n_patients`: of those with boxes, else with lungs.
        - `pointing_game_gain` and others: the paired difference to the strongest baseline, `pointing_game_baseline`.
        - on `n_checked` images of `n_checked_patients`: `randomisation_corr`, rank correlation of the maps before and
          after the layers from the logit downwards have new random weights, mean of `N_DEPTHS` depths
          (`randomisation_curve`) and `N_SEEDS` draws (Adebayo et al. 2018, arXiv:1810.03292), with an interval that
          contains those of all draws; `independent_corr`, the same with one layer at a time;
          `insertion_auc`, `deletion_auc`; `shift_corr` and `noise_corr`, rank correlation with the map of the film
          shifted by a pixel, or with a little noise.
        - `ms_per_image`, and `verdict`, as `verdicts.verdict` gives it.

        A figure that cannot be computed is absent.
    """
    fixed = _fixed_baselines(scored, train_boxes)
    figures = {name: _localisation(maps, scored) for name, maps in fixed.items()}
    rows: dict[str, dict[str, Any]] = {}
    baseline_rows = {name: _row(values, scored) for name, values in figures.items()}
    for name in methods:
        method = partial(METHODS[name], model, n_samples=n_samples, seed=SEED)
        for n in (1, 2):  # compiles for one number of images, then for any; that is not measured
            METHODS[name](model, scored.images[:n], n_samples=1, seed=SEED)
        start = time.perf_counter()
        maps = method(scored.images)
        seconds = time.perf_counter() - start
        own = _own_baselines(name, model, method, maps, scored)
        baseline_rows |= {other: _row(values, scored) for other, values in own.items()}
        mine = _localisation(maps, scored)
        rows[name] = {
            **_row(mine, scored),
            **_gains(mine, figures | own, scored),
            **_checks(model, method, checked, thorough=thorough),
            "ms_per_image": 1000 * seconds / max(len(scored.images), 1),
        }
        rows[name]["verdict"] = verdicts.verdict(rows[name])
    default = verdicts.choose({name: row["verdict"] for name, row in rows.items()})
    return {"default": default, "methods": rows, "baselines": baseline_rows}


def maps(model: Any, methods: Sequence[str], images: npt.NDArray[np.uint8], *, n_samples: int) -> dict[str, Maps]:
    """The maps of each method: float32 (n, size, size), 0-1, as those of a prediction."""
    return {name: METHODS[name](model, images, n_samples=n_samples, seed=SEED) for name in methods}


def figures(maps: Maps, sample: Sample) -> dict[str, Any]:
    """What says where maps point, each figure with its interval: a row of `explain.json` without its checks."""
    return _row(_localisation(maps, sample), sample)


def mean_maps(
    values: Maps, masks: scores.Bools, groups: npt.NDArray[np.object_], target: Target = PNEUMONIA
) -> tuple[dict[str, tuple[Maps, int]], str]:
    """Mean maps of each outcome and class, with numbers of images, and what their frame is.

    If lungs are known for most films, each map is first cut to the box around its lungs and a tenth of it on each side,
    and the other films are left out; their number is said. Else the maps are those of whole films.

    Args:
        values: float32 (n, size, size).
        masks: of the lungs, bool (n, size, size).
        groups: outcome of each image, one of `OUTCOMES`.
        target: for the names of the classes.
    """
    has_lungs = masks.any(axis=(1, 2))
    with_lungs, n_left_out = bool(has_lungs.mean() > 0.5), int((~has_lungs).sum())
    if with_lungs:
        values, masks, groups = values[has_lungs], masks[has_lungs], groups[has_lungs]
    placed = np.stack([_around(masks[row], one) for row, one in enumerate(values)]) if with_lungs else values
    positive = np.isin(groups, ("true_positive", "false_negative"))
    members = {name: groups == name for name in OUTCOMES}
    members |= {f"all {target.positive}": positive, f"all {target.negative}": ~positive}
    means = {name: (placed[rows].mean(axis=0), int(rows.sum())) for name, rows in members.items() if rows.any()}
    if not with_lungs:
        return means, "frame: the whole film"
    left_out = f"; without {n_left_out} of {has_lungs.size} films, whose lungs are not known" if n_left_out else ""
    return means, f"frame: the box around the lungs and a tenth of its sides{left_out}"


def _around(mask: scores.Bools, values: Maps) -> Maps:
    size = values.shape[0]
    (top, bottom), (left, right) = ((where.min(), where.max() + 1) for where in np.nonzero(mask))
    down, across = 1.2 * (bottom - top), 1.2 * (right - left)
    frame = Box((left + right) / 2 - across / 2, (top + bottom) / 2 - down / 2, across, down)
    to_film = affine(Box(0, 0, size, size), frame)
    return np.asarray(
        cv2.warpAffine(values, to_film, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32
    )


def summary(explained: Mapping[str, Any]) -> list[str]:
    """The lines that the stage prints at its end.

    Args:
        explained: `explain.json`.
    """
    lines = []
    for name, row in explained["methods"].items():
        parts = [
            f"{label} {format_with_interval(row, figure, 2)}"
            for figure, label in (
                ("pointing_game", "highest point in a box"),
                ("energy_in_box", "share in boxes"),
                ("energy_in_lungs", "share in the lungs"),
                ("randomisation_corr", "correlation with random weights"),
            )
            if figure in row
        ]
        lines.append(f"{verdicts.in_words(name, row['verdict'])}; {', '.join(parts)}")
    row = explained["methods"][explained["default"]]
    if not row["n_boxed"] and not row["n_lungs"]:
        lines.append("neither boxes nor lungs are known: nothing says whether a map points at the disease")
    elif row["n_lungs"] < row["n"]:
        lines.append(f"lungs are known for {row['n_lungs']} of {row['n']} images")
    if n_found := explained.get("lungs", {}).get("found"):
        lines.append(f"a network found the lungs of {n_found} of {row['n']} images, no person drew them")
    if verdicts.is_excluded(row["verdict"]):
        lines.append("all methods are excluded: no prediction shows a map")
    return lines


def headline(explained: Mapping[str, Any]) -> dict[str, float]:
    """The content of `saliency.json`: one figure of the default method, the best one that is known; else empty."""
    row = explained["methods"][explained["default"]]
    known = [name for name in HEADLINES if name in row]
    return {name: row[name] for name in known[:1]}


def _fixed_baselines(scored: Sample, train_boxes: npt.NDArray[np.float32]) -> dict[str, Maps]:
    n, size = scored.images.shape[:2]
    maps = {"centre": baselines.centre(n, size), "edges": baselines.edges(scored.images)}
    if train_boxes.any():
        maps["train_boxes"] = baselines.train_boxes(train_boxes, n)
    if scored.lungs.any():
        maps["uniform_in_lungs"] = baselines.uniform_in_lungs(scored.lungs)
    return maps


def _own_baselines(
    name: str, model: Any, method: Callable[..., Maps], maps: Maps, scored: Sample
) -> dict[str, dict[str, scores.Values]]:
    """Baselines that use the method itself: its maps of another image, of half and of entirely random weights."""
    depth = network.depth(model)
    made = {"of_another_image": baselines.of_another_image(maps, scored.patients)}
    for label, n_layers in (("of_randomised_weights", -(-depth // 2)), ("of_untrained_network", depth)):
        with network.randomised(model, range(n_layers), SEED):
            made[label] = method(scored.images)
    return {f"{name}_{label}": _localisation(values, scored) for label, values in made.items()}


def _localisation(maps: Maps, sample: Sample) -> dict[str, scores.Values]:
    """Figure -> a value for each image, float (n,); NaN where boxes or lungs are not known."""
    boxed, with_lungs = sample.boxes.any(axis=(1, 2)), sample.lungs.any(axis=(1, 2))
    return {
        "pointing_game": np.where(boxed, scores.pointing_game(maps, sample.boxes), np.nan),
        "energy_in_box": np.where(boxed, scores.energy(maps, sample.boxes), np.nan),
        "energy_in_lungs": np.where(with_lungs, scores.energy(maps, sample.lungs), np.nan),
    }


def _row(figures: Mapping[str, scores.Values], sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(sample.images)}
    boxed, with_lungs = sample.boxes.any(axis=(1, 2)), sample.lungs.any(axis=(1, 2))
    patients = sample.patients[boxed if boxed.any() else with_lungs]
    row |= {"n_boxed": int(boxed.sum()), "n_lungs": int(with_lungs.sum()), "n_patients": len({*patients})}
    for name, values in figures.items():
        row |= _figure(name, values, sample.patients)
    return row


def _gains(
    mine: Mapping[str, scores.Values], others: Mapping[str, Mapping[str, scores.Values]], sample: Sample
) -> dict[str, Any]:
    """The paired difference of each figure to the baseline with the highest mean."""
    gains: dict[str, Any] = {}
    for figure, values in mine.items():
        # A map that is uniform in the lungs has all its energy there by construction.
        rivals = {name: row[figure] for name, row in others.items() if (name, figure) not in _BY_CONSTRUCTION}
        if np.isfinite(values).any():
            strongest = max(rivals, key=lambda name: float(np.nanmean(rivals[name])))
            gains |= _figure(f"{figure}_gain", values - rivals[strongest], sample.patients)
            gains[f"{figure}_baseline"] = strongest
    return gains


_BY_CONSTRUCTION = {("uniform_in_lungs", "energy_in_lungs")}


def _figure(name: str, values: scores.Values, patients: npt.NDArray[np.object_]) -> dict[str, float]:
    """A figure and its interval; empty if it is known for no image."""
    is_known = np.isfinite(values)
    if not is_known.any():
        return {}
    return with_interval(name, *scores.interval(values[is_known], patients[is_known]))


def _checks(model: Any, method: Callable[..., Maps], checked: Sample, *, thorough: bool) -> dict[str, Any]:
    """The figures that need no boxes."""
    if not len(checked.images):
        return {}
    maps = method(checked.images)
    logits = network.logits(model)
    inserted, deleted = scores.insertion_deletion(
        lambda batch: 1 / (1 + np.exp(-logits(batch).astype(np.float64))), checked.images, maps
    )
    cascade = _correlations(model, method, checked.images, maps, cascading=True)
    noise = np.random.default_rng(SEED).normal(0, _NOISE, checked.images.shape)
    noisy = np.clip(np.rint(checked.images + noise), 0, 255).astype(np.uint8)
    values = {
        "insertion_auc": inserted,
        "deletion_auc": deleted,
        "shift_corr": scores.rank_correlation(np.roll(maps, 1, axis=2), method(np.roll(checked.images, 1, axis=2))),
        "noise_corr": scores.rank_correlation(maps, method(noisy)),
    }
    row: dict[str, Any] = {"n_checked": len(checked.images), "n_checked_patients": len({*checked.patients})}
    for name, one in values.items():
        row |= _figure(name, one, checked.patients)
    row |= _figure_of_draws("randomisation_corr", cascade.mean(axis=0), checked.patients)
    if thorough:
        alone = _correlations(model, method, checked.images, maps, cascading=False)
        row |= _figure_of_draws("independent_corr", alone.mean(axis=0), checked.patients)
    return row | {"randomisation_curve": cascade.mean(axis=(1, 2)).tolist()}


def _figure_of_draws(name: str, values: scores.Values, patients: npt.NDArray[np.object_]) -> dict[str, float]:
    """A figure whose interval contains those of all draws: float (draws, n). All images of a draw share its weights."""
    intervals = np.array([scores.interval(draw, patients) for draw in values])
    low, high = float(intervals[:, 1].min()), float(intervals[:, 2].max())
    return with_interval(name, float(values.mean()), low, high)


def _correlations(
    model: Any, method: Callable[..., Maps], images: npt.NDArray[np.uint8], maps: Maps, *, cascading: bool
) -> scores.Values:
    """Rank correlation of maps with those of randomised weights: float (depths, draws, n).

    Args:
        model: trained.
        method: from images to maps.
        images: uint8 (n, size, size).
        maps: of the trained model.
        cascading: random are all layers from the logit to a depth; else only the layer at that depth.
    """
    n_layers = network.depth(model)
    depths = np.unique(np.linspace(1, n_layers, min(N_DEPTHS, n_layers)).round().astype(int)).tolist()
    correlations = np.empty((len(depths), N_SEEDS, len(images)))
    for row, depth in enumerate(depths):
        for seed in range(N_SEEDS):
            with network.randomised(model, range(depth) if cascading else (depth - 1,), seed):
                correlations[row, seed] = scores.rank_correlation(maps, method(images))
    return correlations
