"""Back to the files of a model: the commit whose dvc.lock names its training, and the way there with git and DVC."""

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
    """What was asked for is not in git, or DVC cannot bring its files."""


def train_entry(lock: str) -> dict[str, Any]:
    """The entry of `train` in the text of a dvc.lock; empty where there is none."""
    try:
        return dict(YAML(typ="safe").load(lock)["stages"]["train"])
    except (YAMLError, KeyError, TypeError, ValueError):
        return {}


def lock_digest(entry: dict[str, Any]) -> str:
    """SHA-256 of such an entry, as JSON with sorted keys; empty for an empty one.

    It is not that of the whole file, which changes with each stage that ends after `train`.
    """
    return workspace.sha256_bytes(json.dumps(entry, sort_keys=True, default=str).encode()) if entry else ""


def read_lock() -> str:
    """The dvc.lock of the workspace; empty where there is none."""
    path = Path(LOCK)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def find(wanted: str) -> str | None:
    """The commit that holds a training; None where none does.

    The newest that changed dvc.lock so counts, of those that HEAD, branches and tags reach; else one of the others,
    among which are DVC's experiments (`refs/exps`).

    Args:
        wanted: as `digest` gives it.
    """
    for commit in _commits():
        if lock_digest(train_entry(_shown(commit, LOCK))) == wanted and _shown(commit, "dvc.yaml"):
            return commit
    return None


def restore_files(wanted: str, model: Path, sha256: str) -> str:
    """The files of a training into the workspace, and the commit that holds them, with its code and settings.

    All or nothing: where something is missing, HEAD and the files are as before. No code is loaded on the way, since
    it would be that of the other commit.

    Args:
        wanted: as `digest` gives it.
        model: the model's file.
        sha256: what it must have.

    Returns:
        In words, where the files come from and how to come back.

    Raises:
        GoneError: no commit has it, or DVC cannot bring its files.
        UserError: what is not committed stands in the way.
    """
    if lock_digest(train_entry(read_lock())) == wanted:
        _check_out(model, sha256)
        return f"as {LOCK} here has it already: {model} is in place, by dvc checkout alone"
    commit = find(wanted)
    if not commit:
        raise GoneError(
            f"no commit here has a {LOCK} with its training (commit it after make repro; dvc exp run does so itself)"
        )
    changed = [line[3:] for line in _git("status", "--porcelain").splitlines() if line[:2] != "??" or line[3:] == LOCK]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not committed, and would be lost or mixed with commit {commit[:10]}; commit them "
            "(git add, git commit), or put them aside (git stash --include-untracked), then try again"
        )
    branch = _asked("git", "symbolic-ref", "--short", "--quiet", "HEAD").stdout.strip()
    before = branch or _git("rev-parse", "HEAD").strip()
    _git("checkout", "--quiet", "--no-overwrite-ignore", commit, "--")
    try:
        _check_out(model, sha256)
    except BaseException as error:
        _git("checkout", "--quiet", before, "--")
        with suppress(UserError):
            _dvc_checkout()
        if isinstance(error, GoneError):
            raise GoneError(f"commit {commit[:10]} has it, but {error}; all is as it was before") from error
        raise
    what = f"from commit {commit[:10]}, with its code and settings: {model} is in place"
    return f"{what}; back: git checkout - && dvc checkout"


def _commits() -> Iterator[str]:
    """Commits that changed dvc.lock, the newest first, those in reach of HEAD, branches and tags before all others."""
    seen = set()
    for refs in (("HEAD", "--branches", "--tags", "--remotes"), ("--all",)):
        for commit in _git("rev-list", "--full-history", *refs, "--", LOCK).split():
            if commit not in seen:
                seen.add(commit)
                yield commit


def _check_out(model: Path, sha256: str) -> None:
    _dvc_checkout()
    if not model.is_file() or workspace.sha256_file(model) != sha256:
        raise GoneError(f"the {model} that DVC brought is not the one that was registered (SHA-256 {sha256[:10]}…)")


def _dvc_checkout() -> None:
    done = _asked(sys.executable, "-m", "dvc", "checkout")
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("ERROR: ")
        raise GoneError(f"dvc checkout says: {said} (dvc pull brings what a remote holds)")


def _git(*command: str) -> str:
    done = _asked("git", *command)
    if done.returncode:
        raise UserError(f"git {command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def _shown(commit: str, path: str) -> str:
    """A file of a commit; empty where it has none. The path counts from the current folder, as `./` says."""
    return _asked("git", "show", f"{commit}:./{path}").stdout


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    # Without a terminal DVC asks nothing, and refuses what it would have asked for.
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
