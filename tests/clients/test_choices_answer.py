"""Several choices in the session's core, without I/O."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import Delta, Event, Finished, Internal, InvalidRequest
from tokenstream_client.answer import Terms
from tokenstream_client.choices import ChoicesAnswer
from tokenstream_client.multiplexer import Multiplexer


class Exchange:
    """One request in a session, whose service and reader are moved by the test."""

    def __init__(self, number: int, window: int | None) -> None:
        request = pb.GenerateRequest(text="Hi", sampling=pb.SamplingOptions(n=number))
        self.answer = ChoicesAnswer(request, Terms(window=window))
        self.multiplexer = Multiplexer(lambda: 0.0)
        self.multiplexer.add(self.answer)
        self.multiplexer.connected()
        self.limit: int | None = None
        self.closed = False
        self.take_frames()
        message = pb.SessionResponse()
        message.started.add(id=1, started=pb.Started(stream_id="s"))
        self.multiplexer.receive(message)
        self.answer.take()

    def take_frames(self) -> None:
        while (frame := self.multiplexer.next_frame()) is not None:
            if frame.HasField("start"):
                stream = frame.start.request.stream
                self.limit = stream.credit if stream.HasField("credit") else None
            elif frame.HasField("credit"):
                assert list(frame.credit.ids) == [1]
                self.limit = frame.credit.token_limits[0]
            else:
                self.closed = True

    def deliver(self, choice: int, first: int, count: int) -> None:
        deltas = pb.SessionDeltas(
            ids=[1],
            choice_indexes=[choice] if choice else [],
            first_token_indexes=[first],
            token_counts=[count],
            token_ids=[100 * choice + index for index in range(first, first + count)],
            texts=["x" * count],
        )
        self.multiplexer.receive(pb.SessionResponse(deltas=deltas))
        self.take_frames()

    def finish(self, choice: int) -> None:
        message = pb.SessionResponse()
        message.finished.add(id=1, finished=pb.Finished(choice_index=choice))
        self.multiplexer.receive(message)
        self.take_frames()

    def read(self) -> Event | None:
        event = self.answer.take()
        if type(event) is Delta:
            limit = self.answer.consume(len(event.token_ids))
            if limit is not None:
                self.multiplexer.grant(self.answer, limit)
            self.take_frames()
        return event


def broken(exchange: Exchange) -> bool:
    error = exchange.answer.error
    return isinstance(error, Internal) and error.reason == "BROKEN_STREAM" and exchange.closed


def test_a_number_that_nobody_grants_costs_nothing() -> None:
    request = pb.GenerateRequest(text="Hi", sampling=pb.SamplingOptions(n=2**32 - 1))
    tracemalloc.start()
    try:
        answer = ChoicesAnswer(request, Terms())
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert not answer.finished
    answer.failed(InvalidRequest("n is too large"), 0.0)
    assert isinstance(answer.error, InvalidRequest)


def test_each_choice_has_its_own_positions() -> None:
    exchange = Exchange(2, None)
    exchange.deliver(0, 0, 3)
    exchange.deliver(1, 0, 1)
    exchange.deliver(1, 1, 2)
    exchange.deliver(0, 3, 1)
    assert exchange.answer.error is None
    assert exchange.answer.next_token_index == 4


def test_a_gap_in_one_choice_ends_the_answer_and_the_service_is_told() -> None:
    exchange = Exchange(2, None)
    exchange.deliver(0, 0, 3)
    exchange.deliver(1, 3, 1)
    assert broken(exchange)


def test_a_repeat_in_one_choice_ends_the_answer() -> None:
    exchange = Exchange(2, None)
    exchange.deliver(1, 0, 2)
    exchange.deliver(1, 1, 2)
    assert broken(exchange)


def test_a_choice_that_was_not_asked_for_ends_the_answer() -> None:
    exchange = Exchange(2, None)
    exchange.deliver(2, 0, 2)
    assert broken(exchange)


def test_tokens_behind_a_choices_end_and_a_second_end_of_it_end_the_answer() -> None:
    exchange = Exchange(2, None)
    exchange.finish(1)
    exchange.deliver(1, 0, 1)
    assert broken(exchange)
    exchange = Exchange(2, None)
    exchange.finish(1)
    exchange.finish(1)
    assert broken(exchange)


def test_it_ends_with_the_last_choices_end() -> None:
    exchange = Exchange(3, None)
    for choice in (1, 0):
        exchange.finish(choice)
        assert not exchange.answer.ended
        assert not exchange.answer.finished
    exchange.finish(2)
    assert exchange.answer.ended
    assert exchange.answer.finished
    assert exchange.answer.error is None
    assert len(exchange.multiplexer) == 0


def test_credit_is_counted_by_the_slowest_that_runs() -> None:
    exchange = Exchange(2, 4)
    assert exchange.limit == 4
    exchange.deliver(0, 0, 4)
    exchange.read()
    assert exchange.limit == 4  # nothing of the other one was read
    exchange.deliver(1, 0, 2)
    exchange.read()
    assert exchange.limit == 6


def test_the_end_of_the_slowest_lets_the_others_go_on_without_a_reader() -> None:
    exchange = Exchange(2, 4)
    exchange.deliver(0, 0, 4)
    exchange.read()
    exchange.finish(1)
    assert exchange.limit == 8


def test_tokens_that_count_as_read_later_count_for_the_choices_in_their_order() -> None:
    exchange = Exchange(2, 4)
    answer = exchange.answer
    exchange.deliver(0, 0, 3)
    exchange.deliver(1, 0, 2)
    exchange.deliver(0, 3, 1)
    assert answer.consume(4) is None  # three of the first, one of the second
    assert answer.grant_now() == 5
    assert answer.consume(2) is None  # the other of the second, one of the first
    assert answer.grant_now() == 6


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=4),
    st.sampled_from([1, 2, 5, None]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 3)), max_size=40),
)
def test_in_any_order_all_of_each_choice_comes_with_a_window_of_each_at_most(
    lengths: list[int], window: int | None, order: list[tuple[int, int, int]]
) -> None:
    number = len(lengths)
    exchange = Exchange(number, window)
    sent, ended, events = [0] * number, [False] * number, list[Event]()

    def move(choice: int, most: int) -> bool:
        """Let the service send of a choice what it may."""
        if ended[choice]:
            return False
        limit = lengths[choice] if exchange.limit is None else exchange.limit
        count = min(most, min(limit, lengths[choice]) - sent[choice])
        if count > 0:
            exchange.deliver(choice, sent[choice], count)
            sent[choice] += count
            read = sum(len(e.token_ids) for e in of(choice) if isinstance(e, Delta))
            assert window is None or sent[choice] - read <= window
            return True
        if sent[choice] == lengths[choice]:
            exchange.finish(choice)
            ended[choice] = True
            return True
        return False

    def of(choice: int) -> list[Event]:
        return [e for e in events if isinstance(e, Delta | Finished) and e.choice_index == choice]

    def read() -> bool:
        event = exchange.read()
        if event is not None:
            events.append(event)
        return event is not None

    for choice, most, reads in order:
        move(choice % number, most)
        for _ in range(reads):
            read()
    going = True
    while going:
        moved = [move(choice, 3) for choice in range(number)]
        going = any([*moved, read()])
        if not going:
            exchange.multiplexer.grant_now()  # time passes
            exchange.take_frames()
            going = any(move(choice, 3) for choice in range(number))
    assert exchange.answer.ended
    assert exchange.answer.error is None
    for choice, length in enumerate(lengths):
        *texts, end = of(choice)
        assert isinstance(end, Finished)
        tokens = [t for delta in texts if isinstance(delta, Delta) for t in delta.token_ids]
        assert tokens == [100 * choice + index for index in range(length)]
