"""One trace through one engine, in virtual time."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bench.known_tokens import KnownTokens
from bench.scheduling.reader import FIRST_TOKEN_TARGET_S, Reading
from bench.scheduling.traces import Arrival, Trace
from bench.scheduling.virtual_engine import EngineSetup, VirtualEngine

# What the service does: it tells a reader's progress every so many tokens, and this much later.
TELL_EVERY = 96
TELL_LATENCY_S = 0.01
TURN_S = 0.001  # vLLM's own pause when nothing could be computed


@dataclass(slots=True)
class Result:
    """What a trace came to. Times in seconds; decision times of every `schedule` call."""

    readings: list[Reading]
    lasted_s: float = 0.0
    steps: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    schedule_s: list[float] = field(default_factory=list)
    engine_s: float = 0.0
    service: list[tuple[float, dict[str, int]]] = field(
        default_factory=list
    )  # by tenant, over time


def run(trace: Trace, setup: EngineSetup, *, most_s: float = 600.0) -> Result:
    """Run a trace to its end, or for `most_s`: readers that have stalled are left then."""
    engine = VirtualEngine(setup)
    tokens = KnownTokens()
    readings = [Reading(arrival) for arrival in trace]
    by_id = {str(r.arrival.number): r for r in readings}
    result = Result(readings)
    _observe(engine, result)
    waiting = deque(trace)
    told: dict[str, int] = {}
    tellings: deque[tuple[float, str, int]] = deque()
    clock, scheduler = engine.clock, engine.scheduler
    tell = getattr(scheduler, "readers_moved", None)
    began = time.process_time()
    while True:
        now = clock.now()
        while waiting and waiting[0].at <= now:
            arrival = waiting.popleft()
            prompt = tokens.prompt(arrival.number, arrival.prompt_tokens)
            extra = _extra_args(arrival) if tell is not None else None
            engine.add(str(arrival.number), prompt, arrival.output_tokens, extra)
        while tellings and tellings[0][0] <= now:
            _, request_id, position = tellings.popleft()
            if tell is not None and request_id in scheduler.requests:
                tell([request_id], [position])
        if not engine.has_work:
            moments = [
                t
                for t in (waiting[0].at if waiting else None, tellings[0][0] if tellings else None)
                if t is not None
            ]
            if not moments or now >= most_s:
                break
            clock.wait_until(min(moments))
            continue
        decoded, executed = engine.step()
        now = clock.now()
        for output in decoded:
            reading = by_id[output.request_id]
            reading.deliver(now, output.tokens)
            reading.ended = output.finished
            position = reading.position
            if tell is not None and position - told.get(output.request_id, 0) >= TELL_EVERY:
                told[output.request_id] = position
                tellings.append((now + TELL_LATENCY_S, output.request_id, position))
        if not executed and not decoded:
            clock.wait_until(now + TURN_S)
        result.steps += executed
        if now >= most_s:
            break
    result.engine_s = time.process_time() - began
    result.lasted_s = max((r.deliveries[-1][0] for r in readings if r.deliveries), default=0.0)
    engine.close()
    return result


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
        began = time.perf_counter()
        scheduled = schedule(*args, **kwargs)
        result.schedule_s.append(time.perf_counter() - began)
        return scheduled

    scheduler._preempt_request, scheduler.schedule = counted, timed
