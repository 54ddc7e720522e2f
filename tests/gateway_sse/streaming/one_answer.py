"""One answer of the bridge, all of it real but its two ends: the service, and the client's kernel.

The service is a session that a test plays, which keeps to the credit that it is given. The kernel
takes as many bytes as the client makes room for, and says so as asyncio's sockets do. What it took
is read as HTTP by h11.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import h11
from aiohttp import web

from gateway_sse.bridge import BRIDGE, Bridge
from gateway_sse.config import GatewaySettings
from gateway_sse.doors.errors import errors_answered
from gateway_sse.metrics import GatewayMetrics
from gateway_sse.streaming.encoder import Encoder
from gateway_sse.streaming.open_streams import OpenStreams
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.parting import Parting
from gateway_sse.streaming.relay import relay
from tests.gateway_sse.streaming.virtual_time import rest, timers
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import AsyncClient, AsyncStream
from tokenstream_client.answer import Answer, Terms
from tokenstream_client.delivery import Delivery
from tokenstream_client.session import Session

WINDOW: Final = 8  # tokens of credit
BEFORE: Final = 3  # tokens that a client had that comes back
_ROOM: Final = 90  # bytes, at most, that the kernel takes ahead of what the client reads


class PlayedSession(Session):
    """Of one answer: what the service would know."""

    def __init__(self) -> None:
        self.limit = 0
        self.left = False
        self.stopped = False

    def add(self, answer: Answer) -> None:
        message = answer.open_message(credit=True)
        self.limit = answer.next_token_index + message.stream.credit

    def grant(self, answer: Answer, limit: int) -> None:
        self.limit = limit

    def leave(self, answer: Answer) -> None:
        assert not self.left
        self.left, self.stopped = True, answer.must_be_stopped


class Kernel(asyncio.Transport):
    """The way to a client that takes what it likes, when it likes."""

    def __init__(self, protocol: asyncio.Protocol, room: int) -> None:
        super().__init__()
        self.taken, self.waits = b"", b""
        self.written_while_blocked = list[bytes]()
        self.last_write_at = 0.0
        self._protocol, self._room = protocol, room
        self._loop = asyncio.get_running_loop()
        self._closing = False

    def make_room(self, size: int) -> None:
        self._room += size
        self._move()
        self._room = min(self._room, _ROOM)

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, by the client's doing or, without an error, by this side's."""
        if not self._closing:
            self._closing, self.waits = True, b""
            self._loop.call_soon(self._protocol.connection_lost, error)

    def write(self, data: Any) -> None:
        assert not self._closing
        self.last_write_at = self._loop.time()
        if self.waits:
            self.written_while_blocked.append(bytes(data))
        self.waits += data
        self._move()

    def _move(self) -> None:
        was_paused = self._protocol.writing_paused  # type: ignore[attr-defined]
        self.taken += self.waits[: self._room]
        self.waits, self._room = self.waits[self._room :], max(self._room - len(self.waits), 0)
        if self.waits and not was_paused:
            self._protocol.pause_writing()
        elif was_paused and not self.waits:
            self._protocol.resume_writing()

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self.waits)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def abort(self) -> None:
        self.lose()

    close = abort

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class OneAnswer:
    """See the top of the file."""

    def __init__(self, kernel: Kernel, bridge: Bridge, answer: Answer) -> None:
        self.kernel, self.answer = kernel, answer
        self.streams, self._metrics = bridge.streams, bridge.metrics
        self.session = PlayedSession()
        self.stream = AsyncStream(Delivery(answer, self.session, _no_call))

    @property
    def is_over(self) -> bool:
        """Whether the bridge has no more to do with the client."""
        return bool(self.outcomes)

    @property
    def outcomes(self) -> list[Outcome]:
        name = "tokenstream_gateway_streams_total"
        value = self._metrics.registry.get_sample_value
        return [o for o in Outcome for _ in range(int(value(name, {"outcome": o.value}) or 0))]

    def acknowledge(self, next_token_index: int) -> None:
        opened = self.streams.find("s")
        if opened is not None:
            opened.acknowledge(next_token_index)

    def told(self) -> tuple[int, bytes, bool]:
        """What the client's kernel has: status, body, and whether the body has its end."""
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        http.send(h11.EndOfMessage())
        if self.kernel.taken:  # none would mean that the connection is closed
            http.receive_data(self.kernel.taken)
        status, body = 0, b""
        for event in iter(http.next_event, h11.NEED_DATA):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert not http.trailing_data[0], "something follows the end"
                return status, body, True
        return status, body, False


@asynccontextmanager
async def one_answer(
    encoder: Encoder,
    *,
    parting: Parting,
    ack_window: int | None = None,
    resumed: bool = False,
    room: int = 0,
    **settings: Any,
) -> AsyncIterator[OneAnswer]:
    """A request has come in; the service has not said anything yet."""
    loop = asyncio.get_running_loop()
    bridge = Bridge(
        GatewaySettings(**settings), cast(AsyncClient, None), OpenStreams(), GatewayMetrics()
    )
    answer = Answer(_opening(resumed), Terms(window=WINDOW, resumes=True))
    made = list[OneAnswer]()

    async def handle(request: web.Request) -> web.StreamResponse:
        (one,) = made
        return await relay(
            request, one.stream, encoder, parting, ack_window=ack_window, resumed=resumed
        )

    app = web.Application(middlewares=[errors_answered])
    app[BRIDGE] = bridge
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    assert runner.server is not None
    protocol = runner.server()
    kernel = Kernel(protocol, room)
    made.append(OneAnswer(kernel, bridge, answer))
    protocol.connection_made(kernel)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await rest()
    yield made[0]
    kernel.lose()
    await rest()
    await runner.cleanup()
    await asyncio.sleep(max(parting.linger_s, 0.01))
    assert len(bridge.streams) == bridge.streams.lingering == 0
    assert not timers(loop)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _opening(resumed: bool) -> pb.GenerateRequest | pb.ResumeRequest:
    if resumed:
        return pb.ResumeRequest(stream_id="s", next_token_index=BEFORE)
    return pb.GenerateRequest(stream=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH))


def _no_call(answer: Answer) -> Any:
    raise AssertionError("a session carries it")
