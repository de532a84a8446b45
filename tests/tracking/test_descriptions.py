"""What people read in the MLflow UI."""

from typing import Any

import pytest

from pneumonia.images.geometry import SEGMENTER, Preparation
from pneumonia.tracking import descriptions
from pneumonia.tracking.descriptions import Evidence, Holder

SPLIT = {"n": 1160, "n_positive": 120, "auc": 0.9144, "auc_low": 0.8333, "auc_high": 0.9581, "accuracy": 0.825}
FIGURES = {"threshold": 0.853153, "level": 0.95, "val": {"n": 9, "n_positive": 4, "auc": 0.5}, "test": SPLIT}


def evidence(**changes: Any) -> Evidence:
    one = Evidence("7", "r1", FIGURES, True, {"description/roc & map.png": "ROC curve"}, "card/model_card.html")
    return one._replace(**changes)


def test_a_train_run_shows_validation_beside_test_with_intervals() -> None:
    lines = descriptions.of_model(evidence()).replace("&emsp;", "").split("\n")
    assert lines[:4] == [
        "|  | validation | test |",
        "|---|---|---|",
        "| images (pneumonia) | 9 (4) | 1,160 (120) |",
        "| AUC | 0.500 | 0.914 [0.833, 0.958] |",
    ]
    assert "| accuracy |  | 0.825 |" in lines
    assert "| threshold | 0.8532 | the same |" in lines


def test_pictures_and_card_are_addresses_that_the_ui_answers() -> None:
    text = descriptions.of_model(evidence())
    assert "![ROC curve](get-artifact?path=description%2Froc+%26+map.png&run_uuid=r1)" in text
    card = "#/experiments/7/runs/r1/artifacts/card/model_card.html?workflowType=machine_learning"
    assert f"[Model card]({card})" in text
    assert "Model card" not in descriptions.of_model(evidence(card=""))


def test_synthetic_images_are_called_so_wherever_figures_stand() -> None:
    holder = Holder(3, {"model": "compact", "val_auc": "0.9381", "reason": "higher"}, evidence())
    real = holder._replace(evidence=evidence(synthetic=False))
    for shown, is_said in ((holder, True), (real, False)):
        texts = (
            descriptions.of_model(shown.evidence),
            descriptions.of_version("higher", shown.evidence),
            descriptions.of_registered("phantom", "pneumonia-phantom", shown),
            descriptions.of_experiment("phantom", "pneumonia-phantom", shown),
        )
        assert all((descriptions.SYNTHETIC in text) == is_said for text in texts)


def test_the_first_line_of_an_experiment_is_its_champion() -> None:
    holder = Holder(3, {"model": "compact", "val_auc": "0.9381", "reason": "higher"}, evidence())
    place = "#/models/pneumonia-phantom/versions/3?workflowType=machine_learning"
    expected = f"**Champion: [version 3]({place})**, compact, validation AUC 0.938 (higher)"
    for text in (
        descriptions.of_experiment("phantom", "pneumonia-phantom", holder),
        descriptions.of_registered("phantom", "pneumonia-phantom", holder),
    ):
        assert text.split("\n")[0] == expected
        assert descriptions.is_own(text)
    assert descriptions.of_experiment("phantom", "pneumonia-phantom", None).startswith("No champion yet: `make repro`")


@pytest.mark.parametrize("text", ["Ours, see the wiki.", "Removed together"])
def test_a_text_of_the_user_is_not_taken_for_one_of_the_workflow(text: str) -> None:
    assert not descriptions.is_own(text)
    assert descriptions.is_own("")
    assert descriptions.is_own(descriptions.REMOVED)


def test_a_version_without_figures_has_its_reason_only() -> None:
    assert descriptions.of_version("the first", evidence(figures={})) == "the first"
    assert descriptions.of_version("a\x1b[2J", evidence(figures={})) == "a\\x1b[2J"


def test_a_trial_without_a_learning_rate_has_its_number() -> None:
    assert descriptions.trial_run("fusion", "trial 2 · seed 3", {"dropout": 0.1}) == "fusion · trial 2 · seed 3"


def test_the_preparation_is_one_line() -> None:
    around = Preparation(size=224, aspect="lungs", clahe="before", segmenter=SEGMENTER)
    assert descriptions.short_preparation(around.as_dict()) == "224 px, around the lungs, CLAHE 2 before resizing"
    plain = Preparation(size=128, aspect="squash", crop=0.05, clip_limit=0.0)
    assert descriptions.short_preparation(plain.as_dict()) == "128 px, squash, crop 0.05, no CLAHE"
