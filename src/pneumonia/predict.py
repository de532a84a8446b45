"""Answers for image files: find the images, load a model, score them, keep the answers in a table.

`load` gives a `Predictor` for Python code; the command `pneumonia predict` uses the rest too.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import fsspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pneumonia import UserError, compute, credentials, files, inference, reason, workspace
from pneumonia.data import targets
from pneumonia.data.targets import Target
from pneumonia.images import geometry, lungs
from pneumonia.images.formats import HEAD_BYTES, image_format, is_named_as_image
from pneumonia.metrics.text import format_with_interval
from pneumonia.models import shipped
from pneumonia.models.predictor import (
    COLUMNS,
    MAPS,
    NETWORK,
    Film,
    Prediction,
    Predictor,
    boxes_as_text,
    read_file,
    remedy,
)
from pneumonia.names import printable
from pneumonia.saliency import maps as saliency_maps
from pneumonia.saliency import methods, verdicts
from pneumonia.saliency.exported import Exported

CHUNK = 64
"""Images that a worker process scores at once."""

N_SAMPLES = 16
"""Of methods that average or integrate, as `explain.n_samples` by default."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_JUNK = ("__MACOSX/", "/.", "/~$")
_THREADS = 8
_FORMULA = ("=", "+", "-", "@", "\t")
_PAGE_WIDTH, _PAGE_HEIGHT = 640, 320
"""Pixels, the largest width and height of a whole film on the page of answers."""
_YELLOW, _BLUE, _ORANGE = (0, 220, 255), (255, 120, 60), (0, 140, 255)
_WIDTH = 36
"""Characters of a name in a table for a terminal; longer names lose their beginning."""


class Item(NamedTuple):
    """One image to score.

    Attributes:
        name: in the answers.
        uri: for `files.read_bytes`.
        error: why a place that was named has no images; then this is its row.
    """

    name: str
    uri: str
    error: str = ""


class Source(NamedTuple):
    """A model on this machine.

    Attributes:
        folder: with `predictor.json`.
        version: of the registered model, or `pretrained:NAME` of a network that ships; empty for a folder.
        train_run: id of the run that trained it; empty for a folder and for a network that ships.
    """

    folder: Path
    version: str = ""
    train_run: str = ""


def load(source: str | Path, *, operating_point: str = "youden", threads: int | None = None) -> Predictor:
    """A model that answers for image files.

    Args:
        source: a folder with a predictor, such as `models/predictor`; a network that ships, such as
            `pretrained:mobilenet`; or a registered version: `models:/pneumonia-chest_xray@champion` or
            `models:/pneumonia-chest_xray/3`. Only the last needs MLflow.
        operating_point: `youden` or `target_sensitivity`.
        threads: of a prediction; None = one for each core.

    Raises:
        UserError: no such model, a damaged one, or one that holds no predictor.

    Example:
        >>> predictor = load("models/predictor")  # doctest: +SKIP
        >>> predictor.predict(["my-xray.png"])  # doctest: +SKIP
    """
    model = resolve(source)
    return Predictor(model.folder, operating_point=operating_point, version=model.version, threads=threads)


@lru_cache(maxsize=1)
def open_predictor(model: Source, operating_point: str = "youden", threads: int | None = None) -> Predictor:
    """The predictor of a model that `resolve` has found, opened once in a process."""
    if threads:
        cv2.setNumThreads(threads)  # several processes with a thread for each core would wait for each other
    return Predictor(model.folder, operating_point=operating_point, version=model.version, threads=threads)


