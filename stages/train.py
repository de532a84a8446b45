"""Fit the chosen model with the best settings found."""

from pneumonia import backbone, code_digest, dataset, models, params, plots, tracking, train
from stages import DATA, MODELS, REPORTS, run, title, tracked


def main() -> None:
    settings = params.load()
    models.start_keras(settings.seed)
    store = dataset.open_store(DATA / "images.zarr")
    best = dataset.read_json(REPORTS / "tune" / "best.json")
    weights = backbone.read(DATA / "backbone")
    memory = settings.compute.memory
    train_split = dataset.read_split(store, "train", memory=memory)
    recipe = train.Recipe(**settings.train.model_dump(exclude={"epochs", "patience", "members"}))
    digest = str(store.attrs["digest"])
    # The weights of images are no part of the data's digest, those of the backbone may be others under the same name.
    shown = dataset.sha256_bytes(train_split.weights.tobytes() + train_split.repeats.tobytes())
    brought = dataset.read_json(DATA / "backbone" / "backbone.json")
    selected = (settings.model, settings.weights, settings.seed)
    key = (selected, settings.train, best, brought, dict(store.attrs), shown, code_digest())
    with dataset.resumable("train", *key) as resume, tracked("train", settings, resume=resume) as run_id:
        tracking.tag(weights=weights.name)
        tracking.log_params({"learning_rate": best["learning_rate"], "dropout": best["dropout"]})
        tracking.log_dataset(
            train_split.image_ids, train_split.labels, data=settings.data, digest=digest, context="train"
        )
        with models.on_devices():
            networks, history = train.fit_members(
                lambda: train.start(
                    settings.model, weights=weights.paths, dropout=best["dropout"], images=train_split.images
                ),
                settings.train.members,
                train_split,
                dataset.read_split(store, "val", memory=memory),
                recipe,
                seed=settings.seed,
                epochs=settings.train.epochs,
                patience=settings.train.patience,
                learning_rate=best["learning_rate"],
                resume=resume,
                pretrained=bool(weights.paths),
                report=lambda epoch, values: tracking.log_metrics(values, step=epoch),
            )
        model = models.ensemble(networks)
        models.save_model(model, MODELS / "model.keras")
        dataset.write_table(history, REPORTS / "history.csv")
        record = {
            "run_id": run_id,
            "model_id": tracking.log_model(model),
            "model_sha256": dataset.sha256_file(MODELS / "model.keras"),
            "weights": weights.name,
            "data": settings.data,
            "model": settings.model,
            "data_digest": digest,
            "made_with": models.made_with(),
        }
        tracking.tag(model_id=record["model_id"])
        several = f"each of {len(networks)} networks: " if len(networks) > 1 else ""
        layers = models.summary(networks[0])
        tracking.log_table(layers, "architecture.json")
        tracking.log_figure(plots.architecture(layers, f"{several}{settings.model}"), "plots/architecture.png")
        tracking.log_figure(plots.history(history, title(settings)), "plots/history.png")
        dataset.write_json(record, MODELS / "run.json")
    kept = [f"epoch {row.epoch} with validation AUC {row.val_auc:.4f}" for row in history[history["kept"]].itertuples()]
    print(
        f"{settings.model} ({model.count_params():,} parameters, backbone weights: {weights.name}): "
        f"{len(history)} epochs, kept {', '.join(kept)}"
    )


if __name__ == "__main__":
    run(main)
