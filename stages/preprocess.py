"""Gray, one size, CLAHE: every image of the splits into one Zarr store."""

import time

from pneumonia import code_digest, dataset, params, preprocess
from stages import DATA, origin, run, tracked

N_SHOWN = 6


def main() -> None:
    from pneumonia import plots, tracking  # not above: worker processes import this file too, and would wait for it

    settings = params.load()
    how = settings.preprocess
    splits = dataset.read_table(DATA / "splits.csv")
    digest = dataset.digest(splits)
    look = {"size": how.image_size, **how.model_dump(exclude={"image_size"})}
    key = (dataset.sha256_file(DATA / "splits.csv"), look, code_digest())
    with tracked("preprocess", settings), dataset.resumable("preprocess", *key) as resume:
        tracking.tag(data_digest=digest)
        shown = splits.groupby("label").head(N_SHOWN // 2)
        pairs = [(dataset.read_image(row.uri), row.image_id) for row in shown.itertuples()]
        sheet = [(image, preprocess.prepare(image, **look), name) for image, name in pairs]
        tracking.log_figure(
            plots.before_after(sheet, f"{origin(settings)}: source images above, prepared below"),
            "plots/before_after.png",
        )
        start = time.perf_counter()
        n_prepared = preprocess.write_store(
            splits,
            DATA / "images.zarr",
            **look,
            workers=settings.compute.workers,
            dask=settings.compute.dask,
            attributes={"data": settings.data, "digest": digest, "prepared": look},
            resume=resume,
        )
        rate = n_prepared / (time.perf_counter() - start)
        tracking.log_metrics({"images_per_second": rate, "n_images": len(splits)})
    kept = len(splits) - n_prepared
    print(f"{len(splits)} images at {how.image_size} px in data/images.zarr, {rate:.0f} images/s")
    if kept:
        print(f"{kept} of them were finished by a run that was cut off")


if __name__ == "__main__":
    run(main)
