"""How well a detector finds, beside what else could: `python -m benchmarks.boxes [OPTIONS] [FOLDER …]`.

A folder is the project of a detector after `dvc repro evaluate`, by default this one; name one for each seed. Printed
are its figures on test, with intervals by patient, and their means. The options add what they are compared with, on the
same test images:

- `--classifier FOLDER …`: a project for each detector. The difference of the AUCs of the images. The classifier of the
  same backbone is the detector with `train.box_weight: 0`.
- `--saliency FOLDER`: the project of another network, after `dvc repro explain`. Boxes around what its maps show:
  regions above a share of the highest value. Validation chooses the method, the share, the least area and the score of
  a region by the metric of the challenge, as it chooses the threshold of a detector.
- `--films FOLDER`: other films with boxes, as `benchmarks.saliency` takes them. Each detector looks for boxes in them,
  with its threshold as it is.

With `--output` all figures are kept as JSON.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import boxed_films
from pneumonia import UserError, evaluate, explain
from pneumonia.data import tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import Split, open_store, read_split, stored_preparation, subset
from pneumonia.images import geometry
from pneumonia.metrics import boxes, ranking
from pneumonia.metrics.boxes import Film
from pneumonia.metrics.report import N_RESAMPLES, percentile_interval, resample
from pneumonia.metrics.text import format_with_interval, with_interval
from pneumonia.models import detector, loading, runtime, scoring

FIGURES: tuple[Literal["ap50", "rsna_map"], ...] = ("ap50", "rsna_map")
SHARES = (0.02, 0.05, *(round(0.1 * step, 1) for step in range(1, 10)))
"""Of the highest value of a map, from which on a pixel belongs to a region."""
AREAS = (0.0, 0.005, 0.02)
"""Least areas of a region, as shares of the image."""
SCORES: dict[str, Callable[[npt.NDArray[np.float32]], float]] = {
    "mean": lambda values: float(values.mean()),
    "max": lambda values: float(values.max()),
    "probability": lambda values: 1.0,
}
"""Of a region: a figure of its values in the map, times the probability of the image."""
N_SAMPLES, SEED, LEVEL = 16, 0, 0.95
MODEL, STORE = "models/model.keras", "data/images.zarr"


class Run(NamedTuple):
    """What the project of a detector has left.

    Attributes:
        folder: of the project.
        detection: of `evaluation.json`.
        test: the rows of test in `predictions.csv`, by `sha256`.
        auc: of the images, with its interval.
    """

    folder: Path
    detection: dict[str, Any]
    test: pd.DataFrame
    auc: dict[str, float]


class Rule(NamedTuple):
    """How regions of a map become boxes.

    Attributes:
        share: a value of `SHARES`.
        area: a value of `AREAS`.
        score: a key of `SCORES`.
    """

    share: float
    area: float
    score: str


class Choice(NamedTuple):
    """What validation has chosen for the boxes of maps.

    Attributes:
        method: a key of `explain.METHODS`.
        rule: of its boxes.
        threshold: least score of a shown box.
        rsna_map: on validation, by which it was chosen.
    """

    method: str
    rule: Rule
    threshold: float
    rsna_map: float


def read(folder: Path) -> Run:
    """The run in a project folder."""
    evaluation = _report(folder, "evaluation.json", "evaluate")
    if "detection" not in evaluation:
        raise UserError(f"{folder} has no figures of boxes: it needs a detector, and boxes in validation and test")
    return Run(folder, evaluation["detection"], _test(folder), evaluation["youden"]["test"])


def _report(folder: Path, name: str, stage: str) -> Any:
    path = folder / "reports" / name
    if not path.is_file():
        raise UserError(f"{path} is missing: finish the run with dvc repro {stage}")
    return tables.read_json(path)


def _test(folder: Path) -> pd.DataFrame:
    path = folder / "reports/predictions.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: finish the run with dvc repro evaluate")
    predictions = read_predictions(path)
    return predictions[predictions["split"] == "test"].set_index("sha256").sort_index()


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """The figures on test, a row for each run; then their means and standard deviations over the runs."""
    names = (*FIGURES, "auc")
    of_runs = [{**run.auc, **run.detection} for run in runs]
    rows = [
        {name: format_with_interval(one, name) for name in names} | {name: str(one[name]) for name in ("n", "n_boxes")}
        for one in of_runs
    ]
    index = [str(run.folder) for run in runs]
    if len(runs) > 1:
        values = pd.DataFrame(of_runs).reindex(columns=names)  # what a run lacks is not known
        for name, numbers in (("mean", values.mean()), ("deviation", values.std())):
            index.append(name)
            rows.append({str(name): f"{number:.3f}" for name, number in numbers.dropna().items()})
    return pd.DataFrame(rows, index=index).fillna("")


def auc_gains(detectors: Sequence[pd.DataFrame], classifiers: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """AUC of each detector less that of its classifier on the same images, and the mean, with intervals by patient.

    The interval of the mean is a bootstrap of patients, of all runs at once: it has none where they were tested on
    different images.

    Args:
        detectors, classifiers: rows of test in pairs, as of `Run.test`.

    Returns:
        `gain, low, high, n`, a row for each pair and, of several, the `mean`; without an interval NaN.
    """
    if len(detectors) != len(classifiers):
        raise UserError(f"{len(classifiers)} classifiers for {len(detectors)} detectors; name one for each, in order")
    rows = {}
    for number, (one, other) in enumerate(zip(detectors, classifiers, strict=True), start=1):
        if not one.index.equals(other.index):
            raise UserError(f"pair {number} was tested on different images; train both on the same data and split")
        gain = ranking.auc_difference(
            one["label"], other["score"], one["score"], groups=one["patient_id"].to_numpy(), level=LEVEL
        )
        rows[str(number)] = (*gain, len(one))
    if len(rows) > 1:
        rows["mean"] = _mean_gain(detectors, classifiers, [row[0] for row in rows.values()])
    table = pd.DataFrame(rows.values(), index=list(rows), columns=["gain", "low", "high", "n"])
    return table.astype({"n": "Int64"})


def _mean_gain(
    detectors: Sequence[pd.DataFrame], classifiers: Sequence[pd.DataFrame], gains: Sequence[float]
) -> tuple[float, float, float, float]:
    first, mean = detectors[0], float(np.mean(gains))
    if not all(one.index.equals(first.index) for one in detectors):
        return mean, np.nan, np.nan, np.nan
    labels, unit = first["label"].to_numpy(), pd.factorize(first["patient_id"])[0].astype(np.int64)
    pairs = [
        (one["score"].to_numpy(), other["score"].to_numpy()) for one, other in zip(detectors, classifiers, strict=True)
    ]
    draws = []
    for counts in itertools.chain.from_iterable(resample(unit, N_RESAMPLES, SEED)):
        rows = np.repeat(np.arange(len(labels)), counts)
        if len(set(labels[rows])) == 2:
            aucs = [[ranking.roc_auc(labels[rows], score[rows]) for score in pair] for pair in pairs]
            draws.append(float(np.mean([one - other for one, other in aucs])))
    low, high = percentile_interval(mean, np.array(draws), LEVEL) or (np.nan, np.nan)
    return mean, low, high, len(first)


def boxes_of(
    values: npt.NDArray[np.float32], probability: float, rule: Rule
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Boxes around the regions of a map, float64 (m, 4): x, y, width, height, and their scores, (m,), 0-1.

    Args:
        values: float32 (size, size), 0-1, with the highest value 1, or all 0.
        probability: of the image.
        rule: how.
    """
    is_inside = (values >= rule.share).astype(np.uint8)
    n, marks, stats, _ = cv2.connectedComponentsWithStats(is_inside, connectivity=8)
    kept = [region for region in range(1, n) if stats[region, cv2.CC_STAT_AREA] >= rule.area * values.size]
    scores = [probability * SCORES[rule.score](values[marks == region]) for region in kept]
    return stats[kept, :4].astype(np.float64), np.array(scores, np.float64)


