"""The settings of a train run are those it logged."""

import mlflow

from pneumonia.tracking import runs, settings
from tests.tracking import conftest as tracking


def test_settings_of_a_run_are_its_params_and_what_it_was_made_from(root: object) -> None:
    with tracking.start() as run_id:
        runs.log_params({"learning_rate": 0.001})
        runs.tag(weights="none", data_digest="abc")
    logged = settings.of_run(run_id)
    assert logged["learning_rate"] == "0.001"
    assert logged["weights that were used"] == "none"
    assert logged["images, labels and splits (digest)"] == "abc"
    assert mlflow.get_run(run_id).data.params.items() <= logged.items()


def test_a_run_that_the_store_does_not_have_has_no_settings(root: object) -> None:
    runs.open_store()
    assert settings.of_run("0" * 32) == {}
