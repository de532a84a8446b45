"""Search the hyper-parameters: an Optuna study whose weak trials are stopped early, and what the search was worth.

An interrupted study continues where it was. Trials run in this process, in several ones, or on a Dask cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from pneumonia import UserError, compute, train, workspace
from pneumonia.data.store import Split, open_store, read_folds
from pneumonia.metrics.text import with_interval
from pneumonia.models import boxed, networks, runtime
from pneumonia.training.features import Features, frozen_features
from pneumonia.training.recipe import DivergedError, Recipe, ReportEpoch, Schedule, derived_seed
from pneumonia.tuning import study as studies
from pneumonia.tuning.objectives import OBJECTIVES, Answers, Objective, of_table
from pneumonia.tuning.space import Space, Values, nearest

TrialRun = Callable[[str, Mapping[str, Any]], AbstractContextManager[ReportEpoch]]
"""Opened around each trial with its name and hyper-parameters; its value is called after each epoch."""

PRETRAINED_ONLY = ("head_learning_rate", "head_epochs", "copies", "unfreeze", "layer_decay")
"""Keys of a space that act only on a pretrained backbone."""

Pruned = optuna.TrialPruned
"""Ends a weak trial; raised inside `TrialRun`."""

_ONE_AT_A_TIME = Lock()
"""Keras has one session and one seed in a process, and a worker of Dask may have several threads."""

LEVEL = 0.95
"""Of the intervals that say what a search was worth."""


class Plan(NamedTuple):
    """How a study searches; section `tune` of params.yaml.

    Attributes:
        n_trials: complete and pruned trials, in all; 0 = the defaults, untried.
        epochs: after which a trial ends. It follows the schedule of the final fit, which is longer.
        sampler: a key of `study.SAMPLERS`.
        pruner: a key of `study.PRUNERS`.
        space: what is searched.
        repeat_best: number of the best trials that are trained again with other seeds before one is chosen; 0 = none.
        repeat_seeds: number of these seeds.
        select: what is maximised, a key of `OBJECTIVES`.
    """

    n_trials: int
    epochs: int
    sampler: str
    pruner: str
    space: Space
    repeat_best: int
    repeat_seeds: int
    select: str = "auc"


class Task(NamedTuple):
    """What a trial needs, in any process.

    Attributes:
        name: a key of `networks.MODELS`.
        weights: files of the backbone; none = random weights.
        splits: returns the train and the validation split, such as `Stored`; hashable, and can be sent.
        recipe: of the final fit, without the values of a trial.
        schedule: of the final fit, without the learning rates of a trial.
        folder: that survives a crash, for the features of a frozen backbone.
    """

    name: str
    weights: tuple[Path, ...]
    splits: Callable[[], tuple[Split, Split]]
    recipe: Recipe
    schedule: Schedule
    folder: Path


class Job(NamedTuple):
    """A fit of a study that can be sent to another process.

    Attributes:
        task, plan: of the study.
        chosen: values of the trial, with the defaults of what is not searched.
        number: of the trial.
        repeat: 0, or which of the further seeds it takes; then it is not pruned.
        place: of the study.
        threads: that TensorFlow may use; 0 = all cores.
    """

    task: Task
    plan: Plan
    chosen: Values
    number: int
    repeat: int
    place: studies.Place
    threads: int = 0


class Outcome(NamedTuple):
    """How a fit of a study ended.

    Attributes:
        state: `complete`, `pruned` or `fail`.
        value: figure of the objective, of the epoch that is kept, if it is complete.
        curve: one row per epoch, as `train.fit` reports them.
        answers: for the validation images, as the objective compares them, if it is complete.
        problem: why it failed.
    """

    state: str
    value: float | None
    curve: list[dict[str, float]]
    answers: Answers
    problem: str = ""


class Found(NamedTuple):
    """What a study found.

    Attributes:
        best: content of `best.json`: `values`, those of the final fit; `trial` and `val_auc`, after trials; `gain` over
            the defaults with its interval, where both were tried to the end; `verdict` in words.
        trials: one row per trial: `trial, state, val_auc, value, epochs`, then its values. With repeats `val_auc_mean`
            too. `value` is `val_auc` again: of any objective the column has this name.
        curves: one row per epoch of each trial: `trial, epoch, loss, val_loss, val_auc`. Of another objective `best`
            and `trials` have its key in place of `val_auc`, and `curves` has it too.
        importances: share of each key in the differences between trials, 0-1; empty with too few trials.
    """

    best: dict[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    importances: Mapping[str, float]


class Stored(NamedTuple):
    """The splits of an image store, for a `Task`: read when they are called, in the process that needs them.

    Attributes:
        path: of the store, absolute.
        memory: limit for the images of a split, GiB.
        digest: of the images and of their weights, any text; a worker keeps the splits until it changes.
    """

    path: Path
    memory: float
    digest: str

    def __call__(self) -> tuple[Split, Split]:
        """The train and the validation split; with folds those of the first network."""
        return next(read_folds(open_store(self.path), memory=self.memory))


def search(
    task: Task,
    plan: Plan,
    *,
    defaults: Mapping[str, Any],
    place: studies.Place,
    trial_run: TrialRun,
    workers: int = 1,
    dask: str | None = None,
) -> Found:
    """The hyper-parameters with the highest figure of the objective, and tables of all trials.

    Trial 0 has the defaults: a search is never worse than they are on validation. A trial whose loss is not finite
    fails, and another one takes its place. The features of a frozen backbone are computed once for all trials.

    Args:
        task: what is trained.
        plan: how to search.
        defaults: a value of each key of the space, and of others that trials use: `learning_rate`, `dropout`.
        place: of the study. A study that is there continues; it must be of the same task, plan and space.
        trial_run: opened around each trial.
        workers: processes on this machine that each train one trial, and divide the cores.
        dask: address of a Dask scheduler whose workers train the trials; None = this machine.

    Raises:
        UserError: more workers than trials; a key of the space that has no effect; an objective that needs boxes where
            there are none; as `train.check` says, and of a detector as `train.check_boxes` says, before the first
            trial; weights of another architecture; a loss that is not finite in any trial; a storage that cannot be
            used.
    """
    # The size of the input is that of the model where `defaults` has none.
    first = nearest(
        plan.space, {**defaults, "image_size": task.recipe.image_size or networks.model_row(task.name).size}
    )
    # Also without trials: it is the first stage that knows the model and the images.
    if boxed.learns_boxes(task.name, task.recipe.box_weight, plan.space):
        train.check_boxes(_splits(task.splits)[0], task.recipe)
        for note in train.notes_on_boxes(*_splits(task.splits)):
            tqdm.write(f"NOTE: {note}")
    if plan.select == "ap":
        _check_boxes(task, plan.space)
    if plan.n_trials == 0:
        return _untried(_values(defaults, first), OBJECTIVES[plan.select])
    if workers > plan.n_trials:
        raise UserError(f"compute.trial_workers = {workers} is more than tune.n_trials = {plan.n_trials}; lower it")
    _check_space(task, plan.space)
    if workers > 1 or dask:
        tqdm.write("several trials run at once: their order, and so what is tried, may differ in another run")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Optuna logs a failed trial as a warning with a traceback
    study = studies.open_study(place, plan.pruner, plan.epochs)
    queue = studies.Queue(
        study,
        plan.space,
        first,
        n_trials=plan.n_trials,
        sampler=plan.sampler,
        seed=task.schedule.seed,
        shared=bool(place.url),
    )
    make = partial(_job, task, plan, defaults, place, 0 if workers == 1 else _threads(workers))
    with studies.alive(place, queue.in_progress), _progress(study, queue.n_trials) as progress:
        run = partial(_run_all, study, trial_run=trial_run, workers=workers, dask=dask)
        trials: dict[int, optuna.Trial] = {}

        def next_job() -> Job | None:
            while (trial := queue.next()) is None and queue.waits() and not queue.in_progress:
                time.sleep(1)  # another process has the last trials; one of them may be lost
            if trial is None:
                return None
            trials[trial.number] = trial
            return make(trial.number, trial.params)

        for job, outcome in run(next_job):
            trial = trials.pop(job.number)
            studies.patiently(partial(trial.set_user_attr, "curve", outcome.curve))
            if outcome.value is not None and _may_be_compared(study, plan, trial, outcome.value):
                studies.patiently(partial(trial.set_user_attr, "answers", outcome.answers))
            state = TrialState[outcome.state.upper()]
            queue.tell(trial, outcome.value if state == TrialState.COMPLETE else None, state)
            progress()
        repeats = _repeats(study, plan, make)
        for job, outcome in run(partial(next, iter(repeats), None)):
            _add_repeat(study, job, outcome)
            progress()
    return _found(study, task, defaults, plan)


def summary(found: Found, model: str, keys: Sequence[str]) -> list[str]:
    """What a study found, in three lines of text.

    Args:
        found: as `search` returns it.
        model: name of the network.
        keys: that were searched.
    """
    states = found.trials["state"].value_counts()
    parts = [f"{n} {name}" for name in ("complete", "pruned", "fail") if (n := int(states.get(name, 0)))]
    values = ((key, found.best["values"][key]) for key in keys)
    chosen = ", ".join(f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in values)
    if "trial" in found.best:
        objective = of_table(found.trials)
        chosen = f"trial {found.best['trial']}, {objective.title} {found.best[objective.key]:.4f}: {chosen}"
    n = len(found.trials)
    return [
        f"{n} trial{'s' * (n != 1)} of {model}: {', '.join(parts) or 'the defaults, untried'}",
        f"best: {chosen}",
        found.best["verdict"],
    ]


def _check_space(task: Task, space: Space) -> None:
    """Check before the first trial that each key has an effect and that a network can learn with the largest batch."""
    for key in space:
        if not task.weights and key in PRETRAINED_ONLY:
            raise UserError(f"tune.space.{key} has no effect: {task.name} has no pretrained backbone here; remove it")
        if key == "box_weight" and task.name != boxed.DETECTOR:
            raise UserError(f"tune.space.{key} has no effect: {task.name} draws no boxes; remove it")
        if key == "mixup" and boxed.learns_boxes(task.name, task.recipe.box_weight, space):
            raise UserError(f"tune.space.{key} mixes two images, whose boxes cannot be mixed; remove it")
    sizes = space.get("batch_size", [task.recipe.batch_size])
    largest = sizes["high"] if isinstance(sizes, Mapping) else max(sizes)
    train.check(*_splits(task.splits), task.recipe._replace(batch_size=largest))


def _check_boxes(task: Task, space: Space) -> None:
    """Check before the first trial that each network finds boxes, and that validation can judge them."""
    if not boxed.learns_boxes(task.name, task.recipe.box_weight, space, always=True):
        who = "a detector with box_weight = 0" if task.name == boxed.DETECTOR else task.name
        raise UserError(f"tune.select = ap is the precision of boxes, and {who} draws none; set tune.select: auc")
    if not train.n_with_boxes(_splits(task.splits)[1].boxes):
        raise UserError("tune.select = ap needs boxes, and no validation image has one; set tune.select: auc")


def _job(
    task: Task,
    plan: Plan,
    defaults: Mapping[str, Any],
    place: studies.Place,
    threads: int,
    number: int,
    values: Mapping[str, Any],
    repeat: int = 0,
) -> Job:
    return Job(task, plan, _values(defaults, values), number, repeat, place, threads)


def _run_all(
    study: optuna.Study,
    next_job: Callable[[], Job | None],
    *,
    trial_run: TrialRun,
    workers: int,
    dask: str | None,
) -> Iterator[tuple[Job, Outcome]]:
    """The jobs and how they ended; each one inside its run."""

    def in_run(job: Job, fit: Callable[[ReportEpoch], Outcome]) -> Outcome:
        name = f"trial {job.number}" + (f" · seed {job.repeat + 1}" if job.repeat else "")
        outcome = None
        try:
            with trial_run(name, job.chosen) as report:
                outcome = fit(report)
                if outcome.state == "pruned":
                    raise Pruned
                if outcome.state == "fail":
                    raise DivergedError(outcome.problem)
        except (Pruned, DivergedError):
            if outcome is None:
                raise
        return outcome

    if workers == 1 and not dask:
        while job := next_job():
            yield job, in_run(job, partial(_fit, job, study))
        return
    for job, outcome in compute.run_each(_fit_elsewhere, next_job, workers=workers, dask=dask, label="tune"):
        yield job, in_run(job, partial(_replayed, outcome))


def _replayed(outcome: Outcome, report: ReportEpoch) -> Outcome:
    """The outcome of a fit in another process, whose epochs are reported now."""
    for epoch, row in enumerate(outcome.curve, start=1):
        report(epoch, row)
    return outcome


def _fit_elsewhere(job: Job) -> Outcome:
    """A fit in a process of its own: with its share of the cores, and the study opened again."""
    with _ONE_AT_A_TIME:
        runtime.start_keras(threads=job.threads or None)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with runtime.on_devices():
            return _fit(job, studies.join(job.place, job.plan.pruner, job.plan.epochs), lambda epoch, values: None)


def _fit(job: Job, study: optuna.Study, report_epoch: ReportEpoch) -> Outcome:
    """Train the network of a trial."""
    import keras

    task, seed = job.task, job.task.schedule.seed
    if job.repeat:
        seed = derived_seed(seed, 2, job.repeat)
    train_split, val_split = _splits(task.splits)
    recipe = task.recipe.with_values(job.chosen).for_weights(task.weights)
    objective = OBJECTIVES[job.plan.select]
    trial = studies.patiently(lambda: studies.trial_of(study, job.number))
    known = set(studies.patiently(study.get_trials)[job.number].intermediate_values)
    curve: list[dict[str, float]] = []

    def report(epoch: int, values: Mapping[str, float]) -> None:
        curve.append(dict(values))
        report_epoch(epoch, values)
        if job.repeat:
            return
        if epoch not in known:  # an interrupted trial has reported some before
            studies.patiently(lambda: trial.report(values[objective.key], step=epoch))
        if studies.patiently(trial.should_prune):
            raise Pruned

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = train.start(
        task.name,
        task.weights,
        job.chosen["dropout"],
        train_split,
        size=recipe.image_size,
        box_weight=recipe.box_weight,
    )
    schedule = task.schedule._replace(
        seed=seed,
        stop_after=job.plan.epochs,
        **{key: job.chosen[key] for key in ("learning_rate", "head_learning_rate") if key in job.chosen},
    )
    try:
        history = train.fit(  # without `resume`: an interrupted trial is short, and trained again
            model,
            train_split,
            val_split,
            recipe,
            schedule,
            features=_features(task, model, recipe, train_split, val_split, seed),
            measure=objective.measure(model, val_split),
            report=report,
            label=f"trial {job.number}",
        )
    except Pruned:
        return Outcome("pruned", None, curve, [])
    except DivergedError as error:
        return Outcome("fail", None, curve, [], str(error))
    value = float(history.loc[history["kept"], objective.key].iloc[0])
    return Outcome("complete", value, curve, objective.answers(model, val_split))


@lru_cache(maxsize=1)
def _splits(read: Callable[[], tuple[Split, Split]]) -> tuple[Split, Split]:
    return read()


def _features(
    task: Task, model: Any, recipe: Recipe, train_split: Split, val_split: Split, seed: int
) -> Features | None:
    """Features of the frozen backbone for the epochs of the head, computed once for all trials and processes."""
    n_head = train.head_epochs(model, recipe, task.schedule.epochs)
    if n_head == 0:
        return None
    changes = (recipe.image_size, recipe.crop, recipe.flip, recipe.hide_edges, recipe.augment, recipe.strength)
    settings = (*changes, min(recipe.copies, n_head), seed)
    path = task.folder / f"features-{workspace.sha256_bytes(repr(settings).encode())[:12]}.npz"
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            computed = frozen_features(model, train_split, val_split, recipe, epochs=n_head, seed=seed)
            with workspace.written_whole(path) as partial_file, open(partial_file, "wb") as file:
                np.savez(file, **computed._asdict())
    return _read_features(path)


@lru_cache(maxsize=1)
def _read_features(path: Path) -> Features:
    with np.load(path, allow_pickle=False) as saved:
        return Features(saved["train"], saved["val"])


def _threads(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _may_be_compared(study: optuna.Study, plan: Plan, trial: optuna.Trial, value: float) -> bool:
    """Whether a trial has the defaults or may be among the best ones at the end: every worker reads all answers."""
    trials = studies.patiently(study.get_trials)
    n_better = sum(one.state == TrialState.COMPLETE and _value(one) > value for one in trials)
    return trial.params == trials[0].params or n_better < max(2, plan.repeat_best)


def _repeats(study: optuna.Study, plan: Plan, make: Callable[..., Job]) -> list[Job]:
    """Fits of the best trials with further seeds; those of an earlier call are done."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    best = sorted(complete, key=lambda trial: (-_value(trial), trial.number))[: plan.repeat_best]
    return [
        make(trial.number, trial.params, repeat)
        for trial in best
        for repeat in range(1, plan.repeat_seeds + 1)
        if f"{trial.number}/{repeat}" not in study.user_attrs
    ]


