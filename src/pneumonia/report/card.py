"""The model card: one self-contained page on what a model is, its intended use, its quality and its training.

The fields follow the model cards of Mitchell et al. (2019), doi:10.1145/3287560.3287596, and the checklists CLAIM
(Mongan et al. 2020, doi:10.1148/ryai.2020200029; update of Tejani et al. 2024, doi:10.1148/ryai.240300) and TRIPOD+AI
(Collins et al. 2024, doi:10.1136/bmj-2023-078378); `docs/model_card.md` maps sections to items.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from pneumonia import UserError, workspace
from pneumonia.data import sources, tables
from pneumonia.data.sources import SYNTHETIC
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.metrics.text import format_with_interval
from pneumonia.names import file_name
from pneumonia.report import page
from pneumonia.report.page import Block, Heading, Picture, Section, Table
from pneumonia.saliency import verdicts


def reports(folder: Path, target: Target = PNEUMONIA) -> dict[str, Any]:
    """The reports of the stages as arguments of `sections`.

    Args:
        folder: `reports/`.
        target: of the labels.
    """
    history = pd.read_csv(folder / "history.csv")
    if "kept" not in history:
        raise UserError(
            f"{folder / 'history.csv'} has no column for the kept epochs: an earlier version wrote it; "
            "write it again: dvc repro -f -s train"
        )
    names = ("evaluation", "validation", "rebalance", "explain")
    parts: dict[str, Any] = {name: tables.read_json(folder / f"{name}.json") for name in names}
    parts["chosen"] = tables.read_json(folder / "tune" / "best.json")["values"]
    saliency = sorted((folder / "saliency").glob("*.png"))[:N_SALIENCY]
    predictions = tables.read_table(folder / "predictions.csv")
    wrong = most_wrong(predictions, parts["evaluation"]["youden"]["threshold"])
    return parts | {
        "history": history,
        "wrong": wrong,
        "points": pd.read_csv(folder / "plots" / "operating_points.csv", dtype=str, keep_default_na=False),
        "pictures": {
            section: [
                Picture(caption, thumbnail(folder / "plots" / f"{name}.png")) for name, caption in captions.items()
            ]
            for section, captions in _PICTURES.items()
            if all((folder / "plots" / f"{name}.png").is_file() for name in captions)
        }
        | {
            "saliency": [Picture(f"Test image {place}", thumbnail(path)) for place, path in enumerate(saliency, 1)],
            "failures": _saliency_of(wrong, folder / "saliency", target),
        },
    }


def most_wrong(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The test images with the largest errors of a model: `image_id, label, score`.

    Up to `N_WRONG` false positives, then up to `N_WRONG` false negatives; the furthest from the threshold first.

    Args:
        predictions: as `evaluate` writes them.
        threshold: on the raw scores.
    """
    test = predictions.loc[predictions["split"] == "test", ["image_id", "label", "score"]]
    positive = test["score"] >= threshold
    false_positives = test[positive & (test["label"] == 0)].sort_values(["score", "image_id"], ascending=[False, True])
    false_negatives = test[~positive & (test["label"] == 1)].sort_values(["score", "image_id"])
    return pd.concat([false_positives.head(N_WRONG), false_negatives.head(N_WRONG)], ignore_index=True)


def _saliency_of(wrong: pd.DataFrame, folder: Path, target: Target) -> list[Picture]:
    """The saliency pictures of these images, if `explain` has made them."""
    paths = {name: folder / file_name(name, ".png") for name in wrong["image_id"]}  # as `explain` names them
    rows = wrong.itertuples(index=False)
    return [Picture(_caption(row, target), thumbnail(paths[row[0]])) for row in rows if paths[row[0]].is_file()]


def _caption(row: Any, target: Target) -> str:
    image_id, label, score = row
    return f"{image_id}: {target.classes[label]}, score {score:.3f}"


def thumbnail(path: Path) -> bytes:
    """A picture of at most 1,000 pixels a side, to limit the size of the page; as JPEG if that is smaller."""
    content = path.read_bytes()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((1000, 1000))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=85)
    return min(content, out.getvalue(), key=len)


