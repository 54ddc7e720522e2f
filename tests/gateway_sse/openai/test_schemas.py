import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from gateway_sse.openai.answers import ChatCollector, CompletionCollector
from gateway_sse.openai.errors import body_of
from gateway_sse.openai.schemas import schemas
from gateway_sse.problems import Problem
from tests.gateway_sse.openai.events import CREATED, STARTED, asked, delta_of, finished


def accepts(name: str, value: Any) -> bool:
    document = {
        "$ref": f"#/components/schemas/{name}",
        "components": {"schemas": schemas()},
    }
    Draft202012Validator.check_schema(document)
    return bool(Draft202012Validator(document).is_valid(value))


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("OpenAIChatRequest", CHAT, True),
        ("OpenAIChatRequest", CHAT | {"stop": ["a"], "tools": [], "temperature": None}, True),
        ("OpenAIChatRequest", CHAT | {"tools": [{}]}, False),
        ("OpenAIChatRequest", CHAT | {"max_token": 3}, False),
        ("OpenAIChatRequest", {"model": "m"}, False),
        ("OpenAICompletionRequest", {"model": "m", "prompt": "Hi"}, True),
        ("OpenAICompletionRequest", {"model": "m", "prompt": [1, 2]}, True),
        ("OpenAICompletionRequest", {"model": "m", "prompt": [1, "a"]}, False),
    ],
)
def test_the_requests_schemas_take_what_is_taken(name: str, value: Any, valid: bool) -> None:
    assert accepts(name, value) is valid


def test_the_answers_fit_their_schemas() -> None:
    wanted = asked(stream=False, logprobs=True)
    chat, completion = ChatCollector(wanted), CompletionCollector(wanted)
    for event in (STARTED, delta_of(b"a"), finished(1)):
        chat.add(event)
        completion.add(event)
    assert accepts("OpenAIChatCompletion", json.loads(chat.body(CREATED)))
    assert accepts("OpenAICompletion", json.loads(completion.body(CREATED)))
    assert not accepts("OpenAICompletion", json.loads(chat.body(CREATED)))
    assert accepts("OpenAIErrorBody", body_of(Problem(500, "X", "", "why")))
