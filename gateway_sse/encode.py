"""From events to the bytes of a server-sent event. No I/O.

A stream reads, in order::

    event: started     {"stream_id", "model", "prompt_tokens", "client_request_id"}
                       {"token": "…"}     as often as there is text; without an event name, so
                                          that EventSource's onmessage gets these, and only these
    event: finished    {"choice_index", "reason", "stop_string", "stop_token_id",
                        "usage": {…}, "timings": {…}}
    event: error       {"error": {…}}     instead of `finished`, if it came to no good end
                       [DONE]             nothing follows

Text carries ``id: <stream id>:<tokens so far>``. The count lets a page show progress although an
event can hold several tokens, and a browser that reconnects by itself sends the last id back.
"""

import json
from typing import Any, Final

from gateway_sse.problems import Problem
from tokenstream_client import Delta, Finished, Started

DONE: Final = b"data: [DONE]\n\n"

# JSON escapes ASCII's line ends. These are none in SSE, but some parsers split at them anyway.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def started(event: Started) -> bytes:
    """Encode a stream's beginning."""
    return _event(
        {
            "stream_id": event.stream_id,
            "model": event.model,
            "prompt_tokens": event.prompt_tokens,
            "client_request_id": event.client_request_id,
        },
        name="started",
    )


def token(delta: Delta, stream_id: str) -> bytes:
    """Encode a delta's text; nothing at all if it has none."""
    if not delta.text:
        return b""
    position = delta.first_token_index + len(delta.token_ids)
    return _event({"token": delta.text}, identity=f"{stream_id}:{position}")


def finished(event: Finished) -> bytes:
    """Encode the end of an answer. Times are in milliseconds, from the request's arrival."""
    first, total = event.timings.time_to_first_token, event.timings.total
    return _event(
        {
            "choice_index": event.choice_index,
            "reason": event.reason.value,
            "stop_string": event.stop_string,
            "stop_token_id": event.stop_token_id,
            "usage": {
                "prompt_tokens": event.usage.prompt_tokens,
                "completion_tokens": event.usage.completion_tokens,
                "cached_prompt_tokens": event.usage.cached_prompt_tokens,
            },
            "timings": {
                "time_to_first_token_ms": None if first is None else round(first * 1000, 3),
                "total_ms": round(total * 1000, 3),
            },
        },
        name="finished",
    )


def error(problem: Problem) -> bytes:
    """Encode a failure after the start."""
    return _event(problem.body(), name="error")


def _event(data: dict[str, Any], *, name: str | None = None, identity: str | None = None) -> bytes:
    payload = json.dumps(data, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    lines = [
        *([f"event: {name}"] if name else []),
        *([f"id: {identity}"] if identity else []),
        f"data: {payload}",
    ]
    return ("\n".join(lines) + "\n\n").encode()
