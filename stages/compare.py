"""Two models side by side, on the terminal and on the page `reports/compare.html`; no stage of DVC (`make compare`)."""

import argparse

import pandas as pd

from pneumonia import UserError, card, compare, dataset, params, plots, tracking
from stages import DATA, REPORTS, run

PAGE = REPORTS / "compare.html"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare")
    for side in compare.SIDES:
        parser.add_argument(side, nargs="?", default="", help="version, champion, id of a train run, or DVC experiment")
    asked = vars(parser.parse_args())
    if not all(asked.values()):
        raise UserError("a comparison needs two models: make compare A=champion B=2")
    settings = params.load()
    tracking.open_store()
    scored = {side: tracking.scored(name, settings.data) for side, name in asked.items()}
    both = compare.compare(*(one.predictions for one in scored.values()), level=settings.evaluate.level)
    found, short = compare.disagreements(both), compare.table(both)
    notes, tally, verdict = compare.notes(both), compare.tally(both, found), compare.verdict(both)
    models = [(side, one.title, one.run_id, f"{both.thresholds[side]:.4f}") for side, one in scored.items()]
    sections = [
        card.Section("The two models", [card.Table(("", "model", "MLflow run", "threshold"), models)]),
        card.Section("Which is better", [verdict, compare.CHOOSE, _table(short, notes)]),
        card.Section("Curves", _figures(both, "\n".join(f"{side}: {one.title}" for side, one in scored.items()))),
        card.Section("Where they disagree", [tally, *_disagreements(found, settings.compute.memory)]),
    ]
    title = " and ".join(one.title for one in scored.values())
    with dataset.written_whole(PAGE) as partial:
        lead = "Two models side by side, on the images that both have scored."
        partial.write_text(card.html(title, lead, sections), encoding="utf-8")
    for side, one in scored.items():
        print(f"{side}: {one.title}, run {one.run_id}")
    print(short.to_string(index=False))
    print(notes, verdict, tally, compare.CHOOSE, f"page: {PAGE}", sep="\n")


def _table(table: pd.DataFrame, note: str = "") -> card.Table:
    return card.Table(tuple(table), list(table.itertuples(index=False, name=None)), note)


def _figures(both: compare.Compared, names: str) -> list[card.Picture]:
    parts = {split: compare.curves(both, split) for split in compare.SPLITS}
    drawn = [
        (f"{what}, {images}", draw(parts[split], f"{names}\n{images}"))
        for what, draw in (
            ("ROC curves", plots.overlaid_roc),
            ("Reliability of raw scores", plots.overlaid_reliability),
        )
        for split, images in compare.SPLITS.items()
        if split in both.p_values or draw is plots.overlaid_reliability  # one class has no ROC curve
    ]
    return [card.Picture(caption, plots.png(figure)) for caption, figure in drawn]


def _disagreements(found: pd.DataFrame, memory: float) -> list[card.Table | card.Picture]:
    """The first of them as a table, and as pictures those that data/images.zarr holds."""
    blocks: list[card.Table | card.Picture] = [_table(compare.rows(found), compare.ORDER)] if len(found) else []
    if (DATA / "images.zarr").is_dir() and (DATA / "splits.csv").is_file():
        test = dataset.read_split(dataset.open_store(DATA / "images.zarr"), "test", memory=memory)
        shown = compare.gallery(found, dataset.read_table(DATA / "splits.csv"), test.images, test.image_ids)
        blocks += [card.Picture(caption, content) for caption, content in shown]
    return blocks


if __name__ == "__main__":
    run(main)
