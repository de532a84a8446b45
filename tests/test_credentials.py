"""Secrets of addresses are recognised, masked in every text, and read from the environment alone."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia import UserError, credentials

SECRET = "Xyz123secret"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (credentials.USER, credentials.PASSWORD, credentials.QUERY):
        monkeypatch.delenv(name, raising=False)


def test_the_examples_are_right() -> None:
    assert doctest.testmod(credentials).failed == 0


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{SECRET}@host/x.zip",
        f"https://{SECRET}@host/x.zip",
        f"HTTPS://user:{SECRET}@host/x.zip",
        f" https://user:{SECRET}@host/x.zip",
        f"https://user:{SECRET}/with/slashes@host/x.zip",
        f"https://user:{SECRET}@more@host/x.zip",
        f"https://user:{SECRET}@[::1]:8443/x.zip",
        f"ftp://user:{SECRET}@host/x.zip",
        f"abfs://container:{SECRET}@account/x.zip",
        f"simplecache::https://user:{SECRET}@host/x.zip",
        f"zip://a.png::https://host/x.zip?token={SECRET}",
        f"https://host/x.zip?proxy=http%3A%2F%2Fuser%3A{SECRET}%40host",
        f"https://host/x.zip?version=2&token={SECRET}",
        f"https://host/x.zip?to%6ben={SECRET}",
        f"https://host/x.zip?TOKEN={SECRET}",
        f"https://host/x.zip?a=1;apiKey={SECRET}",
        f"https://host/x.zip;jsessionid={SECRET}",
        f"https://host/x.zip#access_token={SECRET}",
        *(
            f"https://host/x.zip?{key}={SECRET}"
            for key in (
                *("key", "sig", "signature", "password", "passwd", "pwd", "secret", "auth", "credential", "api_key"),
                *("access_token", "auth-token", "X-Amz-Signature", "X-Amz-Credential", "x-amz-security-token"),
                *("X-Goog-Signature", "X-Goog-Credential", "AWSAccessKeyId", "rlkey", "Key-Pair-Id", "client_secret"),
                "code",
            )
        ),
    ],
)
def test_a_secret_of_an_address_is_found_and_masked(address: str) -> None:
    assert credentials.secrets_of(address)
    refusal = credentials.refusal("fetch.url", address)
    assert "\n" not in refusal
    assert SECRET not in refusal
    if "%40" not in address:  # encoded in another address, it is refused, and never part of a request
        assert SECRET not in credentials.masked(f"the download failed (error for '{address}')")


@pytest.mark.parametrize("odd", [" ", "'", '"', "<", "\t", ")", "\\"])
def test_a_password_with_any_character_is_not_shown_by_its_refusal(odd: str) -> None:
    refusal = credentials.refusal("fetch.url", f"https://user:{SECRET}{odd}{SECRET}@host/x.zip?token={SECRET}{odd}more")
    assert "user information and the query key token" in refusal
    assert SECRET not in refusal
    assert "more" not in refusal


@pytest.mark.parametrize(
    "address",
    [
        "https://host/x.zip",
        "https://host:8443/a@b.zip?version=2&download=1",
        "https://host/x.zip?keyword=chest&author=me&sort=asc&token=",
        "https://host/x.zip?monkey=1&turkey=2&country_code=DE&encode=1",
        "http://[::1]:8080/a@b.zip",
        "abfs://container@account.dfs.core.windows.net/x.zip",
        "github://owner:repository@main/x.zip",
        "s3://bucket/a@b.zip",
        "kaggle://owner/name",
        "tcp://host:8786",
        "/data/me@home/x.zip?token=1",
        "zip://a.png::/data/x.zip",
    ],
)
def test_an_address_without_a_secret_is_allowed_and_stays_as_it_is(address: str) -> None:
    assert credentials.refusal("fetch.url", address) == ""
    if "://" in address:
        assert credentials.masked(address) == address


@pytest.mark.parametrize(
    ("key", "address", "remedy"),
    [
        (
            "fetch.url",
            "https://u:p@host/x",
            "(user: PNEUMONIA_FETCH_USER and PNEUMONIA_FETCH_PASSWORD, or ",
        ),
        ("fetch.url", "https://host/x?sig=1", "query: PNEUMONIA_FETCH_QUERY)"),
        ("fetch.url", "ftp://u:p@host/x", "(FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD)"),
        ("compute.dask", "tcp://u:p@host:8786", "put them into the environment; "),
    ],
)
def test_a_refusal_names_the_remedy(key: str, address: str, remedy: str) -> None:
    assert remedy in credentials.refusal(key, address)
    assert "git checkout params.yaml" in credentials.refusal(key, address)


def test_credentials_come_from_the_environment_and_do_not_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not credentials.from_environment()
    monkeypatch.setenv(credentials.USER, "me")
    monkeypatch.setenv(credentials.PASSWORD, SECRET)
    monkeypatch.setenv(credentials.QUERY, f"?token={SECRET}")
    found = credentials.from_environment()
    assert (found.user, found.password, found.query) == ("me", SECRET, f"token={SECRET}")
    assert found
    assert SECRET not in repr(found)


def test_a_user_with_a_colon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.USER, "me:you")
    with pytest.raises(UserError, match="PNEUMONIA_FETCH_USER contains a colon"):
        credentials.from_environment()


def test_the_secrets_of_the_environment_are_masked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.PASSWORD, "pass/word")
    monkeypatch.setenv(credentials.QUERY, "ticket=a1&plan=Gold%2Fcard")
    text = "no pass/word, no pass%2Fword; https://host/x?ticket=a1&plan=Gold%2Fcard&v=2 (Gold/card) ?ticket=b2"
    assert credentials.masked(text) == "no ***, no ***; https://host/x?***&v=2 (***) ?ticket=***"


def test_a_traceback_shows_no_secret(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from pneumonia import credentials\n"
        "credentials.mask_tracebacks()\n"
        "try:\n"
        "    raise ValueError(os.environ['ADDRESS'])\n"
        "except ValueError as error:\n"
        "    raise RuntimeError('later') from error\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    environment = os.environ | {"ADDRESS": f"http://u:{SECRET}@host/x?token={SECRET}"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "ValueError: http://***@host/x?token=***" in done.stderr
    assert "RuntimeError: later" in done.stderr
    assert SECRET not in done.stderr


def test_short_values_of_a_query_that_are_no_secrets_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.QUERY, f"sv=2024&sr=blob&sig={SECRET}")
    text = f"/data/2024/x.zip blob https://host/x.zip?sv=2024&sig={SECRET}"
    assert credentials.masked(text) == "/data/2024/x.zip blob https://host/x.zip?sv=***&sig=***"
