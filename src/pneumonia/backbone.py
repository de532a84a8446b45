"""Bring the pretrained weights of the chosen model, so that their content is a dependency like any other."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pneumonia import UserError, dataset

AUTO_SECONDS = 10.0
"""How long `weights: auto` tries to download before it goes on without."""


class Backbone(NamedTuple):
    """What `data/backbone/` holds.

    Attributes:
        name: `none`, `imagenet`, or the path of a user's file or folder; stands in every report.
        paths: weights files, one for each backbone of the model; none where there are none.
    """

    name: str
    paths: tuple[Path, ...] = ()


def bring(urls: Sequence[str], weights: str, folder: Path, *, cache: Path | None = None) -> Backbone:
    """Put the weights of a model's backbones, or a note that there are none, into `folder`.

    All or none: a model with one of its two backbones pretrained would be neither what was asked for nor what is
    reported.

    Args:
        urls: published addresses of the ImageNet weights, one for each backbone; empty for a model without.
        weights: `auto` takes the ImageNet weights where they are cached or one short try brings them, else none;
            `imagenet` insists; `none`; else a path, relative to the project's root: the file or, for a model with
            several backbones, a folder with a file for each, called as the published one (`NAME.h5`) or
            `NAME.weights.h5`.
        folder: replaced.
        cache: where Keras keeps downloads; None = its default.

    Raises:
        UserError: no such file, or no way to the ImageNet weights that `imagenet` insists on.
    """
    name = "none"
    origins: tuple[Path, ...] = ()
    if weights not in ("auto", "imagenet", "none"):
        origins = _given(urls, weights)
        name = weights if origins else "none"
    elif urls and weights != "none":
        origins = _imagenet(urls, cache or Path.home() / ".keras" / "models", weights)
        name = "imagenet" if origins else "none"
    with dataset.written_whole(folder) as partial:
        partial.mkdir()
        note: dict[str, Any] = {"weights": name}
        for place, origin in enumerate(origins, start=1):
            stem = "backbone" if len(origins) == 1 else f"backbone-{place}"
            # Keras goes by the suffix: it reads the two formats differently.
            kept = partial / f"{stem}{'.weights' if origin.name.endswith('.weights.h5') else ''}.h5"
            shutil.copyfile(origin, kept)
            note.setdefault("files", []).append({"file": kept.name, "sha256": dataset.sha256_file(kept)})
        dataset.write_json(note, partial / "backbone.json")
    return read(folder)


def read(folder: Path) -> Backbone:
    """What `bring` put there."""
    note = dataset.read_json(folder / "backbone.json")
    return Backbone(note["weights"], tuple(folder / one["file"] for one in note.get("files", ())))


def _given(urls: Sequence[str], weights: str) -> tuple[Path, ...]:
    """The files of a user's path, in the order of `urls`."""
    given = dataset.project_root() / Path(weights).expanduser()
    if not given.exists() or (len(urls) == 1 and not given.is_file()):
        raise UserError(f"weights = {weights}: no such file ({given}); known words: auto, imagenet, none")
    if len(urls) < 2:
        return (given,) * len(urls)
    origins, missing = [], []
    for name in (url.rsplit("/", 1)[1] for url in urls):
        choices = (given / name, given / f"{name.removesuffix('.h5')}.weights.h5")
        found = [path for path in choices if path.is_file()]
        origins += found[:1]
        missing += [] if found else [" or ".join(path.name for path in choices)]
    if missing:
        raise UserError(
            f"weights = {weights}: the model has {len(urls)} backbones and takes a folder with a file for each; "
            f"{given} has no {'; no '.join(missing)}"
        )
    return tuple(origins)


def _imagenet(urls: Sequence[str], cache: Path, weights: str) -> tuple[Path, ...]:
    """The published files, from the cache or the network; none where `auto` cannot have them all in time."""
    deadline = time.monotonic() + (AUTO_SECONDS if weights == "auto" else float("inf"))
    origins = tuple(cache / url.rsplit("/", 1)[1] for url in urls)
    for url, cached in zip(urls, origins, strict=True):
        if cached.is_file():
            continue
        try:
            with dataset.written_whole(cached) as partial:
                _download(url, partial, deadline)
        except (OSError, http.client.HTTPException) as error:
            path = "the path of a folder with all files" if len(urls) > 1 else "the path of a file"
            if weights == "imagenet":
                raise UserError(
                    f"weights = imagenet: {url} cannot be reached ({error}); put the file into {cache}, set weights to "
                    f"{path}, or to none"
                ) from error
            lacking = f" for its {len(urls)} backbones, which take them all or none" if len(urls) > 1 else ""
            print(
                f"WARNING: no ImageNet weights{lacking} ({error}): the model starts from random weights and will be "
                f"weaker.\n         With a network again: dvc repro -f -s backbone; or set weights to {path}."
            )
            return ()
    return origins


def _download(url: str, target: Path, deadline: float) -> None:
    late = TimeoutError(f"not complete after {AUTO_SECONDS:g} s")
    left = deadline - time.monotonic()
    if left <= 0:
        raise late
    with urllib.request.urlopen(url, timeout=min(AUTO_SECONDS, left)) as arriving, open(target, "wb") as file:
        # `read` would wait for a full block, past the deadline where the bytes only trickle in.
        while block := arriving.read1(2**16):
            file.write(block)
            if time.monotonic() > deadline:
                raise late
        expected = arriving.headers["Content-Length"]
        if expected and file.tell() < int(expected):
            raise OSError(f"cut off after {file.tell():,} of {int(expected):,} bytes")
