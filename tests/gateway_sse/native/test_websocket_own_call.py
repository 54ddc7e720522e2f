"""A request too large for the session, asked for on a socket: it has a call of its own."""

import grpc
import pytest
from websockets.asyncio.client import connect

from gateway_sse.config import GatewaySettings
from tests.clients.script import Fail, answer, deltas, finished, reason, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.native.sockets import hear_to_the_end, say, url_of

LARGE = "x" * 300_000


async def test_after_a_good_end_nothing_is_cancelled(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = answer("a", "b")
    gateway = Gateway(settings)
    async with connect(url_of(gateway)) as ws:
        await say(ws, "start", id="a", request={"prompt": LARGE})
        *_, end = await hear_to_the_end(ws)
    gateway.stop.set()
    await gateway.serving  # and with it all that was to be cancelled in the background
    assert end["type"] == "finished"
    assert service.calls == ["Generate"]
    assert service.cancelled_ids == []


@pytest.mark.parametrize("text", ["", "a"])
async def test_a_failure_behind_the_finish_is_the_end(
    service: ScriptedService, settings: GatewaySettings, text: str
) -> None:
    failure = Fail(grpc.StatusCode.INTERNAL, "a bug", [reason("R")])
    service.script = [started(), *deltas(text), finished(1), failure]
    gateway = Gateway(settings)
    async with connect(url_of(gateway)) as ws:
        await say(ws, "start", id="a", request={"prompt": LARGE})
        said = await hear_to_the_end(ws)
    gateway.stop.set()
    await gateway.serving
    assert [message["type"] for message in said].count("finished") == 0
    assert said[-1]["error"]["reason"] == "R"
    assert "".join(message.get("token", "") for message in said) == text
