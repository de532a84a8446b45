"""What an image file may cost, found by counting before anything is decoded.

A small file can demand much work: thousands of scans of a JPEG, millions of empty elements of a DICOM header, run
lengths that unpack to gigabytes. Some parsers have no limit for these. The limits here are far from what any device or
program writes. They count and do not measure time: a file is read, or refused, on every machine.
"""

from __future__ import annotations

import io
import re
import struct
from itertools import pairwise
from typing import Literal, NamedTuple

from pneumonia import UserError

MAX_PIXELS = 100_000_000
"""More than any detector has; larger images would exhaust the memory."""
MAX_SIDE = 65_535
"""The most that JPEG and DICOM can express."""
MAX_SCANS = 100
"""Of a JPEG; each is a pass over the whole image. Encoders write 1, or about 10 if progressive. libtiff has the same
limit."""
MAX_SEGMENTS = 10_000
"""Of a JPEG, without its scans. Tables, colour profile and notes of a camera are some hundred at most."""
MAX_METADATA_BYTES = 16 * 2**20
"""Of a JPEG before its first scan."""
MAX_FILLING = 65_536
"""Bytes of a JPEG before its first scan that belong to nothing."""
MAX_CHUNKS, MAX_PROFILES = 100_000, 100
"""Of a PNG. Encoders write 4 kB of pixels or more in each chunk, and one colour profile."""
MAX_TAGS = 5_000
"""Of a TIFF. About 20 are usual."""
MAX_JPEG2000_PIXELS, MAX_PARTS = 50_000_000, 1_000_000
"""Of a JPEG 2000, which decodes slowly, and its precincts and code blocks, for each of which OpenJPEG takes 500 bytes.
A block has 4,096 pixels as a rule."""
MAX_RUN_PIXELS = 10_000_000
"""Of a bitmap in run lengths, which Pillow decodes in Python."""
MAX_DICOM_STEPS = 20_000
"""Reads and values of a DICOM header: two or three for each element. X-rays have some hundred elements."""
MAX_ITEMS = 10_000
"""Of a DICOM file: items of sequences, and fragments of compressed pixels, of which one is usual for one frame."""
MAX_TABLE_BYTES, MAX_TABLES = 2**20, 100
"""Of a sequence of lookup tables in a DICOM header. A table has 128 kB at most."""
MAX_ELEMENT_BYTES = 4096
"""Of each other element that is read: numbers and short texts."""
MAX_WINDOWS = 100

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker of JPEG, except those that may be inside the data of a scan."""
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of the header with the size; F7 is that of JPEG-LS."""
_TILE_PART = re.compile(rb"\xff\x90\x00\x0a")
_TILE_DATA, _CODING, _CODING_OF_COMPONENT = 0x93, 0x52, 0x53  # markers of JPEG 2000
_JPEG2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{16})", re.DOTALL)
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""Tag of an item of DICOM, little and big endian."""


class Scan(NamedTuple):
    """Where the compressed data of a scan of a JPEG begin and end."""

    start: int
    end: int


class Jpeg(NamedTuple):
    """The scans of a JPEG or JPEG-LS, and what its headers say: markers of the kind, and sizes (width, height)."""

    scans: list[Scan]
    kinds: set[int]
    sizes: set[tuple[int, int]]


def check_size(width: int, height: int) -> None:
    """Refuse an image of more than `MAX_PIXELS`, or with a side of more than `MAX_SIDE`."""
    if width * height > MAX_PIXELS:
        raise UserError(f"claims {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise UserError(f"claims {width:,} x {height:,} pixels, more than {MAX_SIDE:,} at one side")


def read_jpeg(content: bytes) -> Jpeg:
    """Where the scans of a JPEG are; markers are found as libjpeg finds them.

    Raises:
        UserError: more scans, segments, metadata or filling than the limits.
    """
    scans: list[Scan] = []
    kinds: set[int] = set()
    sizes: set[tuple[int, int]] = set()
    place, segments, filling, in_scan = 2, 0, 0, False
    while match := _MARKER.search(content, place):
        if in_scan:
            scans[-1] = Scan(place, match.start())
        elif not scans:
            filling += match.start() - place
        marker, start = content[match.start() + 1], match.end()
        if marker == _EOI:
            break
        segments += 1
        place = start + max(2, int.from_bytes(content[start : start + 2], "big"))
        if in_scan := marker == _SOS:
            scans.append(Scan(place, len(content)))
        if marker in _FRAMES:
            height, width = (int.from_bytes(content[start + at : start + at + 2], "big") for at in (3, 5))
            kinds.add(marker)
            sizes.add((width, height))
        _at_most(len(scans), MAX_SCANS, "scans")
        _at_most(segments - len(scans), MAX_SEGMENTS, "segments")
        if not scans:
            _at_most(place, MAX_METADATA_BYTES, "bytes before its pixels")
            _at_most(filling, MAX_FILLING, "bytes of filling")
    return Jpeg(scans, kinds, sizes)


def check_png(content: bytes) -> None:
    """Refuse a PNG of more than `MAX_CHUNKS` chunks or `MAX_PROFILES` colour profiles."""
    _at_most(content.count(b"iCCP"), MAX_PROFILES, "colour profiles")
    place, chunks = 8, 0
    while place < len(content):
        chunks += 1
        _at_most(chunks, MAX_CHUNKS, "chunks")
        place += 12 + int.from_bytes(content[place : place + 4], "big")


def check_tiff(content: bytes) -> None:
    """Refuse a TIFF of more than `MAX_TAGS` tags: BigTIFF can express 2**64."""
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    is_big = 43 in content[2:4]
    start, width = (8, 8) if is_big else (4, 4)
    directory = int.from_bytes(content[start : start + width], order)
    count = content[directory : directory + (8 if is_big else 2)]
    _at_most(int.from_bytes(count, order), MAX_TAGS, "tags")


def check_run_bitmap(content: bytes, width: int, height: int) -> None:
    """Refuse a bitmap in run lengths with more pixels, or with more bytes for them, than such a file has."""
    _at_most(width * height, MAX_RUN_PIXELS, "pixels in run lengths")
    _at_most(len(content), 4 * width * height + 65_536, "bytes for its pixels")


class DicomFile(io.BytesIO):
    """A DICOM file whose header may cost `MAX_DICOM_STEPS`: each read is one, and each `\\`, which separates values.

    Attributes:
        counts: False while pixels are read.
        steps: so far.
    """

    def __init__(self, content: bytes) -> None:
        _at_most(max(map(content.count, _ITEMS)), MAX_ITEMS, "items")
        super().__init__(content)
        self.counts, self.steps = True, 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if self.counts:
            self.steps += 1 + content.count(b"\\")
            self.check()
        return content

    def check(self) -> None:
        """Raise the `UserError` for too many steps."""
        _at_most(self.steps, MAX_DICOM_STEPS, "elements and values in its header")


def check_element(raw: bytes, *, is_table: bool) -> None:
    """Refuse an element of a DICOM header, as it is written, that is larger than it can be.

    Args:
        raw: its value.
        is_table: it is a sequence of lookup tables, else a number or a short text.
    """
    _at_most(len(raw), MAX_TABLE_BYTES if is_table else MAX_ELEMENT_BYTES, "bytes in an element of its header")
    _at_most(max(map(raw.count, _ITEMS)), MAX_TABLES, "lookup tables")


def check_windows(count: int) -> None:
    """Refuse a DICOM file of more than `MAX_WINDOWS` windows: each is tried, until one shows something."""
    _at_most(count, MAX_WINDOWS, "windows")


def check_offsets(encapsulated: bytes) -> None:
    """Refuse compressed pixels of a DICOM file with more than `MAX_ITEMS` offsets of frames."""
    _at_most(int.from_bytes(encapsulated[4:8], "little") // 4, MAX_ITEMS, "offsets of pixels")


def check_codestream(frame: bytes, width: int, height: int) -> None:
    """Refuse compressed pixels of a DICOM file whose own header has another size than that of the file.

    Args:
        frame: JPEG, JPEG-LS or JPEG 2000.
        width, height: in the header of the file.
    """
    if frame.startswith(b"\xff\xd8"):
        sizes = read_jpeg(frame).sizes
    else:
        heads = list(_JPEG2000_SIZE.finditer(frame))
        numbers = [struct.unpack(">4I", match[1]) for match in heads]
        sizes = {(right - left, bottom - top) for right, bottom, left, top in numbers}
        _at_most(width * height, MAX_JPEG2000_PIXELS, "pixels in JPEG 2000")
        for place in [head.start() + 2 for head in heads] + [part.start() for part in _TILE_PART.finditer(frame)]:
            _at_most(width * height // _smallest_part(frame, place), MAX_PARTS, "parts in JPEG 2000")
    if sizes - {(width, height)}:
        raise UserError("damaged: its compressed pixels have another size than its header")


def _smallest_part(frame: bytes, place: int) -> int:
    """Pixels of the smallest precinct or code block that a header of a JPEG 2000 asks for.

    Args:
        frame: whole.
        place: of the first marker with a length: that of the size, or that of a tile-part.

    Source:
        ISO/IEC 15444-1, annex A.6.
    """
    smallest = 4096
    while place + 4 <= len(frame) and frame[place] == 0xFF and frame[place + 1] != _TILE_DATA:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        segment = frame[place + 4 : place + 2 + length]
        if marker == _CODING:
            smallest = min(smallest, _smallest_of(segment[:1], segment[5:]))
        elif marker == _CODING_OF_COMPONENT:
            smallest = min(smallest, _smallest_of(segment[1:2], segment[2:]))
        place += 2 + max(2, length)
    return smallest


def _smallest_of(style: bytes, coding: bytes) -> int:
    """Pixels of the smallest part; `coding` is levels, width and height of a block, modes, transform, precincts."""
    sizes = [2 ** (coding[1] + coding[2] + 4)] if len(coding) > 2 else []
    if style and style[0] & 1:
        sizes += [2 ** ((byte & 15) + (byte >> 4)) for byte in coding[5:]]
    return min(sizes, default=4096)


def check_run_lengths(frame: bytes, n_pixels: int) -> None:
    """Refuse pixels of a DICOM file in run lengths that unpack to more than the image: 2 bytes can become 128.

    Args:
        frame: with its header of 64 bytes.
        n_pixels: of the image. A segment has a byte of each.

    Source:
        DICOM PS3.5, annex G.
    """
    if len(frame) < 64:
        return
    count, *starts = struct.unpack("<16I", frame[:64])
    starts = starts[: min(count, 15)]
    for start, end in pairwise([*starts, len(frame)]):
        if 64 * (end - start) > n_pixels:
            _check_segment(frame[start:end], n_pixels)


def _check_segment(segment: bytes, n_pixels: int) -> None:
    unpacked = place = 0
    limit = n_pixels + n_pixels // 8 + 1024  # some devices pad
    while place < len(segment):
        head = segment[place]
        if head > 128:
            unpacked += 257 - head
            place += 2
        elif head < 128:
            unpacked += head + 1
            place += head + 2
        else:
            place += 1
        if unpacked > limit:
            raise UserError("damaged: its run lengths unpack to more pixels than its header claims")


def _at_most(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise UserError(f"more than {limit:,} {what}, which no X-ray has; the file is damaged or made to do harm")
