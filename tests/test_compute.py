"""Where work runs never changes what comes out; a lost worker is one clear error."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pneumonia import UserError, compute

# Workers import this file by name, so what they run stands at its top level.


def squares(jobs: Sequence[int]) -> list[int]:
    return [job * job for job in jobs]


def process(jobs: Sequence[int]) -> int:
    return os.getpid()


def first_waits_for_third(jobs: Sequence[tuple[int, Path]]) -> tuple[int, int]:
    """Leaves a file for each job; job 0 ends only after job 2, which so must run in another process."""
    ((number, folder),) = jobs
    give_up = time.monotonic() + 60
    while number == 0 and not (folder / "2").exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    (folder / str(number)).touch()
    return number, os.getpid()


def killed_at_three(jobs: Sequence[int]) -> int:
    if 3 in jobs:
        os._exit(137)  # what the kernel does to a process that takes too much memory
    return len(jobs)


def refused(jobs: Sequence[int]) -> int:
    if 2 in jobs:
        raise UserError(f"job 2 of {list(jobs)} is bad")
    return len(jobs)


def crashed(jobs: Sequence[int]) -> int:
    raise ZeroDivisionError("a bug, not a user's mistake")


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    parts = list(compute.run(squares, range(10), workers=workers, chunk=4, label="test"))
    assert parts == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


def test_order_is_kept_when_later_jobs_finish_first(tmp_path: Path) -> None:
    jobs = [(number, tmp_path) for number in range(6)]
    results = list(compute.run(first_waits_for_third, jobs, workers=2, chunk=1, label="test"))
    assert [number for number, _ in results] == list(range(6))
    assert results[0][1] != results[2][1]
    assert os.getpid() not in dict(results).values()


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_no_jobs_give_no_results(workers: int | None) -> None:
    assert list(compute.run(squares, [], workers=workers, chunk=4, label="test")) == []


def test_one_chunk_needs_no_other_process() -> None:
    assert list(compute.run(process, [1, 2], workers=8, chunk=2, label="test")) == [os.getpid()]


def test_a_killed_worker_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError) as caught:
        list(compute.run(killed_at_three, range(12), workers=2, chunk=1, label="preprocess train"))
    message = str(caught.value)
    assert message.startswith("preprocess train: a worker process was killed")
    assert "lower compute.workers (now 2)" in message
    assert "\n" not in message


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_arrives_as_it_is(workers: int) -> None:
    with pytest.raises(UserError, match=r"^job 2 of \[2, 3\] is bad$"):
        list(compute.run(refused, range(6), workers=workers, chunk=2, label="test"))


def test_a_bug_in_a_worker_is_not_dressed_up_as_a_mistake_of_the_user() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(compute.run(crashed, range(4), workers=2, chunk=2, label="test"))


def test_workers_stay_a_few_jobs_ahead_of_the_reader_and_stop_with_it(tmp_path: Path) -> None:
    jobs = [(number, tmp_path) for number in range(50)]
    results = compute.run(first_waits_for_third, jobs, workers=2, chunk=1, label="test")
    assert next(results)[0] == 0
    time.sleep(0.3)  # in which the rest would be done, were it handed out
    results.close()  # type: ignore[attr-defined]
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2", "3"}
