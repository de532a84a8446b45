"""One thin script for each stage of `dvc.yaml`: read params, call `pneumonia`, write outs, log.

Run one by hand as DVC does: `python -m stages.train`.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

# A queued experiment runs in a folder of DVC's own: it must use the code beside it, not the installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from pneumonia import UserError, dataset
from pneumonia.params import Params

if TYPE_CHECKING:
    from pneumonia.tracking import TrainRun

DATA, MODELS, REPORTS = Path("data"), Path("models"), Path("reports")


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
        dataset.remove(Path(out))


def tracked(
    stage: str, params: Params, parent: str | None = None, resume: Path | None = None
) -> AbstractContextManager[str]:
    """The MLflow run of a stage, with the settings of its section; the one noted in `resume` goes on."""
    from pneumonia import tracking

    section = getattr(params, "validation" if stage == "validate" else stage, None)
    settings = {f"{stage}.{key}": value for key, value in (section.model_dump() if section else {}).items()}
    return tracking.start_run(
        stage,
        data=params.data,
        model=params.model,
        synthetic=is_synthetic(params),
        params={"seed": params.seed, "data": params.data, "model": params.model, "weights": params.weights, **settings},
        parent=parent,
        resume=resume,
    )


def train_run(params: Params, record: dict[str, str]) -> "TrainRun":
    """The MLflow run that trained the model of `models/run.json`, found or, in a store that lacks it, made again."""
    from pneumonia import tracking

    for selector in ("data", "model"):
        if getattr(params, selector) != record[selector]:
            raise UserError(
                f"models/ holds a model with {selector} = {record[selector]}, params.yaml says "
                f"{getattr(params, selector)}; run dvc repro first, or git checkout params.yaml"
            )
    return tracking.train_run(
        record,
        synthetic=is_synthetic(params),
        model_path=MODELS / "model.keras",
        history=REPORTS / "history.csv",
    )


def source(params: Params) -> dict[str, Any]:
    """What is known of the chosen data set: `title, licence, citation, patients, synthetic` and more."""
    from pneumonia import fetch

    return fetch.source(params.data)._asdict()


def is_synthetic(params: Params) -> bool:
    """Whether the chosen data set has no patients behind it."""
    return bool(source(params)["synthetic"])


def origin(params: Params) -> str:
    """What a figure says of its data."""
    return f"{params.data}{' (synthetic)' if is_synthetic(params) else ''}"


def title(params: Params) -> str:
    """What a figure says of its model and its data."""
    return f"{params.model} on {origin(params)}"
