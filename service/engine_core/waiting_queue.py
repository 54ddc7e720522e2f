"""The waiting requests, in the order in which they are worth a place. No clock of its own.

vLLM's scheduler takes from it as from its own queues: it looks at the next request, and takes that
same one or leaves it. What is next changes only when one was taken, or with the next step.

Order, from the first to the last criterion:

1. priority class, higher ones first;
2. the tenant that has had least for its weight (`fair_shares`);
3. of one tenant: those evicted whose reader is about to run dry; the oldest of those whose
   patience has ended; those whose first token can still come in time, the one that is due first
   first; those that have been away for long; of those that are late already the newest, which
   has lost least; those evicted whose reader has time, if there is spare room.

Held requests (`hold`) are in it, and are not next. Bound: the admitted requests.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.engine_core.fair_shares import FairShares
from service.engine_core.settings import Settings
from service.engine_core.stream_state import StreamState


class Waiting(Protocol):
    """The part of vLLM's `Request` that is needed here."""

    request_id: str
    num_tokens: int


R = TypeVar("R", bound=Waiting)
# A request with what it is ordered by; the number keeps requests themselves from being compared.
Entry = tuple[float, int, R]


@dataclass(slots=True)
class _Lane(Generic[R]):
    """One tenant's waiting requests of one class."""

    fresh: list[Entry[R]] = field(default_factory=list)  # a heap, by when the first token is due
    late: list[Entry[R]] = field(default_factory=list)  # sorted by arrival
    # Those evicted: heaps by when their reader is about to run dry, and by when they were evicted.
    returning: list[Entry[R]] = field(default_factory=list)
    away: list[Entry[R]] = field(default_factory=list)


