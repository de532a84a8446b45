"""Pixels of an image file: JPEG, PNG, TIFF, BMP, WebP or DICOM, always one gray channel.

Archives of X-rays contain photographs of films, 16-bit exports, or files of the detector. The result is always 8 bits
with bright bone. Files are not trusted: a damaged or malicious one gives a `UserError`, and none can exhaust memory or
time (`images.limits`).
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import re
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pneumonia import UserError, files, workspace
from pneumonia.images import levels, limits, separate
from pneumonia.images.formats import DICOM, HEAD_BYTES, image_format

if TYPE_CHECKING:  # importing pydicom takes 0.25 s, and most archives have no DICOM
    from pydicom import Dataset

IGNORED_WINDOW = "its header has a window that shows nothing of it; ignored, all gray levels are shown"
"""Note on an image; the window may be a table (VOI LUT)."""


class _Jpeg(JpegImageFile):
    """A JPEG that `check_end` refuses if its data end before its last row, or well after it.

    libjpeg fills missing rows with gray and ignores surplus data, so that a file with another size in its header looks
    whole. Here the end of the data is kept from it until it asks for more: then it lacks rows, but few.

    A file of several scans is decoded as a whole. It is decoded a second time, with other data at the end of its first
    scan: the lowest rows must change, and no others.
    """

    def _open(self) -> None:
        assert self.fp is not None
        self._content = self.fp.read()
        self.fp.seek(0)
        self._jpeg = limits.read_jpeg(self._content)
        self._wants_end = self._lacks_rows = False
        super()._open()

    def load_prepare(self) -> None:
        super().load_prepare()
        if self._decodes_rows() and (rows := self._rows_before(0)):
            self.im.putpixel((0, rows - 1), self._mark(0))
            self.im.putpixel((self.width - 1, rows - 1), self._mark(1))

    def load_read(self, read_bytes: int) -> bytes:
        assert self.fp is not None
        if not self._decodes_rows():
            return super().load_read(read_bytes)
        start, end = self._jpeg.scans[0]
        place, surplus = self.fp.tell(), max(start, end - _SURPLUS)
        self._wants_end |= place == surplus
        if place == end and (rows := self._rows_before(0)):
            marked = (self.im.getpixel((column, rows - 1)) for column in (0, self.width - 1))
            self._lacks_rows = all(pixel == self._mark(number) for number, pixel in enumerate(marked))
        return super().load_read(min([read_bytes, *(stop - place for stop in (surplus, end) if stop > place)]))

    def check_end(self) -> None:
        """Load the pixels; refuse them if the size in the header is not that of the data.

        Raises:
            UserError: the data have other rows than the header.
        """
        self.load()
        if self._decodes_rows():
            if not self._wants_end:
                raise _other_size("more")
            if self._lacks_rows:
                raise _other_size("less")
        elif self._jpeg.kinds <= {*_SEQUENTIAL, _PROGRESSIVE}:
            start, end = self._jpeg.scans[0]
            if not self._rows_that_depend_on(_SURPLUS) and self._rows_that_depend_on(end - start):
                raise _other_size("more")
            if self._rows_that_depend_on(_LAST) > self.height - self._rows_before(_LAST):
                raise _other_size("less")

    def _decodes_rows(self) -> bool:
        """Whether libjpeg returns rows as it reads, and not all of them at the end."""
        return len(self._jpeg.scans) == 1 and self._jpeg.kinds <= _SEQUENTIAL

    def _rows_before(self, n_bytes: int) -> int:
        """The number of rows that are certainly decoded if only this number of bytes is missing.

        libjpeg decodes only while it can fill a register of 64 bits, which may be 32 units of 2 bits, and one that
        begins before. In a first scan a unit may have one bit. To enlarge colours, one row of units more is needed.
        """
        wide, high = (8 * max(layer[axis] for layer in self.layer) for axis in (1, 2))
        units = 33 + 8 * n_bytes
        return max(0, self.height - high * (1 + math.ceil(units / math.ceil(self.width / wide))))

    def _mark(self, number: int) -> int | tuple[int, ...]:
        """A value for a pixel that is not decoded, which the pixel hardly has: two pixels in one row differ so."""
        value, bands = (1, 254)[number], len(self.getbands())
        return value if bands == 1 else (value,) * bands

    def _rows_that_depend_on(self, n_bytes: int) -> int:
        """How many of the lowest rows are others with other data in these last bytes of the first scan."""
        end = self._jpeg.scans[0].end
        start = max(self._jpeg.scans[0].start, end - n_bytes)
        start = min(end, start + (self._content[start - 1] == 0xFF))  # else a marker could appear
        noise = np.random.default_rng(0).integers(0, 255, end - start, dtype=np.uint8)
        other = JpegImageFile(io.BytesIO(self._content[:start] + noise.tobytes() + self._content[end:]))
        other.draft("L", other.size)
        rows = np.flatnonzero((np.asarray(self) != np.asarray(other)).reshape(self.height, -1).any(axis=1))
        return self.height - int(rows[0]) if len(rows) else 0


def _other_size(data: str) -> UserError:
    return UserError(f"truncated or damaged: it has {data} data than pixels of the size in its header")


_IMAGE_FILES: dict[str, type[ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
}
_CHECKS = {"PNG": limits.check_png, "TIFF": limits.check_tiff}
_EXPECTED = f"expected {', '.join(_IMAGE_FILES)} or {DICOM}"
_INSTALL_DECODERS = '`pip install -e ".[dicom]"`'
_SHADE, _ALL = 4, 0.95
"""Gray levels that look the same, and the share of the pixels from which on a window shows nothing else."""
_PARSERS = r"(PIL|pydicom)\."
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), 0xC2  # start of frame in a JPEG
_SURPLUS = 64
"""Bytes of a JPEG after its last row that are not taken for rows: some encoders fill up."""
_LAST = 8
"""Bytes of a JPEG that can hold only few rows."""
_GDCM = "gdcm"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_ELEMENTS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
)
"""All of a DICOM header that the pixels depend on; the rest is skipped."""
_BITS, _PHOTOMETRIC, _PLANAR, _TILE = 258, 262, 284, (322, 323)  # tags of TIFF
_WHITE_IS_ZERO, _PLANES_APART = 0, 2
_COLOUR = ("RGB", "RGBA")
_PHOTOMETRICS = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422"),
    *("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
)
"""Terms of DICOM. Messages repeat nothing else of a header: any field may contain the name of a patient."""


def read_image(uri: str) -> npt.NDArray[np.uint8]:
    """One image as all stages read it: one channel, before any processing.

    Colour is removed here: in the Kermany set every file in RGB mode is a pneumonia of the train split, so that a
    colour channel would reveal the label.

    Args:
        uri: `zip://MEMBER::ARCHIVE`, a path, or an fsspec URL of an image file.

    Returns:
        uint8 (height, width), 0-255.

    Raises:
        UserError: the file is missing, truncated, or not an image.
    """
    content = files.read_bytes(uri)
    try:
        return decode(content)
    except UserError as error:
        raise UserError(f"{uri}: cannot be read as an image ({error})") from error


def read_unchanged(uri: str, sha256: str) -> bytes:
    """The bytes of a file of the manifest, if unchanged since `fetch`.

    Raises:
        UserError: the file is missing, cannot be reached, or has changed.
    """
    try:
        content = files.read_bytes(uri)
    except UserError as error:
        raise UserError(f"{error}; restore it and run again, or read all files again: dvc repro -f -s fetch") from error
    if workspace.sha256_bytes(content) != sha256:
        raise UserError(f"{uri}: the file has changed since fetch read it; read all files again: dvc repro -f -s fetch")
    return content


def decode(content: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of a JPEG, PNG, TIFF, BMP, WebP or DICOM file, one gray channel.

    8 bits stay as they are. More than 8 bits become gray levels as in `levels.gray_levels`, unless a DICOM header says
    how to show them. Transparency is ignored.

    Args:
        content: the whole file.

    Returns:
        uint8 (height, width), 0-255; upright if EXIF has the orientation; bone is bright also in MONOCHROME1.

    Raises:
        MemoryError: this machine has too little for the image.
        UserError: damaged, another format, several pages or frames, more pixels, bits or other content than the
            limits, or a kind of DICOM that is not supported. The message has no path: the caller adds it.
    """
    return decode_noted(content)[0]


