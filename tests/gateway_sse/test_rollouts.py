"""The service is rolled out under a bridge: both replicas are real services behind one name."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway_sse.config import GatewaySettings
from service.engine.scripted import ScriptedEngine
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.conftest import Serve
from tests.gateway_sse.browsers import read, read_some, reading, text_of
from tests.gateway_sse.conftest import Gateway
from tests.service.running import RunningService, eventually

TOKENS = 300
ASKED: dict[str, Any] = {
    "prompt": "ab",
    "ignore_eos": True,
    "max_tokens": TOKENS,
    "max_delay_ms": 0,
}
WHOLE = "ab" * (TOKENS // 2)


@pytest.fixture
async def replicas(serve: Serve) -> list[RunningService]:
    return [
        await serve(ScriptedEngine(step_s=0.005), drain_wait_s=0, drain_grace_s=60)
        for _ in range(2)
    ]


@pytest.fixture
async def name(replicas: list[RunningService]) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(replicas[0].target) as name:
        yield name


@pytest.fixture
def settings(name: TcpProxy) -> GatewaySettings:
    return GatewaySettings(upstream=name.target, listen="127.0.0.1:0", drain_grace_s=5)


async def test_in_a_rollout_no_browser_is_refused_and_each_goes_on_where_its_answer_is(
    replicas: list[RunningService], name: TcpProxy, gateway: Gateway
) -> None:
    old, new = replicas
    url = gateway.url
    undisturbed = asyncio.create_task(read(url, **ASKED))
    await eventually(lambda: old.service.gate.held == 1)
    async with reading(url, **ASKED, on_disconnect="detach") as broken:
        first = await read_some(broken, 20)
    async with reading(url, **ASKED | {"max_tokens": 1000}) as other:
        stopped = (await read_some(other, 2))[0].id.partition(":")[0]
        assert old.service.gate.held == 3

        name.redirect(new.target)
        old.service.stop()
        await eventually(lambda: old.service.gate._state.name == "STOPPING")

        assert text_of(await read(url, **ASKED)) == WHOLE  # of the new one
        back = await read(url, method="GET", last_event_id=first[-1].id, **ASKED)
        assert text_of(first) + text_of(back) == WHOLE
        async with httpx.AsyncClient() as http:
            assert (await http.delete(f"{url}/v1/streams/{stopped}")).status_code == 204
        async with asyncio.timeout(10):
            rest = [event async for event in other]
        finished, _ = rest[-2:]
        assert finished.event == "finished"
        assert '"cancelled"' in finished.data
    assert text_of(await undisturbed) == WHOLE
    assert old.running is not None
    await asyncio.wait_for(asyncio.shield(old.running), 10)
