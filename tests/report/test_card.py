"""The model card: its figures and facts are those of the reports, under the right names."""

import copy
import html as html_module
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia import UserError, evaluate
from pneumonia.data import sources, tables
from pneumonia.data.targets import TARGETS
from pneumonia.metrics import calibration
from pneumonia.names import file_name
from pneumonia.report import card, page
from tests.conftest import ROOT
from tests.report.test_page import JPEG, PNG, Reader

AUDIT = {
    "auc": {name: {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9} for name in ("clean", "lungs_hidden")},
    "n": 100,
    "hidden": "lungs",
    "verdict": "with the lungs blacked out it is as before",
}


@cache
def figures() -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """Predictions of a model that is right more often than not, judged as the stage does it."""
    rng = np.random.default_rng(1)
    label = np.arange(200) % 2
    score = np.clip(0.5 + 0.25 * (label - 0.5) + rng.normal(0, 0.15, 200), 0.01, 0.99)
    table = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(200)],
            "sha256": [f"{row:064x}" for row in range(200)],
            "patient_id": [f"p{row // 2}" for row in range(200)],
            "split": np.where(np.arange(200) < 100, "val", "test"),
            "label": label,
            "score": score,
            "subtype": np.where(label == 1, "virus", "normal"),
        }
    )
    predictions, platt = evaluate.calibrated(table)
    assert isinstance(platt, calibration.Platt)
    headline, full = evaluate.judge(predictions, platt, level=0.95, target_sensitivity=0.9)
    return predictions, headline, full | {"robustness": {"clean": 0.9, "mean": 0.87}, "stress": AUDIT}


@cache
def made_facts() -> dict[str, Any]:
    predictions, headline, full = figures()
    return {
        "record": {
            "run_id": "abc",
            "model": "compact",
            "weights": "/home/me/imagenet.h5",
            "model_sha256": "f" * 64,
            "data_digest": "d" * 64,
            "made_with": {"Python": "3.12.1", "TensorFlow": "2.22.0", "pneumonia": "0.1.0", "hardware": "1 GPU (H7)"},
        },
        "decision": {
            "version": 3,
            "promoted": False,
            "reason": "not higher: validation AUC .9 <b>against</b> .95",
            "model_name": "pneumonia-phantom",
            "git_commit": "0123456789",
            "dvc_lock_digest": "e" * 64,
            "gates": [{"name": "min_sensitivity", "value": 0.7, "limit": 0.8, "passed": False}],
        },
        "evaluation": full,
        "points": evaluate.operating_points(full),
        "validation": {
            "n_images": 1300,
            "n_quarantined": 7,
            "quarantined": [{"reason": "blank", "n": 5}, {"reason": "cannot be read as an image", "n": 2}],
            "duplicate_files": 4,
            "duplicate_groups": 3,
        },
        "chosen": {"learning_rate": 0.00125, "dropout": 0.15},
        "rebalance": {
            "n_left_out_duplicates_or_test_patients": 11,
            "official_test": False,
            "test_split": "drawn, official left out",
            "splits": {
                "train": {
                    "n_images": 1001,
                    "n_patients": 702,
                    "n_normal": 403,
                    "n_pneumonia": 598,
                    "age": {
                        "n": 690,
                        "lowest": 1.0,
                        "lower_quartile": 20.5,
                        "median": 43.0,
                        "upper_quartile": 61.0,
                        "highest": 94.0,
                    },
                    "sex": [{"value": "F", "n": 341}, {"value": "M", "n": 352}],
                },
                "val": {"n_images": 151, "n_patients": 104, "n_normal": 65, "n_pneumonia": 86},
                "test": {"n_images": 130, "n_patients": 97, "n_normal": 51, "n_pneumonia": 79},
            },
        },
        "explain": explained({"pointing_game": 0.31, "pointing_game_low": 0.2, "pointing_game_high": 0.43}, n_boxed=3),
        "history": pd.DataFrame({"epoch": [1, 2, 3, 4, 5], "val_auc": [0.6, 0.7, 0.8, 0.8, 0.75]}).assign(
            kept=[False, False, True, False, False]
        ),
        "wrong": card.most_wrong(predictions, headline["threshold"]),
        "settings": {
            "seed": 1,
            "weights": "/home/me/imagenet.h5",
            "fetch": {"url": None},
            "preprocess": {"image_size": 64, "clip_limit": 2.0},
            "train": {"keep": "best"},
            "tune": {"dropout": (0.0, 0.3), "learning_rate": (0.0001, 0.003)},
        },
        "network": "seven blocks",
        "source": {
            "title": "synthetic radiographs",
            "licence": "MIT",
            "citation": "none",
            "patients": "the one that was drawn",
            "reference_standard": "what was drawn",
            "public_test": False,
            "synthetic": True,
        },
        "pictures": {
            "performance": [page.Picture("ROC curve", PNG)],
            "saliency": [page.Picture("a map", JPEG)],
        },
    }


