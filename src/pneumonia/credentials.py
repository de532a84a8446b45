"""Secrets of addresses: refused in settings, masked in messages, taken from the environment, stored nowhere.

DVC, MLflow and the reports copy an address wherever they name it. So an address in params.yaml has no secret, and the
secret reaches only the request.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import quote, unquote, unquote_plus

from pneumonia import UserError

USER, PASSWORD, QUERY = "PNEUMONIA_FETCH_USER", "PNEUMONIA_FETCH_PASSWORD", "PNEUMONIA_FETCH_QUERY"
"""Variables with the credentials for `fetch.url`: user and password, and the secret part of the query."""

STUDY_PASSWORD = "PNEUMONIA_STUDY_PASSWORD"
"""Variable with the password of the database at `compute.study_storage`."""

MASK = "***"

# Azure has `container@account`, git has `repository@revision`: no secrets. With `:` Azure's would be a password.
_CONTAINER = ("abfs", "abfss", "adl", "az", "wasb", "wasbs")
_REVISION = ("git", "github")
# The user of a database is no secret without a password.
_DATABASE = ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle")

_SCHEME = r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
# An address may be in the query of another one. They may be chained with `::`, which also occurs in an IPv6 host.
_ADDRESS = re.compile(rf"(?={_SCHEME}(?P<rest>.*?)(?:::[A-Za-z][A-Za-z0-9+.-]*://|\Z))", re.DOTALL)
_PAIR = re.compile(r"[?&;#](?P<key>[^=&;#?/\s]+)=(?P<value>[^&;#]+)")
# A password with a `/` that is not encoded ends the host before its end: then the "port" is no number.
_NO_PORT = re.compile(r"[^\[\]@]*:(?!\d*\Z)")

_USER_IN_TEXT = re.compile(rf"{_SCHEME}(?P<user>[^\s'\"<>/?#]*|(?!\[)[^\s'\"<>/?#@]*:(?!\d*[/?#])[^\s'\"<>]*)@")
_PAIR_IN_TEXT = re.compile(r"(?P<key>[?&;#][^=&;#?/\s]+=)(?P<value>[^&;#\s'\"<>)]*[^&;#\s'\"<>):,.])")

_WORDS = ("auth", "bearer", "key", "pass", "sas", "sig")
_PARTS = (
    *("accesskey", "apikey", "authorization", "credential", "jwt", "passw", "pwd", "rlkey", "secret", "session"),
    *("signature", "token"),
)
_NAMES = ("code",)  # of Azure Functions; in another name, such as country_code, it is a common word
_FAMILIES = ("xamz", "xgoog", "awsaccesskey")
# A shorter password would mask parts of words. It is sent encoded, so it never occurs alone in a message.
_SHORTEST = 4
_LONG = 8


@dataclass(frozen=True)
class Credentials:
    """What a request to `fetch.url` sends in addition to the address; all empty = nothing.

    Attributes:
        user, password: of basic authentication.
        query: part of a query, encoded as in an address: `token=T&id=1`.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.password or self.query)


NO_CREDENTIALS = Credentials()


def from_environment() -> Credentials:
    """The credentials in the variables `PNEUMONIA_FETCH_*`.

    Raises:
        UserError: basic authentication cannot send this user.
    """
    user, password, query = (os.environ.get(name, "") for name in (USER, PASSWORD, QUERY))
    if ":" in user:
        raise UserError(f"{USER} contains a colon, which basic authentication does not allow; correct it")
    return Credentials(user, password, query.lstrip("?&"))


def secrets_of(text: str) -> list[str]:
    """What looks like a secret in an address; empty for a text that is none.

    >>> secrets_of("https://me:pw@example.org/x.zip?version=2&token=T")
    ['user information', 'the query key token']
    >>> secrets_of("abfs://container@account.dfs.core.windows.net/x.zip")
    []
    """
    names: list[str] = []
    for one in (text, unquote(text)):  # an address may be part of another one, encoded
        for address in _ADDRESS.finditer(one):
            scheme, rest = address["scheme"].lower(), address["rest"]
            authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
            user, at, _ = authority.rpartition("@")
            if (at and _is_secret_user(scheme, user)) or (not at and "@" in rest and _NO_PORT.match(authority)):
                names.append("user information")
            names += [f"the query key {key}" for pair in _PAIR.finditer(rest) if _is_secret(key := _plain(pair["key"]))]
    return list(dict.fromkeys(names))


