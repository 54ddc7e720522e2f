import asyncio
import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import DeliveryOptions, Delta, EngineFinish, FinishReason
from service.engine.scripted import END_OF_TEXT, Utf8Decoder
from service.errors import DeadlineExceeded, EngineDead, RequestFailed
from service.stream.text import StopRules, TextAssembler
from service.stream.token_stream import TokenStream
from tests.conftest import FakeClock

STOP = EngineFinish(FinishReason.STOP)
LENGTH = EngineFinish(FinishReason.LENGTH)
CANCELLED = EngineFinish(FinishReason.CANCELLED)


class LetterDecoder:
    """A token is a code point."""

    def decode(self, token_id: int) -> str:
        return chr(token_id)


def stream_of(
    clock: FakeClock, rules: StopRules | None = None, delivery: DeliveryOptions | None = None
) -> TokenStream:
    text = TextAssembler(LetterDecoder(), rules or StopRules())
    return TokenStream(text, delivery or DeliveryOptions(), clock)


def push(
    stream: TokenStream, letters: str | Iterable[int], finish: EngineFinish | None = None
) -> bool:
    ids = [ord(c) if isinstance(c, str) else c for c in letters]
    return stream.push(ids, finish)


ENDS: dict[str, Callable[[TokenStream], object]] = {
    "finish": lambda stream: stream.push([], STOP),
    "stop_string": lambda stream: push(stream, "#"),
    "cancel": lambda stream: stream.cancel(),
    "fail": lambda stream: stream.fail(RequestFailed()),
    "fail_otherwise": lambda stream: stream.fail(EngineDead()),
}


async def rest(stream: TokenStream) -> list[Delta]:
    deltas = []
    while (delta := await stream.read()) is not None:
        deltas.append(delta)
    return deltas


async def reading(stream: TokenStream) -> "asyncio.Task[Delta | None]":
    """Begin to read, and let the reader fall asleep."""
    task = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    return task


async def test_a_waiting_reader_gets_the_first_token_at_once(clock: FakeClock) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=1.0))
    reader = await reading(stream)
    push(stream, "a")
    assert await reader == Delta(0, (97,), "a")


async def test_tokens_that_come_while_the_reader_is_busy_are_one_delta(clock: FakeClock) -> None:
    stream = stream_of(clock)
    for letter in "abc":
        push(stream, letter)
    assert await stream.read() == Delta(0, (97, 98, 99), "abc")
    push(stream, "d")
    assert await stream.read() == Delta(3, (100,), "d")
    assert stream.tokens_delivered == 4


async def test_an_empty_step_wakes_nobody(clock: FakeClock) -> None:
    stream = stream_of(clock)
    reader = await reading(stream)
    assert stream.push([]) is False
    await asyncio.sleep(0)
    assert not reader.done()
    assert stream.first_token_at is None
    push(stream, "a")
    await reader


async def test_the_first_tokens_time_is_the_push_not_the_read(clock: FakeClock) -> None:
    stream = stream_of(clock)
    push(stream, "a")
    clock.now += 5
    push(stream, "b")
    await stream.read()
    assert stream.first_token_at == clock.now - 5


async def test_after_a_delta_tokens_wait_for_company_until_the_delay_is_over(
    clock: FakeClock,
) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=0.02))
    push(stream, "a")
    assert await stream.read() == Delta(0, (97,), "a")
    reader = await reading(stream)
    push(stream, "b")
    push(stream, "c")
    await asyncio.sleep(0)
    assert not reader.done()
    clock.now += 0.02  # the timer is a real one; only what it finds the time to be is not
    assert await reader == Delta(1, (98, 99), "bc")


async def test_a_token_that_comes_after_the_delay_has_passed_does_not_wait(
    clock: FakeClock,
) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=1.0))
    push(stream, "a")
    await stream.read()
    clock.now += 1.0
    reader = await reading(stream)
    push(stream, "b")
    assert await reader == Delta(1, (98,), "b")


async def test_a_reader_that_slept_through_the_delay_gets_the_next_token_at_once(
    clock: FakeClock,
) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=0.02))
    push(stream, "a")
    await stream.read()
    reader = await reading(stream)
    clock.now += 0.02
    while stream._wake_at != 1:  # the timer has fired; now it waits for one token, without a timer
        await asyncio.sleep(0.001)
    push(stream, "b")
    assert await reader == Delta(1, (98,), "b")


