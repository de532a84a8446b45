"""Saliency maps of test images, and scores that show whether the maps point at the known findings."""

import numpy as np

from pneumonia import explain, params, workspace
from pneumonia.data import lung_boxes, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import open_store, read_split, stored_preparation
from pneumonia.images import geometry
from pneumonia.models import loading, runtime
from pneumonia.names import file_name
from pneumonia.report import plots
from pneumonia.tracking import runs
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, count, run, show, title, tracked, train_run


def main() -> None:
    settings = params.load()
    options = settings.explain
    runtime.start_keras()
    record = tables.read_json(MODELS_DIR / "run.json")
    trained = train_run(settings, record)
    model = loading.load_model(MODELS_DIR / "model.keras")
    predictions = read_predictions(REPORTS_DIR / "predictions.csv").set_index("image_id")
    store = open_store(DATA_DIR / "images.zarr")
    test = read_split(store, "test", memory=0)  # only a few images are read
    findings, splits = (tables.read_table(DATA_DIR / name) for name in ("boxes.csv", "splits.csv"))
    preparation = geometry.Preparation(**stored_preparation(store))
    boxes = geometry.boxes_in_store(findings, splits, preparation, lung_boxes.read(store, "test"))
    with tracked("explain", settings, parent=trained.run_id, prepared=store.attrs):
        runs.tag(weights=record["weights"], data_digest=record["data_digest"])
        chosen = explain.choose(predictions.reset_index(), options.n_images, settings.seed)
        images = explain.pick(test, chosen)
        maps = {
            name: method(model, images, n_samples=options.n_samples, seed=settings.seed)
            for name, method in explain.METHODS.items()
        }
        with workspace.written_whole(REPORTS_DIR / "saliency") as folder:
            folder.mkdir()
            for row, image_id in enumerate(chosen):
                prediction = predictions.loc[image_id]
                figure = plots.saliency(
                    images[row],
                    {name: values[row] for name, values in maps.items()},
                    boxes.get(image_id, np.zeros((0, 4))),
                    f"{title(settings)}, test: {image_id}, {prediction['subtype']}, score {prediction['score']:.3f}",
                )
                plots.save(figure, folder / file_name(image_id, ".png"))
        scored = explain.choose_scored(predictions.reset_index(), boxes, options.n_scored, settings.seed)
        scores = explain.score(
            model,
            explain.pick(test, scored),
            [boxes.get(name, np.zeros((0, 4))) for name in scored],
            n_samples=options.n_samples,
            seed=settings.seed,
        )
        tables.write_json(scores, REPORTS_DIR / "explain.json")
        runs.log_metrics(scores)
        runs.log_file(REPORTS_DIR / "saliency", "saliency")
        runs.mirror(trained, scores, {"saliency": REPORTS_DIR / "saliency"})
    print(f"{count(len(chosen), 'saliency picture')} in reports/saliency")
    for name, row in scores.items():
        pointing = "no known boxes"
        if "pointing_game" in row:
            pointing = (
                f"highest point in a box for {row['pointing_game']:.0%} of {count(row['n_boxed'], 'image')}, "
                f"{row['energy_in_box']:.0%} of the map in the boxes (which cover {row['box_area']:.0%})"
            )
        show(f"{name:10} {pointing}; {row['ms_per_image']:.1f} ms per image", indent="  ")


if __name__ == "__main__":
    run(main)
