"""How an answer of the bridge ended: each has exactly one of these."""

from enum import Enum
from typing import Self

from tokenstream_client import TokenstreamError


class Outcome(Enum):
    """For the metric; the value is its label."""

    COMPLETE = "complete"
    """The client was sent the end."""
    LEFT = "left"
    """The client closed its connection, or lost it."""
    STALLED = "stalled"
    """It took nothing for too long: the service saw it, or the bridge."""
    TAKEN_OVER = "taken_over"
    """The stream was resumed elsewhere."""
    MOVED = "moved"
    """This process stopped, and the client was told to go on elsewhere."""
    REFUSED = "refused"
    """The service did not take the request."""
    FAILED = "failed"
    """Anything else, after the first byte."""

    @classmethod
    def of(cls, error: TokenstreamError) -> Self:
        """Return which end an error after the start is."""
        by_reason = {"STREAM_STALLED": cls.STALLED, "STREAM_TAKEN_OVER": cls.TAKEN_OVER}
        return cls(by_reason.get(error.reason, cls.FAILED))
