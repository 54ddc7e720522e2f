"""The load generator: a process of its own that applies one workload to one server.

`python -m bench.load '{"dialect": …}'` connects, applies a small load to warm the server up, and
writes `ready`. Each line that it then reads from standard input applies the load once, every
request at the same moment, and answers with one line of JSON (`Outcome`). End of input ends it.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Self

from bench.dialects import dialect
from bench.dialects.dialect import Brought, Dialect, Workload
from bench.wire import LoadFailed, Record, Wire

_WARM_UP = 8  # streams and tokens


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that `percent` of all values do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one load brought. Times in seconds; `wrong` has at most ten entries.

    `messages`: of all streams together; where streams share them, `frames` are fewer.
    `client_cpu_s` is this process's own, while it sent and received.
    """

    tokens: int
    messages: int
    frames: int
    wall_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    gap_p50_s: float
    gap_p99_s: float
    client_cpu_s: float
    wrong: tuple[str, ...]

    @classmethod
    def of(cls, brought: Brought, sent: Sequence[float], tokens: int, cpu_s: float) -> Self:
        """Sum up what streams of `tokens` tokens each brought; `sent`: when each was asked for."""
        readings = brought.readings
        firsts = [r.times[0] - at for r, at in zip(readings, sent, strict=True) if r.times]
        gaps = [b - a for r in readings for a, b in zip(r.times, r.times[1:], strict=False)]
        ends = [r.times[-1] for r in readings if r.times]
        wrong = [f"stream {i}: {r.wrong}" for i, r in enumerate(readings) if r.wrong]
        return cls(
            tokens=tokens * len(readings),
            messages=sum(len(r.times) for r in readings),
            frames=brought.frames,
            wall_s=max(ends, default=0.0) - min(sent),
            ttft_p50_s=percentile(firsts, 50),
            ttft_p99_s=percentile(firsts, 99),
            gap_p50_s=percentile(gaps, 50),
            gap_p99_s=percentile(gaps, 99),
            client_cpu_s=cpu_s,
            wrong=tuple(wrong[:10]),
        )


class Load:
    """Applies a workload to a server, as often as it is asked to."""

    def __init__(self, dialect: Dialect, address: str, work: Workload, timeout_s: float) -> None:
        self._dialect = dialect
        self._work = work
        self._timeout_s = timeout_s
        self._wire: Wire = dialect.wire(address, work)
        self._number = 0  # of requests so far

    def __enter__(self) -> Self:
        self._wire.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def warm_up(self) -> None:
        """Apply a small load, so that what servers do only once is behind them."""
        work = self._work
        few, short = min(_WARM_UP, work.streams), min(_WARM_UP, work.tokens)
        wrong = self._apply(replace(work, streams=few, tokens=short)).wrong
        if wrong:
            raise LoadFailed(f"while warming up: {wrong[0]}")

    def apply(self) -> Outcome:
        """Apply the whole load. Raises `LoadFailed`."""
        return self._apply(self._work)

    def _apply(self, work: Workload) -> Outcome:
        # Prompts never come twice: the engine's prefix cache would answer them.
        numbers = range(self._number, self._number + work.streams)
        self._number = numbers.stop
        prompts = [work.known.prompt(n, work.prompt_tokens) for n in numbers]
        names = [f"load-{os.getpid()}-{n}" for n in numbers]
        requests = self._dialect.requests(work, prompts, names)
        began = time.process_time()
        records: list[Record] = self._wire.run(requests, time.monotonic() + self._timeout_s)
        cpu_s = time.process_time() - began
        answers = [work.known.answer(prompt, work.tokens) for prompt in prompts]
        brought = self._dialect.read(records, answers)
        return Outcome.of(brought, [r.sent_at for r in records], work.tokens, cpu_s)


def main() -> int:
    """Run as told by the first argument; see the module's docstring."""
    told = json.loads(sys.argv[1])
    work = Workload.told(told["work"])
    try:
        with Load(
            dialect(told["dialect"]), told["address"], work, float(told["timeout_s"])
        ) as load:
            load.warm_up()
            print("ready", flush=True)
            for _ in sys.stdin:
                print(json.dumps(asdict(load.apply())), flush=True)
    except (LoadFailed, OSError) as error:
        print(f"bench.load: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
