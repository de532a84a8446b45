"""The pretrained weights of the chosen model, in a folder of the workflow: a dependency like any other."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumonia import UserError, reason, workspace
from pneumonia.data import download, tables
from pneumonia.models.backbones import Backbone, read

AUTO_SECONDS = 10.0
"""Time limit of a download for `weights: auto`, after which there are no weights."""


def fetch_weights(urls: Sequence[str], weights: str, folder: Path, *, cache: Path | None = None) -> Backbone:
    """Write the weights of a model's backbones, or a note that there are none, into `folder`.

    All or none: no setting stands for a model with one of its two backbones pretrained.

    Args:
        urls: published addresses of the ImageNet weights, one for each backbone; empty for a model without.
        weights: `auto` takes the ImageNet weights where they are cached or can be downloaded in `AUTO_SECONDS`, else
            none; `imagenet` insists; `none`; else a path, relative to the project's root: the file or, for a model with
            several backbones, a folder with a file for each, called as the published one (`NAME.h5`) or
            `NAME.weights.h5`.
        folder: replaced.
        cache: where Keras keeps downloads; None = its default.

    Raises:
        UserError: no such file, or `imagenet` where the weights cannot be downloaded.
    """
    name = "none"
    origins: tuple[Path, ...] = ()
    if weights not in ("auto", "imagenet", "none"):
        origins = _from_path(urls, weights)
        name = weights if origins else "none"
    elif urls and weights != "none":
        origins = _imagenet(urls, cache or Path.home() / ".keras" / "models", weights)
        name = "imagenet" if origins else "none"
    with workspace.written_whole(folder) as partial:
        partial.mkdir()
        note: dict[str, Any] = {"weights": name}
        for place, origin in enumerate(origins, start=1):
            stem = "backbone" if len(origins) == 1 else f"backbone-{place}"
            # Keras goes by the suffix: it reads the two formats differently.
            kept = partial / f"{stem}{'.weights' if origin.name.endswith('.weights.h5') else ''}.h5"
            shutil.copyfile(origin, kept)
            note.setdefault("files", []).append({"file": kept.name, "sha256": workspace.sha256_file(kept)})
        tables.write_json(note, partial / "backbone.json")
    return read(folder)


def _from_path(urls: Sequence[str], weights: str) -> tuple[Path, ...]:
    """The files of a user's path, in the order of `urls`."""
    path = workspace.project_root() / Path(weights).expanduser()
    if not path.exists() or (len(urls) == 1 and not path.is_file()):
        raise UserError(f"weights = {weights}: no such file ({path}); known words: auto, imagenet, none")
    if len(urls) < 2:
        return (path,) * len(urls)
    origins, missing = [], []
    for name in (url.rsplit("/", 1)[1] for url in urls):
        choices = (path / name, path / f"{name.removesuffix('.h5')}.weights.h5")
        existing = [choice for choice in choices if choice.is_file()]
        origins += existing[:1]
        missing += [] if existing else [" or ".join(choice.name for choice in choices)]
    if missing:
        raise UserError(
            f"weights = {weights}: the model has {len(urls)} backbones and takes a folder with a file for each; "
            f"{path} has no {'; no '.join(missing)}"
        )
    return tuple(origins)


def _imagenet(urls: Sequence[str], cache: Path, weights: str) -> tuple[Path, ...]:
    """The published files, from the cache or the network; none where `auto` cannot have them all in time."""
    deadline = time.monotonic() + AUTO_SECONDS
    origins = tuple(cache / url.rsplit("/", 1)[1] for url in urls)
    for url, cached in zip(urls, origins, strict=True):
        if cached.is_file():
            continue
        try:
            _download(url, cached, deadline if weights == "auto" else None)
        except (download.DownloadError, OSError) as error:
            why = error.reason if isinstance(error, download.DownloadError) else reason(error)
            path = "the path of a folder with all files" if len(urls) > 1 else "the path of a file"
            if weights == "imagenet":
                raise UserError(
                    f"weights = imagenet: {url}: {why}; put the file into {cache}, set weights to {path}, or to none"
                ) from error
            lacking = f" for its {len(urls)} backbones, which take them all or none" if len(urls) > 1 else ""
            print(
                f"WARNING: no ImageNet weights{lacking}: {why}. The model starts from random weights and will be "
                f"weaker.\n         With a network again: dvc repro -f -s backbone; or set weights to {path}."
            )
            return ()
    return origins


def _download(url: str, cached: Path, deadline: float | None) -> None:
    """Download into the cache: in one try that ends at the deadline, or in as many as `download` makes."""
    limit: dict[str, Any] = {} if deadline is None else {"seconds": deadline - time.monotonic(), "pauses": ()}
    cached.parent.mkdir(parents=True, exist_ok=True)
    # A folder for this process alone, and beside the cached file, where that gets its name in one step.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cached.parent) as resume:
        download.download_file(url, cached, resume=Path(resume), label="backbone", **limit)
