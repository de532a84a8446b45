"""Search learning rate and dropout: an Optuna study, one nested MLflow run per trial."""

from pneumonia import params, tune
from pneumonia.data import tables
from pneumonia.data.store import open_store, read_split
from pneumonia.models import backbones, runtime
from pneumonia.report import plots
from pneumonia.tracking import runs
from pneumonia.training.recipe import Recipe
from stages import DATA_DIR, REPORTS_DIR, count, run, show, title, tracked


def main() -> None:
    settings = params.load()
    runtime.start_keras(settings.seed)
    store = open_store(DATA_DIR / "images.zarr")
    weights = backbones.read(DATA_DIR / "backbone")
    recipe = Recipe(**settings.train.model_dump(exclude={"epochs", "patience", "members"}))
    memory = settings.compute.memory
    with tracked("tune", settings, prepared=store.attrs), runtime.on_devices():
        runs.tag(weights=weights.name, data_digest=str(store.attrs["digest"]))
        best, trials = tune.search(
            settings.model,
            read_split(store, "train", memory=memory),
            read_split(store, "val", memory=memory),
            recipe,
            weights=weights.paths,
            seed=settings.seed,
            **settings.tune.model_dump(),
            trial_run=lambda number, values: runs.child_run(f"trial-{number}", values, killed_by=tune.Pruned),
        )
        tables.write_json(best, REPORTS_DIR / "tune" / "best.json")
        tables.write_table(trials, REPORTS_DIR / "tune" / "trials.csv")
        runs.log_metrics(best)
        if len(trials):
            runs.log_table(trials, "trials.json")
            runs.log_figure(plots.trials(trials, title(settings)), "plots/trials.png")
    pruned, failed = (int((trials["state"] == state).sum()) for state in ("pruned", "fail"))
    diverged = f", {failed} failed (loss not finite)" if failed else ""
    print(f"{count(len(trials), 'trial')} of {settings.model}, {pruned} pruned{diverged}")
    result = f"trial {best['trial']}, validation AUC {best['val_auc']:.4f}" if len(trials) else "not tried"
    show(f"best: learning_rate {best['learning_rate']:.2g}, dropout {best['dropout']:.2f}; {result}")


if __name__ == "__main__":
    run(main)
