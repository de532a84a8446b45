"""Comparisons of tables of a few scores, worked out by hand, and the page and the lines that a user sees."""

import cv2
import numpy as np
import pandas as pd
import pytest

from pneumonia import UserError, compare
from pneumonia.data.targets import PNEUMONIA, TARGETS
from pneumonia.metrics import decisions, ranking

VAL = [0, 0, 0, 1, 1, 1]
TEST = [0, 0, 1, 1]


def predictions(val: list[float], test: list[float], *, first: int = 0, labels: list[int] = VAL) -> pd.DataFrame:
    """Validation images `first`, `first` + 1, ... and test images 100, 101, ..."""
    numbers = [*range(first, first + len(val)), *range(100, 100 + len(test))]
    return pd.DataFrame(
        {
            "image_id": [f"i{number}" for number in numbers],
            "sha256": [f"{number:064x}" for number in numbers],
            "patient_id": [f"p{number}" for number in numbers],
            "split": ["val"] * len(val) + ["test"] * len(test),
            "label": [*labels, *TEST],
            "score": [*val, *test],
        }
    )


# A decides at .5. B is A with one wrong pair on validation and decides at .25, on scores of another scale.
A = predictions([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0.6, 0.1, 0.4, 0.9])
B = predictions([0.01, 0.02, 0.3, 0.28, 0.31, 0.4], [0.1, 0.2, 0.6, 0.3])


def compared(a: pd.DataFrame = A, b: pd.DataFrame = B) -> compare.Compared:
    return compare.compare(a, b, level=0.95)


def test_both_are_judged_at_their_own_threshold_from_their_own_validation() -> None:
    found = compared()
    assert found.thresholds == {"A": 0.5, "B": 0.15}
    test = found.figures["test"]
    assert (test["A"]["sensitivity"], test["A"]["specificity"], test["A"]["accuracy"]) == (0.5, 0.5, 0.5)
    assert (test["B"]["sensitivity"], test["B"]["specificity"], test["B"]["accuracy"]) == (1.0, 0.5, 0.75)
    assert (found.figures["val"]["A"]["auc"], found.figures["val"]["B"]["auc"]) == (1.0, pytest.approx(8 / 9))


def test_scores_on_test_move_no_threshold() -> None:
    other = predictions([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0.99, 0.98, 0.01, 0.02])
    assert compared(other).thresholds == compared().thresholds
    assert compare.verdict(compared(other)) == compare.verdict(compared())


def test_the_p_value_is_of_paired_scores() -> None:
    found = compared()
    assert found.p_values["val"] == ranking.delong_test(VAL, A["score"][:6], B["score"][:6])
    assert found.p_values["test"] == ranking.delong_test(TEST, A["score"][6:], B["score"][6:])


def test_only_images_that_both_scored_count() -> None:
    shifted = predictions([0.4, 0.5, 0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.6, 0.3], first=1, labels=[0, 0, 1, 1, 1, 0])
    found = compared(A, shifted)
    common = found.splits["val"]
    assert common["image_id"].tolist() == ["i1", "i2", "i3", "i4", "i5"]
    assert common["A"].tolist() == [0.2, 0.3, 0.7, 0.8, 0.9]
    assert common["B"].tolist() == [0.4, 0.5, 0.2, 0.6, 0.7]
    assert "5 common validation images (3 pneumonia), of 6 that A and 6 that B has scored" in compare.notes(found)


def test_an_image_whose_label_was_changed_does_not_count() -> None:
    relabelled = predictions([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0.6, 0.1, 0.4, 0.9], labels=[0, 1, 0, 1, 1, 1])
    assert "i1" not in set(compared(A, relabelled).splits["val"]["image_id"])


def test_a_file_that_occurs_twice_is_one_image() -> None:
    twice = pd.concat([A, A.head(1).assign(image_id="copy")])
    assert len(compared(twice).splits["val"]) == 6


def test_predictions_from_before_patients_were_known_are_compared() -> None:
    assert compared(A.drop(columns="patient_id")).figures["val"]["A"]["auc"] == 1.0


@pytest.mark.parametrize("split", ["val", "test"])
def test_models_without_common_images_are_refused(split: str) -> None:
    others = B.assign(sha256=np.where(B["split"] == split, "f" + B["sha256"].str[1:], B["sha256"]))
    n = (B["split"] == split).sum()
    with pytest.raises(UserError, match=rf"no {compare.SPLITS[split]} image in common \(A has {n}, B has {n}\)"):
        compared(A, others)


def test_a_model_validated_on_one_class_is_refused() -> None:
    sick = A[(A["split"] == "test") | (A["label"] == 1)]
    with pytest.raises(UserError, match="all validation images of B have one class"):
        compared(A, sick)


def test_the_short_table_has_figures_differences_and_p_values() -> None:
    table = compare.table(compared()).set_index("")
    assert list(table) == ["A", "B", "B - A", "p"]
    assert list(table.index) == [
        *("AUC, validation", "AUC, test", "accuracy, test", "sensitivity, test", "specificity, test")
    ]
    assert table.loc["AUC, validation", "A"].startswith("1.0000 [0.")
    assert table.loc["AUC, validation", "B - A"] == "-0.1111"
    assert float(table.loc["AUC, validation", "p"]) == pytest.approx(compared().p_values["val"], abs=0.01)
    assert table.loc["sensitivity, test", "B - A"] == "+0.5000"
    assert table.loc["sensitivity, test", "p"] == ""
    low, high = decisions.wilson_interval(1, 2)
    assert table.loc["sensitivity, test", "A"] == f"0.500 [{low:.3f}, {high:.3f}]"


