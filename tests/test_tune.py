"""Studies of a network whose quality is known from its hyper-parameters: dropout above a line makes it wrong."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from pneumonia import UserError, train, tune
from pneumonia.data.store import Split
from pneumonia.models import networks, runtime
from pneumonia.report import plots
from pneumonia.training.features import Features
from pneumonia.training.recipe import DivergedError, Recipe, ReportEpoch
from tests.conftest import PLAIN

GOOD_UP_TO = 0.2  # the middle of the range, which the first trial takes
RATES = (1e-5, 1e-3)  # too low to turn a wrong network right


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


@pytest.fixture(scope="module", autouse=True)
def a_tiny_network() -> Iterator[None]:
    row = networks.Model(build=build, size=4, explain="", weights_urls=(), source="made for these tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.MODELS, "tiny", row)
        yield


def build(size: int, weights: tuple[str, ...], dropout: float) -> Any:
    """The mean pixel, times a weight with the right or the wrong sign."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 127.5, offset=-1.0)(pixels))
    logit = layers.Dense(1, name="logit")
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit(x)), name="tiny")
    weight = 1 + 0.1 * float(keras.random.uniform(()))  # random, as initial weights are
    logit.set_weights([np.array([[weight if dropout <= GOOD_UP_TO + 1e-9 else -weight]]), np.zeros(1)])
    return model


def toy_split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = np.clip(100 + 40 * labels[:, None, None] + rng.normal(0, 25, (n, 1, 1)), 0, 255)
    return Split(
        images=np.broadcast_to(images, (n, 4, 4)).astype(np.uint8),
        labels=labels.astype(np.int8),
        weights=np.ones(n, np.float32),
        repeats=np.ones(n, np.int16),
        image_ids=np.arange(n).astype(str),
    )


class Recorder:
    """Stands for the MLflow run of each trial."""

    def __init__(self) -> None:
        self.settings: list[dict[str, float]] = []
        self.told: list[list[tuple[int, dict[str, float]]]] = []
        self.ended: list[type[BaseException] | None] = []

    @contextmanager
    def trial_run(self, number: int, settings: Mapping[str, float]) -> Iterator[ReportEpoch]:
        assert number == len(self.settings) == len(self.ended)  # the one before is closed
        self.settings.append(dict(settings))
        self.told.append([])
        try:
            yield lambda epoch, values: self.told[-1].append((epoch, dict(values)))
        except BaseException as error:
            self.ended.append(type(error))
            raise
        self.ended.append(None)


Study = tuple[dict[str, float], pd.DataFrame, Recorder]


def search(recipe: Recipe = PLAIN, *, flipped: bool = False, **changes: Any) -> Study:
    recorder = Recorder()
    options: dict[str, Any] = {
        "weights": (),
        "seed": 1,
        "n_trials": 6,
        "epochs": 4,
        "learning_rate": RATES,
        "dropout": (0.0, 0.4),
        "trial_run": recorder.trial_run,
    } | changes
    learnt = toy_split(16, 0)
    learnt = learnt._replace(labels=1 - learnt.labels) if flipped else learnt
    best, trials = tune.search("tiny", learnt, toy_split(20, 1), recipe, **options)
    return best, trials, recorder


@pytest.fixture(scope="module")
def study() -> Study:
    """One study for the tests that only look at it."""
    return search()


def test_the_table_has_one_row_per_trial(study: Study) -> None:
    _, trials, recorder = study
    assert list(trials) == ["trial", "state", "val_auc", "learning_rate", "dropout"]
    assert trials["trial"].tolist() == list(range(6))
    assert trials[["learning_rate", "dropout"]].to_dict("records") == recorder.settings


def test_the_first_trial_takes_the_middle_of_the_ranges(study: Study) -> None:
    _, trials, _ = study
    assert trials["learning_rate"][0] == pytest.approx(1e-4)  # of a log scale: the geometric middle
    assert trials["dropout"][0] == pytest.approx(0.2)


