"""The bridge's smaller answers."""

import re

import httpx
import pytest

from tests.clients.script import STREAM_ID
from tests.clients.scripted import ScriptedService


async def test_deleting_a_stream_cancels_it_on_the_service(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    response = await http.delete(f"/v1/streams/{STREAM_ID}")
    assert (response.status_code, response.content) == (204, b"")
    assert service.cancelled_ids == [STREAM_ID]


async def test_deleting_a_stream_that_is_not_running_is_404(http: httpx.AsyncClient) -> None:
    response = await http.delete("/v1/streams/other")
    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "STREAM_NOT_FOUND"


async def test_readiness_follows_the_service_only_where_that_is_asked_for(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/readyz?upstream=1")).status_code == 200
    await service.set_serving(False)
    assert (await http.get("/readyz?upstream=1")).status_code == 503
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get("/healthz")).status_code == 200


async def test_the_page_and_all_it_needs_are_there(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in page.text
    assert "onclick" not in page.text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert needed
    for path in needed:
        assert not path.startswith(("http", "//"))
        response = await http.get(f"/{path}")
        assert response.status_code == 200, path
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["..%2froutes.py", "other.js"])
async def test_nothing_else_is_given_out(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/page/{name}")).status_code == 404


async def test_no_answer_tells_versions(http: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/nowhere"):
        assert (await http.get(path)).headers["server"] == "tokenstream"
