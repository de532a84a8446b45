"""What a training step minimises, and how: the loss, the learning rate and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pneumonia.training.recipe import Recipe


def cross_entropy(label_smoothing: float) -> Callable[[Any, Any], Any]:
    """Binary cross-entropy of logits, as a loss of Keras.

    The loss that Keras has is a sum of four terms. TensorFlow adds their gradients in the order in which they are
    ready where a network needs much memory; the last bits of the sum, and so of the weights, would be chance. With two
    terms the order has no effect.

    Args:
        label_smoothing: share of one half in each label, 0-1.
    """
    from keras import ops

    def loss(label: Any, logit: Any) -> Any:
        label = label + label_smoothing * (0.5 - label)
        return ops.mean(label * ops.softplus(-logit) + (1 - label) * ops.softplus(logit), axis=-1)

    return loss


def warmup_cosine(peak: float, *, epochs: int, steps: int) -> Any:
    """Learning rate that rises to `peak` over the first epoch, then falls along a cosine to 0 after the last one.

    Args:
        peak: highest learning rate.
        epochs: length of the phase.
        steps: per epoch.

    Returns:
        keras.optimizers.schedules.LearningRateSchedule.
    """
    import keras

    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 10,
        decay_steps=max(1, (epochs - 1) * steps),
        warmup_target=peak,
        warmup_steps=steps,
    )


def adamw(rate: Any, recipe: Recipe, depths: Mapping[str, int], variables: Sequence[Any]) -> Any:
    """AdamW; where `recipe.layer_decay` is not 1, one for each block of the backbone.

    Biases and normalisations do not decay: their size says nothing of how complex a network is.

    Args:
        variables: those that learn.
        rate: learning rate of the head, as `warmup_cosine` makes it.
        recipe: weight decay and layer decay.
        depths: as `networks.depths` returns them; empty without a backbone.
    """
    import keras

    undecayed = [one for one in variables if len(one.shape) < 2]

    def at(depth: int) -> Any:
        class Decayed(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
            def __call__(self, step: Any) -> Any:
                return rate(step) * recipe.layer_decay**depth

        optimizer = keras.optimizers.AdamW(Decayed(), weight_decay=recipe.weight_decay, clipnorm=1.0)
        optimizer.exclude_from_weight_decay(var_list=undecayed)
        return optimizer

    if recipe.layer_decay == 1 or not depths:
        return at(0)
    optimizers = {depth: at(depth) for depth in {0, *depths.values()}}
    return keras.optimizers.MultiOptimizer(lambda variable: optimizers[depths.get(variable.path.split("/")[0], 0)])