def decode_noted(content: bytes) -> tuple[npt.NDArray[np.uint8], str]:
    """The pixels as `decode` returns them, and what a person should know about them: `IGNORED_WINDOW` or empty."""
    _silence_parsers()
    if not content:
        raise UserError("the file is empty")
    try:
        if _is_dicom(content):
            return _decode_dicom(content)
        return _decode_image_file(content), ""
    except (UserError, MemoryError):  # with more memory a whole file can be read: it must not count as damaged
        raise
    # Each parser raises its own errors, and on a damaged header pydicom can fail in any line: AttributeError,
    # struct.error, RecursionError, zlib.error, …
    except Exception as error:
        if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
            raise MemoryError(_one_line(error)) from error
        raise UserError(_without_values(error) if _is_dicom(content) else _one_line(error)) from error


def from_array(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Pixels in memory as one gray channel, by the rules for a file with these pixels.

    Args:
        pixels: uint8 or uint16, (height, width), or (height, width, 3) in RGB.

    Returns:
        uint8 (height, width), 0-255.
    """
    if pixels.dtype == np.uint16:
        return levels.gray_levels(pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)


def header(content: bytes) -> dict[str, str]:
    """The patient data in the header of a DICOM file.

    Args:
        content: the whole file, of any kind.

    Returns:
        `patient_id`, `sex`, `age` and `view` as text, as the file writes them (`034Y`), each if the file has it; empty
        for other files or a damaged header.
    """
    _silence_parsers()
    if not _is_dicom(content):
        return {}
    tags = ["PatientID", "PatientSex", "PatientAge", "ViewPosition"]
    try:
        dataset = _read_dicom(content, tags)
        patient_id, sex, age, view = (_text(dataset.get(tag)) for tag in tags)
    except Exception:  # any, as in decode(), which reports what is wrong with the file
        return {}
    values = {"patient_id": patient_id, "sex": sex, "age": age, "view": view}
    return {name: value for name, value in values.items() if value}


def mode(content: bytes) -> str:
    """How a file that `decode` can read stores its pixels: `L`, `RGB`, `I;16`, … or, of DICOM, `MONOCHROME1`, …

    In the Kermany set all 283 files in RGB are pneumonias of train: a shortcut that this column reveals.
    """
    _silence_parsers()
    if _is_dicom(content):
        tags = ["PhotometricInterpretation"]
        return _text(_read_dicom(content, tags).get(tags[0]))
    with _open(content) as image:
        # Pillow has no mode for colour of 16 bits and names that of 8 bits.
        deep = _bits(image) == 16 and not image.mode.startswith("I")
        return f"{image.mode};16" if deep else str(image.mode)


def size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of the image that `decode` returns, from its header alone; None if it is damaged."""
    _silence_parsers()
    try:
        if _is_dicom(content):
            dataset = _read_dicom(content, ["Columns", "Rows"])
            return int(dataset.Columns), int(dataset.Rows)
        with _open(content) as image:
            # Pillow gives a TIFF the size that it has when it is upright. A PNG would be decoded for its EXIF data.
            is_upright = isinstance(image, TiffImageFile) or Image.Image.getexif(image).get(0x0112, 1) < 5
            return image.size if is_upright else (image.height, image.width)
    except Exception:  # any, as in decode(), which reports what is wrong with the file
        return None


def _decode_image_file(content: bytes) -> npt.NDArray[np.uint8]:
    """With Pillow, because it rejects a truncated JPEG; OpenCV would silently fill the rest with gray."""
    with _open(content) as image:
        bits = _bits(image)
        limits.check_size(*image.size)
        limits.check_size(*(_tag(image, side) or 1 for side in _TILE))
        if image.tile and image.tile[0][0] == "bmp_rle":
            limits.check_run_bitmap(content, *image.size)
        _check_kind(image, bits, image_format(content))
        is_negative = _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
        image.draft("L", image.size)  # of a JPEG only the luminance is decoded, in a third of the time
        if isinstance(image, _Jpeg):
            image.check_end()
        image.load()  # it turns a TIFF upright
        upright: Image.Image = image
        if bits > 8 and image.mode in _COLOUR:
            upright = _sixteen_bit_luminance(content, image)
        if upright.getexif().get(0x0112, 1) != 1:  # Orientation: the photograph was taken with the camera turned
            upright = ImageOps.exif_transpose(upright)
        if bits > 8:
            gray = levels.gray_levels(np.asarray(upright))
            return 255 - gray if is_negative else gray  # one of 8 bits is inverted by Pillow
        return np.asarray(upright.convert("L"), dtype=np.uint8)


def _open(content: bytes) -> ImageFile:
    """The image with its header read.

    Not Image.open(): it has its own limit of pixels, which can be changed only for the whole process. With the named
    formats, malicious files also cannot reach Pillow's forty other parsers.
    """
    name = image_format(content[:HEAD_BYTES])
    if name not in _IMAGE_FILES:
        raise UserError(f"{f'a {name} file' if name else 'not an image'}, {_EXPECTED}")
    if name in _CHECKS:
        _CHECKS[name](content)
    try:
        return _IMAGE_FILES[name](io.BytesIO(content))
    except SyntaxError as error:  # Pillow's for a header that it cannot use
        raise UserError(f"a {name} file of an unsupported kind or damaged ({error})") from error


def _bits(image: ImageFile) -> int:
    """Bits of a channel as stored, before the image is loaded: Pillow's modes hide those of colour."""
    if isinstance(image, PngImageFile) and image.tile and str(image.tile[0][3]).endswith(";16B"):
        return 16
    return int(max(_tag(image, _BITS) or (8,)))


def _tag(image: ImageFile, number: int) -> Any:
    """The value of a tag of TIFF; None for other formats."""
    return image.tag_v2.get(number) if isinstance(image, TiffImageFile) else None


def _check_kind(image: ImageFile, bits: int, name: str) -> None:
    if getattr(image, "is_animated", False):
        raise UserError(f"a {name} file of several pages or frames, expected one")
    is_gray, is_colour = image.mode.startswith("I"), image.mode in _COLOUR
    if bits > 16 or (bits > 8 and not is_gray and not is_colour):
        raise UserError(f"a {name} file of {bits} bits in {image.mode}, expected 8 bits, or 16 in gray or RGB")
    if bits > 8 and is_colour and _tag(image, _PLANAR) == _PLANES_APART:
        raise UserError(f"a {name} file of {bits} bits with one plane for each colour, expected all colours in one")


def _sixteen_bit_luminance(content: bytes, image: ImageFile) -> Image.Image:
    """A colour image in one channel of 16 bits, with OpenCV: Pillow drops the lower 8, and often nothing else is there.

    OpenCV would read a truncated file; here Pillow has already read `image` from it.
    """
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise UserError(f"a file of 16 bits in {image.mode} that OpenCV cannot read")
    luminance = Image.fromarray(cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2GRAY))
    luminance.info = image.info  # with the orientation
    return luminance


