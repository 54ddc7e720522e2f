"""What both kinds of stream know about the answer that they read. No I/O."""

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client.events import Event, Finished, Started, event_from_message


class Reading:
    """One stream's progress, as far as its reader has read."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._finished: Finished | None = None

    @property
    def started(self) -> Started | None:
        """The stream's beginning; None until it was read."""
        return self._started

    @property
    def finished(self) -> Finished | None:
        """The answer's end, with its usage and timings; None until it was read."""
        return self._finished

    def _take(self, message: pb.GenerateResponse) -> Event | None:
        event = event_from_message(message)
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Finished):
            self._finished = event
        return event
