"""Whatever happens to many requests, each one's tokens are exact and its end comes once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import EngineDead, Overloaded, StreamStalled
from service.generation import Generation
from service.session import session as session_module
from service.session.frame import Credit
from tests.conftest import FakeClock
from tests.service.generations import push, stream_of
from tests.session.requests import AtWork
from tests.stream.by_hand import LENGTH

IDS = range(1, 6)
ids = st.sampled_from(IDS)

actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), ids, st.text("abc", min_size=1, max_size=4)),
        st.tuples(st.just("push"), ids, st.text("abc", min_size=1, max_size=4)),
        st.tuples(st.just("grant"), ids, st.integers(0, 12)),
        st.tuples(st.sampled_from(["finish", "cancel", "fail"]), ids, st.none()),
        st.tuples(st.sampled_from(["close", "stall", "opened", "refused"]), ids, st.none()),
        st.tuples(st.just("frame"), st.none(), st.none()),
    ),
    max_size=60,
)


class Requests:
    """Carries the actions out and keeps what each request was given by the engine."""

    def __init__(self, work: AtWork, credit_of: list[int | None]) -> None:
        self.work = work
        self.credit_of = credit_of
        self.generations: dict[int, Generation] = {}
        self.refused: set[int] = set()
        self.closed: set[int] = set()
        for request_id in IDS:
            work.session.open(request_id)

    def do(self, kind: str, request_id: int, value: Any) -> None:
        session, generation = self.work.session, self.generations.get(request_id)
        if kind == "opened" or (kind == "push" and generation is None):
            if generation is None and session.is_open(request_id):
                self.generations[request_id] = self.work.opened(
                    request_id, credit=self.credit_of[request_id - 1]
                )
        elif kind == "refused":
            if generation is None and session.is_open(request_id):
                self.refused.add(request_id)
                session.not_opened(request_id, Overloaded(1, 1.0))
        elif kind == "grant":
            session.grant(Credit([request_id], [value]))
        elif kind == "close":
            if session.is_open(request_id):
                self.closed.add(request_id)
                session.close(request_id)
        elif generation is not None:
            self.move(kind, generation, value)

    def move(self, kind: str, generation: Generation, value: Any) -> None:
        stream = stream_of(generation)
        if kind == "push":
            push(generation, value)
        elif kind == "finish":
            stream.push([], LENGTH)
        elif kind == "cancel":
            stream.cancel()
        elif kind == "fail":
            stream.fail(EngineDead())
        elif kind == "stall" and generation.reader is not None:
            generation.reader.break_off(StreamStalled(1))


@settings(max_examples=300, deadline=None)
@given(
    actions,
    st.lists(st.none() | st.integers(0, 5), min_size=5, max_size=5),
    st.integers(1, 30),
)
def test_any_actions_on_many_requests_leave_each_exact_and_with_one_end(
    order: list[tuple[str, int, Any]], credit_of: list[int | None], most_per_frame: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "MOST_TOKENS_PER_FRAME", most_per_frame)
        work = AtWork(FakeClock())
        requests = Requests(work, credit_of)
        pushed: dict[int, str] = dict.fromkeys(IDS, "")
        for kind, request_id, value in order:
            if kind == "frame":
                frame = work.session.next_frame()
                if frame is not None:
                    work.caller.take(frame)
                continue
            generation = requests.generations.get(request_id)
            if kind == "push" and generation and not stream_of(generation).ended:
                pushed[request_id] += value
            requests.do(kind, request_id, value)
        settle_all(work, requests)

    assert work.session.is_over
    for request_id in IDS:
        received = work.caller.of(request_id)
        assert pushed[request_id].startswith(received.letters)
        assert received.letters == received.text
        if request_id in requests.closed:
            continue
        assert received.end is not None
        if not isinstance(received.end, Exception):
            assert received.letters == pushed[request_id]
            assert received.end.usage.completion_tokens == len(received.letters)
    begun = sorted(f"stream {request_id}" for request_id in requests.generations)
    assert sorted(stream_id for stream_id, _ in work.generations.settled) == begun
    assert sorted(work.generations.given_back) == begun
    assert len(work.generations.directory) == 0


def settle_all(work: AtWork, requests: Requests) -> None:
    """Let all requests come to an end, and take what is left."""
    for request_id in IDS:
        requests.do("refused", request_id, None)
        requests.do("grant", request_id, 1_000_000)
        requests.do("finish", request_id, None)
    work.session.close_input()
    while (frame := work.session.next_frame()) is not None:
        work.caller.take(frame)
