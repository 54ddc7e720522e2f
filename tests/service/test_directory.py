import pytest

from service.errors import StreamNotFound, StreamStalled
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import (
    STALL_LIMIT_S,
    TIME_TO_LIVE_S,
    Generations,
    push,
    stream_of,
)
from tests.stream.by_hand import STOP, NotedSink
from tests.stream.taken import taken


@pytest.fixture
def generations(clock: FakeClock) -> Generations:
    return Generations(clock)


def sweep_after(generations: Generations, seconds: float) -> None:
    generations.clock.now += seconds
    generations.directory.sweep(generations.clock.now)


def found(generations: Generations, stream_id: str, tenant: str = "t") -> bool:
    try:
        return generations.directory.find(stream_id, tenant).stream_id == stream_id
    except StreamNotFound:
        return False


def running(generations: Generations, stream_id: str, tenant: str = "t") -> bool:
    try:
        return generations.directory.find_running(stream_id, tenant).stream_id == stream_id
    except StreamNotFound:
        return False


@pytest.mark.parametrize("settled", [False, True])
def test_a_stream_is_found_by_its_own_tenant_alone(generations: Generations, settled: bool) -> None:
    generation = generations.begin("a", detach=True, tenant="one")
    if settled:
        stream_of(generation).push([], STOP)
    assert found(generations, "a", "one")
    for tenant in ("other", "", "One"):
        assert not found(generations, "a", tenant)
        assert not running(generations, "a", tenant)
    assert not found(generations, "b", "one")
    assert running(generations, "a", "one") is not settled


def test_a_stream_that_ends_with_its_reader_runs_but_cannot_be_read_on(
    generations: Generations,
) -> None:
    generation = generations.begin("a")
    assert running(generations, "a")
    assert not found(generations, "a")
    generation.leave(generations.read(generation))
    assert not running(generations, "a")
    assert len(generations.directory) == 0


def test_streams_are_counted_as_read_detached_and_retained(generations: Generations) -> None:
    directory, plain, kept = (
        generations.directory,
        generations.begin("plain"),
        generations.begin("kept", detach=True),
    )
    generations.read(plain)
    reader = generations.read(kept)
    assert (len(directory), directory.detached, directory.retained) == (2, 0, 0)
    generation = directory.find("kept", "t")
    generation.leave(reader)
    assert (len(directory), directory.detached, directory.retained) == (2, 1, 0)
    stream_of(kept).push([97], STOP)
    assert (len(directory), directory.detached, directory.retained) == (2, 0, 1)


def test_tokens_ahead_of_readers_and_credit_in_flight_are_of_running_streams(
    generations: Generations,
) -> None:
    directory = generations.directory
    plain, credited, away = (
        generations.begin("plain"),
        generations.begin("credited", credit=10),
        generations.begin("away", detach=True),
    )
    for generation in (plain, credited, away):
        push(generation, "abcdefgh")
    reader = generations.read(plain)
    taken(reader)
    limited = generations.read(credited)
    taken(limited)
    push(credited, "abcdef")
    taken(limited)  # two of them: the credit is spent
    gone = generations.read(away)
    taken(gone)
    away.leave(gone)
    push(away, "xyz")
    assert (directory.tokens_ahead, directory.credit_in_flight) == (4 + 3, 0)
    limited.grant(17)
    taken(limited)
    assert (directory.tokens_ahead, directory.credit_in_flight) == (3, 3)
    stream_of(credited).push([97], STOP)
    credited.complete()
    assert (directory.tokens_ahead, directory.credit_in_flight) == (3, 0)


def test_a_detached_stream_expires_when_its_time_to_live_has_passed_and_not_before(
    generations: Generations,
) -> None:
    generation = generations.begin("a", detach=True)
    generation.leave(generations.read(generation))
    sweep_after(generations, TIME_TO_LIVE_S - 0.1)
    assert found(generations, "a")
    sweep_after(generations, 0.2)
    assert not found(generations, "a")
    assert generations.settled == [("a", Outcome.EXPIRED)]
    assert generations.given_back == ["a"]
    assert len(generations.directory) == 0


def test_a_reader_that_comes_back_in_time_keeps_the_stream_for_as_long_as_it_reads(
    generations: Generations,
) -> None:
    generation = generations.begin("a", detach=True)
    generation.leave(generations.read(generation))
    sweep_after(generations, TIME_TO_LIVE_S - 1)
    reader = generations.read(generation)
    sweep_after(generations, 10 * TIME_TO_LIVE_S)
    assert found(generations, "a")
    generation.leave(reader)
    sweep_after(generations, TIME_TO_LIVE_S - 1)
    assert found(generations, "a")
    sweep_after(generations, 2)
    assert not found(generations, "a")


def test_a_stream_that_ended_is_kept_for_its_time_to_live_after_that(
    generations: Generations,
) -> None:
    generation = generations.begin("a", detach=True)
    generation.leave(generations.read(generation))
    sweep_after(generations, TIME_TO_LIVE_S - 1)
    stream_of(generation).push([97], STOP)
    sweep_after(generations, TIME_TO_LIVE_S - 1)
    assert found(generations, "a")
    sweep_after(generations, 2)
    assert not found(generations, "a")
    assert generations.settled == [("a", Outcome.STOP)]


