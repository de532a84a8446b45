"""Studies of a network whose quality is known from its hyper-parameters: dropout above a line makes it wrong."""

import re
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
from pneumonia.models import detector, networks, runtime
from pneumonia.report import search as page
from pneumonia.training.recipe import DivergedError, Recipe, ReportEpoch, Schedule
from pneumonia.tuning import study as studies
from stages import tune as stage
from tests.conftest import PLAIN, set_settings
from tests.data.test_store import write_folds

GOOD_UP_TO = 0.2
DEFAULTS = {"learning_rate": 1e-4, "dropout": 0.2}
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},  # too low to turn a wrong network right
    "dropout": {"low": 0.0, "high": 0.4},
}
PLAN = tune.Plan(n_trials=6, epochs=3, sampler="tpe", pruner="median", space=SPACE, repeat_best=0, repeat_seeds=2)


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


@pytest.fixture(scope="module", autouse=True)
def a_tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.MODELS, "tiny", TINY)
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


TINY = networks.Model(build=build, size=4, explain="", weights_urls=(), source="made for these tests")


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


def toy_splits() -> tuple[Split, Split]:
    return toy_split(16, 0), toy_split(40, 1)


def flipped_splits() -> tuple[Split, Split]:
    learnt, val = toy_splits()
    return learnt._replace(labels=1 - learnt.labels), val


def noise_splits() -> tuple[Split, Split]:
    learnt, val = toy_splits()
    return learnt, val._replace(labels=np.random.default_rng(3).permutation(val.labels))


def test_with_folds_trials_train_the_first_network(tmp_path: Path) -> None:
    write_folds(tmp_path / "s")
    learnt, val = tune.Stored(tmp_path / "s", 1.0, "digest")()
    assert val.image_ids.tolist() == ["0", "3", "6"]
    assert (learnt.repeats > 0).tolist() == [False, True, True, False, True, True, False]


@pytest.mark.parametrize("n_trials", [0, 6])
def test_a_detector_is_refused_before_the_first_trial_and_without_trials_too(tmp_path: Path, n_trials: int) -> None:
    task = tune.Task("detector", (), toy_splits, PLAIN, Schedule(6, 6, 0.1, 1), tmp_path)

    def search(task: tune.Task) -> None:
        defaults = {**PLAIN._asdict(), **DEFAULTS}
        plan = PLAN._replace(n_trials=n_trials)
        tune.search(task, plan, defaults=defaults, place=studies.Place(tmp_path), trial_run=Recorder().trial_run)

    with pytest.raises(UserError, match=r"^model = detector needs boxes, and data/boxes\.csv has none for the train"):
        search(task)
    few = toy_splits()[0]._replace(boxes=np.eye(16, 4, dtype=np.float32)[:, None] * 4)  # one box has a width
    task = task._replace(splits=lambda: (few, few._replace(boxes=None)))
    with pytest.raises(UserError, match=r"^train\.mixup = 0\.2 mixes two images, whose boxes cannot be mixed"):
        search(task._replace(recipe=PLAIN._replace(mixup=0.2)))
    assert not list(tmp_path.iterdir())
    assert train.notes_on_boxes(*task.splits()) == [
        "only 1 train image with boxes: a detector hardly learns where to look",
        "no validation image with boxes: the least score of a shown box is 0.5 instead of chosen, and no figure of "
        "boxes is computed; boxes of more patients help (docs/detector.md)",
    ]
    enough = few._replace(boxes=np.full((16, 1, 4), 2, np.float32))
    assert train.notes_on_boxes(enough, enough) == []
    left_out = enough._replace(repeats=np.zeros(16, np.int16))  # of an epoch, which is about train
    assert [note[:7] for note in train.notes_on_boxes(left_out, left_out)] == ["only 0 "]


