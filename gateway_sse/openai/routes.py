"""OpenAI's paths over HTTP. Every handler is thin: read, call the client, relay or collect."""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway_sse.api_keys import api_key_of, keys_checked
from gateway_sse.bridge import Bridge, bridge_of
from gateway_sse.doors.body import read_body
from gateway_sse.doors.trace import trace_context_of
from gateway_sse.json_response import json_bytes, json_response
from gateway_sse.openai.answers import ChatCollector, Collector, CompletionCollector
from gateway_sse.openai.asked import Asked
from gateway_sse.openai.chat_request import chat
from gateway_sse.openai.chunks import ChatChunks, CompletionChunks
from gateway_sse.openai.completion_request import completion
from gateway_sse.openai.models import model_body, model_list_body
from gateway_sse.streaming.ended import ended
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.relay import relay
from tokenstream_client import AsyncStream, Model, NotFound, Started, TokenstreamError

# The small calls answer at once or not at all.
_CALL_TIMEOUT_S: Final = 5.0

# For answers in one piece: fewer, larger messages from the service. At 1,000 tokens a second, a
# message is still within the client's window.
_COLLECTED_DELAY_MS: Final = 200

_UNCACHED: Final = {"cache-control": "no-cache"}


def routes() -> list[web.RouteDef]:
    """Return the table of what is answered."""
    return [
        web.post("/v1/completions", completions),
        web.post("/v1/chat/completions", chat_completions),
        web.get("/v1/models", list_models),
        web.get("/v1/models/{model:.+}", get_model),
    ]


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a prompt."""
    asked = await _asked(request, completion)
    stream = _begin(request, asked)
    if asked.stream:
        return await relay(request, stream, CompletionChunks(asked, _now()))
    answer = await _collected(bridge_of(request), stream, CompletionCollector(asked))
    return json_bytes(answer.body(_now()), headers=_UNCACHED)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    asked = await _asked(request, chat)
    stream = _begin(request, asked)
    if asked.stream:
        return await relay(request, stream, ChatChunks(asked, _now()))
    answer = await _collected(bridge_of(request), stream, ChatCollector(asked))
    return json_bytes(answer.body(_now()), headers=_UNCACHED)


async def list_models(request: web.Request) -> web.StreamResponse:
    """Tell what the service serves."""
    return json_response(model_list_body(await _models(request)), headers=_UNCACHED)


async def get_model(request: web.Request) -> web.StreamResponse:
    """Tell about one model."""
    wanted = request.match_info["model"]
    for model in await _models(request):
        if model.id == wanted:
            return json_response(model_body(model), headers=_UNCACHED)
    raise NotFound("the service does not serve this model", reason="MODEL_NOT_FOUND")


async def _asked(request: web.Request, parse: Callable[[str, bytes], Asked]) -> Asked:
    body = await read_body(request)
    return parse(request.headers.get("content-type", ""), body)


def _begin(request: web.Request, asked: Asked) -> AsyncStream:
    bridge, options = bridge_of(request), asked.options
    delay_ms = bridge.settings.default_max_delay_ms if asked.stream else _COLLECTED_DELAY_MS
    options.setdefault("max_delay_ms", delay_ms)
    traceparent, tracestate = trace_context_of(request)
    with keys_checked():
        return bridge.client.generate(
            asked.prompt,
            timeout=bridge.settings.request_timeout_s,
            api_key=api_key_of(request),
            traceparent=traceparent,
            tracestate=tracestate,
            **options,
        )


@dataclass(eq=False, slots=True)
class _Collected:
    """An answer that is sent when it is whole, as the list of open ones sees it."""

    stream: AsyncStream
    owner: str = ""

    def acknowledge(self, next_token_index: int) -> None:
        """Nobody paces it."""

    def let_go(self) -> None:
        """End it: nobody could go on with half of it."""
        self.stream.cancel()


async def _collected(bridge: Bridge, stream: AsyncStream, collector: Collector) -> Collector:
    """Read a stream to its end; the caller's leaving cancels this, and so ends the stream."""
    opened, outcome = _Collected(stream), Outcome.LEFT
    bridge.streams.add(opened)
    try:
        async with aclosing(aiter(stream)) as events:
            async for event in events:
                if type(event) is Started:
                    bridge.streams.upstream.answered()
                collector.add(event)
        outcome = Outcome.COMPLETE
    except TokenstreamError as error:
        outcome = Outcome.REFUSED if stream.started is None else Outcome.of(error)
        raise
    finally:
        stream.cancel()
        bridge.streams.remove(opened)
        ended(bridge, stream, outcome)
    return collector


async def _models(request: web.Request) -> tuple[Model, ...]:
    with keys_checked():
        return await bridge_of(request).client.list_models(
            timeout=_CALL_TIMEOUT_S, api_key=api_key_of(request)
        )


def _now() -> int:
    return int(time.time())
