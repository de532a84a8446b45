"""One thin script for each stage of `dvc.yaml`: read params, call `pneumonia`, write outs, log.

Run one by hand as DVC does: `python -m stages.train`.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

# A queued experiment runs in a folder of DVC's own: it must use the code beside it, not the installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from pneumonia import UserError, workspace
from pneumonia.data import sources
from pneumonia.images.geometry import Preparation
from pneumonia.params import Params

if TYPE_CHECKING:
    from pneumonia.tracking.runs import TrainRun

DATA_DIR, MODELS_DIR, REPORTS_DIR = Path("data"), Path("models"), Path("reports")


def run(main: Callable[[], None]) -> None:
    """Run a stage; what the user can put right ends in one line and exit status 1, without a traceback.

    A failed stage leaves no outs, whichever it had written: half of them would stop a later `dvc checkout`.
    """
    try:
        main()
    except BaseException as error:
        if "DVC_STAGE" in os.environ:
            discard_outs(os.environ["DVC_STAGE"])
        if isinstance(error, KeyboardInterrupt):
            sys.exit("stopped; run again to go on: finished work is kept")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"ERROR: the disk is full ({error}); free some space and run again: finished work is kept")
        if isinstance(error, (UserError, OSError)):
            sys.exit(f"ERROR: {error}")
        raise


def discard_outs(stage: str) -> None:
    """Remove the outs of a stage, as DVC does before it runs one."""
    definition = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    for out in (*definition.get("outs", []), *definition.get("metrics", [])):
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
        parent: id of the run that this one belongs under.
        resume: a folder that survives a crash; the run noted there goes on.
        prepared: what holds `preparation` of the images that the stage read, the attributes of the store or
            `models/run.json`; None = as params.yaml says.
    """
    from pneumonia.tracking import runs

    section = getattr(params, "validation" if stage == "validate" else stage, None)
    settings = {f"{stage}.{key}": value for key, value in (section.model_dump() if section else {}).items()}
    return runs.start_run(
        stage,
        data=params.data,
        model=params.model,
        synthetic=is_synthetic(params),
        params={
            **{name: getattr(params, name) for name in ("seed", "data", "model", "weights")},
            **settings,
        },
        preparation=Preparation.from_settings(**params.preprocess.model_dump())
        if prepared is None
        else Preparation.from_attributes(prepared),
        parent=parent,
        resume=resume,
    )


def train_run(params: Params, record: dict[str, Any]) -> "TrainRun":
    """The MLflow run that trained the model of `models/run.json`, found or, in a store that lacks it, made again."""
    from pneumonia.tracking import runs

    runs.require_same_selectors(record, data=params.data, model=params.model)
    return runs.ensure_train_run(
        record,
        synthetic=is_synthetic(params),
        model_path=MODELS_DIR / "model.keras",
        history=REPORTS_DIR / "history.csv",
    )


def source(params: Params) -> dict[str, Any]:
    """What is known of the chosen data set: `title, licence, citation, patients, synthetic` and more."""
    return sources.source(params.data)._asdict()


def is_synthetic(params: Params) -> bool:
    """Whether the chosen data set has no patients behind it."""
    return bool(source(params)["synthetic"])


def origin(params: Params) -> str:
    """What a figure says of its data."""
    return f"{params.data}{' (synthetic)' if is_synthetic(params) else ''}"


def title(params: Params) -> str:
    """What a figure says of its model and its data."""
    return f"{params.model} on {origin(params)}"
