"""The model in service follows its alias; one that does not answer is never taken."""

import io
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonia import UserError, predict
from pneumonia.service.current import Current, example, open_model
from tests import predictors
from tests.service.conftest import film, serving

ALIAS = "models:/pneumonia-toy@champion"


class Aliases:
    """A registry with an alias, for `predict.resolve`."""

    def __init__(self, folder: Path) -> None:
        self.champion: predict.Source | Exception = predict.Source(folder, "1", "run1")

    def resolve(self, name: str) -> predict.Source:
        assert name == ALIAS
        if isinstance(self.champion, Exception):
            raise self.champion
        return self.champion


@pytest.fixture
def aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aliases:
    one = Aliases(predictors.write(tmp_path / "first"))
    monkeypatch.setattr(predict, "resolve", one.resolve)
    return one


def test_the_example_is_that_of_a_registered_version() -> None:
    assert np.asarray(Image.open(io.BytesIO(example()))).tolist() == [[128] * 64] * 64


def test_a_model_that_gives_no_number_or_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    infinite = predictors.write(tmp_path / "infinite", predictors.network(infinite=True))
    with pytest.raises(UserError, match=r"fails its self-test \(the network returned no number"):
        open_model(predict.Source(infinite), "youden")
    with pytest.raises(UserError, match="operating point 'best' is unknown"):
        open_model(predict.Source(predictors.write(tmp_path / "a")), "best")
    (tmp_path / "a" / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match="is damaged or was replaced"):
        open_model(predict.Source(tmp_path / "a"), "youden")
    with pytest.raises(UserError, match="a fact is no number"):
        open_model(predict.Source(predictors.write(tmp_path / "b", figures={"val": {"auc": float("nan")}})), "youden")


def test_a_new_champion_is_taken_and_a_broken_one_is_logged_once(
    aliases: Aliases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    current = Current(ALIAS, "youden")
    first = current.model
    current.look()
    assert current.model is first
    broken = predictors.write(tmp_path / "broken", predictors.network(infinite=True))
    aliases.champion = predict.Source(broken, "2", "run2")
    for _ in range(3):
        current.look()
    assert current.model is first
    assert caplog.text.count("stays in service") == 1
    assert "fails its self-test" in caplog.text
    aliases.champion = predict.Source(predictors.write(tmp_path / "third", caution="new"), "3", "run3")
    current.look()
    assert current.model.predictor.origin["version"] == "3"
    assert caplog.text.count("now in service: version 3") == 1


@pytest.mark.parametrize(
    "error", [UserError("the store is locked"), OSError(28, "No space left on device"), KeyError()]
)
def test_a_store_that_fails_changes_nothing_and_is_logged_once(
    aliases: Aliases, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    current = Current(ALIAS, "youden")
    good, aliases.champion = aliases.champion, error
    for _ in range(3):
        current.look()
    assert len(caplog.records) == 1
    aliases.champion = good
    current.look()
    aliases.champion = error
    current.look()
    assert len(caplog.records) == 2


def test_the_champion_is_replaced_without_a_restart(aliases: Aliases, tmp_path: Path) -> None:
    with serving(ALIAS, poll_seconds=0.02) as served:
        assert served.send(("x", film())).json["model"]["version"] == "1"
        aliases.champion = predict.Source(predictors.write(tmp_path / "second", caution="new"), "2", "run2")
        deadline = time.monotonic() + 10
        while served.send(("x", film())).json["model"]["version"] == "1":
            assert time.monotonic() < deadline
        answer = served.send(("x", film())).json
        assert answer["model"]["version"] == answer["predictions"][0]["version"] == "2"
        assert served.ask("GET", "/v1/model").json["caution"] == "new"


def test_a_folder_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = Current(str(predictors.write(tmp_path / "a")), "youden")
    monkeypatch.setattr(current, "look", lambda: pytest.fail("looked"))
    monkeypatch.setattr("threading.Thread", lambda **options: pytest.fail("a thread"))
    current.follow()
