from collections.abc import AsyncIterator

import pytest

from tests.clients.scripted import ScriptedService, scripted_service
from tokenstream_client import AsyncClient


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as service:
        yield service


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.target) as client:
        yield client
