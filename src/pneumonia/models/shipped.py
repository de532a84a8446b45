"""Networks that ship with this package: they answer right after installation, before any training.

`benchmarks/ship.py` adds one from a finished run. Each is a predictor, as the stage `export` writes it, with a card. A
network whose films are prepared around the lungs uses the one segmenter of the package.
"""

from __future__ import annotations

from pathlib import Path

from pneumonia import UserError
from pneumonia.models import predictor

PREFIX = "pretrained:"
"""Before the name of a network where a model is named."""

BEST = "mobilenet"
"""The network that answers if none is named: the row that was named the best before it looked at the test split."""

CARD = "README.md"


def names() -> list[str]:
    """The networks of this package, the one that answers by default first; empty if it has none."""
    parts = (predictor.NETWORK, predictor.FACTS)  # one of them may be lost
    known = {path.parent.name for part in parts for path in predictor.PRETRAINED.glob(f"[!.]*/{part}")}
    return sorted(known, key=lambda name: (name != BEST, name))


def default() -> str:
    """The address of the network that answers if none is named; empty if the package has none."""
    return next((PREFIX + name for name in names()), "")


def folder(address: str) -> Path:
    """The folder of a network.

    Args:
        address: `pretrained:NAME`.

    Raises:
        UserError: the package has no such network.
    """
    name = address.removeprefix(PREFIX)
    if name not in (known := names()):
        raise UserError(
            f"{address}: no such network ships with this version of pneumonia; known: "
            f"{', '.join(PREFIX + one for one in known) or 'none'}"
        )
    return predictor.PRETRAINED / name