class Recorder:
    """Stands for the MLflow run of each trial."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.settings: list[dict[str, Any]] = []
        self.told: list[list[tuple[int, dict[str, float]]]] = []
        self.ended: list[type[BaseException] | None] = []

    @contextmanager
    def trial_run(self, name: str, settings: Mapping[str, Any]) -> Iterator[ReportEpoch]:
        assert len(self.settings) == len(self.ended)  # the one before is closed
        self.names.append(name)
        self.settings.append(dict(settings))
        self.told.append([])
        try:
            yield lambda epoch, values: self.told[-1].append((epoch, dict(values)))
        except BaseException as error:
            self.ended.append(type(error))
            raise
        self.ended.append(None)


Study = tuple[tune.Found, Recorder]


def search(
    folder: Path,
    recipe: Recipe = PLAIN,
    *,
    name: str = "tiny",
    splits: Any = toy_splits,
    space: Any = SPACE,
    defaults: Mapping[str, Any] = DEFAULTS,
    weights: tuple[Path, ...] = (),
    seed: int = 1,
    recorder: Recorder | None = None,
    workers: int = 1,
    **changes: Any,
) -> Study:
    recorder = recorder or Recorder()
    plan = PLAN._replace(space=space, **changes)
    task = tune.Task(name, weights, splits, recipe, Schedule(6, 6, 0.1, seed), folder)
    found = tune.search(
        task,
        plan,
        defaults={**recipe._asdict(), **defaults},
        place=studies.Place(folder),
        trial_run=recorder.trial_run,
        workers=workers,
    )
    return found, recorder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One study for the tests that only look at it."""
    return search(tmp_path_factory.mktemp("study"))


def test_the_table_has_one_row_per_trial(study: Study) -> None:
    found, recorder = study
    assert list(found.trials) == ["trial", "state", "val_auc", "value", "epochs", "learning_rate", "dropout"]
    assert found.trials["value"].equals(found.trials["val_auc"])
    assert found.trials["trial"].tolist() == list(range(6))
    assert found.trials[["learning_rate", "dropout"]].to_dict("records") == recorder.settings
    assert recorder.names == [f"trial {number}" for number in range(6)]


def test_the_first_trial_takes_the_defaults(study: Study) -> None:
    found, _ = study
    assert found.trials.loc[0, ["learning_rate", "dropout"]].to_dict() == DEFAULTS


def test_settings_stay_in_their_ranges_and_differ(study: Study) -> None:
    found, _ = study
    assert found.trials["learning_rate"].between(1e-5, 1e-3).all()
    assert found.trials["dropout"].between(0, 0.4).all()
    assert found.trials["learning_rate"].nunique() == found.trials["dropout"].nunique() == 6


def test_a_trial_follows_the_schedule_of_the_final_fit_and_is_cut(study: Study) -> None:
    found, recorder = study
    for row, told in zip(found.trials.itertuples(), recorder.told, strict=True):
        rates = [values["learning_rate"] for _, values in told]
        assert rates[0] == pytest.approx(row.learning_rate)
        # A cosine over the five epochs after the first: at the end of a schedule of three it would be 0.
        falls = [(1 + np.cos(np.pi * epoch / 5)) / 2 for epoch in range(len(rates))]
        assert rates == pytest.approx([row.learning_rate * fall for fall in falls], rel=1e-3)
        assert row.epochs == len(told) <= 3


def test_the_best_has_the_highest_auc_of_the_complete_trials(study: Study) -> None:
    found, _ = study
    complete = found.trials[found.trials["state"] == "complete"]
    assert len(complete) < len(found.trials)
    assert found.best["val_auc"] == complete["val_auc"].max() > 0.8
    row = complete.set_index("trial").loc[found.best["trial"]]
    assert found.best["values"] == row[["learning_rate", "dropout"]].to_dict()
    assert found.best["values"]["dropout"] <= GOOD_UP_TO


def test_a_trial_below_the_median_is_pruned_and_its_run_closed_so(study: Study) -> None:
    found, recorder = study
    wrong = found.trials["dropout"].to_numpy() > GOOD_UP_TO + 1e-9
    late = np.arange(6) >= 3  # the first three are not compared
    assert (wrong & late).sum() >= 1
    expected = np.where(wrong & late, "pruned", "complete")
    assert found.trials["state"].tolist() == expected.tolist()
    assert recorder.ended == [tune.Pruned if state == "pruned" else None for state in expected]
    pruned = found.trials[found.trials["state"] == "pruned"]
    assert pruned["val_auc"].between(0, 0.2).all()
    assert (pruned["epochs"] < 3).all()


def test_the_curves_are_those_that_were_reported(study: Study) -> None:
    found, recorder = study
    told = [(number, epoch, values["val_auc"]) for number, rows in enumerate(recorder.told) for epoch, values in rows]
    assert list(found.curves[["trial", "epoch", "val_auc"]].itertuples(index=False, name=None)) == told
    assert list(found.curves) == ["trial", "epoch", "loss", "val_loss", "val_auc"]


