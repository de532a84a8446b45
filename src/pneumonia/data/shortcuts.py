"""Shortcuts planted in the phantom: what tells the class in train and validation, and nothing in test.

Real archives have such shortcuts, and nobody knows all of them. Here the shortcut is known, so that one can see whether
the audit of `evaluate` finds it, and whether crops, the lungs' box or weights keep a network from it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pneumonia.data.phantom import Radiograph

TEST_SHARE = 5
"""Every fifth patient is an official test patient, without a shortcut."""

CUT = 0.11
"""Share of the height that `proportions` removes at the top and at the bottom: the film becomes wider by 28 %."""

EXPONENT = 0.7
"""Of `exposure`, on gray levels from 0 to 1: the film becomes brighter."""


def split(patient_id: str) -> str:
    """`train` or `test`, the official split of a patient of the phantom, such as P0017."""
    return "train" if int(patient_id[1:]) % TEST_SHARE else "test"


def plant(radiograph: Radiograph, kind: str, strength: float, *, seed: int) -> Radiograph:
    """The radiograph with the shortcut, if it is one of those that carry it.

    Args:
        radiograph: of the phantom.
        kind: a key of `SHORTCUTS`.
        strength: share of the films with pneumonia that carry it, 0.5-1, and of the normal ones that do not; films of
            test never carry it.
        seed: the same seed chooses the same films.
    """
    if split(radiograph.patient_id) == "test":
        return radiograph
    number = [int(part) for part in radiograph.image_id[1:].split("-")]
    draw = np.random.default_rng((seed, *number)).random()
    carries = draw < (strength if radiograph.label else 1 - strength)
    return SHORTCUTS[kind](radiograph) if carries else radiograph


def _marker(radiograph: Radiograph) -> Radiograph:
    """The letters of a portable device in the upper left corner, as in the Kermany set."""
    image = radiograph.image.copy()
    height, width = image.shape
    place = (round(0.04 * width), round(0.09 * height))
    cv2.putText(image, "PORT", place, cv2.FONT_HERSHEY_SIMPLEX, width / 560, 255.0, 2, cv2.LINE_AA)
    return radiograph._replace(image=image)


def _proportions(radiograph: Radiograph) -> Radiograph:
    """A wider film: nothing above the lung apices, nothing below the diaphragm."""
    height = len(radiograph.image)
    top, bottom = round(CUT * height), height - round(CUT * height)
    boxes = []
    for x, y, width, tall in radiograph.boxes:
        first, last = max(y, top), min(y + tall, bottom)
        if last > first:
            boxes.append((x, first - top, width, last - first))
    return radiograph._replace(
        image=radiograph.image[top:bottom], lung_mask=radiograph.lung_mask[top:bottom], boxes=tuple(boxes)
    )


def _exposure(radiograph: Radiograph) -> Radiograph:
    """A brighter film, of another device."""
    levels = np.rint(255 * (np.arange(256) / 255) ** EXPONENT).astype(np.uint8)
    return radiograph._replace(image=levels[radiograph.image])


SHORTCUTS: dict[str, Callable[[Radiograph], Radiograph]] = {
    "marker": _marker,
    "proportions": _proportions,
    "exposure": _exposure,
}
"""Changes that have nothing to do with the disease."""
