"""The table of results: which rows are done, what a recipe is, how looks at the test are counted."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from benchmarks import results
from pneumonia.images import augmentation
from pneumonia.models import networks

FIGURES: dict[str, Any] = {
    "val_auc": 0.99,
    "val_robust_auc": 0.98,
    "test_auc": 0.95,
    "accuracy": 0.9,
    "sensitivity": 0.97,
    "specificity": 0.8,
    "accuracy_at_target": 0.91,
    "auc_middle_hidden": 0.6,
    "commit": "0123456",
    "recipe": "00001e10",  # neither a number
    "operating_point": "youden",
}
MISSING = {
    "data": "chest_xray",
    "target": "pneumonia",
    "model": "fusion",
    "seed": 1,
    "weights": "missing",
    "recipe": "a",
    "commit": "b",
}
ROW = results.Row("chest_xray", "compact", (1, 2), {})


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "TABLE", tmp_path / "results.csv")
    return tmp_path / "results.csv"


def add(**changes: Any) -> None:
    known = {"data": "chest_xray", "target": "pneumonia", "model": "compact", "seed": 1}
    results._append(known | FIGURES | changes)


def test_a_row_is_done_when_it_has_figures_of_this_recipe_and_seed() -> None:
    assert not results._is_done(ROW, 1, "00001e10")
    add()
    assert results._is_done(ROW, 1, "00001e10")
    assert not results._is_done(ROW, 2, "00001e10")
    assert not results._is_done(ROW, 1, "00000000")
    assert not results._is_done(ROW._replace(model="shallow"), 1, "00001e10")


def test_the_rows_of_earlier_defaults_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "TABLE", results.ROOT / "docs/results.csv")
    for row in results.ROWS:
        if (row.operating_point, row.target) == ("youden", "pneumonia") and not any(
            name in row.settings for name in results.GONE
        ):
            assert any(
                results._is_done(row, seed, digest) for seed in row.seeds for digest in results.digests(row.settings)
            )


def test_another_target_is_another_row_and_another_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "recipe", lambda settings, earlier=False: FIGURES["recipe"])
    bacterial = ROW._replace(target="bacterial", note="five folds")
    monkeypatch.setattr(results, "ROWS", [ROW, bacterial])
    add()
    assert not results._is_done(bacterial, 1, "00001e10")
    before = results.summary(results._table())
    add(target="bacterial", oof_auc=0.93, test_auc=0.94)
    assert results._is_done(bacterial, 1, "00001e10")
    table = results._table()
    assert table["test_look"].tolist() == [41, 42]
    assert results.summary(table) == before
    head, _, ours, *published = results.summary(table, "bacterial").splitlines()
    assert head.startswith("| `chest_xray bacterial` | seeds | AUC out of fold |")
    assert "| bacterial found | viral found |" in head
    assert ours.startswith("| `compact`, five folds | 1 | .930 |  | .940 | .900 | .970 | .800 |")
    assert published[0].startswith("| Kermany et al. (2018), ImageNet network |  |  |  | .940 | .907 |")


def test_a_row_of_other_weights_is_another_row(table: Path) -> None:
    mobilenet = ROW._replace(model="mobilenet")
    add(model="mobilenet", weights="a.weights.h5")
    assert results._is_done(mobilenet, 1, "00001e10")
    assert results._is_done(mobilenet, 1, "00001e10", "/somewhere/a.weights.h5")
    assert not results._is_done(mobilenet, 1, "00001e10", "/somewhere/b.weights.h5")
    add(model="mobilenet", weights="b.weights.h5")
    assert pd.read_csv(table)["weights"].tolist() == ["a.weights.h5", "b.weights.h5"]


def test_each_look_at_a_test_split_is_counted(table: Path) -> None:
    add()
    add(seed=2)
    add(model="shallow", recipe="ffffffff")
    add(data="pneumoniamnist")
    written = pd.read_csv(table, dtype={"recipe": str, "commit": str})
    assert list(written) == results.COLUMNS
    assert written["test_look"].tolist() == [41, 42, 43, 1], "those by hand are not in the table"
    assert written["recipe"].tolist() == ["00001e10", "00001e10", "ffffffff", "00001e10"]
    assert set(written["commit"]) == {"0123456"}


def test_all_seeds_of_a_row_that_was_written_down_before_are_one_look_from_41_on(table: Path) -> None:
    add()
    for changes in ({}, {"seed": 2}, {"model": "shallow"}):
        add(**changes, operating_point="target_sensitivity")
    add(data="pneumoniamnist", operating_point="target_sensitivity")
    assert pd.read_csv(table)["test_look"].tolist() == [41, 42, 42, 43, 1]


def test_a_row_without_weights_is_no_look_and_is_tried_again(table: Path) -> None:
    results._append(MISSING)
    results._append(MISSING)
    fusion = ROW._replace(model="fusion")
    assert not results._is_done(fusion, 1, "a")
    assert len(pd.read_csv(table)) == 1
    add(model="fusion", recipe="a")
    assert results._is_done(fusion, 1, "a")
    written = pd.read_csv(table)
    assert len(written) == 1
    assert written["test_look"].tolist() == [41]


def test_counts_stay_whole_beside_a_row_without_figures(table: Path) -> None:
    add(params=77633)
    results._append(MISSING)
    add(seed=2, params=77633)
    written = pd.read_csv(table, dtype=str)
    assert written["params"].dropna().tolist() == ["77633", "77633"]
    assert written["test_look"].dropna().tolist() == ["41", "42"]


def test_a_recipe_is_what_decides_not_where_files_lie() -> None:
    first = results.recipe({"data": "chest_xray", "fetch.url": "/a", "train.epochs": 3})
    assert first == results.recipe({"data": "chest_xray", "fetch.url": "/b", "train.epochs": 3})
    assert first != results.recipe({"data": "chest_xray", "fetch.url": "/a", "train.epochs": 4})


def test_places_on_the_command_line_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").touch()
    monkeypatch.chdir(tmp_path)
    asked = ["make results", "--url", "chest_xray=a.zip", "--url", "pneumoniamnist=https://example.org/a=b", "compact"]
    monkeypatch.setattr(sys, "argv", asked)
    given = results.arguments("make results", "")
    assert dict(given.url) == {
        "chest_xray": str(tmp_path / "a.zip"),
        "pneumoniamnist": "https://example.org/a=b",
    }
    assert given.models == ["compact"]


@pytest.mark.parametrize(
    "mistaken", [["--url", "chestxray=a.zip"], ["--url", "chest_xray"], ["--weights", "compact=a.h5"], ["compct"]]
)
def test_a_misspelt_name_on_the_command_line_is_refused(
    mistaken: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make results", *mistaken])
    with pytest.raises(SystemExit):
        results.arguments("make results", "")
    assert mistaken[-1] in capsys.readouterr().err


def test_tables_may_have_changed_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ("docs/results.csv", "docs/recipes.csv")
    for name in (*tables, "params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for name in tables:
        (tmp_path / name).write_text("b\n")
    commit = results.check_out(tmp_path / "clone", "make results")
    assert results._git("rev-parse", "HEAD").startswith(commit)
    (tmp_path / "params.yaml").write_text("b\n")
    with pytest.raises(SystemExit, match="commit them first"):
        results.check_out(tmp_path / "clone", "make results")


def test_rows_are_made_by_the_code_of_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src/pneumonia"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    ask = [sys.executable, "-c", "import pneumonia; print(pneumonia.__file__)"]
    answer = subprocess.check_output(ask, env=results._environment(tmp_path), text=True)
    assert Path(answer.strip()) == package / "__init__.py"


def test_the_summary_shows_mean_and_range_of_seeds_the_best_on_validation_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "recipe", lambda settings, earlier=False: FIGURES["recipe"])
    monkeypatch.setattr(results, "ROWS", [ROW, results.Row("chest_xray", "shallow", (1,), {}, "noted")])
    add()
    add(recipe="5680256f", test_auc=0.5)  # of a recipe no longer asked for
    add(seed=2, test_auc=0.96)
    add(model="shallow", val_robust_auc=0.99, test_auc=0.9, accuracy=1.0)
    results._append(MISSING)
    assert results.summary(results._table()).splitlines()[:5] == [
        "| `chest_xray` | seeds | validation AUC | validation AUC, robust | test AUC | accuracy | sensitivity "
        "| specificity | accuracy at 95 % validation sensitivity | test AUC, middle blacked out |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `shallow`, noted | 1 | .990 | .990 | .900 | 1.000 | .970 | .800 | .910 | .600 |",
        "| `compact` | 2 | .990 [.990, .990] | .980 [.980, .980] | .955 [.950, .960] | .900 [.900, .900] "
        "| .970 [.970, .970] | .800 [.800, .800] | .910 [.910, .910] | .600 [.600, .600] |",
        "| Kermany et al. (2018), ImageNet network |  |  |  | .968 | .928 |  |  |  |  |",
    ]


def test_rows_at_the_operating_point_have_a_table_of_their_own_and_the_published_ones_stand_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "recipe", lambda settings, earlier=False: FIGURES["recipe"])
    monkeypatch.setattr(
        results, "ROWS", [ROW, results.Row("chest_xray", "shallow", (1,), {}, "", "target_sensitivity")]
    )
    add()
    later = {"oof_auc": 0.9916, "folds": 5, "auc_within_geometry": 0.98, "swapped_lungs": 0.97}
    add(model="shallow", val_auc=None, operating_point="target_sensitivity", **later)
    first, second = (part.splitlines() for part in results.summary(results._table()).split("\n\n"))
    assert first[0].startswith(
        "| `chest_xray` | seeds | AUC out of fold | the same, lungs alike | test AUC | accuracy |"
    )
    assert first[2] == "| `shallow` | 1 | .992 | .980 | .950 | .900 | .970 | .800 | .970 |  |"
    assert first[3] == "| Kermany et al. (2018), ImageNet network |  |  |  | .968 | .928 |  |  |  |  |"
    assert [line.split(" |")[0] for line in second[2:]] == ["| `compact`"]


def test_the_documentation_shows_the_summary_of_the_table() -> None:
    table = pd.read_csv(results.ROOT / "docs/results.csv", dtype={"recipe": str})
    shown = results.summary(table)
    assert shown.startswith("| `chest_xray` |")
    assert shown in (results.ROOT / "docs/results.md").read_text()
    assert results.summary(table, "bacterial") in (results.ROOT / "docs/targets.md").read_text()


def test_the_command_of_the_documentation_is_the_first_row() -> None:
    text = (results.ROOT / "docs/pretrained.md").read_text().split("## How it was made")[1]
    asked = dict(re.findall(r"-S (\S+?)=(\S+)", text.split("```console")[1].split("```")[0]))
    shown = results.summary(pd.read_csv(results.ROOT / "docs/results.csv", dtype={"recipe": str})).splitlines()[2]
    rows = [row for row in results.ROWS if row.target == "pneumonia"]
    (row,) = [row for row in rows if row.note and f"| `{row.model}`, {row.note} |" in shown]
    settings = {name: YAML(typ="safe").load(value) for name, value in asked.items()}
    assert (settings.pop("data"), settings.pop("model")) == (row.data, row.model)
    assert results.recipe(settings) == results.recipe(row.settings)


def test_a_recipe_knows_how_far_augmentation_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = results.recipe({})
    monkeypatch.setattr(augmentation, "MAX_STRETCH", 0.1)
    assert results.recipe({}) != before


def test_rows_are_of_known_models_and_settings() -> None:
    assert {row.model for row in results.ROWS} <= set(networks.MODELS)
    for row in results.ROWS:
        assert results.recipe(row.settings)
        assert len(set(row.seeds)) == len(row.seeds) > 0
