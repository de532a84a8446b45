"""Several networks as one, whose logit is the mean of theirs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ensemble(networks: Sequence[Any]) -> Any:
    """One network, in single precision, whose logit is the mean of the members' logits; a single member is returned.

    Args:
        networks: with the same name, as `networks.create_model` makes them.

    Returns:
        keras.Model with the same input and output; the members are its layers `member1`, `member2`, ….

    Source: deep ensembles, Lakshminarayanan et al. (2017), arXiv:1612.01474, who average the probabilities.
    """
    import keras
    from keras import layers

    networks = [in_float32(network) for network in networks]
    if len(networks) == 1:
        return networks[0]
    pixels = layers.Input((None, None, 1), name="pixels")
    parts = [
        keras.Model(network.input, network.get_layer("logit").output, name=f"member{number}")
        for number, network in enumerate(networks, start=1)
    ]
    logit = layers.Average(name="logit")([part(pixels) for part in parts])
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name=networks[0].name)


def members(model: Any) -> list[Any]:
    """The networks of an `ensemble`, which end in the logit; for another model the model itself."""
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]


def separate(model: Any) -> list[Any]:
    """The networks of an `ensemble` as they were before it, with a probability; for another model the model itself."""
    import keras
    from keras import layers

    parts = members(model)
    if parts == [model]:
        return parts
    return [
        keras.Model(part.input, layers.Activation("sigmoid", name="probability")(part.output), name=model.name)
        for part in parts
    ]


def in_float32(model: Any) -> Any:
    """The network in single precision, for any machine; one trained in half precision is rebuilt."""
    import keras

    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def as_float32(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    rebuilt = keras.models.clone_model(model, clone_function=as_float32)
    rebuilt.set_weights(model.get_weights())
    return rebuilt
