"""A hundred browsers that hardly read and a hundred that vanish at once: others do not notice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from gateway_sse.config import GatewaySettings
from gateway_sse.streaming.relay import Relay
from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.faults.gaps import p99
from tests.faults.test_half_open import MOST_MORE_S, MOST_RATIO
from tests.gateway_sse.browsers import ask, slow_connection
from tests.gateway_sse.conftest import Gateway
from tests.service.running import eventually

SLOW = VANISHING = 100
HEALTHY = 8
GAPS = 1600
WAVES = 3
STEP_S = 0.02
WINDOW = 256  # tokens, the client's
LARGEST_EVENT = 128  # bytes, of a token
LONG = "prompt=ab&ignore_eos=true&max_tokens=100000&max_delay_ms=0&max_tokens_per_message=1"


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
            await reader.readuntil(b'{"token"')
            last = time.monotonic()
            while True:
                await reader.readuntil(b'{"token"')
                now = time.monotonic()
                self._noted.append(now - last)
                last = now
        finally:
            writer.transport.abort()


def unnoticed(before: list[float], during: list[float]) -> bool:
    return (
        median(during) <= MOST_RATIO * median(before)
        and p99(during) <= MOST_RATIO * p99(before) + MOST_MORE_S
    )


def open_files() -> int:
    return len(tuple(Path("/proc/self/fd").iterdir()))


async def sip(port: int) -> None:
    """Read a third of what comes."""
    with await slow_connection(port) as connection:
        await ask(connection, LONG)
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(connection, 100):
            await asyncio.sleep(0.1)


async def read_until_told(port: int, vanish: asyncio.Event, told: Callable[[], None]) -> None:
    connection = await slow_connection(port, 65536)
    reader, writer = await asyncio.open_connection(sock=connection)
    await ask(connection, LONG)
    for _ in range(5):
        await reader.readuntil(b'{"token"')
    told()
    await vanish.wait()
    writer.transport.abort()


async def test_a_hundred_slow_and_a_hundred_vanishing_browsers_hold_nobody_up_and_leave_nothing(
    serve: Serve, say: Callable[[str], None]
) -> None:
    running = await serve(ScriptedEngine(step_s=STEP_S, context_length=500_000))
    settings = GatewaySettings(upstream=running.target, listen="127.0.0.1:0", drain_grace_s=0)
    bridge = Gateway(settings)
    files_before = open_files()
    healthy, gate = Readers(bridge.port), running.service.gate
    async with healthy.reading(HEALTHY):
        before = await healthy.gaps(GAPS)

        sipping = [asyncio.create_task(sip(bridge.port)) for _ in range(SLOW)]
        waves: list[list[float]] = []
        # What else runs on the machine does not hit all of them; a fault here would.
        while not waves or (not unnoticed(before, waves[-1]) and len(waves) < WAVES):
            vanish, here = asyncio.Event(), asyncio.Semaphore(0)
            vanishing = [
                asyncio.create_task(read_until_told(bridge.port, vanish, here.release))
                for _ in range(VANISHING)
            ]
            async with asyncio.timeout(30):
                for _ in range(VANISHING):
                    await here.acquire()
            assert len(bridge.streams) == HEALTHY + SLOW + VANISHING
            vanish.set()
            noticing = asyncio.create_task(healthy.gaps(GAPS))
            gone_at = time.monotonic()
            await eventually(lambda: gate.held == HEALTHY + SLOW, within_s=2)
            took_s = time.monotonic() - gone_at
            waves.append(await noticing)
            await asyncio.gather(*vanishing)
        during = waves[-1]

        waiting = [
            relay._outlet._transport.get_write_buffer_size()
            for relay in bridge.streams._open
            if isinstance(relay, Relay) and relay._outlet is not None
        ]
        assert len(waiting) == HEALTHY + SLOW
        assert max(waiting) <= WINDOW * LARGEST_EVENT
        for task in sipping:
            task.cancel()
        await asyncio.gather(*sipping, return_exceptions=True)
    say(
        f"{VANISHING} gone are ended after {took_s:.1f} s; p99 of the others' gaps"
        f" {1e3 * p99(before):.1f} ms before, {1e3 * p99(during):.1f} ms during"
    )
    assert unnoticed(before, during)
    await eventually(lambda: len(bridge.streams) == bridge.streams.lingering == 0)
    await eventually(lambda: running.nothing_runs)
    await eventually(lambda: open_files() <= files_before + 2)  # the channel's
    bridge.stop.set()
    await bridge.serving


pytestmark = pytest.mark.timeout(120)
