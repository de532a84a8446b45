"""Pixels of an image file: JPEG, PNG or DICOM, always one gray channel.

Archives of X-rays contain photographs of films, 16-bit exports, or files of the detector. The result is always 8 bits
with bright bone. Files are not trusted: a damaged or malicious one gives a `UserError`, and no header can exhaust the
memory.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pneumonia import UserError, files, workspace

if TYPE_CHECKING:  # importing pydicom takes 0.25 s, and most archives have no DICOM
    from pydicom import Dataset

MAX_PIXELS = 100_000_000
"""More than any detector has; larger images would exhaust the memory."""
_PARSERS = r"(PIL|pydicom)\."
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def read_image(uri: str) -> npt.NDArray[np.uint8]:
    """One image as all stages read it: one channel, before any processing.

    Colour is removed here: in the Kermany set every file in RGB mode is a pneumonia of the train split, so that a
    colour channel would reveal the label.

    Args:
        uri: `zip://MEMBER::ARCHIVE`, a path, or an fsspec URL of a JPEG, PNG or DICOM file.

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
    """The pixels of a JPEG, PNG or DICOM file, one gray channel.

    Args:
        content: the whole file.

    Returns:
        uint8 (height, width), 0-255; upright if EXIF has the orientation; bone is bright also in MONOCHROME1.

    Raises:
        UserError: damaged, another format, more than `MAX_PIXELS`, or a kind of DICOM that is not supported. The
            message has no path: the caller adds it.
    """
    _silence_parsers()
    try:
        if _is_dicom(content):
            return _decode_dicom(content)
        return _decode_jpeg_or_png(content)
    except UserError:
        raise
    # Each parser raises its own errors, and on a damaged header pydicom can fail in any line: AttributeError,
    # struct.error, RecursionError, zlib.error, …
    except Exception as error:
        raise UserError(" ".join(str(error).split()) or f"damaged: {type(error).__name__}") from error


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
        dataset = _read_dicom(content, stop_before_pixels=True, specific_tags=tags)
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
        return _text(_read_dicom(content, stop_before_pixels=True, specific_tags=tags).get(tags[0]))
    with _open(content) as image:
        return str(image.mode)


def _decode_jpeg_or_png(content: bytes) -> npt.NDArray[np.uint8]:
    """With Pillow, because it rejects a truncated JPEG; OpenCV would silently fill the rest with gray."""
    with _open(content) as image:
        _check_size(*image.size)
        image.draft("L", image.size)  # of a JPEG only the luminance is decoded, in a third of the time
        upright: Image.Image = image
        if image.getexif().get(0x0112, 1) != 1:  # Orientation: the photograph was taken with the camera turned
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits; Pillow would clip at 255 instead of scaling
            return _highest_eight_bits(np.asarray(upright))
        return np.asarray(upright.convert("L"), dtype=np.uint8)


def _open(content: bytes) -> JpegImageFile | PngImageFile:
    """The image with its header read.

    Not Image.open(): it has its own limit of pixels, which can be changed only for the whole process. With two named
    formats, malicious files also cannot reach Pillow's forty other parsers.
    """
    formats: dict[bytes, type[JpegImageFile | PngImageFile]] = {
        b"\xff\xd8\xff": JpegImageFile,
        b"\x89PNG\r\n\x1a\n": PngImageFile,
    }
    for magic, image_file in formats.items():
        if content.startswith(magic):
            return image_file(io.BytesIO(content))
    raise UserError("neither JPEG, PNG nor DICOM")


