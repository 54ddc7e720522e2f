"""What proves who is calling, and what keeps others from listening."""

from collections.abc import AsyncIterator

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.certificates import pem
from tests.clients.certificate import Pair, self_signed
from tests.clients.script import STREAM_ID, answer
from tests.clients.scripted import ScriptedService, scripted_service
from tokenstream_client import AsyncClient, Client, ClientOptions, Tls, Unavailable
from tokenstream_client.channel import is_local

CALLS = ClientOptions(use_sessions=False)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return self_signed()


@pytest.fixture
async def encrypted(pair: Pair) -> AsyncIterator[ScriptedService]:
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    async with scripted_service(credentials) as service:
        service.script = answer("a", "b")
        yield service


async def text(client: AsyncClient) -> str:
    return "".join([text async for text in client.generate("Hi").text()])


@pytest.mark.parametrize("name", [None, "tokenstream.test"])
async def test_an_encrypted_service_is_reached_by_one_who_trusts_it(
    encrypted: ScriptedService, pair: Pair, name: str | None
) -> None:
    tls = Tls(root_certificates=pair.certificate, server_name_override=name)
    async with AsyncClient(encrypted.target, tls=tls, api_key="secret") as client:
        assert await text(client) == "ab"
        assert await client.is_ready()


@pytest.mark.parametrize("tls", [True, False])
async def test_one_who_does_not_trust_it_gets_no_connection(
    encrypted: ScriptedService, tls: bool
) -> None:
    options = ClientOptions(max_attempts=1)
    async with AsyncClient(encrypted.target, tls=tls, options=options) as client:
        with pytest.raises(Unavailable):
            await text(client)
    assert encrypted.calls == []


async def test_another_name_than_the_certificates_is_refused(
    encrypted: ScriptedService, pair: Pair
) -> None:
    tls = Tls(root_certificates=pair.certificate, server_name_override="else.test")
    options = ClientOptions(max_attempts=1)
    async with AsyncClient(encrypted.target, tls=tls, options=options) as client:
        with pytest.raises(Unavailable):
            await text(client)


async def test_a_service_that_wants_certificates_takes_this_sides(pair: Pair) -> None:
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.certificate)], pair.certificate, require_client_auth=True
    )
    options = ClientOptions(max_attempts=1)
    async with scripted_service(credentials) as service:
        service.script = answer("a")
        trusting = Tls(root_certificates=pair.certificate)
        async with AsyncClient(service.target, tls=trusting, options=options) as client:
            with pytest.raises(Unavailable):
                await text(client)
        known = Tls(pair.certificate, pair.key, pair.certificate)
        async with AsyncClient(service.target, tls=known) as client:
            assert await text(client) == "a"


def test_a_private_key_is_not_shown(pair: Pair) -> None:
    secret = pair.key.splitlines()[1].decode()
    assert secret not in repr(Tls(private_key=pair.key, certificate_chain=pair.certificate))


@pytest.mark.parametrize("content", ["garbage", "nothing", "a key", "a broken certificate"])
def test_authorities_that_cannot_be_used_are_refused_by_name(pair: Pair, content: str) -> None:
    bad = {
        "garbage": b"\xff not PEM",
        "nothing": b"",
        "a key": pair.key,
        "a broken certificate": pair.certificate[:100] + pair.certificate[200:],
    }[content]
    with pytest.raises(ValueError, match=r"^root_certificates has no certificate"):
        Tls(root_certificates=bad)
    with pytest.raises(ValueError, match=r"^certificate_chain has no certificate"):
        Tls(private_key=pair.key, certificate_chain=bad)


def test_authorities_may_have_comments_in_any_language(pair: Pair) -> None:
    other = self_signed().certificate
    Tls(root_certificates="# Főtanúsítvány\n".encode() + pair.certificate + b"# \xff\n" + other)


