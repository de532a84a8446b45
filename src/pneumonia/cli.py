"""The command `pneumonia`: what a user does with trained models. Like a stage: read settings, call, print.

Each command imports what it needs: pandas or MLflow would make the others slower.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from pneumonia import UserError, __version__, credentials, environment, outs, params, reason, signals, workspace
from pneumonia.names import printable

if TYPE_CHECKING:  # the commands import what they need
    from pneumonia.data.targets import Target
    from pneumonia.predict import Item

DATA_DIR, MODELS_DIR, REPORTS_DIR = Path("data"), Path("models"), Path("reports")
PAGE, REPORT = REPORTS_DIR / "compare.html", REPORTS_DIR / "report.html"
COLUMNS = r"Experiment|^(data|model)$|(val|test)\.auc$"
"""Columns of `dvc exp show` that fit a line of 80 characters."""
BEST_FIRST = ("--sort-by", "reports/metrics.json:val.auc", "--sort-order", "desc")
"""Validation chooses. DVC refuses a column that no experiment has."""

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
DATA = click.option("--data", help="Data set of the models, or DATA-TARGET; default: those of params.yaml.")
MODEL = click.option(
    "--model",
    help="Folder, version number, models:/NAME@ALIAS or pretrained:NAME; default: the champion, without one a network "
    "that ships.",
)
OPERATING_POINT = click.option(
    "--operating-point",
    type=click.Choice(["youden", "target_sensitivity"]),
    default="youden",
    show_default=True,
    help="Threshold: balanced, or of the sensitivity evaluate.target_sensitivity.",
)


class WrongCall(click.ClickException):
    """A call that is not understood, in one line; click's own error has two more, without the reason."""

    exit_code = click.UsageError.exit_code


