"""The page of answers: each film with its probability in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumonia import workspace
from pneumonia.data import targets
from pneumonia.report import page
from pneumonia.saliency import verdicts

MAX_FILMS = 200
"""Films on a page: more would make it too large for a browser."""


def write(
    path: Path,
    facts: Mapping[str, Any],
    origin: Mapping[str, str],
    operating_point: str,
    rows: Sequence[tuple[str, ...]],
    pictures: Sequence[tuple[str, bytes]],
    n_images: int,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: of the HTML file.
        facts, origin: of the `Predictor`.
        operating_point: of the answers.
        rows: name, answer, probability, threshold and note of the first images, `MAX_FILMS` at most.
        pictures: caption and PNG or JPEG of these images, each with its saliency map if there is one.
        n_images: of the run.
        notes: on the model, a sentence each, without a full stop.
    """
    first = f"The first {len(rows):,} of {n_images:,} images." if n_images > len(rows) else f"{n_images:,} images."
    sections = [
        page.Section("Answers", [page.Table(("image", "answer", "probability", "threshold", "note"), rows, first)]),
        page.Section("How to read this", [*map(_sentence, notes), *reading(facts, operating_point)]),
        page.Section("Films", [page.Picture(caption, content) for caption, content in pictures]),
        page.Section("The model", [page.Table(("", ""), model_rows(facts, origin))]),
    ]
    title = f"{_capital(targets.of(facts).finding)} on chest X-rays: answers"
    if facts["synthetic"]:
        title = "Answers of a model of synthetic radiographs"
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(title, str(facts["caution"]), sections), encoding="utf-8")


def _sentence(note: str) -> str:
    return f"{_capital(note)}."


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def reading(facts: Mapping[str, Any], operating_point: str) -> list[str]:
    """What the numbers mean, in sentences."""
    val, test = (facts["figures"].get(split, {}) for split in ("val", "test"))
    point = facts["operating_points"].get(operating_point, {})
    target = targets.of(facts)
    sentences = []
    if facts["synthetic"]:
        sentences.append("The model has never seen a patient. Its answers are only a test of the software.")
    elif val:
        sentences.append(
            f"The probability was calibrated on {val['n']:,} validation images, of which "
            f"{val['n_positive'] / val['n']:.0%} show {target.finding}. Where {target.finding} is rarer, it is "
            "too high."
        )
    sentences.append(
        f"An answer is {target.positive} at or above the threshold ({operating_point.replace('_', ' ')}), which was "
        "chosen on validation images. It is no limit between healthy and sick."
    )
    if {"sensitivity", "specificity"} <= point.keys():
        sentences.append(
            f"At this threshold, of {test.get('n', 0):,} test images of the same source, {point['sensitivity']:.0%} of "
            f"those with {target.finding} and {point['specificity']:.0%} of the others were classified correctly."
        )
    if {"auc", "auc_low", "auc_high"} <= test.keys():
        sentences.append(
            f"The test AUC is {test['auc']:.3f} [{test['auc_low']:.3f}, {test['auc_high']:.3f}]. It says nothing about "
            "images of another source."
        )
    sentences += [
        "An unusual image does not look like those the model learnt from. Do not rely on its answer.",
        "Yellow on a film: the outline of its lungs, where a network finds two. Blue: the part that the model saw.",
        *(
            [
                "Orange: what the detector found, with its score. Boxes have a threshold of their own, so that a film "
                "below the threshold of the answer may have some."
            ]
            if facts.get("boxes")
            else []
        ),
        "Right of a film, if asked for: its saliency map. It is bright where the score depends most on the pixels. It "
        "shows where the network looks, not why.",
    ]
    if verdict := facts["saliency"].get("verdict"):
        told = verdicts.with_origin(verdict, facts["synthetic"])
        sentences.append(f"The check of the maps of this model says: {told}.")
    return sentences


def model_rows(facts: Mapping[str, Any], origin: Mapping[str, str]) -> list[tuple[str, str]]:
    """Facts about the model, for a table of two columns."""
    learnt = facts["learnt_from"]
    rows = [
        ("data", origin["data"]),
        ("learnt from", learnt.get("title", "")),
        ("images to learn from", f"{learnt['n_images']:,}" if "n_images" in learnt else ""),
        ("network", str(facts["model"])),
        ("version", origin["version"]),
        ("predictor", origin["model"]),
        ("caution", str(facts["caution"])),
    ]
    return [(name, value) for name, value in rows if value]
