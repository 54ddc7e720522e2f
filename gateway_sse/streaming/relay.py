"""One answer on its way to one HTTP client.

Rules:

1. Nothing is sent before the service took the request, so that a refusal is an HTTP error.
2. Events are encoded once, when they are taken, and what is there goes out in one write, straight
   from the session's own callback: no task is woken for an event.
3. Nothing is taken while a write is under way. Then the stream's window fills (256 tokens), its
   credit ends, and its request parks in the engine.
4. A client that takes nothing for the stall limit is dropped. One that leaves has its stream ended
   as `parting` says.
5. Whatever happens, the stream is closed, or detached, when the handler ends.
"""

import asyncio
import logging
from typing import Final

from aiohttp import web

from gateway_sse.bridge import Bridge, bridge_of
from gateway_sse.problems import Problem, problem_from_error
from gateway_sse.streaming.ack_window import AckWindow
from gateway_sse.streaming.encoder import Encoder
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.outlet import ClientStalled, Outlet
from gateway_sse.streaming.parting import END_AT_ONCE, Parting, part
from tokenstream_client import (
    AsyncStream,
    Delta,
    Finished,
    Internal,
    Started,
    TokenstreamError,
)

_log = logging.getLogger("tokenstream.gateway")

_NOT_STARTED: Final = "BROKEN_STREAM"


async def relay(
    request: web.Request,
    stream: AsyncStream,
    encoder: Encoder,
    parting: Parting = END_AT_ONCE,
    *,
    ack_window: int | None = None,
    owner: str = "",
    resumed: bool = False,
) -> web.StreamResponse:
    """Answer with a stream's events; owns the stream. Raises TokenstreamError before any byte.

    `ack_window`: tokens that may go out ahead of the client's acknowledgements; None: any number.
    `owner`: the client's key. `resumed`: its first token was seen before.
    """
    bridge = bridge_of(request)
    relayed = Relay(bridge, stream, encoder, parting, ack_window, owner, resumed)
    bridge.streams.add(relayed)
    try:
        first = await relayed.first_event()
        head = encoder.started(first)
        outlet = await Outlet.open(request, encoder.content_type, head, relayed.now())
        await relayed.run(first, outlet)
        return outlet.response
    finally:
        relayed.close()


