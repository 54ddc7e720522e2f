"""The path of a request on one page: admit, render, open its stream, submit, yield, release.

Every request takes it from top to bottom and leaves by exactly one end, which is counted and
logged in one place. Releasing is the business of the context managers: whatever ends the request,
an exception, a closed generator or a cancelled task, the route goes, the engine is told to stop if
it has not finished, and the ticket is handed back.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import structlog

from service.admission import validation
from service.admission.gate import Gate
from service.demux.demultiplexer import Demultiplexer
from service.domain import (
    Event,
    Finished,
    GenerationRequest,
    Started,
    Timings,
    Usage,
)
from service.engine.protocol import EngineClient, RenderedRequest
from service.errors import (
    DeadlineExceeded,
    RequestFailed,
    ServiceError,
    StreamNotFound,
)
from service.stream.text import StopRules, TextAssembler
from service.stream.token_stream import TokenStream
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome, outcome_of, outcome_of_finish

_log = structlog.get_logger(__name__)

# gRPC cancels a handler at the caller's deadline, a moment before or after our own timer.
_DEADLINE_SLACK_S = 0.01


@dataclass(slots=True)
class _Account:
    """What is known of a request when it ends."""

    stream_id: str
    arrived: float
    deadline: float | None
    deadline_slack_s: float
    stream: TokenStream | None = None
    outcome: Outcome | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    time_to_first_token_s: float | None = None


class Pipeline:
    """Generates. `clock`: monotonic seconds; `max_request_bytes`: largest message to take."""

    def __init__(
        self,
        engine: EngineClient,
        gate: Gate,
        demultiplexer: Demultiplexer,
        metrics: StreamMetrics,
        max_request_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._demultiplexer = demultiplexer
        self._metrics = metrics
        self._max_request_bytes = max_request_bytes
        self._clock = clock
        metrics.running.set_function(lambda: gate.held)

    async def generate(
        self, request: GenerationRequest, deadline: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield a request's events. `deadline`: the clock's time at which it must have ended.

        Raises a `ServiceError`; closing the generator ends the decoding.
        """
        now = self._clock()
        slack = 0.0 if deadline is None else deadline_slack_s(deadline - now)
        account = _Account(secrets.token_urlsafe(16), now, deadline, slack)
        with ExitStack() as held:
            held.enter_context(self._accounted(account, request))
            self._gate.check_open()
            model = self._engine.model
            validation.check_request(request, model, self._max_request_bytes)
            ticket = held.enter_context(self._gate.admitted())
            rendered = await self._render(account.stream_id, request, deadline)
            account.prompt_tokens = rendered.prompt_token_count
            validation.check_fits(rendered.prompt_token_count, request, model)

            sampling = request.sampling
            rules = StopRules(sampling.stop, sampling.min_tokens or 0, sampling.include_stop)
            text = TextAssembler(rendered.decoder, rules)
            stream = TokenStream(text, request.delivery, self._clock)
            account.stream = stream
            # Nothing is awaited from here to the submission, so that no stop can overtake it.
            route = held.enter_context(self._demultiplexer.attached(account.stream_id, stream))
            held.enter_context(self._deadline(account))
            await self._engine.submit(rendered)
            ticket.streamed = True
            yield Started(
                account.stream_id,
                model.id,
                rendered.prompt_token_count,
                request.client_request_id,
            )
            while (delta := await stream.read()) is not None:
                account.output_tokens = stream.tokens_delivered
                if account.time_to_first_token_s is None and stream.first_token_at is not None:
                    account.time_to_first_token_s = stream.first_token_at - account.arrived
                yield delta
            finish = stream.finish
            assert finish is not None
            account.outcome = outcome_of_finish(finish)
            yield Finished(
                finish,
                Usage(
                    rendered.prompt_token_count,
                    stream.tokens_delivered,
                    route.cached_prompt_tokens,
                ),
                Timings(account.time_to_first_token_s, self._clock() - account.arrived),
            )

    async def _render(
        self, stream_id: str, request: GenerationRequest, deadline: float | None
    ) -> RenderedRequest:
        remaining = None if deadline is None else deadline - self._clock()
        timeout = asyncio.timeout(remaining)
        try:
            async with timeout:
                return await self._engine.render(stream_id, request)
        except TimeoutError as passed:
            if timeout.expired():
                raise DeadlineExceeded from passed
            raise

    def cancel(self, stream_id: str) -> None:
        """End a running stream on purpose. Raises `StreamNotFound`."""
        if not self._demultiplexer.cancel(stream_id):
            raise StreamNotFound

    @contextmanager
    def _deadline(self, account: _Account) -> Iterator[None]:
        """Fail the stream when the deadline passes inside the block."""
        if account.deadline is None:
            yield
            return
        timer = asyncio.get_running_loop().call_later(
            max(0.0, account.deadline - self._clock()),
            lambda: self._demultiplexer.fail(account.stream_id, DeadlineExceeded()),
        )
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _accounted(self, account: _Account, request: GenerationRequest) -> Iterator[None]:
        """Count and log the one end of a request, and hide what no caller should see."""
        try:
            yield
        except ServiceError as error:
            account.outcome = outcome_of(error)
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise  # the caller has gone
            account.outcome = Outcome.FAILED
            _log.exception("request_failed", stream_id=account.stream_id)
            raise RequestFailed from error
        finally:
            now = self._clock()
            if account.outcome is None:
                account.outcome = _outcome_when_cut_off(account, now)
            self._metrics.ended.labels(account.outcome.value).inc()
            self._metrics.tokens.inc(account.output_tokens)
            if account.time_to_first_token_s is not None:
                self._metrics.time_to_first_token.observe(account.time_to_first_token_s)
            _log.info(
                "request_ended",
                stream_id=account.stream_id,
                client_request_id=request.client_request_id[:128],
                outcome=account.outcome.value,
                prompt_tokens=account.prompt_tokens,
                output_tokens=account.output_tokens,
                first_token_s=_rounded(account.time_to_first_token_s),
                total_s=_rounded(now - account.arrived),
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


def _outcome_when_cut_off(account: _Account, now: float) -> Outcome:
    """Which end it is when the generator was closed, or its task cancelled, before it was done.

    What ended the stream before counts, also if the reader was too slow to be told.
    """
    stream = account.stream
    if stream is not None and stream.failure is not None:
        return outcome_of(stream.failure)
    if stream is not None and stream.finish is not None:
        outcome = outcome_of_finish(stream.finish)
        if outcome is Outcome.CANCELLED:
            return outcome
    if account.deadline is not None and (now >= account.deadline - account.deadline_slack_s):
        return Outcome.DEADLINE
    return Outcome.DISCONNECTED


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
