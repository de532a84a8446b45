"""The files of a request, in memory: neither a form nor a body is ever written to disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pneumonia.service.limits import Limits, RefusedError

FIELD = "file"
FORM = "multipart/form-data"
BODIES = ("application/dicom", "application/octet-stream", "image/")
"""Content types of a request whose body is one file; only this says how to read a request, not what the file is."""

_NAME_LENGTH = 200


class Upload(NamedTuple):
    """A file of a request.

    Attributes:
        name: as the client gives it, shortened; `#1`, `#2`, … without a name. It may contain any character.
        content: of the file.
    """

    name: str
    content: bytes


async def read(content_type: str, body: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    """The files of a request.

    Args:
        content_type: header of the request; empty counts as `application/octet-stream`.
        body: in pieces.
        limits: of the service.

    Returns:
        At least one file.

    Raises:
        RefusedError: 400 for a broken form or none, 413 for too many or too large files, 415 for another content type.
    """
    kind, options = parse_options_header(content_type)
    if kind == FORM.encode():
        return await _read_form(options.get(b"boundary", b""), body, limits)
    if kind and not kind.decode("latin-1").startswith(BODIES):
        raise RefusedError(
            415, f"this content type is not supported, expected {FORM}, {', '.join(BODIES[:2])} or image/…"
        )
    content = _Content(limits)
    async for piece in body:
        content.add(piece)
    return [Upload("#1", content.whole())]


async def _read_form(boundary: bytes, body: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    if not boundary:
        raise RefusedError(400, "a form without a boundary in its content type")
    form = _Form(limits)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.close,
            },
        )
        async for piece in body:
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, "a broken form: its parts cannot be read") from error
    if not form.is_complete:
        raise RefusedError(400, "a broken form: it ends before its last boundary")
    if not form.uploads:
        raise RefusedError(400, f"no file; send at least one in the field {FIELD}")
    return form.uploads


class _Content:
    """A file that arrives in pieces."""

    def __init__(self, limits: Limits) -> None:
        self._bytes, self._limit = bytearray(), limits.file_bytes

    def add(self, piece: bytes) -> None:
        if len(self._bytes) + len(piece) > self._limit:
            self._bytes = bytearray()  # now, and not when the client has sent the rest
            raise RefusedError(413, f"a file of more than {self._limit:,} bytes")
        self._bytes += piece

    def whole(self) -> bytes:
        return bytes(self._bytes)


class _Form:
    """The parts of a form, from the callbacks of the parser, which bounds the headers of a part."""

    def __init__(self, limits: Limits) -> None:
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._limits = limits

    def begin(self) -> None:
        if len(self.uploads) == self._limits.files:
            raise RefusedError(413, f"more than {self._limits.files} files in one request")
        self._content, self._headers = _Content(self._limits), {b"": b""}
        self._header, self._value = b"", b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if options.get(b"name") != FIELD.encode():
            raise RefusedError(400, f"a field that is not known; send files in the field {FIELD}")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        self._name = name[:_NAME_LENGTH] or f"#{len(self.uploads) + 1}"

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content.add(data[start:end])

    def end(self) -> None:
        self.uploads.append(Upload(self._name, self._content.whole()))

    def close(self) -> None:
        self.is_complete = True
