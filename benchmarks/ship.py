"""Add the network of a finished run to the package, in `pneumonia/pretrained/NAME/`: `make ship`, or

    python -m benchmarks.ship --run FOLDER --name mobilenet --half --looks 12

FOLDER is a project after `dvc repro`: `params.yaml`, `models/predictor/` and `reports/`. The network is stored as it
is, or with weights in float16 (`--half`). Its scores are compared with those of the run's own predictor, on validation
films of `FOLDER/data/images.zarr` or on the image files after `--films`. `predictor.json` and the card `README.md` have
the figures of the run, and the differences.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ruamel.yaml import YAML

from pneumonia import UserError, export, inference, predict, workspace
from pneumonia.data import tables, targets
from pneumonia.data.store import open_store, read_split, stored_preparation
from pneumonia.metrics.text import format_with_interval
from pneumonia.models import half, predictor, shipped
from pneumonia.models.predictor import Predictor
from pneumonia.saliency.exported import Exported
from pneumonia.saliency.methods import METHODS, SEED

ROOT = Path(__file__).resolve().parent.parent

MAX_BYTES = 25_000_000
"""Of all networks that ship together, with the segmenter: the package is downloaded with them."""

MAX_DIFFERENCE = 0.02
"""Of the score of a film from that of the run's own predictor; a larger one is no rounding."""

N_FILMS, N_MAPS = 256, 4
"""Films on which scores are compared, and on which maps are."""

LICENCE = "CC BY 4.0"
"""Of the films from which a network that ships may have learnt."""

NO_RECIPE = ("fetch", "validate", "explain", "promote", "compute", "external")
"""Sections of `params.yaml` that say nothing about the network."""

OF_PROBABILITIES = {"brier": "Brier score", "ece": "calibration error"}
"""Figures of calibrated probabilities, which depend on no threshold."""


def main() -> None:
    arguments = _arguments()
    folder = ship(
        arguments.run,
        arguments.name,
        in_half=arguments.half,
        looks=arguments.looks,
        films=arguments.films,
        notes=arguments.note,
        caution=arguments.caution,
    )
    print((folder / shipped.CARD).read_text(encoding="utf-8"))
    print(f"written: {folder}, {_size(folder):,} bytes; all that ships: {_size(predictor.PRETRAINED):,}")


def ship(
    run: Path,
    name: str,
    *,
    in_half: bool = False,
    looks: int | None = None,
    films: Sequence[str] = (),
    notes: Sequence[str] = (),
    caution: str = "",
) -> Path:
    """Write the folder of a network that ships; an earlier one of this name is replaced.

    Args:
        run: a project folder after `export`.
        name: of the network, after `pretrained:`.
        in_half: store the weights in float16.
        looks: how often the test split had been looked at when the recipe was chosen; None = not known.
        films: image files, folders or archives for the comparison of scores; empty = validation films of the run.
        notes: sentences for the card, such as figures on other films.
        caution: sentence that stands with every answer, after that of the run.

    Returns:
        The folder.

    Raises:
        UserError: the network may not ship, or differs from that of the run.
    """
    _require_usable_name(name)
    own = Predictor(run / "models/predictor")
    _require_may_ship(own)
    for needed in ("params.yaml", "reports/evaluation.json", "reports/rebalance.json"):
        if not (run / needed).is_file():
            raise UserError(f"{run / needed} is missing: {run} is no project after dvc repro")
    evaluation, rebalance = (tables.read_json(run / f"reports/{one}.json") for one in ("evaluation", "rebalance"))
    _require_same_run(own, evaluation, run / "params.yaml")
    content = _facts(own, evaluation, rebalance, looks)
    content["caution"] = f"{content['caution']} {caution}".strip()
    network = predictor.read_file(own.folder / predictor.NETWORK, own.facts["digests"][predictor.NETWORK])
    network = half.halve(network) if in_half else network
    maps = b""
    if predictor.MAPS in own.facts["digests"]:
        maps = predictor.read_file(own.folder / predictor.MAPS, own.facts["digests"][predictor.MAPS])
    images = _images(run, own, films)
    recipe = _recipe(run / "params.yaml", ROOT / "params.yaml")
    target = predictor.PRETRAINED / name
    with workspace.written_whole(target) as folder:
        folder.mkdir()
        write(folder, network, content, maps)
        measured = _compare(own, Predictor(folder), images)
        if maps:
            measured |= _compare_maps(own, folder, images)
        content["shipped"] = {"name": name, "weights": "float16" if in_half else "float32", **measured}
        write(folder, network, content, maps)
        (folder / shipped.CARD).write_text(card(content, recipe, notes, folder), encoding="utf-8")
        others = _size(predictor.PRETRAINED) - _size(folder) - (_size(target) if target.is_dir() else 0)
        if others + _size(folder) > MAX_BYTES:
            raise UserError(
                f"{name} has {_size(folder):,} bytes and what ships already {others:,}, together more than the "
                f"{MAX_BYTES:,} that may ship; take --half, or one network of it"
            )
    return target


