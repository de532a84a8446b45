"""Shells and home folders of users, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia import UserError, environment

HOSTILE = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "MATPLOTLIBRC": "/home/user/matplotlibrc",
    "MLFLOW_ACTIVE_MODEL_ID": "m-1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_EXPERIMENT_ID": "12",
    "MLFLOW_EXPERIMENT_NAME": "mine",
    "MLFLOW_REGISTRY_URI": "http://elsewhere",
    "MLFLOW_RUN_ID": "0" * 32,
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "OMP_DYNAMIC": "true",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "PYTHONIOENCODING": "ascii",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "ZARR_DEFAULT_ZARR_FORMAT": "2",
}
LEGITIMATE = {
    "CUDA_VISIBLE_DEVICES": "1",
    "MKL_NUM_THREADS": "1",
    "MLFLOW_AUTH_CONFIG_PATH": "/etc/mlflow.ini",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "k",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "k",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
    "MLFLOW_LOGGING_LEVEL": "DEBUG",
    "MLFLOW_S3_ENDPOINT_URL": "http://s3",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "box.example.org",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3",
    "MLFLOW_TRACKING_PASSWORD": "p",
    "MLFLOW_TRACKING_URI": "http://server",
    "MLFLOW_TRACKING_USERNAME": "u",
    "OMP_NUM_THREADS": "1",
    "PNEUMONIA_FETCH_PASSWORD": "p",
    "PNEUMONIA_FETCH_QUERY": "token=t",
    "PNEUMONIA_FETCH_USER": "u",
    "TF_CLI_CONFIG_FILE": "/etc/terraformrc",
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_VAR_region": "north",
}


def python(code: str, folder: Path, **variables: str | None) -> str:
    """What a program prints in a folder, with these variables and few others; None = the variable is not there."""
    return ended(code, folder, **variables).stdout.decode("utf-8").strip()


def ended(code: str, folder: Path, **variables: str | None) -> subprocess.CompletedProcess[bytes]:
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(environment.__file__).parents[1]), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", f"from pneumonia import environment\n{code}"],
        cwd=folder,
        env={name: value for name, value in (known | variables).items() if value is not None},
        capture_output=True,
        check=True,
    )


PRINT = "import json, os\nenvironment.prepare()\nprint(json.dumps(dict(os.environ)))"


def test_what_would_steer_a_library_is_gone_and_the_way_to_a_server_stays(tmp_path: Path) -> None:
    clean = json.loads(python(PRINT, tmp_path))
    assert json.loads(python(PRINT, tmp_path, **HOSTILE)) == clean
    assert environment.FIXED.items() <= clean.items()
    kept = json.loads(python(PRINT, tmp_path, **HOSTILE, **LEGITIMATE))
    assert kept == clean | LEGITIMATE


def test_one_line_names_what_was_ignored_and_only_what_the_user_has_set(tmp_path: Path) -> None:
    def said(**variables: str) -> str:
        return ended("environment.prepare()\nenvironment.prepare()", tmp_path, **variables).stderr.decode().strip()

    assert said() == said(**LEGITIMATE) == said(**environment.FIXED) == ""
    assert said(KERAS_BACKEND="jax", OMP_DYNAMIC="true", TF_DETERMINISTIC_OPS="1", MLFLOW_RUN_ID="0" * 32) == (
        "ignored, because results would depend on it: KERAS_BACKEND, TF_DETERMINISTIC_OPS"
    )


@pytest.mark.parametrize(
    ("flags", "left", "is_ignored"),
    [
        ("--xla_gpu_cuda_data_dir=/opt/cuda", "--xla_gpu_cuda_data_dir=/opt/cuda", False),
        ("--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir=/opt/cuda", "--xla_gpu_cuda_data_dir=/opt/cuda", True),
        ("--xla_gpu_autotune_level=0", None, True),
    ],
)
def test_of_the_flags_of_xla_the_path_of_cuda_stays(
    tmp_path: Path, flags: str, left: str | None, is_ignored: bool
) -> None:
    done = ended(PRINT, tmp_path, XLA_FLAGS=flags)
    assert json.loads(done.stdout).get("XLA_FLAGS") == left
    assert (b": XLA_FLAGS" in done.stderr) == is_ignored


def test_a_program_that_imports_the_tracking_keeps_its_variables(tmp_path: Path) -> None:
    printed = python("import json, os, pneumonia.tracking\nprint(json.dumps(dict(os.environ)))", tmp_path, **HOSTILE)
    found = json.loads(printed)
    assert found.items() >= HOSTILE.items()
    assert not {"KERAS_HOME", "PYTHONUTF8"} & found.keys()
    assert found.items() >= environment.DEFAULTS.items()
    clean = json.loads(python("import json, os, pneumonia.tracking\nprint(json.dumps(dict(os.environ)))", tmp_path))
    assert clean["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_stage_and_the_tracking_set_it_before_they_import_anything(repo: Path) -> None:
    for name in ("stages/__init__.py", "src/pneumonia/tracking/__init__.py"):
        text = (repo / name).read_text(encoding="utf-8")
        project_imports = [line for line in text.splitlines() if line.startswith("from pneumonia")]
        assert project_imports[0].startswith("from pneumonia import environment")
        assert text.index("\nenvironment.") < min([text.find(line) for line in project_imports[1:]], default=len(text))


def test_the_command_prepares_it(tmp_path: Path) -> None:
    code = "import os\nfrom pneumonia import cli\ncli.main(['experiments', '--help'], standalone_mode=False)\n"
    assert python(f"{code}print(os.environ['KERAS_BACKEND'])", tmp_path, KERAS_BACKEND="torch").endswith("tensorflow")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_every_character_can_be_printed_whatever_the_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    said = python(f"environment.prepare()\nprint({'5 µm · ümläut'!a})", tmp_path, **locale)
    assert said in ("5 µm · ümläut", r"5 \xb5m \xb7 \xfcml\xe4ut")


@pytest.mark.parametrize(("mask", "mode"), [("0o022", 0o644), ("0o077", 0o600), ("0o777", 0o600)])
def test_the_user_can_read_what_is_written_and_others_as_the_user_wishes(tmp_path: Path, mask: str, mode: int) -> None:
    python(f"import os\nos.umask({mask})\nenvironment.prepare()\nopen('made', 'w').close()", tmp_path)
    assert (tmp_path / "made").stat().st_mode & 0o777 == mode


WITHOUT_STREAMS = """
import os, subprocess, sys
from pneumonia import environment
environment.prepare()
with open("table.csv", "w") as table:
    table.write("kept")
    table.flush()
    for stream in (sys.stdout, sys.stderr):
        stream.isatty()
        stream.write("text")
        stream.flush()
    os.write(2, b"text of a library of C")
    subprocess.run(["sh", "-c", "echo text && echo text >&2"], check=True)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_streams_prints_to_nowhere(tmp_path: Path, closed: str) -> None:
    (tmp_path / "program.py").write_text(WITHOUT_STREAMS)
    command = f"{sys.executable} program.py {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "table.csv").read_text() == "kept"