N_SALIENCY = 6
N_WRONG = 3
_PICTURES = {
    "performance": {"roc": "ROC curve", "confusion": "Decisions at the Youden threshold"},
    "calibration": {"calibration": "Reliability", "decision_curve": "Decision curve"},
    "stress": {"stress": "AUC of changed test images"},
    "boxes": {"boxes": "Films with the lowest score of the challenge", "boxes_froc": "Boxes found"},
}


def sections(
    *,
    record: Mapping[str, Any],
    decision: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    points: pd.DataFrame,
    validation: Mapping[str, Any],
    rebalance: Mapping[str, Any],
    explain: Mapping[str, Any],
    chosen: Mapping[str, Any],
    history: pd.DataFrame,
    wrong: pd.DataFrame,
    settings: Mapping[str, Any],
    network: str,
    source: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Picture]],
    unusual: Mapping[str, Mapping[str, float]] | None = None,
    target: Target = PNEUMONIA,
) -> list[Section]:
    """The sections of the card from the reports of the stages; missing values are left out.

    Args:
        record: `models/run.json`.
        decision: `promotion.json`, and `model_name`, `git_commit`, `dvc_lock_digest`.
        evaluation, validation, rebalance, explain: reports with these names.
        points: as `evaluate.operating_points` makes it.
        chosen: hyper-parameters, `values` in `best.json` of `tune`.
        history: as `train.fit_folds` returns it.
        wrong: as `most_wrong` returns it.
        settings: the parts of params.yaml that affect the result, with `preprocess`.
        network: origin of the architecture.
        source: of the data: `title, licence, citation, patients, reference_standard, public_test, synthetic`.
        pictures: under `performance`, `calibration`, `boxes`, `stress`, `saliency` and `failures`.
        unusual: source of an external test -> `unusual`, the share of its images, with its interval.
        target: what the model tells apart.
    """
    youden = evaluation["youden"]
    val, test = youden["val"], youden["test"]
    synthetic = f" {SYNTHETIC}" if source["synthetic"] else ""
    n_folds = len(rebalance.get("folds", ()))
    of_several = f"mean logit of {n_folds} networks, one for each fold, each " if n_folds else ""
    on_validation = "out of fold" if n_folds else "on validation"
    outside = evaluation.get("external", {})
    elsewhere, it = "was not tested on images of another hospital", "It"
    if outside:
        elsewhere, it = "was tested on images of other places only as under External test", "Apart from this, it"
    # In another store, or later, the same model has other numbers: the card states the time of these.
    state = "champion" if decision["promoted"] else "not champion"
    return [
        Section(
            "Summary",
            [
                f"AUC {format_with_interval(test, 'auc')} on {test['n']} test images ({test['n_positive']} "
                f"{target.positive}); no stage of this run used their labels for a choice."
                f"{_public_test_note(source, rebalance)} The AUC {on_validation}, which selects models, is "
                f"{format_with_interval(val, 'auc')}.{synthetic}",
                Table(
                    ("", ""),
                    [
                        (
                            "At the time of writing",
                            f"registered as {decision['model_name']} version {decision['version']}, {state}",
                        ),
                        ("Decision at that time", decision["reason"]),
                        ("Network", f"{of_several}{record['model']}: {network}"),
                        ("Pretrained weights", _without_folder("weights", record["weights"])),
                        ("Input", "images prepared as under Data; pixels 0-255, one channel, any size"),
                        ("Output", "score from 0 to 1"),
                        (
                            f"{target.finding.capitalize()} from",
                            f"a score of {youden['threshold']:.8g} (Youden, chosen on validation)",
                        ),
                        *_sensitivity_and_specificity(test, target),
                    ],
                ),
            ],
        ),
        Section(
            "Intended use and limits",
            [
                "For research on methods: to compare models, their calibration and their explanations. It is not a "
                f"medical device, {elsewhere}, and must not guide patient care.",
                f"It distinguishes only {target.negative} and {target.positive}. {_with_space(target.limit)}{it} was "
                "not tested on other findings, lateral views, adults if it was trained on children or the reverse, or "
                "images that were not prepared as in training.",
            ],
        ),
        _data(validation, rebalance, source, settings, target),
        _performance(test, evaluation, points, pictures, target),
        Section(
            "Calibration",
            [
                "A calibration fitted on validation (Platt) converts scores to probabilities. On test:",
                _calibration_table(evaluation),
                *pictures.get("calibration", ()),
            ],
        ),
        *([_boxes(evaluation["detection"], pictures)] if "detection" in evaluation else []),
        *([_external(outside, unusual or {}, target)] if outside else []),
        _subgroups(evaluation, target),
        _failures(test, wrong, pictures, target),
        _stress(evaluation, pictures),
        _explanations(explain, pictures),
        Section("Promotion", _promotion(decision)),
        Section("How it was made", _provenance(record, decision, history, {**settings, "chosen": chosen})),
        Section(
            "To be filled in",
            [
                "To be filled in by the user: the workflow has no data on these.",
                Table(("", ""), [(field, "…") for field in TO_BE_FILLED_IN if not (outside and field == _ELSEWHERE)]),
            ],
        ),
    ]


