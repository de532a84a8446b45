"""Runs, models and the registry: the only module that knows MLflow.

The store is `sqlite:///<root>/mlruns/mlflow.db` unless `MLFLOW_TRACKING_URI` names another; `<root>` is the
project's folder even inside DVC's temporary experiment folders, so that all runs meet in one place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock

# Read by MLflow when it is imported: nothing is sent anywhere, no code is run from a stored model.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 14 s; the default waits minutes for a dead server
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # or each new store prints its migrations

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pneumonia import UserError, dataset, promote, restore

CHAMPION = "champion"
ROLLED_BACK = "rolled_back_at"
PREDICTIONS = "evaluation/predictions.csv"
"""Where a train run keeps the scores that later candidates are compared on."""

Registry = dict[int, dict[str, str]]
"""Version number of one registered model -> its tags."""
Choice = TypeVar("Choice", bound=tuple[Any, ...])

_SQLITE = re.compile(r"sqlite:///(?!:memory:)(?P<path>.+)")


class TrainRun(NamedTuple):
    """The train run of a model in this store.

    Attributes:
        run_id, model_id: of the run and its LoggedModel.
        adopted: made just now, because the store did not know the run that trained the model.
    """

    run_id: str
    model_id: str
    adopted: bool


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


def open_store(root: Path | None = None) -> str:
    """Point MLflow at the store, which is made where there is none; returns its URI.

    A relative sqlite path in `MLFLOW_TRACKING_URI` counts from the project's root.
    """
    root = root or dataset.project_root()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    if file := _SQLITE.fullmatch(uri):
        path = root / file["path"]
        uri = f"sqlite:///{path}"
        with _said_in_one_line(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that create the tables at once break the store; a file that exists may still lack some.
            with FileLock(f"{path}.lock"):
                mlflow.MlflowClient(uri).search_experiments(max_results=1)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return uri


def registered_name(data: str) -> str:
    """Name of the registered model: one for each data set, since a synthetic champion is no champion of patients."""
    return f"pneumonia-{data}"


@contextmanager
def start_run(
    stage: str,
    *,
    data: str,
    model: str,
    synthetic: bool,
    params: Mapping[str, Any],
    parent: str | None = None,
    resume: Path | None = None,
) -> Iterator[str]:
    """A run of one stage, named after it; gives its id. A failing stage leaves a run marked FAILED.

    Args:
        stage: name of the stage.
        data, model: the selectors.
        synthetic: whether the data set is.
        params: settings to log.
        parent: id of the run that this one belongs under.
        resume: an existing folder that survives a crash; the run that is noted there goes on, a new one is noted.
    """
    uri = open_store()
    with _said_in_one_line(uri):
        experiment = _experiment(data)
        earlier = _noted_run(resume)
    tags = {
        "stage": stage,
        "data": data,
        "model": model,
        "synthetic": str(synthetic).lower(),
        "git_commit": _git_commit(),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
    }
    with mlflow.start_run(
        run_id=earlier,
        experiment_id=experiment,
        run_name=stage,
        parent_run_id=parent,
        tags={name: value for name, value in tags.items() if value},
    ) as run:
        if resume:
            (resume / "run_id").write_text(run.info.run_id, encoding="utf-8")
        mlflow.log_params(dict(params))
        yield run.info.run_id


def _noted_run(resume: Path | None) -> str | None:
    """The id in `resume`, if this store has that run."""
    if not resume or not (resume / "run_id").is_file():
        return None
    noted = (resume / "run_id").read_text(encoding="utf-8")
    try:
        return str(mlflow.get_run(noted).info.run_id)
    except MlflowException:  # it was in another store, or was removed
        return None


@contextmanager
def child_run(
    name: str, params: Mapping[str, Any], *, killed_by: type[Exception]
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A run under the current one; gives what logs its metrics per epoch. `killed_by` marks it KILLED, not FAILED."""
    parent = mlflow.active_run()
    assert parent, "a child run is opened inside start_run"
    mlflow.start_run(nested=True, run_name=name, experiment_id=parent.info.experiment_id)
    status = "FAILED"
    try:
        mlflow.log_params(dict(params))
        yield lambda epoch, values: log_metrics(values, step=epoch)
        status = "FINISHED"
    except killed_by:
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


