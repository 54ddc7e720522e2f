"""`tokenstream.v1.GenerationService` over the pipeline: who calls, convert, pass on, write."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service.admission import validation
from service.errors import ServiceError, TooManySessions
from service.pipeline import Pipeline
from service.transport.authentication import Authenticator
from service.transport.call_messages import CallMessages
from service.transport.call_sink import CallSink
from service.transport.choices_sink import ChoicesSink
from service.transport.convert import to_delivery, to_request
from service.transport.session_call import SessionCall
from service.transport.status import answering
from service.transport.trace_context import trace_id_in
from service.transport.wakeup import Turns
from tokenstream.v1 import generation_pb2, generation_pb2_grpc

_Context = grpc.aio.ServicerContext


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """At most one message of a call is being written; gRPC's flow control sets the pace."""

    def __init__(self, pipeline: Pipeline, authenticator: Authenticator, max_sessions: int) -> None:
        self._pipeline = pipeline
        self._authenticator = authenticator
        self._max_sessions = max_sessions
        self._sessions: set[SessionCall] = set()
        self._turns = Turns()

    @property
    def sessions_open(self) -> int:
        """Number of session calls."""
        return len(self._sessions)

    def sweep(self, now: float, stall_limit_s: float, forgiven_s: float = 0.0) -> None:
        """Look for sessions whose callers take nothing."""
        for session in list(self._sessions):
            session.sweep(now, stall_limit_s, forgiven_s)

    @property
    def sessions_have_said_all(self) -> bool:
        """Whether no session call has anything left to write."""
        return all(session.has_said_all for session in self._sessions)

    def break_off_sessions(self, why: ServiceError) -> None:
        """End all session calls, with or without requests."""
        for session in list(self._sessions):
            session.break_off(why)

    @answering
    async def Generate(  # type: ignore[override]  # the stubs know handlers that yield only
        self, request: generation_pb2.GenerateRequest, context: "_Context[Any, Any]"
    ) -> None:
        """One request, one stream.

        Writes itself instead of yielding, so that a cancellation arrives here, where it is
        acted on at once, and not in gRPC's loop over a generator.
        """
        with self._refusals_counted():
            metadata = context.invocation_metadata()
            caller = self._authenticator.caller_of(metadata)
            wanted = to_request(request, trace_id_in(metadata))
            validation.check_without_credit(wanted.delivery)
        generation = await self._pipeline.open(wanted, caller.tenant, context.time_remaining())
        messages = CallMessages(generation_pb2.GenerateResponse)
        if generation.choices:
            several = ChoicesSink(self._turns)
            for choice in generation.choices:
                self._pipeline.read(choice, several, choice.choice_index)
            await several.write_out(generation, context, messages)
            return
        sink = CallSink(self._turns)
        reader = self._pipeline.read(generation, sink)
        await sink.write_out(generation, reader, context, messages)

    @answering
    async def Session(  # type: ignore[override]  # as above
        self, _: object, context: "_Context[Any, Any]"
    ) -> None:
        """Many requests on one stream."""
        if len(self._sessions) >= self._max_sessions:
            full = TooManySessions(self._max_sessions)
            self._pipeline.turned_away(full)
            raise full
        session = SessionCall(self._pipeline, self._authenticator, context)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    @answering
    async def Resume(  # type: ignore[override]  # as above
        self, request: generation_pb2.ResumeRequest, context: "_Context[Any, Any]"
    ) -> None:
        """Read a stream on."""
        caller = self._authenticator.caller_of(context.invocation_metadata())
        delivery = to_delivery(request.stream)
        validation.check_without_credit(delivery)
        sink = CallSink(self._turns)
        generation, reader = self._pipeline.resume(
            request.stream_id, caller.tenant, request.next_token_index, delivery, sink
        )
        messages = CallMessages(generation_pb2.ResumeResponse)
        await sink.write_out(generation, reader, context, messages)

    @answering
    async def Cancel(
        self, request: generation_pb2.CancelRequest, context: "_Context[Any, Any]"
    ) -> generation_pb2.CancelResponse:
        """End a running stream."""
        caller = self._authenticator.caller_of(context.invocation_metadata())
        self._pipeline.cancel(request.stream_id, caller.tenant)
        return generation_pb2.CancelResponse()

    @contextmanager
    def _refusals_counted(self) -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            self._pipeline.refused(error)
            raise
