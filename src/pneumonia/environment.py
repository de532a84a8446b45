"""The user's shell and home change no result.

Libraries read variables and files of the home folder when they are imported. `prepare` comes before that, in the
package `stages` and in the command `pneumonia`. Child processes inherit what it sets. A program of the user that
imports a package of this project keeps its variables: there only `protect_mlflow` is called.
"""

from __future__ import annotations

import atexit
import errno
import getpass
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from multiprocessing import parent_process
from pathlib import Path

from pneumonia import UserError, credentials, leases, workspace

_NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}  # no code of a stored model is run
FIXED = {
    "KERAS_BACKEND": "tensorflow",  # the networks and streams of this project are written for it
    # No folder: else keras.json sets backend, number format, epsilon and order of the channels. Cached weights are
    # read from ~/.keras/models by their path.
    "KERAS_HOME": os.devnull,
    "MATPLOTLIBRC": os.devnull,  # an empty file: else the one in the home folder changes every figure
    **_NO_PICKLE,
    "MPLBACKEND": "Agg",  # there may be no display
    "PYTHONUTF8": "1",  # child processes print and read UTF-8, also with LC_ALL=C
}
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 14 s; the default waits minutes for a dead server
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else each new store prints its migrations
    "ORT_DISABLE_TELEMETRY": "1",  # of ONNX Runtime, which also leaves a file in the temporary folder
}
STEERING = (
    "KERAS_*",  # backend, number of epochs and steps
    "TF_*",  # other kernels, precision and Keras version; threads within an operation, on which the last digits depend
    "XLA_*",
    "NVIDIA_TF32_OVERRIDE",  # precision
    "DNNL_*",
    "ONEDNN_*",
    "MKL_*",
    "PANDAS_*",  # type of text columns
    "ZARR_*",  # format of the image store
)
"""Results would depend on them: they are removed, and one line names those that the user has set."""
REMOVED = (
    "MLFLOW_*",  # run, experiment, registry and context to which a shell or a notebook has set them
    "_MLFLOW_*",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "PYTHONIOENCODING",
)
_XLA_PATH = "--xla_gpu_cuda_data_dir="
"""The flag that stays in `XLA_FLAGS`: where CUDA lies on this machine."""
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
    # The user's own server, its database and its secrets.
    "MLFLOW_AUTH_*",
    "MLFLOW_CRYPTO_*",
    "MLFLOW_FLASK_*",
    "MLFLOW_SERVER_*",
    "MLFLOW_SQLALCHEMYSTORE_*",
    # For a machine with several users: the weights and scores of a network are the same with any value.
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "TF_NUM_INTEROP_THREADS",
    # Of Terraform, not of TensorFlow.
    "TF_CLI_*",
    "TF_DATA_DIR",
    "TF_IN_AUTOMATION",
    "TF_INPUT",
    "TF_LOG*",
    "TF_PLUGIN_CACHE_*",
    "TF_TOKEN_*",
    "TF_VAR_*",
    "TF_WORKSPACE",
    # Messages and memory.
    "TF_CPP_*",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    *FIXED,
    *DEFAULTS,
)


ADDRESS_SPACE = 1_500_000_000
"""Bytes in which `fetch`, `validate`, `rebalance`, `backbone` and `promote` work. With half of it none can start."""
MEMORY_REMEDY = (
    "the memory does not suffice; close other programs, lower compute.workers and compute.memory in params.yaml, or "
    "raise the limit (ulimit -v, or that of the container), and run again: finished work is kept"
)
_NO_MEMORY = re.compile(
    r"bad_alloc|[Cc]annot allocate memory|failed to map segment|can't start new thread|[Ii]nsufficient memory|"
    r"OOM when allocating|[Oo]ut of memory|Failed to allocate memory"
)


def prepare() -> None:
    """Set and remove the variables above; replace a home folder that is missing; let texts and files be readable.

    A traceback does not show secrets. With too little memory the program ends in one line.
    """
    credentials.mask_tracebacks()
    _require_memory()
    ignored = _set_variables()
    _replace_home()
    os.umask(os.umask(0o077) & 0o077)  # the user can read what the stages write, whatever else is masked
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to stop
    if ignored and parent_process() is None:
        print(f"ignored, because results would depend on it: {', '.join(ignored)}", file=sys.stderr)


