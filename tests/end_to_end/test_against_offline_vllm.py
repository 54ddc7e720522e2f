"""What comes out of the streams is what vLLM itself says, token for token."""

import asyncio
from typing import Any

import pytest

from tests.end_to_end.known_requests import Answers, as_ours
from tokenstream_client import Delta, Finished, Started

# The fixtures' classes live in conftest, which is no importable module here.
RealService = Any
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]


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
