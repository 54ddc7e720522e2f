"""Whose API key goes to the service with which request."""

from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
from pydantic import SecretStr, ValidationError

from gateway_sse.config import GatewaySettings
from tests.clients.certificate import self_signed
from tests.clients.script import STREAM_ID, Fail, answer, reason
from tests.clients.scripted import ScriptedService, scripted_service
from tests.gateway_sse.conftest import Gateway

PATH = "/v1/completions/stream"


@pytest.fixture
def settings(service: ScriptedService) -> GatewaySettings:
    return GatewaySettings(
        upstream=service.target, listen="127.0.0.1:0", api_key=SecretStr("the-bridges")
    )


async def test_a_callers_key_goes_with_its_request_and_the_bridges_with_the_others(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    theirs = {"authorization": "bearer theirs"}
    await http.post(PATH, json={"prompt": "Hi"}, headers=theirs)
    await http.post(PATH, json={"prompt": "Hi"})
    await http.delete(f"/v1/streams/{STREAM_ID}", headers=theirs)
    await http.delete(f"/v1/streams/{STREAM_ID}")
    assert service.session_keys == ["the-bridges"]
    assert service.keys == ["theirs", "", "theirs", "the-bridges"]


async def test_another_scheme_is_none_of_the_services_business(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    headers = {"authorization": "Basic dXNlcjpwYXNz"}
    response = await http.post(PATH, json={"prompt": "Hi"}, headers=headers)
    assert response.status_code == 200
    assert service.keys == [""]


@pytest.mark.parametrize("value", ["Bearer", "Bearer two words", b"Bearer k\xe9y"])
async def test_a_key_that_cannot_be_passed_on_is_401(
    service: ScriptedService, http: httpx.AsyncClient, value: str | bytes
) -> None:
    raw = value.encode() if isinstance(value, str) else value
    response = await http.post(PATH, json={"prompt": "Hi"}, headers=[(b"authorization", raw)])
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert service.requests == []


@pytest.mark.parametrize(
    ("code", "status", "challenge"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 401, "Bearer"),
        (grpc.StatusCode.PERMISSION_DENIED, 403, None),
    ],
)
async def test_a_key_that_the_service_refuses_is_told_with_how_to_log_in(
    service: ScriptedService,
    http: httpx.AsyncClient,
    code: grpc.StatusCode,
    status: int,
    challenge: str | None,
) -> None:
    service.script = [Fail(code, "no", [reason("KEY")])]
    response = await http.post(PATH, json={"prompt": "Hi"}, headers={"authorization": "Bearer k"})
    assert response.status_code == status
    assert response.headers.get("www-authenticate") == challenge
    assert response.json()["error"]["reason"] == "KEY"


@pytest.mark.parametrize(
    "ask",
    [
        lambda http, headers: http.post(PATH, json={"prompt": "Hi"}, headers=headers),
        lambda http, headers: http.delete("/v1/streams/x", headers=headers),
    ],
)
async def test_a_key_is_not_passed_on_unencrypted_to_another_machine(
    ask: Callable[[httpx.AsyncClient, dict[str, str]], "httpx.Response"],
) -> None:
    gateway = Gateway(GatewaySettings(upstream="service.invalid:1", listen="127.0.0.1:0"))
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        response = await ask(http, {"authorization": "Bearer k"})  # type: ignore[misc]
    assert response.status_code == 403
    error = response.json()["error"]
    assert error["reason"] == "KEY_NOT_PASSED_ON"
    assert "--allow-plaintext-keys" in error["message"]
    assert "service.invalid" not in error["message"]
    gateway.stop.set()
    await gateway.serving


async def test_an_encrypted_service_is_reached_with_its_authoritys_file(tmp_path: Path) -> None:
    pair = self_signed()
    file = tmp_path / "ca.pem"
    file.write_bytes(pair.certificate)
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    async with scripted_service(credentials) as service:
        gateway = Gateway(
            GatewaySettings(upstream=service.target, listen="127.0.0.1:0", upstream_ca_file=file)
        )
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            assert (await http.get("/readyz?upstream=1")).status_code == 200
        gateway.stop.set()
        await gateway.serving


def test_the_bridges_key_needs_an_encrypted_connection_to_another_machine(tmp_path: Path) -> None:
    key, far = SecretStr("k"), "service:50051"
    with pytest.raises(ValidationError, match="unencrypted"):
        GatewaySettings(upstream=far, api_key=key)
    file = tmp_path / "ca.pem"
    with pytest.raises(ValidationError, match="upstream_ca_file"):
        GatewaySettings(upstream=far, api_key=key, upstream_ca_file=file)
    file.touch()
    GatewaySettings(upstream=far, api_key=key, upstream_ca_file=file)
    GatewaySettings(upstream=far, api_key=key, upstream_tls=True)
    GatewaySettings(upstream=far, api_key=key, allow_plaintext_keys=True)


def test_the_bridges_key_comes_from_the_environment_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENSTREAM_GATEWAY_API_KEY", "hidden")
    settings = GatewaySettings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "hidden"
    assert "hidden" not in repr(settings)