def resolve(source: str | Path) -> Source:
    """The folder of a model; a registered version is copied from its MLflow store."""
    if str(source).startswith(shipped.PREFIX):
        return Source(shipped.folder(str(source)), str(source))
    if not str(source).startswith("models:/"):
        if not Path(source).is_dir():
            if str(source) in shipped.names():
                raise UserError(
                    f"{source}: no such folder; for the network that ships: --model {shipped.PREFIX}{source}"
                )
            raise UserError(
                f"{source}: no such folder; name a folder such as models/predictor, or a registered version such as "
                "models:/pneumonia-phantom@champion or models:/pneumonia-phantom/1"
            )
        return Source(Path(source))
    from pneumonia.tracking import registry, runs  # 3 s, which a folder does not need

    runs.open_store()
    return Source(*registry.predictor(str(source), workspace.project_root() / ".resume" / "predictors"))


def stand_in(subject: str | None) -> str:
    """The address of the network that ships and answers where there is no champion.

    Args:
        subject: whose champion would answer (`targets.subject`); None outside of a project.

    Returns:
        Empty if there is a champion, or if no network of this target ships with this package.

    Raises:
        UserError: the store cannot be used.
    """
    if not shipped.names() or (subject and targets.parts(subject)[1] != targets.DEFAULT):
        return ""
    return "" if subject and _has_champion(subject) else shipped.default()


def _has_champion(subject: str) -> bool:
    from pneumonia.tracking import existing

    if not existing.has_store(workspace.project_root()):
        return False
    from pneumonia.tracking import errors, registry, runs  # 3 s, which a folder without a store does not need

    with errors.as_user_error(runs.open_store(), registry.OR_A_FOLDER):
        return registry.champion(subject) is not None


def notes(predictor: Predictor) -> list[str]:
    """What a reader of answers should know of the model, one line each, without a full stop."""
    caution = str(predictor.facts["caution"]).rstrip(".") if "shipped" in predictor.facts else ""
    limit = targets.of(predictor.facts).limit.rstrip(".")
    return [line for line in (introduction(predictor), caution, limit, advice(predictor)) if line]


def introduction(predictor: Predictor) -> str:
    """Which model answers and how good it was on test, in one line."""
    facts, origin = predictor.facts, predictor.origin
    version = origin["version"]
    name = f"version {version}" if version.isdigit() else version or f"predictor {origin['model']}"
    figures = facts["figures"]
    test = figures.get("test", {})
    point = facts["operating_points"][predictor.operating_point]
    worth = [
        f"{title} {format_with_interval(values, key)}"
        for title, values, key in (("AUC", test, "auc"), *((key, point, key) for key in ("sensitivity", "specificity")))
        if key in values
    ]
    split = "official test split" if figures.get("test_split") == "official" else "test split of its own source"
    tested = f"{split}, n = {test['n']:,}: {', '.join(worth)}" if worth and "n" in test else "no test figures"
    data = targets.titled(origin["data"], targets.of(facts))
    return f"answered by {name}, {facts['model']} on {data}; {tested}; no medical device"


def advice(predictor: Predictor) -> str:
    """Which network to use instead of one of synthetic films, in one line; empty for another one."""
    is_replaceable = predictor.facts["synthetic"] and predictor.facts["target"] == targets.DEFAULT
    address = shipped.default() if is_replaceable else ""
    return f"a network that learnt from films of patients ships with this version: --model {address}" if address else ""


def find(paths: Sequence[str]) -> tuple[list[Item], int]:
    """The images in files, folders, archives and patterns, in the order of the paths.

    A file that is named is taken whatever it is. Of folders and zip archives, files with the ending or the first bytes
    of an image are taken. A folder or an archive that cannot be read, and a pattern without a file, is an item with its
    error.

    Args:
        paths: files, folders, zip archives or patterns with `*`, local or as fsspec URLs.

    Returns:
        The images, and the number of files that were skipped.
    """
    items: list[Item] = []
    n_skipped = 0
    for given in paths:
        place = _as_cell(given)
        try:
            for place in map(_as_cell, _expanded(given)):
                taken, skipped = _items_at(place)
                items += [item._replace(name=credentials.masked_address(item.name)) for item in taken]
                n_skipped += skipped
        except (UserError, OSError) as error:
            cause = str(error).removesuffix("; correct fetch.url").removesuffix("; copy or download it again")
            name = credentials.masked_address(place)
            items.append(Item(name, place, credentials.masked(cause.replace(place, name))))
    return items, n_skipped


