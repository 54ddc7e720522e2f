from pathlib import Path
from typing import Any

import grpc
import pytest

from service.admission.callers import ANONYMOUS, Caller, KeyRing, key_line, new_key
from service.admission.key_file import KeyFile
from service.errors import Unauthenticated
from service.transport.authentication import Authenticator

# Fixed: it is in the names of tests, which are the same in every process.
KEY = "ts_hSCzoEiRWganULkFMXdAWhm__4NaZk_a8yx00ARh1pY"
OTHER = new_key()
ACME = Caller("acme")

WRONG: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    ((("authorization", f"Bearer {KEY}"),) * 2, "several"),
    ((("authorization", f"Bearer {KEY}".encode()),), "not text"),
    ((("authorization", ""),), "scheme Bearer"),
    ((("authorization", "Bearer"),), "no key"),
    ((("authorization", "Bearer  "),), "no key"),
    ((("authorization", KEY),), "scheme Bearer"),
    ((("authorization", f"Basic {KEY}"),), "scheme Bearer"),
    ((("authorization", f"Bearer{KEY}"),), "scheme Bearer"),
    ((("authorization", f"Bearer {OTHER}"),), "not valid"),
    ((("authorization", f"Bearer {KEY} {KEY}"),), "not valid"),
    ((("authorization", f"Bearer {KEY[:-1]}"),), "not valid"),
    ((("authorization", f"Bearer {KEY},{KEY}"),), "not valid"),
]
NOTHING: list[Any] = [None, (), (("user-agent", "x"),), (("authorization-bin", KEY.encode()),)]


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator(KeyRing.parse(key_line("acme", KEY), "keys.txt"))


@pytest.mark.parametrize(
    "value", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}", f" Bearer {KEY} "]
)
def test_a_bearer_with_a_known_key_is_its_tenant(authenticator: Authenticator, value: str) -> None:
    metadata = (("user-agent", "x"), ("authorization", value), ("x-bin", b"\0"))
    assert authenticator.caller_of(metadata) == ACME
    assert authenticator.session_caller(metadata) == ACME


@pytest.mark.parametrize(("metadata", "words"), WRONG)
def test_a_wrong_header_is_refused_with_what_is_wrong_and_without_what_was_sent(
    authenticator: Authenticator, metadata: tuple[tuple[str, Any], ...], words: str
) -> None:
    for ask in (authenticator.caller_of, authenticator.session_caller):
        with pytest.raises(Unauthenticated, match=words) as refused:
            ask(metadata)
        assert refused.value.reason == "UNAUTHENTICATED"
        for sent in (KEY, OTHER, KEY[:-1], "Basic"):
            assert sent not in str(refused.value)


@pytest.mark.parametrize("metadata", NOTHING)
def test_a_call_without_a_key_is_told_how_to_send_one(
    authenticator: Authenticator, metadata: Any
) -> None:
    with pytest.raises(Unauthenticated, match="authorization: Bearer <key>"):
        authenticator.caller_of(metadata)


@pytest.mark.parametrize("metadata", NOTHING)
def test_a_session_without_a_key_is_nobodys_until_a_request_brings_one(
    authenticator: Authenticator, metadata: Any
) -> None:
    own = authenticator.session_caller(metadata)
    assert own is None
    assert authenticator.caller_of_key(KEY, own) == ACME
    with pytest.raises(Unauthenticated, match="no API key"):
        authenticator.caller_of_key("", own)


def test_a_request_without_a_key_of_its_own_is_its_sessions_callers(
    authenticator: Authenticator,
) -> None:
    assert authenticator.caller_of_key("", Caller("proxy")) == Caller("proxy")
    assert authenticator.caller_of_key(KEY, Caller("proxy")) == ACME


def test_a_wrong_key_does_not_fall_back_to_the_sessions_caller(
    authenticator: Authenticator,
) -> None:
    with pytest.raises(Unauthenticated, match="not valid") as refused:
        authenticator.caller_of_key(OTHER, Caller("proxy"))
    assert OTHER not in str(refused.value)


@pytest.mark.parametrize("metadata", [*NOTHING, *(metadata for metadata, _ in WRONG)])
def test_without_a_key_file_everybody_is_anonymous_whatever_they_present(metadata: Any) -> None:
    authenticator = Authenticator(None)
    assert authenticator.caller_of(metadata) is ANONYMOUS
    assert authenticator.session_caller(metadata) is ANONYMOUS
    assert authenticator.caller_of_key(KEY) is ANONYMOUS
    assert authenticator.caller_of_key("") is ANONYMOUS


def test_a_file_of_no_keys_is_not_the_same_as_no_key_file() -> None:
    with pytest.raises(Unauthenticated):
        Authenticator(KeyRing(())).caller_of(())


def test_the_keys_can_be_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(key_line("acme", KEY))
    assert Authenticator(KeyFile(path)).caller_of_key(KEY) == ACME


async def test_metadata_as_grpc_hands_it_over_is_understood(authenticator: Authenticator) -> None:
    async def answer(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return authenticator.caller_of(context.invocation_metadata()).tenant.encode()
        except Unauthenticated as error:
            return str(error).encode()

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/s/m")

            async def answered(*metadata: tuple[str, str | bytes]) -> str:
                answer: bytes = await call(b"", metadata=grpc.aio.Metadata(*metadata))
                return answer.decode()

            right, wrong = ("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")
            assert await answered(("x-bin", b"\0"), right) == "acme"
            assert "no API key" in await answered()
            assert "not valid" in await answered(wrong)
            assert "several" in await answered(right, right)
    finally:
        await server.stop(0)
