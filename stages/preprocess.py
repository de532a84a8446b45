"""Gray, one size, CLAHE: every image of the splits into one Zarr store."""

import time

from pneumonia import dataset, params, plots, preprocess, tracking
from stages import DATA, origin, run, tracked

N_SHOWN = 6


def main() -> None:
    settings = params.load()
    how = settings.preprocess
    splits = dataset.read_table(DATA / "splits.csv")
    digest = dataset.digest(splits)
    geometry = {"size": how.image_size, "aspect": how.aspect}
    contrast = {"clip_limit": how.clip_limit, "tile_grid": how.tile_grid}
    with tracked("preprocess", settings):
        tracking.tag(data_digest=digest)
        start = time.perf_counter()
        preprocess.write_store(
            splits,
            DATA / "images.zarr",
            **geometry,
            **contrast,
            workers=settings.compute.workers,
            attributes={"data": settings.data, "digest": digest},
        )
        rate = len(splits) / (time.perf_counter() - start)
        shown = splits.groupby("label").head(N_SHOWN // 2)
        pairs = [(dataset.read_image(row.uri), row.image_id) for row in shown.itertuples()]
        sheet = [(image, preprocess.prepare(image, **geometry, **contrast), name) for image, name in pairs]
        tracking.log_figure(
            plots.before_after(sheet, f"{origin(settings)}: source images above, prepared below"),
            "plots/before_after.png",
        )
        tracking.log_metrics({"images_per_second": rate, "n_images": len(splits)})
    print(f"{len(splits)} images at {how.image_size} px in data/images.zarr, {rate:.0f} images/s")


if __name__ == "__main__":
    run(main)
