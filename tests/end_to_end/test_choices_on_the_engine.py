"""Several choices for one request, on the real engine: each is what vLLM's own is."""

import asyncio
from typing import Any

import pytest

from service.domain import EngineCensus
from tests.end_to_end.known_requests import SEVERAL, Answers, as_ours
from tokenstream_client import AsyncClient, ClientOptions, Delta, Event, Finished, Started

RealService = Any  # lives in conftest, which is no importable module here
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]


def choice_of(events: list[Event], index: int) -> dict[str, Any]:
    """One choice of an answer, as the oracle has it."""
    started, *_ = events
    assert isinstance(started, Started)
    mine = [e for e in events if isinstance(e, Delta | Finished) and e.choice_index == index]
    *deltas, finished = mine
    assert isinstance(finished, Finished)
    token_ids = [t for delta in deltas if isinstance(delta, Delta) for t in delta.token_ids]
    assert finished.usage.completion_tokens == len(token_ids)
    return {
        "text": "".join(delta.text for delta in deltas if isinstance(delta, Delta)),
        "token_ids": token_ids,
        "finish_reason": str(finished.reason),
        "stop_reason": finished.stop_string
        if finished.stop_string is not None
        else finished.stop_token_id,
        "prompt_tokens": started.prompt_tokens,
    }


@pytest.mark.parametrize("use_sessions", [True, False], ids=["session", "calls"])
async def test_seeded_choices_are_each_exactly_vllms_own(
    expected_of_several: dict[str, Answers], real: RealService, use_sessions: bool
) -> None:
    options = ClientOptions(use_sessions=use_sessions)
    async with AsyncClient(real.address, options=options) as client:

        async def answer(name: str) -> list[Event]:
            request = SEVERAL[name]
            return [
                e async for e in client.generate(request["prompt"], **as_ours(request["params"]))
            ]

        answers = await asyncio.gather(*map(answer, SEVERAL))
    for name, events in zip(SEVERAL, answers, strict=True):
        vllms = expected_of_several[name]
        assert [choice_of(events, index) for index in range(4)] == vllms, name
        # The test says little if the choices were all alike.
        assert len({tuple(choice["token_ids"]) for choice in vllms}) > 1, name


async def test_greedy_choices_are_all_the_same_and_nothing_of_them_is_left(
    real: RealService,
) -> None:
    stream = real.client.generate("What is gRPC?", n=3, temperature=0.0, max_tokens=20)
    events = [event async for event in stream]
    first, *others = (choice_of(events, index) for index in range(3))
    assert others == [first, first]
    assert await real.until_engine_idle(5) == EngineCensus(0, 0)
