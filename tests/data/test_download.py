"""A file arrives complete or not at all, and what has arrived before a cut is not downloaded again."""

import builtins
import errno
import hashlib
import http.server
import json
import os
import pickle
import random
import re
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pneumonia import UserError
from pneumonia.data import download, web

# Several blocks, and a last one that is not full.
CONTENT = random.Random(1).randbytes(3 * download.BLOCK + 12_345)
OTHER = random.Random(2).randbytes(len(CONTENT))
OLD = b"what was there before"
HERE = "127.0.0.1"


class Site(http.server.ThreadingHTTPServer):
    """One file on a server with bad habits, and a record of what it was asked and what it sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HERE, 0), _Answer)
        self.url = f"http://{HERE}:{self.server_port}/a.zip"
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True
        self.length = True
        self.cuts: list[int] = []  # bytes after which the next answers end
        self.statuses: list[int] = []  # of the next answers
        self.pause = 0.0  # seconds between pieces of an answer
        self.short_ranges = 0  # so many ranges are answered, properly, with no byte
        self.requests: list[str] = []
        self.sent = 0
        self.closing = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        site = self.server
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "") if site.ranges else None
        site.requests.append(f"{self.command} {self.headers['Range'] or ''}".strip())
        if site.statuses and (status := site.statuses.pop(0)) != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = site.content
        if wanted:
            start, end = int(wanted[1]), int(wanted[2] or len(body) - 1) + 1
            if site.short_ranges:
                site.short_ranges -= 1
                end = start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            body = body[start:end]
        else:
            self.send_response(200)
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        if self.command == "HEAD":
            return
        if site.cuts:
            body = body[: site.cuts.pop(0)]
            self.close_connection = True
        step = len(body) if not site.pause else 2**16
        for start in range(0, len(body), step):
            site.sent += len(body[start : start + step])
            self.wfile.write(body[start : start + step])
            site.closing.wait(site.pause)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HERE)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A name that is taken."""
    path = tmp_path / "raw" / "a.zip"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


@pytest.fixture
def resume(tmp_path: Path) -> Path:
    path = tmp_path / "resume"
    path.mkdir()
    return path


def downloaded(url: str, target: Path, resume: Path, **how: Any) -> str:
    return download.download_file(url, target, resume=resume, **{"pauses": (0, 0), **how})


