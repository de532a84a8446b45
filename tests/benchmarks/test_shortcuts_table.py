"""Rows of planted shortcuts: the measure that tells the classes, and the table for readers."""

import numpy as np
import pandas as pd

from benchmarks import shortcuts
from pneumonia.report import plots


def test_the_measure_that_tells_the_classes_best_is_named_in_whichever_direction() -> None:
    label = np.arange(40) % 2
    noise = np.random.default_rng(1).normal(size=40)
    table = pd.DataFrame(dict.fromkeys(plots.MEASURES, noise) | {"label": label, "valid": True, "height": 100.0})
    table["width"] = 100.0
    assert shortcuts.told_by(table.assign(corner=100 - 50 * label)) == ("corner", 1.0)
    outlier = pd.DataFrame({"label": [0], "valid": [False], "corner": [0.0]})
    assert shortcuts.told_by(pd.concat([table.assign(corner=50 * label), outlier])) == ("corner", 1.0)


def test_the_table_has_the_mean_over_seeds_and_no_figure_where_a_film_has_no_bars() -> None:
    row = dict.fromkeys(shortcuts.SHOWN, 0.5) | {"shortcut": "marker", "remedy": "random crops"}
    rows = [row | {"seed": seed, "val_auc": auc, "frame_only": None} for seed, auc in ((1, 0.9), (2, 0.8))]
    head, _, line = shortcuts.summary(pd.DataFrame(rows)).splitlines()
    assert head.startswith("| shortcut | remedy | validation | test | frame only |")
    assert line == "| marker | random crops | .850 | .500 |  | .500 | .500 | .500 |"


def test_the_gap_is_by_weight() -> None:
    table = pd.DataFrame({"label": [0, 0, 1, 1], "carries": [False, True, False, True], "weight": [9.0, 1, 1, 9]})
    assert shortcuts.gap(table) == 0.8
    assert shortcuts.gap(table.assign(weight=1.0)) == 0


def test_the_page_shows_the_table() -> None:
    assert shortcuts.summary(shortcuts._table()) in (shortcuts.results.ROOT / "docs/shortcuts.md").read_text()
