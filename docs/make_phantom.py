"""Makes `docs/phantom.jpg`, the picture of `docs/data.md`: `python docs/make_phantom.py`."""

from pathlib import Path

import cv2
import numpy as np

from pneumonia.data import phantom

CELL, COLUMNS = 240, 5
CAPTION = 20
COLOURS = {"normal": (0, 0, 0), "bacteria": (40, 200, 255), "virus": (255, 180, 60)}  # blue, green, red


def tile(one: phantom.Radiograph) -> np.ndarray:
    scale = (CELL - 4) / max(one.image.shape)
    picture = cv2.cvtColor(one.image, cv2.COLOR_GRAY2BGR)
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for x, y, width, height in one.boxes:
        corner, opposite = (
            (round(x * scale), round(y * scale)),
            (round((x + width) * scale), round((y + height) * scale)),
        )
        cv2.rectangle(picture, corner, opposite, COLOURS[one.subtype], 1, cv2.LINE_AA)
    cell = np.full((CELL + CAPTION, CELL, 3), 24, np.uint8)
    top, left = (CELL - picture.shape[0]) // 2, (CELL - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    caption = f"{one.subtype} (synthetic), {one.view}, {one.sex} {one.age}"
    # Once, on its own ground: an outline has other widths of letters, and would be a second caption.
    cv2.putText(cell, caption, (8, CELL + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    rows: dict[str, list[np.ndarray]] = {name: [] for name in COLOURS}
    for patient in phantom.plan(400, seed=0):
        if len(rows[patient.subtype]) < COLUMNS:
            rows[patient.subtype].append(tile(phantom.render(patient)[0]))
    sheet = np.vstack([np.hstack(row) for row in rows.values()])
    cv2.imwrite(str(Path(__file__).with_name("phantom.jpg")), sheet, [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main()
