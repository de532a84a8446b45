"""Where work on many images runs: one `concurrent.futures.Executor` of local processes.

Only where, never what: a result does not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from pneumonia import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 2
"""Jobs under way for each worker: enough that none waits, few enough that memory stays flat."""


def run(
    function: Callable[[Sequence[Job]], Result],
    jobs: Sequence[Job],
    *,
    workers: int | None,
    chunk: int,
    label: str,
    unit: str = "image",
) -> Iterator[Result]:
    """The results of `function` over chunks of `jobs`, in the order of the jobs, with a progress bar.

    Args:
        function: importable by name (it is sent to other processes), takes up to `chunk` jobs.
        jobs: what there is to do, small and picklable.
        workers: processes; None = one for each core.
        chunk: jobs handed over at a time.
        label, unit: what the progress bar says.

    Raises:
        UserError: a worker process was killed, most often for lack of memory.
    """
    chunks = [jobs[start : start + chunk] for start in range(0, len(jobs), chunk)]
    workers = min(workers or os.cpu_count() or 1, max(len(chunks), 1))
    with tqdm(total=len(jobs), desc=label, unit=unit, disable=None, leave=False) as bar:
        if workers == 1:
            for part in chunks:
                yield function(part)
                bar.update(len(part))
            return
        # Spawned, not forked: a forked child of a process with threads can hang.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting: deque[tuple[Sequence[Job], Future[Result]]] = deque()
            try:
                for part in chunks:
                    waiting.append((part, pool.submit(function, part)))
                    if len(waiting) >= _AHEAD * workers:
                        yield _next_result(waiting, bar)
                while waiting:
                    yield _next_result(waiting, bar)
            except BrokenProcessPool as error:
                raise UserError(
                    f"{label}: a worker process was killed, most often for lack of memory; "
                    f"lower compute.workers (now {workers}) and run again"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _next_result(waiting: deque[tuple[Sequence[Job], Future[Result]]], bar: tqdm[Any]) -> Result:
    part, future = waiting.popleft()
    result = future.result()
    bar.update(len(part))
    return result
