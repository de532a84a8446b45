"""Patients whose data were removed: `forgotten.json` lists them as hashes, so that no later `fetch` reads them again.

The file belongs into git. It contains no identifier: those of patients are hashed with a salt by a slow function, the
contents of their images with the same salt. Someone who has the file and guesses an identifier can check the guess.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pneumonia import UserError, workspace
from pneumonia.data import tables

FILE = "forgotten.json"

_COST = {"n": 2**10, "r": 8, "p": 1, "dklen": 16}  # 3 ms and 1 MB for each patient of a data set
_THREADS = 4


class Forgotten(NamedTuple):
    """What `forgotten.json` contains; empty texts and sets if there is none.

    Attributes:
        salt: hex digits.
        patients, images: hashes of patient identifiers, and of the SHA-256 of image files: the same film may come again
            under another name.
    """

    salt: str = ""
    patients: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()


NOBODY = Forgotten()


def read(root: Path) -> Forgotten:
    """The forgotten patients of a project.

    Args:
        root: `workspace.project_root()`: experiments in DVC's temporary folders, and those of older commits, have no
            such file.

    Raises:
        UserError: the file is damaged.
    """
    path = root / FILE
    if not path.is_file():
        return NOBODY
    try:
        content = tables.read_json(path)
        return Forgotten(content["salt"], frozenset(content["patients"]), frozenset(content["images"]))
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: without it, removed patients would be read again; git checkout {FILE} restores it"
        ) from error


def add(root: Path, patient: str, digests: Iterable[str]) -> None:
    """Add a patient to the file.

    Args:
        patient: identifier.
        digests: SHA-256 of the patient's image files.
    """
    before = read(root)
    salt = before.salt or secrets.token_hex(16)
    content = {
        "salt": salt,
        "patients": sorted(before.patients | {_patient_hash(salt, patient)}),
        "images": sorted(before.images | {_image_hash(salt, digest) for digest in digests}),
    }
    tables.write_json(content, root / FILE)


def contains(forgotten: Forgotten, patient: str) -> bool:
    """Whether this patient is one of them."""
    return bool(forgotten.patients) and _patient_hash(forgotten.salt, patient) in forgotten.patients


def rows(manifest: pd.DataFrame, forgotten: Forgotten) -> list[bool]:
    """For each row of a manifest, whether its patient or its image is forgotten."""
    if not forgotten.salt:
        return [False] * len(manifest)
    patients = sorted(set(manifest["patient_id"]))
    with ThreadPoolExecutor(_THREADS) as pool:
        are_forgotten = dict(zip(patients, pool.map(lambda one: contains(forgotten, one), patients), strict=True))
    return [
        are_forgotten[patient] or _image_hash(forgotten.salt, digest) in forgotten.images
        for patient, digest in zip(manifest["patient_id"], manifest["sha256"], strict=True)
    ]


def _patient_hash(salt: str, patient: str) -> str:
    return hashlib.scrypt(patient.encode("utf-8", "surrogatepass"), salt=bytes.fromhex(salt), **_COST).hex()


def _image_hash(salt: str, digest: str) -> str:
    return workspace.sha256_bytes(f"{salt} {digest}".encode())[:32]
