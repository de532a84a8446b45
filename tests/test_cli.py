"""The command `pneumonia`, in this process."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pneumonia import cli, compare, params, repro
from pneumonia.data import tables
from pneumonia.data.store import create_split, create_store
from pneumonia.data.targets import PNEUMONIA, TARGETS
from pneumonia.models import predictor
from pneumonia.tracking import registry, runs
from pneumonia.tracking import settings as tracking_settings
from tests import predictors
from tests.conftest import png, set_settings
from tests.test_compare import A, B, compared
from tests.tracking import conftest as tracking

# Fixtures of a store with models in it.
no_store, root, stage = tracking.no_store, tracking.root, tracking.stage
empty_versions = tracking.empty_versions


def pneumonia(*arguments: str, expect: int = 0) -> str:
    """What the command prints, on one line."""
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == expect, done.output
    return " ".join(done.output.split())


@pytest.fixture
def scored(in_project: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose store, if it were asked, knew two models."""
    known = {
        "champion": registry.Scored("version 1 (<b>)", "abc", A, PNEUMONIA),
        "2": registry.Scored("version 2", "def", B, PNEUMONIA),
        "bacterial": registry.Scored("version 3", "ghi", B, TARGETS["bacterial"]),
    }
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    set_settings(Path("params.yaml"), {"data": "phantom", "evaluate.level": 0.95})
    monkeypatch.setattr(runs, "open_store", lambda: "")
    monkeypatch.setattr(registry, "scored", lambda name, data: known[name])
    logged = {"abc": {"seed": "1", "train.epochs": "40"}, "def": {"seed": "2", "train.epochs": "40"}}
    monkeypatch.setattr(tracking_settings, "of_run", logged.__getitem__)
    return in_project


def test_the_page_has_all_of_it_and_needs_nothing_from_elsewhere(scored: Path) -> None:
    said = pneumonia("compare", "champion", "2")
    page = (scored / "reports" / "compare.html").read_text(encoding="utf-8")
    for text in (compare.CHOOSE, compare.verdict(compared()), "-0.1111", "+0.5000"):
        assert text in page
        assert text in said
    assert "Settings that differ: seed." in said
    assert '<th scope="row">seed</th><td class=short>1</td><td class=short>2</td>' in page
    assert "<td class=short>version 1 (&lt;b&gt;)</td>" in page
    assert "i102" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"https?://|<script|@import|url\(", page)


def test_models_of_two_targets_are_not_compared(scored: Path) -> None:
    said = pneumonia("compare", "champion", "bacterial", expect=1)
    assert said.startswith("Error: A tells normal from pneumonia, B tells viral from bacterial: ")
    assert not (scored / "reports" / "compare.html").exists()


