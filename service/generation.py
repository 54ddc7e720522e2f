"""One request that was let in, or one of its choices, from its door to its one end.

It can have several readers, one after the other::

    OPENING ──submitted──► READ ──the reader leaves──► SETTLED
                            │ ▲                           ▲
             it leaves early│ │a new one comes            │ the stream ends, or the
             (DETACH)       ▼ │                           │ time to live passes
                          DETACHED ───────────────────────┘

Rules:

1. It settles exactly once: what it holds (route, engine's place, ticket, timer) is given back, and
   its outcome is counted. Whatever happens later changes neither.
2. One reader at a time. A newer one takes over; the older is broken off.
3. Where the request asked for DETACH, a reader that leaves early leaves a detached stream, unless
   nobody was told its id yet. It is found again until its time to live has passed, counted from
   when the last reader left or, if that is later, from the stream's end. A settled stream can be
   read as long.

What holds between the choices of one request is in `choices`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from service.domain import (
    DeliveryOptions,
    Finished,
    FinishReason,
    GenerationRequest,
    OnDisconnect,
    Started,
    Timings,
    Usage,
)
from service.engine.protocol import RenderedRequest
from service.errors import PositionOutOfRange, StreamTakenOver
from service.stream.pacing import DelayGrid
from service.stream.reader import Sink, StreamReader
from service.stream.text import StopRules, TokenDecoder
from service.stream.token_stream import TokenStream
from service.telemetry.outcomes import Outcome, outcome_of, outcome_of_finish


class Generation:
    """See the rules above. `on_settled` is told once, with `outcome` set.

    `stream_id` is the engine's id for it too. `choices`: where its request has several, those, this
    one included; else empty.

    `deadline`: the clock's time at which it must have ended, seen by the caller up to
    `deadline_slack_s` earlier.
    """

    __slots__ = (
        "_clock",
        "_make_decoder",
        "_on_settled",
        "_time_to_live_s",
        "arrived",
        "began",
        "choice_index",
        "choices",
        "client_request_id",
        "deadline",
        "deadline_slack_s",
        "delivered",
        "delivery",
        "expires_at",
        "held",
        "known",
        "messages",
        "model",
        "outcome",
        "prompt_tokens",
        "reader",
        "rules",
        "settled_at",
        "stream",
        "stream_id",
        "tenant",
        "trace_id",
    )

    def __init__(
        self,
        stream_id: str,
        tenant: str,
        request: GenerationRequest,
        clock: Callable[[], float],
        on_settled: "Callable[[Generation], None]",
        deadline: float | None,
        deadline_slack_s: float,
    ) -> None:
        self.stream_id = stream_id
        self.tenant = tenant
        self.choice_index = 0
        self.choices: Sequence[Generation] = ()
        # Not the request itself: a stream that is kept must not keep its prompt.
        self.delivery = request.delivery
        self.client_request_id = request.client_request_id
        self.trace_id = request.trace_id
        self.prompt_tokens = 0  # before it was rendered
        self.arrived = clock()
        self.deadline = deadline
        self.deadline_slack_s = deadline_slack_s
        self.model = ""
        self.held = ExitStack()
        self.began = False  # it is with the engine, or on its way there
        self.known = False  # its id was given to a write: somebody can come back for it
        self.outcome: Outcome | None = None
        self.settled_at = 0.0
        self.reader: StreamReader | None = None
        self.stream: TokenStream | None = None
        self.delivered = 0  # tokens that some reader has taken
        self.messages = 0  # in which all readers have taken theirs
        self.expires_at: float | None = None
        self.rules = StopRules()
        self._clock = clock
        self._on_settled = on_settled
        self._make_decoder: Callable[[], TokenDecoder] | None = None
        self._time_to_live_s = 0.0

    def another(self, index: int, request: GenerationRequest, place: ExitStack) -> "Generation":
        """Make another choice of its request, which holds what is in `place`."""
        made = Generation(
            f"{self.stream_id}~{index}",
            self.tenant,
            request,
            self._clock,
            self._on_settled,
            self.deadline,
            self.deadline_slack_s,
        )
        made.choice_index = index
        made.arrived = self.arrived
        made.held = place.pop_all()
        return made

    @property
    def resumable(self) -> bool:
        """Whether its stream outlives its reader."""
        return self.delivery.on_disconnect is OnDisconnect.DETACH

    @property
    def time_to_first_token_s(self) -> float | None:
        """From its arrival to its first token; None while there is none."""
        first = None if self.stream is None else self.stream.first_token_at
        return None if first is None else first - self.arrived

    @property
    def inter_token_s(self) -> float | None:
        """Mean time between its tokens; None unless the engine ended it after two or more."""
        stream = self.stream
        if stream is None or stream.first_token_at is None or stream.count < 2:
            return None
        if stream.ended_at is None or stream.finish is None:
            return None
        if stream.finish.reason is FinishReason.CANCELLED:
            return None  # its last token came some time before
        return (stream.ended_at - stream.first_token_at) / (stream.count - 1)

    def opened(
        self, model: str, rendered: RenderedRequest, stream: TokenStream, time_to_live_s: float
    ) -> None:
        """Have a stream from now on."""
        self.model = model
        self.prompt_tokens = rendered.prompt_token_count
        self._make_decoder = rendered.make_decoder
        self.stream = stream
        self._time_to_live_s = time_to_live_s

    def read(
        self,
        grid: DelayGrid,
        sink: Sink,
        *,
        position: int = 0,
        delivery: DeliveryOptions | None = None,
        tag: int = 0,
    ) -> StreamReader:
        """Let a reader begin at a token index; one that is there is broken off.

        Raises `PositionOutOfRange`.
        """
        assert self.stream is not None
        assert self._make_decoder is not None
        if not self.stream.first_kept <= position <= self.stream.count:
            raise PositionOutOfRange(position, self.stream.count)
        older, self.reader = self.reader, None
        if older is not None:
            self._note_progress(older)
            older.break_off(StreamTakenOver())
        self.expires_at = None
        self.reader = StreamReader(
            self.stream,
            position,
            self._make_decoder(),
            self.rules,
            delivery or self.delivery,
            grid,
            sink,
            tag,
        )
        return self.reader

    def leave(self, reader: StreamReader) -> None:
        """A reader has gone, with or without the stream's end. Once for each reader."""
        reader.close()
        if reader is not self.reader:
            return  # taken over
        self._note_progress(reader)
        self.reader = None
        if self.outcome is None and not (self.resumable and self.known and self._goes_on):
            self.settle(self._outcome_when_left(reader))
        if self.resumable:
            self.expires_at = self._clock() + self._time_to_live_s

    def complete(self) -> None:
        """Its reader is being given the end."""
        assert self.stream is not None
        if self.reader is not None:
            self._note_progress(self.reader)
        self.settle(self._outcome_of_stream())

    def stream_ended(self) -> None:
        """The stream has its end; if nobody reads, that is the request's too."""
        if self.reader is None and self.resumable:
            self.settle(self._outcome_of_stream())
            self.expires_at = self._clock() + self._time_to_live_s

    def settle(self, outcome: Outcome) -> None:
        """Give everything back, and count it, unless that is done."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.settled_at = self._clock()
        try:
            self.held.close()
        finally:
            self._on_settled(self)

    def started(self) -> Started:
        """Its first event, for any reader."""
        return Started(self.stream_id, self.model, self.prompt_tokens, self.client_request_id)

    def finished(self) -> Finished:
        """Its last event; it must have settled with an end of the generation's own."""
        assert self.stream is not None
        assert self.stream.finish is not None
        return Finished(
            self.stream.finish,
            Usage(self.prompt_tokens, self.stream.count, self.stream.cached_prompt_tokens),
            Timings(
                self.time_to_first_token_s,
                self.settled_at - self.arrived,
                self.stream.engine_account,
            ),
            self.choice_index,
        )

    @property
    def _goes_on(self) -> bool:
        return self.stream is not None and not self.stream.ended

    def _note_progress(self, reader: StreamReader) -> None:
        self.delivered = max(self.delivered, reader.position)
        self.messages += reader.messages
        reader.messages = 0

    def _outcome_of_stream(self) -> Outcome:
        assert self.stream is not None
        if self.stream.finish is not None:
            return outcome_of_finish(self.stream.finish)
        assert self.stream.failure is not None
        return outcome_of(self.stream.failure)

    def _outcome_when_left(self, reader: StreamReader) -> Outcome:
        """Which end it is when the reader left without having been given the stream's.

        What ended the stream before counts, also if the reader was too slow to be told.
        """
        assert self.stream is not None
        if self.stream.failure is not None:
            return outcome_of(self.stream.failure)
        finish = self.stream.finish
        if finish is not None and (self.resumable or finish.reason is FinishReason.CANCELLED):
            return outcome_of_finish(finish)
        if reader.broken is not None:
            return outcome_of(reader.broken)
        return self.outcome_when_cut_off()

    def outcome_when_cut_off(self) -> Outcome:
        """Which end it is when the caller's side has gone; at its deadline, gRPC does that."""
        if self.deadline is not None and self._clock() >= self.deadline - self.deadline_slack_s:
            return Outcome.DEADLINE
        return Outcome.DISCONNECTED