def _is_dicom(content: bytes) -> bool:
    return image_format(content[:HEAD_BYTES]) == DICOM


def _read_dicom(content: bytes, keywords: Collection[str], *, with_pixels: bool = False) -> Dataset:
    """The named elements of a DICOM file."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    if _DEFLATED in content:  # one of a terabyte would fill the memory before its header is known
        raise UserError("a deflated DICOM file, which is not supported; convert it with dcmconv +te")
    file = limits.DicomFile(content)
    pixels = Tag("PixelData")

    def stops(tag: int, _vr: str | None, _length: int) -> bool:
        file.counts = tag != pixels
        return tag == pixels and not with_pixels

    tags = [Tag(keyword) for keyword in keywords] + [pixels] * with_pixels
    try:
        # By force, because devices and archives also write files without the preamble, or the data set alone.
        dataset = read_partial(file, stops, force=True, specific_tags=tags)
    except Exception:
        file.check()  # pydicom replaces some errors of a file by its own
        raise
    for keyword in keywords:
        raw = dataset.get_item(keyword) if keyword in dataset else None
        if isinstance(raw, RawDataElement) and raw.value:
            limits.check_element(raw.value, is_table=keyword in _TABLES)
    return dataset


def _decode_dicom(content: bytes) -> tuple[npt.NDArray[np.uint8], str]:
    """The image, and a note or nothing."""
    dataset = _read_dicom(content, (*_ELEMENTS, *_TABLES), with_pixels=True)
    if "PixelData" not in dataset:
        raise UserError("a DICOM file without an image")
    limits.check_size(int(dataset.Columns), int(dataset.Rows))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise UserError(f"a DICOM file of {frames} frames, expected one")
    if dataset.BitsAllocated > 16:
        raise UserError(f"a DICOM file of {dataset.BitsAllocated} bits a pixel, expected at most 16")
    _set_transfer_syntax(dataset)
    _check_decoder(dataset)

    photometric, samples = _text(dataset.PhotometricInterpretation), dataset.SamplesPerPixel
    colour = samples == 3 and photometric.startswith(("RGB", "YBR"))
    if not colour and not (samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")):
        raise UserError(
            f"a DICOM file in {photometric if photometric in _PHOTOMETRICS else 'an unknown form'} with "
            f"{samples if samples in (1, 3, 4) else 'an unknown number of'} samples a pixel, "
            "expected MONOCHROME1 or MONOCHROME2 with 1, RGB or YBR with 3"
        )
    _check_frame(dataset)
    try:
        pixels = _stored_values(dataset)  # YBR is converted to RGB
    except MemoryError:
        raise
    except Exception as error:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated and not _has_gdcm():
            raise UserError(f"{_without_values(error)}; if the file is whole, {_INSTALL_DECODERS} may help") from error
        raise
    if pixels.ndim != 2 + colour:  # pydicom reads surplus bytes as further frames
        raise UserError(f"a DICOM file with pixels for {len(pixels)} frames, expected one")
    if colour:
        return from_array(pixels.astype(np.uint16) if pixels.itemsize == 2 else pixels), ""
    padding = _padding(pixels, dataset)
    image, note = _display(_stored_bits(pixels, dataset), dataset, padding)
    if photometric == "MONOCHROME1":
        image = 255 - image
    image[padding] = 0
    return image, note


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Add the transfer syntax to a data set without meta header: pydicom has seen in which way it is written."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in dataset.file_meta:
        return
    if dataset["PixelData"].is_undefined_length:
        raise UserError("a compressed DICOM file without the header that names the compression")
    is_implicit, is_little_endian = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _check_decoder(dataset: Dataset) -> None:
    """Check that a decoder is installed, because the error of pydicom has ten lines, and have it used.

    Raises:
        UserError: pydicom cannot decode this transfer syntax, or not as it is installed.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEGExtended12Bit, JPEGLossless

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        # A damaged file may have other text here, such as the name of the patient.
        name = syntax.name if syntax.is_valid else "(no valid UID)"
        raise UserError(f"transfer syntax {name} is not supported") from None
    twelve_bits = syntax == JPEGExtended12Bit and dataset.BitsStored > 8
    if not decoder.is_available or (twelve_bits and not _has_gdcm()):
        raise UserError(f"no decoder is installed for transfer syntax {syntax.name}; {_INSTALL_DECODERS}")
    if twelve_bits:
        # pydicom thinks that GDCM cannot decode them. GDCM looks at the stream for the process and the precision; under
        # the name of another JPEG syntax pydicom passes the stream on.
        dataset.file_meta.TransferSyntaxUID = JPEGLossless


