"""What the service takes and refuses: bytes, pixels, files, seconds and requests at once; and the refusal itself."""

from __future__ import annotations

from typing import NamedTuple

from pneumonia.images import limits


class Limits(NamedTuple):
    """Limits of the service.

    Attributes:
        file_bytes: of one file; an uncompressed DICOM of the largest detectors has about 40 MB.
        request_bytes: of the body of one request.
        held_bytes: of all bodies in memory at once.
        files: of one request.
        pixels: of one image, read from its header; the limit of the decoder.
        header_seconds: until a connection has sent the header of its next request.
        pause_seconds: between two parts of a body.
        body_seconds: for a whole body.
        answer_seconds: waiting and computing.
        map_seconds: the same for a saliency map; before the first one TensorFlow is loaded.
        linger_seconds: for which the rest of a refused body is thrown away, so that the client reads the refusal.
        waiting: requests that wait for a free worker; the next one is refused.
        connections: open at once.
    """

    file_bytes: int = 48 * 2**20
    request_bytes: int = 128 * 2**20
    held_bytes: int = 512 * 2**20
    files: int = 32
    pixels: int = limits.MAX_PIXELS
    header_seconds: float = 15
    pause_seconds: float = 10
    body_seconds: float = 60
    answer_seconds: float = 60
    map_seconds: float = 120
    linger_seconds: float = 15
    waiting: int = 64
    connections: int = 512


class RefusedError(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        message: one line for the client.
        retry: seconds after which the client may try again; 0 = there is no use.
    """

    def __init__(self, status: int, message: str, retry: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.retry = status, message, retry
