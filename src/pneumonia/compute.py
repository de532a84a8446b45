"""Run work on many images in local processes or on a Dask cluster, both as a `concurrent.futures.Executor`.

The results of `run` never depend on the number of workers or on the machines they run on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from pneumonia import UserError, code_digest

if TYPE_CHECKING:
    from distributed import Client

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_LOSSES = 2
"""How often a pool that lost a worker is started again, for the unfinished chunks."""

_AHEAD = 2
"""Chunks submitted for each worker: enough to keep it busy, few enough to keep memory constant."""

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
        parts: the jobs in chunks (see `chunks`); small and picklable, with absolute paths.
        workers: processes on this machine; None = one for each core.
        label, unit: texts of the progress bar.
        dask: address of a Dask scheduler, `tcp://HOST:8786`, whose workers do the work; None = local processes.

    Raises:
        UserError: workers were killed, most often for lack of memory; the cluster does not answer or cannot be used.
    """
    with tqdm(total=sum(map(len, parts)), desc=label, unit=unit, disable=None, leave=False) as bar:
        if dask and parts:
            results = _on_cluster(function, parts, dask, label)
        else:
            results = _on_this_machine(function, parts, workers or os.cpu_count() or 1, label)
        for part, result in zip(parts, results, strict=True):
            yield result
            bar.update(len(part))


