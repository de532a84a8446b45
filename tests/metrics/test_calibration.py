"""Known truths first: scores bent by a known slope and bias, shares known by construction; then what may enter."""

import math

import numpy as np
import pytest
import sklearn.calibration
import sklearn.linear_model
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from pneumonia.metrics import calibration
from pneumonia.metrics.calibration import (
    MIN_SLOPE,
    Platt,
    adjust_prior,
    apply,
    brier_score,
    diagram,
    expected_calibration_error,
    fit,
    prior_by_em,
    reliability,
)
from pneumonia.metrics.decisions import wilson_interval
from tests.metrics.conftest import samples


def test_brier_score_by_hand() -> None:
    assert brier_score([0, 1, 1], [0.1, 0.8, 0.5]) == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    assert brier_score([0, 1], [0, 1]) == 0
    assert brier_score([1, 1, 0, 0], [0.5] * 4) == 0.25


def test_calibration_by_hand() -> None:
    y_true, y_score = [0, 1, 1, 0, 1], [0.1, 0.3, 0.6, 0.8, 1.0]
    table = reliability(y_true, y_score, n_bins=2)
    np.testing.assert_allclose(table.mean_score, [0.2, 0.8])
    np.testing.assert_allclose(table.fraction_positive, [1 / 2, 2 / 3])
    np.testing.assert_array_equal(table.n, [2, 3])
    assert expected_calibration_error(y_true, y_score, n_bins=2) == pytest.approx((2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5)


def test_bins_are_closed_above_zero_is_in_the_first_and_empty_ones_are_left_out() -> None:
    table = reliability([0, 0, 1, 1], [0.0, 0.25, 0.5, 1.0], n_bins=4)
    np.testing.assert_allclose(table.mean_score, [0.125, 0.5, 1.0])
    np.testing.assert_array_equal(table.n, [2, 1, 1])


def test_perfect_and_constant_scores_have_known_calibration_errors() -> None:
    assert expected_calibration_error([0, 1, 1], [0, 1, 1]) == 0
    assert expected_calibration_error([0, 1, 1], [1, 0, 0]) == 1
    assert expected_calibration_error([0, 0, 0, 1], [0.75] * 4) == 0.5


@pytest.mark.parametrize(("label", "error"), [(0, 0.6), (1, 0.4)])
def test_calibration_of_one_class_and_tied_scores_by_hand(label: int, error: float) -> None:
    y_true, y_score = [label] * 4, [0.4, 0.4, 0.8, 0.8]
    assert expected_calibration_error(y_true, y_score, n_bins=5) == pytest.approx(error)
    assert brier_score(y_true, y_score) == pytest.approx(0.4 if label == 0 else 0.2)
    assert reliability(y_true, y_score, n_bins=5).fraction_positive.tolist() == [label, label]


@given(samples(positives=0, negatives=0), st.integers(1, 40))
def test_calibration_figures_stay_between_zero_and_one(sample: tuple[list[int], list[float]], n_bins: int) -> None:
    table = reliability(*sample, n_bins)
    assert table.n.sum() == len(sample[0])
    assert (table.n > 0).all()
    assert (np.diff(table.mean_score) > 0).all()
    assert 0 <= expected_calibration_error(*sample, n_bins) <= 1
    assert 0 <= brier_score(*sample) <= 1


def test_a_point_of_a_diagram_has_the_interval_of_a_share_by_patient() -> None:
    y_true, y_score = [0, 1, 1, 1, 1, 0], [0.1, 0.2, 0.2, 0.9, 0.9, 1.0]
    points = diagram(y_true, y_score, level=0.9)
    np.testing.assert_allclose(points.fraction_positive, [2 / 3, 2 / 3])
    np.testing.assert_array_equal(points.n, [3, 3])
    low, high = wilson_interval(2, 3, 0.9)
    np.testing.assert_allclose((points.low, points.high), [[low, low], [high, high]])
    by_patient = diagram(y_true, y_score, groups=["a", "b", "b", "c", "c", "d"], level=0.9)
    np.testing.assert_allclose(by_patient.fraction_positive, points.fraction_positive)
    assert (by_patient.high - by_patient.low > points.high - points.low).all(), "two images of a patient say less"


@given(samples(positives=0, negatives=0), st.integers(1, 10))
def test_a_diagram_has_the_points_of_the_reliability_inside_their_intervals(
    sample: tuple[list[int], list[float]], n_bins: int
) -> None:
    points, table = diagram(*sample, level=0.95, n_bins=n_bins), reliability(*sample, n_bins)
    np.testing.assert_array_equal(points.n, table.n)
    np.testing.assert_array_equal(points.mean_score, table.mean_score)
    assert (points.low <= points.fraction_positive).all()
    assert (points.fraction_positive <= points.high).all()


def expit(z: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-z))


