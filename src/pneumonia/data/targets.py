"""What a model tells apart, one row of `TARGETS` each: the setting `target`, and the words for it everywhere.

`manifest.csv` and `valid.csv` have the labels of the data set, `tables.LABELS`. `relabel` gives the classes of the
target to the rows from which `rebalance` makes `splits.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pneumonia import UserError


class Target(NamedTuple):
    """A row of `TARGETS`.

    Attributes:
        name: as in params.yaml.
        negative, positive: names of class 0 and class 1, as in answers, tables and figures.
        finding: what an image of class 1 shows, in a sentence.
        among: the only images on which the classes have a meaning, in a sentence; empty = all.
        subtypes: of pneumonia, those of class 0 and class 1, as in the column `subtype`; empty = the classes are the
            labels of the data set.
    """

    name: str
    negative: str
    positive: str
    finding: str
    among: str = ""
    subtypes: tuple[str, ...] = ()

    @property
    def classes(self) -> dict[int, str]:
        """The names of the classes by their label."""
        return {0: self.negative, 1: self.positive}

    @property
    def limit(self) -> str:
        """A sentence on images that the model cannot know; empty if there are none."""
        return f"It is only for {self.among}: any other film gets one of these two answers, too." if self.among else ""


TARGETS = {
    "pneumonia": Target("pneumonia", "normal", "pneumonia", "pneumonia"),
    "bacterial": Target(
        "bacterial",
        "viral",
        "bacterial",
        "bacterial pneumonia",
        among="films that show pneumonia",
        subtypes=("virus", "bacteria"),
    ),
}

DEFAULT = "pneumonia"
PNEUMONIA = TARGETS[DEFAULT]


def target(name: str) -> Target:
    """The row of `TARGETS`; an unknown name is a `UserError` that lists the known ones."""
    if name not in TARGETS:
        raise UserError(f"target = {name!r} is unknown; known: {', '.join(TARGETS)}")
    return TARGETS[name]


def of(record: Mapping[str, Any]) -> Target:
    """The target of `models/run.json`, of `predictor.json`, or of the tags of a run.

    Those of earlier versions do not name it. Of a target that only a later version knows, `predictor.json` has the
    names of the classes.
    """
    name = str(record.get("target", DEFAULT))
    if name not in TARGETS and "labels" in record:
        negative, positive = map(str, record["labels"])
        return Target(name, negative, positive, positive)
    return target(name)


def subject(data: str, target: str) -> str:
    """What models are about, as in the names of registered models: models of two subjects are never compared.

    >>> subject("chest_xray", "pneumonia"), subject("chest_xray", "bacterial")
    ('chest_xray', 'chest_xray-bacterial')
    """
    return data if target == DEFAULT else f"{data}-{target}"


def subject_of(record: Mapping[str, Any]) -> str:
    """The subject of the model of `models/run.json`."""
    return subject(str(record["data"]), of(record).name)


def parts(subject: str) -> tuple[str, str]:
    """Data set and target of a subject.

    >>> parts("chest_xray"), parts("chest_xray-bacterial")
    (('chest_xray', 'pneumonia'), ('chest_xray', 'bacterial'))
    """
    data, _, target = subject.partition("-")
    return data, target or DEFAULT


def titled(origin: str, target: Target) -> str:
    """A data set in a title, with the classes if they are not the labels of the data set.

    >>> titled("chest_xray", PNEUMONIA), titled("chest_xray", TARGETS["bacterial"])
    ('chest_xray', 'chest_xray, viral or bacterial')
    """
    return f"{origin}, {target.negative} or {target.positive}" if target.subtypes else origin
