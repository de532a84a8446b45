"""The changes of films that recipes for other places are made of."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import carry_over
from pneumonia import train
from pneumonia.data import store, tables
from pneumonia.metrics import ranking
from pneumonia.models import backbones, ensembles, loading, scoring

RNG = np.random.default_rng(0)
FILMS = RNG.integers(0, 256, (5, 96, 96)).astype(np.uint8)
MASKS = np.zeros_like(FILMS)
MASKS[:, 30:66, 30:66] = 255
CHANGES = {
    (name, kind): change
    for name, one in carry_over.TRIES.items()
    for kind in ("always", "added")
    if (change := getattr(one, kind)) is not None
} | {
    (name, str(place)): change
    for name, changes in carry_over.PREDICTIONS.items()
    for place, change in enumerate(changes)
    if change is not carry_over._as_is
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=map("-".join, CHANGES))
def test_a_changed_film_is_a_film_of_its_own(change: carry_over.Change) -> None:
    before = FILMS.copy()
    changed = change(FILMS, MASKS)
    assert (changed.shape, changed.dtype) == (FILMS.shape, np.uint8)
    assert all((one != other).any() for one, other in zip(changed, FILMS, strict=True))
    np.testing.assert_array_equal(FILMS, before)


def test_windowing_takes_the_exposure_away() -> None:
    darker = (FILMS // 2 + 20).astype(np.uint8)
    one, other = (carry_over._windowed(films, MASKS).astype(int) for films in (FILMS, darker))
    # The 4 gray levels that keep a blank film from noise make 45 * 2 * (78 / 82 - 37 / 41) = 4.4 of difference.
    assert np.abs(one - other).max() <= 5
    assert np.abs(FILMS.astype(int) - darker).max() > 100


def test_a_film_gets_the_gray_levels_of_another_and_keeps_its_order() -> None:
    changed = carry_over._other_histogram(FILMS, MASKS)
    others = FILMS[carry_over._others(len(FILMS))]
    np.testing.assert_array_equal(np.sort(changed.reshape(5, -1)), np.sort(others.reshape(5, -1)))
    order = FILMS[0].ravel().argsort(kind="stable")
    assert (np.diff(changed[0].ravel()[order].astype(int)) >= 0).all()


def test_outside_the_lungs_nothing_stays_of_the_film() -> None:
    alone, elsewhere = carry_over._lungs_only(FILMS, MASKS), carry_over._other_surroundings(FILMS, MASKS)
    np.testing.assert_array_equal(alone[:, 44:52, 44:52], FILMS[:, 44:52, 44:52])
    assert np.ptp(alone[0, :8]) == 0
    others = FILMS[carry_over._others(len(FILMS))]
    np.testing.assert_array_equal(elsewhere[:, :8], others[:, :8])


N_FOLDS = 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished project with two folds and an external test; a network is the fold that it never saw.

    The score of a film is its first pixel, of an own film 0 from the network that has learnt it: such scores must not
    count.
    """
    rng = np.random.default_rng(1)
    numbers = np.arange(24)
    folds = {f"{name}_{fold}": 1 for name in ("weight", "repeats") for fold in range(N_FOLDS)}
    table = pd.DataFrame({"image_id": numbers.astype(str), "label": numbers // 2 % 2, "weight": 1.0, "repeats": 1})
    films = rng.integers(40, 200, (24, 16, 16)).astype(np.uint8)
    films[:, 0, 0] = 60 + 80 * table["label"] + rng.integers(-60, 60, 24)
    films[:, 0, 1] = numbers % 2  # the fold
    for name, split, part in (
        ("images", "train", table.assign(**folds, fold=numbers % 2)),
        ("external", "elsewhere", table),
    ):
        made = store.create_store(tmp_path / f"data/{name}.zarr", {})
        images, lungs = store.create_split(made, split, part, size=16, with_lungs=True)
        images[:], lungs[:] = films, 255
    tables.write_table(table.assign(patient_id=table["image_id"]), tmp_path / "data/external.csv")

    def scores(fold: int, images: Any) -> Any:
        images = np.asarray(images)
        is_known = images[:, 0, 1] % 2 != fold if len(images) < 24 else np.zeros(24, bool)
        return np.where(is_known, 0.0, images[:, 0, 0] / 255)

    monkeypatch.setattr(loading, "load_model", lambda path: None)
    monkeypatch.setattr(ensembles, "separate", lambda model: list(range(N_FOLDS)))
    monkeypatch.setattr(scoring, "predict_scores", scores)
    return tmp_path


def test_a_finished_project_is_measured_on_films_that_no_network_has_learnt(project: Path) -> None:
    figures = carry_over.measure_finished(project, carry_over.PREDICTIONS["as_is"])
    outside = store.read_split(store.open_store(project / "data/external.zarr"), "elsewhere")
    expected = ranking.roc_auc(outside.labels, outside.images[:, 0, 0])
    assert 0.6 < expected < 1
    assert (figures["oof_auc"], figures["auc"]) == pytest.approx((expected, expected), abs=1e-4)
    assert figures["auc_low"] < figures["auc"] < figures["auc_high"]
    assert (figures["networks"], figures["n"], figures["source"]) == (N_FOLDS, 24, "elsewhere")


def test_of_several_changes_the_mean_logit_counts_and_each_sees_the_lungs(project: Path) -> None:
    def by_lungs(films: carry_over.Gray, masks: carry_over.Masks) -> carry_over.Gray:
        changed = films.copy()
        changed[:, 0, 0] = np.where(masks[:, 0, 0] > 0, 255 - films[:, 0, 0], 0)
        return changed

    as_is = carry_over.measure_finished(project, (carry_over._as_is,))
    inverted = carry_over.measure_finished(project, (by_lungs,))
    assert inverted["auc"] == pytest.approx(1 - as_is["auc"], abs=1e-4)
    assert inverted["oof_auc"] == pytest.approx(1 - as_is["oof_auc"], abs=1e-4)
    assert carry_over.measure_finished(project, (carry_over._as_is, carry_over._as_is, by_lungs)) == as_is
    assert carry_over.measure_finished(project, (carry_over._as_is, by_lungs, by_lungs)) == inverted


def test_a_recipe_may_change_more_films_to_learn_from_and_those_that_are_scored(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any]] = []
    scored: list[Any] = []

    def score(model: Any, images: Any) -> Any:
        scored.append(np.asarray(images))
        return np.linspace(0.1, 0.9, len(images))

    monkeypatch.setattr(backbones, "read", lambda folder: SimpleNamespace(paths=()))
    monkeypatch.setattr(train, "start", lambda *_, **__: None)
    monkeypatch.setattr(train, "fit", lambda model, learnt, val, *_: seen.append((learnt.images, val.images)))
    monkeypatch.setattr(scoring, "predict_scores", score)
    films = np.asarray(store.read_split(store.open_store(project / "data/images.zarr"), "train").images)
    equalised = carry_over.EQUALISED(films, films)
    figures = carry_over.measure(project, carry_over.TRIES["equalised_too"], 1, None)
    assert figures["networks"] == 1
    ((learnt, val),) = seen
    # In the store of this test each network learns from all films.
    np.testing.assert_array_equal(learnt, np.concatenate([films, equalised]))
    np.testing.assert_array_equal(val, equalised[::2])
    np.testing.assert_array_equal(scored[0], equalised[::2])
    np.testing.assert_array_equal(scored[1], equalised)
