"""The model card: one self-contained page that says what a model is, for whom, how good, and how it was made.

The fields follow the model cards of Mitchell et al. (2019), doi:10.1145/3287560.3287596, and the checklists CLAIM
(Mongan et al. 2020, doi:10.1148/ryai.2020200029; update of Tejani et al. 2024, doi:10.1148/ryai.240300) and TRIPOD+AI
(Collins et al. 2024, doi:10.1136/bmj-2023-078378); `docs/model_card.md` says which section holds which item.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from pneumonia import UserError, dataset


class Table(NamedTuple):
    """Rows of text under a header; `note` stands below."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


class Picture(NamedTuple):
    """PNG or JPEG, shown in the page itself."""

    caption: str
    content: bytes


class Section(NamedTuple):
    """A heading and what stands under it: paragraphs, tables, pictures."""

    title: str
    blocks: Sequence[str | Table | Picture]


def reports(folder: Path) -> dict[str, Any]:
    """What `sections` takes from the reports of the stages, less `metrics.json`, which `promote` reads itself.

    Args:
        folder: `reports/`.
    """
    history = pd.read_csv(folder / "history.csv")
    if "kept" not in history:
        raise UserError(
            f"{folder / 'history.csv'} does not say which epoch was kept, it is of an earlier version; "
            "dvc repro -f -s train makes it anew"
        )
    names = ("evaluation", "validation", "rebalance", "explain")
    found: dict[str, Any] = {name: dataset.read_json(folder / f"{name}.json") for name in names}
    found["chosen"] = dataset.read_json(folder / "tune" / "best.json")
    saliency = sorted((folder / "saliency").glob("*.png"))[:N_SALIENCY]
    predictions = dataset.read_table(folder / "predictions.csv")
    wrong = most_wrong(predictions, found["evaluation"]["youden"]["threshold"])
    return found | {
        "history": history,
        "wrong": wrong,
        "points": pd.read_csv(folder / "plots" / "operating_points.csv", dtype=str, keep_default_na=False),
        "pictures": {
            section: [Picture(caption, _shrunk(folder / "plots" / f"{name}.png")) for name, caption in captions.items()]
            for section, captions in _PICTURES.items()
            if all((folder / "plots" / f"{name}.png").is_file() for name in captions)
        }
        | {
            "saliency": [Picture(f"Test image {place}", _shrunk(path)) for place, path in enumerate(saliency, 1)],
            "failures": _maps_of(wrong, folder / "saliency"),
        },
    }


