"""No patient on two sides, a sealed test split, and classes balanced in train alone."""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from pneumonia import UserError, rebalance
from pneumonia.data import relabel, tables
from pneumonia.data.targets import TARGETS
from pneumonia.rebalance import (
    acquisition,
    assign_splits,
    balance,
    describe,
    require_both_classes,
    summarise,
    summarise_acquisition,
    weight_by_acquisition,
)
from stages import rebalance as stage
from tests.conftest import set_settings

BACTERIAL = TARGETS["bacterial"]
STRATEGIES = ("class_weight", "oversample", "undersample", "none")
FRACTIONS: dict[str, Any] = {"official_test": "use", "test_fraction": 0.2, "val_fraction": 0.2}


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table as `validate` writes it; what a row does not say is made up, each file different."""
    defaults = {"label": 1, "subtype": "s", "source_split": "", "width": 300, "look_alike": ""}
    return pd.DataFrame(
        [
            {"image_id": f"i{n:04}", "sha256": f"file {n}"} | defaults | {"valid": True, "reason": ""} | row
            for n, row in enumerate(rows)
        ]
    )


def crowd(n_patients: int = 60, *, images_each: int = 2, **facts: Any) -> list[dict[str, Any]]:
    """Images of many patients; every third is normal."""
    return [
        {"patient_id": f"p{patient:03}", "label": int(patient % 3 != 0)} | facts
        for patient in range(n_patients)
        for _ in range(images_each)
    ]


def split_of(table: pd.DataFrame, **settings: Any) -> dict[str, str]:
    splits = assign_splits(table, **FRACTIONS | {"seed": 1} | settings)
    return dict(zip(splits["image_id"], splits["split"], strict=True))


@st.composite
def archives(draw: st.DrawFn) -> pd.DataFrame:
    """Patients with 1-5 images, some files shared, some alike, some rows bad, with official splits or without."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = {"": 1.0} | draw(
        st.sampled_from([{}, {"test": 0.15}, {"val": 0.1}, {"test": 0.15, "val": 0.1}, {"test": 0.15, "val": 0.005}])
    )
    shares[""] -= sum(shares.values()) - 1
    shared = draw(st.sampled_from([0.0, 0.05, 0.3]))
    rows = []
    for patient in range(draw(st.integers(20, 80))):
        label = int(rng.random() < 0.6)
        for _ in range(rng.integers(1, 6)):
            rows.append(
                {
                    "patient_id": f"p{patient}",
                    "label": label,
                    "source_split": str(rng.choice(list(shares), p=list(shares.values()))),
                    "valid": bool(rng.random() > 0.05),
                }
                | ({"sha256": f"shared {label} {rng.integers(20)}"} if rng.random() < shared else {})
            )
    table = table_of(rows)
    for _ in range(draw(st.integers(0, 4))):
        members = rng.choice(np.flatnonzero(table["valid"]), rng.integers(2, 5), replace=False)
        table.loc[members, "look_alike"] = table.loc[members, "image_id"].min()
    return table.sample(frac=1, random_state=rng.integers(2**31))


def linked_patients(table: pd.DataFrame) -> dict[str, str]:
    """patient -> representative of all patients tied to him by files that are or look the same, by repetition."""
    leader = {patient: patient for patient in table["patient_id"]}
    alike = table[table["look_alike"] != ""]
    ties = [its for rows, key in ((table, "sha256"), (alike, "look_alike")) for _, its in rows.groupby(key)]
    for _ in leader:
        before = dict(leader)
        for together in ties:
            changing = {leader[patient] for patient in together["patient_id"]}
            leader = {patient: min(changing) if its in changing else its for patient, its in leader.items()}
        if leader == before:
            break
    return leader


# --- splits ---


@given(archives(), st.integers(0, 5))
def test_no_patient_in_two_splits(table: pd.DataFrame, seed: int) -> None:
    try:
        splits = assign_splits(table, **FRACTIONS, seed=seed)
    except UserError:
        reject()  # too few patients
    valid = table[table["valid"]]
    person = linked_patients(valid)
    assert splits.groupby(splits["patient_id"].map(person))["split"].nunique().max() == 1
    assert set(splits["split"]) == {"train", "val", "test"}
    drawn = splits[~splits["source_split"].isin(["val", "test"])]
    # Where both are official nothing is drawn; people of both classes can fill a fold of a small set by themselves.
    of_one_class = valid.groupby(valid["patient_id"].map(person))["label"].nunique().eq(1).all()
    if len(set(drawn["split"])) > 1 and of_one_class:
        assert (drawn.groupby("split")["label"].nunique() == 2).all()

    sealed = valid[valid["source_split"] == "test"]
    if len(sealed):
        assert set(splits.loc[splits["split"] == "test", "image_id"]) == set(sealed["image_id"])
    outside = splits[splits["source_split"] != "test"]
    assert not outside["sha256"].duplicated().any()
    assert not outside["sha256"].isin(sealed["sha256"]).any()

    official = valid[valid["source_split"] == "val"]
    untied = official[~official["patient_id"].map(person).isin(sealed["patient_id"].map(person))]
    if len(untied):
        val = splits[splits["split"] == "val"]
        assert set(val["source_split"]) == {"val"}
        assert set(val["sha256"]) == set(untied["sha256"])

    # Nothing is left out but copies of a kept file and people of a split that judges.
    left_out = valid[~valid["image_id"].isin(splits["image_id"])]
    judges = pd.concat([sealed, untied])["patient_id"].map(person)
    judged = left_out["patient_id"].map(person).isin(judges)
    assert (left_out["sha256"].isin(splits["sha256"]) | judged).all()
    assert splits["image_id"].is_unique
    assert splits["image_id"].is_monotonic_increasing


def test_an_official_test_split_stays_as_it_is_with_its_duplicates() -> None:
    test = [{"patient_id": f"t{n}", "source_split": "test", "sha256": f"t{n // 2}"} for n in range(8)]
    split = split_of(table_of([*crowd(source_split="train"), *test]))
    assert [image_id for image_id, its in split.items() if its == "test"] == [f"i{n:04}" for n in range(120, 128)]


def test_elsewhere_an_exact_duplicate_keeps_its_first_row() -> None:
    rows = crowd()
    rows[5]["sha256"] = rows[4]["sha256"] = "same"
    split = split_of(table_of(rows))
    assert "i0004" in split
    assert "i0005" not in split
    assert len(split) == len(rows) - 1


