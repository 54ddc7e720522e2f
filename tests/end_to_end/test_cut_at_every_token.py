"""An answer of the real engine, cut anywhere and read on, is the answer that nobody cut."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio

from service.domain import EngineCensus
from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.end_to_end.known_requests import CUT, CUT_LENGTH, as_message
from tests.service.running import Answer, eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

RealService = Any  # lives in conftest, which is no importable module here

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

IDLE = EngineCensus(0, 0)
# One token in each message, so that a reader can stop at any of them.
ONE_BY_ONE: dict[str, Any] = {"max_delay_ms": 0, "max_tokens_per_message": 1}
DETACHING: dict[str, Any] = {"on_disconnect": pb.ON_DISCONNECT_DETACH, "time_to_live_ms": 60_000}


@dataclass(frozen=True)
class Line:
    """A connection, and the stub on it."""

    channel: grpc.aio.Channel
    stub: Any  # published without the types of its asynchronous side


@pytest_asyncio.fixture(loop_scope="session")
async def lines(real: RealService) -> AsyncIterator[tuple[Line, Line]]:
    """Two connections: the one that is cut on, and the one that is read on by."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(real.address, options) as first,
        grpc.aio.insecure_channel(real.address, options) as second,
    ):
        yield tuple(  # type: ignore[misc]  # of two
            Line(c, generation_pb2_grpc.GenerationServiceStub(c)) for c in (first, second)
        )


async def read_head(line: Line, request: pb.GenerateRequest, count: int) -> Answer:
    """Read exactly so many tokens and cut the call."""
    call = line.stub.Generate(request)
    got = Answer()
    async for message in call:
        got.add(message)
        if len(got.token_ids) == count:
            break
    call.cancel()
    assert len(got.token_ids) == count
    assert got.finished is None
    return got


async def read_tail(line: Line, head: Answer) -> Answer:
    """Read on from the first token that is missing, one token a message or many."""
    cut = len(head.token_ids)
    delivery: dict[str, Any] = ONE_BY_ONE if cut % 2 else {"max_delay_ms": 30}
    stream = pb.StreamOptions(**delivery)
    resume = pb.ResumeRequest(stream_id=head.stream_id, next_token_index=cut, stream=stream)
    return await Answer(first=cut).read(line.stub.Resume(resume))


async def read_tail_in_a_session(line: Line, head: Answer) -> Answer:
    """The same, as one request of a session that has it alone."""
    cut = len(head.token_ids)
    talk = Talk.over(line.channel)
    await talk.resume(1, head.stream_id, cut, credit=CUT_LENGTH)
    tail = await talk.answer(1)
    await talk.end()
    return tail


def counts(real: RealService) -> dict[Outcome, int]:
    return {outcome: real.service.metrics.count(outcome) for outcome in Outcome}


@pytest.mark.parametrize("how", ["by a call", "in a session"])
@pytest.mark.parametrize("kind", CUT)
async def test_an_answer_cut_at_any_token_and_read_on_is_vllms_own_to_the_byte(
    real: RealService,
    lines: tuple[Line, Line],
    expected_of_cut: dict[str, dict[str, Any]],
    kind: str,
    how: str,
) -> None:
    vllms = expected_of_cut[kind]
    first, second = lines
    read_on = read_tail if how == "by a call" else read_tail_in_a_session
    request = as_message(CUT[kind], **ONE_BY_ONE, **DETACHING)
    before = counts(real)

    uncut = await Answer().read(first.stub.Generate(request))

    assert (uncut.token_ids, uncut.text) == (vllms["token_ids"], vllms["text"])
    assert len(uncut.token_ids) == CUT_LENGTH

    async def cut_and_read_on(cut: int) -> tuple[Answer, Answer]:
        head = await read_head(first, request, cut)
        return head, await read_on(second, head)

    for head, tail in await asyncio.gather(*map(cut_and_read_on, range(CUT_LENGTH))):
        cut = len(head.token_ids)
        assert head.token_ids + tail.token_ids == vllms["token_ids"], cut
        assert (head.text + tail.text).encode() == vllms["text"].encode(), cut
        assert head.text == "".join(delta.text for delta in uncut.deltas[:cut]), cut
        assert tail.end.reason == uncut.end.reason == pb.FINISH_REASON_LENGTH
        assert tail.end.usage == uncut.end.usage
        assert head.stream_id == tail.stream_id
    assert await real.until_engine_idle(2.0) == IDLE
    await eventually(lambda: real.service.gate.held == 0)
    assert len(real.service.demultiplexer.router) == 0
    ended = {o: count - before[o] for o, count in counts(real).items() if count > before[o]}
    assert ended == {Outcome.LENGTH: CUT_LENGTH + 1}, "each of them has one end, its own"


async def test_a_stream_that_ended_is_read_again_from_behind_its_last_token(
    real: RealService, lines: tuple[Line, Line], expected_of_cut: dict[str, dict[str, Any]]
) -> None:
    first, second = lines
    request = as_message(CUT["greedy"], **DETACHING)
    whole = await Answer().read(first.stub.Generate(request))

    again = await read_tail(second, whole)
    all_of_it = await read_tail(second, Answer(started=whole.started))

    assert again.token_ids == []
    assert again.end.usage == whole.end.usage
    assert all_of_it.token_ids == expected_of_cut["greedy"]["token_ids"]
    assert all_of_it.text == whole.text
