"""`python -m bench`: start each server, apply the same load, print one table.

For each case: start its server (or keep the one that runs), start the load generator, which warms
the server up; then, `--repeat` times, note CPU time and memory of the frontend processes, have the
load applied, and note them again. The engine's own process is not counted; the raw engine client's
line tells what part of a frontend's cost is vLLM's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import demo_model
from bench import report
from bench.cases import CASES, Case, chosen
from bench.dialects import Workload
from bench.load import Outcome
from bench.processes import ProcessFailed, cpu_s, last_words, peak_bytes, reset_peak, started
from bench.servers import BENCH_PYTHON, SERVERS, Server, Setup
from bench.simulation import Simulation
from bench.table import Result, Run, render

_LOAD_GRACE_S = 120.0
_CLIENT_LIMITS = 0.8


@dataclass(frozen=True, slots=True)
class Load:
    """A running load generator, and the frontends that it loads."""

    process: subprocess.Popen[str]
    frontends: dict[str, int]
    log: Path

    def wait(self) -> str:
        """Return its next line. Raises `ProcessFailed` if it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ProcessFailed(f"the load generator gave up:\n{last_words(self.log)}")
        return line

    def run(self) -> Run:
        """Apply the load once."""
        assert self.process.stdin is not None
        before = {name: (cpu_s(pid), reset_peak(pid)) for name, pid in self.frontends.items()}
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told = json.loads(self.wait())
        outcome = Outcome(**told | {"wrong": tuple(told["wrong"])})
        return Run(
            outcome,
            {name: cpu_s(pid) - before[name][0] for name, pid in self.frontends.items()},
            {name: peak_bytes(pid) - before[name][1] for name, pid in self.frontends.items()},
        )


@contextmanager
def load_on(case: Case, server: Server, work: Workload, setup: Setup) -> Iterator[Load]:
    """Start a load generator for a server, warmed up and ready."""
    # Its messages are only installed there.
    python = str(BENCH_PYTHON) if case.dialect == "vllm-grpc" else sys.executable
    told = {
        "dialect": case.dialect,
        "address": server.address,
        "work": asdict(work),
        "timeout_s": _LOAD_GRACE_S + 2e-6 * work.tokens * setup.simulation.step_us,
    }
    command = [python, "-m", "bench.load", json.dumps(told)]
    with started(command, {}, setup.log, talks=True) as process:
        load = Load(process, server.frontends, setup.log)
        load.wait()
        yield load


@contextmanager
def load_on_engine(work: Workload, setup: Setup) -> Iterator[Load]:
    """Start the raw engine client, which is its own load generator."""
    arguments = setup.engine_args() | {"model": str(demo_model.path()), "disable_log_stats": True}
    told = {"engine_args": arguments, "work": asdict(work)}
    command = [sys.executable, "-m", "bench.floor_engine", json.dumps(told)]
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    with started(command, environment, setup.log, talks=True) as process:
        load = Load(process, {"client": process.pid}, setup.log)
        load.wait()
        yield load


def measure(cases: Sequence[Case], work: Workload, setup: Setup, repeat: int) -> Iterator[Result]:
    """Yield each case's result; servers run one after the other."""
    for (server_name, interval), group in groupby(cases, key=lambda case: case.start):
        if server_name is None:
            for case in group:
                with load_on_engine(work, setup) as load:
                    yield _result(case, load, work, repeat)
            continue
        with SERVERS[server_name](replace(setup, stream_interval=interval)) as server:
            for case in group:
                asked = replace(work, max_delay_ms=case.max_delay_ms)
                with load_on(case, server, asked, setup) as load:
                    yield _result(case, load, work, repeat)


def _result(case: Case, load: Load, work: Workload, repeat: int) -> Result:
    runs = tuple(load.run() for _ in range(repeat))
    return Result(case.name, case.label, work.streams, runs)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--streams", type=int, default=256, help="requests at once (%(default)s)")
    add("--tokens", type=int, default=200, help="tokens of each answer (%(default)s)")
    add("--prompt-tokens", type=int, default=32, help="tokens of each prompt (%(default)s)")
    add("--step-ms", type=float, default=20, help="length of an engine step (%(default)s)")
    add("--kv-tokens", type=int, default=1 << 20, help="size of the KV cache (%(default)s)")
    add("--connections", type=int, default=1, help="of the gRPC clients together (%(default)s)")
    add("--no-async-scheduling", action="store_true", help="one engine step at a time")
    add("--repeat", type=int, default=1, help="loads for each line; the table has medians")
    add("--only", metavar="CASES", help=", ".join(case.name for case in CASES))
    add("--json", type=Path, metavar="FILE", help="write every run's figures there")
    add("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser.parse_args(argv)


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
        setup = Setup(simulation, arguments.streams, Path(log.name))
    results: list[Result] = []
    failed = False
    try:
        for result in measure(cases, work, setup, arguments.repeat):
            results.append(result)
            failed |= _told(result)
    except ProcessFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        failed = True
    finally:
        setup.log.unlink()
    if results:
        print(render(results), end="")
    if arguments.json:
        arguments.json.write_text(json.dumps(_figures(results), indent=1) + "\n")
    if arguments.write and not failed:
        report.write(argv, render(results))
    return int(failed)


def _told(result: Result) -> bool:
    """Tell how a case went, on standard error. True if a stream was wrong."""
    cost = ", ".join(f"{n} {us:.1f} µs/token" for n, us in result.cpu_us_per_token().items())
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


def _figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [asdict(result) for result in results]
