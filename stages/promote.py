"""Register the model; it becomes champion if its validation AUC is higher.

By hand, `python -m stages.promote --register` registers once more, into an empty or another MLflow store
(`make promote`), and `--if-missing` does so only where the store lacks the model's run (`make repro`). Neither
writes `promotion.json`, which records the decision at its time.
"""

import sys

from pneumonia import dataset, params, promote, tracking
from stages import MODELS, REPORTS, is_synthetic, run, tracked, train_run


def main() -> None:
    settings = params.load()
    record = dataset.read_json(MODELS / "run.json")
    tracking.open_store()
    if "--if-missing" in sys.argv and tracking.find_train_run(record):
        return
    predictions = dataset.read_table(REPORTS / "predictions.csv")
    metrics = dataset.read_json(REPORTS / "metrics.json")
    trained = train_run(settings, record)
    if trained.adopted:
        tracking.mirror(trained, metrics, {tracking.PREDICTIONS: REPORTS / "predictions.csv"})
    facts = {
        "model": settings.model,
        "weights": record["weights"],
        "data_digest": record["data_digest"],
        "synthetic": str(is_synthetic(settings)).lower(),
    }
    aucs = {f"{split}_auc": metrics[split]["auc"] for split in ("val", "test")}
    with tracked("promote", settings, parent=trained.run_id):
        version = tracking.register(settings.data, trained, facts | aucs)
        champion = tracking.champion(settings.data)
        if champion and champion.version == version:
            decision = promote.confirm(predictions)
        else:
            rival = tracking.logged_predictions(champion.run_id) if champion else None
            decision = promote.decide(predictions, rival, min_common=settings.promote.min_common)
        if decision.promoted:
            tracking.crown(settings.data, version)
        tracking.describe(settings.data, version, decision.reason)
        tracking.log_metrics(decision._asdict())
        tracking.tag(promoted=str(decision.promoted), reason=decision.reason)
    champion_version = version if decision.promoted or not champion else champion.version
    if len(sys.argv) == 1:
        numbers = {"version": int(version), "champion_version": int(champion_version)}
        values = {name: value for name, value in decision._asdict().items() if value is not None}
        dataset.write_json(numbers | values, REPORTS / "promotion.json")
    name = tracking.registered_name(settings.data)
    print(f"registered {name} version {version}; champion is version {champion_version}")
    print(f"reason: {decision.reason}")
    print("see it: make ui, then Models at http://127.0.0.1:5000")


if __name__ == "__main__":
    run(main)
