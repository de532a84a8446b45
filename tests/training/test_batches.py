"""Batches image by image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.data.store import Pixels, Split
from pneumonia.models import runtime
from pneumonia.training.batches import batches
from pneumonia.training.recipe import Recipe
from tests.conftest import PLAIN
from tests.toys import toy_split


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def numbered_split(n: int) -> Split:
    """Image i is filled with i; label and weight follow from i too."""
    number = np.arange(n)
    return Split(
        images=np.broadcast_to(number[:, None, None], (n, 4, 4)).astype(np.uint8),
        labels=(number % 2).astype(np.int8),
        weights=(number / 8).astype(np.float32),
        repeats=np.ones(n, np.int16),
        image_ids=number.astype(str),
    )


def take(n: int, split: Split, rows: NDArray, **options: Any) -> list[tuple[NDArray, NDArray, NDArray]]:
    how = {"batch_size": 4} | {name: options.pop(name) for name in Recipe._fields if name in options}
    stream = batches(split.images, split, rows, PLAIN._replace(**how), **({"seed": 5} | options))
    return [tuple(part.numpy() for part in batch) for batch in stream.take(n)]


def numbers(taken: list[tuple[NDArray, NDArray, NDArray]]) -> list[int]:
    return [int(pixels[0, 0, 0]) for images, *_ in taken for pixels in images]


def test_a_stream_is_not_tuned() -> None:
    """Its end would wait for the tuner."""
    stream = batches(numbered_split(16).images, numbered_split(16), np.arange(16), PLAIN, seed=5)
    assert stream.options().autotune.enabled is False


def test_labels_and_weights_belong_to_their_images() -> None:
    for pixels, labels, weights in take(6, numbered_split(16), np.arange(16)):
        assert pixels.shape == (4, 4, 4, 1)
        assert pixels.dtype == labels.dtype == weights.dtype == np.float32
        number = pixels[:, 0, 0]
        np.testing.assert_array_equal(labels, number % 2)
        np.testing.assert_array_equal(weights, number / 8)


def test_an_epoch_shows_each_image_as_often_as_it_repeats() -> None:
    repeats = np.array([0, 1, 2, 5])
    seen = numbers(take(4, numbered_split(4), np.repeat(np.arange(4), repeats), batch_size=2))
    assert np.bincount(seen, minlength=4).tolist() == repeats.tolist()


def test_each_epoch_has_a_new_order_and_leaves_a_smaller_batch_out() -> None:
    seen = numbers(take(4, numbered_split(11), np.arange(11)))
    first, second = seen[:8], seen[8:]
    assert len(set(first)) == len(set(second)) == 8
    assert first != second
    assert first != sorted(first)


def test_the_same_seed_gives_the_same_batches() -> None:
    split = numbered_split(12)
    first, again = (take(5, split, np.arange(12), augment=1.0) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert numbers(take(3, split, np.arange(12))) != numbers(take(3, split, np.arange(12), seed=6))


def test_an_image_is_distorted_anew_in_each_epoch() -> None:
    split = toy_split(4)
    (first, *_), (second, *_) = take(2, split, np.zeros(4, int), augment=1.0)
    images = np.concatenate([first, second])
    differences = [np.abs(images[i] - images[j]).mean() for i in range(8) for j in range(i)]
    assert min(differences) > 0.5


def test_batches_of_features_draw_from_all_copies_of_the_right_image() -> None:
    split = numbered_split(16)
    features = (1000 * np.arange(3)[:, None, None] + np.arange(16)[None, :, None]).astype(np.float32)  # (copies, n, 1)
    stream = batches(features, split, np.arange(16), PLAIN._replace(batch_size=4), seed=1)
    copies = set()
    for inputs, labels, weights in stream.take(8):
        copy, number = np.divmod(inputs.numpy(), 1000)
        np.testing.assert_array_equal(labels, number % 2)
        np.testing.assert_array_equal(weights, number / 8)
        copies |= set(copy.ravel())
    assert copies == {0, 1, 2}


def test_the_cells_of_a_detector_are_peaks_where_the_boxes_of_the_shown_images_are() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(8, 24, (16, 1, 2)), np.full((16, 1, 2), 16)], axis=2).astype(np.float32).round()
    images = np.zeros((16, 48, 48), np.uint8)
    for image, ((x, y, width, height),) in zip(images, boxes.astype(int), strict=True):
        image[y : y + height, x : x + width] = 200
    split = numbered_split(16)._replace(images=images)
    recipe = PLAIN._replace(batch_size=8, crop=0.7, flip=True, augment=1.0)
    for size in (40, 96):  # images smaller than the network's input keep their size
        (_, (_, cells), _), *_ = batches(images, split, np.arange(16), recipe, seed=1, size=size, boxes=boxes).take(1)
        assert cells.shape == (8, size // 8, size // 8, 7)
    stream = batches(images, split, np.arange(16), recipe, seed=1, size=64, boxes=boxes)
    for pixels, (labels, cells), (weights, ones) in stream.take(2):
        assert (pixels.shape, cells.shape, ones.numpy().min()) == ((8, 64, 64, 1), (8, 8, 8, 7), 1)
        np.testing.assert_array_equal(labels, 8 * weights % 2)
        for image, (y, x) in zip(
            pixels[..., 0].numpy(), [np.argwhere(one == 1)[0] for one in cells[..., 0].numpy()], strict=True
        ):
            middle = np.argwhere(image > image.mean() + 20).mean(axis=0)
            np.testing.assert_allclose(middle, [8 * y + 4, 8 * x + 4], atol=8)


def test_a_large_set_is_shuffled_pool_by_pool_alike_in_memory_and_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_CHUNK", 4)
    monkeypatch.setattr("pneumonia.training.batches.POOL_BYTES", 2 * 4 * 16)  # two chunks of four images
    split = numbered_split(30)
    array = zarr.create_array(store=str(tmp_path / "images"), data=split.images, chunks=(4, 4, 4))
    seen = numbers(take(15, split, np.arange(30), batch_size=2))
    streamed = split._replace(images=Pixels(array, budget=2 * 4 * 16))
    assert numbers(take(15, streamed, np.arange(30), batch_size=2)) == seen
    assert sorted(seen) == list(range(30))
    places = np.argsort(seen)  # where each image was shown
    widths = [int(np.ptp(places[begin : begin + 4])) for begin in range(0, 30, 4)]
    assert 4 <= max(widths) < 8  # the four images of a chunk are shown within a pool of two, mixed with the other
