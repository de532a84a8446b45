"""HTTP for `download`: requests with time limits and credentials, and what the errors of servers mean."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from pneumonia.credentials import PASSWORD, QUERY, USER, Credentials

CONNECT_SECONDS, SILENT_SECONDS = 30.0, 30.0
"""Times for a name with a connection to it, and between two packets of a response."""

OPTIONS = {
    # As it is, like curl: a packed response has another length and other ranges, and may unpack to any number of bytes.
    "auto_decompress": False,
    "headers": {"Accept-Encoding": "identity"},
    "trust_env": True,  # the proxies of http_proxy, https_proxy and no_proxy; passwords in netrc
}
"""Of an aiohttp session."""

LOGIN = f"{USER} and {PASSWORD}, a netrc file, or {QUERY}; see docs/data.md"

_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
# Shorter pairs of a query, such as `v=1`, are no secrets.
_SHORTEST = 6


class LeakError(aiohttp.RedirectClientError):
    """A redirect would send the secret query of the user to another host, or unencrypted."""


def is_http(url: str) -> bool:
    """Whether an address is of the web."""
    return url.startswith(("http://", "https://"))


def client(url: str, deadline: float, credentials: Credentials) -> Callable[..., Awaitable[LimitedSession]]:
    """The function that makes the HTTP session of an fsspec file system.

    Args:
        url: of the file.
        deadline: as `time.monotonic`, when every request ends.
        credentials: sent to the host of `url` only, also after a redirect.
    """
    home, query = URL(url), _pairs(URL(f"?{credentials.query}", encoded=True))
    login = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()

    async def with_user(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Each request and each redirect comes here."""
        if _is_home(request.url, home):
            if credentials.user or credentials.password:
                request.headers["Authorization"] = f"Basic {login}"  # instead of that of a netrc file
        elif query & _pairs(request.url):
            raise LeakError(f"a redirect of the secret in {QUERY} to {request.url.origin()}")
        return await send(request)

    async def make(**options: Any) -> LimitedSession:
        session = aiohttp.ClientSession(**options, middlewares=(with_user,))
        return LimitedSession(session, deadline, credentials.query)

    return make


class LimitedSession:
    """An HTTP session whose requests end at a deadline, in every phase: name, connection, headers or body.

    To the address of each request it adds a query.
    """

    def __init__(self, session: aiohttp.ClientSession, deadline: float, query: str) -> None:
        self._session, self._deadline, self._query = session, deadline, query
        self.close = session.close
        self._connector = session.connector  # fsspec closes it when closing the session takes too long

    def head(self, url: Any, **options: Any) -> Any:
        return self._session.head(self._with_query(url), timeout=self._timeout(), **options)

    def get(self, url: Any, **options: Any) -> Any:
        return self._session.get(self._with_query(url), timeout=self._timeout(), **options)

    def _with_query(self, url: Any) -> URL:
        address = str(url).partition("#")[0]
        joined = f"{address}{'&' if '?' in address else '?'}{self._query}" if self._query else address
        return URL(joined, encoded=True)  # a signature is valid for these characters only

    def _timeout(self) -> aiohttp.ClientTimeout:
        # In aiohttp, 0 means "no limit", and a time above `ceil_threshold` is rounded up to a second.
        return aiohttp.ClientTimeout(
            total=max(self._deadline - time.monotonic(), 0.001),
            connect=CONNECT_SECONDS,
            sock_read=SILENT_SECONDS,
            ceil_threshold=float("inf"),
        )


def is_page(path: Path) -> bool:
    """Whether a file is a page of HTML."""
    with open(path, "rb") as file:
        return bool(_PAGE.match(file.read(4096)))


def status(error: BaseException) -> int | None:
    """The HTTP status of an error; None if it has none."""
    return error.status if isinstance(error, aiohttp.ClientResponseError) else None


def advice(error: BaseException) -> str:
    """What to do about an error that another attempt would meet again; empty for other errors."""
    code = status(error)
    if isinstance(error, aiohttp.TooManyRedirects):
        return "the server redirects in a circle: check fetch.url"
    if isinstance(error, LeakError):
        return "do not use this server"
    if isinstance(error, aiohttp.RedirectClientError):
        return "the server redirects to what is no web address: check fetch.url"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "check fetch.url and the clock; if your organisation has its own certificates, set SSL_CERT_FILE to them"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "check https:// or http:// in fetch.url"
    if code == 407:
        return "put user and password of the proxy into http_proxy and https_proxy"
    if code == 401:
        return f"log in ({LOGIN})"
    if code == 403:
        return f"check the access rights ({LOGIN})"
    lasts = isinstance(error, aiohttp.InvalidURL) or (code is not None and code < 500 and code not in (408, 429))
    return "check fetch.url" if lasts else ""


def retry_after(error: BaseException) -> float:
    """Seconds after which a busy server wants to be asked again; 0 if it does not say."""
    if not isinstance(error, aiohttp.ClientResponseError) or not error.headers:
        return 0.0
    text = error.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _is_home(url: URL, home: URL) -> bool:
    """Whether a redirect stays on the server of `home`; from http to https it may change."""
    ways = (home.scheme, home.port), (url.scheme, url.port)
    return url.host == home.host and (ways[0] == ways[1] or ways == (("http", 80), ("https", 443)))


def _pairs(url: URL) -> set[tuple[str, str]]:
    return {(key, value) for key, value in url.query.items() if len(key + value) >= _SHORTEST}
