"""Scores of a model that answers a known formula, then tables of scores made up for the purpose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import zarr
from numpy.typing import NDArray

from pneumonia import dataset, evaluate, metrics, models, stress

SIZE = 8
COLUMNS = ["image_id", "sha256", "patient_id", "split", "label", "score", "subtype"]


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    models.start_keras(1)


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
            "split": np.array(dataset.SPLITS)[number % 3],
            "label": number // 3 % 2,
            "subtype": np.where(number // 3 % 2, "bacteria", "normal"),
            "weight": 1.0,
            "repeats": 1,
            "gray": 8 * number,
        }
    )
    return table.sample(frac=1, random_state=1, ignore_index=True)


def make_store(path: Path, splits: pd.DataFrame) -> zarr.Group:
    store = dataset.create_store(path, {"data": "made here"})
    for name in dataset.SPLITS:
        part = splits[splits["split"] == name]
        images, _ = dataset.create_split(store, name, part, size=SIZE, with_lungs=False)
        images[:] = np.broadcast_to(part["gray"].to_numpy(np.uint8)[:, None, None], (len(part), SIZE, SIZE))
    return dataset.open_store(path)


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
    return evaluate.judge(table, **({"level": 0.95, "target_sensitivity": 0.9} | changes))


def part(table: pd.DataFrame, split: str) -> tuple[NDArray, NDArray]:
    rows = table[table["split"] == split]
    return rows["label"].to_numpy(), rows["score"].to_numpy()


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
    dataset.write_table(table, tmp_path / "predictions.csv")
    read = dataset.read_table(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read, table, check_exact=True, check_dtype=False)


def streaming_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, zarr.Group]:
    """Noisy images, 70 to a split, in chunks of 32 and blocks of 64, so that there are borders to stumble on."""
    monkeypatch.setattr(dataset, "IMAGES_PER_CHUNK", 32)
    monkeypatch.setattr(dataset, "IMAGES_PER_BLOCK", 64)
    splits = make_splits(210).assign(gray=0)
    make_store(path, splits)
    store = zarr.open_group(path, mode="r+")
    for seed, name in enumerate(dataset.SPLITS):
        labels = np.asarray(store[name]["labels"][:])
        gray = np.random.default_rng(seed).integers(0, 200, (70, SIZE, SIZE)) // (1 + labels[:, None, None])
        store[name]["images"][:] = gray.astype(np.uint8)
    return splits, dataset.open_store(path)


def test_streamed_images_have_the_same_predictions_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    whole = evaluate.predict(brightness_model(), store, splits)
    assert whole["score"].nunique() > 100
    seen = note_splits(monkeypatch)
    table = evaluate.predict(brightness_model(), store, splits, memory=1e-9)
    assert seen == [dataset.Pixels] * 2
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


def note_splits(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The kinds of images that `read_split` gives from now on."""
    seen, read = list[type](), dataset.read_split

    def noted(*given: Any, **named: Any) -> dataset.Split:
        split = read(*given, **named)
        seen.append(type(split.images))
        return split

    monkeypatch.setattr(dataset, "read_split", noted)
    return seen


# --- judge ----------------------------------------------------------------------------------------------------------


def test_robustness_is_the_auc_of_validation_as_it_is_and_under_each_stress(tmp_path: Path) -> None:
    store, model = make_store(tmp_path / "images.zarr", make_splits()), brightness_model()
    found = evaluate.robustness(model, store)
    assert list(found) == ["clean", *stress.STRESSES, "mean"]
    val = dataset.read_split(store, "val")
    for name in stress.STRESSES:
        scores = models.predict_scores(model, stress.stressed(val.images, name))
        assert found[name] == pytest.approx(sklearn.metrics.roc_auc_score(val.labels, scores))
    assert found["clean"] == pytest.approx(
        sklearn.metrics.roc_auc_score(val.labels, models.predict_scores(model, val.images))
    )
    aucs = [value for name, value in found.items() if name != "mean"]
    assert found["mean"] == pytest.approx(np.mean(aucs))


def test_robustness_is_the_same_streamed_in_blocks_and_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    model, val = brightness_model(), dataset.read_split(store, "val").images
    stressed = {name: stress.stressed(val, name) for name in stress.STRESSES}
    expected = [models.predict_scores(model, images) for images in (val, *stressed.values())]
    assert (expected[0] != expected[-1]).mean() > 0.9
    seen, scores = note_splits(monkeypatch), list[NDArray]()
    monkeypatch.setattr(metrics, "roc_auc", lambda y_true, y_score: scores.append(y_score) or 0.5)
    for memory, kind in ((None, np.ndarray), (1e-9, dataset.Pixels)):
        scores.clear()
        evaluate.robustness(model, store, memory=memory)
        assert seen.pop() is kind
        np.testing.assert_array_equal(scores, expected)


