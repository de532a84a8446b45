"""A network that ships is that of its run, with its figures, and says what storing it has changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import helper, numpy_helper

from benchmarks import ship
from pneumonia import UserError
from pneumonia.data.store import create_split, create_store
from pneumonia.models import predictor, shipped
from pneumonia.models.predictor import Predictor, facts_digest
from tests import predictors
from tests.conftest import files_under, png

LEARNT = {
    "title": "films of children",
    "licence": "CC BY 4.0",
    "citation": "Kermany (2018)",
    "n_images": 3000,
    "n_patients": 2000,
    "n_normal": 1000,
    "n_pneumonia": 2000,
}


def network() -> bytes:
    """As `predictors.network`, with a weight near to one for each pixel."""
    model = onnx.ModelProto.FromString(predictors.network())
    rng = np.random.default_rng(1)
    weights = rng.normal(1, 1e-2, (1, predictors.SIZE, predictors.SIZE, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    (mean,) = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    mean.input[0] = "weighted"
    model.graph.node.insert(0, helper.make_node("Mul", ["pixels", "weights"], ["weighted"]))
    return bytes(model.SerializeToString())


def figures(**values: float) -> dict[str, Any]:
    ends = {f"{name}{end}": value for name, value in values.items() for end, value in (("_low", 0.8), ("_high", 0.99))}
    return {"n": 600, "n_positive": 400, **values, **ends}


OF_RUN: dict[str, Any] = {
    "learnt_from": LEARNT,
    "weights": "/home/someone/mobilenet.h5",
    "network": "a toy",
    "figures": {"level": 0.95, "val": {"n": 600}, "test": figures(auc=0.96), "test_split": "official"},
    "made_with": {"Python": "3.11"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run without films; what ships is beside it, in `pretrained`, and is empty."""
    monkeypatch.setattr(predictor, "PRETRAINED", tmp_path / "pretrained")
    values = {"val": figures(auc=0.97, sensitivity=0.93, specificity=0.9), "test": figures(auc=0.96, sensitivity=0.9)}
    probabilities = {split: figures(brier=0.1, ece=0.02) for split in ("val", "test")}
    evaluation = {
        name: {"threshold": point["threshold"], **values, "calibrated": probabilities}
        for name, point in predictors.FACTS["operating_points"].items()
    }
    folder = tmp_path / "run"
    predictors.write(folder / "models" / "predictor", network(), **OF_RUN)
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    here, there = tmp_path / "params.yaml", folder / "params.yaml"
    same = "data: chest_xray\nmodel: toy\n"
    here.write_text(f"{same}weights: auto\nfetch: {{url: }}\ntrain: {{epochs: 40, crop: 1.0}}\n")
    theirs = "weights: /home/someone/mobilenet.h5\nfetch: {url: /home/someone/films.zip}\n"
    there.write_text(f"{same}{theirs}train: {{epochs: 77, crop: 1.0}}\n")
    (folder / "reports").mkdir()
    (folder / "reports" / "evaluation.json").write_text(json.dumps(evaluation))
    rebalance = {"test_split": "official", "folds": [{}, {}, {}]}
    (folder / "reports" / "rebalance.json").write_text(json.dumps(rebalance))
    return folder


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    folder = tmp_path / "films"
    folder.mkdir()
    for level in (90, 110, 126, 130, 150):
        (folder / f"{level}.png").write_bytes(png(np.full((40, 40), level, np.uint8)))
    return [str(folder)]


