"""Finds the files that tables name, in the ways in which people and programs write their paths."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import PureWindowsPath

from pneumonia.data import columns
from pneumonia.files import Files


class Finder:
    """Finds the files that the paths of a table name.

    Args:
        files: of the place.
        folder: of the table among them, with `/` at its end; empty = the top.

    Attributes:
        elsewhere: the beginning of the paths of another computer; None if there are none.
    """

    def __init__(self, files: Files, folder: str = "") -> None:
        self.elsewhere: str | None = None
        self._folder = folder
        self._names = {name for name in files.names if name not in files.broken}
        self._place = files.place.removeprefix("file://").rstrip("/")
        similar: dict[str, set[str]] = {}
        for name in self._names:
            similar.setdefault(columns.key(name), set()).add(name)
        self._similar: dict[str, Sequence[str]] = {one: sorted(names) for one, names in similar.items()}

    def name(self, path: str) -> str | None:
        """The name of the file that a path means; None if there is none.

        A path may be relative to the folder of the table, or to the folder above it, or absolute. An absolute path of
        another computer means the file at its end, if all absolute paths of the table begin with the same folders. A
        file that exists is never replaced by another one.
        """
        path = path.strip()
        if self._folder and (name := self._one(self._folder + plain(path))):
            return name
        if path in self._names:
            return path
        if path.startswith(f"{self._place}/"):
            return self._one(posixpath.normpath(path.removeprefix(f"{self._place}/")))
        whole = plain(path)
        if name := self._one(whole):
            return name
        first, *parts = whole.split("/")
        if not (PureWindowsPath(whole).drive or whole.startswith("/")):
            return self._one("/".join(parts)) if first == self._place.rsplit("/", 1)[-1] else None
        exists = self.exists_elsewhere(path)
        for n_above in range(len(parts)):
            above, guess = "/".join([first, *parts[:n_above]]), self._one("/".join(parts[n_above:]))
            if guess and exists:  # the folder of the table may have several paths, or links to the file
                if os.path.samefile(f"{self._place}/{guess}", whole):
                    return guess
            elif guess and self.elsewhere in (None, above):
                self.elsewhere = above
                return guess
        return None

    def remedy(self) -> str:
        """What to do about a path without a file."""
        if self.elsewhere is None:
            return "correct the path"
        return (
            "correct the path; those of another computer must all begin with the same folders, here "
            f"{self.elsewhere or '/'}"
        )

    def exists_elsewhere(self, path: str) -> bool:
        """Whether an absolute path is that of a file on this computer."""
        return "://" not in self._place and os.path.isabs(plain(path)) and os.path.isfile(plain(path))

    def _one(self, name: str) -> str | None:
        if name in self._names:
            return name
        similar = self._similar.get(columns.key(name), [])
        return similar[0] if len(similar) == 1 else None


def plain(path: str) -> str:
    """A path with `/` between folders; `file:///x` is `/x`."""
    return posixpath.normpath(re.sub(r"^file:/+", "/", path.strip().replace("\\", "/")))
