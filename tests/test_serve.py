"""The command `pneumonia serve`: how it begins and ends, and that it leaves nothing on the disk."""

import http.client
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner
from PIL import Image

from pneumonia import UserError, cli, serve
from pneumonia.images import decode
from pneumonia.models import predictor
from pneumonia.models.predictor import Predictor
from pneumonia.service.current import Current
from tests import predictors
from tests.conftest import files_under, noise, png
from tests.service.conftest import FORM, film, form

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return predictors.write(tmp_path / "predictor")


def test_a_port_that_is_taken_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(cli.main, ["serve", "--model", str(folder), "--port", str(port)])
    assert done.exit_code == 1
    line = done.output.splitlines()[-1]
    assert line.startswith(
        f"Error: cannot listen on 127.0.0.1, port {port} (OSError: [Errno 98] Address already in use"
    )
    assert line.endswith("choose another one: --port 8001")


def test_an_address_that_is_not_of_this_machine_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1, port 8000 .*choose another"):
        serve.serve(folder, host="192.0.2.1")


def test_a_name_that_no_machine_has_is_not_a_matter_of_the_port(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_server", fail)
    with pytest.raises(UserError, match=r"cannot listen on films, port 8000 .*--host 127") as error:
        serve.serve(folder, host="films")
    assert "--port" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "allowed", "address", "names"),
    [
        *(("127.0.0.1", [], "127.0.0.1", set()), ("0.0.0.0", [], "127.0.0.1", set()), ("::", [], "[::1]", set())),
        *(("0.0.0.0", ["Films.example"], "films.example", {"films.example"}), ("127.1.2.3", [], "127.1.2.3", set())),
        ("10.1.2.3", ["films.example"], "10.1.2.3", {"films.example"}),
    ],
)
def test_the_address_that_is_printed_can_be_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    host: str, allowed: list[str], address: str, names: set[str],
) -> None:  # fmt: skip
    known: set[str] = set()

    def server(service: Any, *, hosts: Any) -> MagicMock:
        known.update(hosts)
        return MagicMock()

    listener = MagicMock()
    listener.__enter__.return_value.getsockname.return_value = ("", 8000)
    monkeypatch.setattr(serve, "_listening", lambda host, port: listener)
    monkeypatch.setattr(serve, "server", server)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serve.serve(folder, host=host, allow_hosts=allowed)
    assert f" http://{address}:8000 (Ctrl+C ends it)" in capfd.readouterr().err
    assert known == names | {address}


def test_outside_of_a_project_a_folder_can_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor, "PRETRAINED", tmp_path / "nothing")
    done = CliRunner().invoke(cli.main, ["serve"])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].endswith("--model FOLDER")


def test_outside_of_a_project_a_network_that_ships_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor, "PRETRAINED", tmp_path)
    for name in ("compact", "mobilenet"):
        predictors.write(tmp_path / name)
    served = []
    monkeypatch.setattr(serve, "serve", lambda model, **_: served.append(Current(model, "youden").model.title))
    for arguments in ([], ["--model", "pretrained:compact"]):
        done = CliRunner().invoke(cli.main, ["serve", *arguments])
        assert done.exit_code == 0, done.output
    assert [title.partition(",")[0] for title in served] == ["pretrained:mobilenet", "pretrained:compact"]


@pytest.mark.parametrize("name", ["http://films.example", "films.example:80", "*", ""])
def test_a_name_to_allow_is_checked_before_anything_is_opened(name: str) -> None:
    with pytest.raises(UserError, match="is no host name; give a name or an address"):
        serve.serve("nowhere", allow_hosts=[name])


def test_a_model_that_does_not_exist_is_one_line_before_the_port_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; name a folder such as models/predictor"):
        serve.serve(tmp_path / "nowhere", host="192.0.2.1")


def test_a_secret_in_the_address_of_a_store_is_masked_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def lose(name: str, operating_point: str) -> None:
        serve.LOG.warning("no answer from %s", "https://me:hunter22@store.example/api?token=hunter33")
        raise UserError("lost")

    monkeypatch.setattr(serve, "Current", lose)
    with pytest.raises(UserError, match="lost"):
        serve.serve("models:/a@champion")
    line = capfd.readouterr().err
    assert "no answer from https://" in line
    assert "hunter" not in line


# --- as a process ---


class Process(NamedTuple):
    port: int
    running: subprocess.Popen[str]
    lines: list[str]

    def send(self, *files: tuple[str, bytes], path: str = "/v1/predict") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, form(*files), {"Content-Type": FORM})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer


@contextmanager
def process(
    folder: Path, *, cwd: Path, before: Callable[[], Any] | None = None, python: str = sys.executable, **variables: str
) -> Iterator[Process]:
    """`pneumonia serve` on a free port; it is ended, if it has not ended by itself."""
    command = [python, "-m", "pneumonia.cli", "serve", "--model", str(folder), "--port", "0"]
    environment = ENVIRONMENT | variables
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=before
    ) as running:
        try:
            lines: list[str] = []
            assert running.stderr
            for line in running.stderr:
                lines.append(line)
                if match := re.search(r"http://127\.0\.0\.1:(\d+) ", line):
                    break
            else:
                pytest.fail("".join(lines))
            yield Process(int(match[1]), running, lines)
        finally:
            if running.poll() is None:
                running.kill()
                running.wait(10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_is_answered_before_the_end(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    with process(folder, cwd=tmp_path) as service:
        body = form(("x", film()))
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:50])
            time.sleep(0.5)
            service.running.send_signal(number)
            time.sleep(0.5)
            client.sendall(body[50:])
            assert client.recv(4000).startswith(b"HTTP/1.1 200 ")
        assert service.running.wait(30) == 0
        assert service.running.stderr
        assert service.running.stderr.read().splitlines()[-1].endswith(" ended")


