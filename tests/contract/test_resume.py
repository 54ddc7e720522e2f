import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import (
    Answer,
    RunningService,
    eventually,
    refusal,
    started,
)
from tokenstream.v1 import generation_pb2 as pb

TEXT = "a\u20ac\U0001f600b one two \u4f60\u597d three e\u0301 end"

# How an answer ends decides which text is held back, and until when.
REQUESTS = {
    "end of text": pb.SamplingOptions(),
    "a stop string": pb.SamplingOptions(stop=["three"]),
    "a stop string in the text": pb.SamplingOptions(stop=["three"], include_stop=True),
    "stop strings that almost match": pb.SamplingOptions(stop=["on two", "the end", "threx"]),
    "a stop token": pb.SamplingOptions(stop_token_ids=[ord("d")]),
    "a stop token in the text": pb.SamplingOptions(stop_token_ids=[ord("d")], include_stop=True),
    "max_tokens within a character": pb.SamplingOptions(max_tokens=6, stop=["xyz"]),
    "max_tokens of a repetition": pb.SamplingOptions(max_tokens=60, ignore_eos=True),
}


def detaching(text: str, **sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text=text,
        sampling=pb.SamplingOptions(**sampling),  # type: ignore[arg-type]
        stream=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH, max_tokens_per_message=1),
    )


def like(name: str) -> pb.GenerateRequest:
    request = detaching(TEXT)
    request.sampling.CopyFrom(REQUESTS[name])
    return request


ENDLESS = detaching("ab", ignore_eos=True, max_tokens=1000)


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_read_on_from_every_token_of_its_finished_stream_is_the_same(
    running: RunningService, name: str
) -> None:
    whole = await Answer().read(running.generate(like(name)))
    assert len(whole.token_ids) >= 6
    for first in range(len(whole.token_ids) + 1):
        got = Answer(first=first)
        await got.read(running.resume(whole.stream_id, first))
        before = "".join(d.text for d in whole.deltas if d.first_token_index < first)
        assert got.stream_id == whole.stream_id
        assert got.token_ids == whole.token_ids[first:]
        assert before + got.text == whole.text
        assert got.end == whole.end
    assert running.count(Outcome.FAILED) == 0
    assert running.counted == 1


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_cut_at_every_token_while_it_is_decoded_is_joined_the_same(
    stepped: RunningService, name: str
) -> None:
    whole = None
    cut = 0
    while whole is None or cut < len(whole.token_ids):
        call = stepped.generate(like(name))
        head = Answer()
        head.add(await anext(aiter(call)))
        for _ in range(cut):
            stepped.engine.step()
        await head.read_tokens(call, cut)
        call.cancel()
        await eventually(lambda: stepped.service.directory.detached == 1)
        # Some more while nobody reads, and some while somebody does.
        for _ in range(cut % 4):
            stepped.engine.step()
        resumed = stepped.resume(head.stream_id, cut, max_tokens_per_message=1)
        tail = Answer(first=cut)
        tail.add(await anext(aiter(resumed)))
        while stepped.engine.running_ids:
            stepped.engine.step()
        await tail.read(resumed)
        if whole is None:
            whole = tail
        assert head.token_ids + tail.token_ids == whole.token_ids
        assert head.text + tail.text == whole.text
        cut += 1
    assert whole.text in TEXT * 3
    await eventually(lambda: stepped.nothing_runs)
    assert stepped.count(Outcome.DISCONNECTED) == 0


async def test_a_stream_can_be_cut_again_and_again(stepped: RunningService) -> None:
    text = "x\u20acy\U0001f600" * 6
    call = stepped.generate(detaching(text))
    stream_id = await started(call)
    joined = Answer()
    while stepped.engine.running_ids:
        call.cancel()
        await eventually(lambda: stepped.service.directory.detached == 1)
        stepped.engine.step()
        resumed = stepped.resume(stream_id, len(joined.token_ids))
        part = Answer(first=len(joined.token_ids))
        await part.read_tokens(resumed, 1)
        joined.deltas += part.deltas
        call = resumed  # type: ignore[assignment]
    assert joined.text == text