def choose(truth: Sequence[npt.NDArray[np.float64]], maps: dict[str, Any], probabilities: Any) -> Choice:
    """The method and the rule with the highest metric of the challenge at the best threshold; the first of equals.

    Args:
        truth: true boxes of validation images.
        maps: method -> float32 (n, size, size), of these images.
        probabilities: float (n,), of them.
    """
    best = None
    for method, rule in itertools.product(maps, map(Rule._make, itertools.product(SHARES, AREAS, SCORES))):
        films = _films(truth, maps[method], probabilities, rule)
        if not any(len(film.scores) for film in films):
            continue
        threshold = boxes.best_threshold(films)
        value = boxes.rsna_map(boxes.above(films, threshold))
        if best is None or value > best.rsna_map:
            best = Choice(method, rule, threshold, value)
    if best is None:
        raise UserError("all maps of validation are 0: there is nothing to draw boxes around")
    return best


def _films(truth: Sequence[npt.NDArray[np.float64]], maps: Any, probabilities: Any, rule: Rule) -> list[Film]:
    return [
        Film(one, *boxes_of(values, float(probability), rule))
        for one, values, probability in zip(truth, maps, probabilities, strict=True)
    ]


def around_maps(folder: Path) -> tuple[Choice, dict[str, Film]]:
    """Boxes around the maps of a network: what validation chose, and the test images with known boxes, by name.

    Args:
        folder: of the project; the methods are those of its `explain.json`.
    """
    methods = list(_report(folder, "explain.json", "explain")["methods"])
    model, store = loading.load_model(folder / MODEL), open_store(folder / STORE)
    truth: list[npt.NDArray[np.float64]] = []
    maps: dict[str, list[Any]] = {name: [] for name in methods}
    probabilities: list[Any] = []
    for network, split in evaluate.validated(model, store):
        rows, of_rows, images = _known(split)
        truth += of_rows
        probabilities.append(scoring.predict_scores(network, images))
        for name, values in explain.maps(network, methods, images, n_samples=N_SAMPLES).items():
            maps[name].append(values)
    joined = {name: np.concatenate(parts) for name, parts in maps.items()}
    choice = choose(truth, joined, np.concatenate(probabilities))
    test = read_split(store, "test")
    rows, of_test, images = _known(test)
    values = explain.maps(model, [choice.method], images, n_samples=N_SAMPLES)[choice.method]
    films = _films(of_test, values, scoring.predict_scores(model, images), choice.rule)
    return choice, dict(zip(map(str, test.image_ids[rows]), films, strict=True))


