"""The exported network gives the scores of the trained one; what usual images look like is learnt from train."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from numpy.typing import NDArray

from pneumonia import UserError, export, inference, workspace
from pneumonia.data.store import create_split, create_store
from pneumonia.images import geometry
from pneumonia.metrics import decisions
from pneumonia.models import detector, ensembles, networks, runtime, scoring
from pneumonia.models.predictor import Predictor, facts_digest
from pneumonia.saliency import conversion, methods
from pneumonia.saliency import network as saliency
from pneumonia.saliency.exported import Exported
from tests import predictors
from tests.conftest import ROOT, noise, shallow_densenets

IMAGES = np.stack([noise(70, 90, seed) for seed in range(5)])


def scores_of(network: bytes, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    (probability,) = session.run(["probability"], {"pixels": images[..., None].astype(np.float32)})
    assert probability.shape == (len(images), 1)
    return probability[:, 0]


def check(model: Any) -> None:
    network = export.convert(model)
    for images in (IMAGES, IMAGES[:1], IMAGES[:, :64, :64]):  # number and size of the images are free
        assert np.abs(scores_of(network, images) - scoring.predict_scores(model, images)).max() < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("compact", "shallow") else pytest.param(name, marks=pytest.mark.slow)
        for name in networks.MODELS
    ],
)
def test_the_onnx_network_gives_the_scores_of_the_keras_network(name: str) -> None:
    runtime.start_keras(1)
    with shallow_densenets():
        check(networks.create_model(name, size={"vanilla": 32}.get(name)))


def test_an_ensemble_is_one_network() -> None:
    runtime.start_keras(1)
    check(ensembles.ensemble([networks.create_model("shallow", size=32) for _ in range(2)]))


def test_the_onnx_network_of_a_detector_holds_its_boxes(tmp_path: Path) -> None:
    runtime.start_keras(1)
    one, other = (networks.create_model("detector", size=64) for _ in range(2))
    check(one)
    exported = Predictor(predictors.write(tmp_path / "one", export.convert(one), boxes={"threshold": 0.0}))
    assert exported.finds_boxes
    assert export.require_same_boxes(exported, one, IMAGES) < 1e-5
    with pytest.raises(UserError, match="the boxes of the exported network differ from those of the trained one by"):
        export.require_same_boxes(exported, other, IMAGES)
    films = [exported.read(image) for image in IMAGES]
    for (boxes, scores), (expected, of_keras) in zip(
        exported.boxes(films), detector.find(one, np.stack([film.prepared for film in films])), strict=True
    ):
        inside = len(scores)
        assert inside == len(of_keras) > 0
        np.testing.assert_allclose(scores, of_keras, atol=1e-5)
        assert boxes.shape == expected.shape


def test_a_predictor_without_boxes_has_nothing_to_compare(tmp_path: Path) -> None:
    assert export.require_same_boxes(Predictor(predictors.write(tmp_path / "p")), None, IMAGES) == 0


FILMS = np.stack([cv2.GaussianBlur(noise(64, 64, seed), (0, 0), 3) for seed in range(5)])


def maps_of(model: Any, method: str) -> tuple[bytes, bytes]:
    """A network as ONNX, and what its maps need in addition; `convert_maps` compares them with those of Keras."""
    network = export.convert(model)
    return network, export.convert_maps(model, method, network, FILMS, np.arange(5.0))


def test_maps_of_the_exported_network_are_those_of_keras_and_its_weights_are_there_once() -> None:
    runtime.start_keras(1)
    network, maps = maps_of(networks.create_model("compact", size=64), "hires_cam")
    assert len(maps) < 0.06 * len(network)


NETWORKS = [*networks.MODELS, "ensemble"]


@pytest.fixture(scope="module")
def built() -> Callable[[str], tuple[Any, bytes]]:
    """A network by its name, and the same as ONNX."""

    @cache
    def build(name: str) -> tuple[Any, bytes]:
        runtime.start_keras(1)
        with shallow_densenets():
            if name == "ensemble":
                model = ensembles.ensemble([networks.create_model("shallow", size=32) for _ in range(2)])
            else:
                model = networks.create_model(name, size=32 if name == "vanilla" else 64)
        return model, export.convert(model)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_maps_without_tensorflow(name: str, built: Any) -> None:
    model, network = built(name)
    for method in {"layer_cam", "detector_map"} & set(methods.fitting(model)):
        export.convert_maps(model, method, network, FILMS, np.arange(5.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fusion"])  # its parts are two of the others
def test_the_gradient_of_every_network_is_that_of_keras(name: str, built: Any) -> None:
    """But for units whose input is next to 0, so that rounding decides whether they are on."""
    model, network = built(name)
    content = network + export.convert_primitive(model, "gradients", network, FILMS.shape[1])
    exported = Exported(inference.open_session(Path("maps.onnx"), content, threads=1, remedy=""))
    batch = FILMS[..., None].astype(np.float32)
    ours, theirs = (saliency.gradients(one)(batch) for one in (exported, model))
    away = np.abs(ours - theirs) / np.abs(theirs).max(axis=(1, 2), keepdims=True)
    assert np.median(away) < 1e-4
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


def test_other_maps_than_those_of_keras_are_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_as_onnx", lambda *_: None)
    monkeypatch.setattr(conversion, "addition", lambda *_: predictors.maps())
    monkeypatch.setattr(saliency, "tensors", lambda *_: None)
    monkeypatch.setitem(
        methods.METHODS, "occlusion", lambda model, images, **_: images / 255 + (0.01 if model is KERAS else 0)
    )
    with pytest.raises(UserError, match=r"differ from those of Keras by 0\.01"):
        export.convert_maps(KERAS, "occlusion", predictors.network(), FILMS, np.arange(5.0))


@pytest.mark.parametrize(
    ("differing", "other", "words"),
    [
        ([0], 0.9, ""),
        ([0, 1], 0.9, r"differ from those of Keras by 0\.9"),
        ([0, 1], 0.05, ""),
        ([2, 4], np.nan, "differ from those of Keras by nan"),
        ([], 0, "all maps .* are 0"),
    ],
)
def test_one_map_may_differ_by_rounding_but_not_two_and_maps_that_are_zero_prove_nothing(
    monkeypatch: pytest.MonkeyPatch, differing: list[int], other: float, words: str
) -> None:
    def explain(model: Any, images: NDArray[np.uint8], **_: Any) -> NDArray[np.float64]:
        values = np.zeros(images.shape)
        values[:, 0, 0] = bool(differing)
        if model is not KERAS:
            values[differing, 1, 1] = other
        return values

    monkeypatch.setattr(export, "convert_primitive", lambda *_: predictors.maps())
    monkeypatch.setitem(methods.METHODS, "occlusion", explain)
    arguments = (KERAS, "occlusion", predictors.network(), FILMS, np.arange(5.0))
    if words:
        with pytest.raises(UserError, match=words):
            export.convert_maps(*arguments)
    else:
        assert export.convert_maps(*arguments) == predictors.maps()


def test_a_method_that_cannot_be_converted_and_a_network_that_is_too_large_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = (KERAS, "occlusion", predictors.network(), FILMS, np.arange(5.0))
    monkeypatch.setattr(export, "convert_primitive", Mock(side_effect=ValueError("make_sure failure:\nno node")))
    with pytest.raises(UserError, match=r"cannot be converted to ONNX \(ValueError: make_sure failure"):
        export.convert_maps(*arguments)
    monkeypatch.setattr(export, "MAX_PARAMETERS", 0)
    with pytest.raises(UserError, match="1 parameters, too many to convert"):
        export.convert_maps(*arguments)


class _Keras:
    def count_params(self) -> int:
        return 1


KERAS = _Keras()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("compact", 64), ("mobilenet", 64)])
def test_the_same_network_gives_the_same_bytes_in_every_process(name: str, size: int) -> None:
    # The order of sets of text changes with the seed of their hashes, that of sets of objects with their addresses.
    code = f"""