def _stored_values(dataset: Dataset) -> npt.NDArray[Any]:
    """The pixels by the decoders that are always installed; by GDCM if they cannot decode them."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import JPEG2000TransferSyntaxes

    syntax = dataset.file_meta.TransferSyntaxUID
    plugins = list(get_decoder(syntax).available_plugins)
    others = [name for name in plugins if name != _GDCM]
    if others == plugins:
        return np.asarray(pixel_array(dataset))
    if others:
        try:
            return np.asarray(pixel_array(dataset, decoding_plugin=others[0]))
        except Exception:
            if syntax not in JPEG2000TransferSyntaxes:
                raise
    return separate.pixel_array(dataset)


def _check_frame(dataset: Dataset) -> None:
    """Refuse compressed pixels that have another size than the header, or that could exhaust the memory."""
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEGBaseline8Bit, RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    limits.check_offsets(dataset.PixelData)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == RLELossless:
        limits.check_run_lengths(frame, rows * columns)
        return
    limits.check_codestream(frame, columns, rows)
    if syntax == JPEGBaseline8Bit:
        with _Jpeg(io.BytesIO(frame)) as image:
            image.draft("L", image.size)
            image.check_end()


def _padding(pixels: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Pixels outside the detector, which its software has filled: background, whatever their value."""
    if dataset.get("PixelPaddingValue") is None:
        return np.zeros(pixels.shape, dtype=bool)
    value = int(dataset.PixelPaddingValue)
    limit = int(dataset.get("PixelPaddingRangeLimit") or value)
    return np.asarray((pixels >= min(value, limit)) & (pixels <= max(value, limit)))


