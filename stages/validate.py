"""Decode and measure every image, run the expectation suite, quarantine bad images."""

from pneumonia import code_digest, params, validate, workspace
from pneumonia.data import tables
from stages import DATA_DIR, REPORTS_DIR, count, origin, run, show, tracked


def main() -> None:
    # Not at the top: worker processes import this file too.
    from pneumonia.report import dataset, plots
    from pneumonia.tracking import runs

    settings = params.load()
    limits, docs = settings.validation, REPORTS_DIR / "data_docs"
    manifest = tables.read_table(DATA_DIR / "manifest.csv")
    key = (workspace.sha256_file(DATA_DIR / "manifest.csv"), code_digest())
    with tracked("validate", settings), workspace.resumable("validate", *key) as resume:
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
        runs.log_dataset(
            table["image_id"], table["label"], data=settings.data, digest=tables.data_digest(table), context="validate"
        )
        runs.log_table(findings, "findings.json")
        runs.log_figure(plots.measures(table, f"{origin(settings)}: measures"), "plots/measures.png")
        runs.log_file(docs, "data_docs")
        # If the stage fails below, MLflow has the page that shows why.
        page = resume / "data.html"
        dataset.write(page, table, report, validate.picture, origin(settings))
        runs.log_file(page)
        groups = count(report.summary["duplicate_groups"], "group")
        show(
            f"{report.summary['n_valid']} of {count(len(table), 'image')} valid, "
            f"{report.summary['n_quarantined']} quarantined; {groups} of identical files"
        )
        for finding in validate.first_findings(findings):
            show(finding, indent="  ")
        validate.require_enough(table, limits.max_bad_fraction)
        tables.write_table(table, DATA_DIR / "valid.csv")
        tables.write_json(report.summary, REPORTS_DIR / "validation.json")
        runs.log_file(REPORTS_DIR / "validation.json")
        page.replace(REPORTS_DIR / "data.html")
    outcome = f"{len(report.failed)} not met (only reported, the run goes on):" if report.failed else "all met"
    show(f"{len(report.summary['expectations'])} expectations, {outcome}")
    for sentence in report.failed:
        show(sentence, indent="  ")
    print(f"report: {REPORTS_DIR / 'data.html'}; by Great Expectations: {docs / 'index.html'}")


if __name__ == "__main__":
    run(main)
