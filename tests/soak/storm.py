"""Requests that begin at a steady rate, and are ended as soon as their first token has come."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import grpc

from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.service.running import Answer
from tests.soak.known import Asked, Tally
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

SIDES = 4  # sessions
MOST_OPEN = 100  # of each side; a machine that is too slow for the rate has a lower one
TOKENS = 1500  # far more than any of them gets to
OPEN_END = (Outcome.DISCONNECTED, Outcome.LENGTH)
BY_CALL = 20  # each twentieth


@dataclass
class _Side:
    """One session of the storm."""

    talk: Talk
    asked: dict[int, Asked] = field(default_factory=dict)
    ended: int = 0  # that were told to end
    all_begun: bool = False
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_OPEN))

    async def begin(self, request: Asked) -> None:
        number = len(self.asked) + 1
        self.asked[number] = request
        await self.talk.start(number, request.message(max_delay_ms=0))

    async def end_what_begins(self) -> None:
        """Cancel or close each request once its first token has come."""
        talk = self.talk
        while (frame := await talk.frame()) is not None:
            for number in frame.deltas.ids:
                told = talk.told[number]
                if len(told.answer.deltas) == 1 and not told.ended:
                    self.ended += 1
                    self.room.release()
                    await (talk.cancel(number) if is_cancelled(number) else talk.close(number))
            if frame.deltas.ids and self.all_begun:
                await self._half_close()

    async def no_more(self) -> None:
        """All have begun; close the sending side when all were told to end, too."""
        self.all_begun = True
        await self._half_close()

    async def _half_close(self) -> None:
        if self.ended == len(self.asked):
            self.all_begun = False
            await self.talk.half_close()


def is_cancelled(number: int) -> bool:
    """Whether a request of a session is cancelled; the others are closed."""
    return number % 3 != 0


class Storm:
    """So many a second, for so long: most in sessions, a few with a call each."""

    def __init__(self, per_s: int, seconds: float) -> None:
        self.requests = int(per_s * seconds) // SIDES * SIDES
        self._per_s = per_s
        self._chance = random.Random("storm")
        self.tally = Tally()

    async def run(self, channel: grpc.aio.Channel, other: grpc.aio.Channel) -> None:
        """Lead all of them to their ends."""
        stub: Any = generation_pb2_grpc.GenerationServiceStub(other)
        sides = [_Side(Talk.over(channel)) for _ in range(SIDES)]
        async with asyncio.TaskGroup() as group:
            for side in sides:
                group.create_task(side.end_what_begins())
                group.create_task(self._begin(side, stub, group))
        for side in sides:
            self._check(side.talk, side.asked)

    async def _begin(self, side: "_Side", stub: Any, group: asyncio.TaskGroup) -> None:
        """Begin one side's part of the requests, at its part of the rate."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        for number in range(self.requests // SIDES):
            request = Asked.new(TOKENS)
            if number % BY_CALL == 0:
                group.create_task(self._end_by_a_call(stub, request))
            else:
                await side.room.acquire()
                await side.begin(request)
            next_at += SIDES / self._per_s
            await asyncio.sleep(max(0.0, next_at - loop.time()))
        await side.no_more()

    def _check(self, talk: Talk, asked: dict[int, Asked]) -> None:
        assert talk.rejected == []
        for number, request in asked.items():
            got = talk.told[number].answer
            self._took(request, got)
            if is_cancelled(number):
                assert got.end.reason == pb.FINISH_REASON_CANCELLED
                self.tally.end(Outcome.CANCELLED)
            else:
                assert got.finished is None
                self.tally.end(*OPEN_END)

    async def _end_by_a_call(self, stub: Any, request: Asked) -> None:
        call = stub.Generate(request.message(max_delay_ms=0))
        got = await Answer().read_tokens(call, 1)
        if self._chance.random() < 0.5:
            await stub.Cancel(pb.CancelRequest(stream_id=got.stream_id))
            await got.read(call)
            assert got.end.reason == pb.FINISH_REASON_CANCELLED
            self.tally.end(Outcome.CANCELLED)
        else:
            call.cancel()
            self.tally.end(*OPEN_END)
        self._took(request, got)

    def _took(self, request: Asked, got: Answer) -> None:
        request.check(got)
        self.tally.tokens += got.count
