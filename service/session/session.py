"""One session: many requests, whose messages leave together.

No I/O: actions go in, frames come out; opening a request is the driver's task.

Rules:

1. Ids are the caller's and only grow, so that no late message can mean another request.
2. A frame has, of every request that is due, one delta of at most the request's own bound, until
   the frame is full; then those that were left out come first in the next one. So nobody waits
   longer than all others' deltas take.
3. While a frame is being written, what comes merges into the next one.
4. A request with several choices is read by as many readers. It has one start, an end for each
   choice, and one failure.
5. A request that fails, and a message that cannot be followed, are told for their id alone.
6. The session is over when its caller has closed its side and no request is left, or when the
   call breaks; then each request is left, and ends or detaches as it asked.

Bounds: the gate's limit of requests, and the directory's of streams to read on; `MOST_NOTICES`
notices (rejections and failures) before no more of the caller's messages are read (`is_full`),
until it takes them; of one message with more ids than that, the rest goes unsaid.
"""

from collections import deque
from collections.abc import Callable, Sequence

import structlog

from service.choices import all_failures_told, leave_together
from service.errors import IdNotNew, IdUnknown, RequestFailed, ServiceError
from service.generation import Generation
from service.session.frame import ActionKind, Credit, Frame, id_of, tag_of
from service.stream.reader import StreamReader

_log = structlog.get_logger(__name__)

MOST_TOKENS_PER_FRAME = 8192
MOST_LOGPROBS_PER_FRAME = 512  # tokens, each with up to 20 others
MOST_NOTICES = 1024


