"""Sheets of films with the outline and the box of the lungs that were found, to be looked at."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks import segmenter_films as films
from pneumonia.data import phantom
from pneumonia.images import decode
from pneumonia.images.lungs import Segmenter

TILE = 260
"""Pixels, side of the square for a film."""

COLUMNS = 6
FOUND, HUMAN, BOX = (0, 220, 255), (80, 220, 80), (255, 120, 60)
"""Blue, green and red of the outline that was found (yellow), that of the human mask (green), and the box (blue)."""


def write(
    folder: Path, segmenter: Segmenter, worst: list[films.Film], archive: Path, masks: Path, adults: Path | None
) -> None:
    """Write `films.png` and `worst.png`."""
    _save(folder / "films.png", [_tile(segmenter, image, name, None) for name, image in _films(archive, masks, adults)])
    pairs = zip(worst, films.read(archive, masks, worst), strict=True)
    _save(
        folder / "worst.png",
        [_tile(segmenter, image, film.member.rpartition("/")[2], mask) for film, (image, mask) in pairs],
    )


def _films(archive: Path, masks: Path, adults: Path | None) -> Iterator[tuple[str, films.Gray]]:
    """Children of the official test split, upright and turned, adults of another hospital, and the phantom."""
    test = [film for film in films.films(archive, masks) if film.is_test]
    chosen = []
    for subtype in ("normal", "bacteria", "virus"):
        of_subtype = [film for film in test if film.subtype == subtype]
        chosen += [of_subtype[place] for place in np.linspace(5, len(of_subtype) - 5, 3).astype(int)]
    for film, (image, _) in zip(chosen, films.read(archive, masks, chosen), strict=True):
        yield film.subtype, image
    for film, (image, _) in zip(chosen[::4], films.read(archive, masks, chosen[::4]), strict=True):
        turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 10, 1.0)
        yield f"{film.subtype}, turned", np.asarray(cv2.warpAffine(image, turn, image.shape[::-1]), np.uint8)
    if adults:
        with zipfile.ZipFile(adults) as archived:
            lines = [line.split(",") for line in archived.read("labels.csv").decode().splitlines()]
            header, rows = lines[0], lines[1:]
            views = [row for row in rows if row[header.index("view")] == "AP"]
            others = [row for row in rows if row[header.index("view")] != "AP"]
            for row in [*views[:: len(views) // 5][:5], *others[:: len(others) // 4][:4]]:
                name = f"adult {row[header.index('label')]}, {row[header.index('view')]}"
                yield name, decode.decode(archived.read(row[header.index("path")]))
    for patient in phantom.plan(60, seed=99)[:3]:
        one = phantom.render(patient)[0]
        yield f"phantom {one.subtype}", one.image


def _tile(segmenter: Segmenter, image: films.Gray, name: str, mask: films.Gray | None) -> npt.NDArray[np.uint8]:
    scale = TILE / max(image.shape)
    lungs, problem = segmenter.examine(image)
    picture = cv2.cvtColor(cv2.resize(image, None, fx=scale, fy=scale), cv2.COLOR_GRAY2BGR)
    if mask is not None:
        _draw(picture, mask > 127, HUMAN)
    if lungs:
        _draw(picture, lungs.mask(*image.shape), FOUND)
        corner = (lungs.box.x * scale, lungs.box.y * scale)
        size = (lungs.box.width * scale, lungs.box.height * scale)
        first, last = np.rint(corner).astype(int), np.rint(np.add(corner, size)).astype(int)
        cv2.rectangle(picture, first.tolist(), last.tolist(), BOX, 1)
    square = np.zeros((TILE + 18, TILE, 3), np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    text = f"{name}: {problem}" if problem else name
    cv2.putText(square, text, (3, TILE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return square


def _draw(picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    height, width = picture.shape[:2]
    small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, colour, 1)


def _save(path: Path, tiles: Iterable[npt.NDArray[np.uint8]]) -> None:
    pictures = list(tiles)
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % COLUMNS)
    rows = [np.hstack(pictures[start : start + COLUMNS]) for start in range(0, len(pictures), COLUMNS)]
    cv2.imwrite(str(path), np.vstack(rows))
