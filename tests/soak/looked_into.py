"""A service over the simulated engine that shows its inside: `python -m tests.soak.looked_into`.

Arguments: its settings, and the simulation's, as JSON. It writes its port as a line, and then, for
each line that it reads, one line of JSON: what there is in it right now. It ends with its input.

A process of its own, so that callers cost it nothing, and what is garbage is its own.
"""

import asyncio
import gc
import json
import os
import sys
import time
from typing import Any

import psutil
import uvloop

import demo_model
from bench.simulation import Simulation
from service.app import Service
from service.config import ServiceSettings
from service.engine.vllm_client import VllmEngine
from service.generation import Generation
from service.session.session import Session
from service.stream.reader import StreamReader
from service.stream.token_stream import TokenStream
from service.telemetry.outcomes import Outcome
from service.transport.call_sink import CallSink

KINDS = (TokenStream, StreamReader, Generation, Session, CallSink)


class Lag:
    """The longest time for which the event loop did nothing else."""

    most_s = 0.0

    async def probe(self) -> None:
        """Look for ever."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.most_s = max(self.most_s, time.monotonic() - before - 0.05)


async def look_into(service: Service, lag: Lag) -> dict[str, Any]:
    """Everything that a request could leave behind."""
    gc.collect()
    alive = [type(thing) for thing in gc.get_objects()]
    census = await service.engine.census()
    return {
        "left": {
            "engine_running": census.running,
            "engine_waiting": census.waiting,
            "gate": service.gate.held,
            "routes": len(service.demultiplexer.router),
            "stops": len(service.demultiplexer._stops),
            "directory": len(service.directory),
            "sessions": service.generation_servicer.sessions_open,
            "delayed": len(service.grid._waiting),
        }
        | {kind.__name__: alive.count(kind) for kind in KINDS},
        "ended": {outcome.value: service.metrics.count(outcome) for outcome in Outcome},
        "streams_failed": service.demultiplexer.router.counts.streams_failed,
        "tokens_routed": service.demultiplexer.router.counts.tokens_routed,
        "tasks": len(asyncio.all_tasks()),
        "doing": [str(task.get_stack(limit=1)) for task in asyncio.all_tasks()],
        "most_lag_s": lag.most_s,
        "rss": psutil.Process().memory_info().rss,
    }


async def serve(settings: dict[str, Any], simulation: dict[str, Any], out: Any) -> None:
    """Serve until the input ends."""
    engine_args = Simulation(**simulation).engine_args() | {
        "load_format": "dummy",
        "enforce_eager": True,
        "max_model_len": 2048,
        "max_num_seqs": 512,
        "max_num_batched_tokens": 8192,
    }
    engine = VllmEngine(str(demo_model.path()), engine_args, "error", demo_model.path())
    service = Service(ServiceSettings(listen="127.0.0.1:0", **settings), engine)
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(asked), sys.stdin
    )

    def ready(port: int) -> None:
        gc.collect()
        gc.freeze()  # as the service does it; and looking is quick then
        print(port, file=out, flush=True)

    lag = Lag()

    async def answer() -> None:
        while await asked.readline():
            print(json.dumps(await look_into(service, lag)), file=out, flush=True)
        service.stop()

    beside = [asyncio.create_task(answer()), asyncio.create_task(lag.probe())]
    await service.run(ready)
    for task in beside:
        task.cancel()


def main() -> None:
    """Keep standard output to what is said here: engines write to it."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings, simulation = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, simulation, out))


if __name__ == "__main__":
    main()