def most_wrong(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The test images that a model is most wrong about: `image_id, label, score`.

    Of either kind of error the `N_WRONG` whose scores lie furthest on the wrong side, normals called pneumonia first.

    Args:
        predictions: as `evaluate` wrote them.
        threshold: on the raw scores.
    """
    test = predictions.loc[predictions["split"] == "test", ["image_id", "label", "score"]]
    called = test["score"] >= threshold
    alarms = test[called & (test["label"] == 0)].sort_values(["score", "image_id"], ascending=[False, True])
    missed = test[~called & (test["label"] == 1)].sort_values(["score", "image_id"])
    return pd.concat([alarms.head(N_WRONG), missed.head(N_WRONG)], ignore_index=True)


def _maps_of(wrong: pd.DataFrame, folder: Path) -> list[Picture]:
    """The saliency pictures of these images, of those that `explain` happened to draw."""
    paths = {name: folder / f"{name.replace('/', '_')}.png" for name in wrong["image_id"]}  # as `explain` names them
    rows = wrong.itertuples(index=False)
    return [Picture(_told(*row), _shrunk(paths[row[0]])) for row in rows if paths[row[0]].is_file()]


def _told(image_id: str, label: int, score: float) -> str:
    return f"{image_id}: {dataset.LABELS[label]}, score {score:.3f}"


def _shrunk(path: Path) -> bytes:
    """A picture that a page can hold many of: at most 1,000 pixels wide, as JPEG where that is smaller."""
    content = path.read_bytes()
    with Image.open(path) as image:
        plain = image.convert("RGB")
        plain.thumbnail((1000, 1000))
        out = io.BytesIO()
        plain.save(out, "JPEG", quality=85)
    return min(content, out.getvalue(), key=len)


N_SALIENCY = 6
N_WRONG = 3
_PICTURES = {
    "performance": {"roc": "ROC curve", "confusion": "Decisions at the Youden threshold"},
    "calibration": {"calibration": "Reliability", "decision_curve": "Decision curve"},
    "stress": {"stress": "AUC of changed test images"},
}


def sections(
    *,
    record: Mapping[str, Any],
    decision: Mapping[str, Any],
    metrics: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    points: pd.DataFrame,
    validation: Mapping[str, Any],
    rebalance: Mapping[str, Any],
    explain: Mapping[str, Any],
    chosen: Mapping[str, float],
    history: pd.DataFrame,
    wrong: pd.DataFrame,
    settings: Mapping[str, Any],
    network: str,
    source: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Picture]],
) -> list[Section]:
    """What the card says, from the reports of the stages; what a report lacks is left out.

    Args:
        record: `models/run.json`.
        decision: `promotion.json`, and `model_name`, `git_commit`, `dvc_lock_digest`.
        metrics, evaluation, validation, rebalance, explain: reports of these names.
        points: as `evaluate.operating_points` makes it.
        chosen: `best.json` of `tune`.
        history: as `train.fit_members` returns it.
        wrong: as `most_wrong` finds them.
        settings: what of params.yaml decided, `preprocess` among it.
        network: where the architecture comes from.
        source: of the data: `title, licence, citation, patients, reference_standard, public_test, synthetic`.
        pictures: under `performance`, `calibration`, `stress`, `saliency` and `failures`.
    """
    test = metrics["test"]
    synthetic = " The images are synthetic: nothing here says anything about patients." if source["synthetic"] else ""
    members = settings["train"]["members"]
    of_several = f"mean logit of {members} networks, each " if members > 1 else ""
    # In a store of its own, or later, the same model has other numbers: what the registry said is said as of then.
    shown = "champion" if decision["promoted"] else "not champion"
    return [
        Section(
            "Summary",
            [
                f"AUC {dataset.stated(test, 'auc')} on {test['n']} test images ({test['n_positive']} pneumonia); no "
                f"stage of this run used their labels to choose.{_looked_at(source, rebalance)} On "
                f"validation, by which models are chosen, it is {dataset.stated(metrics['val'], 'auc')}.{synthetic}",
                Table(
                    ("", ""),
                    [
                        (
                            "At the time of writing",
                            f"registered as {decision['model_name']} version {decision['version']}, {shown}",
                        ),
                        ("Decision at that time", decision["reason"]),
                        ("Network", f"{of_several}{record['model']}: {network}"),
                        ("Pretrained weights", _place_apart("weights", record["weights"])),
                        ("Input", "images prepared as under Data; pixels 0-255, one channel, any size"),
                        ("Output", "score from 0 to 1"),
                        ("Pneumonia from", f"{metrics['threshold']:.8g} on (Youden, chosen on validation)"),
                    ],
                ),
            ],
        ),
        Section(
            "Intended use and limits",
            [
                "Made for research on methods: comparing models, their calibration and their explanations. It is no "
                "medical device, was tested on no other hospital's images, and must not guide the care of anyone.",
                "It knows normal and pneumonia only. Any other finding, a lateral view, an adult where it learnt from "
                "children or the reverse, and images that were not prepared as in training are outside of what it was "
                "tested on.",
            ],
        ),
        _data(validation, rebalance, source, settings),
        _performance(test, evaluation, points, pictures),
        Section(
            "Calibration",
            [
                "A calibration fitted on validation (Platt) turns scores into probabilities; on test:",
                _before_after(evaluation["youden"]),
                *pictures.get("calibration", ()),
            ],
        ),
        _subgroups(evaluation),
        _failures(test, wrong, pictures),
        _stress(evaluation, pictures),
        _explanations(explain, pictures),
        Section("Promotion", _promotion(decision)),
        Section("How it was made", _made(record, decision, history, {**settings, "chosen": chosen})),
        Section(
            "To be filled in",
            [
                "To be filled in by who uses it: the workflow knows nothing of these.",
                Table(("", ""), [(field, "…") for field in TO_BE_FILLED_IN]),
            ],
        ),
    ]


TO_BE_FILLED_IN = (
    "Contact",
    "Funding, role of the funders, conflicts of interest",
    "Ethics approval, consent, de-identification",
    "Protocol and registration",
    "Background, aims, patient and public involvement",
    "Design, setting, dates and devices of the images",
    "Why this reference standard, and how far its readers agreed",
    "Size of the study, and why it suffices",
    "Test on images from elsewhere",
    "Where code, model and data can be had",
    "Interpretation and next steps",
)
"""What a paper needs and no file here holds."""


def _looked_at(source: Mapping[str, Any], rebalance: Mapping[str, Any]) -> str:
    """One sentence where the test split is the source's own and everybody can see it; else nothing."""
    if not (source["public_test"] and rebalance["official_test"]):
        return ""
    return " This test split is public, and earlier looks at it informed the plan of this project."


def _data(
    validation: Mapping[str, Any], rebalance: Mapping[str, Any], source: Mapping[str, Any], settings: Mapping[str, Any]
) -> Section:
    splits = rebalance["splits"]
    rows = [
        (name, *(f"{part[key]:,}" for key in ("n_images", "n_patients", "n_normal", "n_pneumonia")))
        for name, part in splits.items()
    ]
    look = settings["preprocess"]
    clahe = f"contrast limited to {look['clip_limit']:g} (CLAHE)" if look["clip_limit"] else "no CLAHE"
    kind = "official, sealed" if rebalance["official_test"] else "drawn by patient"
    return Section(
        "Data",
        [
            f"{_sentence(source['title'])} Licence: {source['licence']}. Source: {source['citation']}.",
            f"Reference standard: {source['reference_standard']}. Labels are those of the source; nobody here read the "
            "images again.",
            f"Who is one patient: {source['patients']}. By that rule no patient is in two splits; the test split is "
            f"{kind}.{_looked_at(source, rebalance)}",
            Table(("split", "images", "patients", "normal", "pneumonia"), rows),
            *_people(splits),
            Table(
                ("inclusion", "images"),
                [
                    ("examined", f"{validation['n_images']:,}"),
                    *((f"left out, {row['reason']}", f"{row['n']:,}") for row in validation["quarantined"]),
                    (
                        "left out, a copy, or of a patient who is in an official split",
                        f"{rebalance['n_left_out_duplicates_or_test_patients']:,}",
                    ),
                    ("in the splits", f"{sum(part['n_images'] for part in splits.values()):,}"),
                ],
                f"{validation['duplicate_files']:,} of the files examined are exact copies, in "
                f"{validation['duplicate_groups']:,} groups; a sealed official test split keeps its own.",
            ),
            f"Each image: one gray channel, {look['image_size']} pixels square, {clahe}.",
            *_acquisition(rebalance, settings),
        ],
    )


def _acquisition(rebalance: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    if "acquisition" not in rebalance:
        return []
    found = rebalance["acquisition"]
    return [
        "How an image was taken (brightness, contrast, sharpness and form, not what it shows) tells the classes of the "
        f"{found['n']:,} train images apart with AUC {found['auc']:.3f}. Those taken as the other class mostly is "
        f"weigh up to {settings['rebalance']['acquisition']:g} times as much; {found['n_effective_normal']:,.0f} "
        f"normal and {found['n_effective_pneumonia']:,.0f} pneumonia images of equal weight would tell as much."
    ]


def _people(splits: Mapping[str, Mapping[str, Any]]) -> list[str | Table]:
    """Age and sex per split, as far as the source tells them, and what became of those it does not tell."""
    rows = []
    for name, part in splits.items():
        age, sexes = part.get("age"), part.get("sex", [])
        years = (
            f"{age['median']:g} [{age['lower_quartile']:g}, {age['upper_quartile']:g}], "
            f"{age['lowest']:g} to {age['highest']:g}"
            if age
            else ""
        )
        untold = [part["n_patients"] - (age["n"] if age else 0), part["n_patients"] - sum(one["n"] for one in sexes)]
        counts = ", ".join(f"{one['value']} {one['n']:,}" for one in sexes)
        rows.append((name, years, f"{untold[0]:,}", counts, f"{untold[1]:,}"))
    handled = (
        "The network sees pixels only: nothing is imputed. Images without age, sex or view are in no such subgroup."
    )
    if not any(years or counts for _, years, _, counts, _ in rows):
        return [f"The source tells neither age nor sex of any patient. {handled}"]
    header = ("patients", "age in years", "age unknown", "sex", "sex unknown")
    return [Table(header, rows, f"Age: median [quartiles], lowest to highest. {handled}")]


def _performance(
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    points: pd.DataFrame,
    pictures: Mapping[str, Sequence[Picture]],
) -> Section:
    names = {
        "youden": "Youden",
        "target_sensitivity": "target sensitivity",
        "one_half": "one half",
        "prior_shift": "prior shift",
    }
    # The AUC is no matter of the threshold, and calibration keeps the order of the images: it is said once, above.
    shown = points.drop(columns="auc").replace({"point": names})
    if "prior_shift" in evaluation:
        shift = evaluation["prior_shift"]
        share = f"estimated {dataset.stated(shift, 'estimated_prevalence')}, true {shift['test_prevalence']:.3f}"
        shown["share of pneumonia"] = [share if point == "prior_shift" else "" for point in points["point"]]
    note = (
        "Youden and target sensitivity are chosen on validation, one half by nobody; prior shift follows from the "
        f"share of pneumonia that the unlabelled test scores suggest. Intervals: {100 * evaluation['level']:g} %, by "
        "patient; DeLong's of the AUC, Wilson's of ratios, a bootstrap of the rest."
    )
    platt = evaluation["calibration"]
    sign = "−" if platt["bias"] < 0 else "+"
    calibrated = (
        f"A calibrated score is 1 / (1 + exp(−z)) with z = {platt['slope']:.4g} ln(s / (1 − s)) {sign} "
        f"{abs(platt['bias']):.4g} of the raw score s; more digits are in evaluation.json."
    )
    more = [
        (label, dataset.stated(evaluation["youden"]["test"], name))
        for name, label in _MORE.items()
        if name in evaluation["youden"]["test"]
    ]
    return Section(
        "Performance on test",
        [
            f"AUC {dataset.stated(test, 'auc')} on {test['n']} images, whatever the threshold, raw and calibrated.",
            Table(tuple(map(str, shown)), list(shown.itertuples(index=False, name=None)), note),
            calibrated,
            Table(
                ("at the Youden threshold", ""),
                [*_counts(test), *more],
                f"Predictive values hold where {test['n_positive'] / test['n']:.0%} have pneumonia, as in this test.",
            ),
            *pictures.get("performance", ()),
        ],
    )


class _Decisions(NamedTuple):
    """How many test images of each kind there are at the Youden threshold."""

    found: int
    missed: int
    cleared: int
    alarms: int


def _decisions(test: Mapping[str, Any]) -> _Decisions:
    n_negative = test["n"] - test["n_positive"]
    found, cleared = round(test["sensitivity"] * test["n_positive"]), round(test["specificity"] * n_negative)
    return _Decisions(found, test["n_positive"] - found, cleared, n_negative - cleared)


def _counts(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, missed, cleared, alarms = _decisions(test)
    rows = [
        ("pneumonia found, missed", f"{found}, {missed}"),
        ("normal cleared, called pneumonia", f"{cleared}, {alarms}"),
    ]
    return [*rows, ("negative predictive value", f"{cleared / (cleared + missed):.3f}")] if cleared + missed else rows


def _before_after(point: Mapping[str, Any]) -> Table:
    before, after = point["test"], point["calibrated"]["test"]
    rows = [
        (label, dataset.stated(before, name), dataset.stated(after, name))
        for name, label in (("ece", "calibration error (ECE)"), ("brier", "Brier score"))
        if name in before and name in after
    ]
    return Table(("", "raw score", "calibrated"), rows)


def _subgroups(evaluation: Mapping[str, Any]) -> Section:
    rows = [
        (column, group, str(part["n"]), str(part["n_positive"]), *(dataset.stated(part, name) for name in _JUDGED))
        for column, groups in evaluation["subgroups"].items()
        for group, part in groups.items()
    ]
    header = ("", "group", "n", "pneumonia", "AUC", "sensitivity", "specificity")
    note = (
        "At the Youden threshold. The AUC of a kind of pneumonia is that against all normals; any other group of one "
        "class has none. Sensitivity is of pneumonia, specificity of normals."
    )
    table = Table(header, rows, note)
    return Section("Subgroups", [table if rows else "The source says nothing by which images could be grouped."])


_JUDGED = ("auc", "sensitivity", "specificity")


def _failures(test: Mapping[str, Any], wrong: pd.DataFrame, pictures: Mapping[str, Sequence[Picture]]) -> Section:
    decisions = _decisions(test)
    said = (
        f"At the Youden threshold {decisions.alarms} normal and {decisions.missed} pneumonia test images are decided "
        f"wrongly, of {test['n']}."
    )
    if wrong.empty:
        return Section("Failures", [said])
    rows = [
        (str(image_id), dataset.LABELS[label], dataset.LABELS[1 - label], f"{score:.3f}")
        for image_id, label, score in wrong.itertuples(index=False, name=None)
    ]
    note = f"Of each kind up to {N_WRONG}, those with the score furthest on the wrong side. The label may be wrong too."
    table = Table(("test image", "label", "called", "score"), rows, note)
    return Section("Failures", [said, table, *pictures.get("failures", ())])


def _stress(evaluation: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Section:
    audit, robust = evaluation["stress"], evaluation["robustness"]
    return Section(
        "Under stress",
        [
            Table(
                ("test images", "AUC"),
                [(name.replace("_", " "), dataset.stated(part, "auc")) for name, part in audit["auc"].items()],
            ),
            _sentence(audit["verdict"]),
            f"On validation: AUC {robust['clean']:.3f}, on average {robust['mean']:.3f} over the images as they are "
            "and under changes of sharpness, contrast, gamma, noise and proportions.",
            *pictures.get("stress", ()),
        ],
    )


def _explanations(explain: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Section:
    rows = [
        (
            name,
            f"{row['pointing_game']:.0%}" if "pointing_game" in row else "no known boxes",
            f"{row['energy_in_box']:.0%}" if "energy_in_box" in row else "",
            f"{row['box_area']:.0%}" if "box_area" in row else "",
        )
        for name, row in explain.items()
    ]
    header = ("method", "highest point in a box", "of the map in boxes", "of the image in boxes")
    return Section(
        "Saliency",
        [
            "Maps show where a model looks, not why, and not that it is right.",
            Table(header, rows),
            *pictures.get("saliency", ()),
        ],
    )


def _promotion(decision: Mapping[str, Any]) -> list[str | Table | Picture]:
    blocks: list[str | Table | Picture] = [f"At the time of writing: {decision['reason']}."]
    gates = decision.get("gates", ())
    if gates:
        rows = [
            (gate["name"], f"{gate['value']:.4g}", f"{gate['limit']:.4g}", "passed" if gate["passed"] else "failed")
            for gate in gates
        ]
        blocks.append(Table(("gate, on validation", "value", "limit", ""), rows))
    return blocks


def _made(
    record: Mapping[str, Any], decision: Mapping[str, Any], history: pd.DataFrame, settings: Mapping[str, Any]
) -> list[str | Table | Picture]:
    flat = [
        (name := f"{section}.{key}" if key else section, _setting(_place_apart(name, value)))
        for section, values in settings.items()
        for key, value in (values.items() if isinstance(values, Mapping) else [("", values)])
    ]
    kept = ", ".join(map(str, history.loc[history["kept"], "epoch"]))
    why = "the one with the highest validation AUC" if settings["train"]["keep"] == "best" else "the last"
    ran = f", epoch {kept} kept,"
    if (members := settings["train"]["members"]) > 1:
        ran = f" by {members} networks, one after the other; epochs {kept} kept, of each"
    software = dict(record.get("made_with", {}))
    hardware = software.pop("hardware", "")
    facts = [
        ("Training", f"{len(history)} epochs run{ran} {why}"),
        ("Software", ", ".join(f"{name} {version}" for name, version in software.items())),
        ("Hardware", hardware),
        ("Commit", str(decision.get("git_commit", "not in a git repository"))),
        ("dvc.lock, SHA-256 of its entry train", str(decision.get("dvc_lock_digest", ""))),
        ("Model file, SHA-256", str(record["model_sha256"])),
        ("Data digest", str(record["data_digest"])),
        ("MLflow run, at the time of writing", str(record["run_id"])),
    ]
    return [
        "DVC ran the stages, MLflow kept the run. The settings are those used, also where they are not committed.",
        Table(
            ("", ""),
            [(name, value) for name, value in facts if value],
            "Another MLflow store, or this one later, may know the model by another version and run, and another "
            "champion; the SHA-256 of its file stays.",
        ),
        Table(("setting", "value"), flat),
    ]


def _setting(value: Any) -> str:
    """A value of params.yaml in words; a pair is a range."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " to ".join(map(_setting, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _place_apart(name: str, value: Any) -> Any:
    """Of a path the last part: where a file lay says nothing to others."""
    local = name in ("weights", "fetch.url") and isinstance(value, str) and "://" not in value
    return Path(value).name if local else value


_MORE = {
    "precision": "precision",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "Matthews correlation",
    "average_precision": "average precision",
}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """`model_card.html` and `model_card.md` in `folder`."""
    lead = "Made by the workflow from its own reports; every figure is computed, none is typed."
    for name, text in (("html", html(title, lead, sections)), ("md", markdown(title, lead, sections))):
        with dataset.written_whole(folder / f"model_card.{name}") as partial:
            partial.write_text(text, encoding="utf-8")


def html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A page that needs nothing from elsewhere: no scripts, no fonts, pictures inside; light or dark as the reader's.

    Args:
        title, lead: of the page.
        sections: in their order.
    """
    contents = "".join(f'<a href="#{_anchor(one.title)}">{escape(one.title)}</a>' for one in sections)
    body = "".join(
        f'<section id="{_anchor(one.title)}"><h2>{escape(one.title)}</h2>{_blocks(one.blocks)}</section>'
        for one in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>\n<nav>{contents}</nav>\n<main>{body}</main>\n"
        "</body>\n</html>\n"
    )


def markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same as text; of pictures the captions."""
    parts = [f"# {title}", lead]
    for section in sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, Table):
                lines = [block.header, tuple("---" for _ in block.header), *block.rows]
                parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
                parts += [block.note] if block.note else []
            else:
                parts.append(f"*Picture in the HTML page: {block.caption}*")
    return "\n\n".join(parts) + "\n"


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _blocks(blocks: Iterable[str | Table | Picture]) -> str:
    out, pictures = [], []
    for block in blocks:
        if isinstance(block, Picture):
            pictures.append(_picture(block))
            continue
        out += [_gallery(pictures)] if pictures else []
        pictures = []
        out.append(_table(block) if isinstance(block, Table) else f"<p>{escape(block)}</p>")
    return "".join([*out, _gallery(pictures) if pictures else ""])


def _gallery(pictures: Sequence[str]) -> str:
    return f'<div class="gallery">{"".join(pictures)}</div>'


def _picture(picture: Picture) -> str:
    kind = "png" if picture.content.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(picture.content).decode("ascii")
    caption = escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def _cell(text: str) -> str:
    # Numbers stay in one piece; on a narrow screen the table scrolls.
    return f"<td{' class=short' if len(text) <= _SHORT else ''}>{escape(text)}</td>"


_SHORT = 26
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d9dfe7; --ground: #ffffff; --band: #f5f7fa;
  --accent: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b7; --line: #323c49; --ground: #14191f;
  --band: #1b222b; --accent: #6cb2ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header, nav, main { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding-block: 1rem; border-bottom: 1px solid var(--line); }
nav a { color: var(--accent); text-decoration: none; font-size: .92rem; }
nav a:hover { text-decoration: underline; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
td { overflow-wrap: anywhere; min-width: 5rem; }
.short { white-space: nowrap; min-width: 0; }
.note { color: var(--soft); font-size: .88rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  margin: 1rem 0; align-items: start; }
figure { margin: 0; background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 3px; }
figcaption { padding: .4rem .25rem 0; color: var(--soft); font-size: .88rem; }
"""