def test_one_class_on_test_leaves_out_what_it_does_not_define() -> None:
    found = compared(*(table.drop(table.index[[6, 7]]) for table in (A, B)))
    table = compare.table(found).set_index("")
    assert table.loc["AUC, test"].tolist() == ["", "", "", ""]
    assert table.loc["specificity, test", "A"] == ""
    assert table.loc["sensitivity, test", "A"].startswith("0.500")
    assert "roc" not in compare.curves(found, "test")["A"]
    assert "roc" in compare.curves(found, "val")["A"]


def test_the_verdict_is_that_of_validation() -> None:
    assert compare.verdict(compared()).startswith("On the 6 common validation images A is ahead by 0.1111 of AUC")
    assert compare.verdict(compared(B, A)).startswith("On the 6 common validation images B is ahead by 0.1111 of AUC")
    assert compare.verdict(compared()).endswith("which chance alone may give.")
    assert compare.verdict(compared(A, A)) == "On the 6 common validation images both have the same AUC."


def test_the_verdict_says_when_a_lead_is_more_than_chance() -> None:
    labels = [0, 1] * 50
    good = predictions([label * 0.5 + 0.004 * i for i, label in enumerate(labels)], TEST, labels=labels)
    poor = predictions([0.5 + 0.3 * (-1) ** (i // 2) - 0.001 * i for i in range(100)], TEST, labels=labels)
    assert compare.verdict(compared(good, poor)).endswith("which chance alone rarely gives.")


def test_what_chance_makes_follows_the_level() -> None:
    labels, rng = [0, 1] * 50, np.random.default_rng(0)
    good, poor = (
        predictions((np.array(labels) + rng.normal(0, noise, 100)).tolist(), TEST, labels=labels)
        for noise in (0.5, 0.7)
    )
    found = compare.compare(good, poor, level=0.5)
    assert 0.05 < found.p_values["val"] < 0.5
    assert compare.verdict(found).endswith("which chance alone rarely gives.")
    assert compare.verdict(compared(good, poor)).endswith("which chance alone may give.")


def test_images_of_one_patient_are_one_piece_of_evidence() -> None:
    patients = [f"p{row // 2}" for row in range(len(A))]
    found = compared(A.assign(patient_id=patients), B)
    assert found.p_values["val"] == ranking.delong_test(VAL, A["score"][:6], B["score"][:6], groups=patients[:6])
    assert found.p_values["val"] != compared().p_values["val"]


def test_disagreements_are_different_decisions_the_farthest_ranks_first() -> None:
    found = compare.disagreements(compared())
    # Decisions of A: 1 0 0 1, of B: 0 1 1 1. Ranks of A: 2/3 0 1/3 1, of B: 0 1/3 1 2/3.
    assert found["image_id"].tolist() == ["i100", "i102", "i101"]
    assert found["label"].tolist() == ["normal", "pneumonia", "normal"]
    assert found["right"].tolist() == ["B", "B", "A"]
    assert found["rank_A"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert found["rank_B"].tolist() == pytest.approx([0, 1, 1 / 3])
    assert compare.tally(compared(), found) == (
        "On 3 of the 4 common test images they decide differently; A is right on 1 of them, B on 2."
    )
    assert compare.rows(found).iloc[0].tolist() == ["i100", "normal", "0.600 (67%)", "0.100 (0%)", "B"]


def test_a_model_disagrees_with_no_monotone_transform_of_itself() -> None:
    same = compared(A, A.assign(score=A["score"] ** 3))
    assert (
        compare.tally(same, compare.disagreements(same))
        == "On all of the 4 common test images both models decide the same."
    )


def test_a_table_and_a_gallery_have_room_for_so_many() -> None:
    n = 50
    found = pd.DataFrame({"sha256": [f"{i:064x}" for i in range(n)], "image_id": [f"i{i}" for i in range(n)]})
    found = found.assign(label="normal", A=0.1, B=0.9, rank_A=0.0, rank_B=1.0, right="A")
    images, ids = np.zeros((n, 8, 8), np.uint8), np.array(found["image_id"])
    assert len(compare.rows(found)) == 20
    assert len(compare.gallery(found, found, images, ids)) == 12


def test_the_gallery_shows_the_same_file_not_another_image_of_the_same_name() -> None:
    found = compare.disagreements(compared())
    images = np.stack([np.full((400, 400), 40 * (row + 1), np.uint8) for row in range(4)])
    splits = A[A["split"] == "test"][["image_id", "sha256"]].reset_index(drop=True)
    splits.loc[0, "sha256"] = "f" * 64  # i100 is another file by now
    shown = compare.gallery(found, splits, images, np.array(["i101", "i102", "i103", "i100"]))
    assert [caption for caption, _ in shown] == [
        "i102: pneumonia; A 0.400, B 0.600; B is right",
        "i101: normal; A 0.100, B 0.200; A is right",
    ]
    pictures = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) for _, content in shown]
    assert [np.unique(picture).tolist() for picture in pictures] == [[80], [40]]
    assert max(pictures[0].shape) == compare.PIXELS


def test_models_of_different_targets_are_refused_in_one_line_and_names_are_those_of_the_target() -> None:
    bacterial = TARGETS["bacterial"]
    with pytest.raises(
        UserError, match=r"^A tells normal from pneumonia, B tells viral from bacterial: .* one target$"
    ):
        compare.require_same_target(PNEUMONIA, bacterial)
    assert compare.require_same_target(bacterial, bacterial) is bacterial
    both = compare.compare(A, B, level=0.95, target=bacterial)
    assert "pneumonia" not in compare.notes(both)
    assert "bacterial), of" in compare.notes(both)
    assert set(compare.disagreements(both)["label"]) <= {"viral", "bacterial"}
