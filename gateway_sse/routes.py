"""What the bridge answers. Every handler is thin: read, call the client, encode."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway_sse import encode
from gateway_sse import request as requests
from gateway_sse.config import GatewaySettings
from gateway_sse.problems import (
    INTERNAL,
    Problem,
    Refused,
    problem_from_error,
    problem_from_http,
)
from gateway_sse.streams import OpenStreams
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Delta,
    Event,
    Finished,
    Internal,
    PermissionDenied,
    Started,
    TokenstreamError,
    Unauthenticated,
)

_PAGE: Final = Path(__file__).parent / "page"
_PAGE_FILES: Final = ("index.html", "style.css", "app.js", "sse.js", "icon.svg")

# The small calls answer at once or not at all.
_CALL_TIMEOUT_S: Final = 5.0

_STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_PAGE_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Nobody reads it; the number is what proxies log for a caller that left.
_CALLER_LEFT: Final = 499


@dataclass(frozen=True, slots=True)
class Bridge:
    """What the handlers work with."""

    settings: GatewaySettings
    client: AsyncClient
    streams: OpenStreams


def routes() -> list[BaseRoute]:
    """Return the table of what is answered."""
    return [
        Route("/v1/completions/stream", stream_completion, methods=["GET", "POST"]),
        Route("/v1/streams/{stream_id}", cancel_stream, methods=["DELETE"]),
        Route("/v1/models", list_models),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/", page),
        Route("/page/{name}", page),
    ]


async def stream_completion(request: Request) -> Response:
    """Answer a prompt as server-sent events (`encode` has their grammar).

    No status is sent before the service took the request, so a bad one is an HTTP error and only
    what fails later is an event.
    """
    bridge = _bridge(request)
    if request.method == "POST":
        body = await _body(request, bridge.settings.max_body_bytes)
        arguments = requests.from_body(request.headers.get("content-type", ""), body)
    elif request.method == "HEAD":
        # Starlette adds HEAD to GET. It would decode a whole answer that nobody gets.
        raise HTTPException(405)
    elif "last-event-id" in request.headers:
        # An EventSource that reconnects by itself, even after [DONE]. It would begin anew and mix
        # two answers; 204 is the protocol's way to tell it to stop.
        return Response(status_code=204)
    else:
        arguments = requests.from_query(request.query_params.multi_items())

    arguments.options.setdefault("max_delay_ms", bridge.settings.default_max_delay_ms)
    with _keys_checked():
        stream = bridge.client.generate(
            arguments.prompt,
            timeout=bridge.settings.request_timeout_s,
            api_key=_api_key(request),
            **arguments.options,
        )
    bridge.streams.add(stream)
    try:
        events = aiter(stream)
        first = await _first_event(events, stream, request)
        if not isinstance(first, Started):
            raise Internal("the service sent no start of the stream", reason="BROKEN_STREAM")
        return _Answer(bridge, stream, _encoded(first, events, bridge.streams))
    except BaseException:
        bridge.streams.close(stream)
        raise


async def _first_event(
    events: AsyncGenerator[Event, None], stream: AsyncStream, request: Request
) -> Event | None:
    """Wait for the service to take the request, but only as long as the caller waits too."""

    async def cancel_when_the_caller_leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        stream.cancel()

    watcher = asyncio.create_task(cancel_when_the_caller_leaves())
    try:
        return await anext(events, None)
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def _encoded(
    first: Started, events: AsyncGenerator[Event, None], streams: OpenStreams
) -> AsyncGenerator[bytes, None]:
    yield encode.started(first)
    try:
        async with aclosing(events):
            async for event in events:
                match event:
                    case Delta(text=text) if text:
                        yield encode.token(event, first.stream_id)
                    case Finished():
                        yield encode.finished(event)
    except TokenstreamError as error:
        yield encode.error(problem_from_error(streams.explain(error)))
    yield encode.DONE


class _Answer(EventSourceResponse):
    """The response that owns its upstream stream: however it ends, the stream ends with it.

    The next event is taken only once the last could be written, so a browser that does not read
    stops the credit: what waits for it is the client's window (256 tokens), uvicorn's write buffer
    (64 KiB) and the sockets' own.
    """

    def __init__(
        self, bridge: Bridge, stream: AsyncStream, content: AsyncGenerator[bytes, None]
    ) -> None:
        super().__init__(
            content,
            headers=_STREAM_HEADERS,
            ping=bridge.settings.keepalive_interval_s,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        )
        self._stream = stream
        self._streams = bridge.streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.close(self._stream)


async def cancel_stream(request: Request) -> Response:
    """End a running stream: its reader gets its ``finished`` event, with reason "cancelled"."""
    with _keys_checked():
        await _bridge(request).client.cancel(
            request.path_params["stream_id"],
            timeout=_CALL_TIMEOUT_S,
            api_key=_api_key(request),
        )
    return Response(status_code=204)


async def list_models(request: Request) -> Response:
    """Tell what the service serves."""
    with _keys_checked():
        models = await _bridge(request).client.list_models(
            timeout=_CALL_TIMEOUT_S, api_key=_api_key(request)
        )
    return JSONResponse(
        {
            "models": [
                {
                    "id": model.id,
                    "context_length": model.context_length,
                    "vocab_size": model.vocab_size,
                    "capabilities": sorted(model.capabilities),
                }
                for model in models
            ]
        }
    )


async def healthz(_: Request) -> Response:
    """Tell that this process is alive, whatever the service does."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether the service behind takes requests."""
    if await _bridge(request).client.is_ready():
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready"}, status_code=503)