def test_a_network_ships_with_its_figures_and_differences(run: Path, films: list[str]) -> None:
    folder = ship.ship(run, "toy", in_half=True, looks=3, films=films, notes=["On adults its AUC is .65."])
    assert set(files_under(folder)) == {"model.onnx", "predictor.json", "README.md"}
    own, one = Predictor(run / "models/predictor"), Predictor(shipped.folder("pretrained:toy"))
    made = one.facts["shipped"]
    assert (made["name"], made["weights"], made["n_films"]) == ("toy", "float16", 5)
    assert made["changed_decisions"] == {"youden": 0, "target_sensitivity": 0}
    gray = np.full((40, 40), 130, np.uint8)
    ours, theirs = (next(each.scores([gray])).score for each in (own, one))
    assert 0 < abs(ours - theirs) < made["largest_difference"] + 2e-6  # of another batch the last digit differs
    assert made["largest_difference"] < 1e-3
    assert 0 < made["median_difference"] <= made["largest_difference"]
    for key in ("preparation", "calibration", "learnt_from", "labels"):
        assert one.facts[key] == own.facts[key]
    told = one.facts["figures"]
    assert (told["validation"], told["test_split"], told["looks"]) == ("out of fold, 3 networks", "official", 3)
    assert (told["val"]["auc"], told["val"]["auc_low"]) == (0.97, 0.8)
    assert one.facts["digests"]["predictor.json"] == facts_digest(one.facts)
    assert (folder / "model.onnx").stat().st_size < (run / "models/predictor/model.onnx").stat().st_size
    card = (folder / "README.md").read_text()
    for text in (
        "| AUC | 0.960 [0.800, 0.990] | 0.970 [0.800, 0.990] |",
        "| sensitivity at `youden` (score 0.500) |",
        "| calibration error of probabilities | 0.020 [",
        "official test split of the source, 600 films. It had been looked at 3 times",
        "Validation (out of fold, 3 networks)",
        "Kermany (2018). Licence: CC BY 4.0.",
        "train.epochs: 77",
        "weights: mobilenet.h5",
        "On adults its AUC is .65.",
        "not a medical device",
    ):
        assert text in " ".join(card.split()), text
    assert "crop" not in card
    assert "someone" not in card + (folder / "predictor.json").read_text()


def test_without_half_the_network_is_that_of_the_run(run: Path, films: list[str]) -> None:
    folder = ship.ship(run, "toy", films=films)
    assert (folder / "model.onnx").read_bytes() == network()
    assert Predictor(folder).facts["shipped"]["largest_difference"] == 0


def test_maps_are_shipped_and_compared(run: Path, films: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "N_MAPS", 1)
    facts = json.loads((run / "models/predictor/predictor.json").read_text())
    facts["digests"] |= {"maps.onnx": ship.workspace.sha256_bytes(predictors.maps())}
    (run / "models/predictor/maps.onnx").write_bytes(predictors.maps())
    predictors.write(run / "models/predictor", network(), **facts | {"saliency": {"method": "occlusion"}})
    folder = ship.ship(run, "toy", in_half=True, films=films)
    assert (folder / "maps.onnx").read_bytes() == predictors.maps()
    assert Predictor(folder).facts["shipped"]["difference_of_maps"] < 0.2


def test_films_of_the_run_are_compared_if_none_are_named(run: Path) -> None:
    size = predictors.SIZE
    store = create_store(run / "data/images.zarr", {"preparation": predictors.FACTS["preparation"]})
    table = pd.DataFrame({"label": [0, 1, 1], "weight": 1.0, "repeats": 1, "image_id": ["a", "b", "c"]})
    images, _ = create_split(store, "val", table, size=size, with_lungs=False)
    images[:] = np.stack([np.full((size, size), level, np.uint8) for level in (90, 130, 150)])
    folder = ship.ship(run, "toy", in_half=True)
    made = Predictor(folder).facts["shipped"]
    assert made["n_films"] == 3
    assert made["largest_difference"] > 0
    store.attrs["preparation"] = {"size": size, "clip_limit": 2.0}
    assert "was prepared in another way than for the predictor" in refusal(run, [])


def refusal(run: Path, films: list[str], name: str = "toy") -> str:
    """The line in which shipping ends; what shipped before stays as it is."""
    before = files_under(predictor.PRETRAINED)
    with pytest.raises(UserError) as error:
        ship.ship(run, name, films=films)
    assert files_under(predictor.PRETRAINED) == before
    return str(error.value)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"synthetic": True}, "learnt from synthetic films; only a network of films under CC BY 4.0 ships"),
        ({"learnt_from": {"licence": "that of your films"}}, "with the licence 'that of your films'; only"),
        ({"learnt_from": {}}, "with the licence 'unknown'"),
        ({"target": "bacterial", "labels": ["viral", "bacterial"]}, "has the target bacterial; only a network of the"),
        (
            {"operating_points": {"youden": {"threshold": 0.4, "threshold_calibrated": 0.5}}},
            "has the threshold 0.4 at youden, reports/evaluation.json 0.5: they are of different runs",
        ),
    ],
)
def test_a_network_that_may_not_ship_is_one_line(run: Path, films: list[str], facts: dict[str, Any], line: str) -> None:
    predictors.write(run / "models/predictor", network(), **{"learnt_from": LEARNT} | facts)
    assert line in refusal(run, films)


