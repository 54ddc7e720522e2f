from collections.abc import Iterator

import pytest

from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.openai_clients.callers import (
    Caller,
    NodeCaller,
    NodeWorker,
    PythonCaller,
)


@pytest.fixture(scope="session")
def node_openai() -> Iterator[NodeWorker]:
    worker = NodeWorker("openai.mjs")
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def node_vercel() -> Iterator[NodeWorker]:
    worker = NodeWorker("vercel.mjs")
    yield worker
    worker.close()


@pytest.fixture
def base_url(gateway: Gateway) -> str:
    return f"{gateway.url}/v1"


@pytest.fixture(params=["python", "node"])
def caller(request: pytest.FixtureRequest, base_url: str) -> Caller:
    """OpenAI's official clients, one after the other."""
    if request.param == "python":
        return PythonCaller(base_url)
    return NodeCaller(request.getfixturevalue("node_openai"), base_url)
