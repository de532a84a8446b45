"""Saliency of networks built by hand, whose answer is known; then the scores of maps drawn by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pneumonia import UserError, explain
from pneumonia.data.store import Pixels, Split, create_split, create_store, open_store, read_split
from pneumonia.data.targets import TARGETS
from pneumonia.models import networks
from pneumonia.saliency import baselines, methods, occlusion, scores
from tests.conftest import shallow_densenets
from tests.saliency import conftest as saliency
from tests.saliency.conftest import NO_BOXES, OPTIONS, SIZE, blobs, detector

known_to_models = saliency.known_to_models

pytestmark = pytest.mark.usefixtures("known_to_models")


@pytest.fixture(scope="module", params=networks.MODELS)
def built(request: pytest.FixtureRequest) -> Any:
    with shallow_densenets():
        return networks.create_model(request.param, size=128 if request.param == "compact" else 64)


@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_explains_every_network_in_the_geometry_of_the_store(
    method: str, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occlusion, "STEPS", 3)  # the large networks are slow
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    if method not in methods.fitting(built):
        with pytest.raises(UserError, match=f"and this {built.name} draws no boxes; leave it out"):
            explain.METHODS[method](built, images, **OPTIONS)
        return
    maps = explain.METHODS[method](built, images, **OPTIONS)
    assert maps.shape == (2, 48, 48)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


def predictions(n_normal: int = 20, n_pneumonia: int = 30) -> pd.DataFrame:
    labels = [0] * n_normal + [1] * n_pneumonia
    test = pd.DataFrame({"image_id": [f"test-{i}" for i in range(len(labels))], "split": "test", "label": labels})
    val = test.assign(image_id=test["image_id"].str.replace("test", "val"), split="val")
    table = pd.concat([val, test], ignore_index=True)
    return table.assign(score=np.random.default_rng(1).random(len(table)))


def labels_of(names: list[str]) -> list[int]:
    return predictions().set_index("image_id").loc[names, "label"].tolist()


def test_half_of_the_images_shown_are_pneumonia() -> None:
    shown = explain.choose(predictions(), 12, seed=1)
    assert len(set(shown)) == 12
    assert all(name.startswith("test-") for name in shown)
    assert labels_of(shown) == [1] * 6 + [0] * 6
    assert labels_of(explain.choose(predictions(), 5, seed=1)) == [1, 1, 1, 0, 0]
    assert labels_of(explain.choose(predictions(), 1, seed=1)) == [1]


def test_a_class_with_few_images_is_shown_whole() -> None:
    shown = explain.choose(predictions(n_normal=2), 12, seed=1)
    assert len(set(shown)) == 8
    assert {"test-0", "test-1"} < set(shown)


def test_the_seed_chooses_and_the_scores_do_not() -> None:
    table = predictions()
    shown, scored = explain.choose(table, 12, seed=1), explain.choose_scored(table, {}, 12, seed=1)
    for other_scores in (table.assign(score=1 - table["score"]), table.assign(score=0.5), table.drop(columns="score")):
        assert explain.choose(other_scores, 12, seed=1) == shown
        assert explain.choose_scored(other_scores, {}, 12, seed=1) == scored
    assert explain.choose(table, 12, seed=2) != shown
    assert explain.choose_scored(table, {}, 12, seed=2) != scored


def test_maps_are_scored_on_test_images_with_boxes() -> None:
    boxes = {name: np.ones((1, 4)) for name in ("test-31", "test-40", "test-49", "val-35")}
    assert sorted(explain.choose_scored(predictions(), boxes, 64, seed=1)) == ["test-31", "test-40", "test-49"]
    assert len(explain.choose_scored(predictions(), boxes, 2, seed=1)) == 2


def test_without_boxes_any_test_image_is_scored() -> None:
    scored = explain.choose_scored(predictions(), {}, 64, seed=1)
    assert sorted(scored) == sorted(f"test-{i}" for i in range(50))


def test_images_are_picked_by_id_in_the_order_asked() -> None:
    split = Split(
        images=np.arange(5, dtype=np.uint8).reshape(5, 1, 1),
        labels=np.zeros(5, np.int8),
        weights=np.ones(5, np.float32),
        repeats=np.ones(5, np.int16),
        image_ids=np.array(["e", "d", "c", "b", "a"]),
    )
    assert explain.pick(split, ["a", "d", "a"]).ravel().tolist() == [4, 1, 4]


def test_picked_images_need_not_be_in_memory(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [f"{n:03}" for n in range(300)], "label": 1, "weight": 1.0, "repeats": 1})
    path = tmp_path / "images.zarr"
    images, _ = create_split(create_store(path, {}), "test", table, size=4, with_lungs=False)
    images[:] = (np.arange(300) % 251).astype(np.uint8)[:, None, None]
    split = read_split(open_store(path), "test", memory=0)
    assert isinstance(split.images, Pixels)
    found = explain.pick(split, ["299", "003", "299", "256"])
    np.testing.assert_array_equal(found, np.repeat([48, 3, 48, 5], 16).reshape(4, 4, 4))
    assert found.dtype == np.uint8


def sample(images: NDArray[np.uint8], boxes: list[NDArray[np.float64]], lungs: bool = False) -> explain.Sample:
    insides = np.array([scores.inside(one, SIZE) for one in boxes])
    masks = np.zeros(images.shape, bool)
    masks[:, :, : SIZE // 2] = lungs
    return explain.Sample(images, np.array([f"p{row}" for row in range(len(images))], dtype=object), insides, masks)


NOBODY = sample(blobs()[:0].reshape(0, SIZE, SIZE), [])._replace(boxes=np.zeros((0, SIZE, SIZE), bool))
NO_TRAIN_BOXES = np.zeros((SIZE, SIZE), np.float32)


def test_scores_are_those_of_the_maps() -> None:
    """One box is right, one is elsewhere, one image has none."""
    images = blobs((12, 40), (50, 10), (32, 32))
    boxes = [np.array([[32.0, 4.0, 16.0, 16.0]]), np.array([[40.0, 40.0, 16.0, 8.0]]), NO_BOXES]
    explained = explain.score(detector(), ["hires_cam"], sample(images, boxes), NOBODY, NO_TRAIN_BOXES, n_samples=1)
    row = explained["methods"]["hires_cam"]
    (maps,) = explain.maps(detector(), ["hires_cam"], images, n_samples=1).values()
    in_box = maps[0, 4:20, 32:48].sum() / maps[0].sum()
    assert (row["n"], row["n_boxed"], row["n_lungs"], row["pointing_game"]) == (3, 2, 0, 0.5)
    assert row["n_patients"] == 2, "those with boxes"
    assert row["energy_in_box"] == pytest.approx(in_box / 2)
    assert row["energy_in_box_low"] < row["energy_in_box"] < row["energy_in_box_high"]
    assert 0 < row["ms_per_image"] < 60_000
    assert explained["default"] == "hires_cam"
    assert {"centre", "edges", "hires_cam_of_another_image", "hires_cam_of_untrained_network"} <= set(
        explained["baselines"]
    )
    assert "energy_in_lungs" not in row
    assert "randomisation_corr" not in row


def test_a_method_is_compared_with_the_strongest_baseline_image_by_image() -> None:
    images = blobs((12, 40), (50, 10), (32, 12), (20, 20))
    boxes = [
        np.array([[36.0, 8.0, 8.0, 8.0]]),
        *[np.array([[x - 4.0, y - 4.0, 8.0, 8.0]]) for y, x in ((50, 10), (32, 12), (20, 20))],
    ]
    scored = sample(images, boxes, lungs=True)
    train_boxes = scored.boxes[0].astype(np.float32)
    explained = explain.score(detector(), ["hires_cam"], scored, NOBODY, train_boxes, n_samples=1)
    row = explained["methods"]["hires_cam"]
    others = {name: one["energy_in_box"] for name, one in explained["baselines"].items()}
    strongest = max(others, key=lambda name: others[name])
    assert row["energy_in_box_baseline"] == strongest
    assert row["energy_in_box_gain"] == pytest.approx(row["energy_in_box"] - others[strongest])
    assert explained["baselines"]["uniform_in_lungs"]["energy_in_lungs"] == 1
    assert row["energy_in_lungs_baseline"] != "uniform_in_lungs", "nothing can beat it there"
    assert explained["baselines"]["train_boxes"]["pointing_game"] == 0.25


def test_a_method_that_ignores_the_weights_fails_the_randomisation_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adebayo et al. (2018): an edge detector looks like a saliency map. The method that uses the weights passes."""
    monkeypatch.setitem(explain.METHODS, "edges", lambda model, images, **options: baselines.edges(images))
    images = blobs((12, 40), (50, 10), (32, 32), (20, 44), *((y, x) for y in (15, 30, 45) for x in (20, 50)))
    checked = sample(images, [NO_BOXES] * len(images))
    explained = explain.score(
        detector(), ["edges", "hires_cam"], checked, checked, NO_TRAIN_BOXES, n_samples=1, thorough=True
    )
    ignores, uses = explained["methods"].values()
    assert ignores["randomisation_corr"] == pytest.approx(1)
    assert ignores["verdict"] == "fails the randomisation check"
    assert uses["randomisation_corr"] < 0.9
    assert uses["independent_corr"] < 1
    assert uses["insertion_auc"] > uses["deletion_auc"], "its pixels are those that the detector needs"
    assert uses["n_checked"] == uses["n_checked_patients"] == 10


