"""One reader of a stream: what it gets, when, and no more than it can take.

States::

    IDLE     nothing waits, or no credit is left; a token wakes it
    DELAYED  a message went out; the next one waits for the delay's end, or for enough tokens
    READY    something is due, and the sink knows; it takes when it can
    CLOSED   the reader has left, or was broken off

Rules:

1. The first token is due at once. After a message the next one is due when its delay is over, or
   when `max_tokens_per_message` wait. An end is due at once.
2. What comes while the sink is busy merges into what it takes next, so a slow reader costs fewer
   messages, not more memory a message than `max_tokens_per_message` says.
3. Nothing beyond the credit is delivered, and no end before what credit holds back; a failure
   does not wait for credit.
4. A reader that something waits for, and that takes nothing from one look at it to a later one
   `limit` seconds behind, has stalled (`stalled`).
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from service.domain import DeliveryOptions, Delta, TokenLogprobs
from service.errors import ServiceError
from service.stream.pacing import DelayGrid
from service.stream.text import StopRules, TextCursor, TokenDecoder
from service.stream.token_stream import NEVER, TokenStream

# A message stays far below any limit on its size, and making it does not hold up the others.
MOST_TOKENS_PER_MESSAGE = 1024
MOST_LOGPROBS_PER_MESSAGE = 128  # tokens, each with up to 20 others


class Sink(Protocol):
    """Where a reader's messages go."""

    def ready(self, reader: "StreamReader") -> None:
        """Something is due; not called again before it was taken."""

    def broken_off(self, reader: "StreamReader") -> None:
        """The reader was ended from the service's side; `reader.broken` says why."""


