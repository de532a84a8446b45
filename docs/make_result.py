"""Makes `docs/result.png`, real films for the README: `python docs/make_result.py`, after `dvc repro train`.

The films are drawn by lot from validation, two of each class; nobody chose them for their answers.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pneumonia.data import store, tables
from pneumonia.metrics import decisions, ranking
from pneumonia.models import loading, runtime, scoring
from pneumonia.saliency.grad_cam import grad_cam

CELL, CAPTION, SEED = 200, 22, 7


def tile(picture: np.ndarray, caption: str = "") -> np.ndarray:
    cell = np.full((CELL + CAPTION * bool(caption), CELL, 3), 24, np.uint8)
    cell[2 : CELL - 2, 2 : CELL - 2] = cv2.resize(picture, (CELL - 4, CELL - 4), interpolation=cv2.INTER_AREA)
    place = (6, CELL + 14)
    cv2.putText(cell, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    runtime.start_keras()
    model = loading.load_model(Path("models/model.keras"))
    val = store.read_split(store.open_store(Path("data/images.zarr")), "val")
    scores = scoring.predict_scores(model, val.images)
    patients = tables.read_table(Path("data/splits.csv")).set_index("image_id")["patient_id"]
    groups = patients.loc[list(val.image_ids)]
    low, high = ranking.auc_interval(val.labels, scores, groups=groups)
    threshold = decisions.youden_threshold(val.labels, scores)
    auc = ranking.roc_auc(val.labels, scores)
    print(f"validation AUC {auc:.3f} [{low:.3f}, {high:.3f}] by patient, n = {len(scores)}, threshold {threshold:.3f}")
    rng = np.random.default_rng(SEED)
    rows = np.sort(np.concatenate([rng.choice(np.flatnonzero(val.labels == label), 2, False) for label in (0, 1)]))
    rows = rows[np.argsort(val.labels[rows], kind="stable")]
    columns = []
    films = val.images[np.sort(rows)][np.argsort(np.argsort(rows))]
    for film, heat, row in zip(films, grad_cam(model, films, n_samples=1, seed=1), rows, strict=True):
        gray = cv2.cvtColor(film, cv2.COLOR_GRAY2BGR)
        colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
        answer = "pneumonia" if scores[row] >= threshold else "normal"
        print(f"{val.image_ids[row]}: {tables.LABELS[val.labels[row]]}, {answer}, {scores[row]:.3f}")
        above = tile(gray, f"label: {tables.LABELS[val.labels[row]]}")
        columns.append(np.vstack([above, tile(cv2.addWeighted(gray, 0.55, colours, 0.45, 0), f"answer: {answer}")]))
    sheet = Image.fromarray(cv2.cvtColor(np.hstack(columns), cv2.COLOR_BGR2RGB))
    sheet.quantize(128).save(Path(__file__).with_name("result.png"), optimize=True)


if __name__ == "__main__":
    main()
