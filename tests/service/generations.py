"""Requests past their door, without pipeline or engine: the test moves stream, reader and time."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from service.choices import add_choices, fail_others
from service.directory import Directory
from service.domain import DeliveryOptions, GenerationRequest, OnDisconnect, TextPrompt
from service.engine.protocol import RenderedRequest
from service.errors import ServiceError
from service.generation import Generation
from service.stream.pacing import DelayGrid
from service.stream.reader import Sink, StreamReader
from service.stream.token_stream import TokenStream
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.stream.by_hand import LetterDecoder, NotedSink

TIME_TO_LIVE_S = 60.0
STALL_LIMIT_S = 30.0


def delivery_of(*, detach: bool, credit: int | None = None) -> DeliveryOptions:
    on_disconnect = OnDisconnect.DETACH if detach else OnDisconnect.END
    return DeliveryOptions(max_delay_s=0.0, credit=credit, on_disconnect=on_disconnect)


class QuietSink(NotedSink):
    """For tests that take without being told."""

    def ready(self, reader: StreamReader) -> None:
        pass


class Generations:
    """Makes generations and keeps how each settled and how often what it held was given back."""

    def __init__(self, clock: FakeClock, most_retained: int = 100) -> None:
        self.clock = clock
        self.grid = DelayGrid(clock)
        self.directory = Directory(STALL_LIMIT_S, most_retained)
        self.settled: list[tuple[str, Outcome | None]] = []
        self.given_back: list[str] = []

    def _on_settled(self, generation: Generation) -> None:
        assert generation.stream_id in self.given_back, "counted while it holds something"
        self.settled.append((generation.stream_id, generation.outcome))
        self.directory.settled(generation)

    def begin(
        self,
        stream_id: str = "s",
        *,
        detach: bool = False,
        tenant: str = "t",
        credit: int | None = None,
        deadline: float | None = None,
        deadline_slack_s: float = 0.0,
        began: bool = True,
        known: bool = True,
    ) -> Generation:
        """A request that was just let in and submitted; nobody reads it yet."""
        request = GenerationRequest(
            TextPrompt("p"),
            delivery=delivery_of(detach=detach, credit=credit),
            client_request_id="mine",
        )
        generation = Generation(
            stream_id, tenant, request, self.clock, self._on_settled, deadline, deadline_slack_s
        )
        on_end: Callable[[], None] | None = generation.stream_ended if detach else None
        stream = TokenStream(self.clock, keep_all=detach, on_end=on_end)
        generation.opened(
            "m", RenderedRequest(3, LetterDecoder, None, lambda i: b""), stream, TIME_TO_LIVE_S
        )
        generation.held.callback(self.given_back.append, stream_id)
        self.directory.add(generation)
        generation.began, generation.known = began, known
        return generation

    def begin_several(
        self, stream_id: str, number: int, *, credit: int | None = None, tenant: str = "t"
    ) -> Generation:
        """Several choices that were just let in and submitted; returns the first."""
        request = GenerationRequest(
            TextPrompt("p"), delivery=delivery_of(detach=False, credit=credit)
        )
        first = Generation(stream_id, tenant, request, self.clock, self._on_settled, None, 0.0)
        choices = add_choices(first, request, [ExitStack() for _ in range(1, number)])
        by_id = {choice.stream_id: choice for choice in choices}

        def fail(engine_id: str, failure: ServiceError) -> None:
            stream_of(by_id[engine_id]).fail(failure)

        for choice in choices:
            stream = TokenStream(self.clock, on_end=partial(fail_others, choice, fail))
            choice.opened(
                "m", RenderedRequest(3, LetterDecoder, None, lambda i: b""), stream, TIME_TO_LIVE_S
            )
            choice.held.callback(self.given_back.append, choice.stream_id)
            self.directory.add(choice)
            choice.began = True
        return first

    def read(
        self,
        generation: Generation,
        sink: Sink | None = None,
        *,
        position: int = 0,
        tag: int = 0,
    ) -> StreamReader:
        """Let a reader begin."""
        return generation.read(self.grid, sink or QuietSink(), position=position, tag=tag)


def push(generation: Generation, letters: str) -> None:
    """Let the engine bring tokens."""
    assert generation.stream is not None
    generation.stream.push([ord(c) for c in letters])


def stream_of(generation: Generation) -> TokenStream:
    assert generation.stream is not None
    return generation.stream