def write(folder: Path, network: bytes, content: Mapping[str, Any], maps: bytes) -> None:
    """As `export.write`, without the segmenter, which the package has already."""
    export.write(folder, network, copy.deepcopy(dict(content)), maps)
    (folder / predictor.LUNGS).unlink(missing_ok=True)


def _require_usable_name(name: str) -> None:
    """The folder of a network that ships is replaced whole; no other folder may be."""
    target = predictor.PRETRAINED / name
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or (target.exists() and name not in shipped.names()):
        raise UserError(
            f"{name!r} cannot be the name of a network: lower-case letters, digits and _, not a known folder"
        )


def _require_may_ship(own: Predictor) -> None:
    facts = own.facts
    licence = facts["learnt_from"].get("licence", "unknown")
    if facts["synthetic"] or licence != LICENCE:
        kind = "synthetic films" if facts["synthetic"] else f"films with the licence {licence!r}"
        raise UserError(f"{own.folder} learnt from {kind}; only a network of films under {LICENCE} ships")
    if facts["target"] != targets.DEFAULT:
        raise UserError(
            f"{own.folder} has the target {facts['target']}; only a network of the target {targets.DEFAULT} ships: it "
            "answers where nobody has chosen one"
        )


def _require_same_run(own: Predictor, evaluation: Mapping[str, Any], settings: Path) -> None:
    for name, point in own.facts["operating_points"].items():
        reported = evaluation.get(name, {}).get("threshold")
        if point["threshold"] != reported:
            raise UserError(
                f"{own.folder} has the threshold {point['threshold']} at {name}, reports/evaluation.json "
                f"{reported}: they are of different runs; run dvc repro"
            )
    written = YAML(typ="safe").load(settings.read_text("utf-8"))
    for name in ("data", "model"):
        if own.facts[name] != written.get(name):
            raise UserError(
                f"{own.folder} has {name} {own.facts[name]}, {settings} {written.get(name)}: they are of different runs"
            )


def _facts(
    own: Predictor, evaluation: Mapping[str, Any], rebalance: Mapping[str, Any], looks: int | None
) -> dict[str, Any]:
    """The content of `predictor.json`, with more figures and without paths of this machine."""
    facts = copy.deepcopy(own.facts)
    for name in (predictor.NETWORK, predictor.MAPS, predictor.FACTS):
        facts["digests"].pop(name, None)
    facts["weights"] = Path(facts["weights"]).name
    validated = evaluation["youden"]["val"]
    facts["figures"] |= {
        "val": {name: validated[name] for name in ("n", "n_positive")} | _with_intervals(validated, export.FIGURES),
        "calibrated": {
            split: _with_intervals(evaluation["youden"]["calibrated"][split], OF_PROBABILITIES)
            for split in ("val", "test")
        },
        "validation": f"out of fold, {len(rebalance['folds'])} networks" if "folds" in rebalance else "one split",
        **({} if looks is None else {"looks": looks}),
    }
    for name, point in facts["operating_points"].items():
        point["val"] = _with_intervals(evaluation[name]["val"], ("sensitivity", "specificity"))
    return facts


