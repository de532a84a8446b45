"""Saliency maps of test images, figures that say whether the maps can be trusted, and a gallery."""

from pneumonia import explain, params, workspace
from pneumonia.data import lung_boxes, tables, targets
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import open_store, stored_preparation
from pneumonia.images import geometry
from pneumonia.models import loading, runtime
from pneumonia.report import saliency
from pneumonia.tracking import runs
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, count, run, show, title, tracked, train_run


def main() -> None:
    settings = params.load()
    options, seed, target = settings.explain, settings.seed, targets.target(settings.target)
    runtime.start_keras()
    record = tables.read_json(MODELS_DIR / "run.json")
    trained = train_run(settings, record)
    model = loading.load_model(MODELS_DIR / "model.keras")
    methods = explain.known(options.methods, model)
    predictions = read_predictions(REPORTS_DIR / "predictions.csv")
    threshold = tables.read_json(REPORTS_DIR / "metrics.json")["threshold"]
    store = open_store(DATA_DIR / "images.zarr")
    findings, splits = (tables.read_table(DATA_DIR / name) for name in ("boxes.csv", "splits.csv"))
    preparation = geometry.Preparation(**stored_preparation(store))
    boxes = geometry.boxes_in_store(findings, splits, preparation, lung_boxes.read_all(store))
    with tracked("explain", settings, parent=trained.run_id, prepared=store.attrs):
        runs.tag(weights=record["weights"], data_digest=record["data_digest"])
        sample = explain.sampler(store, splits, boxes)
        scored = explain.choose_scored(predictions, boxes, options.n_scored, seed)
        explained = explain.score(
            model,
            methods,
            sample("test", scored),
            sample("val", explain.choose_checked(predictions, seed)),
            explain.mean_of_train_boxes(splits, boxes, preparation.size),
            n_samples=options.n_samples,
        )
        origins = lung_boxes.origins(store, "test")
        explained["lungs"] = lung_boxes.counts({name: origins[name] for name in scored if name in origins})
        shown = explain.choose_shown(predictions, threshold, options.n_images, seed)
        films = sample("test", list(shown["image_id"]))
        maps = explain.maps(model, methods, films.images, n_samples=options.n_samples)
        means = explain.mean_maps(maps[explained["default"]], films.lungs, shown["outcome"].to_numpy(), target)
        heading = title(settings)
        with workspace.written_whole(REPORTS_DIR / "saliency") as folder:
            folder.mkdir()
            index = saliency.write(
                folder,
                shown,
                films.images,
                films.lungs,
                maps,
                boxes,
                means,
                explained,
                threshold,
                heading,
                by_network=any(origins.get(name) == "found" for name in shown["image_id"]),
            )
        headline = explain.headline(explained)
        tables.write_json(explained, REPORTS_DIR / "explain.json")
        tables.write_json(headline, REPORTS_DIR / "saliency.json")
        runs.log_metrics({"saliency": explained["methods"], "baselines": explained["baselines"]})
        runs.log_table(index, "saliency.json")
        runs.log_file(REPORTS_DIR / "saliency", "saliency")
        runs.mirror(trained, {"saliency": headline}, {"saliency": REPORTS_DIR / "saliency"})
    print(f"{count(options.n_images, 'saliency picture')} and a gallery of {len(shown)} in reports/saliency")
    for line in explain.summary(explained):
        show(line, indent="  ")


if __name__ == "__main__":
    run(main)
