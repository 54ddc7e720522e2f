from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.engine.scripted import END_OF_TEXT, ScriptedEngine
from tests.conftest import Serve
from tests.service.running import RunningService, refusal
from tokenstream.v1 import model_pb2 as pb

CARD = pb.Model(
    id="scripted",
    context_length=1024,
    vocab_size=257,
    capabilities=[
        pb.CAPABILITY_TEXT_PROMPT,
        pb.CAPABILITY_TOKEN_IDS_PROMPT,
        pb.CAPABILITY_CHAT,
    ],
)


async def test_the_one_model_is_listed_with_its_limits(running: RunningService) -> None:
    response = await running.models.ListModels(pb.ListModelsRequest())
    assert list(response.models) == [CARD]


@pytest.mark.parametrize("name", ["", "scripted"])
async def test_the_model_is_found_by_name_and_without_one(
    running: RunningService, name: str
) -> None:
    response = await running.models.GetModel(pb.GetModelRequest(model=name))
    assert response.model == CARD


async def test_a_text_is_translated_to_tokens_and_back(running: RunningService) -> None:
    tokens = await running.models.Tokenize(pb.TokenizeRequest(text="\u20ac"))
    assert list(tokens.token_ids) == [0xE2, 0x82, 0xAC]
    text = await running.models.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))
    assert text.text == "\u20ac"


async def test_nothing_is_translated_to_nothing(running: RunningService) -> None:
    assert not (await running.models.Tokenize(pb.TokenizeRequest())).token_ids
    assert not (await running.models.Detokenize(pb.DetokenizeRequest())).text


async def test_bytes_that_are_no_text_become_replacement_characters(
    running: RunningService,
) -> None:
    request = pb.DetokenizeRequest(token_ids=[0xE2, 0x82, ord("a")])
    assert (await running.models.Detokenize(request)).text == "\ufffda"


class NotingEngine(ScriptedEngine):
    """Keeps what was asked of its tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        self.asked.append(add_special_tokens)
        return await super().tokenize(text, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Any, *, skip_special_tokens: bool) -> str:
        self.asked.append(skip_special_tokens)
        return await super().detokenize(token_ids, skip_special_tokens=skip_special_tokens)


async def test_special_tokens_are_added_and_skipped_unless_told_otherwise(serve: Serve) -> None:
    engine = NotingEngine()
    running = await serve(engine)
    for wanted in None, True, False:
        await running.models.Tokenize(pb.TokenizeRequest(text="x", add_special_tokens=wanted))
        await running.models.Detokenize(
            pb.DetokenizeRequest(token_ids=[END_OF_TEXT], skip_special_tokens=wanted)
        )
    assert engine.asked == [True, True, True, True, False, False]


Call = Callable[[RunningService], Any]

UNKNOWN: list[Call] = [
    lambda running: running.models.GetModel(pb.GetModelRequest(model="other")),
    lambda running: running.models.Tokenize(pb.TokenizeRequest(model="other", text="x")),
    lambda running: running.models.Detokenize(pb.DetokenizeRequest(model="other")),
]


@pytest.mark.parametrize("call", UNKNOWN)
async def test_an_unknown_model_is_not_found(running: RunningService, call: Call) -> None:
    refused = await refusal(call(running))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "MODEL_NOT_FOUND"


async def test_a_text_with_a_zero_character_is_refused_by_name(running: RunningService) -> None:
    refused = await refusal(running.models.Tokenize(pb.TokenizeRequest(text="a\0")))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ("text",)


async def test_tokens_out_of_vocabulary_are_refused_by_name(running: RunningService) -> None:
    request = pb.DetokenizeRequest(token_ids=[1, 257])
    refused = await refusal(running.models.Detokenize(request))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ("token_ids",)


async def test_too_large_a_text_is_refused_with_its_limit(serve: Serve) -> None:
    running = await serve(max_request_bytes=1024)
    refused = await refusal(running.models.Tokenize(pb.TokenizeRequest(text="x" * 1024)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "1024" in refused.message


async def test_an_engine_that_cannot_translate_says_nothing_of_the_inside(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret text")

    monkeypatch.setattr(running.engine, "tokenize", broken)
    refused = await refusal(running.models.Tokenize(pb.TokenizeRequest(text="x")))
    assert refused.code is grpc.StatusCode.INTERNAL
    assert "secret" not in refused.message


async def test_reflection_lists_the_services_and_has_their_files(
    running: RunningService,
) -> None:
    channel: Any = running.channel  # published with the types of the other API
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tokenstream.v1.GenerationService"
        ),
    ]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert {service.name for service in answers[0].list_services_response.service} == {
        "tokenstream.v1.GenerationService",
        "tokenstream.v1.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert answers[1].file_descriptor_response.file_descriptor_proto
