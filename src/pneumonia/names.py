"""Names that others chose, made safe for a line on a terminal and for the name of a file.

The names of files, patients and subtypes come from archives and tables. In tables they stay as they are, because other
tables are joined by them.
"""

from __future__ import annotations

import hashlib
import re

_LENGTH = 100
"""Characters that a file keeps of a name; file systems allow 255 bytes, some of them encrypted ones 143."""


def printable(text: str) -> str:
    r"""A text in which a terminal finds no orders: signs that have no form are written as escape sequences.

    These are control characters, signs that change the direction of writing, and bytes that are not UTF-8.

    >>> printable("a\x1b[2Jb\u202egnp.exe\n")
    'a\\x1b[2Jb\\u202egnp.exe\\n'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def file_name(name: str, suffix: str) -> str:
    """The name of a file about something with a name of any length and any signs, such as an image.

    Two names give two files, also where upper and lower case are the same: the end is a digest of the name.

    >>> file_name("NORMAL/p1/a.jpeg", ".png")
    'NORMAL_p1_a_jpeg-59f60e902b29.png'
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "_", name)[:_LENGTH].strip("_")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}-{digest[:12]}{suffix}"