def _known(split: Split) -> tuple[list[int], list[npt.NDArray[np.float64]], Any]:
    """Rows of the images of a split whose boxes are known, these boxes, and the images in memory."""
    nothing = (np.zeros((0, 4)), np.zeros(0))
    films = boxes.judged(split.boxes, lambda rows: [nothing] * len(rows))
    rows = np.array(list(films), np.intp)
    if not any(len(film.truth) for film in films.values()):
        raise UserError("no boxes are known of these images: maps cannot be compared with them")
    return rows.tolist(), [film.truth for film in films.values()], np.asarray(subset(split.images, rows)[:])


def found_in_test(folder: Path) -> dict[str, Film]:
    """All boxes that a detector finds in the test images with known boxes, by the name of the image."""
    model, test = (
        loading.load_model(folder / MODEL),
        read_split(open_store(folder / STORE), "test"),
    )
    films = evaluate.found_boxes(model, test)
    return {str(test.image_ids[row]): film for row, film in films.items()}


def box_gains(
    others: dict[str, Film],
    found: dict[str, Film],
    thresholds: tuple[float, float],
    patients: pd.Series,
) -> dict[str, dict[str, float]]:
    """Figures of a detector less those of other boxes on the same images, with intervals by patient.

    Args:
        others, found: all boxes of images, by name.
        thresholds: least score of a shown box, of the others and of the detector.
        patients: by name of the image.
    """
    if others.keys() != found.keys():
        raise UserError("the two networks were tested on different images; train both on the same data and split")
    names = list(found)
    pair = [[films[name] for name in names] for films in (others, found)]
    shown = [boxes.above(films, threshold) for films, threshold in zip(pair, thresholds, strict=True)]
    groups = patients.loc[names].to_numpy()
    parts = {"ap50": pair, "rsna_map": shown}
    return {name: with_interval(name, *boxes.gain(*parts[name], name, groups=groups, level=LEVEL)) for name in FIGURES}


def report(films: Sequence[Film], threshold: float, patients: Any) -> dict[str, Any]:
    """As `boxes.detection_report`, of boxes from a threshold on."""
    return boxes.detection_report(boxes.above(films, threshold), films, groups=patients, level=LEVEL)