@pytest.mark.slow
def test_a_trial_is_worth_its_best_epoch_or_its_last_one(tmp_path: Path) -> None:
    """Here of a network that starts right and learns wrong labels."""
    space = {"learning_rate": [1.0, 1.1]}
    for keep, choose in (("best", max), ("last", lambda aucs: aucs[-1])):
        (tmp_path / keep).mkdir()
        found, recorder = search(
            tmp_path / keep,
            PLAIN._replace(keep=keep),
            splits=flipped_splits,
            space=space,
            defaults={"learning_rate": 1.0, "dropout": 0.0},
            n_trials=1,
        )
        aucs = [values["val_auc"] for _, values in recorder.told[0]]
        assert aucs[-1] < max(aucs)
        assert found.trials["val_auc"][0] == choose(aucs)


def test_values_of_the_recipe_are_searched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fit = train.fit

    def watched(*args: Any, **options: Any) -> pd.DataFrame:
        sizes.append(args[3].batch_size)
        return fit(*args, **options)

    monkeypatch.setattr(train, "fit", watched)
    found, _ = search(tmp_path, space={"batch_size": [4, 8]}, n_trials=2, epochs=1, sampler="grid")
    assert sizes == found.trials["batch_size"].tolist() == [8, 4]
    assert set(found.best["values"]) == {"learning_rate", "dropout", "batch_size"}


def test_an_interrupted_study_continues(tmp_path: Path, study: Study) -> None:
    """Ended in the middle of a trial, it has the same trials as an uninterrupted one and repeats only that one."""

    class Killed(BaseException):
        pass

    recorder = Recorder()
    epochs = iter(range(100))

    @contextmanager
    def trial_run(name: str, settings: Mapping[str, Any]) -> Iterator[ReportEpoch]:
        with Recorder.trial_run(recorder, name, settings) as report:

            def stop(epoch: int, values: Mapping[str, float]) -> None:
                report(epoch, values)
                if next(epochs) == 7:
                    raise Killed

            yield stop

    first = Recorder()
    first.trial_run = trial_run  # type: ignore[method-assign]
    with pytest.raises(Killed):
        search(tmp_path, recorder=first)
    found, again = search(tmp_path)
    uninterrupted, _ = study
    pd.testing.assert_frame_equal(found.trials, uninterrupted.trials)
    pd.testing.assert_frame_equal(found.curves, uninterrupted.curves)
    assert found.best == uninterrupted.best
    assert set(recorder.names) & set(again.names) == {recorder.names[-1]}


def diverging(monkeypatch: pytest.MonkeyPatch, trials: set[int]) -> None:
    fit, fitted = train.fit, iter(range(99))

    def diverges(*args: Any, **options: Any) -> pd.DataFrame:
        if next(fitted) in trials:
            raise DivergedError("the loss is not finite in epoch 1")
        return fit(*args, **options)

    monkeypatch.setattr(train, "fit", diverges)


@pytest.mark.slow
def test_another_trial_takes_the_place_of_one_that_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, {1})
    found, recorder = search(tmp_path, n_trials=3, epochs=1)
    assert found.trials["state"].tolist() == ["complete", "fail", "complete", "complete"]
    assert found.trials["val_auc"].isna().tolist() == [False, True, False, False]
    assert recorder.ended == [None, DivergedError, None, None]
    # At a lower level Optuna would print the traceback of a trial that fails.
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    page.write(tmp_path / "study.html", found.best, found.trials, found.curves, found.importances, "tiny")


@pytest.mark.slow
def test_a_study_of_diverging_trials_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, set(range(9)))
    with pytest.raises(UserError, match=r"not finite in any of 3 trials; lower the learning rates in tune\.space"):
        search(tmp_path, n_trials=2, epochs=1)


def test_a_key_without_effect_is_refused(tmp_path: Path) -> None:
    space = {"head_learning_rate": {"low": 0.001, "high": 0.01}}
    with pytest.raises(UserError, match=r"^tune\.space\.head_learning_rate has no effect: tiny has no pretrained back"):
        search(tmp_path, space=space, defaults={**DEFAULTS, "head_learning_rate": 0.001})
    with pytest.raises(UserError, match=r"^tune\.space\.box_weight has no effect: tiny draws no boxes; remove it$"):
        search(tmp_path, space={"box_weight": {"low": 0.1, "high": 1.0}}, n_trials=1, epochs=1)


def test_the_largest_batch_of_the_space_is_checked_before_the_first_trial(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match="4096 is larger than the 16 images of an epoch"):
        search(tmp_path, space={"batch_size": [4, 4096]}, recorder=recorder)
    assert recorder.names == []


