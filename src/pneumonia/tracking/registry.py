"""Versions of the registered models, the champion, and the predictions for their comparison."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pneumonia import UserError, promote, workspace
from pneumonia.data import tables, targets
from pneumonia.data.predictions import read_predictions
from pneumonia.images.geometry import Preparation
from pneumonia.models.predictor import FACTS, LUNGS, MAPS, NETWORK, Predictor
from pneumonia.tracking import descriptions, errors, restore, runs

PREFIX = "registry."
"""Of tags that this module reads; versions of earlier releases have them without it."""
BOXES = ("ap50", "rsna_map")
"""Test figures of a detector."""
READ = frozenset(
    {
        # Facts: what decides between versions, and the digest of all of them.
        *("val_auc", "val_digest", "val_smaller", "eligible", "min_common", "min_gain", promote.CONFIDENCE),
        "facts_digest",
        *(
            "test_auc",
            *BOXES,
            "saliency",
            "model_sha256",
            "dvc_lock_digest",
            "predictor_digest",
        ),  # shown, restored, answered
        *("promoted", "reason", "crowned_at", "rolled_back_at", "predictions_lost_at", "without_champion"),
        *(promote.SAME_RUN, promote.REGISTRATION),
    }
)
"""Tags with the prefix, and those with the result of a comparison (`promote.against`)."""
FOR_PEOPLE = frozenset({"model", "weights", "data", "target", "preparation", "validation AUC", "test_split", "verdict"})
"""Tags without the prefix. All other facts of a version are in an artifact of its train run (`record_path`)."""

CHAMPION = "champion"
ROLLED_BACK = "rolled_back_at"
LOST = "predictions_lost_at"
PREDICTOR = "predictor_digest"
FACTS_DIGEST = "facts_digest"
PREDICTOR_FILES = "artifacts/predictor"
"""Folder of the predictor within the model of a version."""
WITHOUT = "without_champion"
"""Tag of a version with the numbers of the champions that were left out for it."""

OR_A_FOLDER = ", or use a folder: --model models/predictor"

Registry = Mapping[int, Mapping[str, str]]
"""Version number of a registered model -> tags of the version."""
Choice = TypeVar("Choice", bound=tuple[Any, ...])


class Champion(NamedTuple):
    """The version that the alias `champion` points to."""

    version: int
    run_id: str


class Scored(NamedTuple):
    """A model that the user names, and its predictions.

    Attributes:
        title: for the reader.
        run_id: of its train run, which may be in another store if the experiment is from DVC's cache.
        predictions: `image_id, sha256, split, label, score` and more.
        target: of its labels.
    """

    title: str
    run_id: str
    predictions: pd.DataFrame
    target: targets.Target


def is_registered(subject: str, record: Mapping[str, Any], predictor: Predictor) -> bool:
    """Whether this store has a champion, and this predictor is in use for the model of `models/run.json`.

    It has its files, too, and the predictions for the comparison with later models.
    """
    run, holder = runs.find_train_run(record), champion(subject)
    versions = _versions(subject, run, predictor.digest) if run and holder else []
    if not run or not holder or not versions:
        return False
    in_use = promote.newest(version_tags(subject), versions[0])
    if in_use not in versions or (holder.run_id == run.run_id and holder.version != in_use):
        return False
    missing = _missing_files(subject, in_use, predictor.facts)
    return not any(missing) and _has_predictions(subject, in_use)


def register(
    subject: str,
    run: runs.TrainRun,
    predictor: Predictor,
    facts: Mapping[str, Any],
    origin: Mapping[str, str] | None = None,
) -> int:
    """The version of a train run and its predictor in the registry; they are registered only once.

    A new version is created together with its tags, so that no other process sees it without them. Another predictor
    of a registered run is a new version with the tag `same_run_as` and the `promote.state` of the run. The predictor
    that was registered last is in use (`promote.newest`), also if it was registered before. An existing version keeps
    its tags and its decision, unless a fact has changed: then all tags are set again and the tag `reason` is removed.
    A version without it has no decision yet. Tags are those in `READ` and `FOR_PEOPLE`.

    Args:
        predictor: of the folder that the version will contain.
        facts: what the decision depends on: results, data and limits.
        origin: of the model; a change of it needs no new decision.
    """
    name, client = runs.registered_name(subject), mlflow.MlflowClient()
    tags = {key: str(value) for key, value in facts.items()}
    origin = dict(origin or {}) | {PREDICTOR: predictor.digest}
    with runs.registry_lock():
        earlier = _versions(subject, run)
        registry = version_tags(subject)
        if not _versions(subject, run, predictor.digest):
            model_id = runs.log_predictor(run, predictor.folder)
            known = _of_run(registry, min(earlier)) if earlier else {}
            stored = _as_stored(tags | {FACTS_DIGEST: _digest(tags)} | origin | known)
            created = mlflow.register_model(f"models:/{model_id}", name, tags=stored)
            new_version = int(created.version)
            version = min(_versions(subject, run, predictor.digest))
            if version != new_version:  # on a server another process has registered the same run at the same time
                client.delete_model_version(name, str(new_version))
            else:
                runs.log_version(model_id, name, version)
        else:
            version = min(_versions(subject, run, predictor.digest))
            _log_missing_files(subject, version, run, predictor)
            if promote.newest(registry, version) != version:
                tag_version(subject, version, _next_registration(registry, version))
        for one in earlier:
            _renew(subject, one, tags, origin if one == version else {})
        return version


def _log_missing_files(subject: str, version: int, run: runs.TrainRun, predictor: Predictor) -> None:
    """Log again what a version has lost, or did not get from a process that was stopped."""
    name = runs.registered_name(subject)
    no_model, no_number = _missing_files(subject, version, predictor.facts)
    if not (no_model or no_number):
        return
    model_id = _model_id(subject, version)
    if no_model:
        runs.log_predictor(run, predictor.folder, model_id)
    runs.log_version(model_id, name, version)


def _missing_files(subject: str, version: int, facts: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a file of the predictor of a version is missing; whether the file with its number is.

    Args:
        subject: of the version.
        version: its number.
        facts: `predictor.json` of the predictor.

    Raises:
        UserError: its LoggedModel was deleted, so that its files cannot be logged again.
    """
    client, model_id = mlflow.MlflowClient(), _model_id(subject, version)
    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code not in errors.UNKNOWN:
            raise
        raise UserError(
            f"{runs.registered_name(subject)} version {version} has no files: its model {model_id} was deleted in "
            "MLflow; delete this version too, then pneumonia register makes a new one"
        ) from error
    listed = [client.list_logged_model_artifacts(model_id, folder) for folder in (None, PREDICTOR_FILES)]
    paths = {one.path for files in listed for one in files}
    expected = {"MLmodel", *(f"{PREDICTOR_FILES}/{file}" for file in (FACTS, *_file_digests(facts)))}
    return not expected <= paths, runs.REGISTERED not in paths


