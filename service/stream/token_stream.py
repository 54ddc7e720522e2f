"""One request's stream: the engine's side pushes tokens, one reader takes them at its own pace.

States and what is allowed in them::

    OPEN ──push──► OPEN
    OPEN ──push with the engine's end, or a stop string──► FINISHED
    OPEN ──cancel──► FINISHED (reason CANCELLED)
    OPEN ──fail──► FAILED
    FINISHED, FAILED: push, cancel and fail change nothing; the first end stands

Rules:

1. Exactly one reader; it takes deltas until `read` returns None, then looks at `finish`; a failed
   stream raises its failure instead, after what was decoded before it was read.
2. The first delta goes out as soon as there is a token. After a delta the next one comes no sooner
   than `max_delay_s` later, with all that was decoded meanwhile, unless `max_tokens_per_message`
   are there before; so no token waits longer than `max_delay_s`, and none for a timer of its own.
   An end never waits.
3. What arrives while the reader is busy merges into its next delta, so a slow reader costs fewer
   messages, not more memory per message than `max_tokens_per_message` says.
4. Bound: the tokens not yet read, at most the request's `max_tokens`. The engine stops there by
   itself, so the buffer is never full; a reader that stays away costs at most that.
5. No lock, no task and no future per token: a push appends to a list, and wakes the reader only if
   it sleeps and has enough to do.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from service.domain import DeliveryOptions, Delta, EngineFinish, FinishReason
from service.errors import ServiceError
from service.stream.text import TextAssembler

# A message stays far below any limit on its size, and making it does not hold up the others.
MOST_TOKENS_PER_MESSAGE = 1024

_CANCELLED = EngineFinish(FinishReason.CANCELLED)


class TokenStream:
    """See the rules above. Everything runs on one event loop."""

    __slots__ = (
        "_clock",
        "_delivered",
        "_delivery",
        "_failure",
        "_finish",
        "_last_is_stop",
        "_next_delta_at",
        "_pending",
        "_sleeper",
        "_text",
        "_wake_at",
        "first_token_at",
    )

    def __init__(
        self, text: TextAssembler, delivery: DeliveryOptions, clock: Callable[[], float]
    ) -> None:
        self._text = text
        self._delivery = delivery
        self._clock = clock
        self._pending: deque[int] = deque()
        self._next_delta_at = 0.0
        self._delivered = 0
        self._last_is_stop = False
        self._finish: EngineFinish | None = None
        self._failure: ServiceError | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._wake_at = 1
        self.first_token_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the stream has its end; more may still wait to be read."""
        return self._finish is not None or self._failure is not None

    @property
    def finish(self) -> EngineFinish | None:
        """How the generation ended; None while it goes on, and when it failed."""
        return self._finish

    @property
    def failure(self) -> ServiceError | None:
        """What the stream failed of; None while it goes on, and when the generation ended."""
        return self._failure

    @property
    def tokens_delivered(self) -> int:
        """Number of tokens that the reader has taken."""
        return self._delivered

    def push(self, token_ids: Sequence[int], finish: EngineFinish | None = None) -> bool:
        """Take one step's tokens, and the engine's end if this step brought it.

        Returns True if the engine has to be told to stop: a stop string completed, which only
        this side can see.
        """
        if self.ended:
            return False
        if token_ids:
            if self.first_token_at is None:
                self.first_token_at = self._clock()
            # The stop token ends the text before itself; max_tokens does not.
            last_is_stop = finish is not None and finish.reason is FinishReason.STOP
            if self._text.needs_every_step:
                match = self._text.feed(token_ids, last_is_stop=last_is_stop)
                if match is not None:
                    self._pending.extend(token_ids[: match.tokens_kept])
                    self._end(EngineFinish(FinishReason.STOP, match.string))
                    return finish is None
            self._last_is_stop = last_is_stop
            self._pending.extend(token_ids)
        if finish is not None:
            self._end(finish)
        elif self._sleeper is not None and len(self._pending) >= self._wake_at:
            self._wake()
        return False

    def cancel(self) -> bool:
        """End the generation on purpose; what was decoded is delivered. False if it had ended."""
        if self.ended:
            return False
        self._end(_CANCELLED)
        return True

    def fail(self, failure: ServiceError) -> bool:
        """End the stream with an error; what was decoded is delivered. False if it had ended."""
        if self.ended:
            return False
        self._failure = failure
        self._wake()
        return True

    async def read(self) -> Delta | None:
        """Wait for the next delta; None when the generation ended and all of it was taken.

        Raises the stream's failure once everything before it was taken.
        """
        while not self.ended:
            rest = self._next_delta_at - self._clock()
            if self._pending and (rest <= 0 or len(self._pending) >= self._enough):
                break
            if rest > 0:
                await self._sleep(wake_at=self._enough, timeout=rest)
            else:
                await self._sleep(wake_at=1, timeout=None)
        delta = self._flush()
        if delta is None and self._failure is not None:
            raise self._failure
        return delta

    @property
    def _enough(self) -> int:
        return self._delivery.max_tokens_per_message or MOST_TOKENS_PER_MESSAGE

    def _flush(self) -> Delta | None:
        """Turn what is pending into a delta of at most `max_tokens_per_message` tokens."""
        pending, most = self._pending, self._enough
        if len(pending) <= most:
            token_ids = tuple(pending)
            pending.clear()
        else:
            token_ids = tuple(pending.popleft() for _ in range(most))
        last = self.ended and not pending
        if token_ids and not self._text.needs_every_step:
            self._text.feed(token_ids, last_is_stop=last and self._last_is_stop)
        text = self._text.take(len(token_ids), final=last)
        if not token_ids and not text:
            return None
        delta = Delta(self._delivered, token_ids, text)
        self._delivered += len(token_ids)
        if self._delivery.max_delay_s > 0:
            self._next_delta_at = self._clock() + self._delivery.max_delay_s
        return delta

    def _end(self, finish: EngineFinish) -> None:
        self._finish = finish
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def _sleep(self, *, wake_at: int, timeout: float | None) -> None:  # noqa: ASYNC109 - no cancellation inside
        loop = asyncio.get_running_loop()
        self._wake_at = wake_at
        self._sleeper = loop.create_future()
        timer = loop.call_later(timeout, self._wake) if timeout is not None else None
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()
