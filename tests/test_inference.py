"""A network is opened from its own file, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from pneumonia import UserError, inference
from tests import predictors


def test_a_network_gives_its_scores() -> None:
    session = inference.open_session(Path("model.onnx"), predictors.network(), threads=1, remedy="export again")
    (scores,) = session.run(["probability"], {"pixels": np.zeros((2, 8, 8, 1), np.float32)})
    np.testing.assert_allclose(scores, np.full((2, 1), 1 / (1 + np.exp(4))), rtol=1e-5)  # (0 - 128) / 32 is -4


def test_what_is_no_network_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"^model\.onnx cannot be opened \(.+\); export again$"):
        inference.open_session(Path("model.onnx"), b"no network", threads=1, remedy="export again")
