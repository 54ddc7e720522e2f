"""One Session call of the scripted service: its requests' scripts, merged into one stream."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from tests.clients.script import Fail, Step, reason
from tokenstream.v1 import generation_pb2 as pb


class Host(Protocol):
    """What a session needs of its service."""

    frames: list[pb.SessionRequest]
    cancelled: asyncio.Event
    stream_cancelled: asyncio.Event

    def note_request(
        self, request: pb.GenerateRequest, remaining: float | None, key: str
    ) -> list[Step]: ...

    def note_resume(self, request: pb.ResumeRequest, key: str) -> list[Step]: ...


@dataclass
class Played:
    """A request of a session, while its script is played."""

    id: int
    limit: int | None
    cancelled: bool = False
    credited: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    delivered: int = 0
    """Index after the last token that was sent."""


async def flattened(requests: AsyncIterator[pb.SessionRequest]) -> AsyncIterator[pb.SessionRequest]:
    """Take batches apart."""
    async for message in requests:
        for frame in message.batch.requests if message.HasField("batch") else (message,):
            yield frame


class ScriptedSession:
    """Plays each request's script as far as its credit goes, in a task for each."""

    def __init__(self, service: Host) -> None:
        self.playing: dict[int, Played] = {}
        self.closed = asyncio.Event()
        self.rejects_next = False
        self._service = service
        self._last_id = 0
        self._out: list[pb.SessionResponse] = []
        self._news = asyncio.Event()
        self._done = False

    async def serve(
        self, requests: AsyncIterator[pb.SessionRequest]
    ) -> AsyncIterator[pb.SessionResponse]:
        reading = asyncio.create_task(self._read(requests))
        try:
            while not (self._done and not self._out):
                await self._news.wait()
                self._news.clear()
                waiting, self._out = self._out, []
                for message in merged(waiting):
                    yield message
        finally:
            reading.cancel()
            for played in self.playing.values():
                self._service.cancelled.set()
                if played.task is not None:
                    played.task.cancel()
            self.closed.set()

    async def _read(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        async for frame in flattened(requests):
            self._service.frames.append(frame)
            match frame.WhichOneof("action"):
                case "start":
                    start = frame.start
                    timeout = start.timeout.ToTimedelta().total_seconds()
                    remaining = timeout if start.HasField("timeout") else None
                    steps = self._service.note_request(start.request, remaining, start.api_key)
                    self._begin(start.id, steps, 0, start.request.stream, remaining)
                case "resume":
                    resume = frame.resume
                    steps = self._service.note_resume(resume.request, resume.api_key)
                    self._begin(
                        resume.id,
                        steps,
                        resume.request.next_token_index,
                        resume.request.stream,
                        None,
                    )
                case "credit":
                    for identity, limit in zip(
                        frame.credit.ids, frame.credit.token_limits, strict=True
                    ):
                        if (played := self.playing.get(identity)) is not None:
                            played.limit = max(played.limit or 0, limit)
                            played.credited.set()
                case "cancel":
                    if (played := self.playing.pop(frame.cancel.id, None)) is not None:
                        self._service.stream_cancelled.set()
                        assert played.task is not None
                        played.task.cancel()
                        end = pb.Finished(reason=pb.FINISH_REASON_CANCELLED)
                        self._send_finished(played.id, end)
                case "close":
                    if (played := self.playing.pop(frame.close.id, None)) is not None:
                        assert played.task is not None
                        played.task.cancel()
                    self._service.cancelled.set()
        while self.playing:
            await asyncio.wait([p.task for p in self.playing.values() if p.task is not None])
        self._done = True
        self._news.set()

    def _begin(
        self,
        identity: int,
        steps: list[Step],
        first: int,
        options: pb.StreamOptions,
        timeout: float | None,
    ) -> None:
        assert identity > self._last_id, "ids must increase"
        self._last_id = identity
        if self.rejects_next:
            self.rejects_next = False
            message = pb.SessionResponse()
            rejected = message.rejected.add(id=identity, action=pb.SESSION_ACTION_START)
            rejected.failure.code = 3
            rejected.failure.message = "rejected"
            self._send_message(message)
            return
        limit = first + options.credit if options.HasField("credit") else None
        played = self.playing[identity] = Played(identity, limit, delivered=first)
        played.task = asyncio.create_task(self._play(played, steps, timeout))

    async def _play(self, played: Played, steps: list[Step], timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                for step in steps:
                    if isinstance(step, asyncio.Event):
                        await step.wait()
                    elif isinstance(step, Fail):
                        self._send_failure(played.id, step)
                        return
                    else:
                        await self._send(played, step)
                        await asyncio.sleep(0)  # in turn, as the requests of one batch
        except TimeoutError:
            self._send_failure(
                played.id,
                Fail(grpc.StatusCode.DEADLINE_EXCEEDED, "too late", [reason("DEADLINE_EXCEEDED")]),
            )
        finally:
            self.playing.pop(played.id, None)

    async def _send(self, played: Played, step: pb.GenerateResponse) -> None:
        match step.WhichOneof("event"):
            case "started":
                message = pb.SessionResponse()
                message.started.add(id=played.id, started=step.started)
                self._send_message(message)
            case "delta":
                after = step.delta.first_token_index + len(step.delta.token_ids)
                while played.limit is not None and after > played.limit:
                    played.credited.clear()
                    await played.credited.wait()
                played.delivered = after
                message = pb.SessionResponse()
                message.deltas.ids.append(played.id)
                message.deltas.first_token_indexes.append(step.delta.first_token_index)
                message.deltas.token_counts.append(len(step.delta.token_ids))
                message.deltas.token_ids.extend(step.delta.token_ids)
                message.deltas.texts.append(step.delta.text)
                self._send_message(message)
            case "finished":
                self._send_finished(played.id, step.finished)

    def _send_finished(self, identity: int, finished: pb.Finished) -> None:
        message = pb.SessionResponse()
        message.finished.add(id=identity, finished=finished)
        self._send_message(message)

    def _send_message(self, message: pb.SessionResponse) -> None:
        self._out.append(message)
        self._news.set()

    def _send_failure(self, identity: int, failure: Fail) -> None:
        message = pb.SessionResponse()
        failed = message.failed.add(id=identity).failure
        failed.code, failed.message = failure.code.value[0], failure.message
        for detail in failure.details:
            failed.details.add().Pack(detail)
        self._send_message(message)


def merged(messages: Iterable[pb.SessionResponse]) -> Iterator[pb.SessionResponse]:
    """Put into one message what its order of fields, and one delta for each id, allow."""
    current: pb.SessionResponse | None = None
    for message in messages:
        if current is not None and (
            _last_field(current) > _first_field(message)
            or set(current.deltas.ids) & set(message.deltas.ids)
        ):
            yield current
            current = None
        if current is None:
            current = message
        else:
            current.MergeFrom(message)
    if current is not None:
        yield current


def _first_field(message: pb.SessionResponse) -> int:
    return min(field.number for field, _ in message.ListFields())


def _last_field(message: pb.SessionResponse) -> int:
    return max(field.number for field, _ in message.ListFields())