class Relay:
    """See the rules above."""

    def __init__(
        self,
        bridge: Bridge,
        stream: AsyncStream,
        encoder: Encoder,
        parting: Parting,
        ack_window: int | None,
        owner: str,
        resumed: bool,
    ) -> None:
        self.stream = stream
        self.owner = owner
        self.outcome = Outcome.LEFT  # until it has come to another end
        self._bridge = bridge
        self._encoder = encoder
        self._parting = parting
        self._acks = AckWindow(stream, ack_window, bridge.settings.stall_limit_s)
        self._loop = asyncio.get_running_loop()
        self._resumed = resumed
        self._began_at = 0.0 if resumed else self._loop.time()
        self._outlet: Outlet | None = None
        self._flows = False  # there is an outlet, it takes more, and the end has not come
        self._changed: asyncio.Future[None] | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self._over = False
        self._broken = False
        self._last = b""
        self._ending = Outcome.LEFT  # what the last bytes will make of it

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return self._loop.time()

    @property
    def can_be_resumed(self) -> bool:
        """See `Parted`."""
        return self._resumed or self.stream.started is not None

    async def first_event(self) -> Started:
        """Wait for the service to take the request. Raises TokenstreamError."""
        self.stream.notify(self._on_event)
        try:
            while (event := self.stream.take_nowait()) is None:
                if self.stream.ended:
                    break
                await self._change()
        except TokenstreamError as error:
            self.outcome = Outcome.REFUSED
            raise self._bridge.streams.explain(error) from error
        if not isinstance(event, Started):
            self.outcome = Outcome.FAILED
            raise Internal("the service sent no start of the stream", reason=_NOT_STARTED)
        return event

    async def run(self, first: Started, outlet: Outlet) -> None:
        """Send everything, to the end."""
        bridge, self._outlet = self._bridge, outlet
        bridge.streams.started(self, first.stream_id)
        self._keep_alive()
        try:
            while True:
                if outlet.blocked:
                    await outlet.drained(bridge.settings.stall_limit_s)
                if self._over:
                    break
                self._flows = True
                self._on_event()
                if self._flows:
                    await self._change()
            if self._broken:
                if self._last:  # an empty chunk would be the end of a whole answer
                    outlet.write(self._last, self.now())
                outlet.abort()
            else:
                await outlet.close(self._last, bridge.settings.stall_limit_s)
            self.outcome = self._ending
        except ClientStalled:
            self.outcome = Outcome.STALLED
            outlet.abort()
        except ConnectionError:
            pass  # it has gone; aiohttp cancels the handler too, now or in a moment

    def acknowledge(self, next_token_index: int) -> None:
        """Take notice of how far the client has read, and let more go out."""
        if self._acks.acknowledge(next_token_index):
            self._on_event()

    def let_go(self) -> None:
        """End the answer now: this process stops. Another replica can go on, where that is known
        to the client.
        """
        if self._over:
            return
        # Before the start it is a status that says so, behind it only some forms can.
        moved = b"" if self.stream.started is None else self._encoder.moved()
        if moved is None or not self.can_be_resumed:
            self.stream.cancel()  # the pump, or the first event, gets to know
            return
        self._end(Outcome.MOVED, moved)
        self.stream.detach()
        self._wake()

    def close(self) -> None:
        """Give everything back; the client is done, or has gone."""
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._flows, self._over = False, True
        self._acks.close()
        part(self._bridge, self, self._parting)

    def _on_event(self) -> None:
        if not self._flows:
            self._wake()
            return
        try:
            self._pump()
        except Exception:
            # It is called from within the session's own work, which serves all others too.
            _log.exception("an answer could not be sent")
            self._broken = True
            self._end(Outcome.FAILED, b"")
        if not self._flows:
            self._wake()

    def _pump(self) -> None:
        """Send what is there, in one write; then it flows on, is blocked, or over."""
        outlet, encoder, stream = self._outlet, self._encoder, self.stream
        assert outlet is not None
        data, end = b"", None
        try:
            for event in self._acks.take_ready():
                if type(event) is Delta:
                    if self._began_at and event.token_ids:
                        self._note_first_token()
                    data += encoder.delta(event)
                elif type(event) is Finished:
                    data += encoder.finished(event)
            if stream.ended and not stream.has_events:
                stream.take_nowait()  # raises what it ended with, if not well
                end = Outcome.COMPLETE  # all choices, not only the first
        except TokenstreamError as error:
            explained = self._bridge.streams.explain(error)
            end = Outcome.of(explained)
            data += self._failed(problem_from_error(explained))
        if end is not None:
            self._end(end, data if self._broken else data + encoder.end())
        elif data and outlet.write(data, self._loop.time()):
            self._flows = False

    def _end(self, ending: Outcome, last: bytes) -> None:
        self._flows, self._over = False, True
        self._ending, self._last = ending, last

    def _failed(self, problem: Problem) -> bytes:
        said = self._encoder.failed(problem)
        self._broken = said is None
        return said or b""

    def _note_first_token(self) -> None:
        self._bridge.metrics.first_token(self.now() - self._began_at)
        self._began_at = 0.0

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self) -> None:
        self._changed = self._loop.create_future()
        try:
            await self._changed
        finally:
            self._changed = None

    def _keep_alive(self) -> None:
        """Say something when nothing was said for the interval: proxies close silent connections,
        and only a write finds out that a client has gone without a word.
        """
        outlet, interval_s = self._outlet, self._bridge.settings.keepalive_interval_s
        if outlet is None or self._over:
            return
        now = self.now()
        silent = now - outlet.last_write_at >= interval_s * 0.99
        if silent and self._encoder.keepalive and not outlet.blocked:
            blocked = outlet.write(self._encoder.keepalive, now)
            if blocked:
                self._flows = False
                self._wake()
        # Where nothing could be said, it is not tried again before another interval is over.
        due = (now if silent else outlet.last_write_at) + interval_s
        self._keepalive = self._loop.call_at(due, self._keep_alive)