async def test_so_many_tokens_end_the_delay(clock: FakeClock) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=1.0, max_tokens_per_message=3))
    push(stream, "a")
    await stream.read()
    reader = await reading(stream)
    push(stream, "b")
    push(stream, "c")
    await asyncio.sleep(0)
    assert not reader.done()
    push(stream, "d")
    assert await reader == Delta(1, (98, 99, 100), "bcd")


@pytest.mark.parametrize("end", ["finish", "cancel", "fail"])
async def test_an_end_waits_for_no_delay(clock: FakeClock, end: str) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_delay_s=1.0))
    push(stream, "a")
    await stream.read()
    reader = await reading(stream)
    push(stream, "b")
    ENDS[end](stream)
    assert await reader == Delta(1, (98,), "b")


async def test_no_delta_has_more_tokens_than_it_may(clock: FakeClock) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_tokens_per_message=2))
    push(stream, "abc")
    push(stream, "de", LENGTH)
    deltas = await rest(stream)
    assert [d.token_ids for d in deltas] == [(97, 98), (99, 100), (101,)]
    assert [d.text for d in deltas] == ["ab", "cd", "e"]


async def test_with_stop_strings_a_deltas_text_does_not_run_ahead_of_its_tokens(
    clock: FakeClock,
) -> None:
    stream = stream_of(clock, StopRules(("XYZ",)), DeliveryOptions(max_tokens_per_message=2))
    push(stream, "abcdefgh")
    push(stream, "", STOP)
    tokens = letters = 0
    for delta in await rest(stream):
        tokens += len(delta.token_ids)
        letters += len(delta.text)
        assert letters <= tokens
    assert letters == tokens == 8


async def test_a_stop_token_is_delivered_but_is_no_text(clock: FakeClock) -> None:
    stream = stream_of(clock)
    push(stream, "ab", EngineFinish(FinishReason.STOP, 98))
    assert await rest(stream) == [Delta(0, (97, 98), "a")]


async def test_the_last_token_of_a_length_is_text(clock: FakeClock) -> None:
    stream = stream_of(clock)
    push(stream, "ab", LENGTH)
    assert await rest(stream) == [Delta(0, (97, 98), "ab")]


async def test_a_stop_string_ends_the_stream_and_asks_the_engine_to_stop(clock: FakeClock) -> None:
    stream = stream_of(clock, StopRules(("bc",)))
    assert push(stream, "ab") is False
    assert push(stream, "cd") is True
    assert push(stream, "e") is False
    assert await rest(stream) == [Delta(0, (97, 98, 99), "a")]
    assert stream.finish == EngineFinish(FinishReason.STOP, "bc")


async def test_a_stop_string_in_the_engines_last_step_needs_no_asking(clock: FakeClock) -> None:
    stream = stream_of(clock, StopRules(("bc",)))
    assert push(stream, "abc", LENGTH) is False
    assert stream.finish == EngineFinish(FinishReason.STOP, "bc")


async def test_text_held_back_for_a_stop_string_comes_with_the_end(clock: FakeClock) -> None:
    stream = stream_of(clock, StopRules(("XYZ",)))
    push(stream, "abcd")
    assert await stream.read() == Delta(0, (97, 98, 99, 100), "ab")
    push(stream, [], LENGTH)
    assert await rest(stream) == [Delta(4, (), "cd")]


async def test_text_held_back_for_a_stop_string_comes_before_a_failure(clock: FakeClock) -> None:
    stream = stream_of(clock, StopRules(("XYZ",)))
    push(stream, "abcd")
    await stream.read()
    stream.fail(EngineDead())
    assert await stream.read() == Delta(4, (), "cd")
    with pytest.raises(EngineDead):
        await stream.read()


async def test_a_cancelled_stream_delivers_what_was_decoded(clock: FakeClock) -> None:
    stream = stream_of(clock)
    push(stream, "ab")
    assert stream.cancel() is True
    assert await rest(stream) == [Delta(0, (97, 98), "ab")]
    assert stream.finish == CANCELLED


