"""Search learning rate and dropout: an Optuna study, one nested MLflow run per trial."""

from pneumonia import backbone, dataset, models, params, plots, tracking, tune
from stages import DATA, REPORTS, run, title, tracked


def main() -> None:
    settings = params.load()
    models.start_keras(settings.seed)
    store = dataset.open_store(DATA / "images.zarr")
    weights = backbone.read(DATA / "backbone")
    with tracked("tune", settings):
        tracking.tag(weights=weights.name, data_digest=str(store.attrs["digest"]))
        best, trials = tune.search(
            settings.model,
            dataset.read_split(store, "train"),
            dataset.read_split(store, "val"),
            weights=weights.paths,
            seed=settings.seed,
            **settings.tune.model_dump(),
            batch_size=settings.train.batch_size,
            weight_decay=settings.train.weight_decay,
            augment=settings.train.augment,
            label_smoothing=settings.train.label_smoothing,
            average=settings.train.average,
            trial_run=lambda number, values: tracking.child_run(f"trial-{number}", values, killed_by=tune.Pruned),
        )
        dataset.write_json(best._asdict(), REPORTS / "tune" / "best.json")
        dataset.write_table(trials, REPORTS / "tune" / "trials.csv")
        tracking.log_metrics(best._asdict())
        tracking.log_table(trials, "trials.json")
        tracking.log_figure(plots.trials(trials, title(settings)), "plots/trials.png")
    pruned = int((trials["state"] == "pruned").sum())
    print(f"{len(trials)} trials of {settings.model}, {pruned} pruned")
    print(
        f"best: trial {best.trial}, validation AUC {best.val_auc:.4f} with learning_rate {best.learning_rate:.2g}, "
        f"dropout {best.dropout:.2f}"
    )


if __name__ == "__main__":
    run(main)