@pytest.mark.parametrize("name", ["lungs", "", "../toy", "Toy"])
def test_no_other_folder_is_replaced(run: Path, films: list[str], name: str) -> None:
    (predictor.PRETRAINED / "lungs").mkdir(parents=True)
    (predictor.PRETRAINED / "lungs" / "lungs.onnx").touch()
    assert f"{name!r} cannot be the name of a network" in refusal(run, films, name)


@pytest.mark.parametrize("part", ["params.yaml", "reports/evaluation.json", "reports/rebalance.json"])
def test_a_run_that_lacks_a_part_is_one_line(run: Path, films: list[str], part: str) -> None:
    (run / part).unlink()
    assert f"{part} is missing" in refusal(run, films)


def test_settings_of_another_run_are_one_line(run: Path, films: list[str]) -> None:
    (run / "params.yaml").write_text("data: chest_xray\nmodel: compact\n")
    assert "has model toy" in refusal(run, films)


def test_a_caution_stands_with_every_answer(run: Path, films: list[str]) -> None:
    folder = ship.ship(run, "toy", films=films, caution="It learnt from children.")
    assert Predictor(folder).facts["caution"].endswith(". It learnt from children.")
    assert "It learnt from children." in (folder / shipped.CARD).read_text()


def test_external_tests_of_the_run_are_on_the_card(run: Path, films: list[str]) -> None:
    adults = {"n": 160, "n_positive": 40, "auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "unusual": 0.1}
    predictors.write(run / "models/predictor", network(), **OF_RUN, external={"adults": adults})
    card = (ship.ship(run, "toy", films=films) / shipped.CARD).read_text()
    assert "| adults | 160 (40 pneumonia) | 0.600 [0.500, 0.700] |" in card


def test_a_network_that_is_too_large_is_one_line_and_the_earlier_one_stays(
    run: Path, films: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ship.ship(run, "toy", films=films)
    monkeypatch.setattr(ship, "MAX_BYTES", 6_000)
    assert "more than the 6,000 that may ship; take --half" in refusal(run, films)


def test_another_network_is_never_taken_for_a_rounded_one(
    run: Path, films: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship.half, "halve", lambda content: predictors.network(infinite=True))
    with pytest.raises(UserError, match="differs from that of the run by nan in the score of a film"):
        ship.ship(run, "toy", in_half=True, films=films)


def test_without_films_to_compare_the_option_is_named(run: Path) -> None:
    assert refusal(run, []).endswith("name films for the comparison of scores with --films")


# --- what ships now ---


@pytest.mark.parametrize("name", shipped.names())
def test_what_ships_answers_and_its_card_has_its_figures_and_licence(name: str) -> None:
    folder = shipped.folder(shipped.PREFIX + name)
    one = Predictor(folder)
    assert not next(one.scores([np.full((40, 40), 100, np.uint8)])).error
    card, facts = (folder / shipped.CARD).read_text(encoding="utf-8"), one.facts
    assert not facts["synthetic"]
    assert facts["shipped"]["name"] == name
    for text in (
        ship.format_with_interval(facts["figures"]["test"], "auc"),
        ship.format_with_interval(facts["figures"]["val"], "auc"),
        f"Licence: {ship.LICENCE}.",
        "**It is not a medical device.",
    ):
        assert text in card
    assert "/" not in facts["weights"], "a path of one machine"
    assert facts["shipped"]["largest_difference"] <= ship.MAX_DIFFERENCE
    assert not any((folder / other).exists() for other in (predictor.LUNGS, "model.keras"))


def test_all_that_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in predictor.PRETRAINED.rglob("*") if path.is_file()) <= ship.MAX_BYTES
    assert shipped.names()[0] == shipped.BEST
