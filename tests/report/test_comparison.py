"""The page of a comparison; tests/test_cli.py reads it as the command writes it."""

from pathlib import Path

from pneumonia.report import comparison
from tests.test_compare import compared


def test_the_page_names_both_models_with_their_runs_and_shows_the_pictures_it_is_given(tmp_path: Path) -> None:
    models = {"A": ("version 1", "abc"), "B": ("version 2", "def")}
    comparison.write(tmp_path / "compare.html", compared(), models, [("i102: pneumonia", b"\x89PNG")])
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "version 1 and version 2" in text
    assert "abc" in text
    assert "<figcaption>i102: pneumonia</figcaption>" in text
    assert not list(tmp_path.glob(".partial*"))
