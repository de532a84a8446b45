"""Names of files, patients and folders that programs read as something else: a path, an option, a formula, a URL."""

from __future__ import annotations

import os
import shutil
import subprocess
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pneumonia import UserError, files
from pneumonia.data import download
from pneumonia.names import file_name, printable
from pneumonia.tracking import place, runs, sqlite

PIXELS = b"\x89PNG\r\n\x1a\n and pixels"

READ = {
    # what is injected: name of a file
    "a leading dash": "-rf.png",
    "a tilde": "~root.png",
    "only dots": "....",
    "a trailing space": "a.png ",
    "a trailing dot": "a.png.",
    "a device of Windows": "CON.png",
    "a stream of Windows": "a.png:b",
    "signs that Windows forbids": '<a>|b"?*.png',
    "a change of the direction of writing": "gnp.\u202e.png",
    "no width": "a\u200bb.png",
    "the separator of our URIs": "a::b.png",
    "an escape of URLs": "a%2Fb%20c.png",
    "a question mark, as in URLs": "a.png?x=1#y",
    "a variable of a shell": "$HOME `id` $(id).png",
    "a field of a format": "{0} {x!r} %s %(x)s.png",
    "a formula of TeX": "$x^{$.png",
    "a formula of a spreadsheet": "=cmd|' C calc'!A0.png",
    "an element of HTML": "<img src=x onerror=alert(1)>.png",
    "a name of 300 bytes": "x" * 296 + ".png",
    "composed letters": unicodedata.normalize("NFC", "é.png"),
    "decomposed letters": unicodedata.normalize("NFD", "é.png"),
    "another script": "胸部.png",
}


@pytest.mark.fault(kind="names", where="fetch, explain", now="read by its URI, and its picture has a name of its own")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            id=what,
            marks=pytest.mark.fault(
                injected=f"a file whose name has {what}",
                before="OSError in explain, after training" if len(name) > 248 else "as now",
            ),
        )
        for what, name in READ.items()
    ],
)
def test_a_file_of_any_name_is_read_and_has_a_picture(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "50%25::a"  # the archive may lie anywhere
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr(f"NORMAL/{name}", PIXELS)
    with files.in_archive(folder / "a.zip") as listed:
        assert listed.names == [f"NORMAL/{name}"]
        uri = listed.uri(f"NORMAL/{name}")
    assert files.read_bytes(uri) == PIXELS
    assert files.read_bytes(files.absolute(uri)) == PIXELS
    picture = tmp_path / file_name(f"NORMAL/{name}", ".png")
    picture.write_bytes(PIXELS)
    assert [path.name for path in tmp_path.glob("NORMAL*.png")] == [picture.name]


REFUSED = {
    "a line break": "a\nb.png",
    "an order to a terminal": "a\x1b]0;title\x07.png",
    "a backspace": "a\x08.png",
    "bytes that are not UTF-8": "a\udcff.png",
}


@pytest.mark.fault(kind="names", where="fetch", before="refused; the message of `not UTF-8` could not be printed")
@pytest.mark.fault(now="refused in one line that can be printed")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=what, marks=pytest.mark.fault(injected=f"a file whose name has {what}", before="as now"))
        for what, name in REFUSED.items()
    ],
)
def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PIXELS)
    listed = files.in_folder(str(tmp_path))
    with pytest.raises(UserError, match=r"this name cannot be written to a table; rename the file") as refusal:
        listed.uri(listed.names[0])
    assert str(refusal.value) == printable(str(refusal.value))


@pytest.mark.fault(kind="names", where="explain", now="each has a picture of its own")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            "a/b.png",
            "a_b.png",
            id="separator",
            marks=pytest.mark.fault(
                injected="two names that differ only in a separator", before="one picture replaced the other"
            ),
        ),
        pytest.param(
            "a/B.png",
            "a/b.png",
            id="case",
            marks=pytest.mark.fault(
                injected="two names that differ only in upper and lower case",
                before="one picture replaced the other on a disk that takes them for one",
            ),
        ),
        pytest.param(
            f"a/{'x' * 300}1.png",
            f"a/{'x' * 300}2.png",
            id="end",
            marks=pytest.mark.fault(injected="two long names that differ at their end", before="OSError in explain"),
        ),
    ],
)
def test_two_images_have_two_pictures(one: str, other: str) -> None:
    assert file_name(one, ".png").lower() != file_name(other, ".png").lower()


@pytest.mark.slow  # the first figure of a process takes seconds
@pytest.mark.fault(kind="names", where="preprocess, explain", now="drawn as it is, a long name without its middle")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "$\\frac{1}{$ and $x^{$.png",
            id="TeX",
            marks=pytest.mark.fault(injected="a formula of TeX as a name", before="ValueError of Matplotlib"),
        ),
        pytest.param(
            "x" * 4000,
            id="long",
            marks=pytest.mark.fault(
                injected="a name of 4,000 characters", before="a figure without space for pictures"
            ),
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_figure_shows_any_name(name: str) -> None:
    from pneumonia.report import plots

    image = np.zeros((64, 64), np.uint8)
    maps = {"grad_cam": np.zeros((64, 64), np.float32)}
    figures = [
        plots.saliency(image, maps, np.zeros((0, 4)), f"compact on phantom, test: {name}, score 0.5"),
        plots.before_after([(image, image, name)] * 2, "x"),
    ]
    for figure in figures:
        assert plots.png(figure).startswith(b"\x89PNG")
        assert min(axes.get_position().height for axes in figure.axes) > 0.2


# Folders in which a project lies.

UNUSABLE = {
    "a question mark": ("q?x=1", "its database was outside of the project; dvc exp run --temp fails"),
    "braces": ("{0}", "DVC failed after the first stage"),
    "one brace": ("{x", "DVC failed after the first stage"),
    "a line break": ("n\nl", "dvc exp run --temp fails"),
    "an order to a terminal": ("a\x1b[2Jb", "printed as it is"),
    "bytes that are not UTF-8": ("a\udcff", "not tried"),
    "a path of 500 bytes": ("x" * 240 + "/" + "y" * 240, "the store cannot be used (unable to open database file)"),
}


@pytest.mark.fault(kind="names", where="every stage", now="refused in one line before anything is written")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, id=what, marks=pytest.mark.fault(injected=f"a project in a folder with {what}", before=before)
        )
        for what, (name, before) in UNUSABLE.items()
    ],
)
def test_a_project_in_a_folder_that_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / name
    root.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        UserError, match=r"(?s)^the project lies in .*; (rename the folder|move the project)$"
    ) as refusal:
        runs.open_store(root)
    assert "\n" not in printable(str(refusal.value))
    assert list(root.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).parts[0]]


