"""Bring the archive, or make the phantom: one zip, one manifest row per image, the known boxes."""

from pneumonia import dataset, fetch, params, tracking
from stages import DATA, run, tracked


def main() -> None:
    settings = params.load()
    row = fetch.source(settings.data)
    with tracked("fetch", settings):
        manifest, boxes = fetch.fetch(
            settings.data, DATA / "raw", **settings.fetch.model_dump(), workers=settings.compute.workers
        )
        dataset.write_table(manifest, DATA / "manifest.csv")
        dataset.write_table(boxes, DATA / "boxes.csv")
        tracking.log_dataset(
            manifest["image_id"],
            manifest["label"],
            data=settings.data,
            digest=dataset.digest(manifest),
            context="fetch",
        )
        arrived = dataset.sha256_file(DATA / "raw" / f"{settings.data}.zip")
        tracking.tag(licence=row.licence, citation=row.citation, archive_sha256=arrived)
        tracking.log_metrics({"n_images": len(manifest), "n_pneumonia": manifest["label"].sum(), "n_boxes": len(boxes)})
    print(f"{settings.data}: {row.title} ({row.licence})")
    counts = ", ".join(f"{n} {subtype}" for subtype, n in manifest["subtype"].value_counts().items())
    print(f"{len(manifest)} images of {manifest['patient_id'].nunique()} patients ({counts}), {len(boxes)} boxes")


if __name__ == "__main__":
    run(main)
