"""Register the model; it becomes champion if its validation AUC is higher.

By hand, `--register` registers once more, into an empty or another MLflow store (`make promote`), and
`--if-missing` does so only where the store lacks the model's version or a champion (`make repro`). Neither writes
`promotion.json`, which records the decision at its time.
"""

import argparse

from pneumonia import dataset, params, promote, tracking
from stages import MODELS, REPORTS, is_synthetic, run, tracked, train_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.promote")
    parser.add_argument("--register", action="store_true", help="register again, into the store of this moment")
    parser.add_argument("--if-missing", action="store_true", help="register only where the store lacks the model")
    asked = parser.parse_args()
    settings = params.load()
    record = dataset.read_json(MODELS / "run.json")
    data = record["data"]
    tracking.open_store()
    if asked.if_missing and tracking.is_registered(data, record):
        return
    predictions = dataset.read_table(REPORTS / "predictions.csv")
    metrics = dataset.read_json(REPORTS / "metrics.json")
    trained = train_run(settings, record)
    # Again, for a run that was made anew: later candidates are compared on these predictions.
    tracking.mirror(trained, metrics, {tracking.PREDICTIONS: REPORTS / "predictions.csv"})
    facts = {
        "model": record["model"],
        "weights": record["weights"],
        "data_digest": record["data_digest"],
        "synthetic": str(is_synthetic(settings)).lower(),
    }
    aucs = {f"{split}_auc": metrics[split]["auc"] for split in ("val", "test")}
    with tracked("promote", settings, parent=trained.run_id):
        version = tracking.register(data, trained, facts | aucs)
        champion = tracking.champion(data)
        if champion and champion.version == version:
            decision = promote.confirm(predictions)
        else:
            rival = tracking.logged_predictions(champion.run_id) if champion else None
            decision = promote.decide(predictions, rival, min_common=settings.promote.min_common)
        if decision.promoted:
            tracking.crown(data, version)
            champion = tracking.Champion(version, trained.run_id)
        tracking.describe(data, version, decision.reason)
        tracking.log_metrics(decision._asdict())
        tracking.tag(promoted=str(decision.promoted), reason=decision.reason, data_digest=record["data_digest"])
    if not (asked.register or asked.if_missing):
        numbers = {"version": int(version), "champion_version": int(champion.version)}
        values = {name: value for name, value in decision._asdict().items() if value is not None}
        dataset.write_json(numbers | values, REPORTS / "promotion.json")
    print(f"registered {tracking.registered_name(data)} version {version}; champion is version {champion.version}")
    print(f"reason: {decision.reason}")
    print("see it: make ui, then Models at http://127.0.0.1:5000")


if __name__ == "__main__":
    run(main)
