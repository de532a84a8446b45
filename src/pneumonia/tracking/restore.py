"""Restore the files of a model: find the commit whose dvc.lock contains its training, and check it out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pneumonia import UserError, workspace

LOCK = "dvc.lock"


class GoneError(UserError):
    """The training is not in git, or DVC cannot restore its files."""


def train_entry(lock: str) -> dict[str, Any]:
    """The entry of `train` in the text of a dvc.lock; empty if there is none."""
    try:
        return dict(YAML(typ="safe").load(lock)["stages"]["train"])
    except (YAMLError, KeyError, TypeError, ValueError):
        return {}


def lock_digest(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry of `train`, as JSON with sorted keys; empty for an empty entry.

    Not of the whole file, which changes with each stage that ends after `train`.
    """
    return workspace.sha256_bytes(json.dumps(entry, sort_keys=True, default=str).encode()) if entry else ""


def read_lock() -> str:
    """The dvc.lock of the workspace; empty if there is none."""
    path = Path(LOCK)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def find_commit(digest: str) -> str | None:
    """The newest commit with a training in its dvc.lock; None if there is none.

    Commits reachable from HEAD, branches and tags come first; then all others, such as DVC's experiments (`refs/exps`).

    Args:
        digest: as `lock_digest` returns it.
    """
    for commit in _commits():
        if lock_digest(train_entry(_file_at(commit, LOCK))) == digest and _file_at(commit, "dvc.yaml"):
            return commit
    return None


def restore_files(digest: str, model: Path, sha256: str) -> str:
    """Restore the files of a training, and check out its commit, with code and settings.

    All or nothing: if something is missing, HEAD and the files are as before. No module is imported here, since it
    would be that of the other commit.

    Args:
        digest: as `lock_digest` returns it.
        model: path of the model file.
        sha256: expected SHA-256 of the model file.

    Returns:
        A text: the origin of the files, and how to go back.

    Raises:
        GoneError: no commit has the training, or DVC cannot restore its files.
        UserError: uncommitted changes would be lost.
    """
    if lock_digest(train_entry(read_lock())) == digest:
        _check_out(model, sha256)
        return f"is already in {LOCK} here: {model} is in place, after dvc checkout alone"
    commit = find_commit(digest)
    if not commit:
        raise GoneError(
            f"no commit here has a {LOCK} with its training (commit it after make repro; dvc exp run does it itself)"
        )
    changed = [line[3:] for line in _git("status", "--porcelain").splitlines() if line[:2] != "??" or line[3:] == LOCK]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not committed, would be lost or mixed with commit {commit[:10]}; commit them "
            "(git add, git commit), or stash them (git stash --include-untracked), then try again"
        )
    branch = _run("git", "symbolic-ref", "--short", "--quiet", "HEAD").stdout.strip()
    old_head = branch or _git("rev-parse", "HEAD").strip()
    _git("checkout", "--quiet", "--no-overwrite-ignore", commit, "--")
    try:
        _check_out(model, sha256)
    except BaseException as error:
        _git("checkout", "--quiet", old_head, "--")
        with suppress(UserError):
            _dvc_checkout()
        if isinstance(error, GoneError):
            raise GoneError(f"commit {commit[:10]} has it, but {error}; the workspace is as before") from error
        raise
    result = f"from commit {commit[:10]}, with its code and settings: {model} is in place"
    return f"{result}; to go back: git checkout - && dvc checkout"


def _commits() -> Iterator[str]:
    """Commits that changed dvc.lock: first those reachable from HEAD, branches and tags; each part newest first."""
    seen = set()
    for refs in (("HEAD", "--branches", "--tags", "--remotes"), ("--all",)):
        for commit in _git("rev-list", "--full-history", *refs, "--", LOCK).split():
            if commit not in seen:
                seen.add(commit)
                yield commit


def _check_out(model: Path, sha256: str) -> None:
    _dvc_checkout()
    if not model.is_file() or workspace.sha256_file(model) != sha256:
        raise GoneError(f"the {model} that DVC restored is not the registered one (SHA-256 {sha256[:10]}…)")


def _dvc_checkout() -> None:
    process = _run(sys.executable, "-m", "dvc", "checkout")
    if process.returncode:
        message = " ".join(process.stderr.split()).removeprefix("ERROR: ")
        raise GoneError(f"dvc checkout failed: {message} (dvc pull downloads files from a remote)")


def _git(*command: str) -> str:
    process = _run("git", *command)
    if process.returncode:
        raise UserError(f"git {command[0]}: {' '.join(process.stderr.split())}")
    return process.stdout


def _file_at(commit: str, path: str) -> str:
    """The text of a file in a commit; empty if there is none. The path is relative to the current folder (`./`)."""
    return _run("git", "show", f"{commit}:./{path}").stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # Without a terminal DVC asks no questions, and refuses instead.
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
