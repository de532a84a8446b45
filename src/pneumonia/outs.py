"""The outs of the stages: whether they are still as their stage wrote them.

DVC records the MD5 of each out in dvc.lock. A stage that is run by hand records it in `.resume/by_hand/`, because
dvc.lock is DVC's. `dvc repro` restores an out that was changed before it goes on; `dvc repro -s`, `dvc repro
--downstream`, a stage that is run by hand and the command `pneumonia` would use it as it is.

This is no protection from someone who also changes the record: commit dvc.lock, and git shows that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pneumonia import UserError, reason, workspace

LOCK = "dvc.lock"


def inputs(stage: str) -> dict[str, str]:
    """The files and folders that a stage reads and another stage makes, and that stage; none outside of a project."""
    stages = _definitions()
    stage_of = {out: name for name, definition in stages.items() for out in _outs(definition)}
    return {dep: stage_of[dep] for dep in stages.get(stage, {}).get("deps", ()) if dep in stage_of}


def require_unchanged(stage_of: Mapping[str, str]) -> None:
    """Check that outs are as their stages wrote them. An out without a record is accepted.

    Args:
        stage_of: outs, as in dvc.yaml, and the stage that makes each of them.

    Raises:
        UserError: an out is missing, or has another content.
    """
    for path, stage in stage_of.items():
        if not Path(path).exists():
            raise UserError(f"{path} is missing; dvc repro {stage} makes it again")
        known = _known(stage, path)
        if known and digest(Path(path)) not in known:
            raise UserError(
                f"{path} is not what the stage {stage} wrote: it was changed, is damaged, or {stage} did not finish; "
                f"dvc repro {stage} makes it again, dvc commit -f {stage} accepts it as it is"
            )


def record(stage: str) -> None:
    """Record the outs of a stage that was run by hand; DVC does it for the stages that it runs."""
    made = {out: digest(Path(out)) for out in of(stage) if Path(out).exists()}
    if made:
        with workspace.written_whole(_by_hand_file(stage)) as partial:
            partial.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def unchanged() -> dict[str, str]:
    """The outs that are here as their stages wrote them, and these stages; outs without a record are left out."""
    stage_of = {out: stage for stage in _definitions() for out in of(stage) if Path(out).exists()}
    known = {out: _known(stage, out) for out, stage in stage_of.items()}
    return {out: stage for out, stage in stage_of.items() if known[out] and digest(Path(out)) in known[out]}


def record_again(stage_of: Mapping[str, str], repo: Any) -> None:
    """Record outs as they are now, although their stages did not write them so; DVC gets them into its cache.

    The digests of what the stages have read stay: the next `dvc repro` runs each stage that reads a changed out.

    Args:
        stage_of: outs and their stages.
        repo: as `locked_dvc` yields it.
    """
    for stage in set(stage_of.values()):
        if made := _by_hand(stage):
            made |= {out: digest(Path(out)) for out in made if stage_of.get(out) == stage}
            with workspace.written_whole(_by_hand_file(stage)) as partial:
                partial.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    if repo and Path(LOCK).is_file():
        from dvc.utils.serialize import modify_yaml

        # Not with DVC's own writer of dvc.lock: it would also record a command that was changed and has not run.
        tracked = {out.def_path: out for stage in repo.index.stages for out in stage.outs}
        with modify_yaml(LOCK) as lock:
            for entry in (one for stage in lock["stages"].values() for one in stage.get("outs", ())):
                if entry["path"] in stage_of and (out := tracked.get(entry["path"])):
                    out.save()
                    out.commit()
                    entry.update({key: value for key, value in out.dumpd().items() if key in ("md5", "size", "nfiles")})


@contextmanager
def locked_dvc() -> Iterator[Any]:
    """DVC's repository of this folder, which no other DVC command uses meanwhile; None outside of one.

    Raises:
        UserError: another DVC command runs, such as `dvc repro`.
    """
    if not Path(".dvc").is_dir():
        yield None
        return
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import rwlock

    with Repo(".") as repo:
        try:
            # `dvc repro` gives its lock back while a stage runs, and keeps a note of what this stage reads and writes.
            with repo.lock, rwlock(repo.tmp_dir, repo.fs, "pneumonia forget", [], [repo.root_dir], False):
                yield repo
        except LockError as error:
            raise UserError(
                "a DVC command runs in this project; wait until it ends, and run again (if none runs, remove "
                ".dvc/tmp/rwlock)"
            ) from error


def digest(path: Path) -> str:
    """The MD5 of a file or a folder as DVC computes it: that of a folder is over the names and MD5s of its files.

    Remains of a writer that was killed are left out, as in `.dvcignore`.
    """
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    files = {
        file.relative_to(path).as_posix(): file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".partial-") for part in file.relative_to(path).parts)
    }
    listing = [{"md5": digest(files[name]), "relpath": name} for name in sorted(files)]
    return f"{_md5(json.dumps(listing).encode()).hexdigest()}.dir"


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)


def of(stage: str) -> list[str]:
    """The outs of a stage, as in dvc.yaml; none outside of a project."""
    return _outs(_definitions().get(stage, {}))


def stages() -> list[str]:
    """The stages, as in dvc.yaml; none outside of a project."""
    return list(_definitions())


def _definitions() -> dict[str, Any]:
    """The stages of dvc.yaml."""
    return dict(_yaml("dvc.yaml").get("stages") or {})


def _outs(definition: Mapping[str, Any]) -> list[str]:
    return [*definition.get("outs", ()), *definition.get("metrics", ())]


def _locked() -> dict[str, dict[str, str]]:
    """Stage -> out -> MD5 in dvc.lock."""
    return {
        stage: {out["path"]: out["md5"] for out in entry.get("outs", ()) if out.get("hash") == "md5"}
        for stage, entry in (_yaml(LOCK).get("stages") or {}).items()
    }


def _known(stage: str, out: str) -> list[str]:
    """The recorded digests of an out."""
    return [record[out] for record in (_locked().get(stage, {}), _by_hand(stage)) if out in record]


def _by_hand(stage: str) -> dict[str, str]:
    try:
        return dict(json.loads(_by_hand_file(stage).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _by_hand_file(stage: str) -> Path:
    return workspace.project_root() / ".resume" / "by_hand" / f"{stage}.json"


def _yaml(name: str) -> dict[str, Any]:
    path = Path(name)
    return _parsed(name, path.read_text(encoding="utf-8")) if path.is_file() else {}


@lru_cache(maxsize=4)  # a long dvc.lock takes most of a second
def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        return dict(YAML(typ="safe").load(text) or {})
    except (YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{name} cannot be read ({reason(error)}); git checkout {name} restores it") from error
