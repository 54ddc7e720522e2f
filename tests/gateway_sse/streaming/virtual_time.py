"""An event loop for which waiting costs nothing: its clock jumps to whatever is due next."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class NothingWillHappen(Exception):
    """Everybody waits, and nothing is due. A mistake in what runs."""


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingWillHappen
        self.now += max(timeout, 0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time passes only while nothing is left to do. What it runs must not wait for a socket."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


async def rest() -> None:
    """Let everything happen that can without time: a moment later nothing is left to do."""
    await asyncio.sleep(1e-6)


def timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """Those that are still to go off."""
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    return [handle for handle in scheduled if not handle.cancelled()]


def run_in_virtual_time(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run it in a loop of its own, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
