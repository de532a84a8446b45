"""Send damaged files and damaged requests to a service of this machine: `python -m benchmarks.fuzz --seconds 600`.

Every answer must be an image or JSON with a known status and without a trace, within a time; the service must live and
its memory must not grow. It starts the service itself, and every loop ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from benchmarks.load import Service, service
from tests import predictors

STATUSES = {200, 400, 403, 404, 405, 413, 415, 422}
"""What a single client can be answered; 429, 500 and 503 would be failures here."""
SLOW_SECONDS = 20
MAX_SECONDS = 3600
_EXTREMES = [b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]


class Report(NamedTuple):
    """What the fuzz has shown: answers by status, problems in words, and MB of the service at tenths of the time."""

    statuses: Counter[int]
    problems: list[str]
    memory: list[float]


def seeds() -> list[bytes]:
    """Small whole files of each kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
    contents = []
    for kind, options in (("PNG", {}), ("JPEG", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("BMP", {})):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        contents.append(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(np.dstack([pixels] * 3)).save(file, "WEBP")
    contents.append(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 257).save(file, "PNG")
    contents.append(file.getvalue())
    return [*contents, _dicom(pixels)]


def _dicom(pixels: np.ndarray) -> bytes:
    dataset, file = pydicom.Dataset(), io.BytesIO()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.PatientName = 2000, 3000, "Doe^Jane"
    dataset.PixelData = (pixels.astype("<u2") * 16).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def mutated(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A file or a request with one to eight random changes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(data) + 1)
        end = min(len(data), place + draw.choice([1, 2, 4, 16, 200]))
        match draw.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place:end] = draw.randbytes(end - place)
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * draw.randint(1, 50)
            case 4:
                extreme = draw.choice(_EXTREMES)
                data[place : place + len(extreme)] = extreme
            case 5:
                other = draw.choice(others)
                begin = draw.randrange(len(other) + 1)
                data[place:end] = other[begin : begin + draw.choice([4, 60, 2000])]
            case _:
                del data[place:]
        data = data or bytearray(b"x")
    return bytes(data)


def fuzz(to: Service, *, seconds: float, seed: int = 0) -> Report:
    """Send damaged files, forms and requests for some time.

    Args:
        to: the service.
        seconds: at most `MAX_SECONDS`.
        seed: of the damages.
    """
    draw, files = random.Random(seed), seeds()
    report = Report(Counter(), [], [])
    seconds = min(seconds, MAX_SECONDS)
    begin, n_sent = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < seconds:
        if passed >= seconds / 10 * (len(report.memory) + 1):  # what is imported for the first files is no leak
            report.memory.append(to.memory())
        request, is_whole = _request(files, draw)
        start = time.monotonic()
        try:
            problem = _problem(_answer(to.port, request, is_whole), is_whole, report.statuses)
        except OSError as error:
            problem = type(error).__name__
        if time.monotonic() - start > SLOW_SECONDS:
            problem = problem or "slow"
        if problem:
            report.problems.append(f"{problem}: request {n_sent} of seed {seed}, {request[:200]!r}")
        n_sent += 1
    report.problems.extend([] if _lives(to.port) else ["the service does not live"])
    return report


def _request(files: Sequence[bytes], draw: random.Random) -> tuple[bytes, bool]:
    """A request, and whether its length is right."""
    content, kind = draw.choice(files), draw.random()
    content = mutated(content, files, draw) if kind < 0.8 else content
    path = draw.choice(["/v1/predict", "/v1/whole", "/v1/film", "/v1/predict?operating_point=target_sensitivity"])
    content_type = draw.choice(["image/png", "application/dicom", "application/octet-stream"])
    if draw.random() < 0.5:
        content_type = "multipart/form-data; boundary=b0"
        parts = [content, *draw.choices(files, k=draw.choice([0, 0, 1, 3]))]
        head = b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        content = b"\r\n".join([*(head + part for part in parts), b"--b0--\r\n"])
        content = mutated(content, files, draw) if 0.8 < kind < 0.9 else content
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    return (mutated(request, [*files, request], draw), False) if kind > 0.9 else (request, True)


def _answer(port: int, request: bytes, is_whole: bool) -> bytes:
    """All that the service sends, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=3 * SLOW_SECONDS) as client:
        client.sendall(request)
        if not is_whole:
            client.shutdown(socket.SHUT_WR)  # else the service would wait for the rest
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _problem(answer: bytes, is_whole: bool, statuses: Counter[int]) -> str:
    """What is wrong with an answer; no answer is right only where the request has not ended."""
    if not answer:
        statuses[0] += 1
        return "no answer to a whole request" if is_whole else ""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    statuses[status] += 1
    if status not in STATUSES:
        return f"status {status}: {body[:200]!r}"
    if any(secret in answer for secret in (b"Traceback", b'File "', b"Doe")):
        return f"it tells too much: {body[:300]!r}"
    if b"image/" not in head and b"text/" not in head:  # /v1/whole answers in JPEG, the others in PNG
        try:
            values = json.loads(body)
        except ValueError:
            return "" if b"HTTP/1.1 " in body else f"not JSON: {body[:200]!r}"  # a second request was in the first
        if status != 200 and (list(values) != ["error"] or "\n" in values["error"]):
            return f"not one line: {body[:200]!r}"
    return ""


def _lives(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOW_SECONDS)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service(str(predictors.write(Path(folder) / "predictor"))) as one:
        report = fuzz(one, seconds=options.seconds, seed=options.seed)
    print(f"fuzz: {sum(report.statuses.values()):,} requests, statuses {dict(report.statuses)}, 0: no answer")
    print(f"fuzz: memory {[round(one) for one in report.memory]} MB; problems: {len(report.problems)}")
    for problem in report.problems[:20]:
        print(f"fuzz:   {problem}")
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
