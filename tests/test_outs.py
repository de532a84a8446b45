"""Outs are held against the digests that DVC, or a stage that was run by hand, has recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia import UserError, outs

STAGES = {
    "first": {"cmd": "true", "deps": ["in.txt"], "outs": ["a.txt", "folder"], "metrics": ["m.json"]},
    "second": {
        "cmd": "cat a.txt folder/x > b.txt",
        "deps": ["code.py", "a.txt", "folder", "m.json"],
        "outs": ["b.txt"],
    },
}


def write_outs(text: str = "hi\n") -> None:
    Path("folder/deep").mkdir(parents=True, exist_ok=True)
    for name in ("a.txt", "m.json", "folder/x", "folder/deep/é"):
        Path(name).write_text(text)


def lock(**changes: str) -> None:
    recorded = {name: outs.digest(Path(name)) for name in ("a.txt", "folder", "m.json")} | changes
    entries = [{"path": path, "hash": "md5", "md5": md5} for path, md5 in recorded.items()]
    Path("dvc.lock").write_text(json.dumps({"stages": {"first": {"outs": entries}}}))


@pytest.fixture
def project(in_project: Path) -> Path:
    (in_project / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    write_outs()
    return in_project


def test_digests_are_those_that_dvc_computes(in_project: Path) -> None:
    Path("folder").mkdir()
    for name in ("a.txt", "folder/x", "folder/y"):
        Path(name).write_text("hi\n")
    # As in the dvc.lock that DVC 3.67.1 wrote for these files.
    assert outs.digest(Path("a.txt")) == "764efa883dda1e11db47671c4a3bbd9e"
    assert outs.digest(Path("folder")) == "de425f2c179b14b0534996cedb4a54b1.dir"


def test_inputs_are_the_outs_of_other_stages(project: Path) -> None:
    assert outs.inputs("second") == {"a.txt": "first", "folder": "first", "m.json": "first"}
    assert outs.inputs("first") == outs.inputs("unknown") == {}


def test_outside_of_a_project_nothing_is_checked(in_project: Path) -> None:
    assert outs.inputs("second") == {}


def test_outs_without_a_record_are_accepted(project: Path) -> None:
    outs.require_unchanged(outs.inputs("second"))
    Path("dvc.lock").write_text(json.dumps({"stages": {"first": {"outs": [{"path": "a.txt", "md5": "of DVC 2"}]}}}))
    outs.require_unchanged(outs.inputs("second"))


@pytest.mark.parametrize("path", ["a.txt", "folder", "m.json"])
def test_a_changed_out_is_named_with_its_stage_and_the_remedies(project: Path, path: str) -> None:
    lock()
    outs.require_unchanged(outs.inputs("second"))
    (Path(path) / "x" if path == "folder" else Path(path)).write_text("ha\n")
    message = (
        rf"^{path} is not what the stage first wrote: .*; dvc repro first .*, dvc commit -f first accepts it as it is$"
    )
    with pytest.raises(UserError, match=message):
        outs.require_unchanged(outs.inputs("second"))


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_the_files_of_a_folder_are_part_of_its_digest(project: Path, change: str) -> None:
    lock()
    if change == "added":
        Path("folder/z").touch()
    elif change == "removed":
        Path("folder/x").unlink()
    else:
        Path("folder/x").rename("folder/z")
    with pytest.raises(UserError, match="folder is not what"):
        outs.require_unchanged(outs.inputs("second"))


def test_a_missing_out_is_named_with_its_stage(project: Path) -> None:
    Path("a.txt").unlink()
    with pytest.raises(UserError, match=r"^a\.txt is missing; dvc repro first makes it again$"):
        outs.require_unchanged(outs.inputs("second"))


def test_outs_of_a_stage_that_was_run_by_hand_are_as_good_as_those_of_dvc(project: Path) -> None:
    lock()
    write_outs("by hand\n")
    with pytest.raises(UserError, match="is not what the stage first wrote"):
        outs.require_unchanged(outs.inputs("second"))
    outs.record("first")
    outs.require_unchanged(outs.inputs("second"))
    write_outs("hi\n")  # as dvc checkout restores them
    outs.require_unchanged(outs.inputs("second"))
    write_outs("neither\n")
    with pytest.raises(UserError, match="is not what the stage first wrote"):
        outs.require_unchanged(outs.inputs("second"))


def test_a_record_that_is_damaged_is_none(project: Path) -> None:
    outs.record("first")
    Path(".resume/by_hand/first.json").write_text("{")
    write_outs("other\n")
    outs.require_unchanged(outs.inputs("second"))


@pytest.mark.parametrize("content", ["a: [", "- a\n", "\x00"])
def test_a_lock_that_cannot_be_read_is_one_line(project: Path, content: str) -> None:
    Path("dvc.lock").write_text(content)
    with pytest.raises(
        UserError, match=r"^dvc\.lock cannot be read \(.*\); git checkout dvc\.lock restores it$"
    ) as error:
        outs.require_unchanged(outs.inputs("second"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_dvc_has_written_is_accepted_and_what_it_accepts_too(project: Path) -> None:
    def dvc(*command: str) -> str:
        call = (sys.executable, "-m", "dvc", *command)
        variables = {"DVC_NO_ANALYTICS": "1", "PATH": os.environ["PATH"], "HOME": str(project)}
        return subprocess.run(call, check=True, env=variables, capture_output=True, text=True, timeout=120).stdout

    for name in ("in.txt", "code.py"):
        Path(name).write_text(name)
    made = (
        "mkdir -p folder/deep && cp in.txt a.txt && cp in.txt m.json && cp in.txt folder/x && cp in.txt folder/deep/é"
    )
    stages = STAGES | {"first": STAGES["first"] | {"cmd": made}}
    (project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    dvc("init", "--no-scm")
    dvc("repro")
    outs.require_unchanged(outs.inputs("second") | {"b.txt": "second"})
    Path("folder/x").unlink()
    Path("folder/x").write_text("edited")
    with pytest.raises(UserError, match="folder is not what the stage first wrote"):
        outs.require_unchanged(outs.inputs("second"))
    assert "Running stage 'second'" in dvc("repro", "-s", "second"), "DVC itself does not look at it"
    dvc("repro", "first")
    outs.require_unchanged(outs.inputs("second"))
    assert Path("folder/x").read_text() == "in.txt"
    Path("folder/x").unlink()
    Path("folder/x").write_text("edited")
    dvc("commit", "-f", "first")
    outs.require_unchanged(outs.inputs("second"))
    assert Path("folder/x").read_text() == "edited"


def test_remains_of_a_killed_writer_are_no_change(project: Path) -> None:
    lock()
    Path("folder/deep/.partial-x").write_text("half")
    Path("folder/.partial-y").mkdir()
    Path("folder/.partial-y/z").write_text("half")
    outs.require_unchanged({"folder": "first"})


def test_only_outs_that_are_as_their_stage_wrote_them_are_unchanged(project: Path) -> None:
    assert outs.unchanged() == {}, "without a record nothing is known"
    lock()
    assert outs.unchanged() == {"a.txt": "first", "folder": "first", "m.json": "first"}
    Path("a.txt").write_text("ha\n")
    assert outs.unchanged() == {"folder": "first", "m.json": "first"}


def test_outs_that_are_recorded_again_are_accepted_and_others_are_not(project: Path) -> None:
    outs.record("first")
    for name in ("a.txt", "m.json"):
        Path(name).write_text("ha\n")
    with outs.locked_dvc() as dvc:
        assert dvc is None, "this folder has no .dvc"
        outs.record_again({"a.txt": "first"}, dvc)
    outs.require_unchanged({"a.txt": "first", "folder": "first"})
    with pytest.raises(UserError, match=r"^m\.json is not what the stage first wrote"):
        outs.require_unchanged({"m.json": "first"})
