"""One line in the log for each request, and for each answer on a WebSocket. Never what was asked.

A handler runs in a task of its own; what it and the answer under it find out is noted in a record
that belongs to the task (`contextvars`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

from gateway_sse.doors.trace import trace_context_of
from gateway_sse.streaming.outcomes import Outcome
from tokenstream_client import AsyncStream

_log = structlog.get_logger("tokenstream.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# As much of a stream's id as a log needs to tell streams apart, and as the service's has; the whole
# id is its owner's.
_ID_IN_LOG: Final = 8
_CLIENT_LEFT: Final = 499  # as proxies write it; nobody gets to see it
_QUIET: Final = "/v1/"  # what is none of these is of little interest


@dataclass(slots=True)
class Record:
    """What is known of the request at hand."""

    stream: AsyncStream | None = None
    outcome: Outcome | None = None
    reason: str = ""
    """Of its refusal or failure."""
    is_socket: bool = False
    trace_id: str = ""


_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write the line of a request when all of it is over."""
    loop = asyncio.get_running_loop()
    began_at, record = loop.time(), Record()
    traceparent, _ = trace_context_of(request)
    record.trace_id = traceparent[3:35]
    _RECORD.set(record)
    status = _CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        resource = request.match_info.route.resource
        write = _log.info if request.path.startswith(_QUIET) else _log.debug
        write(
            "request_ended",
            method=request.method,
            # Not the path: it can have a stream's id in it, and a query a prompt.
            route="other" if resource is None else resource.canonical,
            status=status,
            **_known(record),
            total_s=round(loop.time() - began_at, 4),
        )


def note_refusal(reason: str) -> None:
    """Note why the request at hand gets an error."""
    record = _RECORD.get()
    if record is not None:
        record.reason = reason


def note_socket() -> None:
    """Note that the request at hand has become a WebSocket: its answers get lines of their own."""
    record = _RECORD.get()
    if record is not None:
        record.is_socket = True


def note_answer(stream: AsyncStream, outcome: Outcome) -> None:
    """Note how the answer of the request at hand ended; on a WebSocket, write its line."""
    record = _RECORD.get()
    if record is None:
        return
    if record.is_socket:
        _log.info("answer_ended", **_known(Record(stream, outcome, trace_id=record.trace_id)))
    else:
        record.stream, record.outcome = stream, outcome


def _known(record: Record) -> dict[str, object]:
    known: dict[str, object] = {}
    if record.trace_id:
        known["trace_id"] = record.trace_id
    if record.reason:
        known["reason"] = record.reason
    stream = record.stream
    if stream is None:
        return known
    if record.outcome is not None:
        known["outcome"] = record.outcome.value
    if stream.started is not None:
        known["stream"] = stream.started.stream_id[:_ID_IN_LOG]
        known["prompt_tokens"] = stream.started.prompt_tokens
        known["tokens"] = stream.tokens_read
    if stream.finished is not None:
        known["finish"] = stream.finished.reason.value
        first_s = stream.finished.timings.time_to_first_token
        if first_s is not None:
            known["service_first_token_s"] = round(first_s, 4)
    return known
