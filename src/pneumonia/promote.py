"""Decide which model is champion: pure functions of validation scores, and of the tags of registered versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from pneumonia.data import tables
from pneumonia.metrics import calibration, ranking

FIRST = "the first model of this data set"
EARLIEST = "the earliest model that passes its gates"
STAND_IN = "no model passes its gates, and this is the earliest"
STAYS = "the champion stays"
NOT_DISTINGUISHABLE, DISTINGUISHABLE = "not distinguishable", "distinguishable"

LEVEL = 0.95
"""Of the interval of a difference, where the settings have no confidence."""

FIRST_VERSION = 1
"""The registry never uses a number twice: the version with this one is the first, even if others were deleted."""

SAME_RUN = "same_run_as"
"""Tag of a further version of a train run, with another predictor: the number of the first version of the run.

This number stands for the run, also after the first version was deleted.
"""

REGISTRATION = "registration"
"""Tag of versions of a run that has several: a number that rises with each change of the predictor in use."""

CONFIDENCE = "confidence"
"""Tag of a version with the level at which its gain must be certain; 0 = the difference itself counts."""

_STATE = ("crowned_at", "rolled_back_at", "predictions_lost_at", "without_champion")
_AGAINST = "against_"

Tags = Mapping[int, Mapping[str, str]]
"""Version number -> its tags: the registry of one data set."""


class Gain(NamedTuple):
    """What a model gains over another one on their common validation images, and the number of these images.

    Attributes:
        auc: difference of the AUCs, -1 to 1, or the lower limit of its interval if the challenger was registered with
            a confidence; 0 if nothing can be compared.
        smaller: number of common images of the rarer class.
    """

    auc: float
    smaller: int


Measure = Callable[[int, int], Gain]
"""Compares two versions, challenger and holder, that validated on different images."""


class Gate(NamedTuple):
    """A condition for the champion, with its name in `params.yaml`, and whether this model meets it."""

    name: str
    value: float
    limit: float
    passed: bool


class Decision(NamedTuple):
    """The decision and its reason.

    Attributes:
        promoted: whether the candidate becomes champion.
        reason: in plain words.
        auc: of the candidate, on the compared validation images.
        champion_auc: of the champion, on the same images; None without a comparison.
        n_common: number of compared validation images.
        gates: the checked conditions; `min_gain` only with a comparison.
        p_value: DeLong's, of "both have the same AUC on validation".
        test_difference, test_p_value: the same comparison on common test images; reported only, not used.
        difference: of the AUC to that of the champion; `difference_low` and `difference_high` are the limits of its
            paired interval at `level`.
        comparison: `NOT_DISTINGUISHABLE` if this interval contains 0, or `DISTINGUISHABLE`.
    """

    promoted: bool
    reason: str
    auc: float
    champion_auc: float | None
    n_common: int
    gates: tuple[Gate, ...]
    p_value: float | None = None
    test_difference: float | None = None
    test_p_value: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    level: float | None = None
    comparison: str | None = None


class Standing(NamedTuple):
    """The champion, and the earlier champion that it replaced; `displaced` None = none."""

    champion: int
    displaced: int | None


class Rollback(NamedTuple):
    """The version to go back to, and those that are withdrawn for it, the champion first; all are `canonical`."""

    champion: int
    aside: tuple[int, ...]


def decide(
    candidate: pd.DataFrame,
    champion: pd.DataFrame | None,
    *,
    first: bool,
    threshold: float,
    min_common: int,
    min_gain: float,
    min_sensitivity: float,
    max_ece: float,
    confidence: float | None = None,
) -> Decision:
    """Compare two models on validation images that neither was trained on, and check the gates of the candidate.

    Compared are images, by the SHA-256 of their file, that have the same label in both models' validation predictions:
    one of the models never saw a label that has changed. The comparison on test is reported but has no effect: test
    figures of a champion that was chosen on test would be too good.

    Args:
        candidate, champion: predictions (`sha256, patient_id, split, label, score`). Champion None = there is none, and
            the candidate is promoted whatever its gates.
        first: whether the candidate is the first version of its data set; used only for the reason.
        threshold: of the candidate, chosen on validation.
        min_common: minimum number of common validation images of each class; with fewer the champion stays.
        min_gain: the AUC must be higher by more than this.
        confidence: level of the paired interval of the difference, whose lower limit must then be more than
            `min_gain`; None = only the difference itself.
        min_sensitivity: on validation, at `threshold`.
        max_ece: expected calibration error on validation, of scores that were calibrated on other validation patients:
            the raw ones are not what a prediction shows.
    """
    mine = _split(candidate, "val")
    own_auc = ranking.roc_auc(mine["label"], mine["score"])
    gates = _gates(mine, threshold, min_sensitivity, max_ece)
    failed = "; ".join(_failure(gate) for gate in gates if not gate.passed)
    if champion is None:
        reason = FIRST if first else STAND_IN if failed else EARLIEST
        reason = f"{reason}{', although' if first else ':'} {failed}" if failed else reason
        return Decision(True, reason, own_auc, None, len(mine), gates)

    on_test, smaller = _common(candidate, champion, "test")
    test = _compared(on_test)[2:] if smaller >= min_common else (None, None)
    common, smaller = _common(candidate, champion, "val")
    also = f"; also {failed}" if failed else ""
    if smaller < min_common:
        why = (
            f"both models validated on only {smaller} common images of the smaller class, "
            f"promote.min_common asks for {min_common}"
        )
        return Decision(False, f"not comparable: {why}{also}; {STAYS}", own_auc, None, len(common), gates, None, *test)
    auc, champion_auc, gain, p_value = _compared(common)
    level = confidence or LEVEL
    low, high = _interval(common, level)
    comparison = NOT_DISTINGUISHABLE if low <= 0 <= high else DISTINGUISHABLE
    counts = low if confidence else gain
    higher = counts > min_gain
    gates = (Gate("min_gain", counts, min_gain, higher), *gates)
    reason = (
        f"validation AUC {auc:.4f} against the champion's {champion_auc:.4f} "
        f"on {len(common)} common images (DeLong p = {p_value:.2g}), difference {gain:+.4f} [{low:+.4f}, {high:+.4f}]"
        f"{f', {comparison}' if comparison == NOT_DISTINGUISHABLE else ''}"
    )
    if not higher:
        by = f" by more than {min_gain:g} (promote.min_gain)" if min_gain else ""
        surely = f" with a confidence of {confidence:g} (promote.confidence)" if confidence else ""
        reason = f"not higher{by}{surely}: {reason}{also}; {STAYS}"
    elif failed:
        reason = f"higher {reason}, but {failed}; {STAYS}"
    else:
        reason = f"higher {reason}"
    decision = Decision(higher and not failed, reason, auc, champion_auc, len(common), gates, p_value, *test)
    return decision._replace(
        difference=gain, difference_low=low, difference_high=high, level=level, comparison=comparison
    )


def settled(decision: Decision, version: int, champion: int, tags: Mapping[str, str]) -> Decision:
    """The decision that agrees with the champion of the registry, which depends on all versions.

    Args:
        decision: on version `version`, with the tags `tags`.
        champion: as `standing` selects it from all versions.
    """
    if decision.promoted == (version == champion):
        return decision
    if version == champion:
        return decision._replace(promoted=True, reason="the champion, by the comparisons noted in its tags")
    if "rolled_back_at" in tags:
        why = "it was rolled back; without its tag registry.rolled_back_at it would compete again"
    else:
        why = f"version {champion} is better by the comparisons in the tags"
    return decision._replace(promoted=False, reason=f"{decision.reason}; but {why}")


def without(decision: Decision, versions: str) -> Decision:
    """A decision that also says which champions were left out because their predictions are lost.

    Args:
        versions: their numbers, such as `1, 4`; empty = none.
    """
    if not versions:
        return decision
    return decision._replace(
        reason=f"{decision.reason}; without champion version {versions}, whose predictions are lost"
    )


def run_number(registry: Tags, version: int) -> int:
    """The number of the first version of the train run of a version; this version may be deleted."""
    return int(registry[version].get(SAME_RUN, version))


def same_run(registry: Tags, version: int) -> list[int]:
    """The versions of the train run of a version, itself included, in the order of their numbers."""
    number = run_number(registry, version)
    return sorted(one for one in registry if run_number(registry, one) == number)


def canonical(registry: Tags, version: int) -> int:
    """The version that stands for all versions of a train run in comparisons: the earliest that exists.

    Another predictor of the same network is another version, but no other model: it has the same predictions.
    """
    return same_run(registry, version)[0]


def newest(registry: Tags, version: int) -> int:
    """The version with the predictor that was registered last for a train run: it has the alias if the run is champion.

    Args:
        version: any version of the run.
    """
    return max(same_run(registry, version), key=lambda one: (int(registry[one].get(REGISTRATION, 0)), one))


def tags_of_run(registry: Tags, version: int) -> dict[str, str]:
    """The tags of all versions of a train run; of different values that of the earliest version counts."""
    return _merged(registry, same_run(registry, version))


def state(tags: Mapping[str, str]) -> dict[str, str]:
    """Those tags that tell what happened to a model; all versions of its train run have them.

    So they are not lost with a version that is deleted.
    """
    return {key: value for key, value in tags.items() if key in _STATE or is_comparison(key)}


def as_report(decision: Decision) -> dict[str, Any]:
    """A decision as in `promotion.json`; keys without a value are left out."""
    values = {name: value for name, value in decision._asdict().items() if value is not None}
    return values | {"gates": [gate._asdict() for gate in decision.gates]}


def as_tags(decision: Decision) -> dict[str, str]:
    """The decision as tags of a version; last the reason, which completes them."""
    return {"promoted": str(decision.promoted).lower(), "reason": decision.reason}


def as_metrics(decision: Decision) -> dict[str, dict[str, float]]:
    """The decision as metrics of the run of `promote`; figures without a comparison are left out."""
    differences = ("difference", "difference_low", "difference_high", "test_difference")
    names = ("auc", "champion_auc", "p_value", *differences, "test_p_value")
    report = as_report(decision)
    return {
        "promotion": {name: report[name] for name in names if name in report},
        "gate": {gate.name: gate.value for gate in decision.gates},
    }


# --- the registry ---------------------------------------------------------------------------------------------------


def facts(
    candidate: pd.DataFrame,
    *,
    threshold: float,
    min_common: int,
    min_gain: float,
    min_sensitivity: float,
    max_ece: float,
    confidence: float | None = None,
) -> dict[str, str]:
    """The facts behind a decision, as tags of a version: those that `standing` needs, and the other limits.

    A decision on the version is valid until one of them changes. The arguments are those of `decide`.
    """
    mine = _split(candidate, "val")
    passed = all(gate.passed for gate in _gates(mine, threshold, min_sensitivity, max_ece))
    return {
        "val_auc": repr(ranking.roc_auc(mine["label"], mine["score"])),
        "val_digest": tables.data_digest(mine.reset_index()),
        "val_smaller": str(_smaller(mine)),
        "eligible": str(passed).lower(),
        "threshold": repr(threshold),
        "min_common": str(min_common),
        "min_gain": repr(min_gain),
        CONFIDENCE: repr(confidence or 0),
        "min_sensitivity": repr(min_sensitivity),
        "max_ece": repr(max_ece),
    }


def standing(registry: Tags, measure: Measure) -> Standing:
    """The champion of all versions: in the order of their numbers, each is compared with the best one before it.

    The versions of a train run take part as one, by its `canonical` version; the number of its first version gives its
    place. Only versions that pass their gates (`eligible`) take part, and the first version (`FIRST_VERSION`), which is
    champion until another one is better. If there are none, the earliest version is champion. Versions that were
    rolled back (`rolled_back_at`), or whose predictions are lost (`predictions_lost_at`), are left out.

    The reason for this rule: the store gives each version its number and its tags in one step, but it has no
    compare-and-set for an alias. Processes that read the same tags must select the same champion. So the result must
    not depend on the process, the time or the alias. Two versions with the same validation images are compared by the
    AUCs in their tags. With different images, or with a confidence, they are compared by their predictions. The result
    becomes a tag of the challenger (`against`), so that all processes use it, also when the predictions are lost.

    Args:
        registry: at least one version that has a `val_auc`.
        measure: called only for such pairs, if they have no such tag.
    """
    models = _models(registry)
    contenders = _contenders(models)
    holder, *challengers = [one for one in contenders if _may_hold(models, one)] or contenders[:1]
    displaced = None
    for challenger in challengers:
        tags = models[challenger]
        gain = _gain(models, challenger, holder, measure)
        if gain.auc > float(tags.get("min_gain", 0)) and gain.smaller >= int(tags.get("min_common", 1)):
            holder, displaced = challenger, holder
    return Standing(holder, displaced)


def rollback(registry: Tags, champion: int, choose: Callable[[Tags], Standing]) -> Rollback | None:
    """How to go back to the previous champion; None if there is none, or none that passes its gates now.

    Versions that are better than the previous champion but never were champion are withdrawn too: otherwise the next
    call of `standing` would select one of them.

    Args:
        registry: all versions.
        champion: the `canonical` version of the train run that has the alias.
        choose: `standing` with its `measure`.
    """
    models = _models(registry)
    former = [
        version
        for version in _contenders(models)
        if version != champion and "crowned_at" in models[version] and _may_hold(models, version)
    ]
    if not former:
        return None
    target = max(former, key=lambda version: (models[version]["crowned_at"], version))
    aside = [champion]
    while True:
        out = {run_number(registry, version) for version in aside}
        left = {version: tags for version, tags in registry.items() if run_number(registry, version) not in out}
        best = choose(left).champion
        if best == target:
            return Rollback(target, tuple(aside))
        aside.append(best)


def confidence_of(tags: Mapping[str, str]) -> float:
    """The level at which the gain of a version must be certain; 0 = the difference itself counts."""
    return float(tags.get(CONFIDENCE, 0))


def auc_gain(challenger: pd.DataFrame, holder: pd.DataFrame, confidence: float = 0) -> Gain:
    """The gain on the common validation images of two models.

    Args:
        challenger, holder: predictions as in `decide`.
        confidence: as `confidence_of` the challenger.
    """
    common, smaller = _common(challenger, holder, "val")
    if not smaller:
        return Gain(0.0, 0)
    return Gain(_interval(common, confidence)[0] if confidence else _compared(common)[2], smaller)


def against(holder: int, gain: Gain, confidence: float = 0) -> dict[str, str]:
    """The tag with the result of a version against the train run with the `run_number` `holder`."""
    return {f"{_AGAINST}{holder}": f"{gain.auc!r} on {gain.smaller}{f' at {confidence!r}' if confidence else ''}"}


def is_comparison(tag: str) -> bool:
    """Whether `against` makes a tag of this name."""
    return tag.startswith(_AGAINST)


def _models(registry: Tags) -> Tags:
    """`tags_of_run` of each train run, by its canonical version, in the order of the runs' numbers."""
    runs: dict[int, list[int]] = {}
    for version in sorted(registry):
        runs.setdefault(run_number(registry, version), []).append(version)
    return {members[0]: _merged(registry, members) for _, members in sorted(runs.items())}


