"""Millions of damaged image files: each gives gray pixels or one `UserError`, in time and within the memory.

Files of every format are made here and changed at random. A child process decodes them, because a fault of a C library
ends the process. The number of an input gives its bytes. An input that fails is kept in `seeds/`; all files there are
tried at each run, and changed like the others.

`FUZZ_SECONDS` is the time for it, 10 minutes by default; `FUZZ_FIRST` the number of the first input, 0 by default.
"""

import hashlib
import json
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from pneumonia import UserError
from pneumonia.images import decode
from tests.images.test_decode import DEEP, EXIF, GRADIENT, dicom, encoded, lookup_table, png, tiff

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
CPU_SECONDS_EACH = 5
MEMORY_BYTES = 6 * 2**30
ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).parent / "seeds"

pytestmark = pytest.mark.fault(kind="fuzzing", where="decoder")

OF_PYDICOM = ("SC_rgb_rle_16bit", "SC_rgb_jpeg_dcmtk", "nested_priv_SQ", "UN_sequence", "badVR")
"""Files that come with pydicom, with headers of real devices."""
BY_GDCM = (
    *("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "MR_small_jpeg_ls_lossless", "SC_rgb_jls_lossy_line"),
    *("SC_rgb_jpeg_gdcm", "MR_small_jp2klossless", "693_J2KI"),
)
"""The same, in compressions that GDCM decodes, at least where the file is damaged."""
SHARE_BY_GDCM = 0.02
"""Of the inputs: each takes as long as a hundred others."""
TOKENS = (
    *(bytes([0xFF, marker]) for marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD)),
    *(bytes([0xFF, marker]) for marker in (0xE1, 0xF7, 0x4F, 0x51, 0x52, 0x5C, 0x90)),
    *(b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\0", b"Exif\0\0II*\0"),
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IEND"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"\x42\1\3\0", b"\x03\1\3\0\1\0\0\0\x07\0", b"\x12\1\3\0", b"BM", b"DICM"),
    *(b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"),
    *(b"SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"\xe0\x7f\x10\0"),
    *(b"\x28\0\x10\0US\2\0", b"\x28\0\x50\x10DS\2\0", b"\x28\0\x10\x30", b"OW\0\0", b"OB\0\0", b"UN\0\0"),
    *(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2", b"1e300\\-1e300"),
    *(b"MONOCHROME1 ", b"YBR_FULL_422", b"PALETTE COLOR "),
)
NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 4095, 32_767, 32_768, 65_534, 65_535),
    *(2**24, 2**31 - 1, 2**31, 2**32 - 1),
)


def compressed(syntax: Any, frame: bytes, **header: Any) -> bytes:
    return dicom(GRADIENT, syntax=syntax, PixelData=encapsulate([frame]), **header)


def of_pydicom(name: str) -> bytes:
    return Path(str(get_testdata_file(f"{name}.dcm", download=False))).read_bytes()


def whole_files() -> dict[str, list[bytes]]:
    """Small whole files of every kind that the decoder reads."""
    film, colour, small = Image.fromarray(GRADIENT), Image.fromarray(np.dstack([GRADIENT] * 3)), GRADIENT[:16, :24]
    deep_colour = np.dstack([DEEP, DEEP[::-1], DEEP])
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + bytes([255 - 59, 200]) * 40
    windows = {"WindowCenter": [3, 50], "WindowWidth": [9, 99], "RescaleSlope": 1, "RescaleIntercept": -5}
    table, colours = lookup_table([0, 9, 99], first=3, bits=12), {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    bitmap = struct.pack("<LHHLLllHHLLllLL", 1090, 0, 0, 1078, 40, 6, 2, 1, 8, 1, 12, 0, 0, 256, 0)
    return {
        "jpeg": [
            encoded(film, "JPEG", exif=EXIF),
            encoded(film, "JPEG", progressive=True),
            encoded(film, "JPEG", restart_marker_blocks=2),
            encoded(colour, "JPEG"),
            encoded(colour, "JPEG", progressive=True, subsampling=0),
            encoded(film.convert("CMYK"), "JPEG"),
        ],
        "png": [
            png(GRADIENT, exif=EXIF),
            png(DEEP),
            encoded(film.convert("P"), "PNG", transparency=bytes(9)),
            encoded(film.convert("1"), "PNG"),
            encoded(film.convert("LA"), "PNG", dpi=(72, 72), icc_profile=b"profile" * 9),
            cv2.imencode(".png", deep_colour)[1].tobytes(),
        ],
        "tiff": [
            tiff(GRADIENT, tag_262=0),
            tiff(DEEP, order=">"),
            tiff(deep_colour),
            encoded(film, "TIFF", compression="tiff_lzw", exif=EXIF),
            encoded(film, "TIFF", compression="tiff_adobe_deflate"),
            encoded(film, "TIFF", compression="packbits"),
            encoded(colour, "TIFF", compression="jpeg"),
            encoded(film.convert("1"), "TIFF", compression="group4"),
            encoded(film, "TIFF", compression="zstd"),
            encoded(film, "TIFF", big_tiff=True),
        ],
        "bmp": [
            encoded(film, "BMP"),
            encoded(colour, "BMP"),
            encoded(film.convert("1"), "BMP"),
            b"BM" + bitmap + palette + b"\3\7\0\3\1\2\3\0\0\0\6\x09\0\1",
        ],
        "webp": [
            encoded(film, "WebP", exif=EXIF),
            encoded(film, "WebP", lossless=True),
            encoded(colour.convert("RGBA"), "WebP", lossless=True, icc_profile=b"profile" * 9),
        ],
        "dicom": [
            dicom(small),
            dicom(DEEP[:16, :24], bits=13, VOILUTSequence=table, PatientID="7", **windows),
            dicom(DEEP[:16, :24], ModalityLUTSequence=table, PixelPaddingValue=77),
            dicom(DEEP[:16, :24].astype(np.int16), syntax=ImplicitVRLittleEndian, PatientID="7", **windows),
            dicom(DEEP[:16, :24], syntax=ExplicitVRBigEndian, **windows),
            dicom(np.dstack([small] * 3), PhotometricInterpretation="YBR_FULL", **colours),
            compressed(JPEGBaseline8Bit, encoded(film, "JPEG")),
            compressed(RLELossless, runs),
            *map(of_pydicom, OF_PYDICOM),
        ],
        "dicom by GDCM": [
            compressed(JPEG2000Lossless, encoded(film, "JPEG2000", no_jp2=True)),
            *map(of_pydicom, BY_GDCM),
        ],
    }  # fmt: skip


def kept_files() -> list[Path]:
    return sorted(path for path in SEEDS.iterdir() if path.suffix == ".bin")


def corpus() -> list[list[bytes]]:
    """The files of each kind; last those that GDCM decodes, with those that once failed."""
    *kinds, by_gdcm = whole_files().values()
    return [*kinds, by_gdcm + [path.read_bytes() for path in kept_files()]]


def damaged(number: int, files: list[list[bytes]]) -> bytes:
    """The input of this number."""
    chance = random.Random(number)
    kind = files[-1] if chance.random() < SHARE_BY_GDCM else chance.choice(files[:-1])
    content = bytearray(chance.choice(kind))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8, 20))):
        chance.choice(CHANGES)(content, chance, kind)
        if not content:
            break
    if content.startswith(b"\x89PNG") and chance.random() < 0.8:
        content = with_checksums(content)
    return bytes(content)


