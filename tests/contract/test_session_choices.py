"""Several choices for a request of a session."""

import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.several import endless, several, texts_of
from tests.contract.talk import Talk
from tests.service.running import RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb


async def test_requests_with_one_and_with_several_choices_share_a_session(
    running: RunningService,
) -> None:
    talk = Talk.over(running.connect())
    await talk.start(1, "alone")
    await talk.start(2, several(3))
    await talk.start(3, several(16, "of many choices"))
    await talk.start(4, "alone again")
    assert (await talk.answer(1)).text == "alone"
    for request_id, n, text in (2, 3, "abcdef"), (3, 16, "of many choices"):
        choices = await talk.choices(request_id)
        assert [choice.text for choice in choices] == texts_of(n, text)
        assert [choice.end.choice_index for choice in choices] == list(range(n))
    assert (await talk.answer(4)).text == "alone again"
    await talk.end()
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STOP) == running.counted == 1 + 3 + 16 + 1


async def test_the_choices_of_a_step_come_in_one_frame(stepped: RunningService) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(5))
    await talk.started(1)
    before = talk.frames
    for _ in range(3):
        stepped.engine.step()
        count = talk.told[1].answer.count
        await talk.tokens(1, count + 1)
    assert talk.frames == before + 3
    assert [choice.text for choice in talk.told[1].choices] == ["abc", "bcd", "cde", "def", "efe"]


async def test_credit_holds_for_each_choice_alike(stepped: RunningService) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(3, credit=2))
    await talk.started(1)
    for _ in range(10):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 30)
    await talk.settled()
    assert [choice.count for choice in talk.told[1].choices] == [2, 2, 2]
    await talk.grant({1: 7})
    await talk.until(lambda: all(choice.count == 7 for choice in talk.told[1].choices))
    await talk.grant({1: 5})  # less changes nothing
    await talk.settled()
    assert [choice.count for choice in talk.told[1].choices] == [7, 7, 7]
    assert talk.told[1].answer.text == "abcdefa"


async def test_an_end_waits_for_each_choices_own_credit(running: RunningService) -> None:
    talk = Talk.over(running.connect())
    # Their answers have 4, 3 and 2 tokens with the end of text.
    await talk.start(1, several(3, "abc", stream={"credit": 2}))
    await talk.until(lambda: talk.told[1].choices[2].finished is not None)
    await talk.settled()
    assert [c.count for c in talk.told[1].choices] == [2, 2, 2]
    assert not talk.told[1].ended
    await talk.grant({1: 3})
    await talk.until(lambda: talk.told[1].choices[1].finished is not None)
    assert talk.told[1].answer.finished is None
    await talk.grant({1: 4})
    assert [c.text for c in await talk.choices(1)] == ["abc", "bc", "c"]


async def test_credit_that_comes_while_the_request_is_opened_holds_for_each_choice(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(2, credit=0))
    await talk.grant({1: 3})
    await talk.started(1)
    for _ in range(5):
        stepped.engine.step()
    await talk.until(lambda: all(choice.count == 3 for choice in talk.told[1].choices))
    await talk.settled()
    assert [choice.count for choice in talk.told[1].choices] == [3, 3]


async def test_cancel_ends_all_choices_also_when_the_first_has_ended(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, several(3, "ab", stop=["a"], ignore_eos=True))
    await talk.started(1)
    stepped.engine.step()
    await talk.until(lambda: talk.told[1].answer.finished is not None)
    assert talk.told[1].choices[2].finished is not None  # it has the first one's bytes
    assert talk.told[1].choices[1].finished is None
    await talk.cancel(1)
    choices = await talk.choices(1)
    assert choices[1].end.reason == pb.FINISH_REASON_CANCELLED
    assert choices[1].text == "b"
    await talk.cancel(1)
    await talk.settled()
    assert [action for _, action, _ in talk.rejected] == ["cancel", "none"]
    await talk.end()
    await eventually(lambda: stepped.idle)


async def test_a_cancel_while_the_choices_are_opened_ends_them_all(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(3))
    await talk.cancel(1)
    for choice in await talk.choices(1):
        assert choice.end.reason == pb.FINISH_REASON_CANCELLED
    await eventually(lambda: stepped.idle)


async def test_a_failed_choice_fails_the_request_once_and_nobody_else(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(4))
    await talk.start(2, several(2, "ok"))
    stream_id = await talk.started(1)
    await talk.started(2)
    stepped.engine.step()
    await talk.tokens(1, 1)
    stepped.engine.break_request(f"{stream_id}~3")
    stepped.engine.step()
    failure = await talk.failure(1)  # a second one would not be taken
    assert failure.code is grpc.StatusCode.INTERNAL
    await eventually(lambda: len(stepped.engine.running_ids) <= 2)
    stepped.engine.step()
    assert [choice.text for choice in await talk.choices(2)] == ["ok", "k"]
    await talk.end()
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.FAILED) == 4


async def test_a_request_whose_choices_wait_for_credit_too_long_has_stalled_once(
    serve: Serve,
) -> None:
    running = await serve(stall_limit_s=0.3)
    talk = Talk.over(running.connect())
    await talk.start(1, endless(3, credit=2))
    failure = await talk.failure(1)
    assert failure.reason == "STREAM_STALLED"
    await talk.end()
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STALLED) == running.counted == 3


@pytest.mark.parametrize("how", ["close", "call"])
async def test_closing_a_request_or_the_call_ends_all_its_choices(
    stepped: RunningService, how: str
) -> None:
    talk = Talk.over(stepped.connect())
    await talk.start(1, endless(3))
    await talk.started(1)
    stepped.engine.step()
    await talk.tokens(1, 1)
    if how == "close":
        await talk.close(1)
        await eventually(lambda: stepped.idle)
        await talk.settled()
        assert not talk.told[1].ended
        await talk.end()
    else:
        talk.call.cancel()
        await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DISCONNECTED) == stepped.counted == 3


async def test_a_gate_with_too_few_places_refuses_the_whole_request(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=3)
    talk = Talk.over(running.connect())
    await talk.start(1, endless(2))
    await talk.started(1)
    await talk.start(2, endless(2))
    failure = await talk.failure(2)
    assert failure.reason == "TOO_MANY_STREAMS"
    assert running.service.gate.held == 2
    talk.call.cancel()
    await eventually(lambda: running.idle)
