"""Names of files, patients and answers of servers as an attacker chooses them: no script runs, no terminal obeys."""

from __future__ import annotations

import base64
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mistune
import numpy as np
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image

import stages
from pneumonia import UserError, cli, fetch, predict, validate
from pneumonia.data import download
from pneumonia.images import decode
from pneumonia.report import page
from pneumonia.report.page import Picture, Section, Table
from tests.conftest import png

PIXELS = png(np.full((20, 20), 90, np.uint8))

MARKUP = {
    "an image that fails": "<img src=x onerror=alert(1)>",
    "a drawing with a handler": "<svg onload=alert(1)>",
    "a script": "<script>alert(1)</script>",
    "the end of an attribute": "\"><img src=x onerror='alert(1)'>",
    "the end of the title": "</title></style></script><script>alert(1)</script>",
    "a link in Markdown": "[a](javascript:alert(1))",
    "a picture in Markdown": "![a](javascript:alert(1))",
    "a definition of a link in Markdown": "[a]: javascript:alert(1)\n\n[a]",
    "an address in Markdown": "<javascript:alert(1)>",
    "an entity": "&lt;script&gt;alert(1)&#60;/script>",
    "a template": "{{ 7 * 7 }}{% raw %}${7*7}",
    "a code block in Markdown": "```\n</code><script>alert(1)</script>",
}


def sections(name: str) -> list[Section]:
    """A page with a name wherever a page can have one."""
    return [Section(name, [name, Table((name, name), [(name, name)], name), Picture(name, PIXELS), name])]