def _stored_bits(pixels: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """The bits that belong to the image: in old files the bits above contain overlay graphics."""
    bits, low = int(dataset.BitsStored), int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    if low < 0 or not 1 <= bits <= dataset.BitsAllocated:
        raise UserError(f"a DICOM file of {bits} bits stored below bit {dataset.HighBit}")
    if bits == dataset.BitsAllocated:
        return pixels
    values: npt.NDArray[Any] = (pixels.astype(np.int32) >> low) & (2**bits - 1)
    if dataset.PixelRepresentation:  # two's complement
        values -= (values >= 2 ** (bits - 1)) * 2**bits
    return values


def _display(
    stored: npt.NDArray[Any], dataset: Dataset, padding: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], str]:
    """Stored values in 8 bits, displayed as the header describes, and a note or nothing.

    First the modality LUT or rescale is applied, then the first VOI LUT or window that shows something of the image;
    VOI LUTs come before windows. Without one, 8-bit values without modality LUT or rescale are not changed (the RSNA
    challenge), and all others are stretched between the robust limits of `levels.stretch`.

    Each step depends only on the value of a pixel. So the steps are computed for the values between minimum and
    maximum, 65,536 at most, and the pixels are looked up in this table.

    Args:
        stored: integers of at most 16 bits (height, width).
        dataset: their header.
        padding: bool (height, width), pixels that do not count for the limits.

    Returns:
        uint8 (height, width), 0-255, not yet inverted for MONOCHROME1; `IGNORED_WINDOW` or empty.

    Source:
        DICOM PS3.3, C.11.1 (modality LUT) and C.11.2 (VOI LUT).
    """
    if padding.all():
        return np.zeros(stored.shape, np.uint8), ""
    first = int(stored.min())
    place = np.subtract(stored, first, dtype=np.int32)
    counts = np.bincount(place[~padding], minlength=int(place.max()) + 1)
    # A header may have a slope of 1e300; infinite results are rejected.
    with np.errstate(all="ignore"):
        values = _finite(_modality_values(first + np.arange(len(counts), dtype=np.float64), dataset))
        note = ""
        for table in _displayed(values, dataset):
            if not _shows_nothing(table, counts):
                note = ""
                break
            note = IGNORED_WINDOW
        else:
            is_plain = (
                dataset.BitsStored == 8 and not dataset.PixelRepresentation and not dataset.get("ModalityLUTSequence")
            )
            unscaled = values[0] == first and values[-1] == first + len(values) - 1  # no rescale, or by 1 and 0
            table = levels.to_table(values / 255 if is_plain and unscaled else levels.stretch(values, counts))
    image: npt.NDArray[np.uint8] = np.take(table, place)
    return image, note