def test_without_boxes_there_are_no_scores_rather_than_empty_ones() -> None:
    images = sample(blobs((12, 40), (50, 10)), [NO_BOXES, NO_BOXES])
    explained = explain.score(detector(), ["hires_cam"], images, NOBODY, NO_TRAIN_BOXES, n_samples=1)
    row = explained["methods"]["hires_cam"]
    assert sorted(row) == ["ms_per_image", "n", "n_boxed", "n_lungs", "n_patients", "verdict"]
    assert row["verdict"] == "cannot be told (n = 0 with boxes)"
    assert "null" not in json.dumps(explained)
    assert explain.headline(explained) == {}, "a number of images is no figure"
    assert explain.summary(explained)[-1].startswith("neither boxes nor lungs are known")


def test_an_unknown_method_is_one_line_with_the_known_ones() -> None:
    model = detector()
    assert explain.known(["occlusion", "hires_cam", "occlusion"], model) == ["occlusion", "hires_cam"]
    with pytest.raises(UserError, match=r"^explain\.methods has gradcam; known: hires_cam, layer_cam, grad_cam, "):
        explain.known(["hires_cam", "gradcam"], model)
    with pytest.raises(
        UserError, match=r"^explain\.methods has detector_map, and this by_hand draws no boxes; leave it out"
    ):
        explain.known(["hires_cam", "detector_map"], model)


