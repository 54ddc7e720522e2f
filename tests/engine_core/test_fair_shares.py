from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine_core.fair_shares import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairShares
from tests.engine_core.waiters import WaitingRoom

CACHE_TOKENS = 400

requests = st.tuples(st.integers(1, 120), st.integers(1, 120))  # prompt and output tokens
weights = st.sampled_from([0.5, 1.0, 2.0, 4.0])


class Backlog:
    """One tenant that has requests waiting whenever `waits`, and what was computed for it."""

    def __init__(self, name: str, requests: list[tuple[int, int]], shares: FairShares) -> None:
        self.name = name
        self.requests = requests
        self.shares = shares
        self.waits = False
        self.admitted = 0
        self.running: deque[list[int]] = deque()  # prompt, output, decoded so far
        self.service = 0.0

    @property
    def next(self) -> tuple[int, int]:
        return self.requests[self.admitted % len(self.requests)]

    def in_cache(self) -> int:
        return sum(prompt + output for prompt, output, _ in self.running)

    def wait(self, waits: bool) -> None:
        """One more request waits all the time from now on, or none does any more."""
        if waits and not self.waits:
            self.shares.arrive(self.name)
            self.shares.waits(self.name)
        elif self.waits and not waits:
            self.shares.waits_no_more(self.name)
            self.shares.leave(self.name)
        self.waits = waits


def serve(shares: FairShares, tenants: list[Backlog]) -> None:
    """One step of continuous batching: admit what fits, in the counters' order, and decode."""
    while waiting := [tenant for tenant in tenants if tenant.waits]:
        tenant = min(waiting, key=lambda t: shares.counter(t.name))
        prompt, output = tenant.next
        if sum(t.in_cache() for t in tenants) + prompt + output > CACHE_TOKENS:
            break
        tenant.admitted += 1
        tenant.running.append([prompt, output, 0])
        shares.arrive(tenant.name)
        shares.charge(tenant.name, prompt, 0)
        tenant.service += PROMPT_WEIGHT * prompt
    for tenant in tenants:
        for request in list(tenant.running):
            request[2] += 1
            shares.charge(tenant.name, 0, 1)
            tenant.service += OUTPUT_WEIGHT
            if request[2] == request[1]:
                tenant.running.remove(request)
                shares.leave(tenant.name)


@settings(deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=6),
    st.lists(requests, min_size=1, max_size=6),
    weights,
    weights,
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 150)), max_size=6),
)
def test_two_tenants_with_work_waiting_differ_by_no_more_than_the_papers_bound(
    ones: list[tuple[int, int]],
    others: list[tuple[int, int]],
    weight: float,
    other: float,
    before: list[tuple[bool, bool, int]],
) -> None:
    """Whatever was before: one or both had nothing waiting for a while, or nothing at all."""
    shares = FairShares({"a": weight, "b": other})
    tenants = [Backlog("a", ones, shares), Backlog("b", others, shares)]
    most = max(PROMPT_WEIGHT * 120, OUTPUT_WEIGHT * CACHE_TOKENS) / min(weight, other)
    apart: list[float] = []
    for *waits, steps in [*before, (True, True, 150)]:
        for tenant, has_work in zip(tenants, waits, strict=True):
            tenant.wait(has_work)
        if not all(waits):
            apart.clear()
        for _ in range(steps):
            if all(waits):
                apart.append(tenants[0].service / weight - tenants[1].service / other)
            serve(shares, tenants)
        assert not apart or max(apart) - min(apart) <= 2 * most
    assert all(tenant.service > 0 for tenant in tenants)
    for tenant in tenants:
        tenant.wait(False)
        for _ in tenant.running:
            shares.leave(tenant.name)
    assert shares.counters() == {}


def test_a_tenant_of_twice_the_weight_is_served_twice_as_much() -> None:
    shares = FairShares({"heavy": 2.0})
    served = {"heavy": 0, "light": 0}
    for tenant in served:
        shares.arrive(tenant)
    for _ in range(3000):
        tenant = min(served, key=shares.counter)
        shares.charge(tenant, 10, 5)
        served[tenant] += 1
    assert served == {"heavy": 2000, "light": 1000}


@given(st.integers(0, 1000), st.integers(0, 1000), weights)
def test_a_charge_is_prompt_tokens_once_and_output_tokens_twice_for_the_weight(
    prompt: int, output: int, weight: float
) -> None:
    shares = FairShares({"a": weight})
    shares.arrive("a")
    shares.charge("a", prompt, output)
    assert shares.counter("a") == (prompt + 2 * output) / weight
    assert shares.counters() == {"a": shares.counter("a")}


def begin_to_wait(shares: FairShares, *tenants: str) -> None:
    """A request of each comes and waits."""
    for tenant in tenants:
        shares.arrive(tenant)
        shares.waits(tenant)


