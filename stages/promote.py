"""Register the model; it becomes champion if its validation AUC is higher and it passes the gates.

By hand: `--register` registers again, into another MLflow store; `--if-missing` only where the store lacks the version
or a champion; neither changes `promotion.json`. `--rollback` and `--restore VERSION` go back to an earlier version.
"""

import argparse

from pneumonia import params, promote
from pneumonia.data import tables
from pneumonia.models import networks
from pneumonia.report import card
from pneumonia.tracking import registry, runs
from stages import MODELS_DIR, REPORTS_DIR, is_synthetic, run, source, title, tracked, train_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.promote")
    parser.add_argument("--register", action="store_true", help="register again, into the store of this moment")
    parser.add_argument("--if-missing", action="store_true", help="register only where the store lacks the model")
    parser.add_argument("--rollback", action="store_true", help="make the previous champion champion again")
    parser.add_argument("--restore", metavar="VERSION", help="bring back the files of a version, or of the champion")
    options = parser.parse_args()
    settings = params.load()
    runs.open_store()
    if options.restore is not None:
        print(registry.restore_version(settings.data, options.restore, MODELS_DIR / "model.keras"))
        return
    if options.rollback:
        print(registry.roll_back(settings.data, promote.rollback, registry.by_evidence(settings.data)))
        return
    record = tables.read_json(MODELS_DIR / "run.json")
    data = record["data"]
    if options.if_missing and registry.is_registered(data, record):
        return
    again = options.register or options.if_missing
    reports = {} if again else card.reports(REPORTS_DIR)  # what is not there is missed before anything is registered
    predictions = tables.read_table(REPORTS_DIR / "predictions.csv")
    metrics = tables.read_json(REPORTS_DIR / "metrics.json")
    trained = train_run(settings, record)
    # Again, for a run that was made anew: later candidates are compared on these predictions.
    runs.mirror(trained, metrics, {runs.PREDICTIONS: REPORTS_DIR / "predictions.csv"})
    facts = {name: record[name] for name in ("model", "weights", "data_digest", "model_sha256")}
    facts |= {"synthetic": str(is_synthetic(settings)).lower(), "test_auc": metrics["test"]["auc"]}
    origin = registry.lineage(MODELS_DIR / "model.keras", record)
    asks = {"threshold": metrics["threshold"], **settings.promote.model_dump()}
    with tracked("promote", settings, parent=trained.run_id, prepared=record):
        version, champion, decision = registry.submit(data, trained, predictions, facts, origin, asks)
        runs.log_metrics(decision._asdict() | {"gates": {gate.name: gate.value for gate in decision.gates}})
        runs.tag(promoted=str(decision.promoted), reason=decision.reason, data_digest=record["data_digest"])
        if not again:
            report = {"version": version, "champion_version": champion, **promote.as_report(decision)}
            sections = card.sections(
                **reports,
                metrics=metrics,
                record=record,
                decision=report | {"model_name": runs.registered_name(data), **facts, **origin},
                settings=settings.model_dump(by_alias=True, exclude={"compute", "explain"}),
                network=networks.MODELS[record["model"]].source,
                source=source(settings),
            )
            tables.write_json(report, REPORTS_DIR / "promotion.json")
            card.write(REPORTS_DIR, f"Model card: {title(settings)}", sections)
        registry.link_card(data, version, trained, REPORTS_DIR / "model_card.html")
    print(f"registered {runs.registered_name(data)} version {version}; champion is version {champion}")
    print(f"reason: {decision.reason}\nsee it: make ui, then Models at http://127.0.0.1:5000")


if __name__ == "__main__":
    run(main)
