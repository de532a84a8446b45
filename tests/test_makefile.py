"""What `make` does before anything is installed, with a Python that only notes what it is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FAKE = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$(pwd -P): $*" >> "{log}"
if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python; fi
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def project(tmp_path: Path, repo: Path, log: Path) -> Path:
    """A project with one commit and without an environment, in a folder with a space in its name."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(repo / name, folder / name)
    (tmp_path / "python").write_text(FAKE.format(log=log))
    (tmp_path / "python").chmod(0o755)
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def make(folder: Path, *targets: str, expect: int = 0) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = ["make", *targets, "PYTHON=../python"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def environments(log: Path) -> list[str]:
    """How environments were made since the last call."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split(": ", 1)[1] for line in lines if "-m venv" in line]


def test_an_environment_is_made_once(project: Path, log: Path) -> None:
    make(project, "setup")
    assert environments(log) == ["-m venv .venv"]
    make(project, "setup")
    assert environments(log) == []


def test_an_environment_that_was_moved_or_copied_is_made_again(project: Path, log: Path) -> None:
    make(project, "setup")
    copy = shutil.copytree(project, project.parent / "copy", symlinks=True)
    moved = project.rename(project.parent / "moved")
    environments(log)
    for folder in (copy, moved):
        make(folder, "setup")
        assert environments(log) == ["-m venv --clear .venv"]
        make(folder, "setup")
        assert environments(log) == []


PIP = [
    "#!{0}/.venv/bin/python3\nimport pip\n",
    "#!/bin/sh\n'''exec' \"{0}/.venv/bin/python3.12\" \"$0\" \"$@\"\n' '''\n",
]


@pytest.mark.parametrize("pip", PIP, ids=["short path", "long path, or one with a space"])
def test_an_environment_of_an_older_makefile_is_made_again_only_elsewhere(project: Path, log: Path, pip: str) -> None:
    """It has no note of its place, but pip names its interpreter."""
    make(project, "setup")
    (project / ".venv/.place").unlink()
    (project / ".venv/bin/pip").write_text(pip.format(project))
    copy = shutil.copytree(project, project.parent / "copy", symlinks=True)
    environments(log)
    make(project, "setup")
    assert environments(log) == []
    make(copy, "setup")
    assert environments(log) == ["-m venv --clear .venv"]
    moved = project.rename(project.parent / "moved")
    make(moved, "setup")
    assert environments(log) == ["-m venv --clear .venv"]


def test_an_environment_whose_pip_names_no_path_is_left(project: Path, log: Path) -> None:
    make(project, "setup")
    (project / ".venv/.place").unlink()
    (project / ".venv/bin/pip").write_text("#!/usr/bin/env python\n")
    environments(log)
    make(project, "setup")
    assert environments(log) == []


def test_an_environment_whose_python_is_gone_is_made_again(project: Path, log: Path) -> None:
    make(project, "setup")
    (project / ".venv/bin/python").unlink()
    environments(log)
    make(project, "setup")
    assert environments(log) == ["-m venv --clear .venv"]


def test_an_environment_of_the_user_is_not_cleared(project: Path, log: Path) -> None:
    make(project, "setup")
    other = project.parent / "other"
    (project / ".venv").rename(other)
    (other / ".place").write_text("elsewhere\n")
    (project / ".venv").symlink_to(other)
    environments(log)
    make(project, "setup")
    assert environments(log) == []


@pytest.mark.parametrize("target", ["repro", "setup"])
def test_a_project_without_git_says_so_before_anything_is_installed(project: Path, log: Path, target: str) -> None:
    shutil.rmtree(project / ".git")
    said = make(project, target, expect=2)
    assert "This folder is not a git repository, and DVC needs one." in said
    assert '  git init && git add -A && git commit -m "Start"\n' in said
    assert environments(log) == []
    make(project, ".venv/.complete")
    assert environments(log) == ["-m venv .venv"], "as for make test and make lint"


@pytest.mark.parametrize(
    ("arguments", "variables", "called"),
    [
        ((), {}, ["dvc repro", "pneumonia register --if-missing", "pneumonia report"]),
        ((), {"DATA": "/of/the/shell"}, ["dvc repro", "pneumonia register --if-missing", "pneumonia report"]),
        (
            ("DATA=/my x-rays/`id`; it's",),
            {},
            ["pneumonia repro /my x-rays/`id`; it's", "pneumonia register --if-missing", "pneumonia report"],
        ),
    ],
)
def test_own_images_are_named_as_an_argument_of_make(
    project: Path, log: Path, arguments: tuple[str, ...], variables: dict[str, str], called: list[str]
) -> None:
    make(project, "setup")
    log.unlink()
    for name in ("dvc", "pneumonia"):
        (project / ".venv/bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{log}"\n')
        (project / ".venv/bin" / name).chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(project), **variables}
    command = ["make", "repro", "PYTHON=../python", *arguments]
    subprocess.run(command, cwd=project, env=environment, capture_output=True, check=True)
    assert log.read_text().splitlines() == called


def test_a_user_without_a_name_has_one_for_dvc(project: Path) -> None:
    with open(project / "Makefile", "a") as makefile:
        makefile.write("\nname:\n\t@echo $$LOGNAME\n")
    (project.parent / "id").write_text("#!/bin/sh\nexit 1\n")
    (project.parent / "id").chmod(0o755)
    command = ["make", "name"]
    for known, name in (({}, "unknown"), ({"LOGNAME": "me"}, "me")):
        environment = {"PATH": f"{project.parent}{os.pathsep}{os.environ['PATH']}", **known}
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{name}\n"


def test_a_repository_without_a_commit_says_so(project: Path, log: Path) -> None:
    shutil.rmtree(project / ".git")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    assert "git has no commit here" in make(project, "repro", expect=2)
    assert environments(log) == []
