"""What tf2onnx lacks to convert gradients, and the part of a converted network that another one does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Handler = Callable[[Any, Any, str, list[Any]], None]
"""Of tf2onnx: takes its graph, a node, the name of the node and arguments, and puts ONNX nodes in its place."""

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def addition(network: bytes, whole: Any) -> bytes:
    """The nodes, constants and outputs of a network that another one does not have.

    Behind the bytes of the other network they are a network with the outputs of both. A matrix that the other one has
    the other way round is transposed when the network is opened: each weight of a dense layer would be there twice.

    Args:
        network: ONNX, whose nodes and constants are named after their content.
        whole: `onnx.ModelProto`, named in the same way.

    Returns:
        A serialised `onnx.ModelProto` without inputs, whose nodes use names of `network`.
    """
    import onnx

    base = onnx.ModelProto.FromString(network).graph
    known = {name for node in base.node for name in node.output} | {constant.name for constant in base.initializer}
    matrices = {(tuple(one.dims), one.raw_data): one.name for one in base.initializer if len(one.dims) == 2}
    part = onnx.ModelProto()
    for constant in whole.graph.initializer:
        if constant.name in known:
            continue
        other = None
        if len(constant.dims) == 2:
            turned = np.ascontiguousarray(onnx.numpy_helper.to_array(constant).T)
            other = matrices.get((turned.shape, turned.tobytes()))
        if other:
            part.graph.node.append(onnx.helper.make_node("Transpose", [other], [constant.name], perm=[1, 0]))
        else:
            part.graph.initializer.append(constant)
    # The same node has another name of its result if that is an output of one network only: it is there twice then.
    part.graph.node.extend(node for node in whole.graph.node if not known.issuperset(node.output))
    for node in part.graph.node:
        node.ClearField("name")
    part.graph.output.extend(whole.graph.output)
    return bytes(part.SerializeToString(deterministic=True))


def _handler(build: Callable[..., str]) -> tuple[Handler, list[Any]]:
    """A handler as tf2onnx takes it, of a function that makes the nodes and returns the name of the result."""

    def handle(graph: Any, node: Any, name: str, args: list[Any]) -> None:
        result = build(graph, node, *node.input)
        outputs, shapes, types = node.output, node.output_shapes, node.output_dtypes
        graph.remove_node(node.name)
        graph.make_node("Identity", [result], outputs=outputs, shapes=shapes, dtypes=types)

    return handle, []


def _node(graph: Any, kind: str, inputs: list[str], **attributes: Any) -> str:
    return str(graph.make_node(kind, inputs, attr=attributes).output[0])


def _constant(graph: Any, values: npt.ArrayLike, kind: Any = np.float32) -> str:
    from tf2onnx import utils

    return str(graph.make_const(utils.make_name("constant"), np.asarray(values, kind)).output[0])


def _where(graph: Any, condition: str, values: str) -> str:
    return _node(graph, "Where", [condition, values, _constant(graph, 0)])


def _relu(graph: Any, node: Any, slopes: str, features: str) -> str:
    return _where(graph, _node(graph, "Greater", [features, _constant(graph, 0)]), slopes)


def _relu6(graph: Any, node: Any, slopes: str, features: str) -> str:
    inside = _node(graph, "Less", [features, _constant(graph, 6)])
    return _where(graph, inside, _relu(graph, node, slopes, features))


def _rsqrt(graph: Any, node: Any, result: str, slopes: str) -> str:
    cube = _node(graph, "Mul", [_node(graph, "Mul", [result, result]), result])
    return _node(graph, "Mul", [_node(graph, "Mul", [cube, slopes]), _constant(graph, -0.5)])


def _sigmoid(graph: Any, node: Any, result: str, slopes: str) -> str:
    rest = _node(graph, "Sub", [_constant(graph, 1), result])
    return _node(graph, "Mul", [_node(graph, "Mul", [result, rest]), slopes])


def _softplus(graph: Any, node: Any, slopes: str, features: str) -> str:
    return _node(graph, "Mul", [_node(graph, "Sigmoid", [features]), slopes])


def _max_pool(graph: Any, node: Any, pixels: str, pooled: str, slopes: str) -> str:
    """Each slope goes to the place of the maximum of its window.

    Args:
        pixels: float32 (n, height, width, channels), which was pooled.
        pooled, slopes: float32 (n, rows, columns, channels).

    Returns:
        The gradient at `pixels`, of their shape.
    """
    where = graph.make_node("MaxPool", [_nchw(graph, pixels)], attr=_windows(node), output_count=2).output[1]
    n, height, width, channels = graph.get_shape(pixels)
    flat = _constant(graph, [-1], np.int64)
    size = _constant(graph, [n * height * width * channels], np.int64)
    shape = _constant(graph, [n, channels, height, width], np.int64)
    nothing = _node(graph, "Expand", [_constant(graph, [0]), size])
    places, values = (_node(graph, "Reshape", [one, flat]) for one in (where, _nchw(graph, slopes)))
    spread = _node(graph, "ScatterElements", [nothing, places, values], axis=0, reduction="add")
    return _node(graph, "Transpose", [_node(graph, "Reshape", [spread, shape])], perm=_TO_NHWC)


def _average_pool(graph: Any, node: Any, shape: str, slopes: str) -> str:
    """Each slope, float32 (n, rows, columns, channels), goes in equal parts to the pixels of its window.

    The windows have no padding.
    """
    channels = node.output_shapes[0][3]
    rows, columns = _windows(node)["kernel_shape"]
    return _spread(graph, node, slopes, np.full((channels, 1, rows, columns), 1 / (rows * columns)), channels)


def _convolution(graph: Any, node: Any, shape: str, kernel: str, slopes: str) -> str:
    """In place of the handler of tf2onnx, which fails where a stride leaves pixels over."""
    values = graph.get_node_by_output(kernel).get_tensor_value(as_list=False)  # (rows, columns, channels, filters)
    return _spread(graph, node, slopes, values.transpose(3, 2, 0, 1), 1)


def _depthwise(graph: Any, node: Any, shape: str, kernel: str, slopes: str) -> str:
    values = graph.get_node_by_output(kernel).get_tensor_value(as_list=False)  # (rows, columns, channels, 1)
    return _spread(graph, node, slopes, values.transpose(2, 3, 0, 1), values.shape[2])


def _spread(graph: Any, node: Any, slopes: str, kernel: npt.NDArray[Any], groups: int) -> str:
    """The transpose of a convolution with the strides and the padding of a node.

    Args:
        slopes: float32 (n, rows, columns, filters), after the convolution.
        kernel: float32 (filters, channels / groups, rows, columns).
        groups: of channels, each with its own filters.

    Returns:
        float32 (n, height, width, channels), of the shape before the convolution.
    """
    sizes, steps = node.output_shapes[0][1:3], tuple(node.get_attr("strides").ints)[1:3]
    is_padded = node.get_attr("padding").s.decode() == "SAME"
    before, after, missing = [], [], []
    for side, cells, step, width in zip(sizes, graph.get_shape(slopes)[1:3], steps, kernel.shape[2:], strict=True):
        beyond = step * (cells - 1) + width - side
        before.append(max(beyond, 0) // 2 if is_padded else 0)
        after.append(max(beyond, 0) - before[-1])
        missing.append(max(-beyond, 0))
    spread = _node(
        graph,
        "ConvTranspose",
        [_nchw(graph, slopes), _constant(graph, np.ascontiguousarray(kernel))],
        group=groups,
        strides=list(steps),
        pads=before + after,
        output_padding=missing,
    )
    return _node(graph, "Transpose", [spread], perm=_TO_NHWC)


def _resize(graph: Any, node: Any, slopes: str, pixels: str) -> str:
    """Bilinear resizing is a product with one matrix for each side; its gradient is that with their transposes.

    Args:
        slopes: float32 (n, rows, columns, channels), of the resized values.
        pixels: float32 (n, height, width, channels), before the resizing.
    """
    sizes = zip(graph.get_shape(pixels)[1:3], graph.get_shape(slopes)[1:3], strict=True)
    down, across = (_bilinear(graph, old, new) for old, new in sizes)
    rows = _node(graph, "MatMul", [_node(graph, "Transpose", [down], perm=[1, 0]), _nchw(graph, slopes)])
    return _node(graph, "Transpose", [_node(graph, "MatMul", [rows, across])], perm=_TO_NHWC)


def _bilinear(graph: Any, old: int, new: int) -> str:
    """Weights of the pixels of a side in those of the resized one, (new, old): the identity matrix, resized."""
    square, film, sizes, shape = (
        _constant(graph, values, np.int64) for values in ([old, old], [1, 1, old, old], [1, 1, new, old], [new, old])
    )
    identity = _node(graph, "EyeLike", [_node(graph, "Expand", [_constant(graph, [0]), square])])
    resized = _node(
        graph,
        "Resize",
        [_node(graph, "Reshape", [identity, film]), "", "", sizes],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return _node(graph, "Reshape", [resized, shape])


def _nchw(graph: Any, values: str) -> str:
    """(n, height, width, channels) as (n, channels, height, width)."""
    return _node(graph, "Transpose", [values], perm=_TO_NCHW)


def _windows(node: Any) -> dict[str, Any]:
    return {
        "kernel_shape": list(node.get_attr("ksize").ints)[1:3],
        "strides": list(node.get_attr("strides").ints)[1:3],
        "auto_pad": {"SAME": "SAME_UPPER"}.get(node.get_attr("padding").s.decode(), "VALID"),
    }


HANDLERS = {
    "ReluGrad": _handler(_relu),
    "Relu6Grad": _handler(_relu6),
    "RsqrtGrad": _handler(_rsqrt),
    "SigmoidGrad": _handler(_sigmoid),
    "SoftplusGrad": _handler(_softplus),
    "MaxPoolGrad": _handler(_max_pool),
    "AvgPoolGrad": _handler(_average_pool),
    "Conv2DBackpropInput": _handler(_convolution),
    "DepthwiseConv2dNativeBackpropInput": _handler(_depthwise),
    "ResizeBilinearGrad": _handler(_resize),
}
"""Of tf2onnx, for operations of gradients whose shapes are known."""