def _add_repeat(study: optuna.Study, job: Job, outcome: Outcome) -> None:
    # An attribute of the study: those of a finished trial cannot be changed.
    value = OBJECTIVES[job.plan.select].failed if outcome.value is None else outcome.value
    studies.patiently(lambda: study.set_user_attr(f"{job.number}/{job.repeat}", value))


def _value(trial: FrozenTrial) -> float:
    return float(trial.value) if trial.value is not None else 0.0


def _reached(trial: FrozenTrial) -> float | None:
    """The figure of a trial; of one that is not complete the highest of its epochs."""
    return trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)


def _values(defaults: Mapping[str, Any], searched: Mapping[str, Any]) -> Values:
    """Values of a trial: those that are searched, and the defaults of those that params.yaml does not have."""
    return {key: value for key, value in defaults.items() if key not in Recipe._fields} | dict(searched)


def _curve_columns(objective: Objective) -> list[str]:
    return list(dict.fromkeys(("loss", "val_loss", "val_auc", objective.key)))


def _untried(values: Values, objective: Objective) -> Found:
    columns = ["trial", "state", objective.key, "value", "epochs", *values]
    empty = pd.DataFrame(columns=["trial", "epoch", *_curve_columns(objective)])
    best = {"values": values, "verdict": "no search: the defaults of the model, untried"}
    return Found(best, pd.DataFrame(columns=columns), empty, {})