def refused(url: str, target: Path, resume: Path, **how: Any) -> str:
    """The message, after a look that nothing has changed at the target."""
    with pytest.raises(UserError) as caught:
        downloaded(url, target, resume, **how)
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == {target.name: OLD}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def assert_arrived(target: Path, resume: Path, returned: str, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert returned == sha256(content)
    assert list(resume.iterdir()) == []
    assert [path.name for path in target.parent.iterdir()] == [target.name]


# --- it arrives ---


def test_a_file_comes_over_http_in_one_answer(site: Site, target: Path, resume: Path) -> None:
    assert_arrived(target, resume, downloaded(site.url, target, resume))
    assert [request for request in site.requests if request != "HEAD"] == ["GET"]
    assert site.sent == len(CONTENT)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_file_is_copied(tmp_path: Path, target: Path, resume: Path, prefix: str) -> None:
    source = tmp_path / "a source.zip"
    source.write_bytes(CONTENT)
    assert_arrived(target, resume, downloaded(f"{prefix}{source}", target, resume))
    assert source.read_bytes() == CONTENT


def test_a_file_comes_from_another_file_system_of_fsspec(target: Path, resume: Path) -> None:
    url = f"memory://{uuid.uuid4()}/a.zip"
    with fsspec.open(url, "wb") as file:
        file.write(CONTENT)
    assert_arrived(target, resume, downloaded(url, target, resume))


def test_the_folder_of_the_target_need_not_exist(site: Site, tmp_path: Path, resume: Path) -> None:
    target = tmp_path / "data" / "raw" / "a.zip"
    assert_arrived(target, resume, downloaded(site.url, target, resume))


def test_a_file_without_an_announced_length_arrives(site: Site, target: Path, resume: Path) -> None:
    site.length = False
    assert_arrived(target, resume, downloaded(site.url, target, resume))


def test_resume_and_target_may_lie_on_two_file_systems(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def across(source: Path, to: Path) -> None:
        if source.parent == resume:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, to)

    monkeypatch.setattr(os, "replace", across)
    assert_arrived(target, resume, downloaded(site.url, target, resume))


def test_a_full_disk_at_the_target_leaves_what_was_there_and_keeps_the_part(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def half(_: Path, to: Path) -> None:
        to.write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", across)
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(OSError, match="No space left"):
            downloaded(site.url, target, resume)
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == {target.name: OLD}
    # All of it is there already: the next call asks for the version and nothing else.
    site.requests.clear()
    assert_arrived(target, resume, downloaded(site.url, target, resume))
    assert set(site.requests) == {"HEAD"}


# --- it goes on ---


def test_a_cut_download_goes_on_within_one_call(
    site: Site, target: Path, resume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.cuts = [2 * download.BLOCK]
    assert_arrived(target, resume, downloaded(site.url, target, resume))
    # The second attempt starts after the last byte of the first one.
    starts = [int(request.split("=")[1].split("-")[0]) for request in site.requests if "bytes" in request]
    assert download.BLOCK < starts[0] <= 2 * download.BLOCK
    assert site.sent == 2 * download.BLOCK + len(CONTENT) - starts[0]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(rf"fetch: attempt 2 in 0 s, {starts[0]:,} bytes so far \(\w+: .*\)", lines[0])


def test_a_line_that_drops_again_and_again_is_endured_while_it_moves_on(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "BLOCK", 2**16)
    # Each second range is cut after one byte: many more cuts than pauses, and never two without progress.
    site.cuts = [2**21, *[2**16, 1] * 10]
    assert_arrived(target, resume, downloaded(site.url, target, resume, pauses=(0,)))
    assert site.cuts == []
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_a_cut_download_goes_on_in_the_next_call(site: Site, target: Path, resume: Path) -> None:
    site.cuts = [2 * download.BLOCK]
    message = refused(site.url, target, resume, pauses=())
    have = (resume / "part").stat().st_size
    assert download.BLOCK < have <= 2 * download.BLOCK
    assert message.startswith(f"{site.url}: {have:,} of {len(CONTENT):,} bytes arrived (ClientPayloadError: ")
    assert message.endswith(
        "; run again to continue from there, or download the archive by hand and set fetch.url to its path"
    )
    site.sent = 0
    checksum = f"sha256:{sha256(CONTENT)}"
    assert_arrived(target, resume, downloaded(site.url, target, resume, pauses=(), checksum=checksum))
    assert site.sent == len(CONTENT) - have


def test_a_local_copy_goes_on_in_the_next_call(tmp_path: Path, target: Path, resume: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(CONTENT)
    version = {"url": str(source), "size": len(CONTENT), "mtime": str(source.stat().st_mtime)}
    (resume / "state.json").write_text(json.dumps(version))
    # Other bytes than those of the source: they are still there if they are not read again.
    (resume / "part").write_bytes(OTHER[:1000])
    assert_arrived(target, resume, downloaded(str(source), target, resume), OTHER[:1000] + CONTENT[1000:])


@pytest.mark.parametrize("change", ["etag", "size", "url", "damaged note", "no note", "part too long"])
def test_a_download_starts_over_where_it_is_of_something_else(
    site: Site, target: Path, resume: Path, change: str
) -> None:
    content = OTHER
    site.cuts = [2 * download.BLOCK]
    refused(site.url, target, resume, pauses=())
    url = site.url
    match change:
        case "etag":
            site.etag = '"two"'
        case "size":
            content = OTHER + b"more"
        case "url":
            url += "?version=2"
        case "damaged note":
            (resume / "state.json").write_text('{"url": "http')
        case "no note":
            (resume / "state.json").unlink()
        case "part too long":
            (resume / "part").write_bytes(CONTENT + b"more")
    site.content, site.sent = content, 0
    assert_arrived(target, resume, downloaded(url, target, resume, pauses=()), content)
    assert site.sent == len(content)


def test_a_file_that_changes_between_two_attempts_is_not_pieced_together(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(_: float) -> None:
        site.content, site.etag = OTHER, '"two"'

    monkeypatch.setattr(download.time, "sleep", changes)
    site.cuts = [2 * download.BLOCK]
    assert_arrived(target, resume, downloaded(site.url, target, resume), OTHER)


def test_a_file_that_changes_while_its_ranges_are_read_is_not_pieced_together(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.cuts = [download.BLOCK]
    refused(site.url, target, resume, pauses=())
    blocks = download._blocks

    def changing(*where: Any) -> Iterator[bytes]:
        for block in blocks(*where):
            site.content, site.etag = OTHER, '"two"'
            yield block

    monkeypatch.setattr(download, "_blocks", changing)
    assert_arrived(target, resume, downloaded(site.url, target, resume), OTHER)
    assert "the file changed during the download" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [1, 2])
def test_a_server_without_ranges_starts_over(site: Site, target: Path, resume: Path, calls: int) -> None:
    site.ranges = False
    site.cuts = [2 * download.BLOCK]
    if calls == 2:
        refused(site.url, target, resume, pauses=())
    assert_arrived(target, resume, downloaded(site.url, target, resume, pauses=(0,) if calls == 1 else ()))


def test_a_server_without_ranges_that_always_cuts_is_given_up(site: Site, target: Path, resume: Path) -> None:
    site.ranges = False
    site.cuts = [2 * download.BLOCK] * 50
    assert "bytes arrived (ClientPayloadError" in refused(site.url, target, resume)
    assert len(site.cuts) > 30


def test_ranges_that_come_back_short_are_asked_for_again(site: Site, target: Path, resume: Path) -> None:
    site.cuts = [2 * download.BLOCK]
    site.short_ranges = 1
    assert_arrived(target, resume, downloaded(site.url, target, resume))
    site.cuts = [2 * download.BLOCK]
    site.short_ranges = 50
    target.write_bytes(OLD)
    message = refused(site.url, target, resume)
    assert f"of {len(CONTENT):,} bytes arrived (the response ended early); run again" in message


# --- what goes wrong ---


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again_after_each_pause(
    site: Site, target: Path, resume: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    site.statuses = [status] * 4  # HEAD and GET, twice
    assert_arrived(target, resume, downloaded(site.url, target, resume, pauses=(3, 5, 7)))
    assert waited == [3, 5]


def test_a_server_that_stays_busy_is_given_up_after_the_last_pause(site: Site, target: Path, resume: Path) -> None:
    site.statuses = [503] * 50
    message = refused(site.url, target, resume, pauses=(0, 0, 0))
    assert re.search(r": the download failed \(ClientResponseError: 503 .*\); check the network, or .*by hand", message)
    assert site.requests == ["HEAD", "GET"] * 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "no such file; correct fetch.url"),
        (403, r"the download failed \(.*403 .*check the access rights \(PNEUMONIA_FETCH_USER .*\), or download"),
        (401, r"the download failed \(.*401 .*log in \(PNEUMONIA_FETCH_USER .*\), or download"),
    ],
)
def test_what_lasts_is_not_tried_again(site: Site, target: Path, resume: Path, status: int, expected: str) -> None:
    site.statuses = [status] * 50
    assert re.match(f"{re.escape(site.url)}: {expected}", refused(site.url, target, resume))
    assert site.requests == ["HEAD", "GET"]


@pytest.mark.parametrize("prefix", ["", "file://", "memory://"])
def test_a_missing_file_is_one_line(
    tmp_path: Path, target: Path, resume: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{prefix}{tmp_path}/none.zip"
    assert refused(url, target, resume) == f"{url}: no such file; correct fetch.url"
    assert capsys.readouterr().out == ""


def test_a_folder_is_no_file(tmp_path: Path, target: Path, resume: Path) -> None:
    expected = f"{tmp_path}: a folder, not a file; set fetch.url to the archive itself"
    assert refused(str(tmp_path), target, resume) == expected


@pytest.mark.parametrize("length", [True, False])
def test_an_empty_file_is_refused(site: Site, target: Path, resume: Path, length: bool) -> None:
    site.content, site.length = b"", length
    assert refused(site.url, target, resume) == f"{site.url}: the file is empty; correct fetch.url"


def test_an_unreachable_server_is_tried_again_and_then_one_line(
    target: Path, resume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(f"http://{HERE}:1/a.zip", target, resume)
    assert re.search(
        r"a.zip: the download failed \(ClientConnectorError: .*\); check the network, or download ", message
    )
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_silent_server_is_noticed(site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENT_SECONDS", 0.2)
    silent = threading.Event()
    monkeypatch.setattr(_Answer, "_answer", lambda _: silent.wait(10) and None)
    try:
        assert "the download failed (SocketTimeoutError: Timeout on reading" in refused(
            site.url, target, resume, pauses=()
        )
    finally:
        silent.set()


def test_a_time_limit_ends_an_answer_that_trickles_and_the_next_call_goes_on(
    site: Site, target: Path, resume: Path
) -> None:
    site.pause = 0.1
    start = time.monotonic()
    message = refused(site.url, target, resume, pauses=(), seconds=0.5)
    assert time.monotonic() - start < 2
    have = (resume / "part").stat().st_size
    assert 0 < have < len(CONTENT)
    assert f"{have:,} of {len(CONTENT):,} bytes arrived (not complete after 0.5 s); run again to continue" in message
    site.pause = 0.0
    site.requests.clear()
    assert_arrived(target, resume, downloaded(site.url, target, resume, pauses=(), seconds=60))
    assert next(request for request in site.requests if request != "HEAD").startswith(f"GET bytes={have}-")


def test_a_time_limit_ends_the_wait_for_a_silent_server(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Answer, "_answer", lambda answer: answer.server.closing.wait(10) and None)
    start = time.monotonic()
    message = refused(site.url, target, resume, seconds=0.5)
    assert time.monotonic() - start < 2
    assert "the download failed (not complete after 0.5 s); check the network, or download " in message


def test_a_time_limit_ends_the_wait_for_a_name_server(
    target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> None:
        released.wait(10)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    start = time.monotonic()
    try:
        assert "not complete after 0.5 s" in refused("http://archive.invalid/a.zip", target, resume, seconds=0.5)
        assert time.monotonic() - start < 2
    finally:
        released.set()


def test_no_pause_begins_that_would_outlast_the_time_limit(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    site.statuses = [503] * 50
    assert "not complete after 30 s" in refused(site.url, target, resume, pauses=(1, 60, 1), seconds=30)
    assert waited == [1]


def test_a_time_limit_holds_for_a_local_file_too(tmp_path: Path, target: Path, resume: Path) -> None:
    (tmp_path / "source.zip").write_bytes(CONTENT)
    message = refused(str(tmp_path / "source.zip"), target, resume, pauses=(), seconds=1e-9)
    assert f"{download.BLOCK:,} of {len(CONTENT):,} bytes arrived (not complete after 1e-09 s)" in message


def test_an_error_has_the_reason_without_the_remedy_and_survives_pickling(target: Path, resume: Path) -> None:
    with pytest.raises(download.DownloadError) as caught:
        downloaded(str(resume), target, resume)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert error.reason == "a folder, not a file"
        assert str(error) == f"{resume}: a folder, not a file; set fetch.url to the archive itself"


def test_the_proxy_of_the_environment_is_used(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{HERE}:{site.server_port}")
    assert_arrived(target, resume, downloaded("http://archive.invalid/a.zip", target, resume, seconds=60))


def test_the_published_archive_arrives_in_time_at_the_minimum_of_the_speed_in_several_calls() -> None:
    assert download.MAX_SECONDS >= 24 * 3600
    assert download.MAX_SECONDS * download.MIN_SPEED > 100e6
    assert 10 <= web.CONNECT_SECONDS <= 60
    assert 10 <= web.SILENT_SECONDS <= 60


def test_a_missing_package_is_named(target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in ("s3", "s3a"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    message = refused("s3://bucket/a.zip", target, resume)
    assert message.startswith("s3://bucket/a.zip: the package s3fs is missing; pip install s3fs, or download ")


def test_an_unknown_protocol_is_one_line(target: Path, resume: Path) -> None:
    message = refused("carrier-pigeon://a.zip", target, resume)
    assert message.startswith("carrier-pigeon://a.zip: the download failed (ValueError: Protocol not known: ")
    assert "correct fetch.url" in message


def test_a_full_disk_is_no_matter_of_the_network(
    site: Site, target: Path, resume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, block: bytes) -> int:
            self.file.write(block[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(file: Any, mode: str = "r", **how: Any) -> Any:
        made = real(file, mode, **how)
        return Full(made) if mode == "ab" else made

    with monkeypatch.context() as patch:
        patch.setattr(download, "open", opened, raising=False)
        with pytest.raises(OSError, match="No space left") as caught:
            downloaded(site.url, target, resume)
    assert caught.value.errno == errno.ENOSPC
    assert capsys.readouterr().out == ""
    assert target.read_bytes() == OLD
    assert (resume / "part").read_bytes() == CONTENT[:10]
    # With room again, it goes on.
    site.sent = 0
    assert_arrived(target, resume, downloaded(site.url, target, resume))
    assert site.sent == len(CONTENT) - 10


def test_the_target_is_whole_at_every_moment(site: Site, target: Path, resume: Path, monkeypatch: Any) -> None:
    blocks, seen = download._blocks, []

    def watched(*where: Any) -> Iterator[bytes]:
        for block in blocks(*where):
            seen.append([path.read_bytes() for path in target.parent.iterdir()])
            yield block

    monkeypatch.setattr(download, "_blocks", watched)
    downloaded(site.url, target, resume)
    assert len(seen) > 3
    assert all(there == [OLD] for there in seen)


# --- checksums ---


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("upper", [False, True])
def test_the_right_checksum_lets_a_file_through(
    site: Site, target: Path, resume: Path, algorithm: str, upper: bool
) -> None:
    site.cuts = [2 * download.BLOCK]
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    checksum = f"{algorithm}:{digest.upper() if upper else digest}"
    assert_arrived(target, resume, downloaded(site.url, target, resume, checksum=checksum))


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("md5", "MD5 is {}, the published one is {}: the file is damaged or was replaced; download it again"),
        ("sha256", "SHA-256 is {}, {} was expected; download it again or correct fetch.sha256"),
    ],
)
def test_a_file_with_another_checksum_is_refused_and_not_kept(
    site: Site, target: Path, resume: Path, algorithm: str, expected: str
) -> None:
    is_, should = (hashlib.new(algorithm, content).hexdigest() for content in (CONTENT, OTHER))
    message = refused(site.url, target, resume, checksum=f"{algorithm}:{should}")
    assert message == f"{site.url}: {expected.format(is_, should)}"
    assert list(resume.iterdir()) == []
    assert site.sent == len(CONTENT)


def test_the_checksum_is_that_of_the_whole_file_and_not_of_what_was_still_missing(
    site: Site, target: Path, resume: Path
) -> None:
    site.cuts = [2 * download.BLOCK]
    refused(site.url, target, resume, pauses=())
    part = bytearray((resume / "part").read_bytes())
    part[10] ^= 1
    (resume / "part").write_bytes(part)
    assert "SHA-256 is " in refused(site.url, target, resume, checksum=f"sha256:{sha256(CONTENT)}")
    assert list(resume.iterdir()) == []
