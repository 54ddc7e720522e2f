"""The id of an event: where in which stream a client is, so that any replica can go on from there.

``<stream id>:<tokens so far>``, behind the last text ``:tail`` if that came without a token, and
``:end`` with what ends the stream. It is all that a client must keep, and nothing is kept here.
"""

import re
from dataclasses import dataclass
from typing import Final

from gateway_sse.problems import Refused

_FORM: Final = re.compile(r"([A-Za-z0-9_~-]{1,64}):([0-9]{1,10})(?::(tail|end))?")
_LARGEST: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class EventId:
    """A place in a stream. `has_tail`: its last text, which has no token, is had already."""

    stream_id: str
    next_token_index: int
    has_tail: bool = False
    at_end: bool = False

    def __str__(self) -> str:
        end = ":end" if self.at_end else ":tail" if self.has_tail else ""
        return f"{self.stream_id}:{self.next_token_index}{end}"

    @classmethod
    def parse(cls, text: str, field: str = "Last-Event-ID") -> "EventId":
        """Read an id that a client sent back. Raises Refused, naming `field`."""
        match = _FORM.fullmatch(text)
        if match is None or int(match[2]) > _LARGEST:
            raise Refused("BAD_EVENT_ID", "is not an id of an event from here", field=field)
        return cls(match[1], int(match[2]), match[3] == "tail", match[3] == "end")
