"""Register the model; it becomes champion if its validation AUC is higher and it passes the gates."""

from pneumonia import params, promote
from pneumonia.data import sources, tables, targets
from pneumonia.data.predictions import read_predictions
from pneumonia.models import networks
from pneumonia.models.predictor import Predictor
from pneumonia.report import card
from pneumonia.tracking import registry, runs
from stages import MODELS_DIR, REPORTS_DIR, is_synthetic, run, show, title, tracked, train_run


def main() -> None:
    settings = params.load()
    runs.open_store()
    record = tables.read_json(MODELS_DIR / "run.json")
    predictor = Predictor(MODELS_DIR / "predictor")
    # Lost predictions or a missing report are an error before anything is registered.
    registry.require_comparable(record)
    target, subject = targets.of(record), targets.subject_of(record)
    reports = card.reports(REPORTS_DIR, target)
    predictions = read_predictions(REPORTS_DIR / "predictions.csv")
    metrics = tables.read_json(REPORTS_DIR / "metrics.json")
    trained = train_run(settings, record)
    # Again, for a run that was created again: later candidates are compared on these predictions.
    runs.mirror(trained, metrics, runs.evaluation(REPORTS_DIR))
    with tracked("promote", settings, parent=trained.run_id, prepared=record):
        outcome = registry.submit(
            record,
            trained,
            predictions,
            metrics,
            settings.promote.model_dump(),
            synthetic=is_synthetic(settings),
            model_path=MODELS_DIR / "model.keras",
            predictor=predictor,
            test_split=reports["rebalance"].get("test_split", ""),
        )
        version, champion, decision, facts = outcome
        report = {"version": version, "champion_version": champion, **promote.as_report(decision)}
        sections = card.sections(
            **reports,
            record=record,
            decision=report | {"model_name": runs.registered_name(subject), **facts},
            settings=settings.model_dump(by_alias=True, exclude={"compute", "external", "explain", "export"}),
            network=networks.MODELS[record["model"]].source,
            source=sources.source(settings.data)._asdict(),
            unusual=predictor.facts.get("external", {}),
            target=target,
        )
        tables.write_json(report, REPORTS_DIR / "promotion.json")
        runs.log_file(REPORTS_DIR / "promotion.json")
        card.write(REPORTS_DIR, f"Model card: {title(settings)}", sections)
        registry.link_card(subject, version, trained, REPORTS_DIR / "model_card.html")
    print(f"registered {runs.registered_name(subject)} version {version}; champion is version {champion}")
    show(f"reason: {decision.reason}")
    print("in the MLflow UI (pneumonia ui):")
    for name, address in runs.links(subject=subject):
        show(f"{name}: {address}", indent="  ")


if __name__ == "__main__":
    run(main)
