"""How an answer ends that comes to its end in an unlucky moment; in virtual time."""

import asyncio

import pytest

from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import SseEncoder
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.parting import Parting
from tests.gateway_sse.streaming.one_answer import BEFORE, OneAnswer, one_answer
from tests.gateway_sse.streaming.virtual_time import in_virtual_time, rest
from tokenstream_client import Delta, Finished, FinishReason, Started, Timings, Usage

STARTED = Started("s", "m", 1, "")
FINISHED = Finished(0, FinishReason.STOP, None, None, Usage(1, 1, 0), Timings(None, 1.0))
STALL_LIMIT_S = 30.0
LINGERS = Parting(linger_s=0.8)
DETACHES = Parting(detach=True)


async def to_the_last_write(one: OneAnswer) -> None:
    """The client has had all but the end, of which its kernel has taken a part."""
    one.answer.on_started(STARTED)
    await rest()
    one.kernel.make_room(10_000)
    one.answer.on_finished(FINISHED)
    await rest()
    assert one.kernel.waits
    assert not one.is_over


@in_virtual_time
async def test_a_cut_behind_the_end_adds_nothing_and_the_answer_stays_complete() -> None:
    async with one_answer(SseEncoder(), parting=LINGERS) as one:
        await to_the_last_write(one)
        one.streams.cut()
        await rest()
        one.kernel.make_room(10_000)
        await rest()
        _, body, has_end = one.told()
        assert has_end
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b"retry:") == 1  # its own, at the start
        assert one.outcomes == [Outcome.COMPLETE]


@in_virtual_time
async def test_a_client_that_takes_nothing_at_the_last_write_has_stalled_after_the_limit() -> None:
    async with one_answer(SseEncoder(), parting=LINGERS, stall_limit_s=STALL_LIMIT_S) as one:
        await to_the_last_write(one)
        await asyncio.sleep(STALL_LIMIT_S * 0.9)
        assert not one.is_over
        await asyncio.sleep(STALL_LIMIT_S * 0.3)
        assert one.outcomes == [Outcome.STALLED]
        assert one.kernel.is_closing()
        assert not one.told()[2], "what was not taken does not look whole"


@in_virtual_time
async def test_a_client_that_takes_the_last_write_slowly_has_not_stalled() -> None:
    async with one_answer(SseEncoder(), parting=LINGERS, stall_limit_s=STALL_LIMIT_S) as one:
        await to_the_last_write(one)
        for _ in range(6):
            await asyncio.sleep(STALL_LIMIT_S / 2)
            one.kernel.make_room(1)
        one.kernel.make_room(10_000)
        await rest()
        assert one.outcomes == [Outcome.COMPLETE]
        assert one.told()[2]


@in_virtual_time
async def test_a_client_that_leaves_at_the_last_write_has_left() -> None:
    async with one_answer(SseEncoder(), parting=LINGERS) as one:
        await to_the_last_write(one)
        one.kernel.lose(ConnectionResetError("it has gone"))
        await rest()
        assert one.outcomes == [Outcome.LEFT]


@in_virtual_time
async def test_of_a_stream_that_lingers_nothing_is_read() -> None:
    async with one_answer(SseEncoder(), parting=LINGERS, room=10_000) as one:
        one.answer.on_started(STARTED)
        await rest()
        one.kernel.make_room(10_000)
        await rest()
        one.kernel.lose(ConnectionResetError("it has gone"))
        await rest()
        one.answer.on_delta(Delta(0, 0, (1,), "late"))
        await rest()
        assert one.streams.lingering == 1
        assert one.stream.has_events


class Broken(SseEncoder):
    def delta(self, event: Delta) -> bytes:
        raise ArithmeticError("a mistake")


@pytest.mark.parametrize("at_the_first_look", [True, False])
@in_virtual_time
async def test_an_answer_that_cannot_be_encoded_has_failed_and_does_not_linger(
    at_the_first_look: bool,
) -> None:
    async with one_answer(Broken(), parting=LINGERS, room=10_000) as one:
        one.answer.on_started(STARTED)
        if not at_the_first_look:
            await rest()
        one.answer.on_delta(Delta(0, 0, (1,), "a"))
        await rest()
        assert one.outcomes == [Outcome.FAILED]
        assert one.streams.lingering == 0
        assert one.session.stopped
        assert not one.told()[2]


@in_virtual_time
async def test_a_client_that_leaves_again_before_its_resumed_stream_began_finds_it_lingering() -> (
    None
):
    encoder = SseEncoder(EventId("s", BEFORE))
    async with one_answer(encoder, parting=LINGERS, resumed=True) as one:
        one.kernel.lose(ConnectionResetError("it has gone"))
        await rest()
        assert one.outcomes == [Outcome.LEFT]
        assert one.streams.lingering == 1
        assert not one.session.left
        await asyncio.sleep(LINGERS.linger_s)
        assert one.session.stopped


@in_virtual_time
async def test_one_that_detaches_is_let_go_of_before_its_resumed_stream_began() -> None:
    encoder = SseEncoder(EventId("s", BEFORE))
    async with one_answer(encoder, parting=DETACHES, resumed=True) as one:
        one.kernel.lose(ConnectionResetError("it has gone"))
        await rest()
        assert one.session.left
        assert not one.session.stopped


@pytest.mark.parametrize("resumed", [True, False])
@in_virtual_time
async def test_a_cut_before_the_start_is_a_503_and_ends_only_a_stream_that_has_no_name(
    resumed: bool,
) -> None:
    encoder = SseEncoder(EventId("s", BEFORE) if resumed else None)
    async with one_answer(encoder, parting=LINGERS, resumed=resumed, room=10_000) as one:
        one.streams.cut()
        await rest()
        status, body, has_end = one.told()
        assert (status, has_end) == (503, True)
        assert b"GATEWAY_STOPPING" in body
        assert one.outcomes == [Outcome.REFUSED]
        assert one.session.left
        assert one.session.stopped == (not resumed)