def test_robustness_reads_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = streaming_store(tmp_path / "images.zarr", monkeypatch)
    reads, read = list[int](), dataset._read_chunk

    def counted(array: zarr.Array[Any], number: int) -> NDArray:
        reads.append(number)
        return read(array, number)

    monkeypatch.setattr(dataset, "_read_chunk", counted)
    evaluate.robustness(brightness_model(), store, memory=1e-9)
    assert reads == [0, 1, 2]


def test_the_headline_has_the_keys_of_the_contract() -> None:
    headline, _ = judge(predictions())
    assert list(headline) == ["threshold", "val", "test"]
    expected = (
        "n n_positive auc auc_low auc_high accuracy sensitivity specificity precision f1 brier ece".split()  # noqa: SIM905
    )
    assert list(headline["val"]) == list(headline["test"]) == expected


def test_headline_figures_are_those_of_scikit_learn() -> None:
    table = predictions()
    headline, _ = judge(table)
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
        assert figures["ece"] == pytest.approx(metrics.expected_calibration_error(y_true, y_score))


def test_thresholds_come_from_validation_only() -> None:
    table = predictions()
    headline, full = judge(table)
    y_true, y_score = part(table, "val")
    # Six significant digits, as the reports print them and as all figures apply them.
    assert headline["threshold"] == full["youden"]["threshold"]
    assert full["youden"]["threshold"] == float(f"{metrics.youden_threshold(y_true, y_score):.6g}")
    expected = metrics.threshold_at_sensitivity(y_true, y_score, 0.9)
    assert full["target_sensitivity"]["threshold"] == float(f"{expected:.6g}")

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


def test_every_figure_of_the_full_report_has_n_and_an_interval() -> None:
    _, full = judge(predictions())
    assert full["level"] == 0.95
    for point in ("youden", "target_sensitivity"):
        for split in ("val", "test"):
            figures = full[point][split]
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

    def width(one: pd.DataFrame) -> float:
        figures = judge(one)[1]["youden"]["test"]
        return float(figures["brier_high"] - figures["brier_low"])

    assert width(copies) > 1.5 * width(apart)


def test_a_test_split_of_one_class_leaves_figures_out_instead_of_null() -> None:
    table = predictions()
    table = table[(table["split"] == "val") | (table["label"] == 1)]
    headline, full = judge(table)
    assert not {"auc", "auc_low", "auc_high", "specificity"} & set(headline["test"])
    assert headline["test"]["sensitivity"] > 0
    assert "auc" in headline["val"]
    assert "null" not in json.dumps([headline, full])
    assert "NaN" not in json.dumps([headline, full])


# --- subgroups ------------------------------------------------------------------------------------------------------


def test_recall_of_a_subtype_counts_what_is_classified_rightly() -> None:
    rows = [
        *[("val", 0, score, "normal") for score in (0.1, 0.2)],
        *[("val", 1, score, "virus") for score in (0.8, 0.9)],
        *[("test", 0, score, "normal") for score in (0.1, 0.4, 0.6, 0.2)],
        *[("test", 1, score, "bacteria") for score in (0.9, 0.7)],
        *[("test", 1, score, "virus") for score in (0.9, 0.4, 0.3)],
    ]
    table = pd.DataFrame(rows, columns=["split", "label", "score", "subtype"])
    table["patient_id"] = table.index.astype(str)
    headline, full = judge(table)
    assert headline["threshold"] == 0.5
    subgroups = full["subgroups"]
    assert {name: (row["n"], row["recall"]) for name, row in subgroups.items()} == {
        "normal": (4, 3 / 4),
        "bacteria": (2, 1.0),
        "virus": (3, 1 / 3),
    }
    assert (subgroups["virus"]["recall_low"], subgroups["virus"]["recall_high"]) == metrics.wilson_interval(1, 3, 0.95)


# --- curves ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any], dict[str, pd.DataFrame]]:
    table = predictions()
    headline, full = judge(table)
    return table, headline, full, evaluate.curves(table, headline["threshold"])


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


def test_calibration_bins_hold_every_test_image_and_give_the_ece(judged: Judged) -> None:
    _, headline, _, curves = judged
    bins, test = curves["calibration"], headline["test"]
    assert list(bins) == ["mean_score", "fraction_positive", "n"]
    assert bins["n"].sum() == test["n"]
    assert (bins["n"] * bins["fraction_positive"]).sum() == pytest.approx(test["n_positive"])
    gap = (bins["mean_score"] - bins["fraction_positive"]).abs()
    assert (gap * bins["n"]).sum() / bins["n"].sum() == pytest.approx(test["ece"])


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
    for name, curve in evaluate.curves(other, headline["threshold"]).items():
        pd.testing.assert_frame_equal(curve, curves[name])


def test_a_score_at_the_threshold_counts_as_pneumonia() -> None:
    table = pd.DataFrame({"split": "test", "label": [0, 1], "score": [0.4, 0.5]})
    assert evaluate.curves(table, 0.5)["confusion"].to_numpy().tolist() == [["normal"] * 2, ["pneumonia"] * 2]
