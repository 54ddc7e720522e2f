import asyncio
from typing import Any, cast

import pytest

from service.domain import DeliveryOptions, GenerationRequest, TextPrompt
from service.errors import (
    IdNotNew,
    IdUnknown,
    Overloaded,
    ServiceError,
    StreamNotFound,
    StreamTakenOver,
    Unauthenticated,
)
from service.generation import Generation
from service.pipeline import Pipeline
from service.session.driver import SessionDriver
from service.session.frame import ActionKind, Credit, Resume, Start
from service.stream.reader import StreamReader
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import Generations, push, stream_of
from tests.session.requests import Caller

REQUEST = GenerationRequest(TextPrompt("p"))


class Opening:
    """A request that the pipeline is asked to open; the test says how that goes."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self.was_cancelled = False


class ScriptedPipeline:
    """As much of a pipeline as a session needs."""

    def __init__(self, generations: Generations) -> None:
        self.generations = generations
        self.openings: dict[str, Opening] = {}
        self.refusals: list[ServiceError] = []
        self.asked_for: list[tuple[GenerationRequest, str, float | None]] = []

    def of(self, name: str) -> Opening:
        return self.openings.setdefault(name, Opening())

    async def open(
        self, request: GenerationRequest, tenant: str, timeout_s: float | None
    ) -> Generation:
        opening = self.of(request.client_request_id)
        self.asked_for.append((request, tenant, timeout_s))
        opening.asked.set()
        try:
            return await opening.answer
        except asyncio.CancelledError:
            opening.was_cancelled = True
            raise

    def read(self, generation: Generation, sink: Any, tag: int = 0) -> StreamReader:
        return self.generations.read(generation, sink, tag=tag)

    def resume(
        self,
        stream_id: str,
        tenant: str,
        position: int,
        delivery: DeliveryOptions,
        sink: Any,
        tag: int = 0,
    ) -> tuple[Generation, StreamReader]:
        generation = self.generations.directory.find(stream_id, tenant)
        return generation, self.generations.read(generation, sink, position=position, tag=tag)

    def cancel_generation(self, generation: Generation) -> bool:
        return stream_of(generation).cancel()

    def refused(self, error: ServiceError) -> None:
        self.refusals.append(error)


class Driven:
    """A driver over that, and what its caller gets."""

    def __init__(self, clock: FakeClock) -> None:
        self.generations = Generations(clock)
        self.pipeline = ScriptedPipeline(self.generations)
        self.woken = asyncio.Event()
        self.driver = SessionDriver(cast("Pipeline", self.pipeline), self.woken.set)
        self.caller = Caller()

    def start(self, request_id: int, tenant: str = "t", timeout_s: float | None = None) -> Opening:
        request = GenerationRequest(TextPrompt("p"), client_request_id=str(request_id))
        self.driver.start(Start(request_id, request, tenant, timeout_s))
        return self.pipeline.of(str(request_id))

    async def open(self, request_id: int, **how: Any) -> Generation:
        """Start a request and have it opened."""
        opening = self.start(request_id)
        generation = self.generations.begin(f"stream {request_id}", **how)
        opening.answer.set_result(generation)
        async with asyncio.timeout(1):
            while self.driver.session.generation(request_id) is None:
                await asyncio.sleep(0)
        return generation

    def take(self) -> None:
        while (frame := self.driver.session.next_frame()) is not None:
            self.caller.take(frame)


@pytest.fixture
async def driven(clock: FakeClock) -> Driven:
    return Driven(clock)


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_started_request_is_opened_for_its_tenant_and_read(driven: Driven) -> None:
    opening = driven.start(3, tenant="me", timeout_s=1.5)
    await opening.asked.wait()
    ((request, tenant, timeout_s),) = driven.pipeline.asked_for
    assert (request.client_request_id, tenant, timeout_s) == ("3", "me", 1.5)
    generation = driven.generations.begin("s")
    opening.answer.set_result(generation)
    await settled()
    push(generation, "ab")
    driven.take()
    assert driven.caller.of(3).letters == "ab"


async def test_that_a_request_has_started_is_told_soon_even_alone(driven: Driven) -> None:
    await driven.open(1)
    driven.woken.clear()
    async with asyncio.timeout(1):
        await driven.woken.wait()
    driven.take()
    assert driven.caller.of(1).started


async def test_a_request_that_is_refused_fails_for_its_id_and_the_session_goes_on(
    driven: Driven,
) -> None:
    driven.start(1).answer.set_exception(Overloaded(4, 1.0))
    generation = await driven.open(2)
    push(generation, "a")
    driven.take()
    assert isinstance(driven.caller.of(1).end, Overloaded)
    assert driven.caller.of(2).letters == "a"


async def test_an_id_that_is_not_new_is_rejected_and_its_request_is_not_touched(
    driven: Driven,
) -> None:
    generation = await driven.open(5)
    for request_id in (5, 4):
        driven.start(request_id)
        driven.driver.resume(Resume(request_id, "s", 0, DeliveryOptions(), "t"))
    await settled()
    assert len(driven.pipeline.asked_for) == 1
    push(generation, "a")
    driven.take()
    assert driven.caller.rejected == [
        (5, ActionKind.START, IdNotNew),
        (5, ActionKind.RESUME, IdNotNew),
        (4, ActionKind.START, IdNotNew),
        (4, ActionKind.RESUME, IdNotNew),
    ]
    assert driven.caller.of(5).letters == "a"


@pytest.mark.parametrize("action", [ActionKind.START, ActionKind.RESUME])
async def test_a_request_that_may_not_be_tried_fails_and_is_counted(
    driven: Driven, action: ActionKind
) -> None:
    why = Unauthenticated("no key")
    driven.driver.refuse(1, action, why)
    driven.driver.refuse(1, action, why)
    driven.take()
    assert driven.caller.of(1).end is why
    assert driven.caller.rejected == [(1, action, IdNotNew)]
    assert driven.pipeline.refusals == [why]


# -- cancel --------------------------------------------------------------------------------------


async def test_a_running_request_is_cancelled_and_its_end_is_told_as_any_other(
    driven: Driven,
) -> None:
    generation = await driven.open(1)
    push(generation, "a")
    driven.driver.cancel(1)
    driven.driver.cancel(1)
    driven.take()
    assert driven.caller.of(1).letters == "a"
    assert driven.generations.settled == [("stream 1", Outcome.CANCELLED)]
    assert driven.caller.rejected == []


async def test_a_request_that_is_cancelled_while_it_is_opened_ends_as_soon_as_it_is_open(
    driven: Driven,
) -> None:
    opening = driven.start(1)
    driven.driver.cancel(1)
    await settled()
    assert not opening.was_cancelled
    opening.answer.set_result(driven.generations.begin("stream 1"))
    await settled()
    driven.take()
    assert driven.caller.of(1).started
    assert driven.generations.settled == [("stream 1", Outcome.CANCELLED)]


@pytest.mark.parametrize("action", [ActionKind.CANCEL, ActionKind.CLOSE, ActionKind.CREDIT])
@pytest.mark.parametrize("gone", [False, True])
async def test_an_action_on_no_running_request_is_rejected(
    driven: Driven, action: ActionKind, gone: bool
) -> None:
    if gone:
        stream_of(await driven.open(1)).cancel()
        driven.take()
    if action is ActionKind.CANCEL:
        driven.driver.cancel(1)
    elif action is ActionKind.CLOSE:
        driven.driver.close(1)
    else:
        driven.driver.grant(Credit([1], [5]))
    driven.take()
    assert driven.caller.rejected == [(1, action, IdUnknown)]


# -- close ---------------------------------------------------------------------------------------


async def test_a_closed_request_is_left_at_once(driven: Driven) -> None:
    generation = await driven.open(1)
    push(generation, "a")
    driven.driver.close(1)
    driven.take()
    assert driven.generations.settled == [("stream 1", Outcome.DISCONNECTED)]
    assert driven.caller.of(1).end is None
    assert driven.caller.of(1).letters == ""


async def test_a_request_that_is_closed_while_it_is_opened_is_given_up_and_says_nothing(
    driven: Driven,
) -> None:
    opening = driven.start(1)
    await opening.asked.wait()
    driven.driver.close(1)
    await settled()
    assert opening.was_cancelled
    driven.take()
    assert driven.caller.of(1).end is None
    assert driven.caller.rejected == []
    driven.driver.session.close_input()
    assert driven.driver.session.is_over


async def test_a_request_that_is_closed_in_the_same_moment_as_it_is_started_leaves_nothing(
    driven: Driven,
) -> None:
    driven.start(1)
    driven.driver.close(1)
    await settled()
    assert not driven.driver.session.is_open(1)
    await driven.open(2)
    driven.take()
    assert 1 not in driven.caller.requests


async def test_the_end_of_the_call_gives_up_what_is_opened_and_leaves_what_is_read(
    driven: Driven,
) -> None:
    attached = await driven.open(1)
    detached = await driven.open(2, detach=True)
    driven.take()
    opening = driven.start(3)
    await opening.asked.wait()
    driven.driver.end()
    await settled()
    assert opening.was_cancelled
    assert attached.outcome is Outcome.DISCONNECTED
    assert detached.outcome is None
    assert detached.reader is None
    driven.take()
    assert driven.caller.of(3).end is None


# -- resume --------------------------------------------------------------------------------------


async def test_a_stream_is_read_on_from_the_index_that_is_asked_for(driven: Driven) -> None:
    generation = driven.generations.begin("s", detach=True, tenant="me")
    push(generation, "abcd")
    driven.driver.resume(Resume(7, "s", 2, DeliveryOptions(), "me"))
    driven.caller.of(7).first = 2
    driven.take()
    assert driven.caller.of(7).letters == "cd"
    assert driven.driver.session.generation(7) is generation


@pytest.mark.parametrize(("stream_id", "tenant"), [("s", "other"), ("other", "me")])
async def test_a_stream_that_is_not_there_or_anothers_fails_the_request(
    driven: Driven, stream_id: str, tenant: str
) -> None:
    driven.generations.begin("s", detach=True, tenant="me")
    driven.driver.resume(Resume(1, stream_id, 0, DeliveryOptions(), tenant))
    driven.take()
    assert isinstance(driven.caller.of(1).end, StreamNotFound)


async def test_another_session_takes_a_stream_over(clock: FakeClock, driven: Driven) -> None:
    generation = await driven.open(1, detach=True)
    push(generation, "ab")
    driven.take()
    other = Driven(clock)
    other.pipeline.generations = driven.generations
    other.driver.resume(Resume(1, "stream 1", 0, DeliveryOptions(), "t"))
    driven.take()
    other.take()
    assert isinstance(driven.caller.of(1).end, StreamTakenOver)
    assert other.caller.of(1).letters == "ab"
    driven.driver.end()
    assert generation.reader is not None
