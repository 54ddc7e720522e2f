"""A caller of sessions: each has some dozens of requests, and each request a fate of its own."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import grpc

from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.service.running import Answer
from tests.soak.known import Asked, Tally
from tokenstream.v1 import generation_pb2 as pb

REQUESTS = 32
LEFT_OR_ENDED = (Outcome.DISCONNECTED, Outcome.LENGTH)
FATES = ("finish", "finish", "credit", "starve", "cancel", "close", "move")


@dataclass
class Led:
    """One request of a session. `after`: the number of tokens at which its fate comes."""

    asked: Asked
    fate: str
    after: int
    detaches: bool
    stream_id: str = ""  # of one that is read on
    done: bool = False  # nothing is left to be said of it


class SessionCaller:
    """Sessions one after the other, on one connection; `far`: a stub on another."""

    def __init__(
        self, seed: str, channel: grpc.aio.Channel, far: Any, time_to_live_s: float
    ) -> None:
        self.chance = random.Random(seed)
        self._channel, self._far, self._time_to_live_s = channel, far, time_to_live_s
        self.tally = Tally()

    async def until(self, deadline: float) -> None:
        """Have sessions until it is time."""
        while asyncio.get_running_loop().time() < deadline:
            await self.one_session()

    async def one_session(self) -> None:
        chance = self.chance
        talk = Talk.over(self._channel)
        began = asyncio.get_running_loop().time()
        led = {number: self._draw() for number in range(1, REQUESTS + 1)}
        for number, request in led.items():
            await talk.start(number, self._message(request))
        broken_after = chance.randrange(5, 60) if chance.random() < 0.3 else None
        slow = chance.random() < 0.3
        while not all(self._is_over(talk, n, r) for n, r in led.items()):
            if broken_after is not None and talk.frames >= broken_after and all_started(talk):
                break
            if slow:
                await asyncio.sleep(chance.random() * 0.03)
            assert await talk.frame() is not None
            for number, request in list(led.items()):
                await self._follow(talk, led, number, request)
        if broken_after is None:
            await talk.end()
        else:
            talk.call.cancel()
        await asyncio.gather(*(self._settle(talk, n, r, slow, began) for n, r in led.items()))
        for number, action, why in talk.rejected:
            # It had its end when the message came.
            assert action in ("cancel", "close", "credit"), (number, action, why)
            assert why.reason == "ID_UNKNOWN"

    def _draw(self) -> Led:
        chance = self.chance
        asked = Asked.new(chance.randrange(20, 150))
        fate = chance.choice(FATES)
        detaches = fate == "move" or (fate != "starve" and chance.random() < 0.3)
        return Led(asked, fate, chance.randrange(asked.tokens // 2), detaches)

    def _message(self, request: Led) -> pb.GenerateRequest:
        chance = self.chance
        stream: dict[str, Any] = {}
        if request.detaches:
            stream["on_disconnect"] = pb.ON_DISCONNECT_DETACH
        if request.fate in ("credit", "starve"):
            stream["credit"] = request.after
        if chance.random() < 0.3:
            stream["max_delay_ms"] = chance.choice((0, 20, 100))
        if chance.random() < 0.3:
            stream["max_tokens_per_message"] = chance.choice((1, 2, 7, 30))
        return request.asked.message(**stream)

    @staticmethod
    def _is_over(talk: Talk, number: int, request: Led) -> bool:
        return talk.told[number].ended or (request.done and request.fate in ("close", "move"))

    async def _follow(self, talk: Talk, led: dict[int, Led], number: int, request: Led) -> None:
        """Let a request's fate come, if it is time."""
        told = talk.told[number]
        if told.ended or request.done:
            return
        if request.fate == "credit" and told.upto == told.most:
            await talk.grant({number: told.upto + 1 + self.chance.randrange(30)})
        elif told.answer.started is None or told.answer.count < request.after:
            return
        elif request.fate == "cancel":
            request.done = True
            await talk.cancel(number)
        elif request.fate == "close":
            request.done = True
            await talk.close(number)
        elif request.fate == "move":
            # Read on by the same session under a new id, sometimes without leaving first.
            request.done = True
            if self.chance.random() < 0.7:
                await talk.close(number)
            new = max(led) + 1
            stream_id = told.answer.stream_id
            await talk.resume(new, stream_id, told.upto)
            led[new] = Led(request.asked, "finish", 0, detaches=True, stream_id=stream_id)

    async def _settle(
        self, talk: Talk, number: int, request: Led, slow: bool, began: float
    ) -> None:
        """Check what came, and note how it has to have been counted."""
        told, got = talk.told[number], talk.told[number].answer
        request.asked.check(got)
        self.tally.tokens += got.count
        if request.fate == "move" and request.done:
            return  # noted for the id that reads it on
        if told.failed is not None:
            # Who reads slowly can be seconds behind, and so late with its credit, or its return.
            assert slow or request.fate == "starve", (request, told.failed)
            if told.failed.reason == "STREAM_NOT_FOUND":
                assert request.stream_id
                self.tally.end(Outcome.LENGTH, Outcome.EXPIRED)
                return
            assert told.failed.reason == "STREAM_STALLED"
            assert request.fate in ("starve", "credit")
            if request.detaches:
                await self._read_on_elsewhere(request, got, began)
            else:
                self.tally.end(Outcome.STALLED)
        elif got.finished is not None:
            if request.fate != "cancel":
                request.asked.check_whole(got)
            self.tally.end_of(got)
        elif request.detaches:
            await self._read_on_elsewhere(request, got, began)
        else:
            starving = (Outcome.STALLED,) if request.fate in ("starve", "credit") else ()
            cancelled = (Outcome.CANCELLED,) if request.fate == "cancel" else ()
            self.tally.end(*LEFT_OR_ENDED, *starving, *cancelled)

    async def _read_on_elsewhere(self, request: Led, got: Answer, began: float) -> None:
        upto = got.first + got.count
        stream_id = request.stream_id or got.stream_id
        resume = pb.ResumeRequest(stream_id=stream_id, next_token_index=upto)
        try:
            tail = await Answer(first=upto).read(self._far.Resume(resume))
        except grpc.aio.AioRpcError as error:
            lasted = asyncio.get_running_loop().time() - began
            if error.code() is not grpc.StatusCode.NOT_FOUND or lasted < self._time_to_live_s:
                raise
            # It was closed long before its session ended, and nobody has come back since.
            self.tally.late += 1
            self.tally.end(Outcome.EXPIRED, Outcome.LENGTH)
            return
        request.asked.check(tail)
        self.tally.tokens += tail.count
        self.tally.end_of(tail)
        if request.fate != "cancel":
            request.asked.check_whole(tail)


def all_started(talk: Talk) -> bool:
    """Whether the service has all that was asked for, and so will count it."""
    return all(told.answer.started is not None or told.answer.first for told in talk.told.values())
