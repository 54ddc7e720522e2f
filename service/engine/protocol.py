"""What the service needs of an engine. `vllm_client` is the real one, `scripted` the one for tests.

The life of a request here: `render` (prompt to tokens, off the event loop), `submit` under an id
that the caller made, outputs through `deliver`, and `abort` if nobody wants the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.domain import (
    EngineBatch,
    EngineCensus,
    EngineRank,
    GenerationRequest,
    ModelCard,
    SchedulerReport,
)
from service.stream.text import TokenDecoder

# Told what the engine is doing while it starts: one short phrase at a time.
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request in the engine's own form, ready to be submitted once.

    `make_decoder` makes a decoder for the request's output from its first token on, a new one each
    time; `handle` is the engine's own. `token_bytes`: a token's own bytes, by itself.
    """

    prompt_token_count: int
    make_decoder: Callable[[], TokenDecoder]
    handle: Any
    token_bytes: Callable[[int], bytes]


class EngineClient(Protocol):
    """An engine, started and stopped once."""

    @property
    def model(self) -> ModelCard:
        """The model it serves. Not to be asked before `start` has returned."""

    @property
    def build(self) -> str:
        """Its name and version. Not to be asked before `start` has returned."""

    def ranks(self) -> Sequence[EngineRank]:
        """What it told of its work last; from any thread. Empty if it tells nothing."""

    async def start(self, progress: Progress) -> None:
        """Load the model. Raises `EngineStartFailed` with one line that says why."""

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        """Turn a request into the engine's form under this id.

        Raises `InvalidRequest` for what only the engine can see.
        """

    def choice(self, rendered: RenderedRequest, engine_id: str, index: int) -> RenderedRequest:
        """Make another choice of a rendered request, under an id of its own.

        It has the same prompt and options, and if there is a seed, that plus `index`.
        """

    async def submit(self, *rendered: RenderedRequest) -> None:
        """Hand a request, or its choices, to the engine's queue. Raises `EngineDead`.

        An `abort` that is called after this was, comes after it, also while this still waits.
        """

    async def abort(self, engine_ids: Sequence[str]) -> None:
        """Stop these requests; unknown ids are ignored. Raises `EngineDead`."""

    async def deliver(self, take: Callable[[EngineBatch], None]) -> None:
        """Call `take` with each step's outputs, in their order, until cancelled; one caller only.

        Raises `EngineDead` when there will be no more, and what `take` raises.
        """

    async def census(self) -> EngineCensus:
        """Ask the engine what it has not finished. Raises `EngineDead`."""

    async def readers_moved(
        self, engine_ids: Sequence[str], positions: Sequence[int]
    ) -> SchedulerReport:
        """Take how many tokens have been read of these; unknown ids are ignored.

        Raises `EngineDead`.
        """

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a text, as a text prompt of it would have."""

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""

    async def stop(self) -> None:
        """End the engine and its processes; safe at any time, also while it starts."""
