"""Register the model; it becomes champion if its validation AUC is higher and it passes the gates.

By hand, `--register` registers once more, into an empty or another MLflow store, and `--if-missing` only where the
store lacks the model's version or a champion; neither writes `promotion.json`, which records the decision at its time.
`--rollback` goes back to the previous champion, `--restore VERSION` to the files of a version and their commit.
"""

import argparse

from pneumonia import card, dataset, models, params, promote, tracking
from stages import MODELS, REPORTS, is_synthetic, run, source, title, tracked, train_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.promote")
    parser.add_argument("--register", action="store_true", help="register again, into the store of this moment")
    parser.add_argument("--if-missing", action="store_true", help="register only where the store lacks the model")
    parser.add_argument("--rollback", action="store_true", help="make the previous champion champion again")
    parser.add_argument("--restore", metavar="VERSION", help="bring back the files of a version, or of the champion")
    asked = parser.parse_args()
    settings = params.load()
    tracking.open_store()
    if asked.restore is not None:
        print(tracking.bring_back(settings.data, asked.restore, MODELS / "model.keras"))
        return
    if asked.rollback:
        print(tracking.roll_back(settings.data, promote.rollback, tracking.by_evidence(settings.data)))
        return
    record = dataset.read_json(MODELS / "run.json")
    data = record["data"]
    if asked.if_missing and tracking.is_registered(data, record):
        return
    again = asked.register or asked.if_missing
    reports = {} if again else card.reports(REPORTS)  # what is not there is missed before anything is registered
    predictions = dataset.read_table(REPORTS / "predictions.csv")
    metrics = dataset.read_json(REPORTS / "metrics.json")
    trained = train_run(settings, record)
    # Again, for a run that was made anew: later candidates are compared on these predictions.
    tracking.mirror(trained, metrics, {tracking.PREDICTIONS: REPORTS / "predictions.csv"})
    facts = {name: record[name] for name in ("model", "weights", "data_digest", "model_sha256")}
    facts |= {"synthetic": str(is_synthetic(settings)).lower(), "test_auc": metrics["test"]["auc"]}
    origin = tracking.lineage(MODELS / "model.keras")
    asks = {"threshold": metrics["threshold"], **settings.promote.model_dump()}
    with tracked("promote", settings, parent=trained.run_id):
        with tracking.alone():  # a rollback sees a version that is decided, or none
            version = tracking.register(data, trained, facts | promote.facts(predictions, **asks), origin)
            registry, (champion, displaced) = tracking.crown(data, tracking.by_evidence(data))
            rival = displaced if champion == version else champion
            theirs = rival and tracking.version_predictions(data, rival)
            decision = promote.decide(predictions, theirs, first=version == promote.FIRST_VERSION, **asks)
            decision = promote.settled(decision, version, champion, registry[version])
            if "reason" not in (tags := registry[version]) or (decision.promoted and tags["promoted"] == "false"):
                tracking.decide(data, version, promote.as_tags(decision))
        tracking.log_metrics(decision._asdict() | {"gates": {gate.name: gate.value for gate in decision.gates}})
        tracking.tag(promoted=str(decision.promoted), reason=decision.reason, data_digest=record["data_digest"])
        if not again:
            report = {"version": version, "champion_version": champion, **promote.as_report(decision)}
            sections = card.sections(
                **reports,
                metrics=metrics,
                record=record,
                decision=report | {"model_name": tracking.registered_name(data), **facts, **origin},
                settings=settings.model_dump(by_alias=True, exclude={"compute", "explain"}),
                network=models.MODELS[record["model"]].source,
                source=source(settings),
            )
            dataset.write_json(report, REPORTS / "promotion.json")
            card.write(REPORTS, f"Model card: {title(settings)}", sections)
        tracking.link_card(data, version, trained, REPORTS / "model_card.html")
    print(f"registered {tracking.registered_name(data)} version {version}; champion is version {champion}")
    print(f"reason: {decision.reason}\nsee it: make ui, then Models at http://127.0.0.1:5000")


if __name__ == "__main__":
    run(main)