def explained(figures: dict[str, float], n_boxed: int) -> dict[str, Any]:
    """`explain.json` of one method and one baseline."""
    counts = {"n": 3, "n_boxed": n_boxed, "n_lungs": 0}
    method = {**counts, **figures, "ms_per_image": 2.0, "verdict": "cannot be told (n = 3)"}
    return {"default": "grad_cam", "methods": {"grad_cam": method}, "baselines": {"train_boxes": {**counts, **figures}}}


@pytest.fixture
def facts() -> dict[str, Any]:
    return copy.deepcopy(made_facts())


def write_reports(folder: Path) -> None:
    """What the stages before `promote` leave in `reports/`, as far as the card reads it."""
    made = made_facts()
    for name in ("evaluation", "validation", "rebalance", "explain"):
        tables.write_json(made[name], folder / f"{name}.json")
    tables.write_json(figures()[1], folder / "metrics.json")
    tables.write_json({"values": made["chosen"], "verdict": "no search"}, folder / "tune" / "best.json")
    tables.write_table(made["points"], folder / "plots" / "operating_points.csv")
    tables.write_table(made["history"], folder / "history.csv")


def rendered(facts: dict[str, Any], **changes: Any) -> Reader:
    return Reader(page.html("Card of <compact>", "lead", card.sections(**facts | changes)))


Row = tuple[str, ...]


def card_tables(facts: dict[str, Any], **changes: Any) -> list[list[Row]]:
    """Every table of the card, its header first, from the HTML; the Markdown is checked to have the same."""
    sections = card.sections(**facts | changes)
    source = page.html("t", "l", sections)
    in_html = [
        [
            tuple(html_module.unescape(cell) for cell in re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row))
            for row in re.findall(r"<tr>(.*?)</tr>", table)
        ]
        for table in re.findall(r"<table>(.*?)</table>", source, re.DOTALL)
    ]
    lines = [line.split("|")[1:-1] for line in page.markdown("t", "l", sections).splitlines() if line.startswith("|")]
    in_markdown = [
        tuple(html_module.unescape(cell.strip()) for cell in line) for line in lines if set("".join(line)) != {"-", " "}
    ]
    assert in_markdown == [row for table in in_html for row in table]
    return in_html


def table(facts: dict[str, Any], *header: str, **changes: Any) -> list[Row]:
    """The rows of the one table with this header."""
    (matching,) = [rows for first, *rows in card_tables(facts, **changes) if first == header]
    return matching


def pairs(facts: dict[str, Any], **changes: Any) -> dict[str, str]:
    """What stands beside what in the tables of two columns."""
    return dict(row for _, *rows in card_tables(facts, **changes) for row in rows if len(row) == 2)


def test_a_detector_has_its_boxes_on_the_card(facts: dict[str, Any]) -> None:
    froc = [{"false_positives": 0.125, "sensitivity": 0.25, "sensitivity_low": 0.2, "sensitivity_high": 0.31}]
    detection = {
        "n": 90,
        "n_boxes": 40,
        "n_shown": 33,
        "n_unknown": 10,
        "threshold": 0.4567,
        "froc": froc,
        "ap50": 0.75,
    }
    evaluation = facts["evaluation"] | {"detection": detection}
    text = " ".join(rendered(facts, evaluation=evaluation).text.split())
    assert "On 90 test images with 40 boxes; of 10 more, boxes are not known." in text
    assert "at least 0.457, chosen on validation: 33." in text
    assert "average precision at an overlap of .5 0.750" in text
    assert "boxes found at 0.125 false alarms per image 0.250 [0.200, 0.310]" in text
    assert "metric of the RSNA challenge" not in text, "it is not in this report"
    assert "Boxes" not in [line.strip() for line in rendered(facts).text.splitlines()]


