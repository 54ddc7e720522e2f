"""The path of a request on one page: let in, render, open its stream, submit; and how it is read.

Whatever ends a request, an exception, a reader that leaves, a cancelled task, the engine: it
settles once (`generation`), and that one end is counted and logged here.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog

from service.admission import validation
from service.admission.gate import Gate
from service.choices import add_choices, fail_others
from service.demux.demultiplexer import Demultiplexer
from service.demux.reader_progress import ReaderProgress
from service.directory import Directory
from service.domain import DeliveryOptions, GenerationRequest, SamplingOptions
from service.engine.protocol import EngineClient, RenderedRequest
from service.errors import DeadlineExceeded, RequestFailed, ServiceError, StreamNotFound
from service.generation import Generation
from service.stream.logprobs import LogprobColumn
from service.stream.pacing import DelayGrid
from service.stream.reader import Sink, StreamReader
from service.stream.stop_strings import StopWatch
from service.stream.text import StopRules
from service.stream.token_stream import TokenStream
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome, outcome_of

_log = structlog.get_logger(__name__)

# gRPC cancels a handler at the caller's deadline, a moment before or after our own timer.
_DEADLINE_SLACK_S = 0.01

# As much of a stream's id as a log needs to tell streams apart; the whole id is its owner's.
_ID_IN_LOG = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest message to take in bytes; seconds that detached streams live, by default and most.

    `tell_every`: tokens that a reader takes between two times that the engine hears of it, and
    `tell_first`, before the first.
    """

    max_request_bytes: int
    detached_ttl_s: float
    max_detached_ttl_s: float
    tell_every: int = 64
    tell_first: int = 32


