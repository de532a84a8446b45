"""Where work on many images runs: one `concurrent.futures.Executor`, of local processes or of a Dask cluster.

Only where, never what: a result does not depend on the number or the place of the workers.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from pneumonia import UserError, code_digest

if TYPE_CHECKING:
    from distributed import Client

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_LOSSES = 2
"""Times a pool that lost a worker is built anew, for the chunks that are not finished."""

_AHEAD = 2
"""Chunks under way for each worker: enough that none waits, few enough that memory stays flat."""

_CONNECT_SECONDS = 10


def run(
    function: Callable[[Sequence[Job]], Result],
    parts: Sequence[Sequence[Job]],
    *,
    workers: int | None,
    label: str,
    unit: str = "image",
    dask: str | None = None,
) -> Iterator[Result]:
    """The results of `function` over `parts`, in their order, with a progress bar.

    Args:
        function: importable by name: it is sent to other processes.
        parts: jobs, in the portions in which they are handed over (see `chunks`); small and picklable, files named
            so that they are found from any folder.
        workers: processes on this machine; None = one for each core.
        label, unit: what the progress bar says.
        dask: address of a Dask scheduler, `tcp://HOST:8786`; its workers do it then.

    Raises:
        UserError: workers were killed, most often for lack of memory; no such cluster, or one that cannot do it.
    """
    with tqdm(total=sum(map(len, parts)), desc=label, unit=unit, disable=None, leave=False) as bar:
        if dask and parts:
            results = _on_cluster(function, parts, dask, label)
        else:
            results = _on_this_machine(function, parts, workers or os.cpu_count() or 1, label)
        for part, result in zip(parts, results, strict=True):
            yield result
            bar.update(len(part))


def chunks(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """`jobs` in portions of `size`, the last one smaller.

    >>> chunks("abcde", 2)
    ['ab', 'cd', 'e']
    """
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _on_this_machine(
    function: Callable[[Sequence[Job]], Result], parts: Sequence[Sequence[Job]], workers: int, label: str
) -> Iterator[Result]:
    if min(workers, len(parts)) <= 1:
        yield from map(function, parts)
        return
    under_way: dict[int, Future[Result]] = {}
    done = losses = 0
    while done < len(parts):
        try:
            with _processes(min(workers, len(parts))) as pool:
                for result in _in_order(pool, workers, function, parts, under_way, done):
                    done += 1
                    yield result
        except BrokenProcessPool as error:
            losses += 1
            if losses > MAX_LOSSES:
                raise UserError(
                    f"{label}: worker processes were killed {losses} times, most often for lack of memory; lower "
                    f"compute.workers (now {workers}) and run again; finished chunks are kept"
                ) from error
            tqdm.write(f"{label}: a worker process was killed; its images are given to a new one")
            # A broken pool fails all it has not finished; what came back before is kept.
            for number, future in list(under_way.items()):
                if not future.done() or future.cancelled() or future.exception():
                    del under_way[number]


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    # Spawned, not forked: a forked child of a process with threads can hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave it to the parent when a worker ends: Ctrl-C reaches all at once, and none may wait for one that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _on_cluster(
    function: Callable[[Sequence[Job]], Result], parts: Sequence[Sequence[Job]], address: str, label: str
) -> Iterator[Result]:
    # Imported here: half a second that a run on this machine need not wait for.
    from distributed import Client
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"compute.dask = {address}: no Dask scheduler answers there ({' '.join(str(error).split())}); start one, "
            "or set compute.dask: null"
        ) from error
    with client:
        _require_same_project(client, address)
        # A Dask worker that dies gives its chunks to another by itself. Results are not shared between equal calls:
        # what a file holds may have changed.
        pool = client.get_executor(pure=False)

        def result_of(future: Future[Result]) -> Result:
            while True:
                try:
                    return future.result(_CONNECT_SECONDS)
                except TimeoutError:
                    if future.done():  # one of the function's own
                        raise
                    if not client.ncores():
                        tqdm.write(f"{label}: no workers are left at {address}; waiting for one to start")

        try:
            yield from _in_order(pool, sum(client.ncores().values()), function, parts, {}, 0, result_of)
        except KilledWorker as error:
            raise UserError(
                f"{label}: several Dask workers died over one chunk of images, most often for lack of memory; "
                "start them with more, then run again; finished chunks are kept"
            ) from error
        except (CommClosedError, CancelledError) as error:
            raise UserError(
                f"{label}: the Dask scheduler at {address} is gone ({type(error).__name__}); start it and run again; "
                "finished chunks are kept"
            ) from error
        finally:
            pool.shutdown(wait=False)


def _require_same_project(client: Client, address: str) -> None:
    folder = str(Path.cwd())
    found = client.run(os.path.isdir, folder)
    if not found:
        raise UserError(f"compute.dask = {address}: the cluster has no workers; start some: dask worker {address}")
    without = [worker for worker, there in found.items() if not there]
    if without:
        raise UserError(
            f"compute.dask = {address}: {len(without)} of {len(found)} workers do not see the project at {folder} "
            f"(the first: {without[0]}); mount it there under the same path"
        )
    digests = client.run(code_digest, on_error="return")
    other = [worker for worker, digest in digests.items() if digest != code_digest()]
    if other:
        said = digests[other[0]]
        problem = f"cannot import it ({said})" if isinstance(said, Exception) else "run another version of it"
        raise UserError(
            f"compute.dask = {address}: {len(other)} of {len(digests)} workers {problem} (the first: {other[0]}); "
            "start them anew in the environment of this project"
        )


def _in_order(
    pool: Executor,
    width: int,
    function: Callable[[Sequence[Job]], Result],
    parts: Sequence[Sequence[Job]],
    under_way: dict[int, Future[Result]],
    first: int,
    result_of: Callable[[Future[Result]], Result] = Future.result,
) -> Iterator[Result]:
    """Results from part `first` on; `under_way` keeps what was handed out and not yet yielded."""
    for number in range(first, len(parts)):
        for ahead in range(number, min(number + _AHEAD * width, len(parts))):
            if ahead not in under_way:
                under_way[ahead] = pool.submit(function, parts[ahead])
        result = result_of(under_way[number])
        del under_way[number]
        yield result
