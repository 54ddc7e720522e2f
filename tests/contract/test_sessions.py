import asyncio

import grpc
import pytest

from service.engine.scripted import END_OF_TEXT, ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb

ENDLESS = pb.GenerateRequest(
    text="ab", sampling=pb.SamplingOptions(ignore_eos=True, max_tokens=1000)
)
DETACHING = pb.GenerateRequest()
DETACHING.CopyFrom(ENDLESS)
DETACHING.stream.on_disconnect = pb.ON_DISCONNECT_DETACH


@pytest.fixture
async def talk(running: RunningService) -> Talk:
    return Talk.over(running.channel)


@pytest.fixture
async def stepped_talk(stepped: RunningService) -> Talk:
    return Talk.over(stepped.channel)


async def test_many_requests_on_one_session_are_each_answered_exactly(
    running: RunningService, talk: Talk
) -> None:
    prompts = {
        number: f"{number}: \u20ac\U0001f600 " * (1 + number % 7) for number in range(1, 301)
    }
    for number, prompt in prompts.items():
        request = pb.GenerateRequest(text=prompt, client_request_id=f"mine {number}")
        await talk.start(number, request)
    await talk.end()
    for number, prompt in prompts.items():
        answer = talk.told[number].answer
        assert answer.text == prompt
        assert answer.token_ids == [*prompt.encode(), END_OF_TEXT]
        assert answer.end.reason == pb.FINISH_REASON_STOP
        assert answer.started is not None
        assert answer.started.client_request_id == f"mine {number}"
        assert answer.end.usage.completion_tokens == len(prompt.encode()) + 1
    assert len({told.answer.stream_id for told in talk.told.values()}) == 300
    assert talk.rejected == []
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STOP) == running.counted == 300


