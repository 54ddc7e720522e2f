"""Many answers on one WebSocket, both ways: JSON objects in text messages.

From the client::

    {"type": "authorize", "api_key": "…"}    for what follows; browsers cannot set headers here
    {"type": "start", "id": "a", "request": {…}}    the body of POST /v1/completions/stream
    {"type": "resume", "id": "a", "last_event_id": "…", "delivery": {…}}
    {"type": "ack", "id": "a", "next_token_index": 40}
    {"type": "stop", "id": "a"}                     its reader gets its `finished`

To the client, each with the request's ``id``::

    {"type": "started", "event_id", …}, {"type": "token", "event_id", "token"},
    {"type": "finished", "event_id", …}, {"type": "error", "error": {…}}

An error of a stream that had started has its ``event_id``, too.

``id`` is the client's, 1 to 64 characters, unlike those that are running; ``event_id`` is what
`resume` and Last-Event-ID take. A message that cannot be followed is answered by an error for its
id, or without one. A closed socket is to each answer what a closed connection is (`on_disconnect`).

Bounds: `max_streams_per_socket` answers, each with its stream's window; one message being written,
and nothing is taken meanwhile; a client's message is at most a body's size.
"""

import asyncio
import json
from collections import deque
from typing import Any, Final, Literal

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field

from gateway_sse.api_keys import api_key_of, checked_key
from gateway_sse.bridge import Bridge, bridge_of
from gateway_sse.doors.origins import check_websocket
from gateway_sse.doors.trace import trace_context_of
from gateway_sse.native.event_id import EventId
from gateway_sse.native.openings import begin, resume
from gateway_sse.native.request import Arguments, Delivery, StreamRequest, checked
from gateway_sse.native.socket_answer import SocketAnswer
from gateway_sse.problems import Problem, Refused, problem_from_error
from tokenstream_client import TokenstreamError

_PING_EVERY_S: Final = 15.0
_GOING_AWAY: Final = 1001
_POLICY: Final = 1008


