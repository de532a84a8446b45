"""The page of a whole run: all its parts in one file, and what is missing is said."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia import UserError
from pneumonia.data import removal, tables, traces
from pneumonia.data.targets import TARGETS
from pneumonia.names import file_name
from pneumonia.report import card, overview, page, plots
from tests.report.test_card import figures, made_facts, write_reports
from tests.report.test_page import PNG, Reader

PARTS = ["summary", "data", "splits", "search", "training", "evaluation", "saliency", "model-card"]


@pytest.fixture(autouse=True)
def figures_are_not_drawn(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Except in one test: the drawing of each has its own tests, and takes a second."""
    if "all_parts" not in request.node.name:
        for name in ("classes", "history", "trials"):
            monkeypatch.setattr(plots, name, lambda *arguments: None)
        monkeypatch.setattr(plots, "png", lambda figure: PNG)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """What all stages leave in `reports/`, as far as the page reads it."""
    folder = tmp_path / "reports"
    write_reports(folder)
    facts, (predictions, _, _) = made_facts(), figures()
    expectations = [
        {"name": "a", "words": "images whose width is <odd>", "success": False, "unexpected": 9},
        {"name": "b", "words": "images that look rotated", "success": True, "unexpected": 2},
        {"name": "c", "words": "a third class", "success": True, "unexpected": 0},
    ]
    more = {"n_valid": 1293, "look_alike_files": 0, "expectations": expectations}
    tables.write_json(facts["validation"] | more, folder / "validation.json")
    weights = {"weight_normal": 1.0, "weight_pneumonia": 1.0}
    splits = {name: part | weights for name, part in facts["rebalance"]["splits"].items()}
    tables.write_json({"splits": splits}, folder / "rebalance.json")
    trials = {"trial": [0, 1], "state": ["complete", "pruned"], "val_auc": [0.75, None], "learning_rate": [1e-3, 2e-3]}
    tables.write_table(pd.DataFrame(trials | {"dropout": [0.1, 0.2]}), folder / "tune" / "trials.csv")
    losses = {"loss": [0.6, 0.5], "val_loss": [0.6, 0.5], "val_auc": [0.7, 0.8]}
    tables.write_table(pd.DataFrame({"trial": [0, 1], "epoch": [1, 1]} | losses), folder / "tune" / "curves.csv")
    tables.write_table(facts["history"].assign(loss=0.5, val_loss=0.6), folder / "history.csv")
    tables.write_table(predictions, folder / "predictions.csv")
    tables.write_json(facts["decision"], folder / "promotion.json")
    (folder / "saliency").mkdir()
    first = predictions.loc[predictions["split"] == "test", "image_id"].iloc[0]
    for path in (folder / "plots" / "roc.png", folder / "saliency" / file_name(first, ".png")):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    read = {name: facts[name] for name in facts if name not in ("pictures",)}
    card.write(folder, "Card of <compact>", card.sections(**read, pictures={}))
    (folder / "data.html").touch()
    return folder


def written(reports: Path, missing: list[str] | None = None) -> str:
    assert overview.write(reports / "report.html", reports, "compact on <phantom>") == (missing or [])
    return (reports / "report.html").read_text(encoding="utf-8")


def section(source: str, anchor: str) -> str:
    return re.search(rf'<section id="{anchor}">(.*?)</section>', source, re.DOTALL)[1]


def test_the_page_has_all_parts_and_needs_no_network_and_no_other_file(reports: Path) -> None:
    source = written(reports)
    reader = Reader(source)
    assert reader.ids == PARTS
    assert all(url.startswith("data:image/") for url in reader.sources)
    assert [url for url in reader.targets if not url.startswith("#")] == ["data.html", "model_card.html"]
    assert not re.search(r"https?://|<script|@import|url\(", source)
    assert "Without" not in section(source, "summary")


def test_each_part_has_the_figures_of_its_reports(reports: Path) -> None:
    source = written(reports)
    test = made_facts()["evaluation"]["youden"]["test"]
    for name in ("auc", "sensitivity", "specificity"):
        interval = f"{test[name]:.3f} [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}]"
        assert interval in section(source, "summary")
    assert "it did not become champion: not higher" in section(source, "summary")
    data = section(source, "data")
    assert data.index("images whose width is &lt;odd&gt;") < data.index("images that look rotated")
    assert "Expectations that are met without exception: 1." in data
    assert '<th scope="row">val</th><td class=short>151</td>' in section(source, "splits")
    assert '<th scope="row">1</th><td class=short>pruned</td><td class=short></td>' in section(source, "search")
    assert "5 epochs; kept: 3 (validation AUC 0.8000)." in section(source, "training")
    assert "<figcaption>ROC curve</figcaption>" in section(source, "evaluation")
    saliency = section(source, "saliency")
    assert re.search(r"<figcaption>\S+: (normal|pneumonia), score 0\.\d{3}</figcaption>", saliency)
    assert "0.31 [0.20, 0.43]" in saliency