class Elements(HTMLParser):
    """The elements of a page, and of their attributes those that could do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[tuple[str, str | None]] = []
        self.text, self.policy = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = str(dict(attributes)["content"])
        self.active += [
            (name, value)
            for name, value in attributes
            if name.startswith("on") or (name in ("href", "src") and not str(value).startswith(("#", "data:image/")))
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(before: str, *as_now: str) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                id=what,
                marks=pytest.mark.fault(
                    injected=f"a name that is {what}", before="as now" if what in as_now else before
                ),
            )
            for what, name in MARKUP.items()
        ],
    )


@rows("text, in a page that allowed scripts")
@pytest.mark.fault(kind="injection", where="pages in HTML", now="text; and the page allows no script")
def test_a_name_is_text_in_html(name: str) -> None:
    read = Elements(page.html(name, name, sections(name)))
    harmless = Elements(page.html("a", "a", sections("a")))
    assert read.tags == harmless.tags
    assert read.active == []
    assert read.text.count(name) == Elements(page.html("plain", "plain", sections("plain"))).text.count("plain")
    assert "default-src 'none'" in read.policy
    assert "script" not in read.policy


@rows("active: an element, a link or a block of code", "an entity", "a template")
@pytest.mark.fault(kind="injection", where="model_card.md", now="text, in two programs that show Markdown")
def test_a_name_is_text_in_markdown(name: str) -> None:
    text = page.markdown(name, name, sections(name))
    for shown in (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(text),
        str(mistune.create_markdown(escape=False, plugins=["table", "url"])(text)),
    ):
        read = Elements(shown)
        assert read.tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "em"}
        assert read.active == []


@pytest.mark.fault(kind="injection", where="data report", injected="a name with markup, twice: `<`, and scripts")
@pytest.mark.fault(before="an element of the page, which loads scripts from other sites", now="no script is left")
def test_the_data_report_keeps_no_script() -> None:
    head = "<!DOCTYPE html>\n<html>\n  <head><script\n src='https://host/x.js'></script></head>"
    source = f"{head}<b>&lt;b&gt;</b><SCRIPT>1</SCRIPT>"
    text = validate._without_scripts(source)
    assert "script>" not in text.lower()
    assert text.count("default-src 'none'") == 1
    assert text.index("Content-Security-Policy") < text.index("<b>&lt;b&gt;</b>")


# A terminal.

ORDERS = {
    "an order that clears the screen": "a\x1b[2J",
    "an order that sets the title": "a\x1b]0;title\x07",
    "an order of one byte": "a\x9b2J",
    "a return to the start of the line": "ERROR\rall is well",
    "a further line": "a\nregistered as champion",
    "a separator of lines": "a\u2028b",
    "a change of the direction of writing": "a\u202egpj.b",
}


def orders(before: str) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        "text",
        [
            pytest.param(text, id=what, marks=pytest.mark.fault(injected=f"a text with {what}", before=before))
            for what, text in ORDERS.items()
        ],
    )


def is_plain(printed: str) -> bool:
    return all(line.isprintable() for line in printed.removesuffix("\n").split("\n"))


@orders("obeyed by the terminal")
@pytest.mark.fault(kind="injection", where="a line of a stage, an error, a note, a retry", now="shown as an escape")
def test_a_terminal_obeys_no_text(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)

    def fail() -> None:
        raise UserError(f"{text}: no such file; restore it")

    stages.show(f"4 images of 2 patients (3 {text}, 1 normal)")
    with pytest.raises(SystemExit) as end:
        stages.run(fail)
    fetch._note(f"1 file is not read (texts): {text}")
    assert str(end.value).isprintable()
    assert len(str(end.value).splitlines()) == 1
    printed = capsys.readouterr().out
    assert is_plain(printed)
    assert len(printed.splitlines()) == 2

    shown = CliRunner().invoke(cli.main, ["predict", "a.png", "--model", text])
    assert shown.exit_code == 1
    assert is_plain(shown.output)
    assert len(shown.output.splitlines()) == 1

    numbers = ("probability", "threshold", "score")
    fields = [name for name in predict.Prediction._fields if name != "boxes"]  # which are numbers
    answer = predict.Prediction(**{name: 0.5 if name in numbers else text for name in fields})
    row = predict.row_of(answer, dict.fromkeys(("model", "version", "data", "caution"), text))
    for form in (predict.as_text, predict.as_csv, predict.as_json_lines):
        assert is_plain(form([row], True))


@contextmanager
def answering(status: bytes) -> Iterator[str]:
    """The address of a server that gives this line to each request, and ends."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(2**16)
                    connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.zip"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(b"503 \x1b[2Jno", id="retried", marks=pytest.mark.fault(injected="a status line with an order")),
        pytest.param(b"418 \x1b]0;t\x07no", id="refused", marks=pytest.mark.fault(injected="a refusal with an order")),
    ],
)
@pytest.mark.fault(kind="injection", where="download", before="obeyed by the terminal", now="shown as an escape")
def test_a_terminal_obeys_no_server(status: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load() -> None:
        with answering(status) as url:
            download.download_file(url, tmp_path / "a.zip", resume=tmp_path, pauses=(0.0,))

    with pytest.raises(SystemExit) as end:
        stages.run(load)
    assert "\\x1b" in str(end.value)
    assert str(end.value).isprintable()
    assert is_plain(capsys.readouterr().out)


# Tables that a spreadsheet program opens.


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name[:2], marks=pytest.mark.fault(injected=f"a file whose name begins with {name[0]!r}"))
        for name in ("=cmd|x!A0.png", "+1.png", "-1.png", "@SUM(1).png", "\t=1.png")
    ],
)
@pytest.mark.fault(kind="injection", where="predict --output", before="a formula in a spreadsheet program")
@pytest.mark.fault(now="a path that names the same file and is no formula")
def test_no_answer_begins_like_a_formula(name: str, in_project: Path) -> None:
    Path(name).write_bytes(PIXELS)
    items, _ = predict.find([name, "*.png"])
    assert {item.name for item in items} == {f"./{name}"}
    assert all(Path(item.uri).read_bytes() == PIXELS for item in items)


@pytest.mark.fault(kind="injection", where="predict --html", injected="a drawing (SVG) named as a picture")
@pytest.mark.fault(before="as now", now="a row with an error; only PNG and JPEG are embedded in a page")
def test_a_drawing_is_no_film() -> None:
    with pytest.raises(UserError, match="not an image"):
        decode.decode(b"<svg onload=alert(1)>")
    assert Picture("a", b"<svg onload=alert(1)>").data_url.startswith("data:image/jpeg;base64,")