def _displayed(values: npt.NDArray[np.float64], dataset: Dataset) -> Iterator[npt.NDArray[np.uint8]]:
    """Gray levels of values by each VOI LUT and then each window of the header."""
    for item in dataset.get("VOILUTSequence") or ():
        entries, bits = _apply_lut(values, item, dataset)
        yield levels.to_table(_finite(entries / (2**bits - 1)))
    if _has(dataset, "WindowCenter") and _has(dataset, "WindowWidth"):
        centers, widths = (np.ravel(dataset[name].value).astype(float) for name in ("WindowCenter", "WindowWidth"))
        limits.check_windows(len(centers))
        for center, width in zip(centers, widths, strict=False):  # a damaged header may have more of one
            yield levels.to_table(_finite(_apply_window(values, dataset, center, width)))


def _shows_nothing(table: npt.NDArray[np.uint8], counts: npt.NDArray[np.integer[Any]]) -> bool:
    """If nearly all pixels of an image of several values become one shade: the window lies beside or is too wide.

    Pixels of the commonest value are not counted: they may be a background that is larger than the film.
    """
    film = counts.copy()
    film[counts.argmax()] = 0
    if np.count_nonzero(film) < 2:  # two values: both count
        film = counts
    shades = np.bincount(table, weights=film, minlength=256)
    return bool(np.count_nonzero(film) > 1 and np.convolve(shades, np.ones(_SHADE)).max() >= _ALL * film.sum())


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise UserError("a DICOM file whose rescale or window is out of range")
    return values


