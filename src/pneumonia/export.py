"""Everything a prediction needs: the network as ONNX, and one JSON that says how to use it and how far to trust it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from sklearn.covariance import LedoitWolf

from pneumonia import UserError, inference, reason, workspace
from pneumonia.data import lung_boxes, tables, targets
from pneumonia.data.store import Pixels, blocks, read_split
from pneumonia.images import appearance, lungs
from pneumonia.metrics import decisions
from pneumonia.models import detector, predictor
from pneumonia.saliency import conversion, verdicts
from pneumonia.saliency import network as saliency
from pneumonia.saliency.exported import Exported
from pneumonia.saliency.methods import METHODS, NEEDS, SEED

OPSET = 18
"""Version of the ONNX operators; runtimes since 2023 know it."""

POINTS = ("youden", "target_sensitivity")
"""Operating points of `evaluation.json` that a prediction can use: both are chosen on validation only."""

FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "brier", "ece")
"""Figures on test that `predictor.json` repeats, with their intervals."""

MARGIN = 1.2
"""Factor of the limit of usual images. A quantile of a hundred images is uncertain: over 40 splits of the phantom by
patient, up to 3.4 % of the films of other patients were beyond it, and up to 1 % with this margin. Other pictures are
mostly several times as far away."""

MAX_MAP_DIFFERENCE = 1e-3
"""Between the maps of ONNX and Keras, 0-1: the largest of a film, and of the films the median. A unit whose input is
next to 0 can be on in one and off in the other, by rounding; the map of this film then differs more in one place."""

MAX_DIFFERENCE_OF_MOST = 0.1
"""The same of all films but the one that differs most."""

MAX_BOX_DIFFERENCE = 1e-3
"""Between the boxes and their scores of ONNX and Keras, shares of the image and 0-1."""

N_COMPARED, N_SAMPLES = 8, 4
"""Validation images whose maps and boxes are compared, and `n_samples` of the method of the maps."""

MAX_PARAMETERS = 30_000_000
"""Of a network whose gradients are converted: the 51 million of `vanilla` need more than 19 GB of memory in tf2onnx."""

_NO_MAPS = "its maps need TensorFlow"
_UNSTABLE = "optimize_transpose"
"""Of tf2onnx: its result depends on the addresses of objects, and ONNX Runtime does the same when it opens a file."""

_SYNTHETIC = "Trained on synthetic radiographs: this score means nothing for a patient."
_RESEARCH = "For research. Not a medical device, and not tested on patients of your hospital."


def convert(model: Any) -> bytes:
    """A network as ONNX: input `pixels` float32 (n, height, width, 1), 0-255; output `probability` (n, 1), 0-1.

    Of a detector also the outputs `boxes` (n, cells, 4) and `box_scores` (n, cells), of all its cells, as
    `detector.decode` returns them. The number of images and their size are free.

    Args:
        model: as `networks.create_model` or `ensembles.ensemble` makes it.
    """
    joint = detector.joint(model) if detector.is_detector(model) else None

    def outputs(pixels: Any) -> dict[str, Any]:
        if joint:
            return dict(zip(("probability", *predictor.BOXES), joint(pixels), strict=True))
        return {"probability": model(pixels, training=False)}

    return bytes(_as_onnx(outputs, (None, None, None, 1)).SerializeToString(deterministic=True))


def convert_maps(
    model: Any,
    method: str,
    network: bytes,
    images: npt.NDArray[np.uint8] | Pixels,
    scores: npt.NDArray[np.float64],
) -> bytes:
    """What `saliency.exported` adds to an exported network, so that its maps need no TensorFlow.

    Args:
        model: the network in Keras.
        method: a key of `METHODS`.
        network: as `convert` returns it.
        images: uint8 (n, size, size), of validation; the maps of those with the highest scores are compared.
        scores: float (n,), of these images.

    Raises:
        UserError: an operation of the method has no counterpart in ONNX, the maps differ from those of Keras or are all
            0, or the network is too large.
    """
    if model.count_params() > MAX_PARAMETERS:
        raise UserError(f"the network has {model.count_params():,} parameters, too many to convert its gradients")
    try:
        content = convert_primitive(model, NEEDS[method], network, images.shape[1])
    except Exception as error:  # tf2onnx has no error class for an operation that it does not know
        raise UserError(f"its gradients cannot be converted to ONNX ({reason(error)})") from error
    exported = Exported(inference.open_session(Path(predictor.MAPS), network + content, threads=0, remedy=_NO_MAPS))
    highest = images[np.sort(np.argsort(scores)[-N_COMPARED:]).tolist()]
    ours, theirs = (METHODS[method](one, highest, n_samples=N_SAMPLES, seed=SEED) for one in (exported, model))
    differences = np.sort(np.abs(ours - theirs).max(axis=(1, 2)))  # NaN is the last
    bounds = ((float(np.median(differences)), MAX_MAP_DIFFERENCE), (differences[-2:][0], MAX_DIFFERENCE_OF_MOST))
    for difference, limit in bounds:
        if not difference <= limit:  # also if it is NaN
            raise UserError(f"the maps of the exported network differ from those of Keras by {difference:.2g}")
    if not theirs.any():
        raise UserError("all maps that could be compared with those of Keras are 0")
    return content


def maps_or_reason(
    model: Any,
    explained: Mapping[str, Any],
    network: bytes,
    images: npt.NDArray[np.uint8] | Pixels,
    scores: npt.NDArray[np.float64],
) -> tuple[bytes, str]:
    """What `convert_maps` returns, or nothing and its reason; nothing at all for a method that shows no maps.

    Args:
        model, network, images, scores: as of `convert_maps`.
        explained: `method` and `verdict`, as in `predictor.json`.
    """
    if verdicts.is_excluded(explained["verdict"]):
        return b"", ""
    try:
        return convert_maps(model, explained["method"], network, images, scores), ""
    except UserError as error:
        return b"", str(error)


def convert_primitive(model: Any, primitive: str, network: bytes, size: int) -> bytes:
    """What an exported network lacks for a primitive of `saliency.network`; films have `size` x `size` pixels."""
    tensors = saliency.tensors(model, primitive)

    def outputs(pixels: Any) -> dict[str, Any]:
        return {f"{primitive}_{number:02}": one for number, one in enumerate(tensors(pixels))}

    return conversion.addition(network, _as_onnx(outputs, (1, size, size, 1), conversion.HANDLERS))


def _as_onnx(function: Any, shape: tuple[int | None, ...], handlers: Mapping[str, Any] | None = None) -> Any:
    """A function from pixels, float32 of this shape, to named tensors as `onnx.ModelProto`, named by content."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx uses names that numpy and Python have deprecated
        network = _converted(function, shape, dict(handlers or {}))
    outputs = {output.name for output in network.graph.output}
    for constant in network.graph.initializer:
        if constant.name in outputs:  # the gradient of a linear head
            network.graph.node.add(op_type="Identity", input=[f"{constant.name}_value"], output=[constant.name])
            constant.name += "_value"
    _name_by_content(network.graph)
    return network


