"""Whoever paces the engine hears how far the reader has come."""

from hypothesis import given
from hypothesis import strategies as st

from service.domain import DeliveryOptions, EngineFinish, FinishReason
from service.stream.pacing import DelayGrid
from service.stream.reader import StreamReader
from service.stream.text import StopRules
from service.stream.token_stream import TokenStream
from tests.conftest import FakeClock
from tests.stream.by_hand import LetterDecoder
from tests.stream.taken import taken

EVERY = 10


class DeafSink:
    """The tests here take when they like."""

    def ready(self, reader: StreamReader) -> None:
        pass

    def broken_off(self, reader: StreamReader) -> None:
        pass


class Told:
    """A stream whose readers' progress is kept."""

    def __init__(self, *, keep_all: bool = False) -> None:
        self.clock = FakeClock()
        self.positions: list[int] = []
        self.stream = TokenStream(
            self.clock,
            keep_all=keep_all,
            on_progress=self.positions.append,
            tell_every=EVERY,
            tell_first=EVERY,
        )

    def read(self, position: int = 0, most: int | None = None) -> StreamReader:
        delivery = DeliveryOptions(max_delay_s=0, max_tokens_per_message=most)
        grid = DelayGrid(self.clock)
        return StreamReader(
            self.stream, position, LetterDecoder(), StopRules(), delivery, grid, DeafSink()
        )

    def push(self, count: int, finish: EngineFinish | None = None) -> None:
        self.stream.push([ord("a")] * count, finish)


def test_it_is_told_every_so_many_tokens_that_were_taken_not_that_came() -> None:
    told = Told()
    reader = told.read()
    told.push(35)
    assert told.positions == []
    taken(reader)
    assert told.positions == [35]
    for _ in range(EVERY - 1):
        told.push(1)
        taken(reader)
    assert told.positions == [35]
    told.push(1)
    taken(reader)
    assert told.positions == [35, 45]


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=40), st.integers(1, 40))
def test_the_engine_never_thinks_a_reader_further_back_than_two_tellings(
    steps: list[tuple[int, bool]], most: int
) -> None:
    told = Told()
    reader = told.read(most=most)
    for count, takes in steps:
        told.push(count)
        while takes and reader.unread:
            taken(reader)
            last = told.positions[-1] if told.positions else 0
            assert reader.position - last < EVERY
    assert told.positions == sorted(told.positions)


def test_a_reader_that_begins_further_back_is_told_at_once() -> None:
    told = Told(keep_all=True)
    reader = told.read()
    told.push(40)
    taken(reader)
    reader.close()
    told.read(5)
    assert told.positions == [40, 5]


def test_after_the_end_nobody_is_told() -> None:
    told = Told(keep_all=True)
    reader = told.read()
    told.push(40, EngineFinish(FinishReason.LENGTH))
    taken(reader)
    told.read(5)
    assert told.positions == []
