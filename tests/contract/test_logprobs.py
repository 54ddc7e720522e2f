"""Log-probabilities come with their tokens, however those are delivered."""

import pytest

from service.engine.scripted import END_OF_TEXT, scripted_logprobs, scripted_token_bytes
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb

TEXT = "a\u20ac stop here, if it is there"


def asking(likeliest: int | None, text: str = TEXT, **sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text=text,
        sampling=pb.SamplingOptions(logprobs=likeliest, **sampling),  # type: ignore[arg-type]
        stream=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH),
    )


def known(token_ids: list[int], likeliest: int) -> list[pb.TokenLogprobs]:
    """What the scripted engine tells of these tokens."""
    places = []
    for token_id in token_ids:
        ids, logprobs = scripted_logprobs(token_id, likeliest)
        places.append(
            pb.TokenLogprobs(
                logprob=logprobs[0],
                token=scripted_token_bytes(token_id),
                likeliest=[
                    pb.LikelyToken(token_id=i, logprob=logprob, token=scripted_token_bytes(i))
                    for i, logprob in zip(ids[1:], logprobs[1:], strict=True)
                ],
            )
        )
    return places


def told(answer: Answer) -> list[pb.TokenLogprobs]:
    for delta in answer.deltas:
        assert len(delta.logprobs) == len(delta.token_ids)
    return [place for delta in answer.deltas for place in delta.logprobs]


@pytest.mark.parametrize("likeliest", [0, 1, 20])
async def test_each_token_has_its_own_and_as_many_others_as_were_asked_for(
    running: RunningService, likeliest: int
) -> None:
    answer = await Answer().read(running.generate(asking(likeliest)))
    assert answer.token_ids == [*TEXT.encode(), END_OF_TEXT]
    assert told(answer) == known(answer.token_ids, likeliest)


async def test_who_does_not_ask_gets_none(running: RunningService) -> None:
    answer = await Answer().read(running.generate(TEXT))
    assert not any(delta.logprobs for delta in answer.deltas)


async def test_a_stop_string_cuts_them_with_the_tokens(running: RunningService) -> None:
    answer = await Answer().read(running.generate(asking(2, stop=["stop"])))
    assert bytes(answer.token_ids).decode() == "a\u20ac stop"
    assert told(answer) == known(answer.token_ids, 2)


async def test_a_stream_that_is_read_again_has_them_still(running: RunningService) -> None:
    whole = await Answer().read(running.generate(asking(3)))
    for first in range(len(whole.token_ids) + 1):
        got = Answer(first=first)
        await got.read(running.resume(whole.stream_id, first))
        assert told(got) == told(whole)[first:]


async def test_in_a_session_each_request_has_its_own(running: RunningService) -> None:
    talk = Talk.over(running.channel)
    wanted = {number: (None, 0, 2)[number % 3] for number in range(1, 31)}
    for number, likeliest in wanted.items():
        await talk.start(number, asking(likeliest, f"{number}: {TEXT}"))
    await talk.end()
    for number, likeliest in wanted.items():
        answer = talk.told[number].answer
        if likeliest is None:
            assert not any(delta.logprobs for delta in answer.deltas)
        else:
            assert told(answer) == known(answer.token_ids, likeliest)


async def test_a_message_with_them_is_small_however_much_waits(stepped: RunningService) -> None:
    request = asking(20, "ab", ignore_eos=True, max_tokens=600)
    call = stepped.generate(request)
    first = await anext(aiter(call))
    call.cancel()
    for _ in range(600):
        stepped.engine.step()
    got = await Answer(first=0).read(stepped.resume(first.started.stream_id))
    assert max(len(delta.token_ids) for delta in got.deltas) == 128
    assert told(got) == known(got.token_ids, 20)


async def test_a_frame_with_them_is_small_however_many_requests_wait(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.channel)
    request = pb.GenerateRequest(
        text="ab",
        sampling=pb.SamplingOptions(logprobs=1, ignore_eos=True, max_tokens=100),
        stream=pb.StreamOptions(credit=0),
    )
    for number in range(1, 21):
        await talk.start(number, request)
    for number in range(1, 21):
        await talk.started(number)
    for _ in range(100):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 2000)
    await talk.grant(dict.fromkeys(range(1, 21), 100))
    sizes = []
    while any(told.upto < 100 for told in talk.told.values()):
        frame = await talk.frame()
        assert frame is not None
        sizes.append(len(frame.deltas.logprobs))
    assert max(sizes) == 600  # 512, and what the delta that met it has more
    assert sum(sizes) == 2000
    await talk.end()