def _open_closed_streams() -> None:
    """Let a program that was started without streams (`>&-`, some daemons) print to nowhere.

    Their numbers are taken too: else libraries of C and child processes would print into the next files.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the program ends


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Inside the block temporary files, also those of child processes, are in a folder of this process.

    It is removed at the end, or by the next command of this user if the process was killed: TensorFlow and MLflow
    remove their files only at a normal end. It is in the temporary folder that the user has chosen, and not in the
    project: that one can be slow, far or full, and paths of sockets may have 107 bytes.
    """
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    lease = None
    with suppress(OSError):  # without a temporary folder: what needs one says so itself
        parent = Path(tempfile.gettempdir())
        for _ in leases.abandoned(parent, "pneumonia"):
            pass  # it is removed
        lease = leases.take(parent, "pneumonia")
        os.environ["TMPDIR"] = tempfile.tempdir = str(lease.folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR", None)
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        tempfile.tempdir = before[1]
        if lease:
            leases.release(lease)


def _require_memory() -> None:
    """End the program in an address space in which the libraries cannot even be loaded: some would wait for ever."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        sys.exit(
            f"ERROR: an address space of at least {ADDRESS_SPACE / 1e9:.1f} GB is needed, and this process may use "
            f"{limit / 1e9:.1f} GB (ulimit -v); raise the limit: ulimit -v unlimited"
        )


def lacks_disk(error: BaseException) -> bool:
    """Whether an error of the system means that the disk is full, or the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, means that the memory does not suffice.

    Only Python has an error of its own for it. Libraries of C++ pass on a text, and the loader of the system too.

    >>> lacks_memory(RuntimeError("std::bad_alloc")), lacks_memory(RuntimeError("no such file"))
    (True, False)
    """
    links: list[BaseException] = []
    while error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__ or error
    return any(
        isinstance(link, MemoryError)
        or (isinstance(link, OSError) and link.errno == errno.ENOMEM)
        or (not isinstance(link, UserError) and _NO_MEMORY.search(str(link)))
        for link in links
    )


def protect_mlflow() -> None:
    """Set what MLflow must not do by default: run code of a stored model, send telemetry, wait for minutes."""
    for name, value in (_NO_PICKLE | DEFAULTS).items():
        os.environ.setdefault(name, value)


def _set_variables() -> list[str]:
    """Set and remove the variables above; returns the names of those that steer results and had another value."""
    before = dict(os.environ)
    for name in before:
        if _matches(name, STEERING + REMOVED) and not _matches(name, KEPT):
            del os.environ[name]
    if path := " ".join(flag for flag in before.get("XLA_FLAGS", "").split() if flag.startswith(_XLA_PATH)):
        os.environ["XLA_FLAGS"] = path
    os.environ.update(FIXED)
    protect_mlflow()
    return sorted(name for name in before if _matches(name, STEERING) and os.environ.get(name) != before[name])


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _replace_home() -> None:
    """Libraries that keep caches in the home folder get another one where there is none, as in a container.

    A home folder that can only be read stays: credentials and cached weights may be in it.
    """
    home = Path(os.path.expanduser("~"))  # not Path.home(), which fails without one
    with suppress(OSError):  # without a temporary folder, too: what needs one says so itself
        if not home.is_dir():
            os.environ["HOME"] = _cache_folder("home")
        elif not os.access(home, os.W_OK) and "MPLCONFIGDIR" not in os.environ:
            os.environ["MPLCONFIGDIR"] = _cache_folder("matplotlib")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without a name: MLflow would fail
        os.environ["LOGNAME"] = "unknown"


def _cache_folder(name: str) -> str:
    """A folder in `.resume` of the project; elsewhere, or if it cannot be written, a temporary one of this process."""
    with suppress(OSError):
        root = workspace.project_root()
        if any((root / marker).is_file() for marker in ("dvc.yaml", "params.yaml")):
            folder = root / ".resume" / name
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # it may be there and read-only
                return str(folder)
    lease = leases.take(Path(tempfile.gettempdir()), "pneumonia")
    atexit.register(leases.release, lease)
    return str(lease.folder)
