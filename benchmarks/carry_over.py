"""What carries over to films of another place: `python -m benchmarks.carry_over`, in docs/carry_over.csv.

    python -m benchmarks.carry_over --run FOLDER --phantom OTHER [--folds 5] [RECIPE …]
    python -m benchmarks.carry_over --finished FOLDER [RECIPE …]

FOLDER is a project with folds and one external test whose stages `external` and `backbone` are finished, OTHER one of
the phantom up to `preprocess`, prepared in the same way. For each recipe `mobilenet` learns on the first fold, or on
the first `--folds` ones, from films that are changed as the recipe says. Beside the AUC out of fold stands that of the
mean logit on the external test. With `--finished` nothing is learnt: the networks of a project with folds score films
that are changed at prediction only; `--phantom` and `--folds` have no effect. Rows that exist are skipped; each new row
is one look at the external test. In the table `model` is the digest of the finished one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import results
from pneumonia import train, workspace
from pneumonia.data import tables
from pneumonia.data.store import Split, lungs, open_store, read_fold_numbers, read_folds, read_split
from pneumonia.metrics import ranking
from pneumonia.models import backbones, ensembles, loading, networks, runtime, scoring
from pneumonia.training.recipe import Schedule, derived_seed

Gray = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.uint8]
Change = Callable[[Gray, Masks], Gray]
"""Of films, uint8 (n, size, size), with the masks of their lungs; the result has the same shape."""

TABLE = results.ROOT / "docs/carry_over.csv"
MODEL, SEED, LEVEL = "mobilenet", 1, 0.95
HEAD_EPOCHS, EPOCHS = 1, 3
RECIPE = results.FIVE_FOLDS | {"train.head_epochs": HEAD_EPOCHS}
"""That of docs/results.md; in fewer epochs, which are not part of it here."""
_N_ARRAYS = Split._fields.index("boxes")
"""Fields of a split that are used here: all but the boxes."""


class Try(NamedTuple):
    """A recipe.

    Attributes:
        settings: differences of the training from `RECIPE`.
        always: a change of all films, those that are learnt from and those that are scored.
        added: a change of further copies of the films that are learnt from; the epochs are fewer by as much.
        scored: a change of the films that are scored only.
        phantom: whether the films of the phantom are learnt from too.
    """

    settings: Mapping[str, Any] = {}
    always: Change | None = None
    added: Change | None = None
    scored: Change | None = None
    phantom: bool = False


def _each(change: Callable[[Gray], npt.NDArray[Any]]) -> Change:
    return lambda films, masks: np.stack([change(film) for film in films]).astype(np.uint8)


def _local(film: Gray) -> npt.NDArray[Any]:
    """Differences from the neighbourhood, in units of their local deviation: no large shadows, no exposure."""
    values = film.astype(np.float32)
    sigma = len(film) / 8
    rest = values - cv2.GaussianBlur(values, (0, 0), sigma)
    return np.asarray(128 + 45 * rest / (np.sqrt(cv2.GaussianBlur(rest**2, (0, 0), sigma)) + 4)).clip(0, 255)


def _coarse(film: Gray) -> npt.NDArray[Any]:
    small = cv2.resize(film, (64, 64), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, film.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _windowed(films: Gray, masks: Masks) -> Gray:
    """Gray levels in which the lungs of every film have the same mean and deviation; without lungs, the whole film."""
    changed = []
    for film, mask in zip(films, masks, strict=True):
        inside = film[mask > 0] if (mask > 0).any() else film
        changed.append(np.clip(110 + 45 * (film - inside.mean()) / (inside.std() + 4), 0, 255))
    return np.asarray(changed).astype(np.uint8)


def _soft(masks: Masks) -> npt.NDArray[np.float32]:
    """Shares of lung, a little wider than the lungs, with a soft border; 1 everywhere where none are known."""
    size = masks.shape[1]
    soft = []
    for mask in masks:
        wide = cv2.dilate((mask > 0).astype(np.float32), np.ones((size // 16, size // 16), np.uint8))
        soft.append(cv2.GaussianBlur(wide, (0, 0), size / 50) if wide.any() else np.ones_like(wide))
    return np.asarray(soft)


def _lungs_only(films: Gray, masks: Masks) -> Gray:
    share = _soft(masks)
    return np.rint(share * films + (1 - share) * films.mean(axis=(1, 2), keepdims=True)).astype(np.uint8)


def _others(n: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng(SEED).permutation(n)


def _other_surroundings(films: Gray, masks: Masks) -> Gray:
    share = _soft(masks)
    return np.rint(share * films + (1 - share) * films[_others(len(films))]).astype(np.uint8)


def _other_histogram(films: Gray, masks: Masks) -> Gray:
    """The gray levels of another film: the darkest pixel gets its darkest one, and so on."""
    levels = np.sort(films.reshape(len(films), -1), axis=1)[_others(len(films))]
    order = films.reshape(len(films), -1).argsort(axis=1, kind="stable")
    changed = np.empty_like(levels)
    np.put_along_axis(changed, order, levels, axis=1)
    return changed.reshape(films.shape)


def _other_amplitude(films: Gray, masks: Masks) -> Gray:
    """The low Fourier amplitudes of another film (Yang & Soatto 2020, arXiv:2004.05498)."""
    size = films.shape[1]
    own = np.fft.rfft2(films)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    is_low = frequency < 0.05
    other = np.abs(own)[_others(len(films))]
    mixed = np.where(is_low, other * np.exp(1j * np.angle(own)), own)
    return np.clip(np.fft.irfft2(mixed, films.shape[1:]), 0, 255).astype(np.uint8)


EQUALISED = _each(cv2.equalizeHist)


def _equalised_lungs_only(films: Gray, masks: Masks) -> Gray:
    return _lungs_only(EQUALISED(films, masks), masks)


TRIES = {
    "base": Try(),
    "equalised": Try(always=EQUALISED),
    "windowed": Try(always=_windowed),
    "local": Try(always=_each(_local)),
    "coarse": Try(always=_each(_coarse)),
    "lungs_only": Try(always=_lungs_only),
    "other_surroundings": Try(added=_other_surroundings),
    "other_histogram": Try(added=_other_histogram),
    "other_amplitude": Try(added=_other_amplitude),
    "equalised_too": Try(added=EQUALISED, scored=EQUALISED),
    "equalised_lungs_only_too": Try(added=_equalised_lungs_only, scored=_equalised_lungs_only),
    "phantom": Try(phantom=True),
    "strong": Try({"strength": 2.0}),
    "mixup": Try({"mixup": 0.4}),
    "flip": Try({"flip": True}),
    "upper_half": Try({"unfreeze": 0.5}),
    "frozen": Try({"unfreeze": 0.0}),
    "one_rate": Try({"layer_decay": 1.0}),
    "larger_crops": Try({"crop": 0.5}),
    "equalised_lungs_only": Try(always=_equalised_lungs_only),
}


def _as_is(films: Gray, masks: Masks) -> Gray:
    return films.copy()


def _zoomed(factor: float) -> Change:
    """Larger or smaller around the middle; at the border the outermost pixels are repeated."""

    def zoom(film: Gray) -> npt.NDArray[Any]:
        middle = (len(film) - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), 0, factor)
        return cv2.warpAffine(film, matrix, film.shape[::-1], borderMode=cv2.BORDER_REPLICATE)

    return _each(zoom)


def _sharpened(film: Gray) -> npt.NDArray[Any]:
    values = film.astype(np.float32)
    return np.clip(2 * values - cv2.GaussianBlur(values, (0, 0), 1.5), 0, 255)


def _flipped(films: Gray, masks: Masks) -> Gray:
    return films[:, :, ::-1].copy()


LARGER, SMALLER = _zoomed(1.15), _zoomed(0.87)
PREDICTIONS: dict[str, tuple[Change, ...]] = {
    "as_is": (_as_is,),
    **{name: (one.always,) for name, one in TRIES.items() if one.always},
    "larger": (LARGER,),
    "smaller": (SMALLER,),
    "blurred": (_each(lambda film: cv2.GaussianBlur(film, (0, 0), 1.0)),),
    "sharpened": (_each(_sharpened),),
    "clahe": (_each(lambda film: cv2.createCLAHE(2.0, (8, 8)).apply(film)),),
    "both_levels": (_as_is, EQUALISED),
    "both_and_lungs_only": (_as_is, EQUALISED, _equalised_lungs_only),
    "both_sides": (_as_is, _flipped),
    "three_sizes": (_as_is, LARGER, SMALLER),
}
"""Changes at prediction; of several the mean logit counts."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.carry_over", description=__doc__)
    parser.add_argument("recipes", nargs="*", help="only these")
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--run", type=Path, metavar="FOLDER", help="learn from its films")
    folder.add_argument("--finished", type=Path, metavar="FOLDER", help="only score with its networks")
    parser.add_argument("--phantom", type=Path, metavar="FOLDER", help="for the recipe `phantom`")
    parser.add_argument("--folds", type=int, default=1, help="networks of each recipe")
    options = parser.parse_args()
    known, changed = (PREDICTIONS, "prediction") if options.finished else (TRIES, "training")
    if unknown := [name for name in options.recipes if name not in known]:
        parser.error(f"{unknown[0]} is no recipe of {changed}; there are {', '.join(known)}")
    runtime.start_keras(SEED)
    model = workspace.sha256_file(options.finished / "models/model.keras")[:8] if options.finished else None
    for name in options.recipes or known:
        table = _table()
        same = (table["recipe"] == name) & (table["changed"] == changed)
        if (same & (table["model"] == model if model else table["networks"] == options.folds)).any():
            print(f"{name}: is in the table")
            continue
        if options.finished:
            figures = measure_finished(options.finished, PREDICTIONS[name])
        else:
            figures = measure(options.run, TRIES[name], options.folds, options.phantom)
        row = {"recipe": name, "changed": changed, "model": model, **figures, "look": len(table) + 1}
        print(row, flush=True)
        tables.write_table(pd.concat([table.astype(object), pd.DataFrame([row], dtype=object)]), TABLE)
    print(_table().to_string())


