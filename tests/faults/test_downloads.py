"""Servers that are slow, silent, wrong or hostile: a download ends complete, or in one line without a trace."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pneumonia import UserError, backbone
from pneumonia.data import download, web
from tests.faults.hostile import HERE, LONGEST, Answer, Request, Server, serving

pytestmark = pytest.mark.fault(kind="download", where="download_file")

CONTENT = random.Random(3).randbytes(200_000)
BY_HAND = "download the archive by hand and set fetch.url to its path"
BEGUN = 70_000
"""Bytes that arrive before a connection breaks: more than count as progress."""


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of minutes and gigabytes become fractions of seconds and kilobytes."""
    monkeypatch.setenv("no_proxy", HERE)
    for module, name, value in (
        (web, "CONNECT_SECONDS", 5.0),
        (web, "SILENT_SECONDS", 0.3),
        (download, "PATIENCE", 0.4),
        (download, "WINDOW", 0.1),
        (download, "MIN_SPEED", 100_000),
        (download, "MAX_WAIT", 2.0),
    ):
        monkeypatch.setattr(module, name, value)


class Project(SimpleNamespace):
    """`target` is a file of yesterday, `resume` the folder that survives a crash."""

    def download(self, url: str, **how: Any) -> bytes:
        """The file that arrived; nothing else is left."""
        digest = download.download_file(
            url, self.target, resume=self.resume, **({"pauses": (0, 0, 0), "max_bytes": 1_000_000} | how)
        )
        assert digest == hashlib.sha256(self.target.read_bytes()).hexdigest()
        assert list(self.resume.iterdir()) == []
        return bytes(self.target.read_bytes())

    def refused(self, url: str, **how: Any) -> str:
        """The line of the error; the file of yesterday is as it was."""
        begin = time.monotonic()
        with pytest.raises(UserError) as caught:
            self.download(url, **how)
        assert time.monotonic() - begin < LONGEST / 2
        assert [path.read_bytes() for path in self.target.parent.iterdir()] == [b"yesterday"]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def kept(self) -> int:
        part = self.resume / "part"
        return part.stat().st_size if part.exists() else 0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    target, resume = tmp_path / "raw" / "a.zip", tmp_path / "resume"
    target.parent.mkdir()
    target.write_bytes(b"yesterday")
    resume.mkdir()
    return Project(target=target, resume=resume)


def fault(injected: str, before: str, now: str) -> pytest.MarkDecorator:
    return pytest.mark.fault(injected=injected, before=before, now=now)


# --- answers ---


def mute(request: Request) -> None:
    request.pause(LONGEST)


def mute_in_the_middle(request: Request) -> None:
    request.say(200, Content_Length=len(CONTENT), ETag='"1"')
    if request.command == "GET":
        request.wfile.write(CONTENT[:1000])
        request.pause(LONGEST)


def trickle(request: Request) -> None:
    request.say(200, Content_Length=len(CONTENT), ETag='"1"')
    while request.command == "GET" and request.pause(0.01):
        request.wfile.write(b"x")


def one_byte(request: Request) -> None:
    """One more byte, and the end of the connection."""
    start = int(re.findall(r"\d+", request.headers["Range"] or "0")[0])
    partial = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    request.say(206 if start else 200, Content_Length=len(CONTENT) - start, ETag='"1"', **partial)
    if request.command == "GET":
        request.wfile.write(CONTENT[start : start + 1])
        request.cut()


def endless(request: Request) -> None:
    request.say(200, Content_Length=None, Connection="close")
    while request.command == "GET" and request.pause(0):
        request.wfile.write(b"\0" * 2**16)


def of_ten_terabytes(request: Request) -> None:
    request.say(200, Content_Length=10 * 10**12)


def of_two_megabytes(request: Request) -> None:
    request.say(200, Content_Length=2_000_000)


