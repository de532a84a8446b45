"""The files of a request, in any pieces."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.service import uploads
from pneumonia.service.limits import Limits, RefusedError
from pneumonia.service.uploads import Upload
from tests.service.conftest import BOUNDARY, FORM, form


def read(body: bytes, kind: str = FORM, piece: int = 7, **limits: int) -> list[Upload]:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), piece):
            yield body[start : start + piece]

    return asyncio.run(uploads.read(kind, pieces(), Limits()._replace(**limits)))


@given(
    st.lists(st.tuples(st.text("abc.é ", max_size=9), st.binary(max_size=60)), min_size=1, max_size=4),
    st.integers(1, 80),
)
def test_a_form_gives_its_files_whatever_they_contain_and_however_they_arrive(
    files: list[tuple[str, bytes]], piece: int
) -> None:
    expected = [Upload(name or f"#{number}", content) for number, (name, content) in enumerate(files, start=1)]
    assert read(form(*files), piece=piece) == expected


def test_content_that_looks_like_a_boundary_is_content() -> None:
    content = f"\r\n--{BOUNDARY}x\r\n--{BOUNDARY[:-1]}\r\n-".encode()
    assert read(form(("a", content))) == [Upload("a", content)]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    for start in (b"", f"--{BOUNDARY}\r\n".encode()):
        with pytest.raises(RefusedError):
            read(start + body)


def test_limits_hold_for_each_file_and_for_their_number() -> None:
    assert len(read(form(("a", bytes(50)), ("b", bytes(50))), file_bytes=50, files=2)) == 2
    with pytest.raises(RefusedError, match="a file of more than 49 bytes"):
        read(form(("a", bytes(50))), file_bytes=49)
    with pytest.raises(RefusedError, match="more than 1 files in one request"):
        read(form(("a", b""), ("b", b"")), files=1)
    with pytest.raises(RefusedError, match="a file of more than 49 bytes"):
        read(bytes(50), "image/png", file_bytes=49)


def test_a_header_of_a_part_cannot_fill_the_memory() -> None:
    for name in ("n" * 100_000, "n\r\nX: y" * 5_000):
        with pytest.raises(RefusedError, match="a broken form"):
            read(form((name, b"x")), piece=4096)
