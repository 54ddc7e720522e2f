"""One request as this side knows it, over however many connections it takes. No I/O.

An answer is opened (`open_message`), gets its events from whatever carries it, a session or a
call of its own, and is read by one reader. It has exactly one end: its Finished, a failure, or
its reader leaving; after that nothing changes it.

======== ===================================== ==========================================
 phase    a failure before an end               a lost connection
======== ===================================== ==========================================
 waiting  sent again, while attempts are left,   sent again, while attempts are left
          if the service is busy or unavailable
 running  its end                               read on from `next_token_index`, while its
                                                time to live lasts; else its end
 ended    nothing                               nothing
======== ===================================== ==========================================

It is *waiting* until its Started has come. What the reader gets is joined without a gap or a
repeat: a delta that is not the next one ends the answer, and a tail that comes again after a
resume is dropped.
"""

from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Final

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client.backoff import backoff
from tokenstream_client.errors import (
    Busy,
    Cancelled,
    Internal,
    TokenstreamError,
    Unavailable,
)
from tokenstream_client.events import Delta, Event, Finished, Started

STREAM_LOST: Final = "STREAM_LOST"
BROKEN_STREAM: Final = "BROKEN_STREAM"
_LARGEST_LIMIT: Final = 2**32 - 1
_OF_EACH_READER: Final = ("max_delay_ms", "max_tokens_per_message")
# How a call ends, without a word of the service's, when what is between has failed.
_LOSSES: Final = ("UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the caller and the client's options say about one request."""

    window: int | None = None
    """Tokens that may be sent ahead of the reader; None: any number."""
    deadline: float | None = None
    """By the clock of `Answer`'s calls; None: none."""
    max_attempts: int = 1
    resumes: bool = False
    """Whether it is read on after a lost connection. The request's own options agree with it."""
    stops_when_left: bool = True
    """Whether a reader that leaves ends the decoding although the request is detachable."""
    time_to_live: float = 30.0
    """Seconds for which it is tried to read on."""
    longest_wait: float = 5.0
    """Seconds, for one pause between tries."""
    api_key: str = ""
    """Its own key; empty: that of the client."""
    traceparent: str = ""
    """W3C trace context, as its headers have it; empty: none."""
    tracestate: str = ""
    """See traceparent."""


class Answer:
    """One request's state. What waits for its reader is at most `Terms.window` tokens, in at
    most as many deltas, and three events more (start, tail, end); without a window, all of it.
    """

    def __init__(
        self, opening: pb.GenerateRequest | pb.ResumeRequest, terms: Terms | None = None
    ) -> None:
        """`opening` becomes this object's own."""
        self.terms = terms or Terms()
        self.stream_id = ""
        self.next_token_index = 0
        """How many tokens have come."""
        self.ended = False
        self.error: TokenstreamError | None = None
        """What it ended with, if not well; raised to the reader after the events before it."""
        self.stop_asked = False
        self.stops_when_left = self.terms.stops_when_left
        self.resumes = self.terms.resumes
        self.needs_call = False
        """It cannot go on in the session that had it, and goes on by a call of its own."""
        self.changed: Callable[[], None] = _ignore
        """Called when there is something new to take."""

        self._opening = opening
        self._events: deque[Event] = deque()
        self._seen_start = False
        self._seen_tail = False
        self._seen_finish = False
        self._attempts = 0  # that failed
        self._losses = 0
        self._lost_at: float | None = None
        self._resuming = False
        if isinstance(opening, pb.ResumeRequest):
            self.stream_id = opening.stream_id
            self.next_token_index = opening.next_token_index
        self._consumed = self.next_token_index
        self._limit = 0

    # What is sent for it.

    def open_message(self, *, credit: bool) -> pb.GenerateRequest | pb.ResumeRequest:
        """Return what to send on a new connection, in a session with `credit`."""
        message = self._opening
        if isinstance(message, pb.GenerateRequest) and self._seen_start:
            # Only what says how this reader gets it; the rest stays as the request had it.
            delivery = {
                field.name: value
                for field, value in message.stream.ListFields()
                if field.name in _OF_EACH_READER
            }
            message = pb.ResumeRequest(stream=pb.StreamOptions(**delivery))
        if isinstance(message, pb.ResumeRequest):
            message.stream_id = self.stream_id
            message.next_token_index = self.next_token_index
            self._resuming = self._seen_start
        if credit and self.terms.window is not None:
            self._limit = min(self._consumed + self.terms.window, _LARGEST_LIMIT)
            message.stream.credit = max(self._limit - self.next_token_index, 0)
        else:
            message.stream.ClearField("credit")
            self._limit = _LARGEST_LIMIT
        return message

    def remaining(self, now: float) -> float | None:
        """Return the seconds until its deadline, above 0; None: there is none."""
        deadline = self.terms.deadline
        return None if deadline is None else max(deadline - now, 0.001)

    def not_detachable(self) -> None:
        """Take back that it can be read on: the service would not know how."""
        if isinstance(self._opening, pb.GenerateRequest):
            self._opening.stream.ClearField("on_disconnect")
            self._opening.stream.ClearField("time_to_live_ms")

    @property
    def detachable(self) -> bool:
        """Whether it goes on without a reader."""
        return (
            isinstance(self._opening, pb.ResumeRequest)
            or self._opening.stream.on_disconnect == pb.ON_DISCONNECT_DETACH
        )

    @property
    def is_asked_for_by_id(self) -> bool:
        """Whether it is some stream that was begun before, and has not been found yet."""
        return isinstance(self._opening, pb.ResumeRequest) and not self._seen_start

    @property
    def has_started(self) -> bool:
        """Whether its start has come."""
        return self._seen_start

    @property
    def must_be_stopped(self) -> bool:
        """Whether leaving it takes more than closing: it would go on, and is not meant to."""
        return self.detachable and self.stops_when_left

    # What comes for it.

    def on_started(self, event: Started) -> None:
        """Take its start; the one after a resume is not the reader's business."""
        if self.ended:
            return
        self._progress()
        self._resuming = False
        self.stream_id = event.stream_id
        if not self._seen_start:
            self._seen_start = True
            self._put(event)

    def on_delta(self, delta: Delta) -> None:
        """Take some tokens and text; ends the answer if they are not the next ones."""
        if self.ended:
            return
        if self._losses:
            self._progress()
        if delta.choice_index == 0:
            first, count = delta.first_token_index, len(delta.token_ids)
            if not count and delta.text:
                if self._seen_tail:
                    return
                self._seen_tail = True
            if first != self.next_token_index:
                message = f"token {first} came instead of token {self.next_token_index}"
                self.end(Internal(message, reason=BROKEN_STREAM))
                return
            self.next_token_index = first + count
        self._events.append(delta)
        self.changed()

    def on_finished(self, event: Finished, *, last: bool = True) -> None:
        """Take its Finished, and with it its end if that is the `last` there is to come."""
        if self.ended:
            return
        self._progress()
        self._seen_finish = True
        self._events.append(event)
        self.ended = last
        self.changed()  # once: with its end, if it is that

    def failed(self, error: TokenstreamError, now: float) -> float | None:
        """Take the service's word that it failed; return seconds to its next try, None: ended."""
        if self.ended:
            return None
        if not self._seen_start:
            patience = isinstance(error, Unavailable) or (
                isinstance(error, Busy) and error.retry_after is not None
            )
            return self._try_again(error, now) if patience else self._end_with(error)
        if self._resuming and error.code in ("NOT_FOUND", "OUT_OF_RANGE"):
            return self._end_lost(error)
        if self._resuming and isinstance(error, Unavailable):
            return self.lost(error, now)  # it is not back yet
        return self._end_with(error)

    def lost(self, error: TokenstreamError, now: float) -> float | None:
        """Take a lost connection; return seconds to its next try, or None: it has ended."""
        if self.ended:
            return None
        if not self._seen_start:
            return self._try_again(error, now)
        if not (self.resumes and self.detachable):
            return self._end_with(error)
        self._losses += 1
        if self._lost_at is None:
            self._lost_at = now
        delay = max(error.retry_after or 0.0, backoff(self._losses, self.terms.longest_wait))
        if now + delay > self._lost_at + self.terms.time_to_live:
            return self._end_lost(error)
        return delay

    @staticmethod
    def is_loss(error: TokenstreamError) -> bool:
        """Tell a lost connection from what the service itself said."""
        return not error.reason and error.code in _LOSSES

    def cut_off(self, now: float) -> float | None:
        """Take a call's good end without a Finished, as `lost`; else it is a broken stream."""
        if self._seen_start and self.resumes and self.detachable:
            return self.lost(Unavailable("the stream was cut off"), now)
        return self._end_with(
            Internal("the stream ended before its end was sent", reason=BROKEN_STREAM)
        )

    def end(self, error: TokenstreamError | None) -> None:
        """End it, well or with an error; what came before stays readable."""
        if not self.ended:
            self.ended, self.error = True, error
            self.changed()

    @property
    def finished(self) -> bool:
        """Whether all its Finished have come."""
        return self._seen_finish

    @property
    def has_events(self) -> bool:
        """Whether `take` has something."""
        return bool(self._events)

    # What its reader does.

    def peek(self) -> Event | None:
        """Return what `take` would, and leave it there; None also where that would raise."""
        return self._events[0] if self._events else None

    def take(self) -> Event | None:
        """Return the next event; None: there is none now, or none any more. Raises its error."""
        if self._events:
            return self._events.popleft()
        if self.error is not None:
            # One of its own for each: a lost connection ends many answers with one error, and a
            # traceback grows with every raise.
            raise copy(self.error)
        return None

    def take_ready(self) -> tuple[Event, ...]:
        """Return all that is there, as repeated `take`s would; raises only where nothing is."""
        events = self._events
        if not events:
            self.take()
            return ()
        ready = tuple(events)
        events.clear()
        return ready

    def consume(self, tokens: int) -> int | None:
        """Note what was read; return the limit to grant, None: not yet worth a message."""
        self._consumed += tokens
        window = self.terms.window
        if window is None or self.ended or (self._limit - self._consumed) * 2 > window:
            return None
        return self.grant_now()

    def grant_now(self) -> int | None:
        """Return the limit to grant, however little was read; None: nothing was.

        For what time brings about: the service takes a reader for stalled that has no credit left
        and gets none, and one that reads slowly is long at half its window.
        """
        window = self.terms.window
        if window is None or self.ended:
            return None
        limit = min(self._consumed + window, _LARGEST_LIMIT)
        if limit <= self._limit:
            return None
        self._limit = limit
        return limit

    def leave(self, error: TokenstreamError | None = None) -> bool:
        """Drop what waits and end it with `error`, `Cancelled` if none is given; tell whether the
        service has to be told.
        """
        was_running = not self.ended
        if was_running or self._events:
            self._events.clear()
            self.ended = True
            self.error = error or Cancelled("the stream was closed from this side")
            self.changed()
        return was_running

    # Decisions.

    def _try_again(self, error: TokenstreamError, now: float) -> float | None:
        self._attempts += 1
        if self._attempts >= self.terms.max_attempts:
            return self._end_with(error)
        delay = max(error.retry_after or 0.0, backoff(self._attempts, self.terms.longest_wait))
        deadline = self.terms.deadline
        if deadline is not None and now + delay >= deadline:
            return self._end_with(error)  # it says more than that the time ran out
        return delay

    def _end_with(self, error: TokenstreamError) -> float | None:
        self.end(error)
        return None

    def _end_lost(self, error: TokenstreamError) -> float | None:
        return self._end_with(
            Unavailable(
                f"the stream was lost after {self.next_token_index} tokens: {error.message}",
                reason=STREAM_LOST,
            )
        )

    def _progress(self) -> None:
        self._losses, self._lost_at = 0, None

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self.changed()


def _ignore() -> None:
    pass