def test_the_page_shows_the_images_where_the_store_holds_them(scored: Path) -> None:
    test = A[A["split"] == "test"].assign(weight=1.0, repeats=1)
    store = create_store(scored / "data" / "images.zarr", {})
    create_split(store, "test", test, size=16, with_lungs=False)
    tables.write_table(test, scored / "data" / "splits.csv")
    pneumonia("compare", "champion", "2")
    page = (scored / "reports" / "compare.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 + 3
    assert "<figcaption>i102: pneumonia; A 0.400, B 0.600; B is right</figcaption>" in page


def test_equal_models_make_a_page_without_disagreements(scored: Path) -> None:
    pneumonia("compare", "2", "2")
    assert "both models decide the same" in (scored / "reports" / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("names", [[], ["champion"], ["champion", ""]])
def test_one_name_is_not_enough(scored: Path, names: list[str]) -> None:
    pneumonia("compare", *names, expect=2)
    assert not (scored / "reports").exists()


def test_a_comparison_as_json_has_the_figures_of_both_models(scored: Path) -> None:
    values = json.loads(pneumonia("compare", "champion", "2", "--json"))
    assert values["models"] == {"A": ["version 1 (<b>)", "abc"], "B": ["version 2", "def"]}
    assert values["settings"] == [{"setting": "seed", "A": "1", "B": "2"}]
    both = compared()
    assert values["figures"]["test"]["A"]["auc"] == pytest.approx(both.figures["test"]["A"]["auc"])


# --- versions ---


def test_versions_are_listed_with_alias_aucs_and_reason(stage: Any) -> None:
    assert "has no versions yet" in pneumonia("versions", "--data", "phantom")
    for number in (3, 2):
        stage(number)
    rows = json.loads(pneumonia("versions", "--json"))
    assert [(row["version"], row["alias"], row["model"], row["data"]) for row in rows] == [
        (2, "champion", "compact", "phantom"),
        (1, "", "compact", "phantom"),
    ]
    assert float(rows[0]["val_auc"]) > float(rows[1]["val_auc"])
    assert rows[1]["why"].startswith("the first model of this data set")
    done = CliRunner().invoke(cli.main, ["versions"])
    assert max(map(len, done.output.splitlines())) <= 80
    assert "boxes" not in done.output
    for name, value in (("ap50", "0.92"), ("rsna_map", "0.788")):
        registry.tag_version("phantom", 1, {name: value})
    detector = CliRunner().invoke(cli.main, ["versions"]).output
    assert "; boxes on test: ap50 0.9200, rsna_map 0.7880" in " ".join(detector.split())
    assert max(map(len, detector.splitlines())) <= 80
    assert "2: higher validation AUC" in done.output
    assert [row["test_split"] for row in rows] == ["drawn, official left out", "drawn, official left out"]
    assert "drawn, official left out" not in done.output
    assert "test_split" in done.output


# --- optuna ---


def optuna(monkeypatch: pytest.MonkeyPatch, program: str | None = "/bin/optuna-dashboard") -> tuple[Result, list[Any]]:
    """What the command prints, and the calls of the program."""
    calls: list[Any] = []

    def call(command: list[str], env: dict[str, str]) -> int:
        calls.append((command, env))
        return 0

    monkeypatch.setattr(shutil, "which", lambda name, path: program)
    monkeypatch.setattr(cli, "_status", call)
    return CliRunner().invoke(cli.main, ["optuna", "--port", "5999"]), calls


def test_optuna_opens_the_last_search_that_was_interrupted(
    stage_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("old", "new")):
        journal = stage_project / ".resume" / "tune" / name / "study.log"
        journal.parent.mkdir(parents=True)
        journal.write_text("{}\n")
        os.utime(journal, (number, number))
    result, calls = optuna(monkeypatch)
    assert result.exit_code == 0, result.output
    ((command, _),) = calls
    assert command[0] == "/bin/optuna-dashboard"
    assert Path(command[1]) == stage_project / ".resume" / "tune" / "new" / "study.log"
    assert command[2:] == ["--host", "127.0.0.1", "--port", "5999"]


def test_optuna_gives_the_password_of_the_database_where_no_other_user_sees_it(
    stage_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg2://study@db/studies"
    set_settings(Path("params.yaml"), {"compute.study_storage": url})
    monkeypatch.setenv("PNEUMONIA_STUDY_PASSWORD", "s3cret")
    _, calls = optuna(monkeypatch)
    ((command, env),) = calls
    assert command[1] == url
    assert env["PGPASSWORD"] == "s3cret"


def test_optuna_without_the_program_says_how_to_install_it(
    stage_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, calls = optuna(monkeypatch, program=None)
    assert result.output == "Error: optuna-dashboard is not installed; run: pip install -e '.[dashboard]'\n"
    assert not calls


def test_optuna_without_a_search_names_the_stage(stage_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, calls = optuna(monkeypatch)
    assert result.output == "Error: no search of compact on phantom is known; run dvc repro tune first\n"
    assert not calls


# --- the command line itself ---


def test_every_command_has_help_and_none_starts_work_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "load", lambda: pytest.fail("started"))
    commands = (
        "compare doctor experiments forget lungs optuna predict register report repro restore rollback serve ui "
        "versions"
    )
    assert set(cli.main.commands) == set(commands.split())
    for name in cli.main.commands:
        for option in ("--help", "-h"):
            assert "Usage:" in pneumonia(name, option)
        assert "No such option" in pneumonia(name, "--nonsense", expect=2)


def test_a_problem_of_the_user_is_one_line_and_exit_status_1(in_project: Path) -> None:
    done = CliRunner().invoke(cli.main, ["versions"])
    assert done.exit_code == 1
    assert (
        done.output == "Error: params.yaml: cannot be read (No such file or directory); run from the project's folder\n"
    )


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "Error: the disk is full ([Errno 28] ", 1),
        (KeyboardInterrupt(), "stopped by Ctrl-C\n", 130),
    ],
)
def test_a_full_disk_and_ctrl_c_end_a_command_as_they_end_a_stage(
    in_project: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str, status: int
) -> None:
    shutil.copyfile(repo / "params.yaml", "params.yaml")

    def fail() -> None:
        raise error

    monkeypatch.setattr(runs, "open_store", fail)
    done = CliRunner().invoke(cli.main, ["versions"])
    assert done.output.startswith(line)
    assert (done.exit_code, len(done.output.splitlines())) == (status, 1)


@pytest.mark.parametrize("uri", ["nonsense", "file:///etc/passwd", "mysql://u:Hunter2pw@h/d"])
def test_a_store_that_is_none_is_one_line(
    in_project: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = pneumonia("versions", expect=1)
    assert said.startswith("Error: the MLflow store ")
    assert "check MLFLOW_TRACKING_URI" in said
    assert "Hunter2pw" not in said


@pytest.mark.parametrize("host", ["h:Hunter2pw/d", "u:Hunter2pw/x@h/d", "u:Hunter2pw@h:port/d"])
def test_an_address_of_a_store_that_is_none_shows_no_part_of_a_password(
    in_project: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://{host}")
    said = pneumonia("versions", expect=1)
    assert " is no address; correct it: " in said
    assert "@" not in host or "Hunter2pw" not in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("ui", "--port", "abc"),
            "Error: Invalid value for '--port': 'abc' is not a valid integer range; see: pneumonia ui --help",
        ),
        (
            ("ui", "--port", "70000"),
            "Error: Invalid value for '--port': 70000 is not in the range 1<=x<=65535; see: pneumonia ui --help",
        ),
        (("compare", "1"), "Error: Missing argument 'B'; see: pneumonia compare --help"),
        (("nonsense",), "Error: No such command 'nonsense'; see: pneumonia --help"),
        (("ui", "--po\x1b[2J"), "Error: No such option '--po\\x1b[2J'; see: pneumonia ui --help"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_status_2(arguments: tuple[str, ...], line: str) -> None:
    done = CliRunner().invoke(cli.main, arguments, prog_name="pneumonia")
    assert (done.output, done.exit_code) == (f"{line}\n", 2)


@pytest.mark.parametrize("options", [(), ("--if-missing",)])
def test_nothing_is_registered_before_a_model_is_trained(
    in_project: Path, repo: Path, options: tuple[str, ...]
) -> None:
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    assert (
        pneumonia("register", *options, expect=1) == "Error: models/run.json is missing; dvc repro train makes it again"
    )
    assert not (in_project / "mlruns").exists()


def test_the_block_at_the_end_of_make_repro_says_who_is_champion_and_why(stage: Any) -> None:
    stage(3)
    said = pneumonia("register", "--if-missing")
    assert "champion pneumonia-phantom version 1 (compact) why the first model of this data set" in said
    assert "model card reports/model_card.html" in said


def test_a_registration_by_hand_logs_its_decision_as_the_stage_does(stage: Any) -> None:
    stage(3)
    pneumonia("register")
    by_hand, by_stage = (run.data for run in tracking.all_runs() if run.data.tags["stage"] == "promote")
    assert by_hand.tags["reason"] == by_stage.tags["reason"] == "the first model of this data set"
    assert by_hand.metrics == by_stage.metrics
    assert by_hand.params.items() <= by_stage.params.items()
    assert "promote.min_common" in by_hand.params


def test_the_page_of_a_run_says_which_stages_are_missing(
    in_project: Path, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(repo / name, name)
    assert "no stage has left a report" in pneumonia("report", expect=1)
    assert not (in_project / "reports").exists()
    splits = {"n_patients": 1, "n_images": 4, "n_normal": 2, "n_pneumonia": 2}
    splits |= {"weight_normal": 1.0, "weight_pneumonia": 1.0}
    tables.write_json({"splits": {"train": splits}}, "reports/rebalance.json")
    assert pneumonia("report") == (
        "report reports/report.html Without validate, tune, train, evaluate, explain, promote: no reports of these "
        "stages."
    )
    page = (in_project / "reports" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Run: compact on phantom (synthetic)</h1>" in page
    assert "Without validate, tune, train, evaluate, explain, promote" in page


def test_the_page_of_a_run_is_not_made_from_a_report_that_was_changed(in_project: Path, repo: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(repo / name, name)
    tables.write_json({"splits": {}}, "reports/rebalance.json")
    out = f"path: reports/rebalance.json, hash: md5, md5: {'a' * 32}"
    Path("dvc.lock").write_text(f"stages: {{rebalance: {{outs: [{{{out}}}]}}}}\n")
    assert "reports/rebalance.json is not what the stage rebalance wrote" in pneumonia("report", expect=1)
    assert not (in_project / "reports" / "report.html").exists()


# --- own images ---


def test_own_images_run_by_the_s_of_dvc_and_it_is_said_that_params_yaml_stays_changed(
    in_project: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    (in_project / "my films").mkdir()
    calls: list[list[str]] = []

    def run(command: list[str]) -> int:
        calls.append(command[1:])
        return 3

    monkeypatch.setattr(cli, "_status", run)
    said = pneumonia("repro", "my films", expect=3)
    assert calls == [["-m", "dvc", "exp", "run", "-S", "data=folder", "-S", "fetch.url='my films'"]]
    assert said.startswith("dvc exp run -S data=folder -S")
    assert said.endswith(repro.NOTE)
    assert repro.FIRST_RUN in said
    Path("dvc.lock").touch()
    assert repro.FIRST_RUN not in pneumonia("repro", "my films", expect=3)
    assert "no such folder" in pneumonia("repro", "other", expect=1)
    pneumonia("repro", expect=3)
    assert calls[2:] == [["-m", "dvc", "repro"]]


IN_ORDER = """
import signal, sys, time
def end(number, frame):
    time.sleep(1)
    sys.exit(5)
signal.signal(signal.SIGINT, end)
open("ready", "w").close()
time.sleep(60)
"""


def test_ctrl_c_leaves_time_to_the_program_that_a_command_has_started(in_project: Path) -> None:
    (in_project / "program.py").write_text(IN_ORDER)
    code = "import sys; from pneumonia import cli; sys.exit(cli._status([sys.executable, 'program.py']))"
    command = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    give_up = time.monotonic() + 30
    while not Path("ready").exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    os.killpg(command.pid, signal.SIGINT)
    assert command.wait(30) == 5


@pytest.mark.slow  # DVC runs an experiment
def test_dvc_runs_on_own_images_with_any_name_and_keeps_the_comments_of_params_yaml(
    in_project: Path, repo: Path
) -> None:
    films = in_project / "my films, it's=a {b} $c \\d"
    films.mkdir()
    shutil.copyfile(repo / "params.yaml", "params.yaml")
    stage = "stages:\n  fetch:\n    cmd: cp params.yaml seen.yaml\n    params: [data, fetch]\n    outs: [seen.yaml]\n"
    Path("dvc.yaml").write_text(stage)
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "first"], check=True)
    command = [sys.executable, "-m", "pneumonia.cli", "repro", str(films)]
    environment = os.environ | {"PYTHONPATH": str(repo / "src")}
    environment |= {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()).endswith(repro.NOTE)
    for name in ("params.yaml", "seen.yaml"):
        settings = params.load(Path(name))
        assert (settings.data, settings.fetch.url) == ("folder", str(films))
        assert "# phantom | chest_xray |" in Path(name).read_text()


# --- champions without predictions ---


def lose_predictions(*versions: int) -> None:
    for version in versions:
        run_id = mlflow.MlflowClient().get_model_version("pneumonia-phantom", str(version)).run_id
        shutil.rmtree(Path(runs.artifact_place(run_id)) / "evaluation")


def test_promotion_against_lost_predictions_fails_before_it_writes_and_names_the_way_out(stage: Any) -> None:
    stage(3)
    lose_predictions(1)
    before = registry.version_tags("phantom")
    with pytest.raises(SystemExit) as refusal:
        stage(2)
    said = str(refusal.value)
    assert said.startswith("ERROR: pneumonia-phantom version 1 is champion, but no model can be compared with it: ")
    assert said.endswith("put the file back, or leave this version out: pneumonia register --without-champion")
    assert "evaluation/predictions.csv" in said
    assert "\n" not in said
    assert not Path("reports/promotion.json").exists()
    by_hand = pneumonia("register", expect=1)
    assert by_hand == said.replace("ERROR", "Error")
    assert registry.version_tags("phantom") == before
    assert [run.data.tags["stage"] for run in tracking.all_runs()].count("promote") == 1
    assert stage(3)["champion_version"] == 1, "the champion itself is no rival, and its predictions are logged again"
    assert stage(2)["reason"].startswith("higher validation AUC")


def test_without_a_lost_champion_the_next_one_is_chosen_and_the_stage_agrees(stage: Any) -> None:
    stage(3)
    lose_predictions(1)
    with pytest.raises(SystemExit):
        stage(4)
    reason = "the earliest model that passes its gates; without champion version 1, whose predictions are lost"
    assert f"version 2 (compact) why {reason}" in pneumonia("register", "--without-champion")
    known = registry.version_tags("phantom")
    assert known[1].items() >= {"promoted": "false"}.items()
    assert known[1]["reason"] == "left out, its predictions are lost: version 2 is champion"
    assert known[1]["predictions_lost_at"]
    promotion = stage(4)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (2, 2, True)
    assert promotion["reason"] == reason
    assert pneumonia("register", "--without-champion"), "again, with nothing to leave out"
    assert registry.version_tags("phantom")[1] == known[1]
    after = stage(1)
    assert (after["champion_version"], after["reason"][:21]) == (3, "higher validation AUC")
    assert "without" not in after["reason"]


@pytest.mark.slow
def test_without_a_lost_champion_an_earlier_one_may_be_better(stage: Any) -> None:
    for number in (3, 2):
        stage(number)
    lose_predictions(2)
    with pytest.raises(SystemExit):
        stage(4)
    pneumonia("register", "--without-champion")
    promotion = stage(4)
    assert (promotion["version"], promotion["champion_version"], promotion["promoted"]) == (3, 1, False)
    assert promotion["reason"].startswith("not higher: ")
    assert promotion["reason"].endswith("; without champion version 2, whose predictions are lost")


def test_no_version_is_left_out_where_the_files_of_all_are_gone(stage: Any, root: Path) -> None:
    """As where the disk is another one: then the predictions are not lost."""
    for number in (3, 2):
        stage(number)
    shutil.rmtree(root / "mlruns" / "artifacts")
    (root / "mlruns" / "artifacts").mkdir()
    with pytest.raises(SystemExit):
        stage(4)
    before = registry.version_tags("phantom")
    said = pneumonia("register", "--without-champion", expect=1)
    assert said.startswith("Error: the MLflow store has no file of any other version of pneumonia-phantom")
    assert registry.version_tags("phantom") == before
    assert registry.champion("phantom").version == 2


@pytest.mark.slow
def test_a_version_that_gets_its_predictions_back_competes_again(stage: Any) -> None:
    for number in (3, 2):
        stage(number)
    lose_predictions(1, 2)
    with pytest.raises(SystemExit):
        stage(4)
    pneumonia("register", "--without-champion")
    assert registry.champion("phantom").version == 3
    assert stage(2)["champion_version"] == 2
    assert "predictions_lost_at" not in registry.version_tags("phantom")[2]
    assert "predictions_lost_at" in registry.version_tags("phantom")[1]


def test_a_champion_that_was_never_evaluated_is_said_to_be_so(stage: Any) -> None:
    stage(3)
    with tracking.start() as run_id:
        pass
    client = mlflow.MlflowClient()
    client.create_model_version("pneumonia-phantom", "", run_id=run_id)
    client.set_registered_model_alias("pneumonia-phantom", "champion", "2")
    with pytest.raises(SystemExit, match=rf"version 2 is champion, .* of its run {run_id} was never logged; "):
        stage(2)


# --- predict ---


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name, level in (("a.png", 90), ("b.png", 170)):
        (folder / name).write_bytes(png(np.full((40, 40), level, np.uint8)))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_pipe_gets_csv_and_a_file_that_cannot_be_read_is_a_row_and_exit_status_1(films: Path, tmp_path: Path) -> None:
    model = predictors.write(tmp_path / "model")
    done = CliRunner().invoke(cli.main, ["predict", str(films), "--model", str(model)])
    assert done.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(Path(row["image"]).name, row["label"]) for row in rows] == [("a.png", "normal"), ("b.png", "pneumonia")]
    assert "2 images: 1 normal, 1 pneumonia, 0 without an answer; 0 unusual" in done.stderr
    assert "files of other kinds that were skipped: 1" in done.stderr
    done = CliRunner().invoke(cli.main, ["predict", str(films / "notes.txt"), str(films), "--model", str(model)])
    assert done.exit_code == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [bool(row["error"]) for row in rows] == [True, False, False]


def test_the_champion_answers_if_no_model_is_named(stage: Any, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(3)
    folder = Path("models/predictor").absolute()
    predictors.write(folder.parent / "pretrained" / "mobilenet")  # it answers only without a champion
    monkeypatch.setattr(predictor, "PRETRAINED", folder.parent / "pretrained")
    monkeypatch.setattr(registry, "predictor", lambda source, cache: (folder, source, "run"))
    done = CliRunner().invoke(cli.main, ["predict", str(films), "--operating-point", "target_sensitivity"])
    assert done.exit_code == 0
    (version,) = {row["version"] for row in csv.DictReader(io.StringIO(done.stdout))}
    assert version == "models:/pneumonia-phantom@champion"


def test_without_a_champion_a_network_that_ships_answers_but_not_instead_of_a_store_that_fails(
    stage_project: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "PRETRAINED", stage_project / "pretrained")
    predictors.write(stage_project / "pretrained" / "mobilenet")
    arguments = ["predict", str(films)]
    answered = CliRunner().invoke(cli.main, arguments)
    assert answered.exit_code == 0, answered.output
    assert {row["version"] for row in csv.DictReader(io.StringIO(answered.stdout))} == {"pretrained:mobilenet"}
    assert "answered by pretrained:mobilenet, toy on chest_xray; no test figures; no medical device" in answered.stderr
    assert "no such registered model" in pneumonia(*arguments, "--model", "champion", expect=1)
    (stage_project / "mlruns" / "mlflow.db").write_bytes(b"no database " * 100)
    assert "the MLflow store" in pneumonia(*arguments, expect=1)
    monkeypatch.chdir(films)  # outside of a project
    assert CliRunner().invoke(cli.main, arguments).stdout == answered.stdout
    (films / "below").mkdir()
    (films / "dvc.yaml").touch()
    monkeypatch.chdir(films / "below")
    assert "run from the project's folder" in pneumonia(*arguments, expect=1)


def test_answers_go_to_a_file_that_a_second_run_leaves_as_it_is(films: Path, tmp_path: Path) -> None:
    model, output = predictors.write(tmp_path / "model"), tmp_path / "answers.jsonl"
    arguments = [
        "predict",
        str(films),
        "--model",
        str(model),
        "--output",
        str(output),
        "--html",
        str(tmp_path / "p.html"),
    ]
    assert CliRunner().invoke(cli.main, arguments).stdout == ""
    before = output.read_bytes()
    done = CliRunner().invoke(cli.main, arguments)
    assert "2 of 2 images are done" in done.stderr
    assert output.read_bytes() == before
    assert (tmp_path / "p.html").read_text().count("<img") == 2


@pytest.mark.parametrize(
    ("option", "place", "said"),
    [
        ("--html", "films", ": the page is written as a file that ends in .html; give another --html"),
        ("--html", "films/a.png", ": the page is written as a file that ends in .html; give another --html"),
        ("--html", "page.html", ": the page is written as a file that ends in .html; give another --html"),
        ("--saliency", "films/a.png", " is no folder, and --saliency needs one; name another"),
    ],
)
def test_what_lies_where_answers_are_written_stays(films: Path, option: str, place: str, said: str) -> None:
    folder = films.parent
    (folder / "page.html").mkdir()
    (folder / "page.html" / "thesis.txt").write_text("old")
    model = predictors.write(folder / "model")
    before = {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}
    arguments = ["predict", str(films), "--model", str(model), option, str(folder / place)]
    done = CliRunner().invoke(cli.main, arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"Error: {folder / place}{said}\n")
    assert {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")} == before


def test_nothing_to_answer_is_one_line(tmp_path: Path) -> None:
    model, empty = predictors.write(tmp_path / "model"), tmp_path / "empty"
    empty.mkdir()
    assert (
        pneumonia("predict", str(empty), "--model", str(model), expect=1)
        == f"Error: {empty}: no images (0 other files)"
    )
