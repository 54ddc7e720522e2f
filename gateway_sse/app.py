"""The bridge's composition root: the application, and the process that serves it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Generator
from typing import Final, TypedDict

import uvicorn
from starlette.applications import Starlette

from gateway_sse.config import GatewaySettings
from gateway_sse.routes import EXCEPTION_HANDLERS, Bridge, routes
from gateway_sse.streams import OpenStreams
from tokenstream_client import AsyncClient, ClientOptions, Tls

_log = logging.getLogger("tokenstream.gateway")

_LOG_FORMAT: Final = "%(asctime)s [%(levelname)s] %(message)s"
_PORT_TAKEN: Final = 1
# Between cutting the last streams and uvicorn's own, rougher end: time to send their last events.
_LAST_WORDS_S: Final = 5


class _State(TypedDict):
    bridge: Bridge


def create_app(settings: GatewaySettings, streams: OpenStreams | None = None) -> Starlette:
    """Make the application. Whoever drains it passes `streams`, and cuts them in the end."""
    streams = streams if streams is not None else OpenStreams()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[_State]:
        async with connect(settings) as client:
            yield {"bridge": Bridge(settings, client, streams)}

    return Starlette(
        routes=routes(),
        lifespan=lifespan,
        exception_handlers=EXCEPTION_HANDLERS,
    )


def connect(settings: GatewaySettings) -> AsyncClient:
    """Make the client: one session for all callers, resumed without their noticing.

    Raises OSError if the authorities' file cannot be read, ValueError for a key that no header
    can carry.
    """
    tls: Tls | bool = settings.upstream_tls
    if settings.upstream_ca_file is not None:
        tls = Tls(root_certificates=settings.upstream_ca_file.read_bytes())
    return AsyncClient(
        settings.upstream,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        tls=tls,
        options=ClientOptions(
            # A refusal is the caller's to know, with the time to come back.
            max_attempts=1,
            allow_plaintext_keys=settings.allow_plaintext_keys,
        ),
    )


async def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit status.

    The first signal stops accepting and lets running streams finish within the grace; a second
    one, or the grace's end, ends them with an ``error`` event. Status 0 after that, 1 if the port
    cannot be taken.
    """
    # Does nothing where the process has its own logging already.
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # the rest is said here
    try:
        listener = bind(settings)
    except OSError as error:
        # Python's own text repeats the address; a name that does not resolve has no errno.
        number = error.errno or 0
        cause = os.strerror(number) if number > 0 else error.strerror
        print(f"tokenstream gateway: cannot listen on {settings.listen}: {cause}", file=sys.stderr)
        return _PORT_TAKEN

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
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return 0


def bind(settings: GatewaySettings) -> socket.socket:
    """Take the port. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


async def serve_on(
    listener: socket.socket, settings: GatewaySettings, streams: OpenStreams, stop: asyncio.Event
) -> None:
    """Serve on a bound socket until `stop` is set and what then runs has ended."""
    config = uvicorn.Config(
        create_app(settings, streams),
        # The one that is always there, so that what is tested is what runs.
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        # It would log prompts, which a GET has in its query.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_grace_s) + _LAST_WORDS_S,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    _log.info("gateway listening on http://%s:%d, upstream %s", host, port, settings.upstream)

    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        _log.info("gateway stopping, %d streams open", len(streams))
        await asyncio.wait([serving], timeout=settings.drain_grace_s)
    finally:
        stopping.cancel()
        streams.cut()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`: uvicorn's handlers would make the process die of them.

    They are also where sse-starlette looks for a shutdown. It finds none, and so does not cut
    streams that have a grace to finish in.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