def _with_intervals(report: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    keys = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return {key: report[key] for key in keys if key in report}


def _recipe(of_run: Path, of_project: Path) -> dict[str, Any]:
    """The settings of a run that differ from those of this checkout; of a path only its name."""
    theirs, ours = (dict(_flat(YAML(typ="safe").load(path.read_text("utf-8")))) for path in (of_run, of_project))
    return {
        key: Path(value).name if isinstance(value, str) and "/" in value else value
        for key, value in theirs.items()
        if value != ours.get(key) and key.partition(".")[0] not in NO_RECIPE
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and not prefix:
            yield from _flat(value, f"{name}.")
        else:
            yield f"{prefix}{name}", value


def _images(run: Path, own: Predictor, films: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Films as the network gets them, `N_FILMS` at most, at random: uint8 (n, size, size)."""
    rng = np.random.default_rng(SEED)
    if films:
        items = [item for item in predict.find(films)[0] if not item.error]
        rows = np.sort(rng.choice(len(items), min(N_FILMS, len(items)), replace=False))
        if not len(rows):
            raise UserError(f"{', '.join(films)}: no images")
        return np.stack([own.prepare(items[row].uri) for row in rows])
    if not (run / "data/images.zarr").is_dir():
        raise UserError(f"{run}/data/images.zarr is missing: name films for the comparison of scores with --films")
    store = open_store(run / "data/images.zarr")
    if dict(stored_preparation(store)) != dict(own.facts["preparation"]):
        raise UserError(f"{run}/data/images.zarr was prepared in another way than for the predictor; run dvc repro")
    images = read_split(store, "val" if "val" in store else "train", memory=1.0).images
    rows = np.sort(rng.choice(len(images), min(N_FILMS, len(images)), replace=False))
    return np.asarray(images[rows])


def _compare(own: Predictor, other: Predictor, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """How the scores and decisions of two predictors differ on prepared films.

    Raises:
        UserError: they differ by more than rounding.
    """
    ours, theirs = (_scores(one, images) for one in (own, other))
    differences = np.abs(ours - theirs)
    if not differences.max() <= MAX_DIFFERENCE:  # also if it is NaN
        raise UserError(
            f"the network that would ship differs from that of the run by {differences.max():.2g} in the score of a "
            f"film; at most {MAX_DIFFERENCE:g} is rounding"
        )
    points = own.facts["operating_points"].items()
    return {
        "n_films": len(images),
        "largest_difference": float(differences.max()),
        "median_difference": float(np.median(differences)),
        "changed_decisions": {
            name: int(((ours >= point["threshold"]) != (theirs >= point["threshold"])).sum()) for name, point in points
        },
    }


def _scores(one: Predictor, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    parts = (images[start : start + predictor.BATCH] for start in range(0, len(images), predictor.BATCH))
    return np.array([answer.score for part in parts for answer in one.answers(part)])


def _compare_maps(own: Predictor, folder: Path, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """The largest difference of a pixel of the saliency maps, 0-1, the median over films."""
    method = METHODS[own.facts["saliency"]["method"]]
    maps = []
    for one in (own.folder, folder):
        content = b"".join((one / name).read_bytes() for name in (predictor.NETWORK, predictor.MAPS))
        network = Exported(inference.open_session(one / predictor.MAPS, content, threads=0, remedy="export it again"))
        maps.append(method(network, images[:N_MAPS], n_samples=predict.N_SAMPLES, seed=SEED))
    return {"difference_of_maps": float(np.median(np.abs(maps[0] - maps[1]).max(axis=(1, 2))))}


def card(facts: Mapping[str, Any], recipe: Mapping[str, Any], notes: Sequence[str], folder: Path) -> str:
    """The card of a network that ships, in Markdown.

    Args:
        facts: content of its `predictor.json`.
        recipe: settings that differ from those of the project.
        notes: further sentences on its figures.
        folder: of the network, for the sizes of its files.
    """
    made, learnt, figures = facts["shipped"], facts["learnt_from"], facts["figures"]
    test, val = figures["test"], figures["val"]
    around = facts["preparation"].get("aspect") == "lungs"
    official = figures["test_split"] == "official"
    files = [f"- `{path.name}`: {path.stat().st_size:,} bytes" for path in sorted(folder.iterdir())]
    changed = ", ".join(f"{n} at `{name}`" for name, n in made["changed_decisions"].items())
    looks = f"It had been looked at {figures['looks']} times when this recipe was chosen." if "looks" in figures else ""
    split = (
        f"the official test split of the source, {test['n']:,} films. {looks}"
        if official
        else f"a test split that was drawn from the same source by patient, {test['n']:,} films; the official one was "
        f"left out. {looks}"
    )
    rows = [
        f"| AUC | {format_with_interval(test, 'auc')} | {format_with_interval(val, 'auc')} |",
        *(
            f"| {rate} at `{name}` (score {point['threshold']:.3f}) | {format_with_interval(point, rate)} | "
            f"{format_with_interval(point['val'], rate)} |"
            for name, point in facts["operating_points"].items()
            for rate in ("sensitivity", "specificity")
        ),
        *(
            f"| {title} of probabilities | {format_with_interval(figures['calibrated']['test'], key)} | "
            f"{format_with_interval(figures['calibrated']['val'], key)} |"
            for key, title in OF_PROBABILITIES.items()
        ),
    ]
    parts = [
        f"# {shipped.PREFIX}{made['name']}",
        "A network for chest X-rays that answers right after installation:",
        f"```console\n$ pneumonia predict film.png --model {shipped.PREFIX}{made['name']}\n```",
        "**It is not a medical device. Do not use it for diagnosis.**",
        _wrapped(f"Every answer says: {facts['caution']}"),
        "\n".join(files),
        _wrapped(
            f"`{facts['model']}`: {facts['network']}. Start weights: {facts['weights']}. Its weights are stored in "
            f"{made['weights']}. It has the predictor format of `models/predictor/`."
            + (" It uses the network in `../lungs/`, which finds lungs." if around else "")
        ),
        "## What it learnt from",
        _wrapped(
            f"{learnt['title']}: {learnt['n_images']:,} films of {learnt['n_patients']:,} patients, "
            f"{learnt['n_normal']:,} normal and {learnt['n_pneumonia']:,} with pneumonia."
        ),
        _wrapped(
            f"{learnt['citation']}. Licence: {learnt['licence']}. This network is derived from these films and is "
            f"passed on under {learnt['licence']} with this attribution."
        ),
        "## Recipe",
        "Settings that differ from those in `params.yaml`:",
        "```yaml\n" + "\n".join(f"{key}: {_as_yaml(value)}" for key, value in recipe.items()) + "\n```",
        "## Figures",
        _wrapped(
            f"Test: {split}".rstrip()
            + f" Validation ({figures['validation']}): {val['n']:,} films, which chose threshold "
            f"and calibration. Brackets are {figures['level']:.0%} intervals. Figures are those of the run, before its "
            "weights were stored here."
        ),
        "| | test | validation |\n|---|---|---|\n" + "\n".join(rows),
        _wrapped(
            f"A probability is 1 / (1 + exp(-({facts['calibration']['slope']:.4f} logit(score) + "
            f"{facts['calibration']['bias']:.4f}))), for the share of pneumonia in validation, "
            f"{val['n_positive'] / val['n']:.0%}."
        ),
        *_external(facts),
        *map(_wrapped, notes),
        "## What shipping changed",
        _wrapped(
            f"Scores on {made['n_films']} films, against the predictor of the run: they differ by at most "
            f"{made['largest_difference']:.1e}, the median is {made['median_difference']:.1e}. Decisions that changed: "
            f"{changed}."
            + (
                f" Saliency maps differ by {made['difference_of_maps']:.1e} (largest pixel, median over films)."
                if "difference_of_maps" in made
                else " It has no saliency maps."
            )
        ),
        "## What it is not for",
        _wrapped(
            "Diagnosis, triage, or any decision on a patient. It learnt from one hospital, and knows two answers: "
            "every other finding is called normal or pneumonia. On films of adults, of other hospitals and of other "
            "devices it is worse, and its probabilities are wrong. `unusual` marks some of these films, not all."
        ),
        f"Made with {', '.join(f'{name} {version}' for name, version in facts['made_with'].items())}.",
    ]
    return "\n\n".join(parts) + "\n"


def _external(facts: Mapping[str, Any]) -> list[str]:
    """A table of the external tests of the run, if it had some."""
    tests = facts.get("external", {})
    if not tests:
        return []
    rows = [
        f"| {name} | {test['n']:,} ({test['n_positive']:,} pneumonia) | {format_with_interval(test, 'auc')} | "
        f"{format_with_interval(test, 'sensitivity')} | {format_with_interval(test, 'specificity')} | "
        f"{format_with_interval(test, 'unusual')} |"
        for name, test in tests.items()
    ]
    head = "| external test | n | AUC | sensitivity | specificity | unusual |\n|---|---|---|---|---|---|\n"
    return [head + "\n".join(rows)]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _as_yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Add the network of a finished run to the package.")
    parser.add_argument("--run", type=Path, required=True, help="project folder after dvc repro")
    parser.add_argument("--name", required=True, help="of the network, after pretrained:")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--looks", type=int, help="how often the test split had been looked at")
    parser.add_argument("--films", nargs="+", default=[], help="image files for the comparison of scores")
    parser.add_argument("--caution", default="", help="a sentence that stands with every answer")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the card; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