def test_settings_stay_in_their_ranges_and_differ(study: Study) -> None:
    _, trials, _ = study
    assert trials["learning_rate"].between(*RATES).all()
    assert trials["dropout"].between(0, 0.4).all()
    assert trials["learning_rate"].nunique() == trials["dropout"].nunique() == 6
    assert (trials["learning_rate"] < 1e-4).sum() >= 2  # a tenth of the range, but half of its log scale


def test_a_trial_is_trained_with_its_learning_rate(study: Study) -> None:
    _, trials, recorder = study
    peaks = [told[0][1]["learning_rate"] for told in recorder.told]
    assert peaks == pytest.approx(trials["learning_rate"].tolist())


def test_a_trial_is_worth_its_best_epoch() -> None:
    """Here of a network that starts wrong and is put right within the trial."""
    options = {"learning_rate": (1.0, 1.0), "dropout": (0.4, 0.4), "n_trials": 1, "epochs": 3}
    best, trials, recorder = search(**options)
    reached = [values["val_auc"] for _, values in recorder.told[0]]
    assert best["val_auc"] == trials["val_auc"][0] == max(reached) > min(reached)


def test_a_trial_is_worth_its_last_epoch_where_that_is_kept() -> None:
    """Here of a network that starts right and learns wrong labels."""
    options = {"learning_rate": (1.0, 1.0), "dropout": (0.0, 0.0), "n_trials": 1, "epochs": 3}
    best, trials, recorder = search(PLAIN._replace(keep="last"), flipped=True, **options)
    reached = [values["val_auc"] for _, values in recorder.told[0]]
    assert best["val_auc"] == trials["val_auc"][0] == reached[-1] < max(reached)


def test_the_best_has_the_highest_auc_of_the_complete_trials(study: Study) -> None:
    best, trials, _ = study
    complete = trials[trials["state"] == "complete"]
    assert len(complete) < len(trials)
    assert best["val_auc"] == complete["val_auc"].max() > 0.8
    row = complete.set_index("trial").loc[best["trial"]]
    assert (best["val_auc"], best["learning_rate"], best["dropout"]) == tuple(
        row[["val_auc", "learning_rate", "dropout"]]
    )
    assert best["dropout"] <= GOOD_UP_TO


def test_a_trial_below_the_median_is_pruned_and_its_run_closed_so(study: Study) -> None:
    _, trials, recorder = study
    wrong = trials["dropout"].to_numpy() > GOOD_UP_TO + 1e-9
    late = np.arange(6) >= 2  # of the first two there is no median yet
    assert (wrong & late).sum() >= 1
    assert (~wrong & late).sum() >= 1
    expected = np.where(wrong & late, "pruned", "complete")
    assert trials["state"].tolist() == expected.tolist()
    assert recorder.ended == [tune.Pruned if state == "pruned" else None for state in expected]


def test_epochs_are_told_including_the_one_that_pruned(study: Study) -> None:
    _, trials, recorder = study
    for state, told in zip(trials["state"], recorder.told, strict=True):
        assert [epoch for epoch, _ in told] == ([1, 2, 3] if state == "pruned" else [1, 2, 3, 4])


def test_a_pruned_trial_keeps_the_auc_it_reached(study: Study) -> None:
    _, trials, _ = study
    pruned = trials[trials["state"] == "pruned"]
    assert (pruned["val_auc"] < 0.2).all()
    assert (pruned["val_auc"] >= 0).all()


def losses(told: list[tuple[int, dict[str, float]]]) -> list[float]:
    return [values["loss"] for _, values in told]


@pytest.mark.slow
def test_one_seed_gives_one_study_and_another_seed_another(study: Study) -> None:
    _, trials, recorder = study
    _, same, again = search(n_trials=3)
    pd.testing.assert_frame_equal(same, trials.head(3))
    assert [losses(told) for told in again.told] == [losses(told) for told in recorder.told[:3]]
    _, other, _ = search(seed=2, n_trials=2, epochs=1)
    assert other["dropout"][0] == trials["dropout"][0]
    assert other["dropout"][1] != trials["dropout"][1]


def test_a_study_may_be_one_trial() -> None:
    best, trials, recorder = search(n_trials=1, epochs=1)
    assert best["trial"] == 0
    assert trials["state"].tolist() == ["complete"]
    assert [[epoch for epoch, _ in told] for told in recorder.told] == [[1]]