def test_images_are_listed_by_outcome_with_the_worst_first() -> None:
    table = pd.DataFrame(
        {"image_id": list("abcdefg"), "split": ["test"] * 6 + ["val"], "label": [1, 1, 1, 0, 0, 0, 1]}
    ).assign(score=[0.9, 0.1, 0.4, 0.7, 0.3, 0.6, 0.2])
    listed = explain.outcomes(table, 0.5)
    assert list(zip(listed["image_id"], listed["outcome"], strict=True)) == [
        ("b", "false_negative"),
        ("c", "false_negative"),
        ("d", "false_positive"),
        ("f", "false_positive"),
        ("a", "true_positive"),
        ("e", "true_negative"),
    ]
    assert list(explain.outcomes(table.assign(label=1), 0.5)["image_id"]) == ["b", "e", "c", "f", "d", "a"]


def test_validation_images_with_pneumonia_are_checked() -> None:
    checked = explain.choose_checked(predictions(), seed=1)
    assert len(set(checked)) == explain.N_CHECKED
    assert all(name.startswith("val-") for name in checked)
    assert labels_of([name.replace("val", "test") for name in checked]) == [1] * explain.N_CHECKED


def test_a_sample_knows_boxes_and_lungs_of_its_images() -> None:
    split = Split(
        images=np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 8, 8), np.uint8),
        labels=np.ones(3, np.int8),
        weights=np.ones(3, np.float32),
        repeats=np.ones(3, np.int16),
        image_ids=np.array(["a", "b", "c"]),
    )
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[2] = 255
    one = explain.sample(
        split, ["c", "a"], {"a": np.array([[0.0, 0.0, 2.0, 1.0]])}, masks, {"a": "p1", "b": "p2", "c": "p3"}
    )
    assert one.images[:, 0, 0].tolist() == [2, 0]
    assert one.patients.tolist() == ["p3", "p1"]
    assert one.boxes.sum(axis=(1, 2)).tolist() == [0, 2]
    assert one.lungs.sum(axis=(1, 2)).tolist() == [64, 0]
    assert not explain.sample(split, ["a"], {}, None, {"a": "p"}).lungs.any()