def _file_digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """The files of a predictor that belong to its `predictor.json`, with their digests."""
    preparation = facts.get("preparation", {})
    segmenter = {LUNGS: preparation["segmenter"]} if preparation.get("aspect") == "lungs" else {}
    return {file: digest for file, digest in facts["digests"].items() if file in (NETWORK, MAPS)} | segmenter


def _model_id(subject: str, version: int) -> str:
    """The LoggedModel that a version was registered from."""
    one = mlflow.MlflowClient().get_model_version(runs.registered_name(subject), str(version))
    return str(one.source).removeprefix("models:/")


def _of_run(registry: Registry, version: int) -> dict[str, str]:
    """The tags that a further version of the train run of a version begins with."""
    number = promote.run_number(registry, version)
    history = promote.state(promote.tags_of_run(registry, version))
    return history | {promote.SAME_RUN: str(number)} | _next_registration(registry, version)


def _next_registration(registry: Registry, version: int) -> dict[str, str]:
    """The tag of the version of a train run that is registered now; a number, because clocks may differ."""
    counts = [registry[one].get(promote.REGISTRATION, "0") for one in promote.same_run(registry, version)]
    return {promote.REGISTRATION: str(max(map(int, counts)) + 1)}


def _renew(subject: str, version: int, facts: Mapping[str, str], origin: Mapping[str, str]) -> None:
    """Set the tags of a version again; if a fact has changed, its decision is removed."""
    tags = version_tags(subject)[version]
    digest = _digest(facts)
    # A version of an earlier release has no digest, but all facts as tags.
    if tags[FACTS_DIGEST] == digest if FACTS_DIGEST in tags else _that_count(facts).items() <= tags.items():
        kept = {key: tags[key] for key in origin.keys() & tags.keys() - {"dvc_lock_digest"}}
        tag_version(subject, version, {**origin, **kept})
        return
    remove_tag(subject, version, "reason")
    tag_version(subject, version, {**facts, FACTS_DIGEST: digest, **origin})


def _digest(facts: Mapping[str, str]) -> str:
    return workspace.sha256_bytes(json.dumps(_that_count(facts), sort_keys=True).encode())


def _that_count(facts: Mapping[str, str]) -> dict[str, str]:
    """Without a confidence of 0: it changes no decision, and versions of earlier releases lack it."""
    return {name: text for name, text in facts.items() if (name, text) != (promote.CONFIDENCE, "0")}


