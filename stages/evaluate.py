"""Choose threshold and calibration on validation, then evaluate the model on test, with intervals."""

from functools import partial

from pneumonia import evaluate, params
from pneumonia.data import lung_boxes, tables, targets
from pneumonia.data.store import open_store, stored_preparation
from pneumonia.models import loading, runtime
from pneumonia.report import found_lungs, plots
from pneumonia.tracking import runs
from stages import DATA_DIR, MODELS_DIR, REPORTS_DIR, origin, run, show, title, tracked, train_run


def main() -> None:
    settings = params.load()
    memory, target = settings.compute.memory, targets.target(settings.target)
    runtime.start_keras()
    record = tables.read_json(MODELS_DIR / "run.json")
    trained = train_run(settings, record)
    model = loading.load_model(MODELS_DIR / "model.keras")
    store, outside = (open_store(DATA_DIR / f"{name}.zarr") for name in ("images", "external"))
    splits, films = (tables.read_table(DATA_DIR / f"{name}.csv") for name in ("splits", "external"))
    with tracked("evaluate", settings, parent=trained.run_id, prepared=store.attrs):
        runs.tag(weights=record["weights"], data_digest=record["data_digest"])
        predictions, platt = evaluate.calibrated(evaluate.predict(model, store, splits, memory=memory))
        headline, full = evaluate.judge(predictions, platt, target=target, **settings.evaluate.model_dump())
        full["robustness"] = evaluate.robustness(evaluate.validated(model, store, memory=memory))
        audit = full["stress"] = evaluate.audit(model, store, splits, level=settings.evaluate.level, memory=memory)
        curves = evaluate.curves(predictions, headline["threshold"], level=settings.evaluate.level, target=target)
        found = evaluate.detection(model, store, splits, level=settings.evaluate.level, memory=memory)
        full |= found.figures
        points = evaluate.operating_points(full)
        elsewhere, judged = evaluate.external(model, outside, films, full, store, memory=memory)
        full |= judged  # when all else is decided
        tables.write_table(predictions, REPORTS_DIR / "predictions.csv")
        tables.write_table(elsewhere, REPORTS_DIR / "external_predictions.csv")
        tables.write_json(headline, REPORTS_DIR / "metrics.json")
        tables.write_json(full, REPORTS_DIR / "evaluation.json")
        for name, table in {**curves, **found.curves, "operating_points": points}.items():
            tables.write_table(table, REPORTS_DIR / "plots" / f"{name}.csv")
        test, heading, names = full["youden"]["test"], f"{title(settings)}, test", target.classes
        after = full["youden"]["calibrated"]["test"]
        diagrams = {"before": (curves["calibration"], test), "after": (curves["calibration_after"], after)}
        point = (1 - test.get("specificity", 1.0), test.get("sensitivity", 0.0))
        figures = {
            "roc": plots.roc(curves["roc"], test, point, heading, names),
            "precision_recall": plots.precision_recall(curves["precision_recall"], test, heading, names),
            "calibration": plots.calibration(diagrams, heading, names=names),
            "decision_curve": plots.decision_curve(curves["decision_curve"], test, heading, names),
            "confusion": plots.confusion(curves["confusion"], heading, names),
            "stress": plots.stress(audit, heading),
            **plots.boxes(*found, heading),
        }
        of_lungs = (lung_boxes.all_origins(store), lung_boxes.problems(store), partial(lung_boxes.picture, store))
        around_lungs = stored_preparation(store)["aspect"] == "lungs"
        found_lungs.write(
            REPORTS_DIR / "lungs.html", splits, *of_lungs, origin(settings), around_lungs=around_lungs, target=target
        )
        runs.log_file(REPORTS_DIR / "lungs.html")
        runs.log_metrics(evaluate.metrics(full))
        runs.log_table(predictions, "predictions.json")
        runs.log_table(points, "operating_points.json")
        for name, figure in figures.items():
            plots.save(figure, REPORTS_DIR / "plots" / f"{name}.png")
            runs.log_figure(figure, f"plots/{name}.png", trained)
        runs.mirror(trained, evaluate.metrics(full), runs.evaluation(REPORTS_DIR))
    for line in evaluate.summary(full, target):
        show(line)
    print(points.replace(r" \[.*", "", regex=True).to_string(index=False))


if __name__ == "__main__":
    run(main)
