"""What ends the process of GDCM is an error for one image."""

import os
import signal
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels.utils import pixel_array

from pneumonia import UserError
from pneumonia.images import separate

NAME = "MR_small_jpeg_ls_lossless.dcm"


@pytest.fixture
def dataset() -> pydicom.Dataset:
    return pydicom.dcmread(Path(str(get_testdata_file(NAME, download=False))))


def test_pixels_are_those_of_pydicom_in_this_process(dataset: pydicom.Dataset) -> None:
    pixels = separate.pixel_array(dataset)
    np.testing.assert_array_equal(pixels, pixel_array(dataset))
    assert pixels.dtype == np.int16


def test_a_process_that_ends_is_started_again(dataset: pydicom.Dataset) -> None:
    first = separate._start().process
    os.kill(first.pid, signal.SIGABRT)  # as an exception of C++ does
    with pytest.raises(UserError, match=r"^damaged: GDCM cannot decode it$"):
        separate.pixel_array(dataset)
    assert first.returncode == -signal.SIGABRT
    assert separate.pixel_array(dataset).shape == (64, 64)


def test_ctrl_c_in_a_terminal_does_not_reach_the_process(dataset: pydicom.Dataset) -> None:
    separate.pixel_array(dataset)
    assert os.getpgid(separate._start().process.pid) != os.getpgid(0)


def test_a_process_that_does_not_answer_is_ended(dataset: pydicom.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    process = separate._start().process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(separate, "SECONDS", 0.05)
    with pytest.raises(UserError, match="has not decoded it"):
        separate.pixel_array(dataset)
    assert process.returncode == -signal.SIGKILL


def test_an_error_of_the_decoder_is_passed_on(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:200]
    process = separate._start().process
    with pytest.raises((RuntimeError, UserError)):
        separate.pixel_array(dataset)
    del dataset.Rows
    with pytest.raises(RuntimeError, match="Rows"):
        separate.pixel_array(dataset)
    assert process.pid