def _merged(registry: Tags, versions: list[int]) -> dict[str, str]:
    return {key: value for version in reversed(versions) for key, value in registry[version].items()}


def _contenders(models: Tags) -> list[int]:
    # A version that was registered by hand may have no AUC.
    known = [version for version, tags in models.items() if "val_auc" in tags]
    comparable = [version for version in known if "predictions_lost_at" not in models[version]] or known
    return [version for version in comparable if "rolled_back_at" not in models[version]] or comparable


def _may_hold(models: Tags, version: int) -> bool:
    # Versions older than the gates have no tags `eligible`, `min_gain` and `min_common`.
    return run_number(models, version) == FIRST_VERSION or models[version].get("eligible", "true") == "true"


def _gain(models: Tags, challenger: int, holder: int, measure: Measure) -> Gain:
    mine, theirs = models[challenger], models[holder]
    confidence = confidence_of(mine)
    if not confidence and "val_digest" in mine and mine["val_digest"] == theirs.get("val_digest"):
        return Gain(float(mine["val_auc"]) - float(theirs["val_auc"]), int(mine["val_smaller"]))
    result, _, level = mine.get(f"{_AGAINST}{run_number(models, holder)}", "").partition(" at ")
    if result and float(level or 0) == confidence:
        auc, smaller = result.split(" on ")
        return Gain(float(auc), int(smaller))
    return measure(challenger, holder)