class WaitingQueue(Generic[R]):
    """See the rules above. `state_of`: by request id; `queue_s`: how long the queue is in time.

    `failed` is called, while the exception is handled, when the order could not be worked out.
    `is_admitted`: whether one that was taken runs; vLLM takes some only to pass them over.
    """

    def __init__(
        self,
        state_of: Callable[[str], StreamState],
        shares: FairShares,
        settings: Settings,
        failed: Callable[[], None] = lambda: None,
        is_admitted: Callable[[R], bool] = lambda request: True,
    ) -> None:
        self._state_of = state_of
        self._shares = shares
        self._settings = settings
        self._failed = failed
        self._is_admitted = is_admitted
        self._members: dict[str, R] = {}
        self._tenants: dict[str, str] = {}
        self._held: set[str] = set()
        self._lanes: dict[tuple[int, str], _Lane[R]] = {}
        self._lane_of: dict[str, _Lane[R]] = {}
        self._next: R | None = None
        self._now = 0.0
        self._numbers: dict[str, int] = {}  # in the order of arrival, kept while they wait
        self._number = 0
        self._spare_tokens = 0
        self.queue_s = 0.0
        self.taken: list[R] = []

    # -- of a step -----------------------------------------------------------------------------

    def begin_step(self, now: float, spare_tokens: int) -> None:
        """Let what is next be worked out anew.

        `spare_tokens`: room for those whose readers have time, and for tenants that have had more
        than others with requests; the rest is kept for arrivals. Of such tenants one request is
        let in at a time, so that no step is long with their prefill when another's comes.
        """
        self._now = now
        self._next = None
        self._spare_tokens = spare_tokens
        for request in self.taken:
            if request.request_id not in self._members:
                self._forget(request)  # it was not put back
        self.taken.clear()
        for key in [key for key, lane in self._lanes.items() if not _is_used(lane)]:
            del self._lanes[key]

    @property
    def has_late(self) -> bool:
        """Whether requests wait whose first token cannot come in time any more."""
        for lane in self._lanes.values():
            self._settle(lane)
        return any(lane.late for lane in self._lanes.values())

    @property
    def has_urgent(self) -> bool:
        """Whether requests wait without a first token, or evicted and about to run dry."""
        return any(
            lane.fresh or lane.late or (lane.returning and lane.returning[0][0] <= self._now)
            for lane in self._lanes.values()
        )

    @property
    def held(self) -> int:
        """Number of those that are held."""
        return len(self._held)

    def upcoming(self, most: int) -> list[R]:
        """Return the next requests, without taking them."""
        found: list[R] = []
        try:
            while len(found) < most and (request := self._pick()) is not None:
                self._leave_lane(request)
                found.append(request)
        finally:
            for request in found:
                self._enter(request)
        return found

    # -- members -------------------------------------------------------------------------------

    def hold(self, request: R) -> None:
        """Do not let a request be next until `release`."""
        if request.request_id in self._members and request.request_id not in self._held:
            self._leave_lane(request)
            self._held.add(request.request_id)
            self._shares.waits_no_more(self._tenant(request))
            if self._next is request:
                self._next = None

    def release(self, request: R) -> None:
        """Let a held request be next again."""
        if request.request_id in self._held:
            self._held.discard(request.request_id)
            self._shares.waits(self._tenant(request))
            self._enter(request)

    def reorder(self, request: R) -> None:
        """Find its place anew, if it waits: more is known of it now."""
        if request.request_id in self._lane_of:
            self._leave_lane(request)
            self._enter(request)

    def add_request(self, request: R) -> None:
        """Enter a request."""
        self._members[request.request_id] = request
        if request.request_id not in self._tenants:
            self._shares.waits(self._tenant(request))
        self._enter(request)

    def prepend_request(self, request: R) -> None:
        """Enter a request that was preempted, or that vLLM looked at and left."""
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[R]) -> None:
        """Enter requests that were passed over."""
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: R) -> None:
        """Let a request leave, if it is in."""
        if request.request_id in self._members:
            held = request.request_id in self._held
            self._take_out(request)
            self._forget(request, waited=not held)

    def remove_requests(self, requests: Iterable[R]) -> None:
        """Let requests leave."""
        for request in list(requests):
            self.remove_request(request)

    def peek_request(self) -> R:
        """Return the next one. Raises IndexError if there is none."""
        request = self._look()
        if request is None:
            raise IndexError("nobody may be next")
        return request

    def pop_request(self) -> R:
        """Take the next one, the same that `peek_request` returned."""
        request = self.peek_request()
        self._take_out(request)
        self.taken.append(request)
        return request

    def __contains__(self, request: R) -> bool:
        return request.request_id in self._members

    def __bool__(self) -> bool:
        return self._look() is not None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._members.values()))

    # -- order ---------------------------------------------------------------------------------

    def _take_out(self, request: R) -> None:
        del self._members[request.request_id]
        if request.request_id in self._held:
            self._held.discard(request.request_id)
        else:
            self._leave_lane(request)
        if self._next is request:
            self._next = None

    def _forget(self, request: R, *, waited: bool = True) -> None:
        """Drop what is kept of a request while it waits: its place among equals, its tenant."""
        self._numbers.pop(request.request_id, None)
        tenant = self._tenants.pop(request.request_id, None)
        if waited and tenant is not None:
            self._shares.waits_no_more(tenant)

    def _tenant(self, request: R) -> str:
        tenant = self._tenants.get(request.request_id)
        if tenant is None:
            said = self._state_of(request.request_id).said
            tenant = self._tenants[request.request_id] = said.tenant
        return tenant

    def _look(self) -> R | None:
        if self._next is None:
            try:
                self._next = self._pick()
            except Exception:
                # vLLM asks in the middle of its own work, where nothing may be raised.
                self._failed()
                self._next = next((r for r in self if r.request_id not in self._held), None)
        return self._next

    def _pick(self) -> R | None:
        best: R | None = None
        best_key: tuple[float, float] | None = None
        for (priority, tenant), lane in self._lanes.items():
            request = self._first_of(lane)
            if request is None:
                continue
            if self._must_leave_room(request, tenant):
                continue
            key = (-priority, self._shares.counter(tenant))
            if best_key is None or key < best_key:
                best, best_key = request, key
        return best

    def _must_leave_room(self, request: R, tenant: str) -> bool:
        """Whether a tenant over its share has to wait, to leave room for one that is not.

        It does not wait for ever: as its own requests end it is not over its share any more.
        """
        return self._shares.is_over_its_share(tenant) and (
            any(self._is_admitted(taken) for taken in self.taken)
            or request.num_tokens > self._spare_tokens
        )

    def _fits_spare_room(self, request: R) -> bool:
        taken = sum(taken.num_tokens for taken in self.taken if self._is_admitted(taken))
        return request.num_tokens <= self._spare_tokens - taken

    def _first_of(self, lane: _Lane[R]) -> R | None:
        self._settle(lane)
        fresh, late, returning = lane.fresh, lane.late, lane.returning
        if returning and returning[0][0] <= self._now:
            return returning[0][2]
        if late and self._now - late[0][0] > self._patience_s():
            return late[0][2]
        if fresh:
            return fresh[0][2]
        if returning and self._now - lane.away[0][0] > self._settings.most_away_s:
            return lane.away[0][2]
        if late:
            return late[-1][2]
        if returning and self._fits_spare_room(returning[0][2]):
            return returning[0][2]
        return None

    def _patience_s(self) -> float:
        settings = self._settings
        return max(settings.least_patience_s, settings.patience_factor * self.queue_s)

    def _settle(self, lane: _Lane[R]) -> None:
        """Move those that can no longer be in time to the late ones."""
        if not self._settings.pacing:
            return
        patience_s = self._settings.patience_s
        while lane.fresh and self._now > lane.fresh[0][0] + patience_s:
            _, number, request = heapq.heappop(lane.fresh)
            self._insert_late(lane, number, request)

    def _insert_late(self, lane: _Lane[R], number: int, request: R) -> None:
        entry = (self._state_of(request.request_id).arrived, number, request)
        lane.late.insert(bisect_left(lane.late, entry[:2], key=lambda e: e[:2]), entry)

    def _enter(self, request: R) -> None:
        state = self._state_of(request.request_id)
        said = state.said
        key = (said.priority, said.tenant if self._settings.fair_shares else "")
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        self._lane_of[request.request_id] = lane
        number = self._numbers.get(request.request_id)
        if number is None:
            self._number += 1
            number = self._numbers[request.request_id] = self._number
        if not self._settings.pacing:
            heapq.heappush(lane.fresh, (state.arrived, number, request))  # as vLLM's own
            return
        if state.first_token_at is None:
            due_at = state.due_at()
            if self._now > due_at + self._settings.patience_s:
                self._insert_late(lane, number, request)
            else:  # among those that are due together the one that came first is first
                heapq.heappush(lane.fresh, (due_at, number, request))
            return
        back_at = state.runs_dry_at() - self._settings.return_s
        heapq.heappush(lane.returning, (back_at, number, request))
        heapq.heappush(lane.away, (state.evicted_at, number, request))

    def _leave_lane(self, request: R) -> None:
        lane = self._lane_of.pop(request.request_id)
        if lane.late and lane.late[-1][2] is request:
            lane.late.pop()
            return
        if _take(lane.fresh, request):
            return
        if _take(lane.returning, request):
            _take(lane.away, request)
            return
        index = _index(lane.late, request)
        assert index is not None
        del lane.late[index]


def _take(heap: list[Entry[R]], request: R) -> bool:
    """Take a request out of a heap; False if it is not in."""
    if heap and heap[0][2] is request:
        heapq.heappop(heap)
        return True
    index = _index(heap, request)
    if index is None:
        return False
    heap[index] = heap[-1]
    heap.pop()
    heapq.heapify(heap)
    return True


def _index(entries: list[Entry[R]], request: R) -> int | None:
    return next((i for i, entry in enumerate(entries) if entry[2] is request), None)


def _is_used(lane: _Lane[R]) -> bool:
    return bool(lane.fresh or lane.late or lane.returning)
