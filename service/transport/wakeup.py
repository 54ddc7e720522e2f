"""How a task that writes to a call is woken, and how many at a time.

`Wakeup` is one task's alarm: cheaper than an Event, because only one task waits and nothing is
queued. `Turns` stands between alarms and their tasks where one engine step wakes thousands of
them: it lets some go on, then the event loop comes round to everybody else.
"""

import asyncio
from collections import deque

AT_ONCE = 256  # tasks of about 50 µs each; fewer would cost the usual loads more rounds of the loop
# With so many in the queue fewer go on at once, with a pause before the next: gRPC's own thread,
# which brings new calls among the ends of all the writes, gets hold of Python's lock only while
# the loop waits.
FEW_AT_ONCE = 32
PLENTY = 512
PAUSE_S = 0.001


class Turns:
    """Lets tasks go on in their order, some at a time. Bound: one entry for each open call."""

    __slots__ = ("_at_once", "_calling", "_waiting")

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calling = False

    def take(self, waiter: "asyncio.Future[None]") -> None:
        """Queue up a task that waits for this future."""
        self._waiting.append(waiter)
        if not self._calling:
            self._calling = True
            waiter.get_loop().call_soon(self._call)

    def _call(self) -> None:
        waiting = self._waiting
        at_once = self._at_once if len(waiting) < PLENTY else FEW_AT_ONCE
        for _ in range(min(at_once, len(waiting))):
            waiter = waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if not waiting:
            self._calling = False
        elif len(waiting) < PLENTY:
            waiting[0].get_loop().call_soon(self._call)
        else:
            waiting[0].get_loop().call_later(PAUSE_S, self._call)


class Wakeup:
    """`set` before `wait`, or while it waits, lets it return; then it is unset again."""

    __slots__ = ("_is_set", "_turns", "_waiter")

    def __init__(self, turns: Turns | None = None) -> None:
        """`turns`: what its task queues up in; None: it goes on at once."""
        self._turns = turns
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the task, now or when it next waits."""
        if not self._is_set:
            self._is_set = True
            waiter = self._waiter
            if waiter is None or waiter.done():
                return
            if self._turns is None:
                waiter.set_result(None)
            else:
                self._turns.take(waiter)

    async def wait(self) -> None:
        """Wait until it is set; one task only."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False
