"""A caller's side of one session: says what it wants, takes frames apart, checks their grammar."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.service.running import PATIENCE_S, Answer, Refusal
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

_ACTIONS = {
    pb.SESSION_ACTION_UNSPECIFIED: "none",
    pb.SESSION_ACTION_START: "start",
    pb.SESSION_ACTION_CANCEL: "cancel",
    pb.SESSION_ACTION_CREDIT: "credit",
    pb.SESSION_ACTION_RESUME: "resume",
    pb.SESSION_ACTION_CLOSE: "close",
}


@dataclass
class Told:
    """What came of one id. `most`: tokens below this index may be delivered; None: any.

    `others`: its further choices, from index 1 on.
    """

    answer: Answer
    most: int | None = None
    failed: Refusal | None = None
    others: list[Answer] = field(default_factory=list)

    @property
    def choices(self) -> list[Answer]:
        return [self.answer, *self.others]

    @property
    def ended(self) -> bool:
        return self.failed is not None or all(c.finished is not None for c in self.choices)

    @property
    def upto(self) -> int:
        """Index behind the last token that came, of the first choice."""
        return self.answer.first + self.answer.count


@dataclass
class Talk:
    """Reads only when asked to, so that a test decides how fast its caller reads."""

    call: Any
    told: dict[int, Told] = field(default_factory=dict)
    rejected: list[tuple[int, str, Refusal]] = field(default_factory=list)
    frames: int = 0
    frames_with_tokens: int = 0
    _saying: asyncio.Lock = field(default_factory=asyncio.Lock)
    _batch: pb.SessionBatch | None = None

    @classmethod
    def over(cls, channel: grpc.aio.Channel, metadata: Mapping[str, str] | None = None) -> "Talk":
        """Open a session on a connection."""
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        return cls(stub.Session(metadata=tuple((metadata or {}).items())))

    # -- saying ------------------------------------------------------------------------------

    async def start(
        self,
        request_id: int,
        request: pb.GenerateRequest | str,
        *,
        timeout_s: float | None = None,
        api_key: str = "",
        traceparent: str = "",
        expected: bool = True,
    ) -> None:
        """Begin a request; a string is a text prompt. `expected`: whether it should be taken."""
        if isinstance(request, str):
            request = pb.GenerateRequest(text=request)
        if expected:
            credit = request.stream.credit if request.stream.HasField("credit") else None
            others = [Answer() for _ in range(1, request.sampling.n)]
            self.told[request_id] = Told(Answer(), credit, others=others)
        start = pb.SessionStart(
            id=request_id, request=request, api_key=api_key, traceparent=traceparent
        )
        if timeout_s is not None:
            start.timeout.CopyFrom(duration(timeout_s))
        await self.say(pb.SessionRequest(start=start))

    async def resume(
        self,
        request_id: int,
        stream_id: str,
        first: int = 0,
        *,
        api_key: str = "",
        **stream: Any,
    ) -> None:
        """Read a stream on; `stream`: its StreamOptions."""
        request = pb.ResumeRequest(stream_id=stream_id, next_token_index=first)
        if stream:
            request.stream.CopyFrom(pb.StreamOptions(**stream))
        most = first + stream["credit"] if "credit" in stream else None
        self.told[request_id] = Told(Answer(first=first), most)
        resume = pb.SessionResume(id=request_id, request=request, api_key=api_key)
        await self.say(pb.SessionRequest(resume=resume))

    async def cancel(self, request_id: int) -> None:
        await self.say(pb.SessionRequest(cancel=pb.SessionCancel(id=request_id)))

    async def close(self, request_id: int) -> None:
        """Stop reading a request; what was on its way can still come, until `settled`."""
        await self.say(pb.SessionRequest(close=pb.SessionClose(id=request_id)))

    async def grant(self, limits: Mapping[int, int]) -> None:
        for request_id, limit in limits.items():
            told = self.told.get(request_id)
            if told is not None and told.most is not None:
                told.most = max(told.most, limit)
        credit = pb.SessionCredit(ids=limits.keys(), token_limits=limits.values())
        await self.say(pb.SessionRequest(credit=credit))

    async def say_nothing(self) -> None:
        """Send a message without an action; its rejection shows how far the service has read."""
        await self.say(pb.SessionRequest())

    async def half_close(self) -> None:
        await self.call.done_writing()

    def begin_batch(self) -> None:
        """Keep what is said from now on."""
        self._batch = pb.SessionBatch()

    async def send_batch(self) -> None:
        """Send what was kept in one message."""
        batch, self._batch = self._batch, None
        await self.say(pb.SessionRequest(batch=batch))

    async def say(self, message: pb.SessionRequest) -> None:
        if self._batch is not None:
            self._batch.requests.append(message)
            return
        async with self._saying:  # gRPC takes one message at a time
            await self.call.write(message)

    # -- reading -----------------------------------------------------------------------------

    async def frame(self) -> pb.SessionResponse | None:
        """Read and check one frame; None at the session's end. Raises what the call raises."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.call.read()
        if frame is grpc.aio.EOF:
            return None
        assert isinstance(frame, pb.SessionResponse)
        self._take(frame)
        return frame

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until something is true."""
        while not condition():
            assert await self.frame() is not None, "the session ended before that"

    async def answer(self, request_id: int) -> Answer:
        """Read until a request has its end, which must be a good one."""
        told = self.told[request_id]
        await self.until(lambda: told.ended)
        assert told.failed is None, told.failed
        return told.answer

    async def choices(self, request_id: int) -> list[Answer]:
        """Read until all choices of a request have their ends, which must be good ones."""
        await self.answer(request_id)
        return self.told[request_id].choices

    async def failure(self, request_id: int) -> Refusal:
        """Read until a request has failed."""
        told = self.told[request_id]
        await self.until(lambda: told.ended)
        assert told.failed is not None, "it did not fail"
        return told.failed

    async def started(self, request_id: int) -> str:
        """Read until a request has started; return its stream's id."""
        answer = self.told[request_id].answer
        await self.until(lambda: answer.started is not None)
        return answer.stream_id

    async def tokens(self, request_id: int, count: int) -> Answer:
        """Read until so many tokens of a request have come."""
        answer = self.told[request_id].answer
        await self.until(lambda: answer.count >= count)
        return answer

    async def settled(self) -> None:
        """Read until the service has followed all that was said so far."""
        before = sum(action == "none" for _, action, _ in self.rejected)
        await self.say_nothing()
        await self.until(lambda: sum(action == "none" for _, action, _ in self.rejected) > before)

    async def end(self) -> None:
        """Half-close and read to the end, which has to be OK."""
        await self.half_close()
        while await self.frame() is not None:
            pass
        assert await self.call.code() is grpc.StatusCode.OK

    def _take(self, frame: pb.SessionResponse) -> None:
        self.frames += 1
        assert frame.ByteSize() > 0, "an empty frame"
        for begun in frame.started:
            for choice_index in range(len(self.told[begun.id].choices)):
                self._add(begun.id, pb.GenerateResponse(started=begun.started), choice_index)
        self._take_deltas(frame.deltas)
        for ended in frame.finished:
            finished = pb.GenerateResponse(finished=ended.finished)
            self._add(ended.id, finished, ended.finished.choice_index)
        for broken in frame.failed:
            told = self.told[broken.id]
            assert not told.ended, "a second end"
            told.failed = Refusal.of_failure(broken.failure)
            assert told.failed.domain == "tokenstream"
        for not_followed in frame.rejected:
            why = Refusal.of_failure(not_followed.failure)
            self.rejected.append((not_followed.id, _ACTIONS[not_followed.action], why))

    def _take_deltas(self, deltas: pb.SessionDeltas) -> None:
        count = len(deltas.ids)
        choice_indexes = list(deltas.choice_indexes) or [0] * count
        assert len(choice_indexes) == count
        assert any(choice_indexes) or not deltas.choice_indexes, "filled for nothing"
        whose = list(zip(deltas.ids, choice_indexes, strict=True))
        assert len(set(whose)) == count, "a request's choice occurs at most once in a frame"
        assert len(deltas.first_token_indexes) == len(deltas.token_counts) == count
        assert len(deltas.texts) == count
        assert len(deltas.token_ids) == sum(deltas.token_counts)
        assert len(deltas.logprob_counts) in (0, count)
        assert len(deltas.logprobs) == sum(deltas.logprob_counts)
        with_it = iter(deltas.logprob_counts)
        logprobs = iter(deltas.logprobs)
        self.frames_with_tokens += count > 0
        at = 0
        for (request_id, choice_index), first, length, text in zip(
            whose, deltas.first_token_indexes, deltas.token_counts, deltas.texts, strict=True
        ):
            token_ids = deltas.token_ids[at : at + length]
            at += length
            delta = pb.Delta(first_token_index=first, token_ids=token_ids, text=text)
            delta.logprobs.extend(islice(logprobs, next(with_it, 0)))
            answer = self._add(request_id, pb.GenerateResponse(delta=delta), choice_index)
            most = self.told[request_id].most
            assert most is None or answer.first + answer.count <= most, "more than was granted"

    def _add(self, request_id: int, message: pb.GenerateResponse, choice_index: int) -> Answer:
        told = self.told[request_id]
        assert told.failed is None, "something came after the failure"
        answer = told.choices[choice_index]
        answer.add(message)
        return answer


def duration(seconds: float) -> Duration:
    """The message for a number of seconds."""
    made = Duration()
    made.FromMicroseconds(round(seconds * 1e6))
    return made
