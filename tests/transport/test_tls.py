from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from service.transport.tls import LOOK_EVERY_S, TlsFiles, TlsFilesError, server_credentials
from tests.certificates import Authority, Certified, pem
from tests.conftest import FakeClock

PATIENCE_S = 10.0


def write(folder: Path, server: Certified, client_ca: bytes | None = None) -> TlsFiles:
    files = TlsFiles(
        folder / "cert.pem", folder / "key.pem", None if client_ca is None else folder / "ca.pem"
    )
    files.certificate.write_bytes(server.certificate)
    files.private_key.write_bytes(server.private_key)
    if files.client_ca is not None and client_ca is not None:
        files.client_ca.write_bytes(client_ca)
    return files


@asynccontextmanager
async def listening(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    """Serve health checks behind TLS; yields the address."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def connects(
    target: str, trusted: bytes | None, own: Certified | None = None
) -> grpc.StatusCode:
    """Ask once over a new connection; OK, or why not. `trusted`: None is no TLS."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if trusted is None:
        channel = grpc.aio.insecure_channel(target, options)
    else:
        credentials = grpc.ssl_channel_credentials(
            trusted,
            None if own is None else own.private_key,
            None if own is None else own.certificate,
        )
        channel = grpc.aio.secure_channel(target, credentials, options)
    async with channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # published without types
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_client_that_trusts_the_authority_gets_through_and_nobody_else(
    tmp_path: Path,
) -> None:
    authority, stranger = Authority(), Authority()
    files = write(tmp_path, authority.certify("server"))
    async with listening(server_credentials(files)) as target:
        assert await connects(target, authority.certificate) is grpc.StatusCode.OK
        assert await connects(target, stranger.certificate) is grpc.StatusCode.UNAVAILABLE
        assert await connects(target, None) is grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_authority_only_its_clients_get_through(tmp_path: Path) -> None:
    authority, clients, strangers = Authority(), Authority(), Authority()
    files = write(tmp_path, authority.certify("server"), clients.certificate)
    async with listening(server_credentials(files)) as target:

        async def status(own: Certified | None) -> grpc.StatusCode:
            return await connects(target, authority.certificate, own)

        assert await status(clients.certify("client")) is grpc.StatusCode.OK
        assert await status(strangers.certify("client")) is grpc.StatusCode.UNAVAILABLE
        assert await status(authority.certify("client")) is grpc.StatusCode.UNAVAILABLE
        assert await status(None) is grpc.StatusCode.UNAVAILABLE
        assert await status(clients.certify("client", expired=True)) is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_counts_for_new_connections(
    tmp_path: Path, clock: FakeClock
) -> None:
    before, after = Authority(), Authority()
    files = write(tmp_path, before.certify("server"))
    async with listening(server_credentials(files, clock)) as target:
        assert await connects(target, before.certificate) is grpc.StatusCode.OK
        write(tmp_path, after.certify("server"))
        assert await connects(target, before.certificate) is grpc.StatusCode.OK, "not yet"
        clock.now += LOOK_EVERY_S
        assert await connects(target, after.certificate) is grpc.StatusCode.OK
        assert await connects(target, before.certificate) is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_authority_of_clients_counts_for_new_connections(
    tmp_path: Path, clock: FakeClock
) -> None:
    authority, before, after = Authority(), Authority(), Authority()
    server = authority.certify("server")
    files = write(tmp_path, server, before.certificate)
    async with listening(server_credentials(files, clock)) as target:
        write(tmp_path, server, after.certificate)
        clock.now += LOOK_EVERY_S
        old = await connects(target, authority.certificate, before.certify("client"))
        assert old is grpc.StatusCode.UNAVAILABLE
        new = await connects(target, authority.certificate, after.certify("client"))
        assert new is grpc.StatusCode.OK


async def test_a_broken_renewal_is_logged_once_and_the_certificate_before_stays(
    tmp_path: Path, clock: FakeClock
) -> None:
    authority = Authority()
    files = write(tmp_path, authority.certify("server"))
    async with listening(server_credentials(files, clock)) as target:
        files.private_key.write_bytes(Authority().certify("another").private_key)
        with capture_logs() as logs:
            for _ in range(3):
                clock.now += LOOK_EVERY_S
                assert await connects(target, authority.certificate) is grpc.StatusCode.OK
    assert [line["event"] for line in logs] == ["tls_files_not_reloaded"]
    assert "is not the key of" in logs[0]["why"]


def refused(files: TlsFiles) -> str:
    with pytest.raises(TlsFilesError) as error:
        server_credentials(files)
    return str(error.value)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    authority = Authority()
    files = write(tmp_path, authority.certify("server"), authority.certificate)
    (tmp_path / name).unlink()
    assert refused(files) == f"TLS: cannot read {tmp_path / name}: No such file or directory"


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"not PEM", b"\xff\0"])
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, name: str, content: bytes
) -> None:
    authority = Authority()
    files = write(tmp_path, authority.certify("server"), authority.certificate)
    (tmp_path / name).write_bytes(content)
    kind = "private key" if name == "key.pem" else "certificate"
    assert refused(files) == f"TLS: {tmp_path / name} has no {kind} in PEM form"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    one, other = authority.certify("server"), authority.certify("server")
    files = write(tmp_path, Certified(one.certificate, other.private_key))
    assert refused(files) == f"TLS: {files.private_key} is not the key of {files.certificate}"


def test_a_key_with_a_passphrase_is_refused_without_asking_the_terminal(tmp_path: Path) -> None:
    locked = pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    files = write(tmp_path, Certified(Authority().certificate, locked))
    assert refused(files) == f"TLS: {files.private_key} needs a passphrase; take one without"


def test_exchanged_files_are_told(tmp_path: Path) -> None:
    certified = Authority().certify("server")
    files = write(tmp_path, Certified(certified.private_key, certified.certificate))
    assert refused(files) == f"TLS: {files.certificate} has no certificate in PEM form"


def test_settings_without_a_certificate_mean_no_tls(tmp_path: Path) -> None:
    assert TlsFiles.of(None, None, None) is None
    files = TlsFiles.of(tmp_path / "c", tmp_path / "k", tmp_path / "a")
    assert files == TlsFiles(tmp_path / "c", tmp_path / "k", tmp_path / "a")
