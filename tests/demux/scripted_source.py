"""Batches and streams that a test puts together itself."""

import asyncio
from collections.abc import Sequence

from service.domain import DeliveryOptions
from service.engine.scripted import ScriptedBatch, ScriptedOutput, Utf8Decoder
from service.errors import EngineDead
from service.stream.text import StopRules, TextAssembler, TokenDecoder
from service.stream.token_stream import TokenStream


class BrokenDecoder:
    """Cannot decode anything."""

    def decode(self, token_id: int) -> str:
        raise RuntimeError("no such token")


def new_stream(*stop: str, decoder: TokenDecoder | None = None) -> TokenStream:
    text = TextAssembler(decoder or Utf8Decoder(), StopRules(stop))
    return TokenStream(text, DeliveryOptions(), lambda: 0.0)


def batch(*outputs: ScriptedOutput) -> ScriptedBatch:
    return ScriptedBatch(outputs)


def tokens(engine_id: str, text: str) -> ScriptedOutput:
    return ScriptedOutput(engine_id, tuple(text.encode()))


async def text_of(stream: TokenStream) -> str:
    text = ""
    while (delta := await stream.read()) is not None:
        text += delta.text
    return text


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

    async def next_batch(self) -> ScriptedBatch:
        item = await self.batches.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def abort(self, engine_ids: Sequence[str]) -> None:
        if self.abort_fails_with is not None:
            raise self.abort_fails_with
        self.aborts.append(list(engine_ids))
        self.aborted.set()
