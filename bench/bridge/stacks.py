"""What an HTTP stack costs for each event: 256 connections, an event each every 50 ms."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import markdown
from bench.bridge.sse_stacks import STACKS
from bench.http_wire import HttpWire
from bench.processes import ProcessFailed, cpu_s, last_words, started
from bench.servers import BENCH_PYTHON, free_address

_CONNECTIONS: Final = 256
_EVENTS: Final = 160
_STEP_S: Final = 0.05
_READY_WITHIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack's figures; `cpu_us` for each event, of all its threads."""

    name: str
    cpu_us: float


def measure(log: Path, say: Callable[[str], None]) -> list[Stack]:
    """Measure each, one after the other. Raises `ProcessFailed`, `LoadFailed`."""
    if not BENCH_PYTHON.exists():
        raise ProcessFailed("there is no .venv-bench; run bench/setup")
    return [_measure(name, log, say) for name in STACKS]


def render(stacks: list[Stack]) -> str:
    """Return the table."""
    rows = [(stack.name, f"{stack.cpu_us:.1f}") for stack in stacks]
    return markdown.table([("HTTP stack that only writes", "CPU µs/event"), *rows])


def _measure(name: str, log: Path, say: Callable[[str], None]) -> Stack:
    address = free_address()
    command = [
        *(str(BENCH_PYTHON), "-m", "bench.bridge.sse_stacks"),
        *(name, address, str(_EVENTS), str(_STEP_S)),
    ]
    with started(command, {}, log) as process:
        _until_listening(address, log)
        before = cpu_s(process.pid)
        HttpWire(address, "/").run([b"{}"] * _CONNECTIONS, time.monotonic() + 120)
        cost = (cpu_s(process.pid) - before) * 1e6 / (_CONNECTIONS * _EVENTS)
    say(f"{name}: {cost:.1f} µs an event")
    return Stack(name, cost)


def _until_listening(address: str, log: Path) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ProcessFailed(f"a server did not listen:\n{last_words(log)}") from None
            time.sleep(0.05)
