"""Choose threshold and calibration on validation, then judge the model on test, each figure with its interval."""

from pneumonia import dataset, evaluate, models, params, plots, tracking
from stages import DATA, MODELS, REPORTS, run, title, tracked, train_run


def main() -> None:
    settings = params.load()
    models.start_keras()
    record = dataset.read_json(MODELS / "run.json")
    model = models.load_model(MODELS / "model.keras")
    trained = train_run(settings, record)
    with tracked("evaluate", settings, parent=trained.run_id):
        tracking.tag(weights=record["weights"], data_digest=record["data_digest"])
        store = dataset.open_store(DATA / "images.zarr")
        memory = settings.compute.memory
        splits = dataset.read_table(DATA / "splits.csv")
        scored = evaluate.predict(model, store, splits, memory=memory)
        predictions, platt = evaluate.calibrated(scored)
        headline, full = evaluate.judge(predictions, platt, **settings.evaluate.model_dump())
        full["robustness"] = evaluate.robustness(model, dataset.read_split(store, "val", memory=memory))
        headline["val"]["robust_auc"] = full["robustness"]["mean"]
        audit = full["stress"] = evaluate.audit(model, store, splits, level=settings.evaluate.level, memory=memory)
        curves = evaluate.curves(predictions, headline["threshold"])
        points = evaluate.operating_points(full)
        dataset.write_table(predictions, REPORTS / "predictions.csv")
        dataset.write_json(headline, REPORTS / "metrics.json")
        dataset.write_json(full, REPORTS / "evaluation.json")
        for name, table in {**curves, "operating_points": points}.items():
            dataset.write_table(table, REPORTS / "plots" / f"{name}.csv")
        test, heading = full["youden"]["test"], f"{title(settings)}, test"
        after = full["youden"]["calibrated"]["test"]
        point = (1 - test.get("specificity", 1.0), test.get("sensitivity", 0.0))
        figures = {
            "roc": plots.roc(curves["roc"], test, point, heading),
            "precision_recall": plots.precision_recall(curves["precision_recall"], test, heading),
            "calibration": plots.calibration(
                {"before": (curves["calibration"], test), "after": (curves["calibration_after"], after)}, heading
            ),
            "decision_curve": plots.decision_curve(curves["decision_curve"], test, heading),
            "confusion": plots.confusion(curves["confusion"], heading),
            "stress": plots.stress(audit, heading),
        }
        tracking.log_metrics(headline)
        tracking.log_table(predictions, "predictions.json")
        tracking.log_table(points, "operating_points.json")
        for name, figure in figures.items():
            plots.save(figure, REPORTS / "plots" / f"{name}.png")
            tracking.log_figure(figure, f"plots/{name}.png", trained)
        tracking.mirror(trained, headline, {tracking.PREDICTIONS: REPORTS / "predictions.csv"})
    print(f"test AUC {dataset.stated(test, 'auc', 4)}, n = {test['n']} ({test['n_positive']} pneumonia)")
    weakest = min(full["robustness"], key=lambda name: full["robustness"][name])
    print(
        f"validation AUC {full['robustness']['clean']:.4f}; under changes of sharpness, grays, noise and proportions "
        f"{full['robustness']['mean']:.4f} on average, least {full['robustness'][weakest]:.4f} ({weakest})"
    )
    print(
        f"calibration on validation takes the test calibration error from {test['ece']:.3f} to {after['ece']:.3f}, "
        f"the Brier score from {test['brier']:.3f} to {after['brier']:.3f}"
    )
    if "prior_shift" in full:
        shift = full["prior_shift"]
        print(
            f"pneumonia: {shift['val_prevalence']:.1%} of validation, {shift['estimated_prevalence']:.1%} of test as "
            f"estimated from its unlabelled scores (prior_shift), {shift['test_prevalence']:.1%} as labelled"
        )
    else:
        print("prior_shift is left out: by the unlabelled test scores all is pneumonia, or none, or they do not say")
    print(audit["verdict"])
    print(points.to_string(index=False))


if __name__ == "__main__":
    run(main)
