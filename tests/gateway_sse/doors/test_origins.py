"""Pages of other origins: none, but those that are listed."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway_sse.config import GatewaySettings
from tests.clients.script import answer
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway

PATH = "/v1/completions/stream"
LISTED, OTHER = "https://app.example", "https://evil.example"


@pytest.fixture
async def listing(
    service: ScriptedService, settings: GatewaySettings
) -> AsyncIterator[httpx.AsyncClient]:
    gateway = Gateway(settings.model_copy(update={"cors_origins": [LISTED]}))
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        yield http
    gateway.stop.set()
    await gateway.serving


def preflight(origin: str, method: str = "POST", headers: str = "content-type") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PATH),
        ("GET", PATH),
        ("DELETE", "/v1/streams/x"),
        ("POST", "/v1/streams/x/ack"),
        ("POST", "/v1/perceived"),
    ],
)
async def test_a_listed_page_may_ask_in_all_ways_and_others_in_none(
    listing: httpx.AsyncClient, method: str, path: str
) -> None:
    wanted = "authorization,content-type,last-event-id,traceparent"
    allowed = await listing.options(path, headers=preflight(LISTED, method, wanted))
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == LISTED
    assert method in allowed.headers["access-control-allow-methods"]
    assert set(wanted.split(",")) <= {
        name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")
    }
    refused = await listing.options(path, headers=preflight(OTHER, method))
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("body", [{"prompt": "Hi"}, {"prompt": 3}])
async def test_streamed_and_refused_answers_can_be_read_by_listed_pages_alone(
    service: ScriptedService, listing: httpx.AsyncClient, body: dict[str, object]
) -> None:
    service.script = answer("a")
    mine = await listing.post(PATH, json=body, headers={"origin": LISTED})
    assert mine.headers["access-control-allow-origin"] == LISTED
    assert "retry-after" in mine.headers["access-control-expose-headers"].lower()
    theirs = await listing.post(PATH, json=body, headers={"origin": OTHER})
    assert "access-control-allow-origin" not in theirs.headers
    for response in (mine, theirs):
        assert response.headers["vary"].lower() == "origin"


async def test_by_default_no_other_origin_is_let_in(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    assert (await http.options(PATH, headers=preflight(OTHER))).status_code == 405
    response = await http.post(PATH, json={"prompt": "Hi"}, headers={"origin": OTHER})
    assert not [name for name in response.headers if name.startswith("access-control")]
