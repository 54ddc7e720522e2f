"""A call without gRPC: what is written and read is in the test's hands."""

import asyncio
from typing import Any

import grpc


class ScriptedCall:
    """As much of a `ServicerContext` as our handlers need."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self.written: list[Any] = []
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.wrote = asyncio.Event()
        self.in_write = asyncio.Event()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.write_fails_with: Exception | None = None
        self.never_takes: str | None = None  # an event
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def write(self, message: Any) -> None:
        self.in_write.set()
        await self.can_write.wait()
        if self.never_takes is not None and message.WhichOneof("event") == self.never_takes:
            await asyncio.Event().wait()
        self.in_write.clear()
        if self.write_fails_with is not None:
            raise self.write_fails_with
        self.written.append(message)
        self.wrote.set()

    async def read(self) -> Any:
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def close(self) -> None:
        """Close the caller's sending side."""
        self.messages.put_nowait(grpc.aio.EOF)

    async def until_written(self, number: int) -> None:
        """Wait for so many messages."""
        async with asyncio.timeout(5):
            while len(self.written) < number:
                self.wrote.clear()
                await self.wrote.wait()
