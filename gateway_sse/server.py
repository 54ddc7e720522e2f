"""The bridge's process: takes its port, serves, and stops without losing what can be kept."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final

import uvloop
from aiohttp import web

from gateway_sse import logs
from gateway_sse.app import create_app
from gateway_sse.bridge import BRIDGE, Bridge
from gateway_sse.config import GatewaySettings
from gateway_sse.doors.connections import SlowSenders
from gateway_sse.doors.departures import Connection, Departures
from gateway_sse.doors.malformed import keep_out_of_the_log
from gateway_sse.health import asks_upstream, is_ready
from gateway_sse.metrics_port import metrics_port
from gateway_sse.streaming.open_streams import OpenStreams
from gateway_sse.tls import TlsFilesError, server_context

_log = logging.getLogger("tokenstream.gateway")

_CANNOT_START: Final = 1
# For answers that were let go to write their last bytes.
_LAST_WORDS_S: Final = 2.0
_LINE_BYTES: Final = 32 * 1024  # a GET has its prompt in there
_HEADER_BYTES: Final = 16 * 1024
_BACKLOG: Final = 2048
# What the kernel holds for a client that does not read; Linux doubles it. It would hold megabytes,
# and a whole answer would count as read.
_SEND_BUFFER_BYTES: Final = 16 * 1024
_CONNECTION: Final[dict[str, Any]] = {
    "access_log": None,  # it would log prompts, which a GET has in its query
    "max_line_size": _LINE_BYTES,
    "max_field_size": _HEADER_BYTES,
    "keepalive_timeout": 75.0,
}
_PROBE_EVERY_S: Final = 0.1


def main(settings: GatewaySettings) -> int:
    """Serve in this process; return its exit status."""
    spare_long_lived_objects()
    logs.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


def spare_long_lived_objects() -> None:
    """Keep the garbage collector from walking what imports have left: it stops all streams for up
    to a tenth of a second, and finds nothing. Requests leave no cycles that could not wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


async def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit status.

    The first signal makes it say that it is not ready, and wait for whoever sends requests here to
    notice; then it refuses new ones and lets running streams finish within the grace. A second one,
    or the grace's end, lets them go: clients that can are told to go on elsewhere, others get an
    error. Status 0 after that, 1 if a port cannot be taken or a file of TLS not be used.
    """
    try:
        listener = bind(settings)
    except OSError as error:
        return _cannot_listen(settings.listen, error)

    streams, stop = OpenStreams(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            streams.cut()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unexpected)
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        await serve_on(listener, settings, streams, stop)
    except _MetricsPortTaken as taken:
        return _cannot_listen(settings.metrics_listen or "", taken.cause)
    except TlsFilesError as error:
        print(f"tokenstream gateway: {error}", file=sys.stderr)
        return _CANNOT_START
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return 0


def bind(settings: GatewaySettings) -> socket.socket:
    """Take the port. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    # Connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    # A client that is gone without a word is found out soon after the next comment or ping, not
    # after the quarter of an hour for which TCP tries; well after the bridge itself finds out that
    # one takes nothing, which is another thing to count.
    limit_ms = round(2000 * settings.stall_limit_s) + 10_000
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
    return listener


async def serve_on(
    listener: socket.socket, settings: GatewaySettings, streams: OpenStreams, stop: asyncio.Event
) -> None:
    """Serve on a bound socket until `stop` is set and what then runs has ended.

    Raises `TlsFilesError`.
    """
    keep_out_of_the_log()
    try:
        encryption = None if settings.tls is None else server_context(settings.tls)
        slow_senders = SlowSenders(settings.body_timeout_s)
        app = create_app(settings, streams, slow_senders)
    except TlsFilesError:
        listener.close()
        raise
    runner = web.AppRunner(
        app,
        # A client that has gone cancels its handler, which ends its stream.
        handler_cancellation=True,
        shutdown_timeout=_LAST_WORDS_S,
    )
    await runner.setup()
    server: asyncio.Server | None = None
    async with AsyncExitStack() as beside:
        try:
            assert runner.server is not None
            await _serve_metrics(settings, app[BRIDGE], runner, beside)
            make = partial(Connection, runner.server, Departures(), **_CONNECTION)
            server = await asyncio.get_running_loop().create_server(
                slow_senders.watched(make),
                sock=listener,
                ssl=encryption,
                ssl_handshake_timeout=None if encryption is None else settings.body_timeout_s,
                ssl_shutdown_timeout=None if encryption is None else _LAST_WORDS_S,
            )
            host, port = listener.getsockname()[:2]
            url = f"{'http' if encryption is None else 'https'}://{host}:{port}"
            _log.info("gateway listening on %s, upstream %s", url, settings.upstream)
            await stop.wait()
            await _drain(settings, streams)
        finally:
            streams.refusing = True
            streams.cut()
            await _until_empty(streams, _LAST_WORDS_S)
            if server is not None:
                server.close()
            await runner.cleanup()


async def _drain(settings: GatewaySettings, streams: OpenStreams) -> None:
    """Say that no more answers are to be sent here; then take no more, and let those that run end.

    The port stays open: who comes is told where it stands, health checks too.
    """
    streams.draining = True
    if settings.drain_wait_s and not streams.was_cut.is_set():
        _log.info("gateway not ready, stopping in %g s", settings.drain_wait_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_wait_s):
                await streams.was_cut.wait()
    streams.refusing = True
    _log.info("gateway stopping, %d streams open", len(streams))
    await _until_empty(streams, settings.drain_grace_s, or_cut=True)


async def _until_empty(streams: OpenStreams, seconds: float, *, or_cut: bool = False) -> None:
    waits = [streams.until_empty(), *([streams.was_cut.wait()] if or_cut else [])]
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class _MetricsPortTaken(Exception):
    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


async def _serve_metrics(
    settings: GatewaySettings, bridge: Bridge, runner: web.AppRunner, beside: AsyncExitStack
) -> None:
    """Serve metrics and measure until `beside` is left. Raises `_MetricsPortTaken`."""
    if settings.metrics_listen is None:
        return
    metrics = bridge.metrics

    def refresh() -> None:
        connections = [] if runner.server is None else runner.server.connections
        transports = [c.transport for c in connections]
        metrics.refresh(t.get_write_buffer_size() for t in transports if t is not None)

    try:
        await beside.enter_async_context(
            metrics_port(
                settings.metrics_listen,
                metrics.registry,
                refresh,
                lambda request: is_ready(bridge, asks_upstream(request)),
            )
        )
    except OSError as error:
        raise _MetricsPortTaken(error) from error
    probing = asyncio.create_task(_probe_event_loop(metrics.event_loop_lag.observe))
    beside.callback(probing.cancel)


async def _probe_event_loop(observe: Callable[[float], None]) -> None:
    """Measure for ever how late the event loop comes round, in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _PROBE_EVERY_S
        await asyncio.sleep(_PROBE_EVERY_S)
        observe(max(0.0, loop.time() - due))


def _cannot_listen(address: str, error: OSError) -> int:
    # Python's own text repeats the address; a name that does not resolve has no errno.
    number = error.errno or 0
    cause = os.strerror(number) if number > 0 else error.strerror
    print(f"tokenstream gateway: cannot listen on {address}: {cause}", file=sys.stderr)
    return _CANNOT_START
