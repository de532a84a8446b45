"""Bring the archive, or make the phantom: one zip, one manifest row per image, the known boxes."""

from pneumonia import fetch, params, workspace
from pneumonia.data import sources, tables
from stages import DATA_DIR, run, tracked


def main() -> None:
    from pneumonia.tracking import runs  # not above: worker processes import this file too, and would wait for it

    settings = params.load()
    row = sources.source(settings.data)
    with tracked("fetch", settings), workspace.resumable("fetch", settings.data, settings.fetch.url) as resume:
        manifest, boxes, record = fetch.fetch(
            settings.data,
            DATA_DIR / "raw",
            **settings.fetch.model_dump(),
            workers=settings.compute.workers,
            resume=resume,
        )
        tables.write_table(manifest, DATA_DIR / "manifest.csv")
        tables.write_table(boxes, DATA_DIR / "boxes.csv")
        runs.log_dataset(
            manifest["image_id"],
            manifest["label"],
            data=settings.data,
            digest=tables.data_digest(manifest),
            context="fetch",
        )
        runs.tag(licence=row.licence, citation=row.citation, archive_sha256=record.get("sha256", "used in place"))
        runs.log_metrics({"n_images": len(manifest), "n_pneumonia": manifest["label"].sum(), "n_boxes": len(boxes)})
    print(f"{settings.data}: {row.title} ({row.licence})")
    counts = ", ".join(f"{n} {subtype}" for subtype, n in manifest["subtype"].value_counts().items())
    print(f"{len(manifest)} images of {manifest['patient_id'].nunique()} patients ({counts}), {len(boxes)} boxes")
    print(f"patient: {row.patients}")
    if manifest["patient_id"].nunique() == len(manifest):
        print("NOTE: each image counts as a patient of its own; images of one patient may land in train and test")
    if row.n_images not in (0, len(manifest)):
        print(f"NOTE: the published set has {row.n_images:,} images, this one {len(manifest):,}")


if __name__ == "__main__":
    run(main)