async def test_a_failed_stream_delivers_what_was_decoded_and_then_raises(clock: FakeClock) -> None:
    stream = stream_of(clock, delivery=DeliveryOptions(max_tokens_per_message=1))
    push(stream, "ab")
    stream.fail(EngineDead())
    assert await stream.read() == Delta(0, (97,), "a")
    assert await stream.read() == Delta(1, (98,), "b")
    for _ in range(2):
        with pytest.raises(EngineDead):
            await stream.read()
    assert stream.finish is None


async def test_a_sleeping_reader_learns_of_a_failure(clock: FakeClock) -> None:
    stream = stream_of(clock)
    reader = await reading(stream)
    stream.fail(DeadlineExceeded())
    with pytest.raises(DeadlineExceeded):
        await reader


async def end_of(stream: TokenStream) -> EngineFinish | type[BaseException] | None:
    try:
        await rest(stream)
    except (RequestFailed, EngineDead) as failure:
        return type(failure)
    return stream.finish


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDS, ENDS)))
async def test_of_two_ends_the_first_stands(clock: FakeClock, first: str, second: str) -> None:
    alone, both = (stream_of(clock, StopRules(("#",))) for _ in range(2))
    for stream in alone, both:
        push(stream, "a")
        ENDS[first](stream)
    assert both.ended
    assert not ENDS[second](both)
    push(both, "z")
    assert await end_of(both) == await end_of(alone)
    assert both.tokens_delivered == alone.tokens_delivered


async def test_a_reader_that_was_cancelled_can_read_on(clock: FakeClock) -> None:
    stream = stream_of(clock)
    reader = await reading(stream)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    push(stream, "a")
    assert await stream.read() == Delta(0, (97,), "a")


actions = st.lists(
    st.one_of(
        st.binary(min_size=0, max_size=4),  # a step's tokens
        st.sampled_from(["read", "pause"]),
    ),
    max_size=40,
)
deliveries = st.builds(
    DeliveryOptions, max_delay_s=st.just(0.0), max_tokens_per_message=st.none() | st.integers(1, 5)
)
ends = st.sampled_from(["finish", "cancel", "fail"])


@given(actions, deliveries, st.booleans(), ends)
async def test_any_order_of_steps_and_reads_gives_every_token_once_and_in_order(
    order: list[bytes | str], delivery: DeliveryOptions, with_stop: bool, end: str
) -> None:
    # The token that cannot be in a text is a stop string that never comes.
    rules = StopRules(("\U0010ffff\U0010ffff",)) if with_stop else StopRules()
    stream = TokenStream(TextAssembler(Utf8Decoder(), rules), delivery, lambda: 0.0)
    pushed = b""
    deltas: list[Delta] = []
    reader: asyncio.Task[Delta | None] | None = None

    async def finish_read() -> None:
        nonlocal reader
        if reader is not None:
            delta = await reader
            assert delta is not None
            deltas.append(delta)
            reader = None

    for action in order:
        if isinstance(action, bytes):
            stream.push(list(action))
            pushed += action
        elif action == "read" and reader is None:
            reader = asyncio.create_task(stream.read())
        else:
            await asyncio.sleep(0)
            if reader is not None and reader.done():
                await finish_read()
    if reader is not None and len(pushed) > sum(len(d.token_ids) for d in deltas):
        await finish_read()
    if end == "finish":
        stream.push([END_OF_TEXT], STOP)
    elif end == "cancel":
        stream.cancel()
    else:
        stream.fail(RequestFailed())
    try:
        if reader is not None and (delta := await reader) is not None:
            deltas.append(delta)
        while (delta := await stream.read()) is not None:
            deltas.append(delta)
        assert end != "fail"
    except RequestFailed:
        assert end == "fail"

    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert token_ids == list(pushed) + [END_OF_TEXT] * (end == "finish")
    position = 0
    for delta in deltas:
        assert delta.first_token_index == position
        assert len(delta.token_ids) <= (delivery.max_tokens_per_message or len(token_ids))
        position += len(delta.token_ids)
    assert stream.tokens_delivered == position
    decoder = Utf8Decoder()
    assert "".join(delta.text for delta in deltas) == "".join(map(decoder.decode, token_ids))