class _Authorize(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["authorize"]
    api_key: str


class _Start(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["start"]
    id: str = Field(min_length=1, max_length=64)
    request: dict[str, Any]


class _Resume(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["resume"]
    id: str = Field(min_length=1, max_length=64)
    last_event_id: str
    delivery: dict[str, Any] = Field(default_factory=dict)


class _Ack(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["ack"]
    id: str = Field(min_length=1, max_length=64)
    next_token_index: int = Field(strict=True, ge=0)


class _Stop(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["stop"]
    id: str = Field(min_length=1, max_length=64)


_MESSAGES: Final[dict[str, type[BaseModel]]] = {
    "authorize": _Authorize,
    "start": _Start,
    "resume": _Resume,
    "ack": _Ack,
    "stop": _Stop,
}


async def serve(request: web.Request) -> web.StreamResponse:
    """Answer an upgrade, and what comes on the socket until it closes."""
    bridge = bridge_of(request)
    check_websocket(request, bridge.settings.cors_origins)
    api_key = api_key_of(request)
    socket = web.WebSocketResponse(
        heartbeat=_PING_EVERY_S, max_msg_size=bridge.settings.max_body_bytes, compress=False
    )
    if not socket.can_prepare(request):
        raise Refused("NOT_A_WEBSOCKET", "must be websocket", field="Upgrade", status=426)
    await socket.prepare(request)
    conversation = _Conversation(bridge, socket, api_key, *trace_context_of(request))
    writing = asyncio.create_task(conversation.write())
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                conversation.hear(message.data)
            else:
                await socket.close(code=_POLICY, message=b"text messages only")
    finally:
        writing.cancel()
        conversation.close()
        await asyncio.gather(writing, return_exceptions=True)
    return socket


class _Conversation:
    """What runs on one socket, and what waits to be said."""

    def __init__(
        self,
        bridge: Bridge,
        socket: web.WebSocketResponse,
        api_key: str | None,
        traceparent: str,
        tracestate: str,
    ) -> None:
        self._bridge = bridge
        self._socket = socket
        self._api_key = api_key
        self._trace = (traceparent, tracestate)
        self._answers: dict[str, SocketAnswer] = {}
        self._ready: deque[SocketAnswer] = deque()
        self._notices: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._stopping = set[asyncio.Task[None]]()

    def hear(self, text: str) -> None:
        """Do what a message says, or say why not."""
        identity: object = None
        try:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                raise Refused("MALFORMED_JSON", "the message is not JSON") from None
            if not isinstance(value, dict):
                raise Refused("MALFORMED_JSON", "the message must be a JSON object")
            identity = value.get("id")
            kind = value.get("type")
            model = _MESSAGES.get(kind) if isinstance(kind, str) else None
            if model is None:
                known = ", ".join(_MESSAGES)
                raise Refused("UNKNOWN_MESSAGE", f"must be one of {known}", field="type")
            self._follow(checked(model, value))
        except Refused as refused:
            self._say_problem(refused.problem, identity)
        except TokenstreamError as error:
            self._say_problem(problem_from_error(error), identity)

    async def write(self) -> None:
        """Write what there is, one message at a time, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._notices or self._ready:
                if self._notices:
                    await self._socket.send_str(
                        json.dumps(self._notices.popleft(), ensure_ascii=False)
                    )
                    continue
                # One event of each in turn, so that none waits for all of another's.
                answer = self._ready.popleft()
                said = answer.next_message()
                if said is not None:
                    await self._socket.send_str(said)
                if answer.over:
                    self._end(answer)
                elif said is not None:
                    self._ready.append(answer)
                else:
                    answer.waiting = False
                    if answer.moved:
                        await self._socket.close(code=_GOING_AWAY, message=b"the gateway stops")

    def close(self) -> None:
        """End, or detach, everything: the socket has closed."""
        for answer in self._answers.values():
            answer.close()
        self._answers.clear()

    def _follow(self, message: BaseModel) -> None:
        match message:
            case _Authorize():
                self._api_key = checked_key(message.api_key)
            case _Start():
                self._check_new(message.id)
                arguments = Arguments(checked(StreamRequest, message.request))
                stream = begin(self._bridge, arguments, self._api_key, *self._trace)
                self._add(SocketAnswer(self._bridge, message.id, stream, arguments.delivery))
            case _Resume():
                self._check_new(message.id)
                event_id = EventId.parse(message.last_event_id, "last_event_id")
                delivery = checked(Delivery, message.delivery)
                stream = resume(self._bridge, event_id, delivery, self._api_key)
                self._add(SocketAnswer(self._bridge, message.id, stream, delivery, event_id))
            case _Ack():
                self._running(message.id).acknowledge(message.next_token_index)
            case _Stop():
                stopping = asyncio.create_task(self._running(message.id).stream.stop())
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)

    def _add(self, answer: SocketAnswer) -> None:
        self._answers[answer.identity] = answer
        self._bridge.streams.add(answer)
        answer.listen(self._on_ready)

    def _on_ready(self, answer: SocketAnswer) -> None:
        if not answer.waiting:
            answer.waiting = True
            self._ready.append(answer)
            self._wake.set()

    def _end(self, answer: SocketAnswer) -> None:
        if self._answers.pop(answer.identity, None) is not None:
            answer.close()

    def _check_new(self, identity: str) -> None:
        if identity in self._answers:
            raise Refused("ID_IN_USE", "is that of a running request", field="id")
        most = self._bridge.settings.max_streams_per_socket
        if len(self._answers) >= most:
            raise Refused(
                "TOO_MANY_STREAMS",
                f"this socket has {most} requests running",
                field="id",
                status=429,
            )

    def _running(self, identity: str) -> SocketAnswer:
        answer = self._answers.get(identity)
        if answer is None:
            raise Refused("UNKNOWN_ID", "no request of that id is running", field="id", status=404)
        return answer

    def _say_problem(self, problem: Problem, identity: object) -> None:
        said: dict[str, Any] = {"type": "error", **problem.body()}
        if isinstance(identity, str):
            said["id"] = identity
        self._notices.append(said)
        self._wake.set()
