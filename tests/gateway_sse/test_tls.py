"""HTTPS: who gets through, what is renewed, and slow readers behind it."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from pydantic import ValidationError
from websockets.asyncio.client import connect

from gateway_sse import tls
from gateway_sse.config import GatewaySettings
from gateway_sse.server import serve
from gateway_sse.tls import LOOK_EVERY_S, TlsFiles, TlsFilesError, server_context
from tests.certificates import Authority, Certified, pem
from tests.clients.script import answer, deltas, finished, started
from tests.clients.scripted import scripted_service
from tests.conftest import FakeClock
from tests.gateway_sse.browsers import PATH
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.scrape import free_port, outcomes, samples


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def write(folder: Path, server: Certified, client_ca: bytes | None = None) -> dict[str, Any]:
    """The settings of TLS."""
    contents = {
        "tls_certificate_file": server.certificate,
        "tls_private_key_file": server.private_key,
    }
    if client_ca is not None:
        contents["tls_client_ca_file"] = client_ca
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def trusting(authority: Authority, own: Certified | None = None, folder: Path | None = None) -> Any:
    """What a client connects with."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if own is not None and folder is not None:
        (folder / "own").write_bytes(own.certificate + own.private_key)
        context.load_cert_chain(folder / "own")
    return context


@asynccontextmanager
async def encrypted(settings: GatewaySettings, **files: Any) -> AsyncIterator[str]:
    """A bridge with these files; yields its address."""
    gateway = Gateway(GatewaySettings(**settings.model_dump(exclude_unset=True) | files))
    try:
        yield f"https://127.0.0.1:{gateway.port}"
    finally:
        gateway.stop.set()
        await asyncio.wait_for(gateway.serving, 10)


async def gets_through(url: str, context: Any) -> bool:
    """Ask over a connection of its own."""
    async with httpx.AsyncClient(verify=context) as http:
        try:
            return (await http.get(f"{url}/healthz")).status_code == 200
        except (httpx.TransportError, ssl.SSLError):
            return False


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]  # the tests', and the bridge's own


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_answer_comes_encrypted_and_whole(
    new_loop: Any, authority: Authority, tmp_path: Path
) -> None:
    async def run() -> None:
        files = write(tmp_path, authority.certify("bridge"))
        async with scripted_service() as service:
            settings = GatewaySettings(upstream=service.target, listen="127.0.0.1:0")
            async with (
                encrypted(settings, **files) as url,
                httpx.AsyncClient(verify=trusting(authority), timeout=5) as http,
            ):
                # Odd and even numbers of writes, the last of which is waited for: a transport that
                # pauses for nothing would fail at one of them.
                for count in (1, 2, 3, 4):
                    service.script = answer(*"abc"[:count], "x" * 100_000)
                    response = await http.post(f"{url}{PATH}", json={"prompt": "Hi"})
                    assert response.text.endswith("data: [DONE]\n\n")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("ahead", ["", "a"])  # a message more: see above
def test_a_long_answer_comes_whole_over_an_encrypted_websocket(
    new_loop: Any, ahead: str, authority: Authority, tmp_path: Path
) -> None:
    async def run() -> None:
        files = write(tmp_path, authority.certify("bridge"))
        async with scripted_service() as service:
            service.script = answer(*ahead, *["x" * 30_000] * 12)
            settings = GatewaySettings(upstream=service.target, listen="127.0.0.1:0")
            async with (
                encrypted(settings, **files) as url,
                connect(
                    f"wss{url.removeprefix('https')}/v1/completions/ws", ssl=trusting(authority)
                ) as ws,
            ):
                await ws.send(json.dumps({"type": "start", "id": "a", "request": {"prompt": "Hi"}}))
                text = ""
                while (said := json.loads(await ws.recv()))["type"] != "finished":
                    text += said.get("token", "")
        assert text == ahead + "x" * 360_000

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


