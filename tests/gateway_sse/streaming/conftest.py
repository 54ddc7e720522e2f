import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from gateway_sse.config import GatewaySettings
from tests.gateway_sse.conftest import Gateway
from tests.service.running import RunningService


class Bridges(Protocol):
    """Starts bridges in front of one service; they end with the test."""

    def __call__(self, running: RunningService, **settings: Any) -> Gateway: ...


@pytest.fixture
async def bridges() -> AsyncIterator[Bridges]:
    made: list[Gateway] = []

    def start(running: RunningService, **settings: Any) -> Gateway:
        chosen: dict[str, Any] = {"listen": "127.0.0.1:0", "drain_grace_s": 2.0} | settings
        gateway = Gateway(GatewaySettings(upstream=running.target, **chosen))
        made.append(gateway)
        return gateway

    yield start
    for gateway in made:
        gateway.stop.set()
        await asyncio.wait([gateway.serving])
        assert gateway.serving.cancelled() or gateway.serving.exception() is None
        assert len(gateway.streams) == gateway.streams.lingering == 0
