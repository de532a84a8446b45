"""Remove what a project has of a patient: images, table rows, pictures, texts, caches. Models stay and are tagged.

The tables of the project say which images are the patient's; then every place that stages write to is searched. Files
are rewritten without the patient where that is possible (`data.removal`), else deleted. In DVC's cache they can only be
deleted, also those of experiments.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import zarr

from pneumonia import UserError, leases, outs, workspace
from pneumonia.data import forgotten, removal, tables, traces
from pneumonia.data.removal import Row
from pneumonia.data.traces import Traces

CACHE = "DVC cache"
MANIFEST, SPLITS = Path("data/manifest.csv"), Path("data/splits.csv")
_N_PREVIEWED = 3
"""Images of each class in the picture that the stage `preprocess` logs."""
_STORE_NAMES = re.compile(r"zarr\.json$|image_ids/")
_N_SHOWN = 4


class Findings(NamedTuple):
    """Where a patient is found.

    Attributes:
        traces: what names the patient, or is an image.
        others: `uri` of the images and masks of other patients.
        files: kind of place -> files, folders and image stores, in the order of their removal: what may be a link into
            DVC's cache before the cache, and the tables last, because they tell which images are the patient's.
        store: URI of the MLflow store; empty if there is none.
        n_texts: of its database.
        learners: models that the patient was part of (`stored.Learner`).
        kept: what this command cannot remove.
    """

    traces: Traces
    others: list[str]
    files: dict[str, list[Path]]
    store: str
    n_texts: int
    learners: list[Any]
    kept: list[str]


def forget(patient: str, *, yes: bool) -> list[str]:
    """Find a patient in the project of the current folder, and remove all but the models if `yes`.

    Args:
        patient: identifier, as in the column `patient_id` of the tables.

    Returns:
        Lines for the user.

    Raises:
        UserError: no table names the patient, or a stage or a DVC command runs.
    """
    root = workspace.project_root()
    if running := leases.held(root / ".resume" / "runs"):
        raise UserError(f"a stage runs in this project ({', '.join(running)}); wait until it ends, and run again")
    with outs.locked_dvc() as dvc:
        findings = find(patient, root, Path(dvc.cache.legacy.path) if dvc else root / ".dvc" / "cache")
        if not findings:
            return [f"{patient} was forgotten before, and nothing of this patient is left"]
        remotes = dvc.config["remote"] if dvc else ()
        findings.kept.extend(f"the DVC remote {name} (dvc gc --workspace --cloud)" for name in remotes)
        lines = _lines(patient, findings, root)
        if not yes:
            return [*lines, f"Nothing was removed. This removes it: pneumonia forget {shlex.quote(patient)} --yes"]
        as_written = outs.unchanged()
        forgotten.add(root, patient, findings.traces.digests)
        try:
            remove(findings, root)
        finally:  # also what was rewritten before an error, and what only DVC's cache has lost
            outs.record_again({out: stage for out, stage in as_written.items() if Path(out).exists()}, dvc)
    if dvc:  # names of files that DVC has seen; it makes this folder, which is outside of the project, again
        workspace.remove(Path(dvc.site_cache_dir))
    return [
        *lines,
        f"Removed, except what stays. Commit {forgotten.FILE}: with it, fetch leaves this patient out.",
        "Train again without this patient: make repro",
    ]


def find(patient: str, root: Path, cache: Path) -> Findings | None:
    """Where a patient is; None if the patient was removed before.

    Args:
        root: of the project.
        cache: of DVC.

    Raises:
        UserError: no table names the patient.
    """
    from pneumonia.tracking import existing, runs, stored

    store = runs.open_store() if existing.has_store(root) else ""
    folders, elsewhere = stored.folders(root, store) if store else ([], [])
    # Not all below `data`: a user may keep images there that are read in place.
    data = [Path("data/raw"), *sorted(Path("data").glob("*.zarr")), *sorted(Path("data").glob("*.csv"))]
    units = [unit for folder in (*data, Path("reports"), *folders) for unit in removal.units(folder) if unit.is_file()]
    known = [rows for path in (*units, *_objects(cache).values()) if (rows := removal.rows_of(path))]
    rows = [row for table in known for row in table if row["patient_id"] == patient]
    if not rows:
        if forgotten.contains(forgotten.read(root), patient):
            return None
        if not known:
            raise UserError("nothing to remove: this project has no table of images; make repro makes them")
        raise UserError(f"no table of this project has the patient {patient!r}; {MANIFEST} has all in patient_id")
    digests = {row["sha256"] for row in rows if row.get("sha256")}
    rows += [row for table in known for row in table if row.get("sha256") in digests]  # copies under other names
    of = traces.of_rows([patient], rows)
    manifest = removal.rows_of(MANIFEST) if MANIFEST.is_file() else []
    others = traces.uris(row for row in manifest if not of.have_row(row))
    splits = _splits(known, patient)
    logged = [unit for folder in folders for group in _groups(folder) for unit in removal.search([group], of, others)]
    n_texts, learners = 0, []
    if store:
        unclear = _Splits((), True)
        previews = [run for run, digest in stored.previews().items() if splits.get(digest, unclear).previewed]
        pictures = [folder / run / "artifacts" / stored.PREVIEW for folder in folders for run in previews]
        logged += [path for path in pictures if path.is_file()]
        n_texts = stored.texts(root, store, _in_text(of, logged), remove=False)
        learners = stored.learners({digest: one.splits for digest, one in splits.items()}, _data_sets(rows))
    in_data = removal.search(data, of, others)
    files = {
        "temporary": _temporary(root, of),
        ".resume": _resumable(root),
        "MLflow": logged,
        "reports": removal.search([Path("reports"), Path("dvc_plots")], of, others),
        "data": [path for path in in_data if path.suffix != ".csv"],
        CACHE: _cached(cache, of),
        "tables": sorted((path for path in in_data if path.suffix == ".csv"), key=lambda path: path == MANIFEST),
    }
    kept = [*_sources(rows), *(f"the MLflow files in {place}" for place in elsewhere)]
    return Findings(of, others, files, store, n_texts, learners, kept)


def remove(findings: Findings, root: Path) -> None:
    """Remove what was found. After an error the command can be run again: what is left is then found again."""
    from pneumonia.tracking import stored

    if findings.store:
        stored.texts(root, findings.store, _in_text(findings.traces, findings.files["MLflow"]), remove=True)
        for learner in findings.learners:
            if learner.learnt:
                stored.mark(learner, datetime.now(UTC).strftime("%Y-%m-%d"))
    for path in findings.files["tables"]:
        if path.is_symlink():  # into DVC's cache, if `cache.type` is `symlink`
            with workspace.written_whole(path) as partial:
                shutil.copyfile(path, partial)
    for kind, paths in findings.files.items():
        for path in paths:
            if kind in (CACHE, "temporary", ".resume"):
                workspace.remove(path)
                with suppress(OSError):  # not empty; DVC fails at a run that it remembers without outs
                    path.parent.rmdir()
            else:
                attributes = _new_digest(path, findings.traces) if path.is_dir() else {}
                removal.rewrite(path, findings.traces, findings.others, attributes)
            if kind == "MLflow" and path.is_file():
                stored.record_predictions(path)


def _lines(patient: str, findings: Findings, root: Path) -> list[str]:
    """What was found, and what stays, as lines."""
    lines = [f"{patient}: {_count(len(findings.traces.digests), 'image file')}"]
    for kind, paths in findings.files.items():
        names = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
        if kind == CACHE and names:
            lines.append(f"{kind}: {_count(len(names), 'file')}, also of experiments")
        elif names:
            more = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
            lines.append(f"{kind}: {_count(len(names), 'file')}, {', '.join(names[:_N_SHOWN])}{more}")
    if findings.n_texts:
        lines.append(f"MLflow database: {_count(findings.n_texts, 'text')}")
    for learner in findings.learners:
        versions = "".join(f", {name} version {version}" for name, version in learner.versions)
        what = f"patient in {', '.join(learner.splits)}" if learner.splits else "its splits are not known any more"
        remedy = "is tagged, train it again" if learner.learnt else "did not learn from it, but its figures include it"
        lines.append(f"model stays: {learner.name}{versions} ({what}): {remedy}")
    return [*lines, *(f"stays, it is not a part of this project: {place}" for place in findings.kept)]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


class _Splits(NamedTuple):
    """Splits with images of the patient, and whether one of these is in the picture that `preprocess` logs."""

    splits: tuple[str, ...]
    previewed: bool


def _splits(known: Iterable[list[Row]], patient: str) -> dict[str, _Splits]:
    """Data digest of each known table of splits -> the patient in it."""
    splits_of = {}
    for table in map(pd.DataFrame, known):
        if {"split", "weight", "label", "sha256"} <= {*table}:
            of_patient = table[table["patient_id"] == patient]
            previewed = table.groupby("label").head(_N_PREVIEWED).index.isin(of_patient.index).any()
            splits_of[tables.data_digest(table)] = _Splits(tuple(sorted({*of_patient["split"]})), bool(previewed))
    return splits_of


def _in_text(of: Traces, logged: Iterable[Path]) -> Callable[[str], bool]:
    """Whether a text of the store shows the patient; if pictures of the patient were logged, perhaps without a name."""
    embedded = any(path.suffix in removal.PICTURES for path in logged)
    return partial(removal.shows, of=of, embedded=embedded)


def _new_digest(store: Path, of: Traces) -> dict[str, str]:
    """The attribute of an image store that becomes another one: the digest of its splits, if these are here."""
    splits = tables.read_table(SPLITS) if SPLITS.is_file() else pd.DataFrame()
    if splits.empty or zarr.open_group(store, mode="r").attrs.get("digest") != tables.data_digest(splits):
        return {}
    return {"digest": tables.data_digest(splits[[not of.have_row(row) for row in splits.to_dict("records")]])}


def _data_sets(rows: Iterable[Row]) -> set[str]:
    """The settings `data` under which images were fetched: the name of their archive; in a folder, the present one."""
    archives = {row["uri"].rpartition("::")[2] for row in rows if row.get("uri")}
    return {Path(archive).stem if archive.endswith(".zip") else str(_source().get("data")) for archive in archives}


def _source() -> dict[str, Any]:
    """The record that `fetch` writes beside the archive."""
    path = Path("data/raw/source.json")
    return dict(tables.read_json(path)) if path.is_file() else {}


def _sources(rows: Iterable[Row]) -> list[str]:
    """The user's own images, read in place or copied, and the places of their lung masks and of external tests."""
    source = _source()
    url, masks = source.get("url"), source.get("lungs")
    folders = {row["uri"].rpartition("/")[0] for row in rows if row.get("uri") and "::" not in row["uri"]}
    # Archives of external tests; the archive of the run is a copy, which is written again.
    archives = {row.get("uri", "").partition("::")[2] for row in rows if row.get("source")} - {""}
    return [*(sorted(folders) or ([str(url)] if url else [])), *([str(masks)] if masks else []), *sorted(archives)]


