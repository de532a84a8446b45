"""Whatever kind of file an X-ray comes in, it leaves as one gray channel in which bone is bright."""

import io
import logging
import os
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia import UserError, workspace
from pneumonia.images import decode, levels, limits
from tests.test_files import zipped


def test_an_image_is_the_same_from_an_archive_a_path_and_a_url(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(GRADIENT), "PNG")
    (tmp_path / "one image.png").write_bytes(content)
    zipped(tmp_path / "a.zip", {"deep/one image.png": content})
    for uri in (
        f"zip://deep/one image.png::{tmp_path / 'a.zip'}",
        str(tmp_path / "one image.png"),
        f"file://{tmp_path}/one image.png",
    ):
        image = decode.read_image(uri)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, GRADIENT)


def test_an_archive_may_be_named_from_the_current_folder(in_project: Path) -> None:
    zipped(in_project / "a.zip", {"x.png": encoded(Image.fromarray(GRADIENT), "PNG")})
    np.testing.assert_array_equal(decode.read_image("zip://x.png::a.zip"), GRADIENT)


def test_a_truncated_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)), "JPEG")
    (tmp_path / "cut.jpeg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.jpeg: cannot be read as an image .*truncated"):
        decode.read_image(str(tmp_path / "cut.jpeg"))


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png: cannot be read as an image"):
        decode.read_image(str(tmp_path / "x.png"))


def test_an_image_that_claims_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(UserError, match=r"bomb\.png: cannot be read as an image"):
        decode.read_image(str(tmp_path / "bomb.png"))


@pytest.mark.parametrize("uri", ["zip://x.png::no.zip", "zip://y.png::a.zip", "no.png", "zip://x.png::text.zip"])
def test_a_missing_file_archive_or_member_is_one_clear_error(in_project: Path, uri: str) -> None:
    zipped(in_project / "a.zip", {"x.png": b""})
    (in_project / "text.zip").write_text("no archive")
    with pytest.raises(UserError, match=f"^{uri}: (no such file|cannot be read)"):
        decode.read_image(uri)


def test_a_damaged_member_of_an_archive_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(range(256)) * 8)
    whole = path.read_bytes()
    start = 30 + len("x.png")
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))
        with pytest.raises(UserError, match=r"a\.zip: cannot be read"):
            decode.read_image(f"zip://x.png::{path}")


def test_an_archive_replaced_under_its_name_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for level in (10, 200):
        with workspace.written_whole(path) as partial:
            zipped(partial, {"x.png": encoded(Image.new("L", (8, 8), level), "PNG")})
        assert decode.read_image(f"zip://x.png::{path}").max() == level