_ELSEWHERE = "Test on images from other sources"
TO_BE_FILLED_IN = (
    "Contact",
    "Funding, role of the funders, conflicts of interest",
    "Ethics approval, consent, de-identification",
    "Protocol and registration",
    "Background, aims, patient and public involvement",
    "Design, setting, dates and devices of the images",
    "Reason for this reference standard, and agreement of its readers",
    "Size of the study, and why it is sufficient",
    _ELSEWHERE,
    "Where code, model and data are available",
    "Interpretation and next steps",
)
"""Facts that a paper needs and that no file of the workflow contains."""


def _sensitivity_and_specificity(test: Mapping[str, Any], target: Target) -> list[tuple[str, str]]:
    """Rows of the summary, in words that tell the two apart; none for a class that the test split lacks."""
    kinds = (
        ("sensitivity", target.positive, "recognised", test["n_positive"]),
        ("specificity", target.negative, f"classified as {target.negative}", test["n"] - test["n_positive"]),
    )
    return [
        (
            f"{name.capitalize()} there, on test",
            f"{format_with_interval(test, name)}, {round(test[name] * n):,} of {n:,} {label} images are {outcome}",
        )
        for name, label, outcome, n in kinds
        if name in test
    ]


def _public_test_note(source: Mapping[str, Any], rebalance: Mapping[str, Any]) -> str:
    """A sentence if the test split is the official, public one of the source; else empty."""
    if not (source["public_test"] and rebalance["official_test"]):
        return ""
    return " This test split is public, and earlier results on it influenced the plan of this project."


def _data(
    validation: Mapping[str, Any],
    rebalance: Mapping[str, Any],
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    target: Target,
) -> Section:
    splits, names = rebalance["splits"], tuple(target.classes.values())
    rows = [
        (name, *(f"{part[key]:,}" for key in ("n_images", "n_patients", *(f"n_{name}" for name in names))))
        for name, part in splits.items()
    ]
    preparation = settings["preprocess"]
    clahe = f"CLAHE with clip limit {preparation['clip_limit']:g}" if preparation["clip_limit"] else "no CLAHE"
    kind = "the official one of the source" if rebalance["official_test"] else "a random sample of patients"
    unseen = rebalance.get("n_left_out_official_test", 0)
    if unseen:
        kind += f"; the official test split of the source ({unseen:,} images) and its patients were left out"
    return Section(
        "Data",
        [
            f"{_sentence(source['title'])} Licence: {source['licence']}. Source: {source['citation']}.",
            f"Reference standard: {source['reference_standard']}. Labels are those of the source; the images were not "
            "read again.",
            f"Patient identifier: {source['patients']}. With it no patient is in two splits; the test split is "
            f"{kind}.{_public_test_note(source, rebalance)}",
            Table(("split", "images", "patients", *names), rows),
            *folds_in_words(rebalance),
            *_age_and_sex(splits),
            Table(
                ("inclusion", "images"),
                [
                    ("examined", f"{validation['n_images']:,}"),
                    *((f"left out, {row['reason']}", f"{row['n']:,}") for row in validation["quarantined"]),
                    (
                        "left out, a copy, or of a patient in an official split",
                        f"{rebalance['n_left_out_duplicates_or_test_patients']:,}",
                    ),
                    *([("left out, in the official test split", f"{unseen:,}")] if unseen else []),
                    *(
                        (f"left out, not of the target: {row['kind']}", f"{row['n']:,}")
                        for row in rebalance.get("left_out_of_target", ())
                    ),
                    ("in the splits", f"{sum(part['n_images'] for part in splits.values()):,}"),
                ],
                f"{validation['duplicate_files']:,} of the files examined are exact copies, in "
                f"{validation['duplicate_groups']:,} groups; an official test split keeps its own copies.",
            ),
            f"Each image: one gray channel, {preparation['image_size']} pixels square, {clahe}.",
            *_acquisition(rebalance, settings, target),
        ],
    )