def longer_than_announced(request: Request) -> None:
    if request.command == "HEAD":
        request.say(200, Content_Length=1000)
    else:
        endless(request)


def shorter_than_announced(request: Request) -> None:
    request.say(200, CONTENT[:BEGUN], Content_Length=len(CONTENT))
    request.cut()


def endless_header(request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while request.pause(0):
        request.wfile.write(b"x" * 10_000)


def no_http(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    request.cut()


def login_page(request: Request) -> None:
    request.say(200, b"\n<!-- v2 --><!DOCTYPE html><html><title>Sign in</title></html>", Content_Type="text/html")


def to_a_login_page(request: Request) -> None:
    if request.path == "/login":
        login_page(request)
    else:
        request.say(302, Location="/login")


def status(number: int, **headers: object) -> Answer:
    return lambda request: request.say(number, b"<h1>Sorry</h1>", **headers)


def to(location: str) -> Answer:
    return lambda request: request.say(302, Location=location)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            mute,
            r"the download failed \(SocketTimeoutError: Timeout on reading.*\); check the network, or ",
            marks=fault("a server that never answers", "waited for over 9 minutes", "one line after about 2 minutes"),
        ),
        pytest.param(
            mute_in_the_middle,
            r"1,000 of 200,000 bytes arrived \(SocketTimeoutError: .*\); run again to continue from there, or ",
            marks=fault(
                "silence in the middle of the body",
                "5 attempts, each until its time limit",
                "one line after about 2 minutes",
            ),
        ),
        pytest.param(
            trickle,
            r"bytes arrived \(too slow: \d+ bytes in [\d.]+ s, expected are 100,000 a second\); run again ",
            marks=fault("1 byte a second", "waited for ever, without a word", "one line after about 2 minutes"),
        ),
        pytest.param(
            one_byte,
            r"\d of 200,000 bytes arrived \(ClientPayloadError.*\); run again to continue from there, or ",
            marks=fault("a connection that ends after each byte", "as now", "one line; a byte is no progress"),
        ),
        pytest.param(
            endless,
            r"the file has 1,\d{3},\d{3} bytes or more, allowed are 1,000,000; correct fetch.url, or unpack",
            marks=fault("a body without an end", "written without limit", "one line; nothing is kept"),
        ),
        pytest.param(
            of_two_megabytes,
            r"the file has 2,000,000 bytes or more, allowed are 1,000,000; correct fetch.url, or unpack ",
            marks=fault(
                "a file above the limit of the size", "there was no limit", "one line before a byte is requested"
            ),
        ),
        pytest.param(
            longer_than_announced,
            r"bytes arrived \(the file changed during the download\); run again ",
            marks=fault("a body longer than Content-Length of HEAD", "written without limit", "one line"),
        ),
        pytest.param(
            shorter_than_announced,
            r"of 200,000 bytes arrived \(ClientPayloadError: .*\); run again to continue from there, or ",
            marks=fault("a body shorter than Content-Length", "as now", "one line; what has arrived is kept"),
        ),
        pytest.param(
            endless_header,
            r"the download failed \(.*\); (check|correct) ",
            marks=fault("a header without an end", "as now", "one line"),
        ),
        pytest.param(
            no_http,
            r"the download failed \(.*\); (check|correct) ",
            marks=fault("a server that does not speak HTTP", "as now", "one line"),
        ),
        pytest.param(
            login_page,
            "a web page instead of the file: a login, .*; set fetch.url to the file itself, log in "
            r"\(PNEUMONIA_FETCH_USER ",
            marks=fault("a login page with status 200", "called no complete zip archive", "called a web page"),
        ),
        pytest.param(
            to_a_login_page,
            "a web page instead of the file: a login, .*; set fetch.url to the file itself, log in ",
            marks=fault("a redirect to a login page", "called no complete zip archive", "called a web page"),
        ),
        pytest.param(
            status(401, WWW_Authenticate="Basic"),
            r"the download failed \(ClientResponseError: 401 Unauthorized\); log in \(PNEUMONIA_FETCH_USER and ",
            marks=fault("401", "one line without a way to log in", "one line with the way to log in"),
        ),
        pytest.param(
            status(403),
            r"the download failed \(ClientResponseError: 403 Forbidden\); check the access rights \(PNEUMONIA",
            marks=fault("403", "one line without a way to log in", "one line with the way to log in"),
        ),
        pytest.param(
            status(404), "no such file; correct fetch.url$", marks=fault("404", "as now", "one line, one attempt")
        ),
        pytest.param(
            status(410), "no such file; correct fetch.url$", marks=fault("410", "as now", "one line, one attempt")
        ),
        pytest.param(
            status(407),
            r"the download failed \(.*407 .*\); put user and password of the proxy into http_proxy ",
            marks=fault("407 of a proxy", "one line: check fetch.url", "one line about the proxy"),
        ),
        pytest.param(
            status(416),
            r"the download failed \(ClientResponseError: 416 .*\); check fetch.url, or ",
            marks=fault("416 without a range", "as now", "one line, one attempt"),
        ),
        pytest.param(
            status(429),
            r"the download failed \(ClientResponseError: 429 Too Many Requests\); check the network, or ",
            marks=fault("429", "as now", "one line after 5 attempts"),
        ),
        pytest.param(
            status(500),
            r"the download failed \(ClientResponseError: 500 Internal Server Error\); check the network, or ",
            marks=fault("500", "as now", "one line after 5 attempts"),
        ),
        pytest.param(
            status(503, Retry_After="3600"),
            r"503 Service Unavailable; the server wants to be asked again in 3,600 s\); check the network, or ",
            marks=fault(
                "503 with Retry-After of an hour", "asked again 5 times within 15 s", "one line with that time"
            ),
        ),
        pytest.param(
            to("/a.zip"),
            r"the download failed \(TooManyRedirects\); the server redirects in a circle: check fetch.url, or ",
            marks=fault("a redirect to itself", "one line: TooManyRedirects: 0", "one line that names the circle"),
        ),
        pytest.param(
            to("file:///etc/passwd"),
            r"the download failed \(NonHttpUrlRedirectClientError: file:///etc/passwd\); the server redirects to what ",
            marks=fault("a redirect to file://", "tried again 5 times", "one line, one attempt; no file is read"),
        ),
        pytest.param(
            to("http://[::bad/"),
            r"the download failed \(InvalidUrlRedirectClientError: .*\); the server redirects to what is no web ",
            marks=fault("a redirect to no address", "as now", "one line"),
        ),
    ],
)
def test_a_download_ends_in_one_line_with_the_remedy(project: Project, answer: Answer, expected: str) -> None:
    with serving(answer) as server:
        line = project.refused(f"{server.url}/a.zip")
    assert re.search(expected, line), line
    assert line.startswith(f"{server.url}/a.zip: ")
    if answer in (endless, login_page):
        assert project.kept() == 0


