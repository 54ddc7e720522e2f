"""An answer that has a gRPC call to itself: where there is no session, or it would not fit in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import grpc

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc
from tokenstream_client.answer import Answer
from tokenstream_client.channel import key_metadata, trace_metadata
from tokenstream_client.errors import TokenstreamError, Unavailable
from tokenstream_client.events import Delta, Started, event_from_message
from tokenstream_client.status import error_from_rpc

Pause = Callable[[float | None], Awaitable[None]]
"""Waits until the answer has changed, or for so many seconds."""

Stop = Callable[[str, str], None]
"""Ends a stream, by its id and with an API key, in the background."""

# A start that comes no sooner is not waited for, to stop what was left before it.
_START_PATIENCE_S: Final = 5.0


class Place(Protocol):
    """A connection, as a call on it sees it."""

    @property
    def generation(self) -> generation_pb2_grpc.GenerationServiceStub:
        """What begins calls on it."""

    def note(self, call: "OwnCall") -> None:
        """Know of a call."""

    def elsewhere(self, answer: Answer, error: TokenstreamError) -> bool:
        """Tell whether an answer that was refused begins again at once, on another connection."""


class OwnCall:
    """Carries one answer by Generate, and by Resume after a lost connection.

    Its reader's own task moves it, so nothing happens while nobody reads: gRPC's flow control
    (64 KiB, more on fast links) bounds what waits here, and a lost connection is found, and
    resumed, with the next read.
    """

    def __init__(
        self,
        answer: Answer,
        place_of: Callable[[Answer], Place],
        default_key: str | None,
        stop: Stop,
    ) -> None:
        """`place_of` says where an answer begins; once it has, it stays there."""
        self._answer = answer
        self._place_of = place_of
        self._place: Place | None = None
        self._key = answer.terms.api_key or default_key or ""
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._delay = 0.0
        self._starting: asyncio.Task[None] | None = None
        self._call: Any = None
        self._open()

    def is_on(self, place: Place) -> bool:
        """Whether it runs on that connection."""
        return self._place is place and not self._answer.ended

    async def advance(self, pause: Pause) -> None:
        """Take one message, or one failure, or pause before another try."""
        if self._call is None:
            await pause(self._delay)
            if not self._answer.ended:
                self._open()
        elif self._starting is not None:
            await pause(None)
        else:
            await self._step(self._call)

    async def stop(self) -> None:
        """Ask for the stream's end; its reader gets a Finished."""
        self._answer.stop_asked = True
        if self._answer.stream_id:
            self._stop(self._answer.stream_id, self._key)

    def leave(self) -> None:
        """Close the call; the reader has left."""
        if self._answer.must_be_stopped:
            if self._answer.stream_id:
                self._stop(self._answer.stream_id, self._key)
            elif self._starting is not None:
                # Closed now, the stream would go on without anybody who knows its id.
                self._loop.call_later(_START_PATIENCE_S, self._call.cancel)
                return
        if self._call is not None:
            self._call.cancel()

    def _open(self) -> None:
        answer, now = self._answer, self._loop.time()
        if self._place is None or not answer.has_started:
            self._place = self._place_of(answer)
            self._place.note(self)
        stub: Any = self._place.generation
        message = answer.open_message(credit=False)
        metadata = key_metadata(self._key)
        begin = stub.Resume
        if isinstance(message, pb.GenerateRequest):
            begin, terms = stub.Generate, answer.terms
            metadata += trace_metadata(terms.traceparent, terms.tracestate)
        self._call = begin(message, timeout=answer.remaining(now), metadata=metadata)
        if answer.must_be_stopped and not answer.stream_id:
            # In a task of its own, which goes on to learn the id when the reader leaves.
            self._starting = self._loop.create_task(self._start(self._call))

    async def _start(self, call: Any) -> None:
        try:
            await self._step(call)
        finally:
            self._starting = None
            self._answer.changed()
            if self._answer.ended:
                call.cancel()

    async def _step(self, call: Any) -> None:
        answer = self._answer
        try:
            message = await call.read()
        except asyncio.CancelledError:
            # gRPC raises this both when the task is cancelled and when the call is. Only the
            # first may go on as it is: a task that nobody cancelled must not look as if.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._again(answer.lost(Unavailable("the connection was lost"), self._loop.time()))
        except grpc.RpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            if not answer.has_started and self._place and self._place.elsewhere(answer, error):
                self._again(None)
                return
            take = answer.lost if answer.is_loss(error) else answer.failed
            self._again(take(error, self._loop.time()))
        else:
            if message is grpc.aio.EOF:
                self._at_the_end()
            else:
                self._take(message)

    def _take(self, message: pb.GenerateResponse | pb.ResumeResponse) -> None:
        answer, event = self._answer, event_from_message(message)
        if isinstance(event, Started):
            if answer.ended or answer.stop_asked:
                self._stop(event.stream_id, self._key)
            answer.on_started(event)
        elif isinstance(event, Delta):
            answer.on_delta(event)
            if answer.ended:  # it was not the next one
                self.leave()
        elif event is not None:
            # The end is the call's: a failure can still follow.
            answer.on_finished(event, last=False)
            if answer.ended:  # it was not the end of a choice that runs
                self.leave()

    def _at_the_end(self) -> None:
        if self._answer.finished:
            self._answer.end(None)
        else:
            self._again(self._answer.cut_off(self._loop.time()))

    def _again(self, delay: float | None) -> None:
        self._call = None
        self._delay = delay or 0.0