def logit(p: ArrayLike) -> NDArray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def calibrated(n: int, share: float, seed: int, *, signal: float = 2.0) -> tuple[NDArray, NDArray]:
    """Labels, and their true probabilities where the share of pneumonia is `share`: two normals of equal spread."""
    generator = np.random.default_rng(seed)
    y_true = (generator.random(n) < share).astype(int)
    z = generator.normal(size=n) + signal * (y_true - 0.5)
    return y_true, expit(signal * z + math.log(share / (1 - share)))


def iterated(scores: NDArray, prior: float, steps: int) -> float:
    """EM as Saerens et al. write it."""
    share = prior
    for _ in range(steps):
        odds = scores / (1 - scores) * (share / (1 - share)) / (prior / (1 - prior))
        share = float(np.mean(odds / (1 + odds)))
    return share


def test_a_known_slope_and_bias_are_undone() -> None:
    y_true, probability = calibrated(40_000, 0.7, seed=1)
    bent = expit(2.5 * logit(probability) - 1.5)
    platt = fit(y_true, bent)
    assert platt == pytest.approx((1 / 2.5, 1.5 / 2.5), abs=0.03)
    assert apply(platt, bent) == pytest.approx(probability, abs=0.02)


def test_fit_is_the_logistic_regression_on_platts_targets() -> None:
    y_true, score = calibrated(150, 0.7, seed=2)
    m = y_true.sum()
    n = 150 - m
    target = np.where(y_true == 1, (m + 1) / (m + 2), 1 / (n + 2))
    oracle = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    x = np.tile(logit(score), 2)[:, np.newaxis]
    oracle.fit(x, np.repeat([1, 0], 150), sample_weight=np.append(target, 1 - target))
    assert fit(y_true, score) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=1e-4)


def test_scores_of_a_balanced_training_get_the_share_of_validation() -> None:
    y_true, probability = calibrated(600, 0.75, seed=3)
    balanced = adjust_prior(probability, 0.75, 0.5)  # what class weights make of it
    test_true, test_probability = calibrated(5000, 0.75, seed=4)
    test_balanced = adjust_prior(test_probability, 0.75, 0.5)
    after = apply(fit(y_true, balanced), test_balanced)
    assert abs(after.mean() - test_true.mean()) < 0.03 < 0.1 < abs(test_balanced.mean() - test_true.mean())
    before = calibration.expected_calibration_error(test_true, test_balanced)
    assert calibration.expected_calibration_error(test_true, after) < before / 3


@pytest.mark.parametrize("n", [1, 5, 200])
def test_validation_without_errors_gives_finite_and_modest_probabilities(n: int) -> None:
    platt = fit([0] * n + [1] * n, [0.0] * n + [1.0] * n)
    assert all(map(math.isfinite, platt))
    # Laplace's rule: n of n seen, (n + 1) / (n + 2) believed.
    assert apply(platt, [0.0, 1.0]) == pytest.approx([1 / (n + 2), (n + 1) / (n + 2)], abs=1e-3)


