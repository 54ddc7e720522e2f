from collections.abc import Callable

import pytest

from service.domain import (
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    TextPrompt,
    Timings,
    Usage,
)
from service.errors import (
    DeadlineExceeded,
    EngineDead,
    PositionOutOfRange,
    RequestFailed,
    ServiceStopping,
    StreamStalled,
    StreamTakenOver,
)
from service.generation import Generation
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import Generations, push, stream_of
from tests.stream.by_hand import LENGTH, STOP, NotedSink
from tests.stream.taken import taken


@pytest.fixture
def generations(clock: FakeClock) -> Generations:
    return Generations(clock)


DETACH = pytest.mark.parametrize("detach", [False, True], ids=["end", "detach"])


# -- an end that its reader is given -------------------------------------------------------------


@DETACH
def test_a_stream_that_is_read_to_its_end_settles_once_with_that_end(
    generations: Generations, detach: bool
) -> None:
    generation = generations.begin(detach=detach)
    reader = generations.read(generation)
    push(generation, "ab")
    taken(reader)
    stream_of(generation).push([], LENGTH)
    assert generations.settled == [], "the reader has not been given it"
    taken(reader)
    generation.complete()
    generation.leave(reader)
    generation.settle(Outcome.FAILED)
    stream_of(generation).cancel()
    assert generations.settled == [("s", Outcome.LENGTH)]
    assert generations.given_back == ["s"]
    assert generation.delivered == 2


def test_the_events_tell_what_was_asked_for_and_what_came_of_it(
    generations: Generations, clock: FakeClock
) -> None:
    generation = generations.begin()
    reader = generations.read(generation)
    assert generation.started() == Started("s", "m", 3, "mine")
    stream_of(generation).cached_prompt_tokens = 2
    clock.now += 0.5
    push(generation, "a")
    clock.now += 0.5
    stream_of(generation).push([98], STOP)
    taken(reader)
    clock.now += 0.5
    generation.complete()
    clock.now += 0.5
    assert generation.finished() == Finished(STOP, Usage(3, 2, 2), Timings(0.5, 1.5))


def test_without_a_token_there_is_no_time_to_it(generations: Generations) -> None:
    generation = generations.begin()
    generations.read(generation)
    stream_of(generation).cancel()
    generation.complete()
    assert generation.time_to_first_token_s is None
    assert generation.finished().timings.time_to_first_token_s is None


# -- every way of leaving without it -------------------------------------------------------------

Ending = Callable[[Generation], object]

# What had happened to the stream when its reader left, and how the request is counted then: where
# it ends with its reader, where it detaches.
LEFT: dict[str, tuple[Ending, Outcome, Outcome | None]] = {
    "nothing": (lambda g: None, Outcome.DISCONNECTED, None),
    "engine": (lambda g: stream_of(g).push([], STOP), Outcome.DISCONNECTED, Outcome.STOP),
    "cancel": (lambda g: stream_of(g).cancel(), Outcome.CANCELLED, Outcome.CANCELLED),
    "failed": (lambda g: stream_of(g).fail(RequestFailed()), Outcome.FAILED, Outcome.FAILED),
    "deadline": (
        lambda g: stream_of(g).fail(DeadlineExceeded()),
        Outcome.DEADLINE,
        Outcome.DEADLINE,
    ),
    "stopping": (
        lambda g: stream_of(g).fail(ServiceStopping()),
        Outcome.STOPPING,
        Outcome.STOPPING,
    ),
    "dead": (lambda g: stream_of(g).fail(EngineDead()), Outcome.UNAVAILABLE, Outcome.UNAVAILABLE),
    "stall": (lambda g: break_off(g), Outcome.STALLED, None),
    "cancel and stall": (
        lambda g: (stream_of(g).cancel(), break_off(g)),
        Outcome.CANCELLED,
        Outcome.CANCELLED,
    ),
    "engine and stall": (
        lambda g: (stream_of(g).push([], STOP), break_off(g)),
        Outcome.STALLED,
        Outcome.STOP,
    ),
    "failed and stall": (
        lambda g: (stream_of(g).fail(RequestFailed()), break_off(g)),
        Outcome.FAILED,
        Outcome.FAILED,
    ),
}


def break_off(generation: Generation) -> bool:
    assert generation.reader is not None
    generation.reader.break_off(StreamStalled(1))
    return True


@pytest.mark.parametrize(("before", "attached", "detached"), LEFT.values(), ids=LEFT)
def test_a_reader_that_leaves_before_the_end_was_given_to_it(
    generations: Generations, before: Ending, attached: Outcome, detached: Outcome | None
) -> None:
    for detach, outcome in ((False, attached), (True, detached)):
        stream_id = f"detach {detach}"
        generation = generations.begin(stream_id, detach=detach)
        reader = generations.read(generation)
        push(generation, "abc")
        before(generation)
        generation.leave(reader)
        assert generation.outcome is outcome
        assert ((stream_id, outcome) in generations.settled) is (outcome is not None)
        assert (stream_id in generations.given_back) is (outcome is not None)
        assert reader.closed


