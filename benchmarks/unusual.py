"""How many usual films are called unusual, and how many other pictures are: `make bench`, or this module alone.

    python -m benchmarks.unusual

Films are prepared as a whole, then around their lungs. They are those of the phantom and, if the archive is beside the
checkout, of the Kermany set without its official test split. They are divided by patient: train fits the description,
validation chooses the limits, the rest is counted. The other pictures are generated here or cut from pictures that
scikit-image and scikit-learn contain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import export, fetch
from pneumonia.data import phantom
from pneumonia.images import appearance, decode, geometry, lungs
from pneumonia.models import predictor

Gray = npt.NDArray[np.uint8]

PREPARATIONS = {
    "pad": geometry.Preparation(size=224),
    "lungs": geometry.Preparation(size=224, aspect="lungs", segmenter=geometry.SEGMENTER),
}
FALSE_ALARMS = 0.01
N_PICTURES = 150
"""Pictures of each kind."""
WORDS = ("report", "patient", "chest", "radiograph", "findings", "impression", "date", "name", "of", "no", "acute")
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("horse", "hubble_deep_field", "immunohistochemistry", "moon", "rocket"),
)
"""Pictures of `skimage.data` that need no download; `china.jpg` and `flower.jpg` of scikit-learn are added."""


def measure(aspect: str = "pad") -> pd.DataFrame:
    """Share of the pictures that are called unusual.

    Args:
        aspect: key of `PREPARATIONS`.

    Returns:
        A row for each kind: `picture, n` and a column for each data set.
    """
    preparation = PREPARATIONS[aspect]
    columns: dict[str, dict[str, str]] = {}
    for name, films in (("phantom", _phantom()), ("chest_xray", _chest_xray())):
        if not films:
            continue
        (train, in_train), (val, in_val), test = (_prepared(part, preparation) for part in films)
        usual = export.fit_usual(train, val, FALSE_ALARMS, (in_train, in_val) if aspect == "lungs" else None)
        shares = {f"films of other patients (n = {len(test[0])})": _share(usual, *test)}
        for kind, pictures in others(films[2]):
            shares[f"{kind} (n = {len(pictures)})"] = _share(usual, *_prepared(pictures, preparation))
        columns[name] = {kind: f"{share:.1%}" for kind, share in shares.items()}
    return pd.DataFrame(columns).fillna("")


def _prepared(pictures: list[Gray], preparation: geometry.Preparation) -> tuple[Gray, npt.NDArray[np.float64]]:
    """Pictures as the network gets them, and the share of each that is lung, NaN without lungs."""
    found = [lungs.look(picture, preparation).lungs for picture in pictures]
    prepared = [
        geometry.prepare(picture, preparation, both.box if both else None)
        for picture, both in zip(pictures, found, strict=True)
    ]
    return np.stack(prepared), np.array([both.share if both else np.nan for both in found])


def _share(usual: dict[str, Any], images: Gray, in_film: npt.NDArray[np.float64]) -> float:
    parameters = [np.asarray(usual[name]) for name in ("mean", "scale", "precision")]
    described = np.stack([appearance.describe(image) for image in images])
    is_unusual = predictor.distances(described, *parameters) > usual["limit"]
    if limits := usual.get("lungs"):  # of no lungs, NaN is outside too
        is_unusual |= ~((in_film >= limits["low"]) & (in_film <= limits["high"]))
    return float(is_unusual.mean())


def _phantom(n_images: int = 1_600) -> tuple[list[Gray], list[Gray], list[Gray]]:
    patients = phantom.plan(n_images, seed=1)
    return _parts([[one.image for one in phantom.render(patient)] for patient in patients])


def _chest_xray() -> tuple[list[Gray], list[Gray], list[Gray]] | None:
    archive = Path(__file__).resolve().parents[2] / "shared" / "data" / "chest_xray_224.zip"
    if not archive.is_file():
        return None
    manifest, _ = fetch.read_archive("chest_xray", archive)
    films = manifest[manifest["source_split"] != "test"]
    return _parts([[decode.read_image(uri) for uri in rows["uri"]] for _, rows in films.groupby("patient_id")])


def _parts(patients: list[list[Gray]]) -> tuple[list[Gray], list[Gray], list[Gray]]:
    """60, 20 and 20 % of the patients."""
    order = np.random.default_rng(1).permutation(len(patients))
    ends = (0, int(0.6 * len(order)), int(0.8 * len(order)), len(order))
    train, val, test = (
        [film for place in order[start:end] for film in patients[place]] for start, end in itertools.pairwise(ends)
    )
    return train, val, test


def others(films: list[Gray]) -> Iterator[tuple[str, list[Gray]]]:
    rng = np.random.default_rng(5)
    makers: dict[str, Callable[[np.random.Generator, int], Gray]] = {
        "blank": _blank,
        "noise": _noise,
        "documents": _document,
    }
    for kind, make in makers.items():
        yield kind, [make(rng, number) for number in range(N_PICTURES)]
    yield "photographs", _photographs(rng)
    chosen = [films[place] for place in rng.choice(len(films), N_PICTURES, replace=False)]
    changes: dict[str, Callable[[Gray], Gray]] = {
        "inverted films": lambda film: 255 - film,
        "films turned by 90 degrees": lambda film: np.rot90(film).copy(),
        "films turned by 180 degrees": lambda film: np.rot90(film, 2).copy(),
        "films upside down (mirrored)": lambda film: film[::-1].copy(),
        "left half of a film, as in a lateral view": lambda film: film[:, : film.shape[1] // 2].copy(),
        "upper third of a film (neck and shoulders)": lambda film: film[: film.shape[0] // 3].copy(),
        "middle of a film (60 % of each side)": _middle,
        "mirrored films": lambda film: film[:, ::-1].copy(),
        "darker films (60 % of the gray level)": lambda film: (film * 0.6).astype(np.uint8),
    }
    for kind, change in changes.items():
        yield kind, [change(film) for film in chosen]


def _size(rng: np.random.Generator) -> tuple[int, int]:
    height, width = rng.integers(200, 1_200, 2)
    return int(height), int(width)


def _blank(rng: np.random.Generator, number: int) -> Gray:
    """One gray level, with some noise in every third picture and a slope in every third."""
    height, width = _size(rng)
    picture = np.full((height, width), rng.integers(0, 256), np.float32)
    if number % 3 == 1:
        picture += rng.normal(0, rng.uniform(1, 4), picture.shape)
    elif number % 3 == 2:
        picture += np.linspace(-1, 1, width) * rng.uniform(2, 40)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, number: int) -> Gray:
    """Uniform, normal, in blots, or black and white."""
    height, width = _size(rng)
    if number % 4 == 0:
        picture = rng.integers(0, 256, (height, width))
    elif number % 4 == 1:
        picture = rng.normal(128, rng.uniform(10, 60), (height, width))
    elif number % 4 == 2:
        size = int(rng.integers(3, 40))
        coarse = rng.normal(128, 50, (height // size + 2, width // size + 2)).astype(np.float32)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        picture = 255 * (rng.random((height, width)) < rng.uniform(0.1, 0.9))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _document(rng: np.random.Generator, number: int) -> Gray:
    """A part of a scanned page, or lines of text; every fifth one white on black."""
    import skimage.data

    if number < 30:
        return _cut(rng, skimage.data.page() if number % 2 else skimage.data.text())
    height, width = _size(rng)
    picture, scale, line = np.full((height, width), rng.integers(200, 256), np.uint8), rng.uniform(0.4, 1.2), 30
    while line < height:
        text, left = " ".join(rng.choice(WORDS, 12)), int(rng.integers(5, 40))
        cv2.putText(picture, text, (left, line), cv2.FONT_HERSHEY_SIMPLEX, scale, int(rng.integers(0, 80)), 1)
        line += int(22 + 20 * scale) + 40 * (rng.random() < 0.1)
    return 255 - picture if number % 5 == 0 else picture


def _photographs(rng: np.random.Generator) -> list[Gray]:
    import skimage.data
    from sklearn.datasets import load_sample_image

    whole = [np.asarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    whole += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    gray = [_gray(picture) for picture in whole]
    return gray + [_cut(rng, gray[number % len(gray)]) for number in range(N_PICTURES - len(gray))]


def _gray(picture: npt.NDArray[Any]) -> Gray:
    if picture.dtype == bool:
        picture = 255 * picture.astype(np.uint8)
    return picture if picture.ndim == 2 else cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY)


def _cut(rng: np.random.Generator, picture: Gray) -> Gray:
    """A part of a picture, 40 to 95 % of each side."""
    height, width = (int(side * rng.uniform(0.4, 0.95)) for side in picture.shape)
    top, left = rng.integers(0, picture.shape[0] - height + 1), rng.integers(0, picture.shape[1] - width + 1)
    return picture[top : top + height, left : left + width].copy()


def _middle(film: Gray) -> Gray:
    rows, columns = (slice(side // 5, side - side // 5) for side in film.shape)
    return film[rows, columns].copy()


def main() -> None:
    for aspect in PREPARATIONS:
        print(f"{aspect}:\n{measure(aspect).to_string()}")


if __name__ == "__main__":
    main()