GRADIENT = np.add.outer(np.arange(40), np.arange(60) * 3).astype(np.uint8)
DEEP = GRADIENT.astype(np.uint16) * 16 + 77
LEVELS = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG", **options)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_file(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG as its parts say, whether they agree or not."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows) if rows else b"")
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def tiff(pixels: npt.NDArray[Any], *, order: str = "<", bits: int | None = None, **tags: int) -> bytes:
    """An uncompressed TIFF of one strip (height, width) or (height, width, channels); `tag_262=0` sets a tag."""
    height, width, *rest = pixels.shape
    bits, (channels,) = bits or 8 * pixels.itemsize, rest or [1]
    data = pixels.astype(f"{order}{pixels.dtype.kind}{bits // 8}").tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 2 if channels > 2 else 1, 277: channels, 278: height}
    entries |= {int(name.removeprefix("tag_")): value for name, value in tags.items()}
    count = len(entries) + 2  # and where the strip is
    widths_at = 8 + 2 + 12 * count + 4
    entries |= {273: widths_at + 2 * channels, 279: len(data)}
    directory = b""
    for tag, value in sorted(entries.items()):
        if tag == 258 and channels > 2:
            directory += struct.pack(f"{order}HHII", tag, 3, channels, widths_at)
        else:
            many = channels if tag == 258 else 1  # two short numbers fit into the entry
            short = struct.pack(f"{order}{many}H", *[value] * many) if tag != 279 and tag != 273 else b""
            directory += struct.pack(f"{order}HHI", tag, 3 if short else 4, many)
            directory += short.ljust(4, b"\0") if short else struct.pack(f"{order}I", value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    return start + directory + bytes(4) + struct.pack(f"{order}{channels}H", *[bits] * channels) + data


def dicom(
    pixels: npt.NDArray[Any], *, bits: int | None = None, syntax: UID = ExplicitVRLittleEndian, **header: Any
) -> bytes:
    """A DICOM file of one frame; `header` replaces and adds elements by keyword, None leaves one out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<"))
    elements = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": bits or 8 * pixels.itemsize,
        "HighBit": (bits or 8 * pixels.itemsize) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": stored.tobytes(),
        **header,
    }
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are wrong on purpose
        for keyword, value in elements.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def lookup_table(values: list[int], *, first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return [item]


def stretched(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return (gray.astype(np.float64) - gray.min()) / (int(gray.max()) - gray.min()) * 255


def assert_shows(content: bytes, expected: Any) -> None:
    pixels = decode.decode(content)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)
    assert decode.size(content) == pixels.shape[::-1]  # read from the header alone, upright


def test_a_damaged_file_has_no_size() -> None:
    for content in (b"", b"no image", png(GRADIENT)[:20], dicom(GRADIENT, Rows=None)):
        assert decode.size(content) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_mode_is_that_of_the_file(mode: str) -> None:
    assert decode.mode(encoded(Image.new(mode, (8, 8)), "PNG")) == mode


@pytest.mark.parametrize("meaning", ["MONOCHROME1", "MONOCHROME2"])
def test_mode_of_dicom_is_what_its_pixels_mean(meaning: str) -> None:
    assert decode.mode(dicom(GRADIENT, PhotometricInterpretation=meaning)) == meaning


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colour_becomes_one_gray_channel(kind: str) -> None:
    green = Image.new("RGB", (30, 20), (0, 255, 0))
    gray = decode.decode(encoded(green, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert gray.shape == (20, 30)
    assert np.abs(gray.astype(int) - round(0.587 * 255)).max() <= 1  # luminance, ITU-R BT.601


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_a_gray_image_is_the_same_in_every_mode_of_png(mode: str) -> None:
    assert_shows(encoded(Image.fromarray(GRADIENT).convert(mode), "PNG"), GRADIENT)


def test_one_bit_becomes_black_and_white() -> None:
    black_and_white = Image.fromarray(GRADIENT > 100)
    assert black_and_white.mode == "1"
    assert_shows(encoded(black_and_white, "PNG"), np.where(GRADIENT > 100, 255, 0))


def test_a_palette_with_transparency_is_read_without_a_warning() -> None:
    palette = Image.fromarray(GRADIENT).convert("P")
    assert_shows(encoded(palette, "PNG", transparency=bytes(range(256))), GRADIENT)


@pytest.mark.parametrize(("bits", "factor"), [(16, 257), (12, 16)])
def test_what_sixteen_bits_hold_is_scaled_to_eight_and_not_clipped(bits: int, factor: int) -> None:
    full = (np.arange(256, dtype=np.uint16) * factor).reshape(16, 16)
    assert int(full.max()).bit_length() == bits
    assert_shows(png(full), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_files_of_sixteen_bits_have_the_gray_levels_of_dicom_without_a_window(kind: str) -> None:
    for low, high in ((0, 4095), (0, 4096), (33069, 36863), (0, 65535)):
        deep = np.rint(low + GRADIENT / GRADIENT.max() * (high - low)).astype(np.uint16)
        expected = levels.gray_levels(deep)
        assert expected.mean() == pytest.approx(levels.gray_levels(DEEP).mean(), abs=0.5)
        assert_shows(encoded(Image.fromarray(deep), kind), expected)
        assert_shows(dicom(deep), expected)
        assert_shows(cv2.imencode(f".{kind.lower()}", np.dstack([deep] * 3))[1].tobytes(), expected)


def test_a_blank_file_of_sixteen_bits_is_black() -> None:
    assert_shows(png(np.full((4, 5), 9, np.uint16)), np.zeros((4, 5)))


def test_colour_of_sixteen_bits_becomes_luminance() -> None:
    red = (DEEP // 4).astype(np.uint16)
    blue = DEEP[::-1].copy()
    luminance = np.rint(0.299 * red + 0.587 * DEEP + 0.114 * blue).astype(np.uint16)
    for ending in (".png", ".tiff"):
        content = cv2.imencode(ending, np.dstack([blue, DEEP, red]))[1].tobytes()
        assert decode.mode(content) == "RGB;16"
        assert np.abs(decode.decode(content).astype(int) - levels.gray_levels(luminance)).max() <= 1


def test_transparency_is_ignored() -> None:
    alpha = np.linspace(0, 65535, DEEP.size).astype(np.uint16).reshape(DEEP.shape)
    for ending in (".png", ".tiff"):
        content = cv2.imencode(ending, np.dstack([DEEP, DEEP, DEEP, alpha]))[1].tobytes()
        assert_shows(content, levels.gray_levels(DEEP))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([DEEP, alpha]))
    assert_shows(png_file(*DEEP.shape[::-1], rows, bits=16, colour=4), levels.gray_levels(DEEP))
    for kind in ("PNG", "TIFF", "WebP"):
        see_through = Image.merge("LA", [Image.fromarray(GRADIENT), Image.fromarray(GRADIENT[::-1])])
        content = encoded(see_through, kind, **({"lossless": True, "exact": True} if kind == "WebP" else {}))
        assert_shows(content, GRADIENT)


def test_a_photograph_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    for orientation, upright in ((1, GRADIENT), (6, np.rot90(GRADIENT, -1)), (3, np.rot90(GRADIENT, 2))):
        exif[0x0112] = orientation
        turned = decode.decode(encoded(Image.fromarray(GRADIENT), "JPEG", quality=100, exif=exif))
        assert turned.shape == upright.shape
        assert np.abs(turned.astype(int) - upright).max() <= 3
        assert_shows(png(GRADIENT, exif=exif), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_its_orientation_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(png(GRADIENT, exif=exif))))
    shape = upright.size[::-1]
    turned = decode.decode(png(DEEP, exif=exif))
    assert turned.shape == shape
    assert np.abs(turned.astype(int) - stretched(np.asarray(upright))).max() <= 3
    for content in (
        encoded(Image.fromarray(GRADIENT), "TIFF", exif=exif),
        encoded(Image.fromarray(GRADIENT), "TIFF", exif=exif, compression="tiff_lzw"),
        encoded(Image.fromarray(GRADIENT), "WebP", exif=exif, lossless=True),
    ):
        assert_shows(content, np.asarray(upright))
    assert_shows(encoded(Image.fromarray(DEEP), "TIFF", exif=exif), turned)
    assert_shows(tiff(np.dstack([DEEP] * 3), tag_274=orientation), turned)
    colour = cv2.imencode(".png", np.dstack([DEEP] * 3))[1].tobytes()
    with_exif = colour[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + colour[33:]
    assert_shows(with_exif, turned)


def test_a_damaged_exif_gives_no_warning() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 9) + struct.pack("<HHII", 0x010F, 2, 5000, 9000)
    assert decode.decode(encoded(Image.fromarray(GRADIENT), "JPEG", exif=exif)).shape == GRADIENT.shape


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(UserError, match=r"^the file is empty$"):
        decode.decode(b"")


def test_a_truncated_jpeg_is_refused() -> None:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)), "JPEG")
    with pytest.raises(UserError, match="truncated"):
        decode.decode(content[: len(content) // 2])


@pytest.mark.parametrize(
    "content", [b"no image at all", encoded(Image.new("L", (9, 9)), "GIF"), b"\0" * 128 + b"dicm" + b"\0" * 99]
)
def test_other_files_are_refused_and_the_accepted_ones_named(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^(not an image|a GIF file), expected JPEG, PNG, TIFF, BMP, WebP or DICOM$"):
        decode.decode(content)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_is_read_in_every_mode_and_compression(mode: str, compression: str | None) -> None:
    image = Image.fromarray(GRADIENT).convert(mode)
    content = encoded(image, "TIFF", compression=compression)
    assert decode.mode(content) == mode
    assert_shows(content, np.asarray(image.convert("L")))


def test_a_jpeg_in_a_tiff_is_read() -> None:
    content = encoded(Image.fromarray(GRADIENT), "TIFF", compression="jpeg", quality=95)
    assert np.abs(decode.decode(content).astype(int) - GRADIENT).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_bitmap_is_read_in_every_mode(mode: str) -> None:
    image = Image.fromarray(GRADIENT).convert(mode)
    assert_shows(encoded(image, "BMP"), np.asarray(image.convert("L")))


def test_a_webp_is_read() -> None:
    assert_shows(encoded(Image.fromarray(GRADIENT), "WebP", lossless=True), GRADIENT)
    assert (
        np.abs(decode.decode(encoded(Image.fromarray(GRADIENT), "WebP", quality=95)).astype(int) - GRADIENT).max() < 9
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_tiff_are_read_in_either_order_of_bytes(order: str) -> None:
    expected = levels.gray_levels(DEEP)
    assert_shows(tiff(DEEP, order=order), expected)
    assert_shows(tiff(DEEP.astype(np.int32) - 500, order=order, bits=16, tag_339=2), expected)  # signed
    assert_shows(tiff(np.dstack([DEEP] * 3), order=order), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_inverted(bits: int) -> None:
    pixels = DEEP if bits == 16 else GRADIENT
    bright = decode.decode(tiff(pixels))
    assert_shows(tiff(pixels, tag_262=0), 255 - bright)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(DEEP.astype(np.uint32)), "32 bits in I, expected 8 bits, or 16 in gray or RGB"),
        (tiff(DEEP.astype(np.float32), tag_339=3), "32 bits in F, expected 8 bits, or 16 in gray or RGB"),
        (tiff(np.dstack([DEEP] * 4), tag_262=5), "16 bits in CMYK, expected 8 bits, or 16 in gray or RGB"),
        (tiff(np.dstack([DEEP] * 3), tag_284=2), "16 bits with one plane for each colour"),
        (tiff(np.dstack([DEEP] * 2)), "an unsupported kind or damaged"),
    ],
)  # fmt: skip
def test_kinds_of_pixels_that_are_not_read_are_named(content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=f"^a TIFF file of {reason}"):
        decode.decode(content)


@pytest.mark.parametrize("kind", ["TIFF", "WebP", "PNG"])
def test_several_pages_or_frames_are_refused(kind: str) -> None:
    pages = [Image.fromarray(GRADIENT), Image.fromarray(GRADIENT[::-1].copy())]
    content = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=f"^a {kind} file of several pages or frames, expected one$"):
        decode.decode(content)


TRUNCATED = {
    "JPEG": lambda noise: encoded(noise, "JPEG"),
    "PNG": lambda noise: encoded(noise, "PNG"),
    "BMP": lambda noise: encoded(noise, "BMP"),
    "WebP": lambda noise: encoded(noise, "WebP"),
    "TIFF": lambda noise: tiff(np.asarray(noise)),
    "TIFF, 16 bits": lambda noise: tiff(np.asarray(noise).astype(np.uint16) * 16),
    "TIFF, LZW": lambda noise: encoded(noise, "TIFF", compression="tiff_lzw"),
    "TIFF, colour of 16 bits": lambda noise: tiff(np.dstack([np.asarray(noise).astype(np.uint16) * 16] * 3)),
    "PNG, colour of 16 bits": lambda noise: cv2.imencode(
        ".png", np.dstack([np.asarray(noise).astype(np.uint16) * 16] * 3)
    )[1].tobytes(),
}


@pytest.mark.parametrize("kind", list(TRUNCATED))
def test_a_truncated_file_is_refused_in_every_format(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8))
    content = TRUNCATED[kind](noise)
    decode.decode(content)
    for share in (0.01, 0.2, 0.5, 0.9):
        with pytest.raises(UserError):
            decode.decode(content[: int(len(content) * share)])


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (100_000, 100_000), (10_001, 10_000)])
def test_an_image_that_claims_to_fill_the_memory_is_refused_by_uri(width: int, height: int) -> None:
    with pytest.raises(UserError, match=f"^claims {width:,} x {height:,} pixels, more than 100,000,000$"):
        decode.decode(png_file(width, height, b""))


def test_a_tiff_a_bitmap_and_a_webp_that_claim_to_fill_the_memory_are_refused() -> None:
    sixteen_bits = tiff(np.dstack([DEEP] * 3), tag_256=30_000, tag_257=30_000)
    bitmap = bytearray(encoded(Image.fromarray(GRADIENT), "BMP"))
    struct.pack_into("<ii", bitmap, 18, 30_000, 30_000)
    for content in (sixteen_bits, bytes(bitmap)):
        with pytest.raises(UserError, match=r"^claims 30,000 x 30,000 pixels, more than 100,000,000$"):
            decode.decode(content)
    webp = bytearray(encoded(Image.fromarray(GRADIENT), "WebP"))
    struct.pack_into("<HH", webp, 26, 16_000, 16_000)
    with pytest.raises(UserError):
        decode.decode(bytes(webp))


def test_our_limit_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for pillows in (1, 1000):  # it would raise, and warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert_shows(png(GRADIENT), GRADIENT)
        assert pillows == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(limits, "MAX_PIXELS", GRADIENT.size)
    assert_shows(png(GRADIENT), GRADIENT)
    assert_shows(dicom(GRADIENT), GRADIENT)
    monkeypatch.setattr(limits, "MAX_PIXELS", GRADIENT.size - 1)
    for content in (png(GRADIENT), dicom(GRADIENT)):
        with pytest.raises(UserError, match=r"^claims 60 x 40 pixels, more than 2,399$"):
            decode.decode(content)


def test_eight_bits_stay_as_they_are() -> None:
    assert_shows(dicom(GRADIENT), GRADIENT)
    assert_shows(dicom(GRADIENT, RescaleSlope=1, RescaleIntercept=0), GRADIENT)


def test_bone_is_bright_in_both_kinds_of_monochrome() -> None:
    assert_shows(dicom(255 - GRADIENT, PhotometricInterpretation="MONOCHROME1"), GRADIENT)
    negative = dicom(LEVELS, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096)
    assert_shows(negative, [[255, 193, 130], [68, 6, 0]])


@pytest.mark.parametrize("function", [None, "LINEAR"])
def test_a_window_shows_what_is_in_it(function: str | None) -> None:
    header = {} if function is None else {"VOILUTFunction": function}
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255 with c = 2000.5 and w = 2001
    content = dicom(LEVELS, bits=12, WindowCenter=2000.5, WindowWidth=2001, **header)
    assert_shows(content, [[0, 0, 128], [255, 255, 255]])


def test_a_window_may_be_exact_or_a_sigmoid() -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    # PS3.3 C.11.2.1.3.2: ((x - 2000) / 4000 + 0.5) * 255
    assert_shows(dicom(LEVELS, VOILUTFunction="LINEAR_EXACT", **window), [[0, 64, 128], [191, 255, 255]])
    # PS3.3 C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 2000) / 4000))
    assert_shows(dicom(LEVELS, VOILUTFunction="SIGMOID", **window), [[30, 69, 128], [186, 225, 227]])


def test_the_first_of_several_windows_is_shown() -> None:
    content = dicom(LEVELS, bits=12, WindowCenter=[2000.5, 100], WindowWidth=[2001, 9], VOILUTFunction="LINEAR")
    assert_shows(content, [[0, 0, 128], [255, 255, 255]])


@pytest.mark.parametrize(
    ("center", "width"),
    [([60000, 2000.5], [100, 2001]), ([9, 2000.5], [0, 2001]), ([60000, 60000, 2000.5], [9, 9, 2001])],
)
def test_of_several_windows_the_first_that_shows_something_is_shown(center: list[float], width: list[float]) -> None:
    shown, note = decode.decode_noted(dicom(LEVELS, bits=12, WindowCenter=center, WindowWidth=width))
    np.testing.assert_array_equal(shown, [[0, 0, 128], [255, 255, 255]])
    assert note == ""


def test_a_window_is_shown_where_the_voi_lut_shows_nothing() -> None:
    dark = {"VOILUTSequence": lookup_table([0, 4095], first=20000, bits=12)}
    shown, note = decode.decode_noted(dicom(LEVELS, bits=12, WindowCenter=2000.5, WindowWidth=2001, **dark))
    np.testing.assert_array_equal(shown, [[0, 0, 128], [255, 255, 255]])
    assert note == ""


def test_a_window_without_its_width_is_no_window() -> None:
    shown, note = decode.decode_noted(dicom(LEVELS, bits=12, WindowCenter=[60000, 2000.5], WindowWidth=[100]))
    np.testing.assert_array_equal(shown, decode.decode(dicom(LEVELS, bits=12)))
    assert note == decode.IGNORED_WINDOW


def test_a_window_of_width_one_is_a_threshold() -> None:
    assert_shows(dicom(LEVELS, WindowCenter=2000.5, WindowWidth=1), [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (-9, "LINEAR_EXACT")])
def test_a_window_of_no_width_is_ignored_and_noted(width: float, function: str) -> None:
    shown, note = decode.decode_noted(dicom(LEVELS, WindowCenter=9, WindowWidth=width, VOILUTFunction=function))
    np.testing.assert_array_equal(shown, decode.decode(dicom(LEVELS)))
    assert note == decode.IGNORED_WINDOW


def test_a_window_without_a_number_is_no_window() -> None:
    assert_shows(dicom(GRADIENT, WindowCenter="", WindowWidth=""), GRADIENT)


def test_a_window_is_in_units_after_rescale() -> None:
    stored = np.array([[0, 1024, 1324, 2048]], np.uint16)
    # 2 x - 2048: -2048, 0, 600, 2048; the window reaches from 0 to 600
    content = dicom(stored, bits=12, RescaleSlope=2, RescaleIntercept=-2048, WindowCenter=300.5, WindowWidth=601)
    assert_shows(content, [[0, 0, 255, 255]])


@given(
    stored=st.lists(st.integers(-2048, 2047), min_size=1, max_size=20),
    slope=st.sampled_from([0.25, 1, 3]),
    intercept=st.integers(-1024, 1024),
    center=st.integers(-2000, 2000),
    width=st.integers(2, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
@settings(max_examples=60)
def test_a_window_is_the_one_that_pydicom_shows(
    stored: list[int], slope: float, intercept: int, center: int, width: int, function: str
) -> None:
    pixels = np.array([stored], np.int16)
    header = Dataset()
    header.PhotometricInterpretation, header.PixelRepresentation, header.BitsStored = "MONOCHROME2", 1, 12
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
    shown = apply_windowing(apply_modality_lut(pixels, header), header)
    darkest, brightest = (slope * end + intercept for end in (-2048, 2047))
    elements = {element.keyword: element.value for element in header}
    del elements["BitsStored"]
    ours, note = decode.decode_noted(dicom(pixels, bits=12, **elements))
    assume(not note)
    assert np.abs(ours - 255 * (shown - darkest) / (brightest - darkest)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 3174, "WindowWidth": 2426},  # below
        {"WindowCenter": 50000, "WindowWidth": 2426},  # above
        {"WindowCenter": 12020, "WindowWidth": 40},  # 1 % of the pixels
        {"WindowCenter": 0, "WindowWidth": 3_000_000},  # all of them, in one shade
        {"WindowCenter": 3174, "WindowWidth": 2426, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 90, "WindowWidth": 1},
        {"VOILUTSequence": "dark"},
    ],
)
@pytest.mark.parametrize("meaning", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_that_shows_nothing_of_the_image_is_ignored_and_noted(window: dict[str, Any], meaning: str) -> None:
    film = np.linspace(12000, 16000, 2400).astype(np.uint16).reshape(40, 60)
    if "VOILUTSequence" in window:
        window = {"VOILUTSequence": lookup_table([0, 4095], first=20000, bits=12)}
    header = {"PhotometricInterpretation": meaning}
    without = decode.decode(dicom(film, **header))
    assert decode.decode_noted(dicom(film, **header))[1] == ""
    shown, note = decode.decode_noted(dicom(film, **window, **header))
    np.testing.assert_array_equal(shown, without)
    assert note == decode.IGNORED_WINDOW


def test_a_window_beside_eight_bits_leaves_them_as_they_are() -> None:
    assert_shows(dicom(GRADIENT, WindowCenter=2000, WindowWidth=100), GRADIENT)


def test_a_window_that_shows_some_of_the_image_is_not_noted() -> None:
    film = np.linspace(12000, 16000, 2400).astype(np.uint16).reshape(40, 60)
    for center, width in ((12500, 500), (14000, 1), (14000, 60000)):
        assert decode.decode_noted(dicom(film, WindowCenter=center, WindowWidth=width))[1] == ""


@pytest.mark.parametrize("side", [40, 60, 90])
def test_a_small_film_on_a_wide_background_keeps_its_window(side: int) -> None:
    """The film has 1 % to 5 % of the pixels; a window beside it is still found."""
    pixels = np.zeros((400, 400), np.uint16)
    pixels[:side, :side] = np.linspace(1000, 3000, side * side).reshape(side, side)
    shown, note = decode.decode_noted(dicom(pixels, bits=12, WindowCenter=2000, WindowWidth=2000))
    assert note == ""
    assert abs(shown[:side, :side].mean() - 127.5) < 2
    assert decode.decode_noted(dicom(pixels, bits=12, WindowCenter=500, WindowWidth=100))[1] == decode.IGNORED_WINDOW


def test_an_image_of_two_values_keeps_a_window_between_them() -> None:
    pixels = np.repeat(np.array([0, 1000], np.uint16), [32, 8]).reshape(5, 8)
    shown, note = decode.decode_noted(dicom(pixels, bits=12, WindowCenter=500, WindowWidth=100))
    np.testing.assert_array_equal(shown, pixels.astype(bool) * 255)
    assert note == ""


def test_an_image_of_one_value_in_a_window_is_not_noted() -> None:
    assert decode.decode_noted(dicom(np.full((4, 6), 9, np.uint16), WindowCenter=99, WindowWidth=9))[1] == ""


@pytest.mark.parametrize("meta", ["preamble", "meta header"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_is_read_without_its_preamble_and_without_its_meta_header(meta: str, syntax: UID) -> None:
    whole = dicom(DEEP, syntax=syntax, PatientID="7", SOPClassUID="1.2.3", Modality="DX")
    start = 132 if meta == "preamble" else 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    content = whole[start:]
    assert_shows(content, decode.decode(whole))
    assert decode.header(content) == {"patient_id": "7"}
    assert decode.mode(content) == "MONOCHROME2"


def test_a_data_set_that_does_not_name_its_compression_is_refused() -> None:
    jpeg = encapsulate([encoded(Image.fromarray(GRADIENT), "JPEG")])
    whole = dicom(GRADIENT, syntax=JPEGBaseline8Bit, PixelData=jpeg, SOPClassUID="1.2.3")
    with pytest.raises(UserError, match="without the header that names the compression"):
        decode.decode(whole[132 + 12 + struct.unpack("<I", whole[140:144])[0] :])


def test_colour_of_sixteen_bits_in_dicom_becomes_gray_levels() -> None:
    header = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        assert_shows(dicom(np.dstack([DEEP] * 3), syntax=syntax, **header), levels.gray_levels(DEEP))


@pytest.mark.parametrize(
    ("name", "uncompressed"),
    [
        ("JPGExtended.dcm", None),  # JPEG of 12 bits
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", None),  # lossless JPEG
        ("GDCMJ2K_TextGBR.dcm", None),  # a JPEG 2000 that Pillow cannot decode
    ],
)
def test_compressed_dicom_is_read_with_the_extra(name: str, uncompressed: str | None) -> None:
    shown = decode.decode(public(name))
    assert shown.std() > 10
    if uncompressed:
        np.testing.assert_array_equal(shown, decode.decode(public(uncompressed)))


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
@pytest.mark.usefixtures("without_gdcm")
def test_jpeg_2000_and_rle_are_read_without_the_extra(name: str) -> None:
    np.testing.assert_array_equal(decode.decode(public(name)), decode.decode(public("MR_small.dcm")))


@pytest.fixture
def without_gdcm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    monkeypatch.setattr(decode, "_has_gdcm", lambda: False)
    others = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, JPEG2000)
    for syntax in (JPEGBaseline8Bit, *others):
        decoder = get_decoder(syntax)
        left = {name: plugin for name, plugin in decoder._available.items() if name != "gdcm"}
        monkeypatch.setattr(decoder, "_available", left)


def public(name: str) -> bytes:
    """A test file that comes with pydicom."""
    path = get_testdata_file(name, download=False)
    assert path
    return Path(str(path)).read_bytes()


@pytest.mark.parametrize(
    "name", ["JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "GDCMJ2K_TextGBR.dcm"]
)
@pytest.mark.usefixtures("without_gdcm")
def test_without_the_extra_the_message_names_it(name: str) -> None:
    with pytest.raises(UserError, match=r'`pip install -e "\.\[dicom\]"`'):
        decode.decode(public(name))


def test_signed_values_are_stretched_from_minimum_to_maximum() -> None:
    assert_shows(dicom(np.array([[-1000, -490, 0, 20]], np.int16)), [[0, 128, 250, 255]])
    assert_shows(dicom(np.array([[-32768, 32767]], np.int16)), [[0, 255]])
    assert_shows(dicom(np.array([[-128, 127, -1]], np.int8)), [[0, 255, 127]])


def test_twelve_bits_without_a_window_are_stretched_from_minimum_to_maximum() -> None:
    assert_shows(dicom(LEVELS, bits=12), [[0, 62, 125], [187, 249, 255]])


def test_eight_bits_that_measure_something_are_stretched() -> None:
    assert_shows(dicom(np.array([[10, 20, 30]], np.uint8), RescaleSlope=2, RescaleIntercept=-30), [[0, 128, 255]])


def test_a_falling_rescale_turns_dark_and_bright() -> None:
    assert_shows(dicom(LEVELS, bits=12, RescaleSlope=-1, RescaleIntercept=0), 255 - decode.decode(dicom(LEVELS)))


@pytest.mark.parametrize("meaning", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 65000])
def test_padding_is_background_and_takes_no_part_in_the_stretch(meaning: str, limit: int | None) -> None:
    body = np.linspace(1000, 3000, 60).astype(np.uint16).reshape(6, 10)
    framed = np.pad(body, 2, constant_values=65535)
    framed[0] = limit or 65535
    plain = decode.decode(dicom(body, PhotometricInterpretation=meaning))
    padding = {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": limit}
    shown = decode.decode(dicom(framed, PhotometricInterpretation=meaning, **padding))
    np.testing.assert_array_equal(shown[2:-2, 2:-2], plain)
    assert shown[:2].max() == shown[-2:].max() == shown[:, :2].max() == 0


def test_an_image_of_padding_alone_is_black() -> None:
    assert_shows(dicom(np.full((4, 4), 7, np.uint16), PixelPaddingValue=7), np.zeros((4, 4)))


@pytest.mark.parametrize("signed", [False, True])
def test_graphics_above_the_stored_bits_are_not_shown(signed: bool) -> None:
    values = np.linspace(-2000, 2000, 40).astype(np.int16) if signed else np.linspace(0, 4000, 40).astype(np.uint16)
    values = values.reshape(4, 10)
    drawn = values & 0x0FFF
    drawn[1] |= 0x1000  # a line in bit 12
    np.testing.assert_array_equal(decode.decode(dicom(drawn, bits=12)), decode.decode(dicom(values)))


def test_a_constant_image_is_black() -> None:
    assert_shows(dicom(np.full((4, 6), 1234, np.uint16)), np.zeros((4, 6)))


def test_a_voi_table_goes_before_a_window() -> None:
    pixels = np.array([[5, 10, 11, 12, 13, 99]], np.uint16)
    table = lookup_table([0, 4095, 1023, 2048], first=10, bits=12)
    content = dicom(pixels, bits=12, VOILUTSequence=table, WindowCenter=50, WindowWidth=2)
    assert_shows(content, [[0, 0, 255, 64, 128, 128]])  # before the first entry the first, after the last the last


def test_a_voi_table_of_eight_bits_takes_values_over_255() -> None:
    pixels = np.array([[0, 255, 256, 4095]], np.uint16)
    table = lookup_table([value >> 4 for value in range(4096)], first=0, bits=8)
    assert_shows(dicom(pixels, bits=12, VOILUTSequence=table), [[0, 15, 16, 255]])


def test_a_table_of_all_values_says_zero_for_its_length() -> None:
    table = lookup_table([], first=0, bits=16)
    table[0]["LUTData"].VR = "OW"
    table[0]["LUTData"].value = (np.arange(2**16) // 2).astype("<u2").tobytes()
    assert_shows(dicom(np.array([[0, 65535]], np.uint16), VOILUTSequence=table), [[0, 127]])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_is_read_in_the_order_of_bytes_of_its_file(syntax: UID) -> None:
    table = lookup_table([0, 0], first=0, bits=16)
    table[0]["LUTData"].VR = "OW"
    table[0]["LUTData"].value = np.array([0, 0x6400], "<u2" if syntax.is_little_endian else ">u2").tobytes()
    content = dicom(np.array([[0, 1]], np.uint16), VOILUTSequence=table, syntax=syntax)
    assert_shows(content, [[0, 100]])


def test_a_modality_table_is_looked_up_and_stretched_between_the_values_that_occur() -> None:
    pixels = np.array([[10, 12, 13]], np.uint16)
    table = lookup_table([100, 60000, 200, 300], first=10, bits=16)  # 60000 belongs to 11, which no pixel has
    assert_shows(dicom(pixels, bits=12, ModalityLUTSequence=table), [[0, 128, 255]])


def test_a_modality_table_may_start_below_zero() -> None:
    table = lookup_table([0, 10, 20], first=-1, bits=8)
    assert_shows(dicom(np.array([[-1, 0, 1]], np.int16), ModalityLUTSequence=table), [[0, 128, 255]])


def test_colour_becomes_luminance() -> None:
    green = np.zeros((4, 6, 3), np.uint8)
    green[..., 1] = 255
    header = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    assert_shows(dicom(green, PhotometricInterpretation="RGB", **header), np.full((4, 6), 150))
    gray = np.full((4, 6, 3), 128, np.uint8)  # no chroma
    gray[..., 0] = 77
    assert_shows(dicom(gray, PhotometricInterpretation="YBR_FULL", **header), np.full((4, 6), 77))


def test_a_jpeg_in_a_dicom_file_is_read() -> None:
    jpeg = encoded(Image.fromarray(GRADIENT), "JPEG", quality=95)
    content = dicom(GRADIENT, syntax=JPEGBaseline8Bit, PixelData=encapsulate([jpeg]))
    assert_shows(content, decode.decode(jpeg))


def test_run_lengths_in_a_dicom_file_are_read() -> None:
    row = bytes([255 - 59, 200])  # 60 times 200
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + row * 40
    content = dicom(GRADIENT, syntax=RLELossless, PixelData=encapsulate([frame + b"\0" * (len(frame) % 2)]))
    assert_shows(content, np.full((40, 60), 200))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"NumberOfFrames": 2, "PixelData": bytes(2 * GRADIENT.size)}, "of 2 frames, expected one"),
        ({"PixelData": bytes(3 * GRADIENT.size)}, "pixels for 3 frames, expected one"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR with 1 samples a pixel, expected MONOCHROME1"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": bytes(3 * GRADIENT.size)}, "with 3 samples"),
        ({"PixelData": GRADIENT.tobytes()[:-2]}, "less than expected|too short|Pixel Data"),
        ({"PixelData": b""}, "."),
        ({"Rows": None}, "Rows"),
        ({"Rows": 0}, "."),
        ({"BitsStored": 9}, "."),
        ({"RescaleSlope": "nan", "RescaleIntercept": "0"}, "out of range"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": "1e308", "WindowCenter": 1, "WindowWidth": "1e-300",
          "VOILUTFunction": "LINEAR_EXACT"}, "out of range"),
        ({"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "unknown function, expected LINEAR"),
        ({"VOILUTSequence": [Dataset()]}, "LUTDescriptor"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(header: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        decode.decode(dicom(GRADIENT, **header))


def test_more_than_sixteen_bits_are_refused() -> None:
    with pytest.raises(UserError, match="32 bits a pixel, expected at most 16"):
        decode.decode(dicom(GRADIENT.astype(np.uint32)))


def test_a_dicom_file_without_an_image_is_refused() -> None:
    content = dicom(GRADIENT)
    with pytest.raises(UserError, match="without an image"):
        decode.decode(content[: content.index(struct.pack("<HH", 0x7FE0, 0x0010))])


def test_a_truncated_dicom_file_is_refused() -> None:
    jpeg = encapsulate([encoded(Image.fromarray(GRADIENT), "JPEG")])
    for content in (dicom(GRADIENT), dicom(GRADIENT, syntax=JPEGBaseline8Bit, PixelData=jpeg)):
        for length in (140, 200, len(content) // 2, len(content) - 500):
            with pytest.raises(UserError):
                decode.decode(content[:length])


@pytest.mark.parametrize("junk", [b"", b"\0" * 500, bytes(range(256)) * 4, b"\xff" * 99])
def test_junk_behind_the_mark_of_dicom_is_refused(junk: bytes) -> None:
    with pytest.raises(UserError) as refusal:
        decode.decode(b"\0" * 128 + b"DICM" + junk)
    assert str(refusal.value).strip()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("header", [{}, {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"\xff\xd8"])}])
def test_a_dicom_file_that_claims_to_fill_the_memory_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^claims 65,535 x 65,535 pixels, more than 100,000,000$"):
        decode.decode(dicom(GRADIENT, Rows=65535, Columns=65535, **header))


@pytest.mark.usefixtures("without_gdcm")
def test_a_missing_decoder_is_named_with_the_remedy() -> None:
    content = dicom(GRADIENT, syntax=JPEGLSLossless, PixelData=encapsulate([b"\xff\xd8"]))
    with pytest.raises(UserError, match=r'JPEG-LS Lossless Image Compression; `pip install -e "\.\[dicom\]"`'):
        decode.decode(content)


def test_a_film_is_refused_by_the_name_of_its_transfer_syntax() -> None:
    with pytest.raises(UserError, match=r"^transfer syntax MPEG2 .* is not supported$"):
        decode.decode(dicom(GRADIENT, syntax=MPEG2MPML, PixelData=encapsulate([b"\0\0"])))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
@pytest.mark.parametrize(
    ("syntax", "said"),
    [("1.2.3.4", "1.2.3.4"), ("1.2.3.4\n", "1.2.3.4"), ("1.2.3\n10 Doe^Jane", "(no valid UID)")],
)
def test_a_transfer_syntax_that_is_damaged_is_not_repeated(syntax: str, said: str) -> None:
    written = dicom(GRADIENT, syntax=MPEG2MPML, PixelData=encapsulate([b"\0\0"]))
    uid = str(MPEG2MPML).encode()
    assert uid in written
    with pytest.raises(UserError) as refusal:
        decode.decode(written.replace(uid, syntax.encode().ljust(len(uid), b"\0")))
    assert str(refusal.value) == f"transfer syntax {said} is not supported"


def test_a_deflated_file_is_refused_before_it_unpacks() -> None:
    content = dicom(GRADIENT, syntax=DeflatedExplicitVRLittleEndian, PatientID="7")
    with pytest.raises(UserError, match="deflated"):
        decode.decode(content)
    assert decode.header(content) == {}


def test_the_header_says_who_the_patient_is() -> None:
    content = dicom(GRADIENT, PatientID=" 0012 ", PatientSex="F", PatientAge="034Y", ViewPosition="PA")
    assert decode.header(content) == {"patient_id": "0012", "sex": "F", "age": "034Y", "view": "PA"}


def test_what_the_header_leaves_out_or_empty_is_left_out() -> None:
    empty = {"PatientID": "", "PatientSex": "", "PatientAge": "", "ViewPosition": ""}
    headers: list[dict[str, Any]] = [{}, empty]
    for header in headers:
        assert decode.header(dicom(GRADIENT, **header)) == {}


def test_a_line_break_in_the_header_does_not_get_into_a_table() -> None:
    assert decode.header(dicom(GRADIENT, PatientID="a\r\nb\0c")) == {"patient_id": "abc"}


def test_the_header_is_read_without_the_pixels() -> None:
    content = dicom(GRADIENT, PatientID="7")
    assert decode.header(content[: len(content) - GRADIENT.size]) == {"patient_id": "7"}


@pytest.mark.parametrize("content", [b"", png(GRADIENT), b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 99])
def test_other_files_say_nothing_of_the_patient(content: bytes) -> None:
    assert decode.header(content) == {}


EXIF = Image.Exif()
EXIF[0x0112] = 6

WHOLE = [
    dicom(
        GRADIENT[:6, :8].astype(np.uint16), bits=12, PatientAge="034Y", PatientID="7", RescaleSlope=1,
        RescaleIntercept=-5, VOILUTSequence=lookup_table([0, 9, 99], first=3, bits=12), WindowCenter=3, WindowWidth=9,
    ),
    dicom(GRADIENT, syntax=JPEGBaseline8Bit, PixelData=encapsulate([encoded(Image.fromarray(GRADIENT), "JPEG")])),
    png(GRADIENT, exif=EXIF),
    encoded(Image.fromarray(GRADIENT), "JPEG", exif=EXIF),
    tiff(DEEP, order=">"),
    encoded(Image.fromarray(GRADIENT), "TIFF", compression="tiff_lzw", exif=EXIF),
    cv2.imencode(".tiff", np.dstack([DEEP] * 3))[1].tobytes(),
    encoded(Image.fromarray(GRADIENT), "WebP", exif=EXIF),
]  # fmt: skip


@pytest.mark.parametrize("kind", range(len(WHOLE)))
def test_a_damaged_file_gives_pixels_or_one_clear_error(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = WHOLE[kind]
    place = st.integers(0, len(whole) - 1) | st.integers(128, min(900, len(whole) - 1))  # the latter: in the header

    @given(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4), st.just(len(whole)) | place)
    @example([], len(whole))
    @settings(max_examples=250)
    def damaged(damage: list[tuple[int, int]], length: int) -> None:
        content = bytearray(whole)
        for position, value in damage:
            content[position] = value
        said = decode.header(bytes(content[:length]))
        assert all(isinstance(text, str) and text for text in said.values())
        try:
            pixels = decode.decode(bytes(content[:length]))
        except UserError as refusal:
            reason = str(refusal)
            assert content[:length] != whole
            assert reason == " ".join(reason.split()) != ""
        else:
            assert (str(pixels.dtype), pixels.ndim) == ("uint8", 2)

    damaged()
    assert caplog.records == []


# An age that the standard does not know, a text that is too long, and more bytes than pixels.
MALFORMED = dicom(
    GRADIENT, PatientAge="thirty-four years", RescaleType="x" * 99, PixelData=GRADIENT.tobytes() + b"\0\0"
)


def test_a_malformed_file_says_nothing_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    assert_shows(MALFORMED, GRADIENT)
    assert decode.header(MALFORMED) == {"age": "thirty-four years"}
    assert caplog.records == []


def test_threads_do_not_lose_the_filters_of_the_program() -> None:
    before = [known for known in warnings.filters if known[0] == "error"]
    failures: list[BaseException] = []

    def chunk() -> None:
        try:
            for _ in range(20):
                decode.decode(MALFORMED)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=chunk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [known for known in warnings.filters if known[0] == "error"] == before
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)
    assert logging.getLogger().isEnabledFor(logging.WARNING)


def test_the_filter_is_set_where_it_is_missing_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    decode.decode(MALFORMED)
    warnings.simplefilter("always")  # put in front by other code
    warnings.simplefilter("error")
    decode.decode(MALFORMED)
    monkeypatch.setattr(warnings, "filterwarnings", None)
    decode.decode(MALFORMED)


def test_pydicom_is_imported_for_a_dicom_file_only() -> None:
    program = (
        "import io, sys\nfrom PIL import Image\nfrom pneumonia.images import decode\nfile = io.BytesIO()\n"
        "Image.new('L', (9, 9)).save(file, 'PNG')\ndecode.decode(file.getvalue())\ndecode.header(file.getvalue())\n"
        "assert 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- pixels in memory ---


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_in_memory_are_read_like_a_png_with_them(depth: type, channels: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4000 if depth is np.uint16 else 256, (40, 30, channels)).astype(depth)
    file = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()  # OpenCV writes BGR
    assert np.array_equal(decode.from_array(pixels[..., 0] if channels == 1 else pixels), decode.decode(file))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("PhotometricInterpretation", "MONOCHROME2"),
        ("VOILUTFunction", "LINEAR_EXACT"),
        ("NumberOfFrames", "76543210"),
        ("WindowCenter", "76543210"),
        ("WindowWidth", "76543210"),
        ("RescaleSlope", "76543210"),
    ],
)
def test_no_message_repeats_a_value_of_a_dicom_header(field: str, value: str) -> None:
    window = {"WindowCenter": 50, "WindowWidth": 9, "RescaleIntercept": 0, "RescaleSlope": 1}
    content = dicom(GRADIENT.astype(np.uint16), **window | {field: value})
    with pytest.raises(UserError) as error:
        decode.decode(content.replace(value.encode(), b"DOEJANE7".ljust(len(value))))
    assert "DOE" not in str(error.value)
