"""Recipes with and without pretrained weights."""

from tests.conftest import PLAIN


def test_only_fields_of_the_recipe_go_into_it() -> None:
    values = {"batch_size": 4, "learning_rate": 0.1, "dropout": 0.5}
    assert PLAIN.with_values(values) == PLAIN._replace(batch_size=4)


def test_a_recipe_from_scratch_trains_all_layers_at_one_rate_and_keeps_the_rest() -> None:
    tuned = PLAIN._replace(head_epochs=3, unfreeze=0.5, layer_decay=0.7, mixup=0.2, average=0.9)
    assert tuned.for_weights([]) == PLAIN._replace(mixup=0.2, average=0.9)
    assert tuned.for_weights(["a.h5"]) == tuned