def wait_and_are_served(**served: int) -> FairShares:
    """Tenants that wait and have had so much since they began to."""
    shares = FairShares({})
    begin_to_wait(shares, *served)
    for tenant, tokens in served.items():
        shares.charge(tenant, tokens, 0)
    return shares


def test_a_tenant_that_begins_to_wait_is_lifted_to_the_least_of_those_that_wait() -> None:
    shares = wait_and_are_served(busy=500, busier=900, runs=10)
    shares.waits_no_more("runs")  # has had least, and nothing waiting
    begin_to_wait(shares, "new")
    assert shares.counter("new") == 500
    shares.arrive("runs")
    assert shares.counter("runs") == 10
    shares.waits("runs")
    assert shares.counter("runs") == 500
    assert (shares.counter("busy"), shares.counter("busier")) == (500, 900)


def test_where_nobody_waits_it_is_lifted_to_the_one_that_waited_last() -> None:
    shares = wait_and_are_served(first=800, last=300)
    shares.waits_no_more("first")
    shares.waits_no_more("last")
    begin_to_wait(shares, "new")
    assert shares.counter("new") == 300


def test_a_tenant_is_lifted_by_its_first_waiting_request_only() -> None:
    shares = wait_and_are_served(a=0, b=1000)
    begin_to_wait(shares, "a")
    shares.waits_no_more("a")
    begin_to_wait(shares, "a")
    assert shares.counter("a") == 0


def test_a_tenant_that_comes_back_and_had_more_keeps_what_it_had() -> None:
    shares = wait_and_are_served(greedy=1000, busy=10)
    shares.waits_no_more("greedy")
    shares.leave("greedy")
    begin_to_wait(shares, "greedy")
    assert shares.counter("greedy") == 1000


def test_a_request_that_does_not_wait_lifts_nobody() -> None:
    shares = wait_and_are_served(b=1000)
    shares.arrive("a")
    shares.arrive("a")
    shares.leave("a")
    assert shares.counter("a") == 0


def test_when_all_were_idle_everybody_begins_anew_and_equal() -> None:
    shares = wait_and_are_served(a=1000, b=5000)
    for tenant in ("a", "b"):
        shares.waits_no_more(tenant)
        shares.leave(tenant)
    shares.charge("a", 50, 0)
    assert shares.counters() == {}
    begin_to_wait(shares, "b", "a", "new")
    assert len({shares.counter(tenant) for tenant in ("b", "a", "new")}) == 1


def test_a_tenant_of_which_one_request_runs_saves_up_no_share_for_a_flood() -> None:
    room = WaitingRoom()
    shares = room.shares

    def is_served(tenant: str) -> None:
        room.comes(tenant=tenant)
        room.step(spare_tokens=1000)
        request = room.queue.pop_request()
        assert room.states[request.request_id].said.tenant == tenant
        shares.charge(tenant, 100, 0)

    is_served("steady")
    for _ in range(100):  # each comes to its turn at once
        is_served("busy")
    for _ in range(20):
        room.comes(tenant="steady")
        room.comes(tenant="busy")
    first = []
    for _ in range(20):
        room.step(spare_tokens=1000)
        tenant = room.states[room.queue.pop_request().request_id].said.tenant
        shares.charge(tenant, 100, 0)
        first.append(tenant)
    assert first.count("busy") == pytest.approx(10, abs=2)


def test_with_shares_switched_off_all_counters_are_equal_and_nothing_is_contended() -> None:
    shares = FairShares({"b": 3.0}, enabled=False)
    for tenant in ("a", "b"):
        shares.arrive(tenant)
    shares.charge("a", 1000, 1000)
    assert shares.counter("a") == shares.counter("b") == 0
    assert not shares.contended
    shares.waits("b")
    shares.look_at({"a": 1000, "b": 1})
    assert not any(shares.is_over_its_share(tenant) for tenant in ("a", "b"))
    assert shares.who_yields_to("b") == frozenset()


def test_who_holds_more_than_a_tenth_beyond_its_share_is_over_it_and_yields_to_the_others() -> None:
    shares = FairShares({"heavy": 2.0})
    for tenant in ("heavy", "light", "new"):
        shares.arrive(tenant)
    shares.waits("new")  # is at work, though it holds nothing
    shares.look_at({"heavy": 550, "light": 450})  # shares are 500 and 250
    assert not shares.is_over_its_share("heavy")
    assert shares.is_over_its_share("light")
    shares.look_at({"heavy": 551, "light": 449})
    assert shares.is_over_its_share("heavy")
    assert shares.who_yields_to("new") == {"heavy", "light"}
    assert shares.who_yields_to("heavy") == shares.who_yields_to("light") == frozenset()