def test_scores_of_zero_and_one_on_the_wrong_side_stay_finite() -> None:
    y_true, score = calibrated(200, 0.6, seed=5)
    score = np.append(score, [0.0, 1.0])
    platt = fit(np.append(y_true, [1, 0]), score)
    after = apply(platt, score)
    assert ((after > 0) & (after < 1)).all()
    assert after.argmin() == 200
    assert after.argmax() == 201


@pytest.mark.parametrize("score", [[0.9, 0.8, 0.2, 0.1], [0.5] * 4])
def test_scores_without_use_get_nearly_the_share_and_keep_their_order(score: list[float]) -> None:
    platt = fit([0, 0, 1, 1], score)
    assert platt.slope == pytest.approx(MIN_SLOPE) or len(set(score)) == 1
    assert apply(platt, score) == pytest.approx([0.5] * 4, abs=0.02)
    assert apply(platt, [0.1, 0.2, 0.3]).argsort().tolist() == [0, 1, 2]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_a_calibration_never_turns_the_order_round(score: list[float], data: st.DataObject) -> None:
    y_true = data.draw(st.permutations([0, 1] + [0] * (len(score) - 2)))
    platt = fit(y_true, score)
    assert platt.slope >= MIN_SLOPE
    assert math.isfinite(platt.bias)
    after = apply(platt, np.sort(score))
    assert (np.diff(after) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()


def test_adjusting_is_what_counting_patients_gives() -> None:
    # A finding in 60 of 75 ill and 5 of 25 healthy: 60 / 65. Of 100 ill and 300 healthy: 80 / (80 + 60).
    assert adjust_prior([60 / 65], 0.75, 0.25) == pytest.approx([80 / 140])
    assert adjust_prior([0.0, 0.3, 1.0], 0.4, 0.4).tolist() == pytest.approx([0.0, 0.3, 1.0])


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_adjusting_there_and_back_changes_nothing_and_zero_and_one_stay(score: float, old: float, new: float) -> None:
    there = adjust_prior([score, 0.0, 1.0], old, new)
    assert there[1:].tolist() == [0.0, 1.0]
    assert adjust_prior(there, new, old) == pytest.approx([score, 0, 1], abs=1e-9)
    assert (there[0] >= score - 1e-12) if new >= old else (there[0] <= score + 1e-12)


def test_adjusted_probabilities_are_calibrated_in_the_new_population() -> None:
    y_true, _ = calibrated(20_000, 0.3, seed=6)
    _, score_03 = calibrated(20_000, 0.3, seed=6)
    as_if_trained_at_075 = adjust_prior(score_03, 0.3, 0.75)
    back = adjust_prior(as_if_trained_at_075, 0.75, 0.3)
    assert calibration.expected_calibration_error(y_true, as_if_trained_at_075) > 0.15
    assert calibration.expected_calibration_error(y_true, back) < 0.02


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_em_finds_the_share_of_a_population_of_which_it_sees_scores_only(share: float) -> None:
    _, score = calibrated(5000, share, seed=7)
    seen = adjust_prior(score, share, 0.75)  # calibrated where three of four are ill
    assert abs(seen.mean() - share) > 0.05
    assert prior_by_em(seen, 0.75) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_em_is_where_the_published_iteration_ends(seed: int) -> None:
    _, score = calibrated(100, 0.5, seed=seed)
    assert prior_by_em(score, 0.3) == pytest.approx(iterated(score, 0.3, 5000), abs=1e-6)


def test_em_stays_where_the_mean_of_the_scores_is_the_prior() -> None:
    _, score = calibrated(300, 0.7, seed=8)
    assert prior_by_em(score, float(score.mean())) == pytest.approx(score.mean(), abs=1e-9)


def test_em_can_end_at_zero_or_one() -> None:
    assert prior_by_em([0.9, 0.8, 0.7], 0.5) == 1
    assert prior_by_em([0.9, 0.8, 0.7], 0.95) == 0
    # The iteration creeps there without ever arriving.
    assert 0.999 < iterated(np.array([0.9, 0.8, 0.7]), 0.5, 10) < 1


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
def test_constant_scores_have_no_share(value: float) -> None:
    with pytest.raises(ValueError, match=f"all 4 scores are {value:g}"):
        prior_by_em([value] * 4, 0.5)


def test_certain_scores_are_counted() -> None:
    assert prior_by_em([0.0, 1.0, 1.0, 0.0, 1.0], 0.2) == pytest.approx(0.6)
    share = prior_by_em([1.0, *[0.1] * 50], 0.5)
    assert 0 < share < 0.1


def test_em_of_few_images_scatters_and_often_ends_at_an_end() -> None:
    found = np.array([prior_by_em(calibrated(8, 0.6, seed=seed)[1], 0.6) for seed in range(200)])
    assert np.isin(found, [0, 1]).sum() > 5
    assert np.std(found) > 0.1
    assert np.median(found) == pytest.approx(0.6, abs=0.1)


def test_em_takes_normals_that_look_different_for_a_change_of_the_share() -> None:
    """The limit that the docstring names: nothing in the scores tells one from the other."""
    y_true, score = calibrated(5000, 0.6, seed=9)
    assert prior_by_em(score, 0.6) == pytest.approx(0.6, abs=0.02)
    murky = np.where(y_true == 0, expit(logit(score) + 2), score)
    assert prior_by_em(murky, 0.6) > 0.7


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_em_is_a_share_unless_all_scores_are_alike(score: list[float], prior: float) -> None:
    if min(score) == max(score):
        with pytest.raises(ValueError, match="the share of pneumonia cannot be estimated"):
            prior_by_em(score, prior)
    else:
        assert 0 <= prior_by_em(score, prior) <= 1


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_calibration(label: int) -> None:
    with pytest.raises(ValueError, match=f"{3 * label} positives and {3 - 3 * label} negatives, a calibration needs"):
        fit([label] * 3, [0.1, 0.5, 0.9])


@pytest.mark.parametrize("score", [[0.1, math.nan], [-0.1, 0.5], [0.5, 1.1], [-math.inf, 0.5]])
def test_what_is_no_probability_is_refused(score: list[float]) -> None:
    for call in (
        lambda: fit([0, 1], score),
        lambda: apply(Platt(1.0, 0.0), score),
        lambda: prior_by_em(score, 0.5),
        lambda: adjust_prior(score, 0.5, 0.4),
    ):
        with pytest.raises(ValueError, match="holds NaN or values outside 0-1"):
            call()


def test_malformed_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y_true has shape \(3,\) and y_score \(2,\)"):
        fit([0, 1, 1], [0.1, 0.9])
    with pytest.raises(ValueError, match="values other than 0 and 1"):
        fit([0, 2], [0.1, 0.9])
    with pytest.raises(ValueError, match="values other than 0 and 1"):
        fit([0, math.nan], [0.1, 0.9])
    for score in ([], [[0.1], [0.9]], 0.5):
        with pytest.raises(ValueError, match=r"expected \(n,\) with at least one image"):
            prior_by_em(score, 0.5)


@pytest.mark.parametrize("prior", [0, 1, -0.1, 75, math.nan])
def test_a_prior_is_strictly_between_zero_and_one(prior: float) -> None:
    with pytest.raises(ValueError, match="train_prior is"):
        prior_by_em([0.1, 0.9], prior)
    with pytest.raises(ValueError, match="old_prior is"):
        adjust_prior([0.1, 0.9], prior, 0.5)
    with pytest.raises(ValueError, match="new_prior is"):
        adjust_prior([0.1, 0.9], 0.5, prior)


# --- what chance alone shows, cross-fitting, slope and intercept ---


def test_the_error_of_a_perfect_model_is_that_of_labels_drawn_from_its_scores() -> None:
    score = np.full(400, 0.5)  # one bin: the mean absolute deviation of a share of 400, sqrt(.25 / 400 * 2 / pi)
    assert calibration.error_if_perfect(score) == pytest.approx(np.sqrt(0.25 / 400 * 2 / np.pi), rel=0.12)
    assert calibration.error_if_perfect([0.0, 1.0]) == 0
    assert calibration.error_if_perfect(score) == calibration.error_if_perfect(score), "its seed is fixed"
    assert calibration.error_if_perfect(np.linspace(0, 1, 100)) > 4 * calibration.error_if_perfect(
        np.linspace(0, 1, 10_000)
    )


def test_a_cross_fitted_probability_comes_from_other_patients() -> None:
    rng = np.random.default_rng(1)
    label = np.tile([0, 0, 1, 1], 50)
    score = rng.uniform(size=200).round(3) * 0.5 + 0.3 * label
    patients = np.repeat(np.arange(100), 2)
    fitted = calibration.cross_fitted(label, score, patients)
    of_patient = patients == 7
    changed = np.where(of_patient, 0.99, score)
    other = calibration.cross_fitted(label, changed, patients)
    same_fold = np.isin(patients, [p for p in range(100) if p % 10 in (6, 7)])  # dealt by five, each class for itself
    assert (other[same_fold & ~of_patient] == fitted[same_fold & ~of_patient]).any(), "its fold does not learn from it"
    assert (other[~same_fold] != fitted[~same_fold]).any(), "the other folds do"
    assert np.abs(fitted - calibration.apply(calibration.fit(label, score), score)).max() < 0.2
    np.testing.assert_array_equal(
        calibration.cross_fitted([0, 1, 1], [0.2, 0.7, 0.9], ["a", "b", "c"]), [0.2, 0.7, 0.9]
    )


def test_slope_and_intercept_are_one_and_zero_for_a_perfect_model_and_known_for_others() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=6_000)
    label = (rng.uniform(size=6_000) < expit(z)).astype(int)
    patients = np.arange(6_000) // 2
    found = calibration.line(label, expit(z), patients, level=0.95)
    assert found.slope_low < 1 < found.slope_high
    assert found.intercept_low < 0 < found.intercept_high
    sure = calibration.line(label, expit(2 * z + 1), patients, level=0.95)  # too sure, and too high
    assert sure.slope == pytest.approx(found.slope / 2, rel=0.02)
    assert sure.slope_high < 0.6
    assert sure.intercept_high < 0


def test_the_interval_of_a_slope_is_that_of_a_bootstrap_by_patient() -> None:
    rng = np.random.default_rng(3)
    z = np.repeat(rng.normal(size=150), 2) + rng.normal(0, 0.2, 300)
    label = np.repeat(rng.uniform(size=150) < expit(z[::2]), 2).astype(int)
    patients = np.repeat(np.arange(150), 2)
    found = calibration.line(label, expit(z), patients, level=0.95)
    slopes = []
    for _ in range(200):
        drawn = rng.integers(0, 150, 150)
        rows = (2 * drawn[:, None] + [0, 1]).ravel()
        slopes.append(calibration.fit(label[rows], expit(z[rows])).slope)
    assert (found.slope_high - found.slope_low) / 2 == pytest.approx(1.96 * np.std(slopes), rel=0.2)
    alone = calibration.line(label, expit(z), np.arange(300), level=0.95)
    assert alone.slope_high - alone.slope_low < 0.8 * (found.slope_high - found.slope_low), "pairs are no new evidence"


def test_one_patient_has_no_interval() -> None:
    with pytest.raises(ValueError, match="all images are of one patient"):
        calibration.line([0, 1], [0.2, 0.8], ["a", "a"], level=0.95)