def test_a_failing_trial_fails_the_study_and_closes_its_run() -> None:
    recorder = Recorder()

    @contextmanager
    def trial_run(number: int, settings: Mapping[str, float]) -> Iterator[ReportEpoch]:
        with recorder.trial_run(number, settings):

            def report(epoch: int, values: Mapping[str, float]) -> None:
                raise OSError("disk full")

            yield report

    with pytest.raises(OSError, match="disk full"):
        search(trial_run=trial_run)
    assert recorder.ended == [OSError]


def diverging(monkeypatch: pytest.MonkeyPatch, trials: set[int]) -> None:
    fit, fitted = train.fit, iter(range(99))

    def diverges(*args: Any, **options: Any) -> pd.DataFrame:
        if next(fitted) in trials:
            raise DivergedError("the loss is not finite in epoch 1")
        return fit(*args, **options)

    monkeypatch.setattr(train, "fit", diverges)


def test_a_trial_that_diverges_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, {1})
    best, trials, recorder = search(n_trials=3, epochs=1)
    assert trials["state"].tolist() == ["complete", "fail", "complete"]
    assert trials["val_auc"].isna().tolist() == [False, True, False]
    assert recorder.ended == [None, DivergedError, None]
    assert best["trial"] in {0, 2}
    # At a lower level Optuna would print the traceback of a trial that fails.
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    plots.trials(trials, "title")


def test_a_study_of_diverging_trials_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, {0, 1})
    with pytest.raises(UserError, match=r"not finite in any of 2 trials; lower tune.learning_rate = \[1e-05, 0.001\]"):
        search(n_trials=2, epochs=1)


def test_what_cannot_be_learnt_is_refused_before_the_first_trial() -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"train\.batch_size = 17 is larger than the 16 images"):
        search(PLAIN._replace(batch_size=17), trial_run=recorder.trial_run)
    assert recorder.settings == []


def test_weights_of_the_backbone_reach_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def watched(size: int, weights: tuple[str, ...], dropout: float) -> Any:
        files.append(weights)
        return build(size, weights, dropout)

    monkeypatch.setitem(networks.MODELS, "tiny", networks.MODELS["tiny"]._replace(build=watched))
    search(n_trials=2, epochs=1, weights=(Path("data/backbone/backbone.h5"),))
    assert files == [("data/backbone/backbone.h5",)] * 2


def test_no_trials_take_the_middle_untried() -> None:
    best, trials, recorder = search(n_trials=0)
    assert best == {"learning_rate": pytest.approx(1e-4), "dropout": 0.2}
    assert len(trials) == len(recorder.settings) == 0
    assert list(trials) == ["trial", "state", "val_auc", "learning_rate", "dropout"]


def test_what_a_frozen_backbone_computes_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_backbone(size: int, weights: tuple[str, ...], dropout: float) -> Any:
        import keras
        from keras import layers

        pixels = layers.Input((None, None, 1), name="pixels")
        x = layers.Conv2D(3, 3, trainable=False, name="conv")(layers.Rescaling(1 / 127.5, offset=-1.0)(pixels))
        x = layers.GlobalAveragePooling2D(name="features")(x)
        logit = layers.Dense(1, name="logit")(layers.Dropout(dropout)(x))
        return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name="tiny")

    made: list[Features] = []
    used: list[Features | None] = []
    compute, fit = tune.frozen_features, train.fit

    def counted(*args: Any, **options: Any) -> Features:
        made.append(compute(*args, **options))
        return made[-1]

    def watched(*args: Any, **options: Any) -> pd.DataFrame:
        used.append(options["features"])
        return fit(*args, **options)

    monkeypatch.setitem(
        networks.MODELS, "tiny", networks.MODELS["tiny"]._replace(build=with_backbone, blocks=("conv",))
    )
    monkeypatch.setattr(tune, "frozen_features", counted)
    monkeypatch.setattr(train, "fit", watched)
    _, trials, _ = search(n_trials=2, epochs=2)
    assert len(made) == 1
    assert len(used) == len(trials) == 2
    assert all(one is made[0] for one in used)
