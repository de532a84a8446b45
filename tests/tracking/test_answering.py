"""The code of a registered model: a table with the bytes of image files in, a table of answers out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from pneumonia.models.predictor import Predictor
from pneumonia.tracking import answering, runs
from tests import predictors
from tests.conftest import png


def test_answers_have_the_rows_and_columns_of_the_predictor(tmp_path: Path) -> None:
    folder = predictors.write(tmp_path)
    model = answering.Answers()
    context = SimpleNamespace(artifacts={"predictor": str(folder)})
    model.load_context(context)
    films = [png(np.full((40, 40), level, np.uint8)) for level in (90, 170)] + [b"no image"]
    answers = model.predict(context, pd.DataFrame({"image": films}))
    pd.testing.assert_frame_equal(answers, Predictor(folder).predict(films))
    assert list(answers["label"]) == ["normal", "pneumonia", ""]
    (row,) = model.predict(context, pd.DataFrame({"image": [str(folder / "predictor.json")]})).itertuples()
    assert row.error == "the bytes of an image file were expected, not str"
    assert answers["error"].iloc[2].startswith("not an image")


def test_answers_name_the_version_that_lies_beside_the_predictor(tmp_path: Path) -> None:
    folder = predictors.write(tmp_path / "artifacts" / "predictor")
    model = answering.Answers()
    context = SimpleNamespace(artifacts={"predictor": str(folder)})

    def version() -> str:
        model.load_context(context)
        film = png(np.full((40, 40), 90, np.uint8))
        return str(model.predict(context, pd.DataFrame({"image": [film]}))["version"].iloc[0])

    assert version() == ""
    (tmp_path / runs.REGISTERED).write_text('{"name": "pneumonia-phantom", "version": 12}')
    assert version() == "12"
