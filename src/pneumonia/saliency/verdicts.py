"""What the figures of a method allow to say of it, in words. The rules are in docs/saliency.md too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRUSTWORTHY = "trustworthy for localisation"
SHOWS_WHERE = "shows where but fails the randomisation check"
FAILS = "fails the randomisation check"
ANATOMY = "no better than anatomy"
UNKNOWN = "cannot be told"

MAX_CORRELATION = 0.5
"""Of a method that depends on the weights: mean rank correlation between its maps before and after they are drawn anew,
from the logit downwards."""

MIN_PATIENTS = 10
"""Fewer patients have intervals that are too narrow, a single one has none: they prove nothing."""

LOCALISATION = ("pointing_game", "energy_in_box")
ANATOMICAL = ("energy_in_lungs",)
"""The figures that are compared with the strongest baseline; the second where no boxes are known."""


def verdict(row: Mapping[str, Any]) -> str:
    """The verdict on a method by its row of `explain.json`.

    - `no better than anatomy`: the whole interval of a paired difference to the strongest baseline is at or below 0.
    - `trustworthy for localisation`: the intervals of pointing game and energy in box are above 0, and the upper limit
      of `randomisation_corr` is below `MAX_CORRELATION`.
    - `shows where but fails the randomisation check`: the same, but the lower limit of `randomisation_corr` is at or
      above `MAX_CORRELATION`; without the first part, or without boxes, only `fails the randomisation check`.
    - `cannot be told (n = …)`: in all other cases, with the number of images with boxes.

    Intervals of fewer than `MIN_PATIENTS` patients decide nothing; if boxes are known, the last verdict then has the
    number of these patients.
    """
    with_boxes = LOCALISATION[0] in row
    gains = [f"{name}_gain" for name in (LOCALISATION if with_boxes else ANATOMICAL)]
    n_patients = row["n_patients"]
    n_checked = row.get("n_checked_patients", n_patients)
    compared = [name for name in gains if name in row] if n_patients >= MIN_PATIENTS else []
    is_checked = "randomisation_corr" in row and n_checked >= MIN_PATIENTS
    if any(row[f"{name}_high"] <= 0 for name in compared):
        return ANATOMY
    shows_where = with_boxes and len(compared) == len(gains) and all(row[f"{name}_low"] > 0 for name in compared)
    if is_checked and row["randomisation_corr_low"] >= MAX_CORRELATION:
        return SHOWS_WHERE if shows_where else FAILS
    if is_checked and row["randomisation_corr_high"] < MAX_CORRELATION and shows_where:
        return TRUSTWORTHY
    if not with_boxes:
        return f"{UNKNOWN} (n = 0 with boxes)"
    fewest = min(n_patients, n_checked)
    return f"{UNKNOWN} (n = {row['n_boxed']})" if fewest >= MIN_PATIENTS else f"{UNKNOWN} (n = {fewest} patients)"


def is_excluded(verdict: str) -> bool:
    """Whether maps with this verdict mislead, so that no prediction shows them."""
    return verdict.endswith((FAILS, ANATOMY))


def choose(verdicts: Mapping[str, str]) -> str:
    """The default method: the first that is trustworthy, else the first that is not excluded, else the first.

    >>> choose({"a": "no better than anatomy", "b": "cannot be told (n = 3)", "c": "trustworthy for localisation"})
    'c'
    """

    def rank(name: str) -> int:
        return 2 * is_excluded(verdicts[name]) + (verdicts[name] != TRUSTWORTHY)

    return min(verdicts, key=rank)


def in_words(method: str, verdict: str) -> str:
    """A method with its verdict, as pictures and pages show it.

    >>> in_words("hires_cam", "cannot be told (n = 8)")
    'HiResCAM: cannot be told (n = 8)'
    """
    return f"{title(method)}: {verdict}"


def with_origin(verdict: str, synthetic: bool) -> str:
    """A verdict as a reader of a map of another film needs it: one on synthetic films says nothing about patients.

    >>> with_origin("trustworthy for localisation", True)
    'trustworthy for localisation, measured on synthetic films: it says nothing about maps of real ones'
    """
    return f"{verdict}, measured on synthetic films: it says nothing about maps of real ones" if synthetic else verdict


def title(method: str) -> str:
    """A method as readers know it."""
    return _TITLES.get(method, method.replace("_", " "))


_TITLES = {
    "grad_cam": "Grad-CAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "smoothgrad": "SmoothGrad",
    "gradient_x_input": "gradient x input",
    "integrated_gradients": "integrated gradients",
    "detector_map": "heat map of the detector",
}
