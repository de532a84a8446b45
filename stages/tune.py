"""Search learning rate and dropout: an Optuna study, one nested MLflow run per trial."""

from pneumonia import backbone, dataset, models, params, plots, tracking, train, tune
from stages import DATA, REPORTS, run, title, tracked


def main() -> None:
    settings = params.load()
    models.start_keras(settings.seed)
    store = dataset.open_store(DATA / "images.zarr")
    weights = backbone.read(DATA / "backbone")
    recipe = train.Recipe(**settings.train.model_dump(exclude={"epochs", "patience", "members"}))
    memory = settings.compute.memory
    with tracked("tune", settings), models.on_devices():
        tracking.tag(weights=weights.name, data_digest=str(store.attrs["digest"]))
        best, trials = tune.search(
            settings.model,
            dataset.read_split(store, "train", memory=memory),
            dataset.read_split(store, "val", memory=memory),
            recipe,
            weights=weights.paths,
            seed=settings.seed,
            **settings.tune.model_dump(),
            trial_run=lambda number, values: tracking.child_run(f"trial-{number}", values, killed_by=tune.Pruned),
        )
        dataset.write_json(best, REPORTS / "tune" / "best.json")
        dataset.write_table(trials, REPORTS / "tune" / "trials.csv")
        tracking.log_metrics(best)
        if len(trials):
            tracking.log_table(trials, "trials.json")
            tracking.log_figure(plots.trials(trials, title(settings)), "plots/trials.png")
    pruned, failed = (int((trials["state"] == state).sum()) for state in ("pruned", "fail"))
    diverged = f", {failed} failed: their loss was not finite" if failed else ""
    print(f"{len(trials)} trials of {settings.model}, {pruned} pruned{diverged}")
    reached = f"trial {best['trial']}, validation AUC {best['val_auc']:.4f}" if len(trials) else "untried"
    print(f"best: learning_rate {best['learning_rate']:.2g}, dropout {best['dropout']:.2f}; {reached}")


if __name__ == "__main__":
    run(main)