def test_more_workers_than_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^compute\.trial_workers = 7 is more than tune\.n_trials = 6; lower it$"):
        search(tmp_path, workers=7)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_learnt_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"train\.batch_size = 17 is larger than the 16 images"):
        search(tmp_path, PLAIN._replace(batch_size=17), recorder=recorder)
    assert recorder.settings == []


def test_a_store_that_fails_ends_the_study_and_closes_the_run(tmp_path: Path) -> None:
    recorder, made = Recorder(), Recorder()

    @contextmanager
    def trial_run(name: str, settings: Mapping[str, Any]) -> Iterator[ReportEpoch]:
        with made.trial_run(name, settings):

            def report(epoch: int, values: Mapping[str, float]) -> None:
                raise OSError("disk full")

            yield report

    recorder.trial_run = trial_run  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        search(tmp_path, recorder=recorder)
    assert made.ended == [OSError]


@pytest.mark.slow
def test_weights_of_the_backbone_reach_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def watched(size: int, weights: tuple[str, ...], dropout: float) -> Any:
        files.append(weights)
        return build(size, weights, dropout)

    monkeypatch.setitem(networks.MODELS, "tiny", networks.MODELS["tiny"]._replace(build=watched))
    search(tmp_path, n_trials=2, epochs=1, weights=(Path("data/backbone/backbone.h5"),))
    assert files == [("data/backbone/backbone.h5",)] * 2


def test_a_search_for_the_size_of_the_input_begins_at_that_of_the_model(tmp_path: Path) -> None:
    space = {"image_size": {"low": 4, "high": 32, "step": 4}}
    found, _ = search(tmp_path, n_trials=0, space=space, defaults=DEFAULTS | {"image_size": None})
    assert found.best["values"] == DEFAULTS | {"image_size": networks.MODELS["tiny"].size}


def test_no_trials_take_the_defaults_untried(tmp_path: Path) -> None:
    found, recorder = search(tmp_path, n_trials=0)
    assert found.best == {"values": DEFAULTS, "verdict": "no search: the defaults of the model, untried"}
    assert "value" in found.trials
    assert len(found.trials) == len(found.curves) == len(recorder.settings) == 0
    assert page.write(tmp_path / "study.html", found.best, found.trials, found.curves, {}, "tiny") == []


def test_answers_are_kept_of_trials_that_may_be_compared(tmp_path: Path) -> None:
    wrong = DEFAULTS | {"dropout": 0.4}
    space = {"dropout": [0.0, 0.1, 0.3, 0.4]}
    found, _ = search(tmp_path, space=space, defaults=wrong, n_trials=4, epochs=1, sampler="grid", pruner="none")
    trials = studies.open_study(studies.Place(tmp_path), "none", 1).trials
    kept = {trial.number for trial in trials if "answers" in trial.user_attrs}
    order = found.trials["val_auc"].tolist()
    assert kept == {0} | {number for number in range(4) if sum(one > order[number] for one in order[:number]) < 2}
    assert len(kept) < 4


def test_a_search_that_is_no_better_says_so(study: Study) -> None:
    found, _ = study
    if found.best["trial"] == 0:
        assert re.fullmatch(
            r"no trial is better than the defaults; the best of the others is trial \d+: validation AUC "
            r"[+-]0\.\d{4} \[[+-]0\.\d{4}, [+-]0\.\d{4}\], n = \d+",
            found.best["verdict"],
        )
    else:
        assert found.best["gain"]["auc_low"] <= 0
        assert found.best["verdict"].startswith("no better than the defaults: validation AUC +")


@pytest.mark.slow
def test_a_search_that_is_better_says_by_how_much(tmp_path: Path) -> None:
    found, _ = search(tmp_path, defaults=DEFAULTS | {"dropout": 0.4}, n_trials=4)
    gain = found.best["gain"]
    first = found.trials["val_auc"][0]
    assert gain["auc"] == pytest.approx(found.best["val_auc"] - first, abs=1e-6)
    assert 0 < gain["auc_low"] < gain["auc"] <= gain["auc_high"] <= 1
    assert gain["n"] == 40
    assert found.best["verdict"].startswith("better than the defaults: validation AUC +")


def test_where_nothing_was_learnt_the_defaults_are_kept(tmp_path: Path) -> None:
    found, _ = search(tmp_path, splits=noise_splits, n_trials=3, epochs=1)
    assert found.best["values"] == DEFAULTS
    assert found.best["trial"] == 0
    assert found.best["verdict"].startswith("nothing was learnt: the best validation AUC is ")