def _as_cell(path: str) -> str:
    """The same path, unless a spreadsheet program would take a cell with it for a formula."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def _items_at(path: str) -> tuple[list[Item], int]:
    if files.is_folder(path):
        return _images_of(files.in_folder(path), f"{path.rstrip('/')}/")
    if _is_zip(path):
        with files.in_archive(Path(path).absolute()) as place:
            return _images_of(place, f"{path}::")
    if "://" in path and path.lower().endswith(".zip"):
        raise UserError("a zip archive at a URL is not opened; download it first")
    return [Item(path, path)], 0


def answers(
    model: Source,
    items: Sequence[Item],
    *,
    operating_point: str = "youden",
    workers: int = 1,
    threads: int | None = None,
) -> Iterator[list[Prediction]]:
    """The answers for images, in their order, in chunks, with a progress bar on a terminal.

    Args:
        model: as `resolve` returns it.
        items: as `find` returns them.
        operating_point: of the answers.
        workers: processes.
        threads: of the network in each process; None = one for each core if there is one process, else one.
    """
    threads = threads or (1 if workers > 1 else None)
    jobs = [item._replace(uri=files.absolute(item.uri)) for item in items]
    answer = partial(_answer_chunk, model, operating_point, threads)
    yield from compute.run(answer, compute.chunks(jobs, CHUNK), workers=workers, label="predict")


def _answer_chunk(model: Source, operating_point: str, threads: int | None, items: Sequence[Item]) -> list[Prediction]:
    return _answer_items(open_predictor(model, operating_point, threads), items)


def _answer_items(predictor: Predictor, items: Sequence[Item]) -> list[Prediction]:
    good = [item for item in items if not item.error]
    answers = predictor.scores([item.uri for item in good], [item.name for item in good])
    return [predictor.failed(item.name, item.error) if item.error else next(answers) for item in items]


class Table:
    """A file of answers that is written row by row; an interrupted run continues after its last complete row.

    Args:
        path: ends in `.csv` or `.jsonl`.
        origin: `Predictor.origin` of the model.
        operating_point: of the answers.
        items: all images of this run, in their order.

    Attributes:
        n_finished: images that an earlier run has answered.
        n_errors: those of them without an answer.

    Raises:
        UserError: another ending, or a file with answers of another model, operating point or other images.
    """

    def __init__(self, path: Path, origin: Mapping[str, str], operating_point: str, items: Sequence[Item]) -> None:
        if path.suffix not in _FORMATS:
            raise UserError(f"{path}: answers are written as {' or '.join(_FORMATS)}; change the ending of --output")
        if not path.absolute().parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; make it first")
        self._path, self.n_finished, self.n_errors = path, 0, 0
        self._write, read = _FORMATS[path.suffix]
        if not path.exists():
            return
        expected = {name: printable(value) for name, value in {**origin, "operating_point": operating_point}.items()}
        n_bytes = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break  # a killed run has written a part of its last row
                row = read(line, number)
                if row is not None:
                    item = items[self.n_finished] if self.n_finished < len(items) else None
                    if item and credentials.MASK in item.name and credentials.secrets_of(item.uri):
                        raise UserError(
                            f"{path} exists, and without the secrets of their addresses its rows cannot be told apart; "
                            "delete the file, or give another --output"
                        )
                    names = {"image": printable(item.name)} if item else {}
                    if not names or any(row.get(name) != value for name, value in (expected | names).items()):
                        raise _other_rows(path, number + 1)
                    self.n_finished += 1
                    self.n_errors += bool(row["error"])
                n_bytes += len(line)
        if n_bytes < path.stat().st_size:
            with open(path, "r+b") as file:
                file.truncate(n_bytes)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write further rows."""
        is_new = not self._path.exists() or self._path.stat().st_size == 0
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            file.write(self._write(rows, is_new))


