"""A file is recognised by its first bytes, not by its name."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pneumonia.images import formats

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "BMP", "WebP", "GIF"])
def test_a_file_that_pillow_writes_is_recognised(name: str) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, name)
    assert formats.image_format(file.getvalue()[: formats.HEAD_BYTES]) == name


@pytest.mark.parametrize(("ending", "name"), [(".jpg", "JPEG"), (".tiff", "TIFF"), (".bmp", "BMP")])
def test_a_file_that_opencv_writes_is_recognised(ending: str, name: str) -> None:
    assert formats.image_format(cv2.imencode(ending, PIXELS)[1].tobytes()) == name


@pytest.mark.parametrize(
    "head",
    [
        b"\0" * 128 + b"DICM",
        b"\x02\0\0\0UL\x04\0\xb0\0\0\0",  # the length of the meta header
        b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01",  # a meta header without its length
        b"\x08\0\x05\0CS\x0a\0ISO",
        b"\x08\0\x18\0UI\x06\x001.2.3\0",
        b"\0\x08\0\x05CS\0\x0aISO",  # big endian
        b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100\x08\0\x08\0\x04\0\0\0",  # without types
        b"\x08\0\0\0\x04\0\0\0\x90\x01\0\0\x08\0\x16\0\x1a\0\0\0",
    ],
)
def test_dicom_is_recognised_with_and_without_its_preamble(head: bytes) -> None:
    assert formats.image_format(head) == formats.DICOM


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0" * 4096,
        b"\x08\0",
        b"\x08\0" * 2048,
        b"\x08\0\x05\0" + b"\xff" * 99,
        b"\x02\0\0\0" + b"\0" * 99,
        b"BM is no bitmap here",
        b"PK\x03\x04",
        b"%PDF-1.7",
        b"path,label",
    ],
)
def test_other_files_have_no_format(head: bytes) -> None:
    assert formats.image_format(head) == ""


@pytest.mark.parametrize(
    ("name", "named"), [("a/b.JPEG", True), ("a.webp", True), ("a.DCM", True), ("a.dcm/b", False), ("a.txt", False)]
)
def test_the_suffix_names_an_image_in_upper_or_lower_case(name: str, named: bool) -> None:
    assert formats.is_named_as_image(name) is named
