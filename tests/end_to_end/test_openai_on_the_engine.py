"""OpenAI's official client, through the bridge, to the real engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway_sse.config import GatewaySettings
from service.domain import EngineCensus
from tests.end_to_end.known_requests import QUESTIONS
from tests.gateway_sse.conftest import Gateway

# The fixtures' classes live in conftest, which is no importable module here.
RealService = Any
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

CHAT: dict[str, Any] = {
    "model": "tokenstream-demo",
    "messages": [{"role": "user", "content": QUESTIONS[0]}],
    "max_completion_tokens": 40,
}


@pytest_asyncio.fixture(loop_scope="session")
async def client(real: RealService) -> AsyncIterator[openai.AsyncOpenAI]:
    gateway = Gateway(GatewaySettings(upstream=real.address, listen="127.0.0.1:0", drain_grace_s=5))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        yield client
    gateway.stop.set()
    await gateway.serving
    assert len(gateway.streams) == 0


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> dict[int, str]:
    """Each choice's text."""
    texts: dict[int, str] = {}
    async for chunk in await client.chat.completions.create(**CHAT, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


async def whole(client: openai.AsyncOpenAI, **fields: Any) -> dict[int, str]:
    answer = await client.chat.completions.create(**CHAT, **fields)
    return {choice.index: choice.message.content or "" for choice in answer.choices}


async def test_a_seed_decides_the_answers_however_they_are_read(
    client: openai.AsyncOpenAI,
) -> None:
    chosen = {"temperature": 1.5, "n": 3, "seed": 42}
    once, again, other = await asyncio.gather(
        streamed(client, **chosen), whole(client, **chosen), whole(client, **chosen | {"seed": 7})
    )
    assert once == again
    assert len(set(once.values())) == 3
    assert other != once


async def test_an_answer_keeps_to_its_schema(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 1000}},
        "required": ["number"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    [text] = (await whole(client, response_format=wanted)).values()
    assert 0 <= json.loads(text)["number"] <= 1000


async def test_log_probabilities_spell_the_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        **CHAT, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert answer.usage is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    spelled = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content)
    assert spelled.decode().startswith(choice.message.content or "?")
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)


async def test_a_stream_that_is_left_leaves_the_engine_idle_within_a_second(
    client: openai.AsyncOpenAI, real: RealService
) -> None:
    body = CHAT | {"max_completion_tokens": 900}
    stream = await client.chat.completions.create(
        **body, stream=True, extra_body={"ignore_eos": True}
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    assert await real.until_engine_idle(1) == EngineCensus(0, 0)
