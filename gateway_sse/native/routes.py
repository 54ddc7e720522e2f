"""The bridge's own API over HTTP. Every handler is thin: read, call the client, relay."""

import hmac
from collections.abc import Callable
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from gateway_sse.api_keys import api_key_of, keys_checked
from gateway_sse.bridge import bridge_of
from gateway_sse.doors.accept import preferred
from gateway_sse.doors.body import read_body
from gateway_sse.doors.origins import check_fetch
from gateway_sse.doors.trace import trace_context_of
from gateway_sse.known_fields import KnownFields
from gateway_sse.native import websocket
from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import SseEncoder
from gateway_sse.native.lines import LinesEncoder, TextEncoder
from gateway_sse.native.openings import begin, resume
from gateway_sse.native.request import (
    Arguments,
    Delivery,
    checked,
    delivery_from_body,
    delivery_from_query,
    from_body,
    from_query,
    json_object,
)
from gateway_sse.problems import Refused
from gateway_sse.streaming.encoder import Encoder
from gateway_sse.streaming.parting import parting_of
from gateway_sse.streaming.relay import relay
from tokenstream_client import AsyncStream

# The small calls answer at once or not at all.
_CALL_TIMEOUT_S: Final = 5.0

_NOTHING_LEFT: Final = 204

_ENCODERS: Final[dict[str, Callable[[EventId | None], Encoder]]] = {
    "text/event-stream": SseEncoder,
    "application/x-ndjson": LinesEncoder,
    "application/ndjson": LinesEncoder,
    "application/jsonl": LinesEncoder,
    "text/plain": lambda _: TextEncoder(),
    "*/*": SseEncoder,
    "text/*": SseEncoder,
    "application/*": LinesEncoder,
}


class Acknowledgement(KnownFields):
    """How far a reader is."""

    next_token_index: int = Field(strict=True, ge=0, description="tokens that it has read")


Milliseconds = Annotated[float, Field(strict=True, ge=0, le=3_600_000)]


class Perceived(KnownFields):
    """What a browser saw of one answer, in milliseconds from the sending of its request."""

    first_token_ms: Milliseconds = Field(description="to the first visible token")
    last_token_ms: Milliseconds = Field(description="to the last one")
    longest_gap_ms: Milliseconds = Field(
        description="longest time between two changes on the screen"
    )


def routes() -> list[web.RouteDef]:
    """Return the table of what is answered."""
    return [
        web.get("/v1/completions/stream", stream_by_get, allow_head=False),
        web.post("/v1/completions/stream", stream_by_post),
        web.get("/v1/completions/ws", websocket.serve, allow_head=False),
        web.delete("/v1/streams/{stream_id}", stop_stream),
        web.post("/v1/streams/{stream_id}/ack", acknowledge),
        web.post("/v1/perceived", perceived),
    ]


async def stream_by_post(request: web.Request) -> web.StreamResponse:
    """Answer a prompt (a JSON body) as it is generated, or go on where a client was cut off."""
    body, content_type = await read_body(request), request.headers.get("content-type", "")
    if "last-event-id" in request.headers:
        return await _resume(request, delivery_from_body(content_type, body))
    return await _start(request, from_body(content_type, body))


async def stream_by_get(request: web.Request) -> web.StreamResponse:
    """Answer a prompt (a query string), or go on where an EventSource was cut off."""
    check_fetch(request, bridge_of(request).settings.cors_origins)
    if "last-event-id" in request.headers:
        return await _resume(request, delivery_from_query(request.query.items()))
    return await _start(request, from_query(request.query.items()))


async def _start(request: web.Request, arguments: Arguments) -> web.StreamResponse:
    bridge, encoder = bridge_of(request), _encoder(request)
    stream = begin(bridge, arguments, api_key_of(request), *trace_context_of(request))
    return await _relay(request, stream, encoder(None), arguments.delivery)


async def _resume(request: web.Request, delivery: Delivery) -> web.StreamResponse:
    event_id = EventId.parse(request.headers["last-event-id"])
    if event_id.at_end:
        # The protocol's way to tell an EventSource that there is nothing to come back for.
        return web.Response(status=_NOTHING_LEFT)
    bridge, encoder = bridge_of(request), _encoder(request)
    stream = resume(bridge, event_id, delivery, api_key_of(request))
    return await _relay(request, stream, encoder(event_id), delivery, resumed=True)


async def _relay(
    request: web.Request,
    stream: AsyncStream,
    encoder: Encoder,
    delivery: Delivery,
    *,
    resumed: bool = False,
) -> web.StreamResponse:
    parting = parting_of(delivery.on_disconnect, bridge_of(request).settings.linger_s)
    return await relay(
        request,
        stream,
        encoder,
        parting,
        ack_window=delivery.ack_window,
        owner=api_key_of(request) or "",
        resumed=resumed,
    )


def _encoder(request: web.Request) -> Callable[[EventId | None], Encoder]:
    """Choose by the header Accept; events where it leaves the choice. Raises Refused (406)."""
    encoder = preferred(",".join(request.headers.getall("accept", ())), _ENCODERS)
    if encoder is None:
        raise Refused(
            "NOT_ACCEPTABLE",
            "can be text/event-stream, application/x-ndjson or text/plain",
            field="Accept",
            status=406,
        )
    return encoder


async def stop_stream(request: web.Request) -> web.StreamResponse:
    """End a running stream: its reader gets its ``finished`` event, with reason "cancelled"."""
    with keys_checked():
        await bridge_of(request).client.cancel(
            request.match_info["stream_id"],
            timeout=_CALL_TIMEOUT_S,
            api_key=api_key_of(request),
        )
    return web.Response(status=204)


async def acknowledge(request: web.Request) -> web.StreamResponse:
    """Let a stream go on that waits for its reader: one that was begun with `ack_window`."""
    body = json_object(request.headers.get("content-type", ""), await read_body(request))
    place = checked(Acknowledgement, body)
    opened = bridge_of(request).streams.find(request.match_info["stream_id"])
    key = api_key_of(request) or ""
    if opened is None or not hmac.compare_digest(opened.owner.encode(), key.encode()):
        raise Refused(
            "STREAM_NOT_HERE", "no open stream of this gateway", field="stream_id", status=404
        )
    opened.acknowledge(place.next_token_index)
    return web.Response(status=204)


async def perceived(request: web.Request) -> web.StreamResponse:
    """Take what a browser saw of an answer, for the histograms; nothing else is kept of it."""
    body = json_object(request.headers.get("content-type", ""), await read_body(request))
    seen = checked(Perceived, body)
    bridge_of(request).metrics.perceived(
        seen.first_token_ms / 1000, seen.last_token_ms / 1000, seen.longest_gap_ms / 1000
    )
    return web.Response(status=204)
