"""Requests that wait, without vLLM, and a queue of them with what it looks up."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.engine_core.fair_shares import FairShares
from service.engine_core.settings import Said, Settings
from service.engine_core.stream_state import StreamState
from service.engine_core.waiting_queue import WaitingQueue

# The figures that tests count on, whatever the defaults become.
SETTINGS = Settings(
    return_s=4.0,
    most_away_s=20.0,
    patience_s=1.0,
    patience_factor=1.8,
    least_patience_s=20.0,
)


@dataclass(eq=False)
class Waiter:
    """A request; `number` is the how-many-eth it came."""

    request_id: str
    num_tokens: int = 100
    number: int = 0


@dataclass
class WaitingRoom:
    """A queue at a moment, the states of all that came, and the tenants' counters."""

    settings: Settings = SETTINGS
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.states: dict[str, StreamState] = {}
        self.shares = FairShares(self.settings.weights, enabled=self.settings.fair_shares)
        self.queue: WaitingQueue[Waiter] = WaitingQueue(
            self.states.__getitem__, self.shares, self.settings
        )

    def comes(self, request_id: str = "", num_tokens: int = 100, **said: object) -> Waiter:
        """A new request arrives now, whose reader declares a rate if nothing else is said."""
        number = len(self.states)
        waiter = Waiter(request_id or f"r{number}", num_tokens, number)
        declared = Said(**{"reading_rate": 4.0} | said)  # type: ignore[arg-type]
        state = StreamState(waiter.request_id, declared, self.now)
        self.states[waiter.request_id] = state
        self.shares.arrive(state.said.tenant)
        self.queue.add_request(waiter)
        return waiter

    def comes_back(self, waiter: Waiter, *, tokens: int, first_token_at: float) -> None:
        """One that was taken and has so many tokens is evicted now."""
        state = self.states[waiter.request_id]
        state.tokens, state.first_token_at = tokens, first_token_at
        state.evicted, state.evicted_at = True, self.now
        self.queue.prepend_request(waiter)

    def step(
        self,
        passed: float = 0.0,
        spare_tokens: int = 0,
        held: Mapping[str, int] | None = None,
    ) -> None:
        """A step begins, so much later, in which tenants hold so many tokens."""
        self.now += passed
        self.queue.begin_step(self.now, spare_tokens)
        self.shares.look_at(held or {})

    def take_all(self) -> list[Waiter]:
        """All that may be next now, in order."""
        taken = []
        while self.queue:
            taken.append(self.queue.pop_request())
        return taken
