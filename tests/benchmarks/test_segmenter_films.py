"""The segmenter learns from films whose masks move along, from none of the official test, and from other pictures."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import segmenter
from benchmarks import segmenter_films as films
from pneumonia.images.lungs import SIDE
from tests.conftest import KERMANY, png


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """Names of the Kermany set; the film of each is its mask, and one film has no mask."""
    paths = tmp_path / "films.zip", tmp_path / "masks.zip"
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 15:65] = 255
    for path, ending in zip(paths, ("jpeg", "png"), strict=True):
        with zipfile.ZipFile(path, "w") as archive:
            for name in KERMANY[: len(KERMANY) - (ending == "png")]:
                archive.writestr(f"chest_xray/{Path(name).with_suffix(f'.{ending}')}", png(mask))
    return paths


def test_no_official_test_film_is_learnt_from_and_no_patient_is_on_both_sides(archives: tuple[Path, Path]) -> None:
    chosen = films.films(*archives)
    assert len(chosen) == len(KERMANY) - 1
    learnt, held_out = segmenter.split(chosen)
    assert {film.member for film in (*learnt, *held_out)} == {film.member for film in chosen if not film.is_test}
    assert any(film.is_test for film in chosen)
    assert not {film.patient_id for film in learnt} & {film.patient_id for film in held_out}


@pytest.mark.parametrize("gentle", [0.0, 1.0])
def test_batches_are_the_same_for_a_seed_and_masks_move_with_their_films(
    archives: tuple[Path, Path], gentle: float
) -> None:
    read = [films.squashed(mask, films.STORED) for _, mask in films.read(*archives, films.films(*archives))]
    stored = np.stack(read)
    once, again = (list(films.batches(stored, stored, size=5, seed=3, gentle=gentle)) for _ in range(2))
    for (images, masks), (others, _) in zip(once, again, strict=True):
        assert images.shape == masks.shape == (5, SIDE, SIDE, 1)
        np.testing.assert_array_equal(images, others)
        assert 0 <= masks.min() <= masks.max() <= 1
        if gentle:  # gray levels stay as they are: what is white is lung
            white = images[masks > 0.9]
            assert (white == 255).mean() > 0.99
    assert sum(len(images) for images, _ in once) == 5 * (len(stored) // 5)


def test_other_pictures_are_of_every_kind() -> None:
    pictures = [films.without_lungs(np.random.default_rng(seed)) for seed in range(40)]
    assert {picture.shape for picture in pictures} == {(SIDE, SIDE)}
    spread = [int(picture.std()) for picture in pictures]
    assert min(spread) < 15 < 40 < max(spread)


def test_dice_of_known_masks() -> None:
    one, other = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool), np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
    assert segmenter.dice(one, other).tolist() == [0.5, 1.0]