class Session:
    """See the rules above.

    `wake` is called when there is something to write, or it is over; `tell_starts_soon` when
    requests have started, which waits some milliseconds for company: then `tell_starts`.
    """

    def __init__(self, wake: Callable[[], None], tell_starts_soon: Callable[[], None]) -> None:
        self._wake = wake
        self._tell_starts_soon = tell_starts_soon
        self._last_id = 0
        self._opening: set[int] = set()
        # By the readers' tags: the request's id or, with several choices, those of `tag_of`.
        self._reading: dict[int, tuple[Generation, StreamReader]] = {}
        self._several: dict[int, Generation] = {}  # a choice of each request that has several
        self._limits: dict[int, int] = {}  # credit that came while the request was being opened
        self._ready: deque[StreamReader] = deque()
        self._notices = Frame()
        self._input_closed = False
        self._idle = True  # `next_frame` had nothing to say
        self._starts_are_due = False
        # Of its writer's progress, kept by the writer.
        self.sending = False
        self.sent = 0

    # -- what the caller wants ---------------------------------------------------------------

    def open(self, request_id: int) -> None:
        """Begin to open a request. Raises `IdNotNew`."""
        if request_id <= self._last_id:
            raise IdNotNew(request_id, self._last_id)
        self._last_id = request_id
        self._opening.add(request_id)

    def opened(self, request_id: int, generation: Generation, reader: StreamReader) -> None:
        """Read a request that was opened; it must not have been closed meanwhile."""
        self._opening.discard(request_id)
        self._reading[request_id] = (generation, reader)
        self._notices.started.append((request_id, generation.started()))
        limit = self._limits.pop(request_id, None)
        if limit is not None:
            reader.grant(limit)
        self._tell_starts_soon()

    def opened_several(
        self, request_id: int, readers: Sequence[StreamReader], first: Generation
    ) -> None:
        """As `opened`, with a reader for each choice, in their order."""
        self._opening.discard(request_id)
        self._several[request_id] = first
        limit = self._limits.pop(request_id, None)
        for choice, reader in zip(first.choices, readers, strict=True):
            self._reading[reader.tag] = (choice, reader)
            if limit is not None:
                reader.grant(limit)
        self._notices.started.append((request_id, first.started()))
        self._tell_starts_soon()

    def tell_starts(self) -> None:
        """Make a frame of the requests that have started, if none took them along."""
        if self._notices.started:
            self._starts_are_due = True
            self._wake()

    def not_opened(self, request_id: int, failure: ServiceError | None) -> None:
        """Tell that a request could not be opened; None: it was closed, and nobody is told."""
        self._opening.discard(request_id)
        self._limits.pop(request_id, None)
        if failure is not None:
            self._notices.failed.append((request_id, failure))
        self._wake()

    def is_open(self, request_id: int) -> bool:
        """Whether a request is being opened or read."""
        return (
            request_id in self._reading
            or request_id in self._opening
            or request_id in self._several
        )

    def generation(self, request_id: int) -> Generation | None:
        """A request that is being read; of several choices, one."""
        reading = self._reading.get(request_id)
        return self._several.get(request_id) if reading is None else reading[0]

    def grant(self, credit: Credit) -> None:
        """Let more be delivered."""
        for request_id, limit in zip(credit.ids, credit.token_limits, strict=False):
            reading = self._reading.get(request_id)
            if reading is not None:
                reading[1].grant(limit)
            elif request_id in self._several:
                for choice in self._several[request_id].choices:
                    if choice.reader is not None:
                        choice.reader.grant(limit)
            elif request_id in self._opening:
                self._limits[request_id] = max(limit, self._limits.get(request_id, 0))
            elif not self.is_full:  # one message can have any number of ids
                self.reject(request_id, ActionKind.CREDIT, IdUnknown(request_id))

    def close(self, request_id: int) -> None:
        """Stop reading a request, as if its call had broken."""
        self._opening.discard(request_id)
        starts = self._notices.started
        self._notices.started = [start for start in starts if start[0] != request_id]
        reading = self._reading.pop(request_id, None)
        if reading is not None:
            generation, reader = reading
            generation.leave(reader)
        elif request_id in self._several:
            self._leave_several(request_id, None)
        self._wake()

    def reject(self, request_id: int, action: ActionKind, why: ServiceError) -> None:
        """Tell that a message cannot be followed."""
        self._notices.rejected.append((request_id, action, why))
        self._wake()

    def close_input(self) -> None:
        """Take notice that no more messages of the caller's will come."""
        self._input_closed = True
        self._wake()

    @property
    def is_full(self) -> bool:
        """Whether the caller has to take its notices before it may say more."""
        return len(self._notices.rejected) + len(self._notices.failed) >= MOST_NOTICES

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more; `next_frame` may still have something."""
        return self._input_closed and not self._reading and not self._opening

    @property
    def has_said_all(self) -> bool:
        """Whether there is nothing to write, and nothing is being written."""
        return self._idle and not self.sending

    # -- what the readers have ---------------------------------------------------------------

    def ready(self, reader: StreamReader) -> None:
        """See `Sink.ready`."""
        self._ready.append(reader)
        if self._idle:
            self._idle = False
            self._wake()

    def broken_off(self, reader: StreamReader) -> None:
        """See `Sink.broken_off`. Told at once, so that readers that come and go are bounded too."""
        reading = self._reading.get(reader.tag)
        if reading is not None and reading[1] is reader and reader.broken is not None:
            if reading[0].choices:
                request_id = id_of(reader.tag)
                self._leave_several(request_id, reader.broken)
                self._notices.failed.append((request_id, reader.broken))
                self._wake()
                return
            del self._reading[reader.tag]
            reading[0].leave(reader)
            self._notices.failed.append((reader.tag, reader.broken))
            self._wake()

    def next_frame(self) -> Frame | None:
        """Make the next message; None if there is nothing to say."""
        notices = self._notices
        if not (self._ready or self._starts_are_due or notices.failed or notices.rejected):
            self._idle = True
            return None
        self._idle = self._starts_are_due = False
        frame, self._notices = notices, Frame()
        frame.several = bool(self._several)
        for request_id, _ in frame.started:
            if request_id in self._reading:
                self._reading[request_id][0].known = True
        ready, self._ready = self._ready, deque()
        deltas = frame.deltas
        token_ids, logprobs = deltas.token_ids, deltas.logprobs
        while ready:
            reader = ready.popleft()
            if reader.closed:
                continue
            try:
                exhausted = reader.take_into(deltas)
            except Exception:
                _log.exception("reader_failed")
                reader.break_off(RequestFailed())
                continue
            if exhausted:
                self._end(frame, reader)
            if len(token_ids) >= MOST_TOKENS_PER_FRAME or len(logprobs) >= MOST_LOGPROBS_PER_FRAME:
                ready.extend(self._ready)
                self._ready = ready
                break
        # Nothing was taken if all who were ready have left.
        return self.next_frame() if frame.is_empty else frame

    def leave(self, because: ServiceError | None = None) -> None:
        """Leave all requests: the call has ended, by itself or `because` it was broken off."""
        self._opening.clear()
        self._several.clear()
        reading, self._reading = self._reading, {}
        for generation, reader in reading.values():
            if because is not None:
                reader.break_off(because)
            generation.leave(reader)

    def _end(self, frame: Frame, reader: StreamReader) -> None:
        reading = self._reading.get(reader.tag)
        if reading is None or reading[1] is not reader:
            return
        generation = reading[0]
        if generation.choices:
            self._end_choice(frame, generation, reader)
            return
        del self._reading[reader.tag]
        generation.complete()
        failure = reader.stream.failure
        if failure is None:
            frame.finished.append((reader.tag, generation.finished()))
        else:
            frame.failed.append((reader.tag, failure))
        generation.leave(reader)

    def _end_choice(self, frame: Frame, choice: Generation, reader: StreamReader) -> None:
        request_id, failure = id_of(reader.tag), reader.stream.failure
        if failure is None:
            del self._reading[reader.tag]
            choice.complete()
            frame.finished.append((request_id, choice.finished()))
            choice.leave(reader)
            if all(c.reader is None for c in choice.choices):
                del self._several[request_id]
        elif all_failures_told(choice):
            self._leave_several(request_id, failure)
            frame.failed.append((request_id, failure))

    def _leave_several(self, request_id: int, because: ServiceError | None) -> None:
        choice = self._several.pop(request_id)
        for index in range(len(choice.choices)):
            self._reading.pop(tag_of(request_id, index), None)
        leave_together(choice, because)
