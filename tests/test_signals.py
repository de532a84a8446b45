"""A signal ends a program in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pneumonia import signals


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Signals as in a terminal: a shell lets the programs that it starts in the background ignore Ctrl-C."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.NAMES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_the_block_with_the_status_of_shells(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, signals.in_order() as received:
        os.kill(os.getpid(), number)
    assert (ended.value.code, received) == (status, [number])
    assert signal.getsignal(number) is before


def test_the_same_request_once_more_does_not_interrupt_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            closed.append(True)

    with pytest.raises(SystemExit), signals.in_order() as received:
        work()
    assert closed == [True]
    assert received == [signal.SIGTERM]
    monkeypatch.setattr(signals, "REPEATED_SECONDS", 0)
    with pytest.raises(SystemExit), signals.in_order() as received:
        work()
    assert closed == [True], "a later signal is another request"
    assert len(received) == 2


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.in_order() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


END = "import os, signal\nfrom pneumonia import signals\nsignals.end_at_once()\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_where_nothing_is_open_a_signal_ends_the_process_with_one_line(name: str, repo: Path) -> None:
    code = f"{END}try:\n    os.kill(os.getpid(), signal.{name})\nexcept BaseException:\n    pass\nprint('still there')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": f"{repo}/src"}, capture_output=True, text=True
    )
    assert done.returncode == signals.status(getattr(signal, name))
    assert done.stderr == f"{signals.line(getattr(signal, name))}\n"
    assert done.stdout == ""