def found_by(model: Any) -> Any:
    """Stands for a detector: the boxes are right where the sign of the network is, and surer in dark images."""
    is_right = model.get_layer("logit").get_weights()[0][0, 0] > 0
    place = [0, 0, 2, 2] if is_right else [2, 2, 2, 2]
    return lambda images: [
        (np.array([place], np.float64), np.array([0.9 if image.mean() < 120 else 0.1])) for image in images
    ]


def boxed_splits() -> tuple[Split, Split]:
    learnt, val = noise_splits()  # the AUC of the images is chance
    boxes = np.zeros((len(val.labels), 1, 4), np.float32)
    boxes[::2] = 0, 0, 2, 2  # in the dark images
    return learnt._replace(boxes=boxes[: len(learnt.labels)]), val._replace(boxes=boxes)


def test_a_search_by_the_boxes_is_one_in_all_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.MODELS, "detector", networks.MODELS["tiny"])
    monkeypatch.setattr(detector, "finder", found_by)
    wrong = DEFAULTS | {"dropout": 0.4}  # finds nothing
    found, recorder = search(tmp_path, name="detector", splits=boxed_splits, defaults=wrong, select="ap", pruner="none")
    assert "val_auc" not in found.trials
    assert found.best["val_ap50"] == found.trials["val_ap50"].max() == found.curves["val_ap50"].max() > 0.4
    assert found.trials["val_ap50"][0] == 0
    assert found.trials["value"].equals(found.trials["val_ap50"]), "what dvc plots draws of any objective"
    assert found.best["values"]["dropout"] <= GOOD_UP_TO
    gain = found.best["gain"]
    assert gain["ap50"] == pytest.approx(found.best["val_ap50"], abs=1e-6)
    assert 0 < gain["ap50_low"] < gain["ap50"] < gain["ap50_high"] < 1
    assert found.best["verdict"].startswith("better than the defaults: validation average precision of the boxes +0.")
    assert all("val_ap50" in values for told in recorder.told for _, values in told)
    reported = [one.intermediate_values for one in studies.open_study(studies.Place(tmp_path), "none", 3).trials]
    assert [one[3] for one in reported] == found.trials["val_ap50"].tolist()
    assert "validation average precision of the boxes 0." in " ".join(tune.summary(found, "detector", list(SPACE)))
    page.write(tmp_path / "study.html", *found, "detector on phantom")
    html = (tmp_path / "study.html").read_text()
    assert "alidation AUC" not in html
    assert "Validation average precision of the boxes by epoch" in html


@pytest.mark.slow
def test_boxes_that_do_not_depend_on_the_image_are_nothing_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everywhere(model: Any) -> Any:
        return lambda images: [(np.array([[0, 0, 2, 2.0]]), np.array([0.5]))] * len(images)

    monkeypatch.setitem(networks.MODELS, "detector", networks.MODELS["tiny"])
    monkeypatch.setattr(detector, "finder", everywhere)
    found, _ = search(tmp_path, name="detector", splits=boxed_splits, select="ap", n_trials=2, epochs=1)
    assert found.trials["val_ap50"].min() > 0.4
    assert found.best["verdict"].startswith("nothing was learnt: the best validation average precision of the boxes")
    assert "+0.000 [+0.000, +0.000] over chance" in found.best["verdict"]
    page.write(tmp_path / "study.html", *found, "detector on phantom")


def test_boxes_are_no_objective_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"tune\.select = ap is the precision of boxes, and tiny draws none; set "):
        search(tmp_path, splits=boxed_splits, select="ap")
    with pytest.raises(UserError, match=r"tune\.select = ap is the precision of boxes, and tiny draws none; set "):
        search(tmp_path, splits=boxed_splits, select="ap", n_trials=0)
    monkeypatch.setitem(networks.MODELS, "detector", networks.MODELS["tiny"])
    with pytest.raises(UserError, match=r"tune\.select = ap needs boxes, and no validation image has one"):
        search(tmp_path, name="detector", splits=lambda: (boxed_splits()[0], toy_splits()[1]), select="ap")
    without = ({"space": {"box_weight": [0.0, 0.5]}}, {"recipe": PLAIN._replace(box_weight=0.0)})
    for options in without:
        with pytest.raises(UserError, match="a detector with box_weight = 0 draws none"):
            search(tmp_path, name="detector", splits=boxed_splits, select="ap", **options)