def test_figures_and_facts_are_those_of_the_reports(facts: dict[str, Any]) -> None:
    text = " ".join(rendered(facts).text.split())
    test = facts["evaluation"]["youden"]["test"]
    assert (
        f"AUC {test['auc']:.3f} [{test['auc_low']:.3f}, {test['auc_high']:.3f}] on 100 test images (50 pneumonia)"
        in text
    )
    val = facts["evaluation"]["youden"]["val"]
    stated = f"{val['auc']:.3f} [{val['auc_low']:.3f}, {val['auc_high']:.3f}]"
    assert f"The AUC on validation, which selects models, is {stated}." in text
    for fact in (
        "pneumonia-phantom version 3, not champion",
        "seven blocks",
        "chosen.dropout 0.15",
    ):
        assert fact in text
    for row in facts["points"].itertuples():
        assert row.accuracy in text
        assert row.specificity in text
    virus = facts["evaluation"]["subgroups"]["subtype"]["virus"]
    assert f"subtype virus {virus['n']} {virus['n']}" in text
    assert f"{virus['sensitivity']:.3f} [{virus['sensitivity_low']:.3f}, {virus['sensitivity_high']:.3f}]" in text
    predictions, headline, _ = figures()
    rows = predictions[predictions["split"] == "test"]
    called = rows["score"] >= headline["threshold"]
    true_positives = int((called & (rows["label"] == 1)).sum())
    false_negatives = int((~called & (rows["label"] == 1)).sum())
    true_negatives = int((~called & (rows["label"] == 0)).sum())
    assert f"true positives, false negatives {true_positives}, {false_negatives}" in text
    assert f"true negatives, false positives {true_negatives}, {50 - true_negatives}" in text
    judged = facts["evaluation"]["youden"]["test"]
    for name, label in (("precision", "precision"), ("f1", "F1"), ("mcc", "Matthews correlation")):
        assert f" {label} {judged[name]:.3f} [{judged[f'{name}_low']:.3f}" in text
    assert "On validation: AUC 0.900, on average 0.870 over the unchanged images" in text
    assert f"negative predictive value {true_negatives / (true_negatives + false_negatives):.3f}" in text
    assert "lungs hidden 0.800 [0.700, 0.900]" in text
    assert "With the lungs blacked out it is as before." in text
    assert "min_sensitivity 0.7 0.8 failed" in text
    assert "preprocess.image_size 64" in text
    assert "The images are synthetic" in text
    real = facts["source"] | {"synthetic": False}
    assert "The images are synthetic" not in rendered(facts, source=real).text


def test_images_patients_and_classes_of_each_split_stand_under_their_names(facts: dict[str, Any]) -> None:
    assert table(facts, "split", "images", "patients", "normal", "pneumonia") == [
        ("train", "1,001", "702", "403", "598"),
        ("val", "151", "104", "65", "86"),
        ("test", "130", "97", "51", "79"),
    ]


def test_calibration_error_and_brier_score_stand_under_raw_and_calibrated(facts: dict[str, Any]) -> None:
    def figures_of(ece: float, brier: float) -> dict[str, float]:
        figures = {"ece": ece, "brier": brier}
        return {f"{name}{end}": value + add for name, value in figures.items() for end, add in ENDS.items()}

    youden = facts["evaluation"]["youden"]
    before, after = youden["test"] | figures_of(0.11, 0.22), youden["calibrated"]["test"] | figures_of(0.33, 0.44)
    judged = {**youden, "test": before, "calibrated": {**youden["calibrated"], "test": after}}
    line = {"slope": 0.8, "slope_low": 0.6, "slope_high": 1.0}
    further = {"test": {"raw": {"ece_if_perfect": 0.07}, "calibrated": {"ece_if_perfect": 0.06, **line}}}
    further["test"]["raw"] |= line
    evaluation = {**facts["evaluation"], "youden": judged, "reliability": further}
    assert table(facts, "", "raw score", "calibrated", evaluation=evaluation) == [
        ("calibration error (ECE)", "0.110 [0.109, 0.112]", "0.330 [0.329, 0.332]"),
        ("Brier score", "0.220 [0.219, 0.222]", "0.440 [0.439, 0.442]"),
        ("the ECE of a perfect model with these scores", "0.070", "0.060"),
        ("slope, 1 is perfect", "0.800 [0.600, 1.000]", "0.800 [0.600, 1.000]"),
    ]
    del evaluation["reliability"]
    assert len(table(facts, "", "raw score", "calibrated", evaluation=evaluation)) == 2, "as of an earlier version"


def test_groups_maps_and_changes_have_their_figures_under_their_names(facts: dict[str, Any]) -> None:
    group = {"n": 31, "n_positive": 12, "auc": 0.91, "sensitivity": 0.82, "specificity": 0.73}
    stress = {"clean": {"auc": 0.94}, "lungs_hidden": {"auc": 0.65, "auc_low": 0.55, "auc_high": 0.75}}
    changed = {"subgroups": {"sex": {"F": group}}, "stress": {**AUDIT, "auc": stress}}
    changes = {"evaluation": facts["evaluation"] | changed}
    assert table(facts, "", "group", "n", "pneumonia", "AUC", "sensitivity", "specificity", **changes) == [
        ("sex", "F", "31", "12", "0.910", "0.820", "0.730")
    ]
    assert table(facts, "test images", "AUC", **changes) == [
        ("clean", "0.940"),
        ("lungs hidden", "0.650 [0.550, 0.750]"),
    ]
    header = ("map", "maximum in a box", "share in boxes", "share in the lungs", "randomisation check", "verdict")
    assert table(facts, *header) == [
        ("Grad-CAM (default)", "0.31 [0.20, 0.43]", "", "", "", "cannot be told (n = 3)"),
        ("train boxes", "0.31 [0.20, 0.43]", "", "", "", "a baseline"),
    ]
    assert table(facts, "gate, on validation", "value", "limit", "") == [("min_sensitivity", "0.7", "0.8", "failed")]


