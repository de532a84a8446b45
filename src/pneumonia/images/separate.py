"""Pixels by GDCM, in a process of its own: a damaged file ends that process, and not the program.

GDCM decodes what nothing else here can: JPEG-LS, lossless JPEG, JPEG of 12 bits. Its errors are exceptions of C++ that
its Python module does not catch.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing.connection
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import pneumonia
from pneumonia import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

SECONDS = 120
"""For one image. One of 100 million pixels takes a tenth of this."""

_ERROR = b"error "
_lock = threading.Lock()


class _Helper(NamedTuple):
    process: subprocess.Popen[bytes]
    connection: multiprocessing.connection.Connection


def pixel_array(dataset: Dataset) -> npt.NDArray[Any]:
    """The stored values of a DICOM file, as pydicom returns them with GDCM.

    The process starts with the first image, 0.5 s, and ends with this one. Each image has a fork of it, 2 ms.

    Raises:
        UserError: the file is damaged, or takes too long.
    """
    with _lock:
        helper = _start()
        try:
            helper.connection.send_bytes(pickle.dumps(dataset))
            if not helper.connection.poll(SECONDS):
                raise UserError(f"GDCM has not decoded it in {SECONDS} s")
            answer = helper.connection.recv_bytes()
        except BaseException as error:
            _start.cache_clear()
            _end(helper)
            if isinstance(error, (EOFError, OSError)):
                raise UserError("damaged: GDCM cannot decode it") from error
            raise
    if answer.startswith(_ERROR):
        raise RuntimeError(answer.removeprefix(_ERROR).decode())
    return np.asarray(np.load(io.BytesIO(answer), allow_pickle=False))


@lru_cache(maxsize=1)
def _start() -> _Helper:
    ours, theirs = multiprocessing.Pipe()
    package = str(Path(pneumonia.__file__).parents[1])
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumonia.images.separate", str(theirs.fileno())],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
                "OPENBLAS_NUM_THREADS": "1",  # a process with several threads cannot be forked safely
            },
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # a line for each damaged file
            start_new_session=True,  # Ctrl+C goes to all processes of a terminal; this one ends with its connection
        )
    helper = _Helper(process, ours)
    atexit.register(_end, helper)
    return helper


def _end(helper: _Helper) -> None:
    atexit.unregister(_end)
    helper.connection.close()
    helper.process.kill()
    helper.process.wait()


def main() -> None:
    """Decode data sets, each in a fork of this process, until the other end of the connection is closed."""
    from pydicom.pixels.decoders import gdcm  # noqa: F401  # once, and not in each fork
    from pydicom.pixels.utils import pixel_array as decode

    connection = multiprocessing.connection.Connection(int(sys.argv[1]))
    while True:
        try:
            content = connection.recv_bytes()
        except EOFError:
            return
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            connection.send_bytes(_answer(decode, content))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            connection.send_bytes(_ERROR + b"damaged: GDCM cannot decode it")


def _answer(decode: Callable[..., npt.NDArray[Any]], content: bytes) -> bytes:
    """The pixels of a pickled data set as a NumPy file, or `_ERROR` and the reason."""
    file = io.BytesIO()
    try:
        np.save(file, decode(pickle.loads(content), decoding_plugin="gdcm"), allow_pickle=False)
    except Exception as error:  # pydicom passes on errors of every kind
        return _ERROR + str(error).encode()
    return file.getvalue()


if __name__ == "__main__":
    main()
