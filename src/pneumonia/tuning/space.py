"""What a search varies: ranges and lists by key, as Optuna's distributions, as a grid, and the values of trial 0.

A key is `learning_rate`, `head_learning_rate`, `dropout` or a field of `Recipe`. `params.py` checks a space that the
user wrote.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pneumonia import UserError
from pneumonia.training.recipe import Recipe

Space = Mapping[str, Mapping[str, Any] | Sequence[Any]]
"""Key -> `{low, high}` with `log` (true: on a log scale) or `step`; or a list of values."""

Values = dict[str, Any]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna has it; the range of a setting that is a whole number has whole numbers only.

    >>> distributions({"dropout": {"low": 0.0, "high": 0.4}})
    {'dropout': FloatDistribution(high=0.4, log=False, low=0.0, step=None)}
    """
    return {key: _distribution(key, choice) for key, choice in space.items()}


def _distribution(key: str, choice: Mapping[str, Any] | Sequence[Any]) -> BaseDistribution:
    if not isinstance(choice, Mapping):
        return CategoricalDistribution(tuple(choice))
    low, high, log, step = choice["low"], choice["high"], bool(choice.get("log")), choice.get("step")
    if step:
        high = _at_step(choice, _n_steps(choice))  # Optuna warns of an end that is not on a step
    if get_type_hints(Recipe).get(key) in (int, int | None):
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def nearest(space: Space, defaults: Mapping[str, Any]) -> Values:
    """The values of a space that are nearest to the defaults: trial 0. Of words without the default, the first one.

    >>> nearest({"dropout": {"low": 0.2, "high": 0.4}, "keep": ["best", "last"]}, {"dropout": 0.1, "keep": "last"})
    {'dropout': 0.2, 'keep': 'last'}
    """
    values: Values = {}
    for key, choice in space.items():
        default = defaults[key]
        if not isinstance(choice, Mapping):
            values[key] = _nearest(choice, default)
            continue
        inside = min(max(default, choice["low"]), choice["high"])
        if step := choice.get("step"):
            inside = _at_step(choice, min(round((inside - choice["low"]) / step), _n_steps(choice)))
        values[key] = inside
    return values


def _nearest(choice: Sequence[Any], default: Any) -> Any:
    if default in choice:
        return default
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (*choice, default)):
        return min(choice, key=lambda value: abs(value - default))
    return choice[0]


def grid(space: Space) -> list[Values]:
    """All combinations of the values of a space, the last key first.

    Raises:
        UserError: a range of numbers without a step, which has no grid.
    """
    axes: dict[str, list[Any]] = {}
    for key, choice in space.items():
        if not isinstance(choice, Mapping):
            axes[key] = list(choice)
            continue
        step = choice.get("step")
        if not step:
            raise UserError(
                f"tune.sampler = grid, and tune.space.{key} is a range without a step: give it a step, or a list such "
                f"as [{choice['low']}, {choice['high']}]"
            )
        axes[key] = [_at_step(choice, number) for number in range(_n_steps(choice) + 1)]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _n_steps(choice: Mapping[str, Any]) -> int:
    return int((choice["high"] - choice["low"]) / choice["step"] + 1e-9)


def _at_step(choice: Mapping[str, Any], number: int) -> Any:
    return round(choice["low"] + number * choice["step"], 12)  # 0.3, not 0.30000000000000004
