"""A small predictor without TensorFlow: its score rises with the mean gray level of the prepared image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pneumonia import workspace
from pneumonia.images import appearance
from pneumonia.models import predictor

SIZE = 32
FACTS: dict[str, Any] = {
    "schema": "1.0",
    "data": "chest_xray",
    "model": "toy",
    "preparation": {"size": SIZE, "clip_limit": 0.0},
    "calibration": {"slope": 0.5, "bias": 1.0},
    "operating_points": {
        "youden": {"threshold": 0.5, "threshold_calibrated": 0.73105858},
        "target_sensitivity": {"threshold": 0.2, "threshold_calibrated": 0.57611688},
    },
}


def expected_score(level: float) -> float:
    """The score of an image with this mean gray level."""
    return 1 / (1 + np.exp(-(level - 128) / 32))


def network(*, infinite: bool = False) -> bytes:
    """ONNX: the logistic function of (mean gray level - 128) / 32, or of infinity minus itself."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "width"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    middle, width = (np.inf, np.inf) if infinite else (128, 32)
    constants = {
        "axes": np.array([1, 2], np.int64),
        "middle": np.array(middle, np.float32),
        "width": np.array(width, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, None, None, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def maps() -> bytes:
    """What `maps.onnx` adds to `network` for the method occlusion: the logit as an output of its own."""
    graph = helper.make_graph(
        [helper.make_node("Squeeze", ["logit", "column"], ["logits_00"])],
        "",
        [],
        [helper.make_tensor_value_info("logits_00", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array([1], np.int64), "column")],
    )
    return bytes(onnx.ModelProto(graph=graph).SerializeToString())


def write_with_maps(folder: Path, **changes: Any) -> Path:
    """A predictor folder whose maps need no TensorFlow; their method is occlusion."""
    content = maps()
    digests = {predictor.NETWORK: workspace.sha256_bytes(network()), predictor.MAPS: workspace.sha256_bytes(content)}
    write(folder, **{"saliency": {"method": "occlusion"}, "digests": digests} | changes)
    (folder / predictor.MAPS).write_bytes(content)
    return folder


def write(folder: Path, content: bytes | None = None, **changes: Any) -> Path:
    """A predictor folder; `changes` are keys of `predictor.json`, None = without that key."""
    folder.mkdir(parents=True, exist_ok=True)
    content = network() if content is None else content
    (folder / predictor.NETWORK).write_bytes(content)
    facts = FACTS | {"digests": {predictor.NETWORK: workspace.sha256_bytes(content)}} | changes
    facts = {name: value for name, value in facts.items() if value is not None}
    (folder / predictor.FACTS).write_text(json.dumps(facts))
    return folder


def usual_gray(limit: float) -> dict[str, Any]:
    """Facts by which images near to plain gray 128 are usual."""
    mean = appearance.describe(np.full((SIZE, SIZE), 128, np.uint8))
    return {
        "limit": limit,
        "mean": mean.tolist(),
        "scale": [10.0] * len(mean),
        "precision": np.eye(len(mean)).tolist(),
    }
