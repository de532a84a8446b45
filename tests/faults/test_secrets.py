"""Passwords and tokens are refused in settings, sent to one host, shown to nobody and stored nowhere."""

from __future__ import annotations

import base64
import csv
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pneumonia import UserError, cli, credentials, fetch, params
from pneumonia.credentials import Credentials
from pneumonia.data import download
from tests import predictors
from tests.conftest import ROOT, noise, png, set_settings
from tests.faults.hostile import HERE, Request, Server, serving

pytestmark = pytest.mark.fault(kind="secret", where="fetch")

USER, PASSWORD, TOKEN = "reader", "Hunter2pw", "Tok3nTok3n"
MINE = Credentials(USER, PASSWORD, f"token={TOKEN}")
SECRETS = (PASSWORD, TOKEN, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
VALUES: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def fault(injected: str, before: str, now: str) -> pytest.MarkDecorator:
    return pytest.mark.fault(injected=injected, before=before, now=now)


def assert_silent(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text, text


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user with credentials, and limits of parts of a second."""
    monkeypatch.setenv("no_proxy", f"{HERE},localhost")
    monkeypatch.setenv("NETRC", os.devnull)
    for name, value in zip((credentials.USER, credentials.PASSWORD, credentials.QUERY), _fields(MINE), strict=True):
        monkeypatch.setenv(name, value)


def _fields(mine: Credentials) -> tuple[str, str, str]:
    return mine.user, mine.password, mine.query


# --- settings ---

STORED = "in dvc.lock, DVC's run cache, MLflow, both cards, source.json"
REFUSED = "refused in one line without the secret"


@pytest.mark.parametrize(
    ("key", "address"),
    [
        pytest.param(key, address, marks=pytest.mark.fault(injected=f"{key} = {shown}", before=before, now=REFUSED))
        for key, address, shown, before in (
            (
                "fetch.url",
                f"http://{USER}:{PASSWORD}@HOST/x.zip?token={TOKEN}",
                "http://USER:PW@HOST?token=T",
                STORED,
            ),
            ("fetch.url", f"https://{TOKEN}@HOST/x.zip", "https://TOKEN@HOST/x.zip", STORED),
            ("fetch.url", f"https://HOST/x.zip?sv=1&sig={TOKEN}", "an Azure SAS", STORED),
            ("fetch.url", f"https://HOST/x.zip?X-Amz-Signature={TOKEN}", "a presigned URL of S3", STORED),
            ("fetch.url", f"https://HOST/x.zip?X-Goog-Signature={TOKEN}", "a presigned URL of Google", STORED),
            ("fetch.url", f"https://HOST/x.zip?v=1&api%5Fkey={TOKEN}", "an encoded api_key", STORED),
            ("fetch.url", f"https://HOST/x.zip#access_token={TOKEN}", "a token in the fragment", STORED),
            ("fetch.url", f"ftp://{USER}:{PASSWORD}@HOST/x.zip", "ftp://USER:PW@HOST", STORED),
            ("fetch.url", f"simplecache::https://{USER}:{PASSWORD}@HOST/x", "a chain of file systems", STORED),
            ("fetch.url", f"https://{USER}:{PASSWORD} x/{PASSWORD}@HOST/x", "a password with space and slash", STORED),
            (
                "weights",
                f"https://HOST/w.h5?token={TOKEN}",
                "https://HOST/w.h5?token=T",
                "an error line with the token",
            ),
            ("compute.dask", f"tcp://{USER}:{PASSWORD}@HOST:8786", "tcp://USER:PW@HOST:8786", "in MLflow"),
            ("data", f"https://HOST/x.zip?token={TOKEN}", "a URL as data", "an error line with the token"),
            ("fetch.sha256", f"https://HOST/x.zip?token={TOKEN}", "a URL as sha256", "an error line with the token"),
            ("fetch.classes", {"normal": [f"https://HOST/?key={TOKEN}"]}, "a URL as class", "in MLflow"),
            ("train.epochs", f"https://HOST/x.zip?token={TOKEN}", "a URL as number", "an error line with the token"),
        )
    ],
)
@pytest.mark.fault(where="params.yaml")
def test_an_address_with_a_secret_is_refused(key: str, address: Any, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    set_settings(path, {key: address})
    with pytest.raises(UserError) as caught:
        params.load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {key.removesuffix('.normal')}")
    assert "take secrets out of the address" in line
    assert "git checkout params.yaml" in line
    assert "\n" not in line
    assert_silent(line)


@pytest.mark.fault(where="params.yaml")
@fault("a token in a file that is no YAML", "an error line with the token", "one line without the token")
def test_a_file_that_is_no_yaml_is_not_quoted_with_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"url: http://{USER}:{PASSWORD}@HOST/x?token={TOKEN} : more\n")
    with pytest.raises(UserError, match="not valid YAML") as caught:
        params.load(tmp_path / "params.yaml")
    assert_silent(str(caught.value))


@pytest.mark.fault(where="params.yaml")
@fault("a query without a secret", "as now", "allowed, and shown as it is")
def test_other_queries_are_allowed() -> None:
    url = "https://HOST/x.zip?download=1&version=2&keyword=chest"
    values = VALUES | {"fetch": VALUES["fetch"] | {"url": url}}
    assert params.check(values, "params.yaml").fetch.url == url


# --- requests ---

ARCHIVE = random.Random(4).randbytes(150_000)


def guarded(request: Request, content: bytes = ARCHIVE) -> None:
    """The file, for those with user, password and token."""
    basic = f"Basic {SECRETS[2]}"
    if request.headers["Authorization"] != basic:
        request.say(401, WWW_Authenticate="Basic")
    elif parse_qs(urlsplit(request.path).query).get("token") != [TOKEN]:
        request.say(403)
    else:
        request.say(200, content, ETag='"1"')


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "resume").mkdir()
    return tmp_path / "a.zip", tmp_path / "resume"


def downloaded(url: str, folders: tuple[Path, Path], mine: Credentials = MINE, **how: Any) -> bytes:
    target, resume = folders
    download.download_file(url, target, resume=resume, credentials=mine, **({"pauses": (0, 0)} | how))
    return target.read_bytes()


def refused(url: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    """The line of the error; neither it nor what was printed nor what is kept has a secret."""
    with pytest.raises(UserError) as caught:
        downloaded(url, folders, **how)
    printed = capsys.readouterr()
    assert_silent(f"{caught.value}{caught.value!r}{printed.out}{printed.err}")
    for path in folders[1].rglob("*"):
        assert_silent(path.read_bytes().decode("latin-1"))
    return str(caught.value)


@fault("a server with basic authentication and a token", "only with both in fetch.url", "with both in the environment")
def test_credentials_of_the_environment_reach_the_server(folders: tuple[Path, Path]) -> None:
    with serving(guarded) as server:
        assert downloaded(f"{server.url}/x.zip?v=2", folders, credentials.from_environment()) == ARCHIVE
        assert {request.path for request in server.requests} == {f"/x.zip?v=2&token={TOKEN}"}


@fault("a break in the middle of a guarded file", "only with both in fetch.url", "continued; the secret is not kept")
def test_a_guarded_download_continues(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    def cut(request: Request) -> None:
        begun = re.fullmatch(r"bytes=(\d+)-\d+", request.headers["Range"] or "")
        assert request.headers["Authorization"]
        assert TOKEN in request.path
        start = int(begun[1]) if begun else 0
        more = {"Content_Range": f"bytes {start}-149999/150000"} if begun else {}
        length = len(ARCHIVE) - start
        request.say(206 if begun else 200, ARCHIVE[start : start + 70_000], Content_Length=length, ETag='"1"', **more)
        request.cut()

    with serving(cut) as server:
        assert "bytes arrived" in refused(f"{server.url}/x.zip", folders, capsys, pauses=())
        assert downloaded(f"{server.url}/x.zip", folders) == ARCHIVE


@pytest.mark.parametrize(
    ("status", "mine"),
    [
        pytest.param(401, Credentials(USER, "another"), marks=fault("401", "in the error line", "not shown")),
        pytest.param(403, Credentials(USER, PASSWORD), marks=fault("403", "in the error line", "not shown")),
        pytest.param(404, MINE, marks=fault("404", "in the error line", "not shown")),
        pytest.param(500, MINE, marks=fault("500", "in the error line and the lines of attempts", "not shown")),
        pytest.param(0, MINE, marks=fault("a cut in the first line", "in the error line", "not shown")),
    ],
)
def test_no_error_shows_a_secret(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], status: int, mine: Credentials
) -> None:
    def answer(request: Request) -> None:
        if status in (401, 403):
            guarded(request)
        elif status:
            request.say(status)
        else:
            request.cut()

    with serving(answer) as server:
        line = refused(f"{server.url}/x.zip", folders, capsys, mine=mine)
    assert line.startswith(f"{server.url}/x.zip: ")


@fault("a closed port", "in the error line", "not shown")
def test_an_unreachable_server_shows_no_secret(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "the download failed (ClientConnectorError" in refused(f"http://{HERE}:1/x.zip", folders, capsys)


@fault("a proxy with a password that cannot be reached", "as now", "the password is not shown")
def test_the_password_of_a_proxy_is_not_shown(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{USER}:{PASSWORD}@{HERE}:1")
    assert "the download failed (" in refused("http://archive.invalid/x.zip", folders, capsys, pauses=())


def elsewhere(server: Server) -> str:
    """The address of a server under another name."""
    return f"http://localhost:{server.server_port}"


@pytest.mark.parametrize(
    "same_name",
    [
        pytest.param(False, marks=fault("a redirect to another host", "not tried", "no credentials")),
        pytest.param(True, marks=fault("a redirect to another port", "not tried", "no credentials")),
    ],
)
def test_a_redirect_is_followed_without_credentials(folders: tuple[Path, Path], same_name: bool) -> None:
    with serving(lambda request: request.say(200, ARCHIVE)) as other:
        target = other.url if same_name else elsewhere(other)
        with serving(lambda request: request.say(302, Location=f"{target}/y.zip")) as server:
            assert downloaded(f"{server.url}/x.zip", folders) == ARCHIVE
        for request in other.requests:
            assert request.path == "/y.zip"
            assert "Authorization" not in request.headers
            assert_silent(str(request.headers))


@fault(
    "a redirect that carries the query to another host", "followed with the token", "one line; the host is not asked"
)
def test_a_redirect_with_the_token_is_refused(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda request: request.say(200, ARCHIVE)) as other:
        with serving(lambda request: request.say(302, Location=f"{elsewhere(other)}{request.path}")) as server:
            line = refused(f"{server.url}/x.zip", folders, capsys)
        assert other.requests == []
    assert "a redirect of the secret in PNEUMONIA_FETCH_QUERY to http://localhost:" in line
    assert "; do not use this server, or download" in line


@fault("a redirect to a signed address that is refused", "the signature in the error line", "the signature is masked")
def test_the_signature_of_a_redirect_is_masked(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    def answer(request: Request) -> None:
        request.say(302, Location=f"file:///x.zip?X-Amz-Signature={TOKEN}")

    with serving(answer) as server:
        assert "file:///x.zip?X-Amz-Signature=***" in refused(f"{server.url}/x.zip", folders, capsys)


@fault("credentials in netrc", "as now", "sent to their host only")
def test_a_netrc_file_is_used(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine {HERE} login {USER} password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(lambda request: request.say(200, ARCHIVE)) as other:

        def answer(request: Request) -> None:
            authorized = request.headers["Authorization"] == f"Basic {SECRETS[2]}"
            request.say(302 if authorized else 401, Location=f"{elsewhere(other)}/y.zip")

        with serving(answer) as server:
            assert downloaded(f"{server.url}/x.zip", folders, Credentials()) == ARCHIVE
        assert all("Authorization" not in request.headers for request in other.requests)


@fault("a table at a URL, and credentials", "only with both in fetch.url, then in manifest.csv", "one line with a way")
def test_a_table_at_a_url_needs_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="later stages read the images of a table at their place, without the cred"):
        fetch.fetch(
            "folder",
            tmp_path,
            url="https://HOST/labels.csv",
            sha256=None,
            n_images=40,
            seed=1,
            workers=1,
            resume=tmp_path,
            credentials=MINE,
        )


# --- the store ---


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        pytest.param(
            f"http://{USER}:{PASSWORD}@{HERE}:1",
            f"http://{HERE}:1",
            marks=fault("a server with user and password", "in error lines and in the lines of each run", "not shown"),
        ),
        pytest.param(
            f"nonsense://{USER}:{PASSWORD}@{HERE}/db?password={PASSWORD}",
            f"nonsense://***@{HERE}/db?password=***",
            marks=fault("a database with a password that cannot be used", "in error lines", "masked"),
        ),
    ],
)
@pytest.mark.fault(where="MLFLOW_TRACKING_URI")
def test_the_address_of_the_store_is_shown_without_its_password(
    in_project: Path, monkeypatch: pytest.MonkeyPatch, uri: str, shown: str
) -> None:
    import mlflow

    from pneumonia.tracking import runs

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    try:
        with pytest.raises(UserError) as caught, runs.as_user_error(runs.open_store()):
            mlflow.MlflowClient().search_experiments()
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    assert f"the MLflow store {shown} cannot be " in str(caught.value)
    assert_silent(str(caught.value))
    if uri.startswith("http"):
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == USER
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == PASSWORD


# --- the stage, and DVC ---


def images() -> bytes:
    """A small archive that the stage understands, padded so that it arrives in several blocks."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(4):
            for name in ("NORMAL", "PNEUMONIA"):
                archive.writestr(f"{name}/p{name[0]}{number}/a.png", png(noise(64, 64, seed=number + 10 * len(name))))
    return content.getvalue()


def project(folder: Path, database: Path) -> Path:
    """A copy of what the stage `fetch` needs with an empty store, as a git repository."""
    (folder / "mlruns").mkdir(parents=True)
    shutil.copyfile(database, folder / "mlruns" / "mlflow.db")
    for name in (
        "stages",
        "src",
        "dvc.yaml",
        "params.yaml",
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        ".gitignore",
    ):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def command(*words: str, folder: Path) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    variables |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / ".home"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def assert_nowhere(folder: Path, output: str) -> None:
    """No file of a project and its store has a secret; nor has what was printed."""
    assert_silent(output)
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in SECRETS:
                assert secret.encode() not in content, path


@pytest.fixture
def files() -> Iterator[Server]:
    content = images()

    def answer(request: Request) -> None:
        path = urlsplit(request.path).path
        if path == "/missing.zip":
            request.say(404)
        elif path == "/slow.zip" and request.command == "GET":
            request.say(200, content[:1000], Content_Length=len(content), ETag='"1"')
            request.pause(20)
        else:
            guarded(request, content)

    with serving(answer) as server:
        yield server


@pytest.mark.slow
@fault("python -m stages.fetch: success, 404, killed; dvc repro fetch", STORED, "no file and no output has a secret")
def test_no_secret_is_anywhere_after_success_after_a_404_and_after_a_kill(
    files: Server, tmp_path: Path, empty_database: Path
) -> None:
    folder = project(tmp_path / "project", empty_database)

    def ended(*words: str, path: str) -> tuple[int, str]:
        set_settings(folder / "params.yaml", {"data": "folder", "fetch.url": f"{files.url}/{path}"})
        process = command(*words, folder=folder)
        output = process.communicate(timeout=400)[0]
        return process.returncode, output

    status, output = ended("stages.fetch", path="missing.zip")
    assert status == 1, output
    assert f"ERROR: {files.url}/missing.zip: no such file; correct fetch.url" in output
    assert_nowhere(folder, output)

    set_settings(folder / "params.yaml", {"fetch.url": f"{files.url}/slow.zip"})
    process = command("stages.fetch", folder=folder)
    while not list(folder.glob(".resume/fetch/*/part")) or not next(folder.glob(".resume/fetch/*/part")).stat().st_size:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert_nowhere(folder, process.communicate()[0])

    status, output = ended("stages.fetch", path="x.zip?version=2")
    assert status == 0, output
    assert f"{files.url}/x.zip?version=2" in (folder / "data/raw/source.json").read_text()
    assert_nowhere(folder, output)

    status, output = ended("dvc", "repro", "fetch", path="x.zip?version=3")
    assert status == 0, output
    assert (folder / "dvc.lock").is_file()
    assert_nowhere(folder, output)
    assert_nowhere(tmp_path, "")


def git_objects(folder: Path) -> bytes:
    """The content of all objects of a repository, also of those that nothing names."""
    listed = ["git", "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(listed, cwd=folder, check=True, capture_output=True).stdout


@pytest.mark.slow
@fault("dvc exp run -S fetch.url=http://USER:PW@HOST", STORED, "refused; left in params.yaml and in one object of git")
def test_what_dvc_itself_writes_is_known_and_can_be_removed(
    files: Server, tmp_path: Path, empty_database: Path
) -> None:
    folder = project(tmp_path / "project", empty_database)
    url = f"http://{USER}:{PASSWORD}@{HERE}:{files.server_port}/x.zip?token={TOKEN}"
    words = ("exp", "run", "-S", "data=folder", "-S", f"fetch.url='{url}'")
    process = command("dvc", *words, "fetch", folder=folder)
    output = process.communicate(timeout=400)[0]
    assert process.returncode
    assert "ERROR: params.yaml: fetch.url = http://***@" in output
    assert_silent(output)
    assert files.requests == []

    queued = command("dvc", *words, "--queue", folder=folder)
    queued.communicate(timeout=400)
    holders = {path.name for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()}
    assert holders == {"params.yaml"}
    assert PASSWORD.encode() in git_objects(folder)

    # As docs/data.md says.
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=folder, check=True)
    command("dvc", "exp", "remove", "--queue", folder=folder).communicate(timeout=400)
    subprocess.run(["git", "gc", "-q", "--prune=now"], cwd=folder, check=True)
    assert_nowhere(folder, git_objects(folder).decode("latin-1"))


# --- answers ---


@pytest.mark.fault(
    where="predict, lungs", injected="addresses with a password or a token, of a film, of none, of no server"
)
@pytest.mark.fault(before="both in the tables and the page", now="masked; the films are read")
def test_answers_do_not_go_on_with_the_secrets_of_addresses(tmp_path: Path) -> None:
    film = png(noise(40, 40, 1))

    def answer(request: Request) -> None:
        allowed = f"key={TOKEN}" in request.path or request.headers.get("Authorization")
        request.say(*((200, film) if allowed else (404,)))

    model, page, table = predictors.write(tmp_path / "model"), tmp_path / "page.html", tmp_path / "answers.csv"
    with serving(answer) as server:
        host = server.url.removeprefix("http://")
        addresses = [
            f"{server.url}/a.png?key={TOKEN}",
            f"http://{USER}:{PASSWORD}@{host}/b.png",
            f"{server.url}/none.png?token={TOKEN}",
            f"http://{USER}:{PASSWORD}@{HERE}:9/c.png",
            f"http://{USER}:{PASSWORD}@{HERE}:9/*.png",
            f"http://{USER}:it's {PASSWORD}@{HERE}:9/d.png",
        ]
        options = ["--model", str(model), "--html", str(page)]
        printed = CliRunner().invoke(cli.main, ["predict", *addresses, *options])
        again = CliRunner().invoke(cli.main, ["predict", *addresses, *options, "--output", str(table)])
        resumed = CliRunner().invoke(cli.main, ["predict", *addresses, *options, "--output", str(table)])
        lungs = CliRunner().invoke(cli.main, ["lungs", *addresses, "--output", str(tmp_path / "lungs")])
    assert (printed.exit_code, again.exit_code, resumed.exit_code, lungs.exit_code) == (1, 1, 1, 1)
    said = (printed.output, again.output, resumed.output, lungs.output)
    for text in (*said, table.read_text(), page.read_text(), (tmp_path / "lungs" / "lungs.csv").read_text()):
        assert_silent(text)
    assert "its rows cannot be told apart" in resumed.output, "another key may be of another film"
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, True, True]
    assert rows[0]["image"] == f"{server.url}/a.png?key=***"
    assert rows[2]["error"] == "no such file"