def _groups(folder: Path) -> list[Path]:
    """The folders of the runs and the models in a folder of artifacts."""
    return [one for one in (*folder.glob("*/"), *folder.glob("models/*/")) if one.name != "models"]


def _objects(cache: Path) -> dict[str, Path]:
    """MD5 -> file in DVC's cache, also in the part that DVC 2 wrote."""
    paths = [path for pattern in ("??/*", "files/md5/??/*") for path in sorted(cache.glob(pattern)) if path.is_file()]
    return {f"{path.parent.name}{path.name}": path for path in paths}


def _cached(cache: Path, of: Traces) -> list[Path]:
    """The objects in DVC's cache with something of the patient, and the listings of folders that have such a file.

    Of an image store with the patient all goes that no other folder shares.
    """
    objects = _objects(cache)
    listings = {md5: json.loads(path.read_text("utf-8")) for md5, path in objects.items() if path.suffix == ".dir"}
    entries = [entry for listing in listings.values() for entry in listing]
    named = {entry["md5"]: entry["relpath"] for entry in entries if of.are_named_in(entry["relpath"])}
    embedded = any(Path(name).suffix in removal.PICTURES for name in named.values())
    files = {md5: path for md5, path in objects.items() if md5 not in listings}
    gone = {*named} | {md5 for md5, path in files.items() if removal.holds(path, of, embedded=embedded)}
    sheets = {md5 for listing in listings.values() for md5 in _sheets(listing, gone, objects)}
    gone |= sheets
    shared: set[str] = set()
    for md5, listing in listings.items():
        members = {entry["md5"] for entry in listing}
        if _is_store_with(listing, objects, of):
            gone |= {md5, *members}
        elif members & gone:
            gone.add(md5)
        else:
            shared |= members
    gone -= shared
    # First, because the others tell whose they are, if this is stopped.
    in_order = sorted(gone, key=lambda md5: (md5 not in sheets, md5))
    # DVC remembers runs with their outs: those with such a file cannot be restored any more.
    runs = [path for path in sorted(cache.glob("runs/??/*/*")) if any(md5 in path.read_text("utf-8") for md5 in gone)]
    return [*(objects[md5] for md5 in in_order if md5 in objects), *runs]