def _found(study: optuna.Study, task: Task, defaults: Mapping[str, Any], plan: Plan) -> Found:
    objective = OBJECTIVES[plan.select]
    names = _curve_columns(objective)
    trials = [trial for trial in study.get_trials() if trial.state.is_finished()]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    repeats: dict[int, list[float]] = {}
    for name, value in study.user_attrs.items():
        repeats.setdefault(int(name.split("/")[0]), []).append(float(value))
    means = {n: float(np.mean([_value(study.trials[n]), *values])) for n, values in repeats.items()}
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            objective.key: _reached(trial),
            **({f"{objective.key}_mean": means.get(trial.number)} if means else {}),
            "value": _reached(trial),
            "epochs": len(trial.user_attrs.get("curve", ())),
            **{key: trial.params.get(key) for key in plan.space},
        }
        for trial in trials
    ]
    curves = [
        {"trial": trial.number, "epoch": epoch} | {name: row[name] for name in names}
        for trial in trials
        for epoch, row in enumerate(trial.user_attrs.get("curve", ()), start=1)
    ]
    candidates = [trial for trial in complete if not means or trial.number in means]
    best = max(candidates, key=lambda trial: (means.get(trial.number, _value(trial)), -trial.number), default=None)
    # A trial that was lost in a database is given again under another number.
    first = next((trial for trial in complete if trial.params == trials[0].params), trials[0])
    return Found(
        _worth(best, first, complete, task, defaults, objective),
        pd.DataFrame(rows),
        pd.DataFrame(curves, columns=["trial", "epoch", *names]),
        studies.importances(study),
    )


