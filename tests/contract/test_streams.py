import asyncio
from itertools import cycle, islice

import pytest

from service.engine.scripted import END_OF_TEXT, ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.service.running import Answer, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb

PROMPTS = [
    "a",
    "The quick brown fox",
    "G\u00fcnther a\u00df \u00c4pfel",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1f3\U0001f1f4",
    "e\u0301" * 20,
    "line\nline\ttab\u2028",
]


async def answer(running: RunningService, request: pb.GenerateRequest | str) -> Answer:
    return await Answer().read(running.generate(request))


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_text_comes_back_exactly_with_one_start_and_one_end(
    running: RunningService, prompt: str
) -> None:
    got = await answer(running, prompt)
    length = len(prompt.encode())
    assert got.text == prompt
    assert got.token_ids == [*prompt.encode(), END_OF_TEXT]
    assert got.end.reason == pb.FINISH_REASON_STOP
    assert got.end.WhichOneof("matched") is None
    assert got.end.usage == pb.Usage(prompt_tokens=length, completion_tokens=length + 1)
    assert running.count(Outcome.STOP) == running.counted == 1


async def test_the_start_tells_who_answers_and_repeats_the_callers_id(
    running: RunningService,
) -> None:
    got = await answer(running, pb.GenerateRequest(text="abc", client_request_id="mine"))
    assert got.started is not None
    assert got.started.model == "scripted"
    assert got.started.prompt_tokens == 3
    assert got.started.client_request_id == "mine"


async def test_stream_ids_are_long_and_never_the_same(running: RunningService) -> None:
    ids = {(await answer(running, "a")).stream_id for _ in range(10)}
    assert len(ids) == 10
    assert min(map(len, ids)) >= 22  # 128 bits


async def test_token_ids_are_used_as_they_are(running: RunningService) -> None:
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[104, 105]), model="scripted")
    assert (await answer(running, request)).text == "hi"


async def test_times_are_told_and_in_order(running: RunningService) -> None:
    timings = (await answer(running, "abc")).end.timings
    assert timings.HasField("time_to_first_token")
    assert timings.time_to_first_token.ToSeconds() + timings.time_to_first_token.nanos > 0
    assert timings.time_to_first_token.ToMicroseconds() <= timings.total.ToMicroseconds()


async def test_max_tokens_end_an_answer_that_goes_on_for_ever(running: RunningService) -> None:
    sampling = pb.SamplingOptions(max_tokens=50, ignore_eos=True)
    got = await answer(running, pb.GenerateRequest(text="\u20ac!", sampling=sampling))
    assert got.token_ids == list(islice(cycle("\u20ac!".encode()), 50))
    assert got.text == "\u20ac!" * 12  # 48 bytes, and half a character
    assert got.end.reason == pb.FINISH_REASON_LENGTH


async def test_the_context_ends_an_answer_without_max_tokens(serve: Serve) -> None:
    running = await serve(ScriptedEngine(context_length=20))
    sampling = pb.SamplingOptions(ignore_eos=True)
    got = await answer(running, pb.GenerateRequest(text="abcd", sampling=sampling))
    assert len(got.token_ids) == 16
    assert got.end.reason == pb.FINISH_REASON_LENGTH


@pytest.mark.parametrize(("include_stop", "text"), [(False, "one "), (True, "one two")])
async def test_a_stop_string_ends_the_text_before_or_behind_it(
    running: RunningService, include_stop: bool, text: str
) -> None:
    sampling = pb.SamplingOptions(stop=["three", "two"], include_stop=include_stop)
    got = await answer(running, pb.GenerateRequest(text="one two three", sampling=sampling))
    assert got.text == text
    assert bytes(got.token_ids) == b"one two"
    assert got.end.reason == pb.FINISH_REASON_STOP
    assert got.end.stop_string == "two"
    assert got.end.usage.completion_tokens == 7
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STOP_STRING) == 1


@pytest.mark.parametrize(("include_stop", "text"), [(False, "ab"), (True, "abc")])
async def test_a_stop_token_is_told_and_its_text_only_if_asked_for(
    running: RunningService, include_stop: bool, text: str
) -> None:
    sampling = pb.SamplingOptions(stop_token_ids=[ord("c")], include_stop=include_stop)
    got = await answer(running, pb.GenerateRequest(text="abcd", sampling=sampling))
    assert got.text == text
    assert got.token_ids == list(b"abc")
    assert got.end.stop_token_id == ord("c")
    assert running.count(Outcome.STOP) == 1


async def test_a_stop_string_within_min_tokens_is_text(running: RunningService) -> None:
    sampling = pb.SamplingOptions(stop=["ab"], min_tokens=3)
    got = await answer(running, pb.GenerateRequest(text="abxab", sampling=sampling))
    assert got.text == "abx"


async def test_half_a_character_at_the_end_is_left_out(running: RunningService) -> None:
    sampling = pb.SamplingOptions(max_tokens=3)
    got = await answer(running, pb.GenerateRequest(text="a\u20ac", sampling=sampling))
    assert got.text == "a"
    assert len(got.token_ids) == 3


async def test_messages_wait_for_as_many_tokens_as_asked_for_and_have_no_more(
    stepped: RunningService,
) -> None:
    call = stepped.generate(
        pb.GenerateRequest(
            text="x" * 20, stream=pb.StreamOptions(max_delay_ms=1000, max_tokens_per_message=7)
        )
    )
    got = Answer()
    messages = aiter(call)
    got.add(await anext(messages))
    stepped.engine.step()
    got.add(await anext(messages))
    for _ in range(20):
        stepped.engine.step()
    await got.read(messages)
    assert got.text == "x" * 20
    # The first goes alone, at once; the others fill up; the end waits for nothing.
    assert [len(delta.token_ids) for delta in got.deltas] == [1, 7, 7, 6]


async def test_tokens_decoded_before_the_reader_came_are_one_message(
    stepped: RunningService,
) -> None:
    call = stepped.generate("abcdef")
    got = Answer()
    got.add(await anext(aiter(call)))
    for _ in range(7):
        stepped.engine.step()
    await got.read(call)
    assert got.text == "abcdef"
    assert len(got.deltas) == 1


async def test_a_token_is_delivered_before_the_next_one_is_decoded(
    stepped: RunningService,
) -> None:
    call = stepped.generate("abc")
    messages = aiter(call)
    assert (await anext(messages)).WhichOneof("event") == "started"
    for letter in "abc":
        stepped.engine.step()
        assert (await anext(messages)).delta.text == letter
    stepped.engine.step()
    assert list((await anext(messages)).delta.token_ids) == [END_OF_TEXT]
    assert (await anext(messages)).finished.reason == pb.FINISH_REASON_STOP


async def test_many_streams_at_once_do_not_mix(running: RunningService) -> None:
    prompts = [f"{number} " * (1 + number % 9) for number in range(100)]
    answers = await asyncio.gather(*(answer(running, prompt) for prompt in prompts))
    assert [got.text for got in answers] == prompts
    assert len({got.stream_id for got in answers}) == 100
    assert running.count(Outcome.STOP) == running.counted == 100
