"""The table of methods."""

from typing import Any

import pytest

from pneumonia.saliency import network
from pneumonia.saliency.methods import METHODS, NEEDS
from tests.saliency import by_hand


class Asked(Exception):  # noqa: N818
    """A method has asked the network for this."""


@pytest.mark.parametrize("method", METHODS)
def test_a_method_asks_the_network_for_what_its_row_names(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(primitive: str) -> Any:
        def ask(model: Any) -> None:
            raise Asked(primitive)

        return ask

    for primitive in set(NEEDS.values()):
        monkeypatch.setattr(network, primitive, asked(primitive))
    with pytest.raises(Asked, match=NEEDS[method]):
        METHODS[method](None, by_hand.films(1), n_samples=1, seed=0)
