"""Runs and their artifacts in the MLflow store.

The store is `sqlite:///<root>/mlruns/mlflow.db` unless `MLFLOW_TRACKING_URI` names another; `<root>` is the
project's folder also inside DVC's temporary experiment folders, so that all runs are in one store.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import mlflow
import pandas as pd
from filelock import FileLock, Timeout
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from PIL import Image

import pneumonia
from pneumonia import UserError, leases, workspace
from pneumonia.credentials import masked
from pneumonia.data import tables, targets
from pneumonia.data.predictions import read_predictions
from pneumonia.images.geometry import Preparation
from pneumonia.models.predictor import COLUMNS
from pneumonia.names import printable
from pneumonia.tracking import descriptions, place, sqlite
from pneumonia.tracking.errors import UNKNOWN, as_user_error

PREDICTIONS = "evaluation/predictions.csv"
"""Artifact of a train run with its scores, for the comparison with later candidates."""

REGISTRY_SECONDS = 600
"""Time for which a process waits for others that register models. Each of them takes seconds, or a minute where it
creates the run of a model from another store; but twenty may come at once."""

EVALUATION = "evaluation.json"
"""Artifact of a train run with all its figures."""

PREDICTIONS_DIGEST = "predictions_sha256"
"""Tag of a train run with the SHA-256 of that artifact; runs of earlier versions have none."""

UI_PORT = 5000
"""Of the MLflow UI on this machine, as `pneumonia ui` opens it."""

HEADLINES = (
    "threshold",
    "val/auc",
    "val/robust_auc",
    "test/auc",
    "test/auc_low",
    "test/auc_high",
    "test/accuracy",
    "test/sensitivity",
    "test/specificity",
    "saliency/pointing_game",
    "saliency/energy_in_lungs",
    "saliency/randomisation_corr",
)
"""Metrics of later stages that a train run and its LoggedModel have, too; all others are only on the run of the stage
that computed them. At most 12: more do not fit a screen."""

EVALUATED = ("val/auc", "val.auc")
"""Metric of an evaluated train run; runs of earlier versions have the second name."""

NOTE = "mlflow.note.content"
"""Tag of a run or an experiment with the text that the UI shows."""

PICTURE_WIDTH = 480
"""Pixels of a picture in a description: the UI shows it in its own size, beside a sidebar."""

_EPOCH = {"loss": "train_loss"}
_NOT_OF_EPOCH = ("epoch", "kept", "fold", "member")  # the last is of earlier versions
_COUNT = re.compile(r"(.*/)?n(_\w+)?")

REGISTERED = "registered.json"
"""File of a registered model with its version. `answering` reads it; that module is loaded without this one."""

OWNER = "owner"
"""Tag of a run: the lease in `.resume/runs` of the process that opened it, which shows whether that process lives."""

_ENDED = (KeyboardInterrupt, SystemExit)
"""What a signal raises: a run that it ends was stopped, it has not failed."""

_SQLITE = re.compile(r"sqlite:///(?!:memory:)(?P<path>[^?]+)(?P<options>\?.*)?", re.DOTALL)


class ChangedError(UserError):
    """An artifact of the store is not the file that was logged."""


class TrainRun(NamedTuple):
    """The train run of a model in this store.

    Attributes:
        run_id, model_id: of the run and its LoggedModel.
        adopted: created by this call, because the store had no run of this training.
    """

    run_id: str
    model_id: str
    adopted: bool


def open_store(root: Path | None = None) -> str:
    """Set the store of MLflow, and create it if there is none; returns its URI.

    A relative sqlite path in `MLFLOW_TRACKING_URI` is relative to the project's root. A sqlite store that was moved or
    copied gets the locations of its present place. Runs whose process was killed are closed as KILLED.

    Raises:
        UserError: the store cannot be used, or another program holds it for a minute.
    """
    root = root or workspace.project_root()
    place.require_usable(root)
    uri = _without_user(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db")
    if file := _SQLITE.fullmatch(uri):
        path = root / unquote(file["path"])
        uri = sqlite.uri(path, file["options"] or "")
        with as_user_error(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that create the tables at once break the store; an existing file may still lack some.
            with FileLock(f"{path}.lock", timeout=sqlite.BUSY_SECONDS):
                sqlite.require_writable(path)  # MLflow would try again for 100 s
                sqlite.wait_for_other_programs()
                sqlite.make_tables(path)
                place.follow(path)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with as_user_error(uri):
        mlflow.MlflowClient()  # which opens the store
    for lease in leases.abandoned(*_leases(uri, root)):
        _close_runs(lease.name, uri)
    return uri


def _without_user(uri: str) -> str:
    """The URI of a server without user and password: MLflow prints it, and takes these from its own variables."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:  # which may name a part of a password
        raise UserError(
            f"MLFLOW_TRACKING_URI = {masked(uri)} is no address; correct it: `/` and `@` of a password are written "
            "%2F and %40, a port is a number"
        ) from error
    user, at, host = parts.netloc.rpartition("@")
    if not at or parts.scheme not in ("http", "https"):
        return uri
    name, _, password = user.partition(":")
    os.environ |= {"MLFLOW_TRACKING_USERNAME": unquote(name), "MLFLOW_TRACKING_PASSWORD": unquote(password)}
    return parts._replace(netloc=host).geturl()


