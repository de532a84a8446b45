"""Decode and measure every image, run the expectation suite, quarantine what is bad."""

from pneumonia import code_digest, dataset, params, validate
from stages import DATA, REPORTS, origin, run, tracked


def main() -> None:
    from pneumonia import plots, tracking  # not above: worker processes import this file too, and would wait for it

    settings = params.load()
    limits, docs = settings.validation, REPORTS / "data_docs"
    manifest = dataset.read_table(DATA / "manifest.csv")
    key = (dataset.sha256_file(DATA / "manifest.csv"), code_digest())
    with tracked("validate", settings), dataset.resumable("validate", *key) as resume:
        table = validate.measure(
            manifest,
            min_side=limits.min_side,
            min_std=limits.min_std,
            workers=settings.compute.workers,
            dask=settings.compute.dask,
            resume=resume,
        )
        findings = validate.findings(table)
        report = validate.report(table, **limits.model_dump(), docs=docs)
        tracking.log_dataset(
            table["image_id"], table["label"], data=settings.data, digest=dataset.digest(table), context="validate"
        )
        tracking.log_metrics(report.summary)
        tracking.log_table(findings, "findings.json")
        tracking.log_figure(plots.measures(table, f"{origin(settings)}: measures"), "plots/measures.png")
        tracking.log_file(docs, "data_docs")
        validate.require_enough(table, limits.max_bad_fraction)
        dataset.write_table(table, DATA / "valid.csv")
        dataset.write_json(report.summary, REPORTS / "validation.json")
    failed = [row["name"] for row in report.summary["expectations"] if not row["success"]]
    print(
        f"{report.summary['n_valid']} of {len(table)} images are valid, {report.summary['n_quarantined']} quarantined; "
        f"{report.summary['duplicate_groups']} groups of identical files"
    )
    for row in findings.head(8).itertuples():
        print(f"  {row.image_id}: {row.finding}")
    print(f"{len(report.summary['expectations'])} expectations, failed: {', '.join(failed) or 'none'}")
    print(f"report: {report.page}")


if __name__ == "__main__":
    run(main)