def test_mean_maps_lie_over_each_other_in_the_frame_of_the_lungs() -> None:
    """The same place of two lungs of another size and position; without masks the maps stay where they are."""
    lungs = np.zeros((2, 60, 60), bool)
    lungs[0, 10:30, 10:30], lungs[1, 16:56, 8:48] = True, True
    maps = np.zeros((2, 60, 60), np.float32)
    maps[0, 14:17, 24:27], maps[1, 24:30, 36:42] = 1, 1
    groups = np.array(["true_positive", "false_positive"], dtype=object)
    means, frame = explain.mean_maps(maps, lungs, groups)
    assert list(means) == ["false_positive", "true_positive", "all pneumonia", "all normal"]
    assert [n for _, n in means.values()] == [1, 1, 1, 1]
    centres = [np.argwhere(one > 0.5).mean(axis=0) for one, _ in means.values()]
    np.testing.assert_allclose(centres[0], centres[1], atol=1)
    # A lung begins at a twelfth of the frame; the place is 11 / 40 down and 31 / 40 across.
    np.testing.assert_allclose(centres[0], [5 + 50 * 11 / 40, 5 + 50 * 31 / 40], atol=1)
    assert "lungs" in frame
    assert explain.mean_maps(maps, np.zeros_like(lungs), groups)[1] == "frame: the whole film"
    assert {"all viral", "all bacterial"} <= set(explain.mean_maps(maps, lungs, groups, TARGETS["bacterial"])[0])


def test_mean_maps_leave_out_films_without_lungs_only_if_most_have_them_and_say_how_many() -> None:
    lungs = np.zeros((3, 60, 60), bool)
    lungs[1:, 16:56, 8:48] = True
    groups = np.array(["true_positive", "false_positive", "false_positive"], dtype=object)
    means, frame = explain.mean_maps(np.ones((3, 60, 60), np.float32), lungs, groups)
    assert {name: n for name, (_, n) in means.items()} == {"false_positive": 2, "all normal": 2}
    assert frame.startswith("frame: the box around the lungs")
    assert frame.endswith("; without 1 of 3 films, whose lungs are not known")
    lungs[1] = False
    means, frame = explain.mean_maps(np.ones((3, 60, 60), np.float32), lungs, groups)
    assert {name: n for name, (_, n) in means.items()} == {
        "false_positive": 2, "true_positive": 1, "all pneumonia": 1, "all normal": 2,
    }  # fmt: skip
    assert frame == "frame: the whole film"


def test_a_summary_says_when_all_methods_are_excluded_and_when_masks_are_missing() -> None:
    row = {"n": 4, "n_boxed": 4, "n_lungs": 3, "pointing_game": 0.25, "verdict": "no better than anatomy"}
    explained = {"default": "grad_cam", "methods": {"grad_cam": row}, "baselines": {}}
    assert explain.summary(explained) == [
        "Grad-CAM: no better than anatomy; highest point in a box 0.25",
        "lungs are known for 3 of 4 images",
        "all methods are excluded: no prediction shows a map",
    ]
    assert explain.headline(explained) == {"pointing_game": 0.25}


def test_the_gallery_holds_the_drawn_images_and_the_worst_of_each_outcome() -> None:
    table = predictions().assign(subtype="virus")
    shown = explain.choose_shown(table, 0.5, 12, seed=1)
    drawn = shown.loc[shown["drawn"], "image_id"]
    assert sorted(drawn) == sorted(explain.choose(table, 12, seed=1))
    assert shown["image_id"].is_unique
    listed = explain.outcomes(table, 0.5)
    worst = [name for _, part in listed.groupby("outcome") for name in part["image_id"][: explain.N_WORST]]
    assert set(shown["image_id"]) == {*drawn, *worst}
    assert shown["outcome"].unique().tolist() == list(explain.OUTCOMES)


def test_with_folds_validation_images_are_read_from_train(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["a", "b"], "label": 1, "weight": 1.0, "repeats": 1, "patient_id": ["p", "q"]})
    store = create_store(tmp_path / "s", {})
    images, _ = create_split(store, "train", table, size=8, with_lungs=False)
    images[:] = np.arange(2, dtype=np.uint8)[:, None, None] * np.ones((2, 8, 8), np.uint8)
    read = explain.sampler(store, table, {})
    assert read("val", ["b"]).images[:, 0, 0].tolist() == read("train", ["b"]).images[:, 0, 0].tolist() == [1]


def test_train_images_with_boxes_make_the_baseline() -> None:
    splits = pd.DataFrame({"image_id": list("abc"), "split": ["train", "train", "test"]})
    mean = explain.mean_of_train_boxes(splits, {"b": np.array([[1.0, 0, 1, 1]]), "c": np.array([[0.0, 0, 2, 2]])}, 2)
    assert mean.tolist() == [[0, 1], [0, 0]]
