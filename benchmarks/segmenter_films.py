"""What the lung segmenter learns from: films under random changes, with their masks, and pictures without lungs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.data import kermany
from pneumonia.images.lungs import SIDE

Gray = npt.NDArray[np.uint8]
Pair = tuple[Gray, npt.NDArray[np.float32]]

STORED = 120
"""Pixels, side of the squashed films in memory: some more than the network sees, for enlargements."""

NEGATIVE = 0.08
"""Share of the pictures without lungs."""

ONLY_MOVED = 0.4
"""Share of the films whose gray levels stay as they are."""


class Film(NamedTuple):
    """A film of the Kermany set with a human mask: `member` of both archives, without its ending."""

    member: str
    patient_id: str
    subtype: str

    @property
    def is_test(self) -> bool:
        return "/test/" in self.member


def films(archive: Path, masks: Path) -> list[Film]:
    """The films that have a mask, in the order of their names."""
    with zipfile.ZipFile(archive) as images, zipfile.ZipFile(masks) as outlines:
        members = {str(PurePosixPath(name).with_suffix("")) for name in images.namelist()}
        members &= {str(PurePosixPath(name).with_suffix("")) for name in outlines.namelist()}
    named = [(member, kermany.parse_name(member)) for member in sorted(members)]
    return [Film(member, name.patient_id, name.subtype) for member, name in named if name]


def read(archive: Path, masks: Path, chosen: list[Film]) -> Iterator[tuple[Gray, Gray]]:
    """Each film and its mask, uint8 (height, width), 0-255."""
    with zipfile.ZipFile(archive) as images, zipfile.ZipFile(masks) as outlines:
        for film in chosen:
            yield _decode(images.read(f"{film.member}.jpeg")), _decode(outlines.read(f"{film.member}.png"))


def squashed(image: Gray, side: int) -> Gray:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def batches(
    films: Gray, masks: Gray, *, size: int, seed: int, gentle: float
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Batches of one epoch: every film once, under random changes, and pictures without lungs between them.

    Args:
        films, masks: uint8 (n, STORED, STORED).
        size: of a batch.
        gentle: share of the films that are moved a little and keep their gray levels.
        seed: the same seed gives the same batches.

    Yields:
        float32 (size, SIDE, SIDE, 1) each: gray levels 0-255, equalised; share of lung, 0-1.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(films))
    n_films = round(size * (1 - NEGATIVE))
    for start in range(0, len(order) - n_films + 1, n_films):
        pairs = [changed(films[row], masks[row], rng, gentle) for row in order[start : start + n_films]]
        pairs += [(without_lungs(rng), np.zeros((SIDE, SIDE), np.float32)) for _ in range(size - n_films)]
        images = [cv2.equalizeHist(image) for image, _ in pairs]
        yield np.stack(images)[..., None].astype(np.float32), np.stack([mask for _, mask in pairs])[..., None]


def changed(film: Gray, mask: Gray, rng: np.random.Generator, gentle: float) -> Pair:
    """A film as another device, projection, child or archive could show it, and its mask: (SIDE, SIDE)."""
    if gentle and rng.random() < gentle:
        image, outline = _moved(film, mask, rng, 0.3)
        return _rounded(image), outline
    image, outline = _moved(film, mask, rng)
    if rng.random() < ONLY_MOVED:
        return _rounded(image), outline
    if rng.random() < 0.25:  # dense lungs: a soft bright cloud
        image += _cloud(rng, rng.uniform(0.05, 0.25)) * rng.uniform(30, 130)
    if rng.random() < 0.4:  # uneven exposure
        image *= 1 + rng.uniform(0.1, 0.5) * (_smooth(rng, 3) - 0.5)
    gray = _with_objects(_rounded(image), rng)
    return _rounded(_exposed(gray.astype(np.float32), rng)), outline


def _moved(
    film: Gray, mask: Gray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Zoomed, stretched, turned, mirrored and shifted, with one of several surroundings."""
    zoom = np.exp(strength * rng.triangular(np.log(0.6), 0, np.log(1.25)))
    ratio = np.exp(strength * rng.uniform(-0.15, 0.15))
    angle = strength * np.deg2rad(np.clip(rng.normal(0, 8), -20, 20))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([zoom * ratio * (1 if rng.random() < 0.5 else -1), zoom / ratio]) * (SIDE / STORED)
    middle = (SIDE - 1) / 2 + strength * rng.uniform(-0.12, 0.12, 2) * SIDE
    offset = middle - matrix @ np.full(2, (STORED - 1) / 2)
    affine = np.column_stack([matrix, offset])
    border = cv2.BORDER_REPLICATE if rng.random() < 0.35 else cv2.BORDER_CONSTANT
    gray = 0 if rng.random() < 0.7 else int(rng.integers(256))
    image = cv2.warpAffine(film, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=gray)
    outline = cv2.warpAffine(mask, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return image.astype(np.float32), outline.astype(np.float32) / 255


def _with_objects(image: Gray, rng: np.random.Generator) -> Gray:
    """Letters, leads and plates."""
    for _ in range(rng.integers(0, 3)):
        x, y = (int(value) for value in rng.integers(0, SIDE, 2))
        cv2.putText(image, "RLAP"[rng.integers(4)], (x, y), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.3, 0.8), 255, 1)
    if rng.random() < 0.25:
        points = rng.integers(0, SIDE, (int(rng.integers(2, 6)), 1, 2)).astype(np.int32)
        cv2.polylines(image, [points], False, int(rng.integers(150, 256)), 1, cv2.LINE_AA)
    if rng.random() < 0.1:
        x, y, width, height = (int(value) for value in rng.integers((0, 0, 6, 6), (SIDE, SIDE, 40, 40)))
        cv2.rectangle(image, (x, y), (x + width, y + height), int(rng.integers(256)), -1)
    return image


