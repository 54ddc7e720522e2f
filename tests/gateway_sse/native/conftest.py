from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.native.sockets import url_of


@pytest.fixture
async def ws(gateway: Gateway) -> AsyncIterator[ClientConnection]:
    async with connect(url_of(gateway)) as ws:
        yield ws
