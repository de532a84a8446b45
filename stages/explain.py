"""Saliency maps of test images, and scores that say whether they point at the known findings."""

import numpy as np

from pneumonia import dataset, explain, models, params, plots, preprocess, tracking
from stages import DATA, MODELS, REPORTS, run, title, tracked, train_run


def main() -> None:
    settings = params.load()
    how = settings.explain
    geometry = {
        "size": settings.preprocess.image_size,
        "aspect": settings.preprocess.aspect,
        "crop": settings.preprocess.crop,
    }
    models.start_keras()
    record = dataset.read_json(MODELS / "run.json")
    model = models.load_model(MODELS / "model.keras")
    predictions = dataset.read_table(REPORTS / "predictions.csv").set_index("image_id")
    test = dataset.read_split(dataset.open_store(DATA / "images.zarr"), "test", memory=0)  # few of them are looked at
    boxes = preprocess.boxes_in_store(
        dataset.read_table(DATA / "boxes.csv"), dataset.read_table(DATA / "splits.csv"), **geometry
    )
    trained = train_run(settings, record)
    with tracked("explain", settings, parent=trained.run_id):
        tracking.tag(weights=record["weights"], data_digest=record["data_digest"])
        shown = explain.choose(predictions.reset_index(), how.n_images, settings.seed)
        images = explain.pick(test, shown)
        maps = {
            name: method(model, images, n_samples=how.n_samples, seed=settings.seed)
            for name, method in explain.METHODS.items()
        }
        with dataset.written_whole(REPORTS / "saliency") as folder:
            folder.mkdir()
            for row, image_id in enumerate(shown):
                found = predictions.loc[image_id]
                figure = plots.saliency(
                    images[row],
                    {name: values[row] for name, values in maps.items()},
                    boxes.get(image_id, np.zeros((0, 4))),
                    f"{title(settings)}, test: {image_id}, {found['subtype']}, score {found['score']:.3f}",
                )
                plots.save(figure, folder / f"{image_id.replace('/', '_')}.png")
        scored = explain.choose_scored(predictions.reset_index(), boxes, how.n_scored, settings.seed)
        scores = explain.score(
            model,
            explain.pick(test, scored),
            [boxes.get(name, np.zeros((0, 4))) for name in scored],
            n_samples=how.n_samples,
            seed=settings.seed,
        )
        dataset.write_json(scores, REPORTS / "explain.json")
        tracking.log_metrics(scores)
        tracking.log_file(REPORTS / "saliency", "saliency")
        tracking.mirror(trained, scores, {"saliency": REPORTS / "saliency"})
    print(f"{len(shown)} saliency pictures in reports/saliency")
    for name, row in scores.items():
        pointing = "no known boxes to score against"
        if "pointing_game" in row:
            pointing = (
                f"highest point in a box for {row['pointing_game']:.0%} of {row['n_boxed']} images, "
                f"{row['energy_in_box']:.0%} of the map in the boxes (which cover {row['box_area']:.0%})"
            )
        print(f"  {name:10} {pointing}; {row['ms_per_image']:.1f} ms per image")


if __name__ == "__main__":
    run(main)
