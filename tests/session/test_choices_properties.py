"""Whatever happens to requests with several choices, each choice is exact and ends once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import EngineDead, StreamStalled
from service.generation import Generation
from service.session import session as session_module
from service.session.frame import Credit
from tests.conftest import FakeClock
from tests.service.generations import push, stream_of
from tests.session.requests import AtWork
from tests.stream.by_hand import LENGTH

NUMBERS = {1: 2, 2: 1, 3: 4}  # of choices, by request

# A request, and which of its choices.
which = st.tuples(st.sampled_from(list(NUMBERS)), st.integers(0, 3))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), which, st.text("abc", min_size=1, max_size=4)),
        st.tuples(st.just("push"), which, st.text("abc", min_size=1, max_size=4)),
        st.tuples(st.just("finish"), which, st.none()),
        st.tuples(st.just("grant"), which, st.integers(0, 12)),
        st.tuples(st.sampled_from(["cancel", "fail", "stall", "close"]), which, st.none()),
        st.tuples(st.just("frame"), which, st.none()),
    ),
    max_size=60,
)


class Choices:
    """Carries the actions out and keeps what each choice was given by the engine."""

    def __init__(self, work: AtWork, credit: int | None) -> None:
        self.work = work
        self.closed: set[int] = set()
        self.choices: dict[int, list[Generation]] = {}
        for request_id, number in NUMBERS.items():
            work.session.open(request_id)
            if number == 1:
                self.choices[request_id] = [work.opened(request_id, credit=credit)]
            else:
                first = work.opened_several(request_id, number, credit=credit)
                self.choices[request_id] = list(first.choices)
        self.pushed = {c.stream_id: "" for choices in self.choices.values() for c in choices}

    def do(self, kind: str, request_id: int, index: int, value: Any) -> None:
        session = self.work.session
        choices = self.choices[request_id]
        choice = choices[index % len(choices)]
        stream = stream_of(choice)
        if kind == "push":
            if not stream.ended:
                self.pushed[choice.stream_id] += value
            push(choice, value)
        elif kind == "finish":
            stream.push([], LENGTH)
        elif kind == "grant":
            session.grant(Credit([request_id], [value]))
        elif kind == "cancel":
            for one in choices:
                stream_of(one).cancel()
        elif kind == "fail":
            stream.fail(EngineDead())
        elif kind == "stall" and choice.reader is not None:
            choice.reader.break_off(StreamStalled(1))
        elif kind == "close" and session.is_open(request_id):
            self.closed.add(request_id)
            session.close(request_id)
        elif kind == "frame":
            frame = session.next_frame()
            if frame is not None:
                self.work.caller.take(frame)


@settings(max_examples=300, deadline=None)
@given(actions, st.none() | st.integers(0, 5), st.integers(1, 30))
def test_any_actions_on_choices_leave_each_exact_and_each_request_with_one_failure_at_most(
    order: list[tuple[str, tuple[int, int], Any]], credit: int | None, most_per_frame: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "MOST_TOKENS_PER_FRAME", most_per_frame)
        work = AtWork(FakeClock())
        choices = Choices(work, credit)
        for kind, (request_id, index), value in order:
            choices.do(kind, request_id, index, value)
        for request_id, number in NUMBERS.items():
            choices.do("grant", request_id, 0, 1_000_000)
            for index in range(number):
                choices.do("finish", request_id, index, None)
        work.session.close_input()
        while (frame := work.session.next_frame()) is not None:
            work.caller.take(frame)

    assert work.session.is_over
    for request_id, generations in choices.choices.items():
        for tag, generation in zip(work.caller.tags(request_id), generations, strict=True):
            received, pushed = work.caller.of(tag), choices.pushed[generation.stream_id]
            assert pushed.startswith(received.letters)
            assert received.letters == received.text
            if request_id in choices.closed:
                continue
            assert received.end is not None
            if not isinstance(received.end, Exception):
                assert received.letters == pushed
                assert received.end.usage.completion_tokens == len(pushed)
            elif credit is None and stream_of(generation).failure:
                # What was decoded before came before the failure, unless a reader was broken off.
                assert received.letters == pushed or isinstance(received.end, StreamStalled)
    begun = sorted(choices.pushed)
    assert sorted(stream_id for stream_id, _ in work.generations.settled) == begun
    assert sorted(work.generations.given_back) == begun
    assert len(work.generations.directory) == 0
    for request_id in NUMBERS:
        assert not work.session.is_open(request_id)
