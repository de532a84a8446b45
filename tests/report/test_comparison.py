"""The page of a comparison; tests/test_cli.py reads it as the command writes it."""

from pathlib import Path

import pytest

from pneumonia.report import comparison
from tests.test_compare import compared


def test_the_page_names_both_models_with_their_runs_and_shows_the_pictures_it_is_given(tmp_path: Path) -> None:
    models = {"A": ("version 1", "abc"), "B": ("version 2", "def")}
    settings = {"A": {"seed": "1", "train.epochs": "40"}, "B": {"seed": "1", "train.epochs": "<60>"}}
    comparison.write(tmp_path / "compare.html", compared(), models, settings, [("i102: pneumonia", b"\x89PNG")])
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "version 1 and version 2" in text
    assert "abc" in text
    assert "<figcaption>i102: pneumonia</figcaption>" in text
    assert '<th scope="row">train.epochs</th><td class=short>40</td><td class=short>&lt;60&gt;</td>' in text
    assert "seed" not in text
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"A": {"seed": "1"}, "B": {"seed": "1"}}, "All settings that were logged are the same."),
        ({"A": {"seed": "1"}, "B": {}}, "The settings of B are not known: the train run is not in this MLflow store."),
    ],
)
def test_equal_and_unknown_settings_are_said_to_be_so(
    settings: dict[str, dict[str, str]], words: str, tmp_path: Path
) -> None:
    models = {"A": ("version 1", "abc"), "B": ("version 2", "def")}
    comparison.write(tmp_path / "compare.html", compared(), models, settings, [])
    assert words in (tmp_path / "compare.html").read_text(encoding="utf-8")
