"""What healthy readers notice: the times between one token and the next."""

import asyncio
import time
from typing import Any

from tests.service.running import Answer
from tokenstream.v1 import generation_pb2 as pb


class Healthy:
    """Some streams on a connection of their own, each read as fast as it comes."""

    def __init__(self, stub: Any, streams: int) -> None:
        self._stub, self._streams = stub, streams
        self._gaps: list[float] = []
        self._over = False

    async def run(self) -> None:
        """Read until `end`."""
        await asyncio.gather(*(self._read() for _ in range(self._streams)))

    def end(self) -> None:
        self._over = True

    async def gaps(self, count: int) -> list[float]:
        """The next so many gaps, in seconds."""
        self._gaps = []
        async with asyncio.timeout(60):
            while len(self._gaps) < count:
                await asyncio.sleep(0.01)
        return self._gaps[:count]

    async def _read(self) -> None:
        request = pb.GenerateRequest(
            text="ab",
            sampling=pb.SamplingOptions(ignore_eos=True, max_tokens=300_000),
            stream=pb.StreamOptions(max_delay_ms=0),
        )
        call = self._stub.Generate(request)
        got, last = Answer(), None
        async for message in call:
            got.add(message)
            now = time.monotonic()
            if last is not None:
                self._gaps.append(now - last)
            last = now if got.count else None
            if self._over:
                break
        call.cancel()
        assert got.token_ids == [97 + index % 2 for index in range(got.count)]


def p99(gaps: list[float]) -> float:
    return sorted(gaps)[len(gaps) * 99 // 100]
