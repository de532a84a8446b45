"""Bring the pretrained weights of the chosen model, so that their content is a dependency like any other."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from pneumonia import UserError, dataset

AUTO_SECONDS = 10.0
"""How long `weights: auto` tries to download before it goes on without."""


class Backbone(NamedTuple):
    """What `data/backbone/` holds.

    Attributes:
        name: `none`, `imagenet`, or the path of a user's file; stands in every report.
        path: weights file; None where there are none.
    """

    name: str
    path: Path | None


def bring(url: str, weights: str, folder: Path, *, cache: Path | None = None) -> Backbone:
    """Put the weights of a model's backbone, or a note that there are none, into `folder`.

    Args:
        url: published address of the model's ImageNet weights; empty for a model without a backbone.
        weights: `auto` takes the ImageNet weights where they are cached or one short try brings them, else none;
            `imagenet` insists; `none`; else the path of a file, relative to the project's root.
        folder: replaced.
        cache: where Keras keeps downloads; None = its default.

    Raises:
        UserError: no such file, or no way to the ImageNet weights that `imagenet` insists on.
    """
    name, origin = "none", None
    given = dataset.project_root() / Path(weights).expanduser()
    if weights not in ("auto", "imagenet", "none") and not given.is_file():
        raise UserError(f"weights = {weights}: no such file ({given}); known words: auto, imagenet, none")
    if url and weights in ("auto", "imagenet"):
        origin = _imagenet(url, cache or Path.home() / ".keras" / "models", weights)
        name = "imagenet" if origin else "none"
    elif url and weights != "none":
        name, origin = weights, given
    with dataset.written_whole(folder) as partial:
        partial.mkdir()
        note = {"weights": name}
        if origin:
            kept = partial / ("backbone.weights.h5" if origin.name.endswith(".weights.h5") else "backbone.h5")
            shutil.copyfile(origin, kept)
            note |= {"file": kept.name, "sha256": dataset.sha256_file(kept)}
        dataset.write_json(note, partial / "backbone.json")
    return read(folder)


def read(folder: Path) -> Backbone:
    """What `bring` put there."""
    note = dataset.read_json(folder / "backbone.json")
    return Backbone(note["weights"], folder / note["file"] if "file" in note else None)


def _imagenet(url: str, cache: Path, weights: str) -> Path | None:
    cached = cache / url.rsplit("/", 1)[1]
    if cached.is_file():
        return cached
    try:
        with dataset.written_whole(cached) as partial:
            _download(url, partial, AUTO_SECONDS if weights == "auto" else None)
    except (OSError, http.client.HTTPException) as error:
        if weights == "imagenet":
            raise UserError(
                f"weights = imagenet: {url} cannot be reached ({error}); put the file into {cache}, give its path as "
                "weights, or set weights: none"
            ) from error
        print(
            f"WARNING: no ImageNet weights ({error}): the model starts from random weights and will be weaker.\n"
            "         With a network again: dvc repro -f -s backbone; or set weights to the path of a file."
        )
        return None
    return cached


def _download(url: str, target: Path, seconds: float | None) -> None:
    deadline = time.monotonic() + (seconds or float("inf"))
    with urllib.request.urlopen(url, timeout=AUTO_SECONDS) as arriving, open(target, "wb") as file:
        # `read` would wait for a full block, past the deadline where the bytes only trickle in.
        while block := arriving.read1(2**16):
            file.write(block)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {seconds:g} s")
        expected = arriving.headers["Content-Length"]
        if expected and file.tell() < int(expected):
            raise OSError(f"cut off after {file.tell():,} of {int(expected):,} bytes")
