"""The part of a network that another one does not have."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pneumonia import export, inference
from pneumonia.saliency import conversion, network
from pneumonia.saliency.exported import Exported

WEIGHTS = np.arange(6, dtype=np.float32).reshape(1, 6) + 1


def graph_of(outputs: dict[str, list[int | None]], nodes: list[Any], **constants: Any) -> Any:
    """`onnx.ModelProto` with nodes and constants named by content."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, None, None, 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    export._name_by_content(model.graph)
    return model


def test_nodes_and_weights_are_there_once_also_a_matrix_the_other_way_round() -> None:
    """The gradient of a product with a matrix is the product with its transpose."""
    product = helper.make_node("MatMul", ["pixels", "weights"], ["product"])
    squares = helper.make_node("Mul", ["product", "product"], ["probability"])
    back = helper.make_node("MatMul", ["probability", "turned"], ["gradients_00"])
    whole = graph_of({"gradients_00": [None] * 4}, [product, squares, back], weights=WEIGHTS, turned=WEIGHTS.T.copy())
    base = graph_of({"probability": [None] * 4}, [product, squares], weights=WEIGHTS).SerializeToString()
    part = conversion.addition(base, whole)
    graph = onnx.ModelProto.FromString(part).graph
    # The square is an output of the base, under that name: it is computed again.
    assert sorted(node.op_type for node in graph.node) == ["MatMul", "Mul", "Transpose"]
    assert not graph.initializer
    one = Exported(inference.open_session(Path("maps.onnx"), base + part, threads=1, remedy=""))
    (gradient,) = network.gradients(one)(np.full((1, 1, 1, 1), 2, np.float32))
    np.testing.assert_allclose(gradient, 4 * (WEIGHTS**3).sum())