def _worth(
    best: FrozenTrial | None,
    first: FrozenTrial,
    complete: Sequence[FrozenTrial],
    task: Task,
    defaults: Mapping[str, Any],
    objective: Objective,
) -> dict[str, Any]:
    """The content of `best.json`: the values, and what the search was worth, on validation images."""
    if best is None:
        return {"values": _values(defaults, first.params), "verdict": "no trial was completed; the defaults are kept"}
    val, title = _splits(task.splits)[1], objective.title
    over_chance = objective.over_chance(val, best.user_attrs["answers"], LEVEL)
    chosen = {"values": _values(defaults, best.params), "trial": best.number, objective.key: _value(best)}
    if over_chance[1] <= 0:
        tried = {} if first.value is None else {"trial": first.number, objective.key: _value(first)}
        return {
            "values": _values(defaults, first.params),
            **tried,
            "verdict": f"nothing was learnt: the best {title} is {_value(best):.3f}, of trial {best.number}, "
            f"{_in_words(over_chance, 3)} over chance; the defaults are kept; a larger tune.epochs may help",
        }

    def over_defaults(trial: FrozenTrial) -> tuple[tuple[float, float, float], str]:
        gain = objective.gain(val, first.user_attrs["answers"], trial.user_attrs["answers"], LEVEL)
        return gain, f"{title} {_in_words(gain, 4)}, n = {objective.n(val)}"

    if best.number == first.number:
        verdict = "no trial is better than the defaults"
        if others := [trial for trial in complete if trial.number != first.number]:
            second = max(others, key=lambda trial: (_value(trial), -trial.number))
            verdict += f"; the best of the others is trial {second.number}: {over_defaults(second)[1]}"
        return chosen | {"verdict": verdict}
    if first.state != TrialState.COMPLETE:
        how = "were stopped early" if first.state == TrialState.PRUNED else "failed"
        return chosen | {"verdict": f"the defaults {how}; the gain over them is not known"}
    gain, difference = over_defaults(best)
    better = "better than the defaults" if gain[1] > 0 else "no better than the defaults"
    return chosen | {
        "gain": {**with_interval(objective.figure, *gain), "n": objective.n(val)},
        "verdict": f"{better}: {difference}; the best of several trials on the same images looks better than it is",
    }


def _in_words(gain: tuple[float, float, float], digits: int) -> str:
    value, low, high = (f"{one:+.{digits}f}" for one in gain)
    return f"{value} [{low}, {high}]"


@contextmanager
def _progress(study: optuna.Study, n_trials: int) -> Iterator[Callable[[], None]]:
    """A bar of the trials that have ended, on a terminal; yields a function that moves it."""
    with tqdm(total=n_trials, desc="tune", unit="trial", disable=None, leave=False, position=1) as bar:

        def show() -> None:
            if not bar.disable:
                counts = studies.counts(study)
                values = [_value(trial) for trial in study.get_trials(states=[TrialState.COMPLETE])]
                bar.update(counts["complete"] + counts["pruned"] - bar.n)
                bar.set_postfix({"pruned": counts["pruned"]} | ({"best": f"{max(values):.3f}"} if values else {}))

        show()
        yield show