@pytest.mark.parametrize(
    ("earlier_s", "slack_s", "outcome"),
    [
        (0.0, 0.0, Outcome.DEADLINE),
        (0.5, 0.6, Outcome.DEADLINE),
        (0.5, 0.4, Outcome.DISCONNECTED),
        (-1.0, 0.0, Outcome.DEADLINE),
    ],
)
def test_a_reader_that_leaves_at_its_deadline_or_just_before_has_met_it(
    generations: Generations, clock: FakeClock, earlier_s: float, slack_s: float, outcome: Outcome
) -> None:
    deadline = clock.now + 8.0
    generation = generations.begin(deadline=deadline, deadline_slack_s=slack_s)
    reader = generations.read(generation)
    clock.now = deadline - earlier_s
    generation.leave(reader)
    assert generation.outcome is outcome


def test_only_what_some_reader_has_taken_counts_as_delivered(generations: Generations) -> None:
    generation = generations.begin(detach=True)
    first = generations.read(generation)
    push(generation, "abcd")
    taken(first)
    push(generation, "ef")
    second = generations.read(generation, position=1)
    generation.leave(first)
    generation.leave(second)
    assert generation.delivered == 4


# -- one reader after the other ------------------------------------------------------------------


def test_a_new_reader_breaks_the_old_one_off_and_its_leaving_changes_nothing(
    generations: Generations,
) -> None:
    generation = generations.begin(detach=True)
    sink = NotedSink()
    old = generations.read(generation, sink)
    new = generations.read(generation)
    assert [type(why) for _, why in sink.broken] == [StreamTakenOver]
    generation.leave(old)
    assert generation.reader is new
    assert generation.expires_at is None
    assert generation.outcome is None


@pytest.mark.parametrize("position", [-1, 4, 1000])
def test_a_position_that_the_stream_does_not_have_is_refused_and_the_reader_stays(
    generations: Generations, position: int
) -> None:
    generation = generations.begin(detach=True)
    reader = generations.read(generation)
    push(generation, "abc")
    with pytest.raises(PositionOutOfRange):
        generations.read(generation, position=position)
    assert generation.reader is reader
    assert not reader.closed


def test_what_was_forgotten_cannot_be_read_again(generations: Generations) -> None:
    generation = generations.begin(detach=False)
    reader = generations.read(generation)
    push(generation, "abc")
    taken(reader)
    with pytest.raises(PositionOutOfRange):
        generations.read(generation, position=0)


def test_a_stream_that_ends_while_nobody_reads_settles_with_its_end_and_lives_on_from_then(
    generations: Generations, clock: FakeClock
) -> None:
    generation = generations.begin(detach=True)
    reader = generations.read(generation)
    generation.leave(reader)
    left_at = generation.expires_at
    clock.now += 10
    stream_of(generation).push([97], STOP)
    assert generations.settled == [("s", Outcome.STOP)]
    assert left_at is not None
    assert generation.expires_at == left_at + 10


def test_a_settled_stream_that_is_read_again_expires_later_and_is_counted_once(
    generations: Generations, clock: FakeClock
) -> None:
    generation = generations.begin(detach=True)
    generation.leave(generations.read(generation))
    stream_of(generation).push([97], STOP)
    clock.now += 10
    again = generations.read(generation)
    assert generation.expires_at is None
    assert taken(again) is not None
    assert again.exhausted
    generation.complete()
    clock.now += 10
    generation.leave(again)
    assert generation.expires_at == clock.now + 60
    assert generations.settled == [("s", Outcome.STOP)]


def test_before_its_stream_it_can_settle_and_knows_no_prompt(clock: FakeClock) -> None:
    settled: list[Outcome | None] = []
    request = GenerationRequest(TextPrompt("p"))
    generation = Generation(
        "s", "t", request, clock, lambda g: settled.append(g.outcome), None, 0.0
    )
    assert generation.prompt_tokens == 0
    assert generation.time_to_first_token_s is None
    generation.settle(Outcome.REFUSED)
    assert settled == [Outcome.REFUSED]


def test_a_detaching_stream_that_nobody_was_told_of_ends_with_its_reader(
    generations: Generations,
) -> None:
    generation = generations.begin(detach=True, known=False)
    reader = generations.read(generation)
    generation.leave(reader)
    assert generations.settled == [("s", Outcome.DISCONNECTED)]
    assert len(generations.directory) == 0, "it takes no room either"


def test_it_is_counted_even_if_giving_something_back_fails(generations: Generations) -> None:
    generation = generations.begin()

    def fail() -> None:
        raise RuntimeError("cannot be given back")

    generation.held.callback(fail)
    with pytest.raises(RuntimeError):
        generation.settle(Outcome.FAILED)
    assert generations.settled == [("s", Outcome.FAILED)]
    assert generations.given_back == ["s"]


@DETACH
def test_what_is_left_after_a_cancel_is_its_reason(generations: Generations, detach: bool) -> None:
    generation = generations.begin(detach=detach)
    reader = generations.read(generation)
    push(generation, "a")
    stream_of(generation).cancel()
    taken(reader)
    taken(reader)
    generation.complete()
    assert generation.finished().finish.reason is FinishReason.CANCELLED
    assert generation.outcome is Outcome.CANCELLED