def test_notes_say_how_intervals_and_groups_are_made(facts: dict[str, Any]) -> None:
    text = " ".join(rendered(facts).text.split())
    assert "Intervals: 95 %, by patient; DeLong for the AUC, Wilson for ratios, bootstrap for the others." in text
    assert "independent" not in text
    assert "The AUC of a type of pneumonia is against all normals" in text
    virus = facts["evaluation"]["subgroups"]["subtype"]["virus"]
    assert f"subtype virus 50 50 {virus['auc']:.3f} [" in text


def test_the_threshold_is_told_as_the_reports_keep_it(facts: dict[str, Any]) -> None:
    """Fewer digits could decide otherwise about an image whose score is next to it."""
    youden = facts["evaluation"]["youden"] | {"threshold": 0.50619575}
    values = pairs(facts, evaluation=facts["evaluation"] | {"youden": youden})
    assert values["Pneumonia from"].startswith("a score of 0.50619575 (")


ENDS = {"": 0.0, "_low": -0.001, "_high": 0.002}


def test_the_summary_says_sensitivity_and_specificity_with_intervals_and_counts(facts: dict[str, Any]) -> None:
    test = facts["evaluation"]["youden"]["test"]
    said = pairs(facts)
    for name, n, label in (
        ("sensitivity", test["n_positive"], "pneumonia"),
        ("specificity", test["n"] - test["n_positive"], "normal"),
    ):
        value = said[f"{name.capitalize()} there, on test"]
        assert value.startswith(f"{test[name]:.3f} [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}], ")
        assert f"{round(test[name] * n)} of {n} {label} images" in value


def test_the_summary_leaves_out_the_specificity_of_a_test_split_without_normals(facts: dict[str, Any]) -> None:
    evaluation = copy.deepcopy(facts["evaluation"])
    del evaluation["youden"]["test"]["specificity"]
    assert "Specificity there, on test" not in pairs(facts, evaluation=evaluation)


def test_the_auc_stands_once_above_the_operating_points_and_in_none_of_their_rows(facts: dict[str, Any]) -> None:
    test = facts["evaluation"]["youden"]["test"]
    interval = f"{test['auc']:.3f} [{test['auc_low']:.3f}, {test['auc_high']:.3f}]"
    said = f"AUC {interval} on 100 images, the same for all thresholds"
    blocks = next(one.blocks for one in card.sections(**facts) if one.title == "Performance on test")
    assert said in blocks[0]
    assert "auc" not in blocks[1].header
    columns = ["point", "scores", "threshold", "accuracy", "sensitivity", "specificity"]
    rows = table(facts, *columns, "share of pneumonia")
    assert [row[1:6] for row in rows] == list(facts["points"][columns[1:]].itertuples(index=False, name=None))
    names = ["Youden", "Youden", "target sensitivity", "target sensitivity", "one half", "one half", "prior shift"]
    assert [row[0] for row in rows] == names


def test_the_estimated_share_of_pneumonia_stands_in_its_row_beside_the_true_one(facts: dict[str, Any]) -> None:
    shares = {"estimated_prevalence": 0.61, "estimated_prevalence_low": 0.52, "estimated_prevalence_high": 0.73}
    shift = facts["evaluation"]["prior_shift"] | shares | {"test_prevalence": 0.5}
    (rows,) = [
        rows
        for first, *rows in card_tables(facts, evaluation=facts["evaluation"] | {"prior_shift": shift})
        if "threshold" in first
    ]
    assert [row[-1] for row in rows] == [""] * 6 + ["estimated 0.610 [0.520, 0.730], true 0.500"]
    without = {name: value for name, value in facts["evaluation"].items() if name != "prior_shift"}
    points = evaluate.operating_points(without)
    assert len(table(facts, *[name for name in points if name != "auc"], evaluation=without, points=points)) == 6


@pytest.mark.parametrize(
    ("slope", "bias", "said"),
    [
        (1202.3412, -11.27812, "z = 1202 ln(s / (1 − s)) − 11.28 of"),
        (0.98765, 0.123456, "z = 0.9877 ln(s / (1 − s)) + 0.1235 of"),
    ],
)
def test_the_calibration_is_a_formula_without_two_signs_or_false_digits(
    facts: dict[str, Any], slope: float, bias: float, said: str
) -> None:
    evaluation = facts["evaluation"] | {"calibration": {"slope": slope, "bias": bias}}
    assert said in rendered(facts, evaluation=evaluation).text


