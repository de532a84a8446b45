"""Every figure is drawn from a table made here, saved, and read back through matplotlib's own objects."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pneumonia.metrics.boxes import Film
from pneumonia.report import plots

TITLE = "compact on phantom (synthetic)"
REPORT = {"n": 40, "n_positive": 30, "auc": 0.875, "auc_low": 0.8, "auc_high": 0.95, "ece": 0.02, "brier": 0.125}
GRAY_IMAGE = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
MAP = np.zeros((24, 24), np.float32)
MAP[4, 20] = 1.0
NO_BOXES = np.zeros((0, 4))
LUNGS = np.zeros((24, 24), bool)
LUNGS[8:16, 4:20] = True


def roc() -> Figure:
    return plots.roc(pd.DataFrame({"fpr": [0, 0, 1], "tpr": [0, 0.75, 1]}), REPORT, (0.25, 0.9), TITLE)


def binned(mean_score: list[float], share: list[float], n: list[int]) -> pd.DataFrame:
    """Bins of a reliability diagram; the intervals reach .1 to both sides."""
    table = pd.DataFrame({"mean_score": mean_score, "fraction_positive": share, "n": n})
    return table.assign(low=table["fraction_positive"] - 0.1, high=table["fraction_positive"] + 0.1)


def pair() -> dict[str, dict[str, object]]:
    """What two models scored on the same images."""
    bins = binned([0.1, 0.9], [0.2, 0.8], [10, 30])
    one = {"roc": pd.DataFrame({"fpr": [0, 0, 1], "tpr": [0, 0.75, 1]}), "point": (0.25, 0.9), "reliability": bins}
    other = {"roc": pd.DataFrame({"fpr": [0, 1], "tpr": [0, 1]}), "point": (0.5, 0.5), "reliability": bins.tail(1)}
    return {"A": {**one, "report": REPORT}, "B": {**other, "report": REPORT | {"auc": 0.5, "ece": 0.3}}}


def overlaid_roc() -> Figure:
    return plots.overlaid_roc(pair(), TITLE)


def overlaid_reliability() -> Figure:
    return plots.overlaid_reliability(pair(), TITLE)


def precision_recall() -> Figure:
    return plots.precision_recall(pd.DataFrame({"recall": [0.1, 1], "precision": [1, 0.75]}), REPORT, TITLE)


def calibration() -> Figure:
    before = binned([0.1, 0.9], [0.2, 0.8], [10, 30])
    after = binned([0.12, 0.5, 1.0], [0.1, 0.6, 1.0], [4, 11, 25])
    return plots.calibration({"before": (before, REPORT), "after": (after, REPORT | {"ece": 0.01})}, TITLE)


def decision_curve() -> Figure:
    table = {"threshold": [0.25, 0.5, 0.99], "score": [0.7, 0.6, -3.0], "calibrated": [0.72, 0.65, 0.2]}
    return plots.decision_curve(pd.DataFrame(table | {"treat_all": [0.67, 0.5, -24.0], "treat_none": 0}), REPORT, TITLE)


def confusion() -> Figure:
    actual = ["normal"] * 10 + ["pneumonia"] * 30
    return plots.confusion(
        pd.DataFrame({"actual": actual, "predicted": ["pneumonia"] * 3 + ["normal"] * 7 + ["pneumonia"] * 30}), TITLE
    )


def history() -> Figure:
    table = {"epoch": [1, 2, 3], "loss": [0.7, 0.4, 0.2], "val_loss": [0.7, 0.5, 0.6], "val_auc": [0.6, 0.9, 0.8]}
    return plots.history(pd.DataFrame(table).assign(kept=[False, True, False]), TITLE)


def classes() -> Figure:
    counts = {"n_patients": 20, "n_normal": 11, "n_pneumonia": 33, "weight_normal": 22.5, "weight_pneumonia": 21.5}
    # What an epoch shows is not drawn: class weights balance the classes without showing an image twice.
    shown = {"shown_normal": 98, "shown_pneumonia": 99}
    return plots.classes({"train": counts | shown, "val": counts | shown, "test": counts | shown}, TITLE)


def measures() -> Figure:
    rng = np.random.default_rng(1)
    names = [name for name in plots.MEASURES if name != "ratio"]
    table = pd.DataFrame({name: rng.normal(100, 10, 30) for name in names})
    return plots.measures(table.assign(label=[0, 1, 1] * 10, valid=[True] * 27 + [False] * 3), TITLE)


NETWORK = pd.DataFrame(
    [
        ("pixels", "InputLayer", "any x any x 1", 0, 0),
        ("densenet_conv4", "64 Conv2D", "14 x 14 x 1280", 4_372_480, 0),
        ("mobilenet_expanded_conv", "DepthwiseConv2D, Conv2D", "112 x 112 x 16", 992, 0),
        ("dense1", "Dense", "256", 51_380_480, 51_380_480),
        ("drop", "Dropout", "256", 0, 0),
        ("logit", "Dense", "1", 257, 257),
    ],
    columns=["name", "kind", "output", "parameters", "trainable"],
)


def architecture() -> Figure:
    return plots.architecture(NETWORK, TITLE)


def trials() -> Figure:
    table = {
        "trial": [0, 1, 2],
        "state": ["complete", "pruned", "complete"],
        "val_auc": [0.9, 0.5, 0.8],
        "learning_rate": [1e-3, 3e-3, 3e-4],
        "dropout": [0.2, 0.0, 0.4],
    }
    return plots.trials(pd.DataFrame(table), TITLE)


def before_after() -> Figure:
    pairs = [(np.zeros((30, 50), np.uint8), GRAY_IMAGE, "p0001-1"), (GRAY_IMAGE, GRAY_IMAGE, "p0002-1")]
    return plots.before_after(pairs, TITLE)


def saliency() -> Figure:
    boxes = np.array([[2.0, 4.0, 10.0, 6.0]])
    return plots.saliency(GRAY_IMAGE, {"HiResCAM: good": MAP, "Grad-CAM: bad": MAP}, boxes, TITLE, LUNGS)


def saliency_sheet() -> Figure:
    return plots.saliency_sheet([(GRAY_IMAGE, MAP, NO_BOXES, "p0001-1, 0.9"), (GRAY_IMAGE, MAP, NO_BOXES, "x")], TITLE)


def mean_maps() -> Figure:
    return plots.mean_maps({"true_positive": (MAP, 5), "all normal": (MAP / 2, 7)}, TITLE, "frame: the whole film")


CHARTS = {
    one.__name__: one
    for one in (
        *(roc, overlaid_roc, overlaid_reliability, precision_recall, calibration, decision_curve, confusion),
        *(history, classes, trials),
    )
}
PICTURES = {one.__name__: one for one in (before_after, saliency, saliency_sheet, mean_maps, measures, architecture)}
FIGURES = CHARTS | PICTURES


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    """One that does is kept in memory for good, once for each picture."""
    plt.close("all")
    yield
    assert plt.get_fignums() == []


# --- every figure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_saves_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    for copy in ("a.png", "b.png"):
        figure = FIGURES[name]()
        assert isinstance(figure, Figure)
        plots.save(figure, tmp_path / copy)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture)) > 10


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_labels_both_axes_and_says_what_it_shows(name: str) -> None:
    figure = CHARTS[name]()
    axes = figure.axes[0]
    assert any(one.get_xlabel() for one in figure.axes)
    assert axes.get_ylabel()
    assert TITLE in axes.get_title()


@pytest.mark.parametrize(
    "name",
    [
        *("roc", "overlaid_roc", "overlaid_reliability", "precision_recall", "calibration", "decision_curve"),
        "confusion",
    ],
)
def test_a_chart_of_test_results_says_n(name: str) -> None:
    assert "n = 40" in CHARTS[name]().axes[0].get_title()


@pytest.mark.parametrize("name", [name for name in CHARTS if name != "confusion"])
def test_a_legend_covers_no_axes(name: str) -> None:
    figure = CHARTS[name]()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert not any(axes.get_legend() for axes in figure.axes)


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_over_the_edge_of_the_figure(name: str) -> None:
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert 0 <= box.x0 <= box.x1 <= figure.get_figwidth()
    assert 0 <= box.y0 <= box.y1 <= figure.get_figheight()


# --- what the single ones show --------------------------------------------------------------------------------------


def test_roc_shows_the_auc_with_its_interval_and_the_operating_point() -> None:
    figure = roc()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "AUC 0.875 [0.800, 0.950]" in texts
    assert "(30 pneumonia)" in figure.axes[0].get_title()
    curve, chance, point = figure.axes[0].get_lines()
    assert list(curve.get_ydata()) == [0, 0.75, 1]
    assert list(chance.get_xdata()) == list(chance.get_ydata())
    assert point.get_xydata().tolist() == [[0.25, 0.9]]


def test_two_roc_curves_have_a_point_of_their_own_colour_each() -> None:
    figure = overlaid_roc()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["A: AUC 0.875 [0.800, 0.950]", "B: AUC 0.500 [0.800, 0.950]"]
    curve_a, point_a, curve_b, point_b, *_ = figure.axes[0].get_lines()
    assert list(curve_a.get_ydata()) == [0, 0.75, 1]
    assert list(curve_b.get_ydata()) == [0, 1]
    assert (point_a.get_xydata().tolist(), point_b.get_xydata().tolist()) == ([[0.25, 0.9]], [[0.5, 0.5]])
    assert curve_a.get_color() == point_a.get_color() != curve_b.get_color() == point_b.get_color()
    assert curve_a.get_linestyle() != curve_b.get_linestyle(), "equal curves are both seen"


def test_two_reliabilities_have_the_colours_of_their_roc_curves() -> None:
    figure = overlaid_reliability()
    _, a, b = figure.axes[0].get_lines()
    assert (len(a.get_xdata()), len(b.get_xdata())) == (2, 1)
    curve_a, _, curve_b, *_ = overlaid_roc().axes[0].get_lines()
    assert (a.get_color(), b.get_color()) == (curve_a.get_color(), curve_b.get_color())
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["perfect", "A: ECE 0.020, Brier 0.125", "B: ECE 0.300, Brier 0.125"]


@pytest.mark.parametrize("draw", [plots.overlaid_roc, plots.overlaid_reliability])
def test_long_names_of_models_stay_inside_the_figure(draw: Callable[..., Figure]) -> None:
    figure = draw(pair(), "A: " + "a-very-long-name " * 12 + "\nB: " + "another-name " * 12)
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert 0 <= box.x0 <= box.x1 <= figure.get_figwidth()
    assert 0 <= box.y0 <= box.y1 <= figure.get_figheight()


def test_bytes_of_a_figure_are_those_of_its_file(tmp_path: Path) -> None:
    plots.save(roc(), tmp_path / "a.png")
    assert plots.png(roc()) == (tmp_path / "a.png").read_bytes()


def test_precision_recall_shows_the_share_of_pneumonia() -> None:
    _, share = precision_recall().axes[0].get_lines()
    assert set(share.get_ydata()) == {0.75}


def test_calibration_shows_before_and_after_with_the_images_of_each_bin() -> None:
    figure = calibration()
    axes, counts = figure.axes
    perfect, before, after = axes.get_lines()
    assert list(perfect.get_xdata()) == list(perfect.get_ydata())
    assert before.get_xydata().tolist() == [[0.1, 0.2], [0.9, 0.8]]
    assert after.get_xydata().tolist() == [[0.12, 0.1], [0.5, 0.6], [1.0, 1.0]]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["perfect", "before: ECE 0.020, Brier 0.125", "after: ECE 0.010, Brier 0.125"]
    assert [text.get_text() for text in counts.texts] == ["10", "30", "4", "11", "25"]
    assert [bar.get_height() for bar in counts.patches] == [10, 30, -4, -11, -25]
    for bars, line in zip(counts.containers, (before, after), strict=True):
        assert {to_hex(bar.get_facecolor()) for bar in bars} == {to_hex(line.get_color())}
        centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        assert centres == pytest.approx(line.get_xdata())
    for bars, line in zip(axes.collections, (before, after), strict=True):
        ends = [(x, low, high) for ((x, low), (_, high)) in bars.get_segments()]
        assert ends == [(x, pytest.approx(y - 0.1), pytest.approx(y + 0.1)) for x, y in line.get_xydata()]
    assert before.get_marker() != after.get_marker()


def test_the_numbers_of_a_calibration_stand_apart() -> None:
    figure = calibration()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_decision_curve_says_the_share_of_pneumonia_and_hides_no_gain() -> None:
    figure = decision_curve()
    axes = figure.axes[0]
    assert "75.0% pneumonia" in axes.get_title()
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {
        "treat all": [0.67, 0.5, -24.0],
        "treat none": [0, 0, 0],
        "model, raw scores": [0.7, 0.6, -3.0],
        "model, calibrated": [0.72, 0.65, 0.2],
    }
    styles = [(line.get_color(), line.get_marker()) for line in axes.get_lines()]
    assert len({colour for colour, _ in styles}) == len({mark for _, mark in styles}) == 4
    low, high = axes.get_ylim()
    assert -0.3 < low < 0 < 0.75 < high


def test_confusion_has_actual_down_and_predicted_across() -> None:
    axes = confusion().axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (predicted, actual)
    assert cells == {(0, 0): "7", (1, 0): "3", (0, 1): "0", (1, 1): "30"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["normal", "pneumonia"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["normal", "pneumonia"]


def test_confusion_counts_are_readable_on_light_and_dark() -> None:
    axes = confusion().axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        shade = np.mean(image.to_rgba(image.get_array())[int(row), int(column), :3])
        assert abs(shade - np.mean([int(to_hex(text.get_color())[i : i + 2], 16) / 255 for i in (1, 3, 5)])) > 0.4


def test_history_marks_the_epoch_kept() -> None:
    figure = history()
    assert "kept: epoch 2" in [text.get_text() for text in figure.legends[0].get_texts()]
    *_, mark = figure.axes[1].get_lines()
    assert mark.get_xydata().tolist() == [[2, 0.9]]


def test_history_of_one_epoch_is_visible() -> None:
    table = pd.DataFrame({"epoch": [1], "loss": [0.7], "val_loss": [0.6], "val_auc": [0.5], "kept": [True]})
    figure = plots.history(table, TITLE)
    assert all(line.get_marker() not in ("", "None") for axes in figure.axes for line in axes.get_lines())
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_history_of_several_folds_is_a_line_and_a_mark_for_each() -> None:
    table = pd.DataFrame({"epoch": [1, 2, 3, 4], "fold": [0, 0, 1, 1], "kept": [False, True, True, False]})
    figure = plots.history(table.assign(loss=[4, 3, 4, 3], val_loss=[4, 3, 4, 3], val_auc=[0.6, 0.8, 0.7, 0.5]), TITLE)
    losses, aucs = ([list(line.get_xdata()) for line in axes.get_lines()] for axes in figure.axes)
    assert losses == [[1, 2], [3, 4]] * 2
    assert aucs == [[1, 2], [3, 4], [2, 3]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["train loss", "validation loss", "validation AUC", "kept: epochs 2, 3"]


def test_classes_draws_images_before_and_their_weight_after() -> None:
    figure = classes()
    axes = figure.axes[0]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    bars = {bar.get_label(): [patch.get_height() for patch in bar] for bar in axes.containers}
    assert list(bars) == legend
    assert bars == {
        "normal, before: images": [11, 11, 11],
        "pneumonia, before: images": [33, 33, 33],
        "normal, after: weight in an epoch": [22.5, 22.5, 22.5],
        "pneumonia, after: weight in an epoch": [21.5, 21.5, 21.5],
    }
    assert sorted(text.get_text() for text in axes.texts) == sorted(["11", "33", "22.5", "21.5"] * 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{name}\n20 patients" for name in ("train", "val", "test")
    ]


def test_classes_stand_side_by_side_in_the_order_before_then_after() -> None:
    places = [[patch.get_x() for patch in bar] for bar in classes().axes[0].containers]
    assert np.diff(np.array(places).T.ravel()).min() > 0.19, "no bar hides another"


def test_trials_tells_pruned_from_complete() -> None:
    figure = trials()
    assert "3 trials" in figure.axes[0].get_title()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["complete (2)", "pruned (1)", "best so far"]
    complete, pruned, best = figure.axes[0].lines
    assert list(zip(complete.get_xdata(), complete.get_ydata(), strict=True)) == [(0, 0.9), (2, 0.8)]
    assert list(zip(pruned.get_xdata(), pruned.get_ydata(), strict=True)) == [(1, 0.5)]
    assert complete.get_marker() != pruned.get_marker()
    assert list(best.get_ydata()) == [0.9, 0.9]


def test_a_study_of_one_trial_can_be_drawn() -> None:
    table = {"trial": [0], "state": ["complete"], "val_auc": [0.5], "learning_rate": [1e-3], "dropout": [0.2]}
    figure = plots.trials(pd.DataFrame(table), TITLE)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["complete (1)", "best so far"]


def test_before_after_says_both_sizes() -> None:
    above, below = (before_after().axes[index] for index in (0, 2))
    assert above.get_title() == "p0001-1\n50 x 30 px"
    assert below.get_title() == "24 x 24 px"


def test_before_after_keeps_long_names_apart() -> None:
    name = "train/PNEUMONIA/person1000_bacteria_2931-a-very-long-name"
    figure = plots.before_after([(GRAY_IMAGE, GRAY_IMAGE, name)] * 3, TITLE)
    figure.draw_without_rendering()
    first, second = (figure.axes[index].title.get_window_extent() for index in (0, 1))
    assert first.x1 < second.x0


def test_saliency_frames_the_boxes_on_every_picture() -> None:
    figure = saliency()
    assert figure.get_suptitle() == TITLE
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["image", "HiResCAM: good", "Grad-CAM: bad"]
    assert bar.get_ylabel() == "share of the maximum"
    for axes in panels:
        (frame,) = axes.patches
        assert isinstance(frame, Rectangle)
        # A box that starts at pixel 2 starts at its left edge; matplotlib puts the centre of pixel 2 at 2.0.
        assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (1.5, 3.5, 10, 6)


def test_saliency_accepts_zero_boxes() -> None:
    figure = plots.saliency(GRAY_IMAGE, {"grad_cam": MAP}, NO_BOXES, TITLE)
    figure.draw_without_rendering()
    assert [len(axes.patches) for axes in figure.axes[:2]] == [0, 0]


def test_saliency_outlines_the_lungs_and_half_of_the_maximum() -> None:
    plain, mapped = saliency().axes[:2]
    levels = [[*one.levels] for axes in (plain, mapped) for one in axes.collections]
    assert levels == [[0.5], [0.5], [0.5]], "the lungs on both, and the contour of the map"


def test_mean_maps_share_one_scale_and_say_how_many_they_are() -> None:
    first, second = mean_maps().axes[:2]
    assert [axes.get_title() for axes in (first, second)] == ["true positive\nn = 5", "all normal\nn = 7"]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, MAP.max())


def test_saliency_leaves_the_anatomy_visible_where_the_map_is_low() -> None:
    plain, mapped = saliency().axes[:2]
    assert len(plain.images) == 1
    image, overlay = mapped.images
    assert image.get_clim() == (0, 255)
    assert overlay.get_clim() == (0, 1)
    alpha = overlay.get_alpha()
    assert alpha[0, 0] == 0
    assert 0.5 < alpha[4, 20] < 1


def test_measures_show_the_valid_images_of_each_class_on_a_scale_of_their_own() -> None:
    figure = measures()
    assert "n = 27 valid images" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["normal (9)", "pneumonia (18)"]
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == [
        *("width", "height", "size of the file", "mean", "standard deviation", "entropy"),
        *("black and white pixels", "sharpness", "width / height", "upper left corner", "border"),
    ]
    for axes in figure.axes:
        for colour in (plots.BLUE, plots.ORANGE):
            shares = [bar.get_height() for bar in axes.patches if to_hex(bar.get_facecolor()) == colour]
            assert sum(shares) == pytest.approx(1)


def test_architecture_has_a_row_for_each_block_and_the_total_in_its_title() -> None:
    figure = architecture()
    assert figure.get_suptitle() == f"{TITLE}\n55,754,209 parameters, 51,380,737 of them trainable"
    words, bars = figure.axes
    for column in ("name", "kind", "output"):
        rows = [text for text in words.texts if text.get_position()[1] >= 0]
        at = {text.get_text(): text.get_position()[1] for text in rows if text.get_text() in set(NETWORK[column])}
        assert set(at) == set(NETWORK[column])
    counts = [f"{count:,}" if count else "" for count in NETWORK["parameters"]]
    assert [text.get_text() for text in sorted(bars.texts, key=lambda one: one.get_position()[1])] == counts
    low, high = bars.get_ylim()
    assert low > high, "the pixels stand on top"


def test_architecture_tells_frozen_from_trained_by_bars_as_long_as_the_parameters() -> None:
    figure = architecture()
    bars = figure.axes[1]
    ends = {
        to_hex(bar.get_facecolor()): [bar.get_x() + bar.get_width() for bar in container]
        for container in bars.containers
        for bar in container
    }
    assert ends[plots.BLUE] == [51_380_480, 257]
    assert ends[plots.GRAY] == [1, 4_372_480, 992, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["trained", "frozen"]


def test_no_words_of_an_architecture_run_into_each_other() -> None:
    figure = architecture()
    figure.draw_without_rendering()
    words, bars = figure.axes
    boxes = [text.get_window_extent() for text in words.texts]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert max(box.x1 for box in boxes) < bars.get_window_extent().x0
    assert max(text.get_window_extent().x1 for text in bars.texts) < figure.bbox.x1


def test_the_stress_plot_has_a_point_and_an_interval_for_each_change() -> None:
    aucs = {
        "clean": {"auc": 0.9, "auc_low": 0.85, "auc_high": 0.94},
        "noise": {"auc": 0.8, "auc_low": 0.72, "auc_high": 0.86},
        "lungs_hidden": {"auc": 0.55, "auc_low": 0.4, "auc_high": 0.6},
    }
    figure = plots.stress({"auc": aucs, "n": 80}, "compact, test")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["lungs hidden", "noise", "clean"]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == [0.55, 0.8, 0.9]
    assert "n = 80" in axes.get_title()
    assert axes.get_xlim()[0] < 0.4


def test_figures_of_boxes_show_the_interval_the_rates_and_both_kinds_of_boxes() -> None:
    froc = [
        {"false_positives": rate, "sensitivity": 0.5, "sensitivity_low": 0.4, "sensitivity_high": 0.7}
        for rate in (1, 2)
    ]
    report = {"n": 9, "n_boxes": 4, "ap50": 0.5, "ap50_low": 0.3, "ap50_high": 0.8, "froc": froc}
    curves = {
        "boxes_precision_recall": pd.DataFrame({"recall": [0.5, 1], "precision": [1, 0.5]}),
        "boxes_froc": pd.DataFrame({"false_positives": [0, 2.0], "sensitivity": [0.5, 1]}),
    }
    film = Film(np.array([[2.0, 3, 4, 5]]), np.array([[1.0, 1, 2, 2], [8, 8, 3, 3]]), np.array([0.9, 0.25]))
    figures = plots.boxes({"detection": report}, curves, [(GRAY_IMAGE, film, "$a")], TITLE)
    assert set(figures) == {"boxes_precision_recall", "boxes_froc", "boxes"}
    assert figures["boxes_precision_recall"].legends[0].get_texts()[0].get_text() == "AP 0.500 [0.300, 0.800]"
    assert "n = 9, 4 boxes" in figures["boxes_froc"].axes[0].get_title()
    assert [text.get_text() for text in figures["boxes_froc"].axes[0].get_xticklabels()] == ["1", "2"]
    patches = [one for one in figures["boxes"].axes[0].patches if isinstance(one, Rectangle)]
    assert [one.get_xy() for one in patches] == [(1.5, 2.5), (0.5, 0.5), (7.5, 7.5)]
    assert len({to_hex(one.get_edgecolor()) for one in patches}) == 2
    assert [text.get_text() for text in figures["boxes"].axes[0].texts] == ["0.90", "0.25"]
    assert plots.boxes({}, {}, [], TITLE) == {}
