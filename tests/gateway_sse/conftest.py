import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from gateway_sse.config import GatewaySettings
from gateway_sse.server import bind, serve_on
from gateway_sse.streaming.open_streams import OpenStreams
from tests.clients.scripted import ScriptedService, scripted_service


@dataclass
class Gateway:
    """A bridge that runs in this event loop, behind a real socket."""

    settings: GatewaySettings
    streams: OpenStreams = field(default_factory=OpenStreams)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        listener = bind(self.settings)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.serving = asyncio.create_task(
            serve_on(listener, self.settings, self.streams, self.stop)
        )


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as service:
        yield service


@pytest.fixture
def settings(service: ScriptedService) -> GatewaySettings:
    return GatewaySettings(upstream=service.target, listen="127.0.0.1:0", drain_grace_s=5)


@pytest.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings)
    yield gateway
    gateway.stop.set()
    await gateway.serving
    assert len(gateway.streams) == 0, "a stream was left open"


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=5) as http:
        yield http