def _exposed(image: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Gamma, contrast that may clip, blur, noise, and the other sign."""
    image = 255 * (np.clip(image, 0, 255) / 255) ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.5:
        image = np.clip(image.mean() + np.exp(rng.uniform(-0.9, 0.9)) * (image - image.mean()), 0, 255)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(1, 14), image.shape).astype(np.float32)
    return 255 - image if rng.random() < 0.12 else image


def without_lungs(rng: np.random.Generator) -> Gray:
    """A picture without lungs: blank, noise, a page, or shapes as in a photograph; uint8 (SIDE, SIDE)."""
    kinds: tuple[Callable[[np.random.Generator], npt.NDArray[np.float32]], ...] = (_blank, _noise, _page, _scene)
    kind = kinds[rng.choice(len(kinds), p=(0.15, 0.2, 0.2, 0.45))]
    return _rounded(_exposed(kind(rng), rng))


def _blank(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    slope = rng.normal(0, 20, 2)
    grid = np.linspace(-1, 1, SIDE, dtype=np.float32)
    level = rng.uniform(0, 255) + slope[0] * grid[:, None] + slope[1] * grid[None, :]
    return (level + rng.normal(0, rng.uniform(0, 3), (SIDE, SIDE))).astype(np.float32)


def _noise(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return 255 * _smooth(rng, int(rng.integers(2, SIDE + 1)))


def _page(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Lines of short strokes in paragraphs, dark on light; sometimes a frame, a stamp or a picture."""
    page = np.full((SIDE, SIDE), rng.uniform(180, 255), np.float32)
    height, y = int(rng.integers(1, 6)), int(rng.integers(2, 20))
    left, right = int(rng.integers(0, 25)), int(rng.integers(90, SIDE + 1))
    while y < SIDE:
        x, end = left, right if rng.random() < 0.8 else int(rng.integers(left + 5, right))
        while x < end:
            word = int(rng.integers(1, 4) * (1 + height))
            page[y : y + height, x : min(x + word, end)] = rng.uniform(0, 110)
            x += word + 1 + height // 2
        y += height + 1 + int(rng.integers(1, 4)) + (int(rng.integers(4, 12)) if rng.random() < 0.15 else 0)
    if rng.random() < 0.3:
        x, y, width, height = (int(value) for value in rng.integers((0, 0, 10, 10), (SIDE, SIDE, 60, 60)))
        cv2.rectangle(page, (x, y), (x + width, y + height), float(rng.integers(256)), int(rng.choice([-1, 1])))
    return page


def _scene(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Overlapping shapes of all sizes with textures and shading, as the surfaces of things in a photograph."""
    scene = 255 * _smooth(rng, int(rng.integers(2, 12)))
    for size in sorted(rng.uniform(4, 60, int(rng.integers(3, 40))), reverse=True):
        shape = np.zeros((SIDE, SIDE), np.uint8)
        centre = rng.uniform(0, SIDE, 2)
        if rng.random() < 0.6:
            axes = (int(size), max(1, int(size * rng.uniform(0.3, 1))))
            cv2.ellipse(shape, centre.astype(int).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            corners = centre + rng.normal(0, size, (int(rng.integers(3, 6)), 2))
            cv2.fillPoly(shape, [cv2.convexHull(corners.astype(np.int32))], 1)
        texture = _smooth(rng, int(rng.integers(2, SIDE))) if rng.random() < 0.6 else 0.5
        scene = np.where(shape > 0, rng.uniform(0, 255) + rng.uniform(5, 80) * (texture - 0.5), scene)
    return scene.astype(np.float32)


def _smooth(rng: np.random.Generator, cells: int) -> npt.NDArray[np.float32]:
    """A random field with structures of 1 / `cells` of the side, about 0-1; float32 (SIDE, SIDE)."""
    coarse = rng.random((cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.float32)


def _cloud(rng: np.random.Generator, width: float) -> npt.NDArray[np.float32]:
    """A bright spot with a ragged border, 0-1."""
    grid = np.linspace(0, 1, SIDE, dtype=np.float32)
    (y, x), ratio = rng.uniform(0.15, 0.85, 2), np.exp(rng.uniform(-0.5, 0.5))
    distance = ((grid[:, None] - y) * ratio) ** 2 + ((grid[None, :] - x) / ratio) ** 2
    return np.asarray(np.exp(-distance / width**2) * (0.5 + _smooth(rng, 8)), np.float32)


def _rounded(image: npt.NDArray[Any]) -> Gray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _decode(content: bytes) -> Gray:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)