USABLE = {
    "an escape of URLs": ("per%20cent", "2 minutes of retries; an empty folder per%2520cent beside it"),
    "quotes": ('it\'s "so"', "syntax error of SQL when the store was made"),
    "colons": ("a :b::c", "error of SQL when the store was made; validate found no image"),
    "a variable of a shell": ("$HOME", "the data report was written outside of the project, and validate failed"),
    "a fragment of a URL": ("a#b&c", "as now"),
    "another script": ("é 表", "as now"),
}


@pytest.mark.fault(kind="names", where="every stage", now="the store lies in the project, and nothing lies beside it")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, id=what, marks=pytest.mark.fault(injected=f"a project in a folder with {what}", before=before)
        )
        for what, (name, before) in USABLE.items()
    ],
)
def test_a_store_lies_in_its_project(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / name
    (root / "mlruns").mkdir(parents=True)
    (root / "mlruns" / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(root)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # MLflow sets them itself, and leaves them so
        monkeypatch.setenv(variable, sqlite.uri(root / "mlruns" / "mlflow.db"))
    remove: list[tuple[Callable[[Path], None], Path]] = []
    monkeypatch.setattr(sqlite.atexit, "register", lambda *call: remove.append(call))
    (root / "a.txt").write_text("text")
    with runs.start_run("fetch", data="phantom", model="compact", synthetic=True, params={}) as run_id:
        runs.log_file(root / "a.txt", "folder")
    database = place.readable(runs.mlflow.get_run(run_id).info.artifact_uri)
    assert database == str(root / "mlruns" / "artifacts" / run_id / "artifacts")
    assert (root / "mlruns" / "artifacts" / run_id / "artifacts" / "folder" / "a.txt").read_text() == "text"
    assert run_id.encode() in (root / "mlruns" / "mlflow.db").read_bytes()
    for call, argument in remove:
        call(argument)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.fault(kind="names", where="every stage", injected="a new store in a folder with quotes and colons")
@pytest.mark.fault(before="syntax error of SQL", now="made")
@pytest.mark.slow  # the migrations of a new store take seconds
def test_a_store_is_made_in_a_folder_with_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / 'it\'s "so" :b'
    root.mkdir()
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(variable, f"sqlite:///{root}/mlruns/mlflow.db")
    assert runs.open_store(root) == f"sqlite:///{root}/mlruns/mlflow.db"
    (default,) = runs.mlflow.search_experiments()
    assert place.readable(default.artifact_location) == f"{root}/mlruns/0"


@pytest.mark.fault(kind="names", where="fetch", injected="an archive in a folder with `::`", before="no such file")
@pytest.mark.fault(now="copied")
def test_an_archive_is_copied_from_a_folder_with_colons(tmp_path: Path) -> None:
    (tmp_path / "a::b").mkdir()
    (tmp_path / "a::b" / "a.zip").write_bytes(PIXELS)
    (tmp_path / "resume").mkdir()
    download.download_file(str(tmp_path / "a::b" / "a.zip"), tmp_path / "c.zip", resume=tmp_path / "resume")
    assert (tmp_path / "c.zip").read_bytes() == PIXELS


@pytest.mark.fault(kind="names", where="make repro", injected="a project in a folder with signs of shells and of make")
@pytest.mark.fault(before="as now", now="runs the programs of its own environment")
def test_make_works_in_a_folder_with_an_odd_name(repo: Path, tmp_path: Path) -> None:
    root = tmp_path / 'it\'s "so" $HOME $(id) #&;%20é[*]`x`\\z'
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(repo / name, root / name)
    for name in ("dvc", "pneumonia", "python"):
        (programs / name).write_text('#!/bin/sh\necho ran "${0##*/}" "$@"\n')
        (programs / name).chmod(0o755)
    (root / ".venv" / ".place").write_text(f"{os.path.realpath(root)}\n")
    who = {f"GIT_{role}_{fact}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for fact in ("NAME", "EMAIL")}
    for command in (["git", "init", "-q"], ["git", "commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run(command, cwd=root, check=True, env=os.environ | who)
    (root / ".venv" / ".complete").touch()
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as `make test` is
    done = subprocess.run(["make", "repro"], cwd=root, env=outside, capture_output=True, text=True)
    ran = ["ran dvc repro", "ran pneumonia register --if-missing", "ran pneumonia report"]
    assert done.stdout.splitlines() == ["dvc repro", *ran]
