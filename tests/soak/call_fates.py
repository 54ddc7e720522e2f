"""Callers that have a call for each request, and what becomes of them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service.telemetry.outcomes import Outcome
from tests.service.running import Answer
from tests.soak.known import Asked, Tally
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

LEFT_OR_ENDED = (Outcome.DISCONNECTED, Outcome.LENGTH)
GROUP = 6
SHORT_TTL_MS = 400


@contextmanager
def unless(code: grpc.StatusCode) -> Iterator[None]:
    """A call that may also end with this status."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not code:
            raise


class TooLate(Exception):
    """A stream was not found any more when its reader came back."""


@contextmanager
def not_too_late() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise TooLate from error
        raise


def now() -> float:
    return asyncio.get_running_loop().time()


class Caller:
    """One of many, with its own random numbers. `near`, `far`: two stubs on two connections."""

    def __init__(
        self,
        seed: str,
        near: Any,
        far: Any,
        connect: Callable[[], grpc.aio.Channel],
        time_to_live_s: float,
    ) -> None:
        self.chance = random.Random(seed)
        self.near, self.far, self._connect = near, far, connect
        self._time_to_live_s = time_to_live_s
        self.tally = Tally()
        self._fates: tuple[Callable[[], Awaitable[None]], ...] = (
            self.finishes,
            self.reads_slowly,
            self.cancels,
            self.closes,
            self.is_cut_and_reads_on,
            self.is_taken_over,
            self.abandons,
            self.loses_its_connection,
        )

    async def until(self, deadline: float) -> None:
        """Lead requests to fates drawn at random until it is time."""
        while now() < deadline:
            since = now()
            try:
                await self.chance.choice(self._fates)()
            except TooLate:
                # Only a machine that is too busy for its callers makes them come so late.
                assert now() - since >= self._time_to_live_s, "gone before its time"
                self.tally.late += 1
                self.tally.end(Outcome.EXPIRED, Outcome.LENGTH)

    def _ask(self, **stream: Any) -> tuple[Asked, pb.GenerateRequest]:
        chance = self.chance
        asked = Asked.new(chance.randrange(20, 150))
        if chance.random() < 0.5:
            stream["max_delay_ms"] = chance.choice((0, 0, 20, 100))
        if chance.random() < 0.3:
            stream["max_tokens_per_message"] = chance.choice((1, 2, 7, 30))
        return asked, asked.message(**stream)

    def _some(self, asked: Asked) -> int:
        return self.chance.randrange(asked.tokens // 2)

    def _took(self, asked: Asked, *parts: Answer) -> None:
        for got in parts:
            asked.check(got)
            self.tally.tokens += got.count

    async def finishes(self) -> None:
        asked, message = self._ask()
        got = await Answer().read(self.near.Generate(message))
        asked.check_whole(got)
        self._took(asked, got)
        self.tally.end(Outcome.LENGTH)

    async def reads_slowly(self) -> None:
        asked, message = self._ask()
        got = Answer()
        async for event in self.near.Generate(message):
            got.add(event)
            await asyncio.sleep(self.chance.random() * 0.05)
        asked.check_whole(got)
        self._took(asked, got)
        self.tally.end(Outcome.LENGTH)

    async def cancels(self) -> None:
        asked, message = self._ask()
        call = self.near.Generate(message)
        got = await Answer().read_tokens(call, self._some(asked))
        with unless(grpc.StatusCode.NOT_FOUND):  # it has ended by itself
            await self.far.Cancel(pb.CancelRequest(stream_id=got.stream_id))
        await got.read(call)
        self._took(asked, got)
        self.tally.end_of(got)

    async def closes(self) -> None:
        asked, message = self._ask()
        call = self.near.Generate(message)
        got = await Answer().read_tokens(call, self._some(asked))
        call.cancel()
        self._took(asked, got)
        self.tally.end(*LEFT_OR_ENDED)

    async def is_cut_and_reads_on(self) -> None:
        """Cut again and again; each part begins where the one before ended."""
        asked, message = self._ask(on_disconnect=pb.ON_DISCONNECT_DETACH)
        call = self.near.Generate(message)
        got = await Answer().read_tokens(call, self._some(asked))
        stream_id = got.stream_id
        while got.finished is None:
            call.cancel()
            self._took(asked, got)
            call, upto = self._resume(stream_id, got), got.first + got.count
            got = Answer(first=upto)
            with not_too_late():
                if self.chance.random() < 0.4:
                    await got.read_tokens(call, 1 + self.chance.randrange(20))
                else:
                    await got.read(call)
        asked.check_whole(got)
        self._took(asked, got)
        self.tally.end(Outcome.LENGTH)

    def _resume(self, stream_id: str, got: Answer) -> Any:
        stub = self.chance.choice((self.near, self.far))
        upto = got.first + got.count
        return stub.Resume(pb.ResumeRequest(stream_id=stream_id, next_token_index=upto))

    async def is_taken_over(self) -> None:
        """The first reader does not leave by itself; it is told, or had its end already."""
        asked, message = self._ask(on_disconnect=pb.ON_DISCONNECT_DETACH)
        call = self.near.Generate(message)
        got = await Answer().read_tokens(call, self._some(asked))
        upto = got.count
        tail = await Answer(first=upto).read(self._resume(got.stream_id, got))
        asked.check_whole(tail)
        with unless(grpc.StatusCode.ABORTED):
            await got.read(call)
        self._took(asked, got, tail)
        self.tally.end(Outcome.LENGTH)

    async def abandons(self) -> None:
        asked, message = self._ask(
            on_disconnect=pb.ON_DISCONNECT_DETACH, time_to_live_ms=SHORT_TTL_MS
        )
        call = self.near.Generate(message)
        got = await Answer().read_tokens(call, self._some(asked))
        call.cancel()
        self._took(asked, got)
        self.tally.end(Outcome.EXPIRED, Outcome.LENGTH)

    async def loses_its_connection(self) -> None:
        """With all its streams; those that detach are read on by another."""
        channel = self._connect()
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        streams = []
        for number in range(GROUP):
            detach = number % 2 == 0
            asked, message = self._ask(
                on_disconnect=pb.ON_DISCONNECT_DETACH if detach else pb.ON_DISCONNECT_END
            )
            streams.append((asked, stub.Generate(message), detach))
        heads = [await Answer().read_tokens(call, self._some(a)) for a, call, _ in streams]
        began = now()
        await channel.close()
        ends = [
            self._after_loss(asked, head, detach, began)
            for (asked, _, detach), head in zip(streams, heads, strict=True)
        ]
        await asyncio.gather(*ends)

    async def _after_loss(self, asked: Asked, head: Answer, detach: bool, lost_at: float) -> None:
        self._took(asked, head)
        if not detach:
            self.tally.end(*LEFT_OR_ENDED)
            return
        try:
            with not_too_late():
                tail = await Answer(first=head.count).read(self._resume(head.stream_id, head))
        except TooLate:
            assert now() - lost_at >= self._time_to_live_s, "gone before its time"
            self.tally.late += 1
            self.tally.end(Outcome.EXPIRED, Outcome.LENGTH)
            return
        asked.check_whole(tail)
        self._took(asked, tail)
        self.tally.end(Outcome.LENGTH)
