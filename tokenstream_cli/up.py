"""`tokenstream up`: the service and the bridge together, as two child processes.

Both are started in sessions of their own, so that a Ctrl-C in the terminal reaches only this
process, which then ends them in order: the bridge first, so that its readers see their streams'
end, then the service. If one ends by itself, the other is ended too.
"""

import asyncio
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenstream_cli.settings import load

_PROBE_EVERY_S = 0.5
_KILL_AFTER_S = 75.0

_TRY = """
  tokenstream is up.

    from a terminal
      {program} generate --server {service} "What is gRPC?"
    with curl
      curl -N http://{gateway}/v1/completions/stream \\
        -H 'content-type: application/json' -d '{{"prompt": "What is gRPC?"}}'
    in a browser
      http://{gateway}/

  Ctrl-C ends it.
"""


class UpSettings(BaseSettings):
    """Settings of `tokenstream up`; everything else is read by the two parts themselves."""

    model_config = SettingsConfigDict(
        env_prefix="TOKENSTREAM_", env_ignore_empty=True, extra="ignore", protected_namespaces=()
    )

    model: str | None = Field(
        default=None, description="what to serve; see `tokenstream serve --help`"
    )
    listen: str = Field(default="127.0.0.1:50051", description="host:port of the gRPC server")
    gateway_listen: str = Field(default="127.0.0.1:8080", description="host:port of the bridge")
    config: str | None = Field(default=None, description="YAML file for both parts")


def main(argv: Sequence[str]) -> int:
    """Run both until a signal. Returns 0 if that ended them, else the first's status."""
    settings = load(UpSettings, command="up", section="up", argv=argv)
    return asyncio.run(_run(settings))


async def _run(settings: UpSettings) -> int:
    shared = ["--config", settings.config] if settings.config else []
    model = ["--model", settings.model] if settings.model else []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    service = await _start("serve", "--listen", settings.listen, *model, *shared)
    gateway = await _start(
        "gateway", "--listen", settings.gateway_listen, "--upstream", settings.listen, *shared
    )
    waits = [
        asyncio.create_task(service.wait()),
        asyncio.create_task(gateway.wait()),
        asyncio.create_task(stop.wait()),
    ]
    announcing = asyncio.create_task(_announce(settings))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        announcing.cancel()
        await _end(gateway)
        await _end(service)
        for wait in waits:
            wait.cancel()
    if stop.is_set():
        return 0
    return service.returncode or gateway.returncode or 1


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tokenstream_cli.main", *arguments, start_new_session=True
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _announce(settings: UpSettings) -> None:
    """Print what to try once the bridge says that the service behind it is ready."""
    url = f"http://{settings.gateway_listen}/readyz"
    while not await asyncio.to_thread(_answers, url):  # noqa: ASYNC110 - another process's event
        await asyncio.sleep(_PROBE_EVERY_S)
    print(
        _TRY.format(
            program=_program(),
            service=settings.listen,
            gateway=settings.gateway_listen,
        ),
        flush=True,
    )


def _program() -> str:
    """How to call this program again from the same folder."""
    path = Path(sys.argv[0])
    if path.name != "tokenstream":
        return f"{Path(sys.executable).name} -m tokenstream_cli.main"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _answers(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own bridge's address
        return bool(answer.status == 200)
    return False
