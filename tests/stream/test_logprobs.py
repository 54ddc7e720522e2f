from array import array

from hypothesis import given
from hypothesis import strategies as st

from service.domain import Delta, LikelyToken, LogprobRows, TokenLogprobs
from service.stream.columns import DeltaColumns
from service.stream.logprobs import LogprobColumn
from service.stream.token_stream import TokenStream
from tests.conftest import FakeClock
from tests.stream.by_hand import LENGTH, ByHand
from tests.stream.taken import taken


def row(token_id: int, width: int) -> tuple[list[int], list[float]]:
    return [token_id, *range(width)], [-0.5, *(-1.0 - i for i in range(width))]


def place(token_id: int, likeliest: int) -> TokenLogprobs:
    others = tuple(LikelyToken(i, -1.0 - i, bytes((i,))) for i in range(likeliest))
    return TokenLogprobs(-0.5, bytes((token_id,)), others)


def one_byte(token_id: int) -> bytes:
    return bytes((token_id,))


class WithLogprobs(ByHand):
    """As `ByHand`, with two of the likeliest for each token; the engine tells five."""

    def __init__(self, clock: FakeClock, *, keep_all: bool = False, **delivery: float) -> None:
        super().__init__(clock, keep_all=keep_all, reading=False)
        self.stream = TokenStream(clock, keep_all=keep_all, logprobs=LogprobColumn(2, one_byte))
        self.read(0, **delivery)

    def step(self, letters: str, *, last: bool = False) -> None:
        rows = [row(ord(letter), 5) for letter in letters]
        self.stream.take_logprobs(LogprobRows([i for i, _ in rows], [p for _, p in rows]))
        self.push(letters, LENGTH if last else None)

    def next(self) -> Delta:
        self.sink.told.clear()
        delta = taken(self.reader)
        assert delta is not None
        return delta


def places(letters: str) -> tuple[TokenLogprobs, ...]:
    return tuple(place(ord(letter), 2) for letter in letters)


def test_they_come_with_their_tokens_and_no_more_of_them_than_were_asked_for(
    clock: FakeClock,
) -> None:
    hand = WithLogprobs(clock)
    hand.step("ab")
    assert hand.next().logprobs == places("ab")
    hand.step("c")
    hand.step("d", last=True)
    assert hand.next().logprobs == places("cd")


def test_what_was_taken_is_forgotten_unless_the_stream_is_kept(clock: FakeClock) -> None:
    for keep_all in (False, True):
        hand = WithLogprobs(clock, keep_all=keep_all)
        hand.step("abc")
        hand.next()
        assert hand.stream.logprobs is not None
        kept = hand.stream.logprobs._ids
        assert kept == (array("I", [97, 0, 1, 98, 0, 1, 99, 0, 1]) if keep_all else array("I"))


def test_a_later_reader_of_a_kept_stream_gets_them_from_its_place_on(clock: FakeClock) -> None:
    hand = WithLogprobs(clock, keep_all=True)
    hand.step("abc")
    hand.next()
    hand.step("d")
    hand.read(1)
    assert hand.next().logprobs == places("bcd")


def test_a_message_takes_no_more_of_them_than_its_share(clock: FakeClock) -> None:
    hand = WithLogprobs(clock, keep_all=True)
    hand.step("x" * 300, last=True)
    taken = [hand.next() for _ in range(3)]
    assert [len(delta.token_ids) for delta in taken] == [128, 128, 44]
    assert [len(delta.logprobs) for delta in taken] == [128, 128, 44]


def test_nothing_is_kept_of_what_comes_behind_the_end(clock: FakeClock) -> None:
    hand = WithLogprobs(clock)
    hand.step("a")
    hand.stream.cancel()
    hand.step("bcd")
    assert hand.stream.logprobs is not None
    assert len(hand.stream.logprobs._ids) == 3


def test_in_columns_they_are_beside_those_of_readers_without(clock: FakeClock) -> None:
    hand, plain = WithLogprobs(clock), ByHand(clock)
    hand.step("ab")
    plain.push("x")
    columns = DeltaColumns()
    plain.reader.take_into(columns)
    hand.reader.take_into(columns)
    assert columns.token_ids == [ord("x"), ord("a"), ord("b")]
    assert columns.logprob_counts == [0, 2]
    assert tuple(columns.logprobs) == places("ab")


@given(
    st.lists(st.text("abc", max_size=4), max_size=8),
    st.lists(st.integers(0, 8), max_size=8),
    st.booleans(),
)
def test_joined_they_are_one_for_each_token_whenever_they_are_taken(
    steps: list[str], takes: list[int], keep_all: bool
) -> None:
    hand = WithLogprobs(FakeClock(), keep_all=keep_all, max_tokens_per_message=3)
    deltas = []
    for number, step in enumerate(steps):
        hand.step(step)
        if number in takes:
            hand.sink.told.clear()
            deltas.append(taken(hand.reader))
    hand.sink.told.clear()
    hand.stream.cancel()
    while not hand.reader.exhausted:
        hand.sink.told.clear()
        deltas.append(taken(hand.reader))
    joined = [delta for delta in deltas if delta is not None]
    letters = "".join(steps)
    assert [i for delta in joined for i in delta.token_ids] == [ord(c) for c in letters]
    assert tuple(p for delta in joined for p in delta.logprobs) == places(letters)
