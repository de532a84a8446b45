"""Train the chosen model with the best hyper-parameters of `tune`."""

from contextlib import nullcontext

from pneumonia import code_digest, params, train, workspace
from pneumonia.data import tables
from pneumonia.data.store import balance, n_networks, open_store, read_folds, read_split, stored_preparation
from pneumonia.models import backbones, ensembles, networks, runtime, scoring
from pneumonia.report import plots
from pneumonia.tracking import runs
from pneumonia.training.recipe import Recipe, Schedule
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, count, run, show, title, tracked


def main() -> None:
    settings = params.load()
    runtime.start_keras(settings.seed)
    store = open_store(DATA_DIR / "images.zarr")
    values = tables.read_json(REPORTS_DIR / "tune" / "best.json")["values"]
    weights = backbones.read(DATA_DIR / "backbone")
    n, preparation = n_networks(store), stored_preparation(store)
    recipe = Recipe(**settings.train.model_dump(exclude={"epochs", "patience"})).with_values(values)
    recipe = recipe.for_weights(weights.paths)
    network = (settings.model, weights.paths, values["dropout"])
    ends = (settings.train.epochs, settings.train.patience)
    schedule = Schedule(*ends, values["learning_rate"], settings.seed, values.get("head_learning_rate"))
    digest, selectors = str(store.attrs["digest"]), (settings.model, settings.seed)
    # The digest of the data does not include image weights; the weights of a backbone can change under the same name.
    backbone_record = tables.read_json(DATA_DIR / "backbone" / "backbone.json")
    key = (selectors, settings.train, values, backbone_record, dict(store.attrs), balance(store), code_digest())
    folder = workspace.resumable("train", *key)
    with folder as resume, tracked("train", settings, resume=resume, prepared=store.attrs) as run_id:
        runs.tag(weights=weights.name)
        runs.log_params(values)
        labelled = read_split(store, "train", memory=0)  # without its images
        dataset = {"data": settings.data, "target": settings.target, "digest": digest, "context": "train"}
        runs.log_dataset(labelled.image_ids, labelled.labels, **dataset)
        with runtime.on_devices():
            members, history = train.fit_folds(
                lambda split: train.start(*network, split, size=recipe.image_size, box_weight=recipe.box_weight),
                n,
                read_folds(store, memory=settings.compute.memory),
                recipe,
                schedule,
                resume=resume,
                run=runs.fold_run if n > 1 else lambda *_: nullcontext(runs.log_epoch),
            )
        model = ensembles.ensemble(members)
        scoring.save_model(model, MODELS_DIR / "model.keras")
        tables.write_table(history, REPORTS_DIR / "history.csv")
        record = {
            "run_id": run_id,
            "model_id": runs.log_model(model, MODELS_DIR / "model.keras"),
            "model_sha256": workspace.sha256_file(MODELS_DIR / "model.keras"),
            "weights": weights.name,
            **{name: getattr(settings, name) for name in ("data", "model", "target")},
            "data_digest": digest,
            "preparation": preparation,
            "made_with": runtime.made_with(),
        }
        runs.tag(model_id=record["model_id"])
        several, layers = f"each of {n} networks: " * (n > 1), networks.summary(members[0])
        runs.log_table(layers, "architecture.json")
        runs.log_figure(plots.architecture(layers, f"{several}{settings.model}"), "plots/architecture.png")
        runs.log_figure(plots.history(history, title(settings)), "plots/history.png")
        tables.write_json(record, MODELS_DIR / "run.json")
    kept = [f"epoch {row.epoch} with validation AUC {row.val_auc:.4f}" for row in history[history["kept"]].itertuples()]
    show(
        f"{settings.model} ({model.count_params():,} parameters, backbone weights: {weights.name}): "
        f"{count(len(history), 'epoch')}, kept {', '.join(kept)}"
    )


if __name__ == "__main__":
    run(main)
