"""Which files are images: by their first bytes, whatever their names are."""

from __future__ import annotations

HEAD_BYTES = 4096
"""As many first bytes of a file as are needed here: with the meta header of DICOM, which names the kind of object."""

DICOM = "DICOM"

_FIRST_BYTES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF87a", b"GIF89a"),
}
# Without the preamble of 128 bytes, a DICOM file begins with its first element: the length of the meta header,
# or an identifier of the data set.
_DICOM_ELEMENTS = (b"\x02\0\0\0UL\x04\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x12\0", b"\x08\0\x16\0")


def image_format(head: bytes) -> str:
    """The format of an image file: JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM; empty for other files.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of it.

    Source:
        DICOM PS3.10, section 7.1; the specifications of the formats.
    """
    if head[128:132] == b"DICM" or head.startswith(_DICOM_ELEMENTS):
        return DICOM
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    # Two letters begin many files: the header of a bitmap must have one of its known lengths, too.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    return next((name for name, starts in _FIRST_BYTES.items() if head.startswith(starts)), "")
