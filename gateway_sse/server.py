"""The bridge's process: takes its port, serves, and stops without losing what can be kept."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from functools import partial
from typing import Final
from wsgiref.simple_server import WSGIServer

import uvloop
from aiohttp import web
from prometheus_client import start_http_server

from gateway_sse.app import create_app
from gateway_sse.bridge import BRIDGE
from gateway_sse.config import GatewaySettings
from gateway_sse.doors.connections import SlowSenders
from gateway_sse.doors.malformed import keep_out_of_the_log
from gateway_sse.streaming.open_streams import OpenStreams

_log = logging.getLogger("tokenstream.gateway")

_LOG_FORMAT: Final = "%(asctime)s [%(levelname)s] %(message)s"
_PORT_TAKEN: Final = 1
# For answers that were let go to write their last bytes.
_LAST_WORDS_S: Final = 2.0
_LINE_BYTES: Final = 32 * 1024  # a GET has its prompt in there
_HEADER_BYTES: Final = 16 * 1024
_BACKLOG: Final = 2048
# What the kernel holds for a client that does not read; Linux doubles it. It would hold megabytes,
# and a whole answer would count as read.
_SEND_BUFFER_BYTES: Final = 16 * 1024
_IDLE_S: Final = 75.0


def main(settings: GatewaySettings) -> int:
    """Serve in this process; return its exit status."""
    # Full collections over what imports have left stop all streams, and find nothing; requests
    # leave no cycles that could not wait.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


async def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit status.

    The first signal stops accepting and lets running streams finish within the grace; a second
    one, or the grace's end, lets them go: clients that can are told to go on elsewhere, others get
    an error. Status 0 after that, 1 if a port cannot be taken.
    """
    # Does nothing where the process has its own logging already.
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
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
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        await serve_on(listener, settings, streams, stop)
    except _MetricsPortTaken as taken:
        return _cannot_listen(settings.metrics_listen or "", taken.cause)
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
    """Serve on a bound socket until `stop` is set and what then runs has ended."""
    keep_out_of_the_log()
    slow_senders = SlowSenders(settings.body_timeout_s)
    app = create_app(settings, streams, slow_senders)
    runner = web.AppRunner(
        app,
        # A client that has gone cancels its handler, which ends its stream.
        handler_cancellation=True,
        # It would log prompts, which a GET has in its query.
        access_log=None,
        max_line_size=_LINE_BYTES,
        max_field_size=_HEADER_BYTES,
        keepalive_timeout=_IDLE_S,
        shutdown_timeout=_LAST_WORDS_S,
    )
    await runner.setup()
    server: asyncio.Server | None = None
    metrics: WSGIServer | None = None
    try:
        assert runner.server is not None
        metrics = _serve_metrics(settings, app)
        loop = asyncio.get_running_loop()
        make = partial(_protocol, runner.server)
        server = await loop.create_server(slow_senders.watched(make), sock=listener)
        host, port = listener.getsockname()[:2]
        _log.info("gateway listening on http://%s:%d, upstream %s", host, port, settings.upstream)
        await stop.wait()
        streams.draining = True
        server.close()
        _log.info("gateway stopping, %d streams open", len(streams))
        await _until_empty(streams, settings.drain_grace_s)
    finally:
        if server is not None:
            server.close()
        streams.cut()
        await _until_empty(streams, _LAST_WORDS_S)
        await runner.cleanup()
        if metrics is not None:
            await asyncio.to_thread(metrics.shutdown)
            metrics.server_close()


async def _until_empty(streams: OpenStreams, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await streams.until_empty()
    except TimeoutError:
        pass


def _protocol(server: web.Server) -> web.RequestHandler:
    return server()


class _MetricsPortTaken(Exception):
    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _serve_metrics(settings: GatewaySettings, app: web.Application) -> WSGIServer | None:
    if settings.metrics_listen is None:
        return None
    host, _, port = settings.metrics_listen.rpartition(":")
    registry = app[BRIDGE].metrics.registry
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise _MetricsPortTaken(error) from error
    return server


def _cannot_listen(address: str, error: OSError) -> int:
    # Python's own text repeats the address; a name that does not resolve has no errno.
    number = error.errno or 0
    cause = os.strerror(number) if number > 0 else error.strerror
    print(f"tokenstream gateway: cannot listen on {address}: {cause}", file=sys.stderr)
    return _PORT_TAKEN
