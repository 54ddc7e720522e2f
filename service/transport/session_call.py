"""One `Session` call: a loop that reads the caller's messages, and one that writes frames."""

import asyncio
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.admission.callers import Caller
from service.errors import (
    ActionMissing,
    FieldViolation,
    InvalidRequest,
    ServiceError,
    StreamStalled,
    Unauthenticated,
)
from service.pipeline import Pipeline
from service.session.driver import SessionDriver
from service.session.frame import ActionKind, Resume, Start
from service.transport.authentication import Authenticator
from service.transport.convert import to_delivery, to_request
from service.transport.convert_session import from_frame, timeout_of, to_credit
from service.transport.trace_context import trace_id_of
from service.transport.wakeup import Wakeup
from tokenstream.v1 import generation_pb2

STRANGERS_STAY_S = 10.0

# Of a batch, before others have their turn: it can have as many as fit into a message.
_AT_ONCE = 64


class SessionCall:
    """See above. The caller's key is looked at again for each request: it can be withdrawn."""

    def __init__(
        self,
        pipeline: Pipeline,
        authenticator: Authenticator,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        self._authenticator = authenticator
        self._metadata = context.invocation_metadata()
        # Whether somebody who may call has spoken; strangers' sessions do not stay.
        self._is_known = authenticator.session_caller(self._metadata) is not None
        self._opened_at: float | None = None
        self._context = context
        self._wakeup = Wakeup()
        self._room = Wakeup()
        self._driver = SessionDriver(pipeline, self._wakeup.set)
        self._task = asyncio.current_task()
        self._broken: ServiceError | None = None
        self._seen_sent = -1
        self._seen_at = 0.0

    async def run(self) -> None:
        """Serve the session to its end. Raises what it was broken off for."""
        reading = asyncio.create_task(self._read())
        try:
            await self._write(reading)
        except asyncio.CancelledError:
            if self._broken is None or self._task is None or self._task.uncancel() > 0:
                raise  # the caller has gone
            raise self._broken from None
        finally:
            self._task = None  # nothing is left to break off
            reading.cancel()
            self._driver.end(self._broken)
            await asyncio.wait([reading])

    def sweep(self, now: float, limit_s: float, forgiven_s: float = 0.0) -> None:
        """Break the session off if its caller has taken nothing for the limit; call it often."""
        session = self._driver.session
        self._seen_at += forgiven_s
        if not session.sending or session.sent != self._seen_sent:
            self._seen_sent, self._seen_at = session.sent, now
        elif now - self._seen_at >= limit_s:
            self.break_off(StreamStalled(limit_s))
        if not self._is_known:
            self._opened_at = self._opened_at or now
            if now - self._opened_at >= STRANGERS_STAY_S:
                self.break_off(Unauthenticated("no API key has come in this session"))

    @property
    def has_said_all(self) -> bool:
        """See `Session`."""
        return self._driver.session.has_said_all

    def break_off(self, why: ServiceError) -> None:
        """End the session from this side."""
        if self._broken is None and self._task is not None:
            self._broken = why
            self._task.cancel()

    async def _write(self, reading: "asyncio.Task[None]") -> None:
        session, write = self._driver.session, self._context.write
        while True:
            frame = session.next_frame()
            if frame is not None:
                self._room.set()
                session.sending = True
                await write(from_frame(frame))
                session.sending = False
                session.sent += 1
            elif reading.done() and (session.is_over or reading.exception() is not None):
                return reading.result()
            else:
                await self._wakeup.wait()

    async def _read(self) -> None:
        session = self._driver.session
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                several = message.HasField("batch")
                requests = message.batch.requests if several else (message,)
                for number, request in enumerate(requests, 1):
                    self._follow(request)
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
                    while session.is_full:
                        await self._room.wait()
        except DecodeError as error:
            why = FieldViolation("", "the message cannot be decoded")
            raise InvalidRequest((why,)) from error
        finally:
            session.close_input()
            # Once this task is done, for which the writer looks.
            asyncio.get_running_loop().call_soon(self._wakeup.set)

    def _follow(self, message: generation_pb2.SessionRequest) -> None:
        driver = self._driver
        match message.WhichOneof("action"):
            case "start":
                self._start(message.start)
            case "cancel":
                driver.cancel(message.cancel.id)
            case "credit" if len(message.credit.ids) != len(message.credit.token_limits):
                why = FieldViolation("credit.token_limits", "has not as many entries as ids")
                driver.session.reject(0, ActionKind.CREDIT, InvalidRequest((why,)))
            case "credit":
                driver.grant(to_credit(message.credit))
            case "resume":
                self._resume(message.resume)
            case "close":
                driver.close(message.close.id)
            case _:
                driver.session.reject(0, ActionKind.NONE, ActionMissing())

    def _caller_of(self, api_key: str) -> Caller:
        authenticator = self._authenticator
        own = None if api_key else authenticator.session_caller(self._metadata)
        caller = authenticator.caller_of_key(api_key, own)
        self._is_known = True
        return caller

    def _start(self, start: generation_pb2.SessionStart) -> None:
        try:
            caller = self._caller_of(start.api_key)
        except Unauthenticated as error:
            self._driver.refuse(start.id, ActionKind.START, error)
            return
        request = to_request(start.request, trace_id_of(start.traceparent))
        self._driver.start(Start(start.id, request, caller.tenant, timeout_of(start)))

    def _resume(self, resume: generation_pb2.SessionResume) -> None:
        request = resume.request
        try:
            caller = self._caller_of(resume.api_key)
        except Unauthenticated as error:
            self._driver.refuse(resume.id, ActionKind.RESUME, error)
            return
        self._driver.resume(
            Resume(
                resume.id,
                request.stream_id,
                request.next_token_index,
                to_delivery(request.stream),
                caller.tenant,
            )
        )
