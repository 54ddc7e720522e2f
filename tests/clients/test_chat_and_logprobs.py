"""What the client and the real service, over the scripted engine, make of the newer options."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.engine.scripted import scripted_logprobs, scripted_token_bytes
from tests.service.running import RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Chat,
    ChatMessage,
    Client,
    ClientOptions,
    Delta,
    FieldViolation,
    InvalidRequest,
    LikelyToken,
    TokenLogprobs,
)
from tokenstream_client.models import Capability
from tokenstream_client.requests import generate_request

TALK = Chat((ChatMessage("system", "Be short."), ChatMessage("user", "Hé!", name="Ann")))
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(params=[True, False], ids=["session", "calls"])
def options(request: pytest.FixtureRequest) -> ClientOptions:
    return ClientOptions(use_sessions=request.param, window_tokens=16)


@pytest.fixture
async def client(running: RunningService, options: ClientOptions) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.target, options=options) as client:
        yield client


async def deltas(stream: AsyncStream) -> list[Delta]:
    return [event async for event in stream if isinstance(event, Delta)]


def place(token_id: int, likeliest: int) -> TokenLogprobs:
    ids, logprobs = scripted_logprobs(token_id, likeliest)
    own, *others = (
        LikelyToken(i, logprob, scripted_token_bytes(i))
        for i, logprob in zip(ids, logprobs, strict=True)
    )
    return TokenLogprobs(own.logprob, own.token, tuple(others))


async def test_a_chat_is_answered(client: AsyncClient) -> None:
    assert "".join([text async for text in client.generate(TALK).text()]) == "Hé!"
    assert Capability.CHAT in (await client.get_model()).capabilities


async def test_a_chat_that_is_refused_names_its_field(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await deltas(client.generate(Chat(())))
    assert [v.field for v in refused.value.field_violations] == ["chat.messages"]


async def test_log_probabilities_come_with_their_tokens_also_in_a_small_window(
    client: AsyncClient,
) -> None:
    got = await deltas(client.generate("word by word " * 10, logprobs=3, max_tokens=100))
    assert sum(len(delta.token_ids) for delta in got) == 100
    for delta in got:
        assert delta.logprobs == tuple(place(token_id, 3) for token_id in delta.token_ids)


async def test_they_come_with_each_choice(client: AsyncClient) -> None:
    got = await deltas(client.generate("abcdef", logprobs=1, n=3))
    assert {delta.choice_index for delta in got} == {0, 1, 2}
    for delta in got:
        assert delta.logprobs == tuple(place(token_id, 1) for token_id in delta.token_ids)


async def test_who_does_not_ask_for_them_gets_none_beside_one_who_does(
    client: AsyncClient,
) -> None:
    asking, other = client.generate("a" * 40, logprobs=0), client.generate("b" * 40)
    assert sum(len(delta.logprobs) for delta in await deltas(asking)) == 41
    assert not any(delta.logprobs for delta in await deltas(other))


@pytest.mark.parametrize(("given", "logged"), [(PARENT, TRACE), ("\u20ac", ""), ("x" * 513, "")])
async def test_a_trace_goes_along(
    running: RunningService, client: AsyncClient, given: str, logged: str
) -> None:
    with capture_logs() as log:
        await deltas(client.generate("a", traceparent=given, tracestate="a=b"))
        await eventually(lambda: running.counted == 1)
    ends = [entry["trace_id"] for entry in log if entry["event"] == "request_ended"]
    assert ends == [logged]


def test_threads_have_all_of_it() -> None:
    assert Client.generate.__annotations__.keys() == AsyncClient.generate.__annotations__.keys()


def test_a_chat_lands_in_its_field() -> None:
    assert generate_request(TALK) == pb.GenerateRequest(
        chat=pb.Chat(
            messages=[
                pb.ChatMessage(role="system", content="Be short."),
                pb.ChatMessage(role="user", content="Hé!", name="Ann"),
            ]
        )
    )
    assert generate_request(Chat(())).WhichOneof("prompt") == "chat"


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"n": 2}, {"n": 2}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logit_bias": {7: -1}}, {"logit_bias": {7: -1.0}}),
        ({"json_object": True}, {"structured_output": pb.StructuredOutput(json_object=True)}),
        ({"json_schema": "{}"}, {"structured_output": pb.StructuredOutput(json_schema="{}")}),
        ({"regex": ""}, {"structured_output": pb.StructuredOutput(regex="")}),
    ],
)
def test_an_option_lands_in_its_field(option: Any, field: Any) -> None:
    assert generate_request("Hi", **option).sampling == pb.SamplingOptions(**field)


@pytest.mark.parametrize(
    ("prompt", "option", "violation"),
    [
        ("Hi", {"logit_bias": {"x": 1}}, ("sampling.logit_bias", "a mapping, each an integer")),
        ("Hi", {"logit_bias": {-1: 1.0}}, ("sampling.logit_bias", "to a number")),
        ("Hi", {"logit_bias": 3}, ("sampling.logit_bias", "a mapping")),
        ("Hi", {"regex": 3}, ("sampling.structured_output.regex", "must be text")),
        (
            "Hi",
            {"json_object": True, "regex": "a"},
            ("sampling.structured_output", "give one of json_object, regex"),
        ),
        (
            Chat((ChatMessage("user", "a"), ChatMessage("user", 1))),  # type: ignore[arg-type]
            {},
            ("chat.messages[1].content", "must be text"),
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    prompt: Any, option: Any, violation: tuple[str, str]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        generate_request(prompt, **option)
    (got,) = refused.value.field_violations
    assert isinstance(got, FieldViolation)
    assert got.field == violation[0]
    assert violation[1] in got.description
