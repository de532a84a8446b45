"""A store that exists is found without MLflow."""

from pathlib import Path

import pytest

from pneumonia.tracking import existing


def test_no_store_is_made_only_to_look_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not existing.has_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert existing.has_store(tmp_path)