def test_nobody_is_over_its_share_where_there_is_nobody_else_at_work() -> None:
    shares = FairShares({})
    shares.arrive("a")
    shares.waits("a")
    shares.look_at({"a": 1000})
    assert not shares.is_over_its_share("a")
    shares.arrive("idle")  # has a request, but it neither runs nor waits: its reader has enough
    shares.look_at({"a": 1000})
    assert not shares.is_over_its_share("a")
    shares.waits("idle")
    shares.look_at({"a": 1000})
    assert shares.is_over_its_share("a")
    shares.waits_no_more("idle")
    shares.look_at({"a": 1000})
    assert not shares.is_over_its_share("a")


def test_who_was_over_its_share_is_not_any_more_when_nothing_is_held() -> None:
    shares = wait_and_are_served(a=0, b=0)
    shares.look_at({"a": 1000})
    assert shares.who_yields_to("b") == {"a"}
    shares.look_at({})
    assert not shares.is_over_its_share("a")
    assert shares.who_yields_to("b") == frozenset()


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)),
    st.sets(st.sampled_from("abcd")),
    st.dictionaries(st.sampled_from("abc"), weights),
)
def test_there_is_always_somebody_who_is_not_over_its_share(
    held: dict[str, int], waiting: set[str], weight_of: dict[str, float]
) -> None:
    shares = FairShares(weight_of)
    for tenant in held.keys() | waiting:
        shares.arrive(tenant)
    for tenant in waiting:
        shares.waits(tenant)
    shares.look_at(held)
    at_work = held.keys() | waiting
    over = {tenant for tenant in "abcd" if shares.is_over_its_share(tenant)}
    all_weights = sum(weight_of.get(t, 1.0) for t in at_work)
    for tenant in over:
        share = sum(held.values()) * weight_of.get(tenant, 1.0) / all_weights
        assert held[tenant] > 1.09 * share
    for tenant in held.keys() - over:
        share = sum(held.values()) * weight_of.get(tenant, 1.0) / all_weights
        assert len(at_work) == 1 or held[tenant] <= 1.11 * share
    assert over < at_work or not over
    for tenant in "abcd":
        assert shares.who_yields_to(tenant) == (set() if tenant in over else over)


def test_there_is_a_choice_only_while_two_tenants_have_requests() -> None:
    shares = FairShares({})
    shares.arrive("a")
    shares.arrive("a")
    assert not shares.contended
    shares.arrive("b")
    assert shares.contended
    shares.leave("b")
    assert not shares.contended


moves = st.tuples(
    st.sampled_from(["arrive", "leave", "waits", "waits", "waits no more", "charge"]),
    st.sampled_from("abcde"),
    st.integers(0, 100),
)


@given(st.lists(moves, max_size=80))
def test_the_counters_are_of_the_busy_and_of_those_who_had_more_and_never_fall(
    order: list[tuple[str, str, int]],
) -> None:
    shares, requests, waiting = FairShares({"a": 2.0}), Counter[str](), Counter[str]()
    last = 0.0
    for move, tenant, tokens in order:
        before = shares.counters()
        if move == "arrive":
            shares.arrive(tenant)
            requests[tenant] += 1
        elif move == "waits" and requests[tenant] > waiting[tenant]:
            others = [before[t] for t in +waiting]
            expected = before[tenant]
            if not waiting[tenant]:
                expected = max(expected, min(others, default=last))
            shares.waits(tenant)
            waiting[tenant] += 1
            assert shares.counters() == before | {tenant: expected}
        elif move == "waits no more" and waiting[tenant]:
            shares.waits_no_more(tenant)
            waiting[tenant] -= 1
            if not waiting[tenant]:
                last = before[tenant]
            assert shares.counters() == before
        elif move == "charge" and requests[tenant]:
            shares.charge(tenant, tokens, 0)
        elif move == "leave" and requests[tenant] > waiting[tenant]:
            shares.leave(tenant)
            requests[tenant] -= 1
        after, busy = shares.counters(), +requests
        assert busy.keys() <= after.keys()
        assert all(after[t] >= before[t] for t in busy.keys() & before.keys())
        assert shares.contended == (len(busy) > 1)
        if move == "leave" and tenant in before and tenant not in busy:
            least = min((after[t] for t in busy), default=float("inf"))
            assert all(after[t] > least for t in after.keys() - busy.keys())
    for tenant in waiting.elements():
        shares.waits_no_more(tenant)
    for tenant in requests.elements():
        shares.leave(tenant)
    assert shares.counters() == {}
    assert not shares._requests
    assert not shares._waiting


def test_thousands_of_tenants_that_come_once_leave_nothing_behind() -> None:
    shares = FairShares({})
    shares.arrive("stays")
    for number in range(2000):
        shares.charge("stays", 100, 0)
        begin_to_wait(shares, f"once {number}")
        shares.charge(f"once {number}", 10, 0)
        shares.charge("stays", 10, 0)
        shares.waits_no_more(f"once {number}")
        shares.leave(f"once {number}")
    assert shares.counters().keys() == {"stays"}
