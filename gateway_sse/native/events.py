"""From a stream's events to JSON, and to the bytes of server-sent events. No I/O.

A stream reads, in order::

    event: started     {"stream_id", "model", "prompt_tokens", "client_request_id"}
                       {"token": "…"}     as often as there is text; without an event name, so
                                          that EventSource's onmessage gets these, and only these
    event: finished    {"choice_index", "reason", "stop_string", "stop_token_id",
                        "usage": {…}, "timings": {…}}
    event: error       {"error": {…}}     instead of `finished`, if it came to no good end
                       [DONE]             nothing follows

Every event has an ``id`` (`event_id`). A reader that lost its connection sends the last one back,
browsers' EventSource by itself, and gets the rest; after `finished` or `error` it gets 204.
"""

from typing import Any, Final

from gateway_sse.json_text import json_of, json_text
from gateway_sse.native.event_id import EventId
from gateway_sse.problems import Problem
from tokenstream_client import Delta, Finished, Started

RECONNECT_MS: Final = 300
"""What clients are told to wait before they come back: less than the bridge lets a stream linger
whose client has gone."""


def started_body(event: Started) -> dict[str, Any]:
    """Return what is said of a stream's beginning."""
    return {
        "stream_id": event.stream_id,
        "model": event.model,
        "prompt_tokens": event.prompt_tokens,
        "client_request_id": event.client_request_id,
    }


def finished_body(event: Finished) -> dict[str, Any]:
    """Return what is said of an answer's end. Times are in milliseconds, from its arrival."""
    first, total = event.timings.time_to_first_token, event.timings.total
    return {
        "choice_index": event.choice_index,
        "reason": event.reason.value,
        "stop_string": event.stop_string,
        "stop_token_id": event.stop_token_id,
        "usage": {
            "prompt_tokens": event.usage.prompt_tokens,
            "completion_tokens": event.usage.completion_tokens,
            "cached_prompt_tokens": event.usage.cached_prompt_tokens,
        },
        "timings": {
            "time_to_first_token_ms": None if first is None else round(first * 1000, 3),
            "total_ms": round(total * 1000, 3),
        },
    }


class Place:
    """How far one client is in one stream: what ids are made of."""

    __slots__ = ("_skips_tail", "_tail", "next_token_index", "stream_id")

    def __init__(self, resumed: EventId | None = None) -> None:
        """`resumed`: where the client was before."""
        self.stream_id = ""
        self.next_token_index = 0 if resumed is None else resumed.next_token_index
        self._skips_tail = resumed is not None and resumed.has_tail
        self._tail = ":tail" if self._skips_tail else ""

    def after(self, delta: Delta) -> str | None:
        """Move on; return the id of the event with the delta's text, None: it is not sent."""
        if delta.token_ids:
            self.next_token_index = delta.first_token_index + len(delta.token_ids)
            if not delta.text:
                return None
        elif self._skips_tail or not delta.text:
            return None  # it had that before it was cut off
        else:
            self._tail = ":tail"
        return f"{self.stream_id}:{self.next_token_index}{self._tail}"

    def __str__(self) -> str:
        return f"{self.stream_id}:{self.next_token_index}{self._tail}"

    @property
    def end(self) -> str:
        """The id of what ends the stream."""
        return f"{self.stream_id}:{self.next_token_index}:end"


class SseEncoder:
    """See `Encoder`; the grammar is at the top of the file."""

    content_type = "text/event-stream; charset=utf-8"
    # One line, without an empty one behind it: with that, parsers that keep the last id (httpx-sse,
    # and those made after it) take the comment for an event.
    keepalive = b": keep-alive\n"

    def __init__(self, resumed: EventId | None = None) -> None:
        self._place = Place(resumed)

    def started(self, event: Started) -> bytes:
        """See `Encoder`."""
        place = self._place
        place.stream_id = event.stream_id
        body = json_of(started_body(event))
        return f"retry: {RECONNECT_MS}\nevent: started\nid: {place}\ndata: {body}\n\n".encode()

    def delta(self, event: Delta) -> bytes:
        """See `Encoder`."""
        event_id = self._place.after(event)
        if event_id is None:
            return b""
        return f'id: {event_id}\ndata: {{"token": {json_text(event.text)}}}\n\n'.encode()

    def finished(self, event: Finished) -> bytes:
        """See `Encoder`."""
        body = json_of(finished_body(event))
        return f"event: finished\nid: {self._place.end}\ndata: {body}\n\n".encode()

    def failed(self, problem: Problem) -> bytes:
        """See `Encoder`."""
        body = json_of(problem.body())
        return f"event: error\nid: {self._place.end}\ndata: {body}\n\n".encode()

    def moved(self) -> bytes:
        """See `Encoder`."""
        return f"retry: {RECONNECT_MS}\n".encode()

    def end(self) -> bytes:
        """See `Encoder`."""
        return b"data: [DONE]\n\n"