def test_the_card_is_in_the_page_word_by_word(reports: Path) -> None:
    source = written(reports)
    sections = page.read_markdown((reports / "model_card.md").read_text(encoding="utf-8"))
    titles = re.findall("<h3>(.*?)</h3>", section(source, "model-card"))
    assert (
        titles
        == [one.title for one in sections]
        == [one.title for one in card.sections(**{**made_facts(), "pictures": {}})]
    )
    assert "validation AUC .9 &lt;b&gt;against&lt;/b&gt; .95" in section(source, "model-card")


LEFT_BY = {
    "validate": "validation.json",
    "rebalance": "rebalance.json",
    "tune": "tune/best.json",
    "train": "history.csv",
    "evaluate": "evaluation.json",
    "explain": "explain.json",
    "promote": "promotion.json",
}


@pytest.mark.parametrize("stage", LEFT_BY)
def test_without_a_stage_the_others_are_shown_and_it_is_named(reports: Path, stage: str) -> None:
    (reports / LEFT_BY[stage]).unlink()
    source = written(reports, [stage])
    assert f"Without {stage}: no reports of these stages." in section(source, "summary")
    assert len(Reader(source).ids) == len(PARTS) - 1


def test_a_search_without_trials_is_shown_by_what_it_chose(reports: Path) -> None:
    tables.write_json({"values": {"learning_rate": 0.002}, "verdict": "not tried"}, reports / "tune" / "best.json")
    (reports / "tune" / "trials.csv").write_text("trial,state,val_auc\n")
    search = section(written(reports), "search")
    assert "0.002" in search
    assert "not tried" in search
    assert "<img" not in search


def test_without_any_report_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage has left a report there; make repro runs the stages"):
        overview.write(tmp_path / "report.html", tmp_path, "t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stage", "key"), [("rebalance", "splits"), ("evaluate", "youden"), ("promote", "promoted"), ("train", "kept")]
)
def test_reports_of_another_version_are_one_line_that_names_the_stage(reports: Path, stage: str, key: str) -> None:
    tables.write_json({stage: {}}, reports / LEFT_BY[stage])
    with pytest.raises(UserError, match=rf"reports of {stage} have no '{key}', .* dvc repro -f -s {stage} writes"):
        overview.write(reports / "report.html", reports, "t")
    assert not (reports / "report.html").exists()


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("tune", "tune/trials.csv"),
        ("train", "history.csv"),
        ("evaluate", "plots/operating_points.csv"),
        ("evaluate", "plots/roc.png"),
    ],
)
def test_a_damaged_report_is_one_line_that_names_the_stage(reports: Path, stage: str, name: str) -> None:
    (reports / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"reports of {stage} are damaged \(.*\); dvc repro -f -s {stage} writes"
    ) as error:
        overview.write(reports / "report.html", reports, "t")
    assert "\n" not in str(error.value)


def test_each_saliency_picture_names_its_image_so_that_a_patient_can_be_removed(reports: Path) -> None:
    test = tables.read_table(reports / "predictions.csv").query("split == 'test'")["image_id"]
    with_picture, without = (
        traces.of_rows(["P"], [{"image_id": name, "patient_id": "P"}]) for name in (test.iloc[0], test.iloc[-1])
    )
    (reports / "model_card.md").unlink()
    written(reports, ["promote"])
    assert removal.holds(reports / "report.html", with_picture)
    (reports / "predictions.csv").unlink()
    written(reports, ["evaluate", "promote"])
    assert removal.holds(reports / "report.html", with_picture)
    assert not removal.holds(reports / "report.html", without)


def test_the_page_has_the_names_of_the_target(reports: Path) -> None:
    path = reports / "rebalance.json"
    path.write_text(path.read_text().replace("_normal", "_viral").replace("_pneumonia", "_bacterial"))
    overview.write(reports / "report.html", reports, "compact on phantom", TARGETS["bacterial"])
    source = (reports / "report.html").read_text(encoding="utf-8")
    assert "of them bacterial" in source
    assert re.search(r"<th[^>]*>viral</th><th[^>]*>bacterial</th>", section(source, "splits"))
    assert re.search(r"(viral|bacterial), score 0\.", section(source, "saliency"))