def _modality_values(values: npt.NDArray[np.float64], dataset: Dataset) -> npt.NDArray[np.float64]:
    if dataset.get("ModalityLUTSequence"):
        return _apply_lut(values, dataset.ModalityLUTSequence[0], dataset)[0]
    if _has(dataset, "RescaleSlope") and _has(dataset, "RescaleIntercept"):
        return values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return values


def _apply_lut(values: npt.NDArray[np.float64], item: Dataset, dataset: Dataset) -> tuple[npt.NDArray[np.float64], int]:
    """Values mapped by a table of the header, and the bits of an entry.

    Not pydicom's apply_voi(): 12-bit values overflow there in a table of 8-bit entries, and floating values after a
    rescale give a warning.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16  # DICOM writes 65,536 as 0, since it does not fit the field
    data = item.LUTData
    if isinstance(data, bytes):
        word = "<u2" if dataset.original_encoding[1] else ">u2"
        data = np.frombuffer(data, word if len(data) >= 2 * count else np.uint8)
    table = np.asarray(data, dtype=np.float64)[:count]
    place = np.clip(np.rint(values - first), 0, len(table) - 1)
    return table[place.astype(np.int64)], bits


def _apply_window(
    values: npt.NDArray[np.float64], dataset: Dataset, center: float, width: float
) -> npt.NDArray[np.float64]:
    """Values as shares of a window, 0-1 inside it.

    Not pydicom's apply_windowing(): it scales to the range of the stored bits after rescale, which would have to be
    computed again to undo it.

    Source:
        DICOM PS3.3, C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).
    """
    function = _text(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if width <= 0 or (function == "LINEAR" and width < 1):
        return np.zeros_like(values)  # not valid; it shows nothing
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise UserError("a DICOM file with a window of unknown function, expected LINEAR, LINEAR_EXACT or SIGMOID")
    if width == 0:  # LINEAR of width 1 is a threshold
        return np.where(values > center, 1.0, 0.0)
    return np.asarray((values - center) / width + 0.5)


def _has(dataset: Dataset, keyword: str) -> bool:
    return dataset.get(keyword) not in (None, "")


def _has_gdcm() -> bool:
    return importlib.util.find_spec(_GDCM) is not None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or f"damaged: {type(error).__name__}"


def _without_values(error: Exception) -> str:
    """The text of an error of pydicom, which repeats what it cannot read: that may be the name of a patient."""
    from pydicom.datadict import tag_for_keyword

    def known(match: re.Match[str]) -> str:
        return match[0] if tag_for_keyword(match[1]) else "…"

    return re.sub(r"'([^']*)'", known, _one_line(error))


def _text(value: Any) -> str:
    """A value of the header on one line, for a cell of a table."""
    return "".join(sign for sign in str(value or "") if sign.isprintable()).strip()


def _silence_parsers() -> None:
    """Keep warnings of Pillow and pydicom about malformed files out of the log.

    The `UserError` says why a file is unreadable; other warnings would be a line for each of 100,000 images. The
    filter is put first and is not removed: catch_warnings() replaces the list of all threads, so that two chunks
    decoded at once could lose the filters of the program. It is added only if it is missing, because after each change
    Python shows again the warnings that it shows once.
    """
    for parser in ("PIL", "pydicom"):
        logging.getLogger(parser).setLevel(logging.CRITICAL)
    first_filter: Any = warnings.filters[0] if warnings.filters else None
    if not first_filter or first_filter[3] != re.compile(_PARSERS):
        warnings.filterwarnings("ignore", module=_PARSERS)
