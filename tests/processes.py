"""The service and the bridge as processes of their own, as they are deployed."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PATIENCE_S = 20.0
SERVICE = ("-m", "tests.scripted_service", "serve")
BRIDGE = ("-m", "tokenstream_cli.main", "gateway")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@dataclass
class Part:
    """A running process, its settings, and where its log goes."""

    process: Process
    log: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, within_s: float = PATIENCE_S) -> int:
        async with asyncio.timeout(within_s):
            return await self.process.wait()


@asynccontextmanager
async def running(
    arguments: tuple[str, ...],
    log: Path,
    prefix: str,
    settings: dict[str, str],
    within_s: float = PATIENCE_S,
    **environment: str,
) -> AsyncIterator[Part]:
    """Run a part with settings of the environment, until it is ready by its port for operators."""
    metrics = f"127.0.0.1:{free_port()}"
    given = {"metrics_listen": metrics, "drain_grace_s": "5"} | settings
    environment |= {f"{prefix}{name.upper()}": value for name, value in given.items()}
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env=os.environ | environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    part = Part(process, log, given)
    try:
        async with asyncio.timeout(within_s), httpx.AsyncClient() as http:
            while not await _is_ready(http, metrics):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield part
    finally:
        if process.returncode is None:
            # With all that it has started, an engine for instance.
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def service(
    log: Path, step_s: float = 0.005, /, **settings: str
) -> AbstractAsyncContextManager[Part]:
    """The service over the scripted engine, on a free port unless `listen` names one."""
    settings = {"listen": f"127.0.0.1:{free_port()}"} | settings
    return running(SERVICE, log, "TOKENSTREAM_", settings, SCRIPTED_STEP_S=str(step_s))


def bridge(log: Path, upstream: str, **settings: str) -> AbstractAsyncContextManager[Part]:
    """The bridge, on a free port."""
    settings = {"listen": f"127.0.0.1:{free_port()}", "upstream": upstream} | settings
    return running(BRIDGE, log, "TOKENSTREAM_GATEWAY_", settings)


async def _is_ready(http: httpx.AsyncClient, metrics: str) -> bool:
    try:
        return (await http.get(f"http://{metrics}/readyz?upstream=1")).status_code == 200
    except httpx.TransportError:
        return False