def test_settings_are_told_in_words_and_not_as_python_writes_them(facts: dict[str, Any]) -> None:
    values = pairs(facts)
    assert values["fetch.url"] == "not set"
    assert (values["tune.dropout"], values["tune.learning_rate"]) == ("0 to 0.3", "0.0001 to 0.003")
    assert (values["preprocess.clip_limit"], values["seed"]) == ("2", "1")
    assert values["chosen.learning_rate"] == "0.00125"
    assert pairs(facts, settings=facts["settings"] | {"seed": 12345678901, "fast": True})["seed"] == "12345678901"
    for classes, text in (({}, "not set"), ({"normal": ["ok", "fit"], "pneumonia": []}, "normal: ok, fit")):
        settings = facts["settings"] | {"fetch": {"classes": classes}}
        assert pairs(facts, settings=settings)["fetch.classes"] == text
    assert pairs(facts, settings=facts["settings"] | {"fast": True})["fast"] == "yes"


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("official", [True, False])
def test_of_a_public_test_split_it_is_said_that_it_was_looked_at_before(
    facts: dict[str, Any], public: bool, official: bool
) -> None:
    source, rebalance = facts["source"] | {"public_test": public}, facts["rebalance"] | {"official_test": official}
    text = " ".join(rendered(facts, source=source, rebalance=rebalance).text.split())
    assert "(50 pneumonia); no stage of this run used their labels for a choice." in text
    assert "took part in no choice" not in text
    looked = "This test split is public, and earlier results on it influenced the plan of this project."
    assert text.count(looked) == (2 if public and official else 0), "in the summary and beside the data"


def test_an_official_test_split_that_was_left_out_is_named_and_counted(facts: dict[str, Any]) -> None:
    rebalance = facts["rebalance"] | {"n_left_out_official_test": 1624}
    text = " ".join(rendered(facts, rebalance=rebalance).text.split())
    assert "the official test split of the source (1,624 images) and its patients were left out" in text
    assert ("left out, in the official test split", "1,624") in table(facts, "inclusion", "images", rebalance=rebalance)
    assert "official test split of the source" not in " ".join(rendered(facts).text.split())


def test_every_row_of_sources_has_what_the_card_asks_for(facts: dict[str, Any]) -> None:
    for row in sources.DATASETS.values():
        assert row.reference_standard in rendered(facts, source=row._asdict()).text


def test_the_registry_is_quoted_as_of_the_time_of_writing(facts: dict[str, Any]) -> None:
    """Registered in another store the same card is logged with the same words."""
    values = pairs(facts)
    assert values["At the time of writing"] == "registered as pneumonia-phantom version 3, not champion"
    assert values["Decision at that time"] == facts["decision"]["reason"]
    assert values["MLflow run, at the time of writing"] == "abc"
    champion = pairs(facts, decision=facts["decision"] | {"promoted": True})
    assert champion["At the time of writing"] == "registered as pneumonia-phantom version 3, champion"
    promotion = next(one for one in card.sections(**facts) if one.title == "Promotion")
    assert promotion.blocks[0] == f"At the time of writing: {facts['decision']['reason']}."
    bare = [row for rows in card_tables(facts) for row in rows if row[0] in ("Registered as", "MLflow run", "Decision")]
    assert bare == []


def test_age_and_sex_of_each_split_are_shown_with_how_many_are_unknown(facts: dict[str, Any]) -> None:
    assert table(facts, "patients", "age in years", "age unknown", "sex", "sex unknown") == [
        ("train", "43 [20.5, 61], 1 to 94", "12", "F 341, M 352", "9"),
        ("val", "", "104", "", "104"),
        ("test", "", "97", "", "97"),
    ]
    splits = {name: {**part} for name, part in facts["rebalance"]["splits"].items()}
    del splits["train"]["age"], splits["train"]["sex"]
    without = rendered(facts, rebalance=facts["rebalance"] | {"splits": splits})
    assert "The source has no age or sex of any patient." in without.text
    assert "age unknown" not in without.text


def test_weights_against_acquisition_are_told_with_what_acquisition_says_of_the_label(facts: dict[str, Any]) -> None:
    assert "Image acquisition" not in rendered(facts).text, "nobody asked for them"
    taken = {"n": 1001, "auc": 0.9212, "n_effective_normal": 211.4, "n_effective_pneumonia": 3322.6}
    settings = facts["settings"] | {"rebalance": {"acquisition": 10.0}}
    text = " ".join(
        rendered(facts, rebalance=facts["rebalance"] | {"acquisition": taken}, settings=settings).text.split()
    )
    assert "predicts the classes of the 1,001 train images with AUC 0.921." in text
    assert "up to 10 times the weight. The effective number of images is 211 normal and 3,323 pneumonia." in text


