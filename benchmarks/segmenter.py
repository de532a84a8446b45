"""Train the lung segmenter on human masks, write it to `pneumonia/pretrained/lungs/`, and measure it: `make segmenter`.

    make segmenter SEGMENTER="--films chest_xray_proportions.zip --masks chest_xray_lungs.zip --output FOLDER"

The films are the children of the Kermany set in their true proportions, the masks those of V7 Labs (CC BY 4.0 both).
Films of the official test split are only measured. An interrupted training continues in the same `--output`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import segmenter_films as films
from benchmarks import segmenter_sheets, unusual
from pneumonia.data import phantom
from pneumonia.images import decode
from pneumonia.images.lungs import SIDE, Lungs, Segmenter
from pneumonia.models import runtime, segmenter

EPOCHS = 14
GENTLE_EPOCHS, GENTLE = 4, 0.7
"""In the last epochs this share of the films is changed little: the network is used on films as they are."""
BATCH = 32
LEARNING_RATE = 0.002
SEED = 1
N_CHANGED, N_PICTURES = 100, 100
"""Official test films that are measured under each change, and images of the phantom."""

VALIDATION = 0.06
"""Share of the patients outside the official test split whose films choose nothing but show when learning ends."""


def main() -> None:
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runtime.start_keras(SEED)
    network = train(arguments.films, arguments.masks, arguments.output)
    content = segmenter.convert(network)
    path = arguments.output / "lungs.onnx"
    path.write_bytes(content)
    found = Segmenter(path, content)
    figures, worst = measure(found, arguments.films, arguments.masks)
    figures |= {"digest": found.digest, "bytes": len(content), "parameters": network.count_params()}
    if arguments.adults:
        figures["adults"] = none_in_adults(found, arguments.adults)
    (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    segmenter_sheets.write(arguments.output, found, worst, arguments.films, arguments.masks, arguments.adults)


def train(archive: Path, masks: Path, output: Path) -> Any:
    """The trained network, also in `output/segmenter.keras`; an interrupted training continues after its last epoch."""
    import keras

    finished, unfinished = output / "segmenter.keras", output / "unfinished.keras"
    if finished.is_file():
        return keras.saving.load_model(finished, compile=False)
    learnt, held_out = split(films.films(archive, masks))
    images, outlines = _stored(archive, masks, learnt)
    validation = _unchanged(*_stored(archive, masks, held_out))
    n_films = round(BATCH * (1 - films.NEGATIVE))
    steps = len(learnt) // n_films
    if unfinished.is_file():
        network = keras.saving.load_model(unfinished, custom_objects={"loss": segmenter.loss})
    else:
        network = segmenter.create()
        rate = keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE / 10, EPOCHS * steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 2
        )
        network.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss=segmenter.loss)
    with runtime.fused_normalization():
        for epoch in range(int(network.optimizer.iterations) // steps, EPOCHS):
            start = time.monotonic()
            history = network.fit(_stream(images, outlines, epoch), shuffle=False, verbose=0)
            network.save(unfinished)
            values = dice(validation[1] > 0.5, network.predict(validation[0], verbose=0) > 0)
            print(
                f"epoch {epoch + 1} of {EPOCHS}: loss {history.history['loss'][0]:.4f}, Dice on {len(values)} films of "
                f"other patients: median {np.median(values):.4f}, 5th percentile {np.quantile(values, 0.05):.4f}, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    network.save(finished)
    return network


def measure(found: Segmenter, archive: Path, masks: Path) -> tuple[dict[str, Any], list[films.Film]]:
    """Dice on films that were not learnt from, under changes, and pictures without lungs; and the twelve worst films.

    A film in which no lungs are found counts with a Dice coefficient of 0.
    """
    test = [film for film in films.films(archive, masks) if film.is_test]
    rng = np.random.default_rng(SEED)
    changed = set(rng.choice(len(test), N_CHANGED, replace=False).tolist())
    rows, shown, seconds = [], [], []
    for place, (film, (image, mask)) in enumerate(zip(test, films.read(archive, masks, test), strict=True)):
        start = time.thread_time()
        lungs = found.find(image)
        seconds.append(time.thread_time() - start)
        upright = _dice_of(lungs, mask)
        row: dict[str, Any] = {"subtype": film.subtype, "dice": upright, "none": lungs is None}
        if place in changed:
            shown.append(image)
            for name, change in CHANGES.items():
                other = found.find(change(image))
                row[name] = math.nan if other is None else _dice_of(other, change(mask, is_mask=True)) - upright
        rows.append(row)
    table = pd.DataFrame(rows)
    parts = {"all": table, **dict(list(table.groupby("subtype"))), "pneumonia": table[table["subtype"] != "normal"]}
    on_phantom = pd.DataFrame(
        [
            {"dice": _dice_of(lungs, one.lung_mask), "none": lungs is None, "covered": _covered(lungs, one.lung_mask)}
            for one, lungs in ((one, found.find(one.image)) for one in _radiographs())
        ]
    )
    others = {
        kind: {"n": len(pictures), "without_lungs": float(np.mean([found.find(one) is None for one in pictures]))}
        for kind, pictures in unusual.others(shown * (1 + unusual.N_PICTURES // len(shown)))
    }
    order = np.argsort(table["dice"].to_numpy(), kind="stable")
    figures = {
        "official_test": {name: _summary(part) for name, part in parts.items()},
        "phantom": _summary(on_phantom) | {"median_covered": float(on_phantom["covered"].median())},
        "changed": {
            name: {
                "n": N_CHANGED,
                "none": int(table[name].isna().sum() - len(table) + N_CHANGED),
                "median_difference": float(table[name].median()),
                "within_0.02_or_none": float(
                    ((table[name] >= -0.02) | table[name].isna())[sorted(changed)].mean()  # better is no fault
                ),
            }
            for name in CHANGES
        },
        "other_pictures": others,
        "cpu_ms_per_film": 1000 * float(np.median(seconds)),
    }
    return figures, [test[place] for place in order[:12]]


def none_in_adults(found: Segmenter, archive: Path) -> dict[str, int]:
    """In how many films of adults no lungs are found."""
    with zipfile.ZipFile(archive) as archived:
        names = [name for name in archived.namelist() if name.endswith(".jpg")]
        return {"n": len(names), "none": sum(found.find(decode.decode(archived.read(name))) is None for name in names)}


def _radiographs() -> list[phantom.Radiograph]:
    return [phantom.render(patient)[0] for patient in phantom.plan(400, seed=99)[:N_PICTURES]]


def _covered(lungs: Lungs | None, mask: films.Gray) -> float:
    """Share of a mask that was found."""
    return float(lungs.mask(*mask.shape)[mask > 127].mean()) if lungs else 0.0


def _dice_of(lungs: Lungs | None, mask: films.Gray) -> float:
    return float(dice(lungs.mask(*mask.shape)[None], mask[None] > 127)[0]) if lungs else 0.0


def _summary(table: pd.DataFrame) -> dict[str, float]:
    values = table["dice"]
    return {
        "n": len(table),
        "none": int(table["none"].sum()),
        "median": float(values.median()),
        "percentile_5": float(values.quantile(0.05)),
        "lowest": float(values.min()),
    }


def _turned(degrees: float, image: films.Gray, *, is_mask: bool = False) -> films.Gray:
    height, width = image.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    border = cv2.BORDER_CONSTANT if is_mask else cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=border), np.uint8)


def _contrast(factor: float, image: films.Gray, *, is_mask: bool = False) -> films.Gray:
    mean = image.mean()
    return image if is_mask else np.clip(np.rint(mean + factor * (image - mean)), 0, 255).astype(np.uint8)


def _inverted(image: films.Gray, *, is_mask: bool = False) -> films.Gray:
    return image if is_mask else 255 - image


CHANGES: dict[str, Callable[..., films.Gray]] = {
    **{f"turned by {degrees} degrees": partial(_turned, degrees) for degrees in (-10, -5, 5, 10)},
    "half the contrast": partial(_contrast, 0.5),
    "twice the contrast": partial(_contrast, 2.0),
    "inverted": _inverted,
}


def split(chosen: list[films.Film]) -> tuple[list[films.Film], list[films.Film]]:
    """Films to learn from and films to validate with, by patient, without those of the official test split."""
    chosen = [film for film in chosen if not film.is_test]
    patients = sorted({film.patient_id for film in chosen})
    held_out = set(np.random.default_rng(SEED).choice(patients, round(VALIDATION * len(patients)), replace=False))
    return (
        [film for film in chosen if film.patient_id not in held_out],
        [film for film in chosen if film.patient_id in held_out],
    )


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Dice coefficients of pairs of masks (n, …); 1 where both are empty."""
    axes = tuple(range(1, one.ndim))
    total = one.sum(axis=axes) + other.sum(axis=axes)
    return np.asarray(np.where(total > 0, 2 * (one & other).sum(axis=axes) / np.maximum(total, 1), 1.0))


