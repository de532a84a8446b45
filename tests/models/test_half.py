"""Weights in half precision: half the bytes, nearly the same numbers, and the same names."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pneumonia import UserError, inference
from pneumonia.models import half

N = 2_000


def network(weights: np.ndarray) -> bytes:
    """ONNX: the pixels times the weights, plus one."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "weights"], ["product"]), helper.make_node("Add", ["product", "bias"], ["y"])],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [N])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [N])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.ones(1, np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def run(content: bytes) -> np.ndarray:
    session = inference.open_session(Path("toy.onnx"), content, threads=1, remedy="none")
    (values,) = session.run(["y"], {"x": np.full(N, 3, np.float32)})
    return np.asarray(values)


def test_large_constants_are_rounded_to_float16_and_the_arithmetic_is_that_of_float32() -> None:
    weights = np.random.default_rng(0).normal(size=N).astype(np.float32)
    halved = half.halve(network(weights))
    assert len(network(weights)) - len(halved) == pytest.approx(2 * N, abs=200)
    np.testing.assert_array_equal(run(halved), 3 * weights.astype(np.float16).astype(np.float32) + 1)
    np.testing.assert_allclose(run(halved), run(network(weights)), atol=5e-3)


def test_names_and_small_constants_stay_and_the_same_network_gives_the_same_bytes() -> None:
    weights = np.ones(N, np.float32)
    halved = half.halve(network(weights))
    graph = onnx.ModelProto.FromString(halved).graph
    onnx.checker.check_model(onnx.ModelProto.FromString(halved))
    assert {one.name: one.data_type for one in graph.initializer} == {
        "weights_float16": TensorProto.FLOAT16,
        "bias": TensorProto.FLOAT,
    }
    assert [name for node in graph.node for name in node.output] == ["weights", "product", "y"]
    assert halved == half.halve(network(weights))


@pytest.mark.parametrize("weight", [1e6, np.nan])
def test_a_weight_that_float16_cannot_hold_is_one_line(weight: float) -> None:
    with pytest.raises(UserError, match="which float16 cannot hold; take float32"):
        half.halve(network(np.full(N, weight, np.float32)))
