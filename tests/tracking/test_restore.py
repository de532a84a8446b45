"""Versions of a file that a stage copies, committed in all the ways that git and DVC know, and the way back to each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia import UserError, workspace
from pneumonia.tracking import restore

MODEL = Path("models/model.keras")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.strip()


def git(*arguments: str) -> str:
    return run("git", *arguments)


def dvc(*arguments: str) -> str:
    return run(sys.executable, "-m", "dvc", *arguments)


def lock(md5: str, **others: str) -> str:
    """A dvc.lock in which `train` made a model, by hand."""
    stages = {"train": {"cmd": "train", "outs": [{"path": str(MODEL), "md5": md5}]}}
    return json.dumps({"schema": "2.0", "stages": stages | {name: {"cmd": cmd} for name, cmd in others.items()}})


def wanted(md5: str) -> str:
    return restore.lock_digest(restore.train_entry(lock(md5)))


def commit(text: str) -> str:
    """Commit a dvc.lock; the commit."""
    Path("dvc.lock").write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "-m", "some")
    return git("rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        for fact in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{fact}", "test@example.org")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


@pytest.fixture
def repository(in_project: Path) -> Path:
    git("init", "--quiet", "-b", "master")
    Path("dvc.yaml").write_text("stages: {}\n")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    return in_project


# --- the finder -----------------------------------------------------------------------------------------------------


def test_a_digest_is_of_train_alone() -> None:
    assert wanted("a") == restore.lock_digest(restore.train_entry(lock("a", evaluate="later")))
    assert wanted("a") != wanted("b")
    for text in ("", "schema: '2.0'\n", "stages:\n", "[", "stages: {train: }"):
        assert restore.train_entry(text) == {}
    assert restore.lock_digest({}) == ""


def test_the_commit_after_a_promotion_is_found_not_the_one_before(repository: Path) -> None:
    one = commit(lock("a"))
    two = commit(lock("b"))
    assert (restore.find_commit(wanted("a")), restore.find_commit(wanted("b")), restore.find_commit(wanted("c"))) == (
        one,
        two,
        None,
    )
    git("rm", "--quiet", "dvc.lock")
    git("commit", "--quiet", "-m", "no lock")
    assert restore.find_commit(wanted("b")) == two


def test_the_newest_commit_that_changed_the_lock_so_is_taken(repository: Path) -> None:
    commit(lock("a"))
    judged = commit(lock("a", evaluate="anew"))
    Path("README.md").write_text("more")
    commit(lock("a", evaluate="anew"))
    assert restore.find_commit(wanted("a")) == judged


def test_commits_of_experiments_are_found_and_those_in_reach_preferred(repository: Path) -> None:
    git("checkout", "--quiet", "--detach")
    experiment = commit(lock("a"))
    git("update-ref", "refs/exps/ab/cdef/muddy-toad", experiment)
    git("checkout", "--quiet", "master")
    assert restore.find_commit(wanted("a")) == experiment
    applied = commit(lock("a", promote="applied"))
    git("checkout", "--quiet", "--detach", "HEAD~1")
    later = commit(lock("a", promote="later"))
    git("update-ref", "refs/exps/ab/cdef/other-owl", later)
    git("checkout", "--quiet", "master")
    assert restore.find_commit(wanted("a")) == applied


def test_a_branch_that_was_merged_without_its_lock_is_found(repository: Path) -> None:
    git("checkout", "--quiet", "-b", "side")
    side = commit(lock("a"))
    git("checkout", "--quiet", "master")
    commit(lock("b"))
    git("merge", "--quiet", "-s", "ours", "side", "-m", "merged")
    git("branch", "--quiet", "-D", "side")
    assert restore.find_commit(wanted("a")) == side


def test_a_stash_of_untracked_files_is_no_place_to_go_to(repository: Path) -> None:
    Path("dvc.lock").write_text(lock("a"))
    git("stash", "--quiet", "--include-untracked")
    assert restore.find_commit(wanted("a")) is None


# --- the way there and back -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed 1 and 2 are committed with their dvc.lock, seed 3 is an experiment; 2 is in the workspace."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for role in ("AUTHOR", "COMMITTER"):
            for fact in ("NAME", "EMAIL"):
                patch.setenv(f"GIT_{role}_{fact}", "test@example.org")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        git("init", "--quiet", "-b", "master")
        dvc("init", "--quiet")
        stage = {"cmd": f"cp params.yaml {MODEL}", "params": ["seed"], "outs": [str(MODEL)]}
        Path("dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
        Path(".gitignore").write_text("/models/\n")
        MODEL.parent.mkdir()
        for seed in (1, 2):
            Path("params.yaml").write_text(f"seed: {seed}\n")
            dvc("repro", "--quiet")
            git("add", "--all")
            git("commit", "--quiet", "-m", f"seed {seed}")
        dvc("exp", "run", "--quiet", "--name", "muddy-toad", "-S", "seed=3")
        git("checkout", "--quiet", ".")
        dvc("checkout", "--quiet")
    return folder


@pytest.fixture
def project(template: Path, in_project: Path) -> Path:
    shutil.copytree(template, in_project, dirs_exist_ok=True, symlinks=True)
    return in_project


def locked(revision: str) -> str:
    return restore.lock_digest(restore.train_entry(git("show", f"{revision}:dvc.lock")))


def content(seed: int) -> str:
    return f"seed: {seed}\n"


def bring(seed: int, revision: str) -> str:
    return restore.restore_files(locked(revision), MODEL, workspace.sha256_bytes(content(seed).encode()))


def state() -> tuple[str, str, str, str]:
    """Branch, commit, what git finds changed, and the model."""
    return git("branch", "--show-current"), git("rev-parse", "HEAD"), git("status", "--porcelain"), MODEL.read_text()


def experiment() -> str:
    return git("for-each-ref", "--format=%(objectname)", "refs/exps/**/muddy-toad")


def test_a_committed_model_comes_back_with_its_settings_and_the_way_back_is_said(project: Path) -> None:
    before = state()
    said = bring(1, "HEAD~1")
    assert said == (
        f"from commit {git('rev-parse', 'master~1')[:10]}, with its code and settings: {MODEL} is in place; "
        "to go back: git checkout - && dvc checkout"
    )
    assert state() == ("", git("rev-parse", "master~1"), "", content(1))
    assert Path("params.yaml").read_text() == content(1)
    git("checkout", "--quiet", "-")
    dvc("checkout", "--quiet")
    assert state() == before


def test_the_model_of_an_experiment_comes_back(project: Path) -> None:
    bring(3, experiment())
    assert state() == ("", experiment(), "", content(3))


def test_what_dvc_lock_has_already_needs_no_other_commit(project: Path) -> None:
    before = state()
    MODEL.unlink()
    Path("notes").write_text("not committed")
    assert "is already in dvc.lock here" in bring(2, "HEAD")
    Path("notes").unlink()
    assert state() == before


@pytest.mark.parametrize("changed", ["params.yaml", "dvc.lock"])
def test_what_is_not_committed_is_named_and_stays(project: Path, changed: str) -> None:
    with open(changed, "a") as file:
        file.write("# mine\n")
    before = state()
    with pytest.raises(UserError, match=rf"^{changed}: not committed, .*git stash --include-untracked") as refusal:
        bring(1, "HEAD~1")
    assert "\n" not in str(refusal.value)
    assert state() == before


def test_a_dvc_lock_that_git_does_not_know_stays(project: Path) -> None:
    """As after `make repro` in a fresh clone of this project."""
    git("rm", "--quiet", "--cached", "dvc.lock")
    git("commit", "--quiet", "-m", "not tracked")
    before = state()
    with pytest.raises(UserError, match=r"^dvc.lock: not committed"):
        bring(1, "HEAD~2")
    assert state() == before
    assert "is already in dvc.lock here" in bring(2, "HEAD~1")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_file_in_the_way_stays(project: Path, ignored: bool) -> None:
    git("checkout", "--quiet", "-b", "side", "HEAD~1")
    Path("notes").write_text("committed")
    Path("dvc.lock").write_text(Path("dvc.lock").read_text() + "# changed\n")
    git("add", "--all")
    git("commit", "--quiet", "-m", "notes")
    git("checkout", "--quiet", "master")
    Path("notes").write_text("mine")
    if ignored:
        Path(".git/info/exclude").write_text("notes\n")
    before = state()
    with pytest.raises(UserError, match=r"git checkout: .*notes"):
        bring(1, "side")
    assert (state(), Path("notes").read_text()) == (before, "mine")


def test_without_the_file_in_the_cache_all_is_as_before(project: Path) -> None:
    gone = restore.train_entry(git("show", "HEAD~1:dvc.lock"))["outs"][0]["md5"]
    (project / ".dvc" / "cache" / "files" / "md5" / gone[:2] / gone[2:]).unlink()
    before = state()
    with pytest.raises(
        restore.GoneError, match=rf"^commit \w{{10}} has it, but dvc checkout failed: .*{MODEL} Is your cache"
    ):
        bring(1, "HEAD~1")
    assert state() == before


def test_a_model_that_dvc_does_not_know_is_not_overwritten(project: Path) -> None:
    MODEL.write_text("mine")
    before = state()
    with pytest.raises(restore.GoneError, match=r"the workspace is as before$"):
        bring(1, "HEAD~1")
    assert state() == before


def test_another_file_under_the_name_of_the_model_is_not_taken_for_it(project: Path) -> None:
    git("checkout", "--quiet", "--detach")
    before = state()
    with pytest.raises(restore.GoneError, match=r"is not the registered one .*; the workspace is as before"):
        bring(2, "master~1")
    assert state() == before


def test_a_training_that_no_commit_has_is_one_line(project: Path) -> None:
    before = state()
    with pytest.raises(restore.GoneError, match=r"^no commit here has a dvc\.lock with its training \(commit it "):
        restore.restore_files("0" * 64, MODEL, "")
    assert state() == before


def test_outside_of_git_it_is_one_line(in_project: Path) -> None:
    if os.environ.get("GIT_DIR"):
        pytest.skip("git was told of a repository")
    with pytest.raises(UserError, match=r"^git rev-list: fatal: not a git repository"):
        restore.restore_files("0" * 64, MODEL, "")
