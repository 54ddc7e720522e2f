"""The two other forms of an answer over plain HTTP: a JSON object a line, and nothing but the text.

Lines have what the events have (`events`), under ``event`` and ``id``. Plain text has no way to say
that it failed, or where it was: a failed one is broken off, which clients see as an error.
"""

from gateway_sse.json_text import json_of, json_text
from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import Place, finished_body, started_body
from gateway_sse.problems import Problem
from tokenstream_client import Delta, Finished, Started


class LinesEncoder:
    """See `Encoder`. Newline-delimited JSON; an empty line keeps the connection open."""

    content_type = "application/x-ndjson; charset=utf-8"
    keepalive = b"\n"

    def __init__(self, resumed: EventId | None = None) -> None:
        self._place = Place(resumed)

    def started(self, event: Started) -> bytes:
        """See `Encoder`."""
        self._place.stream_id = event.stream_id
        return _line({"event": "started", "id": str(self._place), **started_body(event)})

    def delta(self, event: Delta) -> bytes:
        """See `Encoder`."""
        event_id = self._place.after(event)
        if event_id is None:
            return b""
        text = json_text(event.text)
        return f'{{"event": "token", "id": "{event_id}", "token": {text}}}\n'.encode()

    def finished(self, event: Finished) -> bytes:
        """See `Encoder`."""
        return _line({"event": "finished", "id": self._place.end, **finished_body(event)})

    def failed(self, problem: Problem) -> bytes:
        """See `Encoder`."""
        return _line({"event": "error", "id": self._place.end, **problem.body()})

    def moved(self) -> bytes:
        """See `Encoder`. Lines that end without an end say it all."""
        return b"\n"

    def end(self) -> bytes:
        """See `Encoder`."""
        return b""


class TextEncoder:
    """See `Encoder`. Only the text."""

    content_type = "text/plain; charset=utf-8"
    keepalive = b""

    def started(self, event: Started) -> bytes:
        """See `Encoder`."""
        return b""

    def delta(self, event: Delta) -> bytes:
        """See `Encoder`."""
        return event.text.encode()

    def finished(self, event: Finished) -> bytes:
        """See `Encoder`."""
        return b""

    def failed(self, problem: Problem) -> None:
        """See `Encoder`."""
        return

    def moved(self) -> None:
        """See `Encoder`."""
        return

    def end(self) -> bytes:
        """See `Encoder`."""
        return b""


def _line(value: object) -> bytes:
    return (json_of(value) + "\n").encode()
