"""From a chest X-ray archive to a trustworthy, explained, versioned pneumonia classifier."""

import hashlib
from importlib.metadata import version
from pathlib import Path

__version__ = "0.2.0"


class UserError(Exception):
    """A problem that the user can fix: a stage prints it as one line and ends with exit status 1.

    The message says what happened, what was expected, and the remedy.
    """


def reason(error: BaseException) -> str:
    """Type and message of another library's error, in one line: some libraries raise messages of several lines.

    >>> reason(TimeoutError())
    'TimeoutError'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


_LIBRARIES = ("keras", "numpy", "opencv-python-headless", "pandas", "pillow", "pydicom", "scipy", "tensorflow", "zarr")


def code_digest() -> str:
    """SHA-256 of the source of this package and of the versions of the libraries that its results depend on.

    Results of a worker, or of an earlier interrupted run, are used only if the digest is the same.
    """
    digest = hashlib.sha256(" ".join(version(name) for name in _LIBRARIES).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