def log_params(values: Mapping[str, Any]) -> None:
    """Settings of the current run that were found, not given."""
    mlflow.log_params(dict(values))


def log_metrics(values: Mapping[str, float], *, step: int | None = None) -> None:
    """Numbers of the current run; nested tables are flattened: `{"test": {"auc": ..}}` becomes `test.auc`."""
    mlflow.log_metrics(_numbers(values), step=step)


def log_figure(figure: Any, path: str, *also: TrainRun) -> None:
    """A figure of `plots` as PNG among the artifacts of the current run, and of the train run it belongs to."""
    mlflow.log_figure(figure, path)
    for run in also:
        mlflow.MlflowClient().log_figure(run.run_id, figure, path)


def log_file(path: str | Path, folder: str | None = None) -> None:
    """A file, or all of a folder, among the artifacts of the current run."""
    log = mlflow.log_artifacts if Path(path).is_dir() else mlflow.log_artifact
    log(str(path), folder)


def log_table(table: pd.DataFrame, path: str) -> None:
    """A table that the MLflow UI shows as such."""
    mlflow.log_table(table, path)


def log_dataset(image_ids: Any, labels: Any, *, data: str, digest: str, context: str) -> None:
    """Say which images the current run used; the digest also becomes the tag `data_digest`."""
    table = pd.DataFrame({"image_id": image_ids, "label": [dataset.LABELS[int(label)] for label in labels]})
    mlflow.log_input(mlflow.data.from_pandas(table, name=data, digest=digest[:32]), context=context)
    tag(data_digest=digest)


def tag(**tags: str) -> None:
    """Tags of the current run."""
    mlflow.set_tags(tags)


def log_model(model: Any) -> str:
    """Log the trained network to the current run, with its signature; returns the id of the LoggedModel."""
    import mlflow.tensorflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    signature = ModelSignature(
        # Without names: MLflow would hand a named tensor over in a dict, which Keras warns of.
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, 1))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 1))]),
    )
    info = mlflow.tensorflow.log_model(
        model,
        name="model",
        signature=signature,
        # Given explicitly: MLflow would load the model in another process to find out, 12 s.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("tensorflow", "keras", "numpy")],
    )
    return str(info.model_id)


def train_run(record: Mapping[str, str], *, synthetic: bool, model_path: Path, history: Path) -> TrainRun:
    """The run that trained the model, as this store knows it.

    A model restored from DVC's cache may come from another machine, or the store may be new: then a run is made
    here, with the model and its history, and tagged with the id of the original.

    Args:
        record: `models/run.json`.
        synthetic: as in `start_run`.
        model_path, history: what the new run gets, where one must be made.
    """
    open_store()
    known = find_train_run(record)
    if known:
        return known
    from pneumonia import models

    with start_run("train", data=record["data"], model=record["model"], synthetic=synthetic, params={}) as run_id:
        tag(original_run_id=record["run_id"], data_digest=record["data_digest"], weights=record["weights"])
        # Reports of earlier versions have no such columns.
        for row in pd.read_csv(history).drop(columns=["kept", "member"], errors="ignore").to_dict("records"):
            log_metrics({str(name): value for name, value in row.items()}, step=int(row["epoch"]))
        model_id = log_model(models.load_model(model_path))
        tag(model_id=model_id)
    return TrainRun(run_id, model_id, adopted=True)


def find_train_run(record: Mapping[str, str]) -> TrainRun | None:
    """The run of `models/run.json` in this store, itself or adopted earlier; None where the store knows neither."""
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(record["run_id"])
        if run.info.lifecycle_stage == "active":
            return TrainRun(record["run_id"], record["model_id"], adopted=False)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            with _said_in_one_line(mlflow.get_tracking_uri()):
                raise
    experiments = [one.experiment_id for one in client.search_experiments()]
    # Finished: an adoption that broke off has no model.
    query = f"tags.original_run_id = '{record['run_id']}' and attributes.status = 'FINISHED'"
    adopted = client.search_runs(experiments, query, max_results=1)
    return TrainRun(adopted[0].info.run_id, adopted[0].data.tags["model_id"], adopted=False) if adopted else None