def test_what_was_left_out_is_counted_by_its_reason_and_the_rest_is_in_the_splits(facts: dict[str, Any]) -> None:
    assert table(facts, "inclusion", "images") == [
        ("examined", "1,300"),
        ("left out, blank", "5"),
        ("left out, cannot be read as an image", "2"),
        ("left out, a copy, or of a patient in an official split", "11"),
        ("in the splits", "1,282"),
    ]
    text = " ".join(rendered(facts).text.split())
    assert "4 of the files examined are exact copies, in 3 groups" in text
    assert "nothing is imputed" in text
    assert "Reference standard: what was drawn." in text


def test_with_folds_validation_is_out_of_fold(facts: dict[str, Any]) -> None:
    counts = {"n_patients": 9, "n_normal": 3, "n_pneumonia": 6}
    facts["rebalance"]["folds"] = [{"fold": fold, "n_images": 1010 + fold, **counts} for fold in range(3)]
    assert pairs(facts)["Network"].startswith("mean logit of 3 networks, one for each fold, each compact: ")
    text = " ".join(rendered(facts).text.split())
    assert "The AUC out of fold, which selects models, is" in text
    assert "in 3 folds by patient, of 1,010 to 1,012 images" in text


def test_how_it_was_made_names_epochs_software_hardware_and_where_the_code_stood(facts: dict[str, Any]) -> None:
    values = pairs(facts)
    assert values["Training"] == "5 epochs; epoch 3 kept (the highest validation AUC)"
    facts["settings"]["train"]["keep"] = "last"
    facts["history"]["kept"] = facts["history"]["epoch"] == 5
    assert pairs(facts)["Training"] == "5 epochs; epoch 5 kept (the last epoch)"
    facts["history"] = facts["history"].assign(kept=facts["history"]["epoch"].isin([2, 5]), fold=[0, 0, 1, 1, 1])
    assert (
        pairs(facts)["Training"]
        == "5 epochs by 2 networks, one after the other; epochs 2, 5 kept, one of each network (the last epoch)"
    )
    assert values["Software"] == "Python 3.12.1, TensorFlow 2.22.0, pneumonia 0.1.0"
    assert values["Hardware"] == "1 GPU (H7)"
    assert values["Commit"] == "0123456789"
    assert (values["Model file, SHA-256"], values["Data digest"]) == ("f" * 64, "d" * 64)
    assert values["dvc.lock, SHA-256 of its entry train"] == "e" * 64
    older = {name: value for name, value in facts["record"].items() if name != "made_with"}
    decision = {name: value for name, value in facts["decision"].items() if name != "dvc_lock_digest"}
    assert not {"Software", "Hardware", "dvc.lock, SHA-256 of its entry train"} & set(
        pairs(facts, record=older, decision=decision)
    )


def test_the_images_it_is_most_wrong_about_are_those_furthest_on_the_wrong_side() -> None:
    rows = [("a", "test", 0, 0.7), ("b", "test", 0, 0.99), ("c", "test", 0, 0.7), ("d", "test", 0, 0.6)]
    rows += [("e", "test", 1, 0.3), ("f", "test", 1, 0.49), ("g", "test", 1, 0.5), ("h", "val", 1, 0.0)]
    rows += [("i", "test", 0, 0.5), ("j", "test", 0, 0.1), ("k", "train", 0, 1.0), ("l", "test", 1, 0.9)]
    predictions = pd.DataFrame(rows, columns=["image_id", "split", "label", "score"])
    wrong = card.most_wrong(predictions, 0.5)
    assert list(wrong.itertuples(index=False, name=None)) == [
        ("b", 0, 0.99),
        ("a", 0, 0.7),
        ("c", 0, 0.7),
        ("e", 1, 0.3),
        ("f", 1, 0.49),
    ]
    assert card.most_wrong(predictions, 0.0)["label"].tolist() == [0, 0, 0]


def test_failures_are_counted_and_the_worst_are_named(facts: dict[str, Any]) -> None:
    predictions, headline, _ = figures()
    test = predictions[predictions["split"] == "test"]
    called = test["score"] >= headline["threshold"]
    alarms, missed = int((called & (test["label"] == 0)).sum()), int((~called & (test["label"] == 1)).sum())
    assert alarms != missed
    said = f"{alarms} normal and {missed} pneumonia test images of 100 are classified wrongly."
    assert said in rendered(facts).text
    worst = test[called & (test["label"] == 0)].nlargest(1, "score").iloc[0]
    rows = table(facts, "test image", "label", "predicted", "score")
    assert rows[0] == (worst["image_id"], "normal", "pneumonia", f"{worst['score']:.3f}")
    assert [row[1:3] for row in rows] == [("normal", "pneumonia")] * 3 + [("pneumonia", "normal")] * 3
    none = rendered(facts, wrong=facts["wrong"].iloc[:0], pictures={"failures": [page.Picture("x", PNG)]})
    assert "test image" not in [first[0] for first, *_ in card_tables(facts, wrong=facts["wrong"].iloc[:0])]
    assert none.sources == []