def other_films(run: Run, folder: Path) -> dict[str, Any]:
    """As `report`, of a detector on other films; `folder` as `boxed_films.read` takes it."""
    store = open_store(run.folder / STORE)
    others = boxed_films.read(folder, geometry.Preparation(**stored_preparation(store)))
    found = detector.find(loading.load_model(run.folder / MODEL), others.images)
    films = [Film(one, *of_image) for one, of_image in zip(others.boxes, found, strict=True)]
    return report(films, run.detection["threshold"], others.patients)


def in_words(figures: dict[str, Any]) -> str:
    """Figures of boxes in one line."""
    parts = [f"{name} {format_with_interval(figures, name)}" for name in FIGURES if name in figures]
    for row in figures.get("froc", []):
        if row["false_positives"] in (0.125, 1.0) and "sensitivity" in row:
            parts.append(f"sensitivity {format_with_interval(row, 'sensitivity')} at {row['false_positives']:g} FP")
    counts = f" ({figures['n']} images, {figures['n_boxes']} boxes, {figures['n_shown']} shown)"
    return ", ".join(parts) + (counts if "n" in figures else "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boxes", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()])
    parser.add_argument("--classifier", nargs="+", type=Path, default=[], help="a project for each detector")
    parser.add_argument("--saliency", type=Path, help="a project after explain, around whose maps boxes are drawn")
    parser.add_argument("--films", type=Path, help="a folder with images and boxes.csv")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    try:
        compare(options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def compare(options: argparse.Namespace) -> None:
    """Print what the options ask for; the JSON is written after each part.

    Raises:
        UserError: something is missing that an option needs; before any network is loaded.
    """
    runs = [read(folder) for folder in options.folders]
    classifiers = [_test(folder) for folder in options.classifier]
    if options.saliency:
        _report(options.saliency, "explain.json", "explain")
        _test(options.saliency)
    if options.films:
        boxed_films.table_of(options.films)
    if options.saliency or options.films:
        for folder in (*options.folders, *filter(None, [options.saliency])):
            for name in (MODEL, STORE):
                if not (folder / name).exists():
                    raise UserError(f"{folder / name} is missing: finish the run with dvc repro evaluate")
    figures: dict[str, Any] = {}

    def keep(name: str, values: Any) -> None:
        figures[name] = values
        if options.output:
            tables.write_json(figures, options.output)

    runtime.start_keras()
    keep("detectors", {str(run.folder): {"detection": run.detection, "image": run.auc} for run in runs})
    print(f"\ntest\n{table(runs).to_string()}", flush=True)
    if options.classifier:
        gains = auc_gains([run.test for run in runs], classifiers)
        keep("auc_gain", {str(name): row.dropna().to_dict() for name, row in gains.astype(object).iterrows()})
        text = gains.round(4).to_string(na_rep="")
        print(f"\nAUC of the images, less that of the classifier\n{text}", flush=True)
    if options.saliency:
        keep("saliency", _beside_maps(runs, options.saliency))
    if options.films:
        print(f"\nother films: {options.films}")
        of_runs = {}
        for run in runs:
            of_runs[str(run.folder)] = other_films(run, options.films)
            print(f"{run.folder}: {in_words(of_runs[str(run.folder)])}", flush=True)
            keep("films", of_runs)


def _beside_maps(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    choice, films = around_maps(folder)
    patients = _test(folder).set_index("image_id")["patient_id"]
    figures = report(list(films.values()), choice.threshold, patients.loc[list(films)].to_numpy())
    rule = choice.rule
    print(f"\nboxes around the maps of {folder}: {choice.method} from {rule.share:.0%} of the highest value, ", end="")
    print(f"areas from {rule.area:.1%}, score {rule.score}; validation rsna_map {choice.rsna_map:.3f}")
    print(f"test: {in_words(figures)}\ngain of the detectors over them", flush=True)
    gains = {}
    for run in runs:
        thresholds = (choice.threshold, run.detection["threshold"])
        parts = gains[str(run.folder)] = box_gains(films, found_in_test(run.folder), thresholds, patients)
        print(f"{run.folder}: {', '.join(f'{name} {format_with_interval(parts[name], name)}' for name in parts)}")
    return {"choice": choice._asdict() | {"rule": rule._asdict()}, "test": figures, "gains": gains}


if __name__ == "__main__":
    main()
