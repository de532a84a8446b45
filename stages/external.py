"""Fetch, check and prepare the external test sets of params.yaml; without any, write an empty store."""

from pneumonia import code_digest, external, params, workspace
from pneumonia.data import forgotten, sources, tables, targets
from pneumonia.data.store import open_store, stored_preparation
from pneumonia.images.geometry import Preparation
from stages import DATA_DIR, run, show, tracked


def main() -> None:
    settings = params.load()
    rules = {
        "classes": settings.fetch.classes,
        "max_left_out": settings.fetch.max_left_out,
        **settings.validation.model_dump(),
    }
    target = targets.target(settings.target)
    machines = {"workers": settings.compute.workers, "dask": settings.compute.dask}
    chosen = [external.Source(**one) for one in settings.external.model_dump()["sources"]]
    store = open_store(DATA_DIR / "images.zarr")
    preparation = Preparation(**stored_preparation(store))
    if not chosen:  # without an MLflow run: its import takes longer than this
        external.write({}, DATA_DIR, preparation, **machines)
        print("external.sources is empty: no external test")
        return
    from pneumonia.tracking import runs  # worker processes import this file too

    for one in chosen:
        sources.require_external(*one)
    splits = tables.read_table(DATA_DIR / "splits.csv")
    key = (chosen, rules, target.name, workspace.sha256_file(DATA_DIR / "splits.csv"), preparation, code_digest())
    with (
        tracked("external", settings, prepared=store.attrs),
        workspace.resumable("external", *key) as resume,
    ):
        removed = forgotten.read(workspace.project_root())
        parts = {
            one.name: external.collect(one, splits, **rules, **machines, resume=resume, removed=removed, target=target)
            for one in chosen
        }
        films = external.write(parts, DATA_DIR, preparation, **machines, resume=resume)
        tested = films[films["left_out"].eq("")]
        named = {"data": "external", "target": target.name, "digest": tables.data_digest(tested)}
        runs.log_dataset(tested["image_id"], tested["label"], context="external", **named)
        runs.log_table(films.loc[films["left_out"].ne(""), ["image_id", "left_out"]], "left_out.json")
    for name, part in parts.items():
        for line in external.in_words(name, part, target):
            show(line)


if __name__ == "__main__":
    run(main)
