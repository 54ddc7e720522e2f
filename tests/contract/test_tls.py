"""The whole service with TLS, as its settings name it, and a plain gRPC client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.admission.callers import key_line, new_key
from tests.clients.certificate import Pair, self_signed
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService, refusal
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc


@pytest.fixture(scope="module")
def pair() -> Pair:
    return self_signed()


@pytest.fixture
def files(tmp_path: Path, pair: Pair) -> dict[str, Any]:
    """The settings of TLS."""
    files = {
        "tls_certificate_file": tmp_path / "certificate.pem",
        "tls_private_key_file": tmp_path / "key.pem",
    }
    files["tls_certificate_file"].write_bytes(pair.certificate)
    files["tls_private_key_file"].write_bytes(pair.key)
    return files


@asynccontextmanager
async def trusting(
    running: RunningService, pair: Pair, own: Pair | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that trusts the certificate; `own`: what the client shows of itself."""
    credentials = grpc.ssl_channel_credentials(
        pair.certificate,
        None if own is None else own.key,
        None if own is None else own.certificate,
    )
    async with grpc.aio.secure_channel(
        running.target, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield channel


def stub_on(channel: grpc.aio.Channel) -> Any:
    return generation_pb2_grpc.GenerationServiceStub(channel)


async def test_streams_and_sessions_come_encrypted_to_a_client_that_trusts_the_certificate(
    serve: Serve, files: dict[str, Any], pair: Pair
) -> None:
    running = await serve(**files)
    async with trusting(running, pair) as channel:
        text = "through TLS \u20ac" * 20
        stream = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH)
        call = stub_on(channel).Generate(pb.GenerateRequest(text=text, stream=stream))
        head = await Answer().read_tokens(call, 10)
        call.cancel()
        talk = Talk.over(channel)
        await talk.resume(1, head.stream_id, head.count)
        await talk.start(2, text)
        assert head.text + (await talk.answer(1)).text == text
        assert (await talk.answer(2)).text == text
        await talk.end()


async def test_a_client_without_tls_or_without_trust_gets_no_answer(
    serve: Serve, files: dict[str, Any]
) -> None:
    running = await serve(**files)
    plain = await refusal(running.generate("abc", timeout=5))
    assert plain.code is grpc.StatusCode.UNAVAILABLE
    async with trusting(running, self_signed()) as channel:
        distrusting = await refusal(stub_on(channel).Generate(pb.GenerateRequest(text="abc")))
    assert distrusting.code is grpc.StatusCode.UNAVAILABLE
    assert running.counted == 0


async def test_keys_count_inside_tls(
    serve: Serve, files: dict[str, Any], pair: Pair, tmp_path: Path
) -> None:
    key = new_key()
    key_file = tmp_path / "keys"
    key_file.write_text(key_line("acme", key) + "\n")
    running = await serve(**files, api_keys_file=key_file)
    async with trusting(running, pair) as channel:
        request = pb.GenerateRequest(text="abc")
        refused = await refusal(stub_on(channel).Generate(request))
        assert refused.reason == "UNAUTHENTICATED"
        # The way of gRPC itself, which sends keys over encrypted connections only.
        call = stub_on(channel).Generate(
            request, credentials=grpc.access_token_call_credentials(key)
        )
        assert (await Answer().read(call)).text == "abc"


async def test_with_a_client_authority_only_clients_with_a_certificate_of_it_connect(
    serve: Serve, files: dict[str, Any], pair: Pair, tmp_path: Path
) -> None:
    clients = self_signed()
    authority = tmp_path / "clients.pem"
    authority.write_bytes(clients.certificate)
    running = await serve(**files, tls_client_ca_file=authority)
    request = pb.GenerateRequest(text="abc")
    async with trusting(running, pair, own=clients) as channel:
        assert (await Answer().read(stub_on(channel).Generate(request))).text == "abc"
    for own in (None, self_signed()):
        async with trusting(running, pair, own) as channel:
            refused = await refusal(stub_on(channel).Generate(request))
            assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert running.counted == 1
