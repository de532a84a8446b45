"""Scores of a model that answers a known formula, then tables of scores made up for the purpose."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import zarr
from numpy.typing import NDArray

from pneumonia import UserError, evaluate
from pneumonia.data import image_boxes, lung_boxes, phantom, shortcuts, tables
from pneumonia.data.predictions import read_predictions
from pneumonia.data.store import Pixels, Split, _read_chunk, create_split, create_store, open_store, read_split
from pneumonia.data.targets import TARGETS
from pneumonia.images import geometry, stress
from pneumonia.metrics import calibration, decisions, ranking
from pneumonia.metrics.report import bootstrap_interval
from pneumonia.models import detector, ensembles, runtime, scoring
from tests.test_pipeline import drawn_fields, template_fields

SIZE = 8
COLUMNS = ["image_id", "sha256", "patient_id", "split", "label", "score", "subtype"]


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


@pytest.fixture(autouse=True)
def few_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bootstrap, which takes most of the time of a report, but where a test is about its intervals."""
    about_intervals = (
        test_every_figure_of_the_full_report_has_n_and_an_interval,
        test_intervals_see_patients_not_images,
        test_prior_shift_finds_the_share_of_test_without_its_labels,
        test_resamples_in_which_nearly_all_is_pneumonia_count_for_the_interval_of_the_share,
    )
    if request.function not in about_intervals:
        monkeypatch.setattr("pneumonia.metrics.report.N_RESAMPLES", 100)
        monkeypatch.setitem(bootstrap_interval.__kwdefaults__, "n_resamples", 100)


def brightness_model() -> Any:
    """Answers sigmoid(mean pixel / 100 - 1)."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.GlobalAveragePooling2D()(pixels))
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="brightness")
    logit.set_weights([np.array([[0.01]]), np.array([-1.0])])
    return model


def make_splits(n: int = 30) -> pd.DataFrame:
    """A table whose order has nothing to do with that of the store, with image i of gray level 8 i."""
    number = np.arange(n)
    table = pd.DataFrame(
        {
            "image_id": [f"i{i:02d}" for i in number],
            "sha256": [f"{i:064x}" for i in number],
            "patient_id": [f"00{i // 2}" for i in number],
            "split": np.array(tables.SPLITS)[number % 3],
            "label": number // 3 % 2,
            "subtype": np.where(number // 3 % 2, "bacteria", "normal"),
            "weight": 1.0,
            "repeats": 1,
            "gray": 8 * number,
        }
    )
    return table.sample(frac=1, random_state=1, ignore_index=True)


def make_store(path: Path, splits: pd.DataFrame) -> zarr.Group:
    store = create_store(path, {"data": "made here"})
    for name in tables.splits_of(splits):
        part = splits[splits["split"] == name]
        images, _ = create_split(store, name, part, size=SIZE, with_lungs=False)
        images[:] = np.broadcast_to(part["gray"].to_numpy(np.uint8)[:, None, None], (len(part), SIZE, SIZE))
    return open_store(path)


def predictions(n: int = 200, *, seed: int = 0, signal: float = 2.0) -> pd.DataFrame:
    """Scores of a fair model on validation and test; two images of each patient."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.6).astype(int)
    return pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "split": np.where(np.arange(n) < n // 2, "val", "test"),
            "label": label,
            "score": (1 / (1 + np.exp(-rng.normal(size=n) - signal * (label - 0.5)))).round(7),
            "subtype": np.where(label, np.where(rng.random(n) < 0.5, "bacteria", "virus"), "normal"),
        }
    )


def judge(table: pd.DataFrame, **changes: float) -> tuple[dict[str, Any], dict[str, Any]]:
    return evaluate.judge(*evaluate.calibrated(table), **({"level": 0.95, "target_sensitivity": 0.9} | changes))


def part(table: pd.DataFrame, split: str) -> tuple[NDArray, NDArray]:
    rows = table[table["split"] == split]
    return rows["label"].to_numpy(), rows["score"].to_numpy()


# --- external tests ---


HOW = {"size": SIZE}


def make_external(path: Path, **tables_of: pd.DataFrame) -> zarr.Group:
    """A store of external tests; image i has the gray level in the column `gray`."""
    records = {name: {"data": "folder", "left_out": [{"reason": "blank", "n": 2}], "n_in_run": 3} for name in tables_of}
    store = create_store(path, {"sources": records, "preparation": HOW})
    for name, table in tables_of.items():
        images, _ = create_split(store, name, table, size=SIZE, with_lungs=True)
        images[:] = np.broadcast_to(table["gray"].to_numpy(np.uint8)[:, None, None], (len(table), SIZE, SIZE))
        lung_boxes.create(store, name, len(table), with_boxes=False)
        store[f"{name}/{lung_boxes.FROM}"][:] = lung_boxes.as_codes(["found"] * (len(table) - 4) + ["none"] * 4)
    return open_store(path)


def elsewhere(name: str, n: int = 30) -> pd.DataFrame:
    """Films of another place, four of five right, two of each patient."""
    number = np.arange(n)
    label = number % 2
    return pd.DataFrame(
        {
            "image_id": [f"{name}/i{i:02d}" for i in number],
            "patient_id": [f"e{i // 2}" for i in number],
            "label": label,
            "weight": 1.0,
            "repeats": 1,
            "gray": 100 + number + 80 * np.where(number % 5, label, 1 - label),
        }
    )


