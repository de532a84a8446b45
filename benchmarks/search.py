"""What a search of `tune` costs beside training, and how it compares: `python -m benchmarks.search [ARCHIVE]`.

The network is `shallow` on PneumoniaMNIST. Others are Optuna's random search without pruning and the Hyperband of
KerasTuner (`pip install -e ".[bench]"`). Each search gets the same CPU seconds and the same space; what is compared is
the best validation AUC, and when 99 % of the best AUC of all searches was reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pneumonia import train, tune
from pneumonia.data.store import Split
from pneumonia.models import networks, runtime
from pneumonia.params import load
from pneumonia.training.recipe import Recipe, ReportEpoch, Schedule
from pneumonia.tuning import study as studies

EPOCHS, STOP_AFTER = 20, 9
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 0.0001, "high": 0.03, "log": True},
    "dropout": {"low": 0.0, "high": 0.6},
    "weight_decay": {"low": 0.001, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64],
}


class OutOfTimeError(BaseException):
    """The CPU seconds of a search are used up; no error, because KerasTuner would go on after one."""


@lru_cache(maxsize=1)
def splits(archive: str) -> tuple[Split, Split]:
    """Train and validation split of PneumoniaMNIST, as published."""
    with np.load(archive) as content:
        parts = [(content[f"{name}_images"], content[f"{name}_labels"][:, 0]) for name in ("train", "val")]
    return _split(*parts[0]), _split(*parts[1])


def _split(images: Any, labels: Any) -> Split:
    n = len(labels)
    return Split(
        images.astype(np.uint8),
        labels.astype(np.int8),
        np.ones(n, np.float32),
        np.ones(n, np.int16),
        np.arange(n).astype(str),
    )


class Archive(tuple[str]):
    """The splits of a `Task`; hashable, and can be sent."""

    def __call__(self) -> tuple[Split, Split]:
        return splits(self[0])


class Clock:
    """Best validation AUC by CPU second; ends a search when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start, self.best = seconds, time.process_time(), [(0.0, 0.5)]

    def tell(self, auc: float) -> None:
        """Note an AUC; raises `OutOfTimeError` after the last second."""
        now = time.process_time() - self.start
        if auc > self.best[-1][1]:
            self.best.append((now, auc))
        if now > self.seconds:
            raise OutOfTimeError


def _task(archive: str, folder: Path, seed: int) -> tune.Task:
    recipe = Recipe(**load().train.model_dump(exclude={"epochs", "patience"})).for_weights(())
    schedule = Schedule(EPOCHS, EPOCHS, 0.001, seed)
    return tune.Task("shallow", (), Archive((archive,)), recipe, schedule, folder)


def _search(
    task: tune.Task,
    *,
    n_trials: int = 10_000,
    sampler: str = "tpe",
    pruner: str = "none",
    trial_run: tune.TrialRun = lambda name, values: nullcontext(lambda epoch, row: None),
    workers: int = 1,
) -> None:
    plan = tune.Plan(n_trials, STOP_AFTER, sampler, pruner, SPACE, 0, 1)
    defaults = {**task.recipe._asdict(), **networks.search_space("shallow", pretrained=False)[0]}
    place = studies.Place(task.folder)
    tune.search(task, plan, defaults=defaults, place=place, trial_run=trial_run, workers=workers)


def ours(task: tune.Task, clock: Clock, *, sampler: str, pruner: str) -> None:
    """The search of `tune`."""

    @contextmanager
    def trial_run(name: str, values: Mapping[str, Any]) -> Iterator[ReportEpoch]:
        yield lambda epoch, row: clock.tell(row["val_auc"])

    _search(task, sampler=sampler, pruner=pruner, trial_run=trial_run)


