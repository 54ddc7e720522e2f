"""Any order of what vLLM and the scheduler do to the queue, against the rules taken literally."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine_core.settings import Settings
from tests.engine_core.naive_queue import NaiveQueue
from tests.engine_core.waiters import Waiter, WaitingRoom

# Few different values, so that requests are often equal in what they are ordered by.
spans = st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0, 11.0])
targets = st.sampled_from([0.25, 1.0, 1.0, 4.0])
deadlines = st.sampled_from([None, None, 0.5, 2.0])
tenants = st.sampled_from(["a", "a", "b"])
priorities = st.sampled_from([0, 0, 0, 1, -1])
rates = st.sampled_from([None, 4.0, 4.0])
numbers = st.integers(0, 50)


WEIGHTS = {"b": 2.0}
# Tokens in the cache, by tenant.
caches = st.sampled_from([{}, {"a": 400}, {"a": 100, "b": 290}, {"a": 300, "b": 100}, {"b": 9}])


class Waits(RuleBasedStateMachine):
    """What happens to requests, and who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom(Settings(weights=WEIGHTS))
        self.queue = self.room.queue
        self.naive = NaiveQueue(self.room)
        self.open: list[Waiter] = []  # may be next
        self.held: list[Waiter] = []
        self.running: list[Waiter] = []
        self.passed_over: list[Waiter] = []
        self.next: Waiter | None = None  # looked at in this step
        self.looked = False  # for what is next, in this step
        self.entered: Counter[Waiter] = Counter()
        self.left: Counter[Waiter] = Counter()
        self.room.step()

    # -- what happens --------------------------------------------------------------------------

    @rule(
        tenant=tenants,
        priority=priorities,
        due_in=targets,
        deadline=deadlines,
        rate=rates,
        size=st.integers(1, 4),
    )
    def comes(
        self,
        tenant: str,
        priority: int,
        due_in: float,
        deadline: float | None,
        rate: float | None,
        size: int,
    ) -> None:
        waiter = self.room.comes(
            num_tokens=size * 100,
            tenant=tenant,
            priority=priority,
            first_token_target_s=due_in,
            deadline=None if deadline is None else self.room.now + deadline,
            reading_rate=rate,
        )
        self.entered[waiter] += 1
        self.open.append(waiter)

    @rule(
        span=spans,
        queue_s=st.sampled_from([0.0, 5.0, 15.0]),
        spare=st.sampled_from([0, 250]),
        held=caches,
    )
    def a_step_begins(self, span: float, queue_s: float, spare: int, held: dict[str, int]) -> None:
        self.come_back_that_were_passed_over()
        self.queue.queue_s = self.naive.queue_s = queue_s
        self.naive.spare_tokens, self.naive.taken = spare, 0
        self.room.step(span, spare, held)
        self.naive.over = self.over_their_share(held)
        self.next, self.looked = None, False

    @rule()
    def looks(self) -> None:
        self.look()

    @rule(times=st.integers(1, 3))
    def takes(self, times: int) -> None:
        for _ in range(times):
            if (waiter := self.look()) is not None:
                self.take(waiter)
                self.running.append(waiter)

    @rule()
    def passes_over(self) -> None:
        """VLLM leaves one, and puts all that it left back at the end of its step."""
        if (waiter := self.look()) is not None:
            self.take(waiter)
            self.passed_over.append(waiter)

    @precondition(lambda self: not self.looked)
    @rule(most=st.integers(0, 5))
    def looks_ahead(self, most: int) -> None:
        among = list(self.open)
        for waiter in self.queue.upcoming(most):
            assert waiter in self.naive.may_be_next(among)
            among.remove(waiter)
        found = len(self.open) - len(among)
        assert found == most or not self.naive.may_be_next(among) or self.naive.unsure

    @precondition(lambda self: self.running)
    @rule(which=numbers, tokens=st.sampled_from([4, 20, 40, 400]), parked=st.booleans())
    def is_evicted(self, which: int, tokens: int, parked: bool) -> None:
        waiter = self.running.pop(which % len(self.running))
        first_token_at = self.room.states[waiter.request_id].first_token_at
        self.room.comes_back(
            waiter,
            tokens=tokens,
            first_token_at=self.room.now if first_token_at is None else first_token_at,
        )
        self.entered[waiter] += 1
        if parked:
            self.queue.hold(waiter)
        (self.held if parked else self.open).append(waiter)

    @precondition(lambda self: self.running)
    @rule(which=numbers)
    def is_evicted_without_a_token(self, which: int) -> None:
        waiter = self.running[which % len(self.running)]
        if self.room.states[waiter.request_id].first_token_at is None:
            self.running.remove(waiter)
            self.begins_to_wait(waiter, self.queue.prepend_request)
            self.entered[waiter] += 1

    @precondition(lambda self: self.open)
    @rule(which=numbers)
    def is_held(self, which: int) -> None:
        waiter = self.open.pop(which % len(self.open))
        self.queue.hold(waiter)
        self.held.append(waiter)
        if waiter is self.next:
            self.next = None

    @precondition(lambda self: self.held)
    @rule(which=numbers)
    def is_released(self, which: int) -> None:
        waiter = self.held.pop(which % len(self.held))
        self.begins_to_wait(waiter, self.queue.release)

    @precondition(lambda self: self.open or self.held)
    @rule(which=st.lists(numbers, min_size=1, max_size=3, unique=True))
    def are_removed(self, which: list[int]) -> None:
        members = [*self.open, *self.held]
        leaving = {members[number % len(members)] for number in which}
        self.queue.remove_requests([*leaving, *self.running])  # those who are not in are let be
        for waiter in leaving:
            self.left[waiter] += 1
            (self.open if waiter in self.open else self.held).remove(waiter)
            if waiter is self.next:
                self.next = None

    @rule(tenant=tenants, tokens=st.sampled_from([1, 100, 5000]))
    def is_charged(self, tenant: str, tokens: int) -> None:
        self.room.shares.charge(tenant, tokens, 0)

    # -- what is true --------------------------------------------------------------------------

    def over_their_share(self, held: dict[str, int]) -> set[str]:
        """Of those that hold something or wait; all that ever came still have a request."""
        at_work = held.keys() | self.room.shares._waiting.keys()
        if len({s.said.tenant for s in self.room.states.values()}) < 2 or len(at_work) < 2:
            return set()
        each = sum(held.values()) / sum(WEIGHTS.get(tenant, 1.0) for tenant in at_work)
        return {t for t, tokens in held.items() if tokens > 1.1 * each * WEIGHTS.get(t, 1.0)}

    def begins_to_wait(self, waiter: Waiter, enter: Callable[[Waiter], None]) -> None:
        """Let one enter, and find its tenant lifted as it should be."""
        shares = self.room.shares
        tenant = self.tenant_of(waiter)
        others = set(shares._waiting)
        expected = shares.counter(tenant)
        if others and tenant not in others:
            expected = max(expected, min(shares.counter(other) for other in others))
        enter(waiter)
        if others:
            assert shares.counter(tenant) == expected
        self.open.append(waiter)

    def tenant_of(self, waiter: Waiter) -> str:
        return self.room.states[waiter.request_id].said.tenant

    @invariant()
    def tells_who_waits(self) -> None:
        # Who was taken waits until the step is over: it may be put back.
        waiting = {w.request_id: w for w in [*self.open, *self.queue.taken]}
        waits = [w for w in waiting.values() if w.request_id in self.queue._tenants]
        held = {w.request_id for w in self.held}
        tenants = Counter(self.tenant_of(w) for w in waits if w.request_id not in held)
        assert self.room.shares._waiting == tenants

    @invariant()
    def knows_who_is_in(self) -> None:
        members = [*self.open, *self.held]
        assert len(self.queue) == len(members)
        assert self.queue.held == len(self.held)
        assert Counter(self.queue) == Counter(members)
        assert all(waiter in self.queue for waiter in members)
        assert not any(waiter in self.queue for waiter in [*self.running, *self.passed_over])

    @rule()
    def has_late(self) -> None:
        assert self.queue.has_late == self.naive.has_late(self.open)

    @rule()
    def has_urgent(self) -> None:
        assert self.queue.has_urgent == self.naive.has_urgent(self.open)

    def look(self) -> Waiter | None:
        """Whoever is next, found to be right; the same until it is taken or a step begins."""
        self.looked = True
        if not self.queue:
            assert self.next is None
            assert not self.naive.may_be_next(self.open) or self.naive.unsure
            return None
        waiter = self.queue.peek_request()
        if self.next is None:
            assert waiter in self.naive.may_be_next(self.open)
        else:
            assert waiter is self.next
        assert waiter in self.open
        self.next = waiter
        return waiter

    def take(self, waiter: Waiter) -> None:
        assert self.queue.pop_request() is waiter
        assert self.queue.taken[-1] is waiter
        self.naive.spare_tokens -= waiter.num_tokens
        self.naive.taken += 1
        self.next = None
        self.open.remove(waiter)
        self.left[waiter] += 1
        self.naive.again.add(waiter)

    def come_back_that_were_passed_over(self) -> None:
        self.queue.prepend_requests(reversed(self.passed_over))
        self.entered.update(self.passed_over)
        self.open += self.passed_over
        self.passed_over = []

    def teardown(self) -> None:
        """All that are in come out, each of them once."""
        for held in self.held:
            self.queue.release(held)
        self.open += self.held
        self.held = []
        self.come_back_that_were_passed_over()
        for _ in range(len(self.open)):  # one a step is the least that is let in
            self.a_step_begins(1000.0, 0.0, 1 << 30, {})
            while (waiter := self.look()) is not None:
                self.take(waiter)
        assert self.entered == self.left
        assert (len(self.queue), self.queue.held) == (0, 0)
        self.room.step()
        assert not self.queue._lanes
        assert not self.queue._lane_of


TestWaits: Any = Waits.TestCase
# The same examples each time: what is still left open by the naive queue is looked for on purpose
# (`derandomize` off, more examples), not by whoever comes along with a change.
TestWaits.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True
)
