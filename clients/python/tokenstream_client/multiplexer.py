"""A session's client side, without I/O: many answers over one call, and over the next one.

Frames come in by `receive` and go out by `next_frame`; `connected` and `lost` say where one call
ends and another begins. Rules:

- An answer has one id in each call, larger than any before it there; ids begin with 1.
- Nothing of an answer is sent before its start or resume, nothing after its close.
- Of an id that is not in `_routes` nothing is taken: its answer has ended, or its reader has left.
- An answer that has ended is not in `_routes`.

- Credit is granted for what was read: once half a window was, and from time to time.
- An answer that was left is remembered until its close has gone out on a call that works.

What waits to be sent is at most four frames for each answer, and one credit frame for all.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Final

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client.answer import Answer
from tokenstream_client.errors import TokenstreamError
from tokenstream_client.events import (
    Delta,
    TokenLogprobs,
    finished_from_message,
    logprobs_from_messages,
    started_from_message,
)
from tokenstream_client.status import error_from_failure

_OPEN: Final = "open"
_CANCEL: Final = "cancel"
_CLOSE: Final = "close"
# A message may be larger by one frame; the largest stays far below gRPC's usual 4 MiB.
_BATCH_BYTES: Final = 64 * 1024
_OPENING_ACTIONS: Final = (pb.SESSION_ACTION_START, pb.SESSION_ACTION_RESUME)

_new_delta: Final = tuple.__new__  # half of what `Delta(…)` costs, once for each event


class Multiplexer:
    """Which answers a session carries, under which ids, and what it has to send for them."""

    def __init__(
        self,
        clock: Callable[[], float],
        elsewhere: Callable[[Answer, TokenstreamError], bool] = lambda *_: False,
    ) -> None:
        """`clock` tells seconds, as in the answers' deadlines. `elsewhere` is told of an answer
        that failed before its start, and whether it is to be begun again at once.
        """
        self._clock = clock
        self._elsewhere = elsewhere
        self.has_started = False
        """Whether some answer has, ever."""
        self._connected = False
        self._last_id = 0
        self._ids: dict[Answer, int] = {}  # with 0 while not connected
        self._routes: dict[int, Answer] = {}
        self._opened: set[int] = set()
        self._outbox: deque[tuple[str, int]] = deque()
        self._limits: dict[int, int] = {}
        self._heard = False
        self._partings: dict[int, Answer] = {}
        self._retries: list[tuple[float, Answer]] = []

    def __len__(self) -> int:
        """How many answers it carries."""
        return len(self._ids)

    def __iter__(self) -> Iterator[Answer]:
        return iter(tuple(self._ids))

    def __contains__(self, answer: Answer) -> bool:
        return answer in self._ids

    # The callers' side.

    def add(self, answer: Answer) -> None:
        """Carry an answer, at once or with the next connection."""
        if not answer.ended:
            self._ids[answer] = 0
            if self._connected:
                self._enter(answer)

    def leave(self, answer: Answer) -> bool:
        """Let go of an answer, stopping it where closing does not; False: nobody can be told."""
        identity = self._ids.pop(answer, 0)
        told = identity in self._opened
        self._forget(identity)
        if told:
            if answer.must_be_stopped:
                self._outbox.append((_CANCEL, identity))
                self._partings[identity] = answer
            self._outbox.append((_CLOSE, identity))
        return told

    def stop(self, answer: Answer) -> None:
        """Ask for an answer's end; it gets its Finished. Remembered over connections."""
        answer.stop_asked = True
        identity = self._ids.get(answer, 0)
        if identity in self._opened:  # else it follows the opening
            self._outbox.append((_CANCEL, identity))

    def grant(self, answer: Answer, limit: int) -> None:
        """Let more tokens come: those with an index below `limit`."""
        identity = self._ids.get(answer, 0)
        if identity in self._opened:  # else the opening says it
            self._limits[identity] = limit

    def grant_now(self) -> None:
        """Grant what was read, however little, in one frame."""
        for answer in self._ids:
            if (limit := answer.grant_now()) is not None:
                self.grant(answer, limit)

    # The connection's side.

    def connected(self) -> None:
        """A call is open: (re)open everything in it."""
        self._connected = True
        for answer in self._ids:
            self._enter(answer)

    def next_message(self) -> pb.SessionRequest | None:
        """Return what is to be sent next, as a batch if it is several frames; None: nothing now."""
        first = self.next_frame()
        if first is None or not self.has_frames():
            return first
        message, size = pb.SessionRequest(), first.ByteSize()
        message.batch.requests.append(first)
        while size < _BATCH_BYTES and (frame := self.next_frame()) is not None:
            message.batch.requests.append(frame)
            size += frame.ByteSize()
        return message

    def next_frame(self) -> pb.SessionRequest | None:
        """Return the next frame; None: nothing now."""
        if self._limits:
            credit = pb.SessionCredit(ids=self._limits.keys(), token_limits=self._limits.values())
            self._limits.clear()
            return pb.SessionRequest(credit=credit)
        while self._outbox:
            action, identity = self._outbox.popleft()
            if action is _CLOSE:
                if self._heard:
                    self._partings.pop(identity, None)
                return pb.SessionRequest(close=pb.SessionClose(id=identity))
            if action is _CANCEL:
                return pb.SessionRequest(cancel=pb.SessionCancel(id=identity))
            if (answer := self._routes.get(identity)) is not None:
                self._opened.add(identity)
                if answer.stop_asked:
                    self._outbox.appendleft((_CANCEL, identity))
                return self._opening(identity, answer)
        return None

    def has_frames(self) -> bool:
        """Tell whether there may be something to send."""
        return bool(self._outbox or self._limits)

    def receive(self, message: pb.SessionResponse) -> None:
        """Hand a message's events to their answers."""
        if not self._heard:
            self._heard = True
            unsent = {identity for action, identity in self._outbox if action is _CLOSE}
            self._partings = {i: a for i, a in self._partings.items() if i in unsent}
        for start in message.started:
            self.has_started = True
            if (answer := self._routes.get(start.id)) is not None:
                answer.on_started(started_from_message(start.started))
        if message.HasField("deltas"):
            self._receive_deltas(message.deltas)
        for end in message.finished:
            if (answer := self._routes.get(end.id)) is not None:
                self._receive_end(end.id, answer, end.finished)
        for failure in message.failed:
            self._receive_failure(failure.id, failure.failure)
        for rejected in message.rejected:
            # Any other was late: its answer had ended.
            if rejected.action in _OPENING_ACTIONS:
                self._receive_failure(rejected.id, rejected.failure)

    def lost(self, error: TokenstreamError) -> float | None:
        """The call broke. Return the seconds until the next one; None: no answer needs one."""
        now, delays = self._clock(), []
        for answer in self._disconnect():
            if (delay := answer.lost(error, now)) is None:
                del self._ids[answer]
            else:
                delays.append(delay)
        return min(delays, default=None)

    def refused(self, error: TokenstreamError, to_calls: Callable[[Answer], bool]) -> None:
        """The service takes no session: answers go on by calls of their own, or fail."""
        for answer in self._disconnect():
            del self._ids[answer]
            if to_calls(answer):
                answer.needs_call = True
                answer.changed()
            else:
                answer.end(error)

    def take_partings(self) -> list[Answer]:
        """Return the answers that were left, and must be stopped, but whose frames got nowhere:
        the call that they were for never came up, or broke before.
        """
        partings = list(self._partings.values()) if not self._connected else []
        if partings:
            self._partings.clear()
        return partings

    def take_retries(self) -> list[tuple[float, Answer]]:
        """Return answers to `add` again, each after so many seconds."""
        retries, self._retries = self._retries, []
        return retries

    # Parts.

    def _enter(self, answer: Answer) -> None:
        self._last_id += 1
        self._ids[answer] = self._last_id
        self._routes[self._last_id] = answer
        self._outbox.append((_OPEN, self._last_id))

    def _forget(self, identity: int) -> None:
        self._routes.pop(identity, None)
        self._limits.pop(identity, None)
        self._opened.discard(identity)

    def _disconnect(self) -> list[Answer]:
        self._connected, self._heard, self._last_id = False, False, 0
        self._routes.clear()
        self._opened.clear()
        self._outbox.clear()
        self._limits.clear()
        answers = list(self._ids)
        self._ids = dict.fromkeys(answers, 0)
        return answers

    def _opening(self, identity: int, answer: Answer) -> pb.SessionRequest:
        message, api_key = answer.open_message(credit=True), answer.terms.api_key
        if isinstance(message, pb.ResumeRequest):
            return pb.SessionRequest(
                resume=pb.SessionResume(id=identity, request=message, api_key=api_key)
            )
        terms = answer.terms
        start = pb.SessionStart(
            id=identity,
            request=message,
            api_key=api_key,
            traceparent=terms.traceparent,
            tracestate=terms.tracestate,
        )
        remaining = answer.remaining(self._clock())
        if remaining is not None:
            start.timeout.FromNanoseconds(round(remaining * 1e9))
        return pb.SessionRequest(start=start)

    def _receive_deltas(self, deltas: pb.SessionDeltas) -> None:
        # Each column is crossed from the message once; slicing a tuple costs next to nothing.
        token_ids = tuple(deltas.token_ids)
        logprobs: Iterable[tuple[TokenLogprobs, ...]] = repeat(())
        if deltas.logprobs:
            logprobs = _logprobs_of(deltas)
        routes, end = self._routes, 0
        for identity, choice, first, count, text, places in zip(
            deltas.ids,
            deltas.choice_indexes or repeat(0),
            deltas.first_token_indexes,
            deltas.token_counts,
            deltas.texts,
            logprobs,
            strict=False,
        ):
            begin, end = end, end + count
            answer = routes.get(identity)
            if answer is not None:
                delta = (choice, first, token_ids[begin:end], text, places)
                answer.on_delta(_new_delta(Delta, delta))
                if answer.ended:  # it was not the next delta
                    self.leave(answer)

    def _receive_end(self, identity: int, answer: Answer, finished: pb.Finished) -> None:
        answer.on_finished(finished_from_message(finished))
        if not answer.ended:
            # The other choices' credit need not wait for this one any more.
            if (limit := answer.grant_now()) is not None:
                self.grant(answer, limit)
        elif answer.error is not None:
            self.leave(answer)  # it was not the end of a choice that runs
        else:
            self._forget(identity)
            del self._ids[answer]

    def _receive_failure(self, identity: int, failure: pb.Failure) -> None:
        answer = self._routes.get(identity)
        if answer is None:
            return
        self._forget(identity)
        del self._ids[answer]
        error = error_from_failure(failure)
        delay: float | None = 0.0
        if answer.has_started or not self._elsewhere(answer, error):
            delay = answer.failed(error, self._clock())
        if delay is not None:
            self._retries.append((delay, answer))


def _logprobs_of(deltas: pb.SessionDeltas) -> Iterator[tuple[TokenLogprobs, ...]]:
    """The deltas' log-probabilities, delta by delta."""
    logprobs, end = logprobs_from_messages(deltas.logprobs), 0
    for count in deltas.logprob_counts:
        begin, end = end, end + count
        yield logprobs[begin:end]
