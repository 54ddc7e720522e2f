import pytest

from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.service.running import RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb


def with_credit(text: str, credit: int, **stream: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, stream=pb.StreamOptions(credit=credit, **stream))  # type: ignore[arg-type]


@pytest.fixture
async def talk(stepped: RunningService) -> Talk:
    return Talk.over(stepped.channel)


async def decoded(stepped: RunningService, steps: int) -> None:
    """Let so many steps pass and arrive."""
    expected = stepped.tokens_routed + steps * len(stepped.engine.running_ids)
    for _ in range(steps):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == expected)


async def test_no_more_tokens_come_than_were_granted_and_a_grant_lets_them_go_on(
    stepped: RunningService, talk: Talk
) -> None:
    await talk.start(1, with_credit("x" * 50, 3))
    await talk.started(1)
    await decoded(stepped, 20)
    await talk.tokens(1, 3)
    for limit in (4, 9, 20):
        await talk.settled()  # whatever could have come has come; the check is in `Talk`
        assert talk.told[1].upto == talk.told[1].most
        await talk.grant({1: limit})
        await talk.tokens(1, limit)
    await talk.grant({1: 40})
    await decoded(stepped, 15)
    await talk.tokens(1, 35)
    await decoded(stepped, 10)
    await talk.tokens(1, 40)
    await talk.settled()
    assert talk.told[1].upto == 40
    await talk.grant({1: 1000})
    await stepped_to_the_end(stepped)
    assert (await talk.answer(1)).text == "x" * 50
    await talk.end()


async def stepped_to_the_end(stepped: RunningService) -> None:
    while stepped.engine.running_ids:
        stepped.engine.step()


async def test_with_credit_zero_only_the_start_comes_until_something_is_granted(
    stepped: RunningService, talk: Talk
) -> None:
    await talk.start(1, with_credit("abc", 0))
    await talk.started(1)
    await stepped_to_the_end(stepped)
    await talk.settled()
    assert talk.told[1].upto == 0
    assert not talk.told[1].ended
    await talk.grant({1: 2})
    assert (await talk.tokens(1, 2)).text == "ab"
    await talk.settled()
    assert not talk.told[1].ended
    await talk.grant({1: 4})
    assert (await talk.answer(1)).text == "abc"
    await talk.end()


async def test_the_end_of_an_answer_that_fits_its_credit_exactly_needs_no_grant(
    stepped: RunningService, talk: Talk
) -> None:
    await talk.start(1, with_credit("abc", 4))
    await talk.started(1)
    await stepped_to_the_end(stepped)
    assert (await talk.answer(1)).text == "abc"
    await talk.end()


async def test_repeated_and_lower_grants_do_no_harm(stepped: RunningService, talk: Talk) -> None:
    await talk.start(1, with_credit("x" * 30, 5))
    await talk.started(1)
    await stepped_to_the_end(stepped)
    for limit in (0, 1, 5, 5, 4):
        await talk.grant({1: limit})
    await talk.settled()
    assert talk.told[1].upto == 5
    for limit in (10, 10, 3, 10, 9):
        await talk.grant({1: limit})
    await talk.settled()
    assert talk.told[1].upto == 10
    await talk.grant({1: 2**32 - 1})
    assert (await talk.answer(1)).text == "x" * 30
    await talk.end()
    assert {action for _, action, _ in talk.rejected} == {"none"}


async def test_a_grant_right_behind_its_start_counts(stepped: RunningService, talk: Talk) -> None:
    await talk.start(1, with_credit("x" * 30, 0))
    await talk.grant({1: 7})
    await talk.grant({1: 6})
    await talk.started(1)
    await decoded(stepped, 20)
    await talk.tokens(1, 7)
    await talk.settled()
    assert talk.told[1].upto == 7


async def test_one_grant_for_many_requests_reaches_each_of_them(
    stepped: RunningService, talk: Talk
) -> None:
    for number in range(1, 101):
        await talk.start(number, with_credit("x" * 20, number % 3))
    await talk.started(100)
    await decoded(stepped, 10)
    await talk.grant({number: 3 + number % 5 for number in range(1, 101)})
    await talk.until(lambda: all(told.upto == told.most for told in talk.told.values()))
    await talk.settled()
    assert [talk.told[number].upto for number in range(1, 101)] == [
        3 + number % 5 for number in range(1, 101)
    ]