def is_registered(data: str, record: Mapping[str, str]) -> bool:
    """Whether this store has a version of the model of `models/run.json`, and a champion."""
    run = find_train_run(record)
    return bool(run and _versions(data, run) and champion(data))


def mirror(run: TrainRun, metrics: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Put figures and files of a later stage onto the train run and its LoggedModel.

    Args:
        run: the train run.
        metrics: numbers, nested tables are flattened.
        files: artifact folder or file -> what to put there.
    """
    client = mlflow.MlflowClient()
    for name, value in _numbers(metrics).items():
        client.log_metric(run.run_id, name, value, model_id=run.model_id)
    for target, path in files.items():
        if path.is_dir():
            client.log_artifacts(run.run_id, str(path), target)
        else:
            client.log_artifact(run.run_id, str(path), str(Path(target).parent))


def register(data: str, run: TrainRun, facts: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> int:
    """The version of a train run's model in the registry; registered once, however often it is asked for.

    A new version comes into being together with its tags, so that no other process sees it without them. One that
    exists keeps them, and what was decided on it, unless a fact has changed: then it gets all of them anew and loses
    the tag `reason`, by which a version that is to be decided is known.

    Args:
        facts: what the version is judged on and by.
        origin: where it comes from, which is no reason to judge it anew.
    """
    name, client = registered_name(data), mlflow.MlflowClient()
    words, origin = {key: str(value) for key, value in facts.items()}, dict(origin or {})
    with alone():
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
        found = mlflow.MlflowClient().get_model_version_by_alias(registered_name(data), CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of the name, the alias
            raise
        return None
    return Champion(int(found.version), str(found.run_id))


def version_tags(data: str) -> Registry:
    """The tags of every version of a data set's model, by its number."""
    found = mlflow.search_model_versions(filter_string=f"name = '{registered_name(data)}'")
    return {int(one.version): dict(one.tags) for one in found}


def crown(data: str, choose: Callable[[Registry], Choice]) -> tuple[Registry, Choice]:
    """Point the alias `champion` at the version chosen from the tags of all; gives those tags and the choice.

    Each version that was champion has the time as its tag `crowned_at`. Several processes may set the alias at once,
    and it has no compare-and-set, so whoever has set it reads everything again: the last of them to set it has then
    seen all that was registered before, and who registers later looks at the alias after that.

    Args:
        choose: names the champion first. It must depend on the tags alone, so that all who read the same ones agree.
    """
    name, client = registered_name(data), mlflow.MlflowClient()
    with alone():
        while True:
            tags = version_tags(data)
            choice = choose(tags)
            current = champion(data)
            if current and current.version == choice[0]:
                return tags, choice
            tag_version(data, choice[0], {"crowned_at": _now()})  # first: no champion is missing from the history
            _insist(client.set_registered_model_alias, name, CHAMPION, str(choice[0]))


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
        choose: as in `crown`.

    Returns:
        In words, who is champion.

    Raises:
        UserError: no champion, or no earlier one.
    """
    name = registered_name(data)
    with alone():
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
        _, choice = crown(data, choose)
        said = f"version {choice[0]} is champion{' again' if choice[0] == target else ', promoted in the same moment'}"
        for version in aside:  # only now it is known who is champion instead
            what = "rolled back" if version == current.version else f"set aside with version {current.version}"
            decide(data, version, {"reason": f"{what}: {said}"})
    return f"{name}: {said}"


def by_evidence(data: str) -> Callable[[Registry], promote.Standing]:
    """How a champion is chosen; a comparison that needed predictions becomes a tag of the challenger."""

    def measure(challenger: int, holder: int) -> promote.Gain:
        mine, theirs = (version_predictions(data, version) for version in (challenger, holder))
        gain = promote.compare(mine, theirs)
        if len(mine) and len(theirs):
            tag_version(data, challenger, promote.against(holder, gain))
        return gain

    return partial(promote.standing, measure=measure)


def link_card(data: str, version: int, run: TrainRun, path: Path) -> None:
    """Put the model card, where it is made, onto the train run, and say on the version where it is."""
    if not path.is_file():
        return
    mlflow.MlflowClient().log_artifact(run.run_id, str(path), "card")
    tag_version(data, version, {"model_card": f"runs:/{run.run_id}/card/{path.name}"})


def tag_version(data: str, version: int, tags: Mapping[str, str]) -> None:
    """Tags of a version."""
    for key, value in tags.items():
        _insist(mlflow.MlflowClient().set_model_version_tag, registered_name(data), str(version), key, value)


def decide(data: str, version: int, tags: Mapping[str, str]) -> None:
    """What was decided on a version, as its tags; the `reason` is also the text that the registry shows beside it."""
    mlflow.MlflowClient().update_model_version(registered_name(data), str(version), tags["reason"])
    tag_version(data, version, tags)


def lineage(model_path: Path) -> dict[str, str]:
    """Where a model comes from, as far as git and DVC know.

    - `git_commit`: the code that it is promoted with. It is not the commit that holds the model's dvc.lock: that one is
      made after the promotion, by DVC for its experiment or by the user.
    - `dvc_lock_digest`: of the entry of `train` in dvc.lock, by which `bring_back` finds that commit. A dvc.lock that
      some other training wrote says nothing of this model, and neither does an entry that names another one.
    - `dvc_experiment`: the experiment that promotes it.
    """
    found = {
        "git_commit": _git_commit(),
        "dvc_lock_digest": _dvc_lock_digest(model_path),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
    }
    return {name: value for name, value in found.items() if value}


def bring_back(data: str, name: str, model_path: Path) -> str:
    """The files of a registered version into the workspace, with the commit that holds them; gives a line on it.

    Args:
        name: a version's number, or `champion`.
        model_path: where its model belongs.

    Raises:
        UserError: no such version, or one that cannot be brought back; nothing has changed then.
    """
    with _said_in_one_line(mlflow.get_tracking_uri()):
        registry, version = version_tags(data), _numbered(name, data)
    if version not in registry:
        known = ", ".join(map(str, sorted(registry))) or "none"
        raise UserError(f"{name!r} is no version of {registered_name(data)}; it has {known} (make restore VERSION=1)")
    tags, title = registry[version], f"{registered_name(data)} version {version}"
    in_store = (
        f"the model alone is in MLflow, {mlflow.get_tracking_uri()}, as models:/{registered_name(data)}/{version}"
    )
    if not {"dvc_lock_digest", "model_sha256"} <= tags.keys():
        raise UserError(f"{title} was registered without a dvc.lock of its training; {in_store}")
    try:
        return f"{title} {restore.bring_back(tags['dvc_lock_digest'], model_path, tags['model_sha256'])}"
    except restore.GoneError as error:
        raise UserError(f"{title}: {error}; {in_store}") from error


def version_predictions(data: str, version: int) -> pd.DataFrame:
    """The predictions of a registered version; no rows where they are gone."""
    found = mlflow.MlflowClient().get_model_version(registered_name(data), str(version))
    return logged_predictions(str(found.run_id))


def logged_predictions(run_id: str) -> pd.DataFrame:
    """The predictions that `evaluate` put onto a train run; no rows where they are gone."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.MlflowClient().download_artifacts(run_id, PREDICTIONS, folder)
        except (MlflowException, OSError):
            return pd.DataFrame(columns=["sha256", "patient_id", "split", "label", "score"])
        return dataset.read_table(path)


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
    with _said_in_one_line(mlflow.get_tracking_uri()):
        found = _scored_version(name, data) or _scored_run(name)
        versions = sorted(version_tags(data))
    found = found or _scored_experiment(name)
    if not found:
        raise UserError(
            f"{name!r} is no version of {registered_name(data)} (it has {', '.join(map(str, versions)) or 'none'}), "
            f"no run in {mlflow.get_tracking_uri()}, and no DVC experiment with predictions in DVC's "
            "cache; make ui lists versions and runs, dvc exp show lists experiments"
        )
    if found.predictions.empty:
        raise UserError(f"{name!r} is {found.title}, which has no {PREDICTIONS}; name a train run that was evaluated")
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
    run_id = str(mlflow.MlflowClient().get_model_version(registered_name(data), str(version)).run_id)
    words = [tags.get("model", "?"), *([CHAMPION] if name == CHAMPION else [])]
    title = f"{registered_name(data)} version {version} ({', '.join(words)})"
    return Scored(title, run_id, version_predictions(data, version))


def _scored_run(run_id: str) -> Scored | None:
    try:
        tags = mlflow.MlflowClient().get_run(run_id).data.tags
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of an id, of a word
            raise
        return None
    title = f"{tags.get('stage', 'unknown')} run {run_id[:8]} ({tags.get('model', '?')} on {tags.get('data', '?')})"
    return Scored(title, run_id, logged_predictions(run_id))


def _scored_experiment(name: str) -> Scored | None:
    from dvc import api
    from dvc.exceptions import DvcException

    with suppress(DvcException), tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept"
        read = partial(api.read, repo=str(dataset.project_root()), rev=name, encoding="utf-8")
        record = json.loads(read("models/run.json"))
        kept.write_text(read("reports/predictions.csv"), encoding="utf-8")
        title = f"experiment {name} ({record['model']} on {record['data']})"
        return Scored(title, record["run_id"], dataset.read_table(kept))
    client = mlflow.MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    tagged = f"tags.dvc_experiment = '{name}' and tags.stage = 'train' and attributes.status = 'FINISHED'"
    runs = [] if "'" in name else client.search_runs(experiments, tagged, max_results=1)
    return _scored_run(runs[0].info.run_id) if runs else None


def _versions(data: str, run: TrainRun) -> list[int]:
    query = f"name = '{registered_name(data)}' and run_id = '{run.run_id}'"
    return [int(one.version) for one in mlflow.MlflowClient().search_model_versions(query)]


def _insist(change: Callable[..., object], *arguments: str) -> None:
    """Set a tag or an alias, also where another process makes the same one at the same moment."""
    try:
        change(*arguments)
    except MlflowException as error:
        # The database refused the second of two equal inserts; now that it is there, MLflow updates it.
        if error.error_code != "BAD_REQUEST":
            raise
        change(*arguments)


@contextmanager
def alone() -> Iterator[None]:
    """Only one process at a time changes the registry; of a server, which others reach from elsewhere, any number.

    May be nested.
    """
    file = _SQLITE.fullmatch(mlflow.get_tracking_uri())
    # Not the lock of `open_store`, which others wait for before they do anything.
    with FileLock(f"{file['path']}.registry.lock", is_singleton=True) if file else nullcontext():
        yield


@contextmanager
def _said_in_one_line(uri: str) -> Iterator[None]:
    """A store that cannot be made or reached is the user's to put right."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the MLflow store {uri} cannot be used ({reason}); check MLFLOW_TRACKING_URI") from error


def _experiment(data: str) -> str:
    name, client = registered_name(data), mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    uri = mlflow.get_tracking_uri()
    local = uri.startswith("sqlite:///")
    # A server knows where its artifacts belong; a local store keeps them beside its database.
    location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri() if local else None
    try:
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens in its view for training
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process was first
        if not found:
            raise
        return str(found.experiment_id)


def _git_commit() -> str:
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _dvc_lock_digest(model_path: Path) -> str:
    """Of the entry of `train` in dvc.lock; empty where it is not of this model."""
    try:
        entry = restore.train_entry(restore.read_lock())
        made = {out["path"]: out["md5"] for out in entry.get("outs", [])}
        with open(model_path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except (OSError, KeyError, TypeError):  # no model yet, or none that DVC wrote
        return ""
    return restore.digest(entry) if made.get(model_path.as_posix()) == found else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def serve(port: int) -> None:
    """Replace this process by the MLflow UI over the store, on 127.0.0.1 alone."""
    uri = open_store()
    if not uri.startswith("sqlite:"):
        raise UserError(f"the store is {uri}: open that address")
    # Its helper processes run jobs that this project has none of.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    print(f"MLflow UI: http://127.0.0.1:{port} (stop with Ctrl+C)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
