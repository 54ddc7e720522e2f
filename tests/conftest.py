import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from service.engine.protocol import EngineClient
from service.engine.scripted import ScriptedEngine
from tests.service.running import RunningService, running_service


class Serve(Protocol):
    """Starts services that end with the test."""

    async def __call__(
        self, engine: EngineClient | None = None, *, wait: bool = True, **settings: Any
    ) -> RunningService: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", choices=("only", "not"), help="those that must run alone, or not")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # Workers ignore it, and so would every program that a test starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose those of the pass (`scripts/test`); side by side, those with engines go first."""
    chosen = config.getoption("--alone")
    if chosen is not None:
        alone = [item for item in items if item.get_closest_marker("alone")]
        others = [item for item in items if not item.get_closest_marker("alone")]
        config.hook.pytest_deselected(items=others if chosen == "only" else alone)
        items[:] = alone if chosen == "only" else others
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("engine") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.side_by_side import ByWhatTheyShare

    return ByWhatTheyShare(config, log)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            engine: EngineClient | None = None, *, wait: bool = True, **settings: Any
        ) -> RunningService:
            return await stack.enter_async_context(running_service(engine, wait=wait, **settings))

        yield start


@pytest.fixture
async def running(serve: Serve) -> RunningService:
    """A service with the scripted engine and default settings."""
    return await serve()


@pytest.fixture
async def stepped(serve: Serve) -> RunningService:
    """A service whose engine moves only when the test calls its `step`."""
    return await serve(ScriptedEngine(step_s=None))


@pytest.fixture
def clock() -> "FakeClock":
    return FakeClock()


class FakeClock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
