"""Decode and measure every image, run the expectation suite, quarantine what is bad."""

from pneumonia import dataset, params, tracking, validate
from stages import DATA, REPORTS, run, tracked


def main() -> None:
    settings = params.load()
    limits, docs = settings.validation, REPORTS / "data_docs"
    manifest = dataset.read_table(DATA / "manifest.csv")
    with tracked("validate", settings):
        table = validate.measure(
            manifest, min_side=limits.min_side, min_std=limits.min_std, workers=settings.compute.workers
        )
        report = validate.report(table, **limits.model_dump(), docs=docs)
        tracking.log_dataset(
            table["image_id"], table["label"], data=settings.data, digest=dataset.digest(table), context="validate"
        )
        tracking.log_metrics(report.summary)
        tracking.log_table(table[~table["valid"]][["image_id", "reason"]], "quarantined.json")
        tracking.log_file(docs, "data_docs")
        validate.require_enough(table, limits.max_bad_fraction)
        dataset.write_table(table, DATA / "valid.csv")
        dataset.write_json(report.summary, REPORTS / "validation.json")
    failed = [row["name"] for row in report.summary["expectations"] if not row["success"]]
    print(
        f"{report.summary['n_valid']} of {len(table)} images are valid, {report.summary['n_quarantined']} quarantined; "
        f"{report.summary['duplicate_groups']} groups of identical files"
    )
    for row in table[~table["valid"]].head(5).itertuples():
        print(f"  quarantined {row.image_id}: {row.reason}")
    print(f"{len(report.summary['expectations'])} expectations, failed: {', '.join(failed) or 'none'}")
    print(f"report: {report.page}")


if __name__ == "__main__":
    run(main)