async def test_text_held_back_until_a_cancel_comes_to_whoever_reads_on_and_again(
    stepped: RunningService,
) -> None:
    call = stepped.generate(detaching("abcdef", stop=["efgh"], ignore_eos=True))
    head = Answer()
    head.add(await anext(aiter(call)))
    for _ in range(5):
        stepped.engine.step()
    await head.read_tokens(call, 5)
    assert head.text == "ab"  # "cde" could begin with what is looked for
    call.cancel()
    await eventually(lambda: stepped.service.directory.detached == 1)
    await stepped.cancel(head.stream_id)
    for _ in range(2):
        tail = await Answer(first=5).read(stepped.resume(head.stream_id, 5))
        assert tail.token_ids == []
        assert tail.text == "cde"
        assert tail.end.reason == pb.FINISH_REASON_CANCELLED
        assert tail.end.usage.completion_tokens == 5
    middle = await Answer(first=4).read(stepped.resume(head.stream_id, 4))
    assert middle.text == "bcde"


@pytest.mark.parametrize("behind", [1, 2, 1000, 2**32 - 2])
async def test_a_position_past_the_end_is_out_of_range(
    running: RunningService, behind: int
) -> None:
    whole = await Answer().read(running.generate(detaching("abc")))
    refused = await refusal(running.resume(whole.stream_id, min(4 + behind, 2**32 - 1)))
    assert refused.code is grpc.StatusCode.OUT_OF_RANGE
    assert refused.reason == "POSITION_OUT_OF_RANGE"
    again = await Answer(first=4).read(running.resume(whole.stream_id, 4))
    assert again.end == whole.end


async def test_a_position_past_what_is_decoded_is_out_of_range_and_the_reader_goes_on(
    stepped: RunningService,
) -> None:
    call = stepped.generate(detaching("abc"))
    got = Answer()
    got.add(await anext(aiter(call)))
    stepped.engine.step()
    await got.read_tokens(call, 1)
    refused = await refusal(stepped.resume(got.stream_id, 2))
    assert refused.code is grpc.StatusCode.OUT_OF_RANGE
    for _ in range(3):
        stepped.engine.step()
    await got.read(call)
    assert got.text == "abc"


async def test_a_position_past_what_is_decoded_leaves_a_detached_streams_time_alone(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None), detached_ttl_s=0.3)
    call = running.generate(ENDLESS)
    stream_id = await started(call)
    call.cancel()
    await eventually(lambda: running.service.directory.detached == 1)
    assert (await refusal(running.resume(stream_id, 1))).code is grpc.StatusCode.OUT_OF_RANGE
    await eventually(lambda: running.idle)
    assert running.count(Outcome.EXPIRED) == 1


@pytest.mark.parametrize("stream_id", ["", "no such stream", "x" * 10_000])
async def test_an_unknown_stream_is_not_found(running: RunningService, stream_id: str) -> None:
    refused = await refusal(running.resume(stream_id))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "STREAM_NOT_FOUND"
    talk = Talk.over(running.channel)
    await talk.resume(1, stream_id)
    assert (await talk.failure(1)).reason == "STREAM_NOT_FOUND"
    await talk.end()


async def test_a_stream_that_ends_with_its_reader_is_not_found_while_it_runs_and_after(
    stepped: RunningService,
) -> None:
    call = stepped.generate("abc")
    stream_id = await started(call)
    assert (await refusal(stepped.resume(stream_id))).code is grpc.StatusCode.NOT_FOUND
    while stepped.engine.running_ids:
        stepped.engine.step()
    got = await Answer(started=pb.Started(stream_id=stream_id)).read(call)
    assert got.text == "abc"
    assert (await refusal(stepped.resume(stream_id))).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("stream", "field"),
    [
        (pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH), "stream.on_disconnect"),
        (pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_END), "stream.on_disconnect"),
        (pb.StreamOptions(time_to_live_ms=5), "stream.time_to_live_ms"),
        (pb.StreamOptions(max_delay_ms=2000), "stream.max_delay_ms"),
        (pb.StreamOptions(max_tokens_per_message=0), "stream.max_tokens_per_message"),
        (pb.StreamOptions(credit=5), "stream.credit"),
    ],
)
async def test_what_the_stream_has_for_good_cannot_be_set_when_reading_on(
    running: RunningService, stream: pb.StreamOptions, field: str
) -> None:
    whole = await Answer().read(running.generate(detaching("abc")))
    request = pb.ResumeRequest(stream_id=whole.stream_id, stream=stream)
    refused = await refusal(running.generation.Resume(request))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == (field,)


