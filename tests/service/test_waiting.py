"""A few calls run, some wait, and the next one is refused."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pneumonia.service.limits import RefusedError
from pneumonia.service.waiting import Room


@pytest.fixture
def go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_results_and_errors_come_back() -> None:
    def fail() -> None:
        raise TimeoutError("own")

    async def main() -> None:
        room = Room(1, 1, 5, "test")
        assert await room.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(TimeoutError, match="own"):
            await room.run(fail)
        room.close()

    asyncio.run(main())


def test_32_wait_and_the_33rd_is_refused_until_one_is_done(go: threading.Event) -> None:
    async def main() -> None:
        room = Room(2, 32, 20, "test")
        calls = [asyncio.ensure_future(room.run(go.wait, 20)) for _ in range(34)]
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="busy") as refusal:
            await room.run(go.wait)
        assert (refusal.value.status, refusal.value.retry) == (429, 1)
        go.set()
        assert await asyncio.gather(*calls) == [True] * 34
        assert await room.run(int) == 0
        room.close()

    asyncio.run(main())


def test_a_call_that_has_begun_keeps_its_place_and_one_that_waits_in_vain_does_not(go: threading.Event) -> None:
    async def main() -> None:
        room = Room(1, 1, 0.05, "test")
        for error in await asyncio.gather(room.run(go.wait, 20), room.run(go.wait, 20), return_exceptions=True):
            assert isinstance(error, RefusedError)
            assert error.status == 503
        await asyncio.sleep(0.05)
        again = asyncio.ensure_future(room.run(int))  # the place of the one that waited
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="busy"):
            await room.run(int)
        go.set()
        assert await again == 0
        room.close()

    asyncio.run(main())