def ask_and_take_nothing(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A client for which the kernel holds little that was not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    encrypted = context.wrap_socket(connection, server_hostname="127.0.0.1")
    encrypted.sendall(f"GET {PATH}?prompt=Hi HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    encrypted.recv(10)
    return encrypted


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_client_that_takes_nothing_is_found_and_dropped(
    new_loop: Any, authority: Authority, tmp_path: Path
) -> None:
    async def run() -> None:
        files = write(tmp_path, authority.certify("bridge"))
        async with scripted_service() as service:
            service.script = [started(), *deltas(*["x" * 4000] * 200), finished(200)]
            gateway = Gateway(
                GatewaySettings(
                    upstream=service.target,
                    listen="127.0.0.1:0",
                    metrics_listen=f"127.0.0.1:{free_port()}",
                    stall_limit_s=0.5,
                    **files,
                )
            )
            reader = await asyncio.to_thread(
                ask_and_take_nothing, gateway.port, trusting(authority)
            )
            most = 0.0
            while not (found := await outcomes(gateway)):
                values = await samples(gateway)
                most = max(most, values["tokenstream_gateway_buffered_bytes",])
                await asyncio.sleep(0.02)
            assert found == {"stalled": 1}
            # One write, which here is whatever had come by then: never the whole answer.
            assert 0 < most < 400_000
            reader.close()
            gateway.stop.set()
            await gateway.serving

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


async def test_one_that_does_not_trust_it_or_speaks_plain_text_gets_nothing(
    settings: GatewaySettings, authority: Authority, tmp_path: Path
) -> None:
    files = write(tmp_path, authority.certify("bridge"))
    async with encrypted(settings, **files) as url:
        assert await gets_through(url, trusting(authority))
        assert not await gets_through(url, trusting(Authority()))
        assert not await gets_through(url.replace("https", "http"), True)


async def test_with_a_client_authority_only_its_clients_get_through(
    settings: GatewaySettings, authority: Authority, tmp_path: Path
) -> None:
    clients = Authority()
    files = write(tmp_path, authority.certify("bridge"), clients.certificate)
    async with encrypted(settings, **files) as url:

        async def accepted(own: Certified | None) -> bool:
            return await gets_through(url, trusting(authority, own, tmp_path))

        assert await accepted(clients.certify("client"))
        assert not await accepted(None)
        assert not await accepted(Authority().certify("client"))
        assert not await accepted(clients.certify("client", expired=True))


async def test_renewed_files_count_for_new_connections(
    settings: GatewaySettings,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after, clients, others = (Authority() for _ in range(4))
    monkeypatch.setattr(
        "gateway_sse.server.server_context", lambda files: server_context(files, clock)
    )
    files = write(tmp_path, before.certify("bridge"), clients.certificate)
    async with encrypted(settings, **files) as url:

        async def accepted(authority: Authority, own: Authority) -> bool:
            return await gets_through(url, trusting(authority, own.certify("client"), tmp_path))

        assert await accepted(before, clients)
        write(tmp_path, after.certify("bridge"), others.certificate)
        assert await accepted(before, clients), "not yet"
        clock.now += LOOK_EVERY_S
        assert await accepted(after, others)
        assert not await accepted(before, others)
        assert not await accepted(after, clients)


async def test_a_broken_renewal_is_logged_once_and_the_files_before_stay(
    settings: GatewaySettings,
    authority: Authority,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "gateway_sse.server.server_context", lambda files: server_context(files, clock)
    )
    files = write(tmp_path, authority.certify("bridge"))
    async with encrypted(settings, **files) as url:
        assert await gets_through(url, trusting(authority))
        files["tls_private_key_file"].write_bytes(Authority().certify("other").private_key)
        for _ in range(3):
            clock.now += LOOK_EVERY_S
            assert await gets_through(url, trusting(authority))
    (line,) = [r for r in caplog.records if r.name == tls._log.name and r.levelname == "ERROR"]
    assert "is not the key of" in line.getMessage()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_it_speaks_tls_1_2_and_1_3_and_http_1_1(
    settings: GatewaySettings, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    files = write(tmp_path, authority.certify("bridge"))
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with encrypted(settings, **files) as url:
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        spoken = writer.get_extra_info("ssl_object")
        assert spoken.selected_alpn_protocol() == "http/1.1"
        writer.close()


def refused(**files: Any) -> str:
    with pytest.raises(TlsFilesError) as error:
        server_context(
            TlsFiles(
                files["tls_certificate_file"],
                files["tls_private_key_file"],
                files.get("tls_client_ca_file"),
            )
        )
    return str(error.value)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.certify("a"), authority.certify("b")
    files = write(tmp_path, Certified(one.certificate, other.private_key))
    assert "is not the key of" in refused(**files)
    files = write(tmp_path, one, b"not PEM")
    assert "tls_client_ca_file has no certificate" in refused(**files)
    files = write(tmp_path, Certified(b"", one.private_key))
    assert "tls_certificate_file" in refused(**files)
    (tmp_path / "tls_private_key_file").unlink()
    assert "cannot read" in refused(**files)


def test_a_key_with_a_passphrase_is_refused_without_asking_the_terminal(
    authority: Authority, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    locked = pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    files = write(tmp_path, Certified(authority.certificate, locked))
    assert "needs a passphrase" in refused(**files)


async def test_files_that_cannot_be_used_are_one_line_and_a_status(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, Certified(b"", authority.certify("a").private_key))
    assert await serve(GatewaySettings(listen="127.0.0.1:0", **files)) == 1
    assert capsys.readouterr().err.startswith("tokenstream gateway: TLS: ")


@pytest.mark.parametrize(
    ("setting", "content", "why"),
    [
        ("upstream_ca_file", b"garbage", "has no certificate"),
        ("upstream_ca_file", b"", "has no certificate"),
        ("upstream_certificate_file", b"garbage", "has no certificate"),
        ("upstream_private_key_file", b"garbage", "has no private key"),
        ("upstream_private_key_file", b"", "has no private key"),
        ("upstream_private_key_file", None, "is not the key of the certificate"),
    ],
)
async def test_a_file_for_the_service_that_cannot_be_used_is_one_line_that_names_it(
    authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    content: bytes | None,
    why: str,
) -> None:
    own, other = authority.certify("bridge"), authority.certify("other")
    contents = {
        "upstream_ca_file": authority.certificate,
        "upstream_certificate_file": own.certificate,
        "upstream_private_key_file": own.private_key,
    } | {setting: other.private_key if content is None else content}
    files: dict[str, Any] = {name: tmp_path / name for name in contents}
    for name, path in files.items():
        path.write_bytes(contents[name])
    assert await serve(GatewaySettings(listen="127.0.0.1:0", **files)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tokenstream gateway: TLS: {setting}: {files[setting]} {why}")


@pytest.mark.parametrize(
    "given",
    [
        {"tls_certificate_file": Path(__file__)},
        {"tls_private_key_file": Path(__file__)},
        {"tls_client_ca_file": Path(__file__)},
        {"upstream_certificate_file": Path(__file__)},
        {"upstream_private_key_file": Path(__file__)},
    ],
)
def test_a_certificate_and_its_key_come_together(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="_private_key_file"):
        GatewaySettings(**given)


def test_plain_text_on_a_network_is_asked_for_by_name() -> None:
    with pytest.raises(ValidationError, match="--allow-plaintext"):
        GatewaySettings(listen="0.0.0.0:8080")
    assert GatewaySettings(listen="0.0.0.0:8080", allow_plaintext=True)
    files: dict[str, Any] = {
        "tls_certificate_file": Path(__file__),
        "tls_private_key_file": Path(__file__),
    }
    assert GatewaySettings(listen="0.0.0.0:8080", **files).tls is not None
    with pytest.raises(ValidationError, match="contradict"):
        GatewaySettings(listen="0.0.0.0:8080", allow_plaintext=True, **files)
