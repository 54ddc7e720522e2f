from collections.abc import AsyncIterator

import pytest

from tests.clients.scripted import ScriptedService, scripted_service
from tokenstream_client import AsyncClient, ClientOptions


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as service:
        yield service


@pytest.fixture(params=["session", "calls", "old service"])
async def client(
    service: ScriptedService, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncClient]:
    """A client in each of the ways that it has to reach a service."""
    service.knows_sessions = request.param != "old service"
    options = ClientOptions(use_sessions=request.param != "calls")
    async with AsyncClient(service.target, options=options) as client:
        yield client