def test_a_copy_of_a_sealed_test_image_is_not_learnt_from() -> None:
    rows = crowd(source_split="train")
    rows[0]["sha256"] = "same"
    rows.append({"patient_id": "other", "source_split": "test", "sha256": "same"})
    split = split_of(table_of(rows))
    assert split["i0120"] == "test"
    assert "i0000" not in split
    assert "i0001" not in split, "who shares a file with a test patient is that patient, all images of him"


def test_patients_of_a_sealed_test_split_lose_their_rows_outside_it() -> None:
    rows = [*crowd(source_split="train"), {"patient_id": "p001", "source_split": "test"}]
    split = split_of(table_of(rows))
    assert {"i0002", "i0003"}.isdisjoint(split)
    assert len(split) == 119


@pytest.mark.parametrize("seed", range(8))
def test_patients_who_share_a_file_count_as_one(seed: int) -> None:
    rows = crowd(images_each=2)
    chain = [1, 2, 4, 5]  # 1 shares with 2, 2 with 4, 4 with 5
    for number, (one, other) in enumerate(pairwise(chain)):
        rows += [{"patient_id": f"p{who:03}", "sha256": f"shared {number}"} for who in (one, other)]
    table = table_of(rows)
    splits = assign_splits(table, **FRACTIONS, seed=seed)
    together = splits[splits["patient_id"].isin([f"p{who:03}" for who in chain])]
    assert together["patient_id"].nunique() == 4
    assert len(set(together["split"])) == 1


@pytest.mark.parametrize("seed", range(8))
def test_patients_whose_images_look_alike_count_as_one(seed: int) -> None:
    rows = crowd()
    for image in (2, 8, 20):  # of p001, p004, p010
        rows[image]["look_alike"] = "i0002"
    for image in (21, 31):  # the other image of p010, and one of p015
        rows[image]["look_alike"] = "i0021"
    splits = assign_splits(table_of(rows), **FRACTIONS, seed=seed)
    together = splits[splits["patient_id"].isin(["p001", "p004", "p010", "p015"])]
    assert len(together) == 8, "none of them is left out: they differ, byte by byte"
    assert len(set(together["split"])) == 1


def test_images_without_a_look_alike_are_not_tied_to_one_another() -> None:
    assert len(set(split_of(table_of(crowd())).values())) == 3


def test_who_looks_like_a_patient_of_the_sealed_test_split_is_left_out() -> None:
    rows = crowd(source_split="train")
    rows[2]["look_alike"] = "i0002"
    rows.append({"patient_id": "other", "source_split": "test", "look_alike": "i0002"})
    split = split_of(table_of(rows))
    assert split["i0120"] == "test"
    assert {"i0002", "i0003"}.isdisjoint(split)
    assert len(split) == 119


# --- an official test split that is left out ---


@given(archives(), st.integers(0, 5))
def test_an_official_test_split_can_stay_unseen(table: pd.DataFrame, seed: int) -> None:
    sealed = table[table["valid"] & (table["source_split"] == "test")]
    try:
        splits = assign_splits(table, **FRACTIONS | {"official_test": "leave_out"}, seed=seed)
    except UserError:
        reject()  # too few patients
    person = linked_patients(table[table["valid"]])
    assert not splits["patient_id"].map(person).isin(sealed["patient_id"].map(person)).any()
    assert splits.groupby(splits["patient_id"].map(person))["split"].nunique().max() == 1
    assert set(splits["split"]) == {"train", "val", "test"}


def test_all_but_the_official_test_split_is_split_as_if_the_source_had_none() -> None:
    rows = crowd(source_split="train")
    test = [{"patient_id": f"t{n}", "label": n % 2, "source_split": "test"} for n in range(9)]
    assert split_of(table_of([*rows, *test]), official_test="leave_out") == split_of(table_of(rows))
    assert split_of(table_of(rows), official_test="leave_out") == split_of(table_of(rows)), "nothing to leave out"


def test_what_stays_unseen_is_counted() -> None:
    test = [{"patient_id": f"t{n}", "label": n % 2, "source_split": "test"} for n in range(9)]
    table = table_of([*crowd(source_split="train"), {"patient_id": "t1", "source_split": "train"}, *test])
    splits = assign_splits(table, **FRACTIONS | {"official_test": "leave_out"}, seed=1)
    report = summarise(table, balance(splits, strategy="none", seed=1), "none")
    assert report["official_test"] is False
    assert report["test_split"] == "drawn, official left out"
    assert report["n_left_out_official_test"] == 9
    assert report["n_left_out_duplicates_or_test_patients"] == 1, "the train image of a patient of that split"


# --- official validation splits ---


