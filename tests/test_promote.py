"""Decisions between tables of a few scores, each worked out by hand."""

import pandas as pd
import pytest

from pneumonia import metrics, promote

LABELS = [0, 0, 0, 1, 1, 1]
PERFECT = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
GOOD = [0.1, 0.2, 0.75, 0.7, 0.8, 0.9]  # one pair of nine is wrong: AUC 8/9
BAD = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]


def table(scores: list[float], *, labels: list[int] = LABELS, first: int = 0, split: str = "val") -> pd.DataFrame:
    """Predictions on images `first`, `first` + 1, ..."""
    numbers = range(first, first + len(scores))
    return pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in numbers],
            "sha256": [f"{i:064x}" for i in numbers],
            "split": split,
            "label": labels,
            "score": scores,
        }
    )


def decide(candidate: pd.DataFrame, champion: pd.DataFrame | None, min_common: int = 3) -> promote.Decision:
    return promote.decide(candidate, champion, min_common=min_common)


def test_the_first_model_is_promoted_however_bad() -> None:
    decision = decide(table(BAD), None)
    assert decision == promote.Decision(True, "the first model of this data set", 0.0, None, 6)


def test_promotes_only_on_higher_auc() -> None:
    assert decide(table(PERFECT), table(GOOD)).promoted
    assert not decide(table(GOOD), table(GOOD)).promoted
    assert not decide(table(GOOD), table(PERFECT)).promoted


def test_a_decision_names_both_aucs_on_the_images_compared() -> None:
    up = decide(table(PERFECT), table(GOOD))
    assert (up.auc, up.champion_auc, up.n_common) == (1.0, pytest.approx(8 / 9), 6)
    assert up.reason.startswith("higher validation AUC 1.0000 against the champion's 0.8889 on 6 common images")
    down = decide(table(GOOD), table(PERFECT))
    assert (down.auc, down.champion_auc) == (pytest.approx(8 / 9), 1.0)
    assert down.reason.startswith("not higher: ")
    assert down.reason.endswith("the champion stays")
    p_value = metrics.delong_test(LABELS, GOOD, PERFECT)
    assert f"DeLong p = {p_value:.2g}" in up.reason
    assert f"DeLong p = {p_value:.2g}" in down.reason


def test_equal_auc_by_other_scores_is_not_higher() -> None:
    decision = decide(table([score / 2 for score in GOOD]), table(GOOD))
    assert not decision.promoted
    assert decision.auc == decision.champion_auc


def test_scores_on_test_and_train_are_never_looked_at() -> None:
    def with_others(val: list[float], others: list[float]) -> pd.DataFrame:
        return pd.concat(
            [
                table(val),
                table(others, first=100, split="test"),
                table(others, first=200, split="train"),
            ]
        )

    plain = decide(table(GOOD), table(PERFECT))
    for mine, theirs in ((PERFECT, BAD), (BAD, PERFECT)):
        assert decide(with_others(GOOD, mine), with_others(PERFECT, theirs)) == plain
    first = decide(with_others(GOOD, BAD), None)
    assert (first.auc, first.n_common) == (pytest.approx(8 / 9), 6)
    # What one validated on is test for the other: no common ground.
    assert decide(table(PERFECT), table(GOOD, split="test")).n_common == 0


def test_only_common_images_count() -> None:
    """On all its images the candidate is worse, on those that both have validated on it is better."""
    candidate = pd.concat([table(PERFECT), table(BAD, first=10)])
    champion = pd.concat([table(GOOD), table(PERFECT, first=20)])
    decision = decide(candidate, champion)
    assert decision.promoted
    assert (decision.auc, decision.champion_auc, decision.n_common) == (1.0, pytest.approx(8 / 9), 6)


def test_images_are_matched_by_content_not_by_name_or_order() -> None:
    champion = table(GOOD).iloc[::-1].reset_index(drop=True)
    champion["image_id"] = "renamed"
    assert decide(table(PERFECT), champion) == decide(table(PERFECT), table(GOOD))
    other_content = table(GOOD).assign(sha256=[f"other{i}" for i in range(6)])
    assert decide(table(PERFECT), other_content).n_common == 0


def test_copies_of_an_image_count_once() -> None:
    assert decide(pd.concat([table(PERFECT)] * 2), pd.concat([table(GOOD)] * 3)) == decide(table(PERFECT), table(GOOD))


def test_with_too_few_common_images_the_champion_stays() -> None:
    candidate, champion = table(PERFECT), table(BAD)
    assert decide(candidate, champion, min_common=3).promoted
    decision = decide(candidate, champion, min_common=4)
    assert decision == promote.Decision(
        promoted=False,
        reason="not comparable: both models validated on only 3 common images of the smaller class, "
        "promote.min_common asks for 4; the champion stays",
        auc=1.0,
        champion_auc=None,
        n_common=6,
    )


def test_the_smaller_class_decides_whether_models_compare() -> None:
    labels = [0, 1, 1, 1, 1, 1]
    candidate, champion = table([0.0, *PERFECT[1:]], labels=labels), table(BAD, labels=labels)
    assert decide(candidate, champion, min_common=1).promoted
    assert "only 1 common" in decide(candidate, champion, min_common=2).reason


@pytest.mark.parametrize("champion", [table(GOOD, first=50), table(GOOD).iloc[:0], table(GOOD).iloc[3:]])
def test_without_common_images_of_both_classes_nothing_is_comparable(champion: pd.DataFrame) -> None:
    decision = decide(table(PERFECT), champion, min_common=1)
    assert not decision.promoted
    assert decision.champion_auc is None
    assert decision.reason.startswith("not comparable: both models validated on only 0 common images")


def test_the_champion_asked_again_stays_and_says_so() -> None:
    both = pd.concat([table(GOOD), table(BAD, first=30, split="test")])
    assert promote.confirm(both) == promote.Decision(True, "the champion already", pytest.approx(8 / 9), None, 6)


def test_deciding_changes_no_table() -> None:
    candidate, champion = table(PERFECT), table(GOOD)
    before = candidate.copy(), champion.copy()
    decide(candidate, champion)
    pd.testing.assert_frame_equal(candidate, before[0])
    pd.testing.assert_frame_equal(champion, before[1])
