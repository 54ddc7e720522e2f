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
id, or without one, and the socket stays open; it closes for binary messages (1003), for one larger
than a body may be (1009), and when the process stops (1001: `resume` elsewhere). A closed socket is
to each answer what a closed connection is (`on_disconnect`).

Bounds: those of `Conversation`; one message being written, and nothing is taken meanwhile; a client
that takes nothing for the stall limit is dropped.
"""

import asyncio
import logging
from typing import Any, Final

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from gateway_sse.api_keys import api_key_of
from gateway_sse.bridge import bridge_of
from gateway_sse.config import GatewaySettings
from gateway_sse.doors.origins import check_websocket
from gateway_sse.doors.trace import trace_context_of
from gateway_sse.native.conversation import Conversation
from gateway_sse.problems import Refused
from gateway_sse.request_log import note_socket
from gateway_sse.streaming.outlet import ClientStalled, until_taken
from gateway_sse.streaming.write_buffer import say_at_once_when_full

_log = logging.getLogger("tokenstream.gateway")

_GOING_AWAY: Final = 1001
_UNSUPPORTED: Final = 1003
# For the client's side of closing.
_GOODBYE_S: Final = 1.0

Socket = web.WebSocketResponse[Any]


async def serve(request: web.Request) -> web.StreamResponse:
    """Answer an upgrade, and what comes on the socket until it closes."""
    bridge = bridge_of(request)
    check_websocket(request, bridge.settings.cors_origins)
    api_key = api_key_of(request)
    socket: Socket = web.WebSocketResponse(
        max_msg_size=bridge.settings.max_body_bytes, compress=False, timeout=_GOODBYE_S
    )
    if not socket.can_prepare(request):
        raise Refused("NOT_A_WEBSOCKET", "must be websocket", field="Upgrade", status=426)
    writer, transport = await socket.prepare(request), request.transport
    if writer is None or transport is None:
        raise ConnectionResetError("the client has gone")
    note_socket()
    conversation = Conversation(bridge, api_key, *trace_context_of(request))
    mouth = _Mouth(socket, transport, writer, conversation, bridge.settings)
    app_sockets = request.app[SOCKETS]
    app_sockets.add(mouth)
    speaking = asyncio.create_task(mouth.speak())
    try:
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                await mouth.close(_UNSUPPORTED, b"text messages only")
                break
            conversation.hear(message.data)
            await conversation.room()
            await asyncio.sleep(0)  # whoever sends many at once does not hold up everybody else
    finally:
        app_sockets.discard(mouth)
        speaking.cancel()
        conversation.close()
        await asyncio.gather(speaking, return_exceptions=True)
    return socket


class _Mouth:
    """Says what a conversation has to say, and a ping where that is nothing for long."""

    def __init__(
        self,
        socket: Socket,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        conversation: Conversation,
        settings: GatewaySettings,
    ) -> None:
        say_at_once_when_full(transport)  # see `outlet`
        self._socket = socket
        self._transport = transport
        self._writer = writer
        self._conversation = conversation
        self._stall_limit_s = settings.stall_limit_s
        self._interval_s = settings.keepalive_interval_s
        self._loop = asyncio.get_running_loop()
        self._spoke_at = self._loop.time()
        self._ping_is_due = False

    async def speak(self) -> None:
        """Write what there is, one message at a time, until the socket closes."""
        keepalive = self._loop.call_later(self._interval_s, self._look)
        self._keepalive = keepalive
        try:
            await self._speak()
        except ConnectionError:
            pass  # it has gone; the reading side sees it, too
        except ClientStalled:
            self._conversation.stalled()
            self._transport.abort()
        except Exception:
            _log.exception("a socket could not be written to")
            self._transport.abort()
        finally:
            self._keepalive.cancel()

    async def close(self, code: int, why: bytes) -> None:
        """Say goodbye; a client that does not answer is dropped."""
        try:
            async with asyncio.timeout(2 * _GOODBYE_S):
                await self._socket.close(code=code, message=why)
        except TimeoutError:
            pass
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    async def _speak(self) -> None:
        conversation = self._conversation
        while True:
            await conversation.news.wait()
            conversation.news.clear()
            while (said := conversation.next_message()) is not None:
                await self._socket.send_str(said)
                await self._taken()
            if self._ping_is_due:
                self._ping_is_due = False
                await self._socket.ping()
                await self._taken()
            if conversation.moved:
                await self.close(_GOING_AWAY, b"the gateway stops")
                return

    async def _taken(self) -> None:
        self._spoke_at = self._loop.time()
        if self._transport.get_write_buffer_size():
            await until_taken(self._transport, self._writer.drain(), self._stall_limit_s)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._spoke_at >= self._interval_s * 0.99:
            self._ping_is_due = True
            self._conversation.news.set()
            self._spoke_at = now
        self._keepalive = self._loop.call_at(self._spoke_at + self._interval_s, self._look)


SOCKETS: Final = web.AppKey("sockets", set[_Mouth])


def close_with(app: web.Application) -> None:
    """Have the sockets closed when the application is: they outlive their answers."""
    app[SOCKETS] = set[_Mouth]()

    async def close(app: web.Application) -> None:
        sockets = app[SOCKETS]
        await asyncio.gather(
            *(mouth.close(_GOING_AWAY, b"the gateway stops") for mouth in tuple(sockets))
        )

    app.on_shutdown.append(close)
