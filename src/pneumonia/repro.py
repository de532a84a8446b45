"""Settings that run the workflow on images of the user, in the form of DVC's own `-S`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pneumonia import UserError, params

FIRST_RUN = "First run: DVC warns of each file that no stage has made yet. That is as it should be."
"""For a project without dvc.lock; `dvc exp run` tries to check out what is not there."""

NOTE = (
    "params.yaml keeps these settings: later runs use the same images. To go back: git checkout params.yaml, or set "
    "data and fetch.url there"
)


def own_images(place: str, settings: params.Params, root: Path) -> list[str]:
    """The settings for images at `place`, each as `dvc exp run -S` takes it.

    Args:
        place: folder, table or archive; a path, relative to the root, or a URL.
        settings: those of params.yaml.
        root: folder of the project.

    Raises:
        UserError: there is nothing at this path, the address has a secret, or DVC cannot set it.
    """
    if "://" not in place and not (root / os.path.expanduser(place)).exists():
        raise UserError(f"{place}: no such folder, table or archive")
    if "${" in place:
        raise UserError(f"{place}: DVC reads ${{ as a reference; rename the folder, or set fetch.url in params.yaml")
    fetch = settings.fetch.model_copy(update={"url": place, "sha256": None})
    changed = settings.model_copy(update={"data": "folder", "fetch": fetch})
    # Refuses a secret before it is in a file.
    params.check(changed.model_dump(mode="json", by_alias=True), "params.yaml")
    # The checksum is of another archive.
    return ["data=folder", f"fetch.url={_quoted(place)}", *(["fetch.sha256=null"] if settings.fetch.sha256 else [])]


def _quoted(text: str) -> str:
    r"""A text as Hydra reads it, whatever signs it has; a backslash is only special before a quote.

    >>> print(_quoted("it's here"), _quoted("C:\\films"))
    'it\'s here' 'C:\films'
    """
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