def refusal(key: str, address: str) -> str:
    """Why a setting must not be this address, and what to do; empty if it has no secret.

    Args:
        key: of the setting.
        address: its value; any text.
    """
    secrets = secrets_of(address)
    if not secrets:
        return ""
    scheme = address.strip().partition("://")[0].lower()
    if key == "compute.study_storage":
        instead = f" ({STUDY_PASSWORD})"
    elif key != "fetch.url":
        instead = ""
    elif scheme in ("http", "https"):
        instead = f" (user: {USER} and {PASSWORD}, or a netrc file; query: {QUERY})"
    else:
        name = re.sub(r"\W", "", scheme).upper()
        instead = f" (FSSPEC_{name}_USERNAME and FSSPEC_{name}_PASSWORD)"
    return (
        f"{key} = {masked_address(address)} has {' and '.join(secrets)}, which DVC and MLflow would store; take "
        f"secrets out of the address and put them into the environment{instead}; if -S wrote it: git checkout "
        "params.yaml, and see docs/data.md, Secrets"
    )


def masked_address(address: str) -> str:
    """An address without its secrets; a text that has none stays as it is.

    >>> masked_address("https://me:it's mine@example.org/x.png")
    'https://***@example.org/x.png'
    """
    if not secrets_of(address):
        return address
    return masked(re.sub(r"[\s'\"<>)]", "_", unquote(address)))  # in a text an address would end there


def masked(text: str) -> str:
    """A text without the secrets of the addresses in it, and without those of the environment.

    >>> masked("503 for 'https://me:pw@example.org/x.zip?version=2&token=T'")
    "503 for 'https://***@example.org/x.zip?version=2&token=***'"
    """
    query = os.environ.get(QUERY, "").lstrip("?&")
    keys = {_plain(part.partition("=")[0]) for part in re.split("[&;]", query) if "=" in part}
    values = (part.partition("=") for part in re.split("[&;]", query))
    # A short value that is no secret, such as a year, may be a part of other words. In an address its key hides it.
    hidden = (value for key, _, value in values if len(value) >= _LONG or _is_secret(_plain(key)))
    for secret in (os.environ.get(PASSWORD, ""), os.environ.get(STUDY_PASSWORD, ""), query, *hidden):
        for form in (secret, unquote(secret), quote(secret, safe="")):
            if len(form) >= _SHORTEST:
                text = text.replace(form, MASK)
    text = _USER_IN_TEXT.sub(
        lambda match: f"{match['scheme']}://{MASK}@" if _is_secret_user(match["scheme"], match["user"]) else match[0],
        text,
    )
    return _PAIR_IN_TEXT.sub(
        lambda match: (
            f"{match['key']}{MASK}" if (key := _plain(match["key"][1:-1])) in keys or _is_secret(key) else match[0]
        ),
        text,
    )


def mask_tracebacks() -> None:
    """From now on, a traceback that ends this program is printed without secrets."""

    def print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = print_masked


def _plain(key: str) -> str:
    return unquote_plus(key).strip()


def _is_secret_user(scheme: str, user: str) -> bool:
    scheme = scheme.lower()
    needs_password = scheme in _CONTAINER or scheme.partition("+")[0] in _DATABASE
    return scheme not in _REVISION and (":" in user or not needs_password)


def _is_secret(key: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", key)
    joined = "".join(words).lower()
    return (
        joined.startswith(_FAMILIES)
        or joined in _NAMES
        or any(part in joined for part in _PARTS)
        or any(word.lower() in _WORDS for word in words)
    )