@pytest.mark.slow
def test_a_log_has_no_line_of_a_library_that_reads_a_damaged_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(file, "TIFF", compression="tiff_lzw")
    damaged = file.getvalue().replace(file.getvalue()[200:260], 60 * b"\xff")
    with pytest.raises(UserError):
        decode.decode(damaged)
    assert "Using code not yet in table" in capfd.readouterr().err
    with process(folder, cwd=tmp_path) as service:
        assert service.send(("x", damaged))[0] == 422
        service.running.send_signal(signal.SIGTERM)
        assert service.running.stderr
        lines = service.running.stderr.read().splitlines()
    assert [line.split(" ", 2)[2][:21] for line in lines] == ["POST /v1/predict 422 ", "ended"]


def no_more_files() -> None:
    """From now on every write to a file of the disk fails, as on a full one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.slow
def test_nothing_is_written_to_the_disk(folder: Path, tmp_path: Path) -> None:
    """In a folder without params.yaml and git, on a full disk, without a temporary folder."""
    (tmp_path / "empty").mkdir()
    before = files_under(tmp_path)
    with process(folder, cwd=tmp_path / "empty", before=no_more_files, TMPDIR="/nowhere", HOME="/nowhere") as service:
        large = png(noise(3000, 2000))
        assert len(large) > 5_000_000, "larger than what form readers keep in memory"
        status, body = service.send(("a.png", large), ("b.png", film()))
        assert status == 200
        assert [row["error"] for row in json.loads(body)["predictions"]] == ["", ""]
        assert service.send(("a.png", large), path="/v1/film")[0] == 200
        service.running.send_signal(signal.SIGTERM)
        assert service.running.wait(30) == 0
    assert files_under(tmp_path) == before


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_nothing(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pneumonia.cli", "serve", "--model", str(folder), "--port", str(port)]
    with open("/dev/full", "w") as full:
        running = subprocess.Popen(command, cwd=tmp_path, stderr=full, env=ENVIRONMENT)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    statuses = [Process(port, running, []).send(("x", film()))[0] for _ in range(3)]  # type: ignore[arg-type]
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    assert running.poll() is None
                    time.sleep(0.2)
            assert statuses == [200] * 3
        finally:
            running.terminate()
            assert running.wait(30) == 0


# --- the image of the service ---


def locked(name: str) -> dict[str, str]:
    """Package -> its entry in a lock, with version and hashes."""
    text = re.sub(r"^\s+#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {entry.split("==")[0]: entry.strip() for entry in re.split(r"\n(?=[a-z0-9])", text)}


def test_the_service_has_the_versions_of_the_workflow() -> None:
    whole, service = locked("requirements.lock"), locked("requirements-serve.lock")
    version = re.compile(r"==(\S+)")
    for name, entry in service.items():
        assert version.findall(entry) == version.findall(whole[name]), name
        assert set(re.findall(r"sha256:\w+", entry)) == set(re.findall(r"sha256:\w+", whole[name])), name
    assert not {"tensorflow", "keras", "mlflow", "pandas", "scipy"} & set(service)


def test_the_service_needs_no_other_package_than_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dicom"]]
    assert set(project["dependency-groups"]["serve"]) <= {re.split(r"[\[>=]", one)[0] for one in named}


@pytest.mark.slow
def test_a_folder_is_served_with_its_maps_where_only_these_packages_are(tmp_path: Path) -> None:
    folder = predictors.write_with_maps(tmp_path / "predictor")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    lock = ("--require-hashes", "--no-compile", "-r", ROOT / "requirements-serve.lock")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *lock], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    # The project itself as `pip install --no-deps .` leaves it: its code, and its name and version.
    shutil.copytree(ROOT / "src" / "pneumonia", tmp_path / "site" / "pneumonia")
    with process(folder, cwd=tmp_path, python=python, PYTHONPATH=str(tmp_path / "site")) as service:
        status, body = service.send(("x", film()))
        assert status == 200
        assert json.loads(body)["predictions"][0]["score"] == next(Predictor(folder).scores([film()])).score
        status, body = service.send(("x", film()), path="/v1/saliency")
        assert (status, body[:4]) == (200, b"\x89PNG")


def test_the_image_is_made_of_the_lock_and_runs_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements-serve.lock" in text
    assert re.search(r"^USER \d+", text, flags=re.MULTILINE)
    assert "HEALTHCHECK" in text
    assert "/ready" in text
    for path in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / name).exists() or name.startswith("models/") for name in path.split())


def test_the_project_itself_is_not_part_of_the_image() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[0].startswith("#")
    assert {"src", "pyproject.toml", "requirements-serve.lock", "models/predictor"} <= {one.strip("/") for one in kept}
