"""Batches and streams that a test puts together itself."""

import asyncio
from collections.abc import Callable, Sequence

from service.domain import EngineBatch
from service.engine.scripted import ScriptedBatch, ScriptedOutput, Utf8Decoder
from service.errors import EngineDead, ServiceError
from service.stream.stop_strings import StopWatch
from service.stream.text import StopRules, TokenDecoder
from service.stream.token_stream import TokenStream


class BrokenDecoder:
    """Cannot decode anything."""

    def decode(self, token_ids: Sequence[int]) -> str:
        raise RuntimeError("no such token")

    def decode_token(self, token_id: int) -> str:
        raise RuntimeError("no such token")


def new_stream(
    *stop: str,
    decoder: TokenDecoder | None = None,
    on_end: Callable[[], None] | None = None,
) -> TokenStream:
    watch = StopWatch(decoder or Utf8Decoder(), StopRules(stop)) if stop else None
    return TokenStream(lambda: 0.0, stop_watch=watch, on_end=on_end)


def batch(*outputs: ScriptedOutput) -> ScriptedBatch:
    return ScriptedBatch(outputs)


def tokens(engine_id: str, text: str) -> ScriptedOutput:
    return ScriptedOutput(engine_id, tuple(text.encode()))


class End:
    """Waits for a stream's end."""

    def __init__(self, stream: TokenStream) -> None:
        self._ended = asyncio.Event()
        stream.read_by(self)
        if stream.ended:
            self._ended.set()

    def wake(self) -> None:
        pass

    def wake_for_end(self) -> None:
        self._ended.set()

    async def wait(self) -> None:
        async with asyncio.timeout(1):
            await self._ended.wait()


def so_far(stream: TokenStream) -> str:
    """The text that a stream has now."""
    return bytes(stream.tokens.tolist()).decode()


async def text_of(stream: TokenStream) -> str:
    """A stream's text, once it has its end; raises what it failed of."""
    await End(stream).wait()
    if stream.failure is not None:
        raise stream.failure
    return so_far(stream)


async def failure_of(stream: TokenStream) -> type[ServiceError] | None:
    """What a stream failed of, once it has its end."""
    await End(stream).wait()
    return None if stream.failure is None else type(stream.failure)


class ScriptedSource:
    """Gives the batches that were put in, dies when told to, keeps what it was told to stop."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[ScriptedBatch | Exception] = asyncio.Queue()
        self.aborts: list[list[str]] = []
        self.aborted = asyncio.Event()
        self.abort_fails_with: Exception | None = None

    def put(self, *outputs: ScriptedOutput) -> None:
        self.batches.put_nowait(batch(*outputs))

    def die(self) -> None:
        self.batches.put_nowait(EngineDead())

    async def deliver(self, take: Callable[[EngineBatch], None]) -> None:
        while True:
            item = await self.batches.get()
            if isinstance(item, Exception):
                raise item
            take(item)

    async def abort(self, engine_ids: Sequence[str]) -> None:
        if self.abort_fails_with is not None:
            raise self.abort_fails_with
        self.aborts.append(list(engine_ids))
        self.aborted.set()