# A browser.

CHROMIUM = "/usr/bin/chromium"
browser = pytest.mark.skipif(not os.access(CHROMIUM, os.X_OK), reason="Chromium is not installed")


class Canary:
    """A server that notes which paths are asked for. A script that runs asks for one."""

    def __init__(self) -> None:
        paths: list[str] = []

        class Note(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.paths = paths
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Note)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def markup(self, sign: str = "") -> str:
        """An element whose script asks for `/<sign>`; it has no `/`, so that it can be the name of a file."""
        script = f"document.title='XSS';new Image().src='http://127.0.0.1:{self.server.server_port}/{sign}'"
        code = base64.b64encode(script.encode()).decode().replace("/", "\\x2f")
        return f"<img src=x onerror=eval(atob('{code}'))>"


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    one = Canary()
    yield one
    one.server.shutdown()
    one.server.server_close()


def opened(url: str, profile: Path) -> str:
    """The page at an address after its scripts have run, as HTML."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    options = ["--virtual-time-budget=20000", f"--user-data-dir={profile}", url]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=True).stdout


ODD = 'it\'s "so" $HOME #&;%20é表[*]`x`\\z :b::c'
N_PATIENTS = 24


def attack(path: Path, markup: str) -> None:
    """An archive in which every name is markup: of the file, of its folder, which is the patient, and of the archive.

    It also has names of 300 bytes, formulas, and two pairs of images that look alike under two patients.
    """
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2 * N_PATIENTS):
            folder = "PNEUMONIA" if number % 2 else "NORMAL"
            pixels = rng.integers(0, 256, (24, 24)) // (1 if number % 2 else 2)
            image = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC))
            end = ("x" * 260, "$x^{$", "=1+1", "{0} %s $HOME `id`")[number % 4]
            names = [f"{folder}/{markup}{number}/{markup}{number}{end}.png"]
            if number < 2:
                names.append(f"{folder}/{markup}copy{number}/{markup}.png")
            for copy, name in enumerate(names):
                changed = image.copy()
                changed[0, 0] ^= copy
                archive.writestr(name, png(changed))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, canary: Canary) -> Any:
    """A project in a folder with an odd name, after `dvc repro` on an archive with hostile names."""
    from tests.test_end_to_end import Project

    above = tmp_path_factory.mktemp("attacked") / ODD
    above.mkdir()
    project = Project(above / "project")
    attack(above / "images.zip", canary.markup("file"))
    project.set({"data": "folder", "fetch.url": "../images.zip", "validate.max_bad_fraction": 0.2})
    project.first = project.dvc("repro", PYTHONPATH=os.pathsep.join(["src", "."]))
    return project


@pytest.mark.slow
@pytest.mark.fault(kind="names", where="dvc repro", injected=f"a project in the folder {ODD}, and odd names of files")
@pytest.mark.fault(before="failed when the store was made", now="all stages run; nothing lies beside the project")
def test_the_whole_workflow_runs_with_odd_names(attacked: Any) -> None:
    assert "champion is version 1" in attacked.first
    assert sorted(os.listdir(attacked.folder.parent)) == ["images.zip", "project"]
    assert os.listdir(attacked.folder.parent.parent) == [ODD]


@pytest.fixture(scope="module")
def pages(attacked: Any, canary: Canary) -> dict[str, Path]:
    """The pages of the attacked project, by what they are; and one that is not escaped."""
    from pneumonia.report import comparison
    from tests.test_compare import compared

    folder, markup = attacked.folder, canary.markup("file")
    for command in (["predict", "data/raw/folder.zip", "--html", "answers.html"], ["report"]):
        attacked.run(sys.executable, "-m", "pneumonia.cli", *command, PYTHONPATH="src")
    titles = {"A": (markup, markup), "B": (markup, markup)}
    settings = {"A": {markup: markup}, "B": {markup: "other"}}
    comparison.write(folder / "compare.html", compared(), titles, settings, [(markup, PIXELS)])
    (folder / "unescaped.html").write_text(f"<html><title>a</title><p>{canary.markup('unescaped')}</p></html>")
    (report,) = (folder / "reports" / "data_docs" / "validations" / "images").rglob("*.html")
    return {
        "data report": report,
        "data page": folder / "reports" / "data.html",
        "run page": folder / "reports" / "report.html",
        "model card": folder / "reports" / "model_card.html",
        "comparison": folder / "compare.html",
        "answers": folder / "answers.html",
        "unescaped": folder / "unescaped.html",
    }


BEFORE = {
    "data report": "the script ran",
    "data page": "there was no such page",
    "run page": "there was no such page",
    "model card": "as now",
    "comparison": "as now",
    "answers": "as now",
}


def rows_of_pages(where: str) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.fault(where=f"{where}: {name}", before=before))
            for name, before in BEFORE.items()
        ],
    )


@browser
@pytest.mark.slow
@rows_of_pages("Chromium")
@pytest.mark.fault(kind="injection", injected="a script in the names of all files and patients", now="no script runs")
def test_no_script_of_a_name_runs_in_a_page(name: str, pages: dict[str, Path], canary: Canary, tmp_path: Path) -> None:
    source = pages[name].read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=" in source, "the name is on the page"
    shown = opened(pages[name].as_uri(), tmp_path)
    assert "<title>XSS</title>" not in shown
    assert "/file" not in canary.paths


@browser
@pytest.mark.slow
@pytest.mark.fault(kind="injection", where="Chromium", injected="the same script, not escaped", before="as now")
@pytest.mark.fault(now="the script runs: the tests beside this one can fail")
def test_a_script_that_is_not_escaped_runs(pages: dict[str, Path], canary: Canary, tmp_path: Path) -> None:
    assert "<title>XSS</title>" in opened(pages["unescaped"].as_uri(), tmp_path)
    assert canary.paths.count("/unescaped") > 0


@pytest.fixture(scope="module")
def ui(attacked: Any, pages: dict[str, Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of the MLflow UI of the project, and the paths of the pages in it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = _client(attacked.folder)
    experiment = client.get_experiment_by_name("pneumonia-folder")
    run = client.create_run(experiment.experiment_id)
    for path in pages.values():
        client.log_artifact(run.info.run_id, str(path))
    routes = {
        name: f"#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/artifacts/{path.name}"
        for name, path in pages.items()
    }
    environment = attacked.environment | {"PYTHONPATH": "src"}
    server = subprocess.Popen(
        [sys.executable, "-m", "pneumonia.cli", "ui", "--port", str(port)],
        cwd=attacked.folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/", routes
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _client(folder: Path) -> Any:
    from pneumonia.tracking import runs, sqlite

    uri = sqlite.uri(folder / "mlruns" / "mlflow.db")
    return runs.mlflow.MlflowClient(uri, registry_uri=uri)


@browser
@pytest.mark.slow
@rows_of_pages("MLflow UI")
@pytest.mark.fault(kind="injection", injected="a script in the names of all files and patients", now="no script runs")
def test_no_script_of_a_name_runs_in_the_mlflow_ui(
    name: str, ui: tuple[str, dict[str, str]], canary: Canary, tmp_path: Path
) -> None:
    address, routes = ui
    shown = opened(address + routes[name], tmp_path)
    assert "iframe" in shown, "the page is shown"
    assert "<title>XSS</title>" not in shown
    assert "/file" not in canary.paths


@browser
@pytest.mark.slow
@pytest.mark.fault(kind="injection", where="MLflow UI", injected="the same script, not escaped", before="as now")
@pytest.mark.fault(now="the script runs: the tests beside this one can fail")
def test_a_script_that_is_not_escaped_runs_in_the_mlflow_ui(
    ui: tuple[str, dict[str, str]], canary: Canary, tmp_path: Path
) -> None:
    address, routes = ui
    before = canary.paths.count("/unescaped")
    opened(address + routes["unescaped"], tmp_path)
    assert canary.paths.count("/unescaped") > before