def _table() -> pd.DataFrame:
    return pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame(columns=["recipe", "changed", "model", "networks"])


def measure(folder: Path, what: Try, n_folds: int, phantom: Path | None) -> dict[str, Any]:
    """AUC out of fold and on the external test, of networks that learn by one recipe."""
    store, outside = open_store(folder / "data/images.zarr"), open_store(folder / "data/external.zarr")
    weights = backbones.read(folder / "data/backbone").paths
    source = next(iter(outside.group_keys()))
    at_the_end = what.scored or what.always
    foreign = _changed(read_split(outside, source), _masks(outside, source), at_the_end)
    masks, fold_of = _masks(store, "train"), read_fold_numbers(store)
    more = None
    if what.phantom:
        other = open_store((phantom or folder) / "data/images.zarr")
        more = _changed(read_split(other, "train"), _masks(other, "train"), what.always)
    defaults = networks.MODELS[MODEL].defaults
    recipe = results.training(results.params_with(RECIPE))._replace(**what.settings)
    inside, logits = [], []
    for fold, (learnt, val) in enumerate(itertools.islice(read_folds(store), n_folds)):
        val = _changed(val, masks[fold_of == fold], at_the_end)
        rows = np.flatnonzero(learnt.repeats)
        learnt = _changed(Split(*(np.asarray(part)[rows] for part in learnt[:_N_ARRAYS])), masks[rows], what.always)
        epochs = HEAD_EPOCHS + EPOCHS
        if what.added:
            learnt = _joined(learnt, learnt._replace(images=what.added(np.asarray(learnt.images), masks[rows])))
            epochs = HEAD_EPOCHS + EPOCHS // 2 + 1  # a little more for twice the films
        if more:
            learnt = _joined(learnt, more)
        schedule = Schedule(
            epochs,
            epochs,
            defaults["learning_rate"],
            derived_seed(SEED, fold) if fold else SEED,
            defaults["head_learning_rate"],
        )
        runtime.start_keras(schedule.seed)
        model = train.start(MODEL, weights, defaults["dropout"], learnt, box_weight=recipe.box_weight)
        train.fit(model, learnt, val, recipe, schedule)
        inside.append((val.labels, scoring.predict_scores(model, val.images)))
        logits.append(_logits(model, foreign.images))
    return _figures(folder, source, inside, foreign, logits)