class Commands(click.Group):
    """A group whose commands end in one line and exit status 1 where the user can fix the problem."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as in `pneumonia versions | head`, which click handles
            raise
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "pneumonia"
            raise WrongCall(printable(f"{error.format_message().rstrip('.')}; see: {command} --help")) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo(f"stopped by {signals.NAMES[signal.SIGINT]}", err=True)
            ctx.exit(signals.status(signal.SIGINT))
        except Exception as error:
            if environment.lacks_memory(error):
                line = f"{environment.MEMORY_REMEDY} ({reason(error)})"
                raise click.ClickException(printable(credentials.masked(line))) from error
            if environment.lacks_disk(error):
                line = f"the disk is full ({error}); free some space and run again"
                raise click.ClickException(printable(credentials.masked(line))) from error
            if isinstance(error, (UserError, OSError)):
                raise click.ClickException(printable(credentials.masked(str(error)))) from error
            if "mlflow" in sys.modules:
                from pneumonia.tracking import errors

                if of_store := errors.of_store(error):
                    raise click.ClickException(printable(str(of_store))) from error
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """Compare, restore and register the models of the pneumonia workflow.

    Run it in the project's folder. A model is named by its version, by the word champion, by the id of its train run,
    or by the name of a DVC experiment.
    """
    environment.prepare()
    click.get_current_context().with_resource(environment.own_temporary_folder())


@main.command()
@DATA
@AS_JSON
def versions(data: str | None, as_json: bool) -> None:
    """List the registered versions.

    The newest first: which is champion, its AUCs, when it was registered (UTC) and why.
    """
    from pneumonia.tracking import registry, runs

    subject = data or _subject_of_params()
    runs.open_store()
    table = registry.versions(subject)
    if as_json:
        click.echo(json.dumps(table.to_dict("records"), indent=2))
    elif table.empty:
        click.echo(f"{runs.registered_name(subject)} has no versions yet; make repro trains and registers one")
    else:
        short = table.drop(columns=["data", "why", *registry.BOXES])
        short["test_split"] = table["test_split"].str.partition(",")[0]
        _print(f"{runs.registered_name(subject)}\n{short.to_string(index=False)}")
        for row in table.itertuples():
            figures = ", ".join(f"{name} {value}" for name in registry.BOXES if (value := getattr(row, name)))
            why = f"{row.version}: {row.why}" + (f"; boxes on test: {figures}" if figures else "")
            _print(textwrap.fill(why, 80, subsequent_indent="   "))


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@AS_JSON
def compare(a: str, b: str, as_json: bool) -> None:
    """Compare two models on their common images.

    A and B: a version number, champion, the id of a train run, or a DVC experiment. Writes reports/compare.html.

    Choose on validation: the test columns only report what was chosen.
    """
    from pneumonia import compare as comparing
    from pneumonia.data import tables
    from pneumonia.report import comparison
    from pneumonia.tracking import registry, runs
    from pneumonia.tracking import settings as logged

    if not (a and b):
        raise click.UsageError("a comparison needs two models, such as: pneumonia compare champion 2")
    settings = params.load()
    runs.open_store()
    subject = _subject_of_params()
    models = dict(zip(comparing.SIDES, (registry.scored(name, subject) for name in (a, b)), strict=True))
    predictions = [model.predictions for model in models.values()]
    target = comparing.require_same_target(*(model.target for model in models.values()))
    compared = comparing.compare(*predictions, level=settings.evaluate.level, target=target)
    disagreements = comparing.disagreements(compared)
    titles = {side: (model.title, model.run_id) for side, model in models.items()}
    both = {side: logged.of_run(model.run_id) for side, model in models.items()}
    comparison.write(PAGE, compared, titles, both, _pictures(disagreements, settings.compute.memory))
    if as_json:
        values = {
            "models": titles,
            "settings": comparing.differing(both).to_dict("records"),
            "figures": compared.figures,
            "p_values": compared.p_values,
            "page": str(PAGE),
        }
        click.echo(json.dumps(tables.rounded(values), indent=2))
        return
    for side, model in models.items():
        _print(f"{side}: {model.title}, run {model.run_id}")
    _print(comparing.table(compared).to_string(index=False))
    notes = (comparing.notes(compared), comparing.verdict(compared), comparing.tally(compared, disagreements))
    for text in (comparing.difference(both), *notes, comparing.CHOOSE, f"page: {PAGE}"):
        _print(textwrap.fill(text, 80))


@main.command()
def rollback() -> None:
    """Set the previous champion back as champion.

    Later promotions ignore the present champion, until its tag rolled_back_at is deleted.
    """
    from pneumonia import promote
    from pneumonia.tracking import registry, runs

    subject = _subject_of_params()
    runs.open_store()
    _print(registry.roll_back(subject, promote.rollback, registry.by_evidence(subject)))


@main.command()
@click.argument("version")
def restore(version: str) -> None:
    """Check out the commit of VERSION, a number or champion, and restore its data and model.

    Go back: git checkout - && dvc checkout
    """
    from pneumonia.tracking import registry, runs

    subject = _subject_of_params()
    runs.open_store()
    _print(registry.restore_version(subject, version, MODELS_DIR / "model.keras"))


@main.command()
def doctor() -> None:
    """Say what is on this machine, what is wrong with it, and what helps.

    The exit status is 1 if `make repro` cannot run here.
    """
    from pneumonia import doctor as examination

    wrong = 0
    for finding in examination.examine():
        wrong += finding.level == "wrong"
        _print(f"{finding.level:<6}{finding.what:<10}{credentials.masked(finding.text)}")
    if wrong:
        sys.exit(1)


@main.command()
@click.argument("patient")
@click.option("--yes", is_flag=True, help="Remove it. Without this option nothing is changed.")
def forget(patient: str, yes: bool) -> None:
    """List where PATIENT is found, or remove it with --yes.

    PATIENT: an identifier as in the column patient_id of data/manifest.csv. Images, rows, pictures and files in caches
    are removed. Models stay: those that learnt from the patient are named, and tagged in MLflow.
    """
    from pneumonia import forget as forgetting

    for line in forgetting.forget(patient, yes=yes):
        _print(line)


@main.command()
@click.option("--if-missing", is_flag=True, help="Do nothing if the model is registered and a champion exists.")
@click.option("--without-champion", is_flag=True, help="Leave out a champion whose predictions are lost.")
def register(if_missing: bool, without_champion: bool) -> None:
    """Register the present model again.

    For an empty or another MLflow store.

    A champion whose predictions are lost cannot be compared with any model. With --without-champion it is left out,
    also of later comparisons, until its tag predictions_lost_at is deleted.

    reports/promotion.json stays as it is: it records the decision at its time.
    """
    from pneumonia.data import sources, tables, targets
    from pneumonia.data.predictions import read_predictions
    from pneumonia.images.geometry import Preparation
    from pneumonia.models.predictor import Predictor
    from pneumonia.tracking import registry, runs

    settings = params.load()
    outs.require_unchanged({str(MODELS_DIR / "run.json"): "train"})
    runs.open_store()
    record = tables.read_json(MODELS_DIR / "run.json")
    synthetic, subject = sources.source(record["data"]).synthetic, targets.subject_of(record)
    predictor = Predictor(MODELS_DIR / "predictor")
    if not (if_missing and registry.is_registered(subject, record, predictor)):
        outs.require_unchanged(outs.inputs("promote"))
        runs.require_same_selectors(record, data=settings.data, model=settings.model, target=settings.target)
        if without_champion:
            registry.require_any_files(record)
        else:
            registry.require_comparable(record)
        metrics = tables.read_json(REPORTS_DIR / "metrics.json")
        trained = runs.ensure_train_run(
            record, synthetic=synthetic, model_path=MODELS_DIR / "model.keras", history=REPORTS_DIR / "history.csv"
        )
        runs.mirror(trained, metrics, runs.evaluation(REPORTS_DIR))
        with runs.start_run(
            "promote",
            data=record["data"],
            model=record["model"],
            target=targets.of(record).name,
            synthetic=synthetic,
            params={f"promote.{name}": value for name, value in settings.promote.model_dump().items()},
            parent=trained.run_id,
            preparation=Preparation.from_attributes(record),
        ):
            version, *_ = registry.submit(
                record,
                trained,
                read_predictions(REPORTS_DIR / "predictions.csv"),
                metrics,
                settings.promote.model_dump(),
                synthetic=synthetic,
                model_path=MODELS_DIR / "model.keras",
                predictor=predictor,
                test_split=tables.read_json(REPORTS_DIR / "rebalance.json").get("test_split", ""),
                without_champion=without_champion,
            )
            registry.link_card(subject, version, trained, REPORTS_DIR / "model_card.html")
    _print_champion(subject)


@main.command()
@click.argument("data", required=False)
def repro(data: str | None) -> None:
    """Run the stages that have changed, on DATA if it is named.

    DATA: a folder, table or archive with images of your own; path or URL. It is set in params.yaml by DVC's own -S, and
    stays there: the next run uses it again.
    """
    if not data:
        sys.exit(_status([sys.executable, "-m", "dvc", "repro"]))
    from pneumonia import repro as running

    chosen = running.own_images(data, params.load(), workspace.project_root())
    command = ["exp", "run", *(part for setting in chosen for part in ("-S", setting))]
    _print(f"dvc {shlex.join(command)}")
    if not (workspace.project_root() / "dvc.lock").exists():
        _print(running.FIRST_RUN)
    status = _status([sys.executable, "-m", "dvc", *command])
    _print(textwrap.fill(running.NOTE, 80))
    sys.exit(status)


@main.command()
def report() -> None:
    """Write reports/report.html, one page for the whole run.

    It opens without a network: data, search, training, evaluation, saliency maps and model card, from the files in
    reports/. Stages that have not run are left out and named.
    """
    from pneumonia.report import overview

    reports = {out: stage for stage in outs.stages() for out in outs.of(stage) if Path(out).is_relative_to(REPORTS_DIR)}
    outs.require_unchanged({out: stage for out, stage in reports.items() if Path(out).exists()})
    missing = overview.write(REPORT, REPORTS_DIR, *_trained())
    _print(f"{'report':<22}{REPORT}")
    if missing:
        _print(overview.missing_in_words(missing))


@main.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@MODEL
@OPERATING_POINT
@click.option("--output", type=click.Path(path_type=Path), help="Write the answers to this .csv or .jsonl file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with films and answers to this .html file.")
@click.option("--saliency", type=click.Path(path_type=Path), help="Write saliency maps as PNG to this folder.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def predict(
    paths: tuple[str, ...],
    model: str | None,
    operating_point: str,
    output: Path | None,
    html: Path | None,
    saliency: Path | None,
    workers: int,
) -> None:
    """Score X-ray files: JPEG, PNG, TIFF, BMP, WebP or DICOM.

    PATH: files, folders, zip archives or patterns, also as URLs. A terminal shows a table, a pipe gets CSV. A run that
    was interrupted continues its --output. A file that cannot be read is a row with its error; the exit status is
    then 1.
    """
    from pneumonia import predict as predicting

    if html and (html.suffix.lower() != ".html" or html.is_dir()):
        raise UserError(f"{html}: the page is written as a file that ends in .html; give another --html")
    _require_folder(html.parent if html else None, "--html")
    _require_folder(saliency, "--saliency")
    source = predicting.resolve(_address(model))
    predictor = predicting.open_predictor(source, operating_point)
    if saliency and (cause := predicting.no_maps(predictor.facts)):
        click.echo(cause, err=True)
        saliency = None
    network = predicting.load_network(source, predictor) if saliency else None
    items, n_skipped = _images(paths)
    table = predicting.Table(output, predictor.origin, operating_point, items) if output else None
    n_finished, n_errors = (table.n_finished, table.n_errors) if table else (0, 0)
    if n_finished:
        click.echo(f"{output}: {n_finished:,} of {len(items):,} images are done", err=True)
    show = predicting.as_text if sys.stdout.isatty() else predicting.as_csv
    counts = dict.fromkeys([*predictor.facts["labels"], "error", "unusual"], 0)
    try:
        for chunk in predicting.answers(source, items[n_finished:], operating_point=operating_point, workers=workers):
            rows = [predicting.row_of(prediction, predictor.origin) for prediction in chunk]
            if table:
                table.append(rows)
            else:
                tqdm.write(show(rows, not any(counts.values())), end="")  # not through the progress bar
            for row in rows:
                counts[predicting.kind_of(row)] += 1
                counts["unusual"] += bool(row["unusual"])
    except KeyboardInterrupt:
        kept = f"; {output} keeps its rows, the same command continues" if output else ""
        click.echo(f"stopped{kept}", err=True)
        sys.exit(130)
    if saliency:
        predicting.write_maps(saliency, network, predictor, items)
    if html:
        predicting.write_page(html, predictor, items, saliency)
    for line in (predicting.tally(counts), *predicting.notes(predictor)):
        click.echo(printable(line), err=True)
    _say_skipped(n_skipped)
    if counts["unusual"]:
        click.echo("unusual: does not look like the X-rays that the model learnt from", err=True)
    for path in filter(None, (output, saliency, html)):
        click.echo(f"written: {path}", err=True)
    n_errors += counts["error"]
    sys.exit(1 if n_errors else 0)


@main.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write masks as PNG and lungs.csv to this folder.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def lungs(paths: tuple[str, ...], output: Path | None, workers: int) -> None:
    """Find the lungs in X-ray files, without a trained model.

    PATH: files, folders, zip archives or patterns, also as URLs. A mask has the size of its film: 255 where it is lung,
    else 0. Without --output the table is printed. A film without two visible lungs is a row that says why. A file that
    cannot be read is a row with its error; the exit status is then 1.
    """
    from pneumonia import find_lungs as searching
    from pneumonia import predict as predicting

    _require_folder(output, "--output")
    items, n_skipped = _images(paths)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        masks = [predicting.map_path(output, number, item) for number, item in enumerate(items)]
    jobs = [
        searching.Job(item.name, item.uri, masks[number] if output else None, item.error)
        for number, item in enumerate(items)
    ]
    rows: list[searching.Row] = []
    for chunk in searching.search(jobs, workers=workers):
        if not output:
            tqdm.write(searching.as_csv(chunk, header=not rows), end="")  # not through the progress bar
        rows += chunk
    if output:
        with workspace.written_whole(output / searching.TABLE) as partial:
            partial.write_text(searching.as_csv(rows, header=True), encoding="utf-8")
        click.echo(f"written: {output / searching.TABLE}", err=True)
    n_found, n_errors = sum(row.found == "yes" for row in rows), sum(bool(row.error) for row in rows)
    click.echo(
        f"{len(rows):,} image{'s' * (len(rows) != 1)}: lungs found in {n_found:,}, none in "
        f"{len(rows) - n_found - n_errors:,}, without an answer {n_errors:,}",
        err=True,
    )
    _say_skipped(n_skipped)
    sys.exit(1 if n_errors else 0)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0: any free one.")
@MODEL
@OPERATING_POINT
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Answer also under this name.")
def serve(host: str, port: int, model: str | None, operating_point: str, allow_hosts: tuple[str, ...]) -> None:
    """Serve a page and an API that score X-ray files; stop it with Ctrl+C.

    A new champion answers without a restart. There is no login: think before you choose another address than 127.0.0.1.
    """
    from pneumonia import serve as serving

    serving.serve(_address(model), host=host, port=port, operating_point=operating_point, allow_hosts=allow_hosts)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1.")
def ui(port: int) -> None:
    """Open the MLflow UI on 127.0.0.1; stop it with Ctrl+C."""
    from pneumonia.tracking import runs

    runs.serve(port)


@main.command()
@click.option("--port", default=8080, show_default=True, help="Port on 127.0.0.1.")
def optuna(port: int) -> None:
    """Open optuna-dashboard on the last search, on 127.0.0.1; stop it with Ctrl+C.

    A search that is running or was interrupted comes first, then that of the last run of the stage tune.
    """
    program = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if not program:
        raise UserError("optuna-dashboard is not installed; run: pip install -e '.[dashboard]'")
    settings = params.load()
    storage = settings.compute.study_storage
    if not storage:
        from pneumonia.tracking import runs
        from pneumonia.tuning import study

        interrupted = (workspace.project_root() / ".resume" / "tune").glob(f"*/{study.JOURNAL}")
        runs.open_store()
        journal = max(interrupted, key=lambda path: path.stat().st_mtime, default=None)
        journal = journal or runs.latest_artifact("tune", _subject_of_params(), settings.model, study.JOURNAL)
        if not journal:
            raise UserError(f"no search of {settings.model} on {settings.data} is known; run dvc repro tune first")
        storage = str(journal)
    click.echo(f"optuna-dashboard: http://127.0.0.1:{port} (stop with Ctrl+C)")
    # In the environment, because other users see the arguments of a program; drivers of PostgreSQL read this variable.
    password = os.environ.get(credentials.STUDY_PASSWORD)
    variables = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    command = [program, storage, "--host", "127.0.0.1", "--port", str(port)]
    sys.exit(_status(command, variables))


@main.command()
@AS_JSON
def experiments(as_json: bool) -> None:
    """Show DVC experiments with data, model and AUCs.

    Those of a commit are sorted by validation AUC, the highest first; before them those without figures.
    """
    order = BEST_FIRST if (workspace.project_root() / REPORTS_DIR / "metrics.json").is_file() else ()
    columns = ["--json"] if as_json else ["--no-pager", "--drop", ".*", "--keep", COLUMNS, *order]
    sys.exit(_status([sys.executable, "-m", "dvc", "exp", "show", *columns]))


def _status(command: list[str], variables: Mapping[str, str] | None = None) -> int:
    """The exit status of a program that runs in the project's folder.

    Ctrl-C reaches it too, and it ends in order: `subprocess.run` would kill it a moment later.
    """
    process = subprocess.Popen(command, cwd=workspace.project_root(), env=variables)
    while True:
        with suppress(KeyboardInterrupt):
            number = process.wait()
            return number if number >= 0 else signals.status(-number)


def _address(model: str | None) -> str:
    """A folder, or the address of a version; the champion and versions by number are those of `data` in params.yaml.

    Without a name it is the champion; where there is none, a network that ships.
    """
    if model is None:
        from pneumonia import predict as predicting

        in_project = Path("params.yaml").is_file()
        # In a folder of a project its champion is meant.
        below_project = not in_project and any((folder / "dvc.yaml").is_file() for folder in Path.cwd().parents)
        if not below_project and (address := predicting.stand_in(_subject_of_params() if in_project else None)):
            return address
        model = "champion"
    if model == "champion" or model.isdigit():
        if not Path("params.yaml").is_file():
            raise UserError(
                "params.yaml: not in this folder, and it names the champion; run from the project's folder, or name a "
                "folder with a predictor: --model FOLDER"
            )
        return f"models:/pneumonia-{_subject_of_params()}{'@' if model == 'champion' else '/'}{model}"
    return model


def _images(paths: tuple[str, ...]) -> tuple[list[Item], int]:
    """The images in files, folders, archives and patterns, at least one, and the number of files that were skipped."""
    from pneumonia import predict as predicting

    items, n_skipped = predicting.find(paths)
    if not items:
        raise UserError(f"{', '.join(paths)}: no images ({n_skipped:,} other files)")
    return items, n_skipped


def _require_folder(path: Path | None, option: str) -> None:
    """A path that exists must be a folder."""
    if path and path.exists() and not path.is_dir():
        raise UserError(f"{path} is no folder, and {option} needs one; name another")


def _say_skipped(n_skipped: int) -> None:
    if n_skipped:
        click.echo(f"files of other kinds that were skipped: {n_skipped:,}", err=True)


def _trained() -> tuple[str, Target]:
    """Model and data set of the trained model, and its target; before there is one, those of params.yaml."""
    from pneumonia.data import sources, tables, targets

    record = MODELS_DIR / "run.json"
    known = tables.read_json(record) if record.is_file() else params.load().model_dump()
    target = targets.of(known)
    return f"{known['model']} on {targets.titled(sources.in_titles(known['data']), target)}", target


def _subject_of_params() -> str:
    """Data set and target of params.yaml, as the names of registered models have them."""
    from pneumonia.data import targets

    settings = params.load()
    return targets.subject(settings.data, targets.target(settings.target).name)


def _pictures(disagreements: Any, memory: float) -> list[tuple[str, bytes]]:
    """Images on which two models disagree, where data/ holds them."""
    from pneumonia import compare as comparing
    from pneumonia.data import tables
    from pneumonia.data.store import open_store, read_split

    if not (DATA_DIR / "images.zarr").is_dir() or not (DATA_DIR / "splits.csv").is_file():
        return []
    outs.require_unchanged({"data/images.zarr": "preprocess", "data/splits.csv": "rebalance"})
    test = read_split(open_store(DATA_DIR / "images.zarr"), "test", memory=memory)
    splits = tables.read_table(DATA_DIR / "splits.csv")
    return comparing.gallery(disagreements, splits, test.images, test.image_ids)


def _print(text: str) -> None:
    """Print lines; names and reasons in them may come from a store that others write to."""
    click.echo("\n".join(map(printable, text.split("\n"))))


def _print_champion(subject: str) -> None:
    """The block that `make repro` ends with."""
    from pneumonia.data import tables
    from pneumonia.metrics.text import format_with_interval
    from pneumonia.tracking import registry, runs

    table = registry.versions(subject)
    champion = table[table["alias"] == registry.CHAMPION].iloc[0]
    metrics = tables.read_json(REPORTS_DIR / "metrics.json")
    lines = (
        ("champion", f"{runs.registered_name(subject)} version {champion['version']} ({champion['model']})"),
        ("why", champion["why"]),
        ("test AUC of this run", format_with_interval(metrics["test"], "auc")),
        ("model card", str(REPORTS_DIR / "model_card.html")),
        ("environment", "source .venv/bin/activate"),
        ("MLflow UI", "pneumonia ui"),
        ("next", "dvc exp run -S model=mobilenet"),
    )
    for name, value in lines:
        indent = " " * 22
        _print(textwrap.fill(f"{name:<22}{value}", 80, subsequent_indent=indent))


if __name__ == "__main__":
    main()