def _converted(function: Any, shape: tuple[int | None, ...], handlers: dict[str, Any]) -> Any:
    """As `tf2onnx.convert.from_function`, which takes no list of optimizers; here without `_UNSTABLE`."""
    import tensorflow as tf
    from tf2onnx import convert, optimizer, tf_loader, tfonnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it writes tracebacks of what the caller handles
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="pixels"))
    inputs, outputs = (
        [tensor.name for tensor in ends if tensor.dtype != tf.resource] for ends in (concrete.inputs, concrete.outputs)
    )
    with tf.device("/cpu:0"):
        frozen = tf_loader.from_function(concrete, inputs, outputs)
        with tf.Graph().as_default() as imported:
            tf.import_graph_def(frozen, name="")
            graph = tfonnx.process_tf_graph(
                imported,
                continue_on_error=True,  # what has no handler fails when ONNX Runtime opens it
                opset=OPSET,
                custom_op_handlers=handlers,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename=convert.tensor_names_from_structed(concrete, inputs, outputs),
            )
            stable = {name: one for name, one in optimizer._get_optimizers().items() if name != _UNSTABLE}
            return optimizer.optimize_graph(graph, optimizers=stable).make_model("pneumonia")


def fit_usual(
    train: npt.NDArray[np.uint8] | Pixels,
    val: npt.NDArray[np.uint8] | Pixels,
    false_alarms: float,
    shares: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None,
) -> dict[str, Any]:
    """What images of this kind look like, to recognise one of another kind; with folds see `fit_usual_in_folds`.

    A normal distribution of `appearance.describe` is fitted on train, with the shrunk covariance of Ledoit and Wolf.
    The limit is a quantile of the distances on validation, times `MARGIN`.

    Of films that are prepared around their lungs, those without lungs are left out here, because they are unusual in
    any case. They count as false alarms. One half of the false alarms that remain is for the distance, the other for
    the share of the film that the lungs take, at both ends of its range.

    Args:
        train, val: uint8 (n, size, size), 0-255.
        false_alarms: share of the validation images beyond the limits before their margin, 0-1.
        shares: of the film that is lung, of train and of val, float (n,), NaN without lungs, as `lung_boxes.shares`.

    Returns:
        `mean`, `scale`, `precision` and `limit` of the squared Mahalanobis distance; `false_alarms`; `n`: train images;
        with shares also `lungs`, the `low` and the `high` limit of the share.

    Source: Ledoit & Wolf (2004), doi:10.1016/S0047-259X(03)00096-4; Mahalanobis distances for images unlike those of
        training: Lee et al. (2018), arXiv:1807.03888.
    """
    described, validated, limits = _descriptions(train), _descriptions(val), _Limits(false_alarms, {})
    if shares is not None and all(np.isfinite(one).any() for one in shares):
        described, validated = (
            images[np.isfinite(one)] for images, one in zip((described, validated), shares, strict=True)
        )
        limits = _limit_lungs(shares[1], false_alarms)
    usual = _normal(described)
    return _usual(usual, predictor.distances(validated, *usual), false_alarms, limits, n=len(described))