def test_a_stream_that_was_read_to_its_end_is_kept_for_its_time_to_live(
    generations: Generations,
) -> None:
    generation = generations.begin("a", detach=True)
    reader = generations.read(generation)
    stream_of(generation).push([97], STOP)
    taken(reader)
    generation.complete()
    sweep_after(generations, 10 * TIME_TO_LIVE_S)
    assert found(generations, "a"), "its reader is still there"
    generation.leave(reader)
    sweep_after(generations, TIME_TO_LIVE_S - 1)
    assert found(generations, "a")
    sweep_after(generations, 2)
    assert len(generations.directory) == 0


@pytest.mark.parametrize("settled", [False, True])
def test_a_reader_that_takes_nothing_is_broken_off_and_its_stream_lives_on_without_it(
    generations: Generations, settled: bool
) -> None:
    generation, sink = generations.begin("a", detach=True), NotedSink()
    push(generation, "abc")
    if settled:
        stream_of(generation).push([97], STOP)
    reader = generations.read(generation, sink)
    sweep_after(generations, 1)
    sweep_after(generations, STALL_LIMIT_S - 0.1)
    assert sink.broken == []
    sweep_after(generations, 0.2)
    sweep_after(generations, 1)
    assert [type(why) for _, why in sink.broken] == [StreamStalled]
    generation.leave(reader)
    assert found(generations, "a")
    assert generations.settled == ([("a", Outcome.STOP)] if settled else [])


def test_a_stalled_reader_ends_a_stream_that_cannot_be_resumed(generations: Generations) -> None:
    generation = generations.begin("a")
    reader = generations.read(generation)
    push(generation, "abc")
    sweep_after(generations, 1)
    sweep_after(generations, STALL_LIMIT_S)
    assert isinstance(reader.broken, StreamStalled)
    generation.leave(reader)
    assert generations.settled == [("a", Outcome.STALLED)]


def test_a_stream_that_nobody_has_begun_to_read_is_left_alone(generations: Generations) -> None:
    generations.begin("a")
    generations.begin("b", detach=True)
    sweep_after(generations, 1000)
    assert running(generations, "a")
    assert running(generations, "b")


@pytest.mark.parametrize("most", [0, 1, 3])
def test_of_too_many_that_have_settled_the_oldest_go_first(clock: FakeClock, most: int) -> None:
    generations = Generations(clock, most_retained=most)
    for number in range(5):
        stream_of(generations.begin(str(number), detach=True)).push([97], STOP)
    assert generations.directory.retained == most
    kept = [str(number) for number in range(5) if found(generations, str(number))]
    assert kept == [str(number) for number in range(5 - most, 5)]


def test_a_tenant_that_keeps_most_makes_room_for_the_others(clock: FakeClock) -> None:
    generations = Generations(clock, most_retained=4)
    stream_of(generations.begin("mine", detach=True, tenant="mine")).push([97], STOP)
    for number in range(20):
        name = str(number)
        stream_of(generations.begin(name, detach=True, tenant="other")).push([97], STOP)
    assert generations.directory.retained == 4
    assert generations.directory.find("mine", "mine").stream_id == "mine"
    assert generations.directory.find("19", "other").stream_id == "19"


def test_streams_that_run_are_not_among_those_that_have_a_bound(clock: FakeClock) -> None:
    generations = Generations(clock, most_retained=1)
    for number in range(5):
        generations.begin(str(number), detach=True)
    assert all(running(generations, str(number)) for number in range(5))


def test_many_expire_in_one_sweep(generations: Generations) -> None:
    for number in range(10):
        generation = generations.begin(str(number), detach=True)
        generation.leave(generations.read(generation))
        if number % 2:
            stream_of(generation).push([97], STOP)
    sweep_after(generations, TIME_TO_LIVE_S + 1)
    assert len(generations.directory) == 0
    assert len(generations.settled) == 10


def test_a_reader_of_a_stream_that_had_to_make_room_can_stall_too(clock: FakeClock) -> None:
    generations = Generations(clock, most_retained=1)
    first = generations.begin("first", detach=True)
    push(first, "abc")
    stream_of(first).push([97], STOP)
    reader = generations.read(first)
    stream_of(generations.begin("second", detach=True)).push([97], STOP)
    sweep_after(generations, 1)
    sweep_after(generations, STALL_LIMIT_S + 1)
    assert reader.closed


def test_a_stream_that_settled_before_anybody_knew_of_it_is_not_kept(
    generations: Generations,
) -> None:
    generations.begin("a", detach=True, began=False).settle(Outcome.UNAVAILABLE)
    sweep_after(generations, 10 * TIME_TO_LIVE_S)
    assert len(generations.directory) == 0


def test_a_reader_is_not_blamed_for_a_time_in_which_the_service_did_not_run(
    generations: Generations,
) -> None:
    generation = generations.begin()
    reader = generations.read(generation)
    push(generation, "abc")
    sweep_after(generations, 1)
    pause_s = 10 * STALL_LIMIT_S
    generations.clock.now += pause_s + 1
    generations.directory.sweep(generations.clock.now, forgiven_s=pause_s)
    assert not reader.closed
    sweep_after(generations, STALL_LIMIT_S)
    assert reader.closed
