"""What holds of an answer whatever the service, the client and this process do, in any order.

Seen from outside: what the service was told of the stream, what the client was sent, and how the
answer was counted. Blocked, a client's kernel takes no more; *at rest*, nothing more happens until
somebody acts or time passes.
"""

import asyncio
import operator
import re
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import SseEncoder
from gateway_sse.native.lines import LinesEncoder, TextEncoder
from gateway_sse.streaming.encoder import Encoder
from gateway_sse.streaming.outcomes import Outcome
from gateway_sse.streaming.parting import Parting
from tests.gateway_sse.streaming.one_answer import BEFORE, OneAnswer, one_answer
from tests.gateway_sse.streaming.virtual_time import in_virtual_time, rest
from tokenstream_client import Delta, Finished, FinishReason, Internal, Started, Timings, Usage

STALL_LIMIT_S: Final = 30.0
STARTED: Final = Started("s", "m", 1, "")
FINISHED: Final = Finished(0, FinishReason.STOP, None, None, Usage(1, 1, 0), Timings(None, 1.0))
PLACES: Final = re.compile(rb'(?:^id: |"id": ")s:(\d+)', re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """What a client asked for, and what takes its bytes."""

    form: type[SseEncoder | LinesEncoder | TextEncoder]
    ack_window: int | None
    parting: Parting
    resumed: bool
    room: int
    keepalive_interval_s: float

    def encoder(self) -> Encoder:
        if issubclass(self.form, TextEncoder):
            return TextEncoder()
        return self.form(EventId("s", BEFORE) if self.resumed else None)


@dataclass(frozen=True)
class Sends:
    """The service sends a delta, and before the first one its start."""

    tokens: int
    text: str


@dataclass(frozen=True)
class Finishes:
    """The service finishes well, with text that has no token."""

    tail: str = ""


@dataclass(frozen=True)
class Takes:
    """The client reads so many bytes."""

    size: int


@dataclass(frozen=True)
class Passes:
    """Time passes, in seconds; none: everybody has one turn."""

    seconds: float


Step = Sends | Finishes | Takes | Passes | str

asked = st.builds(
    Asked,
    form=st.sampled_from([SseEncoder, LinesEncoder, TextEncoder]),
    ack_window=st.sampled_from([None, 1, 2, 5]),
    parting=st.sampled_from([Parting(), Parting(linger_s=0.8), Parting(detach=True)]),
    resumed=st.booleans(),
    room=st.sampled_from([0, 400, 600]),
    keepalive_interval_s=st.sampled_from([0.5, 15.0]),
).filter(lambda a: a.form is not TextEncoder or a.ack_window is None)  # it has no places

sends = st.builds(Sends, st.integers(1, 3), st.sampled_from(["a", "", "xyz" * 20, "é\u2028\n"]))
takes = st.builds(Takes, st.sampled_from([1, 40, 400]))
passes = st.builds(Passes, st.sampled_from([0.0, 1e-6, 1e-6, 1.0, 5.0]))
acknowledges = st.just("acknowledges")
rare = st.one_of(
    st.builds(Finishes, st.sampled_from(["", "tail"])),
    st.sampled_from(["starts", "fails", "leaves", "leaves", "is cut", "is cut"]),
    st.just(Passes(STALL_LIMIT_S * 1.3)),
)
usual = st.one_of(passes, sends, takes, acknowledges, sends, passes)
happenings = st.builds(
    operator.add,
    st.one_of(st.lists(usual, min_size=10, max_size=50), st.just([])),
    st.lists(st.one_of(passes, takes, rare, rare), max_size=8),
)


class Play:
    """One answer, and the model of what its client has to get."""

    def __init__(self, one: OneAnswer, asked: Asked) -> None:
        self.one, self.asked = one, asked
        self.encoder, self.clock = asked.encoder(), asyncio.get_running_loop().time
        self.pieces = list[tuple[bytes, Delta | None]]()
        self.begin = self.sent = self.acknowledged = BEFORE if asked.resumed else 0
        self.started = self.left = self.cut = self.was_silent = False
        self.ended: str | None = None  # by the service
        self.took_at = self.acknowledged_at = 0.0

    # What happens.

    async def step(self, step: Step) -> None:
        match step:
            case Passes(seconds):
                await asyncio.sleep(seconds)
                silent_s = self.clock() - min(self.took_at, self.acknowledged_at)
                self.was_silent |= silent_s >= STALL_LIMIT_S * 0.9
            case Takes(size):
                self.took_at = self.clock()
                self.one.kernel.make_room(size)
            case "acknowledges":
                self.acknowledge()
            case "leaves" if not self.one.is_over:
                self.left = True
                self.one.kernel.lose(ConnectionResetError("it has gone"))
            case "is cut" if not self.one.is_over:
                self.cut = True
                self.one.streams.cut()
            case _ if not self.one.answer.ended:
                self.serve(step)

    def serve(self, step: Step) -> None:
        answer = self.one.answer
        if not self.started and step != "fails":
            self.started = True
            self.pieces.append((self.encoder.started(STARTED), None))
            answer.on_started(STARTED)
        match step:
            case Sends(tokens, text) if self.sent + tokens <= self.one.session.limit:
                self.send(Delta(0, self.sent, tuple(range(tokens)), text))
            case Finishes(tail):
                if tail:
                    self.send(Delta(0, self.sent, (), tail))
                self.ended = "well"
                self.pieces.append((self.encoder.finished(FINISHED) + self.encoder.end(), None))
                answer.on_finished(FINISHED)
            case "fails":
                self.ended = "badly"
                answer.end(Internal("it broke", reason="BROKE"))

    def send(self, delta: Delta) -> None:
        self.sent += len(delta.token_ids)
        self.pieces.append((self.encoder.delta(delta), delta))
        self.one.answer.on_delta(delta)

    def acknowledge(self) -> None:
        """All that the client has heard of: an event counts once it is whole."""
        body = self.one.told()[1]
        whole = body[: body.rfind(b"\n\n" if self.asked.form is SseEncoder else b"\n") + 1]
        heard = max([int(place) for place in PLACES.findall(whole)], default=0)
        if heard > self.acknowledged:
            self.acknowledged, self.acknowledged_at = heard, self.clock()
            self.one.acknowledge(heard)

    async def to_its_end(self) -> None:
        """From now on the client takes and acknowledges all, and the service finishes."""
        for _ in range(100):
            await self.step(Takes(10_000))
            await rest()
            self.acknowledge()
            await rest()
            if not self.one.is_over:
                await self.step(Finishes())
            elif not self.one.kernel.waits:
                return
        raise AssertionError("it does not end by itself")

    # What holds.

    @property
    def expected(self) -> bytes:
        return b"".join(data for data, _ in self.pieces)

    def shown(self, body: bytes) -> bytes:
        """A body without what keeps the connection open."""
        if self.asked.form is LinesEncoder:
            return b"".join(line for line in body.splitlines(keepends=True) if line != b"\n")
        return body.replace(SseEncoder.keepalive, b"")

    def check_at_rest(self) -> None:
        one, now = self.one, self.clock()
        assert not one.kernel.written_while_blocked
        if one.is_over or self.left or not self.started:
            return
        if one.kernel.waits:
            since = max(self.took_at, one.kernel.last_write_at)
            assert now - since <= STALL_LIMIT_S * 1.2, "a client that takes nothing is dropped"
            return
        assert not self.cut, "a cut ends what is not blocked"
        assert self.ended != "badly", "and so does a failure"
        since = max(self.took_at, one.kernel.last_write_at)
        patience_s = self.asked.keepalive_interval_s * 2
        assert not self.encoder.keepalive or now - since <= patience_s, "it says that it is there"
        heard, shown = self.begin, self.shown(one.told()[1])
        for data, delta in self.pieces:
            says = delta is not None and delta.text
            ahead = delta is not None and self.asked.ack_window is not None
            ahead = ahead and self.is_ahead(delta, heard)
            if not shown.startswith(data):
                assert says, "only text is held back"
                assert ahead, "nothing is held back of a client that acknowledged what it heard of"
                return
            assert not (says and ahead), "no more goes than the window allows"
            shown = shown.removeprefix(data)
            if says and delta is not None:
                heard = delta.first_token_index + len(delta.token_ids)
        assert self.ended is None, "what was sent its end is over"

    def is_ahead(self, delta: Delta | None, heard: int) -> bool:
        assert delta is not None
        assert self.asked.ack_window is not None
        past = delta.first_token_index >= self.acknowledged + self.asked.ack_window
        return past and heard > self.acknowledged

    async def check_that_nobody_reads(self) -> None:
        read = self.one.stream.next_token_index
        await self.step(Sends(1, "late"))
        await rest()
        assert self.one.stream.next_token_index == read

    def check_the_end(self) -> None:
        (outcome,) = self.one.outcomes
        assert outcome in self.possible_outcomes()
        status, body, has_end = self.one.told()
        shown = self.shown(body)
        match outcome:
            case Outcome.COMPLETE:
                assert has_end
                assert shown == self.expected
            case Outcome.MOVED:
                moved = self.shown(self.asked.encoder().moved() or b"")
                assert has_end
                assert shown.endswith(moved)
                assert self.expected.startswith(shown.removesuffix(moved))
            case Outcome.REFUSED:
                failed = status == 500 and self.ended == "badly"
                assert failed or self.left or (status == 503 and self.cut)
            case Outcome.FAILED if self.asked.form is TextEncoder:
                assert not has_end, "text that failed looks broken off"
                assert self.expected.startswith(shown)
            case Outcome.FAILED:
                assert has_end
                rest_of_it = shown.removeprefix(self.expected)
                assert len(rest_of_it) < len(shown), "what came before the failure is there"
                assert rest_of_it.count(b"BROKE") == 1
            case Outcome.LEFT | Outcome.STALLED:
                said = body if self.asked.form is TextEncoder else shown[: shown.rfind(b"\n") + 1]
                says_more = self.cut or self.was_silent or self.ended == "badly"  # or a part of it
                assert says_more or self.expected.startswith(said)
        self.check_what_became_of_the_stream(outcome)

    def possible_outcomes(self) -> set[Outcome]:
        possible = set[Outcome]()
        if self.ended == "well":
            possible.add(Outcome.COMPLETE)
        if self.ended == "badly":
            possible.add(Outcome.FAILED if self.started else Outcome.REFUSED)
        if self.cut:
            moves = self.asked.form is not TextEncoder
            possible |= {Outcome.REFUSED, Outcome.MOVED if moves else Outcome.FAILED}
        if self.left:
            possible.add(Outcome.LEFT)
        if self.was_silent:
            possible.add(Outcome.STALLED)
        return possible

    def check_what_became_of_the_stream(self, outcome: Outcome) -> None:
        session, parting = self.one.session, self.asked.parting
        has_name = self.asked.resumed or self.one.stream.started is not None
        lingers, stays = False, outcome is Outcome.MOVED
        if outcome is Outcome.LEFT and has_name and not (self.cut or self.was_silent):
            lingers, stays = parting.linger_s > 0, parting.detach
        elif outcome is Outcome.REFUSED:
            stays = self.asked.resumed
        elif self.was_silent or (self.cut and outcome is not Outcome.MOVED):
            return  # by whom it was closed tells more than this model knows
        runs = self.ended is None
        assert self.one.streams.lingering == (runs and lingers)
        assert session.left == (runs and not lingers)
        assert session.stopped == (runs and not lingers and not stays)


@settings(max_examples=700, deadline=None)
@given(asked, happenings)
@in_virtual_time
async def test_a_client_gets_what_was_sent_in_order_once_and_every_answer_has_one_end(
    asked: Asked, happens: list[Step]
) -> None:
    kept: dict[str, Any] = {
        "stall_limit_s": STALL_LIMIT_S,
        "keepalive_interval_s": asked.keepalive_interval_s,
    }
    async with one_answer(
        asked.encoder(),
        parting=asked.parting,
        ack_window=asked.ack_window,
        resumed=asked.resumed,
        room=asked.room,
        **kept,
    ) as one:
        playing = Play(one, asked)
        for step in happens:
            await playing.step(step)
            if isinstance(step, Passes) and step.seconds:
                playing.check_at_rest()
            if playing.left:
                break
        await rest()
        if playing.left:
            await playing.check_that_nobody_reads()
        else:
            await playing.to_its_end()
        playing.check_the_end()