async def test_a_newer_reader_takes_over_and_the_older_is_told(stepped: RunningService) -> None:
    call = stepped.generate(detaching("abcdef"))
    old = Answer()
    old.add(await anext(aiter(call)))
    for _ in range(2):
        stepped.engine.step()
    await old.read_tokens(call, 2)
    newer = stepped.resume(old.stream_id, 1)
    new = Answer(first=1)
    new.add(await anext(aiter(newer)))
    refused = await refusal(call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "STREAM_TAKEN_OVER")
    while stepped.engine.running_ids:
        stepped.engine.step()
    await new.read(newer)
    assert new.text == "bcdef"
    await eventually(lambda: stepped.nothing_runs)
    assert stepped.count(Outcome.STOP) == stepped.counted == 1


async def test_readers_that_take_over_in_a_row_leave_the_last_one_reading(
    stepped: RunningService,
) -> None:
    call = stepped.generate(detaching("abcdef"))
    stream_id = await started(call)
    stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 1)
    readers = []
    for _ in range(20):
        reader = stepped.resume(stream_id)
        assert await started(reader) == stream_id
        readers.append(reader)
    assert (await refusal(call)).reason == "STREAM_TAKEN_OVER"
    for broken in readers[:-1]:
        assert (await refusal(broken)).reason == "STREAM_TAKEN_OVER"
    while stepped.engine.running_ids:
        stepped.engine.step()
    last = await Answer(started=pb.Started(stream_id=stream_id)).read(readers[-1])
    assert last.text == "abcdef"
    assert stepped.service.gate.held == 0


async def test_a_stream_goes_from_a_session_to_a_call_of_its_own_and_back(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.channel)
    await talk.start(1, detaching("abcdef"))
    stream_id = await talk.started(1)
    for _ in range(2):
        stepped.engine.step()
    await talk.tokens(1, 2)
    call = stepped.resume(stream_id, 2)
    alone = Answer(first=2)
    alone.add(await anext(aiter(call)))
    failed = await talk.failure(1)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "STREAM_TAKEN_OVER")
    for _ in range(2):
        stepped.engine.step()
    await alone.read_tokens(call, 2)
    await talk.resume(2, stream_id, 4)
    await talk.started(2)
    assert (await refusal(call)).reason == "STREAM_TAKEN_OVER"
    while stepped.engine.running_ids:
        stepped.engine.step()
    back = await talk.answer(2)
    assert talk.told[1].answer.text + alone.text + back.text == "abcdef"
    await talk.end()
    assert stepped.count(Outcome.STOP) == stepped.counted == 1


async def test_a_session_takes_a_stream_over_from_itself(stepped: RunningService) -> None:
    talk = Talk.over(stepped.channel)
    await talk.start(1, detaching("abc"))
    stream_id = await talk.started(1)
    await talk.resume(2, stream_id)
    assert (await talk.failure(1)).reason == "STREAM_TAKEN_OVER"
    while stepped.engine.running_ids:
        stepped.engine.step()
    assert (await talk.answer(2)).text == "abc"
    await talk.end()


async def test_cancel_ends_a_detached_stream_and_what_was_decoded_can_be_read(
    stepped: RunningService,
) -> None:
    call = stepped.generate(ENDLESS)
    stream_id = await started(call)
    for _ in range(3):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 3)
    call.cancel()
    await eventually(lambda: stepped.service.directory.detached == 1)
    await stepped.cancel(stream_id)
    await eventually(lambda: stepped.nothing_runs)
    got = await Answer().read(stepped.resume(stream_id))
    assert got.text == "aba"
    assert got.end.reason == pb.FINISH_REASON_CANCELLED
    assert (
        await refusal(stepped.generation.Cancel(pb.CancelRequest(stream_id=stream_id)))
    ).code is (grpc.StatusCode.NOT_FOUND)
    assert stepped.count(Outcome.CANCELLED) == stepped.counted == 1
