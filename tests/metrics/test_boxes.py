"""Known answers by hand on ten constructed images, COCO's own program as oracle, then properties."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.metrics import boxes
from pneumonia.metrics.boxes import Film

TRUE = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 10.0, 10.0)


def film(truth: list[tuple[float, ...]], predicted: dict[tuple[float, ...], float]) -> Film:
    """From true boxes, and predicted ones with their scores."""
    places = np.array(list(predicted), np.float64).reshape(-1, 4)
    return Film(np.array(truth, np.float64).reshape(-1, 4), places, np.array(list(predicted.values()), np.float64))


def lower(share: float) -> tuple[float, ...]:
    """A box within `TRUE`, with this intersection over union."""
    return (0.0, 0.0, 10.0, 10.0 * share)


TEN = {
    # the image and its score in the challenge, counted by hand; the thresholds are .40, .45, … .75
    "found": (film([TRUE], {TRUE: 0.9}), 1.0),
    "half_overlap": (film([TRUE], {lower(0.5): 0.9}), 2 / 8),  # above .40 and .45, not above .50
    "below_all": (film([TRUE], {lower(0.4): 0.9}), 0.0),
    "missed": (film([TRUE], {}), 0.0),
    "second_box_on_one": (film([TRUE], {TRUE: 0.9, lower(0.9): 0.8}), 1 / 2),
    "worse_box_is_first": (film([TRUE], {lower(0.6): 0.9, TRUE: 0.8}), 1 / 2),  # then the better one takes it at .60
    "one_of_two": (film([TRUE, FAR], {TRUE: 0.9}), 1 / 2),
    "two_and_an_alarm": (film([TRUE, FAR], {TRUE: 0.9, FAR: 0.8, (80.0, 0.0, 5.0, 5.0): 0.7}), 2 / 3),
    "empty": (film([], {}), None),
    "alarm_on_empty": (film([], {TRUE: 0.9}), 0.0),
}


@pytest.mark.parametrize("name", TEN)
def test_the_score_of_an_image_in_the_challenge_is_the_one_counted_by_hand(name: str) -> None:
    one, expected = TEN[name]
    score = boxes.rsna_score(one)
    assert np.isnan(score) if expected is None else score == pytest.approx(expected)


def test_the_metric_of_the_challenge_is_the_mean_of_the_images_that_count() -> None:
    expected = sum(score for _, score in TEN.values() if score is not None) / 9
    assert boxes.rsna_map([one for one, _ in TEN.values()]) == pytest.approx(expected)


def test_intersection_over_union_of_shifted_nested_and_empty_boxes() -> None:
    found = boxes.iou([TRUE, FAR], [(5, 0, 10, 10), (2, 2, 5, 5), (60, 50, 10, 10), (0, 0, 0, 0)])
    np.testing.assert_allclose(found, [[1 / 3, 0.25, 0, 0], [0, 0, 0, 0]])
    assert boxes.iou([], [TRUE]).shape == (0, 1)


def test_average_precision_by_hand() -> None:
    films = [film([TRUE], {TRUE: 0.9, FAR: 0.8}), film([TRUE], {TRUE: 0.7}), film([TRUE, FAR], {}), film([], {})]
    # Hit, false alarm, hit of 4: precision 1 up to recall 1/4, 2/3 up to 1/2, then 0; of 101 levels 26, 25 and 50.
    assert boxes.average_precision(films) == pytest.approx((26 + 25 * 2 / 3) / 101)


def test_froc_by_hand() -> None:
    films = [film([TRUE], {TRUE: 0.9, FAR: 0.8}), film([TRUE], {TRUE: 0.7}), film([], {TRUE: 0.6}), film([], {})]
    curve = boxes.froc(films)
    assert curve.false_positives.tolist() == [0, 0, 0.25, 0.25, 0.5]
    assert curve.sensitivity.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.6]
    report = boxes.detection_report(films, films)
    found = {row["false_positives"]: row["sensitivity"] for row in report["froc"]}
    assert found == {0.125: 0.5, 0.25: 1, 0.5: 1, 1: 1, 2: 1, 4: 1, 8: 1}


def random_films(n: int, seed: int) -> list[Film]:
    """True boxes, shifted copies of most of them, duplicates and false alarms; some scores are equal."""
    rng = np.random.default_rng(seed)
    films = []
    for _ in range(n):
        truth = _random_boxes(rng, rng.integers(0, 4))
        near = truth[rng.random(len(truth)) < 0.8] + rng.normal(0, 4, (1, 4)) * rng.random()
        twice = near[:1] + rng.normal(0, 2, (1, 4))
        predicted = np.abs(np.concatenate([near, twice, _random_boxes(rng, rng.integers(0, 3))]))
        films.append(Film(truth, predicted, rng.random(len(predicted)).round(2)))
    return films


def _random_boxes(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return np.concatenate([rng.uniform(0, 150, (n, 2)), rng.uniform(20, 60, (n, 2))], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    films = random_films(60, seed)
    truth, found = COCO(), COCO()
    images = [{"id": number} for number in range(1, len(films) + 1)]
    for coco, is_truth in ((truth, True), (found, False)):
        rows = [
            (number, place, score)
            for number, one in enumerate(films, start=1)
            for place, score in zip(
                one.truth if is_truth else one.boxes, np.ones(len(one.truth)) if is_truth else one.scores, strict=True
            )
        ]
        annotations = [
            {
                "id": key,
                "image_id": number,
                "category_id": 1,
                "bbox": place.tolist(),
                "area": float(place[2] * place[3]),
                "iscrowd": 0,
                "score": float(score),
            }
            for key, (number, place, score) in enumerate(rows, start=1)
        ]
        coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
        coco.createIndex()
    oracle = COCOeval(truth, found, "bbox")
    oracle.params.iouThrs = np.array([0.5])
    oracle.evaluate()
    oracle.accumulate()
    expected = oracle.eval["precision"][0, :, 0, 0, -1].mean()
    assert 0.2 < expected < 0.95
    assert boxes.average_precision(films) == pytest.approx(expected, abs=1e-9)


def test_each_figure_lies_in_its_interval_and_patients_make_it_wider() -> None:
    films = random_films(40, 1)
    alone = boxes.detection_report(films, films)
    tenfold = boxes.detection_report(films * 4, films * 4, groups=np.tile(np.arange(40), 4))
    for name in ("rsna_map", "ap50"):
        assert alone[f"{name}_low"] < alone[name] < alone[f"{name}_high"]
        widths = [report[f"{name}_high"] - report[f"{name}_low"] for report in (alone, tenfold)]
        assert widths[1] == pytest.approx(widths[0], rel=0.35)  # four copies of each image tell nothing new
    assert alone["rsna_map"] == pytest.approx(boxes.rsna_map(films))
    assert alone["ap50"] == pytest.approx(boxes.average_precision(films))
    assert alone["n_boxes"] == sum(len(one.truth) for one in films)
    sensitivity = [row["sensitivity"] for row in alone["froc"]]
    assert sensitivity == sorted(sensitivity)
    curve = boxes.froc(films)
    assert sensitivity[3] == curve.sensitivity[curve.false_positives <= 1].max()


def test_a_gain_is_paired_and_has_its_interval() -> None:
    films = random_films(40, 1)
    worse = [one._replace(scores=one.scores[::-1]) for one in films]
    difference, low, high = boxes.gain(worse, films, "ap50")
    assert difference == pytest.approx(boxes.average_precision(films) - boxes.average_precision(worse))
    assert low < difference < high
    report = boxes.detection_report(films, films)
    assert high - low < 2 * (report["ap50_high"] - report["ap50_low"])
    assert boxes.gain(films, films, "rsna_map") == (0, 0, 0)
    nothing = [one._replace(boxes=np.zeros((0, 4)), scores=np.zeros(0)) for one in films]
    assert boxes.gain(nothing, films, "ap50") == (report["ap50"], report["ap50_low"], report["ap50_high"])
    with pytest.raises(ValueError, match="ap50 needs images with boxes"):
        boxes.gain([film([], {})], [film([], {})], "ap50")


def test_only_images_whose_boxes_are_known_are_judged() -> None:
    truth = np.array([[[1, 2, 3, 4], [0, 0, 0, 0]], [[np.nan] * 4] * 2, [[0] * 4] * 2], np.float32)
    found = boxes.judged(truth, lambda rows: [(np.full((1, 4), row), np.array([0.5])) for row in rows])
    assert {row: (len(one.truth), one.boxes[0, 0]) for row, one in found.items()} == {0: (1, 0), 2: (0, 2)}
    assert boxes.judged(None, lambda rows: []) == {}


def test_a_resample_is_counted_like_a_sample_that_contains_its_images() -> None:
    films = random_films(12, 2)
    counts = np.random.default_rng(0).integers(0, 3, (1, 12)).astype(np.float64)
    drawn = [one for one, n in zip(films, counts[0], strict=True) for _ in range(int(n))]
    sample = boxes._Sample(films)
    assert sample.rsna(counts)[0] == pytest.approx(boxes.rsna_map(drawn))
    # Copies of an image have equal scores; precision within them is only defined after the last copy.
    assert sample.precision(counts)[0] == pytest.approx(boxes.average_precision(drawn), abs=0.03)


def test_figures_without_boxes_are_left_out() -> None:
    empty = [film([], {}), film([], {})]
    with pytest.raises(ValueError, match="needs a true box"):
        boxes.average_precision(empty)
    with pytest.raises(ValueError, match="needs an image with boxes"):
        boxes.rsna_map(empty)
    report = boxes.detection_report(empty, empty)
    assert not {"rsna_map", "ap50"} & set(report)
    assert all(set(row) == {"false_positives"} for row in report["froc"])


def test_precision_and_recall_end_at_all_boxes() -> None:
    recall, precision, score = boxes.precision_recall([film([TRUE, FAR], {TRUE: 0.9, (80, 0, 5, 5): 0.8})])
    assert (recall.tolist(), precision.tolist(), score.tolist()) == ([0.5, 0.5], [1.0, 0.5], [0.9, 0.8])


def test_the_threshold_is_the_one_with_the_highest_metric() -> None:
    films = [film([TRUE], {TRUE: 0.8, FAR: 0.3}), film([TRUE], {TRUE: 0.5}), film([], {TRUE: 0.4}), film([], {})]
    assert boxes.best_threshold(films) == 0.5
    assert boxes.rsna_map(boxes.above(films, 0.5)) == 1
    assert boxes.rsna_map(films) == pytest.approx((1 / 2 + 1 + 0) / 3)
    with pytest.raises(ValueError, match="no box is predicted"):
        boxes.best_threshold([film([TRUE], {})])


def test_no_other_score_is_a_better_threshold() -> None:
    films = random_films(60, 1)
    found = {float(one): boxes.rsna_map(boxes.above(films, one)) for film in films for one in film.scores}
    assert boxes.rsna_map(boxes.above(films, boxes.best_threshold(films))) == pytest.approx(max(found.values()))
