"""The service over vLLM for real: one engine for all tests of this folder, in float32.

Float32 because the composition of a batch moves bfloat16 logits by enough to change a token.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import demo_model
from service.app import ExitStatus, Service
from service.config import ServiceSettings
from service.domain import EngineCensus
from service.engine.vllm_client import VllmEngine
from tests.end_to_end.known_requests import (
    CHATS,
    CUT,
    SEVERAL,
    TOLD_MORE,
    Answers,
    Request,
    some_requests,
)
from tokenstream_client import AsyncClient

ORACLE = Path(__file__).with_name("offline_oracle.py")
REQUESTS = 64


@dataclass(frozen=True, slots=True)
class RealService:
    """A running service with the real engine, and a client to it."""

    service: Service
    address: str
    client: AsyncClient

    async def until_engine_idle(self, within_s: float) -> EngineCensus:
        """Ask the engine until it has nothing unfinished; the last answer, at the latest."""
        async with asyncio.timeout(within_s + 1):
            deadline = asyncio.get_running_loop().time() + within_s
            while True:
                census = await self.service.engine.census()
                if census == EngineCensus(0, 0):
                    return census
                if asyncio.get_running_loop().time() > deadline:
                    return census
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def requests() -> list[Request]:
    """Requests of all kinds, all different."""
    return some_requests(seed=20261122, count=REQUESTS)


@pytest.fixture(scope="session")
def offline(
    tmp_path_factory: pytest.TempPathFactory, requests: list[Request]
) -> dict[str, Answers]:
    """vLLM's offline API's answers to all known requests, by their kind: one start for all."""
    asked: dict[str, list[Request]] = {
        "of all kinds": requests,
        "cut": list(CUT.values()),
        "several": list(SEVERAL.values()),
        "chats": CHATS,
        "told more": TOLD_MORE,
    }
    answer_file = tmp_path_factory.mktemp("oracle") / "answers.json"
    subprocess.run(
        [sys.executable, str(ORACLE), str(demo_model.path()), str(answer_file)],
        input=json.dumps(list(chain(*asked.values()))),
        text=True,
        check=True,
        timeout=300,
        capture_output=True,
    )
    answers = iter(json.loads(answer_file.read_text()))
    return {kind: list(islice(answers, len(of_kind))) for kind, of_kind in asked.items()}


@pytest.fixture(scope="session")
def expected(offline: dict[str, Answers]) -> Answers:
    """vLLM's answers to `requests`."""
    return offline["of all kinds"]


@pytest.fixture(scope="session")
def expected_of_cut(offline: dict[str, Answers]) -> dict[str, dict[str, Any]]:
    """vLLM's answers to the requests that are cut."""
    return dict(zip(CUT, offline["cut"], strict=True))


@pytest.fixture(scope="session")
def expected_of_several(offline: dict[str, Answers]) -> dict[str, Answers]:
    """vLLM's choices of the requests with several."""
    choices = [answer["choices"] for answer in offline["several"]]
    return dict(zip(SEVERAL, choices, strict=True))


# Of the package, not the session: tests/engine/test_processes.py ends every engine of its process.
@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def real() -> AsyncIterator[RealService]:
    """The service with vLLM and the demo model, on a free port."""
    settings = ServiceSettings(
        listen="127.0.0.1:0", engine_args={"dtype": "float32"}, drain_grace_s=1
    )
    engine = VllmEngine(
        settings.model, settings.engine_args, settings.engine_log_level, demo_model.path()
    )
    service = Service(settings, engine)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(service.run(port.set_result))
    running.add_done_callback(lambda ended: port.cancel())
    with suppress(asyncio.CancelledError):
        await port
    if running.done():
        running.result()  # raises what kept it from starting
    address = f"127.0.0.1:{port.result()}"
    async with AsyncClient(address) as client:
        yield RealService(service, address, client)
    service.stop()
    assert await running is ExitStatus.OK