def folds_in_words(rebalance: Mapping[str, Any]) -> list[str]:
    """What validation means where there are folds; empty where there is a validation split.

    Args:
        rebalance: `rebalance.json`.
    """
    if "folds" not in rebalance:
        return []
    sizes = [row["n_images"] for row in rebalance["folds"]]
    return [
        f"The images of train are in {len(sizes)} folds by patient, of {min(sizes):,} to {max(sizes):,} images. Each "
        "fold validates one network, which learns from the others. On this page validation means these scores, out of "
        "fold; scores on test are those of all networks together. The randomisation check of saliency maps uses all "
        "networks together, too: all but one of them learnt from its images."
    ]


def _acquisition(rebalance: Mapping[str, Any], settings: Mapping[str, Any], target: Target) -> list[str]:
    if "acquisition" not in rebalance:
        return []
    acquisition = rebalance["acquisition"]
    return [
        "Image acquisition (brightness, contrast, sharpness, proportions, corner, border; not the findings) predicts "
        f"the classes of the {acquisition['n']:,} train images with AUC {acquisition['auc']:.3f}. Images whose "
        f"acquisition is typical of the other class have up to {settings['rebalance']['acquisition']:g} times the "
        "weight. The effective "
        f"number of images is {acquisition[f'n_effective_{target.negative}']:,.0f} {target.negative} and "
        f"{acquisition[f'n_effective_{target.positive}']:,.0f} {target.positive}."
    ]


def _age_and_sex(splits: Mapping[str, Mapping[str, Any]]) -> list[str | Table]:
    """Age and sex per split, and the number of patients without them."""
    rows = []
    for name, part in splits.items():
        age, sexes = part.get("age"), part.get("sex", [])
        years = (
            f"{age['median']:g} [{age['lower_quartile']:g}, {age['upper_quartile']:g}], "
            f"{age['lowest']:g} to {age['highest']:g}"
            if age
            else ""
        )
        n_without_age = part["n_patients"] - (age["n"] if age else 0)
        n_without_sex = part["n_patients"] - sum(row["n"] for row in sexes)
        counts = ", ".join(f"{row['value']} {row['n']:,}" for row in sexes)
        rows.append((name, years, f"{n_without_age:,}", counts, f"{n_without_sex:,}"))
    note = "The network uses pixels only: nothing is imputed. Images without age, sex or view are in no such subgroup."
    if not any(years or counts for _, years, _, counts, _ in rows):
        return [f"The source has no age or sex of any patient. {note}"]
    header = ("patients", "age in years", "age unknown", "sex", "sex unknown")
    return [Table(header, rows, f"Age: median [quartiles], lowest to highest. {note}")]


def _performance(
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    points: pd.DataFrame,
    pictures: Mapping[str, Sequence[Picture]],
    target: Target,
) -> Section:
    names = {
        "youden": "Youden",
        "target_sensitivity": "target sensitivity",
        "one_half": "one half",
        "prior_shift": "prior shift",
    }
    # Threshold and calibration do not change the AUC: it is stated once, above the table.
    table = points.drop(columns="auc").replace({"point": names})
    if "prior_shift" in evaluation:
        shift = evaluation["prior_shift"]
        share = f"estimated {format_with_interval(shift, 'estimated_prevalence')}, true {shift['test_prevalence']:.3f}"
        table[f"share of {target.finding}"] = [share if point == "prior_shift" else "" for point in points["point"]]
    note = (
        "Youden and target sensitivity are chosen on validation, one half is fixed. Prior shift uses the share of "
        f"{target.finding} estimated from the unlabelled test scores. Intervals: {100 * evaluation['level']:g} %, by "
        "patient; DeLong for the AUC, Wilson for ratios, bootstrap for the others."
    )
    platt = evaluation["calibration"]
    sign = "−" if platt["bias"] < 0 else "+"
    calibrated = (
        f"A calibrated score is 1 / (1 + exp(−z)) with z = {platt['slope']:.4g} ln(s / (1 − s)) {sign} "
        f"{abs(platt['bias']):.4g} of the raw score s; more digits are in evaluation.json."
    )
    further = [
        (label, format_with_interval(evaluation["youden"]["test"], name))
        for name, label in _FURTHER_METRICS.items()
        if name in evaluation["youden"]["test"]
    ]
    return Section(
        "Performance on test",
        [
            f"AUC {format_with_interval(test, 'auc')} on {test['n']} images, the same for all thresholds and after "
            "calibration.",
            Table(tuple(map(str, table)), list(table.itertuples(index=False, name=None)), note),
            calibrated,
            Table(
                ("at the Youden threshold", ""),
                [*_counts(test), *further],
                f"Predictive values are valid for {test['n_positive'] / test['n']:.0%} {target.positive}, as in this "
                "split.",
            ),
            *pictures.get("performance", ()),
        ],
    )


