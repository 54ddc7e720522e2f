"""`python -m bench`: start each server, apply the same load, print one table and the goals.

For each case: start its server (or keep the one that runs), start the load generator, which warms
the server up; then, `--repeat` times, note CPU time and memory of the frontend processes, have the
load applied, and note them again. The engine's own process is not counted; the raw engine client's
line tells what part of a frontend's cost is vLLM's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import goals, report
from bench.cases import CASES, chosen
from bench.dialects.dialect import Workload
from bench.event_loop import EVENT_LOOPS
from bench.measure import measure
from bench.processes import ProcessFailed
from bench.servers import Setup
from bench.simulation import Simulation
from bench.table import Result, render, spread

_CLIENT_LIMITS = 0.8


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--streams", type=int, default=256, help="requests at once (%(default)s)")
    add("--tokens", type=int, default=200, help="tokens of each answer (%(default)s)")
    add("--prompt-tokens", type=int, default=32, help="tokens of each prompt (%(default)s)")
    add("--step-ms", type=float, default=20, help="length of an engine step (%(default)s)")
    add("--kv-tokens", type=int, default=1 << 20, help="size of the KV cache (%(default)s)")
    add("--connections", type=int, default=1, help="of the gRPC clients together (%(default)s)")
    add("--event-loop", choices=EVENT_LOOPS, default=EVENT_LOOPS[0], help="ours and the floors'")
    add("--no-async-scheduling", action="store_true", help="one engine step at a time")
    add("--repeat", type=int, default=1, help="loads for each line; the table has medians")
    add("--only", metavar="CASES", help=", ".join(case.name for case in CASES))
    add("--profile", metavar="COMMAND", help="run beside each load; {pid} is the frontend's id")
    add("--json", type=Path, metavar="FILE", help="write every run's figures there")
    add("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args(argv)
    if arguments.profile and arguments.write:
        parser.error("a profiled run costs more than what it measures: not both --profile, --write")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the benchmark. Returns 0, 1 if a stream was wrong or a process failed, 2 for bad use."""
    arguments = _arguments(argv)
    try:
        cases = chosen(arguments.only)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    simulation = Simulation(
        step_us=1000 * arguments.step_ms,
        kv_tokens=arguments.kv_tokens,
        async_scheduling=not arguments.no_async_scheduling,
    )
    work = Workload(
        streams=arguments.streams,
        tokens=arguments.tokens,
        prompt_tokens=arguments.prompt_tokens,
        connections=arguments.connections,
        known=simulation.tokens,
    )
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log", delete=False) as log:
        setup = Setup(
            simulation, arguments.streams, Path(log.name), event_loop=arguments.event_loop
        )
    results: list[Result] = []
    failed = False
    try:
        for result in measure(cases, work, setup, arguments.repeat, arguments.profile):
            results.append(result)
            failed |= _told(result)
    except ProcessFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        failed = True
    finally:
        setup.log.unlink()
    tables = "\n".join(filter(None, (render(results), goals.render(results)))) if results else ""
    print(tables, end="")
    if arguments.json:
        figures = [asdict(result) for result in results]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.write and not failed:
        report.write("bench", argv, tables)
    return int(failed)


def _told(result: Result) -> bool:
    """Tell how a case went, on standard error. True if a stream was wrong."""
    cost = ", ".join(
        f"{name} {spread(us, '{:.1f}')} µs/token" for name, us in result.cpu_us_per_token().items()
    )
    print(f"bench: {result.label}: {cost}", file=sys.stderr)
    if result.client_share > _CLIENT_LIMITS:
        print(
            f"bench: the load generator was busy {result.client_share:.0%} of the time: it may be"
            " what limits this line",
            file=sys.stderr,
        )
    for wrong in result.wrong:
        print(f"bench: WRONG: {result.label}: {wrong}", file=sys.stderr)
    return bool(result.wrong)
