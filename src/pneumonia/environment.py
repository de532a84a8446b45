"""The user's shell and home change no result.

Libraries read variables and files of the home folder when they are imported. `prepare` comes before that: in the
package `stages`, in the command `pneumonia` and in the package `tracking`. Child processes inherit what it sets.
"""

from __future__ import annotations

import getpass
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from pneumonia import workspace

FIXED = {
    "KERAS_BACKEND": "tensorflow",  # the networks and streams of this project are written for it
    # No folder: else keras.json sets backend, number format, epsilon and order of the channels. Cached weights are
    # read from ~/.keras/models by their path.
    "KERAS_HOME": os.devnull,
    "MATPLOTLIBRC": os.devnull,  # an empty file: else the one in the home folder changes every figure
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # no code of a stored model is run
    "MPLBACKEND": "Agg",  # there may be no display
    "PYTHONUTF8": "1",  # child processes print and read UTF-8, also with LC_ALL=C
}
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 14 s; the default waits minutes for a dead server
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else each new store prints its migrations
}
REMOVED = (
    "KERAS_*",  # number of epochs and steps
    "MLFLOW_*",  # run, experiment, registry and context to which a shell or a notebook has set them
    "_MLFLOW_*",
    "TF_*",  # other kernels, precision, threads and Keras version
    "XLA_*",
    "NVIDIA_TF32_OVERRIDE",  # precision
    "DNNL_*",
    "ONEDNN_*",
    "OMP_*",  # threads, on which the last digits depend
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "PANDAS_*",  # type of text columns
    "PYTHONIOENCODING",
    "ZARR_*",  # format of the image store
)
KEPT = (
    # The way to a server of the user's choice.
    "MLFLOW_TRACKING_*",
    "MLFLOW_WORKSPACE",
    "MLFLOW_HTTP_*",
    "MLFLOW_ALLOW_HTTP_REDIRECTS",
    "MLFLOW_*_TIMEOUT",
    "MLFLOW_*MULTIPART*",
    "MLFLOW_BOTO_*",
    "MLFLOW_DATABRICKS_*",
    "MLFLOW_GCS_*",
    "MLFLOW_KERBEROS_*",
    "MLFLOW_S3_*",
    # Messages and memory.
    "TF_CPP_*",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    *FIXED,
    *DEFAULTS,
)


def prepare() -> None:
    """Set and remove the variables above; replace a home folder that is missing; let texts and files be readable."""
    set_variables()
    _replace_home(workspace.project_root() / ".resume")
    os.umask(os.umask(0o077) & 0o077)  # the user can read what the stages write, whatever else is masked
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to stop


def set_variables() -> None:
    """Set and remove the variables above; also for a program that only imports a package of this project."""
    for name in list(os.environ):
        if _matches(name, REMOVED) and not _matches(name, KEPT):
            del os.environ[name]
    os.environ.update(FIXED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _replace_home(place: Path) -> None:
    """Libraries that keep caches in the home folder get one in `place` where there is none, as in a container.

    A home folder that can only be read stays: credentials and cached weights may be in it.
    """
    home = Path(os.path.expanduser("~"))  # not Path.home(), which fails without one
    if not home.is_dir():
        home = place / "home"
        home.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(home)
    if not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without a name: MLflow would fail
        os.environ["LOGNAME"] = "unknown"
