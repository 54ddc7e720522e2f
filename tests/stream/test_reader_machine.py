"""Any order of steps, messages, credit, time, ends and readers, against a model of the rules."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from service.domain import DeliveryOptions, Delta, EngineFinish
from service.errors import EngineDead, StreamTakenOver
from service.stream.columns import DeltaColumns
from service.stream.pacing import DelayGrid
from service.stream.reader import MOST_TOKENS_PER_MESSAGE, StreamReader
from service.stream.stop_strings import StopWatch
from service.stream.text import StopRules, TextCursor
from service.stream.token_stream import TokenStream
from tests.conftest import FakeClock
from tests.stream.by_hand import CANCELLED, LENGTH, STOP, LetterDecoder, NotedSink, naive_stop
from tests.stream.taken import taken

TICK_S = 1 / 1024  # exact, so that no moment is missed by rounding

deliveries = st.builds(
    DeliveryOptions,
    max_delay_s=st.sampled_from([None, 0.0, 0.0, 0.003, 0.01, 0.05]),
    max_tokens_per_message=st.none() | st.integers(1, 4),
    credit=st.none() | st.integers(0, 4),
)


class Model:
    """What one reader may and must have got, by the rules alone."""

    def __init__(
        self, position: int, delivery: DeliveryOptions, *, eager: bool, into_columns: bool
    ) -> None:
        self.first = position
        self.delivery = delivery
        self.eager = eager  # its sink takes as soon as it is told
        self.into_columns = into_columns
        self.tokens: list[int] = []
        self.text = ""
        self.limit = math.inf if delivery.credit is None else position + delivery.credit
        self.quiet_until = -math.inf  # the end of the delay after its last message

    @property
    def position(self) -> int:
        return self.first + len(self.tokens)

    @property
    def most(self) -> int:
        return self.delivery.max_tokens_per_message or MOST_TOKENS_PER_MESSAGE


class Reading(RuleBasedStateMachine):
    """One stream, and its readers one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.grid = DelayGrid(self.clock)
        self.armed_at_ms: int | None = None
        self.grid.on_arm(self.arm)
        self.sink = NotedSink()
        self.pushed: list[int] = []  # of them `kept` belong to the answer
        self.finish: EngineFinish | None = None
        self.failed = False
        self.end_with_token = False

    def arm(self, at_ms: int) -> None:
        self.armed_at_ms = at_ms

    @initialize(
        delivery=deliveries,
        keep_all=st.booleans(),
        eager=st.booleans(),
        into_columns=st.booleans(),
        strings=st.just([]) | st.lists(st.text("ab", min_size=1, max_size=3), max_size=2),
        lifetime=st.integers(0, 25),
        plain=st.booleans(),
        include_stop=st.booleans(),
    )
    def begin(
        self,
        delivery: DeliveryOptions,
        keep_all: bool,
        eager: bool,
        into_columns: bool,
        strings: list[str],
        lifetime: int,
        include_stop: bool,
        plain: bool,
    ) -> None:
        if plain:  # most requests of a session by far; their messages take a shorter way
            keep_all, into_columns, strings = False, True, []
        self.lifetime = lifetime  # steps before it may end
        self.stop_rules = StopRules(tuple(strings), include_stop=include_stop)
        watch = StopWatch(LetterDecoder(), self.stop_rules) if strings else None
        self.stream = TokenStream(self.clock, stop_watch=watch, keep_all=keep_all)
        self.open(0, delivery, eager=eager, into_columns=into_columns)

    def open(
        self, position: int, delivery: DeliveryOptions, *, eager: bool, into_columns: bool
    ) -> None:
        self.model = Model(position, delivery, eager=eager, into_columns=into_columns)
        self.reader = StreamReader(
            self.stream, position, LetterDecoder(), self.stop_rules, delivery, self.grid, self.sink
        )

    # -- what happens --------------------------------------------------------------------------

    @rule(letters=st.text("abc", max_size=5), end=st.sampled_from([None, None, None, STOP, LENGTH]))
    def step(self, letters: str, end: EngineFinish | None) -> None:
        before = self.stream.ended
        self.lifetime -= 1
        end = end if self.lifetime < 0 else None
        ids = [ord(c) for c in letters]
        asked_to_stop = self.stream.push(ids, end)
        if before:
            assert not asked_to_stop
            return
        text_ids = ids[:-1] if end is STOP and not self.stop_rules.include_stop else ids
        _, match = naive_stop(list(map(chr, [*self.pushed, *text_ids])), self.stop_rules)
        self.pushed += ids
        assert asked_to_stop is (match is not None and end is None)
        if match is not None:
            del self.pushed[match.tokens_kept :]
            end = EngineFinish(STOP.reason, match.string)
        self.finish = end
        self.end_with_token = end is not None and bool(ids)

    @precondition(lambda self: self.lifetime < 0)
    @rule()
    def cancel(self) -> None:
        if self.stream.cancel():
            self.finish = CANCELLED

    @precondition(lambda self: self.lifetime < 0)
    @rule()
    def fail(self) -> None:
        self.failed |= self.stream.fail(EngineDead())

    @precondition(lambda self: self.reader in self.sink.told)
    @rule()
    def take(self) -> None:
        self.take_once()

    @precondition(lambda self: not self.reader.exhausted)  # its sink has closed it then
    @rule(more=st.integers(-3, 6))
    def grant(self, more: int) -> None:
        limit = self.model.position + more
        self.reader.grant(limit)
        self.model.limit = max(self.model.limit, limit)

    @rule(ticks=st.integers(1, 60))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.clock.now += TICK_S
            if self.armed_at_ms is not None and self.armed_at_ms <= self.clock.now * 1000:
                self.armed_at_ms = None
                self.grid.fire()
                self.take_if_eager()

    @rule(lag_s=st.sampled_from([0.0, 0.01, 0.02, 1.0]), times=st.integers(1, 30))
    def the_loop_lags(self, lag_s: float, times: int) -> None:
        for _ in range(times):
            self.grid.adaptive.observe(lag_s, 0.0)

    @precondition(lambda self: self.stream.keep_all)
    @rule(
        delivery=deliveries,
        eager=st.booleans(),
        into_columns=st.booleans(),
        back=st.integers(0, 6),
    )
    def another_reader_takes_over(
        self, delivery: DeliveryOptions, eager: bool, into_columns: bool, back: int
    ) -> None:
        position = max(0, len(self.pushed) - back)
        old = self.reader
        old.break_off(StreamTakenOver())
        assert old.closed
        self.sink.told.clear()
        self.open(position, delivery, eager=eager, into_columns=into_columns)

    # -- what holds always -----------------------------------------------------------------------

    @invariant()
    def an_eager_sink_takes(self) -> None:
        self.take_if_eager()

    @invariant()
    def the_sink_knows_of_everything_that_is_due(self) -> None:
        if self.reader.exhausted:
            assert self.reader not in self.sink.told
            return
        deliverable = min(len(self.pushed), self.model.limit) - self.model.position
        ended = self.finish is not None or self.failed
        if ended:
            starved = len(self.pushed) > self.model.position and deliverable <= 0
            due = self.failed or not starved
        else:
            enough = deliverable >= self.model.most
            due = enough or (deliverable > 0 and self.clock.now >= self.model.quiet_until)
        if due:
            assert self.reader in self.sink.told

    @invariant()
    def what_was_taken_is_the_answers_own(self) -> None:
        model = self.model
        assert model.tokens == self.pushed[model.first : model.position]
        before, whole = self.text_after(model.first), self.text_after(model.position)
        if self.reader.exhausted:
            assert self.failed or model.position == len(self.pushed)
            if model.position == len(self.pushed):
                whole = self.whole_text()
            if model.first == len(self.pushed) and self.end_with_token:
                before = whole  # all of it came with the token that it began behind
        assert model.text == whole[len(before) :]

    # -- taking ----------------------------------------------------------------------------------

    def take_if_eager(self) -> None:
        while self.model.eager and self.reader in self.sink.told:
            self.take_once()

    def take_once(self) -> None:
        self.sink.told.remove(self.reader)
        model, delay_s = self.model, self.model.delivery.max_delay_s
        if model.into_columns:
            columns = DeltaColumns()
            assert self.reader.take_into(columns) is self.reader.exhausted
            assert columns.tags in ([], [self.reader.tag])
            assert columns.token_counts == [len(columns.token_ids)] * len(columns.tags)
            if not columns.tags:
                return
            (first,), (text,) = columns.first_token_indexes, columns.texts
            delta: Delta | None = Delta(first, columns.token_ids, text)
        else:
            delta = taken(self.reader)
        if delta is None:
            return
        assert delta.first_token_index == model.position
        assert len(delta.token_ids) <= model.most
        assert delta.token_ids or (delta.text and self.reader.exhausted)
        model.tokens += delta.token_ids
        model.text += delta.text
        assert model.position <= model.limit
        if delay_s is None:
            delay_s = self.grid.adaptive.delay_ms / 1000
        # The timer of a real loop ticks, too.
        model.quiet_until = self.clock.now + delay_s + TICK_S

    def text_after(self, count: int) -> str:
        return TextCursor(LetterDecoder(), self.stop_rules).take(self.pushed[:count])

    def whole_text(self) -> str:
        letters = list(map(chr, self.pushed))
        if self.end_with_token and self.finish is STOP and not self.stop_rules.include_stop:
            letters.pop()
        return naive_stop(letters, self.stop_rules)[0]

    def teardown(self) -> None:
        if not hasattr(self, "reader"):
            return
        self.cancel()
        if not self.reader.exhausted:
            self.grant(1_000_000)
        while self.reader in self.sink.told:
            self.take_once()
        assert self.reader.exhausted
        self.what_was_taken_is_the_answers_own()


TestReading = Reading.TestCase
TestReading.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
