"""Search the hyper-parameters: an Optuna study, one nested MLflow run per trial."""

import os

from pneumonia import code_digest, credentials, params, tune, workspace
from pneumonia.data import tables
from pneumonia.data.store import balance, open_store
from pneumonia.models import backbones, boxed, networks, runtime
from pneumonia.report import search
from pneumonia.tracking import runs
from pneumonia.training.recipe import Recipe, Schedule
from pneumonia.tuning import study
from stages import DATA_DIR, REPORTS_DIR, run, show, title, tracked


def main() -> None:
    settings = params.load()
    boxed.require_for_maps(settings.explain.methods, settings.model, settings.train.box_weight, settings.tune.space)
    runtime.start_keras(settings.seed)
    store, weights = open_store(DATA_DIR / "images.zarr"), backbones.read(DATA_DIR / "backbone")
    defaults, space = networks.search_space(settings.model, pretrained=bool(weights.paths))
    plan = tune.Plan(**settings.tune.model_dump() | {"space": settings.tune.space or space})
    recipe = Recipe(**settings.train.model_dump(exclude={"epochs", "patience"}))
    schedule = Schedule(settings.train.epochs, settings.train.epochs, defaults["learning_rate"], settings.seed)
    # All that a trial depends on; more trials of the same study may follow.
    data = repr((dict(store.attrs), balance(store)))
    backbone, searched = tables.read_json(DATA_DIR / "backbone" / "backbone.json"), plan._replace(n_trials=0)
    key = (settings.model, recipe, schedule, searched, backbone, data, code_digest())
    with (
        workspace.resumable("tune", *key) as folder,
        tracked("tune", settings, prepared=store.attrs, resume=folder),
        runtime.on_devices(),
    ):
        runs.tag(weights=weights.name, data_digest=str(store.attrs["digest"]))
        found = tune.search(
            tune.Task(
                settings.model,
                tuple(path.absolute() for path in weights.paths),
                tune.Stored((DATA_DIR / "images.zarr").absolute(), settings.compute.memory, data),
                recipe,
                schedule,
                folder,
            ),
            plan,
            defaults={**recipe._asdict(), **defaults},
            place=study.Place(
                folder,
                url=settings.compute.study_storage or "",
                password=os.environ.get(credentials.STUDY_PASSWORD, ""),
                name=f"pneumonia-{folder.name}",
            ),
            trial_run=lambda name, values: runs.child_run(name, values, killed_by=tune.Pruned),
            workers=settings.compute.trial_workers,
            dask=settings.compute.dask,
        )
        tables.write_json(found.best, REPORTS_DIR / "tune" / "best.json")
        tables.write_table(found.trials, REPORTS_DIR / "tune" / "trials.csv")
        tables.write_table(found.curves, REPORTS_DIR / "tune" / "curves.csv")
        page = REPORTS_DIR / "tune" / "study.html"
        for name, figure in search.write(page, *found, title(settings)):
            runs.log_figure(figure, f"plots/{name}.png")
        runs.log_file(page)
        if (folder / study.JOURNAL).is_file():
            runs.log_file(folder / study.JOURNAL)
        if len(found.trials):
            runs.log_table(found.trials, "trials.json")
        runs.tag(verdict=found.best["verdict"], best_trial=str(found.best.get("trial", "none")))
        if "trial" in found.best:
            runs.log_metrics({"search": {name: found.best[name] for name in found.best if name.startswith("val_")}})
    for line in tune.summary(found, settings.model, list(plan.space)):
        show(line)


if __name__ == "__main__":
    run(main)