def _stored(archive: Path, masks: Path, chosen: list[films.Film]) -> tuple[films.Gray, films.Gray]:
    pairs = [
        (films.squashed(image, films.STORED), films.squashed(mask, films.STORED))
        for image, mask in films.read(archive, masks, chosen)
    ]
    images, outlines = zip(*pairs, strict=True)
    return np.stack(images), np.stack(outlines)


def _unchanged(images: films.Gray, outlines: films.Gray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Films and masks as the network sees them without changes."""
    small = [cv2.equalizeHist(films.squashed(image, SIDE)) for image in images]
    masks = [films.squashed(outline, SIDE) for outline in outlines]
    return np.stack(small)[..., None].astype(np.float32), np.stack(masks)[..., None].astype(np.float32) / 255


def _stream(images: films.Gray, outlines: films.Gray, epoch: int) -> Any:
    """The batches of an epoch, made while the network learns from the ones before."""
    import tensorflow as tf

    signature = tf.TensorSpec((None, SIDE, SIDE, 1), tf.float32)
    gentle = GENTLE if epoch >= EPOCHS - GENTLE_EPOCHS else 0.0
    batches = partial(films.batches, images, outlines, size=BATCH, seed=1_000 * SEED + epoch, gentle=gentle)
    stream = tf.data.Dataset.from_generator(batches, output_signature=(signature, signature))
    return stream.prefetch(4).with_options(runtime.untuned())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make segmenter", description="Train and measure the lung segmenter.")
    parser.add_argument("--films", type=Path, required=True, help="chest_xray_proportions.zip")
    parser.add_argument("--masks", type=Path, required=True, help="chest_xray_lungs.zip")
    parser.add_argument("--adults", type=Path, help="nih_adults.zip, to look at films of adults")
    parser.add_argument("--output", type=Path, required=True, help="folder for the network, the figures and the sheets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