def test_external_tests_are_scored_with_the_threshold_and_the_calibration_of_validation(tmp_path: Path) -> None:
    films = {"near": elsewhere("near"), "far": elsewhere("far", n=20)}
    store = make_external(tmp_path / "external.zarr", **films)
    predictions_of_run = predictions()
    headline, full = judge(predictions_of_run)
    before = json.dumps([headline, full])
    table, gained = evaluate.external(brightness_model(), store, pd.concat(films.values()), full, store)
    assert json.dumps([headline, full]) == before, "nothing that was decided changes"
    assert list(table) == ["source", "image_id", "patient_id", "label", "score", "calibrated"]
    assert table["source"].tolist() == ["near"] * 30 + ["far"] * 20
    gray = table["image_id"].map(pd.concat(films.values()).set_index("image_id")["gray"])
    np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(1 - gray / 100)), atol=1e-6)
    platt = calibration.Platt(**full["calibration"])
    np.testing.assert_allclose(table["calibrated"], calibration.apply(platt, table["score"]), atol=1e-7)
    for name, part in table.groupby("source"):
        found = gained["external"][name]
        label, score = part["label"].to_numpy(), part["score"].to_numpy()
        called = score >= headline["threshold"]
        assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(label, score))
        assert found["auc_low"] <= found["auc"] <= found["auc_high"]
        assert found["sensitivity"] == pytest.approx(called[label == 1].mean())
        assert found["calibrated"]["specificity"] == pytest.approx((~called)[label == 0].mean())
        line = calibration.line(label, part["calibrated"], part["patient_id"], level=0.95)
        assert found["reliability"]["calibrated"]["slope_low"] == pytest.approx(line.slope_low)
        facts = {"n": len(part), "n_positive": len(part) // 2, "patients": len(part) // 2, "prevalence": 0.5}
        record = {"data": "folder", "left_out": [{"reason": "blank", "n": 2}], "n_in_run": 3, "no_lungs": 4}
        assert {name: found[name] for name in (*facts, *record)} == facts | record


def test_without_external_tests_the_report_gains_nothing(tmp_path: Path) -> None:
    store = make_external(tmp_path / "external.zarr")
    table, gained = evaluate.external(None, store, elsewhere("none")[:0], judge(predictions())[1], store)
    assert gained == {}
    assert list(table) == ["source", "image_id", "patient_id", "label", "score", "calibrated"]


def test_films_that_were_prepared_in_another_way_are_not_scored(tmp_path: Path) -> None:
    store = make_external(tmp_path / "external.zarr", near=elsewhere("near"))
    other = create_store(tmp_path / "images.zarr", {"preparation": HOW | {"crop": 0.1}})
    with pytest.raises(UserError, match=r"prepared in another way .* dvc repro external makes it again"):
        evaluate.external(None, store, elsewhere("near"), judge(predictions())[1], other)


def test_figures_of_an_external_test_are_metrics_of_their_own() -> None:
    _, full = judge(predictions())
    audited = {"robustness": {"clean": 0.9, "mean": 0.8}, "stress": {"auc": {}, "verdict": "v"}}
    outside = {
        "external": {"near": full["youden"]["test"] | {"data": "folder", "patients": 3, "calibrated": {"auc": 1}}}
    }
    without, logged = evaluate.metrics(full | audited), evaluate.metrics(full | audited | outside)
    assert {name: logged[name] for name in without} == without
    assert logged["external_near"]["auc_low"] == full["youden"]["test"]["auc_low"]
    assert not {"n", "patients", "calibrated", "data"} & set(logged["external_near"])
    assert evaluate.summary(full | audited | outside)[-1].startswith("external test near: AUC 0.")


# --- predict --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    splits = make_splits()
    store = make_store(tmp_path_factory.mktemp("store") / "images.zarr", splits)
    return splits, evaluate.predict(brightness_model(), store, splits)


def test_each_image_has_its_own_score(predicted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    splits, table = predicted
    gray = table["image_id"].map(splits.set_index("image_id")["gray"])
    np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(1 - gray / 100)), atol=1e-6)
    assert table["score"].nunique() == len(table)


