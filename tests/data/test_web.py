"""What the requests of a download send, and what the errors of servers mean."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from pneumonia.credentials import NO_CREDENTIALS, Credentials
from pneumonia.data import web

REQUEST = aiohttp.RequestInfo(URL("http://host/a"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://host/a"))


def answered(status: int, **headers: str) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(REQUEST, (), status=status, headers=CIMultiDict(headers))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.mark.parametrize(
    ("url", "query", "sent"),
    [
        ("https://host/a.zip", "token=1", "https://host/a.zip?token=1"),
        ("https://host/a.zip?v=2#part", "token=1", "https://host/a.zip?v=2&token=1"),
        ("https://host/a.zip", "sig=a%2Fb%3D", "https://host/a.zip?sig=a%2Fb%3D"),
        ("https://host/a%20b.zip", "", "https://host/a%20b.zip"),
    ],
)
def test_a_query_is_added_as_it_is(loop: asyncio.AbstractEventLoop, url: str, query: str, sent: str) -> None:
    async def make() -> str:
        session = await web.client(url, 0.0, Credentials(query=query))()
        await session.close()
        return str(session._with_query(URL(url)))

    assert loop.run_until_complete(make()) == sent


def test_limits_hold_in_every_phase(loop: asyncio.AbstractEventLoop) -> None:
    async def make() -> aiohttp.ClientTimeout:
        session = await web.client("http://host", 0.0, NO_CREDENTIALS)()
        await session.close()
        return session._timeout()

    assert loop.run_until_complete(make()) == aiohttp.ClientTimeout(
        total=0.001, connect=web.CONNECT_SECONDS, sock_read=web.SILENT_SECONDS, ceil_threshold=float("inf")
    )


@pytest.mark.parametrize(
    ("url", "home", "stays"),
    [
        ("https://host/b", "https://host/a", True),
        ("https://host:443/b", "https://HOST/a", True),
        ("https://host/b", "http://host/a", True),
        ("http://host/b", "https://host/a", False),
        ("https://host:8443/b", "https://host/a", False),
        ("https://host/b", "http://host:8080/a", False),
        ("https://other/b", "https://host/a", False),
        ("https://host.other/b", "https://host/a", False),
    ],
)
def test_a_redirect_stays_at_home_on_the_same_server_only(url: str, home: str, stays: bool) -> None:
    assert web._is_home(URL(url), URL(home)) == stays


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (answered(400), "check fetch.url"),
        (answered(401), "log in"),
        (answered(403), "check the access rights"),
        (answered(407), "put user and password of the proxy"),
        (answered(408), ""),
        (answered(429), ""),
        (answered(500), ""),
        (aiohttp.TooManyRedirects(REQUEST, ()), "the server redirects in a circle"),
        (aiohttp.NonHttpUrlRedirectClientError("file:///x"), "the server redirects to what is no web address"),
        (web.LeakError("a redirect"), "do not use this server"),
        (aiohttp.InvalidURL("http://["), "check fetch.url"),
        (aiohttp.ClientPayloadError(), ""),
        (OSError(), ""),
    ],
)
def test_advice_is_for_what_another_attempt_would_meet_again(error: Exception, start: str) -> None:
    advice = web.advice(error)
    assert advice.startswith(start)
    assert bool(advice) == bool(start)


@pytest.mark.parametrize(("text", "seconds"), [("120", 120), ("0", 0), ("-1", 0), ("soon", 0), ("", 0), ("1e3", 0)])
def test_the_time_to_wait_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert web.retry_after(answered(503, **{"Retry-After": text})) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_the_time_to_wait_may_be_a_date(zone: str) -> None:
    date = datetime.now(UTC) + timedelta(seconds=60)
    text = f"{date:%a, %d %b %Y %H:%M:%S} {zone}"
    assert 55 < web.retry_after(answered(503, **{"Retry-After": text})) <= 60


def test_other_errors_name_no_time() -> None:
    assert web.retry_after(OSError()) == web.retry_after(answered(503)) == 0


@pytest.mark.parametrize(
    ("content", "page"),
    [
        (b"<!DOCTYPE html><html>", True),
        (b"\xef\xbb\xbf\n<HTML lang=en>", True),
        (b'<?xml version="1.0"?>\n<!-- one --><!-- two -->\n<html xmlns="x">', True),
        (b"<body>Sign in", True),
        (b"PK\x03\x04 <html>", False),
        (b"image_id,label\n", False),
        (b"<svg>", False),
        (b"", False),
    ],
)
def test_a_page_is_known_by_its_beginning(tmp_path: Path, content: bytes, page: bool) -> None:
    (tmp_path / "file").write_bytes(content)
    assert web.is_page(tmp_path / "file") == page
