"""The document is a right one, and the bridge does what it says, whatever it is asked."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import openapi_spec_validator
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.core.result import Ok

from gateway_sse.app import create_app
from gateway_sse.config import GatewaySettings
from gateway_sse.openapi import document
from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.gateway_sse.conftest import Gateway
from tests.service.running import eventually

EXAMPLES = 40  # for each operation, of good and of bad requests together


def test_the_document_is_openapi() -> None:
    openapi_spec_validator.validate(document())


def test_every_path_of_the_bridges_own_is_in_the_document_and_no_other() -> None:
    app = create_app(GatewaySettings())
    served = {
        (method.lower(), resource.canonical)
        for resource in app.router.resources()
        for method in (route.method for route in resource)
    }
    native = {
        (method, path)
        for method, path in served
        if not path.startswith(("/page", "/openapi")) and path != "/" and method != "head"
    }
    described = {(method, path) for path, of in document()["paths"].items() for method in of}
    assert native == described


async def test_it_is_served(http: httpx.AsyncClient) -> None:
    response = await http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == document()


async def test_whatever_is_asked_nothing_fails_and_answers_are_as_described(serve: Serve) -> None:
    running = await serve(ScriptedEngine(context_length=64))
    gateway = Gateway(GatewaySettings(upstream=running.target, listen="127.0.0.1:0"))
    try:
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            described = (await http.get("/openapi.json")).json()
        asked = await asyncio.to_thread(ask_everything, described, gateway.url)
        assert set(asked) == {
            (method.upper(), path) for path, of in described["paths"].items() for method in of
        }
        await eventually(lambda: len(gateway.streams) == gateway.streams.lingering == 0)
        await eventually(lambda: running.nothing_runs)
    finally:
        gateway.stop.set()
        await gateway.serving


def ask_everything(described: dict[str, Any], url: str) -> list[tuple[str, str]]:
    """Let schemathesis ask each operation, in a thread of its own: it does not know asyncio."""
    schema = schemathesis.openapi.from_dict(described)
    wanted = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]

    def test_of(strategy: Any) -> Callable[[], None]:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def test(case: Any) -> None:
            case.call_and_validate(base_url=url, checks=wanted, timeout=10)

        return test

    asked = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        modes = schemathesis.GenerationMode
        test_of(operation.as_strategy(generation_mode=modes.POSITIVE))()
        with suppress(Unsatisfiable):  # where nothing can be wrong
            test_of(operation.as_strategy(generation_mode=modes.NEGATIVE))()
        asked.append((operation.method.upper(), operation.path))
    return asked
