"""Films and their copies are compared by name."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import full_resolution
from pneumonia import UserError
from pneumonia.models.predictor import Predictor
from tests import predictors
from tests.conftest import png


def archive(path: Path, **levels: int) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, level in levels.items():
            side = 80 if "large" in path.name else 20
            made.writestr(f"set/{name}.png", png(np.full((side, side), level, np.uint8)))
        made.writestr("set/notes.txt", "no image")
    return path


def test_films_are_compared_with_the_copies_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = predictors.write(tmp_path / "p")
    large = archive(tmp_path / "large.zip", a=100, b=120, c=90)
    small = archive(tmp_path / "small.zip", b=140, a=100, d=90)
    table = full_resolution.compare(Predictor(folder), large, small)
    assert table["film"].tolist() == ["set/a.png", "set/b.png"]
    assert table["score"].tolist() == pytest.approx(
        [predictors.expected_score(level) for level in (100, 120)], abs=1e-6
    )
    figures = full_resolution.summary(table)
    difference = predictors.expected_score(140) - predictors.expected_score(120)
    assert figures["n"] == 2
    assert figures["largest"] == pytest.approx(difference, abs=1e-6)
    assert figures["median"] == pytest.approx(difference / 2, abs=1e-6)
    assert (figures["other_decisions"], figures["unusual_once"]) == (1, 0)
    output = tmp_path / "scores.csv"
    full_resolution.main([str(folder), "--films", str(large), "--copies", str(small), "--output", str(output)])
    assert "pad" in capsys.readouterr().out
    assert len(output.read_text().splitlines()) == 3
    with pytest.raises(UserError, match="no image has the same name in"):
        full_resolution.compare(Predictor(folder), large, archive(tmp_path / "others.zip", x=1))