def _other_rows(path: Path, line: int) -> UserError:
    return UserError(
        f"{path} exists and holds other rows than this run would write, from line {line} on: another image, model or "
        "operating point; delete the file, or give another --output"
    )


def row_of(prediction: Prediction, origin: Mapping[str, str]) -> dict[str, Any]:
    """A row of `COLUMNS`; numbers that do not exist are None."""
    # Errors of transports name the address.
    changed = {"boxes": boxes_as_text(prediction.boxes), "error": credentials.masked(prediction.error)}
    values = {**prediction._asdict(), **changed, **origin}
    return {name: _cell(value) for name, value in values.items()}


def _cell(value: str | float) -> str | float | None:
    if isinstance(value, str):
        return printable(value)
    return None if math.isnan(value) else value


def as_csv(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    """Rows of `COLUMNS` as CSV, one line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json_lines(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    """Rows of `COLUMNS` as JSON, one object on each line."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _row_of_csv(line: bytes, number: int) -> dict[str, str] | None:
    """The row of a line; None for the header."""
    cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    if number == 0:
        return None if tuple(cells) == COLUMNS else {}
    return dict(zip(COLUMNS, cells, strict=False))


def _row_of_json(line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


_FORMATS: dict[
    str,
    tuple[
        Callable[[Sequence[Mapping[str, Any]], bool], str],
        Callable[[bytes, int], dict[str, Any] | None],
    ],
] = {".csv": (as_csv, _row_of_csv), ".jsonl": (as_json_lines, _row_of_json)}


def as_text(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    """Rows of `COLUMNS` as a table for a terminal; first, what the answers are worth."""
    lines = (
        [f"{rows[0]['caution']}", "", _columns("image", "answer", "probability", "threshold", "note")] if header else []
    )
    lines += [_columns(row["image"], *cells(row)) for row in rows]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Answer, probability, threshold and note of a row, for a reader."""
    if row["error"]:
        return "-", "-", "-", str(row["error"])
    return str(row["label"]), *_shares(row), "unusual" if row["unusual"] else ""


def tally(counts: Mapping[str, int]) -> str:
    """The numbers of answers in one line.

    >>> tally({"normal": 1, "pneumonia": 2, "unusual": 1, "error": 1})
    '4 images: 1 normal, 2 pneumonia, 1 without an answer; 1 unusual'
    """
    n_images = sum(n for name, n in counts.items() if name != "unusual")
    parts = [
        f"{n:,} {'without an answer' if name == 'error' else name}" for name, n in counts.items() if name != "unusual"
    ]
    return f"{n_images:,} image{'s' * (n_images != 1)}: {', '.join(parts)}; {counts.get('unusual', 0):,} unusual"


def kind_of(row: Mapping[str, Any]) -> str:
    """Under which name `tally` counts a row."""
    return "error" if row["error"] else str(row["label"])


def _columns(image: str, answer: str, probability: str, threshold: str, note: str) -> str:
    short = image if len(image) <= _WIDTH else f"…{image[1 - _WIDTH :]}"
    return f"{short:{_WIDTH}}  {answer:9}  {probability:>11}  {threshold:>9}  {note}".rstrip()


def in_words(row: Mapping[str, Any], target: Target) -> str:
    """An answer in one sentence.

    >>> row = {"error": "", "unusual": "", "label": "normal", "probability": 0.3, "threshold": 0.4}
    >>> in_words(row, targets.PNEUMONIA)
    'normal: probability of pneumonia 30 %, below the threshold of 40 %'
    """
    if row["error"]:
        return f"no answer: {row['error']}"
    side = "at or above" if row["label"] == target.positive else "below"
    probability, threshold = _shares(row)
    text = f"{row['label']}: probability of {target.finding} {probability}, {side} the threshold of {threshold}"
    return text + (f"; unusual: {row['unusual']}" if row["unusual"] else "")


def _shares(row: Mapping[str, Any]) -> tuple[str, str]:
    """Probability and threshold in percent, with as many digits as they need to differ."""
    for digits in range(3):
        shares = _percent(row["probability"], digits), _percent(row["threshold"], digits)
        if shares[0] != shares[1]:
            break
    return shares


def no_maps(facts: Mapping[str, Any]) -> str:
    """Why no map of a predictor is shown, in one line; empty if maps are shown.

    Args:
        facts: `predictor.json`.
    """
    verdict = str(facts["saliency"].get("verdict", ""))
    if not verdicts.is_excluded(verdict):
        if "shipped" in facts and MAPS not in facts["digests"]:
            return "no saliency maps: this network ships without them"
        return ""
    return f"no saliency maps: every method that was measured is excluded ({_method_in_words(facts)})"


def _method_in_words(facts: Mapping[str, Any]) -> str:
    verdict = facts["saliency"].get("verdict", "")
    told = verdicts.with_origin(verdict, facts["synthetic"]) if verdict else "not measured"
    return verdicts.in_words(facts["saliency"].get("method", ""), told)


def load_network(model: Source, predictor: Predictor, threads: int = 0) -> Any:
    """The network of a predictor, for saliency maps: the exported one, or else that of Keras.

    Args:
        model: as `resolve` returns it.
        predictor: of this model.
        threads: for a map of the exported network; 0 = one for each core.

    Raises:
        UserError: TensorFlow is needed and not installed, or the model's Keras network is not known.
    """
    if MAPS in predictor.facts["digests"]:
        return _exported_network(predictor.folder, predictor.facts["digests"], threads)
    if find_spec("tensorflow") is None:
        raise UserError(
            "--saliency needs TensorFlow for this model, and it is not installed; leave it out, or install the project"
        )
    from pneumonia.models import loading, runtime

    with tempfile.TemporaryDirectory() as download:
        path = _keras_file(model, Path(download))
        same = path.is_file() and workspace.sha256_file(path) == predictor.facts["digests"].get("model_sha256")
        if not same:
            if model.train_run:  # its path is a copy, which is removed
                raise UserError(
                    "--saliency needs the Keras network of the predictor; that of the train run in the MLflow store is "
                    "another file, as in runs of earlier versions of this project: use --model models/predictor"
                )
            problem = "is another network" if path.is_file() else "is missing"
            raise UserError(
                f"--saliency needs the Keras network of the predictor, but {path} {problem}; put it there, or use a "
                "registered version: --model models:/NAME@champion"
            )
        runtime.start_keras()
        return loading.load_model(path)


def _exported_network(folder: Path, digests: Mapping[str, str], threads: int) -> Exported:
    content = b"".join(read_file(folder / name, digests[name]) for name in (NETWORK, MAPS))
    return Exported(inference.open_session(folder / MAPS, content, threads=threads, remedy=remedy(folder)))


def write_maps(folder: Path, network: Any, predictor: Predictor, items: Sequence[Item]) -> None:
    """Write the saliency map of each image, over the whole film, as `<number>-<name>.png`.

    The maps are those of the stage `explain`, with the method that the predictor names. What they are worth is said
    once, on stderr.
    """
    print(f"saliency maps: {_method_in_words(predictor.facts)}", file=sys.stderr)
    method = methods.METHODS[predictor.facts["saliency"]["method"]]
    folder.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(tqdm(items, "saliency", unit="image", disable=None, leave=False)):
        path = map_path(folder, number, item)
        path.unlink(missing_ok=True)  # it may be of another image or of another model
        if item.error:
            continue
        try:
            film = predictor.read(item.uri)
        except UserError:  # its row says why it has no answer
            continue
        (values,) = method(network, film.prepared[None], n_samples=N_SAMPLES, seed=methods.SEED)
        picture = _with_map_on_film(film, values)
        with workspace.written_whole(path) as partial:
            partial.write_bytes(_encoded(picture))


def _keras_file(model: Source, download: Path) -> Path:
    """The network of a predictor as a Keras file: of the train run, or beside the folder as in `models/`."""
    if not model.train_run:
        return network_beside(model.folder)
    from pneumonia.tracking import registry

    return registry.network(model.train_run, download)


def network_beside(folder: Path) -> Path:
    """The Keras file of the network of a predictor folder, which may exist: `models/model.keras`."""
    return folder.resolve().parent / "model.keras"


def map_path(folder: Path, number: int, item: Item) -> Path:
    """The file of an image's saliency map; its number keeps images with the same name apart."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(item.name).stem)[:80]
    return folder / f"{number + 1:05}-{stem}.png"


def write_page(path: Path, predictor: Predictor, items: Sequence[Item], maps: Path | None) -> None:
    """Write the page of answers, with the films of the first images.

    Args:
        path: of the HTML file.
        predictor: of the answers.
        items: all images.
        maps: the folder of `write_maps`; None = no maps.
    """
    from pneumonia.report import answers as page

    rows, pictures, target = [], [], targets.of(predictor.facts)
    for number, item in enumerate(items[: page.MAX_FILMS]):
        prediction, film = _answer_and_film(predictor, item)
        row = row_of(prediction, predictor.origin)
        name, text = row["image"], in_words(row, target)
        rows.append((name, *cells(row)))
        if film is not None and not prediction.error:
            picture = outlined(predictor, film, answer=prediction)
            if maps and (file := map_path(maps, number, item)).is_file():
                overlaid = np.asarray(cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR))
                picture = np.hstack([picture, overlaid]).astype(np.uint8)
            pictures.append((f"{name}: {text}", jpeg(picture)))
    facts, origin, point = predictor.facts, predictor.origin, predictor.operating_point
    page.write(path, facts, origin, point, rows, pictures, len(items), notes(predictor))


def _answer_and_film(predictor: Predictor, item: Item) -> tuple[Prediction, Film | None]:
    """The answer for an image, and the image as it was prepared for it; None if it cannot be read."""
    try:
        film = None if item.error else predictor.read(item.uri)
    except UserError:
        film = None
    if film is None:
        return _answer_items(predictor, [item])[0], None
    return predictor.answers_for([film])[0]._replace(image=item.name), film


def outlined(
    predictor: Predictor,
    film: Film,
    *,
    width: int = _PAGE_WIDTH,
    height: int = _PAGE_HEIGHT,
    answer: Prediction | None = None,
) -> npt.NDArray[np.uint8]:
    """A whole film with the outline of its lungs (yellow) and the part that the model saw (blue): BGR.

    The boxes that a detector found are orange, with their scores.

    A model that is not prepared around the lungs does not look for them, so they are searched for here.

    Args:
        predictor: that has read the film.
        film: as `Predictor.read` returns it.
        width, height: the largest of the picture, pixels.
        answer: for the film, which has its boxes; None = they are searched for here.
    """
    both, preparation = film.lungs, predictor.preparation
    if preparation.aspect != "lungs":
        both = lungs.search(film.image, preparation.crop).lungs
    picture, scale = _shrunk(film.image, width, height)
    if both:  # in the size of the picture: a mask of a film of 300 MB would need several times as much
        n_rows, n_columns = picture.shape[:2]
        mask = both.mask(n_rows, n_columns, scale).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, _YELLOW, 1)
    x, y, across, down = (round(scale * side) for side in film.part)
    cv2.rectangle(picture, (x, y), (x + across - 1, y + down - 1), _BLUE, 1)
    for *box, score in _boxes(predictor, film, answer):
        x, y, across, down = (round(scale * side) for side in box)
        cv2.rectangle(picture, (x, y), (x + across - 1, y + down - 1), _ORANGE, 2)
        cv2.putText(picture, f"{score:.2f}", (x + 3, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _ORANGE, 1, cv2.LINE_AA)
    return picture


def _boxes(predictor: Predictor, film: Film, answer: Prediction | None) -> list[list[float]]:
    """Rows of x, y, width, height and score."""
    if answer:
        return [list(box) for box in answer.boxes]
    return [[*box, score] for box, score in zip(*predictor.boxes([film])[0], strict=True)]


def _with_map_on_film(film: Film, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A film under the map of the part that the model saw: BGR, of the size of `outlined`."""
    picture, scale = _shrunk(film.image, _PAGE_WIDTH, _PAGE_HEIGHT)
    height, width = picture.shape[:2]
    side = film.prepared.shape[0]
    to_film = geometry.affine(geometry.Box(0, 0, side, side), geometry.Box(*(scale * one for one in film.square)))
    on_film = cv2.warpAffine(values.astype(np.float32), to_film, (width, height), flags=cv2.INTER_LINEAR)
    return saliency_maps.overlaid(picture, np.asarray(on_film, np.float32))


def _shrunk(image: npt.NDArray[np.uint8], width: int, height: int) -> tuple[npt.NDArray[np.uint8], float]:
    """A film, BGR, as large as it can be in this width and height, and the factor of its size."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8), scale


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture for a page, as JPEG: a third of the bytes of a PNG, and thin lines keep their colours."""
    full_colours = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85, *full_colours])[1].tobytes())


def _encoded(image: npt.NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def _percent(share: float, digits: int = 0) -> str:
    """A probability in percent; never 0 % or 100 %, which no model can know.

    >>> [_percent(share) for share in (0.00001, 0.034, 0.7, 0.9999)]
    ['below 1 %', '3 %', '70 %', 'above 99 %']
    """
    if share < 0.01:
        return "below 1 %"
    return "above 99 %" if share > 0.99 else f"{100 * share:.{digits}f} %"


def _expanded(path: str) -> list[str]:
    # In an address of the web `?` begins the query.
    named = path.partition("?")[0] if path.lower().startswith(("http://", "https://")) else path
    if not any(sign in named for sign in "*?[") or ("://" not in path and os.path.lexists(path)):
        return [path]
    try:
        if "://" in path:
            system, pattern = fsspec.core.url_to_fs(path)
            found = sorted(str(system.unstrip_protocol(one)) for one in system.glob(pattern))
            matches = [one for one in found if not PurePosixPath(one).name.startswith(".")]  # as `glob` does
        else:
            matches = sorted(glob.glob(os.path.expanduser(path), recursive=True))
    except Exception as error:  # fsspec passes on the errors of its transports
        raise UserError(f"{path}: cannot be listed ({reason(error)})") from error
    if not matches:
        raise UserError("no file matches this pattern")
    return matches


def _is_zip(path: str) -> bool:
    if "://" in path or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) in _ZIP


def _images_of(place: files.Files, prefix: str) -> tuple[list[Item], int]:
    def is_image(name: str) -> bool:
        if any(junk in f"/{name}" for junk in _JUNK):
            return False
        try:
            return is_named_as_image(name) or bool(image_format(place.head(name, HEAD_BYTES)))
        except UserError:  # its row says why it cannot be read
            return True

    with ThreadPoolExecutor(_THREADS) as pool:
        taken = list(pool.map(is_image, place.names))
    names = [name for name, image in zip(place.names, taken, strict=True) if image]
    return [Item(prefix + name, _uri(place, prefix, name)) for name in names], len(place.names) - len(names)


def _uri(place: files.Files, prefix: str, name: str) -> str:
    try:
        return place.uri(name)
    except UserError:  # a name that no manifest can contain; the file can still be opened by its path
        return prefix + name
