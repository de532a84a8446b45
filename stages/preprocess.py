"""Prepare every image of the splits (gray, one size, CLAHE) and write it to one Zarr store."""

import time

import pandas as pd

from pneumonia import code_digest, params, preprocess, workspace
from pneumonia.data import lung_boxes, tables
from pneumonia.data.store import open_store
from pneumonia.images import decode, geometry, lungs
from stages import DATA_DIR, count, origin, run, show, tracked

N_EXAMPLES = 6


def main() -> None:
    # Not at the top: worker processes import this file too.
    from pneumonia.report import plots
    from pneumonia.tracking import runs

    settings = params.load()
    preparation = geometry.Preparation.from_settings(**settings.preprocess.model_dump())
    splits = tables.read_table(DATA_DIR / "splits.csv")
    digest = tables.data_digest(splits)
    key = (
        *(workspace.sha256_file(DATA_DIR / f"{name}.csv") for name in ("splits", "boxes")),
        preparation,
        code_digest(),
    )
    with tracked("preprocess", settings), workspace.resumable("preprocess", *key) as resume:
        runs.tag(data_digest=digest)
        examples = splits.groupby("label").head(N_EXAMPLES // 2)
        pairs = [(decode.read_image(row.uri), row.image_id) for row in examples.itertuples()]
        pictures = [
            (image, geometry.prepare(image, preparation, lungs.box(image, preparation)), name) for image, name in pairs
        ]
        runs.log_figure(
            plots.before_after(pictures, f"{origin(settings)}: source images above, prepared below"),
            "plots/before_after.png",
        )
        start = time.perf_counter()
        n_prepared = preprocess.write_store(
            splits,
            DATA_DIR / "images.zarr",
            preparation,
            workers=settings.compute.workers,
            dask=settings.compute.dask,
            attributes={"data": settings.data, "digest": digest},
            resume=resume,
            boxes=tables.read_table(DATA_DIR / "boxes.csv"),
        )
        without = lung_boxes.problems(open_store(DATA_DIR / "images.zarr"))
        rate = n_prepared / (time.perf_counter() - start)
        runs.log_metrics({"preprocess": {"images_per_second": rate, "without_lungs": len(without)}})
        if without:
            table = pd.DataFrame({"image_id": without.keys(), "reason": without.values()})
            runs.log_table(table, "without_lungs.json")
    n_kept = len(splits) - n_prepared
    print(f"{count(len(splits), 'image')} at {preparation.size} px in data/images.zarr, {rate:.0f} images/s")
    if without:
        show(preprocess.in_words(list(without), preparation))
    if n_kept:
        print(f"{n_kept} of them come from an earlier interrupted run")


if __name__ == "__main__":
    run(main)
