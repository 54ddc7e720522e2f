"""What the handlers work with."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway_sse.config import GatewaySettings
from gateway_sse.metrics import GatewayMetrics
from gateway_sse.streaming.open_streams import OpenStreams
from tokenstream_client import AsyncClient


@dataclass(frozen=True, slots=True)
class Bridge:
    """One application's parts."""

    settings: GatewaySettings
    client: AsyncClient
    streams: OpenStreams
    metrics: GatewayMetrics


BRIDGE: Final = web.AppKey("bridge", Bridge)


def bridge_of(request: web.Request) -> Bridge:
    """Return the parts of the application that a request came to."""
    return request.app[BRIDGE]