@pytest.mark.parametrize(
    ("answer", "n_requests"),
    [
        pytest.param(
            status(404), 2, marks=fault("404", "asked once", "asked once: HEAD, then GET for servers without HEAD")
        ),
        pytest.param(to("file:///etc/passwd"), 2, marks=fault("a redirect to file://", "asked 5 times", "asked once")),
        pytest.param(status(500), 8, marks=fault("500", "as now", "asked again after each pause")),
    ],
)
def test_only_what_may_pass_is_asked_again(project: Project, answer: Answer, n_requests: int) -> None:
    with serving(answer) as server:
        project.refused(f"{server.url}/a.zip")
        assert [request.command for request in server.requests] == ["HEAD", "GET"] * (n_requests // 2)


# --- sizes ---


@fault("a claim of 10 TB", "not held against the free disk", "one line with the free space, before a byte arrives")
def test_a_claimed_size_is_held_against_the_free_disk(project: Project) -> None:
    with serving(of_ten_terabytes) as server:
        line = project.refused(f"{server.url}/a.zip", max_bytes=10**15)
        assert [request.command for request in server.requests] == ["HEAD"]
    assert "no room on the disk: 10,000,000,000,000 more bytes are needed, " in line
    assert line.endswith(" must stay free; free some space, or correct fetch.url")


@fault("a body without an end on a disk that fills", "written without limit", "one line; the disk is free again")
def test_a_disk_is_not_filled(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=download.MIN_FREE + 500_000 - project.kept())

    monkeypatch.setattr(download.shutil, "disk_usage", usage)
    with serving(endless) as server:
        line = project.refused(f"{server.url}/a.zip", max_bytes=10**15)
    assert "no room on the disk: more bytes are to come" in line
    assert project.kept() == 0


def packed(content: bytes) -> Answer:
    return lambda request: request.say(200, content, Content_Encoding="gzip")


@fault("a gzip bomb as Content-Encoding", "unpacked to the disk without limit", "kept as it was sent, not unpacked")
def test_a_bomb_of_the_transport_is_not_unpacked(project: Project) -> None:
    bomb = gzip.compress(bytes(5_000_000))
    assert len(bomb) < 30_000
    with serving(packed(bomb)) as server:
        assert project.download(f"{server.url}/a.zip") == bomb


@fault("a tar.gz that is labelled as Content-Encoding: gzip", "unpacked, with another checksum", "kept as it was sent")
def test_an_archive_with_a_wrong_label_arrives_as_it_is(project: Project) -> None:
    archive = gzip.compress(CONTENT)
    with serving(packed(archive)) as server:
        digest = hashlib.sha256(archive).hexdigest()
        assert project.download(f"{server.url}/a.tar.gz", checksum=f"sha256:{digest}") == archive


# --- connections ---


def once_cut(then: Callable[[Request, int], None]) -> Answer:
    """A body that is reset in its middle; then other answers to the range that is asked for."""

    def answer(request: Request) -> None:
        begun = re.fullmatch(r"bytes=(\d+)-\d+", request.headers["Range"] or "")
        whole = not hasattr(request.server, "is_cut")
        if request.command == "HEAD" or (not begun and not whole):
            changed = {"ETag": '"2"'} if then is changed_version and not whole else {"ETag": '"1"'}
            request.say(200, CONTENT[::-1] if changed["ETag"] == '"2"' else CONTENT, **changed)
        elif not begun:
            request.server.is_cut = True  # type: ignore[attr-defined]
            request.say(200, CONTENT[:BEGUN], Content_Length=len(CONTENT), ETag='"1"')
            request.cut()
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # ends with a reset
        else:
            then(request, int(begun[1]))

    return answer


def the_rest(request: Request, start: int) -> None:
    request.say(206, CONTENT[start:], Content_Range=f"bytes {start}-199999/200000", ETag='"1"')


def the_rest_without_end(request: Request, start: int) -> None:
    content_range = f"bytes {start}-199999/200000"
    request.say(206, CONTENT[start:], Content_Length=None, Content_Range=content_range, Connection="close", ETag='"1"')
    while request.pause(0):
        request.wfile.write(b"\0" * 2**16)


def the_whole(request: Request, start: int) -> None:
    request.say(200, CONTENT, ETag='"1"')


def another_range(request: Request, start: int) -> None:
    request.say(206, CONTENT[start - 7 : -7], Content_Range=f"bytes {start - 7}-199992/200000", ETag='"1"')


def not_satisfiable(request: Request, start: int) -> None:
    request.say(416)


def changed_version(request: Request, start: int) -> None:
    raise AssertionError("no range of a new version")


@pytest.mark.parametrize(
    ("then", "content"),
    [
        pytest.param(
            the_rest,
            CONTENT,
            marks=fault("a reset in the middle", "as now", "continued at the last byte"),
        ),
        pytest.param(
            the_rest_without_end,
            CONTENT,
            marks=fault("a reset, then a range without an end", "read without limit", "read to the end of the range"),
        ),
        pytest.param(
            the_whole,
            CONTENT,
            marks=fault("a reset, then a server that ignores Range", "as now", "started over"),
        ),
        pytest.param(
            another_range,
            CONTENT,
            marks=fault(
                "a reset, then another range than the one asked for", "a file with wrong bytes", "started over"
            ),
        ),
        pytest.param(
            not_satisfiable, CONTENT, marks=fault("a reset, then 416", "one line after 5 attempts", "started over")
        ),
        pytest.param(
            changed_version,
            CONTENT[::-1],
            marks=fault("a reset, then another ETag", "as now", "the new version, whole"),
        ),
    ],
)
def test_a_file_is_complete_after_a_break(
    project: Project, then: Callable[[Request, int], None], content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(once_cut(then)) as server:
        assert project.download(f"{server.url}/a.zip") == content
    line = capsys.readouterr().out
    assert re.fullmatch(r"fetch: attempt 2 in 0 s, [\d,]+ bytes so far \(.*\)\n", line), line


@fault("connection refused", "as now", "one line after 5 attempts")
def test_a_closed_port_is_one_line(project: Project) -> None:
    with socket.socket() as closed:
        closed.bind((HERE, 0))  # and does not listen
        line = project.refused(f"http://{HERE}:{closed.getsockname()[1]}/a.zip")
    assert re.search(r"\(ClientConnectorError: .*\); check the network, or download the archive by hand", line)


@fault("a name that does not exist", "as now", "one line after 5 attempts")
def test_an_unknown_host_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    line = project.refused("http://archive.invalid/a.zip", pauses=())
    assert re.search(r"\(ClientConnectorDNSError: .*archive.invalid.*\); check the network, or ", line)


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A certificate for this machine that nobody trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(pem + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@fault("a certificate that nobody trusts", "one line: check fetch.url", "one line that names SSL_CERT_FILE")
def test_an_untrusted_certificate_is_refused(project: Project, untrusted: ssl.SSLContext) -> None:
    with serving(status(200), untrusted) as server:
        line = project.refused(f"{server.url}/a.zip")
        assert server.requests == []
    assert re.search(
        r"ClientConnectorCertificateError: .*\); check fetch.url and the clock; .* set SSL_CERT_FILE ", line
    )


@fault("https:// for a server without TLS", "tried again 5 times", "one line, one attempt")
def test_a_server_without_tls_is_one_line(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(no_http) as server:
        line = project.refused(f"https://{HERE}:{server.server_port}/a.zip")
    assert re.search(r"ClientConnectorSSLError: .*\); check https:// or http:// in fetch.url, or ", line), line
    assert capsys.readouterr().out == ""


# --- time ---


def busy_once(**headers: object) -> Answer:
    def answer(request: Request) -> None:
        if len(request.server.requests) <= 2:  # HEAD and GET
            request.say(503, **headers)
        else:
            request.say(200, CONTENT)

    return answer


@pytest.mark.parametrize(
    ("retry_after", "shortest", "longest"),
    [
        pytest.param(
            "1", 1, 1, marks=fault("Retry-After: 1", "asked again after a pause of its own", "asked again after 1 s")
        ),
        pytest.param(
            lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1.5),
            0.1,
            1.5,
            marks=fault("Retry-After with a date", "asked again after a pause of its own", "asked again at that time"),
        ),
        pytest.param("soon", 0, 0, marks=fault("Retry-After: soon", "as now", "asked again after a pause of its own")),
        pytest.param("-5", 0, 0, marks=fault("Retry-After: -5", "as now", "asked again after a pause of its own")),
        pytest.param(
            "Wed, 21 Oct 2015 07:28:00 GMT",
            0,
            0,
            marks=fault("Retry-After with a date in the past", "as now", "asked again after a pause of its own"),
        ),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(
    project: Project, retry_after: Any, shortest: float, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    text = retry_after if isinstance(retry_after, str) else f"{retry_after():%a, %d %b %Y %H:%M:%S} GMT"
    with serving(busy_once(Retry_After=text)) as server:
        assert project.download(f"{server.url}/a.zip") == CONTENT
    assert len(waits) == 1
    assert shortest <= waits[0] <= longest


def steady(request: Request) -> None:
    """20 kB in each hundredth of a second."""
    start = int(re.findall(r"\d+", request.headers["Range"] or "0")[0])
    partial = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    request.say(206 if start else 200, Content_Length=len(CONTENT) - start, ETag='"1"', **partial)
    for first in range(start, len(CONTENT) if request.command == "GET" else 0, 20_000):
        request.wfile.write(CONTENT[first : first + 20_000])
        request.pause(0.02)


@fault("a long download without a terminal", "not a word in the log", "a line with bytes and speed each minute")
def test_a_log_shows_the_progress(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "WINDOW", 0.05)
    monkeypatch.setattr("sys.stderr", io.StringIO())  # no terminal
    with serving(steady) as server:
        assert project.download(f"{server.url}/a.zip") == CONTENT
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"fetch: \d+,000 of 200,000 bytes, [\d,]+ a second", one) for one in lines)


@fault("a download of more than a day", "there was no limit", "one line; the next call continues")
def test_the_time_of_a_call_has_a_limit_and_the_next_one_continues(project: Project) -> None:
    with serving(steady) as server:
        line = project.refused(f"{server.url}/a.zip", seconds=0.1)
        assert re.search(r" of 200,000 bytes arrived \(not complete after 0.1 s\); run again to continue", line)
        kept = project.kept()
        server.requests.clear()
        assert project.download(f"{server.url}/a.zip") == CONTENT
        assert server.requests[1].headers["Range"] == f"bytes={kept}-199999"


# --- the weights of backbone ---


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    return tmp_path / "cache"


def weights_of(server: Server, weights: str, cache: Path) -> Any:
    return backbone.fetch_weights((f"{server.url}/w.h5",), weights, Path("data/backbone"), cache=cache)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        pytest.param(
            login_page,
            "a web page instead of the file",
            marks=fault("a login page of the network", "kept in the cache as weights", "one line; nothing is cached"),
        ),
        pytest.param(
            endless,
            "bytes or more, allowed are 100,000",
            marks=fault("a body without an end", "written without limit", "one line; nothing is cached"),
        ),
        pytest.param(
            mute,
            "Timeout on reading",
            marks=fault("a server that never answers", "waited for over 9 minutes", "one line; nothing is cached"),
        ),
        pytest.param(
            trickle, "too slow", marks=fault("1 byte a second", "waited for ever", "one line; nothing is cached")
        ),
    ],
)
@pytest.mark.fault(where="backbone")
def test_weights_arrive_or_nothing_is_cached(
    cache: Path, answer: Answer, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "MAX_BYTES", 100_000 if answer is endless else 10**6)
    with serving(answer) as server, pytest.raises(UserError) as caught:
        weights_of(server, "imagenet", cache)
    assert re.match(rf"weights = imagenet: {server.url}/w.h5: .*{cause}.*; put the file into .*$", str(caught.value))
    assert list(cache.iterdir()) == []
    assert not Path("data/backbone").exists()


@pytest.mark.fault(where="backbone")
@fault("a login page of the network, weights: auto", "kept in the cache as weights", "a warning; nothing is cached")
def test_automatic_weights_are_no_web_page(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(login_page) as server:
        assert weights_of(server, "auto", cache).name == "none"
    assert "WARNING: no ImageNet weights: a web page instead of the file" in capsys.readouterr().out
    assert list(cache.iterdir()) == []
