"""The synthetic archive: what it promises about counts, bytes, physics and the place of disease."""

import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from pneumonia.data import phantom
from pneumonia.data.phantom import ATTENUATION, Patient, Radiograph

SEED = 7


@pytest.fixture(scope="module")
def archive() -> list[Radiograph]:
    return list(phantom.generate(60, SEED))


def patient_of(subtype: str, seed: int = SEED, *, at_least: int = 1) -> Patient:
    return next(p for p in phantom.plan(200, seed) if p.subtype == subtype and p.n_images >= at_least)


def box_region(radiograph: Radiograph, box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    x, y, width, height = box
    assert 0 <= x < x + width <= radiograph.image.shape[1]
    assert 0 <= y < y + height <= radiograph.image.shape[0]
    return slice(y, y + height), slice(x, x + width)


# --- the plan ---


@pytest.mark.parametrize("n_images", [4, 5, 17, 100, 801])
def test_plan_has_exactly_the_images_asked_for_at_the_class_ratio(n_images: int) -> None:
    images: Counter[str] = Counter()
    for patient in phantom.plan(n_images, SEED):
        images[patient.subtype] += patient.n_images
    assert images.total() == n_images
    assert abs(images["normal"] - n_images / 4) <= 0.5
    assert set(images) == {"normal", "bacteria", "virus"}
    assert abs(images["virus"] - 0.35 * (n_images - images["normal"])) <= 1


def test_plan_is_the_same_every_time_and_another_for_another_seed() -> None:
    assert phantom.plan(50, SEED) == phantom.plan(50, SEED)
    assert [p.subtype for p in phantom.plan(50, SEED)] != [p.subtype for p in phantom.plan(50, SEED + 1)]


def test_patients_have_one_to_four_images_and_ids_of_their_own() -> None:
    patients = phantom.plan(300, SEED)
    assert {p.n_images for p in patients} == {1, 2, 3, 4}
    assert [p.index for p in patients] == list(range(len(patients)))
    assert len({p.patient_id for p in patients}) == len(patients)
    assert all(p.sex in "FM" and 18 <= p.age <= 92 for p in patients)
    assert all(p.label == (p.subtype != "normal") for p in patients)


def test_order_of_patients_does_not_tell_the_class() -> None:
    labels = np.array([p.label for p in phantom.plan(3000, SEED)])
    quarters = [part.mean() for part in np.array_split(labels, 4)]
    assert max(quarters) - min(quarters) < 0.12


@pytest.mark.parametrize("n_images", [-1, 0, 3])
def test_too_few_images_say_what_arrived_and_what_was_expected(n_images: int) -> None:
    with pytest.raises(ValueError, match=f"n_images is {n_images}, expected at least 4"):
        phantom.plan(n_images, SEED)
    with pytest.raises(ValueError, match="expected at least 4"):
        next(phantom.generate(n_images, SEED))


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1, expected 0 or more"):
        phantom.plan(10, -1)


# --- the same bytes ---


def test_same_patient_gives_the_same_bytes_in_any_order_and_after_pickling() -> None:
    patients = phantom.plan(12, SEED)
    forwards = {p.patient_id: phantom.render(p) for p in patients}
    for patient in reversed(patients):
        travelled = pickle.loads(pickle.dumps(patient))
        for first, again in zip(forwards[patient.patient_id], phantom.render(travelled), strict=True):
            assert first.image.tobytes() == again.image.tobytes()
            assert first.lung_mask.tobytes() == again.lung_mask.tobytes()
            assert first._replace(image=again.image, lung_mask=again.lung_mask) == again


def test_generate_is_the_plan_rendered_in_order(archive: list[Radiograph]) -> None:
    assert [r.image_id for r in archive] == [
        f"{p.patient_id}-{number}" for p in phantom.plan(60, SEED) for number in range(1, p.n_images + 1)
    ]
    for radiograph, again in zip(archive, islice(phantom.generate(60, SEED), 5), strict=False):
        assert np.array_equal(radiograph.image, again.image)


def test_another_seed_gives_other_pictures() -> None:
    here, there = (phantom.render(phantom.plan(4, seed)[0])[0] for seed in (1, 2))
    assert here.image.shape != there.image.shape or not np.array_equal(here.image, there.image)


def test_images_of_one_patient_differ() -> None:
    first, second, *_ = phantom.render(patient_of("normal", at_least=2))
    assert first.image.shape != second.image.shape or not np.array_equal(first.image, second.image)


# --- what comes out ---


def test_images_and_masks_are_uint8_of_one_plausible_size(archive: list[Radiograph]) -> None:
    for r in archive:
        height, width = r.image.shape
        assert 300 <= width <= 340
        assert 240 <= height <= 400
        assert r.image.dtype == r.lung_mask.dtype == np.uint8
        assert r.lung_mask.shape == r.image.shape
        assert set(np.unique(r.lung_mask)) == {0, 255}
        assert r.image.std() > 25
        assert r.view in ("PA", "AP")
    assert len({r.image.shape for r in archive}) > 10


def test_a_patient_has_one_label(archive: list[Radiograph]) -> None:
    seen: dict[str, set[tuple[int, str, str, int]]] = {}
    for r in archive:
        seen.setdefault(r.patient_id, set()).add((r.label, r.subtype, r.sex, r.age))
    assert all(len(kinds) == 1 for kinds in seen.values())


def test_lungs_fill_a_plausible_part_of_the_image_on_both_sides(archive: list[Radiograph]) -> None:
    for r in archive:
        assert 0.12 < (r.lung_mask > 0).mean() < 0.5
        middle = r.image.shape[1] // 2
        assert (r.lung_mask[:, :middle] > 0).mean() > 0.08
        assert (r.lung_mask[:, middle:] > 0).mean() > 0.08


def test_lung_is_darker_than_mediastinum() -> None:
    for patient in phantom.plan(40, SEED):
        if patient.label == 0:
            for r in phantom.render(patient):
                rows = np.flatnonzero((r.lung_mask > 0).any(axis=1))
                rows = rows[len(rows) // 3 : 2 * len(rows) // 3]
                between = [
                    r.image[row, columns[gap] + 3 : columns[gap + 1] - 2].mean()
                    for row in rows
                    for columns in [np.flatnonzero(r.lung_mask[row])]
                    for gap in [int(np.argmax(np.diff(columns)))]
                ]
                assert np.mean(between) > r.image[r.lung_mask > 0].mean() + 40


# --- disease ---


def test_normals_have_no_boxes_and_every_pneumonia_has_one_inside_image_and_lung(archive: list[Radiograph]) -> None:
    for r in archive:
        assert bool(r.boxes) == bool(r.label)
        for box in r.boxes:
            region = box_region(r, box)
            assert (r.lung_mask[region] > 0).mean() > 0.25
            assert all(isinstance(value, int) for value in box)


def test_interstitial_pattern_has_a_box_in_each_lung() -> None:
    for r in phantom.render(patient_of("virus")):
        assert len(r.boxes) == 2
        (left, _, left_width, _), (right, _, _, _) = sorted(r.boxes)
        assert left + left_width / 2 < r.image.shape[1] / 2 < right + 60


@pytest.mark.parametrize("subtype", ["bacteria", "virus"])
def test_disease_brightens_its_boxes_and_leaves_the_rest_of_the_patient_alone(subtype: str) -> None:
    brighter = []
    for patient in [p for p in phantom.plan(80, SEED) if p.subtype == subtype][:8]:
        pairs = zip(phantom.render(patient), phantom._render(patient, diseased=False), strict=True)
        for ill, well in pairs:
            assert well.boxes == ()
            assert np.array_equal(ill.lung_mask, well.lung_mask)
            difference = ill.image.astype(float) - well.image
            inside = np.zeros(ill.image.shape, bool)
            for box in ill.boxes:
                inside[box_region(ill, box)] = True
            lung = ill.lung_mask > 0
            brighter.append(difference[inside & lung].mean() - difference[~lung].mean())
    assert min(brighter) > 1
    assert np.mean(brighter) > 8


def test_disease_never_takes_more_room_than_the_lung_has() -> None:
    # Thickness, not grey: fluid replaces air, so soft tissue grows by what lung loses.
    patient = patient_of("bacteria")
    body_rng, disease_rng, image_rng = np.random.default_rng([patient.seed, patient.index]).spawn(3)
    anatomy, disease = phantom._anatomy(patient, body_rng), phantom._disease(patient, disease_rng)
    exposure = phantom._exposure(image_rng)
    assert disease is not None
    frame = phantom._frame(exposure)
    lungs = phantom._lungs(frame, anatomy, exposure)
    vessels = phantom._vessels(frame, anatomy)
    opacity = sum(phantom._opacities(frame, lungs, vessels, disease, exposure))
    assert isinstance(opacity, np.ndarray)
    assert opacity.min() >= 0
    well, ill = (phantom._thickness(frame, lungs, anatomy, exposure, vessels, part) for part in (0 * opacity, opacity))
    assert all(thickness.min() >= 0 for thickness in ill.values())
    gained, lost = ill["soft"] - well["soft"], well["lung"] - ill["lung"]
    open_lung = well["soft"] > 1
    np.testing.assert_allclose(gained[open_lung], lost[open_lung], atol=1e-4)


# --- physics ---


def test_transmission_is_beer_lambert() -> None:
    one_cm = np.ones((2, 3), np.float32)
    for material, per_cm in ATTENUATION.items():
        np.testing.assert_allclose(phantom.transmission({material: one_cm}), np.exp(-per_cm), rtol=1e-5)
    both = phantom.transmission({"soft": 3 * one_cm, "lung": 14 * one_cm})
    np.testing.assert_allclose(both, np.exp(-(3 * 0.217 + 14 * 0.0534)), rtol=1e-5)
    assert both.dtype == np.float32
    assert both.shape == (2, 3)


def test_noise_is_poisson() -> None:
    exposure = phantom._exposure(np.random.default_rng(0))._replace(photons=400.0, scatter=0.0, blur=0.01)
    signal = phantom._detect(np.full((300, 300), 0.25, np.float32), exposure, np.random.default_rng(1))
    assert signal.mean() == pytest.approx(0.25, rel=0.01)
    assert signal.std() == pytest.approx(np.sqrt(100) / 400, rel=0.03)


def test_pixels_and_centimetres_are_inverse() -> None:
    frame = phantom._frame(phantom._exposure(np.random.default_rng(3)))
    points = np.array([[frame.x[40, 70], frame.y[40, 70]]], np.float32)
    np.testing.assert_array_equal(phantom._to_fixed_point(points, frame), [[70 * 16, 40 * 16]])
