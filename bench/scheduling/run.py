"""One trace through one engine, in virtual time.

What stands between the engine and the readers is the same for any scheduler: every token is
delivered at the end of its step, callers give up at their deadline, and a reader that takes nothing
for half a minute is ended. Ours is told in addition what the service would tell it.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.known_tokens import KnownTokens
from bench.scheduling.reader import FIRST_TOKEN_TARGET_S, Reading
from bench.scheduling.traces import Arrival, Trace
from bench.scheduling.virtual_engine import EngineSetup, VirtualEngine

# What the service does: it tells a reader's progress every so many tokens, and this much later.
TELL_EVERY, TELL_FIRST = 64, 32
TELL_LATENCY_S = 0.01
HEARTBEAT_S = 1.0  # it tells nothing new when there was nothing to tell for so long
STALL_ENDS_S = 30.0  # it ends a reader that takes nothing for so long
TURN_S = 0.001  # vLLM's own pause when nothing could be computed
_MOST_S = 1800.0


@dataclass(slots=True)
class Result:
    """What a trace came to. CPU seconds of each `schedule` call and of each whole engine step."""

    readings: list[Reading]
    lasted_s: float = 0.0
    steps: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    schedule_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)


def run(trace: Trace, setup: EngineSetup, *, until_s: float | None = None) -> Result:
    """Run a trace until each request has its end, or for `until_s` seconds of virtual time.

    Raises RuntimeError if without `until_s` there is a request that does not end.
    """
    engine = VirtualEngine(setup)
    try:
        running = _Run(trace, engine)
        running.go(_MOST_S if until_s is None else until_s)
    finally:
        engine.close()
    result = running.result
    unended = sum(not r.complete and r.left_at is None for r in result.readings)
    if unended and until_s is None:
        raise RuntimeError(f"{unended} of {len(trace)} requests have no end")
    return result


class _Run:
    """The time between the first arrival and the last end."""

    def __init__(self, trace: Trace, engine: VirtualEngine) -> None:
        self.engine = engine
        self.result = Result([Reading(arrival) for arrival in trace])
        self._known = KnownTokens()
        self._by_id = {str(r.arrival.number): r for r in self.result.readings}
        self._waiting = deque(self.result.readings)
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._number = 0
        self._told: dict[str, int] = {}
        self._tell = getattr(engine.scheduler, "readers_moved", None)
        _observe(engine, self.result)

    def go(self, most_s: float) -> None:
        clock, engine = self.engine.clock, self.engine
        self._beat()
        while (now := clock.now()) < most_s:
            self._arrive(now)
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            if engine.has_work:
                self._step()
            elif (moment := self._next_moment()) is not None:
                clock.wait_until(moment)
            else:
                break
        ends = (r.deliveries[-1][0] for r in self.result.readings if r.deliveries)
        self.result.lasted_s = max(ends, default=0.0)

    def _next_moment(self) -> float | None:
        moments = [self._waiting[0].arrival.at] if self._waiting else []
        moments += [self._later[0][0]] if self._later else []
        return min(moments, default=None)

    def _at(self, moment: float, do: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._later, (moment, self._number, do))

    def _arrive(self, now: float) -> None:
        while self._waiting and self._waiting[0].arrival.at <= now:
            reading = self._waiting.popleft()
            arrival = reading.arrival
            prompt = self._known.prompt(arrival.number, arrival.prompt_tokens)
            said = _extra_args(arrival) if self._tell is not None else None
            self.engine.add(str(arrival.number), prompt, arrival.output_tokens, said)
            if arrival.deadline_s is not None and arrival.hangs_up:
                self._at(arrival.at + arrival.deadline_s, partial(self._give_up, reading))

    def _step(self) -> None:
        began = time.thread_time()
        decoded, executed = self.engine.step()
        self.result.step_s.append(time.thread_time() - began)
        self.result.steps += executed
        now = self.engine.clock.now()
        for output in decoded:
            reading = self._by_id[output.request_id]
            was_stalled = reading.stalled
            reading.deliver(now, len(output.tokens))
            if output.finished:
                reading.left_at = None if reading.complete else now
            elif reading.stalled and not was_stalled:
                self._at(now + STALL_ENDS_S, partial(self._end, reading))
            self._tell_progress(output.request_id, reading.position, now)
        if not executed and not decoded:
            self.engine.clock.wait_until(now + TURN_S)

    def _tell_progress(self, request_id: str, position: int, now: float) -> None:
        told = self._told.get(request_id, 0)
        if self._tell is not None and position - told >= min(TELL_EVERY, TELL_FIRST + told // 2):
            self._told[request_id] = position
            self._at(now + TELL_LATENCY_S, partial(self._tell, [request_id], [position]))

    def _beat(self) -> None:
        if self._tell is None:
            return
        self._tell([], [])
        if self._waiting or self.engine.scheduler.get_num_unfinished_requests():
            self._at(self.engine.clock.now() + HEARTBEAT_S, self._beat)

    def _give_up(self, reading: Reading) -> None:
        if not reading.deliveries:
            self._end(reading)

    def _end(self, reading: Reading) -> None:
        if not reading.complete and reading.left_at is None:
            reading.left_at = self.engine.clock.now()
            self.engine.abort(str(reading.arrival.number))


def _extra_args(arrival: Arrival) -> dict[str, Any]:
    said: dict[str, Any] = {"first_token_target_s": FIRST_TOKEN_TARGET_S}
    if arrival.reading_rate is not None:
        said["reading_rate"] = arrival.reading_rate
    if arrival.tenant:
        said["tenant"] = arrival.tenant
    if arrival.deadline_s is not None:
        said["deadline"] = arrival.at + arrival.deadline_s
    return {"tokenstream": said}


def _observe(engine: VirtualEngine, result: Result) -> None:
    """Count preemptions and time decisions, from outside and alike for any scheduler."""
    scheduler = engine.scheduler
    preempt, schedule = scheduler._preempt_request, scheduler.schedule

    def counted(request: Any, *args: Any, **kwargs: Any) -> None:
        result.preemptions += 1
        result.recomputed_tokens += request.num_computed_tokens
        preempt(request, *args, **kwargs)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        scheduled = schedule(*args, **kwargs)
        result.schedule_s.append(time.thread_time() - began)
        return scheduled

    scheduler._preempt_request, scheduler.schedule = counted, timed
