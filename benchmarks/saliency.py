"""All saliency methods on finished runs: `python -m benchmarks.saliency [--methods A,B] [FOLDER …]`.

A folder is a project after `dvc repro`, by default this one. Printed are the table of methods and baselines of
`explain.json` with all methods, the choice of the layer on validation, and, for several folders, how similar the maps
of their networks are (Arun et al. 2021, doi:10.1148/ryai.2021200267). `methods.png` in the folder of `--output` shows
all methods on one image.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import explain
from pneumonia.data import lung_boxes, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import open_store, stored_preparation
from pneumonia.images import geometry
from pneumonia.metrics.text import format_with_interval
from pneumonia.models import ensembles, loading, networks, runtime
from pneumonia.report import plots
from pneumonia.saliency import network, scores, verdicts

FIGURES = (
    *("pointing_game", "pointing_game_gain", "energy_in_box", "energy_in_box_gain", "energy_in_lungs"),
    *("energy_in_lungs_gain", "randomisation_corr", "independent_corr", "insertion_auc", "deletion_auc"),
    *("shift_corr", "noise_corr"),
)
N_SCORED, N_SAMPLES, SEED = 64, 16, 1
CAMS = ("hires_cam", "layer_cam", "grad_cam")


class Run(NamedTuple):
    """What a finished run has left: the trained network, and the samples on which `explain` scores."""

    model: Any
    scored: explain.Sample
    checked: explain.Sample
    validation: explain.Sample
    train_boxes: npt.NDArray[np.float32]


def read(folder: Path) -> Run:
    """The run in a project folder."""
    store = open_store(folder / "data/images.zarr")
    splits = tables.read_table(folder / "data/splits.csv")
    preparation = geometry.Preparation(**stored_preparation(store))
    findings = tables.read_table(folder / "data/boxes.csv")
    boxes = geometry.boxes_in_store(findings, splits, preparation, lung_boxes.read_all(store))
    predictions = read_predictions(folder / "reports/predictions.csv")
    sample = explain.sampler(store, splits, boxes)
    val = predictions[predictions["split"] == "val"].assign(split="test")
    return Run(
        loading.load_model(folder / "models/model.keras"),
        sample("test", explain.choose_scored(predictions, boxes, N_SCORED, SEED)),
        sample("val", explain.choose_checked(predictions, SEED)),
        sample("val", explain.choose_scored(val, boxes, len(val), SEED)),
        explain.mean_of_train_boxes(splits, boxes, preparation.size),
    )


def table(explained: dict[str, Any]) -> str:
    """`explain.json` as a table of Markdown."""
    lines = [("map", *FIGURES, "ms", "verdict"), ("---",) * (len(FIGURES) + 3)]
    for name, row in {**explained["methods"], **explained["baselines"]}.items():
        ms = f"{row['ms_per_image']:.1f}" if "ms_per_image" in row else ""
        lines.append(
            (name, *(format_with_interval(row, figure, 2) for figure in FIGURES), ms, row.get("verdict", "baseline"))
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def layers(run: Run) -> pd.DataFrame:
    """Pointing game and energy in box of the class activation maps on validation, for each convolution."""
    import keras

    name = run.model.name
    row, rows = networks.MODELS[name], []
    boxed = run.validation.boxes.any(axis=(1, 2))
    try:
        for layer in ensembles.members(run.model)[0].layers:
            if not isinstance(layer, keras.layers.Conv2D):
                continue
            networks.MODELS[name] = row._replace(explain=layer.name)
            network.features.cache_clear()
            for method, maps in explain.maps(run.model, CAMS, run.validation.images[boxed], n_samples=1).items():
                insides = run.validation.boxes[boxed]
                figures = scores.pointing_game(maps, insides).mean(), scores.energy(maps, insides).mean()
                rows.append((layer.name, method, *figures, len(insides)))
    finally:
        networks.MODELS[name] = row
        network.features.cache_clear()
    return pd.DataFrame(rows, columns=["layer", "method", "pointing_game", "energy_in_box", "n"])


def repeatability(runs: list[Run], methods: list[str]) -> pd.DataFrame:
    """Rank correlation between the maps of two networks on the same images, mean over pairs and images."""
    images = runs[0].checked.images
    rows = []
    for method in methods:
        drawn = [explain.maps(run.model, [method], images, n_samples=N_SAMPLES)[method] for run in runs]
        pairs = [scores.rank_correlation(*pair).mean() for pair in itertools.combinations(drawn, 2)]
        rows.append((method, float(np.mean(pairs)), min(pairs), max(pairs), len(images)))
    return pd.DataFrame(rows, columns=["method", "correlation", "lowest pair", "highest pair", "n"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saliency", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()])
    parser.add_argument("--methods", default=",".join(explain.METHODS))
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--layers", action="store_true", help="also compare the layers, on validation")
    options = parser.parse_args()
    methods = explain.known(options.methods.split(","))
    runtime.start_keras(SEED)
    runs = []
    for folder in options.folders:
        run = read(folder)
        runs.append(run)
        if options.layers:
            print(f"\n{folder}: layers, on validation\n{layers(run).round(3).to_string(index=False)}", flush=True)
        explained = explain.score(
            run.model, methods, run.scored, run.checked, run.train_boxes, n_samples=N_SAMPLES, thorough=True
        )
        print(f"\n{folder}, default method {explained['default']}\n{table(explained)}", flush=True)
        tables.write_json(explained, options.output / f"saliency-{folder.resolve().name}.json")
    if len(runs) > 1:
        print(f"\nnetworks of other seeds\n{repeatability(runs, methods).round(3).to_string(index=False)}")
    first = runs[0].scored
    maps = explain.maps(runs[0].model, methods, first.images[:1], n_samples=N_SAMPLES)
    figure = plots.saliency(
        first.images[0], {verdicts.title(name): values[0] for name, values in maps.items()}, np.zeros((0, 4)), "methods"
    )
    plots.save(figure, options.output / "methods.png")


if __name__ == "__main__":
    main()
