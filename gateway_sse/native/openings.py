"""The two ways in which an answer begins upstream, for every way in which it goes out."""

from gateway_sse.api_keys import keys_checked
from gateway_sse.bridge import Bridge
from gateway_sse.native.event_id import EventId
from gateway_sse.native.request import Arguments, Delivery
from tokenstream_client import AsyncStream


def begin(
    bridge: Bridge, arguments: Arguments, api_key: str | None, traceparent: str, tracestate: str
) -> AsyncStream:
    """Begin an answer. Raises TokenstreamError."""
    options = arguments.options
    options.setdefault("max_delay_ms", bridge.settings.default_max_delay_ms)
    if arguments.delivery.on_disconnect == "detach":
        options["on_disconnect"] = "detach"
    with keys_checked():
        return bridge.client.generate(
            arguments.prompt,
            timeout=bridge.settings.request_timeout_s,
            api_key=api_key,
            traceparent=traceparent,
            tracestate=tracestate,
            **options,
        )


def resume(
    bridge: Bridge, event_id: EventId, delivery: Delivery, api_key: str | None
) -> AsyncStream:
    """Go on with a stream. Raises TokenstreamError."""
    delay_ms = delivery.max_delay_ms
    with keys_checked():
        return bridge.client.resume(
            event_id.stream_id,
            next_token_index=event_id.next_token_index,
            timeout=bridge.settings.request_timeout_s,
            api_key=api_key,
            max_delay_ms=bridge.settings.default_max_delay_ms if delay_ms is None else delay_ms,
            max_tokens_per_message=delivery.max_tokens_per_message,
            on_disconnect="detach" if delivery.on_disconnect == "detach" else "end",
        )
