"""Many requests on one session, on the real engine: what vLLM says, whoever leaves meanwhile."""

import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from service.domain import EngineCensus
from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.end_to_end.known_requests import Answers, Request, as_message
from tests.service.running import Answer, eventually
from tokenstream.v1 import generation_pb2 as pb

RealService = Any  # lives in conftest, which is no importable module here

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

REASONS = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}
SEED = 20261122


@pytest_asyncio.fixture(loop_scope="session")
async def talk(real: RealService) -> AsyncIterator[Talk]:
    async with grpc.aio.insecure_channel(real.address) as channel:
        yield Talk.over(channel)


def check(got: Answer, vllms: dict[str, Any], request: Request) -> None:
    """Hold a whole answer against vLLM's own."""
    assert got.token_ids == vllms["token_ids"], request
    assert got.text.encode() == vllms["text"].encode(), request
    assert got.end.reason == REASONS[vllms["finish_reason"]], request
    matched = got.end.WhichOneof("matched")
    assert vllms["stop_reason"] == (None if matched is None else getattr(got.end, matched))
    assert got.end.usage.prompt_tokens == vllms["prompt_tokens"]
    assert got.end.usage.completion_tokens == len(vllms["token_ids"])


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param({}, id="delivered as it comes"),
        pytest.param({"max_delay_ms": 60, "max_tokens_per_message": 9}, id="merged"),
        pytest.param({"on_disconnect": pb.ON_DISCONNECT_DETACH}, id="detaching"),
    ],
)
async def test_64_different_requests_on_one_session_are_each_exactly_vllms_own_answer(
    expected: Answers,
    requests: list[Request],
    real: RealService,
    talk: Talk,
    stream: dict[str, Any],
) -> None:
    for number, request in enumerate(requests, start=1):
        await talk.start(number, as_message(request, **stream))
    await talk.end()

    for number, (request, vllms) in enumerate(zip(requests, expected, strict=True), start=1):
        told = talk.told[number]
        assert told.failed is None, told.failed
        check(told.answer, vllms, request)
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)


async def test_credit_granted_a_few_tokens_at_a_time_changes_no_answer(
    expected: Answers, requests: list[Request], talk: Talk
) -> None:
    step = 16
    for number, request in enumerate(requests, start=1):
        await talk.start(number, as_message(request, credit=step))
    told = talk.told

    while not all(t.ended for t in told.values()):
        assert await talk.frame() is not None
        if spent := {n: t.upto + step for n, t in told.items() if not t.ended and t.upto == t.most}:
            await talk.grant(spent)
    await talk.end()

    for number, (request, vllms) in enumerate(zip(requests, expected, strict=True), start=1):
        check(told[number].answer, vllms, request)


async def test_50_of_100_requests_of_a_session_that_end_at_random_leave_the_other_50_exact(
    expected: Answers, requests: list[Request], real: RealService, talk: Talk
) -> None:
    chance = random.Random(SEED)
    known = list(zip(requests, expected, strict=True))
    # Those that end early have so much left that they cannot have come to their own end before.
    long = [(r, v) for r, v in known if len(v["token_ids"]) >= 80]
    numbers = list(range(1, 101))
    victims = set(chance.sample(numbers, 50))
    asked = {n: chance.choice(long if n in victims else known) for n in numbers}
    fate = {n: (chance.choice(("cancel", "close")), chance.randrange(25)) for n in sorted(victims)}
    before = {o: real.service.metrics.count(o) for o in Outcome}
    for number in numbers:
        await talk.start(number, as_message(asked[number][0]))
    waiting = set(victims)

    while waiting:
        for number in sorted(waiting):
            how, after = fate[number]
            answer = talk.told[number].answer
            if answer.started is not None and len(answer.token_ids) >= after:
                waiting.discard(number)
                await (talk.cancel(number) if how == "cancel" else talk.close(number))
        assert await talk.frame() is not None
    await talk.end()

    cancelled = [n for n in victims if fate[n][0] == "cancel"]
    for number in numbers:
        request, vllms = asked[number]
        got = talk.told[number].answer
        if number not in victims:
            check(got, vllms, request)
            continue
        assert got.token_ids == vllms["token_ids"][: len(got.token_ids)]
        assert len(got.token_ids) < len(vllms["token_ids"])
        if number in cancelled:
            assert got.end.reason == pb.FINISH_REASON_CANCELLED
        else:
            assert got.finished is None, "nothing comes of what was closed"
    assert talk.rejected == []
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
    await eventually(lambda: real.service.gate.held == 0)
    assert len(real.service.demultiplexer.router) == 0
    ended = {o: real.service.metrics.count(o) - before[o] for o in Outcome}
    assert ended[Outcome.CANCELLED] == len(cancelled)
    assert ended[Outcome.DISCONNECTED] == 50 - len(cancelled)
    assert sum(ended.values()) == 100