def place_in(content: bytearray, chance: random.Random) -> int:
    """Half of the places are among the first 512 bytes, where headers are."""
    return chance.randrange(min(len(content), 512) if chance.random() < 0.5 else len(content))


def flip(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    content[place_in(content, chance)] ^= 1 << chance.randrange(8)


def set_byte(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    content[place_in(content, chance)] = chance.randrange(256)


def set_number(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    place, width = place_in(content, chance), chance.choice((2, 2, 4, 4, 8))
    number = chance.choice(NUMBERS) & (2 ** (8 * width) - 1)
    content[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))


def add_to_number(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    place, width, order = place_in(content, chance), chance.choice((1, 2, 4)), chance.choice(("little", "big"))
    number = int.from_bytes(content[place : place + width], order) + chance.choice((-8, -2, -1, 1, 2, 8, 64))
    content[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, order)


def write_token(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    token, place = chance.choice(TOKENS), place_in(content, chance)
    content[place : place + len(token) * chance.randrange(2)] = token


def cut(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    del content[place_in(content, chance) :]


def remove(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    place = place_in(content, chance)
    del content[place : place + chance.choice((1, 2, 4, 8, 100))]


def repeat(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    place, length = place_in(content, chance), chance.choice((1, 2, 4, 8, 12, 20, 64, 300))
    content[place:place] = content[place : place + length] * chance.choice((1, 1, 2, 10, 500))
    del content[65_536:]


def insert(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    place = place_in(content, chance)
    content[place:place] = chance.choice((bytes, chance.randbytes))(chance.choice((1, 2, 4, 64, 1000)))


def splice(content: bytearray, chance: random.Random, kind: list[bytes]) -> None:
    other = chance.choice(kind)
    start = chance.randrange(len(other))
    content[place_in(content, chance) :] = other[start:]


def move(content: bytearray, chance: random.Random, _kind: list[bytes]) -> None:
    source, target, length = place_in(content, chance), place_in(content, chance), chance.choice((2, 4, 8, 12, 64))
    content[target : target + length] = content[source : source + length]


CHANGES = (
    *(flip, flip, flip, set_byte, set_number, set_number, add_to_number, add_to_number, write_token, write_token),
    *(cut, remove, repeat, insert, splice, move),
)


def with_checksums(content: bytearray) -> bytearray:
    """A PNG whose chunks have right checksums, so that what is in them is read."""
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return content


def problem(content: bytes) -> str:
    """What is wrong with the answer for a file; empty if nothing is."""
    try:
        said = decode.header(content)
        if not all(isinstance(text, str) for text in said.values()):
            return f"header {said}"
        pixels = decode.decode(content)
        decode.mode(content)
    except UserError as refusal:
        return "" if str(refusal) and "\n" not in str(refusal) else f"message {str(refusal)!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    right = pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.size
    return "" if right else f"pixels {pixels.dtype} {pixels.shape}"


def search(first: int, seconds: float, counter: Path) -> None:
    """Decode inputs from this number on; the number of the present one is in a file, for the parent process."""
    limit_process()
    files, end = corpus(), time.monotonic() + seconds
    with open(counter, "r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
        number = first
        while time.monotonic() < end:
            struct.pack_into("<Q", shared, 0, number)
            try_one(str(number), damaged(number, files))
            number += 1


def try_kept() -> None:
    """Decode the files that once failed."""
    limit_process()
    for path in kept_files():
        print(path.name, flush=True)
        try_one(path.name, path.read_bytes())


def limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # GDCM writes a line for each damaged file


def try_one(name: str, content: bytes) -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS_EACH)  # its signal ends the process, also inside a library
    if wrong := problem(content):
        print(json.dumps([name, wrong]), flush=True)


def child(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.test_fuzz", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds + 120,
        check=False,
    )


def keep(content: bytes) -> Path:
    path = SEEDS / f"{hashlib.sha256(content).hexdigest()[:12]}.bin"
    path.write_bytes(content)
    return path


@pytest.mark.slow
@pytest.mark.fault(
    injected="image files of every format, damaged at random, for 10 minutes within 6 GB",
    before="as now, in 276,197 files",
    now="pixels or one line for each; no crash, and none takes 5 s",
)
def test_a_damaged_image_file_gives_pixels_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, counter, failures = corpus(), tmp_path / "counter", {}
    counter.write_bytes(bytes(8))
    first, end = FIRST, time.monotonic() + SECONDS
    while (left := end - time.monotonic()) > 0 and len(failures) < 20:
        done = child(str(first), str(left), str(counter), seconds=left)
        number = int.from_bytes(counter.read_bytes(), "little")
        failures |= {int(name): wrong for name, wrong in map(json.loads, done.stdout.splitlines())}
        if done.returncode:
            failures[number] = f"ended with {done.returncode}"
        first = number + 1
    with capsys.disabled():
        print(f"\n{first - FIRST:,} damaged files in {SECONDS:.0f} s, {len(failures)} failures")
    kept = [f"{keep(damaged(number, files)).name} (input {number}): {wrong}" for number, wrong in failures.items()]
    assert not kept, "\n".join(kept)


@pytest.mark.fault(
    injected="the damaged files that once failed", before="each failed once", now="pixels or one line for each"
)
def test_files_that_once_failed_give_pixels_or_one_line() -> None:
    done = child(seconds=60)
    names = [path.name for path in kept_files()]
    assert (done.returncode, done.stdout.splitlines()) == (0, names)


@pytest.mark.fault(injected="the damaged files, in two runs", before="as now", now="the same files")
def test_inputs_are_the_same_in_every_run() -> None:
    files = corpus()
    digests = [hashlib.sha256(b"".join(damaged(number, files) for number in range(200))).hexdigest() for _ in range(2)]
    assert digests[0] == digests[1]


if __name__ == "__main__":
    if sys.argv[1:]:
        search(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
    else:
        try_kept()
