"""Whatever ends a request ends it in the engine, at once, and nobody else notices."""

import asyncio
from typing import Any

import pytest

from service.domain import EngineCensus
from service.telemetry.outcomes import Outcome
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    DeadlineExceeded,
    Delta,
    Finished,
    FinishReason,
    Started,
)

RealService = Any  # lives in conftest, which is no importable module here

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
]

PROMPT = "Tell me a story about a token."
IDLE = EngineCensus(0, 0)
IDLE_WITHIN_S = 2.0


async def read(real: RealService, stop_after: int | None, how: str, seed: int) -> list[int]:
    """Read a stream; after `stop_after` tokens end it by Cancel or by closing the call."""
    token_ids: list[int] = []
    # By itself the client asks for a stream that outlives its call, and cancels it when it leaves.
    end = {"on_disconnect": "end"} if how == "close" else {}
    stream = real.client.generate(
        PROMPT, max_tokens=200, ignore_eos=True, temperature=1.0, seed=seed, **end
    )
    stream_id = ""
    try:
        async for event in stream:
            if isinstance(event, Started):
                stream_id = event.stream_id
            elif isinstance(event, Delta):
                token_ids.extend(event.token_ids)
            elif stop_after is not None:
                assert event.reason is FinishReason.CANCELLED
            if stop_after is not None and len(token_ids) >= stop_after:
                stop_after = 1 << 62
                if how == "cancel":
                    await real.client.cancel(stream_id)
                else:
                    stream.cancel()
    except Cancelled:
        assert how == "close"
    return token_ids


async def test_50_of_100_cancelled_leave_the_other_50_exact_and_the_engine_empty(
    real: RealService,
) -> None:
    undisturbed = await asyncio.gather(*(read(real, None, "", seed) for seed in range(50)))
    counts = {o: real.service.metrics.count(o) for o in Outcome}

    answers = await asyncio.gather(
        *(
            read(real, None, "", number // 2)
            if number % 2 == 0
            else read(real, 3 + number, "cancel" if number % 4 == 1 else "close", number)
            for number in range(100)
        )
    )

    assert list(answers[::2]) == undisturbed
    assert all(len(ids) == 200 for ids in undisturbed)
    assert await real.until_engine_idle(IDLE_WITHIN_S) == IDLE
    ended = {o: real.service.metrics.count(o) - counts[o] for o in Outcome}
    assert ended[Outcome.LENGTH] == 50
    assert ended[Outcome.CANCELLED] == 25
    assert ended[Outcome.DISCONNECTED] == 25
    assert real.service.gate.held == 0
    assert len(real.service.demultiplexer.router) == 0


async def read_into(tokens: list[int], stream: AsyncStream) -> None:
    """Read all of a stream, keeping its tokens also if it fails."""
    async for event in stream:
        if isinstance(event, Delta):
            tokens.extend(event.token_ids)


async def test_a_deadline_ends_a_running_request(real: RealService) -> None:
    before = real.service.metrics.count(Outcome.DEADLINE)
    tokens: list[int] = []
    stream = real.client.generate(PROMPT, max_tokens=900, ignore_eos=True, timeout=0.5)

    with pytest.raises(DeadlineExceeded):
        await read_into(tokens, stream)

    assert tokens, "it was running"
    assert await real.until_engine_idle(IDLE_WITHIN_S) == IDLE
    assert real.service.metrics.count(Outcome.DEADLINE) == before + 1


async def test_a_deadline_ends_a_request_that_still_waits_for_its_prefill(
    real: RealService,
) -> None:
    # The demo model's engine decodes 128 requests at once; these keep all places taken.
    streams = [
        real.client.generate(PROMPT, max_tokens=900, ignore_eos=True, seed=number)
        for number in range(128)
    ]
    readers = [aiter(stream) for stream in streams]
    await asyncio.gather(*(anext(reader) for reader in readers))
    await asyncio.gather(*(anext(reader) for reader in readers))
    before = real.service.metrics.count(Outcome.DEADLINE)
    tokens: list[int] = []
    queued = real.client.generate(PROMPT, max_tokens=5, timeout=0.3)
    try:
        with pytest.raises(DeadlineExceeded):
            await read_into(tokens, queued)

        assert not tokens, "it was waiting"
        assert (await real.service.engine.census()).waiting == 0
    finally:
        for stream in streams:
            stream.cancel()
        for reader in readers:
            await reader.aclose()
    assert await real.until_engine_idle(IDLE_WITHIN_S) == IDLE
    assert real.service.metrics.count(Outcome.DEADLINE) == before + 1


async def test_a_client_that_vanishes_with_its_connection_stops_the_decoding(
    real: RealService,
) -> None:
    client = AsyncClient(real.address)
    reader = aiter(client.generate(PROMPT, max_tokens=900, ignore_eos=True))
    await anext(reader)
    await anext(reader)

    await client.close()

    assert await real.until_engine_idle(IDLE_WITHIN_S) == IDLE
    with pytest.raises(Cancelled):
        await anext(reader)


async def test_a_stop_string_stops_the_engine_too(real: RealService) -> None:
    events = [
        event
        async for event in real.client.generate(
            PROMPT, temperature=0.0, max_tokens=900, ignore_eos=True, stop=["vocabulary"]
        )
    ]

    assert isinstance(events[-1], Finished)
    assert events[-1].stop_string == "vocabulary"
    assert events[-1].usage.completion_tokens < 100
    assert await real.until_engine_idle(IDLE_WITHIN_S) == IDLE
