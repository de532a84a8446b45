"""From a chest X-ray archive to a trustworthy, explained, versioned pneumonia classifier."""

import hashlib
from importlib.metadata import version
from pathlib import Path

__version__ = "0.1.0"


class UserError(Exception):
    """What the user can put right: a stage prints it as one line and ends with exit status 1.

    The message says what arrived, what was expected, and the remedy.
    """


def reason(error: BaseException) -> str:
    """Kind and words of another library's error in one line, which the errors of some transports are not.

    >>> reason(TimeoutError())
    'TimeoutError'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


_DECIDING = ("keras", "numpy", "opencv-python-headless", "pandas", "pillow", "pydicom", "scipy", "tensorflow", "zarr")


def code_digest() -> str:
    """SHA-256 over the source of this package and the versions of the libraries that decide what it computes.

    What a worker, or an earlier run that was cut off, must have in common with this one.
    """
    digest = hashlib.sha256(" ".join(version(name) for name in _DECIDING).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
