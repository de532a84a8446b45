"""Decisions between tables of a few scores, and champions of registries of a few tags, each worked out by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia import promote
from pneumonia.metrics import calibration, ranking

LABELS = [0, 0, 0, 1, 1, 1]
PERFECT = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
GOOD = [0.1, 0.2, 0.75, 0.7, 0.8, 0.9]  # one pair of nine is wrong: AUC 8/9
BAD = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]


def ece_of(scores: list[float]) -> float:
    """The calibration error that is judged: of scores that were calibrated on the other patients."""
    patients = [f"p{i}" for i in range(len(LABELS))]
    return calibration.expected_calibration_error(LABELS, calibration.cross_fitted(LABELS, scores, patients))


def table(scores: list[float], *, labels: list[int] = LABELS, first: int = 0, split: str = "val") -> pd.DataFrame:
    """Predictions on images `first`, `first` + 1, ..."""
    numbers = range(first, first + len(scores))
    return pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in numbers],
            "sha256": [f"{i:064x}" for i in numbers],
            "patient_id": [f"p{i}" for i in numbers],
            "split": split,
            "label": labels,
            "score": scores,
        }
    )


ASKS = {"threshold": 0.5, "min_common": 3, "min_gain": 0.0, "min_sensitivity": 0.0, "max_ece": 1.0}


def decide(
    candidate: pd.DataFrame, champion: pd.DataFrame | None, *, first: bool = False, **changes: Any
) -> promote.Decision:
    return promote.decide(candidate, champion, first=first, **(ASKS | changes))


def test_the_first_model_is_promoted_however_bad() -> None:
    decision = decide(table(BAD), None, first=True)
    assert decision[:5] == (True, "the first model of this data set", 0.0, None, 6)
    assert "p_value" not in promote.as_report(decision)


def test_promotes_only_on_higher_auc() -> None:
    assert decide(table(PERFECT), table(GOOD)).promoted
    assert not decide(table(GOOD), table(GOOD)).promoted
    assert not decide(table(GOOD), table(PERFECT)).promoted


def test_images_of_one_patient_are_one_piece_of_evidence() -> None:
    patients = ["p0", "p0", "p1", "p2", "p2", "p3"]
    decision = decide(table(PERFECT).assign(patient_id=patients), table(GOOD))
    assert decision.p_value == ranking.delong_test(LABELS, PERFECT, GOOD, groups=patients)
    assert decision.p_value != decide(table(PERFECT), table(GOOD)).p_value


def test_a_decision_names_both_aucs_on_the_images_compared() -> None:
    up = decide(table(PERFECT), table(GOOD))
    assert (up.auc, up.champion_auc, up.n_common) == (1.0, pytest.approx(8 / 9), 6)
    assert up.reason.startswith("higher validation AUC 1.0000 against the champion's 0.8889 on 6 common images")
    down = decide(table(GOOD), table(PERFECT))
    assert (down.auc, down.champion_auc) == (pytest.approx(8 / 9), 1.0)
    assert down.reason.startswith("not higher: ")
    assert down.reason.endswith("the champion stays")
    p_value = ranking.delong_test(LABELS, GOOD, PERFECT)
    assert f"DeLong p = {p_value:.2g}" in up.reason
    assert f"DeLong p = {p_value:.2g}" in down.reason


def test_equal_auc_by_other_scores_is_not_higher() -> None:
    decision = decide(table([score / 2 for score in GOOD]), table(GOOD))
    assert not decision.promoted
    assert decision.auc == decision.champion_auc


def test_scores_on_test_and_train_decide_nothing() -> None:
    def with_others(val: list[float], others: list[float]) -> pd.DataFrame:
        return pd.concat(
            [
                table(val),
                table(others, first=100, split="test"),
                table(others, first=200, split="train"),
            ]
        )

    plain = decide(table(GOOD), table(PERFECT))
    for mine, theirs, difference in ((PERFECT, BAD, 1.0), (BAD, PERFECT, -1.0)):
        decision = decide(with_others(GOOD, mine), with_others(PERFECT, theirs))
        assert decision.test_difference == difference, "reported"
        assert decision._replace(test_difference=None, test_p_value=None) == plain
    first = decide(with_others(GOOD, BAD), None, first=True)
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
    assert decision[:5] == (
        False,
        "not comparable: both models validated on only 3 common images of the smaller class, "
        "promote.min_common asks for 4; the champion stays",
        1.0,
        None,
        6,
    )
    assert decision.p_value is None


def test_the_smaller_class_decides_whether_models_compare() -> None:
    labels = [0, 1, 1, 1, 1, 1]
    candidate, champion = table([0.0, *PERFECT[1:]], labels=labels), table(BAD, labels=labels)
    assert decide(candidate, champion, min_common=1).promoted
    assert "only 1 common" in decide(candidate, champion, min_common=2).reason


@pytest.mark.parametrize("champion", [table(GOOD, first=50), table(GOOD).iloc[3:]])
def test_without_common_images_of_both_classes_nothing_is_comparable(champion: pd.DataFrame) -> None:
    decision = decide(table(PERFECT), champion, min_common=1)
    assert not decision.promoted
    assert decision.champion_auc is None
    assert decision.reason.startswith("not comparable: both models validated on only 0 common images")


def test_a_decision_names_the_champions_that_were_left_out() -> None:
    decision = decide(table(PERFECT), None)
    assert promote.without(decision, "") == decision
    reason = "the earliest model that passes its gates; without champion version 1, 4, whose predictions are lost"
    assert promote.without(decision, "1, 4") == decision._replace(reason=reason)


def test_failed_gates_are_named_also_where_nothing_is_comparable() -> None:
    decision = decide(table(PERFECT), table(GOOD, first=50), threshold=0.75, min_sensitivity=0.7)
    assert decision.reason.startswith("not comparable: ")
    assert decision.reason.endswith(
        "; also its sensitivity of 0.667 on validation is below 0.7 (promote.min_sensitivity); the champion stays"
    )


def test_an_image_whose_label_has_changed_is_not_common() -> None:
    """By the label of today the champion would be worse than by the one it was trained on."""

    def on_both_splits(**changes: Any) -> pd.DataFrame:
        return pd.concat([table(PERFECT, **changes), table(PERFECT, first=100, split="test", **changes)])

    decision = decide(on_both_splits(labels=[*LABELS[:-1], 0]), on_both_splits(), min_common=2)
    assert (decision.n_common, decision.champion_auc, decision.test_difference) == (5, 1.0, 0.0)
    assert promote.auc_gain(table(PERFECT, labels=[*LABELS[:-1], 0]), table(PERFECT)) == (0.0, 2)


def test_a_comparison_on_test_is_reported_where_both_saw_enough_of_it() -> None:
    def with_test(scores: list[float], first: int = 100) -> pd.DataFrame:
        return pd.concat([table(GOOD), table(scores, first=first, split="test")])

    decision = decide(with_test(PERFECT), with_test(GOOD))
    assert decision.test_difference == pytest.approx(1 / 9)
    assert decision.test_p_value == pytest.approx(ranking.delong_test(LABELS, PERFECT, GOOD))
    assert not decision.promoted
    apart = decide(with_test(PERFECT), with_test(GOOD, first=105))
    assert not {"test_difference", "test_p_value"} & set(promote.as_report(apart))
    too_few = decide(with_test(PERFECT), with_test(GOOD).iloc[:-1], min_common=3)
    assert too_few.champion_auc, "of validation there is enough"
    assert not {"test_difference", "test_p_value"} & set(promote.as_report(too_few))


# --- confidence -----------------------------------------------------------------------------------------------------


def gain_of(one: list[float], other: list[float], level: float = 0.95) -> tuple[float, float, float]:
    return ranking.auc_difference(LABELS, other, one, level=level)


def many(n_wrong: int, *, split: str = "val") -> pd.DataFrame:
    """Sixty images of which the first `n_wrong` of each class have scores of the other class."""
    number = np.arange(60)
    labels = number % 2
    wrong = number // 2 < n_wrong
    scores = np.where(labels ^ wrong, 0.6, 0.2) + number / 200
    return table(scores.tolist(), labels=labels.tolist(), split=split)


def test_a_decision_has_the_paired_interval_and_says_where_it_contains_0() -> None:
    close = decide(table(PERFECT), table(GOOD))
    report = promote.as_report(close)
    paired = (report["difference"], report["difference_low"], report["difference_high"])
    assert paired == pytest.approx(gain_of(PERFECT, GOOD))
    assert (report["level"], report["comparison"]) == (0.95, "not distinguishable")
    assert close.promoted, "the higher AUC wins without a confidence"
    assert "difference +0.1111 [" in close.reason
    assert close.reason.endswith("], not distinguishable")
    far = decide(many(0), many(12))
    assert promote.as_report(far)["comparison"] == "distinguishable"
    assert "distinguishable" not in far.reason
    worse = decide(many(12), many(0))
    assert (worse.promoted, worse.comparison) == (False, "distinguishable")
    assert worse.difference_high is not None
    assert worse.difference_high < 0
    assert decide(table(GOOD), table(GOOD)).comparison == "not distinguishable"
    alone = promote.as_report(decide(table(PERFECT), None))
    assert not {"difference", "difference_low", "difference_high", "level", "comparison"} & set(alone)


def test_with_a_confidence_the_lower_limit_must_be_more_than_asked() -> None:
    close = decide(table(PERFECT), table(GOOD), confidence=0.95)
    assert not close.promoted
    assert close.reason.startswith("not higher with a confidence of 0.95 (promote.confidence): validation AUC 1.0000")
    low = gain_of(PERFECT, GOOD)[1]
    assert close.gates[0] == ("min_gain", pytest.approx(low), 0.0, False)
    far = decide(many(0), many(12), confidence=0.95)
    assert far.promoted
    bound = far.gates[0].value
    assert decide(many(0), many(12), confidence=0.95, min_gain=bound - 0.001).promoted
    refused = decide(many(0), many(12), confidence=0.95, min_gain=bound + 0.001)
    assert not refused.promoted
    assert "(promote.min_gain) with a confidence of 0.95 (promote.confidence): " in refused.reason
    assert decide(many(0), many(12), confidence=0.5, min_gain=bound + 0.001).promoted


def test_with_a_confidence_the_registry_measures_also_on_the_same_images() -> None:
    """And gives the champion that the tables give one after the other."""
    tables_of = {1: many(12), 2: many(9), 3: many(0), 4: many(1)}
    champion, registry = 1, {1: promote.facts(tables_of[1], **ASKS, confidence=0.95)}
    asked: list[tuple[int, int]] = []

    def measure(challenger: int, holder: int) -> promote.Gain:
        asked.append((challenger, holder))
        gain = promote.auc_gain(tables_of[challenger], tables_of[holder], 0.95)
        registry[challenger] |= promote.against(holder, gain, 0.95)
        return gain

    for version in (2, 3, 4):
        registry[version] = promote.facts(tables_of[version], **ASKS, confidence=0.95)
        if decide(tables_of[version], tables_of[champion], confidence=0.95).promoted:
            champion = version
        assert promote.standing(registry, measure).champion == champion
    assert champion == 3
    assert asked == [(2, 1), (3, 1), (4, 3)], "each pair once"
    assert promote.standing(registry, unasked).champion == 3
    less_sure = {version: tags | {"confidence": "0.9"} for version, tags in registry.items()}
    with pytest.raises(AssertionError, match="need no predictions"):
        promote.standing(less_sure, unasked)  # a result at another level does not count
    plain = {version: tags | {"confidence": "0"} for version, tags in registry.items()}
    assert promote.standing(plain, unasked).champion == 3


# --- gates ----------------------------------------------------------------------------------------------------------


def test_each_gate_is_reported_with_its_value_and_limit() -> None:
    decision = decide(table(PERFECT), table(GOOD), threshold=0.75, min_gain=0.05, min_sensitivity=0.7, max_ece=0.1)
    gain, sensitivity, ece = decision.gates
    assert gain == ("min_gain", pytest.approx(1 / 9), 0.05, True)
    assert sensitivity == ("min_sensitivity", pytest.approx(2 / 3), 0.7, False)  # 0.7 lies below the threshold
    assert ece == ("max_ece", pytest.approx(ece_of(PERFECT)), 0.1, False)
    assert promote.as_report(decision)["gates"][1] == {
        "name": "min_sensitivity",
        "value": pytest.approx(2 / 3),
        "limit": 0.7,
        "passed": False,
    }


def test_better_but_through_a_failed_gate_no_model_becomes_champion() -> None:
    decision = decide(table(PERFECT), table(GOOD), threshold=0.75, min_sensitivity=0.7)
    assert not decision.promoted
    assert decision.reason.startswith("higher validation AUC 1.0000")
    assert decision.reason.endswith(
        ", but its sensitivity of 0.667 on validation is below 0.7 (promote.min_sensitivity); the champion stays"
    )
    ece = decide(table(PERFECT), table(GOOD), max_ece=0.1)
    assert (
        f"but its calibration error of {ece_of(PERFECT):.3g} on validation is above 0.1 (promote.max_ece)" in ece.reason
    )
    assert not ece.promoted


def test_calibration_is_judged_in_fifteen_bins() -> None:
    """0.02 and 0.08 lie in one of ten bins, and in two of fifteen: the mean of 0.02 and 0.92, not 0.5 less 0.05."""
    ece = decide(table([0.02, 0.08], labels=[0, 1]), None).gates[1]
    assert (ece.name, ece.value) == ("max_ece", pytest.approx(0.47))


def test_a_value_at_the_limit_passes() -> None:
    assert decide(table(PERFECT), table(GOOD), threshold=0.7, min_sensitivity=1.0, max_ece=ece_of(PERFECT)).promoted


def test_the_first_model_is_champion_although_gates_fail() -> None:
    decision = decide(table(PERFECT), None, first=True, threshold=0.95, min_sensitivity=0.9, max_ece=0.2)
    assert decision.promoted
    assert decision.reason == (
        "the first model of this data set, although its sensitivity of 0 on validation is below 0.9 "
        f"(promote.min_sensitivity); its calibration error of {ece_of(PERFECT):.3g} on validation is above 0.2 "
        "(promote.max_ece)"
    )
    assert [gate.passed for gate in decision.gates] == [False, False]


def test_only_the_first_model_is_called_the_first() -> None:
    """A later one may have nobody to beat as well, when the versions before it were deleted."""
    assert decide(table(BAD), None, first=True).reason == promote.FIRST
    later = decide(table(BAD), None)
    assert (later.promoted, later.reason) == (True, "the earliest model that passes its gates")
    failing = decide(table(PERFECT), None, max_ece=0.2)
    assert failing.promoted
    assert failing.reason == (
        f"no model passes its gates, and this is the earliest: its calibration error of {ece_of(PERFECT):.3g} on "
        "validation is above 0.2 (promote.max_ece)"
    )


def test_a_bent_but_repeatable_scale_passes_because_predictions_are_calibrated() -> None:
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 100)
    bent = (0.9 + 0.1 * (0.3 * labels + 0.7 * rng.uniform(size=200))).tolist()
    raw = calibration.expected_calibration_error(labels, bent)
    ece = decide(table(bent, labels=labels.tolist()), None).gates[1].value
    assert raw > 0.4
    assert ece < 0.12


def test_the_gain_must_be_more_than_asked() -> None:
    assert decide(table(PERFECT), table(GOOD), min_gain=0.11).promoted
    decision = decide(table(PERFECT), table(GOOD), min_gain=0.12)
    assert not decision.promoted
    assert decision.reason.startswith("not higher by more than 0.12 (promote.min_gain): validation AUC 1.0000")


def test_a_decision_becomes_two_tags_and_its_figures_metrics() -> None:
    decision = decide(table(PERFECT), table(GOOD), threshold=0.75, min_sensitivity=0.7)
    assert promote.as_tags(decision) == {"promoted": "false", "reason": decision.reason}
    figures = promote.as_metrics(decision)
    paired = dict(zip(("difference", "difference_low", "difference_high"), gain_of(PERFECT, GOOD), strict=True))
    assert figures["promotion"] == pytest.approx(
        {
            "auc": 1.0,
            "champion_auc": ranking.roc_auc(LABELS, GOOD),
            "p_value": ranking.delong_test(LABELS, GOOD, PERFECT),
            **paired,
        }
    )
    assert figures["gate"] == pytest.approx(
        {"min_gain": 1 / 9, "min_sensitivity": 2 / 3, "max_ece": figures["gate"]["max_ece"]}
    )
    alone = promote.as_metrics(decide(table(PERFECT), None))
    assert set(alone["promotion"]) == {"auc"}


# --- the registry ---------------------------------------------------------------------------------------------------


def tags(auc: float, *, images: str = "a", **changes: str) -> dict[str, str]:
    """Of a version that validated on `images`."""
    base = {"val_auc": repr(auc), "val_digest": images, "val_smaller": "20", "eligible": "true"}
    return base | {"min_common": "10", "min_gain": "0.0"} | changes


def unasked(challenger: int, holder: int) -> promote.Gain:
    raise AssertionError(f"{challenger} and {holder} need no predictions")


def standing(*versions: dict[str, str], measure: promote.Measure = unasked) -> promote.Standing:
    return promote.standing(dict(enumerate(versions, start=1)), measure)


def test_the_champion_is_the_best_of_all_versions_in_any_order() -> None:
    aucs = [0.8, 0.95, 0.7, 0.9]
    assert standing(*map(tags, aucs)) == (2, 1)
    shuffled = {3: tags(0.7), 1: tags(0.8), 4: tags(0.9), 2: tags(0.95)}
    assert promote.standing(shuffled, unasked) == (2, 1)


def test_of_equals_the_earlier_version_is_champion() -> None:
    assert standing(tags(0.8), tags(0.8)) == (1, None)


def test_a_version_that_is_not_eligible_is_champion_only_as_the_first() -> None:
    assert standing(tags(0.7, eligible="false"), tags(0.9, eligible="false")) == (1, None)
    assert standing(tags(0.7, eligible="false"), tags(0.9, eligible="false"), tags(0.8)) == (3, 1)


def test_a_deleted_first_version_hands_its_privilege_to_nobody() -> None:
    failing, passing = tags(0.95, eligible="false"), tags(0.8)
    assert promote.standing({1: failing, 3: passing}, unasked) == (1, None)
    assert promote.standing({2: failing, 3: passing}, unasked) == (3, None)
    assert promote.standing({2: failing, 3: passing, 4: tags(0.9)}, unasked) == (4, 3)


def test_where_no_version_may_hold_the_earliest_stands_in() -> None:
    failing = tags(0.7, eligible="false")
    assert promote.standing({2: failing, 3: tags(0.9, eligible="false")}, unasked) == (2, None)
    assert promote.standing({2: failing, 3: tags(0.9, eligible="false"), 4: tags(0.6)}, unasked) == (4, None)


def test_each_version_keeps_the_limits_it_was_registered_with() -> None:
    assert standing(tags(0.8), tags(0.85, min_gain="0.1")) == (1, None)
    assert standing(tags(0.8), tags(0.85, min_common="21")) == (1, None)
    assert standing(tags(0.8), tags(0.85, min_gain="0.01", min_common="20")) == (2, 1)


def test_only_versions_with_other_images_are_measured() -> None:
    asked = []

    def measure(challenger: int, holder: int) -> promote.Gain:
        asked.append((challenger, holder))
        return promote.Gain(0.1, 10)

    assert standing(tags(0.9), tags(0.95), tags(0.6, images="b"), tags(0.7, images="b"), measure=measure) == (4, 3)
    assert asked == [(3, 2)]


@pytest.mark.parametrize(("gain", "champion"), [((0.1, 10), 2), ((0.1, 9), 1), ((-0.1, 10), 1), ((0.0, 10), 1)])
def test_what_was_measured_counts_and_is_a_tag_from_then_on(gain: tuple[float, int], champion: int) -> None:
    measured = promote.Gain(*gain)
    first, second = tags(0.9), tags(0.6, images="b")
    assert standing(first, second, measure=lambda *_: measured).champion == champion
    assert standing(first, second | promote.against(1, measured)).champion == champion


def test_two_tables_are_measured_on_their_common_validation_images() -> None:
    candidate = pd.concat([table(PERFECT), table(BAD, first=10)])
    champion = pd.concat([table(GOOD), table(PERFECT, first=20), table(PERFECT, first=10, split="test")])
    assert promote.auc_gain(candidate, champion) == (pytest.approx(1 / 9), 3)
    assert promote.auc_gain(candidate, champion.iloc[:0]) == (0.0, 0)


def test_facts_of_versions_give_the_champion_that_their_tables_give() -> None:
    """By tags alone, as `decide` would do one after the other."""
    tables = [table(BAD), table(GOOD), table(PERFECT), table(GOOD)]
    for asks in ({}, {"min_gain": 0.5}, {"min_sensitivity": 0.9, "threshold": 0.75}, {"min_common": 4}):
        champion, registry = 1, {1: promote.facts(tables[0], **(ASKS | asks))}
        for version, candidate in enumerate(tables[1:], start=2):
            if decide(candidate, tables[champion - 1], **asks).promoted:
                champion = version
            registry[version] = promote.facts(candidate, **(ASKS | asks))
            assert promote.standing(registry, unasked).champion == champion


def test_facts_know_the_validation_images_and_nothing_of_the_rest() -> None:
    plain = promote.facts(table(GOOD), **ASKS)
    assert promote.facts(pd.concat([table(GOOD), table(BAD, first=50, split="test")]), **ASKS) == plain
    assert promote.facts(table(GOOD).iloc[::-1], **ASKS) == plain
    others = promote.facts(table(GOOD, first=1), **ASKS)
    relabelled = promote.facts(table(GOOD, labels=LABELS[::-1]), **ASKS)
    assert len({facts["val_digest"] for facts in (plain, others, relabelled)}) == 3


def test_versions_from_before_the_gates_and_without_figures_do_no_harm() -> None:
    old = {"val_auc": "0.9", "data_digest": "a"}
    assert standing({}, old, tags(0.8), measure=lambda *_: promote.Gain(-0.1, 20)) == (2, None)


def test_a_version_whose_predictions_are_lost_takes_no_part() -> None:
    lost = {"predictions_lost_at": "now"}
    assert standing(tags(0.9) | lost, tags(0.8)) == (2, None)
    assert standing(tags(0.7), tags(0.9) | lost, tags(0.8)) == (3, 1)
    rolled_back_only = standing(tags(0.9) | lost, tags(0.8, rolled_back_at="now"))
    assert rolled_back_only == (2, None), "not the lost one, even where nothing else is left"
    registry = {1: tags(0.7, crowned_at="1") | lost, 2: tags(0.8, crowned_at="2")}
    assert promote.rollback(registry, 2, choose) is None


# --- several versions of one train run ---


def test_the_version_in_use_is_the_one_registered_last() -> None:
    registry = {1: {}, 2: {"same_run_as": "1"}, 3: {}, 4: {"same_run_as": "1"}}
    assert [promote.newest(registry, version) for version in (1, 2, 3, 4)] == [4, 4, 3, 4]
    registry[2]["registration"] = "9"
    registry[4]["registration"] = "10"
    assert promote.newest(registry, 1) == 4
    registry[1]["registration"] = "11"
    assert promote.newest(registry, 2) == 1
    registry[2]["registration"] = "11"
    assert promote.newest(registry, 4) == 2, "of equals the higher number"


def test_a_run_takes_part_as_one_version_in_its_place() -> None:
    again = {"same_run_as": "1"}
    assert standing(tags(0.8), tags(0.8), tags(0.8, **again)) == (1, None)
    deleted = {2: tags(0.8), 3: tags(0.8, **again), 4: tags(0.8, **again)}
    assert promote.standing(deleted, unasked) == (3, None), "before version 2, as version 1 was"
    failing = tags(0.7, eligible="false", **again)
    assert promote.standing({2: tags(0.6), 3: failing}, unasked) == (3, None), "still the first model"


def test_what_happened_to_one_version_of_a_run_happened_to_all() -> None:
    again = {"same_run_as": "2"}
    for name in ("rolled_back_at", "predictions_lost_at"):
        for place in (2, 3):
            registry = {1: tags(0.7), 2: tags(0.9), 3: tags(0.9, **again)}
            registry[place][name] = "now"
            assert promote.standing(registry, unasked) == (1, None)


def test_a_comparison_counts_also_when_both_first_versions_are_deleted() -> None:
    measured = promote.against(1, promote.Gain(0.1, 10))
    registry = {3: tags(0.9, same_run_as="1"), 4: tags(0.6, images="b", same_run_as="2") | measured}
    assert promote.standing(registry, unasked) == (4, 3)


def test_a_rollback_withdraws_the_run_with_all_its_versions() -> None:
    registry = {1: tags(0.7, crowned_at="1"), 3: tags(0.9, same_run_as="2", crowned_at="2")}
    registry[4] = registry[3]
    assert promote.canonical(registry, 4) == 3
    assert promote.rollback(registry, 3, choose) == (1, (3,))
    del registry[1]
    assert promote.rollback(registry, 3, choose) is None


# --- back to an earlier champion ------------------------------------------------------------------------------------


def choose(registry: promote.Tags) -> promote.Standing:
    return promote.standing(registry, unasked)


def rolled_back(registry: dict[int, dict[str, str]], aside: tuple[int, ...]) -> dict[int, dict[str, str]]:
    return {
        version: known | ({"rolled_back_at": "now"} if version in aside else {}) for version, known in registry.items()
    }


def test_repeated_rollbacks_walk_back_through_the_champions() -> None:
    registry = {version: tags(0.7 + version / 100, crowned_at=f"2026-01-0{version}") for version in (1, 2, 3)}
    registry[2] = tags(0.5)  # never champion
    registry[4] = tags(0.9, crowned_at="2026-01-04")
    champion, walked = 4, []
    while plan := promote.rollback(registry, champion, choose):
        assert plan.aside == (champion,)
        registry = rolled_back(registry, plan.aside)
        champion = choose(registry).champion
        walked.append(champion)
        assert champion == plan.champion
    assert walked == [3, 1]


def test_who_was_never_champion_does_not_take_the_place_of_an_earlier_one() -> None:
    registry = {1: tags(0.8, crowned_at="1"), 2: tags(0.95, crowned_at="2"), 3: tags(0.9), 4: tags(0.7)}
    plan = promote.rollback(registry, 2, choose)
    assert plan == (1, (2, 3))
    after = rolled_back(registry, plan.aside)
    assert choose(after).champion == 1
    assert choose(after | {5: tags(0.85)}).champion == 5, "a new one is compared with the champion"
    del after[2]["rolled_back_at"]
    assert choose(after).champion == 2, "without the tag it competes again"


def test_the_latest_reign_counts_not_the_highest_number() -> None:
    registry = {1: tags(0.7, crowned_at="1"), 2: tags(0.8, crowned_at="4"), 3: tags(0.9, crowned_at="3")}
    registry[4] = tags(0.95, crowned_at="5")
    plan = promote.rollback(registry, 4, choose)
    assert plan == (2, (4, 3))


def test_a_first_champion_that_failed_its_gates_can_be_gone_back_to() -> None:
    registry = {1: tags(0.7, eligible="false", crowned_at="1"), 2: tags(0.9, crowned_at="2")}
    assert promote.rollback(registry, 2, choose) == (1, (2,))


def test_a_former_champion_that_fails_its_gates_by_now_is_not_gone_back_to() -> None:
    failing = tags(0.8, eligible="false", crowned_at="2")
    registry = {1: tags(0.7, crowned_at="1"), 2: failing, 3: tags(0.9, crowned_at="3")}
    assert promote.rollback(registry, 3, choose) == (1, (3,))
    assert promote.rollback({2: failing, 3: registry[3]}, 3, choose) is None


def test_the_only_champion_has_nobody_before_it() -> None:
    assert promote.rollback({1: tags(0.7, crowned_at="1"), 2: tags(0.6)}, 1, choose) is None
    again = {1: tags(0.7, crowned_at="1"), 2: tags(0.9, crowned_at="2", rolled_back_at="3")}
    assert promote.rollback(again, 1, choose) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_decision_that_agrees_with_the_registry_stays_as_it_is(version: int) -> None:
    decision = decide(table([PERFECT, GOOD][version - 1]), table(GOOD))
    assert promote.settled(decision, version, 1, {}) == decision


def test_the_registry_has_the_last_word_and_the_reason_says_why() -> None:
    better, worse = decide(table(PERFECT), table(GOOD)), decide(table(GOOD), table(PERFECT))
    back = promote.settled(better, 2, 1, {"rolled_back_at": "now"})
    assert not back.promoted
    assert back.reason.endswith(
        "; but it was rolled back; without its tag registry.rolled_back_at it would compete again"
    )
    assert promote.settled(better, 2, 3, {}).reason.endswith("; but version 3 is better by the comparisons in the tags")
    assert promote.settled(worse, 2, 2, {}).promoted


def test_deciding_changes_no_table() -> None:
    candidate, champion = table(PERFECT), table(GOOD)
    before = candidate.copy(), champion.copy()
    decide(candidate, champion)
    pd.testing.assert_frame_equal(candidate, before[0])
    pd.testing.assert_frame_equal(champion, before[1])
