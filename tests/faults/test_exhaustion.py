"""No image file can take much time or memory, and none with another size in its header looks whole; a lack of memory is
one line.

The files are made here. Time is bounded by counts; the tests hold it against CPU seconds, with a wide margin.
"""

import errno
import io
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

import stages
from pneumonia import UserError, cli, params
from pneumonia.images import decode
from pneumonia.models import runtime
from tests.images.test_decode import DEEP, GRADIENT, chunk, dicom, encoded, png, png_file, tiff

CPU_SECONDS = 2.0
"""For one file, of which the slowest here takes a tenth; each took more before, or would with more bytes."""

pytestmark = pytest.mark.fault(kind="exhaustion", where="decoder")

MiB = 2**20
ROWS, COLUMNS = 404, 500
FILM = Image.fromarray(
    (np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) // 2).astype(np.uint8)
    ^ np.random.default_rng(0).integers(0, 16, (ROWS, COLUMNS), dtype=np.uint8)
)
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff" * 4


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG with another size in its header."""
    start = next(place for marker in (b"\xff\xc0", b"\xff\xc2") if (place := jpeg.find(marker)) > 0)
    return jpeg[: start + 5] + struct.pack(">HH", height, width) + jpeg[start + 9 :]


def many_scans(number: int, width: int = COLUMNS, height: int = ROWS) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    jpeg = resized(encoded(FILM, "JPEG", progressive=True), width, height)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan[:300] * number + b"\xff\xd9"


def in_front(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


def jpeg_2000(width: int, height: int, tile: int) -> bytes:
    content = bytearray(encoded(Image.new("L", (64, 64)), "JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x51")
    struct.pack_into(">II", content, place + 6, width, height)
    struct.pack_into(">II", content, place + 22, tile, tile)
    return bytes(content)


def small_precincts(content: bytes) -> bytes:
    place = content.index(b"\xff\x52")
    length = int.from_bytes(content[place + 2 : place + 4], "big")
    coding = bytearray(content[place : place + 2 + length])
    coding[4] |= 1  # precincts follow, one byte for each resolution
    coding += b"\x11" * (coding[9] + 1)
    struct.pack_into(">H", coding, 2, len(coding) - 2)
    return content[:place] + bytes(coding) + content[place + 2 + length :]


def compressed(syntax: Any, frame: bytes, rows: int = ROWS, columns: int = COLUMNS) -> bytes:
    return dicom(GRADIENT, syntax=syntax, Rows=rows, Columns=columns, PixelData=encapsulate([frame]))


def with_element(element: bytes, keyword: tuple[int, int] = (0x0028, 0x0002), **header: Any) -> bytes:
    """A DICOM file with a further element before that of this tag."""
    content = dicom(GRADIENT.astype(np.uint16) * 250, **header)
    place = content.index(struct.pack("<HH", *keyword))
    return content[:place] + element + content[place:]


def sequence(items: bytes, tag: tuple[int, int] = (0x0009, 0x0010)) -> bytes:
    """Of undefined length, so that it is parsed when the file is read."""
    return struct.pack("<HH2sH", *tag, b"SQ", 0) + UNDEFINED + items + SEQUENCE_END


def windows(number: int) -> bytes:
    value = b"1\\" * (number - 1) + b"1 "
    return b"".join(struct.pack("<HH2sH", 0x28, element, b"DS", len(value)) + value for element in (0x1050, 0x1051))


def implicit(tag: tuple[int, int], value: bytes) -> bytes:
    return struct.pack("<HHL", *tag, len(value)) + value


def lookup_tables(number: int) -> bytes:
    items = (ITEM + bytes(4)) * number
    return struct.pack("<HH2sHL", 0x28, 0x3010, b"SQ", 0, len(items)) + items


def fragments(number: int) -> bytes:
    data = encapsulate([b"\xff\xd8"]) + (ITEM + bytes(4)) * number
    return dicom(GRADIENT, syntax=JPEGBaseline8Bit, PixelData=data)


def offsets(number: int) -> bytes:
    table = struct.pack("<L", 0) + b"\1\0\0\x10" * (number - 1)
    data = ITEM + struct.pack("<L", len(table)) + table + encapsulate([encoded(FILM, "JPEG")])[8:]
    return dicom(GRADIENT, syntax=JPEGBaseline8Bit, Rows=ROWS, Columns=COLUMNS, PixelData=data)


def run_lengths(data: bytes, n_segments: int = 1) -> bytes:
    return struct.pack("<16I", n_segments, *[64] * n_segments, *[0] * (15 - n_segments)) + data


def with_chunks(chunks: bytes, before: bytes = b"IDAT") -> bytes:
    content = png(GRADIENT)
    place = content.index(before) - 4
    return content[:place] + chunks + content[place:]


def bitmap(width: int, height: int, runs: bytes) -> bytes:
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    start = 54 + len(palette)
    header = struct.pack("<LHHL", start + len(runs), 0, 0, start)
    header += struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + header + palette + runs


def linked_directories(number: int) -> bytes:
    """A TIFF with many empty pages after the first."""
    content = tiff(GRADIENT)
    place = 10 + 12 * int.from_bytes(content[8:10], "little")
    chain = b"".join(struct.pack("<HL", 0, len(content) + 6 * (page + 1)) for page in range(number))
    return content[:place] + struct.pack("<L", len(content)) + content[place + 4 :] + chain


def circular() -> bytes:
    content = tiff(GRADIENT)
    place = 10 + 12 * int.from_bytes(content[8:10], "little")
    return content[:place] + struct.pack("<L", 8) + content[place + 4 :]


def row(name: str, before: str, content: Callable[[], bytes], message: str, now: str = "refused at once") -> Any:
    return pytest.param(content, message, id=name, marks=pytest.mark.fault(injected=name, before=before, now=now))


REFUSED = [
    row(
        "a progressive JPEG of 345 kB with 1,000 scans",
        "21 s",
        lambda: many_scans(1000, 4000, 4000),
        "more than 100 scans",
    ),
    row(
        "a JPEG of 1,000 scans in a DICOM file",
        "all scans decoded",
        lambda: compressed(JPEGBaseline8Bit, many_scans(1000)),
        "more than 100 scans",
    ),
    row(
        "a JPEG with a million empty segments",
        "2.2 s for 4 MB, and again for its mode",
        lambda: in_front(encoded(FILM, "JPEG"), b"\xff\xef\0\2" * MiB),
        "segments",
    ),
    row(
        "a JPEG with 4 MB of filling before its header",
        "3.5 s, and again for its mode",
        lambda: in_front(encoded(FILM, "JPEG"), b"\xff" * 4 * MiB),
        "bytes of filling",
    ),
    row(
        "a JPEG with 20 MB of notes of Photoshop",
        "0.2 s for each MB",
        lambda: in_front(encoded(FILM, "JPEG"), b"\xff\xed\xff\xfePhotoshop 3.0\0".ljust(65_536, b"\0") * 320),
        "bytes before its pixels",
    ),
    row("10 MB of DICM and zeros", "5 s", lambda: bytes(128) + b"DICM" + bytes(10 * MiB), "elements and values"),
    row(
        "100,000 different empty elements in a DICOM header",
        "3.8 s",
        lambda: (
            bytes(128)
            + b"DICM"
            + b"".join(struct.pack("<HH2sH", 9 + 2 * (n >> 15), n & 0x7FFF, b"LO", 0) for n in range(100_000))
        ),
        "elements and values",
    ),
    row(
        "50,000 empty items in a DICOM header",
        "16 s for 4 MB",
        lambda: with_element(sequence((ITEM + bytes(4)) * 50_000)),
        "items",
    ),
    row(
        "sequences of DICOM in each other, 100,000 deep",
        "as now",
        lambda: with_element((struct.pack("<HH2sH", 9, 16, b"SQ", 0) + UNDEFINED + ITEM + UNDEFINED) * 100_000),
        ".",
    ),
    row(
        "50,000 lookup tables in a DICOM header",
        "16 s for 4 MB, 334 MB",
        lambda: with_element(lookup_tables(50_000), (0x7FE0, 0x0010)),
        "items",
    ),
    row(
        "a million windows in a DICOM header",
        "2 s and 222 MB for each MB",
        lambda: with_element(
            implicit((0x28, 0x1050), b"1\\" * MiB) + implicit((0x28, 0x1051), b"1\\" * MiB),
            (0x7FE0, 0x0010),
            syntax=ImplicitVRLittleEndian,
        ),
        "elements and values|bytes in an element",
    ),
    row(
        "32,000 windows that show nothing in a DICOM header",
        "24 s for 0.1 MB",
        lambda: with_element(windows(32_000), (0x7FE0, 0x0010)),
        "elements and values|bytes in an element|windows",
    ),
    row(
        "a million character sets in a DICOM header",
        "more than 30 s for 1 MB",
        lambda: bytes(128) + b"DICM" + implicit((0x08, 0x05), b"a\\" * MiB) + implicit((0x08, 0x60), b"CR"),
        "elements and values",
    ),
    row(
        "a million character sets in items of a DICOM header",
        "7.1 s for 1 MB, and 15 s for its header",
        lambda: with_element(
            sequence((ITEM + UNDEFINED + struct.pack("<HH2sH", 8, 5, b"CS", 64_000) + b"a\\" * 32_000 + ITEM_END) * 32)
        ),
        "elements and values",
    ),
    row(
        "50,000 fragments of pixels in a DICOM file",
        "0.3 s for each MB",
        lambda: fragments(50_000),
        "items",
    ),
    row("a million offsets of pixels in a DICOM file", "a list of as many numbers", lambda: offsets(MiB), "offsets"),
    row(
        "run lengths in a DICOM file of 1 MB that unpack to 64 MB",
        "unpacked: 48 MB of memory for each MB",
        lambda: compressed(RLELossless, run_lengths(b"\x81\0" * (MiB // 2))),
        "run lengths unpack to more",
    ),
    row(
        "six segments of run lengths in the same bytes of a DICOM file",
        "unpacked",
        lambda: dicom(
            np.zeros((40, 60, 3), np.uint16),
            syntax=RLELossless,
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            PhotometricInterpretation="RGB",
            PixelData=encapsulate([run_lengths(b"\x81\0" * (MiB // 2), 6)]),
        ),
        "run lengths unpack to more",
    ),
    row(
        "a JPEG 2000 of 13,000 x 13,000 in a DICOM file of 500 x 404",
        "4.7 s and 967 MB before it was refused",
        lambda: compressed(JPEG2000Lossless, jpeg_2000(13_000, 13_000, 13_000)),
        "another size than its header",
    ),
    row(
        "a JPEG 2000 of 60,000 x 60,000 in 2,250,000 tiles in a DICOM file",
        "1.5 s and 954 MB with 10,000 x 10,000",
        lambda: compressed(JPEG2000Lossless, jpeg_2000(60_000, 60_000, 40)),
        "another size than its header",
    ),
    row(
        "a JPEG 2000 of 40,000,000 pixels in precincts of 2 x 2 in a DICOM file",
        "20.8 s and 5.4 GB",
        lambda: compressed(JPEG2000Lossless, small_precincts(jpeg_2000(6_300, 6_300, 6_300)), 6_300, 6_300),
        "parts in JPEG 2000",
    ),
    row(
        "a deflated DICOM file",
        "as now",
        lambda: dicom(GRADIENT, syntax=DeflatedExplicitVRLittleEndian, PatientID="x" * 64),
        "deflated",
    ),
    row(
        "a PNG with 110,000 empty chunks",
        "0.4 s for each MB, and again for its mode",
        lambda: with_chunks(chunk(b"prVt", b"") * 110_000),
        "chunks",
    ),
    row(
        "a PNG with 110,000 empty chunks of pixels",
        "0.2 s for each MB, and again for its mode",
        lambda: with_chunks(chunk(b"IDAT", b"") * 110_000),
        "chunks",
    ),
    row(
        "a PNG with 110,000 texts after its pixels",
        "0.3 s for each MB",
        lambda: with_chunks(chunk(b"tEXt", b"a\0") * 110_000, b"IEND"),
        "chunks",
    ),
    row(
        "a PNG with 1,000 colour profiles that unpack to 1 MB each",
        "2.7 s, and again for its mode",
        lambda: with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6))) * 1000),
        "colour profiles",
    ),
    row(
        "a PNG with texts that unpack to 100 MB",
        "as now",
        lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))) * 100),
        "text chunks",
    ),
    row(
        "a PNG with a text that unpacks to 20 MB",
        "as now",
        lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**7)))),
        "Decompressed data too large",
    ),
    row("a TIFF with 100,000 empty pages", "as now", lambda: linked_directories(100_000), "several pages"),
    row(
        "a TIFF of 60 x 40 in one tile of 46,336 x 46,336",
        "2.2 s and 2 GB",
        lambda: tiff(GRADIENT, tag_322=46_336, tag_323=46_336),
        "claims 46,336 x 46,336",
    ),
    row(
        "a BigTIFF with 200,000 tags",
        "0.3 s for each MB, and again for its mode",
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 200_000) + bytes(20 * 200_000),
        "more than 5,000 tags",
    ),
    row(
        "a bitmap of 7 kB in run lengths that claims 65,535 x 1,525",
        "21.7 s",
        lambda: bitmap(65_535, 1_525, b"\1\0\0\0" * 1_525),
        "pixels in run lengths",
    ),
    row(
        "a bitmap in run lengths with one row of 100,000,000 pixels",
        "21.4 s",
        lambda: bitmap(100_000_000, 1, b"\1\0\0\0"),
        "claims 100,000,000 x 1",
    ),
    row(
        "a bitmap of 2 MB in run lengths that draw nothing",
        "0.2 s for each MB",
        lambda: bitmap(60, 40, b"\0\0" * MiB),
        "bytes for its pixels",
    ),
    row(
        "a bitmap in run lengths that move by 255 rows",
        "as now",
        lambda: bitmap(3_000, 3_000, b"\0\2\xff\xff"),
        "not enough image data",
    ),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_a_file_that_demands_much_work_is_refused_in_one_line(content: Callable[[], bytes], message: str) -> None:
    file = content()
    start = time.process_time()
    with pytest.raises(UserError, match=message) as refusal:
        decode.decode(file)
    decode.header(file)
    assert "\n" not in str(refusal.value)
    assert time.process_time() - start < CPU_SECONDS


READ = [
    row("a PNG of 60 x 40 whose pixels unpack to 10 MB", "as now", lambda: png_file(60, 40, bytes(10**7)), "", "read"),
    row("a TIFF whose only page follows itself", "as now", circular, "", "read"),
    row(
        "a JPEG of 100 scans and 100,000,000 pixels",
        "as now",
        lambda: encoded(FILM, "JPEG", progressive=True),
        "",
        "read: 2.4 s and 0.4 GB",
    ),
    row(
        "a patient identifier of 1 MB in a DICOM header",
        "read, with an identifier of 1 MB",
        lambda: with_element(implicit((0x10, 0x20), b"a" * MiB), (0x28, 0x02), syntax=ImplicitVRLittleEndian),
        "",
        "read, without the identifier",
    ),
    row(
        "1 MB of elements after the pixels of a DICOM file",
        "as now",
        lambda: dicom(GRADIENT) + struct.pack("<HH2sH", 0x7FE1, 0x10, b"OB", 0) + struct.pack("<L", MiB) + bytes(MiB),
        "",
        "read",
    ),
]


@pytest.mark.parametrize(("content", "message"), READ)
def test_a_file_that_seems_to_demand_much_work_is_read(content: Callable[[], bytes], message: str) -> None:
    file = content()
    start = time.process_time()
    assert decode.decode(file).ndim == 2
    assert decode.header(file) == {}
    assert time.process_time() - start < CPU_SECONDS


HUGE = {
    "JPEG": lambda: resized(encoded(FILM, "JPEG"), 60_000, 60_000),
    "progressive JPEG": lambda: resized(encoded(FILM, "JPEG", progressive=True), 60_000, 60_000),
    "PNG": lambda: png_file(60_000, 60_000, b"\0"),
    "TIFF": lambda: tiff(DEEP, tag_256=60_000, tag_257=60_000),
    "BMP": lambda: bitmap(60_000, 60_000, b"\0\1"),
    "DICOM": lambda: dicom(GRADIENT, Rows=60_000, Columns=60_000),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.fault(injected=f"a {kind} that claims 60,000 x 60,000 pixels"))
        for kind in HUGE
    ],
)
@pytest.mark.fault(before="as now", now="refused at once")
def test_no_header_reserves_memory_for_its_claim(kind: str) -> None:
    with pytest.raises(UserError, match=r"^claims 60,000 x 60,000 pixels, more than 100,000,000$"):
        decode.decode(HUGE[kind]())


RESIZED = {
    "half as many rows": (COLUMNS, ROWS // 2),
    "100 rows fewer": (COLUMNS, ROWS - 100),
    "150 rows more": (COLUMNS, ROWS + 150),
    "twice as many rows": (COLUMNS, 2 * ROWS),
    "half as many columns": (COLUMNS // 2, ROWS),
    "100 columns fewer": (COLUMNS - 100, ROWS),
    "200 columns more": (COLUMNS + 200, ROWS),
}


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize(
    "change",
    [pytest.param(name, marks=pytest.mark.fault(injected=f"a JPEG with {name} in its header")) for name in RESIZED],
)
@pytest.mark.fault(before="decoded as a whole image", now="refused as truncated or damaged")
def test_a_jpeg_of_another_size_than_its_header_is_refused(change: str, progressive: bool) -> None:
    for mode in ("L", "RGB"):
        content = encoded(FILM.convert(mode), "JPEG", progressive=progressive, quality=90)
        assert decode.decode(content).shape == (ROWS, COLUMNS)
        with pytest.raises(UserError, match=r"^truncated or damaged: it has (more|less) data than pixels"):
            decode.decode(resized(content, *RESIZED[change]))


@pytest.mark.fault(
    injected="a DICOM file whose header and whose JPEG have 100 rows fewer",
    before="decoded as a whole image",
    now="refused as truncated or damaged",
)
def test_a_jpeg_of_another_size_in_a_dicom_file_is_refused() -> None:
    jpeg = encoded(FILM, "JPEG")
    assert decode.decode(compressed(JPEGBaseline8Bit, jpeg)).shape == (ROWS, COLUMNS)
    with pytest.raises(UserError, match=r"^truncated or damaged: it has more data"):
        decode.decode(compressed(JPEGBaseline8Bit, resized(jpeg, COLUMNS, ROWS - 100), rows=ROWS - 100))


@pytest.mark.fault(
    injected="a DICOM file whose JPEG has another size than its header",
    before="decoded as a whole image",
    now="refused as damaged",
)
@pytest.mark.parametrize("size", [(COLUMNS, 2 * ROWS), (COLUMNS // 2, ROWS)])
def test_a_dicom_file_of_another_size_than_its_jpeg_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="another size than its header"):
        decode.decode(compressed(JPEGBaseline8Bit, encoded(FILM, "JPEG"), rows=size[1], columns=size[0]))


@pytest.mark.fault(
    injected="a JPEG with a few surplus bytes after its pixels, or with another file after its end",
    before="as now",
    now="read",
)
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_jpeg_as_some_devices_end_it_is_read(progressive: bool) -> None:
    whole = encoded(FILM, "JPEG", progressive=progressive)
    pixels = decode.decode(whole)
    ends = (bytes(20) + b"\xff\xd9", b"\xff" * 9 + b"\xd9", b"\xff\xd9" + bytes(99), b"\xff\xd9" + whole)
    for content in (whole[:-2] + end for end in ends):
        np.testing.assert_array_equal(decode.decode(content), pixels)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 300), (300, 1), (65, 33)])
@pytest.mark.parametrize("content", ["black", "noise"])
@pytest.mark.fault(
    injected="whole JPEGs of one to 300 rows, with one shade and with noise, in gray and colour",
    before="as now",
    now="read",
)
def test_a_whole_jpeg_of_any_size_is_read(progressive: bool, size: tuple[int, int], content: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size[::-1], dtype=np.uint8) * (content == "noise")
    for mode in ("L", "CMYK") if progressive else ("L", "RGB", "CMYK"):
        image = Image.fromarray(noise.astype(np.uint8)).convert(mode)
        for options in ({"optimize": True}, {"restart_marker_blocks": 1}, {"quality": 100}):
            jpeg = encoded(image, "JPEG", progressive=progressive, **options)
            assert decode.decode(jpeg).shape == size[::-1]
            with Image.open(io.BytesIO(jpeg)) as plain:
                plain.draft("L", plain.size)
                np.testing.assert_array_equal(decode.decode(jpeg), np.asarray(plain.convert("L")))


# --- too little memory ---


def chained() -> UserError:
    error = UserError("the MLflow store cannot be used")
    error.__cause__ = ImportError("_rust.abi3.so: failed to map segment from shared object")
    return error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(error, marks=pytest.mark.fault(injected=injected, before=before))
        for injected, before, error in (
            ("no memory for an array", "a traceback", MemoryError("Unable to allocate 2.00 GiB for an array")),
            ("no memory in OpenCV", "a traceback", cv2.error("(-4:Insufficient memory) Failed to allocate")),
            ("no memory in a library of C++", "a traceback", RuntimeError("std::bad_alloc")),
            ("no memory for a tensor", "a traceback", RuntimeError("OOM when allocating tensor with shape[9,9]")),
            ("no memory for a thread", "a traceback", RuntimeError("can't start new thread")),
            (
                "no memory for a child process",
                "a line without the remedy",
                OSError(errno.ENOMEM, "cannot fork"),
            ),
            ("no memory to load a library", "a line that blames the MLflow store", chained()),
        )
    ],
)
@pytest.mark.fault(where="every stage, every command", now="one line with the remedy")
def test_a_lack_of_memory_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^ERROR: the memory does not suffice; .*ulimit -v.* and run again: ") as end:
        stages.run(fails)
    assert "\n" not in str(end.value)
    monkeypatch.setattr(params, "load", fails)
    ended = CliRunner().invoke(cli.main, ["versions"])
    assert ended.exit_code == 1
    assert ended.output.startswith("Error: the memory does not suffice; ")
    assert ended.output.count("\n") == 1


@pytest.mark.fault(
    injected="no memory for a whole image", before="the image was quarantined as damaged", now="the stage ends"
)
def test_an_image_for_which_the_memory_does_not_suffice_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError(), cv2.error("(-4:Insufficient memory) Failed to allocate 1 bytes")):
        if isinstance(error, cv2.error):
            error.code = cv2.Error.StsNoMem

        def fails(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(decode, "_decode_image_file", fails)
        with pytest.raises(MemoryError):
            decode.decode(png(GRADIENT))


@pytest.mark.fault(where="TensorFlow", injected="ulimit -v 4000000", before="aborted: std::bad_alloc", now="one line")
def test_tensorflow_does_not_start_in_an_address_space_in_which_it_would_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4_096_000_000, resource.RLIM_INFINITY))
    with pytest.raises(UserError, match=r"may use 4\.1 GB \(ulimit -v\); raise the limit: ulimit -v unlimited$"):
        runtime.start_keras()


@pytest.mark.fault(
    where="TensorFlow", injected="a container of 1 GB", before="killed by the system without a word", now="one line"
)
def test_tensorflow_does_not_start_in_a_container_in_which_it_would_be_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text("1000000000\n")
    monkeypatch.setattr(runtime, "MEMORY_LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    with pytest.raises(UserError, match=r"needs 1\.5 GB of memory here, and there are 1\.0 GB"):
        runtime.start_keras()


def rows_of(before: dict[str, str]) -> list[Any]:
    """A parameter for each place, which is a row of the table: what was run -> how it ended before."""
    return [pytest.param(where, marks=pytest.mark.fault(where=where, before=ended)) for where, ended in before.items()]


@pytest.mark.parametrize(
    "command",
    rows_of(
        {
            "stages.backbone": "a traceback of MemoryError, for ever",
            "stages.promote": "waited for ever",
            "stages.fetch": "a traceback of ImportError",
            "pneumonia.cli predict x.png": "a row with an error for each image",
        }
    ),
)
@pytest.mark.fault(injected="ulimit -v 800000", now="one line, exit status 1")
def test_without_memory_for_the_libraries_nothing_starts(command: str, in_project: Path, repo: Path) -> None:
    ended = run_limited(command, 800_000, in_project, repo)
    assert ended.returncode == 1
    assert re.fullmatch(r"ERROR: an address space of at least .* ulimit -v unlimited\n", ended.stderr)


def run_limited(command: str, kilobytes: int, folder: Path, repo: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"ulimit -v {kilobytes}; exec {sys.executable} -m {command}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{repo}:{repo / 'src'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    rows_of(
        {
            "train": "aborted: std::bad_alloc",
            "evaluate": "aborted: std::bad_alloc",
            "explain": "a line that blames the MLflow store",
            "export": "as without a limit",
        }
    ),
)
@pytest.mark.fault(injected="ulimit -v 4000000", now="one line, exit status 1")
def test_a_stage_with_too_little_memory_says_so(stage: str, stage_project: Path, repo: Path) -> None:
    ended = run_limited(f"stages.{stage}", 4_000_000, stage_project, repo)
    assert ended.returncode == 1
    assert re.fullmatch(r"ERROR: TensorFlow needs an address space of .* ulimit -v unlimited\n", ended.stderr)
