"""A room where requests wait for one of a few workers: the machine computes a few answers at once, not a hundred."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

from pneumonia.service.limits import RefusedError

Result = TypeVar("Result")

calls_of_request: ContextVar[list[Future[Any]]] = ContextVar("calls_of_request")
"""The calls of the request in work, for what must last as long as they do: the accounting of its memory."""


class Room:
    """Runs functions in threads.

    Args:
        workers: threads.
        waiting: further calls that wait; the next one is refused.
        seconds: for waiting and running.
        name: of the threads.
    """

    def __init__(self, workers: int, waiting: int, seconds: float, name: str) -> None:
        self._places, self._seconds = workers + waiting, seconds
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._taken = 0

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function returns.

        Raises:
            RefusedError: 429 if all places are taken; 503 if it takes too long. A call that has begun cannot be
                stopped: it keeps its place until it ends.
        """
        if self._taken >= self._places:
            raise RefusedError(429, f"busy: {self._taken} requests wait or are answered; try again", retry=1)
        self._taken += 1
        loop = asyncio.get_running_loop()
        call = self._pool.submit(function, *arguments)
        call.add_done_callback(lambda call: call_in(loop, self._leave))
        if (calls := calls_of_request.get(None)) is not None:
            calls.append(call)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call), self._seconds)
        except TimeoutError as error:
            if _is_own(call):
                raise
            raise RefusedError(503, f"no answer within {self._seconds:g} seconds; try again", retry=5) from error

    def close(self) -> None:
        """End the threads after their present calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self) -> None:
        self._taken -= 1


def _is_own(call: Future[Any]) -> bool:
    """Whether a call has itself ended with an error, which may be a TimeoutError."""
    return call.done() and not call.cancelled() and call.exception() is not None


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call a function in a loop, from a thread; nothing if the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
