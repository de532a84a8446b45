"""The limits fit the files of X-ray devices, and agree with each other."""

from pneumonia.images import limits
from pneumonia.service.limits import Limits, RefusedError


def test_the_largest_detectors_fit_and_100_megabytes_do_not() -> None:
    assert 4_280 * 3_520 * 2 + 100_000 < Limits().file_bytes < 100_000_000
    assert Limits().pixels == limits.MAX_PIXELS


def test_one_request_cannot_take_what_all_share() -> None:
    one = Limits()
    assert one.file_bytes < one.request_bytes < one.held_bytes
    assert one.waiting >= 32
    assert one.connections > one.waiting


def test_a_refusal_is_one_line_with_its_status() -> None:
    error = RefusedError(429, "busy", retry=1)
    assert (error.status, error.message, error.retry, str(error)) == (429, "busy", 1, "busy")