def measure_finished(folder: Path, changes: tuple[Change, ...]) -> dict[str, Any]:
    """AUC out of fold and on the external test of the networks of a finished project, on films that are changed."""
    store, outside = open_store(folder / "data/images.zarr"), open_store(folder / "data/external.zarr")
    source = next(iter(outside.group_keys()))
    models = ensembles.separate(loading.load_model(folder / "models/model.keras"))
    foreign, foreign_masks = read_split(outside, source), _masks(outside, source)
    films, masks, fold_of = read_split(store, "train"), _masks(store, "train"), read_fold_numbers(store)
    changed = [change(np.asarray(foreign.images), foreign_masks) for change in changes]
    inside, logits = [], []
    for fold, model in enumerate(models):
        own = fold_of == fold
        images = np.asarray(films.images)[own]
        scores = np.mean([_logits(model, change(images, masks[own])) for change in changes], axis=0)
        inside.append((np.asarray(films.labels)[own], scores))
        logits.append(np.mean([_logits(model, films_of_one) for films_of_one in changed], axis=0))
    return _figures(folder, source, inside, foreign, logits)


def _logits(model: Any, images: Gray) -> npt.NDArray[Any]:
    score = scoring.predict_scores(model, images).clip(1e-7, 1 - 1e-7)
    return np.asarray(np.log(score / (1 - score)))


def _figures(
    folder: Path, source: str, inside: list[tuple[Any, Any]], foreign: Split, logits: list[npt.NDArray[Any]]
) -> dict[str, Any]:
    films = tables.read_table(folder / "data/external.csv").set_index("image_id")
    patients = films["patient_id"][list(map(str, foreign.image_ids))]
    mean = np.mean(logits, axis=0)
    low, high = ranking.auc_interval(foreign.labels, mean, LEVEL, groups=patients.to_numpy())
    figures = {
        "oof_auc": ranking.roc_auc(*(np.concatenate(part) for part in zip(*inside, strict=True))),
        "auc": ranking.roc_auc(foreign.labels, mean),
        "auc_low": low,
        "auc_high": high,
    }
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return {"networks": len(logits)} | rounded | {"n": len(foreign.labels), "source": source}


def _masks(store: Any, split: str) -> Masks:
    stored = lungs(store, split)
    images = store[split]["images"]
    return np.zeros(images.shape, np.uint8) if stored is None else np.asarray(stored[:])


def _changed(split: Split, masks: Masks, change: Change | None) -> Split:
    return split if change is None else split._replace(images=change(np.asarray(split.images), masks))


def _joined(one: Split, other: Split) -> Split:
    pairs = zip(one[:_N_ARRAYS], other[:_N_ARRAYS], strict=True)
    return Split(*(np.concatenate([np.asarray(a), np.asarray(b)]) for a, b in pairs))


if __name__ == "__main__":
    main()
