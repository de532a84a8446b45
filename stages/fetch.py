"""Download the archive or generate the phantom: one zip, one manifest row per image, the known boxes."""

from pneumonia import credentials, fetch, params, workspace
from pneumonia.data import forgotten, sources, tables
from pneumonia.models import boxed
from stages import DATA_DIR, count, run, show, tracked


def main() -> None:
    from pneumonia.tracking import runs  # not at the top: worker processes import this file too

    settings = params.load()
    row = sources.source(settings.data)
    for one in settings.external.sources:  # not only after hours of other stages
        sources.require_external(one.name, one.data, one.url)
    # They decide about no out: another model fetches nothing again.
    learns_boxes = boxed.learns_boxes(settings.model, settings.train.box_weight, settings.tune.space)
    if learns_boxes:
        sources.require_boxes(settings.data)
    with tracked("fetch", settings), workspace.resumable("fetch", settings.data, settings.fetch.url) as resume:
        manifest, boxes, record = fetch.fetch(
            settings.data,
            DATA_DIR / "raw",
            **settings.fetch.model_dump(),
            workers=settings.compute.workers,
            resume=resume,
            credentials=credentials.from_environment(),
            removed=forgotten.read(workspace.project_root()),
            needs_boxes=learns_boxes,
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
        counts = manifest.groupby(["source_split", "label", "subtype"], dropna=False).size().reset_index(name="images")
        runs.log_table(counts, "images.json")
    show(f"{settings.data}: {row.title} ({row.licence})")
    counts = ", ".join(f"{n} {subtype}" for subtype, n in manifest["subtype"].value_counts().items())
    patients = count(manifest["patient_id"].nunique(), "patient")
    show(f"{count(len(manifest), 'image')} of {patients} ({counts}), {count(len(boxes), 'box', 'boxes')}")
    show(f"patient: {row.patients}")
    for sentence in (fetch.official_splits(manifest), fetch.unidentified(manifest)):
        if sentence:
            show(sentence)
    if row.n_images not in (0, len(manifest)):
        print(f"NOTE: the published data set has {row.n_images:,} images, this one has {len(manifest):,}")


if __name__ == "__main__":
    run(main)
