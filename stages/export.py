"""The model as a predictor: ONNX and one JSON, which give the reported score for an image file."""

from pneumonia import UserError, export, params, workspace
from pneumonia.data import sources, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import open_store, read_split, stored_preparation
from pneumonia.models import loading, networks, runtime
from pneumonia.models.predictor import Predictor
from pneumonia.saliency import verdicts
from pneumonia.tracking import runs
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, run, show, tracked, train_run


def main() -> None:
    settings = params.load()
    options, memory = settings.export, settings.compute.memory
    runtime.start_keras()
    record = tables.read_json(MODELS_DIR / "run.json")
    trained = train_run(settings, record)
    store = open_store(DATA_DIR / "images.zarr")
    val = read_split(store, "val", memory=memory)
    scores = read_predictions(REPORTS_DIR / "predictions.csv").set_index("image_id")["score"]
    with (
        tracked("export", settings, parent=trained.run_id, prepared=store.attrs),
        workspace.written_whole(MODELS_DIR / "predictor") as folder,
    ):
        folder.mkdir()
        content = export.facts(
            record,
            tables.read_json(REPORTS_DIR / "evaluation.json"),
            tables.read_json(REPORTS_DIR / "rebalance.json")["splits"],
            source=sources.source(record["data"])._asdict(),
            network=networks.MODELS[record["model"]].source,
            preparation=stored_preparation(store),
            usual=export.fit_usual(read_split(store, "train", memory=memory).images, val.images, options.false_alarms),
            explained=tables.read_json(REPORTS_DIR / "explain.json"),
        )
        model = loading.load_model(MODELS_DIR / "model.keras")
        network, known = export.convert(model), scores.loc[val.image_ids].to_numpy()
        maps, why_not = b"", ""
        if not verdicts.is_excluded(content["saliency"]["verdict"]):
            try:
                maps = export.convert_maps(model, content["saliency"]["method"], network, val.images, known)
            except UserError as error:
                why_not = str(error)
        export.write(folder, network, content, maps)
        exported = Predictor(folder)
        difference = export.require_same_scores(exported, val.images, known, options.max_difference)
        runs.tag(predictor_digest=exported.digest, weights=record["weights"], data_digest=record["data_digest"])
        runs.log_metrics({"export": {"max_difference": difference}})
        runs.log_file(folder / "predictor.json")
    show(
        f"models/predictor: scores of {len(val.labels)} validation images differ from Keras by at most "
        f"{difference:.1g}, all decisions are equal"
    )
    if why_not:
        show(f"saliency maps of predictions need TensorFlow: {why_not}", indent="  ")


if __name__ == "__main__":
    run(main)