async def test_credit_counts_from_where_a_stream_is_read_on(
    stepped: RunningService, talk: Talk
) -> None:
    request = with_credit("x" * 20, 20)
    request.stream.on_disconnect = pb.ON_DISCONNECT_DETACH
    await talk.start(1, request)
    stream_id = await talk.started(1)
    await stepped_to_the_end(stepped)
    await talk.tokens(1, 20)
    await talk.close(1)
    await talk.resume(2, stream_id, 5, credit=3)
    await talk.tokens(2, 3)
    await talk.settled()
    assert talk.told[2].upto == 8
    await talk.grant({2: 21})
    answer = await talk.answer(2)
    assert answer.first + len(answer.token_ids) == 21


async def test_lists_of_different_lengths_are_rejected_and_grant_nothing(
    stepped: RunningService, talk: Talk
) -> None:
    for number in (1, 2):
        await talk.start(number, with_credit("x" * 20, 0))
        await talk.started(number)
    await decoded(stepped, 5)
    talk.told[1].most = 2
    credit = pb.SessionCredit(ids=[1, 2], token_limits=[2])
    await talk.call.write(pb.SessionRequest(credit=credit))
    await talk.settled()
    assert [(id_, action) for id_, action, _ in talk.rejected][:1] == [(0, "credit")]
    assert talk.told[1].upto == talk.told[2].upto == 0


async def test_requests_without_credit_are_not_held_up_by_one_that_has_none_left(
    stepped: RunningService, talk: Talk
) -> None:
    await talk.start(1, with_credit("x" * 30, 0))
    await talk.start(2, "y" * 30)
    await talk.started(2)
    await stepped_to_the_end(stepped)
    assert (await talk.answer(2)).text == "y" * 30
    await talk.cancel(1)
    await talk.grant({1: 1000})
    assert (await talk.answer(1)).text == "x" * 30
    await talk.end()


async def test_a_cancelled_request_without_credit_has_its_end_once_its_tokens_are_granted(
    stepped: RunningService, talk: Talk
) -> None:
    await talk.start(1, with_credit("x" * 30, 2))
    await talk.started(1)
    await decoded(stepped, 10)
    await talk.tokens(1, 2)
    await talk.cancel(1)
    await eventually(lambda: not stepped.engine.running_ids)
    await talk.grant({1: 10})
    answer = await talk.answer(1)
    assert answer.text == "x" * 10
    assert answer.end.reason == pb.FINISH_REASON_CANCELLED
    await talk.end()
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.CANCELLED) == stepped.counted == 1


async def test_delay_and_message_size_hold_inside_the_credit(
    stepped: RunningService, talk: Talk
) -> None:
    request = with_credit("x" * 40, 25, max_delay_ms=1000, max_tokens_per_message=10)
    await talk.start(1, request)
    await talk.started(1)
    await decoded(stepped, 1)
    await talk.tokens(1, 1)  # the first goes alone, at once
    await decoded(stepped, 39)
    await talk.tokens(1, 25)
    sizes = [len(delta.token_ids) for delta in talk.told[1].answer.deltas]
    assert max(sizes) <= 10
    await talk.grant({1: 41})
    await stepped_to_the_end(stepped)
    assert (await talk.answer(1)).text == "x" * 40
    await talk.end()


@pytest.mark.parametrize("detach", [False, True])
async def test_tokens_are_exact_behind_a_grant_that_came_when_one_more_waited(
    stepped: RunningService, talk: Talk, detach: bool
) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    request = with_credit(text, 4, max_delay_ms=0)
    if detach:
        request.stream.on_disconnect = pb.ON_DISCONNECT_DETACH
    await talk.start(1, request)
    await talk.started(1)
    await decoded(stepped, 5)
    await talk.tokens(1, 4)
    await talk.grant({1: 1000})
    await talk.tokens(1, 5)
    for count in (1, 2, 3, 1, 1, 4):
        await decoded(stepped, count)
        await talk.tokens(1, stepped.tokens_routed)
    await stepped_to_the_end(stepped)
    assert (await talk.answer(1)).text == text
    await talk.end()


@pytest.mark.parametrize("most", [1, 2, 3, 7])
async def test_tokens_are_exact_however_many_a_message_may_have(
    stepped: RunningService, talk: Talk, most: int
) -> None:
    text = "abcdefghijklmnopqrstuvwxyz" * 3
    stream = pb.StreamOptions(max_delay_ms=0, max_tokens_per_message=most)
    await talk.start(1, pb.GenerateRequest(text=text, stream=stream))
    await talk.started(1)
    for number in range(30):
        await decoded(stepped, 1 + number % 4)
    await stepped_to_the_end(stepped)
    assert (await talk.answer(1)).text == text
    assert max(len(delta.token_ids) for delta in talk.told[1].answer.deltas) <= most
    await talk.end()
