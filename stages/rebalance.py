"""Split by patient, seal the test split, balance the classes of train."""

from functools import partial

from pneumonia import params, rebalance
from pneumonia.data import relabel, tables, targets
from pneumonia.report import plots
from pneumonia.tracking import runs
from stages import DATA_DIR, REPORTS_DIR, origin, run, show, tracked


def main() -> None:
    settings = params.load()
    options, target = settings.rebalance, targets.target(settings.target)
    valid = tables.read_table(DATA_DIR / "valid.csv")
    with tracked("rebalance", settings):
        labelled = relabel.relabel(valid, target)
        relabel.require_both_classes(labelled, target, settings.data)
        splits = rebalance.assign_splits(
            labelled,
            official_test=options.official_test,
            test_fraction=options.test_fraction,
            val_fraction=options.val_fraction,
            seed=options.seed,
            folds=options.folds,
        )
        rebalance.require_both_classes(splits, target)
        rules = {"strategy": options.strategy, "max_ratio": options.acquisition, "seed": options.seed}
        weigh = partial(rebalance.weigh, **rules, target=target)
        splits, acquisition = weigh(splits)
        if options.folds > 1:
            splits = rebalance.weigh_folds(splits, lambda table: weigh(table)[0])
        summary = rebalance.summarise(valid, splits, options.strategy, target)
        if acquisition:
            summary["acquisition"] = acquisition
        tables.write_table(splits, DATA_DIR / "splits.csv")
        tables.write_json(summary, REPORTS_DIR / "rebalance.json")
        runs.log_dataset(
            splits["image_id"],
            splits["label"],
            data=settings.data,
            target=settings.target,
            digest=tables.data_digest(splits),
            context="rebalance",
        )
        runs.log_table(rebalance.counts(summary["splits"]), "splits.json")
        for path in (DATA_DIR / "splits.csv", REPORTS_DIR / "rebalance.json"):
            runs.log_file(path)
        if acquisition:
            runs.log_metrics({"acquisition": acquisition})
        runs.log_figure(
            plots.classes(
                summary["splits"], f"{origin(settings)}: images per split, {options.strategy}", target.classes
            ),
            "plots/classes.png",
        )
    for sentence in rebalance.describe(summary, options.official_test):
        show(sentence)
    if acquisition:
        show(
            f"acquisition alone separates the classes of {acquisition['n']} train images with AUC "
            f"{acquisition['auc']:.3f}; weights against it up to {options.acquisition:g} times the smallest"
        )
    for name, row in summary["splits"].items():
        print(
            f"  {name:5} {row['n_images']:6} images of {row['n_patients']:5} patients: "
            f"{row[f'n_{target.negative}']} {target.negative}, {row[f'n_{target.positive}']} {target.positive}"
        )


if __name__ == "__main__":
    run(main)