def test_a_private_key_that_cannot_be_used_is_refused_by_name(pair: Pair) -> None:
    other = self_signed().key
    locked = pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    for key, why in (
        (b"garbage", "has no private key"),
        (b"", "has no private key"),
        (pair.certificate, "has no private key"),
        (other, "is not the key of the certificate"),
        (locked, "needs a passphrase"),
        (None, "certificate_chain needs private_key"),
    ):
        with pytest.raises(ValueError, match=why) as refused:
            Tls(private_key=key, certificate_chain=pair.certificate)
        assert "secret" not in str(refused.value)
    with pytest.raises(ValueError, match="private_key needs certificate_chain"):
        Tls(private_key=pair.key)


@pytest.mark.parametrize("options", [ClientOptions(), CALLS], ids=["session", "calls"])
async def test_the_clients_key_goes_with_every_call(
    service: ScriptedService, options: ClientOptions
) -> None:
    service.script = answer("a")
    async with AsyncClient(service.target, api_key="mine", options=options) as client:
        await text(client)
        await client.cancel(STREAM_ID)
    if options.use_sessions:
        assert service.session_keys == ["mine"]
        assert service.keys == ["", "mine"]  # the request is the session's own caller's
    else:
        assert service.keys == ["mine", "mine"]


@pytest.mark.parametrize("options", [ClientOptions(), CALLS], ids=["session", "calls"])
async def test_a_requests_own_key_goes_with_it(
    service: ScriptedService, options: ClientOptions
) -> None:
    service.script = answer("a", "b")
    async with AsyncClient(service.target, api_key="mine", options=options) as client:
        async for _ in client.generate("Hi", api_key="theirs"):
            pass
        async for _ in client.resume(STREAM_ID, api_key="others"):
            pass
        await client.cancel(STREAM_ID, api_key="thirds")
    assert service.keys == ["theirs", "others", "thirds"]


@pytest.mark.parametrize("target", ["10.0.0.1:50051", "service:50051", "dns:///service:50051"])
async def test_a_key_does_not_go_to_another_machine_unencrypted(target: str) -> None:
    with pytest.raises(ValueError, match="unencrypted"):
        AsyncClient(target, api_key="k")
    with pytest.raises(ValueError, match="unencrypted"):
        Client(target, api_key="k")
    async with AsyncClient(target) as client:
        with pytest.raises(ValueError, match="unencrypted"):
            client.generate("Hi", api_key="k")
        with pytest.raises(ValueError, match="unencrypted"):
            await client.cancel("s", api_key="k")
    allowed = ClientOptions(allow_plaintext_keys=True)
    await AsyncClient(target, api_key="k", options=allowed).close()
    await AsyncClient(target, api_key="k", tls=True).close()


async def test_a_key_does_not_go_through_a_proxy_unencrypted() -> None:
    options = ClientOptions(use_http_proxy=True)
    with pytest.raises(ValueError, match="unencrypted"):
        AsyncClient("127.0.0.1:1", api_key="k", options=options)
    await AsyncClient("127.0.0.1:1", api_key="k", tls=True, options=options).close()


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schl\u00fcssel"])
async def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        AsyncClient("127.0.0.1:1", api_key=key)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.3.2.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("dns:localhost", True),
        ("ipv4:127.0.0.1:50051", True),
        ("ipv6:[::1]:50051", True),
        ("unix:/tmp/socket", True),
        ("10.0.0.1:50051", False),
        ("localhost.example.com:1", False),
        ("127.0.0.1.example.com:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("dns://127.0.0.1/service:1", False),
        ("dns://8.8.8.8/localhost:50051", False),
        ("dns://localhost:50051", False),
        ("8.8.8.8/localhost:50051", False),
        ("[2001:db8::1]:1", False),
        ("xds:///localhost", False),
        ("0.0.0.0:1", False),
    ],
)
def test_only_what_is_certainly_this_machine_is_local(target: str, local: bool) -> None:
    assert is_local(target) == local
