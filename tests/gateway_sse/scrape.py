"""What a bridge tells Prometheus."""

import asyncio
import socket

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway_sse.conftest import Gateway


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def samples(gateway: Gateway) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    url = f"http://{gateway.settings.metrics_listen}/metrics"
    async with httpx.AsyncClient() as http:
        text = (await http.get(url)).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def outcomes(gateway: Gateway) -> dict[str, int]:
    """How many answers ended how; none of what did not happen."""
    name = "tokenstream_gateway_streams_total"
    return {
        key[1]: int(value)
        for key, value in (await samples(gateway)).items()
        if key[0] == name and value
    }


async def ended(gateway: Gateway, count: int) -> dict[str, int]:
    """The outcomes, once so many answers have ended."""
    async with asyncio.timeout(10):
        while sum((found := await outcomes(gateway)).values()) < count:
            await asyncio.sleep(0.01)
    return found
