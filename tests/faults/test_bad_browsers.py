"""A hundred browsers that hardly read and a hundred that vanish at once: others do not notice.

The service, the bridge, the bad browsers and the good ones (here) are four processes, so that only
the bridge can make the good ones wait for the bad ones.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from tests.faults.bad_browsers import LONG, TOKEN
from tests.faults.gaps import p99
from tests.faults.shown import Shown, shown
from tests.gateway_sse.browsers import ask, slow_connection

SLOW = VANISHING = 100
HEALTHY = 8
# 80 of each reader's: so few that one step that comes late to all of them is their p99.
GAPS = 80 * HEALTHY
ROUNDS = 5
STEP_S = 0.02
WINDOW = 256  # tokens, the client's
LARGEST_EVENT = 128  # bytes, of a token
MOST_RATIO = 1.1
# Four busy processes on two cores: an event loop of any of them is woken up to so much later (p99),
# whoever the readers are.
GRAIN_S = 0.002

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]


class Readers:
    """Browsers that read as fast as it comes; they note the times between events."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._noted: list[float] = []

    @asynccontextmanager
    async def reading(self, count: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._read()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def gaps(self, count: int) -> list[float]:
        """The next so many, in seconds."""
        self._noted = []
        async with asyncio.timeout(60):
            while len(self._noted) < count:
                await asyncio.sleep(0.01)
        return self._noted[:count]

    async def _read(self) -> None:
        connection = await slow_connection(self._port, 65536)
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await ask(connection, LONG)
            await reader.readuntil(TOKEN)
            last = time.monotonic()
            while True:
                await reader.readuntil(TOKEN)
                now = time.monotonic()
                self._noted.append(now - last)
                last = now
        finally:
            writer.transport.abort()


async def test_a_hundred_slow_and_a_hundred_vanishing_browsers_hold_nobody_up_and_leave_nothing(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    log = tmp_path / "log"

    def bad(kind: str, count: int) -> AbstractAsyncContextManager[Shown]:
        return shown(log, "tests.faults.bad_browsers", kind, str(bridge.first), str(count))

    undisturbed: list[float] = []
    beside_slow: list[float] = []
    beside_vanishing: list[float] = []
    async with (
        shown(log, "tests.faults.shown_service", str(STEP_S)) as service,
        shown(log, "tests.faults.shown_bridge", service.first) as bridge,
    ):
        before = await bridge.ask()
        healthy = Readers(bridge.first)
        async with healthy.reading(HEALTHY):
            for _ in range(ROUNDS):
                await service.until(lambda now: now["held"] == HEALTHY)
                undisturbed.append(p99(await healthy.gaps(GAPS)))

                async with bad("slow", SLOW), bad("vanishing", VANISHING) as vanishing:
                    assert (await bridge.ask())["open"] == HEALTHY + SLOW + VANISHING
                    noticing = asyncio.create_task(healthy.gaps(GAPS))
                    gone_at = time.monotonic()
                    await vanishing.ask()
                    await service.until(lambda now: now["held"] == HEALTHY + SLOW, within_s=2)
                    took_s = time.monotonic() - gone_at
                    beside_vanishing.append(p99(await noticing))

                    beside_slow.append(p99(await healthy.gaps(GAPS)))
                    waiting = (await bridge.ask())["waiting"]
                    assert len(waiting) == HEALTHY + SLOW
                    assert max(waiting) <= WINDOW * LARGEST_EVENT

        told = {
            "undisturbed": undisturbed,
            "beside slow ones": beside_slow,
            "beside vanishing ones": beside_vanishing,
        }
        each = "; ".join(f"{k} {', '.join(f'{1e3 * g:.1f}' for g in v)}" for k, v in told.items())
        say(f"{VANISHING} gone are ended after {took_s:.1f} s; p99 of the others' gaps, ms: {each}")
        await bridge.until(lambda now: now["open"] == now["lingering"] == 0)
        await service.until(lambda now: now["nothing_runs"])
        await bridge.until(lambda now: now["files"] <= before["files"] + 2)  # the channel's

    # What the machine makes of it by itself, in this very run.
    wandering = max(undisturbed) - min(undisturbed)
    most = MOST_RATIO * median(undisturbed) + max(wandering, GRAIN_S)
    # What else runs on the machine does not hit most rounds; a fault here would.
    assert median(beside_slow) <= most
    assert median(beside_vanishing) <= most