def test_a_detector_without_weight_of_its_boxes_needs_none(tmp_path: Path) -> None:
    found, _ = search(tmp_path, PLAIN._replace(box_weight=0.0), name="detector", n_trials=0)
    assert found.best["verdict"].startswith("no search")


def test_images_are_mixed_in_a_search_only_where_no_detector_learns_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(networks.MODELS, "detector", networks.MODELS["tiny"])
    options: dict[str, Any] = {"name": "detector", "splits": boxed_splits, "n_trials": 1, "epochs": 1}
    space, defaults = {"mixup": [0.0, 0.2]}, DEFAULTS | {"mixup": 0.2}
    for more in ({}, {"box_weight": [0.0, 0.5]}):
        with pytest.raises(UserError, match=r"^tune\.space\.mixup mixes two images, whose boxes cannot be mixed"):
            search(tmp_path, space=space | more, defaults=defaults | {"box_weight": 0.5}, **options)
    found, _ = search(tmp_path, PLAIN._replace(box_weight=0.0), space=space, defaults=defaults, **options)
    assert found.best["values"]["mixup"] == 0.2


def test_a_map_of_boxes_of_a_network_without_them_ends_this_stage_at_once(stage_project: Path) -> None:
    chosen = {"model": "detector", "train.box_weight": 0.0, "explain.methods": ["detector_map"]}
    set_settings(stage_project / "params.yaml", chosen)
    with pytest.raises(UserError, match=r"^explain\.methods has detector_map, and with train\.box_weight = 0 no box "):
        stage.main()


@pytest.mark.slow
def test_the_best_trials_are_repeated_with_other_seeds(tmp_path: Path) -> None:
    found, recorder = search(tmp_path, n_trials=3, epochs=1, repeat_best=2, repeat_seeds=2, pruner="none")
    repeats = [name for name in recorder.names if "seed" in name]
    best = found.trials.sort_values("val_auc", ascending=False, kind="stable")["trial"].tolist()[:2]
    assert repeats == [f"trial {number} · seed {seed}" for number in best for seed in (2, 3)]
    means = found.trials.set_index("trial")["val_auc_mean"]
    assert means.notna().sum() == 2
    assert found.best["trial"] == means.idxmax()
    named = zip(recorder.names, recorder.told, strict=True)
    told = {name: max(values["val_auc"] for _, values in rows) for name, rows in named}
    number = best[0]
    parts = [told[f"trial {number}"], told[f"trial {number} · seed 2"], told[f"trial {number} · seed 3"]]
    assert means[number] == pytest.approx(np.mean(parts))
    again, none = search(tmp_path, n_trials=3, epochs=1, repeat_best=2, repeat_seeds=2, pruner="none")
    assert none.names == []
    pd.testing.assert_frame_equal(again.trials, found.trials)


@pytest.mark.slow
def test_what_a_frozen_backbone_computes_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_backbone(size: int, weights: tuple[str, ...], dropout: float) -> Any:
        import keras
        from keras import layers

        pixels = layers.Input((None, None, 1), name="pixels")
        x = layers.Conv2D(3, 3, trainable=False, name="conv")(layers.Rescaling(1 / 127.5, offset=-1.0)(pixels))
        x = layers.GlobalAveragePooling2D(name="features")(x)
        logit = layers.Dense(1, name="logit")(layers.Dropout(dropout)(x))
        return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name="tiny")

    made: list[Any] = []
    used: list[Any] = []
    compute, fit = tune.frozen_features, train.fit

    def counted(*args: Any, **options: Any) -> Any:
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
    found, _ = search(tmp_path, n_trials=2, epochs=2)
    assert len(made) == 1
    assert len(used) == len(found.trials) == 2
    for one in used:
        np.testing.assert_array_equal(one.train, made[0].train)
        np.testing.assert_array_equal(one.val, made[0].val)


@pytest.mark.slow
def test_one_seed_gives_one_study_and_another_seed_another(tmp_path: Path, study: Study) -> None:
    uninterrupted, _ = study
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    same, _ = search(tmp_path / "same")
    pd.testing.assert_frame_equal(same.trials, uninterrupted.trials)
    other, _ = search(tmp_path / "other", seed=2, n_trials=2, epochs=1)
    assert other.trials["dropout"][0] == same.trials["dropout"][0]
    assert other.trials["dropout"][1] != same.trials["dropout"][1]