class _Confusion(NamedTuple):
    """Numbers of test images at the Youden threshold."""

    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int


def _confusion(test: Mapping[str, Any]) -> _Confusion:
    n_negative = test["n"] - test["n_positive"]
    true_positives = round(test.get("sensitivity", 0.0) * test["n_positive"])
    true_negatives = round(test.get("specificity", 0.0) * n_negative)
    return _Confusion(true_positives, test["n_positive"] - true_positives, true_negatives, n_negative - true_negatives)


def _counts(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    true_positives, false_negatives, true_negatives, false_positives = _confusion(test)
    rows = [
        ("true positives, false negatives", f"{true_positives}, {false_negatives}"),
        ("true negatives, false positives", f"{true_negatives}, {false_positives}"),
    ]
    n_predicted_negative = true_negatives + false_negatives
    if n_predicted_negative:
        rows.append(("negative predictive value", f"{true_negatives / n_predicted_negative:.3f}"))
    return rows


def _boxes(detection: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Section:
    rows = [
        (f"boxes found at {row['false_positives']:g} false alarms per image", format_with_interval(row, "sensitivity"))
        for row in detection["froc"]
        if "sensitivity" in row
    ]
    figures = {"metric of the RSNA challenge": "rsna_map", "average precision at an overlap of .5": "ap50"}
    rows = [*((label, format_with_interval(detection, name)) for label, name in figures.items()), *rows]
    unknown = f"; of {detection['n_unknown']} more, boxes are not known" if detection["n_unknown"] else ""
    return Section(
        "Boxes",
        [
            f"On {detection['n']} test images with {detection['n_boxes']} boxes{unknown}. Shown are boxes with a score "
            f"of at least {detection['threshold']:.3f}, chosen on validation: {detection['n_shown']}.",
            Table(("", ""), [row for row in rows if row[1]], "Overlap is intersection over union."),
            *pictures.get("boxes", ()),
        ],
    )


def _external(outside: Mapping[str, Any], unusual: Mapping[str, Mapping[str, float]], target: Target) -> Section:
    """The external tests, apart from all other figures."""
    rows = [
        (
            name,
            f"{part['n']:,}",
            f"{part['patients']:,}",
            f"{part['n_positive']:,} ({part['prevalence']:.0%})",
            *(format_with_interval(part, figure) for figure in _SUBGROUP_METRICS),
            format_with_interval(unusual.get(name, {}), "unusual"),
        )
        for name, part in outside.items()
    ]
    header = ("external test", "n", "patients", target.positive, "AUC", "sensitivity", "specificity", "unusual images")
    note = (
        "At the Youden threshold of validation, with intervals by patient. Unusual: a prediction says of these images "
        "that they are unlike those the model learnt from. They are tested all the same."
    )
    blocks: list[Block] = [
        "Images of other places. No network learnt from them; threshold, calibration and champion do not depend on "
        "them. But people may have chosen a recipe by these figures, and then they are too good. The workflow does not "
        "count how often somebody looked at them: state the number beside them.",
        Table(header, rows, note),
    ]
    for name, part in outside.items():
        origin = sources.source(part["data"])
        left_out = "; ".join(f"{row['n']:,} {row['reason']}" for row in part["left_out"])
        scores = {"raw": part, "calibrated": part["calibrated"]}
        blocks += [
            Heading(name),
            f"{_sentence(origin.title)} Licence: {origin.licence}. Source: {origin.citation}. Reference standard: "
            f"{origin.reference_standard}."
            if part["data"] != "folder"
            else "The user gave these images, and states here where they are from and how their labels were made: …",
            f"Left out: {left_out or 'nothing'}. Images in which no lungs are known: {part['no_lungs']:,} of "
            f"{part['n']:,}.",
            _calibration_rows(*({**part["reliability"][key], **at} for key, at in scores.items())),
        ]
    return Section("External test", blocks)


def _calibration_table(evaluation: Mapping[str, Any]) -> Table:
    youden = evaluation["youden"]
    # Reports of earlier versions have no `reliability`.
    further = evaluation.get("reliability", {"test": {"raw": {}, "calibrated": {}}})["test"]
    return _calibration_rows(further["raw"] | youden["test"], further["calibrated"] | youden["calibrated"]["test"])


def _calibration_rows(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    figures = {
        "ece": "calibration error (ECE)",
        "brier": "Brier score",
        "ece_if_perfect": "the ECE of a perfect model with these scores",
        "slope": "slope, 1 is perfect",
        "intercept": "intercept, 0 is perfect",
    }
    rows = [
        (label, format_with_interval(before, name), format_with_interval(after, name))
        for name, label in figures.items()
        if name in before and name in after
    ]
    return Table(("", "raw score", "calibrated"), rows)


def _subgroups(evaluation: Mapping[str, Any], target: Target) -> Section:
    rows = [
        (
            column,
            group,
            str(part["n"]),
            str(part["n_positive"]),
            *(format_with_interval(part, name) for name in _SUBGROUP_METRICS),
        )
        for column, groups in evaluation["subgroups"].items()
        for group, part in groups.items()
    ]
    header = ("", "group", "n", target.positive, "AUC", "sensitivity", "specificity")
    note = (
        "At the Youden threshold. The AUC of a type of pneumonia is against all normals; other groups with one class "
        "have none. Sensitivity is of pneumonia, specificity of normals."
    )
    if target.subtypes:
        note = (
            "At the Youden threshold. Groups with one class have no AUC. Sensitivity is of the class "
            f"{target.positive}, specificity of the class {target.negative}."
        )
    table = Table(header, rows, note)
    return Section("Subgroups", [table if rows else "The source has no data that define subgroups."])


_SUBGROUP_METRICS = ("auc", "sensitivity", "specificity")


def _failures(
    test: Mapping[str, Any], wrong: pd.DataFrame, pictures: Mapping[str, Sequence[Picture]], target: Target
) -> Section:
    counts = _confusion(test)
    summary = (
        f"At the Youden threshold {counts.false_positives} {target.negative} and {counts.false_negatives} "
        f"{target.positive} test images of {test['n']} are classified wrongly."
    )
    if wrong.empty:
        return Section("Failures", [summary])
    rows = [
        (str(image_id), target.classes[label], target.classes[1 - label], f"{score:.3f}")
        for image_id, label, score in wrong.itertuples(index=False, name=None)
    ]
    note = f"Up to {N_WRONG} of each kind, with the largest distance to the threshold. The label may also be wrong."
    table = Table(("test image", "label", "predicted", "score"), rows, note)
    return Section("Failures", [summary, table, *pictures.get("failures", ())])


def _stress(evaluation: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Section:
    audit, robust = evaluation["stress"], evaluation["robustness"]
    return Section(
        "Under stress",
        [
            Table(
                ("test images", "AUC"),
                [(name.replace("_", " "), format_with_interval(part, "auc")) for name, part in audit["auc"].items()],
            ),
            _sentence(audit["verdict"]),
            f"On validation: AUC {robust['clean']:.3f}, on average {robust['mean']:.3f} over the unchanged images "
            "and changes of sharpness, contrast, gamma, noise and proportions.",
            *pictures.get("stress", ()),
        ],
    )


def _explanations(explain: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Section:
    return Section(
        "Saliency",
        [
            "Maps show where a model looks. They do not show why, or that it is right. "
            + _sentence(
                f"the default method is {verdicts.title(explain['default'])}: "
                f"{explain['methods'][explain['default']]['verdict']}"
            ),
            saliency_table(explain),
            *pictures.get("saliency", ()),
        ],
    )


def saliency_table(explain: Mapping[str, Any]) -> Table:
    """The figures of each method and of the baselines that it must beat, with the verdicts.

    Args:
        explain: `explain.json`.
    """
    figures = ("pointing_game", "energy_in_box", "energy_in_lungs", "randomisation_corr")
    rows = [
        (
            verdicts.title(name) + (" (default)" if name == explain["default"] else ""),
            *(format_with_interval(row, figure, 2) for figure in figures),
            row.get("verdict", "a baseline"),
        )
        for name, row in {**explain["methods"], **explain["baselines"]}.items()
    ]
    header = ("map", "maximum in a box", "share in boxes", "share in the lungs", "randomisation check", "verdict")
    (n_boxed,) = {row["n_boxed"] for row in explain["methods"].values()}
    note = (
        f"On {n_boxed} test images with known boxes. "
        if n_boxed
        else "No boxes are known, so that nobody can say whether a map shows the disease. "
    )
    return Table(
        header,
        rows,
        note
        + "Shares with 95 % intervals by patient. A baseline knows nothing of the network, or its weights are random. "
        f"Randomisation check: rank correlation with maps of random weights, which must be below "
        f"{verdicts.MAX_CORRELATION:g}. The rules of the verdicts are in docs/saliency.md.",
    )


def _promotion(decision: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [f"At the time of writing: {decision['reason']}."]
    gates = decision.get("gates", ())
    if gates:
        rows = [
            (gate["name"], f"{gate['value']:.4g}", f"{gate['limit']:.4g}", "passed" if gate["passed"] else "failed")
            for gate in gates
        ]
        blocks.append(Table(("gate, on validation", "value", "limit", ""), rows))
    return blocks


def _provenance(
    record: Mapping[str, Any], decision: Mapping[str, Any], history: pd.DataFrame, settings: Mapping[str, Any]
) -> list[Block]:
    flat = [
        (name := f"{section}.{key}" if key else section, _setting_text(_without_folder(name, value)))
        for section, values in settings.items()
        for key, value in (values.items() if isinstance(values, Mapping) else [("", values)])
    ]
    kept = ", ".join(map(str, history.loc[history["kept"], "epoch"]))
    rule = "the highest validation AUC" if settings["train"]["keep"] == "best" else "the last epoch"
    networks = f"; epoch {kept} kept"
    if "fold" in history:
        n = history["fold"].nunique()
        networks = f" by {n} networks, one after the other; epochs {kept} kept, one of each network"
    software = dict(record.get("made_with", {}))
    hardware = software.pop("hardware", "")
    facts = [
        ("Training", f"{len(history)} epochs{networks} ({rule})"),
        ("Software", ", ".join(f"{name} {version}" for name, version in software.items())),
        ("Hardware", hardware),
        ("Commit", str(decision.get("git_commit", "not in a git repository"))),
        ("dvc.lock, SHA-256 of its entry train", str(decision.get("dvc_lock_digest", ""))),
        ("Model file, SHA-256", str(record["model_sha256"])),
        ("Data digest", str(record["data_digest"])),
        ("MLflow run, at the time of writing", str(record["run_id"])),
    ]
    return [
        "DVC ran the stages, MLflow logged the run. The settings are those of the run, committed or not.",
        Table(
            ("", ""),
            [(name, value) for name, value in facts if value],
            "Version, run and champion can differ in another MLflow store, or later in this one. The SHA-256 of the "
            "model file does not change.",
        ),
        Table(("setting", "value"), flat),
    ]


def _setting_text(value: Any) -> str:
    """A value of params.yaml as text; a pair is a range."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {', '.join(names)}" for name, names in value.items() if names) or "not set"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " to ".join(map(_setting_text, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _without_folder(name: str, value: Any) -> Any:
    """Of a local path only the last part: its folder means nothing to other readers."""
    local = name in ("weights", "fetch.url") and isinstance(value, str) and "://" not in value
    return Path(value).name if local else value


_FURTHER_METRICS = {
    "precision": "precision",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "Matthews correlation",
    "average_precision": "average precision",
}


def _with_space(sentence: str) -> str:
    return f"{sentence} " if sentence else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `model_card.html` and `model_card.md` into `folder`."""
    lead = "Written by the workflow from its own reports; every figure is computed."
    for name, text in (("html", page.html(title, lead, sections)), ("md", page.markdown(title, lead, sections))):
        with workspace.written_whole(folder / f"model_card.{name}") as partial:
            partial.write_text(text, encoding="utf-8")
