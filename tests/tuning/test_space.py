"""What a search varies, on small spaces whose values are counted by hand."""

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pneumonia import UserError
from pneumonia.models import networks
from pneumonia.params import SEARCHED
from pneumonia.tuning import space


@pytest.mark.parametrize(
    ("key", "choice", "distribution"),
    [
        ("learning_rate", {"low": 0.001, "high": 0.1, "log": True}, FloatDistribution(0.001, 0.1, log=True)),
        ("dropout", {"low": 0, "high": 0.4}, FloatDistribution(0.0, 0.4)),
        ("dropout", {"low": 0.0, "high": 0.4, "step": 0.1}, FloatDistribution(0.0, 0.4, step=0.1)),
        ("augment", {"low": 0, "high": 1}, FloatDistribution(0.0, 1.0)),
        ("batch_size", {"low": 8, "high": 64, "step": 8}, IntDistribution(8, 64, step=8)),
        ("copies", {"low": 1, "high": 4}, IntDistribution(1, 4)),
        ("image_size", {"low": 96, "high": 160, "step": 32}, IntDistribution(96, 160, step=32)),
        ("batch_size", [16, 32], CategoricalDistribution((16, 32))),
        ("keep", ["best", "last"], CategoricalDistribution(("best", "last"))),
    ],
)
def test_a_choice_is_a_distribution_of_optuna(key: str, choice: Any, distribution: Any) -> None:
    assert space.distributions({key: choice}) == {key: distribution}


@pytest.mark.parametrize(
    ("choice", "default", "value"),
    [
        ({"low": 0.1, "high": 0.4}, 0.2, 0.2),
        ({"low": 0.1, "high": 0.4}, 0.0, 0.1),
        ({"low": 0.1, "high": 0.4}, 0.9, 0.4),
        ({"low": 0.0, "high": 0.4, "step": 0.1}, 0.17, pytest.approx(0.2)),
        ({"low": 8, "high": 64, "step": 8}, 33, 32),
        ({"low": 0.0, "high": 0.35, "step": 0.1}, 0.35, pytest.approx(0.3)),
        ([16, 32], 32, 32),
        ([16, 64], 32, 16),
        ([16, 64], 48, 64),
        ([0.01, 0.1], 0.09, 0.1),
        (["last", "mean"], "best", "last"),
    ],
)
def test_trial_0_has_the_value_next_to_the_default(choice: Any, default: Any, value: Any) -> None:
    (nearest,) = space.nearest({"key": choice}, {"key": default, "other": 1}).values()
    assert nearest == value
    assert type(nearest) is type(default) or isinstance(choice, dict)
    assert space.distributions({"key": choice})["key"]._contains(
        space.distributions({"key": choice})["key"].to_internal_repr(nearest)
    )


def test_a_grid_has_all_combinations() -> None:
    found = space.grid({"batch_size": [16, 32], "dropout": {"low": 0.0, "high": 0.3, "step": 0.1}})
    assert len(found) == 8
    assert [row["batch_size"] for row in found] == [16] * 4 + [32] * 4
    assert [row["dropout"] for row in found[:4]] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_range_without_a_step_has_no_grid() -> None:
    with pytest.raises(UserError, match=r"tune\.space\.dropout is a range without a step.*such as \[0\.0, 0\.3\]"):
        space.grid({"dropout": {"low": 0.0, "high": 0.3}})


@pytest.mark.parametrize("name", networks.MODELS)
@pytest.mark.parametrize("pretrained", [True, False])
def test_every_model_has_a_space_that_contains_its_defaults(name: str, pretrained: bool) -> None:
    defaults, choices = networks.search_space(name, pretrained=pretrained)
    assert {"learning_rate", "dropout"} <= set(defaults)
    assert set(choices) <= set(defaults) <= set(SEARCHED)
    assert space.nearest(choices, defaults) == {key: defaults[key] for key in choices}
    assert ("head_learning_rate" in defaults) == bool(pretrained and networks.MODELS[name].weights_urls)
    optuna.create_study().ask(space.distributions(choices))
