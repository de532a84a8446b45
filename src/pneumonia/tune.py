"""Search the hyper-parameters: an Optuna study whose weak trials are pruned early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from pneumonia import UserError, train
from pneumonia.data.store import Split
from pneumonia.training.features import Features, frozen_features
from pneumonia.training.recipe import DivergedError, Recipe, ReportEpoch, Schedule

TrialRun = Callable[[int, Mapping[str, float]], AbstractContextManager[ReportEpoch]]
"""Opened around each trial with its number and hyper-parameters; its value is called after each epoch."""

Pruned = optuna.TrialPruned
"""Ends a weak trial; raised inside `TrialRun`."""


def search(
    name: str,
    train_split: Split,
    val_split: Split,
    recipe: Recipe,
    *,
    weights: Sequence[Path],
    seed: int,
    n_trials: int,
    epochs: int,
    learning_rate: tuple[float, float],
    dropout: tuple[float, float],
    trial_run: TrialRun,
) -> tuple[dict[str, float], pd.DataFrame]:
    """The hyper-parameters with the best validation AUC, and a table of all trials.

    The first trial takes the middle of each range: a study with few trials never ends below this guess. Without trials
    the result is the middle. A trial is pruned if its AUC is below the median of the earlier trials at the same
    epoch. A trial whose loss is not finite fails, and the study continues. The features of a frozen backbone are
    computed once for all trials.

    Args:
        name: a key of `networks.MODELS`.
        train_split, val_split: of the image store.
        recipe: of all trials, used `for_weights`.
        weights: files of the backbone; none = random weights.
        seed: of the sampler, and of the initial weights and the batches of each trial.
        n_trials, epochs: number of trials, and of the epochs of each.
        learning_rate, dropout: lowest and highest value; the learning rate is searched on a log scale.
        trial_run: opened around each trial.

    Returns:
        The content of `best.json`: `learning_rate, dropout` and, after trials, `val_auc, trial`; and a table with one
        row per trial: `trial, state, val_auc, learning_rate, dropout`, with the state `complete`, `pruned` or `fail`.

    Raises:
        UserError: as `train.check` says, before the first trial; weights of another architecture; a loss that is not
            finite in every trial.
    """
    guess = middle(learning_rate, dropout)
    if n_trials == 0:
        return guess, pd.DataFrame(columns=["trial", "state", "val_auc", *guess])
    train.check(train_split, val_split, recipe)
    recipe = recipe.for_weights(weights)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Optuna logs a failed trial as a warning with a traceback
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        # A small network stays near chance for its first epochs, whatever its settings.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
    )
    study.enqueue_trial(guess)
    features: Features | None = None

    def objective(trial: optuna.Trial) -> float:
        import keras

        nonlocal features
        rate = trial.suggest_float("learning_rate", *learning_rate, log=True)
        drop = trial.suggest_float("dropout", *dropout)
        with trial_run(trial.number, trial.params) as report_epoch:

            def report(epoch: int, values: Mapping[str, float]) -> None:
                report_epoch(epoch, values)
                trial.report(values["val_auc"], step=epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            model = train.start(name, weights, drop, train_split.images)
            n_head = train.head_epochs(model, recipe, epochs)
            if features is None and n_head:
                features = frozen_features(model, train_split, val_split, recipe, epochs=n_head, seed=seed)
            history = train.fit(  # without `resume`: an interrupted trial is short, and not continued
                model,
                train_split,
                val_split,
                recipe,
                Schedule(epochs=epochs, patience=epochs, learning_rate=rate, seed=seed),
                features=features,
                report=report,
                label=f"trial {trial.number + 1}/{n_trials}",
            )
        return float(history.loc[history["kept"], "val_auc"].iloc[0])

    study.optimize(objective, n_trials=n_trials, catch=DivergedError)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise UserError(
            f"the loss is not finite in any of {n_trials} trials; lower tune.learning_rate = "
            f"[{learning_rate[0]:g}, {learning_rate[1]:g}] and run again"
        )
    chosen = study.best_trial
    best = {**chosen.params, "val_auc": float(study.best_value), "trial": chosen.number}
    return best, pd.DataFrame([_row(trial) for trial in study.trials])


def middle(learning_rate: Sequence[float], dropout: Sequence[float]) -> dict[str, float]:
    """The middle of each range, of the learning rate on a log scale: a guess without trials."""
    return {"learning_rate": (learning_rate[0] * learning_rate[1]) ** 0.5, "dropout": sum(dropout) / 2}


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
    return {"trial": trial.number, "state": trial.state.name.lower(), "val_auc": reached, **trial.params}
