"""The network in a `.keras` file, if it is a network of this project: a file from elsewhere may be anything."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia import UserError, reason

_LONGEST = 200
"""Characters of an error of Keras: some repeat the whole configuration."""

_MOST_UNPACKED = 10
"""Size of what a file holds, in sizes of the file. Keras does not compress, so that it is 1."""


def load_model(path: str | Path) -> Any:
    """The model in a `.keras` file; code in the file is not run (`safe_mode`).

    Raises:
        UserError: it is no such file or a damaged one, its network has other inputs or outputs than those of
            `networks.create_model`, or a weight is not finite.
    """
    import keras

    if not zipfile.is_zipfile(path):
        raise _refused(path, "it is damaged or no .keras file")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _MOST_UNPACKED * Path(path).stat().st_size:
        raise _refused(path, f"it unpacks to {unpacked:,} bytes, more than {_MOST_UNPACKED} times its size")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras passes on the errors of its formats, whatever they are
        made_with = _made_with(path)
        other = f", made with Keras {made_with}, here is {keras.__version__}"
        cause = reason(error)
        cause = cause if len(cause) <= _LONGEST else f"{cause[:_LONGEST]}…"
        raise _refused(path, f"{cause}{other if made_with not in ('', keras.__version__) else ''}") from error
    ends = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    names = {layer.name for layer in model.layers}
    if ends != [(None, None, None, 1), (None, 1)] or not {"logit", "probability"} <= names:
        raise _refused(path, f"its inputs and outputs {ends} are not one gray image and one probability")
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight)).all():
            raise _refused(path, f"{weight.path} has values that are not finite")
    return model


def _made_with(path: str | Path) -> str:
    """The version of Keras that wrote a file; empty if the file does not say it."""
    try:
        with zipfile.ZipFile(path) as file, file.open("metadata.json") as member:
            return str(json.loads(member.read(10_000))["keras_version"])
    except Exception:  # only for the message about another error
        return ""


def _refused(path: str | Path, why: str) -> UserError:
    return UserError(f"{path} cannot be used as a model: {why}; dvc repro train makes it again")
