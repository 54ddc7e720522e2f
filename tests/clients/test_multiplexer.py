"""The session's core against a model of the service, without I/O, in any order of events."""

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import Cancelled, Delta, Event, Finished, Started, Unavailable
from tokenstream_client.answer import Answer, Terms
from tokenstream_client.multiplexer import Multiplexer

ANY = st.integers(0, 10**6)


@dataclass
class Decoding:
    """What the service has of a stream: everything, from the start."""

    tokens: int
    tail: str
    late: bool
    """Its end comes without a token, so that the tail is a delta of its own."""

    @property
    def whole(self) -> str:
        return self.text(0, self.tokens) + (self.tail if self.late or self.tokens else "")

    def text(self, first: int, after: int) -> str:
        return "".join(f"<{index}>" for index in range(first, after))


@dataclass
class Reading:
    """What one session's end of the service knows about an id."""

    stream_id: str
    position: int
    limit: int
    started: bool = False
    tail_sent: bool = False


@dataclass
class Caller:
    """A request, and what its reader has read."""

    answer: Answer
    decoding: Decoding
    events: list[Event] = field(default_factory=list)
    left: bool = False
    ends: int = 0

    @property
    def tokens(self) -> list[int]:
        return [token for e in self.events if isinstance(e, Delta) for token in e.token_ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    def read(self) -> bool:
        try:
            event = self.answer.take()
        except Cancelled:
            assert self.left
            return False
        if event is None:
            return False
        assert not any(isinstance(e, Finished) for e in self.events), "something after the end"
        self.events.append(event)
        return True


class Sessions(RuleBasedStateMachine):
    """Requests, frames, losses and readers in any order; every stream comes out whole."""

    @initialize(window=st.sampled_from([1, 2, 5, None]))
    def begin(self, window: int | None) -> None:
        self.window = window
        self.multiplexer = Multiplexer(lambda: 0.0)
        self.callers: list[Caller] = []
        self.streams: dict[str, Decoding] = {}
        self.connected = False
        self.up: deque[pb.SessionRequest] = deque()
        self.down: deque[pb.SessionResponse] = deque()
        self.readings: dict[int, Reading] = {}
        self.last_id = 0

    # The caller.

    @rule(tokens=st.integers(0, 12), tail=st.sampled_from(["", "end"]), late=st.booleans())
    def request(self, tokens: int, tail: str, late: bool) -> None:
        request = pb.GenerateRequest(text="Hi", client_request_id=str(len(self.callers)))
        request.stream.on_disconnect = pb.ON_DISCONNECT_DETACH
        terms = Terms(window=self.window, max_attempts=10**9, resumes=True)
        caller = Caller(Answer(request, terms), Decoding(tokens, tail, late))
        self.callers.append(caller)
        self.multiplexer.add(caller.answer)

    @precondition(lambda self: self.callers)
    @rule(which=ANY, events=st.integers(1, 6))
    def read(self, which: int, events: int) -> None:
        caller = self.callers[which % len(self.callers)]
        for _ in range(events):
            if not caller.read():
                break
            event = caller.events[-1]
            count = len(event.token_ids) if isinstance(event, Delta) else 0
            limit = caller.answer.consume(count)
            if limit is not None:
                assert self.window is not None
                assert limit <= len(caller.tokens) + self.window
                self.multiplexer.grant(caller.answer, limit)

    @precondition(lambda self: self.callers)
    @rule(which=ANY)
    def leave(self, which: int) -> None:
        caller = self.callers[which % len(self.callers)]
        caller.left = True
        if caller.answer.leave():
            self.multiplexer.leave(caller.answer)

    @rule()
    def let_time_pass(self) -> None:
        self.multiplexer.grant_now()

    # The connection.

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        self.connected = True
        self.readings, self.last_id = {}, 0
        self.down.clear()  # what the service said to the connection before
        self.multiplexer.connected()

    @precondition(lambda self: self.connected)
    @rule()
    def lose(self) -> None:
        self.connected = False
        self.up.clear()
        self.down.clear()
        self.multiplexer.lost(Unavailable("cut"))

    @rule(frames=st.integers(1, 5))
    def send(self, frames: int) -> None:
        for _ in range(frames):
            frame = self.multiplexer.next_frame()
            if frame is None:
                break
            assert self.connected
            self.up.append(frame)

    @precondition(lambda self: self.down)
    @rule()
    def deliver(self) -> None:
        self.multiplexer.receive(self.down.popleft())
        for _, answer in self.multiplexer.take_retries():
            self.multiplexer.add(answer)

    # The service.

    @precondition(lambda self: self.up)
    @rule()
    def follow(self) -> None:
        frame = self.up.popleft()
        match frame.WhichOneof("action"):
            case "start":
                start = frame.start
                stream_id = f"{start.request.client_request_id}/{len(self.streams)}"
                number = int(start.request.client_request_id)
                self.streams[stream_id] = self.callers[number].decoding
                self.enter(start.id, stream_id, 0, start.request.stream)
            case "resume":
                request = frame.resume.request
                assert request.next_token_index <= self.streams[request.stream_id].tokens
                self.enter(
                    frame.resume.id, request.stream_id, request.next_token_index, request.stream
                )
            case "credit":
                for identity, limit in zip(
                    frame.credit.ids, frame.credit.token_limits, strict=True
                ):
                    assert identity <= self.last_id, "credit for what was never opened"
                    if (reading := self.readings.get(identity)) is not None:
                        assert limit > reading.limit
                        reading.limit = limit
            case "close":
                assert frame.close.id <= self.last_id
                self.readings.pop(frame.close.id, None)
            case "cancel":
                assert frame.cancel.id <= self.last_id

    def enter(self, identity: int, stream_id: str, first: int, options: pb.StreamOptions) -> None:
        assert identity > self.last_id
        self.last_id = identity
        assert options.HasField("credit") == (self.window is not None)
        limit = first + options.credit if options.HasField("credit") else 2**32
        self.readings[identity] = Reading(stream_id, first, limit)

    @precondition(lambda self: self.readings)
    @rule(most=st.integers(1, 5), skip=st.integers(1, 3), refuse=st.booleans())
    def decode(self, most: int, skip: int, refuse: bool) -> None:
        """One message: some tokens of some requests."""
        message = pb.SessionResponse()
        for identity in list(self.readings)[::skip]:
            reading = self.readings[identity]
            decoding = self.streams[reading.stream_id]
            if not reading.started:
                if refuse and "/" in reading.stream_id:
                    failure = message.failed.add(id=identity).failure
                    failure.code = 14
                    del self.readings[identity]
                    continue
                reading.started = True
                message.started.add(id=identity, started=pb.Started(stream_id=reading.stream_id))
            after = min(reading.position + most, decoding.tokens, reading.limit)
            if after > reading.position:
                text = decoding.text(reading.position, after)
                if after == decoding.tokens and not decoding.late:
                    text += decoding.tail
                self.add_delta(message, identity, reading.position, after, text)
                reading.position = after
            elif after == decoding.tokens:  # and not merely out of credit
                if decoding.late and decoding.tail and not reading.tail_sent:
                    self.add_delta(message, identity, after, after, decoding.tail)
                reading.tail_sent = True
            if after == decoding.tokens and reading.tail_sent and most != 1:
                message.finished.add(id=identity)
                del self.readings[identity]
        if message.ByteSize():
            self.down.append(message)

    def add_delta(
        self, message: pb.SessionResponse, identity: int, first: int, after: int, text: str
    ) -> None:
        message.deltas.ids.append(identity)
        message.deltas.first_token_indexes.append(first)
        message.deltas.token_counts.append(after - first)
        message.deltas.token_ids.extend(range(first, after))
        message.deltas.texts.append(text)

    # What must always hold.

    @invariant()
    def what_was_read_is_the_beginning_of_the_whole(self) -> None:
        for caller in getattr(self, "callers", []):
            tokens = caller.tokens
            assert tokens == list(range(len(tokens)))
            assert caller.decoding.whole.startswith(caller.text)
            starts = [event for event in caller.events if isinstance(event, Started)]
            assert len(starts) <= 1

    @invariant()
    def no_more_waits_than_the_window(self) -> None:
        for caller in getattr(self, "callers", []):
            if self.window is not None and not caller.left:
                waiting = caller.answer.next_token_index - len(caller.tokens)
                assert 0 <= waiting <= self.window

    def teardown(self) -> None:
        """Let everything go on to its end."""
        if not hasattr(self, "callers"):
            return
        for _ in range(2000):
            if all(caller.answer.ended for caller in self.callers):
                break
            if not self.connected:
                self.connect()
            self.send(100)
            while self.up:
                self.follow()
            self.decode(5, 1, False)
            while self.down:
                self.deliver()
            for which in range(len(self.callers)):
                self.read(which, 100)
        for which, caller in enumerate(self.callers):
            self.read(which, 100)
            assert caller.answer.ended
            if not caller.left:
                assert caller.tokens == list(range(caller.decoding.tokens))
                assert caller.text == caller.decoding.whole
                assert isinstance(caller.events[-1], Finished)
                assert caller.answer.error is None
        assert len(self.multiplexer) == 0


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def opened(window: int | None = 4) -> Answer:
    return Answer(pb.GenerateRequest(text="Hi"), Terms(window=window))


def test_grants_of_several_requests_are_one_frame() -> None:
    multiplexer, answers = Multiplexer(lambda: 0.0), [opened() for _ in range(3)]
    for answer in answers:
        multiplexer.add(answer)
    multiplexer.connected()
    while multiplexer.next_frame() is not None:
        pass
    for limit, answer in enumerate(answers, 10):
        multiplexer.grant(answer, limit)
        multiplexer.grant(answer, limit + 10)
    frame = multiplexer.next_frame()
    assert frame is not None
    assert list(frame.credit.ids) == [1, 2, 3]
    assert list(frame.credit.token_limits) == [20, 21, 22]
    assert multiplexer.next_frame() is None


def test_a_burst_of_requests_is_one_message_in_their_order() -> None:
    multiplexer = Multiplexer(lambda: 0.0)
    for _ in range(3):
        multiplexer.add(Answer(pb.GenerateRequest(text="x")))
    multiplexer.connected()
    message = multiplexer.next_message()
    assert message is not None
    assert [frame.start.id for frame in message.batch.requests] == [1, 2, 3]
    assert multiplexer.next_message() is None


def test_a_request_alone_is_no_batch() -> None:
    multiplexer = Multiplexer(lambda: 0.0)
    multiplexer.add(Answer(pb.GenerateRequest(text="x")))
    multiplexer.connected()
    message = multiplexer.next_message()
    assert message is not None
    assert message.WhichOneof("action") == "start"


def test_a_burst_of_large_requests_is_cut_into_messages_of_a_bounded_size() -> None:
    multiplexer = Multiplexer(lambda: 0.0)
    for _ in range(8):
        multiplexer.add(Answer(pb.GenerateRequest(text="x" * 30_000)))
    multiplexer.connected()
    messages = []
    while (message := multiplexer.next_message()) is not None:
        messages.append(message)
    assert max(message.ByteSize() for message in messages) < 64 * 1024 + 31_000
    assert [f.start.id for m in messages for f in m.batch.requests] == list(range(1, 9))


def test_what_slow_readers_read_is_granted_in_one_frame_when_time_has_passed() -> None:
    multiplexer, answers = Multiplexer(lambda: 0.0), [opened(100) for _ in range(3)]
    for answer in answers:
        multiplexer.add(answer)
    multiplexer.connected()
    while multiplexer.next_frame() is not None:
        pass
    for answer in (answers[0], answers[2]):
        assert answer.consume(1) is None
    assert not multiplexer.has_frames()
    multiplexer.grant_now()
    frame = multiplexer.next_frame()
    assert frame is not None
    assert dict(zip(frame.credit.ids, frame.credit.token_limits, strict=True)) == {1: 101, 3: 101}
    multiplexer.grant_now()
    assert multiplexer.next_frame() is None


def test_no_credit_is_sent_before_the_opening_that_says_it() -> None:
    multiplexer, answer = Multiplexer(lambda: 0.0), opened(4)
    multiplexer.add(answer)
    multiplexer.connected()
    multiplexer.next_frame()
    multiplexer.lost(Unavailable("cut"))
    again = Answer(pb.ResumeRequest(stream_id="s", next_token_index=3), Terms(window=4))
    multiplexer.add(again)
    multiplexer.connected()
    multiplexer.grant(again, 7)
    frame = multiplexer.next_frame()
    assert frame is not None
    assert frame.HasField("resume")


def test_a_finished_request_is_sent_no_credit_and_no_close() -> None:
    multiplexer, answer = Multiplexer(lambda: 0.0), opened()
    multiplexer.add(answer)
    multiplexer.connected()
    multiplexer.next_frame()
    multiplexer.grant(answer, 10)
    message = pb.SessionResponse()
    message.started.add(id=1)
    message.finished.add(id=1)
    multiplexer.receive(message)
    assert not answer.leave() or not multiplexer.leave(answer)
    assert multiplexer.next_frame() is None
    assert len(multiplexer) == 0
