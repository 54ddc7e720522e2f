"""`tokenstream up`: the service and the bridge together, as two child processes.

Both are started in sessions of their own, so that a Ctrl-C in the terminal reaches only this
process, which then ends them in order: the bridge first, so that its readers see their streams'
end, then the service. If one ends by itself, the other is ended too.
"""

import argparse
import asyncio
import ctypes
import signal
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings
from tokenstream_cli.settings import config_file, fail, load

_PROBE_EVERY_S = 0.5
_ENDS_AFTER_GRACE_S = 45.0  # the engine's end, with room

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: not between fork and exec

_TRY = """
  tokenstream is up.

    from a terminal
      {program} generate --server {service} "What is gRPC?"
    with curl
      curl -N {gateway}/v1/completions/stream \\
        -H 'content-type: application/json' -d '{{"prompt": "What is gRPC?"}}'
    in a browser
      {gateway}/

  Ctrl-C ends it.
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """How the two parts are started, and where they will be."""

    service_arguments: tuple[str, ...]
    gateway_arguments: tuple[str, ...]
    service: str
    gateway: str
    gateway_scheme: str
    ends_within_s: float


def main(argv: Sequence[str]) -> int:
    """Run both until a signal. Returns 0 if that ended them, else the first's status."""
    return asyncio.run(_run(_parts(argv)))


def _parts(argv: Sequence[str]) -> Parts:
    """Read both parts' settings, so that what is wrong with them is told once and at once."""
    path, rest = config_file("up", argv)
    given = _arguments().parse_args(rest)
    shared = () if path is None else ("--config", str(path))
    for_service = (*_flag("--model", given.model), *_flag("--listen", given.listen), *shared)
    for_gateway = (*_flag("--listen", given.gateway_listen), *shared)
    service = load(ServiceSettings, command="serve", section="service", argv=for_service)
    if service.listen.endswith(":0"):
        fail("up", "listen: port 0 is of no use here: the bridge has to know the port")
    upstream = ("--upstream", service.listen)
    gateway = load(GatewaySettings, command="gateway", section="gateway", argv=for_gateway)
    _check_free(
        {
            "--listen": service.listen,
            "--gateway-listen": gateway.listen,
            "TOKENSTREAM_METRICS_LISTEN": service.metrics_listen,
            "TOKENSTREAM_GATEWAY_METRICS_LISTEN": gateway.metrics_listen,
        }
    )
    return Parts(
        for_service,
        (*for_gateway, *upstream),
        service.listen,
        gateway.listen,
        "http" if gateway.tls is None else "https",
        max(
            service.drain_wait_s + service.drain_grace_s,
            gateway.drain_wait_s + gateway.drain_grace_s,
        )
        + _ENDS_AFTER_GRACE_S,
    )


def _check_free(addresses: Mapping[str, str | None]) -> None:
    """Refuse a taken address now, by what sets it: before the engine is loaded for nothing, and
    before the address's owner answers for the parts that could not start.
    """
    with ExitStack() as held:  # all at once, so that two of them cannot be the same
        for setting, address in addresses.items():
            if address is None:
                continue
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                held.enter_context(socket.create_server((host, int(port)), family=family))
            except OSError as error:
                why = str(error.strerror).partition(" (")[0]  # it goes on with the address
                fail("up", f"cannot listen on {address}: {why}; {setting} sets another")


def _arguments() -> argparse.ArgumentParser:
    """Flags alone: what the environment and the file say is for the two parts to read."""
    parser = argparse.ArgumentParser(
        prog="tokenstream up",
        description="The gRPC service and the bridge together. Everything else is set by the"
        " environment and the file; see `tokenstream serve --help` and `gateway --help`.",
    )
    parser.add_argument("--model", help="what to serve")
    parser.add_argument("--listen", help="host:port of the gRPC server")
    parser.add_argument("--gateway-listen", help="host:port of the bridge")
    parser.add_argument("--config", help="YAML file for both parts")
    return parser


def _flag(name: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (name, value)


async def _run(parts: Parts) -> int:
    stop, stop_at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            stop_at_once.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)

    status = 0
    async with AsyncExitStack() as running:
        service = await _start("serve", *parts.service_arguments)
        running.push_async_callback(_end, service, parts.ends_within_s, stop_at_once)
        gateway = await _start("gateway", *parts.gateway_arguments)
        running.push_async_callback(_end, gateway, parts.ends_within_s, stop_at_once)
        waits = [
            asyncio.create_task(service.wait()),
            asyncio.create_task(gateway.wait()),
            asyncio.create_task(stop.wait()),
        ]
        announcing = asyncio.create_task(_announce(parts))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                status = _tell_who_ended({"service": service, "gateway": gateway})
        finally:
            for task in (announcing, *waits):
                task.cancel()
    return status


def _tell_who_ended(processes: dict[str, asyncio.subprocess.Process]) -> int:
    """Say which part ended by itself, and how; the whole ends with its status."""
    for name, process in processes.items():
        if (status := process.returncode) is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            print(f"tokenstream up: the {name} {how}; ending the rest", file=sys.stderr)
            return status if status > 0 else 1
    return 1


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tokenstream_cli.main",
        *arguments,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent is gone, however it ended (Linux, prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(
    process: asyncio.subprocess.Process, within_s: float, at_once: asyncio.Event
) -> None:
    """End a process: ask, ask again if the user does, and in the end do not ask."""
    if process.returncode is not None:
        return
    process.terminate()
    ended = asyncio.create_task(process.wait())
    asked_again = asyncio.create_task(at_once.wait())
    await asyncio.wait((ended, asked_again), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    asked_again.cancel()
    if not ended.done() and at_once.is_set():
        process.terminate()
        await asyncio.wait((ended,), timeout=_ENDS_AFTER_GRACE_S)
    if not ended.done():
        process.kill()
    await ended


async def _announce(parts: Parts) -> None:
    """Print what to try once the bridge says that the service behind it is ready."""
    url = f"{parts.gateway_scheme}://{parts.gateway}"
    while not await asyncio.to_thread(_answers, f"{url}/readyz?upstream=1"):  # noqa: ASYNC110 - another process's event
        await asyncio.sleep(_PROBE_EVERY_S)
    print(_TRY.format(program=_program(), service=parts.service, gateway=url), flush=True)


def _program() -> str:
    """How to call this program again from the same folder."""
    path = Path(sys.argv[0])
    if path.name != "tokenstream":
        return f"{Path(sys.executable).name} -m tokenstream_cli.main"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _answers(url: str) -> bool:
    # No proxy and no look at its certificate: it is our own bridge, on this machine.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
    )
    with suppress(urllib.error.URLError, OSError), opener.open(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False