async def test_a_step_is_at_most_one_message_however_many_requests_it_moves_on(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    for number in range(1, 51):
        await talk.start(number, ENDLESS)
    for number in range(1, 51):
        await talk.started(number)
    for step in range(1, 41):
        stepped.engine.step()
        frame = await talk.frame()
        assert frame is not None
        assert sorted(frame.deltas.ids) == list(range(1, 51))
        assert {told.upto for told in talk.told.values()} == {step}
    assert talk.frames_with_tokens == 40


async def test_what_comes_while_the_caller_does_not_read_is_merged(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    await talk.start(1, "x" * 500)
    await talk.started(1)
    for _ in range(501):
        stepped.engine.step()
    answer = await talk.answer(1)
    assert answer.text == "x" * 500
    assert talk.frames_with_tokens <= 3


@pytest.mark.parametrize("again", [1, 2, 3])
async def test_a_second_start_with_an_id_that_does_not_grow_is_rejected_and_the_first_goes_on(
    stepped: RunningService, stepped_talk: Talk, again: int
) -> None:
    talk = stepped_talk
    for number in (2, 3):
        await talk.start(number, "abc")
        await talk.started(number)
    stepped.engine.step()
    await talk.start(again, "something else", expected=False)
    await talk.until(lambda: len(talk.rejected) == 1)
    number, action, why = talk.rejected[0]
    assert (number, action, why.reason) == (again, "start", "ID_NOT_NEW")
    assert why.code is grpc.StatusCode.ALREADY_EXISTS
    for _ in range(3):
        stepped.engine.step()
    assert (await talk.answer(2)).text == "abc"
    assert (await talk.answer(3)).text == "abc"
    assert stepped.engine.submitted == 2
    await talk.end()


async def test_id_zero_is_no_id(running: RunningService, talk: Talk) -> None:
    await talk.start(0, "a", expected=False)
    await talk.until(lambda: len(talk.rejected) == 1)
    assert talk.rejected[0][2].reason == "ID_NOT_NEW"
    await talk.start(2**32 - 1, "a")
    assert (await talk.answer(2**32 - 1)).text == "a"
    await talk.end()
    assert running.engine.submitted == 1


async def test_a_resume_with_an_id_that_does_not_grow_is_rejected(talk: Talk) -> None:
    await talk.start(5, "abc")
    await talk.answer(5)
    resume = pb.SessionResume(id=5, request=pb.ResumeRequest(stream_id="any"))
    await talk.call.write(pb.SessionRequest(resume=resume))
    await talk.until(lambda: len(talk.rejected) == 1)
    assert talk.rejected[0][:2] == (5, "resume")
    await talk.end()


@pytest.mark.parametrize("action", ["cancel", "credit", "close"])
@pytest.mark.parametrize("which", ["never started", "ended"])
async def test_a_message_for_an_id_that_is_not_running_is_rejected_for_that_id_alone(
    running: RunningService, talk: Talk, action: str, which: str
) -> None:
    await talk.start(1, "abc")
    await talk.answer(1)
    await talk.start(2, ENDLESS)
    await talk.started(2)
    number = 7 if which == "never started" else 1
    match action:
        case "cancel":
            await talk.cancel(number)
        case "close":
            await talk.close(number)
        case _:
            await talk.grant({2: 1, number: 10})
    await talk.until(lambda: len(talk.rejected) == 1)
    got, kind, why = talk.rejected[0]
    assert (got, kind, why.reason) == (number, action, "ID_UNKNOWN")
    assert why.code is grpc.StatusCode.NOT_FOUND
    assert (await talk.answer(2)).text == "ab" * 500
    await talk.end()


async def test_a_message_without_an_action_is_rejected_and_the_session_goes_on(talk: Talk) -> None:
    await talk.say_nothing()
    await talk.until(lambda: len(talk.rejected) == 1)
    number, action, why = talk.rejected[0]
    assert (number, action, why.reason) == (0, "none", "ACTION_MISSING")
    assert why.code is grpc.StatusCode.INVALID_ARGUMENT
    await talk.start(1, "abc")
    assert (await talk.answer(1)).text == "abc"
    await talk.end()


async def test_a_batch_is_followed_message_by_message_in_its_order(talk: Talk) -> None:
    talk.begin_batch()
    await talk.start(1, "one")
    await talk.start(2, "two")
    await talk.cancel(9)
    await talk.say(pb.SessionRequest(batch=pb.SessionBatch()))
    await talk.send_batch()
    assert (await talk.answer(1)).text == "one"
    assert (await talk.answer(2)).text == "two"
    await talk.until(lambda: len(talk.rejected) == 2)
    # A batch in a batch is no action.
    assert [(number, action) for number, action, _ in talk.rejected] == [(9, "cancel"), (0, "none")]
    await talk.end()


async def test_five_thousand_messages_that_cannot_be_followed_are_each_told(talk: Talk) -> None:
    for number in range(1, 5001):
        await talk.cancel(number)
        if number % 500 == 0:
            await talk.until(lambda upto=number: len(talk.rejected) == upto)  # type: ignore[misc]
    await talk.end()
    assert [number for number, _, _ in talk.rejected] == list(range(1, 5001))


async def test_a_cancel_in_the_session_delivers_what_was_decoded_and_a_finish(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    for number in (1, 2):
        await talk.start(number, ENDLESS)
        await talk.started(number)
    for _ in range(5):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 10)
    await talk.cancel(1)
    answer = await talk.answer(1)
    assert answer.text == "ababa"
    assert answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert answer.end.usage.completion_tokens == 5
    await eventually(lambda: len(stepped.engine.running_ids) == 1)
    stepped.engine.step()
    assert (await talk.tokens(2, 6)).text == "ababab"
    assert stepped.count(Outcome.CANCELLED) == stepped.counted == 1


async def test_a_cancel_right_behind_its_start_ends_the_request(
    running: RunningService, talk: Talk
) -> None:
    for number in range(1, 51):
        await talk.start(number, ENDLESS)
        await talk.cancel(number)
    await talk.end()
    ends = [told.answer.end.reason for told in talk.told.values()]
    assert ends == [pb.FINISH_REASON_CANCELLED] * 50
    await eventually(lambda: running.idle)
    assert running.count(Outcome.CANCELLED) == running.counted == 50


async def test_the_cancel_call_ends_a_request_of_a_session(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    await stepped_talk.start(1, ENDLESS)
    await stepped.cancel(await stepped_talk.started(1))
    assert (await stepped_talk.answer(1)).end.reason == pb.FINISH_REASON_CANCELLED


async def test_a_close_in_the_session_ends_the_decoding_and_nothing_more_comes(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    for number in (1, 2):
        await talk.start(number, ENDLESS)
        await talk.started(number)
    stepped.engine.step()
    await talk.tokens(1, 1)
    await talk.close(1)
    await talk.settled()
    await eventually(lambda: len(stepped.engine.running_ids) == 1)
    before = talk.told[1].upto
    stepped.engine.step()
    await talk.tokens(2, 2)
    assert talk.told[1].upto == before
    assert not talk.told[1].ended
    assert stepped.count(Outcome.DISCONNECTED) == stepped.counted == 1


async def test_a_close_right_behind_its_start_leaves_nothing(
    running: RunningService, talk: Talk
) -> None:
    for number in range(1, 51):
        await talk.start(number, ENDLESS)
        await talk.close(number)
    await talk.end()
    assert talk.rejected == []
    await eventually(lambda: running.idle)
    assert running.count(Outcome.DISCONNECTED) == running.counted


async def test_a_close_of_a_detaching_request_leaves_it_to_be_read_on(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    await talk.start(1, DETACHING)
    stream_id = await talk.started(1)
    stepped.engine.step()
    await talk.tokens(1, 1)
    await talk.close(1)
    await eventually(lambda: stepped.service.directory.detached == 1)
    stepped.engine.step()
    await talk.resume(2, stream_id, 1)
    assert (await talk.tokens(2, 1)).text == "b"
    await talk.cancel(2)
    assert (await talk.answer(2)).end.usage.completion_tokens == 2
    await talk.end()


async def test_after_the_half_close_the_session_ends_with_its_last_request(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    for number, prompt in enumerate(("a", "abcdef"), 1):
        await talk.start(number, prompt)
    await talk.half_close()
    for number in (1, 2):
        await talk.started(number)
    for _ in range(2):
        stepped.engine.step()
    assert (await talk.answer(1)).text == "a"
    for _ in range(5):
        stepped.engine.step()
    while await talk.frame() is not None:
        pass
    assert talk.told[2].answer.text == "abcdef"
    assert await talk.call.code() is grpc.StatusCode.OK


async def test_a_session_without_any_request_ends_with_ok(talk: Talk) -> None:
    await talk.end()
    assert talk.frames == 0


async def test_a_session_whose_call_is_cancelled_ends_or_detaches_each_request_as_it_asked(
    stepped: RunningService, stepped_talk: Talk
) -> None:
    talk = stepped_talk
    for number in range(1, 21):
        await talk.start(number, DETACHING if number % 4 == 0 else ENDLESS)
    ids = {number: await talk.started(number) for number in range(1, 21)}
    stepped.engine.step()
    await talk.tokens(20, 1)
    talk.call.cancel()
    detached = {ids[number] for number in range(4, 21, 4)}
    await eventually(lambda: set(stepped.engine.running_ids) == detached)
    assert stepped.service.directory.detached == 5
    assert stepped.service.gate.held == 5
    assert stepped.count(Outcome.DISCONNECTED) == stepped.counted == 15


async def test_a_session_whose_connection_is_lost_leaves_nothing(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None, max_running=2))
    channel = running.connect()
    talk = Talk.over(channel)
    for number in range(1, 11):
        await talk.start(number, ENDLESS)
    await talk.started(10)
    await channel.close()
    await eventually(lambda: running.idle)
    assert running.count(Outcome.DISCONNECTED) == running.counted == 10
    await eventually(lambda: running.service.generation_servicer.sessions_open == 0)


async def test_sessions_on_one_connection_have_ids_of_their_own(running: RunningService) -> None:
    talks = [Talk.over(running.channel) for _ in range(10)]
    for number, talk in enumerate(talks):
        await talk.start(1, f"session {number}")
    await asyncio.gather(*(talk.end() for talk in talks))
    assert [t.told[1].answer.text for t in talks] == [f"session {n}" for n in range(10)]
