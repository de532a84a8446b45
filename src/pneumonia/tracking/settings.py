"""The settings of a train run, for comparisons."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException

from pneumonia.tracking import errors

_TAGS = {"weights": "weights that were used", "data_digest": "images, labels and splits (digest)"}
"""Tags of a run that say what it was made from -> words for them."""


def of_run(run_id: str) -> dict[str, str]:
    """Name -> value of all settings that a run has logged; empty if the store does not have the run.

    They include the hyper-parameters that the search chose, the preparation of the images, and, because a setting may
    say `auto`, the weights that were used.
    """
    with errors.as_user_error(mlflow.get_tracking_uri()):
        try:
            run = mlflow.MlflowClient().get_run(run_id).data
        except MlflowException as error:
            if error.error_code not in errors.UNKNOWN:
                raise
            return {}
    facts = {words: run.tags[tag] for tag, words in _TAGS.items() if run.tags.get(tag)}
    return dict(run.params) | facts