def test_what_nobody_told_the_workflow_is_left_to_who_uses_it(facts: dict[str, Any]) -> None:
    last = card.sections(**facts)[-1]
    assert last.title == "To be filled in"
    assert last.blocks[0].startswith("To be filled in by the user")
    values = pairs(facts)
    for word in ("Contact", "Funding", "Ethics"):
        assert [value for name, value in values.items() if name.startswith(word)] == ["…"]


@cache
def outside() -> dict[str, Any]:
    """`external` of `evaluation.json`: the test split as if it were of two other places."""
    _, _, full = figures()
    reported = {
        **full["youden"]["test"],
        "patients": 61,
        "prevalence": 0.5,
        "calibrated": full["youden"]["calibrated"]["test"],
        "reliability": full["reliability"]["test"],
        "n_in_run": 2,
        "no_lungs": 7,
    }
    left_out = [{"reason": "an image of this run", "n": 2}]
    return {
        "clinic": {"data": "folder", **reported, "left_out": []},
        "challenge": {"data": "rsna", **reported, "left_out": left_out},
    }


def test_an_external_test_has_a_section_of_its_own_and_changes_no_other_figure(facts: dict[str, Any]) -> None:
    unusual = {"clinic": {"unusual": 0.25, "unusual_low": 0.2, "unusual_high": 0.31}}
    changes = {"evaluation": facts["evaluation"] | {"external": outside()}, "unusual": unusual}
    test = facts["evaluation"]["youden"]["test"]
    header = ("external test", "n", "patients", "pneumonia", "AUC", "sensitivity", "specificity", "unusual images")
    ours = tuple(
        f"{test[name]:.3f} [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}]"
        for name in ("auc", "sensitivity", "specificity")
    )
    assert table(facts, *header, **changes) == [
        ("clinic", "100", "61", "50 (50%)", *ours, "0.250 [0.200, 0.310]"),
        ("challenge", "100", "61", "50 (50%)", *ours, ""),
    ]
    text = " ".join(rendered(facts, **changes).text.split())
    assert "The workflow does not count how often somebody looked at them" in text
    assert sources.DATASETS["rsna"].reference_standard in text
    assert "Left out: 2 an image of this run. Images in which no lungs are known: 7 of 100." in text
    assert "Licence: yours" not in text, "the row of `folder` says nothing of where these images are from"
    assert "tested on images of other places only as under External test" in text
    # Calibration, and one of each source, which here are the same.
    calibrations = [rows for first, *rows in card_tables(facts, **changes) if first == ("", "raw score", "calibrated")]
    assert len(calibrations) == 3
    assert calibrations[1:] == calibrations[:1] * 2
    without, with_it = ({one.title: one.blocks for one in card.sections(**facts | more)} for more in ({}, changes))
    changed = {title for title in without if without[title] != with_it[title]}
    assert changed == {"Intended use and limits", "To be filled in"}
    assert with_it.keys() - without.keys() == {"External test"}


def numbers_of(items: str) -> set[str]:
    return {item.strip() for item in items.split(",")} - {""}


