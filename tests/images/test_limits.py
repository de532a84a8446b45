"""What a file may cost is counted before it is decoded."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pneumonia import UserError
from pneumonia.images import limits
from tests.images.test_decode import GRADIENT, chunk, encoded, png, tiff

FILM = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80), dtype=np.uint8))


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (65_535, 1), (1, 65_535)])
def test_a_size_at_the_limits_is_allowed(width: int, height: int) -> None:
    limits.check_size(width, height)


@pytest.mark.parametrize(
    ("width", "height", "limit"), [(10_001, 10_000, "100,000,000"), (65_536, 1, "65,535 at one"), (1, 65_536, "65,535")]
)
def test_a_size_over_the_limits_is_refused_with_its_numbers(width: int, height: int, limit: str) -> None:
    with pytest.raises(UserError, match=f"^claims {width:,} x {height:,} pixels, more than {limit}"):
        limits.check_size(width, height)


@pytest.mark.parametrize(("options", "n_scans", "kind"), [({}, 1, 0xC0), ({"progressive": True}, 6, 0xC2)])
def test_the_scans_of_a_jpeg_are_found(options: dict[str, bool], n_scans: int, kind: int) -> None:
    content = encoded(FILM, "JPEG", **options)
    jpeg = limits.read_jpeg(content)
    assert (len(jpeg.scans), jpeg.kinds, jpeg.sizes) == (n_scans, {kind}, {(80, 48)})
    assert content[jpeg.scans[-1].end :] == b"\xff\xd9"
    for scan in jpeg.scans:
        head = content.rindex(b"\xff\xda", 0, scan.start)
        assert scan.start == head + 2 + int.from_bytes(content[head + 2 : head + 4], "big")
        assert content[scan.end] == 0xFF


def test_restart_markers_belong_to_a_scan() -> None:
    content = encoded(FILM, "JPEG", restart_marker_blocks=1)
    assert content.count(b"\xff\xd0") > 1
    assert len(limits.read_jpeg(content).scans) == 1


def test_a_picture_inside_the_metadata_of_a_jpeg_is_not_counted() -> None:
    content = encoded(FILM, "JPEG", comment=encoded(FILM.resize((8, 8)), "JPEG"))
    assert content.count(b"\xff\xda") == 2
    jpeg = limits.read_jpeg(content)
    assert (len(jpeg.scans), jpeg.sizes) == (1, {(80, 48)})


def test_what_follows_the_end_of_a_jpeg_is_not_counted() -> None:
    content = encoded(FILM, "JPEG")
    assert limits.read_jpeg(content + b"\xff\xda\0\2" * 1000) == limits.read_jpeg(content)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff" * 99])
def test_a_jpeg_of_nothing_has_no_size(content: bytes) -> None:
    assert limits.read_jpeg(content).sizes == set()


def test_chunks_of_a_png_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(GRADIENT)
    monkeypatch.setattr(limits, "MAX_CHUNKS", 3)  # header, pixels, end
    limits.check_png(content)
    with pytest.raises(UserError, match="more than 3 chunks"):
        limits.check_png(content[:33] + chunk(b"tEXt", b"a\0b") + content[33:])


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_a_tiff_are_counted(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    content = tiff(GRADIENT, order=order)
    monkeypatch.setattr(limits, "MAX_TAGS", 9)
    limits.check_tiff(content)
    with pytest.raises(UserError, match="more than 9 tags"):
        limits.check_tiff(tiff(GRADIENT, order=order, tag_274=1))


def test_tags_of_a_large_tiff_are_counted() -> None:
    limits.check_tiff(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 5_000))
    with pytest.raises(UserError, match="tags"):
        limits.check_tiff(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 5_001))


def test_steps_of_a_header_are_counted_except_in_pixels() -> None:
    file = limits.DicomFile(b"a\\b" * 100)
    file.read(3)
    assert file.steps == 2  # the read, and a second value
    file.counts = False
    assert len(file.read()) == 297
    assert file.steps == 2


def run_lengths(*segments: bytes) -> bytes:
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


@pytest.mark.parametrize("segment", [b"\x81\0" * 100, b"\x7f" + bytes(128), b"\x80" * 999 + b"\x81\0", b"\0"])
def test_run_lengths_of_an_image_are_allowed(segment: bytes) -> None:
    limits.check_run_lengths(run_lengths(segment, segment), 12_800)


@pytest.mark.parametrize("segment", [b"\x81\0" * 200, (b"\x7f" + bytes(128)) * 200, b"\x80" * 999 + b"\x81\0" * 130])
def test_run_lengths_beyond_the_image_are_refused(segment: bytes) -> None:
    with pytest.raises(UserError, match="unpack to more pixels"):
        limits.check_run_lengths(run_lengths(b"\x81\0" * 100, segment), 12_800)


@pytest.mark.parametrize("frame", [b"", bytes(63), bytes(64), b"\xff" * 64, run_lengths(b"")])
def test_damaged_run_lengths_are_left_to_their_decoder(frame: bytes) -> None:
    limits.check_run_lengths(frame, 100)


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}])
def test_a_jpeg_2000_has_the_size_of_its_header(options: dict[str, bool]) -> None:
    file = io.BytesIO()
    FILM.save(file, "JPEG2000", **options)
    limits.check_codestream(file.getvalue(), 80, 48)
    with pytest.raises(UserError, match="another size"):
        limits.check_codestream(file.getvalue(), 48, 80)


def test_the_origin_of_a_jpeg_2000_is_not_part_of_its_size() -> None:
    file = io.BytesIO()
    FILM.save(file, "JPEG2000", no_jp2=True)
    content = bytearray(file.getvalue())
    place = content.index(b"\xff\x51") + 6
    struct.pack_into(">4I", content, place, 90, 68, 10, 20)
    limits.check_codestream(bytes(content), 80, 48)


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({}, 64),
        ({"codeblock_size": (4, 4)}, 4),
        ({"precinct_size": (128, 128)}, 64),
        ({"codeblock_size": (8, 8), "precinct_size": (32, 32)}, 8),
    ],
)
def test_the_smallest_parts_of_a_jpeg_2000_are_counted(
    options: dict[str, tuple[int, int]], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    Image.new("L", (256, 256)).save(file, "JPEG2000", no_jp2=True, num_resolutions=2, **options)
    monkeypatch.setattr(limits, "MAX_PARTS", (256 // side) ** 2)
    limits.check_codestream(file.getvalue(), 256, 256)
    monkeypatch.setattr(limits, "MAX_PARTS", (256 // side) ** 2 - 1)
    with pytest.raises(UserError, match="parts in JPEG 2000"):
        limits.check_codestream(file.getvalue(), 256, 256)