def _leases(uri: str, root: Path) -> tuple[Path, str]:
    """The folder with the leases of processes that have runs open, and the kind of those for this store."""
    database = database_path(uri)
    # Relative to the project, so that it can be moved.
    place_of_store = os.path.relpath(database, root) if database else uri
    return root / ".resume" / "runs", workspace.sha256_bytes(place_of_store.encode())[:16]


def _close_runs(owner: str, uri: str) -> None:
    """Close the runs that a process left open when it was killed, those of trials too."""
    with as_user_error(uri):
        client = mlflow.MlflowClient()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        query = f"tags.{OWNER} = '{owner}' and attributes.status = 'RUNNING'"
        for run in client.search_runs(experiments, query):
            client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def registry_lock() -> Iterator[None]:
    """Lock the registry of a local store for one process; a server, which has users on other machines, has no lock.

    A run for a model from elsewhere is also created under it. May be nested.

    Raises:
        UserError: another process holds it for `REGISTRY_SECONDS`.
    """
    database = database_path(mlflow.get_tracking_uri())
    if not database:
        yield
        return
    # Not the lock of `open_store`, for which all processes wait at their start.
    lock = FileLock(f"{database}.registry.lock", is_singleton=True)
    try:
        lock.acquire(timeout=REGISTRY_SECONDS)
    except Timeout as error:
        raise UserError(
            f"another program registers models in the MLflow store, for more than {REGISTRY_SECONDS / 60:g} minutes: "
            f"it holds the lock {lock.lock_file}; wait for it or end it, and run again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def database_path(uri: str) -> Path | None:
    """The file of a sqlite store; None for a server or a store in memory."""
    file = _SQLITE.fullmatch(uri)
    return Path(unquote(file["path"])) if file else None


def registered_name(subject: str) -> str:
    """Name of the registered model: one for each data set and target, since no figure of one holds for another.

    Args:
        subject: as `targets.subject` returns it.
    """
    return f"pneumonia-{subject}"


@contextmanager
def start_run(
    stage: str,
    *,
    data: str,
    model: str,
    target: str = targets.DEFAULT,
    synthetic: bool,
    params: Mapping[str, Any],
    parent: str | None = None,
    resume: Path | None = None,
    preparation: Preparation | None = None,
    system_metrics: bool = False,
) -> Iterator[str]:
    """A run of one stage, with its name; yields the run id.

    If the stage fails, the run is marked FAILED; if a signal ends it, KILLED. If the process is killed, the next
    `open_store` marks it KILLED.

    Args:
        stage: name of the stage.
        data, model, target: the settings of these names.
        synthetic: whether the data set is.
        params: settings to log.
        parent: id of the parent run.
        resume: an existing folder that survives a crash; a run recorded there is resumed, a new one is recorded.
        preparation: of the images, logged as params `preparation.size` etc., its digest as a tag.
        system_metrics: log the use of processor, memory, disk and network every 10 s, by a thread of MLflow.
    """
    uri = open_store()
    subject = targets.subject(data, target)
    with as_user_error(uri):
        experiment = _experiment(subject)
        _require_artifacts(experiment, str(mlflow.get_experiment(experiment).artifact_location))
        recorded_run = _recorded_run(resume, params)
    lease = leases.take(*_leases(uri, workspace.project_root()))
    tags = {
        "stage": stage,
        "data": data,
        "model": model,
        "target": target,
        "synthetic": str(synthetic).lower(),
        "git_commit": git_commit(),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
        "preparation_digest": preparation.digest if preparation else "",
        OWNER: lease.folder.name,
    }
    preparation_params = preparation.as_dict() if preparation else {}
    try:
        try:
            run = mlflow.start_run(
                run_id=recorded_run,
                experiment_id=experiment,
                run_name=descriptions.stage_run(stage, subject, model),
                parent_run_id=parent,
                tags={name: value for name, value in tags.items() if value},
                log_system_metrics=system_metrics,
            )
            if resume:
                (resume / "run_id").write_text(run.info.run_id, encoding="utf-8")
            prepared = {f"preparation.{name}": value for name, value in preparation_params.items()}
            mlflow.log_params(dict(params) | prepared)
            yield run.info.run_id
        except Exception:
            _end_run("FAILED", lease)
            raise
        _end_run("FINISHED", lease)
    except _ENDED:  # at any moment, also while MLflow makes the run or closes it
        while mlflow.active_run():
            mlflow.end_run("KILLED")
        _close_runs(lease.folder.name, uri)
        leases.release(lease)
        raise


def _end_run(status: str, lease: leases.Lease) -> None:
    """Close the current run; the lease stays if that fails, so that a later command closes it."""
    mlflow.end_run(status)
    leases.release(lease)


def _recorded_run(resume: Path | None, params: Mapping[str, Any]) -> str | None:
    """The run id in `resume`, if this store has the run, with the same settings: those of a run cannot be changed."""
    if not resume or not (resume / "run_id").is_file():
        return None
    run_id = (resume / "run_id").read_text(encoding="utf-8")
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        return None  # it was in another store, or was removed
    is_same = all(run.data.params.get(name, str(value)) == str(value) for name, value in params.items())
    return run_id if is_same else None


@contextmanager
def child_run(
    name: str, params: Mapping[str, Any], *, killed_by: type[Exception]
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """The run of a trial, a child of the current run; yields a function that logs metrics per epoch.

    `killed_by` marks it KILLED, and so does a signal.

    Args:
        name: such as `trial 3`.
        params: settings to log.
        killed_by: the exception of a trial that is stopped early.
    """
    with _child("trial", name, params, killed_by=(killed_by, *_ENDED)):
        yield log_epoch


@contextmanager
def fold_run(fold: int, resume: Path | None) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """The run of the network of a fold, a child of the current run; yields a function that logs metrics per epoch.

    Args:
        fold: number of the fold that validates the network.
        resume: as in `start_run`. A run that is recorded there and has finished stays as it is.
    """
    params = {"fold": fold}
    run_id = _recorded_run(resume, params)
    known = mlflow.get_run(run_id) if run_id else None
    if known and known.data.tags.get("mlflow.parentRunId") != _current().info.run_id:
        run_id = known = None
    if known and known.info.status == "FINISHED":
        yield lambda epoch, values: None
        return
    with _child("fold", f"fold {fold}", params, run_id=run_id) as run_id:
        if resume:
            (resume / "run_id").write_text(run_id, encoding="utf-8")
        yield log_epoch


@contextmanager
def _child(
    kind: str,
    name: str,
    params: Mapping[str, Any],
    *,
    killed_by: tuple[type[BaseException], ...] = _ENDED,
    run_id: str | None = None,
) -> Iterator[str]:
    """A child of the current run, with its tags but the stage `kind`; yields its id.

    Args:
        kind: also the tag with the name.
        name: such as `trial 3`.
        params: settings to log.
        killed_by: exceptions after which it is KILLED and not FAILED.
        run_id: of a child that goes on; None = a new one.
    """
    parent = mlflow.get_run(_current().info.run_id)  # with the tags that it got since
    tags = {key: value for key, value in parent.data.tags.items() if not key.startswith("mlflow.")}
    child = mlflow.start_run(
        run_id=run_id,
        nested=True,
        run_name=descriptions.trial_run(tags["model"], name, params),
        experiment_id=parent.info.experiment_id,
        tags=tags | {"stage": kind, kind: name},
        log_system_metrics=False,
    )
    status = "FAILED"
    try:
        mlflow.log_params(dict(params))
        yield str(child.info.run_id)
        status = "FINISHED"
    except killed_by:
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


def log_params(values: Mapping[str, Any]) -> None:
    """Log further settings of the current run, such as selected ones."""
    mlflow.log_params(dict(values))


def log_metrics(values: Mapping[str, Any]) -> None:
    """Log numbers of the current run; nested tables are flattened: `{"test": {"auc": ..}}` becomes `test/auc`.

    The UI makes a section of what is before the `/`. Counts (`n`, `n_positive`, ...) are left out: they belong into
    tables.
    """
    figures = {name: value for name, value in _numbers(values).items() if not _COUNT.fullmatch(name)}
    _log_batch(str(_current().info.run_id), figures)


def log_epoch(epoch: int, values: Mapping[str, Any]) -> None:
    """Log the figures of an epoch of the current run, as `epoch/train_loss`, `epoch/val_auc`, ..."""
    figures = {f"epoch/{_EPOCH.get(name, name)}": value for name, value in values.items() if name not in _NOT_OF_EPOCH}
    _log_batch(str(_current().info.run_id), figures, step=epoch)


def _log_batch(run_id: str, figures: Mapping[str, float], *, step: int = 0, model_id: str | None = None) -> None:
    """Log figures to a run and, if it is named, to a LoggedModel. `mlflow.log_metrics` would take the last model."""
    now = time.time_ns() // 1_000_000
    metrics = [Metric(name, float(value), now, step, model_id=model_id) for name, value in figures.items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=metrics)


def _current() -> mlflow.entities.Run:
    run = mlflow.active_run()
    assert run, "figures are logged inside start_run"
    return run


def log_figure(figure: Any, path: str, *also: TrainRun) -> None:
    """Log a figure of `plots` as PNG artifact of the current run, and of the train runs in `also`."""
    mlflow.log_figure(figure, path)
    for run in also:
        mlflow.MlflowClient().log_figure(run.run_id, figure, path)


def log_file(path: str | Path, folder: str | None = None) -> None:
    """Log a file, or all files of a folder, as artifacts of the current run."""
    log = mlflow.log_artifacts if Path(path).is_dir() else mlflow.log_artifact
    log(str(path), folder)


def log_table(table: pd.DataFrame, path: str) -> None:
    """Log a table; the MLflow UI shows it as a table."""
    # As objects: MLflow asks for these columns in a way that pandas deprecates for texts.
    texts: list[str] = list(table.select_dtypes("str").columns)
    mlflow.log_table(table.astype(dict.fromkeys(texts, "object")), path)


def log_dataset(
    image_ids: Any,
    labels: Any,
    *,
    data: str,
    digest: str,
    context: str,
    target: str = targets.DEFAULT,
) -> None:
    """Log the images that the current run used; the digest is also the tag `data_digest`.

    Args:
        image_ids, labels: of the images.
        data: the data set.
        digest: of the images and labels.
        context: what they were used for.
        target: of the labels.
    """
    classes = targets.target(target).classes
    table = pd.DataFrame({"image_id": image_ids, "label": [classes[int(label)] for label in labels]})
    mlflow.log_input(mlflow.data.from_pandas(table, name=data, digest=digest[:32]), context=context)
    tag(data_digest=digest)


def tag(**tags: str) -> None:
    """Set tags of the current run."""
    mlflow.set_tags(tags)


def log_model(model: Any, file: Path) -> str:
    """Log the trained network to the current run, with its signature; returns the id of the LoggedModel.

    Args:
        model: keras.Model.
        file: as it was saved. MLflow saves it again, with another time inside and so another digest; its file is
            replaced by this one.
    """
    import mlflow.tensorflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    signature = ModelSignature(
        # Without names: MLflow passes a named tensor in a dict, and Keras warns about that.
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, 1))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 1))]),
    )
    info = mlflow.tensorflow.log_model(
        model,
        name="model",
        signature=signature,
        # Explicit, because MLflow would load the model in another process to find them, 12 s.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("tensorflow", "keras", "numpy")],
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data" / "model.keras"
        copy.parent.mkdir()
        shutil.copyfile(file, copy)
        mlflow.MlflowClient().log_model_artifacts(info.model_id, folder)
    return str(info.model_id)


CARRIED = (
    "__init__.py",
    "files.py",
    "images/__init__.py",
    "images/appearance.py",
    "images/decode.py",
    "images/formats.py",
    "images/geometry.py",
    "images/levels.py",
    "images/limits.py",
    "images/lungs.py",
    "images/separate.py",
    "images/suppression.py",
    "inference.py",
    "models/__init__.py",
    "models/predictor.py",
    "workspace.py",
)
"""Modules of this package that a registered model contains: those that `models.predictor` imports."""

REQUIREMENTS = (
    *("filelock", "fsspec", "mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "pillow", "pydicom"),
)
"""Packages that they need."""


def log_predictor(run: TrainRun, folder: Path, model_id: str | None = None) -> str:
    """Log a predictor as a model of a train run; returns the id of the LoggedModel.

    Its input is a table with a column `image`, the bytes of an image file; in JSON they are written in base64.

    Args:
        run: the train run.
        folder: as the stage `export` writes it.
        model_id: of a LoggedModel whose files are missing, and are logged again; None = a new one.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    numbers = ("probability", "threshold", "score")
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec("double" if name in numbers else "string", name) for name in COLUMNS]),
    )
    package = Path(pneumonia.__file__).parent
    experiment = mlflow.get_run(run.run_id).info.experiment_id
    if not model_id:
        made = mlflow.initialize_logged_model(name="predictor", source_run_id=run.run_id, experiment_id=experiment)
        model_id = str(made.model_id)
    with tempfile.TemporaryDirectory() as code:
        for name in CARRIED:
            target = Path(code) / "pneumonia" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, target)
        mlflow.pyfunc.log_model(
            name="predictor",
            model_id=model_id,
            python_model=str(package / "tracking" / "answering.py"),
            artifacts={"predictor": str(folder)},
            code_paths=[f"{code}/pneumonia"],
            signature=signature,
            input_example=pd.DataFrame({"image": [_example()]}),
            pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
        )
    return model_id


def log_version(model_id: str, name: str, version: int) -> None:
    """Log to the model of a predictor the version that it was registered as: its answers name it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / REGISTERED
        path.write_text(json.dumps({"name": name, "version": version}), encoding="utf-8")
        mlflow.MlflowClient().log_model_artifact(model_id, str(path))


def _example() -> bytes:
    """A gray picture of 64 pixels as a file: it shows the form of the input, not a film."""
    content = io.BytesIO()
    Image.new("L", (64, 64), 128).save(content, "PNG")
    return content.getvalue()


def ensure_train_run(record: Mapping[str, Any], *, synthetic: bool, model_path: Path, history: Path) -> TrainRun:
    """The run that trained the model, in this store.

    A model restored from DVC's cache may be from another machine, or the store may be new. Then a run is created here,
    with the model and its history, and a tag with the id of the original run.

    Args:
        record: `models/run.json`.
        synthetic: as in `start_run`.
        model_path, history: logged to a new run.

    Raises:
        UserError: the file of the model is not that of the record.
    """
    open_store()
    run = find_train_run(record)
    if run:
        known = mlflow.get_run(run.run_id).info
        _require_artifacts(known.experiment_id, _root(known.artifact_uri))
    if workspace.sha256_file(model_path) != record["model_sha256"]:
        raise UserError(
            f"{model_path} is not the file that models/run.json describes: it was changed or is damaged; dvc repro "
            "train makes it again"
        )
    if run:
        return run
    with registry_lock():  # else processes that come at once would each create one, and register it
        return find_train_run(record) or _adopt(record, synthetic=synthetic, model_path=model_path, history=history)


def _adopt(record: Mapping[str, Any], *, synthetic: bool, model_path: Path, history: Path) -> TrainRun:
    """Create a run for a model that was trained elsewhere."""
    from pneumonia.models import loading, runtime  # imports the image store, which no other run needs

    with start_run(
        "train",
        data=record["data"],
        model=record["model"],
        target=targets.of(record).name,
        synthetic=synthetic,
        params={},
        preparation=Preparation.from_attributes(record),
    ) as run_id:
        tag(original_run_id=record["run_id"], data_digest=record["data_digest"], weights=record["weights"])
        for row in pd.read_csv(history).to_dict("records"):
            log_epoch(int(row["epoch"]), {str(name): value for name, value in row.items()})
        runtime.start_keras()
        model_id = log_model(loading.load_model(model_path), model_path)
        tag(model_id=model_id)
    return TrainRun(run_id, model_id, adopted=True)


def require_same_selectors(record: Mapping[str, Any], *, data: str, model: str, target: str) -> None:
    """Check that the model was trained with the `data`, `model` and `target` of params.yaml.

    Raises:
        UserError: the setting, its two values and the remedy.
    """
    known = {"data": record["data"], "model": record["model"], "target": targets.of(record).name}
    for selector, value in (("data", data), ("model", model), ("target", target)):
        if value != known[selector]:
            raise UserError(
                f"models/ has a model with {selector} = {known[selector]}, params.yaml says {value}; run dvc repro "
                "first, or git checkout params.yaml"
            )


def find_train_run(record: Mapping[str, Any]) -> TrainRun | None:
    """The run of `models/run.json` in this store, the original or an adopted one; None if it has neither."""
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(record["run_id"])
        if run.info.lifecycle_stage == "active":
            return TrainRun(record["run_id"], record["model_id"], adopted=False)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            with as_user_error(mlflow.get_tracking_uri()):
                raise
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    # Finished: an interrupted adoption has no model.
    query = f"tags.original_run_id = '{record['run_id']}' and attributes.status = 'FINISHED'"
    adopted = client.search_runs(experiments, query, max_results=1)
    return TrainRun(adopted[0].info.run_id, adopted[0].data.tags["model_id"], adopted=False) if adopted else None


def evaluation(reports: Path) -> dict[str, Path]:
    """The files of `evaluate` that a train run has: all figures, and the scores for later comparisons.

    Args:
        reports: the folder `reports`.
    """
    return {EVALUATION: reports / EVALUATION, PREDICTIONS: reports / "predictions.csv"}


def mirror(run: TrainRun, metrics: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Log the headlines and files of a later stage to the train run and its LoggedModel; name and describe the run.

    Args:
        run: the train run.
        metrics: numbers; nested tables are flattened. Only `HEADLINES` are logged.
        files: artifact folder or file -> local path.
    """
    client = mlflow.MlflowClient()
    with registry_lock():  # of processes that register one model at once, each would insert the same tags
        for target, path in files.items():
            if target == PREDICTIONS:
                _log_predictions(run.run_id, path)
            elif path.is_dir():
                client.log_artifacts(run.run_id, str(path), target)
            else:
                client.log_artifact(run.run_id, str(path), Path(target).parent.as_posix().strip("."))
        # After the files: a run with `val/auc` has its predictions (`was_evaluated`), also if this process is killed.
        headlines = {name: value for name, value in _numbers(metrics).items() if name in HEADLINES}
        _log_batch(run.run_id, headlines, model_id=run.model_id)
        describe(run.run_id)


def describe(run_id: str) -> None:
    """Name a train run, and write its description, from what the store has of it."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if "val/auc" not in run.data.metrics:
        return
    model, data = (run.data.tags.get(name, "?") for name in ("model", "data"))
    subject = targets.subject(data, targets.of(run.data.tags).name)
    client.update_run(run_id, name=descriptions.train_run(subject, model, run.data.metrics["val/auc"]))
    client.set_tag(run_id, NOTE, descriptions.of_model(evidence(run_id, draw=True)))


def evidence(run_id: str, *, draw: bool = False) -> descriptions.Evidence:
    """What the store has of a trained model, for descriptions.

    Args:
        run_id: of its train run.
        draw: log small copies of its figures, which a description can show.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    pictures = _pictures(run_id)
    if draw:
        for path in pictures:
            _log_small(run_id, path)
    small = _paths(run_id, "description")
    return descriptions.Evidence(
        str(run.info.experiment_id),
        run_id,
        _figures(run_id),
        run.data.tags.get("synthetic") == "true",
        {_small(path): words for path, words in pictures.items() if _small(path) in small},
        next(iter(_paths(run_id, "card")), ""),
        targets.of(run.data.tags),
    )


def _figures(run_id: str) -> dict[str, Any]:
    """The figures at the threshold of the model; empty for a run of an earlier version, which has no such artifact."""
    if EVALUATION not in _paths(run_id, ""):
        return {}
    with tempfile.TemporaryDirectory() as folder:  # from a server, MLflow would leave its copy on this machine
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=EVALUATION, dst_path=folder)
        full = tables.read_json(path)
    return {**full["youden"], "level": full["level"]}


def _pictures(run_id: str) -> dict[str, str]:
    """Artifacts of a train run for its description -> what they show: the ROC curve, and maps of one image."""
    curves = [path for path in _paths(run_id, "plots") if path == "plots/roc.png"]
    maps = [path for path in _paths(run_id, "saliency") if path.endswith(".png")][:1]
    return dict.fromkeys(curves, "ROC curve") | dict.fromkeys(maps, "Saliency maps")


def _paths(run_id: str, folder: str) -> list[str]:
    return [str(one.path) for one in mlflow.MlflowClient().list_artifacts(run_id, folder)]


def _small(path: str) -> str:
    """Artifact with a small copy of a picture, under its name: so `pneumonia forget` finds that of a patient."""
    return f"description/{Path(path).name}"


def _log_small(run_id: str, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as download:
        copy = Path(folder) / Path(path).name
        original = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=download)
        with Image.open(original) as image:
            picture = image.convert("RGB")
            picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH), Image.Resampling.LANCZOS)
            picture.save(copy, "PNG", optimize=True)
        mlflow.MlflowClient().log_artifact(run_id, str(copy), str(Path(_small(path)).parent))


def _log_predictions(run_id: str, path: Path) -> None:
    """Log the predictions of a train run, with their digest."""
    client = mlflow.MlflowClient()
    # Without a digest in between: if this process is killed, the tag does not contradict the file.
    client.set_tag(run_id, PREDICTIONS_DIGEST, "")
    client.log_artifact(run_id, str(path), str(Path(PREDICTIONS).parent))
    client.set_tag(run_id, PREDICTIONS_DIGEST, workspace.sha256_file(path))


def logged_predictions(run_id: str) -> pd.DataFrame:
    """The predictions that `evaluate` logged to a train run; no rows if it has none, or they were deleted.

    Raises:
        ChangedError: the file is not the one that was logged, or holds no predictions.
        UserError: the store or its disk cannot be read, or the folder of all artifacts is missing. That says nothing
            about the predictions.
    """
    with tempfile.TemporaryDirectory() as folder:
        recorded, logged = _downloaded_predictions(run_id, folder)
        if not logged:
            return pd.DataFrame(columns=["sha256", "patient_id", "split", "label", "score"])
        if recorded in ("", workspace.sha256_file(logged)):
            with suppress(UserError):
                return read_predictions(logged)
    raise ChangedError(
        f"{PREDICTIONS} of run {run_id} in {artifact_place(run_id)} is not the file that was logged; put that back, or "
        "leave its version out: pneumonia register --without-champion"
    )


def _downloaded_predictions(run_id: str, folder: str) -> tuple[str, Path | None]:
    """The recorded digest of the predictions of a run, empty if there is none, and a copy of them in a folder."""
    client = mlflow.MlflowClient()
    with as_user_error(mlflow.get_tracking_uri()):
        try:
            run = client.get_run(run_id)
            _require_artifacts(run.info.experiment_id, _root(run.info.artifact_uri))
            logged = client.list_artifacts(run_id, str(Path(PREDICTIONS).parent))
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            return "", None
        recorded = run.data.tags.get(PREDICTIONS_DIGEST, "")
        if PREDICTIONS not in [artifact.path for artifact in logged]:
            return recorded, None
        # Not by the run: of a download that fails, MLflow would only say that the path may be wrong.
        uri = f"{run.info.artifact_uri}/{PREDICTIONS}"
        return recorded, Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))


def was_evaluated(run_id: str) -> bool:
    """Whether `evaluate` has logged its figures to a train run; then it has logged predictions too."""
    return _known(lambda: not mlflow.get_run(run_id).data.metrics.keys().isdisjoint(EVALUATED))


def latest_artifact(stage: str, subject: str, model: str, path: str) -> Path | None:
    """A file that the last finished run of a stage has logged, in the cache of this machine; None if there is none."""
    client = mlflow.MlflowClient()
    with as_user_error(mlflow.get_tracking_uri()):
        experiment = client.get_experiment_by_name(registered_name(subject))
        if not experiment:
            return None
        query = f"tags.stage = '{stage}' and tags.model = '{model}' and attributes.status = 'FINISHED'"
        for run in client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time DESC"]):
            if path in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]:
                return Path(client.download_artifacts(run.info.run_id, path))
    return None


def artifact_place(run_id: str) -> str:
    """Where the artifacts of a run lie, for messages."""
    return place.readable(str(mlflow.get_run(run_id).info.artifact_uri))


def version_place(version: ModelVersion) -> str:
    """Where the files of a registered version lie, for messages."""
    client = mlflow.MlflowClient()
    return place.readable(str(client.get_model_version_download_uri(version.name, str(version.version))))


def has_artifacts(run_id: str) -> bool:
    """Whether anything that a run has logged is still there."""
    return _known(lambda: bool(mlflow.MlflowClient().list_artifacts(run_id)))


def _known(is_so: Callable[[], bool]) -> bool:
    """What a store says of a run; False for a run that it does not have. Other errors are of the store or its disk."""
    with as_user_error(mlflow.get_tracking_uri()):
        try:
            return is_so()
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            return False


def _root(artifact_uri: str) -> str:
    """The location of all artifacts, from that of a run: `<root>/<run id>/artifacts`."""
    return artifact_uri.rsplit("/", 2)[0]


def _require_artifacts(experiment_id: str, location: str) -> None:
    """Check that the folder of the artifacts is there, if runs of this experiment were logged to it.

    Without it MLflow would make a new one, and say of each file that there is none.

    Raises:
        UserError: the folder is missing: its disk may not be mounted.
    """
    folder = Path(place.readable(location))
    if not folder.is_absolute() or folder.is_dir():  # a server has its own place
        return
    client = mlflow.MlflowClient()
    evaluated = [run for name in EVALUATED for run in client.search_runs([experiment_id], f"metrics.`{name}` >= 0")]
    if any(_root(run.info.artifact_uri) == location for run in evaluated):
        raise UserError(
            f"the folder {folder} with the artifacts of the MLflow store is missing; mount its disk, or put it back "
            "(if it is gone for good, make an empty one)"
        )


def _experiment(subject: str) -> str:
    name, client = registered_name(subject), mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment:
        return str(experiment.experiment_id)
    tags = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens its view for training
    tags[NOTE] = descriptions.of_experiment(subject, name, None)
    location = None  # a server has its own place for artifacts
    if database := database_path(mlflow.get_tracking_uri()):
        location = place.artifacts(database)
        tags[place.OURS] = "beside the database"
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)  # another process was first
        if not experiment:
            raise
        return str(experiment.experiment_id)


def git_commit() -> str:
    """The commit of the code; empty outside of git."""
    try:
        process = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def links(port: int = UI_PORT, *, subject: str | None = None) -> list[tuple[str, str]]:
    """Pages of the MLflow UI of the open store, with what they show: the runs of each data set and target, and each
    registered model.

    The address of the UI alone opens a page for language models; `workflowType` selects that for training.

    Args:
        port: of the UI on this machine; a server has its own address.
        subject: only the pages of this data set and target; None = of all.
    """
    client, store, view = mlflow.MlflowClient(), mlflow.get_tracking_uri(), descriptions.VIEW
    address = f"{masked(store).rstrip('/') if store.startswith('http') else f'http://127.0.0.1:{port}'}/#"
    pages = [
        *(("runs of", one.name, f"experiments/{one.experiment_id}/runs") for one in client.search_experiments()),
        *(("model", one.name, f"models/{quote(one.name)}") for one in client.search_registered_models()),
    ]
    known = {registered_name(subject)} if subject else {name for _, name, _ in pages} - {"Default"}
    return [(f"{kind} {name}", f"{address}/{path}?{view}") for kind, name, path in pages if name in known]


def serve(port: int) -> None:
    """Replace this process by the MLflow UI of the store, on 127.0.0.1 only."""
    uri = open_store()
    if not uri.startswith("sqlite:"):
        raise UserError(f"the store is {masked(uri)}: open that address")
    # Its helper processes are for jobs, which this project does not use.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    print(f"MLflow UI: http://127.0.0.1:{port} (stop with Ctrl+C)", flush=True)
    for name, link in links(port):
        print(f"  {printable(name)}: {link}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
