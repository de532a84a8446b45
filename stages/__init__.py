"""One thin script for each stage of `dvc.yaml`: read params, call `pneumonia`, write outs, log.

Run one by hand as DVC does: `python -m stages.train`.
"""

import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# DVC runs a queued experiment in its own folder: it must use the code in that folder, not the installed code.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from pneumonia import environment, signals

if sys.argv[0] == "-m":  # `python -m stages.x` is about to import for seconds, before `run`
    signals.end_at_once()
environment.prepare()  # before NumPy, Keras and MLflow are imported

from pneumonia import UserError, credentials, outs, reason, workspace
from pneumonia.data import sources, targets
from pneumonia.images.geometry import Preparation
from pneumonia.names import printable
from pneumonia.params import Params

if TYPE_CHECKING:
    from pneumonia.tracking.runs import TrainRun

DATA_DIR, MODELS_DIR, REPORTS_DIR = Path("data"), Path("models"), Path("reports")

_LONG = ("tune", "train")
"""Stages whose use of the machine is logged."""
_OF_ANY_TARGET = ("fetch", "validate")
"""Stages that a change of the target does not run again."""
_WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}


def run(main: Callable[[], None]) -> None:
    """Run a stage; an error that the user can fix ends in one line and exit status 1, without a traceback.

    Before it the outs that it reads are checked: they must be as their stages wrote them. A signal ends it in order:
    its MLflow runs are closed as KILLED, one line says so, the exit status is that of `signals.status`. A failed stage
    leaves no outs, because some of them without the others would stop a later `dvc checkout`.
    """
    stage = Path(inspect.getfile(main)).stem
    with signals.in_order() as received:
        try:
            with environment.own_temporary_folder():
                outs.require_unchanged(outs.inputs(stage))
                main()
                if "DVC_STAGE" not in os.environ:
                    outs.record(stage)
            sys.stdout.flush()  # a signal that comes later ends the process at once
        except BaseException as error:
            if "DVC_STAGE" in os.environ:
                with suppress(UserError):  # a dvc.yaml that cannot be read must not hide the error
                    discard_outs(os.environ["DVC_STAGE"])
            message = printable(credentials.masked(str(error)))
            if received:  # whatever it has become on its way
                print(signals.line(received[0]), file=sys.stderr)
                sys.exit(signals.status(received[0]))
            if environment.lacks_memory(error):
                sys.exit(f"ERROR: {environment.MEMORY_REMEDY} ({printable(credentials.masked(reason(error)))})")
            if environment.lacks_disk(error):
                sys.exit(f"ERROR: the disk is full ({message}); free some space and run again: finished work is kept")
            if isinstance(error, (UserError, OSError)):
                sys.exit(f"ERROR: {message}")
            if "mlflow" in sys.modules:
                from pneumonia.tracking import errors

                if line := errors.of_store(error):
                    sys.exit(f"ERROR: {printable(str(line))}")
            raise
        if received:  # where Python only prints exceptions
            sys.exit(signals.status(received[0]))


def discard_outs(stage: str) -> None:
    """Remove the outs of a stage, as DVC does before it runs one."""
    for out in outs.of(stage):
        workspace.remove(Path(out))


def tracked(
    stage: str,
    params: Params,
    parent: str | None = None,
    resume: Path | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> AbstractContextManager[str]:
    """The MLflow run of a stage, with the settings of its section and how images are prepared.

    Args:
        stage: its name.
        params: all settings.
        parent: id of the parent run.
        resume: a folder that survives a crash; the run recorded there is continued.
        prepared: mapping with the `preparation` of the images that the stage read: the attributes of the store, or
            `models/run.json`; None = the preparation of params.yaml.

    Raises:
        UserError: an unknown target, also in a stage that a change of the target does not run again.
    """
    from pneumonia.tracking import runs

    target = targets.target(params.target).name
    section = getattr(params, "validation" if stage == "validate" else stage, None)
    settings = {f"{stage}.{key}": value for key, value in (section.model_dump() if section else {}).items()}
    return runs.start_run(
        stage,
        data=params.data,
        model=params.model,
        target=targets.DEFAULT if stage in _OF_ANY_TARGET else target,
        synthetic=is_synthetic(params),
        params={
            **{name: getattr(params, name) for name in ("seed", "data", "model", "weights", "target")},
            **settings,
        },
        preparation=Preparation.from_settings(**params.preprocess.model_dump())
        if prepared is None
        else Preparation.from_attributes(prepared),
        parent=parent,
        resume=resume,
        system_metrics=stage in _LONG,
    )


def train_run(params: Params, record: dict[str, Any]) -> "TrainRun":
    """The MLflow run that trained the model of `models/run.json`; created again in a store that lacks it."""
    from pneumonia.tracking import runs

    runs.require_same_selectors(record, data=params.data, model=params.model, target=params.target)
    return runs.ensure_train_run(
        record,
        synthetic=is_synthetic(params),
        model_path=MODELS_DIR / "model.keras",
        history=REPORTS_DIR / "history.csv",
    )


def is_synthetic(params: Params) -> bool:
    """Whether the images of the chosen data set are synthetic."""
    return sources.source(params.data).synthetic


def origin(params: Params) -> str:
    """The data set in the title of a figure, and the classes if they are not its own."""
    return targets.titled(sources.in_titles(params.data), targets.target(params.target))


def title(params: Params) -> str:
    """The model and the data set in the title of a figure."""
    return f"{params.model} on {origin(params)}"


def show(text: str, indent: str = "") -> None:
    """Print a text, which may contain names of files, in lines of at most 80 columns; a longer word is not broken."""
    print(textwrap.fill(printable(text), 80, initial_indent=indent, subsequent_indent=f"{indent}  ", **_WHOLE_WORDS))


def count(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "epoch"), count(2, "image"), count(0, "box", "boxes")
    ('1 epoch', '2 images', '0 boxes')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
