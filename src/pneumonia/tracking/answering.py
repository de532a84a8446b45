"""The registered model: image files in, the columns of `pneumonia predict` out.

MLflow keeps this file, not a pickle, with the predictor and the modules that it needs. So it runs where only the
requirements of the model are installed, without this project.
"""

import json
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from pneumonia.models.predictor import Predictor


class Answers(PythonModel):  # type: ignore[misc]
    """`predict` takes a table with the bytes of an image file in each row of the column `image`."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["predictor"])
        registered = folder.parents[1] / "registered.json"  # a model that was logged but not registered has none
        version = str(json.loads(registered.read_text("utf-8"))["version"]) if registered.is_file() else ""
        self.predictor = Predictor(folder, version=version, only_bytes=True)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        return self.predictor.predict(model_input["image"])


mlflow.models.set_model(Answers())
