"""Versions of the registered models, the champion among them, and the predictions they are compared on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.exceptions import MlflowException

from pneumonia import UserError, promote, workspace
from pneumonia.data import tables
from pneumonia.images.geometry import Preparation
from pneumonia.tracking import restore, runs

CHAMPION = "champion"
ROLLED_BACK = "rolled_back_at"

Registry = Mapping[int, Mapping[str, str]]
"""Version number of one registered model -> its tags."""
Choice = TypeVar("Choice", bound=tuple[Any, ...])


class Champion(NamedTuple):
    """The version that the alias `champion` points to."""

    version: int
    run_id: str


class Scored(NamedTuple):
    """A model that was asked for by name, and what it scored.

    Attributes:
        title: for the reader.
        run_id: of its train run, which may be in another store if DVC brought the experiment.
        predictions: `image_id, sha256, split, label, score` and more.
    """

    title: str
    run_id: str
    predictions: pd.DataFrame


def is_registered(data: str, record: Mapping[str, Any]) -> bool:
    """Whether this store has a version of the model of `models/run.json`, and a champion."""
    run = runs.find_train_run(record)
    return bool(run and _versions(data, run) and champion(data))


def register(data: str, run: runs.TrainRun, facts: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> int:
    """The version of a train run's model in the registry; registered once, however often it is asked for.

    A new version comes into being together with its tags, so that no other process sees it without them. One that
    exists keeps them, and what was decided on it, unless a fact has changed: then it gets all of them anew and loses
    the tag `reason`, by which a version that is to be decided is known.

    Args:
        facts: what the version is judged on and by.
        origin: where it comes from, which is no reason to judge it anew.
    """
    name, client = runs.registered_name(data), mlflow.MlflowClient()
    words, origin = {key: str(value) for key, value in facts.items()}, dict(origin or {})
    with registry_lock():
        versions = _versions(data, run)
        if not versions:
            made = int(mlflow.register_model(f"models:/{run.model_id}", name, tags=words | origin).version)
            version = min(_versions(data, run))
            if version != made:  # on a server another process has registered the same run in the same moment
                client.delete_model_version(name, str(made))
            return version
        version = min(versions)
        known = client.get_model_version(name, str(version)).tags
        if words.items() <= known.items():
            tag_version(
                data,
                version,
                {**origin, **{key: known[key] for key in origin.keys() & known.keys() - {"dvc_lock_digest"}}},
            )
            return version
        if "reason" in known:
            client.delete_model_version_tag(name, str(version), "reason")
        tag_version(data, version, words | origin)
        return version


def champion(data: str) -> Champion | None:
    """The champion of a data set; None where there is none yet."""
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(runs.registered_name(data), CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of the name, the alias
            raise
        return None
    return Champion(int(found.version), str(found.run_id))


def version_tags(data: str) -> Registry:
    """The tags of every version of a data set's model, by its number."""
    found = mlflow.search_model_versions(filter_string=f"name = '{runs.registered_name(data)}'")
    return {int(one.version): dict(one.tags) for one in found}


class Outcome(NamedTuple):
    """What became of a model that was submitted to the registry.

    Attributes:
        version: number of its version.
        champion: number of the version that is champion now.
        decision: on the version.
        tags: facts and origin of the version.
    """

    version: int
    champion: int
    decision: promote.Decision
    tags: dict[str, Any]


def submit(
    record: Mapping[str, Any],
    run: runs.TrainRun,
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    limits: Mapping[str, float],
    *,
    synthetic: bool,
    model_path: Path,
) -> Outcome:
    """Register the model of a train run, decide who is champion, and note the decision on the version.

    Args:
        record: `models/run.json`.
        run: the train run.
        predictions: `predictions.csv`.
        metrics: `metrics.json`.
        limits: section `promote` of params.yaml.
        synthetic: whether the data set is.
        model_path: file of the model.
    """
    data, conditions = record["data"], {"threshold": metrics["threshold"], **limits}
    facts = {name: record[name] for name in ("model", "weights", "data_digest", "model_sha256")}
    facts |= {"synthetic": str(synthetic).lower(), "test_auc": metrics["test"]["auc"]}
    origin = lineage(model_path, record)
    with registry_lock():  # a rollback sees a version that is decided, or none
        version = register(data, run, {**facts, **promote.facts(predictions, **conditions)}, origin)
        registry, (holder, displaced) = set_champion(data, by_evidence(data))
        rival = displaced if holder == version else holder
        theirs = version_predictions(data, rival) if rival else None
        decision = promote.decide(predictions, theirs, first=version == promote.FIRST_VERSION, **conditions)
        tags = registry[version]
        decision = promote.settled(decision, version, holder, tags)
        if "reason" not in tags or (decision.promoted and tags["promoted"] == "false"):
            record_decision(data, version, promote.as_tags(decision))
    return Outcome(version, holder, decision, facts | origin)