async def page(request: Request) -> Response:
    """Give out the page's files."""
    name = request.path_params.get("name", "index.html")
    if name not in _PAGE_FILES:
        raise HTTPException(404)
    return FileResponse(_PAGE / name, headers=_PAGE_HEADERS)


async def on_refused(_: Request, error: Exception) -> Response:
    """Answer what the bridge itself turned down."""
    assert isinstance(error, Refused)
    return _problem(error.problem)


async def on_call_error(request: Request, error: Exception) -> Response:
    """Answer what the service turned down, or what became of the call to it."""
    assert isinstance(error, TokenstreamError)
    return _problem(problem_from_error(_bridge(request).streams.explain(error)))


async def on_http_error(_: Request, error: Exception) -> Response:
    """Answer what no route took."""
    assert isinstance(error, HTTPException)
    return _problem(problem_from_http(error.status_code, error.detail), error.headers)


async def on_caller_left(_: Request, error: Exception) -> Response:
    """End the handling of a request whose body broke off."""
    return Response(status_code=_CALLER_LEFT)


async def on_bug(_: Request, error: Exception) -> Response:
    """Answer without internals; the server logs the error."""
    return _problem(INTERNAL)


EXCEPTION_HANDLERS: Final = {
    Refused: on_refused,
    TokenstreamError: on_call_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_caller_left,
    Exception: on_bug,
}


def _problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(
        problem.body(),
        status_code=problem.status,
        headers={"cache-control": "no-cache", **problem.headers(), **(headers or {})},
    )


def _bridge(request: Request) -> Bridge:
    bridge: Bridge = request.state.bridge
    return bridge


def _api_key(request: Request) -> str | None:
    """Return the caller's own key, to be passed on; None: the bridge's default one goes."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthenticated("the API key cannot be read", reason="MALFORMED_KEY")
    return key


@contextmanager
def _keys_checked() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the client's refusal to send a key in the clear
        raise PermissionDenied(
            "the gateway passes no keys on: it has no encrypted connection to the service",
            reason="KEY_NOT_PASSED_ON",
        ) from error


async def _body(request: Request, limit: int) -> bytes:
    too_large = Refused("BODY_TOO_LARGE", f"the body is larger than {limit} bytes", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)
