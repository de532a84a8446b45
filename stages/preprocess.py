"""Gray, one size, CLAHE: every image of the splits into one Zarr store."""

import time

from pneumonia import code_digest, params, preprocess, workspace
from pneumonia.data import tables
from pneumonia.images import decode, geometry
from stages import DATA_DIR, origin, run, tracked

N_SHOWN = 6


def main() -> None:
    # Not above: worker processes import this file too, and would wait for it.
    from pneumonia.report import plots
    from pneumonia.tracking import runs

    settings = params.load()
    preparation = geometry.Preparation.from_settings(**settings.preprocess.model_dump())
    splits = tables.read_table(DATA_DIR / "splits.csv")
    digest = tables.data_digest(splits)
    key = (workspace.sha256_file(DATA_DIR / "splits.csv"), preparation, code_digest())
    with tracked("preprocess", settings), workspace.resumable("preprocess", *key) as resume:
        runs.tag(data_digest=digest)
        shown = splits.groupby("label").head(N_SHOWN // 2)
        pairs = [(decode.read_image(row.uri), row.image_id) for row in shown.itertuples()]
        sheet = [(image, geometry.prepare(image, preparation), name) for image, name in pairs]
        runs.log_figure(
            plots.before_after(sheet, f"{origin(settings)}: source images above, prepared below"),
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
        )
        rate = n_prepared / (time.perf_counter() - start)
        runs.log_metrics({"images_per_second": rate, "n_images": len(splits)})
    kept = len(splits) - n_prepared
    print(f"{len(splits)} images at {preparation.size} px in data/images.zarr, {rate:.0f} images/s")
    if kept:
        print(f"{kept} of them were finished by a run that was cut off")


if __name__ == "__main__":
    run(main)