class Deltas(Protocol):
    """What a reader takes its deltas into, for a message with one or with many."""

    def add(
        self,
        tag: int,
        first: int,
        token_ids: Sequence[int],
        text: str,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> None:
        """Add one reader's delta."""

    def add_token(self, tag: int, index: int, token_id: int, text: str) -> None:
        """Add one reader's delta of one token."""


class ReaderState(Enum):
    """See the top of the file."""

    IDLE = auto()
    DELAYED = auto()
    READY = auto()
    CLOSED = auto()


_IDLE, _DELAYED, _READY, _CLOSED = ReaderState


class StreamReader:
    """See the rules above. `position`: index of the first token that it has not taken."""

    __slots__ = (
        "_decode",
        "_decode_token",
        "_delay_ms",
        "_due_at_ms",
        "_grid",
        "_limit",
        "_most",
        "_plain",
        "_seen_at",
        "_seen_progress",
        "_sink",
        "_state",
        "_text",
        "broken",
        "exhausted",
        "messages",
        "position",
        "sending",
        "sent",
        "stream",
        "tag",
    )

    def __init__(
        self,
        stream: TokenStream,
        position: int,
        decoder: TokenDecoder,
        rules: StopRules,
        delivery: DeliveryOptions,
        grid: DelayGrid,
        sink: Sink,
        tag: int = 0,
    ) -> None:
        """`position`: where to begin, among the tokens that the stream still has."""
        self.stream = stream
        self.position = position
        self.tag = tag
        self.exhausted = False
        self.messages = 0  # with tokens
        self.broken: ServiceError | None = None
        # Kept by a sink that sends each reader's messages by themselves.
        self.sending = False
        self.sent = 0
        self._text = TextCursor(decoder, rules)
        self._decode = self._text.take if rules.strings else decoder.decode
        self._decode_token = decoder.decode_token
        if position:
            self._text.skip(stream.tokens[:position])
        self._grid = grid
        self._sink = sink
        self._most = delivery.max_tokens_per_message or MOST_TOKENS_PER_MESSAGE
        if stream.logprobs is not None:
            self._most = min(self._most, MOST_LOGPROBS_PER_MESSAGE)
        self._delay_ms = (
            None if delivery.max_delay_s is None else round(delivery.max_delay_s * 1000)
        )
        # No text is held back for a stop string, and tokens are all there is.
        self._plain = not rules.strings and stream.logprobs is None
        self._limit = NEVER if delivery.credit is None else position + delivery.credit
        self._due_at_ms = 0
        self._seen_progress: tuple[int, int] | None = None
        self._seen_at = 0.0
        self._state = _IDLE
        stream.read_by(self)
        if stream.count:
            stream.tell(position)
        if stream.ended:
            self.wake_for_end()
        else:
            self._wait_or_ready(1)

    @property
    def unread(self) -> int:
        """Number of tokens that wait."""
        return self.stream.count - self.position

    @property
    def credit(self) -> int | None:
        """Tokens that may still be delivered before the next grant; None: without bound."""
        return None if self._limit == NEVER else max(0, self._limit - self.position)

    @property
    def closed(self) -> bool:
        """Whether it has left or was broken off."""
        return self._state is _CLOSED

    def grant(self, limit: int) -> None:
        """Let tokens with an index below `limit` be delivered; a lower limit changes nothing."""
        if limit <= self._limit:
            return
        starved = self.position >= self._limit
        self._limit = limit
        if starved and self._state is _IDLE:
            if self.stream.ended:
                self.wake_for_end()
            else:
                self._wait_or_ready(1)

    def wake(self) -> None:
        """Be due: there are as many tokens as it waits for."""
        if self._state is _IDLE or self._state is _DELAYED:
            self._state = _READY
            self.stream.wake_at = NEVER
            self._sink.ready(self)

    def wake_for_end(self) -> None:
        """Be due: the stream has ended."""
        starved = self.unread > 0 and self.position >= self._limit
        if not starved or self.stream.failure is not None:
            self.wake()

    def due(self, at_ms: int) -> None:
        """Be due if anything waits: the delay is over."""
        if self._state is _DELAYED and at_ms == self._due_at_ms:
            self._state = _IDLE
            self._wait_or_ready(1)

    def take_into(self, deltas: Deltas) -> bool:
        """Take what is due, at most a message's worth, and add it if there still is anything.

        Returns whether the reader is `exhausted`: everything was taken that there will ever be, or
        that credit lets through before a failure.
        """
        stream, position = self.stream, self.position
        end = stream.count
        if self._plain and not stream.ended and position < end < self._limit:
            # `_take` in short for the most frequent case: all there is, and more can come.
            number = end - position
            if number <= self._most:
                tokens = stream.tokens
                if number == 1:
                    token_id = tokens[-1]
                    text = self._decode_token(token_id)
                    deltas.add_token(self.tag, position, token_id, text)
                else:
                    token_ids = tokens[-number:].tolist()
                    deltas.add(self.tag, position, token_ids, self._decode(token_ids))
                if not stream.keep_all:
                    del tokens[:]
                    stream.first_kept = end
                self.position = end
                self.messages += 1
                if end >= stream.tell_at:
                    stream.tell(end)
                delay_ms = self._delay_ms
                if delay_ms is None:
                    delay_ms = self._grid.adaptive.delay_ms
                if delay_ms:
                    self._state = _DELAYED
                    self._due_at_ms = self._grid.later(self, delay_ms)
                    stream.wake_at = end + self._most
                else:
                    self._state = _IDLE
                    stream.wake_at = end + 1
                return False
        delta = self._take()
        if delta is not None:
            deltas.add(self.tag, *delta)
        return self.exhausted

    def break_off(self, failure: ServiceError) -> None:
        """End this reader, not its stream."""
        if self._state is not _CLOSED:
            self.broken = failure
            self.close()
            self._sink.broken_off(self)

    def close(self) -> None:
        """Leave; another reader may have taken the place already."""
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self.stream.read_by(None)

    def stalled(self, now: float, limit_s: float, forgiven_s: float = 0.0) -> bool:
        """Look at the reader's progress; call it again and again.

        `forgiven_s`: time since the last look in which this process itself did not run.
        """
        self._seen_at += forgiven_s
        starved = self.unread > 0 and self.position >= self._limit
        waits = self.sending or starved or self._state is _READY
        progress = (self.position, self.sent)
        if not waits or progress != self._seen_progress:
            self._seen_progress = progress if waits else None
            self._seen_at = now
            return False
        return now - self._seen_at >= limit_s

    def _take(self) -> Delta | None:
        stream, position = self.stream, self.position
        end, most = stream.count, position + self._most
        if end > self._limit:
            end = self._limit
        if end > most:
            end = most
        if self._state is _READY:
            self._state = _IDLE
        if stream.ended:
            return self._take_of_ended(end)
        if end <= position:
            self._wait_or_ready(1)
            return None
        token_ids = self._slice(end)
        logprobs = () if stream.logprobs is None else self._logprobs(end)
        delta = Delta(position, token_ids, self._decode(token_ids), logprobs)
        self._after_message(end)
        return delta

    def _take_of_ended(self, end: int) -> Delta | None:
        stream, position, text = self.stream, self.position, self._text
        token_ids: Sequence[int] = self._slice(end) if end > position else ()
        self.messages += 1 if token_ids else 0
        logprobs = self._logprobs(end) if token_ids and stream.logprobs is not None else ()
        if end == stream.count and stream.end_came_with_token:
            self.position = end
            self.exhausted = True
            if not token_ids:
                return None  # it began behind the last token, whose delta had all the text
            last = text.take_last(
                token_ids, last_is_stop=stream.last_is_stop, upto=stream.characters
            )
            return Delta(position, token_ids, last, logprobs)
        if token_ids:
            self.position = end
            if end < min(stream.count, self._limit) or end == stream.count or stream.failure:
                self.wake()
            return Delta(position, token_ids, self._decode(token_ids), logprobs)
        if position < stream.count and stream.failure is None:
            return None  # until `grant`
        self.exhausted = True
        tail = text.take_last((), last_is_stop=False) if position == stream.count else ""
        return Delta(position, (), tail) if tail else None

    def _slice(self, end: int) -> Sequence[int]:
        first = self.stream.first_kept
        return self.stream.tokens[self.position - first : end - first]

    def _logprobs(self, end: int) -> Sequence[TokenLogprobs]:
        column, first = self.stream.logprobs, self.stream.first_kept
        assert column is not None
        return column.take(self.position - first, end - first)

    def _after_message(self, position: int) -> None:
        self.position = position
        self.messages += 1
        stream = self.stream
        if position >= stream.tell_at:
            stream.tell(position)
        if position == stream.count:
            stream.all_taken()
        delay_ms = self._delay_ms
        if delay_ms is None:
            delay_ms = self._grid.adaptive.delay_ms
        if delay_ms == 0 or position >= self._limit:
            self._wait_or_ready(1)
            return
        self._state = _DELAYED
        self._due_at_ms = self._grid.later(self, delay_ms)
        self._wait_or_ready(self._most)

    def _wait_or_ready(self, tokens: int) -> None:
        """Be woken when so many tokens wait; now, if they do."""
        stream = self.stream
        if self.position >= self._limit:
            stream.wake_at = NEVER  # until `grant`
        elif stream.count >= self.position + tokens:
            self.wake()
        else:
            stream.wake_at = self.position + tokens
