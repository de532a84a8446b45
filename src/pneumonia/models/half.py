"""Weights of an ONNX network in half precision: a file of half the size, whose arithmetic stays in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from pneumonia import UserError

SMALL = 1_000
"""Numbers of a constant up to which it stays in single precision: normalisations, biases, sizes."""


def halve(network: bytes) -> bytes:
    """An ONNX network whose large constants are stored in float16, with a conversion to float32 behind each.

    Inputs, outputs and the names of all values stay. ONNX Runtime converts the constants once, when it opens the file.

    Raises:
        UserError: a constant has a number that float16 cannot hold.
    """
    import onnx

    model = onnx.ModelProto.FromString(network)
    halve_constants(model.graph)
    return bytes(model.SerializeToString(deterministic=True))


def halve_constants(graph: Any) -> None:
    """As `halve`, in place, for an `onnx.GraphProto`."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if constant.data_type == TensorProto.FLOAT and values.size > SMALL:
            name, largest = constant.name, float(np.abs(values).max())
            if not largest <= float(np.finfo(np.float16).max):  # also if it is NaN
                raise UserError(f"the network has a weight of {largest:g}, which float16 cannot hold; take float32")
            constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
            casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]  # a node comes after those whose output it takes
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