def fit_usual_in_folds(
    images: npt.NDArray[np.uint8] | Pixels,
    folds: npt.NDArray[np.int8],
    false_alarms: float,
    shares: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """As `fit_usual`: the distribution is that of all images, the limit that of distances out of fold.

    The distance of an image for the limit is from a distribution that was fitted on the other folds.

    Args:
        images: uint8 (n, size, size), 0-255, all outside test.
        folds: of each image, int8 (n,).
        false_alarms, shares: as in `fit_usual`, of these images.
    """
    described, limits = _descriptions(images), _Limits(false_alarms, {})
    if shares is not None and np.isfinite(shares).any():
        described, folds = described[np.isfinite(shares)], folds[np.isfinite(shares)]
        limits = _limit_lungs(shares, false_alarms)
    parts = [predictor.distances(described[folds == k], *_normal(described[folds != k])) for k in np.unique(folds)]
    return _usual(_normal(described), np.concatenate(parts), false_alarms, limits, n=len(described))


class _Limits(NamedTuple):
    """The share of false alarms at the limit of the distance, and the limits of the share of the film that is lung."""

    of_distance: float
    of_lungs: dict[str, Any]


def _limit_lungs(shares: npt.NDArray[np.float64], false_alarms: float) -> _Limits:
    known = shares[np.isfinite(shares)]
    half = max(0.0, false_alarms - (1 - len(known) / len(shares))) / 2
    low, high = np.quantile(known, [half / 2, 1 - half / 2])
    return _Limits(half, {"lungs": {"low": float(low) / MARGIN, "high": min(1.0, float(high) * MARGIN)}})


class _Normal(NamedTuple):
    """A normal distribution of descriptions, with its numbers as they are in the file."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]


def _normal(described: npt.NDArray[np.float64]) -> _Normal:
    mean, scale = described.mean(axis=0), described.std(axis=0) + 1e-6
    precision = LedoitWolf().fit((described - mean) / scale).precision_
    # Rounded as in the file, so that the limit is that of the published numbers.
    return _Normal(*(np.array(tables.rounded(values.tolist())) for values in (mean, scale, precision)))


def _usual(
    usual: _Normal, distances: npt.NDArray[np.float64], false_alarms: float, limits: _Limits, *, n: int
) -> dict[str, Any]:
    return {
        "limit": MARGIN * float(np.quantile(distances, 1 - limits.of_distance)),
        "false_alarms": false_alarms,
        "n": n,
        **limits.of_lungs,
        **{name: values.tolist() for name, values in usual._asdict().items()},
    }


def external(
    evaluation: Mapping[str, Any],
    usual: Mapping[str, Any],
    store: zarr.Group,
    films: pd.DataFrame,
    *,
    memory: float | None = None,
) -> dict[str, dict[str, float]]:
    """Source -> its main figures on external tests, and the share of its images that a prediction calls unusual.

    Args:
        evaluation: the report of this name.
        usual: as `fit_usual` returns it.
        store: of the external tests.
        films: the table of the stage `external`, for the patient identifiers.
        memory: as in `store.read_split`.
    """
    patients = films.set_index("image_id")["patient_id"]
    figures = {}
    for name, part in evaluation.get("external", {}).items():
        split = read_split(store, name, memory=memory)
        unusual = are_unusual(split.images, usual, lung_boxes.shares(store, name))
        groups = patients[list(map(str, split.image_ids))].to_numpy()
        share, trials = unusual.mean(), decisions.effective_trials(unusual, groups, evaluation["level"])
        low, high = decisions.wilson_interval(share * trials, trials, evaluation["level"])
        names = [f"{one}{end}" for one in FIGURES for end in ("", "_low", "_high")]
        figures[name] = {
            **{one: part[one] for one in ("n", "n_positive", *names) if one in part},
            "unusual": float(share),
            "unusual_low": low,
            "unusual_high": high,
        }
    return figures


def are_unusual(
    images: npt.NDArray[np.uint8] | Pixels,
    usual: Mapping[str, Any],
    shares: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which prepared images a predictor calls unusual: bool (n,).

    Args:
        images: uint8 (n, size, size), 0-255.
        usual: as `fit_usual` returns it.
        shares: of the film that is lung, as in `fit_usual`; None for films that are not prepared around the lungs.
    """
    normal = _Normal(*(np.asarray(usual[name]) for name in _Normal._fields))
    unusual = predictor.distances(_descriptions(images), *normal) > usual["limit"]
    if shares is not None:
        limits = {"low": 0.0, "high": 1.0, **usual.get("lungs", {})}
        unusual |= ~((shares >= limits["low"]) & (shares <= limits["high"]))  # also without lungs, whose share is NaN
    return np.asarray(unusual)


def facts(
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    rebalance: Mapping[str, Any],
    *,
    source: Mapping[str, Any],
    network: str,
    preparation: Mapping[str, Any],
    usual: Mapping[str, Any],
    explained: Mapping[str, Any],
    outside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `predictor.json`; `write` adds the digest of the network.

    Args:
        record: `models/run.json`.
        evaluation, rebalance: the reports of these names.
        source: of the data: `title, licence, citation, synthetic`.
        network: description of the architecture.
        preparation: of the images.
        usual: as `fit_usual` returns it.
        explained: `explain.json`.
        outside: as `external` returns it.
    """
    train, reported, target = rebalance["splits"]["train"], evaluation["youden"], targets.of(record)
    counts = ("n_images", "n_patients", *(f"n_{name}" for name in target.classes.values()))
    names = [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    return {
        "schema": predictor.SCHEMA,
        "target": target.name,
        "labels": list(target.classes.values()),
        "caution": " ".join(filter(None, (_SYNTHETIC if source["synthetic"] else _RESEARCH, target.limit))),
        "data": record["data"],
        "synthetic": source["synthetic"],
        "model": record["model"],
        "network": network,
        "weights": record["weights"],
        "learnt_from": {
            "title": source["title"],
            "licence": source["licence"],
            "citation": source["citation"],
            **{name: train[name] for name in counts},
        },
        "preparation": dict(preparation),
        "calibration": evaluation["calibration"],
        "operating_points": {point: _point(evaluation[point]) for point in POINTS},
        **({"boxes": _boxes(evaluation["detection"])} if "detection" in evaluation else {}),
        "figures": {
            "level": evaluation["level"],
            "val": {name: reported["val"][name] for name in ("n", "n_positive", "auc")},
            "test": {name: reported["test"][name] for name in ("n", "n_positive", *names) if name in reported["test"]},
            "test_split": rebalance["test_split"],
        },
        **({"external": dict(outside)} if outside else {}),
        "saliency": {"method": explained["default"], "verdict": explained["methods"][explained["default"]]["verdict"]},
        "digests": {name: record[name] for name in ("model_sha256", "data_digest")},
        "made_with": record["made_with"],
        "unusual": dict(usual),
    }


def _boxes(detection: Mapping[str, Any]) -> dict[str, float]:
    """What `predictor.json` says of boxes: the least score of one that is shown, and the figures on test."""
    names = [f"{name}{end}" for name in ("rsna_map", "ap50") for end in ("", "_low", "_high")]
    return {name: detection[name] for name in ("threshold", "n", "n_boxes", *names) if name in detection}


def write(folder: Path, network: bytes, content: Mapping[str, Any], maps: bytes = b"") -> None:
    """Write the predictor to an existing folder; with the segmenter, if films are prepared around the lungs.

    Args:
        folder: for `model.onnx` and `predictor.json`.
        network: as `convert` returns it.
        content: as `facts` returns it.
        maps: as `convert_maps` returns it; empty if maps need TensorFlow.
    """
    if content["preparation"].get("aspect") == "lungs":
        lungs.open_segmenter(digest=content["preparation"]["segmenter"])  # or an error: it is another one
        shutil.copyfile(lungs.FILE, folder / predictor.LUNGS)
    files = {predictor.NETWORK: network, **({predictor.MAPS: maps} if maps else {})}
    for name, written in files.items():
        (folder / name).write_bytes(written)
    digests = {**{name: workspace.sha256_bytes(one) for name, one in files.items()}, **content["digests"]}
    rounded = tables.rounded({**content, "digests": digests})
    rounded["digests"][predictor.FACTS] = predictor.facts_digest(rounded)
    text = json.dumps(rounded, indent=2)
    (folder / predictor.FACTS).write_text(_lists_on_one_line(text) + "\n", encoding="utf-8")


def require_same_scores(
    exported: predictor.Predictor,
    images: npt.NDArray[np.uint8] | Pixels,
    scores: npt.NDArray[np.float64],
    max_difference: float,
) -> float:
    """Check that a predictor gives the scores and decisions of the Keras network; returns the largest difference.

    Args:
        exported: the predictor.
        images: uint8 (n, size, size), of validation.
        scores: float (n,), of the Keras network; without folds those of `predictions.csv`.
        max_difference: largest difference of a score that is allowed.

    Raises:
        UserError: a larger difference, or another decision at an operating point.
    """
    exported_scores = np.array([answer.score for block in blocks(images) for answer in _answers(exported, block)])
    difference = float(np.abs(exported_scores - scores).max())
    if not difference <= max_difference:  # also if it is NaN
        raise UserError(
            f"the exported network differs from the trained one by {difference:.2g} in the score of a validation "
            f"image; at most {max_difference:g} is allowed (export.max_difference)"
        )
    for name, point in exported.facts["operating_points"].items():
        n_changed = int(((exported_scores >= point["threshold"]) != (scores >= point["threshold"])).sum())
        if n_changed:
            raise UserError(
                f"the exported network changes {n_changed} of {len(scores):,} decisions on validation at the operating "
                f"point {name}; its scores differ by up to {difference:.2g}"
            )
    return difference


def require_same_boxes(exported: predictor.Predictor, model: Any, images: npt.NDArray[np.uint8] | Pixels) -> float:
    """Check that a predictor of a detector finds the boxes of the Keras network; returns the largest difference.

    It is that of all cells, in shares of the image and in scores. Another network has no difference.

    Args:
        exported: the predictor.
        model: the network in Keras.
        images: uint8 (n, size, size), of validation; the first are compared.

    Raises:
        UserError: a difference above `MAX_BOX_DIFFERENCE`.
    """
    if not exported.finds_boxes:
        return 0.0
    some = images[:N_COMPARED]
    _, *theirs = detector.joint(model)(some[..., None].astype(np.float32))
    ours = exported.cells(some)
    difference = max(float(np.abs(one - np.asarray(other)).max()) for one, other in zip(ours, theirs, strict=True))
    if not difference <= MAX_BOX_DIFFERENCE:  # also if it is NaN
        raise UserError(f"the boxes of the exported network differ from those of the trained one by {difference:.2g}")
    return difference


def _name_by_content(graph: Any) -> None:
    """Name constants and nodes after their content, and sort them: the same network then gives the same bytes.

    tf2onnx numbers them in the order of sets of text, which Python changes from process to process. Nodes with the same
    content are one node.
    """
    outputs = {output.name for output in graph.output}
    constants, nodes, names = {}, {}, {}
    for constant in graph.initializer:
        old_name, constant.name = constant.name, ""
        names[old_name] = f"constant_{workspace.sha256_bytes(constant.SerializeToString(deterministic=True))[:16]}"
        constant.name = names[old_name]
        constants[constant.name] = constant
    for node in graph.node:  # in topological order
        if not node.domain:
            node.ClearField("domain")  # tf2onnx writes it or not, by the same order of sets
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        inputs = [names.get(name, name) for name in node.input]
        content = repr((node.op_type, node.domain, attributes, inputs, len(node.output)))
        name = f"{node.op_type}_{workspace.sha256_bytes(content.encode())[:16]}"
        named = [old if old in outputs else f"{name}_{number}" for number, old in enumerate(node.output)]
        names |= dict(zip(node.output, named, strict=True))
        node.name, node.input[:], node.output[:] = name, inputs, named
        nodes[name] = node
    ordered, ready = [], {*constants, *(one.name for one in graph.input), ""}
    while waiting := sorted(nodes):
        name = next(one for one in waiting if ready.issuperset(nodes[one].input))
        ordered.append(nodes.pop(name))
        ready.update(ordered[-1].output)
    for field, values in ((graph.initializer, [constants[name] for name in sorted(constants)]), (graph.node, ordered)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    graph.name = "pneumonia"
    graph.ClearField("doc_string")  # has a number of the process, as names of free dimensions have
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.Clear()
    del graph.value_info[:]


def _point(figures: Mapping[str, Any]) -> dict[str, Any]:
    """An operating point: its threshold on raw and on calibrated scores, and its figures on test."""
    test = figures["test"]
    names = [f"{name}{end}" for name in ("sensitivity", "specificity") for end in ("", "_low", "_high")]
    return {
        "threshold": figures["threshold"],
        "threshold_calibrated": figures["calibrated"]["threshold"],
        **{name: test[name] for name in names if name in test},
    }


def _descriptions(images: npt.NDArray[np.uint8] | Pixels) -> npt.NDArray[np.float64]:
    return np.stack([appearance.describe(image) for block in blocks(images) for image in block])


def _answers(exported: predictor.Predictor, images: npt.NDArray[np.uint8]) -> Iterator[predictor.Prediction]:
    for first in range(0, len(images), predictor.BATCH):
        yield from exported.answers(images[first : first + predictor.BATCH])


def _lists_on_one_line(text: str) -> str:
    """JSON with lists of numbers on one line each: the matrix of 47 x 47 numbers then has 47 lines."""
    return re.sub(r"\[\s+([-\d][^\[\]{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