def test_each_item_of_the_checklists_is_given_to_sections_that_the_card_has(facts: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "model_card.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    _, _, *rows = lines
    changes = {"evaluation": facts["evaluation"] | {"external": outside()}}
    assert [section for section, *_ in rows] == [section.title for section in card.sections(**facts | changes)]
    claim, tripod = (set().union(*map(numbers_of, column)) for column in list(zip(*rows, strict=True))[1:])
    assert claim == {str(number) for number in range(1, 45)}
    letters = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab"}
    letters |= {27: "abc"}
    items = {f"{number}{letter}" for number in range(1, 28) for letter in letters.get(number, [""])}
    assert tripod | {"9a", "9c", "12f", "24"} == items
    assert "TRIPOD+AI 9a and 9c: " in text
    assert "12f and 24: " in " ".join(text.split())


def test_the_page_of_a_card_needs_no_other_file(facts: dict[str, Any]) -> None:
    source = page.html("t", "l", card.sections(**facts))
    assert [url.split(";")[0] for url in Reader(source).sources] == ["data:image/png", "data:image/jpeg"]
    assert not re.search(r"https?://|<script|@import|url\(", source)


def test_of_a_file_of_weights_the_name_is_shown_not_the_place(facts: dict[str, Any]) -> None:
    own = facts["settings"] | {"fetch": {"url": "/home/me/xrays.zip"}}
    text = page.markdown("Card", "lead", card.sections(**facts | {"settings": own}))
    assert text.count("imagenet.h5") == 2, "in the summary and among the settings"
    assert "xrays.zip" in text
    assert "/home/me" not in text
    published = facts["settings"] | {"fetch": {"url": "https://example.org/a/xrays.zip"}}
    assert pairs(facts, settings=published)["fetch.url"] == "https://example.org/a/xrays.zip"


def test_what_a_report_lacks_is_left_out(facts: dict[str, Any]) -> None:
    without = rendered(facts, explain=explained({}, n_boxed=0), pictures={})
    assert "No boxes are known" in without.text
    assert without.sources == []
    decision = {name: value for name, value in facts["decision"].items() if name != "gates"}
    assert "min_sensitivity" not in rendered(facts, decision=decision).text


def test_what_the_stages_left_is_read_and_shown(facts: dict[str, Any], tmp_path: Path) -> None:
    write_reports(tmp_path)
    predictions, headline, _ = figures()
    predictions = predictions.assign(image_id="test/" + predictions["image_id"])
    tables.write_table(predictions, tmp_path / "predictions.csv")
    worst = card.most_wrong(predictions, headline["threshold"])
    drawn = [file_name(worst["image_id"][row], "") for row in (0, 4)]  # as `explain` names them
    noise = np.random.default_rng(1).integers(0, 256, (900, 1600, 3), np.uint8)
    for name in (
        "plots/roc",
        "plots/confusion",
        "plots/calibration",
        *(f"saliency/{name}" for name in (*"abcdefg", *drawn)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    tables.write_table(facts["history"].drop(columns="kept"), tmp_path / "history.csv")
    with pytest.raises(UserError, match=r"has no column for the kept epochs.* dvc repro -f -s train"):
        card.reports(tmp_path)
    tables.write_table(facts["history"], tmp_path / "history.csv")
    read = card.reports(tmp_path)
    pd.testing.assert_frame_equal(read["points"], facts["points"])
    assert read["history"]["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert read["wrong"]["image_id"].tolist() == worst["image_id"].tolist()
    pictures = read["pictures"]
    assert [one.caption for one in pictures["performance"]] == ["ROC curve", "Decisions at the Youden threshold"]
    assert "calibration" not in pictures, "its decision curve is not there"
    assert len(pictures["saliency"]) == card.N_SALIENCY
    named = (ROOT / "src/pneumonia/report/saliency.py").read_text()
    assert 'file_name(name, ".png")' in named, "so they are named"
    assert [one.caption for one in pictures["failures"]] == [
        f"{worst['image_id'][row]}: {tables.LABELS[label]}, score {worst['score'][row]:.3f}"
        for row, label in ((0, 0), (4, 1))
    ]
    assert all(len(one.content) < 700_000 for one in pictures["saliency"])
    assert Image.open(io.BytesIO(pictures["saliency"][0].content)).size in ((1000, 562), (1000, 563))
    (tmp_path / "card").mkdir()
    others = {name: facts[name] for name in ("record", "decision", "settings", "network", "source")}
    card.write(tmp_path / "card", "Card", card.sections(**read, **others))
    assert len(Reader((tmp_path / "card/model_card.html").read_text()).sources) == 2 + 2 + card.N_SALIENCY
    assert (tmp_path / "card/model_card.md").read_text().startswith("# Card")


def test_the_card_states_the_verdict_on_the_maps_and_the_baselines_they_must_beat(facts: dict[str, Any]) -> None:
    text = rendered(facts).text
    assert "The default method is Grad-CAM: cannot be told (n = 3)." in text
    assert "On 3 test images with known boxes" in text


# --- another target ---


def test_the_card_has_the_names_of_the_target_and_says_for_which_films_it_is(facts: dict[str, Any]) -> None:
    bacterial = TARGETS["bacterial"]
    for part in facts["rebalance"]["splits"].values():
        part |= {"n_viral": part.pop("n_normal"), "n_bacterial": part.pop("n_pneumonia")}
    facts["rebalance"]["left_out_of_target"] = [{"kind": "normal", "n": 1583}]
    facts["rebalance"]["acquisition"] = {"n": 9, "auc": 0.6, "n_effective_viral": 4.0, "n_effective_bacterial": 5.0}
    facts["settings"]["rebalance"] = {"acquisition": 10.0}
    facts["evaluation"]["subgroups"] = {"sex": {"F": {"n": 3, "n_positive": 1}}}
    text = page.markdown("Card", "lead", card.sections(**facts, target=bacterial))
    assert f"It distinguishes only viral and bacterial. {bacterial.limit}" in text
    assert "| split | images | patients | viral | bacterial |" in text
    assert "| left out, not of the target: normal | 1,583 |" in text
    assert "| Bacterial pneumonia from | a score of" in text
    assert "4 viral and 5 bacterial." in text
    words = text.replace("left out, not of the target: normal", "")
    assert "normal" not in words.lower()
    about_others = {"bacterial pneumonia", "show pneumonia", "pneumonia-phantom", "pneumonia 0.1.0"}
    for phrase in about_others:
        words = re.sub(phrase, "", words, flags=re.IGNORECASE)
    assert "pneumonia" not in words.lower()
