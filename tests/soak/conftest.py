import os
from collections.abc import Callable, Iterator

import pytest

from tests.soak.inside import Soaked, soaked

SETTINGS = {
    "max_streams": 1024,
    "stall_limit_s": 4.0,
    "detached_ttl_s": 6.0,
    "drain_grace_s": 1.0,
    "log_level": "error",
}
SIMULATION = {"step_us": 10_000.0}


@pytest.fixture(scope="session")
def soak_s() -> float:
    """How long each soak lasts."""
    return float(os.environ.get("SOAK_SECONDS", "15"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soaked]:
    """One service, in a process of its own, for all tests of this folder."""
    with soaked(tmp_path_factory.mktemp("soak") / "log", SETTINGS, SIMULATION) as running:
        yield running


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures that are seen also where tests pass."""

    def print_(words: str) -> None:
        with capsys.disabled():
            print(f"\n    {words}", end="", flush=True)

    return print_
