"""The model as a predictor: ONNX and one JSON, which give the reported score for an image file."""

from pneumonia import export, params, workspace
from pneumonia.data import lung_boxes, sources, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import n_networks, open_store, read_fold_numbers, read_folds, stored_preparation
from pneumonia.models import loading, networks, runtime, scoring
from pneumonia.models.predictor import Predictor
from pneumonia.tracking import runs
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, run, show, tracked, train_run


def main() -> None:
    settings = params.load()
    options, memory = settings.export, settings.compute.memory
    runtime.start_keras()
    record = tables.read_json(MODELS_DIR / "run.json")
    trained = train_run(settings, record)
    store = open_store(DATA_DIR / "images.zarr")
    with (
        tracked("export", settings, parent=trained.run_id, prepared=store.attrs),
        workspace.written_whole(MODELS_DIR / "predictor") as folder,
    ):
        folder.mkdir()
        model = loading.load_model(MODELS_DIR / "model.keras")
        train, val = next(read_folds(store, memory=memory))
        shares = lung_boxes.shares(store, "train")
        if n_networks(store) == 1:
            of_val = lung_boxes.shares(store, "val")
            shares_of_both = None if shares is None or of_val is None else (shares, of_val)
            usual = export.fit_usual(train.images, val.images, options.false_alarms, shares_of_both)
            predictions = read_predictions(REPORTS_DIR / "predictions.csv").set_index("image_id")
            scores = predictions["score"].loc[val.image_ids].to_numpy()
        else:  # the scores in the table are of single networks
            usual = export.fit_usual_in_folds(train.images, read_fold_numbers(store), options.false_alarms, shares)
            scores = scoring.predict_scores(model, val.images)
        evaluation = tables.read_json(REPORTS_DIR / "evaluation.json")
        outside, films = open_store(DATA_DIR / "external.zarr"), tables.read_table(DATA_DIR / "external.csv")
        elsewhere = export.external(evaluation, usual, outside, films, memory=memory)
        content = export.facts(
            record,
            evaluation,
            tables.read_json(REPORTS_DIR / "rebalance.json"),
            source=sources.source(record["data"])._asdict(),
            network=networks.MODELS[record["model"]].source,
            preparation=stored_preparation(store),
            usual=usual,
            explained=tables.read_json(REPORTS_DIR / "explain.json"),
            outside=elsewhere,
        )
        network = export.convert(model)
        maps, why_not = export.maps_or_reason(model, content["saliency"], network, val.images, scores)
        export.write(folder, network, content, maps)
        exported = Predictor(folder)
        difference = export.require_same_scores(exported, val.images, scores, options.max_difference)
        export.require_same_boxes(exported, model, val.images)
        runs.tag(predictor_digest=exported.digest, weights=record["weights"], data_digest=record["data_digest"])
        unusual = {f"external_{name}": {"unusual": part["unusual"]} for name, part in elsewhere.items()}
        runs.log_metrics({"export": {"max_difference": difference}, **unusual})
        runs.log_file(folder / "predictor.json")
    show(
        f"models/predictor: scores of {len(val.labels)} validation images differ from Keras by at most "
        f"{difference:.1g}, all decisions are equal"
    )
    if why_not:
        show(f"saliency maps of predictions need TensorFlow: {why_not}", indent="  ")


if __name__ == "__main__":
    run(main)
