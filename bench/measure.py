"""Cases measured: servers started one after the other, loads applied, figures read."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import demo_model
from bench import affinity
from bench.cases import Case
from bench.dialects.dialect import Workload
from bench.load import Outcome
from bench.processes import (
    ProcessFailed,
    cpu_s,
    heard,
    peak_bytes,
    reset_peak,
    started,
    tell,
)
from bench.servers import BENCH_PYTHON, SERVERS, Server, Setup
from bench.table import Result, Run

_LOAD_GRACE_S = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """A running load generator, and the frontends that it loads, the one in front first.

    `profile`: a command to run beside each load, with the first frontend's id for `{pid}`.
    """

    process: subprocess.Popen[str]
    frontends: dict[str, int]
    log: Path
    profile: str | None = None

    def run(self) -> Run:
        """Apply the load once."""
        with self._profiled():
            before = {name: (cpu_s(pid), reset_peak(pid)) for name, pid in self.frontends.items()}
            tell(self.process)
            told = json.loads(heard(self.process, self.log))
            outcome = Outcome(**told | {"wrong": tuple(told["wrong"])})
            return Run(
                outcome,
                {name: cpu_s(pid) - before[name][0] for name, pid in self.frontends.items()},
                {name: peak_bytes(pid) - before[name][1] for name, pid in self.frontends.items()},
            )

    @contextmanager
    def _profiled(self) -> Iterator[None]:
        if self.profile is None:
            yield
            return
        pid = next(iter(self.frontends.values()))
        command = shlex.split(self.profile.replace("{pid}", str(pid)))
        with subprocess.Popen(command) as profiler:  # noqa: S603 - the caller's own command
            yield
        if profiler.returncode:
            raise ProcessFailed(f"{command[0]} ended with {profiler.returncode}")


def measure(
    cases: Sequence[Case], work: Workload, setup: Setup, repeat: int, profile: str | None = None
) -> Iterator[Result]:
    """Yield each case's result; servers run one after the other."""
    for (server_name, _, interval, alone), grouped in groupby(cases, key=lambda case: case.start):
        group = list(grouped)
        streams = max(case.streams or work.streams for case in group)
        mine = replace(setup, stream_interval=interval, streams=streams)
        if server_name is None:
            for case in group:
                asked = _asked(case, work)
                with _load_on_engine(asked, mine) as load:
                    yield _result(case, replace(load, profile=profile), asked, repeat)
            continue
        with SERVERS[server_name](mine) as server:
            pinned = affinity.alone(server.frontends.values()) if alone else nullcontext()
            with pinned:
                for case in group:
                    asked = _asked(case, work)
                    with _load_on(case, server, asked, mine) as load:
                        yield _result(case, replace(load, profile=profile), asked, repeat)


def _asked(case: Case, work: Workload) -> Workload:
    return replace(work, max_delay_ms=case.max_delay_ms, streams=case.streams or work.streams)


def _result(case: Case, load: Load, work: Workload, repeat: int) -> Result:
    runs = tuple(load.run() for _ in range(repeat))
    return Result(case.name, case.label, work.streams, runs)


@contextmanager
def _load_on(case: Case, server: Server, work: Workload, setup: Setup) -> Iterator[Load]:
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
        heard(process, setup.log)
        yield Load(process, server.frontends, setup.log)


@contextmanager
def _load_on_engine(work: Workload, setup: Setup) -> Iterator[Load]:
    """Start the raw engine client, which is its own load generator."""
    arguments = setup.engine_args() | {"model": str(demo_model.path()), "disable_log_stats": True}
    told = {"engine_args": arguments, "work": asdict(work), "event_loop": setup.event_loop}
    command = [sys.executable, "-m", "bench.floor_engine", json.dumps(told)]
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    with started(command, environment, setup.log, talks=True) as process:
        heard(process, setup.log)
        yield Load(process, {"client": process.pid}, setup.log)