def _highest_eight_bits(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The image shifted to 8 bits, from the number of bits that its maximum needs.

    Many archives (PadChest) store 12 bits in 16-bit files; a shift by 8 would make them nearly black.
    """
    excess = int(pixels.max()).bit_length() - 8
    return (pixels >> max(excess, 0)).astype(np.uint8)


def _is_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _read_dicom(content: bytes, **options: Any) -> Dataset:
    import pydicom

    if _DEFLATED in content:  # one of a terabyte would fill the memory before its header is known
        raise UserError("a deflated DICOM file, which is not supported; convert it with dcmconv +te")
    return pydicom.dcmread(io.BytesIO(content), **options)


def _decode_dicom(content: bytes) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.utils import pixel_array

    dataset = _read_dicom(content)
    if "PixelData" not in dataset:
        raise UserError("a DICOM file without an image")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise UserError(f"a DICOM file of {frames} frames, expected one")
    if dataset.BitsAllocated > 16:
        raise UserError(f"a DICOM file of {dataset.BitsAllocated} bits a pixel, expected at most 16")
    _check_decoder(dataset)

    photometric, samples = str(dataset.PhotometricInterpretation), dataset.SamplesPerPixel
    colour = samples == 3 and photometric.startswith(("RGB", "YBR"))
    if not colour and not (samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")):
        raise UserError(
            f"a DICOM file in {photometric} with {samples} samples a pixel, "
            "expected MONOCHROME1 or MONOCHROME2 with 1, RGB or YBR with 3"
        )
    pixels = pixel_array(dataset)  # YBR is converted to RGB
    if pixels.ndim != 2 + colour:  # pydicom reads surplus bytes as further frames
        raise UserError(f"a DICOM file with pixels for {len(pixels)} frames, expected one")
    if colour:
        return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)
    padding = _padding(pixels, dataset)
    image = _display(_stored_bits(pixels, dataset), dataset, padding)
    if photometric == "MONOCHROME1":
        image = 255 - image
    image[padding] = 0
    return image


def _check_decoder(dataset: Dataset) -> None:
    """Check that the decoder is installed, because the error of pydicom has ten lines.

    Raises:
        UserError: pydicom cannot decode this transfer syntax, or not as it is installed.
    """
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UserError(f"transfer syntax {syntax.name} is not supported") from None
    if not decoder.is_available:
        raise UserError(
            f"no decoder for transfer syntax {syntax.name}; "
            "`pip install python-gdcm`, or pylibjpeg with pylibjpeg-libjpeg and pylibjpeg-openjpeg"
        )


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


def _display(stored: npt.NDArray[Any], dataset: Dataset, padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Stored values in 8 bits, displayed as the header describes.

    First the modality LUT or rescale is applied, then the first VOI LUT, else the first window. Without VOI LUT and
    window, 8-bit values without modality LUT or rescale are not changed (the RSNA challenge), and all others are
    stretched from their minimum to their maximum.

    Each step depends only on the value of a pixel. So the steps are computed for the values between minimum and
    maximum, 65,536 at most, and the pixels are looked up in this table.

    Args:
        stored: integers of at most 16 bits (height, width).
        dataset: their header.
        padding: bool (height, width), pixels that do not count for minimum and maximum.

    Returns:
        uint8 (height, width), 0-255, not yet inverted for MONOCHROME1.

    Source:
        DICOM PS3.3, C.11.1 (modality LUT) and C.11.2 (VOI LUT).
    """
    first = int(stored.min())
    place = np.subtract(stored, first, dtype=np.int32)
    occurring = np.bincount(place[~padding], minlength=int(place.max()) + 1) > 0
    if padding.all():
        return np.zeros(stored.shape, np.uint8)
    # A header may have a slope of 1e300; infinite results are rejected below.
    with np.errstate(all="ignore"):
        values = _modality_values(first + np.arange(len(occurring), dtype=np.float64), dataset)
        is_plain = (
            dataset.BitsStored == 8 and not dataset.PixelRepresentation and not dataset.get("ModalityLUTSequence")
        )
        if dataset.get("VOILUTSequence"):
            entries, bits = _apply_lut(values, dataset.VOILUTSequence[0], dataset)
            share = entries / (2**bits - 1)
        elif _has(dataset, "WindowCenter") and _has(dataset, "WindowWidth"):
            share = _apply_window(values, dataset)
        elif is_plain and values[0] == first and values[-1] == first + len(values) - 1:  # no rescale, or by 1 and 0
            share = values / 255
        else:
            low, high = values[occurring].min(), values[occurring].max()
            share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    if not np.isfinite([values, share]).all():
        raise UserError("a DICOM file whose rescale or window is out of range")
    table = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    image: npt.NDArray[np.uint8] = np.take(table, place)
    return image


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


def _apply_window(values: npt.NDArray[np.float64], dataset: Dataset) -> npt.NDArray[np.float64]:
    """Values as shares of the first window, 0-1 inside it.

    Not pydicom's apply_windowing(): it scales to the range of the stored bits after rescale, which would have to be
    computed again to undo it.

    Source:
        DICOM PS3.3, C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).
    """
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    center, width = (np.ravel(dataset[name].value).astype(np.float64)[0] for name in ("WindowCenter", "WindowWidth"))
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise UserError(f"a DICOM file with a window of width {width:g}")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise UserError(f"a DICOM file with a window of function {function}, expected LINEAR, LINEAR_EXACT or SIGMOID")
    if width == 0:  # LINEAR of width 1 is a threshold
        return np.where(values > center, 1.0, 0.0)
    return np.asarray((values - center) / width + 0.5)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"claims {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}")


def _has(dataset: Dataset, keyword: str) -> bool:
    return dataset.get(keyword) not in (None, "")


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
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    first_filter: Any = warnings.filters[0] if warnings.filters else None
    if not first_filter or first_filter[3] != re.compile(_PARSERS):
        warnings.filterwarnings("ignore", module=_PARSERS)
