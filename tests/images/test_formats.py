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


@pytest.mark.parametrize("head", [b"\0" * 128 + b"DICM", b"\x02\0\0\0UL\x04\0\xb0\0\0\0", b"\x08\0\x05\0CS\x0a\0ISO"])
def test_dicom_is_recognised_with_and_without_its_preamble(head: bytes) -> None:
    assert formats.image_format(head) == formats.DICOM


@pytest.mark.parametrize(
    "head", [b"", b"\0" * 4096, b"BM is no bitmap here", b"PK\x03\x04", b"%PDF-1.7", b"path,label"]
)
def test_other_files_have_no_format(head: bytes) -> None:
    assert formats.image_format(head) == ""
