"""A small finished project, made once in each process; a test gets a copy."""

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.test_end_to_end import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """After its first `dvc repro`; not to be changed."""
    from tests.test_end_to_end import Project  # here, because it imports for seconds

    project = Project(tmp_path_factory.mktemp("finished") / "project")
    project.dvc("repro")
    return project


@pytest.fixture
def project(finished: "Project", tmp_path: Path) -> "Project":
    """A copy of the finished project, at another place."""
    return copied(finished, tmp_path / "project")


def copied(project: "Project", folder: Path) -> "Project":
    """A project with all its files at another place."""
    other = copy.copy(project)
    other.folder = folder
    shutil.copytree(project.folder, folder, symlinks=True)
    return other
