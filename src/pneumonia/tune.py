"""Search the hyper-parameters: an Optuna study whose weak trials are pruned early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from pneumonia import UserError, dataset, train

TrialRun = Callable[[int, Mapping[str, float]], AbstractContextManager[train.Report]]
"""Opened around each trial with its number and hyper-parameters; gives what is told after each epoch."""


Pruned = optuna.TrialPruned
"""Ends a weak trial; passes through `TrialRun`."""


def search(
    name: str,
    train_split: dataset.Split,
    val_split: dataset.Split,
    recipe: train.Recipe,
    *,
    weights: Sequence[Path],
    seed: int,
    n_trials: int,
    epochs: int,
    learning_rate: tuple[float, float],
    dropout: tuple[float, float],
    trial_run: TrialRun,
) -> tuple[dict[str, float], pd.DataFrame]:
    """The best of `n_trials` settings by validation AUC, and all of them.

    The first trial takes the middle of each range, so that a study never ends below a sensible guess for lack of
    trials; with no trials at all the middle is taken untried. A trial whose AUC falls under the median of the earlier
    ones at the same epoch is pruned; one whose loss is not finite fails, the others go on. What a frozen backbone
    computes is computed once and serves all trials.

    Args:
        name: a key of `models.MODELS`.
        train_split, val_split: of the image store.
        recipe: of all trials.
        weights: files of the backbone; none = random.
        seed: of the sampler, of each trial's initial weights and of its batches.
        n_trials, epochs: trials, and epochs of each.
        learning_rate, dropout: ranges; the first is searched on a log scale.
        trial_run: opened around each trial.

    Returns:
        `best.json`, the hyper-parameters that `train` takes: `learning_rate, dropout` and, after trials, `val_auc,
        trial`; and a table with one row per trial: `trial, state, val_auc, learning_rate, dropout`, its state
        `complete`, `pruned` or `fail`.

    Raises:
        UserError: as `train.check` says, before the first trial; weights of another architecture; no trial whose loss
            stays finite.
    """
    untried = middle(learning_rate, dropout)
    if n_trials == 0:
        return untried, pd.DataFrame(columns=["trial", "state", "val_auc", *untried])
    train.check(train_split, val_split, recipe)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a warning is a traceback of what is told in one line here
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        # A small network stays near chance for its first epochs, whatever its settings.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
    )
    study.enqueue_trial(untried)
    features: train.Features | None = None

    def objective(trial: optuna.Trial) -> float:
        import keras

        nonlocal features

        rate = trial.suggest_float("learning_rate", *learning_rate, log=True)
        drop = trial.suggest_float("dropout", *dropout)
        with trial_run(trial.number, trial.params) as told:

            def report(epoch: int, values: Mapping[str, float]) -> None:
                told(epoch, values)
                trial.report(values["val_auc"], step=epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            model = train.start(name, weights=weights, dropout=drop, images=train_split.images)
            n_head = train.head_epochs(model, recipe, epochs, pretrained=bool(weights))
            if features is None and n_head:
                features = train.frozen_features(model, train_split, val_split, recipe, epochs=n_head, seed=seed)
            history = train.fit(  # a trial that was cut is not worth going on with
                model,
                train_split,
                val_split,
                recipe,
                seed=seed,
                epochs=epochs,
                patience=epochs,
                learning_rate=rate,
                pretrained=bool(weights),
                features=features,
                report=report,
                label=f"trial {trial.number + 1}/{n_trials}",
            )
        return float(history.loc[history["kept"], "val_auc"].iloc[0])

    study.optimize(objective, n_trials=n_trials, catch=train.DivergedError)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise UserError(
            f"the loss is not finite in any of {n_trials} trials; lower tune.learning_rate = "
            f"[{learning_rate[0]:g}, {learning_rate[1]:g}] and run again"
        )
    chosen = study.best_trial
    best = {**chosen.params, "val_auc": float(study.best_value), "trial": chosen.number}
    return best, pd.DataFrame([_row(trial) for trial in study.trials])


def middle(learning_rate: Sequence[float], dropout: Sequence[float]) -> dict[str, float]:
    """A sensible guess: the middle of each range, of the learning rate on a log scale."""
    return {"learning_rate": (learning_rate[0] * learning_rate[1]) ** 0.5, "dropout": sum(dropout) / 2}


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
    return {"trial": trial.number, "state": trial.state.name.lower(), "val_auc": reached, **trial.params}
