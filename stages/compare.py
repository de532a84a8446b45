"""Two models side by side, on the terminal and on the page `reports/compare.html`; no stage of DVC (`make compare`)."""

import argparse

import pandas as pd

from pneumonia import UserError, compare, params, workspace
from pneumonia.data import tables
from pneumonia.data.store import open_store, read_split
from pneumonia.report import page, plots
from pneumonia.tracking import registry, runs
from stages import DATA_DIR, REPORTS_DIR, run

PAGE = REPORTS_DIR / "compare.html"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare")
    for side in compare.SIDES:
        parser.add_argument(side, nargs="?", default="", help="version, champion, id of a train run, or DVC experiment")
    names = vars(parser.parse_args())
    if not all(names.values()):
        raise UserError("a comparison needs two models: make compare A=champion B=2")
    settings = params.load()
    runs.open_store()
    scored = {side: registry.scored(name, settings.data) for side, name in names.items()}
    both = compare.compare(*(one.predictions for one in scored.values()), level=settings.evaluate.level)
    disagreements, short = compare.disagreements(both), compare.table(both)
    notes, tally, verdict = compare.notes(both), compare.tally(both, disagreements), compare.verdict(both)
    models = [(side, one.title, one.run_id, f"{both.thresholds[side]:.4f}") for side, one in scored.items()]
    sections = [
        page.Section("The two models", [page.Table(("", "model", "MLflow run", "threshold"), models)]),
        page.Section("Which is better", [verdict, compare.CHOOSE, _table(short, notes)]),
        page.Section("Curves", _figures(both, "\n".join(f"{side}: {one.title}" for side, one in scored.items()))),
        page.Section("Where they disagree", [tally, *_disagreements(disagreements, settings.compute.memory)]),
    ]
    title = " and ".join(one.title for one in scored.values())
    with workspace.written_whole(PAGE) as partial:
        lead = "Two models side by side, on the images that both have scored."
        partial.write_text(page.html(title, lead, sections), encoding="utf-8")
    for side, one in scored.items():
        print(f"{side}: {one.title}, run {one.run_id}")
    print(short.to_string(index=False))
    print(notes, verdict, tally, compare.CHOOSE, f"page: {PAGE}", sep="\n")


def _table(table: pd.DataFrame, note: str = "") -> page.Table:
    return page.Table(tuple(table), list(table.itertuples(index=False, name=None)), note)


def _figures(both: compare.Compared, names: str) -> list[page.Picture]:
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
    return [page.Picture(caption, plots.png(figure)) for caption, figure in drawn]


def _disagreements(disagreements: pd.DataFrame, memory: float) -> list[page.Block]:
    """The first of them as a table, and as pictures those that data/images.zarr holds."""
    blocks: list[page.Block] = []
    if len(disagreements):
        blocks.append(_table(compare.rows(disagreements), compare.ORDER))
    if (DATA_DIR / "images.zarr").is_dir() and (DATA_DIR / "splits.csv").is_file():
        test = read_split(open_store(DATA_DIR / "images.zarr"), "test", memory=memory)
        splits = tables.read_table(DATA_DIR / "splits.csv")
        pictures = compare.gallery(disagreements, splits, test.images, test.image_ids)
        blocks += [page.Picture(caption, content) for caption, content in pictures]
    return blocks


if __name__ == "__main__":
    run(main)
