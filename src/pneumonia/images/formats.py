"""Which files are images: by their first bytes, whatever their names are."""

from __future__ import annotations

from pathlib import PurePosixPath

HEAD_BYTES = 4096
"""As many first bytes of a file as are needed here: with the meta header of DICOM, which names the kind of object."""

DICOM = "DICOM"

PICTURES = {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"}
"""Suffixes of picture files."""

_FIRST_BYTES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF87a", b"GIF89a"),
}
_FIRST_GROUPS = {0x0002, 0x0008}
"""A DICOM file without the preamble of 128 bytes begins with its meta header, or with the identifiers of the image."""
_LAST_GROUP = 0x0028
_TYPES = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def image_format(head: bytes) -> str:
    """The format of an image file: JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM; empty for other files.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of it.

    Source:
        DICOM PS3.10, section 7.1; the specifications of the formats.
    """
    if head[128:132] == b"DICM" or _begins_with_elements(head):
        return DICOM
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    # Two letters begin many files: the header of a bitmap must have one of its known lengths, too.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    return next((name for name, starts in _FIRST_BYTES.items() if head.startswith(starts)), "")


def _begins_with_elements(head: bytes) -> bool:
    """If a file begins with an element of DICOM: of a known type, or, where types are implicit, followed by a second.

    Source:
        DICOM PS3.5, section 7.1.
    """
    if _FIRST_GROUPS.isdisjoint((int.from_bytes(head[:2], "little"), int.from_bytes(head[:2], "big"))):
        return False
    if head[4:6] in _TYPES:
        return True
    first, length = _tag(head), int.from_bytes(head[4:8], "little")
    second = _tag(head[8 + length : 12 + length])
    return length % 2 == 0 and first < second <= (_LAST_GROUP, 0xFFFF)


def _tag(element: bytes) -> tuple[int, int]:
    """Group and number, little endian as all implicit DICOM is."""
    return int.from_bytes(element[:2], "little"), int.from_bytes(element[2:4], "little")


def is_named_as_image(name: str) -> bool:
    """Whether a file has the suffix of a picture or of DICOM. DICOM files often have none."""
    return PurePosixPath(name).suffix.lower() in PICTURES | {".dcm", ".dicom"}