def test_predictions_have_the_columns_of_the_contract(predicted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    splits, table = predicted
    assert list(table) == COLUMNS
    facts = ["image_id", "sha256", "patient_id", "split", "label", "subtype"]
    expected = splits[splits["split"] != "train"].sort_values(["split", "image_id"], ascending=[False, True])
    pd.testing.assert_frame_equal(table[facts], expected[facts].reset_index(drop=True), check_dtype=False)


def test_train_images_are_not_scored(predicted: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    _, table = predicted
    assert table["split"].tolist() == ["val"] * 10 + ["test"] * 10


def test_scores_survive_the_table_on_disk(predicted: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    _, table = predicted
    tables.write_table(table, tmp_path / "predictions.csv")
    read = tables.read_table(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read, table, check_exact=True, check_dtype=False)


def streaming_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, zarr.Group]:
    """Noisy images, 70 to a split, in chunks of 32 and blocks of 64, so that there are borders to stumble on."""
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 32)
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_BLOCK", 64)
    splits = make_splits(210).assign(gray=0)
    make_store(path, splits)
    store = zarr.open_group(path, mode="r+")
    for seed, name in enumerate(tables.SPLITS):
        labels = np.asarray(store[name]["labels"][:])
        gray = np.random.default_rng(seed).integers(0, 200, (70, SIZE, SIZE)) // (1 + labels[:, None, None])
        store[name]["images"][:] = gray.astype(np.uint8)
    return splits, open_store(path)


def test_streamed_images_have_the_same_predictions_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    whole = evaluate.predict(brightness_model(), store, splits)
    assert whole["score"].nunique() > 100
    seen = note_splits(monkeypatch)
    table = evaluate.predict(brightness_model(), store, splits, memory=1e-9)
    assert seen == [Pixels] * 2
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


def note_splits(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The kinds of images that `read_split` gives from now on."""
    seen, read = list[type](), read_split

    def noted(*given: Any, **named: Any) -> Split:
        split = read(*given, **named)
        seen.append(type(split.images))
        return split

    for place in ("pneumonia.evaluate.read_split", "pneumonia.data.store.read_split"):
        monkeypatch.setattr(place, noted)
    return seen


class InFolds(NamedTuple):
    """Two networks and their mean, a store with two folds, its table, and the predictions."""

    networks: list[Any]
    store: zarr.Group
    splits: pd.DataFrame
    predictions: pd.DataFrame


@pytest.fixture(scope="module")
def in_folds(tmp_path_factory: pytest.TempPathFactory) -> InFolds:
    fold = pd.Series(np.arange(30) % 4 // 2, dtype="Int64")
    splits = make_splits().sort_values("image_id", ignore_index=True)
    splits = splits.assign(split=splits["split"].replace("val", "train"))
    splits = splits.assign(fold=fold.where(splits["split"] == "train"), weight_0=1.0, weight_1=1.0)
    for k in (0, 1):
        splits[f"repeats_{k}"] = (~tables.in_fold(splits, k)).astype(int)
    store = make_store(tmp_path_factory.mktemp("folds") / "images.zarr", splits)
    one, other = brightness_model(), brightness_model()
    other.get_layer("logit").set_weights([np.array([[-0.02]]), np.array([3.0])])
    both = ensembles.ensemble([one, other])
    return InFolds([one, other, both], store, splits, evaluate.predict(both, store, splits))


def test_with_folds_each_image_has_the_score_of_the_network_that_never_saw_it(
    in_folds: InFolds, tmp_path: Path
) -> None:
    table = in_folds.predictions
    assert list(table) == [*COLUMNS[:6], "fold", "subtype"]
    assert table["split"].tolist() == ["val"] * 20 + ["test"] * 10
    grays = in_folds.splits.set_index("image_id")["gray"]
    for rows, network in zip(
        (table["fold"] == 0, table["fold"] == 1, table["fold"].isna()), in_folds.networks, strict=True
    ):
        part = table[rows.fillna(value=False)]
        pixels = np.broadcast_to(grays[part["image_id"]].to_numpy(np.uint8)[:, None, None], (len(part), SIZE, SIZE))
        np.testing.assert_allclose(part["score"], scoring.predict_scores(network, pixels), atol=1e-6)
        assert len(part) >= 9
    tables.write_table(evaluate.calibrated(table)[0], tmp_path / "predictions.csv")
    read = read_predictions(tmp_path / "predictions.csv")
    assert list(read) == [*COLUMNS[:6], "calibrated", "fold", "subtype"]
    assert read["fold"].to_list() == table["fold"].to_list()


def test_robustness_with_folds_is_one_auc_of_all_out_of_fold_scores(
    in_folds: InFolds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stress, "STRESSES", {"blur": stress.STRESSES["blur"]})
    found = evaluate.robustness(evaluate.validated(in_folds.networks[-1], in_folds.store))
    val = in_folds.predictions[in_folds.predictions["split"] == "val"]
    assert found["clean"] == pytest.approx(sklearn.metrics.roc_auc_score(val["label"], val["score"]))


# --- calibrated -----------------------------------------------------------------------------------------------------


def test_calibrated_probabilities_come_from_the_printed_slope_and_bias_and_have_seven_digits(tmp_path: Path) -> None:
    table = predictions()
    after, platt = evaluate.calibrated(table)
    assert list(after) == [*list(table)[:6], "calibrated", "subtype"]
    pd.testing.assert_frame_equal(after.drop(columns="calibrated"), table)
    expected = calibration.apply(platt, table["score"]).round(7)
    np.testing.assert_array_equal(after["calibrated"], expected)
    assert platt == tuple(float(f"{value:.8g}") for value in platt)
    tables.write_table(after, tmp_path / "predictions.csv")
    read = tables.read_table(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read, after, check_exact=True, check_dtype=False)


def test_calibration_is_fitted_on_validation_only() -> None:
    table = predictions()
    on_test = table["split"] == "test"
    _, platt = evaluate.calibrated(table)
    assert evaluate.calibrated(table.assign(label=table["label"].where(~on_test, 1 - table["label"])))[1] == platt
    assert evaluate.calibrated(table.assign(score=table["score"].where(~on_test, 0.5)))[1] == platt
    assert evaluate.calibrated(table.assign(score=table["score"].where(on_test, table["score"] / 2)))[1] != platt


# --- judge ----------------------------------------------------------------------------------------------------------


def test_robustness_is_the_auc_of_validation_as_it_is_and_under_each_stress(tmp_path: Path) -> None:
    store, model = make_store(tmp_path / "images.zarr", make_splits()), brightness_model()
    found = evaluate.robustness(evaluate.validated(model, store))
    assert list(found) == ["clean", *stress.STRESSES, "mean"]
    val = read_split(store, "val")
    for name in stress.STRESSES:
        scores = scoring.predict_scores(model, stress.stressed(val.images, name))
        assert found[name] == pytest.approx(sklearn.metrics.roc_auc_score(val.labels, scores))
    assert found["clean"] == pytest.approx(
        sklearn.metrics.roc_auc_score(val.labels, scoring.predict_scores(model, val.images))
    )
    aucs = [value for name, value in found.items() if name != "mean"]
    assert found["mean"] == pytest.approx(np.mean(aucs))


def test_robustness_is_the_same_streamed_in_blocks_and_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    model, val = brightness_model(), read_split(store, "val").images
    stressed = {name: stress.stressed(val, name) for name in stress.STRESSES}
    expected = [scoring.predict_scores(model, images) for images in (val, *stressed.values())]
    assert (expected[0] != expected[-1]).mean() > 0.9
    scores = list[NDArray]()
    monkeypatch.setattr(ranking, "roc_auc", lambda y_true, y_score: scores.append(y_score) or 0.5)
    for memory, kind in ((None, np.ndarray), (1e-9, Pixels)):
        scores.clear()
        split = read_split(store, "val", memory=memory)
        assert type(split.images) is kind
        evaluate.robustness([(model, split)])
        np.testing.assert_array_equal(scores, expected)


def test_robustness_reads_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    reads, read = list[int](), _read_chunk

    def counted(array: zarr.Array[Any], number: int) -> NDArray:
        reads.append(number)
        return read(array, number)

    monkeypatch.setattr("pneumonia.data.store._read_chunk", counted)
    evaluate.robustness(evaluate.validated(brightness_model(), store, memory=1e-9))
    assert reads == [0, 1, 2]


def test_the_headline_has_the_keys_of_the_contract() -> None:
    headline, full = judge(predictions())
    assert {name: list(part) for name, part in headline.items() if name != "threshold"} == {
        "val": ["auc"],
        "test": ["n", "auc", "auc_low", "auc_high", "accuracy", "sensitivity", "specificity"],
    }
    for name, part in ("val", headline["val"]), ("test", headline["test"]):
        assert part.items() <= full["youden"][name].items()


def test_mlflow_gets_the_figures_of_both_splits_and_of_changed_images() -> None:
    _, full = judge(predictions())
    full |= {"robustness": {"clean": 0.9, "mean": 0.8}, "stress": {"auc": {"blur": {"auc": 0.7, "auc_low": 0.6}}}}
    figures = evaluate.metrics(full)
    assert figures["val"] == full["youden"]["val"] | {"robust_auc": 0.8}
    assert figures["test"] == full["youden"]["test"]
    assert figures["calibrated"] == full["youden"]["calibrated"]["test"]
    assert (figures["threshold"], figures["stress"]) == (full["youden"]["threshold"], {"blur": 0.7})


def test_figures_at_the_threshold_are_those_of_scikit_learn() -> None:
    table = predictions()
    _, full = judge(table)
    headline = full["youden"]
    for split in ("val", "test"):
        y_true, y_score = part(table, split)
        y_pred = (y_score >= headline["threshold"]).astype(int)
        figures = headline[split]
        assert (figures["n"], figures["n_positive"]) == (100, y_true.sum())
        assert figures["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y_true, y_score))
        assert figures["auc_low"] < figures["auc"] < figures["auc_high"]
        assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y_true, y_pred))
        assert figures["sensitivity"] == pytest.approx(sklearn.metrics.recall_score(y_true, y_pred))
        assert figures["specificity"] == pytest.approx(sklearn.metrics.recall_score(y_true, y_pred, pos_label=0))
        assert figures["precision"] == pytest.approx(sklearn.metrics.precision_score(y_true, y_pred))
        assert figures["f1"] == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred))
        assert figures["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(y_true, y_score))
        assert figures["ece"] == pytest.approx(calibration.expected_calibration_error(y_true, y_score))


def test_thresholds_come_from_validation_only() -> None:
    table = predictions()
    headline, full = judge(table)
    y_true, y_score = part(table, "val")
    # Eight significant digits, as the reports print them and as all figures apply them.
    assert headline["threshold"] == full["youden"]["threshold"]
    assert full["youden"]["threshold"] == float(f"{decisions.youden_threshold(y_true, y_score):.8g}")
    expected = decisions.threshold_at_sensitivity(y_true, y_score, 0.9)
    assert full["target_sensitivity"]["threshold"] == float(f"{expected:.8g}")

    on_test = table["split"] == "test"
    other_test = table.assign(score=table["score"].where(~on_test, 1 - table["score"]))
    other_headline, other_full = judge(other_test)
    assert other_headline["threshold"] == headline["threshold"]
    assert other_full["target_sensitivity"]["threshold"] == full["target_sensitivity"]["threshold"]
    assert other_headline["val"] == headline["val"]
    assert other_headline["test"]["auc"] == pytest.approx(1 - headline["test"]["auc"])

    other_val = judge(table.assign(score=table["score"].where(on_test, table["score"] / 2)))
    assert other_val[0]["threshold"] != headline["threshold"]
    assert other_val[1]["target_sensitivity"]["threshold"] != full["target_sensitivity"]["threshold"]


def test_the_second_operating_point_reaches_its_sensitivity_on_validation() -> None:
    for target in (0.8, 0.95, 0.99):
        _, full = judge(predictions(), target_sensitivity=target)
        assert full["target_sensitivity"]["val"]["sensitivity"] >= target


def test_a_model_that_is_nearly_certain_of_all_images_still_has_a_threshold_between_them() -> None:
    """Seven digits of a score, all nines: rounded to six a threshold would lie above every image."""
    pair = [(0, 0.9999996), (1, 0.9999999)] * 20
    table = pd.DataFrame(pair * 2, columns=["label", "score"])
    table["split"] = ["val"] * 40 + ["test"] * 40
    table["image_id"] = table["sha256"] = table["patient_id"] = [f"i{row}" for row in range(80)]
    table["subtype"] = np.where(table["label"], "bacteria", "normal")
    _, full = judge(table)
    for point in ("youden", "target_sensitivity"):
        for figures in (full[point], full[point]["calibrated"]):
            assert figures["val"]["sensitivity"] == figures["val"]["specificity"] == 1
    assert json.loads(json.dumps(tables.rounded(full)))["youden"]["threshold"] == full["youden"]["threshold"]


def test_every_figure_of_the_full_report_has_n_and_an_interval() -> None:
    _, full = judge(predictions())
    assert full["level"] == 0.95
    points = [full[name] for name in POINTS]
    points += [full["prior_shift"], *(point["calibrated"] for point in points)]
    for point in points:
        for split in {"val", "test"} & set(point):
            figures = point[split]
            names = {name.removesuffix("_low").removesuffix("_high") for name in figures} - {"n", "n_positive"}
            assert names >= {"auc", "accuracy", "sensitivity", "specificity", "precision", "f1", "brier", "ece"}
            for name in names:
                assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]


def test_a_lower_level_gives_narrower_intervals() -> None:
    wide, narrow = (judge(predictions(), level=level)[0]["test"] for level in (0.95, 0.5))
    assert narrow["auc"] == wide["auc"]
    assert narrow["auc_high"] - narrow["auc_low"] < wide["auc_high"] - wide["auc_low"]


def test_intervals_see_patients_not_images() -> None:
    """One patient with many alike images is one piece of evidence."""
    table = predictions(60)
    copies = pd.concat([table] * 6, ignore_index=True)
    apart = copies.assign(patient_id=[f"p{i}" for i in range(len(copies))])

    seen, hidden = (judge(one)[1] for one in (copies, apart))

    def width(figures: dict[str, float], name: str) -> float:
        return float(figures[f"{name}_high"] - figures[f"{name}_low"])

    for name in ("brier", "auc", "accuracy", "sensitivity", "specificity"):
        assert width(seen["youden"]["test"], name) > 1.5 * width(hidden["youden"]["test"], name), name
    assert width(seen["prior_shift"], "estimated_prevalence") > 1.5 * width(
        hidden["prior_shift"], "estimated_prevalence"
    )


def test_a_test_split_of_one_class_leaves_figures_out_instead_of_null() -> None:
    table = predictions()
    table = table[(table["split"] == "val") | (table["label"] == 1)]
    headline, full = judge(table)
    assert not {"auc", "auc_low", "auc_high", "specificity"} & set(headline["test"])
    assert headline["test"]["sensitivity"] > 0
    assert "auc" in headline["val"]
    assert "null" not in json.dumps([headline, full])
    assert "NaN" not in json.dumps([headline, full])


POINTS = ("youden", "target_sensitivity", "one_half")


def crooked(*, test_share: float = 0.3, n: int = 2000) -> pd.DataFrame:
    """Too sure, as if both classes were equally common, and less pneumonia in test than in validation."""
    rng = np.random.default_rng(1)
    table = predictions(n)
    share = np.where(table["split"] == "val", 0.7, test_share)
    label = (rng.random(n) < share).astype(int)
    logit = 2 * (rng.normal(size=n) + 2 * (label - 0.5))
    score = (1 / (1 + np.exp(-2 * logit))).round(7)
    return table.assign(label=label, score=score, subtype=np.where(label, "virus", "normal"))


def test_calibration_changes_probabilities_and_decisions_at_one_half_and_nothing_else() -> None:
    table = crooked(test_share=0.7)
    _, full = judge(table)
    for point in POINTS:
        before, after = full[point]["test"], full[point]["calibrated"]["test"]
        assert after["auc"] == before["auc"]
        assert after["ece"] < before["ece"] / 2
        assert after["brier"] < before["brier"]
        same = [after[name] == before[name] for name in ("accuracy", "sensitivity", "specificity", "mcc")]
        assert all(same) if point != "one_half" else not any(same)
    assert full["one_half"]["threshold"] == full["one_half"]["calibrated"]["threshold"] == 0.5
    assert full["one_half"]["calibrated"]["test"]["accuracy"] > full["one_half"]["test"]["accuracy"]


def test_calibrated_thresholds_are_the_chosen_ones_on_the_other_scale() -> None:
    table, platt = evaluate.calibrated(crooked())
    _, full = judge(table.drop(columns="calibrated"))
    assert full["calibration"] == platt._asdict()
    for point in ("youden", "target_sensitivity"):
        mapped = calibration.apply(platt, [full[point]["threshold"]])[0]
        assert full[point]["calibrated"]["threshold"] == pytest.approx(mapped, rel=1e-5)


def test_prior_shift_finds_the_share_of_test_without_its_labels() -> None:
    table = crooked(test_share=0.3)
    _, full = judge(table)
    shift = full["prior_shift"]
    assert shift["val_prevalence"] == part(table, "val")[0].mean()
    assert shift["test_prevalence"] == part(table, "test")[0].mean()
    assert shift["estimated_prevalence"] == pytest.approx(shift["test_prevalence"], abs=0.04)
    assert shift["estimated_prevalence_low"] < shift["estimated_prevalence"] < shift["estimated_prevalence_high"]
    assert shift["threshold"] > 0.6, "rarer than in validation, so a calibrated score must be higher"
    assert shift["test"]["accuracy"] > full["one_half"]["calibrated"]["test"]["accuracy"]
    assert shift["test"]["ece"] < full["one_half"]["calibrated"]["test"]["ece"] / 2

    on_test = table["split"] == "test"
    other = judge(table.assign(label=table["label"].where(~on_test, 1 - table["label"])))[1]["prior_shift"]
    for name in ("threshold", "estimated_prevalence", "estimated_prevalence_low", "estimated_prevalence_high"):
        assert other[name] == shift[name]
    assert other["test"]["accuracy"] == pytest.approx(1 - shift["test"]["accuracy"])


def test_the_threshold_of_prior_shift_decides_as_its_figures_say() -> None:
    table, _ = evaluate.calibrated(crooked())
    shift = judge(table.drop(columns="calibrated"))[1]["prior_shift"]
    test = table[table["split"] == "test"]
    called = test["calibrated"] >= shift["threshold"]
    assert shift["test"]["accuracy"] == (called == (test["label"] == 1)).mean()
    assert shift["test"]["sensitivity"] == called[test["label"] == 1].mean()


def test_the_share_is_estimated_from_calibrated_scores() -> None:
    table, _ = evaluate.calibrated(crooked())
    shift = judge(table.drop(columns="calibrated"))[1]["prior_shift"]
    test, share = table[table["split"] == "test"], shift["val_prevalence"]
    assert shift["estimated_prevalence"] == calibration.prior_by_em(test["calibrated"], share)
    assert shift["estimated_prevalence"] != pytest.approx(calibration.prior_by_em(test["score"], share), abs=0.01)


def test_resamples_in_which_nearly_all_is_pneumonia_count_for_the_interval_of_the_share() -> None:
    _, full = judge(crooked(test_share=0.97, n=200))
    shift = full["prior_shift"]
    assert shift["estimated_prevalence"] < 1
    assert shift["estimated_prevalence_high"] == 1


def test_prior_shift_is_left_out_where_scores_do_not_say_the_share() -> None:
    table = predictions()
    alike = table.assign(score=table["score"].where(table["split"] == "val", 0.5))
    headline, full = judge(alike)
    assert "prior_shift" not in full
    assert headline["test"]["auc"] == 0.5
    assert "prior_shift" not in set(evaluate.operating_points(full)["point"])


def test_the_summary_of_the_stage_has_the_figures_of_the_report() -> None:
    _, full = judge(crooked())
    full |= {"robustness": {"clean": 0.9, "blur": 0.7, "noise": 0.8, "mean": 0.8}, "stress": {"verdict": "all is well"}}
    first, robust, calibration, shift, verdict = evaluate.summary(full)
    test = full["youden"]["test"]
    assert first.startswith(
        f"test AUC {test['auc']:.4f} [{test['auc_low']:.4f}, {test['auc_high']:.4f}], n = {test['n']}"
    )
    assert robust.startswith("validation AUC 0.9000;")
    assert robust.endswith("0.8000 on average, lowest 0.7000 (blur)")
    assert f"from {test['ece']:.3f} to {full['youden']['calibrated']['test']['ece']:.3f}" in calibration
    assert f"{full['prior_shift']['estimated_prevalence']:.1%} of test as estimated" in shift
    assert verdict == "all is well"
    del full["prior_shift"]
    assert "prior_shift is left out" in evaluate.summary(full)[3]


def test_operating_points_are_one_row_before_and_one_after_calibration() -> None:
    _, full = judge(crooked())
    table = evaluate.operating_points(full)
    assert list(table) == ["point", "scores", "threshold", "auc", "accuracy", "sensitivity", "specificity"]
    assert list(zip(table["point"], table["scores"], strict=True)) == [
        *((point, scores) for point in POINTS for scores in ("raw", "calibrated")),
        ("prior_shift", "calibrated"),
    ]
    test, row = full["one_half"]["calibrated"]["test"], table.iloc[5]
    assert row["threshold"] == "0.5"
    assert row["auc"] == f"{test['auc']:.4f}"
    for name in ("accuracy", "sensitivity", "specificity"):
        assert row[name] == f"{test[name]:.3f} [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}]"


def test_operating_points_leave_undefined_figures_empty() -> None:
    table = predictions()
    _, full = judge(table[(table["split"] == "val") | (table["label"] == 1)])
    points = evaluate.operating_points(full)
    assert set(points["auc"]) == set(points["specificity"]) == {""}
    assert (points["sensitivity"] != "").all()


# --- subgroups ------------------------------------------------------------------------------------------------------


GROUPED = [
    *[("val", 0, score, "normal", "F", 3, "") for score in (0.1, 0.2)],
    *[("val", 1, score, "virus", "M", 3, "") for score in (0.8, 0.9)],
    *[("test", 0, score, "normal", "F", 1, "") for score in (0.1, 0.4, 0.6, 0.2)],
    *[("test", 1, score, "bacteria", "F", 2, "") for score in (0.9, 0.7)],
    *[("test", 1, score, "virus", "M", 70, "") for score in (0.9, 0.4)],
    ("test", 1, 0.3, "virus", "", float("nan"), ""),
]


def grouped() -> dict[str, Any]:
    table = pd.DataFrame(GROUPED, columns=["split", "label", "score", "subtype", "sex", "age", "view"])
    table["patient_id"] = table.index.astype(str)
    headline, full = judge(table)
    assert headline["threshold"] == 0.5
    return full["subgroups"]


def test_subtypes_that_are_the_classes_are_no_subgroups_and_names_are_those_of_the_target() -> None:
    bacterial = TARGETS["bacterial"]
    table, platt = evaluate.calibrated(predictions())
    _, full = evaluate.judge(table, platt, level=0.95, target_sensitivity=0.9, target=bacterial)
    assert "subtype" not in full["subgroups"]
    curves = evaluate.curves(table, 0.5, level=0.95, target=bacterial)
    assert set(curves["confusion"].to_numpy().ravel()) == {"viral", "bacterial"}


def test_a_subtype_has_the_share_that_is_classified_rightly() -> None:
    found = grouped()["subtype"]
    assert {name: (row["n"], row["n_positive"]) for name, row in found.items()} == {
        "normal": (4, 0),
        "bacteria": (2, 2),
        "virus": (3, 3),
    }
    assert found["normal"]["specificity"] == 3 / 4
    assert (found["bacteria"]["sensitivity"], found["virus"]["sensitivity"]) == (1.0, 1 / 3)
    assert (found["virus"]["sensitivity_low"], found["virus"]["sensitivity_high"]) == decisions.wilson_interval(
        1, 3, 0.95
    )
    for row in found.values():
        assert ("sensitivity" in row) != ("specificity" in row)
    # Each kind of pneumonia against all four normals, pair by pair.
    assert found["bacteria"]["auc"] == 8 / 8
    assert found["virus"]["auc"] == (4 + 2.5 + 2) / 12
    assert found["virus"]["auc_low"] < found["virus"]["auc"] < found["virus"]["auc_high"]
    assert "auc" not in found["normal"]


def test_groups_are_those_the_source_tells_of() -> None:
    found = grouped()
    assert list(found) == ["subtype", "sex", "age"], "one view, of which nothing is known, divides nothing"
    assert {name: row["n"] for name, row in found["sex"].items()} == {"F": 6, "M": 2}
    assert found["sex"]["F"]["auc"] == 1
    assert {name: row["n"] for name, row in found["age"].items()} == {
        "0-1 years": 4,
        "2-5 years": 2,
        "65 years and older": 2,
    }


def test_what_tells_groups_apart_reaches_the_predictions(tmp_path: Path) -> None:
    splits = make_splits().assign(sex="F", age=7)
    table = evaluate.predict(brightness_model(), make_store(tmp_path / "images.zarr", splits), splits)
    assert list(table) == [*COLUMNS, "sex", "age"]


# --- curves ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any], dict[str, pd.DataFrame]]:
    table = predictions()
    headline, full = judge(table)
    table, _ = evaluate.calibrated(table)
    return table, full["youden"], full, evaluate.curves(table, headline["threshold"], level=0.95)


Judged = tuple[pd.DataFrame, dict[str, Any], dict[str, Any], dict[str, pd.DataFrame]]


def test_the_area_under_the_roc_curve_is_the_auc_and_the_operating_point_lies_on_it(judged: Judged) -> None:
    _, headline, _, curves = judged
    roc, test = curves["roc"], headline["test"]
    assert list(roc) == ["fpr", "tpr"]
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(test["auc"])
    distance = np.hypot(roc["fpr"] - (1 - test["specificity"]), roc["tpr"] - test["sensitivity"])
    assert distance.min() == pytest.approx(0, abs=1e-12)


def test_the_steps_of_the_precision_recall_curve_sum_to_the_average_precision(judged: Judged) -> None:
    table, _, full, curves = judged
    curve = curves["precision_recall"]
    assert list(curve) == ["recall", "precision"]
    area = (np.diff(curve["recall"], prepend=0) * curve["precision"]).sum()
    assert area == pytest.approx(full["youden"]["test"]["average_precision"])
    assert area == pytest.approx(sklearn.metrics.average_precision_score(*part(table, "test")))


@pytest.mark.parametrize(("name", "column"), [("calibration", "score"), ("calibration_after", "calibrated")])
def test_the_few_bins_of_a_calibration_hold_every_test_image_with_an_interval(
    judged: Judged, name: str, column: str
) -> None:
    table, headline, _, curves = judged
    bins, test = curves[name], table[table["split"] == "test"]
    assert list(bins) == ["mean_score", "fraction_positive", "low", "high", "n"]
    assert 1 < len(bins) <= 5
    assert bins["n"].sum() == headline["test"]["n"]
    assert (bins["n"] * bins["fraction_positive"]).sum() == pytest.approx(headline["test"]["n_positive"])
    assert (bins["n"] * bins["mean_score"]).sum() == pytest.approx(test[column].sum())
    assert (bins["low"] <= bins["fraction_positive"]).all()
    assert (bins["fraction_positive"] <= bins["high"]).all()


def test_plots_draw_columns_that_the_tables_have(judged: Judged) -> None:
    curves = judged[3]
    for name, curve in curves.items():
        drawn = drawn_fields(f"reports/plots/{name}.csv")
        assert drawn
        assert drawn <= set(curve)
    assert template_fields("decision_curve") <= set(curves["decision_curve"])


def test_the_decision_curve_is_the_net_benefit_before_and_after(judged: Judged) -> None:
    table, headline, _, curves = judged
    curve, test = curves["decision_curve"], table[table["split"] == "test"]
    assert list(curve) == ["threshold", "score", "calibrated", "treat_all", "treat_none"]
    for name in ("score", "calibrated"):
        np.testing.assert_array_equal(curve[name], decisions.net_benefit(test["label"], test[name]).model)
    assert (curve["score"] != curve["calibrated"]).any()
    share = headline["test"]["n_positive"] / headline["test"]["n"]
    at_half = curve[curve["threshold"] == 0.5].iloc[0]
    assert at_half["treat_all"] == pytest.approx(2 * share - 1)


def test_confusion_has_one_row_per_test_image_and_agrees_with_the_headline(judged: Judged) -> None:
    _, headline, _, curves = judged
    confusion, test = curves["confusion"], headline["test"]
    assert list(confusion) == ["actual", "predicted"]
    assert len(confusion) == test["n"]
    counts = pd.crosstab(confusion["actual"], confusion["predicted"])
    assert counts.loc["pneumonia"].sum() == test["n_positive"]
    assert counts.loc["pneumonia", "pneumonia"] / test["n_positive"] == pytest.approx(test["sensitivity"])
    assert counts.loc["normal", "normal"] / counts.loc["normal"].sum() == pytest.approx(test["specificity"])


def test_curves_look_at_test_only(judged: Judged) -> None:
    table, headline, _, curves = judged
    other = table.assign(score=table["score"].where(table["split"] == "test", 0.5))
    for name, curve in evaluate.curves(other, headline["threshold"], level=0.95).items():
        pd.testing.assert_frame_equal(curve, curves[name])


def test_a_score_at_the_threshold_counts_as_pneumonia() -> None:
    columns = {"split": "test", "label": [0, 1], "score": [0.4, 0.5], "calibrated": 0.5, "patient_id": ["a", "b"]}
    confusion = evaluate.curves(pd.DataFrame(columns), 0.5, level=0.95)["confusion"]
    assert confusion.to_numpy().tolist() == [["normal"] * 2, ["pneumonia"] * 2]


# --- the stress audit -----------------------------------------------------------------------------------------------


def audit(store: zarr.Group, **options: Any) -> dict[str, Any]:
    """Each image is a patient."""
    ids = read_split(store, "test").image_ids
    splits = pd.DataFrame({"image_id": ids, "patient_id": ids, "width": 20, "height": 20})
    return evaluate.audit(brightness_model(), store, splits, level=0.95, **options)


def audit_store(path: Path, *, bright: str, masks: bool) -> zarr.Group:
    """Images of 20 x 20 pixels whose pneumonias are brighter within or without the lungs, a square in the middle."""
    rng = np.random.default_rng(1)
    n = 60
    lungs = np.zeros((20, 20), bool)
    lungs[5:15, 5:15] = True
    label = np.arange(n) % 2
    where = lungs if bright == "lungs" else ~lungs
    images = 100 + rng.normal(0, 3, (n, 20, 20)) + 40 * label[:, None, None] * where
    table = pd.DataFrame({"image_id": [f"i{row}" for row in range(n)], "label": label, "weight": 1.0, "repeats": 1})
    store = create_store(path, {"data": "made here", "preparation": {"size": 20}})
    for split in ("train", "test"):
        pixels, shapes = create_split(store, split, table, size=20, with_lungs=masks)
        pixels[:] = images.astype(np.uint8)
        if shapes is not None:
            shapes[:] = np.broadcast_to(lungs * np.uint8(255), (n, 20, 20))
    return store


@pytest.mark.parametrize("masks", [True, False])
def test_a_model_that_goes_by_the_lungs_loses_all_without_them(masks: bool, tmp_path: Path) -> None:
    found = audit(audit_store(tmp_path / "store", bright="lungs", masks=masks))
    hidden = "lungs" if masks else "middle"
    assert (found["hidden"], found["n"]) == (hidden, 60)
    swaps = ["swapped_lungs", "swapped_surroundings"]
    assert list(found["auc"])[-5:] == [f"{hidden}_only", f"{hidden}_hidden", "same_box_hidden", *swaps]
    assert list(found["auc"])[:-5] == ["clean", *stress.STRESSES, *stress.REPORTED]
    assert found["auc"]["clean"]["auc"] == found["auc"][f"{hidden}_only"]["auc"] == 1
    assert found["auc"][f"{hidden}_hidden"]["auc"] < 0.8
    assert found["auc"]["same_box_hidden"]["auc"] < 0.8
    assert found["auc"]["swapped_lungs"]["auc"] == 1
    assert 0.3 < found["auc"]["swapped_surroundings"]["auc"] < 0.7
    assert found["shortcut_prone"] is False
    assert found.get("n_lungs") == (60 if masks else None)
    assert "follow this region more than the surroundings" in found["verdict"]
    for one in found["auc"].values():
        assert one["auc_low"] <= one["auc"] <= one["auc_high"]


def test_a_model_that_goes_by_the_border_is_called_shortcut_prone(tmp_path: Path) -> None:
    store = audit_store(tmp_path / "store", bright="border", masks=True)
    found = audit(store)
    assert found["auc"]["lungs_hidden"]["auc"] == found["auc"]["same_box_hidden"]["auc"] == 1
    assert found["auc"]["swapped_surroundings"]["auc"] == 1, "a marker outside of the lungs is caught by the swap"
    assert 0.3 < found["auc"]["swapped_lungs"]["auc"] < 0.7
    assert found["shortcut_prone"]
    assert "shortcut-prone" in found["verdict"]


def letters_model(size: int) -> Any:
    """Answers by what is nearly white in the upper left corner."""
    import keras
    from keras import layers

    pixels = layers.Input((size, size, 1), name="pixels")
    corner = layers.Cropping2D(((size // 40, size - size // 7), (size // 40, size - size // 4)))(pixels)
    white = layers.ReLU(threshold=180.0)(corner)
    logit = layers.Dense(1, name="logit")
    model = keras.Model(
        pixels, layers.Activation("sigmoid", name="probability")(logit(layers.GlobalAveragePooling2D()(white)))
    )
    logit.set_weights([np.array([[0.1]]), np.array([-1.0])])
    return model


def test_a_network_that_reads_planted_letters_is_caught_by_the_swap_and_by_their_removal(tmp_path: Path) -> None:
    size = 112
    of_train = [film for film in phantom.generate(120, seed=3) if shortcuts.split(film.patient_id) == "train"]
    planted = [shortcuts.plant(film, "marker", 0.95, seed=1) for film in of_train]
    names = [film.image_id for film in planted]
    heights, widths = zip(*(film.image.shape for film in planted), strict=True)
    table = pd.DataFrame({"image_id": names, "patient_id": names, "width": widths, "height": heights, "repeats": 1})
    table = table.assign(label=[film.label for film in planted], weight=1.0)
    how = geometry.Preparation(size, aspect="squash", clip_limit=0)
    store = create_store(tmp_path / "store", {"data": "made here", "preparation": how.as_dict()})
    for split in ("train", "test"):
        images, masks = create_split(store, split, table, size=size, with_lungs=True)
        images[:] = np.stack([geometry.prepare(film.image, how) for film in planted])
        masks[:] = np.stack([geometry.prepare_mask(film.lung_mask, how) for film in planted])
    found = evaluate.audit(letters_model(size), store, table, level=0.95)
    assert found["auc"]["clean"]["auc"] > 0.9
    assert found["auc"]["swapped_surroundings"]["auc"] > 0.9
    assert found["auc"]["letters_removed"]["auc"] < 0.65
    assert found["shortcut_prone"] is True


def framed_store(path: Path, *, barred: str) -> tuple[zarr.Group, pd.DataFrame]:
    """Films whose pneumonias are brighter, half of all between black bars: the normal ones, or every other one of each
    class. Those of validation have the labels of others."""
    rng, number = np.random.default_rng(1), np.arange(60)
    label = number % 2
    wide = label == 0 if barred == "normals" else number // 2 % 2 == 0
    images = 80 + rng.normal(0, 3, (60, 20, 20)) + 140 * label[:, None, None]
    images[wide, :5] = images[wide, 15:] = 0
    names = [f"i{row}" for row in number]
    table = pd.DataFrame({"image_id": names, "label": label, "weight": 1.0, "repeats": 1})
    store = create_store(path, {"data": "made here", "preparation": {"size": 20}})
    for split in ("train", "val", "test"):
        pixels, _ = create_split(store, split, table, size=20, with_lungs=False)
        pixels[:] = (images if split != "val" else images[::-1]).astype(np.uint8)
    films = pd.DataFrame({"image_id": names, "patient_id": names, "width": 200, "height": np.where(wide, 100, 200)})
    return store, films


def test_frame_only_keeps_the_bars_and_nothing_of_the_film(tmp_path: Path) -> None:
    told = {}
    for barred in ("normals", "both"):
        store, films = framed_store(tmp_path / barred, barred=barred)
        audited = evaluate.audit(brightness_model(), store, films, level=0.95)["auc"]
        told[barred] = audited["frame_only"]["auc"]
        assert audited["clean"]["auc"] == 1, "with bars or without"
    assert told == {"normals": 1.0, "both": 0.5}, "bars are dark: a film without any is called ill"
    assert "frame_only" not in evaluate.audit(brightness_model(), store, films.assign(height=200), level=0.95)["auc"]


def test_validation_can_be_audited_in_the_place_of_test(tmp_path: Path) -> None:
    store, films = framed_store(tmp_path / "store", barred="both")
    aucs = [evaluate.audit(brightness_model(), store, films, level=0.95, on=on)["auc"] for on in ("val", "test")]
    assert [one["clean"]["auc"] for one in aucs] == [0, 1]


def test_the_audit_goes_by_blocks_with_the_masks_of_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = audit_store(tmp_path / "store", bright="lungs", masks=True)
    whole = audit(store)
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_BLOCK", 7)
    assert audit(store, memory=0) == whole


@pytest.mark.parametrize(
    ("clean", "swapped", "around", "shortcut_prone", "words"),
    [
        ((0.9, 0.85, 0.95), (0.6, 0.5, 0.7), (0.8, 0.71, 0.9), True, "shortcut-prone"),
        ((0.9, 0.85, 0.95), (0.8, 0.71, 0.9), (0.6, 0.5, 0.7), False, "follow this region more"),
        ((0.9, 0.85, 0.95), (0.8, 0.69, 0.9), (0.6, 0.5, 0.7), None, "60 images are too few to tell"),
        ((0.52, 0.42, 0.62), (0.8, 0.71, 0.9), (0.6, 0.5, 0.7), None, "no lead over chance"),
    ],
)
def test_what_is_said_of_a_model_is_what_both_intervals_allow(
    clean: tuple[float, float, float],
    swapped: tuple[float, float, float],
    around: tuple[float, float, float],
    shortcut_prone: bool | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = ("lungs_only", "lungs_hidden", "same_box_hidden")
    values = iter([*[clean] * (1 + len((*stress.STRESSES, *stress.REPORTED, *others))), swapped, around])

    def given(labels: Any, scores: Any, patients: Any, level: float) -> dict[str, float]:
        return dict(zip(("auc", "auc_low", "auc_high"), next(values), strict=True))

    monkeypatch.setattr(evaluate, "_auc", given)
    found = audit(audit_store(tmp_path / "store", bright="lungs", masks=True))
    assert found.get("shortcut_prone") is shortcut_prone
    assert words in found["verdict"]


def test_an_image_without_a_mask_is_audited_by_its_middle(tmp_path: Path) -> None:
    store = zarr.open_group(audit_store(tmp_path / "store", bright="lungs", masks=True).store, mode="r+")
    store["test/lungs"][1] = 0  # a pneumonia, which would be the darkest if all of it were hidden
    found = audit(store)
    assert found["n_lungs"] == 59
    assert found["auc"]["lungs_only"]["auc"] == 1


def test_the_audit_uses_lungs_that_were_found_and_says_so_and_without_any_the_middle(tmp_path: Path) -> None:
    store = zarr.open_group(audit_store(tmp_path / "store", bright="lungs", masks=True).store, mode="r+")
    lung_boxes.create(store, "test", 60, with_boxes=False)
    store[f"test/{lung_boxes.FROM}"][:] = lung_boxes.as_codes(["human"] * 20 + ["found"] * 40)
    found = audit(store)
    assert (found["hidden"], found["n_lungs"], found["n_found"]) == ("lungs", 60, 40)
    assert found["verdict"].endswith(". A network found the lungs of 40 of 60 images")
    store["test/lungs"][:] = 0
    store[f"test/{lung_boxes.FROM}"][:] = lung_boxes.as_codes(["none"] * 60)
    without = audit(store)
    assert without["hidden"] == "middle"
    assert "n_lungs" not in without
    assert "n_found" not in without


def test_the_audit_sees_patients_not_images(tmp_path: Path) -> None:
    store = audit_store(tmp_path / "store", bright="lungs", masks=True)
    ids = read_split(store, "test").image_ids
    patients = [f"p{row // 6}" for row in range(60)]
    splits = pd.DataFrame({"image_id": ids, "patient_id": patients, "width": 20, "height": 20})
    by_patient = evaluate.audit(brightness_model(), store, splits, level=0.95)["auc"]["clean"]
    assert by_patient["auc_low"] < audit(store)["auc"]["clean"]["auc_low"]


def test_boxes_are_judged_on_test_at_a_score_that_validation_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opacity is found; a false alarm with a lower score is in each image."""
    truth, alarm = [1.0, 2, 3, 4], [0, 0, 1.0, 1]
    splits = make_splits()
    make_store(tmp_path / "s", splits)
    store = zarr.open_group(tmp_path / "s", mode="r+")
    for name in tables.SPLITS:
        part = splits[splits["split"] == name]
        boxes_of = {one: np.array([truth]) for one in part.loc[part["label"] == 1, "image_id"][1:]}  # one is not known
        image_boxes.write(store, name, image_boxes.stacked(list(part["image_id"]), part["label"].to_numpy(), boxes_of))
    scores = {"val": [0.6, 0.2], "test": [0.7, 0.3]}
    turn = iter(scores.values())

    def find(model: Any, images: NDArray) -> list[tuple[NDArray, NDArray]]:
        high, low = next(turn)
        is_positive = np.asarray(images)[:, 0, 0].astype(int) // 8 // 3 % 2 == 1
        return [
            (np.array([truth, alarm] if one else [alarm]), np.array([high, low] if one else [low]))
            for one in is_positive
        ]

    monkeypatch.setattr(detector, "is_detector", lambda model: True)
    monkeypatch.setattr(detector, "find", find)
    found = evaluate.detection(None, store, splits, level=0.95, n_films=3)
    figures = found.figures["detection"]
    assert figures["threshold"] == 0.6
    assert figures["val"] == {"rsna_map": 1, "ap50": 1}
    assert (figures["n_unknown"], figures["n"], figures["n_boxes"], figures["n_shown"]) == (1, 9, 4, 4)
    assert (figures["rsna_map"], figures["rsna_map_low"], figures["ap50"]) == (1, 1, 1)
    assert [row["sensitivity"] for row in figures["froc"]] == [1] * 7
    assert set(found.curves) == {"boxes_precision_recall", "boxes_froc"}
    assert [len(film.boxes) for _, film, _ in found.films] == [1, 1, 1]
    _, full = judge(predictions())
    full |= {"robustness": {"clean": 0.9, "mean": 0.8}, "stress": {"auc": {}, "verdict": "v"}, **found.figures}
    assert set(evaluate.metrics(full)["detection"]) >= {"rsna_map", "ap50", "threshold"}
    assert "1.000" in next(line for line in evaluate.summary(full) if "boxes of 9" in line)


def test_a_network_without_boxes_and_a_store_without_boxes_have_no_such_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = make_splits()
    store = make_store(tmp_path / "s", splits)
    assert evaluate.detection(brightness_model(), store, splits, level=0.95) == ({}, {}, [])
    monkeypatch.setattr(detector, "is_detector", lambda model: True)
    assert evaluate.detection(None, store, splits, level=0.95) == ({}, {}, [])
