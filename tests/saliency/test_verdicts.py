"""What the figures of a method allow to say of it."""

from typing import Any

import pytest

from pneumonia.saliency import verdicts


def row(pointing: tuple[float, float], energy: tuple[float, float], corr: tuple[float, float]) -> dict[str, Any]:
    """Intervals of the two gains and of the randomisation check."""
    values = {"pointing_game_gain": pointing, "energy_in_box_gain": energy, "randomisation_corr": corr}
    ends = {
        f"{name}_{end}": value
        for name, pair in values.items()
        for end, value in zip(("low", "high"), pair, strict=True)
    }
    counts = {"n_boxed": 40, "n_patients": 30, "n_checked_patients": 12}
    return {**counts, "pointing_game": 0.5, **{name: sum(pair) / 2 for name, pair in values.items()}, **ends}


BETTER, WORSE, BOTH = (0.01, 0.2), (-0.2, 0.0), (-0.1, 0.1)
PASSES, FAILS, OPEN = (0.1, 0.49), (0.5, 0.9), (0.4, 0.6)


@pytest.mark.parametrize(
    ("pointing", "energy", "corr", "expected"),
    [
        (BETTER, BETTER, PASSES, "trustworthy for localisation"),
        (BETTER, BETTER, FAILS, "shows where but fails the randomisation check"),
        (BETTER, BETTER, OPEN, "cannot be told (n = 40)"),
        (BETTER, WORSE, PASSES, "no better than anatomy"),
        (WORSE, BOTH, FAILS, "no better than anatomy"),
        (BOTH, BETTER, PASSES, "cannot be told (n = 40)"),
        (BOTH, BETTER, FAILS, "fails the randomisation check"),
    ],
)
def test_a_verdict_follows_from_the_intervals(pointing: Any, energy: Any, corr: Any, expected: str) -> None:
    assert verdicts.verdict(row(pointing, energy, corr)) == expected


@pytest.mark.parametrize("n", [1, 2, 4, 9, 10])
def test_few_patients_decide_nothing(n: int) -> None:
    """Energy of one image has an interval without a width, and Wilson's interval of 1 of 1 begins at 0.21."""
    unknown, few, few_checked = f"cannot be told (n = {n} patients)", {"n_patients": n}, {"n_checked_patients": n}
    right, anatomy, fails = row(BETTER, BETTER, PASSES), row(WORSE, BETTER, PASSES), row(BETTER, BETTER, FAILS)
    assert verdicts.verdict(right | few) == (unknown if n < 10 else "trustworthy for localisation")
    assert verdicts.verdict(right | few_checked) == (unknown if n < 10 else "trustworthy for localisation")
    assert verdicts.verdict(anatomy | few) == (unknown if n < 10 else "no better than anatomy")
    assert verdicts.verdict(fails | few | few_checked) == (
        unknown if n < 10 else "shows where but fails the randomisation check"
    )


def test_without_boxes_no_method_is_called_trustworthy() -> None:
    """Energy in the lungs shows anatomy; the disease may be anywhere in them."""
    figures = row(BETTER, BETTER, PASSES)
    lungs = {
        **{name: figures[name] for name in figures if name.startswith("randomisation")},
        "n_boxed": 0,
        "n_patients": 10,
        "n_checked_patients": 10,
        "energy_in_lungs_gain_low": 0.2,
        "energy_in_lungs_gain": 0.3,
        "energy_in_lungs_gain_high": 0.4,
    }
    assert verdicts.verdict(lungs) == "cannot be told (n = 0 with boxes)"
    assert verdicts.verdict(lungs | {"energy_in_lungs_gain_high": -0.1}) == "no better than anatomy"
    assert verdicts.verdict(lungs | {"randomisation_corr_low": 0.6}) == "fails the randomisation check"
    assert verdicts.verdict({"n_boxed": 0, "n_patients": 0}) == "cannot be told (n = 0 with boxes)"
    few = lungs | {"n_patients": 9, "energy_in_lungs_gain_high": -0.1}
    assert verdicts.verdict(few) == "cannot be told (n = 0 with boxes)"


def test_what_fails_is_excluded_and_what_is_unknown_is_shown() -> None:
    shown = {"trustworthy for localisation": True, "cannot be told (n = 3)": True, "no better than anatomy": False}
    shown |= {"shows where but fails the randomisation check": False, "fails the randomisation check": False}
    assert {text: not verdicts.is_excluded(text) for text in shown} == shown


def test_the_default_is_the_first_trustworthy_method_and_never_an_excluded_one_if_there_is_another() -> None:
    unknown, bad, good = "cannot be told (n = 3)", "no better than anatomy", "trustworthy for localisation"
    assert verdicts.choose({"a": bad, "b": unknown, "c": good, "d": good}) == "c"
    assert verdicts.choose({"a": bad, "b": unknown, "c": unknown}) == "b"
    assert verdicts.choose({"a": bad, "b": bad}) == "a"
