"""One request's tokens, as the engine brings them, and its one end.

States and what is allowed in them::

    OPEN ──push──► OPEN
    OPEN ──push with the engine's end, or a stop string──► FINISHED
    OPEN ──cancel──► FINISHED (reason CANCELLED)
    OPEN ──fail──► FAILED
    FINISHED, FAILED: push, cancel and fail change nothing; the first end stands

Rules:

1. The stream knows tokens and no text, but for the search for stop strings; text is made by
   whoever reads, when it reads (`reader`).
2. At most one reader at a time. The reader says at which number of tokens it wants to be woken;
   below that a push is a list append and a comparison. The end always wakes it.
3. Whoever wants to know how far the reader has come is told every `tell_every` tokens, at first
   more often (`tell_first`, and half a token more for each that was read), and when a new reader
   begins further back.
4. Bound: four bytes a token, and what `logprobs` says where those were asked for, at most the
   request's `max_tokens`; the engine stops there by itself, so it is never full. A stream that can
   be resumed keeps all its tokens, any other forgets those that its reader has taken.
"""

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from service.domain import EngineAccount, EngineFinish, FinishReason, LogprobRows
from service.errors import ServiceError
from service.stream.logprobs import LogprobColumn
from service.stream.stop_strings import StopWatch

_CANCELLED = EngineFinish(FinishReason.CANCELLED)
NEVER = sys.maxsize


class Wakeable(Protocol):
    """A stream's reader, as the stream sees it."""

    def wake(self) -> None:
        """There are as many tokens as it asked for."""

    def wake_for_end(self) -> None:
        """The stream has ended."""


class TokenStream:
    """See the rules above. `keep_all`: whether it can be resumed; `on_end` is called once.

    `on_progress` is told the reader's position. `logprobs`: None if the request asked for none.
    """

    __slots__ = (
        "_characters",
        "_clock",
        "_on_end",
        "_on_progress",
        "_reader",
        "_stop_watch",
        "_tell_every",
        "_tell_first",
        "cached_prompt_tokens",
        "count",
        "end_came_with_token",
        "ended",
        "ended_at",
        "engine_account",
        "failure",
        "finish",
        "first_kept",
        "first_token_at",
        "keep_all",
        "last_is_stop",
        "logprobs",
        "tell_at",
        "tokens",
        "wake_at",
    )

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        stop_watch: StopWatch | None = None,
        keep_all: bool = False,
        on_end: Callable[[], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
        tell_every: int = 1,
        tell_first: int = 1,
        logprobs: LogprobColumn | None = None,
    ) -> None:
        self._clock = clock
        self._stop_watch = stop_watch
        self._on_end = on_end
        self._on_progress = on_progress
        self._tell_every = tell_every
        self._tell_first = tell_first
        self.tell_at = NEVER if on_progress is None else min(tell_every, tell_first)
        self._reader: Wakeable | None = None
        self._characters: int | None = None
        self.keep_all = keep_all
        self.logprobs = logprobs
        # The tokens from index `first_kept` on; `count` are there in all.
        self.tokens = array("I")
        self.first_kept = 0
        self.count = 0
        self.wake_at = NEVER
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.cached_prompt_tokens = 0
        self.ended = False  # more may still wait to be read
        self.finish: EngineFinish | None = None
        self.failure: ServiceError | None = None
        self.engine_account: EngineAccount | None = None
        # Of the end: whether it came with the last token, and that token is no text.
        self.end_came_with_token = False
        self.last_is_stop = False

    @property
    def characters(self) -> int | None:
        """Where a stop string cuts the answer's text; None: nowhere."""
        return self._characters

    def read_by(self, reader: Wakeable | None) -> None:
        """Take this reader in place of the one before; None: nobody reads."""
        self._reader = reader
        self.wake_at = NEVER

    def push(self, token_ids: Sequence[int], finish: EngineFinish | None = None) -> bool:
        """Take one step's tokens, and the engine's end if this step brought it.

        Returns True if the engine has to be told to stop: a stop string completed, which only
        this side can see.
        """
        if self.ended:
            return False
        stop = False
        if token_ids:
            if self.first_token_at is None:
                self.first_token_at = self._clock()
            if self._stop_watch is not None or finish is not None:
                # The stop token ends the text before itself; max_tokens does not.
                self.last_is_stop = finish is not None and finish.reason is FinishReason.STOP
                if self._stop_watch is not None:
                    match = self._stop_watch.feed(token_ids, last_is_stop=self.last_is_stop)
                    if match is not None:
                        stop = finish is None
                        finish = EngineFinish(FinishReason.STOP, match.string)
                        token_ids = token_ids[: match.tokens_kept]
                        self._characters = match.characters
                        self.last_is_stop = False
            self.tokens.extend(token_ids)
            self.count += len(token_ids)
        if finish is not None:
            self.finish = finish
            self.end_came_with_token = bool(token_ids)
            self._end()
        elif self.count >= self.wake_at and self._reader is not None:
            self._reader.wake()
        return stop

    def take_logprobs(self, rows: LogprobRows) -> None:
        """Take those of the tokens of the next push."""
        if self.logprobs is not None and not self.ended:
            self.logprobs.add(rows)

    def cancel(self) -> bool:
        """End the generation on purpose; what was decoded is delivered. False if it had ended."""
        if self.ended:
            return False
        self.finish = _CANCELLED
        self._end()
        return True

    def fail(self, failure: ServiceError) -> bool:
        """End the stream with an error; what was decoded is delivered. False if it had ended."""
        if self.ended:
            return False
        self.failure = failure
        self._end()
        return True

    def tell(self, position: int) -> None:
        """Let it be known how many tokens the reader has taken."""
        if self._on_progress is not None and not self.ended:
            self.tell_at = position + min(self._tell_every, self._tell_first + position // 2)
            self._on_progress(position)

    def all_taken(self) -> None:
        """Forget the tokens, unless the stream can be resumed."""
        if not self.keep_all:
            del self.tokens[:]
            self.first_kept = self.count
            if self.logprobs is not None:
                self.logprobs.forget()

    def _end(self) -> None:
        self.ended = True
        self.ended_at = self._clock()
        if self._reader is not None:
            self._reader.wake_for_end()
        if self._on_end is not None:
            self._on_end()
