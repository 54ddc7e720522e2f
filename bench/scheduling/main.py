"""`python -m bench.scheduling`: each workload under vLLM's own scheduler and under ours.

In virtual time, with the same traces, engine and readers; one table, the goals, and with `--write`
pictures too. The load is in multiples of what the engine sustains, which is measured first.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.scheduling import goals, page, saturation, table
from bench.scheduling.cases import CASES, ENGINE, Case, chosen
from bench.scheduling.compare import Outcome, outcomes, tasks

FIRST_SEED = 11  # the settings' defaults were chosen with 1 to 10


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {page.PROGRAM}", description=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=5, help="traces of each workload (%(default)s)")
    add("--first-seed", type=int, default=FIRST_SEED, help="seed of the first (%(default)s)")
    add("--only", metavar="CASES", help=", ".join(case.name for case in CASES))
    jobs = min(2, os.cpu_count() or 1)
    add("--jobs", type=int, default=jobs, help="runs at once (%(default)s)")
    add("--sustainable", type=float, help="requests/s that the engine sustains; else measured")
    add("--tuning", action="store_true", help="instead: vLLM's scheduler with other settings")
    add("--on-cpu", action="store_true", help="instead: the short form on vLLM's real CPU engine")
    add("--json", type=Path, metavar="FILE", help="write each run's figures there, a line each")
    add("--write", action="store_true", help="put tables and pictures into docs/scheduler.md")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if arguments.write and arguments.only:
        parser.error("the page has the whole comparison: not both --only and --write")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the comparison. Returns 0, or 2 for bad use."""
    arguments = _arguments(argv)
    try:
        cases = chosen(arguments.only)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if arguments.tuning:
        tables = saturation.tuning(ENGINE, _tell)
        print(tables, end="")
        if arguments.write:
            page.write(page.TUNING, argv, tables)
        return 0
    if arguments.on_cpu:
        from bench.scheduling import on_cpu

        tables = on_cpu.compare()
        print(tables, end="")
        if arguments.write:
            page.write(page.ON_CPU, argv, tables)
        return 0
    sustainable, words = _sustainable(arguments.sustainable)
    _tell(words)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    done = _run(cases, seeds, sustainable, arguments.jobs, arguments.json)
    parts = (words, goals.render(done), table.render(done), table.render_particular(done))
    tables = "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)
    print(tables, end="")
    if arguments.write:
        page.draw(done)
        page.write(page.PROGRAM, argv, tables)
    return 0


def _sustainable(given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, f"Sustainable, as given: {given:.1f} requests/s."
    tokens_per_s = saturation.saturated_tokens_per_s(ENGINE)
    rate = saturation.sustainable_rate(tokens_per_s)
    words = f"Sustainable: {rate:.1f} requests/s, at which vLLM's own scheduler decodes"
    return rate, f"{words} {tokens_per_s:,.0f} tokens/s, saturated."


def _run(
    cases: Sequence[Case], seeds: range, sustainable: float, jobs: int, figures: Path | None
) -> list[Outcome]:
    began = time.monotonic()
    if figures is not None:
        figures.write_text("")
    done: list[Outcome] = []
    wanted = tasks(cases, seeds, sustainable)
    for outcome in outcomes(wanted, jobs):
        done.append(outcome)
        if figures is not None:  # at once: a run that is broken off leaves what it has measured
            with figures.open("a") as file:
                file.write(json.dumps(asdict(outcome.task) | asdict(outcome.measures)) + "\n")
        task, minutes = outcome.task, (time.monotonic() - began) / 60
        ran = f"{task.case}, {task.variant}, seed {task.seed}"
        _tell(f"{ran} ({len(done)} of {len(wanted)}, {minutes:.1f} min)")
    return done


def _tell(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)
