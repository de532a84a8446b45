"""The page of a search, on a study of three trials."""

from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.report import search

TRIALS = pd.DataFrame(
    {
        "trial": [0, 1, 2],
        "state": ["complete", "pruned", "complete"],
        "val_auc": [0.8, 0.6, 0.9],
        "epochs": [2, 1, 2],
        "learning_rate": [0.001, 0.003, 0.0005],
        "keep": ["best", "last", "best"],
    }
)
CURVES = pd.DataFrame(
    {
        "trial": [0, 0, 1, 2, 2],
        "epoch": [1, 2, 1, 1, 2],
        "loss": [0.7, 0.6, 0.7, 0.6, 0.5],
        "val_loss": [0.7, 0.6, 0.7, 0.6, 0.5],
        "val_auc": [0.7, 0.8, 0.6, 0.8, 0.9],
    }
)
BEST: dict[str, Any] = {
    "values": {"learning_rate": 0.0005, "keep": "best"},
    "trial": 2,
    "val_auc": 0.9,
    "verdict": "better than the defaults: <+0.1>",
}


def write(folder: Path, trials: pd.DataFrame = TRIALS, **options: Any) -> tuple[list[str], str]:
    path = folder / "study.html"
    figures = search.write(
        path, options.get("best", BEST), trials, CURVES, options.get("importances", {}), "compact on phantom"
    )
    return [name for name, _ in figures], path.read_text()


def test_the_page_says_what_was_chosen_and_shows_every_trial(tmp_path: Path) -> None:
    names, html = write(tmp_path, importances={"learning_rate": 0.75, "keep": 0.25})
    assert names == ["trials", "curves", "slices", "parallel", "importances"]
    assert html.count("data:image/png") == 5
    assert "better than the defaults: &lt;+0.1&gt;." in html
    assert all(f"<td>{state}</td>" in html or f">{state}<" in html for state in ("complete", "pruned"))
    again, page = write(tmp_path, TRIALS.assign(value=TRIALS["val_auc"]), importances={"learning_rate": 0.75})
    assert '<th scope="col">val_auc</th>' in page
    assert (again, page.count('<th scope="col">value</th>')) == (names, 0), (
        "one name of a figure is enough for a person"
    )
    assert "http" not in html.replace("http-equiv", "")


def test_a_study_without_trials_has_a_page_without_figures(tmp_path: Path) -> None:
    best = {"values": {"learning_rate": 0.001}, "verdict": "no search: the defaults of the model, untried"}
    names, html = write(tmp_path, TRIALS[:0], best=best)
    assert names == []
    assert "the defaults of the model, untried" in html