def versions(data: str) -> pd.DataFrame:
    """The registered versions of a data set's model, the newest first.

    Returns:
        `version, alias, model, data, val_auc, test_auc, registered, why`: text, times in UTC; no rows where there are
        none.
    """
    holder = champion(data)
    models = mlflow.search_model_versions(filter_string=f"name = '{runs.registered_name(data)}'")
    rows = [
        {
            "version": int(one.version),
            "alias": CHAMPION if holder and holder.version == int(one.version) else "",
            "model": one.tags.get("model", ""),
            "data": data,
            "val_auc": _digits(one.tags.get("val_auc")),
            "test_auc": _digits(one.tags.get("test_auc")),
            "registered": datetime.fromtimestamp(one.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            "why": one.tags.get("reason", ""),
        }
        for one in sorted(models, key=lambda one: -int(one.version))
    ]
    return pd.DataFrame(rows, columns=["version", "alias", "model", "data", "val_auc", "test_auc", "registered", "why"])


def _digits(value: str | None) -> str:
    return f"{float(value):.4f}" if value else ""


def set_champion(data: str, choose: Callable[[Registry], Choice]) -> tuple[Registry, Choice]:
    """Point the alias `champion` at the version chosen from the tags of all; gives those tags and the choice.

    Each version that was champion has the time as its tag `crowned_at`. Several processes may set the alias at once,
    and it has no compare-and-set, so whoever has set it reads everything again: the last of them to set it has then
    seen all that was registered before, and who registers later looks at the alias after that.

    Args:
        choose: names the champion first. It must depend on the tags alone, so that all who read the same ones agree.
    """
    name, client = runs.registered_name(data), mlflow.MlflowClient()
    with registry_lock():
        while True:
            tags = version_tags(data)
            choice = choose(tags)
            current = champion(data)
            if current and current.version == choice[0]:
                return tags, choice
            tag_version(data, choice[0], {"crowned_at": _now()})  # first: no champion is missing from the history
            retry_on_conflict(client.set_registered_model_alias, name, CHAMPION, str(choice[0]))


def roll_back(
    data: str,
    plan: Callable[[Registry, int, Callable[[Registry], Choice]], tuple[int, Sequence[int]] | None],
    choose: Callable[[Registry], Choice],
) -> str:
    """Take the champion, and who else stands in the way, out of the contest, and crown whom the others leave.

    That is the version to go back to; only on a server, which no lock keeps for one process, it may be one that was
    promoted in the same moment. What was set aside keeps its facts: without its tag `rolled_back_at` it competes again.

    Args:
        plan: from the tags of all versions, the champion and `choose` to the version to go back to and those in its
            way; None where there is nothing to go back to.
        choose: as in `set_champion`.

    Returns:
        In words, who is champion.

    Raises:
        UserError: no champion, or no earlier one.
    """
    name = runs.registered_name(data)
    with registry_lock():
        while True:
            tags, current = version_tags(data), champion(data)
            planned = plan(tags, current.version, choose) if current else None
            if (version_tags(data), champion(data)) == (tags, current):
                break  # else the plan is one for a registry of the past
        if not current or not planned:
            now = f"version {current.version} has no champion before it" if current else "there is no champion yet"
            raise UserError(f"{name}: nothing to go back to, {now}; train and promote another model instead")
        target, aside = planned
        for version in aside:
            tag_version(data, version, {ROLLED_BACK: _now(), "promoted": "false"})
        _, choice = set_champion(data, choose)
        said = f"version {choice[0]} is champion{' again' if choice[0] == target else ', promoted in the same moment'}"
        for version in aside:  # only now it is known who is champion instead
            what = "rolled back" if version == current.version else f"set aside with version {current.version}"
            record_decision(data, version, {"reason": f"{what}: {said}"})
    return f"{name}: {said}"


def by_evidence(data: str) -> Callable[[Registry], promote.Standing]:
    """How a champion is chosen; a comparison that needed predictions becomes a tag of the challenger."""

    def measure(challenger: int, holder: int) -> promote.Gain:
        mine, theirs = (version_predictions(data, version) for version in (challenger, holder))
        gain = promote.auc_gain(mine, theirs)
        if len(mine) and len(theirs):
            tag_version(data, challenger, promote.against(holder, gain))
        return gain

    return partial(promote.standing, measure=measure)


def link_card(data: str, version: int, run: runs.TrainRun, path: Path) -> None:
    """Put the model card, where it is made, onto the train run, and say on the version where it is."""
    if not path.is_file():
        return
    mlflow.MlflowClient().log_artifact(run.run_id, str(path), "card")
    tag_version(data, version, {"model_card": f"runs:/{run.run_id}/card/{path.name}"})


def tag_version(data: str, version: int, tags: Mapping[str, str]) -> None:
    """Tags of a version."""
    for key, value in tags.items():
        retry_on_conflict(
            mlflow.MlflowClient().set_model_version_tag, runs.registered_name(data), str(version), key, value
        )


def record_decision(data: str, version: int, tags: Mapping[str, str]) -> None:
    """What was decided on a version, as its tags; the `reason` is also the text that the registry shows beside it."""
    mlflow.MlflowClient().update_model_version(runs.registered_name(data), str(version), tags["reason"])
    tag_version(data, version, tags)


def lineage(model_path: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Where a model comes from, as far as git and DVC know.

    - `git_commit`: the code that it is promoted with. It is not the commit that holds the model's dvc.lock: that one is
      made after the promotion, by DVC for its experiment or by the user.
    - `dvc_lock_digest`: of the entry of `train` in dvc.lock, by which `restore_version` finds that commit. A dvc.lock
      that some other training wrote says nothing of this model, and neither does an entry that names another one.
    - `dvc_experiment`: the experiment that promotes it.
    - `preparation`, `preparation_digest`: how its images were prepared, as `models/run.json` (`record`) says.
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


def restore_version(data: str, name: str, model_path: Path) -> str:
    """The files of a registered version into the workspace, with the commit that holds them; gives a line on it.

    Args:
        name: a version's number, or `champion`.
        model_path: where its model belongs.

    Raises:
        UserError: no such version, or one that cannot be brought back; nothing has changed then.
    """
    with runs.as_user_error(mlflow.get_tracking_uri()):
        registry, version = version_tags(data), _numbered(name, data)
    if version not in registry:
        known = ", ".join(map(str, sorted(registry))) or "none"
        raise UserError(
            f"{name!r} is no version of {runs.registered_name(data)}; it has {known} (make restore VERSION=1)"
        )
    tags, title = registry[version], f"{runs.registered_name(data)} version {version}"
    in_store = (
        f"the model alone is in MLflow, {mlflow.get_tracking_uri()}, as models:/{runs.registered_name(data)}/{version}"
    )
    if not {"dvc_lock_digest", "model_sha256"} <= tags.keys():
        raise UserError(f"{title} was registered without a dvc.lock of its training; {in_store}")
    try:
        return f"{title} {restore.restore_files(tags['dvc_lock_digest'], model_path, tags['model_sha256'])}"
    except restore.GoneError as error:
        raise UserError(f"{title}: {error}; {in_store}") from error


def version_predictions(data: str, version: int) -> pd.DataFrame:
    """The predictions of a registered version; no rows where they are gone."""
    found = mlflow.MlflowClient().get_model_version(runs.registered_name(data), str(version))
    return runs.logged_predictions(str(found.run_id))


def scored(name: str, data: str) -> Scored:
    """The predictions of a model, however it is called: version, `champion`, id of a train run, DVC experiment.

    An experiment that came from DVC's cache has made no run, so its scores are read from DVC. One that DVC has
    forgotten is looked for among the runs, which have its name as a tag.

    Args:
        name: what the user calls it; not empty.
        data: whose versions are meant.

    Raises:
        UserError: no such model, or one without scores.
    """
    with runs.as_user_error(mlflow.get_tracking_uri()):
        found = _scored_version(name, data) or _scored_run(name)
        versions = sorted(version_tags(data))
    found = found or _scored_experiment(name)
    if not found:
        raise UserError(
            f"{name!r} is no version of {runs.registered_name(data)} (it has "
            f"{', '.join(map(str, versions)) or 'none'}), no run in {mlflow.get_tracking_uri()}, and no DVC experiment "
            "with predictions in DVC's cache; make ui lists versions and runs, dvc exp show lists experiments"
        )
    if found.predictions.empty:
        raise UserError(
            f"{name!r} is {found.title}, which has no {runs.PREDICTIONS}; name a train run that was evaluated"
        )
    return found


def _numbered(name: str, data: str) -> int:
    """The number that a version's name means, a number itself or `champion`; 0 for none."""
    holder = champion(data) if name == CHAMPION else None
    return holder.version if holder else int(name) if re.fullmatch("[0-9]{1,9}", name) else 0


def _scored_version(name: str, data: str) -> Scored | None:
    version = _numbered(name, data)
    tags = version_tags(data).get(version)
    if tags is None:
        return None
    run_id = str(mlflow.MlflowClient().get_model_version(runs.registered_name(data), str(version)).run_id)
    words = [tags.get("model", "?"), *([CHAMPION] if name == CHAMPION else [])]
    title = f"{runs.registered_name(data)} version {version} ({', '.join(words)})"
    return Scored(title, run_id, version_predictions(data, version))


def _scored_run(run_id: str) -> Scored | None:
    try:
        tags = mlflow.MlflowClient().get_run(run_id).data.tags
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of an id, of a word
            raise
        return None
    title = f"{tags.get('stage', 'unknown')} run {run_id[:8]} ({tags.get('model', '?')} on {tags.get('data', '?')})"
    return Scored(title, run_id, runs.logged_predictions(run_id))


def _scored_experiment(name: str) -> Scored | None:
    from dvc import api
    from dvc.exceptions import DvcException

    with suppress(DvcException), tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept"
        read = partial(api.read, repo=str(workspace.project_root()), rev=name, encoding="utf-8")
        record = json.loads(read("models/run.json"))
        kept.write_text(read("reports/predictions.csv"), encoding="utf-8")
        title = f"experiment {name} ({record['model']} on {record['data']})"
        return Scored(title, record["run_id"], tables.read_table(kept))
    client = mlflow.MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    tagged = f"tags.dvc_experiment = '{name}' and tags.stage = 'train' and attributes.status = 'FINISHED'"
    tagged_runs = [] if "'" in name else client.search_runs(experiments, tagged, max_results=1)
    return _scored_run(tagged_runs[0].info.run_id) if tagged_runs else None


def _versions(data: str, run: runs.TrainRun) -> list[int]:
    query = f"name = '{runs.registered_name(data)}' and run_id = '{run.run_id}'"
    return [int(one.version) for one in mlflow.MlflowClient().search_model_versions(query)]


def retry_on_conflict(change: Callable[..., object], *arguments: str) -> None:
    """Set a tag or an alias, also where another process makes the same one at the same moment."""
    try:
        change(*arguments)
    except MlflowException as error:
        # The database refused the second of two equal inserts; now that it is there, MLflow updates it.
        if error.error_code != "BAD_REQUEST":
            raise
        change(*arguments)


@contextmanager
def registry_lock() -> Iterator[None]:
    """Only one process at a time changes the registry; of a server, which others reach from elsewhere, any number.

    May be nested.
    """
    database = runs.database_path(mlflow.get_tracking_uri())
    # Not the lock of `open_store`, which others wait for before they do anything.
    with FileLock(f"{database}.registry.lock", is_singleton=True) if database else nullcontext():
        yield


def _dvc_lock_digest(model_path: Path) -> str:
    """Of the entry of `train` in dvc.lock; empty where it is not of this model."""
    try:
        entry = restore.train_entry(restore.read_lock())
        made = {out["path"]: out["md5"] for out in entry.get("outs", [])}
        with open(model_path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except (OSError, KeyError, TypeError):  # no model yet, or none that DVC wrote
        return ""
    return restore.lock_digest(entry) if made.get(model_path.as_posix()) == found else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
