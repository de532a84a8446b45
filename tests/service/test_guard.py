"""Who may ask, how much and how slowly, and what is said and logged about it."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pneumonia.service import app, guard
from tests.service.conftest import FORM, Served, eventually, film, form
from tests.service.test_app import DICOM


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("LOCALHOST.:1", 200)),
        *(("films.example:80", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("", 403)),
        *(("evil.example:80@localhost", 403), ("localhost:80:80", 403), ("localhost/evil", 403), ("[::1", 403)),
    ],
)
def test_only_known_host_names_are_answered(served: Served, host: str, status: int) -> None:
    assert served.ask("GET", "/health", headers={"Host": host}).status == status
    assert served.ask("POST", "/v1/predict", film(), headers={"Host": host}).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        *(("http://localhost:8000", 200), ("http://127.0.0.1", 200), ("http://[::1]:8000", 200)),
        *(("https://films.example", 200), ("http://evil.example", 403), ("null", 403), ("", 403), ("http://[", 403)),
        *(("http://evil.example@localhost", 403), ("http://localhost.evil.example", 403), ("localhost", 403)),
    ],
)
def test_only_pages_of_known_origins_are_answered(served: Served, origin: str, status: int) -> None:
    assert served.ask("POST", "/v1/predict", film(), headers={"Origin": origin}).status == status


@pytest.mark.parametrize(
    ("path", "site", "mode", "status"),
    [
        *(("/ready", "cross-site", "no-cors", 403), ("/ready", "cross-site", "navigate", 403)),
        *(("/page.js", "cross-site", "no-cors", 403), ("/", "cross-site", "cors", 403), ("/", "cross-site", "", 403)),
        *(("/", "cross-site", "navigate", 200), ("/docs", "cross-site", "navigate", 200)),
        *(("/ready", "same-origin", "cors", 200), ("/ready", "none", "navigate", 200), ("/page.js", "", "", 200)),
    ],
)
def test_another_site_may_only_link_to_the_pages(served: Served, path: str, site: str, mode: str, status: int) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    answer = served.ask("GET", path, headers={name: value for name, value in headers.items() if value})
    assert answer.status == status


def test_a_host_name_to_allow_is_a_name_or_an_address() -> None:
    names = {"Films.Example.": "films.example", "10.1.2.3": "10.1.2.3", "fe80::1": "[fe80::1]", "[::2]": "[::2]"}
    assert {name: guard.host_name(name) for name in names} == names
    for wrong in ("", "*", "http://films", "films:80", "a b", "fi/lms", "*.example"):
        assert guard.host_name(wrong) == ""


def test_every_answer_has_the_headers_of_safety(served: Served) -> None:
    for answer in (
        served.ask("GET", "/"),
        served.send(("x", film())),
        served.ask("GET", "/nowhere"),
        served.ask("GET", "/", headers={"Host": "evil.example"}),
        served.send(("x", film()), path="/v1/film"),
    ):
        assert answer.headers.items() >= guard.HEADERS.items()
        assert "server" not in answer.headers
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy


def test_a_log_has_one_line_for_a_request_and_nothing_of_its_file(
    limited: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with limited() as served:
        served.send(("Doe-Jane.dcm", DICOM), ("MRN-4711.txt", b"MRN-4711"))
        served.ask("POST", "/v1/predict?operating_point=MRN-4711", form(("MRN-4711", b"x")), {"Content-Type": FORM})
        served.ask("GET", "/patients/MRN-4711")
        served.send(("MRN-4711", DICOM[: len(DICOM) - 9]))
    lines: list[str] = []

    def has_all() -> bool:
        lines[:] = [one.getMessage() for one in caplog.records if one.name == "pneumonia.service"]
        # A request of the test before may be logged only now; none here asks for a film.
        lines[:] = [line for line in lines if "/v1/film" not in line]
        return len(lines) == 4

    eventually(has_all)
    assert [line.split(" ms")[0].rsplit(" ", 1)[0] for line in lines] == [
        "POST /v1/predict 200",
        "POST /v1/predict 400",
        "GET - 404",
        "POST /v1/predict 422",
    ]
    assert all(line.endswith(" bytes") for line in lines)
    assert not any(secret in caplog.text for secret in ("Doe", "Jane", "4711"))


@pytest.mark.parametrize("has_length", [True, False])
def test_100_megabytes_are_refused_and_the_client_can_read_it(served: Served, has_length: bool) -> None:
    piece = bytes(2**20)
    pieces: Any = (piece for _ in range(100))
    headers = {"Content-Length": str(100 * 2**20)} if has_length else {}
    answer = served.ask("POST", "/v1/predict", pieces, headers)
    assert (answer.status, answer.error) == (413, "a file of more than 50,331,648 bytes")


def test_a_request_that_says_it_is_too_large_is_not_read(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_several_files_together_have_a_limit(limited: Callable[..., Any]) -> None:
    with limited(request_bytes=100_000) as served:
        assert served.send(*[("x", bytes(40_000))] * 3).error == "a request of more than 100,000 bytes"

        def pieces() -> Iterator[bytes]:
            yield from [form(*[("x", bytes(40_000))] * 3)]

        answer = served.ask("POST", "/v1/predict", pieces(), {"Content-Type": FORM})
        assert (answer.status, answer.error) == (413, "a request of more than 100,000 bytes")


def begun(served: Served, n_bytes: int) -> socket.socket:
    """A client that has sent a part of a film."""
    client = served.connect()
    client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n" + bytes(n_bytes))
    return client


@pytest.mark.parametrize("limit", ["pause_seconds", "body_seconds"])
def test_a_slow_client_is_refused_and_holds_nothing(limited: Callable[..., Any], limit: str) -> None:
    with limited(**{limit: 0.2, "linger_seconds": 0.1}) as served, begun(served, 10) as client:
        start = time.monotonic()
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        if limit == "body_seconds":
            thread.start()
        answer = b""
        while b"}" not in answer:
            answer += client.recv(4000)
        stop.set()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"too slowly" in answer
        assert time.monotonic() - start < 5
        if thread.ident:
            thread.join()


def test_an_upload_that_is_cut_ends_alone(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with begun(served, 500):
        pass
    eventually(lambda: "POST /v1/predict 400" in caplog.text)
    assert served.send(("x", film())).status == 200


def test_bodies_in_memory_have_a_limit_together(limited: Callable[..., Any]) -> None:
    with limited(held_bytes=60_000, linger_seconds=0.2) as served, begun(served, 50_000):
        assert served.send(("x", bytes(5_000))).status == 415
        answer = served.send(("x", bytes(20_000)))
        assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    time.sleep(0.2)
    with limited(held_bytes=60_000) as served:
        for _ in range(5):
            assert served.send(("x", bytes(50_000))).status == 415, "each is freed with its request"


def test_files_count_until_the_call_that_reads_them_ends(
    limited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(app, "_answers", lambda *arguments: go.wait(20) and {})
    with limited(held_bytes=60_000, answer_seconds=0.1) as served:
        try:
            assert served.send(("x", bytes(50_000))).status == 503
            assert served.send(("x", bytes(50_000))).status == 429
        finally:
            go.set()
        eventually(lambda: served.send(("x", bytes(50_000))).status == 200)


def test_a_refused_body_holds_nothing_while_its_rest_arrives(limited: Callable[..., Any]) -> None:
    with limited(held_bytes=60_000, file_bytes=50_000) as served, begun(served, 55_000) as client:
        assert client.recv(4000).startswith(b"HTTP/1.1 413 ")
        assert served.send(("x", bytes(45_000))).status == 415


def test_ten_thousand_fields_and_broken_forms_are_refused(served: Served) -> None:
    many = served.send(*[("x", b"")] * 10_000)
    assert (many.status, many.error) == (413, "more than 32 files in one request")
    whole = form(("x", film()))
    for body in (whole[:-6], whole[:40], b"", b"--", b"\0" * 1000, whole.replace(b"a-boundary", b"another"), whole[9:]):
        assert served.ask("POST", "/v1/predict", body, {"Content-Type": FORM}).status == 400
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 500}"):
        assert served.ask("POST", "/v1/predict", whole, {"Content-Type": kind}).status == 400
    other = served.ask("POST", "/v1/predict", form(("x", film()), field="films"), {"Content-Type": FORM})
    assert other.error == "a field that is not known; send files in the field file"
