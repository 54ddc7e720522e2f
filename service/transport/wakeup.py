"""One task's alarm: cheaper than an Event, because only one task waits and nothing is queued."""

import asyncio


class Wakeup:
    """`set` before `wait`, or while it waits, lets it return; then it is unset again."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the task, now or when it next waits."""
        if not self._is_set:
            self._is_set = True
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until it is set; one task only."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False
