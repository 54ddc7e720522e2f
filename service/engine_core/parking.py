"""Who waits for its reader: flow control. No vLLM here, and no clock.

A request that is far enough ahead of its reader is parked: it gets no steps, and keeps its KV
blocks as long as nobody needs them. Rules:

1. it is parked at its mark (`StreamState.may_be_ahead`), never in the middle of a prefill;
2. it goes on when its reader is within the low mark, or half of its own mark if that is less;
3. if it was evicted meanwhile, it is held in the waiting queue until then;
4. nobody is parked while the service is silent, and then all go on.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from service.engine_core.settings import Settings
from service.engine_core.stream_state import StreamState
from service.engine_core.waiting_queue import WaitingQueue

NEVER = 1 << 60  # a step that does not come


class Running(Protocol):
    """The part of vLLM's `Request` that is needed here."""

    request_id: str
    num_tokens: int
    num_output_tokens: int
    num_output_placeholders: int
    num_computed_tokens: int
    is_prefill_chunk: bool
    next_decode_eligible_step: int


R = TypeVar("R", bound=Running)


class Parking(Generic[R]):
    """See the rules above. `states`: by request id; `tokens_a_step`: most that one step decodes.

    `requests` are those that are parked and hold blocks. Bound: the running requests.
    """

    def __init__(
        self,
        states: Mapping[str, StreamState],
        waiting: WaitingQueue[R],
        settings: Settings,
        tokens_a_step: int,
    ) -> None:
        self._states = states
        self._waiting = waiting
        self._settings = settings
        self._tokens_a_step = tokens_a_step
        self._look_at_step = 0
        self._heard_at = -math.inf
        self.requests: set[R] = set()
        self.parkings = 0

    # -- the service ---------------------------------------------------------------------------

    def hear(self, now: float) -> None:
        """Take notice that the service is there."""
        self._heard_at = now

    def hears_nothing(self, now: float) -> bool:
        """Whether the service has been silent for too long to wait for its readers."""
        return now - self._heard_at > self._settings.silence_s

    def reader_moved(self, state: StreamState, position: int, tokens: int) -> bool:
        """Take notice of how many of its `tokens` a reader has taken; whether it has to go on."""
        if position < state.position:
            self.look_again()  # somebody reads it again from further back
        state.position = position
        most = state.may_be_ahead(self._settings.high_mark, self._settings.first_mark)
        return state.parked and tokens - position <= min(self._settings.low_mark, most // 2)

    # -- parking and going on ------------------------------------------------------------------

    def look_again(self) -> None:
        """Look in the next step whether somebody is at its mark."""
        self._look_at_step = 0

    def look(self, running: Iterable[R], step: int, now: float) -> None:
        """Park those at their mark, if there can be any; and work out when there can be next."""
        if step < self._look_at_step:
            return
        high, first = self._settings.high_mark, self._settings.first_mark
        nearest = min(high, first)
        for request in running:
            state = self._states[request.request_id]
            if state.parked:
                continue
            room = state.position + state.may_be_ahead(high, first) - request.num_output_tokens
            room -= request.num_output_placeholders
            if room > 0:
                nearest = min(nearest, room)
            elif request.is_prefill_chunk:
                nearest = 1
            else:
                self.park(request, state, now)
        self._look_at_step = step + max(1, nearest // self._tokens_a_step)

    def park(self, request: R, state: StreamState, now: float) -> None:
        """Give it no steps from now on."""
        if not state.parked:
            state.may_step_at = request.next_decode_eligible_step
        request.next_decode_eligible_step = NEVER
        state.park(now)
        self.requests.add(request)
        self.parkings += 1

    def unpark(self, request: R, state: StreamState, step: int, now: float) -> None:
        """Let it go on: with the next step, or, if it was evicted, when it is its turn."""
        state.unpark(now)
        self.look_again()
        if request in self.requests:
            self.requests.discard(request)
            # Not before vLLM would have let it: with pipeline stages each has its turn.
            request.next_decode_eligible_step = max(state.may_step_at, step + 1)
        else:
            self._waiting.release(request)

    def unpark_all(self, step: int, now: float) -> None:
        """Let go of all that waits for its reader, and park nobody for a while."""
        for request in [*self.requests, *self._waiting]:
            state = self._states.get(request.request_id)
            if state is not None and state.parked:
                self.unpark(request, state, step, now)
        self._look_at_step = step + self._settings.high_mark

    def forget(self, request: R) -> None:
        """Take notice that a request has no blocks any more."""
        self.requests.discard(request)

    def last(self, running: list[R]) -> list[R]:
        """Let those under way stand before those that are parked, which vLLM preempts first."""
        parked = self.requests
        if not parked or all(r in parked for r in running[-len(parked) :]):
            return running
        return [r for r in running if r not in parked] + [r for r in running if r in parked]