class Pipeline:
    """Generates. `clock`: monotonic seconds."""

    def __init__(
        self,
        engine: EngineClient,
        gate: Gate,
        demultiplexer: Demultiplexer,
        directory: Directory,
        grid: DelayGrid,
        metrics: StreamMetrics,
        limits: Limits,
        progress: ReaderProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._demultiplexer = demultiplexer
        self._directory = directory
        self._grid = grid
        self._metrics = metrics
        self._limits = limits
        self._progress = progress
        self._clock = clock
        metrics.watch(metrics.running, lambda: gate.held)
        metrics.watch(metrics.limit, lambda: gate.limit)
        metrics.watch(metrics.queued, lambda: max(0, gate.held - directory.with_tokens))
        metrics.watch(metrics.tokens_ahead, lambda: directory.tokens_ahead)
        metrics.watch(metrics.credit_in_flight, lambda: directory.credit_in_flight)
        metrics.watch(metrics.buffered_bytes, lambda: directory.buffered_bytes)
        metrics.watch(metrics.detached, lambda: directory.detached)
        metrics.watch(metrics.retained, lambda: directory.retained)
        metrics.watch(metrics.adaptive_delay, lambda: grid.adaptive.delay_ms / 1000)
        metrics.watch_count(
            "tokens_for_nobody_total",
            "Tokens that the engine brought for streams that had ended.",
            lambda: demultiplexer.router.counts.tokens_for_nobody,
        )
        metrics.watch_count(
            "readers_stalled_total",
            "Readers that were ended because they took nothing for the stall limit.",
            lambda: directory.readers_stalled,
        )

    async def open(
        self, request: GenerationRequest, tenant: str, remaining_s: float | None = None
    ) -> Generation:
        """Let a request in and submit it; the caller then reads, without awaiting in between.

        What is returned has `choices` if there are several, each of which is to be read.
        `remaining_s`: time until it must have ended. Raises a `ServiceError`.
        """
        now = self._clock()
        generation = Generation(
            secrets.token_urlsafe(16),
            tenant,
            request,
            self._clock,
            self._on_settled,
            deadline=None if remaining_s is None else now + remaining_s,
            deadline_slack_s=0.0 if remaining_s is None else deadline_slack_s(remaining_s),
        )
        with self._settled_on_error(generation):
            self._gate.check_open()
            model = self._engine.model
            validation.check_request(request, model, self._limits.max_request_bytes)
            number = request.sampling.n or 1
            others = self._places_of_others(generation, number) if number > 1 else ()
            ticket = generation.held.enter_context(self._gate.admitted())
            if tenant or generation.deadline is not None:
                request = replace(request, tenant=tenant, deadline=generation.deadline)
            rendered = await self._render(generation, request)
            validation.check_fits(rendered.prompt_token_count, request, model)
            # Nothing is awaited from here to the submission, which no stop overtakes.
            submission: Sequence[RenderedRequest] = (rendered,)
            if others:
                submission = self._enter_all(generation, request, rendered, others)
            else:
                self._enter(generation, request.sampling, rendered)
            try:
                await self._engine.submit(*submission)
            except BaseException:
                generation.began = False
                raise
            # With choices, the first one's length tells enough.
            ticket.streamed = True
        return generation

    def resume(
        self,
        stream_id: str,
        tenant: str,
        position: int,
        delivery: DeliveryOptions,
        sink: Sink,
        tag: int = 0,
    ) -> tuple[Generation, StreamReader]:
        """Read a stream on, from a token index. Raises `StreamNotFound`, `PositionOutOfRange`."""
        try:
            validation.check_resume(delivery)
            generation = self._directory.find(stream_id, tenant)
            reader = generation.read(
                self._grid, sink, position=position, delivery=delivery, tag=tag
            )
        except ServiceError as error:
            self._metrics.refused(error)
            raise
        return generation, reader

    def read(self, generation: Generation, sink: Sink, tag: int = 0) -> StreamReader:
        """Be the first reader of a stream, or a choice, that was opened just now."""
        return generation.read(self._grid, sink, tag=tag)

    def cancel(self, stream_id: str, tenant: str) -> None:
        """End a running stream on purpose. Raises `StreamNotFound`."""
        generation = self._directory.find_running(stream_id, tenant)
        if not self.cancel_generation(generation):
            raise StreamNotFound

    def cancel_generation(self, generation: Generation) -> bool:
        """End a stream on purpose, with all its choices. False if it has its end."""
        if generation.choices:
            ended = [self._demultiplexer.cancel(c.stream_id) for c in generation.choices]
            return any(ended)
        return self._demultiplexer.cancel(generation.stream_id)

    def sweep(self, forgiven_s: float = 0.0) -> None:
        """Look for readers that have stalled and streams that have expired."""
        self._directory.sweep(self._clock(), forgiven_s)

    def refused(self, error: ServiceError) -> None:
        """Count and log a request that never came as far as `open`."""
        outcome = outcome_of(error)
        self._metrics.ended(outcome)
        self._metrics.refused(error)
        _log.info("request_ended", outcome=outcome.value, reason=error.reason)

    def turned_away(self, error: ServiceError) -> None:
        """Count a refusal of something that is no request."""
        self._metrics.refused(error)

    async def _render(self, generation: Generation, request: GenerationRequest) -> RenderedRequest:
        deadline = generation.deadline
        if deadline is None:
            return await self._engine.render(generation.stream_id, request)
        timeout = asyncio.timeout(deadline - self._clock())
        try:
            async with timeout:
                return await self._engine.render(generation.stream_id, request)
        except TimeoutError as passed:
            if timeout.expired():
                raise DeadlineExceeded from passed
            raise

    def _places_of_others(self, generation: Generation, number: int) -> Sequence[ExitStack]:
        """Take places for all choices but the first, or none."""
        validation.check_places(number, self._gate.limit)
        self._gate.check_room(number)
        # They are the first choice's until the others are there.
        places = [generation.held.enter_context(ExitStack()) for _ in range(number - 1)]
        for place in places:
            place.enter_context(self._gate.admitted())
        return places

    def _enter_all(
        self,
        generation: Generation,
        request: GenerationRequest,
        rendered: RenderedRequest,
        places: Sequence[ExitStack],
    ) -> Sequence[RenderedRequest]:
        """Open the streams of all choices; return what is to be submitted."""
        first, *others = add_choices(generation, request, places)
        choice_of = self._engine.choice
        submission = [rendered, *(choice_of(rendered, c.stream_id, c.choice_index) for c in others)]
        for choice, its_own in zip((first, *others), submission, strict=True):
            self._enter(choice, request.sampling, its_own)
        return submission

    def _enter(
        self, generation: Generation, sampling: SamplingOptions, rendered: RenderedRequest
    ) -> None:
        """Open a stream that is about to be submitted."""
        stream = self._open_stream(generation, sampling, rendered)
        generation.held.enter_context(self._demultiplexer.attached(generation.stream_id, stream))
        self._end_at_deadline(generation)
        self._directory.add(generation)
        generation.began = True

    def _open_stream(
        self, generation: Generation, sampling: SamplingOptions, rendered: RenderedRequest
    ) -> TokenStream:
        watch = None
        if sampling.stop or sampling.include_stop:
            generation.rules = StopRules(
                sampling.stop, sampling.min_tokens or 0, sampling.include_stop
            )
        if sampling.stop:
            watch = StopWatch(rendered.make_decoder(), generation.rules)
        on_end = generation.stream_ended if generation.resumable else None
        if generation.choices:
            on_end = partial(fail_others, generation, self._demultiplexer.fail)
        stream = TokenStream(
            self._clock,
            stop_watch=watch,
            keep_all=generation.resumable,
            on_end=on_end,
            on_progress=partial(self._progress.moved, generation.stream_id),
            tell_every=self._limits.tell_every,
            tell_first=self._limits.tell_first,
            logprobs=(
                None
                if sampling.logprobs is None
                else LogprobColumn(sampling.logprobs, rendered.token_bytes)
            ),
        )
        time_to_live_s = min(
            generation.delivery.time_to_live_s or self._limits.detached_ttl_s,
            self._limits.max_detached_ttl_s,
        )
        generation.opened(self._engine.model.id, rendered, stream, time_to_live_s)
        return stream

    def _end_at_deadline(self, generation: Generation) -> None:
        if generation.deadline is not None:
            timer = asyncio.get_running_loop().call_later(
                max(0.0, generation.deadline - self._clock()),
                lambda: self._demultiplexer.fail(generation.stream_id, DeadlineExceeded()),
            )
            generation.held.callback(timer.cancel)

    @contextmanager
    def _settled_on_error(self, generation: Generation) -> Iterator[None]:
        """Settle a request that does not get as far as its stream; hide what nobody should see."""
        try:
            yield
        except ServiceError as error:
            self._metrics.refused(error)
            self._settle_all(generation, outcome_of(error))
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                self._settle_all(generation, generation.outcome_when_cut_off())
                raise  # the caller has gone
            _log.exception("request_failed", stream=generation.stream_id[:_ID_IN_LOG])
            self._settle_all(generation, Outcome.FAILED)
            raise RequestFailed from error

    @staticmethod
    def _settle_all(generation: Generation, outcome: Outcome) -> None:
        for one in generation.choices or (generation,):
            one.settle(outcome)

    def _on_settled(self, generation: Generation) -> None:
        """Count and log the one end of a request."""
        self._directory.settled(generation)
        assert generation.outcome is not None
        first_token_s = generation.time_to_first_token_s
        metrics, tenant = self._metrics, generation.tenant
        metrics.ended(generation.outcome, tenant)
        inter_token_s = generation.inter_token_s
        total_s = generation.settled_at - generation.arrived
        if first_token_s is not None:
            metrics.time_to_first_token.observe(first_token_s)
            metrics.request_duration.observe(total_s)
            metrics.delivered(
                tenant, generation.prompt_tokens, generation.delivered, generation.messages
            )
        if inter_token_s is not None:
            metrics.inter_token.observe(inter_token_s)
        log = _log.bind(choice=generation.choice_index) if generation.choices else _log
        log.info(
            "request_ended",
            stream=generation.stream_id[:_ID_IN_LOG],
            tenant=tenant,
            client_request_id=generation.client_request_id[:128],
            trace_id=generation.trace_id,
            outcome=generation.outcome.value,
            prompt_tokens=generation.prompt_tokens,
            output_tokens=0 if generation.stream is None else generation.stream.count,
            delivered_tokens=generation.delivered,
            messages=generation.messages,
            first_token_s=_rounded(first_token_s),
            inter_token_s=_rounded(inter_token_s),
            total_s=_rounded(total_s),
        )


def deadline_slack_s(remaining_s: float) -> float:
    """How much earlier than here the caller may see its deadline, which is then its reset.

    gRPC sends a timeout rounded up to the unit that it has for its size (gRPC over HTTP/2,
    "Timeout"; the steps are those of its core): the longer, the coarser.
    """
    step = next((s for most, s in ((10, 0.01), (100, 0.1), (1000, 1.0)) if remaining_s < most), 10)
    return _DEADLINE_SLACK_S + step


def is_being_cancelled() -> bool:
    """Whether this task itself was cancelled; if not, a CancelledError is some other task's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
