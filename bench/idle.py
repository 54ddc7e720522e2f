"""`python -m bench.idle`: hold thousands of streams at once, print what each costs.

For each case: start the service over a slow simulated engine, warm it up, note its memory, begin
all streams; once all have started, watch for a while how late its event loop is and note its
memory again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import goals, lag, markdown, report
from bench.dialects.dialect import Workload
from bench.event_loop import EVENT_LOOPS
from bench.load import percentile
from bench.processes import (
    ProcessFailed,
    cpu_s,
    heard,
    peak_bytes,
    reset_peak,
    started,
    tell,
)
from bench.servers import Setup, free_address, service
from bench.simulation import Simulation

_TOKENS = 1000  # of each answer, so that none ends while it is held
_SPARE = 120  # places in service and engine beyond the streams that are held
_MOST_KB = 40.0
_MOST_LAG_MS = 20.0


@dataclass(frozen=True, slots=True)
class Case:
    """Streams that are held. `step_ms`: how slowly the engine decodes.

    `credit`: of a session's streams at their start; `paced`: then one more token a second.
    """

    name: str
    label: str
    kind: str
    step_ms: float
    credit: int = 0
    paced: bool = False


CASES = (
    Case("credit", "Session, no credit, a token a second decoded", "session", 1000),
    Case("slow", "Session, readers that take a token a second", "session", 500, 1, True),
    Case("generate", "Generate, a token a second decoded", "generate", 1000),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One case's figures. `own_lag_s`: an upper bound, where the service counts its lag itself."""

    case: Case
    streams: int
    grown_bytes: int
    lag_p50_s: float
    lag_p99_s: float
    own_lag_p99_s: float | None
    cpu_share: float
    tokens: int
    wrong: tuple[str, ...]

    @property
    def kilobytes(self) -> float:
        """Growth of the service's memory per stream."""
        return self.grown_bytes / 1024 / self.streams


def measure(case: Case, work: Workload, setup: Setup, metrics: str, seconds: float) -> Measured:
    """Hold a case's streams. Raises `ProcessFailed`."""
    with service(setup) as server:
        told = {
            "kind": case.kind,
            "address": server.address,
            "credit": case.credit,
            "paced": case.paced,
            "work": asdict(work),
        }
        command = [sys.executable, "-m", "bench.hold", json.dumps(told)]
        pid = server.frontends["service"]
        with started(command, {}, setup.log, talks=True) as holder:
            heard(holder, setup.log)
            memory = reset_peak(pid)
            tell(holder)
            heard(holder, setup.log)
            counted, used = lag.counted(metrics), cpu_s(pid)
            took = lag.ask(server.address, seconds)
            own = lag.bound(counted, lag.counted(metrics), 99)
            share = (cpu_s(pid) - used) / seconds
            grown = peak_bytes(pid) - memory
            tell(holder)
            held = json.loads(heard(holder, setup.log))
    return Measured(
        case=case,
        streams=work.streams,
        grown_bytes=grown,
        lag_p50_s=percentile(took, 50),
        lag_p99_s=percentile(took, 99),
        own_lag_p99_s=own,
        cpu_share=share,
        tokens=held["tokens"],
        wrong=tuple(held["wrong"]),
    )


def render(results: Sequence[Measured]) -> str:
    """Return the table, and the goals below it."""
    head = ("held", "streams", "KB/stream", "lag p50 ms", "p99", "own count of it, p99", "CPU")
    rows = [
        (
            result.case.label,
            f"{result.streams:,}",
            f"{result.kilobytes:.0f}",
            f"{1000 * result.lag_p50_s:.1f}",
            f"{1000 * result.lag_p99_s:.1f}",
            "-" if result.own_lag_p99_s is None else f"≤ {1000 * result.own_lag_p99_s:g}",
            f"{result.cpu_share:.0%}",
        )
        for result in results
    ]
    reached = [
        goal
        for result in results
        for goal in (
            (f"{result.case.label}: KB/stream", _MOST_KB, result.kilobytes, "{:.0f}"),
            (f"{result.case.label}: lag p99 ms", _MOST_LAG_MS, 1e3 * result.lag_p99_s, "{:.1f}"),
            (f"{result.case.label}: faults", 0, len(result.wrong), "{:.0f}"),
        )
    ]
    return markdown.table([head, *rows]) + "\n" + goals.table(reached)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    add = parser.add_argument
    add("--streams", type=int, default=5000, help="held at once (%(default)s)")
    add("--seconds", type=float, default=20, help="to watch them, all started (%(default)s)")
    add("--prompt-tokens", type=int, default=32, help="tokens of each prompt (%(default)s)")
    add("--event-loop", choices=EVENT_LOOPS, default=EVENT_LOOPS[0], help="of the service")
    add("--only", nargs="+", choices=[case.name for case in CASES], help="some cases")
    add("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run it. Returns 0, or 1 if a stream was wrong or a process failed."""
    arguments = _arguments(argv)
    work = Workload(arguments.streams, _TOKENS, arguments.prompt_tokens)
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log", delete=False) as log:
        words = Path(log.name)
    results: list[Measured] = []
    failed = False
    try:
        for case in CASES:
            if arguments.only and case.name not in arguments.only:
                continue
            metrics = free_address()
            setup = Setup(
                Simulation(step_us=1000 * case.step_ms),
                streams=work.streams + _SPARE,
                log=words,
                event_loop=arguments.event_loop,
                batched_tokens=max(8192, work.streams * (work.prompt_tokens + 1)),
                # A reader that takes nothing is what is measured here, not what is ended.
                service_flags=("--metrics-listen", metrics, "--stall-limit-s", "3600"),
            )
            result = measure(case, work, setup, metrics, arguments.seconds)
            results.append(result)
            print(f"bench: {case.label}: {result.tokens:,} tokens came", file=sys.stderr)
            for wrong in result.wrong:
                print(f"bench: WRONG: {case.label}: {wrong}", file=sys.stderr)
            failed |= bool(result.wrong)
    except ProcessFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        failed = True
    finally:
        words.unlink()
    tables = render(results) if results else ""
    print(tables, end="")
    if arguments.write and not failed:
        report.write("bench.idle", argv, tables)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
