"""How much the score of a film depends on the size of its file: full resolution against a smaller copy.

    python -m benchmarks.full_resolution --films chest_xray_fullres_sample.zip --copies chest_xray_proportions.zip \
        models/predictor [OTHER/models/predictor …]

Films and copies are matched by their names. For each predictor a row is printed; `--output` writes all scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia import UserError, files
from pneumonia.images.formats import is_named_as_image
from pneumonia.models.predictor import Predictor


def compare(predictor: Predictor, films: Path, copies: Path) -> pd.DataFrame:
    """Scores of both files of each film.

    Args:
        predictor: of the scores.
        films, copies: zip archives with files of the same names, such as `NORMAL/a.jpeg`.

    Returns:
        A row for each film: `film, score, score_of_copy, unusual, unusual_of_copy, label, label_of_copy`.

    Raises:
        UserError: no file has the same name in both.
    """
    with files.in_archive(films) as large, files.in_archive(copies) as small:
        names = sorted(name for name in {*large.names} & {*small.names} if is_named_as_image(name))
        if not names:
            raise UserError(f"no image has the same name in {films} and {copies}")
        answers = [predictor.scores(map(place.read, names), names) for place in (large, small)]
        rows = [
            (one.image, one.score, other.score, one.unusual, other.unusual, one.label, other.label)
            for one, other in zip(*answers, strict=True)
        ]
    columns = ("film", "score", "score_of_copy", "unusual", "unusual_of_copy", "label", "label_of_copy")
    return pd.DataFrame(rows, columns=list(columns))


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Absolute differences of the scores, decisions that differ, and films that are unusual in one of both sizes."""
    difference = (table["score"] - table["score_of_copy"]).abs()
    return {
        "n": len(table),
        "median": float(difference.median()),
        "percentile_95": float(np.percentile(difference, 95)),
        "largest": float(difference.max()),
        "other_decisions": int((table["label"] != table["label_of_copy"]).sum()),
        "unusual_once": int(((table["unusual"] != "") != (table["unusual_of_copy"] != "")).sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Scores of films in full resolution against those of smaller copies.")
    parser.add_argument("predictors", nargs="+", type=Path, help="folders such as models/predictor")
    parser.add_argument("--films", type=Path, required=True, help="zip archive in full resolution")
    parser.add_argument("--copies", type=Path, required=True, help="zip archive with the smaller copies")
    parser.add_argument("--output", type=Path, help="CSV of all scores")
    options = parser.parse_args(arguments)
    tables, rows = [], {}
    for folder in options.predictors:
        predictor = Predictor(folder)
        table = compare(predictor, options.films, options.copies)
        rows[str(folder)] = {"aspect": predictor.preparation.aspect, **summary(table)}
        tables.append(table.assign(predictor=str(folder)))
    print(pd.DataFrame(rows).T.to_string())
    if options.output:
        pd.concat(tables).to_csv(options.output, index=False)


if __name__ == "__main__":
    main()
