"""What comes out of the streams is what vLLM itself says, token for token."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tokenstream_client import Delta, Finished, Started

# The fixtures' classes live in conftest, which is no importable module here.
RealService = Any
Answers = list[dict[str, Any]]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

REQUESTS = 64
QUESTIONS = (
    "What is gRPC?",
    "What is time to first token?",
    "Tell me a story about a token.",
    "what is a demultiplexer",
    "How do I say hello in Greek?",
    "Explain the life of a request step by step.",
    "What is back-pressure?",
    "Grüße aus Köln: 你好, 🙂",
)
STOPS = ("the ", ". ", "token", "stream", "\n", "a", "ing to", "🙂", "is a", "quite improbable")


def some_requests(seed: int, count: int) -> list[dict[str, Any]]:
    """Requests of all kinds, as vLLM's own parameters; each is the same on every machine."""
    chance = random.Random(seed)
    requests = []
    for _ in range(count):
        prompt: str | list[int] = chance.choice(QUESTIONS)
        if chance.random() < 0.25:
            prompt = [chance.randrange(300, 2000) for _ in range(chance.randrange(1, 60))]
        params: dict[str, Any] = {"max_tokens": chance.choice((1, 2, 7, 30, 80, 150, 250))}
        if chance.random() < 0.5:
            params["temperature"] = 0.0
        else:
            params |= {
                "temperature": chance.choice((0.7, 1.0, 1.6)),
                "seed": chance.randrange(2**40),
            }
            if chance.random() < 0.3:
                params["top_p"] = 0.9
            if chance.random() < 0.3:
                params["top_k"] = 40
            if chance.random() < 0.3:
                params["min_p"] = 0.02
        if chance.random() < 0.3:
            params["repetition_penalty"] = 1.15
        if chance.random() < 0.3:
            params |= {"presence_penalty": 0.4, "frequency_penalty": 0.3}
        if chance.random() < 0.5:
            params["stop"] = chance.sample(STOPS, chance.randrange(1, 4))
        if chance.random() < 0.2:
            params["stop_token_ids"] = [chance.randrange(10, 700) for _ in range(100)]
        if chance.random() < 0.2:
            params["min_tokens"] = min(params["max_tokens"], chance.randrange(40))
        if chance.random() < 0.3:
            params["ignore_eos"] = True
        if chance.random() < 0.3:
            params["skip_special_tokens"] = False
        if chance.random() < 0.3:
            params["include_stop_str_in_output"] = True
        requests.append({"prompt": prompt, "params": params})
    return requests


def as_ours(params: dict[str, Any]) -> dict[str, Any]:
    """vLLM's parameter names as the contract's."""
    ours = dict(params)
    if "include_stop_str_in_output" in ours:
        ours["include_stop"] = ours.pop("include_stop_str_in_output")
    return ours


async def answer(
    real: RealService, request: dict[str, Any], delivery: dict[str, Any]
) -> dict[str, Any]:
    """Stream one request; check the stream's grammar on the way."""
    texts: list[str] = []
    token_ids: list[int] = []
    started: Started | None = None
    finished: Finished | None = None
    async for event in real.client.generate(
        request["prompt"], **as_ours(request["params"]), **delivery
    ):
        assert finished is None, "nothing comes after the end"
        if isinstance(event, Started):
            assert started is None
            started = event
        elif isinstance(event, Delta):
            assert started is not None
            assert event.first_token_index == len(token_ids)
            texts.append(event.text)
            token_ids.extend(event.token_ids)
        else:
            finished = event
    assert started is not None
    assert finished is not None
    assert finished.usage.completion_tokens == len(token_ids)
    return {
        "text": "".join(texts),
        "token_ids": token_ids,
        "finish_reason": str(finished.reason),
        "stop_reason": finished.stop_string
        if finished.stop_string is not None
        else finished.stop_token_id,
        "prompt_tokens": started.prompt_tokens,
    }


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    return some_requests(seed=20261122, count=REQUESTS)


@pytest.fixture(scope="module")
def expected(
    offline: Callable[[Sequence[Any]], Answers], requests: list[dict[str, Any]]
) -> Answers:
    return offline(requests)


async def test_64_different_requests_at_once_are_each_exactly_vllms_own_answer(
    expected: Answers, requests: list[dict[str, Any]], real: RealService
) -> None:
    answers = await asyncio.gather(*(answer(real, request, {}) for request in requests))

    for request, ours, vllms in zip(requests, answers, expected, strict=True):
        assert ours == vllms, request
    # The test says little if the requests were all alike.
    assert {a["finish_reason"] for a in expected} == {"stop", "length"}
    assert sum(isinstance(a["stop_reason"], str) for a in expected) >= 5
    assert sum(isinstance(a["stop_reason"], int) for a in expected) >= 2


async def test_the_same_requests_with_merged_messages_give_the_same_answers(
    expected: Answers, requests: list[dict[str, Any]], real: RealService
) -> None:
    delivery = {"max_delay_ms": 60, "max_tokens_per_message": 9}

    answers = await asyncio.gather(*(answer(real, request, delivery) for request in requests))

    assert answers == expected