def _sheets(listing: Iterable[Mapping[str, str]], gone: Iterable[str], objects: Mapping[str, Path]) -> set[str]:
    """The pictures of many images in a cached folder that shows the patient.

    A folder that has lost its table may show the patient, and nobody can use it any more.
    """
    md5_of = {entry["relpath"]: entry["md5"] for entry in listing}
    shows_patient = {*md5_of.values()} & {*gone} or md5_of.get("index.csv") not in objects
    return {md5 for path, md5 in md5_of.items() if removal.is_sheet(path)} if shows_patient else set()


def _is_store_with(listing: Iterable[Mapping[str, str]], objects: Mapping[str, Path], of: Traces) -> bool:
    """Whether a folder in the cache is an image store with images of the patient; only the names in it are read.

    A store that has lost its names may have some, and nobody can use it any more.
    """
    names = {entry["relpath"]: entry["md5"] for entry in listing if _STORE_NAMES.search(entry["relpath"])}
    if not names:
        return False
    if any(md5 not in objects for md5 in names.values()):
        return True
    with tempfile.TemporaryDirectory() as folder:
        for name, md5 in names.items():
            link = Path(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(objects[md5].absolute())
        return removal.holds(Path(folder), of)


def _temporary(root: Path, of: Traces) -> list[Path]:
    """What killed experiments have left, and logs of DVC's queue."""
    experiments = root / ".dvc" / "tmp" / "exps"
    folders = [*experiments.glob("standalone/*/"), *experiments.glob("tmp*/")]
    return [*(folder for folder in folders if removal.search([folder], of)), *removal.search([experiments / "run"], of)]


def _resumable(root: Path) -> list[Path]:
    """What interrupted stages have left: any of it may contain the patient, and it may be deleted."""
    folder = root / ".resume"
    names = {
        path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    return [folder / name for name in sorted(names - {"by_hand", "runs"})]
