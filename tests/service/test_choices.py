from contextlib import ExitStack

import pytest

from service.choices import add_choices, leave_together
from service.domain import GenerationRequest
from service.errors import EngineDead, StreamNotFound, StreamStalled
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import STALL_LIMIT_S, Generations, push, stream_of
from tests.stream.by_hand import LENGTH
from tests.stream.taken import taken


def test_all_choices_have_ids_of_their_own_and_the_requests_arrival(clock: FakeClock) -> None:
    first = Generations(clock).begin("s")
    arrived = clock.now
    clock.now += 3  # it was rendered
    add_choices(first, GenerationRequest(None), [ExitStack(), ExitStack()])
    assert [choice.stream_id for choice in first.choices] == ["s", "s~1", "s~2"]
    assert [choice.choice_index for choice in first.choices] == [0, 1, 2]
    assert {choice.arrived for choice in first.choices} == {arrived}


def test_a_request_is_found_by_its_id_until_its_last_choice_has_settled(clock: FakeClock) -> None:
    generations = Generations(clock)
    directory = generations.directory
    first = generations.begin_several("s", 3)
    first.choices[0].settle(Outcome.STOP)
    first.choices[2].settle(Outcome.STOP)
    assert directory.find_running("s", "t") is first
    for stream_id, tenant in ("s~1", "t"), ("s~2", "t"), ("s", "another"):
        with pytest.raises(StreamNotFound):
            directory.find_running(stream_id, tenant)
    first.choices[1].settle(Outcome.STOP)
    with pytest.raises(StreamNotFound):
        directory.find_running("s", "t")
    assert len(directory) == 0


def test_a_failure_ends_those_that_still_run_and_only_those(clock: FakeClock) -> None:
    generations = Generations(clock)
    first, second, third = generations.begin_several("s", 3).choices
    stream_of(first).push([], LENGTH)
    failure = EngineDead()
    stream_of(second).fail(failure)
    assert stream_of(first).finish is LENGTH
    assert stream_of(first).failure is None
    assert stream_of(third).failure is failure


def test_leaving_together_settles_each_choice_once_by_what_ended_it(clock: FakeClock) -> None:
    generations = Generations(clock)
    choices = generations.begin_several("s", 3).choices
    readers = [generations.read(choice) for choice in choices]
    stream_of(choices[0]).push([], LENGTH)
    assert taken(readers[0]) is None
    choices[0].complete()
    leave_together(choices[1], StreamStalled(1))
    assert generations.settled == [
        ("s", Outcome.LENGTH),
        ("s~1", Outcome.STALLED),
        ("s~2", Outcome.STALLED),
    ]
    assert generations.given_back == ["s", "s~1", "s~2"]
    assert all(reader.closed for reader in readers)


def test_a_choice_without_credit_stalls_only_once_no_other_is_behind_it(clock: FakeClock) -> None:
    generations = Generations(clock)
    directory = generations.directory
    fast, slow = generations.begin_several("s", 2, credit=2).choices
    readers = [generations.read(choice) for choice in (fast, slow)]
    push(fast, "abc")
    assert taken(readers[0]) is not None
    for _ in range(10):  # the slow one waits in the engine's queue
        clock.now += STALL_LIMIT_S / 2
        directory.sweep(clock.now)
    assert readers[0].broken is None
    push(slow, "abc")
    assert taken(readers[1]) is not None
    directory.sweep(clock.now)
    clock.now += STALL_LIMIT_S / 2
    directory.sweep(clock.now)
    assert readers[0].broken is None
    clock.now += STALL_LIMIT_S / 2
    directory.sweep(clock.now)
    assert isinstance(readers[0].broken, StreamStalled)


def test_a_choice_without_credit_does_not_wait_for_one_that_has_ended(clock: FakeClock) -> None:
    generations = Generations(clock)
    directory = generations.directory
    running, ended = generations.begin_several("s", 2, credit=2).choices
    reader, other = [generations.read(choice) for choice in (running, ended)]
    push(running, "abc")
    assert taken(reader) is not None
    stream_of(ended).push([], LENGTH)
    assert taken(other) is None
    ended.complete()
    ended.leave(other)
    directory.sweep(clock.now)
    clock.now += STALL_LIMIT_S
    directory.sweep(clock.now)
    assert isinstance(reader.broken, StreamStalled)