from pneumonia import export
from pneumonia.models import networks, runtime
import hashlib
runtime.start_keras(1)
model = networks.create_model("{name}", size={size})
network = export.convert(model)
maps = export.convert_primitive(model, export.NEEDS["hires_cam"], network, {size})
print(*(hashlib.sha256(content).hexdigest() for content in (network, maps)))
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(4)
    }
    assert len(digests) == 1


# --- usual images ---


def chests(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """Two dark fields on a bright ground, with noise, each a little different."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    images = []
    for _ in range(n):
        shift = rng.normal(0, 2, 4)
        fields = [
            np.exp(-(((rows - 32 - shift[0]) / 16) ** 2) - ((columns - middle - shift[1]) / 9) ** 2)
            for middle in (18, 46)
        ]
        images.append(180 + 5 * shift[2] - 120 * sum(fields) + rng.normal(0, 4 + 0.3 * shift[3], (64, 64)))
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return export.fit_usual(chests(300), chests(200, seed=1), 0.02)


def share_of_unusual(usual: dict[str, Any], images: NDArray[np.uint8], folder: Path) -> float:
    settings = predictors.FACTS["preparation"] | {"size": 64}
    one = Predictor(predictors.write(folder, unusual=usual, preparation=settings))
    return float(np.mean([bool(answer.unusual) for answer in one.answers(images)]))


def test_not_more_validation_images_are_unusual_than_the_setting_allows(usual: dict[str, Any], tmp_path: Path) -> None:
    assert share_of_unusual(usual, chests(200, seed=1), tmp_path) < 0.02
    without_margin = usual | {"limit": usual["limit"] / export.MARGIN}
    assert share_of_unusual(without_margin, chests(200, seed=1), tmp_path) == pytest.approx(0.02, abs=0.006)
    assert share_of_unusual(usual, chests(200, seed=2), tmp_path) < 0.04


def test_the_share_that_is_lung_has_limits_and_the_false_alarms_stay_as_many_in_all(usual: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    in_train, in_val = rng.uniform(0.2, 0.4, 300), rng.uniform(0.2, 0.4, 200)
    around = export.fit_usual(chests(300), chests(200, seed=1), 0.02, (in_train, in_val))
    low, high = around["lungs"]["low"] * export.MARGIN, around["lungs"]["high"] / export.MARGIN
    assert ((in_val < low) | (in_val > high)).sum() == 2, "half of two percent"
    assert around["limit"] > usual["limit"], "the other half"
    assert "lungs" not in usual
    # Films without lungs are alarms already: none remain for the limits, and the description is that of the others.
    in_val[:4], in_train[:100] = np.nan, np.nan
    fewer = export.fit_usual(chests(300), chests(200, seed=1), 0.02, (in_train, in_val))
    assert fewer["n"] == 200
    assert fewer["lungs"]["low"] * export.MARGIN == pytest.approx(np.nanmin(in_val))
    assert fewer["lungs"]["high"] / export.MARGIN == pytest.approx(np.nanmax(in_val))
    nothing = np.full(300, np.nan)
    assert "lungs" not in export.fit_usual(chests(300), chests(200, seed=1), 0.02, (nothing, nothing[:200]))


def test_images_of_an_external_test_are_unusual_as_they_are_for_a_prediction(
    usual: dict[str, Any], tmp_path: Path
) -> None:
    near = usual | {"limit": usual["limit"] / 2}
    images = np.concatenate([chests(40, seed=1), 255 - chests(10, seed=3)])
    unusual = export.are_unusual(images, near)
    assert 10 < unusual.sum() < 50
    assert unusual.mean() == share_of_unusual(near, images, tmp_path)


def test_films_without_lungs_or_with_an_unusual_share_of_them_are_unusual(usual: dict[str, Any]) -> None:
    images, far = chests(4, seed=1), usual | {"limit": 1e9}
    shares = np.array([np.nan, 0.1, 0.3, 0.6])
    assert export.are_unusual(images, far, shares).tolist() == [True, False, False, False]
    limits = {"lungs": {"low": 0.2, "high": 0.5}}
    assert export.are_unusual(images, far | limits, shares).tolist() == [True, True, False, True]
    assert not export.are_unusual(images, far).any()


def test_the_predictor_has_the_share_of_unusual_images_of_each_external_test(
    usual: dict[str, Any], tmp_path: Path
) -> None:
    films = pd.DataFrame(
        {"image_id": [f"a/{k}" for k in range(20)], "patient_id": [f"p{k}" for k in range(20)], "label": 0}
    ).assign(weight=1.0, repeats=1)
    store = create_store(tmp_path / "external.zarr", {})
    images, _ = create_split(store, "a", films, size=64, with_lungs=False)
    images[:] = np.concatenate([chests(12, seed=1), 255 - chests(8, seed=3)])
    auc = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7}
    evaluation = {"level": 0.95, "external": {"a": {"n": 20, "n_positive": 7, **auc, "left_out": []}}}
    found = export.external(evaluation, usual, store, films)
    low, high = decisions.wilson_interval(8, 20)
    expected = {"n": 20, "n_positive": 7, **auc, "unusual": 0.4, "unusual_low": low, "unusual_high": high}
    assert found == {"a": pytest.approx(expected)}
    pairs = films.assign(patient_id=[f"p{k // 2}" for k in range(20)])
    assert export.external(evaluation, usual, store, pairs)["a"]["unusual_low"] < low, "by patient"
    assert export.external({"level": 0.95}, usual, store, films) == {}
    assert facts(outside=found)["external"] == found
    assert "external" not in facts(outside={})


def test_with_folds_the_limit_is_that_of_images_out_of_fold(usual: dict[str, Any]) -> None:
    images = chests(120)
    folds = (np.arange(120) % 3).astype(np.int8)
    found = export.fit_usual_in_folds(images, folds, 0.02)
    assert found.keys() == usual.keys()
    within = export.fit_usual(images, images, 0.02)
    assert {name for name in found if found[name] != within[name]} == {"limit"}
    assert found["limit"] > within["limit"], "images are farther from what was not fitted on them"
    one = [export.fit_usual(images[folds != k], images[folds == k], 0.0)["limit"] for k in range(3)]
    assert export.fit_usual_in_folds(images, folds, 0.0)["limit"] == pytest.approx(max(one))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: 255 - image,
        np.rot90,
        np.zeros_like,
        lambda image: np.full_like(image, 130),
        lambda image: noise(64, 64, int(image.sum())),
    ],
)
def test_other_images_are_unusual(usual: dict[str, Any], change: Any, tmp_path: Path) -> None:
    others = np.stack([change(image) for image in chests(50, seed=3)])
    assert share_of_unusual(usual, others, tmp_path) == 1


# --- the folder ---


def predictor_of(tmp_path: Path, **points: Any) -> Predictor:
    return Predictor(predictors.write(tmp_path, operating_points=predictors.FACTS["operating_points"] | points))


def flat(*levels: float) -> NDArray[np.uint8]:
    return np.stack([np.full((predictors.SIZE, predictors.SIZE), level, np.uint8) for level in levels])


def test_equal_scores_pass_with_the_largest_difference(tmp_path: Path) -> None:
    scores = np.array([predictors.expected_score(level) for level in (100, 140)])
    difference = export.require_same_scores(predictor_of(tmp_path), flat(100, 140), scores + np.array([0, 5e-5]), 1e-4)
    assert difference == pytest.approx(5e-5, abs=1e-6)


def test_another_score_is_refused_with_the_figure(tmp_path: Path) -> None:
    scores = np.array([predictors.expected_score(level) for level in (100, 140)])
    with pytest.raises(UserError, match=r"differs from the trained one by 0\.02 in the score .* at most 0\.0001"):
        export.require_same_scores(predictor_of(tmp_path), flat(100, 140), scores + np.array([0, 0.02]), 1e-4)


def test_another_decision_is_refused(tmp_path: Path) -> None:
    score = predictors.expected_score(100)
    one = predictor_of(tmp_path, youden={"threshold": score + 2e-5, "threshold_calibrated": 0.5})
    with pytest.raises(UserError, match="changes 1 of 1 decisions on validation at the operating point youden"):
        export.require_same_scores(one, flat(100), np.array([score + 4e-5]), 1e-4)


REPORTS: dict[str, Any] = {
    "record": {
        "data": "chest_xray",
        "model": "compact",
        "weights": "none",
        "run_id": "r",
        "model_sha256": "m",
        "data_digest": "d",
        "made_with": {"Keras": "3"},
    },
    "evaluation": {
        "level": 0.95,
        "calibration": {"slope": 0.5, "bias": 1.0},
        **{
            point: {
                "threshold": 0.5,
                "calibrated": {"threshold": 0.73105858},
                "val": {"n": 8, "n_positive": 4, "auc": 0.95},
                "test": {
                    "n": 9,
                    "n_positive": 5,
                    "auc": 0.9,
                    "ece": 0.1,
                    "sensitivity": 0.8,
                    "sensitivity_low": 0.6,
                    "sensitivity_high": 0.9,
                },
            }
            for point in export.POINTS
        },
    },
    "rebalance": {
        "test_split": "official",
        "splits": {"train": {"n_images": 20, "n_patients": 12, "n_normal": 10, "n_pneumonia": 10}},
    },
}


def facts(**changes: Any) -> dict[str, Any]:
    return facts_of(REPORTS, **changes)


def facts_of(reports: dict[str, Any], **changes: Any) -> dict[str, Any]:
    source = {"title": "t", "licence": "l", "citation": "c", "synthetic": False}
    given = {"source": source, "network": "n", "preparation": {"size": 32}, "usual": predictors.usual_gray(9.0)}
    given["explained"] = {"default": "hires_cam", "methods": {"hires_cam": {"verdict": "cannot be told (n = 3)"}}}
    return export.facts(*reports.values(), **given | changes)


def test_the_folder_has_a_file_for_maps_only_if_they_need_no_tensorflow(tmp_path: Path) -> None:
    for name, maps in (("with", predictors.maps()), ("without", b"")):
        (tmp_path / name).mkdir()
        export.write(tmp_path / name, predictors.network(), facts(), maps)
        digests = Predictor(tmp_path / name).facts["digests"]
        assert digests.get("maps.onnx", "") == (workspace.sha256_bytes(maps) if maps else "")
        assert (tmp_path / name / "maps.onnx").is_file() == bool(maps)


def test_a_written_folder_is_a_predictor(tmp_path: Path) -> None:
    export.write(tmp_path, predictors.network(), facts())
    one = Predictor(tmp_path)
    assert one.facts["digests"] == {
        "model.onnx": workspace.sha256_bytes(predictors.network()),
        "model_sha256": "m",
        "data_digest": "d",
        "predictor.json": facts_digest(json.loads((tmp_path / "predictor.json").read_text())),
    }
    assert one.facts["figures"]["test"] == {
        "n": 9,
        "n_positive": 5,
        "auc": 0.9,
        "ece": 0.1,
        "sensitivity": 0.8,
        "sensitivity_low": 0.6,
        "sensitivity_high": 0.9,
    }
    assert one.facts["learnt_from"]["n_patients"] == 12
    assert one.facts["operating_points"]["youden"]["sensitivity_low"] == 0.6
    assert one.facts["labels"] == ["normal", "pneumonia"]


def test_a_predictor_around_the_lungs_holds_its_segmenter(tmp_path: Path) -> None:
    around = geometry.Preparation(size=32, aspect="lungs", segmenter=geometry.SEGMENTER)
    export.write(tmp_path, predictors.network(), facts(preparation=around.as_dict()))
    assert Predictor(tmp_path).preparation == around
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lungs.onnx", "model.onnx", "predictor.json"]
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="of another version"):
        export.write(tmp_path / "other", predictors.network(), facts(preparation=around.as_dict() | {"segmenter": "0"}))
    assert not list((tmp_path / "other").iterdir())


def test_lists_of_numbers_are_one_line_each_and_the_json_stays_the_same(tmp_path: Path) -> None:
    export.write(tmp_path, predictors.network(), facts())
    text = (tmp_path / "predictor.json").read_text()
    assert len(text.splitlines()) < 200
    assert json.loads(text)["unusual"]["precision"] == np.eye(47).tolist()
    assert json.loads(text)["unusual"]["mean"] == pytest.approx(predictors.usual_gray(9.0)["mean"])


def test_a_model_of_synthetic_data_says_so_first() -> None:
    source = {"title": "t", "licence": "l", "citation": "c", "synthetic": True}
    assert "synthetic radiographs: this score means nothing for a patient" in facts(source=source)["caution"]
    assert "Not a medical device" in facts()["caution"]


def test_the_predictor_names_the_method_of_its_maps_with_the_verdict() -> None:
    assert facts()["saliency"] == {"method": "hires_cam", "verdict": "cannot be told (n = 3)"}


def test_the_predictor_has_the_target_of_the_model_and_the_names_of_its_classes() -> None:
    assert (facts()["target"], facts()["labels"]) == ("pneumonia", ["normal", "pneumonia"])  # of an earlier run.json
    train = {"n_images": 20, "n_patients": 12, "n_viral": 8, "n_bacterial": 12}
    reports = REPORTS | {"rebalance": {"test_split": "drawn", "splits": {"train": train}}}
    reports["record"] = REPORTS["record"] | {"target": "bacterial"}
    made = facts_of(reports)
    assert (made["target"], made["labels"]) == ("bacterial", ["viral", "bacterial"])
    assert (made["learnt_from"]["n_viral"], made["learnt_from"]["n_bacterial"]) == (8, 12)
    assert made["caution"].endswith(
        "only for films that show pneumonia: any other film gets one of these two answers, too."
    )