def champion(subject: str) -> Champion | None:
    """The champion of a subject (`targets.subject`); None if there is none yet."""
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(runs.registered_name(subject), CHAMPION)
    except MlflowException as error:
        if error.error_code not in errors.UNKNOWN:
            raise
        return None
    return Champion(int(version.version), str(version.run_id))


def version_tags(subject: str) -> Registry:
    """The tags of all versions of a subject's model, by version number; without prefix."""
    versions = mlflow.search_model_versions(filter_string=f"name = '{runs.registered_name(subject)}'")
    return {int(version.version): _tags(version) for version in versions}


def _tags(version: ModelVersion) -> dict[str, str]:
    """The tags of a version without prefix; of two that then have the same name, the one with the prefix counts.

    A tag `confidence` without the prefix is a person's own: no release has written one.
    """
    own = {name.removeprefix(PREFIX): text for name, text in version.tags.items() if name.startswith(PREFIX)}
    plain = {name: text for name, text in version.tags.items() if not name.startswith(PREFIX)}
    plain.pop(promote.CONFIDENCE, None)
    return plain | own


def _as_stored(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as the store has them: with prefix or for people; others are not stored."""
    read = {f"{PREFIX}{name}": text for name, text in tags.items() if name in READ or promote.is_comparison(name)}
    return read | {name: text for name, text in tags.items() if name in FOR_PEOPLE}


class Outcome(NamedTuple):
    """The result of submitting a model to the registry.

    Attributes:
        version: number of its version.
        champion: number of the present champion.
        decision: on the version.
        facts: of the version, and its origin.
    """

    version: int
    champion: int
    decision: promote.Decision
    facts: dict[str, Any]


def submit(
    record: Mapping[str, Any],
    run: runs.TrainRun,
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    limits: Mapping[str, float],
    *,
    synthetic: bool,
    model_path: Path,
    predictor: Predictor,
    test_split: str,
    without_champion: bool = False,
) -> Outcome:
    """Register the model of a train run, choose the champion, and record the decision.

    It is recorded on the version, and logged to the current run.

    Args:
        record: `models/run.json`.
        run: the train run.
        predictions: `predictions.csv`.
        metrics: `metrics.json`.
        limits: section `promote` of params.yaml.
        synthetic: whether the data set is.
        model_path: file of the model.
        predictor: of the model.
        test_split: of `rebalance.json`.
        without_champion: leave out each champion whose predictions are lost.

    Raises:
        UserError: the predictor is of another model, or the predictions of the model to compare with are lost.
    """
    if predictor.facts["digests"].get("model_sha256", record["model_sha256"]) != record["model_sha256"]:
        raise UserError(
            f"{predictor.folder} was exported from another model than that of models/run.json; dvc repro export makes "
            "it again"
        )
    subject, conditions = targets.subject_of(record), {"threshold": metrics["threshold"], **limits}
    facts = {name: record[name] for name in ("model", "weights", "data_digest", "model_sha256")}
    facts |= {"synthetic": str(synthetic).lower(), "test_auc": metrics["test"]["auc"]}
    facts |= promote.facts(predictions, **conditions)
    facts |= {name: predictor.facts["boxes"][name] for name in BOXES if name in predictor.facts["boxes"]}
    if (maps := predictor.facts["saliency"]).get("verdict"):
        facts["saliency"] = f"{maps['method']}: {maps['verdict']}"
    origin = lineage(model_path, record) | {"test_split": test_split}
    data, target = targets.parts(subject)
    people = {"data": f"{data}, synthetic" if synthetic else data, "target": target}
    people |= {"validation AUC": f"{float(facts['val_auc']):.3f}"}
    if preparation := Preparation.from_attributes(record):
        people["preparation"] = descriptions.short_preparation(preparation.as_dict())
    with runs.registry_lock():  # so that a rollback sees no version without a decision
        version = register(subject, run, predictor, facts, origin | people)
        first = promote.canonical(version_tags(subject), version)
        known = version_tags(subject)
        for one in promote.same_run(known, first):
            if LOST in known[one]:  # its predictions have been logged again
                remove_tag(subject, one, LOST)
        left_out = _leave_out_lost(subject, first) if without_champion else []
        registry, (holder, displaced) = set_champion(subject, by_evidence(subject))
        for lost in left_out:
            reason = f"left out, its predictions are lost: version {promote.newest(registry, holder)} is champion"
            for one in promote.same_run(registry, lost):
                record_decision(subject, one, {"reason": reason})
        rival = _rival(first, holder, displaced)
        rival_predictions = version_predictions(subject, rival) if rival else None
        if rival and rival_predictions is not None and rival_predictions.empty:
            raise _lost(subject, rival)
        is_first = promote.run_number(registry, first) == promote.FIRST_VERSION
        decision = promote.decide(predictions, rival_predictions, first=is_first, **conditions)
        of_run = promote.tags_of_run(registry, first)
        decision = promote.settled(decision, first, holder, of_run)
        decision = promote.without(decision, of_run.get(WITHOUT, ""))
        tags = registry[first]
        if "reason" not in tags or (decision.promoted and tags["promoted"] == "false"):
            record_decision(subject, first, promote.as_tags(decision))
        other = promote.as_tags(decision) | {"reason": f"another predictor of version {first}: {decision.reason}"}
        for one in promote.same_run(registry, first)[1:]:
            if "reason" not in registry[one]:
                record_decision(subject, one, other)
        report = {"version": version, **facts, **origin, "decision": promote.as_report(decision)}
        mlflow.MlflowClient().log_dict(run.run_id, tables.rounded(report), record_path(version))
        describe(subject)
    runs.log_metrics(promote.as_metrics(decision))
    runs.tag(promoted=str(decision.promoted), reason=decision.reason, data_digest=record["data_digest"])
    return Outcome(version, promote.newest(registry, holder), decision, facts | origin)


def record_path(version: int) -> str:
    """Artifact of a train run with all facts of one of its versions, and the decision on it at its time."""
    return f"registry/version_{version}.json"


def require_comparable(record: Mapping[str, Any]) -> None:
    """Check, before anything is written, that the champion can be compared with the model of `models/run.json`.

    Raises:
        UserError: its predictions are lost.
    """
    subject = targets.subject_of(record)
    holder, run = champion(subject), runs.find_train_run(record)
    if holder and not (run and run.run_id == holder.run_id) and runs.logged_predictions(holder.run_id).empty:
        raise _lost(subject, holder.version)


def require_any_files(record: Mapping[str, Any]) -> None:
    """Check, before champions are left out, that not the files of all versions are gone: one can be lost, but not all.

    Args:
        record: `models/run.json`; the version of this model is not counted.

    Raises:
        UserError: the store has several other versions, and no file of any.
    """
    name, run = runs.registered_name(targets.subject_of(record)), runs.find_train_run(record)
    versions = mlflow.search_model_versions(filter_string=f"name = '{name}'")
    others = [str(version.run_id) for version in versions if not (run and run.run_id == version.run_id)]
    if len(others) > 1 and not any(map(runs.has_artifacts, others)):
        raise UserError(
            f"the MLflow store has no file of any other version of {name}, for example in "
            f"{runs.artifact_place(others[0])}; mount the disk or put the folders back, or move mlruns away to begin a "
            "new store"
        )


def _lost(subject: str, version: int) -> UserError:
    run_id = str(mlflow.MlflowClient().get_model_version(runs.registered_name(subject), str(version)).run_id)
    cause = f"is gone from {runs.artifact_place(run_id)}" if runs.was_evaluated(run_id) else "was never logged"
    return UserError(
        f"{runs.registered_name(subject)} version {version} is champion, but no model can be compared with it: "
        f"{runs.PREDICTIONS} of its run {run_id} {cause}; put the file back, or leave this version out: "
        "pneumonia register --without-champion"
    )


def _leave_out_lost(subject: str, version: int) -> list[int]:
    """Tag the versions that would be compared with `version` but have no predictions; returns their numbers."""
    left_out: list[int] = []
    while True:
        registry = version_tags(subject)
        rival = _rival(version, *by_evidence(subject)(registry))
        if not rival or _has_predictions(subject, rival):
            return left_out
        left_out.append(rival)
        _tag_run(subject, rival, {LOST: _now(), "promoted": "false", "verdict": "left out, its predictions are lost"})
        _tag_run(subject, version, {WITHOUT: ", ".join(map(str, left_out))})


def _has_predictions(subject: str, version: int) -> bool:
    """Whether the predictions of a version are there, and are those that were logged."""
    try:
        return not version_predictions(subject, version).empty
    except runs.ChangedError:
        return False


def _rival(version: int, holder: int, displaced: int | None) -> int | None:
    """The version that another one is compared with: the champion, or the one that it has replaced."""
    return displaced if holder == version else holder


def versions(subject: str) -> pd.DataFrame:
    """The registered versions of a subject's model, the newest first.

    Returns:
        `version, alias, model, data, val_auc, test_auc, ap50, rsna_map, test_split, registered, why`: text, times in
        UTC; no rows without versions. `ap50` and `rsna_map` are of the boxes of a detector, else empty.
    """
    holder = champion(subject)
    models = mlflow.search_model_versions(filter_string=f"name = '{runs.registered_name(subject)}'")
    rows = [
        {
            "version": int(version.version),
            "alias": CHAMPION if holder and holder.version == int(version.version) else "",
            "model": tags.get("model", ""),
            "data": targets.parts(subject)[0],
            "val_auc": _digits(tags.get("val_auc")),
            **{name: _digits(tags.get(name)) for name in ("test_auc", *BOXES)},
            "test_split": tags.get("test_split", ""),
            "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            "why": tags.get("reason", ""),
        }
        for version in sorted(models, key=lambda version: -int(version.version))
        for tags in [_tags(version)]
    ]
    facts = ["version", "alias", "model", "data", "val_auc", "test_auc", *BOXES, "test_split", "registered", "why"]
    return pd.DataFrame(rows, columns=facts)


def _digits(value: str | None) -> str:
    return f"{float(value):.4f}" if value else ""


def set_champion(subject: str, choose: Callable[[Registry], Choice]) -> tuple[Registry, Choice]:
    """Set the alias `champion` to the version chosen from the tags of all; returns these tags and the choice.

    Each version that was champion has the time as its tag `crowned_at`. Several processes may set the alias at once,
    and it has no compare-and-set. So a process that has set it reads all tags again: the last one has then seen all
    versions registered before, and a process that registers later reads the alias after that.

    Args:
        choose: returns the champion as its first value. It must depend only on the tags, so that all processes with the
            same tags make the same choice.
    """
    name, client = runs.registered_name(subject), mlflow.MlflowClient()
    with runs.registry_lock():
        while True:
            tags = version_tags(subject)
            choice = choose(tags)
            current = champion(subject)
            newest = promote.newest(tags, choice[0])
            if current and current.version == newest:
                return tags, choice
            _tag_run(subject, choice[0], {"crowned_at": _now()})  # first: no champion is missing from the history
            retry_on_conflict(client.set_registered_model_alias, name, CHAMPION, str(newest))


def roll_back(
    subject: str,
    plan: Callable[[Registry, int, Callable[[Registry], Choice]], tuple[int, Sequence[int]] | None],
    choose: Callable[[Registry], Choice],
) -> str:
    """Exclude the champion, and versions that would win before the target, and set the champion from the others.

    The new champion is the target of the rollback. Only on a server, which has no lock for one process, it may be a
    version promoted at the same time. Excluded versions keep their facts: without the tag `rolled_back_at` they take
    part again.

    Args:
        plan: from the tags of all versions, the champion and `choose` to the target and the versions to exclude; None
            if there is no earlier champion.
        choose: as in `set_champion`.

    Returns:
        A text that names the champion.

    Raises:
        UserError: no champion, or no earlier one.
    """
    name = runs.registered_name(subject)
    with runs.registry_lock():
        while True:
            tags, current = version_tags(subject), champion(subject)
            holder = promote.canonical(tags, current.version) if current else 0
            rollback = plan(tags, holder, choose) if current else None
            if (version_tags(subject), champion(subject)) == (tags, current):
                break  # else the registry has changed since the plan was made
        if not current or not rollback:
            state = f"version {current.version} has no champion before it" if current else "there is no champion yet"
            raise UserError(f"{name}: no version to go back to, {state}; train and promote another model instead")
        target, excluded = rollback
        for version in excluded:
            _tag_run(subject, version, {ROLLED_BACK: _now(), "promoted": "false", "verdict": "rolled back"})
        tags, choice = set_champion(subject, choose)
        how = "again" if choice[0] == target else "now, promoted at the same time"
        result = f"version {promote.newest(tags, choice[0])} is champion {how}"
        for version in (one for first in excluded for one in promote.same_run(tags, first)):
            if version == current.version:
                action = "rolled back"
            elif promote.canonical(tags, version) == holder:
                action = f"rolled back with version {current.version}"
            else:
                action = f"set aside with version {current.version}"
            record_decision(subject, version, {"reason": f"{action}: {result}"})  # only now the new champion is known
        describe(subject)
    return f"{name}: {result}"


def by_evidence(subject: str) -> Callable[[Registry], promote.Standing]:
    """The rule that chooses the champion; a comparison of predictions is stored as a tag of the challenger."""

    def measure(challenger: int, holder: int) -> promote.Gain:
        predictions, holders = (version_predictions(subject, version) for version in (challenger, holder))
        registry = version_tags(subject)
        confidence = promote.confidence_of(promote.tags_of_run(registry, challenger))
        gain = promote.auc_gain(predictions, holders, confidence)
        if len(predictions) and len(holders):
            _tag_run(subject, challenger, promote.against(promote.run_number(registry, holder), gain, confidence))
        return gain

    return partial(promote.standing, measure=measure)


def predictor(source: str, cache: Path) -> tuple[Path, str, str]:
    """The predictor of a registered version, on this machine.

    Several processes may ask for it at once: one copies it, the others wait.

    Args:
        source: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        cache: folder for copies of predictors that are on a server.

    Returns:
        Its folder, the number of the version, and the id of its train run.

    Raises:
        UserError: no such version, or one without a predictor; its files are missing or damaged; the store cannot be
            used.
    """
    name, _, which = source.removeprefix("models:/").replace("@", "/@").partition("/")
    client = mlflow.MlflowClient()
    with errors.as_user_error(mlflow.get_tracking_uri(), OR_A_FOLDER):
        try:
            version = (
                client.get_model_version_by_alias(name, which.removeprefix("@"))
                if which.startswith("@")
                else client.get_model_version(name, which)
            )
        except MlflowException as error:
            if error.error_code not in errors.UNKNOWN:
                raise
            known = ", ".join(str(one.version) for one in client.search_model_versions(f"name = '{name}'")) or "none"
            raise UserError(
                f"{source}: no such registered model, alias or version (versions of {name}: {known}); "
                "make repro registers one, --model FOLDER takes a predictor without a registry"
            ) from error
        digest = _tags(version).get(PREDICTOR)
        if not digest:
            raise UserError(
                f"{source} is version {version.version}, which an earlier release registered without a predictor; "
                f"dvc repro makes a new version with one{OR_A_FOLDER}"
            )
        folder = cache / digest
        if not _is_complete(folder, digest):  # without a lock: the cache may be read-only
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _is_complete(folder, digest):
                    _copy_predictor(source, version, digest, folder)
    return folder, str(version.version), str(version.run_id)


def _copy_predictor(source: str, version: ModelVersion, digest: str, folder: Path) -> None:
    """Copy the predictor of a version from the store; a damaged one leaves no folder."""
    with tempfile.TemporaryDirectory() as download:
        model = mlflow.artifacts.download_artifacts(str(version.source), dst_path=download)
        found = Path(model) / PREDICTOR_FILES
        if not _is_complete(found, digest):
            place = runs.version_place(version)
            raise UserError(
                f"{source} is version {version.version}, but files of its predictor are missing or damaged in {place}; "
                f"put them back{OR_A_FOLDER}"
            )
        with workspace.written_whole(folder) as partial:
            shutil.copytree(found, partial)


def _is_complete(folder: Path, digest: str) -> bool:
    """Whether the files of a predictor are those of this digest; it may be of a schema that this code cannot read."""
    path = folder / FACTS
    if not path.is_file() or workspace.sha256_file(path) != digest:
        return False
    digests = _file_digests(json.loads(path.read_bytes()))
    return all((folder / file).is_file() and workspace.sha256_file(folder / file) == digests[file] for file in digests)


def network(run_id: str, folder: Path) -> Path:
    """The Keras file of a train run, copied to a folder.

    Raises:
        UserError: the store has no such file, or cannot be used.
    """
    with errors.as_user_error(mlflow.get_tracking_uri()):
        model_id = mlflow.get_run(run_id).data.tags["model_id"]
        path = mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(folder))
    file = next(Path(path).rglob("*.keras"), None)
    if not file:
        raise UserError(
            f"the Keras network of the train run {run_id} is missing from the MLflow store; put its files back"
        )
    return file


def link_card(subject: str, version: int, run: runs.TrainRun, path: Path) -> None:
    """Log the model card, if there is one, to the train run; the texts of the run and of the version then link it."""
    if not path.is_file():
        return
    mlflow.MlflowClient().log_artifact(run.run_id, str(path), "card")
    runs.describe(run.run_id)
    with runs.registry_lock():
        _describe_version(subject, version)
        describe(subject)


def tag_version(subject: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a version, those in `READ` and `FOR_PEOPLE`."""
    for key, value in _as_stored(tags).items():
        retry_on_conflict(
            mlflow.MlflowClient().set_model_version_tag, runs.registered_name(subject), str(version), key, value
        )


def remove_tag(subject: str, version: int, tag: str) -> None:
    """Remove a tag in `READ` of a version, also if an earlier release has set it."""
    name, client = runs.registered_name(subject), mlflow.MlflowClient()
    known = client.get_model_version(name, str(version)).tags
    for stored in (f"{PREFIX}{tag}", tag):
        if stored in known:
            client.delete_model_version_tag(name, str(version), stored)


def _tag_run(subject: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of all versions of the train run of a version, so that they outlive each of them."""
    for one in promote.same_run(version_tags(subject), version):
        tag_version(subject, one, tags)


def record_decision(subject: str, version: int, tags: Mapping[str, str]) -> None:
    """Record the decision on a version as its tags; the `reason` is also the first line of its description."""
    if "promoted" in tags:  # before the reason, which completes the decision: the next promotion repeats half of one
        tag_version(subject, version, {"verdict": _VERDICTS[tags["promoted"]]})
    tag_version(subject, version, tags)
    _describe_version(subject, version)


_VERDICTS = {"true": "became champion", "false": "did not become champion"}


def _describe_version(subject: str, version: int) -> None:
    one = mlflow.MlflowClient().get_model_version(runs.registered_name(subject), str(version))
    text = descriptions.of_version(_tags(one).get("reason", ""), _evidence(str(one.run_id)))
    mlflow.MlflowClient().update_model_version(one.name, str(version), text)


def describe(subject: str) -> None:
    """Write the description of the registered model and the note of its experiment: they name the champion.

    A text that the user has written stays.
    """
    name, client, holder = runs.registered_name(subject), mlflow.MlflowClient(), champion(subject)
    if not holder:
        return
    shown = descriptions.Holder(holder.version, version_tags(subject)[holder.version], _evidence(holder.run_id))
    model = client.get_registered_model(name)
    if descriptions.is_own(model.description or ""):
        client.update_registered_model(name, descriptions.of_registered(subject, name, shown))
    for key, value in zip(("data", "target"), targets.parts(subject), strict=True):
        if model.tags.get(key) != value:
            retry_on_conflict(client.set_registered_model_tag, name, key, value)
    experiment = client.get_experiment_by_name(name)
    if experiment and descriptions.is_own(experiment.tags.get(runs.NOTE, "")):
        note = descriptions.of_experiment(subject, name, shown)
        client.set_experiment_tag(experiment.experiment_id, runs.NOTE, note)


def _evidence(run_id: str) -> descriptions.Evidence:
    """What the store has of a train run, which may be deleted."""
    try:
        return runs.evidence(run_id)
    except MlflowException as error:
        if error.error_code not in errors.UNKNOWN:
            raise
        return descriptions.Evidence("", run_id, {}, False, {}, "")


def lineage(model_path: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """The origin of a model in git and DVC, as tags.

    - `git_commit`: the code at the promotion. It is not the commit with the model's dvc.lock, which is made after the
      promotion, by DVC for its experiment or by the user.
    - `dvc_lock_digest`: of the entry of `train` in dvc.lock, by which `restore_version` finds that commit. Missing if
      the entry belongs to another training or names another model.
    - `dvc_experiment`: the experiment that promotes it.
    - `preparation`, `preparation_digest`: how its images were prepared, from `models/run.json` (`record`).
    """
    preparation = Preparation.from_attributes(record)
    tags = {
        "git_commit": runs.git_commit(),
        "dvc_lock_digest": _dvc_lock_digest(model_path),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
        "preparation": json.dumps(preparation.as_dict()) if preparation else "",
        "preparation_digest": preparation.digest if preparation else "",
    }
    return {name: value for name, value in tags.items() if value}


def restore_version(subject: str, name: str, model_path: Path) -> str:
    """Restore the files of a registered version and their commit to the workspace; returns a message.

    Args:
        name: a version's number, or `champion`.
        model_path: of its model file in the workspace.

    Raises:
        UserError: no such version, or it cannot be restored; then nothing has changed.
    """
    with errors.as_user_error(mlflow.get_tracking_uri()):
        registry, version = version_tags(subject), _version_number(name, subject)
    if version not in registry:
        known = ", ".join(map(str, sorted(registry))) or "none"
        raise UserError(
            f"{name!r} is no version of {runs.registered_name(subject)}; it has {known} (see: pneumonia versions)"
        )
    model, tags = runs.registered_name(subject), registry[version]
    title = f"{model} version {version}"
    in_store = f"the model alone is in MLflow, {mlflow.get_tracking_uri()}, as models:/{model}/{version}"
    if not {"dvc_lock_digest", "model_sha256"} <= tags.keys():
        raise UserError(f"{title} was registered without a dvc.lock of its training; {in_store}")
    try:
        return f"{title} {restore.restore_files(tags['dvc_lock_digest'], model_path, tags['model_sha256'])}"
    except restore.GoneError as error:
        raise UserError(f"{title}: {error}; {in_store}") from error


def version_predictions(subject: str, version: int) -> pd.DataFrame:
    """The predictions of a registered version; no rows if they were deleted."""
    run_id = mlflow.MlflowClient().get_model_version(runs.registered_name(subject), str(version)).run_id
    return runs.logged_predictions(str(run_id))


def scored(name: str, subject: str) -> Scored:
    """The predictions of a model by any of its names: version, `champion`, id of a train run, DVC experiment.

    An experiment from DVC's cache has no run, so its scores are read from DVC. An experiment that DVC has removed is
    searched among the runs, which have its name as a tag.

    Args:
        name: one of these names; not empty.
        subject: of the versions.

    Raises:
        UserError: no such model, or one without scores.
    """
    with errors.as_user_error(mlflow.get_tracking_uri()):
        model = _scored_version(name, subject) or _scored_run(name)
        versions = sorted(version_tags(subject))
    model = model or _scored_experiment(name)
    if not model:
        raise UserError(
            f"{name!r} is no version of {runs.registered_name(subject)} (it has "
            f"{', '.join(map(str, versions)) or 'none'}), no run in {mlflow.get_tracking_uri()}, and no DVC experiment "
            "with predictions in DVC's cache; pneumonia versions and pneumonia experiments list them"
        )
    if model.predictions.empty:
        if runs.was_evaluated(model.run_id):
            place = runs.artifact_place(model.run_id)
            raise UserError(f"{name!r} is {model.title}, but its {runs.PREDICTIONS} is gone from {place}; put it back")
        raise UserError(
            f"{name!r} is {model.title}, which has no {runs.PREDICTIONS}; name a train run that was evaluated"
        )
    return model


def _version_number(name: str, subject: str) -> int:
    """The version number of a name, which is a number or `champion`; 0 for other names."""
    holder = champion(subject) if name == CHAMPION else None
    return holder.version if holder else int(name) if re.fullmatch("[0-9]{1,9}", name) else 0


def _scored_version(name: str, subject: str) -> Scored | None:
    version = _version_number(name, subject)
    tags = version_tags(subject).get(version)
    if tags is None:
        return None
    run_id = str(mlflow.MlflowClient().get_model_version(runs.registered_name(subject), str(version)).run_id)
    labels = [tags.get("model", "?"), *([CHAMPION] if name == CHAMPION else [])]
    title = f"{runs.registered_name(subject)} version {version} ({', '.join(labels)})"
    return Scored(title, run_id, version_predictions(subject, version), targets.target(targets.parts(subject)[1]))


def _scored_run(run_id: str) -> Scored | None:
    try:
        tags = mlflow.MlflowClient().get_run(run_id).data.tags
    except MlflowException as error:
        if error.error_code not in errors.UNKNOWN:
            raise
        return None
    target = targets.of(tags)
    on = targets.titled(tags.get("data", "?"), target)
    title = f"{tags.get('stage', 'unknown')} run {run_id[:8]} ({tags.get('model', '?')} on {on})"
    return Scored(title, run_id, runs.logged_predictions(run_id), target)


def _scored_experiment(name: str) -> Scored | None:
    from dvc import api
    from dvc.exceptions import DvcException

    with suppress(DvcException), tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "predictions.csv"
        read = partial(api.read, repo=str(workspace.project_root()), rev=name, encoding="utf-8")
        record = json.loads(read("models/run.json"))
        copy.write_text(read("reports/predictions.csv"), encoding="utf-8")
        target = targets.of(record)
        title = f"experiment {name} ({record['model']} on {targets.titled(record['data'], target)})"
        return Scored(title, record["run_id"], read_predictions(copy), target)
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.dvc_experiment = '{name}' and tags.stage = 'train' and attributes.status = 'FINISHED'"
    tagged_runs = [] if "'" in name else client.search_runs(experiments, query, max_results=1)
    return _scored_run(tagged_runs[0].info.run_id) if tagged_runs else None


def _versions(subject: str, run: runs.TrainRun, predictor_digest: str = "") -> list[int]:
    """The versions of a train run; with a digest, only those with this predictor."""
    query = f"name = '{runs.registered_name(subject)}' and run_id = '{run.run_id}'"
    versions = mlflow.MlflowClient().search_model_versions(query)
    return [int(one.version) for one in versions if predictor_digest in ("", _tags(one).get(PREDICTOR))]


def retry_on_conflict(change: Callable[..., object], *arguments: str) -> None:
    """Set a tag or an alias, also if another process creates the same one at the same time."""
    try:
        change(*arguments)
    except MlflowException as error:
        # The database rejected the second of two equal inserts; the row exists now, so MLflow updates it.
        if error.error_code != "BAD_REQUEST":
            raise
        change(*arguments)


def _dvc_lock_digest(model_path: Path) -> str:
    """Digest of the entry of `train` in dvc.lock; empty if the entry is not of this model."""
    try:
        entry = restore.train_entry(restore.read_lock())
        md5_of = {out["path"]: out["md5"] for out in entry.get("outs", [])}
        with open(model_path, "rb") as file:
            model_md5 = hashlib.file_digest(file, "md5").hexdigest()
    except (OSError, KeyError, TypeError):  # no model yet, or not written by DVC
        return ""
    return restore.lock_digest(entry) if md5_of.get(model_path.as_posix()) == model_md5 else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