def with_val(*rows: dict[str, Any], of_train: int = 90, test: bool = True) -> list[dict[str, Any]]:
    """Images `i0000` on of train, 20 of test, 20 of val, then `rows`; no patient in two."""
    judges = [{"patient_id": f"t{n}", "label": n % 2, "source_split": "test"} for n in range(20)] if test else []
    judges += [{"patient_id": f"v{n}", "label": n % 2, "source_split": "val"} for n in range(20)]
    return [*crowd(of_train // 2, source_split="train"), *judges, *rows]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("test", [True, False])
def test_an_official_validation_split_stays_as_it_is(test: bool, seed: int) -> None:
    table = table_of(with_val(test=test))
    splits = assign_splits(table, **FRACTIONS, seed=seed)
    assert len(splits) == len(table)
    assert splits["split"].eq("val").equals(splits["source_split"].eq("val"))
    assert splits["split"].value_counts().to_dict() == (
        {"train": 90, "test": 20, "val": 20} if test else {"train": 72, "test": 18, "val": 20}
    )


def test_without_an_official_validation_split_one_is_drawn_from_train() -> None:
    rows = [row for row in with_val(of_train=180) if row["source_split"] != "val"]
    splits = assign_splits(table_of(rows), **FRACTIONS, seed=1)
    val = splits[splits["split"] == "val"]
    assert len(val) == pytest.approx(0.2 * 180, abs=6)
    assert set(val["source_split"]) == {"train"}
    assert splits["source_split"].value_counts().to_dict() == {"train": 180, "test": 20}


@pytest.mark.parametrize("train_first", [True, False])
def test_of_copies_in_train_and_validation_the_one_in_validation_stays(train_first: bool) -> None:
    copies = [
        {"image_id": f"{'ab'[first]}", "patient_id": "twice", "source_split": split, "sha256": "same"}
        for first, split in enumerate(("train", "val") if train_first else ("val", "train"))
    ]
    splits = assign_splits(table_of(with_val(*copies)), **FRACTIONS, seed=1)
    copy = splits[splits["sha256"] == "same"]
    assert copy[["source_split", "split"]].to_numpy().tolist() == [["val", "val"]]


@pytest.mark.parametrize("tie", [{}, {"sha256": "file 110"}, {"look_alike": "alike"}], ids=["id", "file", "look"])
@pytest.mark.parametrize("test", [True, False])
def test_patients_of_an_official_validation_split_lose_their_rows_in_train(tie: dict[str, str], test: bool) -> None:
    """`file 110` and `file 90` are of a validation patient, with and without an official test split."""
    one = 110 if test else 90
    if "sha256" in tie:
        tie = {"sha256": f"file {one}"}
    patient = "x" if tie else "v0"
    rows = with_val({"patient_id": patient, "source_split": "train"} | tie, test=test)
    rows += [{"patient_id": patient, "source_split": "train"} for _ in range(3)]
    if "look_alike" in tie:
        rows[one] |= tie
    for seed in range(8):
        splits = assign_splits(table_of(rows), **FRACTIONS, seed=seed)
        assert len(splits) == len(rows) - 4
        assert patient not in set(splits.loc[splits["split"] != "val", "patient_id"])
        assert splits["split"].eq("val").sum() == 20, "what judges stays as it is"


def test_patients_of_the_sealed_test_split_lose_their_rows_in_train_and_validation() -> None:
    rows = with_val(*({"patient_id": "t0", "source_split": split} for split in ("train", "val")))
    splits = assign_splits(table_of(rows), **FRACTIONS, seed=1)
    assert splits.loc[splits["patient_id"] == "t0", "split"].to_list() == ["test"]
    assert splits["split"].value_counts().to_dict() == {"train": 90, "test": 20, "val": 20}


def test_an_official_validation_split_of_test_patients_alone_is_replaced_by_a_drawn_one() -> None:
    rows = [row | ({"patient_id": "t0"} if row["source_split"] == "val" else {}) for row in with_val(of_train=180)]
    splits = assign_splits(table_of(rows), **FRACTIONS, seed=1)
    assert splits["source_split"].value_counts().to_dict() == {"train": 180, "test": 20}
    assert splits["split"].eq("val").sum() == pytest.approx(0.2 * 180, abs=6)


@pytest.mark.parametrize("seed", range(5))
def test_splits_have_the_sizes_asked_for_and_the_same_class_shares(seed: int) -> None:
    table = table_of(crowd(300))
    splits = assign_splits(table, **FRACTIONS | {"test_fraction": 0.25}, seed=seed)
    share = splits["split"].value_counts(normalize=True)
    assert share.to_dict() == pytest.approx({"test": 0.25, "val": 0.75 * 0.2, "train": 0.75 * 0.8}, abs=0.01)
    pneumonia = splits.groupby("split")["label"].mean()
    assert pneumonia.to_list() == pytest.approx([2 / 3] * 3, abs=0.02)


def test_the_seed_alone_decides_the_draw() -> None:
    table = table_of(crowd())
    assert split_of(table, seed=1) == split_of(table.sample(frac=1, random_state=3), seed=1)
    assert split_of(table, seed=1) != split_of(table, seed=2)


def test_quarantined_rows_are_left_out_with_the_columns_that_say_so() -> None:
    rows = crowd()
    rows[7] |= {"valid": False, "reason": "blank"}
    splits = assign_splits(table_of(rows), **FRACTIONS, seed=1)
    assert "i0007" not in set(splits["image_id"])
    assert {"valid", "reason"}.isdisjoint(splits)
    assert {"image_id", "label", "patient_id", "sha256", "source_split", "width", "split"} <= set(splits)


@pytest.mark.parametrize(
    ("rows", "name", "smaller"),
    [
        (crowd(12), "test", 4),  # 4 normal patients, and a fifth of them is less than one
        (crowd(60, label=1), "test", 0),
        ([*crowd(12, source_split="train"), {"patient_id": "t", "source_split": "test"}], "validation", 4),
    ],
)
def test_too_few_patients_are_one_line_with_the_remedy(rows: list[dict[str, Any]], name: str, smaller: int) -> None:
    with pytest.raises(UserError) as caught:
        assign_splits(table_of(rows), **FRACTIONS, seed=1)
    assert str(caught.value) == (
        f"too few patients to draw a {name} split of 20%: {smaller} in the smaller class, at least 5 are needed; "
        "add patients, or use a fraction such as 0.5 or 0.25"
    )


def test_a_patient_with_very_many_images_is_named_where_patients_are_too_few() -> None:
    rows = [row | {"patient_id": "valid"} if number > 5 else row for number, row in enumerate(crowd(24))]
    with pytest.raises(UserError, match=r"in the smaller class \(valid has 42 images: is it a patient\?\), at least 5"):
        assign_splits(table_of(rows), **FRACTIONS, seed=1)


# --- classes ---


def a_split(**counts: tuple[int, int]) -> pd.DataFrame:
    """`train=(normals, pneumonias)`, and so on."""
    rows = [
        {
            "image_id": f"{split}-{label}-{n}",
            "split": split,
            "label": label,
            "patient_id": f"{split}{label}{n}",
            "source_split": "",
        }
        for split, of_class in counts.items()
        for label, count in enumerate(of_class)
        for n in range(count)
    ]
    return pd.DataFrame(rows)


SPLIT = a_split(train=(3, 8), val=(1, 5), test=(4, 2))


def test_class_weights_give_both_classes_the_same_weight_and_a_mean_of_one() -> None:
    train = balance(SPLIT, strategy="class_weight", seed=1).query("split == 'train'")
    assert train.groupby("label")["weight"].unique().to_dict() == {0: [round(11 / 6, 6)], 1: [0.6875]}
    assert train["weight"].mean() == pytest.approx(1, abs=1e-6)
    assert (train["repeats"] == 1).all()


def test_oversampling_shows_the_rarer_class_as_often() -> None:
    train = balance(SPLIT, strategy="oversample", seed=1).query("split == 'train'")
    assert sorted(train.loc[train["label"] == 0, "repeats"]) == [2, 3, 3]
    assert (train.loc[train["label"] == 1, "repeats"] == 1).all()
    assert (train["weight"] == 1).all()


def test_undersampling_drops_images_of_the_commoner_class() -> None:
    train = balance(SPLIT, strategy="undersample", seed=1).query("split == 'train'")
    assert sorted(train.loc[train["label"] == 1, "repeats"]) == [0] * 5 + [1] * 3
    assert (train.loc[train["label"] == 0, "repeats"] == 1).all()
    assert (train["weight"] == 1).all()


def test_no_strategy_changes_nothing() -> None:
    assert (balance(SPLIT, strategy="none", seed=1)[["weight", "repeats"]] == 1).all(axis=None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_balancing_touches_train_only_and_loses_no_row(strategy: str) -> None:
    balanced = balance(SPLIT, strategy=strategy, seed=1)
    assert (balanced.loc[balanced["split"] != "train", ["weight", "repeats"]] == 1).all(axis=None)
    pd.testing.assert_frame_equal(balanced[list(SPLIT)], SPLIT)
    pd.testing.assert_frame_equal(balance(SPLIT, strategy=strategy, seed=1), balanced)


@pytest.mark.parametrize("strategy", ["oversample", "undersample"])
def test_the_seed_decides_which_images_are_repeated_or_dropped(strategy: str) -> None:
    split = a_split(train=(30, 50))
    first, second = (balance(split, strategy=strategy, seed=seed)["repeats"] for seed in (1, 2))
    assert not first.equals(second)
    assert first.sum() == second.sum()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["class_weight", "oversample", "undersample"]))
def test_an_epoch_gives_both_classes_the_same_weight(normals: int, pneumonias: int, strategy: str) -> None:
    train = balance(a_split(train=(normals, pneumonias)), strategy=strategy, seed=1)
    shown = (train["weight"] * train["repeats"]).groupby(train["label"]).sum()
    assert shown[0] == pytest.approx(shown[1], rel=1e-4)


# --- the report ---


# --- acquisition ----------------------------------------------------------------------------------------------------


def measured(n_patients: int, *, shift: float, share: float = 2 / 3, seed: int = 0) -> pd.DataFrame:
    """Images whose sharpness differs between the classes by `shift` standard deviations, nothing else.

    Both images of a patient were taken alike.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n_patients) < share * n_patients
    rows = [{"patient_id": f"p{patient:05}", "label": int(label[patient])} for patient in range(n_patients)] * 2
    measures = {name: np.tile(rng.normal(size=n_patients), 2) for name in rebalance.ACQUISITION_MEASURES}
    measures["sharpness"] -= shift * np.tile(label, 2)
    measures |= {name: np.tile(rng.integers(200, 400, n_patients), 2) for name in ("width", "height")}
    measures |= {name: np.tile(rng.normal(size=n_patients), 2) for name in rebalance.ACQUISITION_MARKS}
    return table_of(rows).assign(**measures)


def taken(n_patients: int = 300, *, shift: float, share: float = 2 / 3) -> pd.DataFrame:
    """The splits of such images, the classes balanced."""
    splits = assign_splits(measured(n_patients, shift=shift, share=share), **FRACTIONS, seed=1)
    return balance(splits, strategy="class_weight", seed=1)


@cache
def fitted(n_patients: int = 300, *, shift: float, share: float = 2 / 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """These splits and how their images were taken, for tests that read both: a fit takes seconds."""
    splits = taken(n_patients, shift=shift, share=share)
    return splits, acquisition(splits, seed=1)


def sharpness_gap(splits: pd.DataFrame, rows: pd.Index) -> float:
    """Of the weighted means of both classes in train."""
    train = splits.loc[rows]
    means = train.groupby("label")[["sharpness", "weight"]].apply(
        lambda part: np.average(part["sharpness"], weights=part["weight"])
    )
    return float(means[0] - means[1])


def test_acquisition_that_differs_between_the_classes_is_found() -> None:
    splits, found = fitted(1500, shift=2.0)
    found = summarise_acquisition(splits, found)
    assert found["n"] == (splits["split"] == "train").sum()
    assert found["auc"] == pytest.approx(0.92, abs=0.03)  # of two normals so far apart


def test_where_acquisition_says_nothing_nobody_is_weighed_and_patients_are_not_learnt_by_heart() -> None:
    splits, found = fitted(shift=0.0)
    # A model that had seen a patient's other image, taken alike, would know the label.
    assert summarise_acquisition(splits, found)["auc"] == pytest.approx(0.5, abs=0.12)
    weighed = weight_by_acquisition(splits, found, max_ratio=10.0)
    costs = summarise_acquisition(weighed, found)
    assert costs["n_effective_normal"] + costs["n_effective_pneumonia"] > 0.95 * costs["n"]


@pytest.mark.parametrize(
    ("share", "n_patients"),
    [(0.2, 1500), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((0.5, 1500), (0.75, 1500), (0.08, 5000)))],
)
def test_weights_take_from_acquisition_what_it_says_of_the_label_however_rare_a_class_is(
    share: float, n_patients: int
) -> None:
    splits, found = fitted(n_patients, shift=1.5, share=share)
    assert sharpness_gap(splits, found.index) == pytest.approx(1.5, abs=0.2)
    weighed = weight_by_acquisition(splits, found, max_ratio=20.0)
    assert abs(sharpness_gap(weighed, found.index)) < 0.5, "two thirds are taken away"


@pytest.mark.parametrize("strategy", ["class_weight", "oversample", "undersample"])
def test_weighing_changes_neither_what_a_class_weighs_nor_the_other_splits(strategy: str) -> None:
    splits, found = fitted(shift=1.5)
    splits = balance(splits.drop(columns=["weight", "repeats"]), strategy=strategy, seed=1)
    if strategy == "undersample":  # the others show the same images, only more or less of them
        found = acquisition(splits, seed=1)
    weighed = weight_by_acquisition(splits, found, max_ratio=10.0)
    pd.testing.assert_frame_equal(weighed.drop(columns="weight"), splits.drop(columns="weight"))
    train = splits["split"] == "train"
    assert (weighed["weight"][~train] == splits["weight"][~train]).all()
    for label in (0, 1):
        rows = train & (splits["label"] == label)
        shown = splits["repeats"][rows]
        assert (weighed["weight"][rows] * shown).sum() == pytest.approx(
            (splits["weight"][rows] * shown).sum(), rel=1e-3
        )
        assert weighed["weight"][rows].nunique() > 10


def test_no_image_weighs_more_than_was_asked_for() -> None:
    splits, found = fitted(shift=3.0)
    for max_ratio in (2.0, 10.0):
        weighed = weight_by_acquisition(splits, found, max_ratio=max_ratio).loc[found.index]
        for _, weight in weighed.groupby("label")["weight"]:
            assert 0.9 * max_ratio < weight.max() / weight.min() < 1.01 * max_ratio
    sizes = [
        summarise_acquisition(weight_by_acquisition(splits, found, max_ratio=max_ratio), found)
        for max_ratio in (1.0, 10.0)
    ]
    counts = splits[splits["split"] == "train"]["label"].value_counts()
    assert (sizes[0]["n_effective_normal"], sizes[0]["n_effective_pneumonia"]) == pytest.approx((counts[0], counts[1]))
    assert sizes[1]["n_effective_normal"] < 0.8 * counts[0]


def test_the_view_counts_as_acquisition_where_it_is_known() -> None:
    splits = taken(shift=0.0)
    found = acquisition(splits.assign(view=np.where(splits["label"] == 1, "AP", "PA")), seed=1)
    assert summarise_acquisition(splits, found)["auc"] == 1


def test_too_few_patients_to_weight_by_acquisition_and_an_old_table_are_one_line() -> None:
    splits = taken(shift=1.0)
    few = splits[(splits["label"] == 1) | (splits["split"] != "train") | splits["patient_id"].gt("p00290")]
    with pytest.raises(UserError, match=r"needs 20 patients of each class in train; there are [0-9]+ normal and"):
        acquisition(few, seed=1)
    with pytest.raises(UserError, match="has no sharpness; measure again"):
        acquisition(splits.drop(columns="sharpness"), seed=1)


@pytest.mark.parametrize("acquisition", [1.0, 10.0])
def test_the_stage_weighs_acquisition_where_it_is_asked_to_and_says_so(
    acquisition: float, stage_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"rebalance.strategy": "class_weight", "rebalance.acquisition": acquisition}
    set_settings(stage_project / "params.yaml", {"data": "phantom", **chosen})
    tables.write_table(measured(300, shift=1.5), stage_project / "data/valid.csv")
    stage.main()
    splits, report = tables.read_table("data/splits.csv"), tables.read_json("reports/rebalance.json")
    weights = splits[splits["split"] == "train"].groupby("label")["weight"]
    if acquisition == 1:
        assert weights.nunique().eq(1).all()
        assert "acquisition" not in report
    else:
        assert (weights.max() / weights.min()).between(5, 10.01).all()
        assert report["acquisition"]["n"] == (splits["split"] == "train").sum()
        said = f"with AUC {report['acquisition']['auc']:.3f}; weights against it up to 10 times the smallest"
        assert said in " ".join(capsys.readouterr().out.split())


def of_subtypes(n_patients: int = 90, **facts: Any) -> list[dict[str, Any]]:
    """Two images of each patient: a third of the patients normal, a third viral, a third bacterial."""
    kinds = (("normal", 0), ("virus", 1), ("bacteria", 1))
    return [
        {"patient_id": f"p{patient:03}", "subtype": kinds[patient % 3][0], "label": kinds[patient % 3][1]} | facts
        for patient in range(n_patients)
        for _ in range(2)
    ]


def test_a_target_splits_by_its_own_classes_and_leaves_out_and_counts_the_other_rows() -> None:
    rows = [*of_subtypes(), *of_subtypes(30, source_split="test"), {"patient_id": "x", "subtype": "pneumonia"}]
    for n, row in enumerate(rows[180:240]):
        row["patient_id"] = f"of test {n}"
    table = table_of(rows)
    labelled = relabel.relabel(table, BACTERIAL)
    splits = balance(assign_splits(labelled, **FRACTIONS, seed=1), strategy="oversample", seed=1)
    require_both_classes(splits, BACTERIAL)
    assert set(splits["subtype"]) == {"virus", "bacteria"}
    assert splits["label"].eq(splits["subtype"] == "bacteria").all()
    # Sealed: of the official test split only what the target leaves out is missing.
    sealed = table["source_split"].eq("test") & table["subtype"].ne("normal")
    assert set(splits.loc[splits["split"] == "test", "image_id"]) == set(table.loc[sealed, "image_id"])
    report = summarise(table, splits, "oversample", BACTERIAL)
    assert report["left_out_of_target"] == [
        {"kind": "normal", "n": 80},
        {"kind": "pneumonia of another subtype or of none", "n": 1},
    ]
    assert report["n_left_out_duplicates_or_test_patients"] == 0  # else they would be counted twice
    train = report["splits"]["train"]
    assert train["n_images"] == train["n_viral"] + train["n_bacterial"]
    assert train["shown_viral"] == train["shown_bacterial"] == max(train["n_viral"], train["n_bacterial"])
    assert "n_normal" not in train
    assert "80 normal, 1 pneumonia of another subtype" in describe(report, "use")[1]


def test_images_outside_of_the_target_still_show_which_patients_are_one() -> None:
    rows = of_subtypes(60)
    # A viral and a bacterial patient who share a normal file are one person: on one side of every split.
    rows += [{"patient_id": name, "label": 0, "subtype": "normal", "sha256": "shared"} for name in ("p001", "p002")]
    labelled = relabel.relabel(table_of(rows), BACTERIAL)
    for seed in range(8):
        splits = assign_splits(labelled, **FRACTIONS, seed=seed)
        assert splits.loc[splits["patient_id"].isin(["p001", "p002"]), "split"].unique().size == 1


def test_folds_are_drawn_by_the_classes_of_the_target() -> None:
    labelled = relabel.relabel(table_of(of_subtypes(120)), BACTERIAL)
    splits = assign_splits(labelled, **FRACTIONS, seed=1, folds=4)
    shares = splits[splits["split"] == "train"].groupby("fold")["label"].mean()
    assert shares.between(0.4, 0.6).all()


def test_a_split_without_a_class_of_the_target_names_this_class() -> None:
    splits = SPLIT.assign(label=SPLIT["label"].mask(SPLIT["split"] == "test", 1), source_split="")
    with pytest.raises(UserError, match="none of class viral; each split needs both classes"):
        require_both_classes(splits, BACTERIAL)


def test_the_stage_takes_the_target_of_the_settings(stage_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow

    set_settings(stage_project / "params.yaml", {"data": "chest_xray", "target": "bacterial"})
    tables.write_table(table_of(of_subtypes(60)), stage_project / "data/valid.csv")
    stage.main()
    assert set(tables.read_table("data/splits.csv")["subtype"]) == {"virus", "bacteria"}
    said = capsys.readouterr().out
    assert "left out, not of the target: 40 normal" in said
    assert re.search(r"train +\d+ images of +\d+ patients: \d+ viral, \d+ bacterial", said)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert mlflow.get_experiment(run.info.experiment_id).name == "pneumonia-chest_xray-bacterial"
    assert (run.data.tags["target"], run.data.params["target"]) == ("bacterial", "bacterial")


def test_a_source_without_subtypes_is_one_line_with_the_remedy(stage_project: Path) -> None:
    set_settings(stage_project / "params.yaml", {"data": "pneumoniamnist", "target": "bacterial"})
    tables.write_table(table_of(crowd(30)), stage_project / "data/valid.csv")
    with pytest.raises(UserError, match=r"data = pneumoniamnist has 0 viral, 0 bacterial; .* set target: pneumonia$"):
        stage.main()
    assert not (stage_project / "data/splits.csv").exists()


def test_the_report_counts_images_patients_and_what_an_epoch_shows() -> None:
    rows = crowd(30, images_each=3)
    rows[5]["sha256"] = rows[4]["sha256"] = "same"
    rows[8] |= {"valid": False, "reason": "blank"}
    table = table_of(rows)
    splits = balance(assign_splits(table, **FRACTIONS, seed=1), strategy="oversample", seed=1)
    report = summarise(table, splits, "oversample")
    assert list(report["splits"]) == ["train", "val", "test"]
    for name, row in report["splits"].items():
        part = splits[splits["split"] == name]
        assert row["n_images"] == row["n_normal"] + row["n_pneumonia"] == len(part)
        assert row["n_patients"] == part["patient_id"].nunique()
        if name == "train":
            assert row["shown_normal"] == row["shown_pneumonia"] == row["n_pneumonia"]
        else:
            assert (row["shown_normal"], row["shown_pneumonia"]) == (row["n_normal"], row["n_pneumonia"])
        assert (row["weight_normal"], row["weight_pneumonia"]) == (row["shown_normal"], row["shown_pneumonia"])
    assert sum(row["n_images"] for row in report["splits"].values()) == 88
    assert report["n_left_out_duplicates_or_test_patients"] == 1
    assert report["digest"] == tables.data_digest(splits)
    assert (report["strategy"], report["official_test"]) == ("oversample", False)
    assert "n_left_out_official_test" not in report
    assert report["test_split"] == "drawn"
    official = summarise(table.assign(source_split="test"), splits, "none")
    assert (official["official_test"], official["test_split"]) == (True, "official")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("class_weight", (5.5, 5.5)), ("oversample", (8, 8)), ("undersample", (3, 3)), ("none", (3, 8))],
)
def test_the_report_says_what_each_class_weighs_in_an_epoch(strategy: str, expected: tuple[float, float]) -> None:
    valid = table_of([{}]).iloc[:0]
    splits = balance(SPLIT, strategy=strategy, seed=1).assign(sha256="")
    rows = summarise(valid, splits, strategy)["splits"]
    assert (rows["train"]["weight_normal"], rows["train"]["weight_pneumonia"]) == expected
    assert (rows["val"]["weight_normal"], rows["val"]["weight_pneumonia"]) == (1, 5)
    assert (rows["test"]["weight_normal"], rows["test"]["weight_pneumonia"]) == (4, 2)


def test_the_report_tells_age_and_sex_of_patients_where_the_source_does() -> None:
    valid = table_of([{}]).iloc[:0]
    splits = balance(SPLIT, strategy="none", seed=1).assign(sha256="")
    assert not {"age", "sex"} & set(summarise(valid, splits, "none")["splits"]["train"])
    n = len(splits)
    told = splits.assign(patient_id=[f"p{row // 2}" for row in range(n)], split="train", sex="", age="")
    told = pd.concat([told, splits.assign(split="val", sex="", age=""), splits.assign(split="test", sex="", age="")])
    told = told.reset_index(drop=True)
    told.loc[[1, 2, 3], "sex"] = ["F", "M", "M"]  # of p0 the second image tells it
    told.loc[[4, 6], "sex"] = "F"
    told.loc[[0, 2, 3, 4, 6], "age"] = ["10", "20", "21", "30", "50"]
    rows = summarise(valid, told, "none")["splits"]
    assert rows["train"]["sex"] == [{"value": "F", "n": 3}, {"value": "M", "n": 1}]
    assert rows["train"]["age"] == {
        "n": 4,
        "lowest": 10.0,
        "lower_quartile": 17.5,
        "median": 25.0,
        "upper_quartile": 35.0,
        "highest": 50.0,
    }
    assert not {"age", "sex"} & set(rows["test"]), "no image tells it"


# --- the real archive ---


@pytest.fixture(scope="module")
def real_splits(real_manifest: pd.DataFrame) -> pd.DataFrame:
    return assign_splits(real_manifest.assign(valid=True, reason="", look_alike=""), **FRACTIONS, seed=1)


def test_the_real_archive_holds_30_groups_of_62_identical_files(real_manifest: pd.DataFrame) -> None:
    sizes = real_manifest["sha256"].value_counts()
    assert ((sizes > 1).sum(), sizes[sizes > 1].sum()) == (30, 62)
    assert len(real_manifest) == 5856


def test_no_normal_patient_of_the_real_archive_crosses_into_test(
    real_splits: pd.DataFrame, real_manifest: pd.DataFrame
) -> None:
    """So none is left out for it: every normal image of train that is no copy is learnt from."""
    normal = real_manifest[real_manifest["label"] == 0]
    sides = normal.assign(test=normal["source_split"] == "test").groupby("patient_id")["test"].nunique()
    assert sides.max() == 1
    left_out = normal[~normal["image_id"].isin(real_splits["image_id"])]
    assert left_out["sha256"].isin(real_splits["sha256"]).all()


def test_the_real_test_split_keeps_all_its_624_images(real_splits: pd.DataFrame) -> None:
    test = real_splits[real_splits["split"] == "test"]
    assert test["label"].value_counts().to_dict() == {1: 390, 0: 234}
    assert (test["source_split"] == "test").all()


def test_no_patient_of_the_real_archive_is_in_two_splits(
    real_splits: pd.DataFrame, real_manifest: pd.DataFrame
) -> None:
    assert real_splits.groupby("patient_id")["split"].nunique().max() == 1
    assert real_manifest.merge(real_splits[["image_id", "split"]]).groupby("sha256")["split"].nunique().max() == 1


def test_the_real_archive_loses_only_duplicates(real_splits: pd.DataFrame, real_manifest: pd.DataFrame) -> None:
    outside = real_manifest[real_manifest["source_split"] != "test"]
    assert len(real_splits) == 624 + outside["sha256"].nunique()
    assert real_splits["split"].eq("test").sum() == 624


def test_validation_of_the_real_archive_is_a_fifth_with_the_shares_of_train(real_splits: pd.DataFrame) -> None:
    rest = real_splits[real_splits["split"] != "test"]
    val = rest["split"].eq("val")
    assert val.mean() == pytest.approx(0.2, abs=0.005)
    assert rest["label"][val].mean() == pytest.approx(rest["label"][~val].mean(), abs=0.005)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
def test_a_split_has_the_share_that_was_asked_for(fraction: float) -> None:
    n = 800
    table = pd.DataFrame(
        {
            "image_id": [f"i{i:04}" for i in range(n)],
            "patient_id": [f"p{i:04}" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "label": [int(i % 4 > 0) for i in range(n)],
            "source_split": "",
            "look_alike": "",
            "valid": True,
            "reason": "",
        }
    )
    splits = assign_splits(table, official_test="use", test_fraction=fraction, val_fraction=0.25, seed=1)
    test = splits[splits["split"] == "test"]
    assert len(test) == pytest.approx(fraction * n, abs=1)
    assert test["label"].mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("split", "official", "message"),
    [
        (
            "test",
            True,
            "the official test split has 2 images, none of class normal; each split needs both classes; add such "
            "images to it, or draw another test split: rebalance.official_test: leave_out",
        ),
        (
            "val",
            True,
            "the official val split has 2 images, none of class normal; each split needs both classes; add such images "
            "to it, or move its images to train: then a validation split is drawn",
        ),
        (
            "test",
            False,
            "the test split has 2 images, none of class normal; each split needs both classes; add patients of this "
            "class, or use another rebalance.seed",
        ),
        (
            "train",
            True,
            "the train split has 2 images, none of class normal; each split needs both classes; patients of an "
            "official split are left out of train; add others, or give persons different names",
        ),
    ],
)
def test_a_split_without_both_classes_is_refused_with_the_class_and_the_remedy(
    split: str, official: bool, message: str
) -> None:
    splits = pd.DataFrame({"split": ["train", "train", "val", "val", "test", "test"], "label": [0, 1] * 3})
    splits["source_split"] = splits["split"] if official else ""
    rebalance.require_both_classes(splits)
    splits.loc[splits["split"] == split, "label"] = 1
    with pytest.raises(UserError) as caught:
        rebalance.require_both_classes(splits)
    assert str(caught.value) == message


@pytest.mark.parametrize("seed", range(5))
def test_patients_who_share_a_file_with_both_labels_count_as_one(seed: int) -> None:
    """The file itself is quarantined; that the two are one person is still known by it."""
    rows = crowd(60)
    table = table_of(rows)
    clash = table.iloc[[0, 70]].assign(sha256="f" * 64, valid=False, reason=tables.BOTH_LABELS)
    clash["image_id"] = ["clash-1", "clash-2"]
    first, second = clash["patient_id"]
    assert first != second
    table = pd.concat([table, clash], ignore_index=True)
    splits = assign_splits(table, **FRACTIONS, seed=seed)
    assert not splits["image_id"].isin(clash["image_id"]).any()
    of = splits.groupby("patient_id")["split"].first()
    assert of[first] == of[second]


@pytest.mark.parametrize("official_test", ["use", "leave_out"])
def test_official_splits_that_leave_nothing_to_learn_from_are_one_line(official_test: str) -> None:
    judges = [*crowd(40, source_split="test"), *crowd(40, source_split="val")]
    settings = FRACTIONS | {"official_test": official_test, "seed": 1}
    with pytest.raises(UserError, match=r"^all images are in the official test or val split of the source; "):
        assign_splits(table_of(judges), **settings)
    with pytest.raises(UserError) as caught:
        assign_splits(table_of([*crowd(40, source_split="train"), *crowd(40, source_split="test")]), **settings)
    assert str(caught.value) == (
        "all 40 patients of train are also in the official test split, by name or by image (such as p000), so no image "
        "is left to learn from; give different names to different persons; if they are the same, name no splits: then "
        "they are drawn by patient"
    )


def test_copies_of_an_official_test_split_leave_nothing_to_learn_from() -> None:
    rows = crowd(40, source_split="test")
    copies = [row | {"patient_id": f"x{n}", "source_split": "train"} for n, row in enumerate(rows)]
    table = table_of([*rows, *copies]).assign(sha256=[f"file {n}" for n in range(len(rows))] * 2)
    with pytest.raises(UserError, match=r"^all 80 patients of train are also in the official test split"):
        assign_splits(table, **FRACTIONS, seed=1)


def test_too_few_patients_because_of_an_official_split_are_explained() -> None:
    rows = [*crowd(40, source_split="train"), *crowd(37, source_split="test")]
    with pytest.raises(UserError, match=r"are needed; 37 patients of train are left out: they are also in the offici"):
        assign_splits(table_of(rows), **FRACTIONS, seed=1)


# --- what the stage says ---


def reported(rows: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """The report, and the sentences for the user."""
    table, settings = table_of(rows), FRACTIONS | settings
    splits = balance(assign_splits(table, **settings, seed=1), strategy="none", seed=1)
    summary = summarise(table, splits, "none")
    return summary, rebalance.describe(summary, settings["official_test"])


@pytest.mark.parametrize("official_test", ["use", "leave_out"])
def test_images_left_out_for_their_patients_are_counted_by_split_and_named(official_test: str) -> None:
    rows = with_val(
        *({"patient_id": "t0", "source_split": split} for split in ("train", "train", "val")),
        {"patient_id": "t1", "source_split": "train"},
        {"patient_id": "v2", "source_split": "train"},
        {"patient_id": "p001", "source_split": "train", "sha256": "file 2"},
    )
    summary, sentences = reported(rows, official_test=official_test)
    assert summary["n_left_out_duplicates_or_test_patients"] == 6
    assert summary["n_left_out_duplicates"] == 1
    assert summary["left_out_of_official_patients"] == [
        {"split": "test", "left_out_of": "train", "n_patients": 2, "n_images": 3, "first": "t0"},
        {"split": "test", "left_out_of": "val", "n_patients": 1, "n_images": 1, "first": "t0"},
        {"split": "val", "left_out_of": "train", "n_patients": 1, "n_images": 1, "first": "v2"},
    ]
    end = "by name or by an image that looks the same, such as"
    remedy = "all such images are left out; give different names if they are different persons"
    assert sentences[1:] == [
        f"NOTE: 2 patients of the official test split also have 3 images in train ({end} t0); {remedy}",
        f"NOTE: 1 patient of the official test split also has 1 image in val ({end} t0); {remedy}",
        f"NOTE: 1 patient of the official val split also has 1 image in train ({end} v2); {remedy}",
    ]


def test_the_origin_of_each_split_is_said() -> None:
    end = "train rows balanced by none"
    drawn = crowd(120)
    assert reported(drawn)[1] == [f"test split: drawn by patient; validation split: drawn by patient; {end}"]
    assert reported(drawn, official_test="leave_out")[1][1:] == [
        "NOTE: rebalance.official_test: leave_out has no effect; the source has no official test split"
    ]
    both = with_val()
    assert reported(both)[1] == [f"test split: the official one, sealed; validation split: the official one; {end}"]
    assert reported(both, official_test="leave_out")[1] == [
        "test split: drawn by patient, the official one of 20 images left out; validation split: the official one; "
        f"{end}"
    ]
    assert (reported(both)[0]["official_val"], reported(drawn)[0]["official_val"]) == (True, False)


# --- folds ---


def folds_of(table: pd.DataFrame, folds: int, **settings: Any) -> pd.DataFrame:
    return assign_splits(table, **FRACTIONS | {"seed": 1, "folds": folds} | settings)


@settings(max_examples=8)  # the rules of the splits are tested above
@given(archives(), st.integers(2, 5))
def test_no_patient_is_in_two_folds(table: pd.DataFrame, folds: int) -> None:
    try:
        splits = folds_of(table, folds)
    except UserError:
        reject()  # too few patients
    person = splits["patient_id"].map(linked_patients(table[table["valid"]]))
    assert set(splits["split"]) == {"train", "test"}
    assert splits.groupby(person)["split"].nunique().max() == 1
    learnt = splits[splits["split"] == "train"]
    assert learnt["fold"].notna().all()
    assert learnt.groupby(person)["fold"].nunique().max() == 1
    assert set(learnt["fold"]) == set(range(folds))
    assert splits.loc[splits["split"] == "test", "fold"].isna().all()


def test_folds_have_the_same_size_and_share_of_pneumonia() -> None:
    folds = folds_of(table_of(crowd(150)), 5).groupby("fold")["label"].agg(["size", "mean"])
    assert folds["size"].between(44, 52).all()
    assert folds["mean"].between(0.6, 0.73).all()


@pytest.mark.parametrize("official_val", [False, True])
@pytest.mark.parametrize("official_test", ["none", "use", "leave_out"])
def test_the_test_split_is_the_same_with_folds(official_test: str, official_val: bool) -> None:
    copies = [{"patient_id": "twice", "source_split": split, "sha256": "same"} for split in ("train", "val")]
    rows = with_val(*copies, {"patient_id": "v0", "source_split": "train"}, test=official_test != "none")
    table = table_of([row for row in rows if official_val or row["source_split"] != "val"])
    settings = {} if official_test == "none" else {"official_test": official_test}
    one = {image_id for image_id, its in split_of(table, **settings).items() if its == "test"}
    splits = folds_of(table, 3, **settings)
    assert one
    assert set(splits.loc[splits["split"] == "test", "image_id"]) == one
    assert set(splits["split"]) == {"train", "test"}


def test_an_official_validation_split_is_divided_into_folds_like_train() -> None:
    rows = [*crowd(source_split="train"), *crowd(12, source_split="val")]  # the same twelve patients
    table = table_of(rows)
    splits = folds_of(table, 3)
    assert len(splits) == len(rows), "none is left out"
    summary = summarise(table, balance(splits, strategy="none", seed=1), "none")
    assert not summary["official_val"]
    assert list(summary["splits"]) == ["train", "test"]
    assert sum(fold["n_images"] for fold in summary["folds"]) == summary["splits"]["train"]["n_images"]
    said = " ".join(rebalance.describe(summary, "use"))
    assert "validation: 3 folds by patient, of " in said


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_network_is_balanced_on_the_folds_that_it_learns_from(strategy: str) -> None:
    splits = folds_of(table_of(crowd()), 3)

    def weigh(table: pd.DataFrame) -> pd.DataFrame:
        return rebalance.weigh(table, strategy=strategy, max_ratio=1.0, seed=1)[0]

    table = rebalance.weigh_folds(weigh(splits), weigh)
    columns = [f"{name}_{fold}" for fold in range(3) for name in ("weight", "repeats")]
    assert list(table)[-8:] == ["weight", "repeats", *columns]
    for fold in range(3):
        validates = tables.in_fold(table, fold)
        assert (table.loc[validates, f"repeats_{fold}"] == 0).all()
        learnt = table[~validates & (table["split"] == "train")]
        shown = (learnt[f"weight_{fold}"] * learnt[f"repeats_{fold}"]).groupby(learnt["label"]).sum()
        if strategy != "none":
            assert shown[0] == pytest.approx(shown[1], rel=1e-4)
        # As if the other folds were all there is.
        alone = balance(learnt, strategy=strategy, seed=1)
        assert learnt[f"weight_{fold}"].to_list() == alone["weight"].to_list()
    pd.testing.assert_frame_equal(table[list(splits)], splits)


def test_the_digest_of_the_data_knows_the_folds(tmp_path: Path) -> None:
    splits = folds_of(table_of(crowd()), 3)
    tables.write_table(splits, tmp_path / "splits.csv")
    again = tables.read_table(tmp_path / "splits.csv")
    assert tables.data_digest(again) == tables.data_digest(splits)
    assert str(again["fold"].dtype) == "Int64"
    as_text = pd.read_csv(tmp_path / "splits.csv", dtype=str, keep_default_na=False)  # as `pneumonia forget` reads it
    assert tables.data_digest(as_text) == tables.data_digest(splits)
    moved = splits.assign(fold=(splits["fold"] + 1) % 3)
    assert tables.data_digest(moved) != tables.data_digest(splits)


def test_fewer_patients_than_folds_is_an_error() -> None:
    table = table_of([*crowd(30, label=1), *({"patient_id": f"n{n}", "label": 0} for n in range(4))])
    sealed = table.assign(source_split=["test"] * 2 + [""] * 62)
    with pytest.raises(UserError, match="too few patients for 5 folds: 4 in the smaller class, at least 5 are needed"):
        folds_of(sealed, 5)


def test_a_fold_without_a_class_is_an_error() -> None:
    splits = folds_of(table_of(crowd()), 3)
    lacking = splits[~(tables.in_fold(splits, 1) & splits["label"].eq(0))]
    with pytest.raises(UserError, match=r"fold 1 has \d+ images, none of class normal; .* \(rebalance.folds\)"):
        rebalance.require_both_classes(lacking)
    rebalance.require_both_classes(splits)