def keras_tuner_hyperband(task: tune.Task, clock: Clock) -> None:
    """KerasTuner's Hyperband over the same training."""
    import keras
    import keras_tuner

    class Model(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            self.values = {
                "learning_rate": hp.Float("learning_rate", 0.0001, 0.03, sampling="log"),
                "dropout": hp.Float("dropout", 0.0, 0.6),
                "weight_decay": hp.Float("weight_decay", 0.001, 1.0, sampling="log"),
                "batch_size": hp.Choice("batch_size", [16, 32, 64]),
            }
            return networks.create_model("shallow", dropout=self.values["dropout"])

        def fit(self, hp: Any, model: Any, *args: Any, **options: Any) -> float:
            keras.utils.set_random_seed(task.schedule.seed)
            # A network that has passed a round goes on with its weights, for the epochs that are left.
            n_epochs = int(options.get("epochs", STOP_AFTER)) - int(options.get("initial_epoch", 0))
            history = train.fit(
                model,
                *task.splits(),
                task.recipe.with_values(self.values),
                task.schedule._replace(learning_rate=self.values["learning_rate"], stop_after=n_epochs),
                report=lambda epoch, row: clock.tell(row["val_auc"]),
            )
            for callback in options.get("callbacks", ()):
                if path := getattr(callback, "filepath", None):  # where the next round looks for the weights
                    model.save_weights(path)
            return -float(history["val_auc"].max())

    tuner = keras_tuner.Hyperband(
        Model(),
        objective=keras_tuner.Objective("default_objective", "min"),
        max_epochs=STOP_AFTER,
        hyperband_iterations=100,
        seed=task.schedule.seed,
        directory=str(task.folder),
        overwrite=True,
    )
    tuner.search(verbose=0)


SEARCHES: dict[str, Callable[[tune.Task, Clock], None]] = {
    "tune (tpe, hyperband)": lambda task, clock: ours(task, clock, sampler="tpe", pruner="hyperband"),
    "tune (tpe, median)": lambda task, clock: ours(task, clock, sampler="tpe", pruner="median"),
    "random, not pruned": lambda task, clock: ours(task, clock, sampler="random", pruner="none"),
    "KerasTuner Hyperband": keras_tuner_hyperband,
}


def engine(n_trials: int = 20) -> None:
    """What a trial costs beside its training: study, MLflow run with curves, clearing Keras."""
    from pneumonia.tracking import runs

    rows = [{"loss": 0.5, "val_loss": 0.5, "val_auc": 0.7 + epoch / 100} for epoch in range(STOP_AFTER)]

    def untrained(job: tune.Job, study: Any, report: ReportEpoch) -> tune.Outcome:
        import keras

        keras.utils.clear_session()
        trial = studies.trial_of(study, job.number)
        for epoch, row in enumerate(rows, start=1):
            report(epoch, row)
            trial.report(row["val_auc"], step=epoch)
            trial.should_prune()
        return tune.Outcome("complete", 0.7, rows, [0.5] * 500)

    runtime.start_keras(1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tune, "_fit", untrained):
        task = _task("", Path(folder), seed=1)._replace(splits=_noise)
        with chdir(folder), runs.start_run("tune", data="phantom", model="shallow", synthetic=True, params={}):
            start = time.process_time(), time.monotonic()
            _search(task, n_trials=n_trials, trial_run=lambda *trial: runs.child_run(*trial, killed_by=tune.Pruned))
            cpu, wall = time.process_time() - start[0], time.monotonic() - start[1]
    print(f"engine: {cpu / n_trials:.2f} CPU s, {wall / n_trials:.2f} s a trial beside its training (n = {n_trials})")


def workers(n_trials: int = 8) -> None:
    """How much faster two workers are than one, each with one thread, on two cores."""
    seconds = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            command = [sys.executable, "-m", "benchmarks.search", "_worker", str(count), str(n_trials), folder]
            subprocess.run(command, check=True)
            seconds[count] = time.monotonic() - start
    print(f"workers: {n_trials} trials, start included: one {seconds[1]:.0f} s, two {seconds[2]:.0f} s, ", end="")
    print(f"{seconds[1] / seconds[2]:.2f} times as fast")


def _worker(count: int, n_trials: int, folder: Path) -> None:
    if count == 1:
        os.sched_setaffinity(0, {0})
        runtime.start_keras(1, threads=1)
    _search(_task("", folder, seed=1)._replace(splits=_noise), n_trials=n_trials, workers=count)


def _noise() -> tuple[Split, Split]:
    rng = np.random.default_rng(1)
    made = []
    for n in (500, 120):
        labels = rng.integers(2, size=n)
        images = rng.normal(100 + 2 * labels[:, None, None], 40, (n, 28, 28)).clip(0, 255).astype(np.uint8)
        made.append(_split(images, labels))
    return made[0], made[1]


def cost() -> None:
    """What a search costs beside training, and what a second worker gives."""
    engine()
    workers()


def compare(archive: str, seconds: float, seeds: int) -> None:
    """All searches with all seeds: one line of JSON for each, then their means."""
    runtime.start_keras(1)
    results: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in SEARCHES}
    for seed in range(1, seeds + 1):
        for name, search in SEARCHES.items():
            with tempfile.TemporaryDirectory() as folder:
                clock = Clock(seconds)
                try:
                    search(_task(archive, Path(folder), seed), clock)
                except OutOfTimeError:
                    pass
                except ImportError as error:
                    print(json.dumps({"search": name, "left out": str(error)}))
                    continue
            results[name].append(clock.best)
            last, best = clock.best[-1]
            print(json.dumps({"search": name, "seed": seed, "best": best, "at": last, "by": clock.best}), flush=True)
    goal = 0.99 * max(best[-1][1] for runs in results.values() for best in runs)
    for name, found in results.items():
        if found:
            reached = [next((round(at) for at, auc in best if auc >= goal), None) for best in found]
            mean = float(np.mean([best[-1][1] for best in found]))
            print(f"{name}: best validation AUC {mean:.4f} (mean of {len(found)}); CPU s to {goal:.4f}: {reached}")


def main() -> None:
    """Compare with other searches, where there is an archive; else measure what the engine costs."""
    if sys.argv[1:2] == ["_worker"]:
        _worker(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", nargs="?", help="pneumoniamnist.npz")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each search")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.archive:
        compare(options.archive, options.seconds, options.seeds)
    else:
        cost()


if __name__ == "__main__":
    main()