def run_each(
    function: Callable[[Job], Result],
    next_job: Callable[[], Job | None],
    *,
    workers: int,
    label: str,
    dask: str | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Jobs that are made when a worker is free, each with its result, in the order in which they end.

    A job whose worker was killed is done again.

    Args:
        function: importable by name: it is sent to other processes.
        next_job: returns a job, small and picklable, or None if there is none at present; called here, again after
            each result.
        workers: processes on this machine.
        label: text of messages.
        dask: as in `run`.

    Raises:
        UserError: workers were killed again and again; the cluster does not answer or cannot be used.
    """
    if dask:
        with _client(dask, label) as client:
            pool = client.get_executor(pure=False)
            slots = [pool] * len(client.ncores())
            say = partial(_say_no_workers, client, dask, label)
            yield from _as_they_end(slots, function, next_job, label, lambda slot: pool, say)
        return
    # One pool for each worker: the death of one breaks its pool, and must not stop the others.
    pools = [_pool(1) for _ in range(workers)]
    try:

        def again(slot: int) -> Executor:
            pools[slot].shutdown(wait=False)
            pools[slot] = _pool(1)
            return pools[slot]

        yield from _as_they_end(pools, function, next_job, label, again)
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()  # a job takes minutes; it is done again when the work goes on
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _as_they_end(
    pools: Sequence[Executor],
    function: Callable[[Job], Result],
    next_job: Callable[[], Job | None],
    label: str,
    renewed: Callable[[int], Executor],
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Job, Result]]:
    """Results from one pool for each slot; `renewed` gives another pool for a slot whose worker was killed."""
    free, current = list(range(len(pools))), dict(enumerate(pools))
    running: dict[Future[Result], tuple[int, Job]] = {}
    losses = 0

    def lost(slot: int, error: BrokenProcessPool) -> None:
        nonlocal losses
        losses += 1
        if losses > MAX_LOSSES * len(pools):
            raise _killed(label, losses, "compute.trial_workers", "trials") from error
        tqdm.write(f"{label}: a worker process was killed; a new one does its work again")
        current[slot] = renewed(slot)

    def start(slot: int, job: Job) -> None:
        try:
            running[current[slot].submit(function, job)] = slot, job
        except BrokenProcessPool as error:  # killed while it had nothing to do
            lost(slot, error)
            start(slot, job)

    while True:
        while free and (job := next_job()) is not None:
            start(free.pop(), job)
        if not running:
            return
        done = wait(running, _CONNECT_SECONDS, return_when=FIRST_COMPLETED).done
        if not done:
            while_waiting()
        for future in done:
            slot, job = running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool as error:
                lost(slot, error)
                start(slot, job)
                continue
            free.append(slot)
            yield job, result


def _killed(label: str, losses: int, setting: str, kept: str) -> UserError:
    return UserError(
        f"{label}: worker processes were killed {losses} times, most often for lack of memory; lower {setting} and run "
        f"again; finished {kept} are kept"
    )


def chunks(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """`jobs` in chunks of `size`; the last one may be smaller.

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
    submitted: dict[int, Future[Result]] = {}
    done = losses = 0
    while done < len(parts):
        try:
            with _processes(min(workers, len(parts))) as pool:
                for result in _results_in_order(pool, workers, function, parts, submitted, done):
                    done += 1
                    yield result
        except BrokenProcessPool as error:
            losses += 1
            if losses > MAX_LOSSES:
                raise _killed(label, losses, f"compute.workers (now {workers})", "chunks") from error
            tqdm.write(f"{label}: a worker process was killed; a new one does its images again")
            # All unfinished chunks of a broken pool have failed; finished results are kept.
            for number, future in list(submitted.items()):
                if not future.done() or future.cancelled() or future.exception():
                    del submitted[number]


class _Pool(ProcessPoolExecutor):
    """Its processes are born with Ctrl-C blocked: it reaches all of a terminal at once, and their parent ends them.

    Until `_start_worker` ignores it they import for a second or more, and would end with a traceback.
    """

    def submit(self, function: Callable[..., Result], /, *arguments: Any, **named: Any) -> Future[Result]:
        with _blocked(signal.SIGINT):  # which new processes inherit
            return super().submit(function, *arguments, **named)


def _pool(workers: int) -> Executor:
    # Python's helper process for pools ignores Ctrl-C and SIGTERM, but a terminal that closes would end it first.
    with _blocked(signal.SIGHUP):
        resource_tracker.ensure_running()
    # Spawned, not forked: a forked child of a process with threads can hang.
    return _Pool(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    pool = _pool(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Let the parent end the worker: Ctrl-C reaches all processes at once; no worker may outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _client(address: str, label: str) -> Iterator[Client]:
    """A client of a Dask cluster that has this project; its errors become those of the user."""
    # Imported here because it takes half a second, which a run on this machine does not need.
    from distributed import Client
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"compute.dask = {address}: no Dask scheduler answers ({' '.join(str(error).split())}); start one, "
            "or set compute.dask: null"
        ) from error
    with client:
        _require_same_project(client, address)
        try:
            yield client
        except KilledWorker as error:
            raise UserError(
                f"{label}: several Dask workers died at the same work, most often for lack of memory; "
                "start them with more memory, then run again; finished work is kept"
            ) from error
        except (CommClosedError, CancelledError) as error:
            raise UserError(
                f"{label}: the Dask scheduler at {address} has stopped ({type(error).__name__}); start it and run "
                "again; finished work is kept"
            ) from error


def _on_cluster(
    function: Callable[[Sequence[Job]], Result], parts: Sequence[Sequence[Job]], address: str, label: str
) -> Iterator[Result]:
    with _client(address, label) as client:
        # Dask itself gives the chunks of a dead worker to another one. `pure=False`: results of equal calls are not
        # shared, because the content of a file may have changed.
        pool = client.get_executor(pure=False)

        def result_of(future: Future[Result]) -> Result:
            while True:
                try:
                    return future.result(_CONNECT_SECONDS)
                except TimeoutError:
                    if future.done():  # raised by the function itself
                        raise
                    _say_no_workers(client, address, label)

        try:
            yield from _results_in_order(pool, sum(client.ncores().values()), function, parts, {}, 0, result_of)
        finally:
            pool.shutdown(wait=False)


def _say_no_workers(client: Client, address: str, label: str) -> None:
    if not client.ncores():
        tqdm.write(f"{label}: no workers are left at {address}; waiting for one to start")


def _require_same_project(client: Client, address: str) -> None:
    folder = str(Path.cwd())
    sees_project = client.run(os.path.isdir, folder)
    if not sees_project:
        raise UserError(f"compute.dask = {address}: the cluster has no workers; start some: dask worker {address}")
    without = [worker for worker, exists in sees_project.items() if not exists]
    if without:
        raise UserError(
            f"compute.dask = {address}: {len(without)} of {len(sees_project)} workers do not see the project at "
            f"{folder} (the first: {without[0]}); mount it under the same path"
        )
    digests = client.run(code_digest, on_error="return")
    other = [worker for worker, digest in digests.items() if digest != code_digest()]
    if other:
        answer = digests[other[0]]
        problem = f"cannot import it ({answer})" if isinstance(answer, Exception) else "run another version of it"
        raise UserError(
            f"compute.dask = {address}: {len(other)} of {len(digests)} workers {problem} (the first: {other[0]}); "
            "start them again in the environment of this project"
        )


def _results_in_order(
    pool: Executor,
    width: int,
    function: Callable[[Sequence[Job]], Result],
    parts: Sequence[Sequence[Job]],
    submitted: dict[int, Future[Result]],
    first: int,
    result_of: Callable[[Future[Result]], Result] = Future.result,
) -> Iterator[Result]:
    """Results from part `first` on; `submitted` holds the parts whose result is not yet yielded."""
    for number in range(first, len(parts)):
        for ahead in range(number, min(number + _AHEAD * width, len(parts))):
            if ahead not in submitted:
                submitted[ahead] = pool.submit(function, parts[ahead])
        result = result_of(submitted[number])
        del submitted[number]
        yield result
