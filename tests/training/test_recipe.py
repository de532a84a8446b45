"""Recipes with and without pretrained weights."""

from tests.conftest import PLAIN


def test_a_recipe_from_scratch_trains_all_layers_at_one_rate_and_keeps_the_rest() -> None:
    tuned = PLAIN._replace(head_epochs=3, unfreeze=0.5, layer_decay=0.7, mixup=0.2, average=0.9)
    assert tuned.for_weights([]) == PLAIN._replace(mixup=0.2, average=0.9)
    assert tuned.for_weights(["a.h5"]) == tuned
