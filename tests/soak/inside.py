"""The service under soak, from outside, and what it shows of its inside."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes import heard, started, tell
from service.telemetry.outcomes import Outcome

QUIET_WITHIN_S = 20.0
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Look:
    """What was in the service at one moment. `left`: numbers of things, all 0 when it is idle."""

    left: dict[str, int]
    ended: dict[Outcome, int]
    streams_failed: int
    tokens_routed: int
    tasks: int
    rss: int
    most_lag_s: float  # of the event loop, since its start
    doing: list[str]  # where each task is

    @classmethod
    def told(cls, line: str) -> "Look":
        told = json.loads(line)
        ended = {Outcome(name): count for name, count in told.pop("ended").items()}
        return cls(ended=ended, **told)

    @property
    def is_quiet(self) -> bool:
        return not any(self.left.values())

    def ended_since(self, before: "Look") -> dict[Outcome, int]:
        """Requests that ended after another look, by how; without those that are none."""
        since = {o: count - before.ended[o] for o, count in self.ended.items()}
        return {o: count for o, count in since.items() if count}


@dataclass(frozen=True)
class Soaked:
    """A running service, and its process."""

    process: subprocess.Popen[str]
    log: Path
    target: str
    time_to_live_s: float

    def connect(self) -> grpc.aio.Channel:
        """Open a connection of its own."""
        return grpc.aio.insecure_channel(
            self.target, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    async def look(self) -> Look:
        # gRPC's server keeps its newest call until the next one comes; let that be this one.
        async with self.connect() as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # published without types
            await health.Check(health_pb2.HealthCheckRequest())
        tell(self.process)
        return Look.told(await asyncio.to_thread(heard, self.process, self.log))

    async def until_quiet(self) -> Look:
        """Look until nothing is left, or too long: then the last look tells what is."""
        deadline = asyncio.get_running_loop().time() + QUIET_WITHIN_S
        while True:
            look = await self.look()
            if look.is_quiet or asyncio.get_running_loop().time() > deadline:
                return look
            await asyncio.sleep(LOOK_EVERY_S)


@contextmanager
def soaked(log: Path, settings: dict[str, Any], simulation: dict[str, Any]) -> Iterator[Soaked]:
    """Start it and end it."""
    command = [sys.executable, "-m", "tests.soak.looked_into"]
    environment = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}
    arguments = [json.dumps(settings), json.dumps(simulation)]
    with started([*command, *arguments], environment, log, talks=True) as process:
        target = f"127.0.0.1:{int(heard(process, log))}"
        yield Soaked(process, log, target, settings["detached_ttl_s"])
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
