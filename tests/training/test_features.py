"""Features of a backbone of a few weights."""

import numpy as np
import pytest

from pneumonia.models import backbones, runtime
from pneumonia.training.features import frozen_features
from tests.conftest import PLAIN
from tests.toys import backbone_model, toy_split


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def test_features_are_those_of_the_backbone_and_copies_differ_in_their_augmentation() -> None:
    model, split, val = backbone_model(), toy_split(20), toy_split(10, seed=9)
    plain = frozen_features(model, split, val, PLAIN._replace(copies=3), epochs=9, seed=1, batch_size=8)
    body, _ = backbones.halves(model)
    assert plain.train.shape == (1, 20, 4)
    np.testing.assert_allclose(plain.train[0], body.predict(split.images[..., None], verbose=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain.val, body.predict(val.images[..., None], verbose=0), rtol=1e-4, atol=1e-5)
    recipe = PLAIN._replace(augment=1.0, copies=3)
    copied = frozen_features(model, split, val, recipe, epochs=9, seed=1, batch_size=8)
    assert copied.train.shape == (3, 20, 4)
    for one, other in (
        (copied.train[0], copied.train[1]),
        (copied.train[1], copied.train[2]),
        (copied.train[0], plain.train[0]),
    ):
        assert (np.abs(one - other).max(axis=1) > 1e-5).all()
    np.testing.assert_array_equal(copied.val, plain.val)
    cropped = frozen_features(model, split, val, PLAIN._replace(crop=0.5, copies=3), epochs=9, seed=1, batch_size=8)
    assert cropped.train.shape == (3, 20, 4)
    assert (np.abs(cropped.train[0] - cropped.train[1]).max(axis=1) > 1e-5).all()
    np.testing.assert_array_equal(cropped.val, plain.val)
    again = frozen_features(model, split, val, recipe, epochs=9, seed=1, batch_size=8)
    np.testing.assert_array_equal(copied.train, again.train)
    fewer = frozen_features(model, split, val, recipe, epochs=2, seed=1, batch_size=8)
    np.testing.assert_array_equal(fewer.train, copied.train[:2])


def test_only_images_that_an_epoch_shows_have_features() -> None:
    model, val = backbone_model(), toy_split(4, seed=9)
    split = toy_split(20)
    unseen = np.arange(20) % 3 == 0
    made = frozen_features(
        model, split._replace(repeats=np.where(unseen, 0, split.repeats)), val, PLAIN, epochs=1, seed=1, batch_size=8
    ).train[0]
    plain = frozen_features(model, split, val, PLAIN, epochs=1, seed=1, batch_size=8).train[0]
    assert not made[unseen].any()
    np.testing.assert_allclose(made[~unseen], plain[~unseen], rtol=1e-5)
    assert plain[unseen].any()


def test_with_half_of_the_images_distorted_every_image_has_copies_that_differ() -> None:
    model, split, val = backbone_model(), toy_split(64), toy_split(4, seed=9)
    recipe = PLAIN._replace(augment=0.5, copies=6)
    made = frozen_features(model, split, val, recipe, epochs=9, seed=1, batch_size=16).train
    plain = frozen_features(model, split, val, PLAIN, epochs=9, seed=1, batch_size=16).train[0]
    touched = np.abs(made - plain).max(axis=2) > 1e-5
    assert touched.mean() == pytest.approx(0.5, abs=0.08)
    assert touched.any(axis=0).mean() > 0.95  # 1 - 1 / 2 ** 6 of them are expected