def test_a_home_folder_that_is_missing_is_replaced_by_one_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    home = tmp_path / ".resume" / "home"
    assert json.loads(python(PRINT, tmp_path, HOME="/dev/null/none"))["HOME"] == str(home)
    assert home.is_dir()
    (tmp_path / ".dvc" / "tmp" / "exps" / "tmp1").mkdir(parents=True)
    assert json.loads(python(PRINT, tmp_path / ".dvc/tmp/exps/tmp1", HOME="/dev/null/none"))["HOME"] == str(home)


@pytest.mark.parametrize("is_project", [False, True])
def test_a_home_folder_that_the_project_cannot_hold_is_a_temporary_one(tmp_path: Path, is_project: bool) -> None:
    """Because the folder is no project, or `.resume` cannot be made in it."""
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    if is_project:
        (place / "dvc.yaml").touch()
        (place / ".resume").write_text("no folder")
    before = sorted(place.iterdir())
    code = f"{PRINT}\nprint(os.path.isdir(os.environ['HOME']))"
    variables, is_folder = python(code, place, HOME="/dev/null/none", TMPDIR=str(temporary)).splitlines()
    assert Path(json.loads(variables)["HOME"]).parent == temporary
    assert is_folder == "True"
    assert sorted(place.iterdir()) == before
    assert list(temporary.iterdir()) == [], "removed at the end"


def test_without_a_home_and_a_temporary_folder_a_command_still_starts(tmp_path: Path) -> None:
    code = f"import tempfile\ntempfile.tempdir = '/dev/null/none'\n{PRINT}"
    assert json.loads(python(code, tmp_path, HOME="/dev/null/none"))["HOME"] == "/dev/null/none"


def test_a_home_folder_that_can_only_be_read_stays_and_caches_go_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    read_only = "os.access = lambda path, mode: False\n"
    found = json.loads(python(f"import os\n{read_only}{PRINT}", tmp_path))
    assert found["HOME"] == str(tmp_path)
    assert found["MPLCONFIGDIR"] == str(tmp_path / ".resume" / "matplotlib")
    assert "MPLCONFIGDIR" not in json.loads(python(PRINT, tmp_path))


def test_a_user_without_a_name_gets_one(tmp_path: Path) -> None:
    """As in a container that runs with a number: MLflow asks for the name of every run's user."""
    nobody = "import getpass, pwd\ndef missing(uid): raise KeyError(uid)\npwd.getpwuid = missing\n"
    assert python(f"{nobody}environment.prepare()\nprint(getpass.getuser())", tmp_path) == "unknown"
    assert python("import getpass\nenvironment.prepare()\nprint(getpass.getuser())", tmp_path, USER="me") == "me"


FIT = """
import hashlib
import stages
from pneumonia.models import networks, runtime
from pneumonia.train import fit
from pneumonia.training.recipe import Schedule
from tests.conftest import PLAIN
from tests.toys import toy_split

runtime.start_keras(1)
model = networks.create_model("shallow")
fit(model, toy_split(), toy_split(seed=1), PLAIN, Schedule(epochs=2, patience=2, learning_rate=0.001, seed=1))
weights = [weight.tobytes() for weight in model.get_weights()]
print(len(weights), hashlib.sha256(b"".join(weights)).hexdigest())
"""


@pytest.mark.slow
def test_a_hostile_shell_and_home_train_the_same_weights(tmp_path: Path, repo: Path) -> None:
    (tmp_path / ".keras").mkdir()
    settings = {"backend": "torch", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    paths = {"PYTHONPATH": f"{repo}/src:{repo}"}
    clean = python(FIT, tmp_path, **paths)
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    assert python(FIT, tmp_path, **paths, **HOSTILE) == clean


def test_a_lack_of_memory_is_known_by_what_led_to_an_error() -> None:
    error = UserError("cannot be read")
    error.__cause__ = MemoryError()
    assert environment.lacks_memory(error)


@pytest.mark.parametrize("error", [UserError("killed, often out of memory"), OSError(28, "no space"), ValueError()])
def test_another_error_is_no_lack_of_memory(error: Exception) -> None:
    assert not environment.lacks_memory(error)
