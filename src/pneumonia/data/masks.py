"""Human lung masks of a data set: found by the names of the images, checked, and kept as one zip beside them."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia import UserError, files, workspace
from pneumonia.data.contents import is_junk
from pneumonia.images import decode
from pneumonia.images.formats import is_named_as_image
from pneumonia.names import file_name

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of the members: the same masks give the same bytes."""


def store(place: files.Files, uris: Mapping[str, str], target: Path) -> dict[str, str]:
    """Write the masks of these images to a new zip archive.

    A mask has the name of its image, with any suffix. If several masks have this name, that whose folders agree is
    taken; if that does not decide, none. In the same way a mask is given to one image at most. Masks of other images
    are not copied. A mask without lungs counts as missing.

    Args:
        place: the pictures of the masks.
        uris: image id -> uri of the image.
        target: of the archive.

    Returns:
        Image id -> uri of its mask, only for images with a mask.

    Raises:
        UserError: no mask has the name of an image, or a picture has more than two gray levels.
    """
    names = match([name for name in place.names if is_named_as_image(name) and not is_junk(name)], uris)
    if not names:
        example = PurePosixPath(_member(next(iter(uris.values()), ""))).name
        raise UserError(
            f"fetch.lungs = {place.place}: none of {len(place.names):,} files has the name of an image, such as "
            f"{PurePosixPath(example).stem}.png; name each mask like its image, and its folder too where several "
            "images have one name"
        )
    members: dict[str, str] = {}
    with workspace.written_whole(target) as unfinished:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            for image_id, name in sorted(names.items()):
                mask = _binary(decode.decode(place.read(name)), f"{place.place}: {name}")
                if mask.any():
                    members[image_id] = file_name(image_id, ".png")
                    content = cv2.imencode(".png", mask)[1].tobytes()
                    archive.writestr(zipfile.ZipInfo(members[image_id], _DATE), content)
        with files.in_archive(unfinished, stored=target) as kept:
            return {image_id: kept.uri(member) for image_id, member in members.items()}


def match(masks: Sequence[str], uris: Mapping[str, str]) -> dict[str, str]:
    """The mask of each image that has one, by name and folders. A mask is for one image only, that with most folders.

    >>> match(["lungs/test/a.png", "lungs/train/a.png", "b.png"], {"1": "zip://x/train/a.jpeg::data.zip", "2": "b.dcm"})
    {'1': 'lungs/train/a.png', '2': 'b.png'}
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in masks:
        by_stem[PurePosixPath(name).stem].append(name)
    images_of: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for image_id, uri in uris.items():
        image = PurePosixPath(_member(uri))
        ranked = [(_common_folders(image, PurePosixPath(name)), name) for name in by_stem.get(image.stem, ())]
        if name := _only_best(ranked):
            images_of[name].append((max(ranked)[0], image_id))
    chosen = [(_only_best(images), name) for name, images in images_of.items()]
    return {image_id: name for image_id, name in chosen if image_id}


def _only_best(ranked: Sequence[tuple[int, str]]) -> str:
    """The name with the highest number; empty if there is none, or several."""
    highest = max(ranked, default=(0, ""))[0]
    best = [name for number, name in ranked if number == highest]
    return best[0] if len(best) == 1 else ""


def _member(uri: str) -> str:
    """The path of an image in its archive or folder."""
    return uri.removeprefix("zip://").partition("::")[0]


def _common_folders(image: PurePosixPath, mask: PurePosixPath) -> int:
    """Number of folders that agree, from the file upwards."""
    pairs = zip(reversed(image.parts[:-1]), reversed(mask.parts[:-1]), strict=False)
    agree = [one == other for one, other in pairs]
    return agree.index(False) if False in agree else len(agree)


def _binary(pixels: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """A mask with the values 0 and 255; a picture in one gray level has no lungs."""
    levels = np.unique(pixels)
    if len(levels) > 2:
        raise UserError(
            f"fetch.lungs: {name} has {len(levels)} gray levels; a mask has two, of which the brighter one is lung: "
            "save masks as PNG, without smoothing"
        )
    return np.where(pixels == levels[-1], np.uint8(255), np.uint8(0)) if len(levels) == 2 else np.zeros_like(pixels)
