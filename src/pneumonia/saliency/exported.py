"""The part of a network that a saliency method needs, in ONNX: maps without TensorFlow.

`maps.onnx` is no network by itself. It holds the nodes and outputs that `model.onnx` lacks, without the weights that
are there. The bytes of both files, one after the other, are one network: a protobuf message in two parts is merged. So
`model.onnx` stays as it is, and scores do not depend on maps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pneumonia.saliency.maps import Maps


class Exported:
    """A network as the methods take it, in place of a Keras model.

    Args:
        session: of ONNX Runtime, with the bytes of `model.onnx` and `maps.onnx`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def compute(self, primitive: str, batch: Maps) -> list[Maps]:
        """The tensors of a primitive of `network`, float32 (n, …).

        Args:
            primitive: `logits`, `gradients`, `features` or `cells`: the one that was exported.
            batch: float32 (n, size, size, 1), 0-255, of the size of the exported images.
        """
        names = sorted(name for name in self._names if name.startswith(f"{primitive}_"))
        rows = [self._session.run(names, {"pixels": film[None]}) for film in batch]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
