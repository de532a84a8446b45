"""Split by patient, seal the test split, balance the classes of train."""

from pneumonia import params, rebalance
from pneumonia.data import tables
from pneumonia.report import plots
from pneumonia.tracking import runs
from stages import DATA_DIR, REPORTS_DIR, origin, run, tracked


def main() -> None:
    settings = params.load()
    how = settings.rebalance
    valid = tables.read_table(DATA_DIR / "valid.csv")
    with tracked("rebalance", settings):
        splits = rebalance.assign_splits(
            valid, test_fraction=how.test_fraction, val_fraction=how.val_fraction, seed=how.seed
        )
        rebalance.require_both_classes(splits)
        splits = rebalance.balance(splits, strategy=how.strategy, seed=how.seed)
        taken = {}
        if how.acquisition > 1:
            found = rebalance.acquisition(splits, seed=how.seed)
            splits = rebalance.weigh_acquisition(splits, found, at_most=how.acquisition)
            taken = {"acquisition": rebalance.summarise_acquisition(splits, found)}
        summary = rebalance.summarise(valid, splits, how.strategy) | taken
        tables.write_table(splits, DATA_DIR / "splits.csv")
        tables.write_json(summary, REPORTS_DIR / "rebalance.json")
        runs.log_dataset(
            splits["image_id"],
            splits["label"],
            data=settings.data,
            digest=tables.data_digest(splits),
            context="rebalance",
        )
        runs.log_metrics(summary)
        runs.log_figure(
            plots.classes(summary["splits"], f"{origin(settings)}: images per split, {how.strategy}"),
            "plots/classes.png",
        )
    kind = "official test split, sealed" if summary["official_test"] else "test split drawn by patient"
    print(f"{kind}; train rows balanced by {how.strategy}")
    if taken:
        print(
            f"how the {taken['acquisition']['n']} train images were taken tells the classes apart with AUC "
            f"{taken['acquisition']['auc']:.3f}; weighed against it by up to {how.acquisition:g}"
        )
    for name, row in summary["splits"].items():
        print(
            f"  {name:5} {row['n_images']:6} images of {row['n_patients']:5} patients: "
            f"{row['n_normal']} normal, {row['n_pneumonia']} pneumonia"
        )


if __name__ == "__main__":
    run(main)
