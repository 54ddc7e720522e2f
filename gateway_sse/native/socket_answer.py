"""One answer on a WebSocket: from its stream's events to the messages of its id."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway_sse.bridge import Bridge
from gateway_sse.json_text import json_of, json_text
from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import Place, finished_body, started_body
from gateway_sse.native.request import Delivery
from gateway_sse.problems import problem_from_error
from gateway_sse.streaming.ack_window import AckWindow
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.parting import part, parting_of
from tokenstream_client import (
    AsyncStream,
    Delta,
    Finished,
    Started,
    TokenstreamError,
)


class SocketAnswer:
    """See the top of `websocket`. `identity`: the client's id of it.

    Deltas that wait are said in one message.
    """

    def __init__(
        self,
        bridge: Bridge,
        identity: str,
        stream: AsyncStream,
        delivery: Delivery,
        resumed: EventId | None = None,
        owner: str = "",
    ) -> None:
        self.identity = identity
        self.stream = stream
        self.owner = owner
        self.waiting = False
        """It is among those that are to be written."""
        self.over = False
        self.moved = False
        self.outcome = Outcome.LEFT
        self._bridge = bridge
        self._delivery = delivery
        self._place = Place(resumed)
        self._resumed = resumed is not None
        self._head = f'"id": {json_text(identity)}'
        self._acks = AckWindow(stream, delivery.ack_window, bridge.settings.stall_limit_s)
        self._listener: Callable[[SocketAnswer], None] = lambda _: None
        now = asyncio.get_running_loop().time()
        self._began_at: float | None = now if resumed is None else None
        self._had_start = False
        self._stopping: asyncio.Task[None] | None = None
        self._finished: Finished | None = None
        self._last: str | None = None  # the end, behind text that has to go first

    @property
    def can_be_resumed(self) -> bool:
        """See `Parted`."""
        return self._resumed or self._had_start

    def listen(self, listener: Callable[["SocketAnswer"], None]) -> None:
        """Have `listener` told when there may be something to say."""
        self._listener = listener
        self.stream.notify(self._on_event)

    def acknowledge(self, next_token_index: int) -> None:
        """Take notice of how far the client has read."""
        if self._acks.acknowledge(next_token_index):
            self._listener(self)

    def stop(self) -> None:
        """Ask for the answer's end; its `finished` follows."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self.stream.stop())

    def let_go(self) -> None:
        """See `OpenStream`: the process stops, and the client can go on elsewhere, if it has
        something to name the stream by.
        """
        if self.over or self._last is not None:
            return
        if not self.can_be_resumed:
            self.stream.cancel()
            return
        self.moved, self.outcome = True, Outcome.MOVED
        self.stream.detach()
        self._listener(self)

    def close(self) -> None:
        """Give everything back."""
        self._acks.close()
        settings = self._bridge.settings
        part(self._bridge, self, parting_of(self._delivery.on_disconnect, settings.linger_s))

    def next_message(self) -> str | None:
        """Return what is to be said next; None: nothing now, or, if `over`, no more."""
        if self.moved:
            return None
        if self._last is not None:
            self.over = True
            return self._last
        text = ""
        try:
            while event := self._acks.take():
                if type(event) is Delta:
                    if self._began_at is not None and event.token_ids:
                        now = asyncio.get_running_loop().time()
                        self._bridge.metrics.first_token(now - self._began_at)
                        self._began_at = None
                    text += "" if self._place.after(event) is None else event.text
                    continue
                if isinstance(event, Finished):
                    self._finished = event  # said when nothing can follow it
                if isinstance(event, Started):
                    return self._started(event)
            if self._finished is not None and self.stream.ended:
                self.outcome, self.over = Outcome.COMPLETE, True
                return self._joined(text, self._end("finished", finished_body(self._finished)))
        except TokenstreamError as error:
            explained = self._bridge.streams.explain(error)
            self.outcome = Outcome.of(explained) if self._had_start else Outcome.REFUSED
            self.over = True
            body = problem_from_error(explained).body()
            return self._joined(text, self._end("error", body))
        if not text:
            return None
        return self._token(text)

    def _on_event(self) -> None:
        self._listener(self)

    def _started(self, event: Started) -> str:
        self._had_start = True
        self._place.stream_id = event.stream_id
        self._bridge.streams.started(self, event.stream_id)
        return self._message("started", {"event_id": str(self._place), **started_body(event)})

    def _token(self, text: str) -> str:
        place = self._place
        return (
            f'{{"type": "token", {self._head}, "event_id": "{place}", "token": {json_text(text)}}}'
        )

    def _end(self, kind: str, body: dict[str, Any]) -> str:
        event_id = {"event_id": self._place.end} if self._had_start else {}
        return self._message(kind, {**event_id, **body})

    def _message(self, kind: str, body: dict[str, Any]) -> str:
        return f'{{"type": "{kind}", {self._head}, {json_of(body)[1:]}'

    def _joined(self, text: str, end: str) -> str:
        """Say an end; text before it has to go first."""
        if not text:
            return end
        self._last, self.over = end, False
        return self._token(text)
