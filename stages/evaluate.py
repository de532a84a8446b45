"""Choose the threshold on validation, then judge the model on test, each figure with its interval."""

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
        predictions = evaluate.predict(model, store, dataset.read_table(DATA / "splits.csv"), memory=memory)
        headline, full = evaluate.judge(predictions, **settings.evaluate.model_dump())
        full["robustness"] = evaluate.robustness(model, store, memory=memory)
        headline["val"]["robust_auc"] = full["robustness"]["mean"]
        curves = evaluate.curves(predictions, headline["threshold"])
        dataset.write_table(predictions, REPORTS / "predictions.csv")
        dataset.write_json(headline, REPORTS / "metrics.json")
        dataset.write_json(full, REPORTS / "evaluation.json")
        for name, table in curves.items():
            dataset.write_table(table, REPORTS / "plots" / f"{name}.csv")
        test, heading = full["youden"]["test"], f"{title(settings)}, test"
        point = (1 - test.get("specificity", 1.0), test.get("sensitivity", 0.0))
        figures = {
            "roc": plots.roc(curves["roc"], test, point, heading),
            "precision_recall": plots.precision_recall(curves["precision_recall"], test, heading),
            "calibration": plots.calibration(curves["calibration"], test, heading),
            "confusion": plots.confusion(curves["confusion"], heading),
        }
        tracking.log_metrics(headline)
        tracking.log_table(predictions, "predictions.json")
        for name, figure in figures.items():
            tracking.log_figure(figure, f"plots/{name}.png", trained)
        tracking.mirror(trained, headline, {tracking.PREDICTIONS: REPORTS / "predictions.csv"})
    low, high = test["auc_low"], test["auc_high"]
    print(f"test AUC {test['auc']:.4f} [{low:.4f}, {high:.4f}], n = {test['n']} ({test['n_positive']} pneumonia)")
    weakest = min(full["robustness"], key=lambda name: full["robustness"][name])
    print(
        f"validation AUC {full['robustness']['clean']:.4f}, {full['robustness']['mean']:.4f} on average under changes "
        f"of sharpness, contrast and noise, least {full['robustness'][weakest]:.4f} ({weakest})"
    )
    print(f"at the threshold {headline['threshold']:.3f} chosen on validation:")
    for name in ("accuracy", "sensitivity", "specificity", "precision", "f1"):
        if name in test:
            print(f"  {name:12} {test[name]:.3f} [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}]")


if __name__ == "__main__":
    run(main)
