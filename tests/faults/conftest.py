from collections.abc import Callable, Iterator

import pytest

from service.engine.scripted import ScriptedEngine
from service.transport import server
from tests.conftest import Serve
from tests.faults.network import Elsewhere, elsewhere
from tests.service.running import RunningService

STALL_LIMIT_S = 0.5
STEP_S = 0.005
KEEPALIVE_S = 1


@pytest.fixture
def there() -> Iterator[Elsewhere]:
    """Another machine's network."""
    with elsewhere() as made:
        yield made


@pytest.fixture
def keepalive_s() -> int:
    """Seconds until a peer that says nothing is asked, and until it has to answer."""
    return KEEPALIVE_S


@pytest.fixture
async def running(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, keepalive_s: int
) -> RunningService:
    """A service that both networks reach, a step each 5 ms; it finds lost peers within seconds."""
    monkeypatch.setattr(server, "KEEPALIVE_S", keepalive_s)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", keepalive_s)
    return await serve(
        ScriptedEngine(step_s=STEP_S, context_length=500_000),
        listen="0.0.0.0:0",
        allow_plaintext=True,
        allow_anonymous=True,
        stall_limit_s=STALL_LIMIT_S,
        drain_grace_s=0,
    )


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures that are seen also where tests pass."""

    def print_(words: str) -> None:
        with capsys.disabled():
            print(f"\n    {words}", end="", flush=True)

    return print_
