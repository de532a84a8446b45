"""Two lungs are found in a film, nothing in other pictures; rules with reasons refuse what is no pair of lungs."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia import UserError, workspace
from pneumonia.data import phantom
from pneumonia.images import geometry, lungs
from pneumonia.images.geometry import Box, Gray, Preparation
from pneumonia.images.lungs import SIDE, Finding

AROUND = Preparation(size=64, aspect="lungs", segmenter=geometry.SEGMENTER)


@pytest.fixture(scope="module")
def films() -> list[phantom.Radiograph]:
    return [phantom.render(patient)[0] for patient in phantom.plan(24, seed=3)[:4]]


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_the_network_is_the_one_that_preparations_name_and_is_small() -> None:
    assert workspace.sha256_file(lungs.FILE) == geometry.SEGMENTER
    assert lungs.FILE.stat().st_size <= 4_000_000
    assert (lungs.FILE.parent / "card.md").is_file()


def test_the_lungs_of_the_phantom_are_found_where_they_are(films: list[phantom.Radiograph]) -> None:
    for film in films:
        found = lungs.find(film.image)
        assert found is not None
        mask = found.mask(*film.image.shape)
        assert mask.shape == film.image.shape
        # The phantom's own masks leave out the heart, which human masks take for lung.
        assert dice(mask, film.lung_mask > 0) > 0.85
        y, x = np.nonzero(mask)
        expected = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        sides = (found.box.x, found.box.y, found.box.x + found.box.width, found.box.y + found.box.height)
        assert sides == pytest.approx(expected, abs=film.image.shape[1] / SIDE)
        assert found.share == pytest.approx(mask.mean(), abs=0.01)


def test_the_same_film_has_the_same_lungs_at_twice_the_size_and_in_other_gray_levels(
    films: list[phantom.Radiograph],
) -> None:
    film = films[0].image
    double = lungs.find(cv2.resize(film, None, fx=2, fy=2))
    darker = lungs.find((film * 0.6).astype(np.uint8))
    found = lungs.find(film)
    assert found is not None
    assert double is not None
    assert darker is not None
    assert np.array(double.box) / 2 == pytest.approx(np.array(found.box), abs=0.02 * film.shape[1])
    assert np.array(darker.box) == pytest.approx(np.array(found.box), abs=0.02 * film.shape[1])


def test_the_lungs_of_an_inverted_film_are_those_of_the_film(films: list[phantom.Radiograph]) -> None:
    for film in films:
        upright, inverted = lungs.find(film.image), lungs.find(255 - film.image)
        assert upright is not None
        assert inverted is not None
        np.testing.assert_array_equal(inverted.probability, upright.probability)
        assert inverted.box == upright.box


def test_an_upright_film_is_searched_once_and_an_inverted_one_twice(
    films: list[phantom.Radiograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Gray] = []
    really = lungs.Segmenter.probability

    def count(self: lungs.Segmenter, image: Gray) -> npt.NDArray[np.float32]:
        searched.append(image)
        return really(self, image)

    monkeypatch.setattr(lungs.Segmenter, "probability", count)
    film = films[0].image
    lungs.find(film)
    assert len(searched) == 1
    lungs.find(255 - film)
    assert len(searched) == 3
    np.testing.assert_array_equal(searched[2], film)


def beside(films: list[phantom.Radiograph]) -> Gray:
    two = [cv2.resize(film.image, (200, 200)) for film in films[:2]]
    return np.hstack(two)


def page() -> Gray:
    page = np.full((300, 220), 245, np.uint8)
    for line in range(15, 300, 18):
        cv2.putText(page, "impression of the chest", (10, line), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 30, 1)
    return page


def lateral() -> Gray:
    """A chest from the side: one field of lung with the heart in it, before the spine."""
    film = np.full((300, 340), 170, np.uint8)
    cv2.ellipse(film, (170, 150), (102, 120), 0, 0, 360, 70, -1)
    cv2.line(film, (238, 0), (255, 300), 210, 28)
    cv2.ellipse(film, (136, 180), (42, 38), 0, 0, 360, 190, -1)
    grain = np.random.default_rng(0).normal(0, 3, film.shape)
    return np.clip(cv2.GaussianBlur(film, (0, 0), 4) + grain, 0, 255).astype(np.uint8)


def thumbnail(film: Gray) -> Gray:
    return np.pad(cv2.resize(film, (80, 80)), ((20, 300), (20, 300)), constant_values=240)


PICTURES: dict[str, Any] = {
    "a lateral film": lambda films: lateral(),
    "the other lung": lambda films: films[1].image[:, films[1].image.shape[1] // 2 :],
    "two films, one above the other": lambda films: np.vstack([cv2.resize(films[0].image, (200, 200))] * 2),
    "four films": lambda films: np.tile(cv2.resize(films[0].image, (150, 150)), (2, 2)),
    "a small film on a page": lambda films: thumbnail(films[0].image),
    "black": lambda films: np.zeros((100, 120), np.uint8),
    "one gray level": lambda films: np.full((100, 120), 128, np.uint8),
    "noise": lambda films: np.random.default_rng(0).integers(0, 256, (200, 180), dtype=np.uint8),
    "a page": lambda films: page(),
    "one lung": lambda films: films[0].image[:, : films[0].image.shape[1] // 2],
    "two films": beside,
    "a film on its side": lambda films: np.rot90(films[0].image).copy(),
    "one pixel": lambda films: np.full((1, 1), 7, np.uint8),
    "a line": lambda films: np.random.default_rng(0).integers(0, 256, (1, 3000), dtype=np.uint8),
}


@pytest.mark.parametrize("name", PICTURES)
def test_another_picture_has_no_lungs_and_a_reason(films: list[phantom.Radiograph], name: str) -> None:
    finding = lungs.open_segmenter().examine(PICTURES[name](films))
    assert finding.lungs is None
    assert finding.problem


def probabilities(*ellipses: tuple[float, float, float, float], level: float = 0.98) -> npt.NDArray[np.float32]:
    """Ellipses of lung with this probability: x, y of the middle, half width, half height, as shares of the side."""
    probability = np.zeros((SIDE, SIDE), np.float32)
    for ellipse in ellipses:
        x, y, across, down = (round(SIDE * one) for one in ellipse)
        cv2.ellipse(probability, (x, y), (across, down), 0, 0, 360, level, -1)
    return probability


def parts(*ellipses: tuple[float, float, float, float], level: float = 0.98) -> Finding:
    """What is said of ellipses in a square film."""
    return lungs._judged(probabilities(*ellipses, level=level), 400, 400)


RIGHT, LEFT = (0.3, 0.5, 0.13, 0.3), (0.7, 0.5, 0.13, 0.3)


@pytest.mark.parametrize(
    ("finding", "problem"),
    [
        (parts(RIGHT, LEFT), ""),
        (parts(RIGHT, LEFT, (0.5, 0.9, 0.05, 0.05)), ""),  # gas in the stomach
        (parts(), "no lungs"),
        (parts(RIGHT), "one lung only"),
        (parts(RIGHT, (0.7, 0.5, 0.06, 0.08)), "one lung only"),
        (parts(RIGHT, (0.7, 0.5, 0.02, 0.02)), "one lung only"),
        (parts(RIGHT, (0.6, 0.5, 0.1, 0.3), (0.88, 0.5, 0.1, 0.3)), "more than two parts look like lungs"),
        (parts((0.5, 0.25, 0.3, 0.13), (0.5, 0.7, 0.3, 0.13)), "the two parts are not side by side"),
        (parts((0.3, 0.5, 0.17, 0.04), (0.7, 0.5, 0.17, 0.04)), "the two parts do not have the form of lungs"),
        (parts((0.05, 0.5, 0.04, 0.3), (0.95, 0.5, 0.04, 0.3)), "the two parts do not have the form of lungs"),
        (parts((0.26, 0.5, 0.2, 0.18), (0.74, 0.5, 0.2, 0.18)), "the two parts do not have the form of lungs"),
        (parts(RIGHT, LEFT, level=0.6), "nothing that is clearly lung"),
    ],
)
def test_each_rule_has_its_reason(finding: Finding, problem: str) -> None:
    assert finding.problem == problem
    assert (finding.lungs is None) == bool(problem)


def test_the_box_lies_between_cells_where_the_probability_crosses_one_half() -> None:
    """Rows 10 to 29 and columns 20 to 39, 60 to 79 are lung; .25 beside it and .75 at its border is half a cell."""
    probability = np.zeros((SIDE, SIDE), np.float32)
    for left in (20, 60):
        probability[9:31, left - 1 : left + 21] = 0.25
        probability[10:30, left : left + 20] = 0.75
    found = lungs._judged(probability, 2 * SIDE, SIDE).lungs
    assert found is not None
    assert found.box == Box(20, 2 * 10, 60, 2 * 20)
    probability[9, 19:41] = 0.45  # the crossing moves up by a third of a cell, the box does not jump
    moved = lungs._judged(probability, 2 * SIDE, SIDE).lungs
    assert moved is not None
    assert moved.box.y == pytest.approx(2 * (9.5 + 0.05 / 0.3), abs=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    ellipses=st.lists(st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.01, 0.5)] * 2), max_size=4),
    height=st.integers(1, 3_000),
    width=st.integers(1, 3_000),
)
def test_whatever_the_network_says_the_lungs_lie_in_the_film_and_a_film_is_never_cut_to_nothing(
    ellipses: list[tuple[float, float, float, float]], height: int, width: int
) -> None:
    finding = lungs._judged(probabilities(*ellipses), height, width)
    assert bool(finding.lungs) != bool(finding.problem)
    if not finding.lungs:
        return
    box = finding.lungs.box
    assert box.x >= 0
    assert box.y >= 0
    assert box.x + box.width <= width * (1 + 1e-9)
    assert box.y + box.height <= height * (1 + 1e-9)
    assert box.width * box.height >= finding.lungs.share * width * height * 0.9
    assert finding.lungs.share >= 2 * lungs.SMALLEST
    part, place = geometry.region(width, height, AROUND, box)
    assert part.width >= 1
    assert part.height >= 1
    assert place.width == place.height == AROUND.size


def test_a_third_part_is_in_neither_mask_nor_box() -> None:
    found = parts(RIGHT, LEFT, (0.5, 0.93, 0.06, 0.04)).lungs
    assert found is not None
    assert found.box.y + found.box.height < 0.85 * 400
    assert not found.mask(400, 400)[350:].any()


def test_lungs_behind_a_crop_lie_in_the_pixels_of_the_whole_film(films: list[phantom.Radiograph]) -> None:
    film, crop = films[0].image, 0.05
    x, y, content = geometry.cropped(film, crop)
    in_content = lungs.find(content)
    found, _ = lungs.look(film, Preparation(size=64, aspect="lungs", segmenter=geometry.SEGMENTER, crop=crop))
    assert in_content is not None
    assert found is not None
    assert found.box == in_content.box._replace(x=in_content.box.x + x, y=in_content.box.y + y)
    mask = found.mask(*film.shape)
    np.testing.assert_array_equal(geometry.cropped(mask.astype(np.uint8), crop)[2], in_content.mask(*content.shape))
    assert not mask[:y].any()


@pytest.mark.parametrize("scale", [0.13, 0.5, 1.7])
def test_the_mask_of_a_picture_of_a_film_is_that_of_the_film_in_another_size(
    films: list[phantom.Radiograph], scale: float
) -> None:
    film = films[0].image
    found, _ = lungs.search(film, 0.05)
    assert found is not None
    whole = found.mask(*film.shape).astype(np.uint8)
    picture = cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert dice(found.mask(*picture.shape, scale), picture > 0) > 0.97


def test_nothing_is_searched_for_a_film_that_is_prepared_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lungs, "open_segmenter", None)
    assert lungs.look(np.zeros((9, 9), np.uint8), Preparation(size=64)) == (None, "")
    assert lungs.box(np.zeros((9, 9), np.uint8), Preparation(size=64, aspect="squash")) is None


def test_a_segmenter_that_is_damaged_missing_or_of_another_version_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "lungs.onnx"
    with pytest.raises(UserError, match=r"lungs\.onnx: the network that finds lungs cannot be read .*export the model"):
        lungs.open_segmenter(path)
    content = lungs.FILE.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"lungs\.onnx: the network that finds lungs is damaged or of another version"):
        lungs.open_segmenter(path)
    with pytest.raises(UserError, match="of another version"):
        lungs.look(np.zeros((9, 9), np.uint8), Preparation(size=64, aspect="lungs", segmenter="0" * 64))
    path.write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"lungs\.onnx cannot be opened \(.*\); install the project again"):
        lungs.open_segmenter(path, workspace.sha256_bytes(b"not a network"))