# --- scores ---------------------------------------------------------------------------------------------------------


def _gates(mine: pd.DataFrame, threshold: float, min_sensitivity: float, max_ece: float) -> tuple[Gate, ...]:
    sensitivity = float((mine.loc[mine["label"] == 1, "score"] >= threshold).mean())
    probability = calibration.cross_fitted(mine["label"], mine["score"], mine["patient_id"])
    ece = calibration.expected_calibration_error(mine["label"], probability)
    return (
        Gate("min_sensitivity", sensitivity, min_sensitivity, sensitivity >= min_sensitivity),
        Gate("max_ece", ece, max_ece, ece <= max_ece),
    )


def _failure(gate: Gate) -> str:
    what, side = {
        "min_sensitivity": ("sensitivity", "below"),
        "max_ece": ("calibration error", "above"),
    }[gate.name]
    return f"its {what} of {gate.value:.3g} on validation is {side} {gate.limit:g} (promote.{gate.name})"


def _common(candidate: pd.DataFrame, champion: pd.DataFrame, split: str) -> tuple[pd.DataFrame, int]:
    """`label, patient_id, score, score_champion` of common images with the same label; and the n of the rarer class."""
    both = _split(candidate, split).join(_split(champion, split).add_suffix("_champion"), how="inner")
    common = both[both["label"] == both["label_champion"]]
    return common, _smaller(common)


def _compared(common: pd.DataFrame) -> tuple[float, float, float, float]:
    """AUC of both models, their difference, DeLong's p-value."""
    auc = ranking.roc_auc(common["label"], common["score"])
    champion_auc = ranking.roc_auc(common["label"], common["score_champion"])
    scores = (common["score"], common["score_champion"])
    p_value = ranking.delong_test(common["label"], *scores, groups=common["patient_id"])
    return auc, champion_auc, auc - champion_auc, p_value


def _interval(common: pd.DataFrame, level: float) -> tuple[float, float]:
    """The paired interval of the difference of the AUCs, by patient."""
    scores = (common["score_champion"], common["score"])
    return ranking.auc_difference(common["label"], *scores, level=level, groups=common["patient_id"])[1:]


def _smaller(table: pd.DataFrame) -> int:
    return int(min((table["label"] == label).sum() for label in (0, 1)))


def _split(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    return tables.unique_images(predictions, split).set_index("sha256")[["label", "patient_id", "score"]]
