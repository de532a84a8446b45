"""All saliency methods on finished runs: `python -m benchmarks.saliency [OPTIONS] [FOLDER …]`.

A folder is a project after `dvc repro`, by default this one. Printed are the table of methods and baselines of
`explain.json` with all methods, and, for several folders, how similar the maps of their networks are (Arun et al. 2021,
doi:10.1148/ryai.2021200267). The options add the choice of the layer on validation (`--layers`), other films with boxes
(`--films FOLDER`), and the speed beside other packages (`--speed`). With `--output` the figures are kept as JSON, and
`methods.png` shows all methods on one image.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import boxed_films
from pneumonia import UserError, explain
from pneumonia.data import lung_boxes, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import open_store, stored_preparation
from pneumonia.images import geometry
from pneumonia.metrics.text import format_with_interval
from pneumonia.models import ensembles, loading, networks, runtime
from pneumonia.report import plots
from pneumonia.saliency import scores, verdicts
from pneumonia.saliency.methods import fitting

FIGURES = (
    *("pointing_game", "pointing_game_gain", "energy_in_box", "energy_in_box_gain", "energy_in_lungs"),
    *("energy_in_lungs_gain", "randomisation_corr", "independent_corr", "insertion_auc", "deletion_auc"),
    *("shift_corr", "noise_corr"),
)
N_SCORED, N_SAMPLES, SEED = 64, 16, 1
N_VALIDATION = 96
N_TIMED, N_ROUNDS = 64, 3
CAMS = ("hires_cam", "layer_cam", "grad_cam")


class Run(NamedTuple):
    """What a finished run has left: the trained network, how films are prepared, and the samples that `explain` scores.

    `validation` has the images of validation for the choice of the layer.
    """

    model: Any
    preparation: geometry.Preparation
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
        preparation,
        sample("test", explain.choose_scored(predictions, boxes, N_SCORED, SEED)),
        sample("val", explain.choose_checked(predictions, SEED)),
        sample("val", explain.choose_scored(val, boxes, N_VALIDATION, SEED)),
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
    """Where the class activation maps of each layer point, on validation images, the best layer first.

    Figures are pointing game and energy in boxes; where no boxes are known, energy in the lungs.
    """
    name, sample = run.model.name, run.validation
    row, rows = networks.MODELS[name], []
    is_known = sample.boxes.any(axis=(1, 2))
    places = sample.boxes if is_known.any() else sample.lungs
    is_known = places.any(axis=(1, 2))
    if not is_known.any():
        raise UserError("neither boxes nor lung masks are known on validation: no layer can be chosen")
    try:
        for layer in candidates(run.model):
            networks.MODELS[name] = row._replace(explain=layer)
            for method, maps in explain.maps(run.model, CAMS, sample.images[is_known], n_samples=1).items():
                figures = (compute(maps, places[is_known]).mean() for compute in (scores.pointing_game, scores.energy))
                rows.append((layer, method, *figures, int(is_known.sum())))
    finally:
        networks.MODELS[name] = row
    columns = ["layer", "method", "pointing_game", "energy", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values("energy", ascending=False, ignore_index=True)


def candidates(model: Any) -> list[str]:
    """The layers with feature maps: of a backbone the last one of each block, of another network its convolutions."""
    import keras

    blocks = networks.model_row(model.name).blocks
    last: dict[str, str] = {}
    for layer in ensembles.members(model)[0].layers:
        if len(layer.output.shape) == 4 and (isinstance(layer, keras.layers.Conv2D) or (blocks and last)):
            last[networks._block(layer.name, blocks)] = layer.name
    return list(last.values())


def choice(model: Any, table: pd.DataFrame) -> str:
    """The layer with the highest energy, and whether `MODELS` names it, in one line.

    Args:
        model: of the table.
        table: as `layers` returns it.
    """
    best, present = table.iloc[0], networks.model_row(model.name).explain
    same = "as in MODELS" if best["layer"] == present else f"MODELS has {present}"
    figures = f"pointing game {best['pointing_game']:.2f}, energy {best['energy']:.2f}, n = {best['n']}"
    return f"{model.name}: {best['layer']} with {verdicts.title(best['method'])} ({figures}); {same}"


def repeatability(runs: Sequence[Run], methods: Sequence[str]) -> pd.DataFrame:
    """Rank correlation between the maps of two networks on the same images, mean over pairs and images.

    The images are those of the first run. All runs prepare films in the same way.
    """
    if len({run.preparation for run in runs}) > 1:
        raise UserError("the runs prepare their films in different ways: their maps cannot be compared")
    images = runs[0].checked.images
    rows = []
    for method in methods:
        drawn = [explain.maps(run.model, [method], images, n_samples=N_SAMPLES)[method] for run in runs]
        pairs = [scores.rank_correlation(*pair).mean() for pair in itertools.combinations(drawn, 2)]
        rows.append((method, float(np.mean(pairs)), min(pairs), max(pairs), len(images)))
    return pd.DataFrame(rows, columns=["method", "correlation", "lowest pair", "highest pair", "n"])


def read_films(folder: Path, preparation: geometry.Preparation) -> explain.Sample:
    """Other films with boxes, as `boxed_films.read` takes them, with the lungs that are found in them."""
    films = boxed_films.read(folder, preparation, with_lungs=True)
    boxes = np.stack([scores.inside(one, preparation.size) for one in films.boxes])
    return explain.Sample(films.images, films.patients, boxes, films.lungs)


def score_films(run: Run, films: explain.Sample, methods: Sequence[str]) -> dict[str, Any]:
    """`explain.json` of other films: without the mean of the train boxes, with a map that is uniform everywhere."""
    nothing = np.zeros_like(run.train_boxes)
    explained = explain.score(run.model, methods, films, run.checked, nothing, n_samples=N_SAMPLES)
    explained["baselines"]["uniform"] = explain.figures(np.ones(films.images.shape, np.float32), films)
    return explained


def speed(model: Any, images: npt.NDArray[np.uint8]) -> pd.DataFrame:
    """Milliseconds of a map here and in other packages, for the same network, layer, images and noisy copies.

    CPU time of all threads and wall time, the best of `N_ROUNDS`; each is called once before, to compile. `times` is
    the CPU time divided by that of this project. A package that is not installed is left out.
    """
    import keras

    layer = networks.model_row(model.name).explain
    inner = keras.Model(model.inputs, model.get_layer("logit").output)
    pixels, ones = images[..., None].astype(np.float32), np.ones((len(images), 1), np.float32)
    calls: dict[tuple[str, str], Callable[[], Any]] = {
        (method, "pneumonia"): lambda method=method: explain.maps(model, [method], images, n_samples=N_SAMPLES)
        for method in ("grad_cam", "smoothgrad")
    }
    if find_spec("xplique"):
        from xplique.attributions import GradCAM, SmoothGrad

        grad_cam = GradCAM(inner, batch_size=32, conv_layer=layer)
        smoothgrad = SmoothGrad(inner, batch_size=32, nb_samples=N_SAMPLES, noise=25.5)
        calls["grad_cam", "xplique"] = lambda: grad_cam(pixels, ones)
        calls["smoothgrad", "xplique"] = lambda: smoothgrad(pixels, ones)
    if find_spec("tf_keras_vis"):
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.saliency import Saliency

        vis_cam, vis_gradients = Gradcam(inner), Saliency(inner)
        calls["grad_cam", "tf-keras-vis"] = lambda: vis_cam(lambda logit: logit[:, 0], pixels, penultimate_layer=layer)
        calls["smoothgrad", "tf-keras-vis"] = lambda: vis_gradients(
            lambda logit: logit[:, 0], pixels, smooth_samples=N_SAMPLES, smooth_noise=0.1
        )
    rows = []
    for (method, package), call in sorted(calls.items()):
        call()
        cpu, wall = np.min([_seconds(call) for _ in range(N_ROUNDS)], axis=0) * 1000 / len(images)
        rows.append((method, package, cpu, wall, len(images)))
    table = pd.DataFrame(rows, columns=["method", "package", "cpu_ms", "wall_ms", "n"])
    ours = table[table["package"] == "pneumonia"].set_index("method")["cpu_ms"]
    return table.assign(times=table["cpu_ms"] / table["method"].map(ours))


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    start = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def full_table(folder: Path) -> None:
    """Print all methods of the finished run in a folder, and their speed; for `make bench`."""
    if not (folder / "models/model.keras").is_file() or not (folder / "reports/predictions.csv").is_file():
        print("saliency: no finished run in this folder, skipped; make repro makes one")
        return
    runtime.start_keras(SEED)
    run = read(folder)
    print(f"saliency: {_table_of(run, fitting(run.model))[1]}", flush=True)
    print(f"saliency: speed\n{speed(run.model, run.scored.images[:N_TIMED]).round(2).to_string(index=False)}")


def _table_of(run: Run, methods: Sequence[str]) -> tuple[dict[str, Any], str]:
    explained = explain.score(
        run.model, methods, run.scored, run.checked, run.train_boxes, n_samples=N_SAMPLES, thorough=True
    )
    return explained, f"default method {explained['default']}\n{table(explained)}"


def methods_of(model: Any, names: str | None) -> list[str]:
    """Those that a user names, separated by commas; without any all that the network has the parts for."""
    return explain.known(names.split(","), model) if names else fitting(model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saliency", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()])
    parser.add_argument("--methods", help="separated by commas; all that the network has the parts for")
    parser.add_argument("--layers", action="store_true", help="only compare the layers, on validation")
    parser.add_argument("--films", type=Path, help="only score these films: a folder with images and boxes.csv")
    parser.add_argument("--speed", action="store_true", help="only measure the speed beside other packages")
    parser.add_argument("--repeatability", action="store_true", help="only compare the networks of several folders")
    parser.add_argument("--output", type=Path, help="write the figures and methods.png to this folder")
    options = parser.parse_args()
    runtime.start_keras(SEED)
    runs, lists = [], []
    for folder in options.folders:
        run, name = read(folder), folder.resolve().name
        methods = methods_of(run.model, options.methods)
        runs.append(run)
        lists.append(methods)
        explained: dict[str, Any] = {}
        if options.layers:
            compared = layers(run)
            print(f"\n{folder}: layers, on validation\n{compared.round(3).to_string(index=False)}")
            print(choice(run.model, compared), flush=True)
        elif options.films:
            films = read_films(options.films, run.preparation)
            explained = score_films(run, films, methods)
            print(f"\n{folder}: {len(films.images)} films of {options.films}\n{table(explained)}", flush=True)
        elif options.speed:
            print(f"\n{folder}\n{speed(run.model, run.scored.images[:N_TIMED]).round(2).to_string(index=False)}")
        elif not options.repeatability:
            explained, text = _table_of(run, methods)
            print(f"\n{folder}, {text}", flush=True)
        if options.output and explained:
            kind = "films" if options.films else "saliency"
            tables.write_json(explained, options.output / f"{kind}-{name}.json")
    if len(runs) > 1 and not (options.layers or options.films or options.speed):
        of_all = [name for name in lists[0] if all(name in names for names in lists)]
        print(f"\nnetworks of other seeds\n{repeatability(runs, of_all).round(3).to_string(index=False)}")
    if options.output:
        first = runs[0].scored
        maps = explain.maps(runs[0].model, lists[0], first.images[:1], n_samples=N_SAMPLES)
        titled = {verdicts.title(name): values[0] for name, values in maps.items()}
        plots.save(plots.saliency(first.images[0], titled, np.zeros((0, 4)), "methods"), options.output / "methods.png")


if __name__ == "__main__":
    main()
