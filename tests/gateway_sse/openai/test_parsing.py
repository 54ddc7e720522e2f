"""Checking a body costs little, whatever is wrong with it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway_sse.openai.chat_request import ChatRequest, chat
from gateway_sse.openai.completion_request import CompletionRequest
from gateway_sse.openai.fields import MOST_ENTRIES
from tests.gateway_sse.openai.refusals import refusal

MANY = 5000
NAMES = {str(index): 1 for index in range(MANY)}
USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (CompletionRequest, NAMES),
        (CompletionRequest, {"prompt": [1, *[""] * MANY]}),
        (CompletionRequest, {"prompt": ["", *[1] * MANY]}),
        (CompletionRequest, {"prompt": [[1], *[[""]] * MANY]}),
        (CompletionRequest, {"prompt": [[1, *[""] * MANY]]}),
        (CompletionRequest, {"stop": [1] * MANY}),
        (CompletionRequest, {"stop_token_ids": [""] * MANY}),
        (CompletionRequest, {"logit_bias": dict.fromkeys(NAMES, "")}),
        (ChatRequest, {"messages": [{}] * 1000}),
        (ChatRequest, {"messages": [USER] * MANY}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * MANY}]}),
        (ChatRequest, {"messages": [{**USER, **NAMES}]}),
        (ChatRequest, {"metadata": NAMES}),
    ],
)
def test_of_thousands_of_faults_few_are_looked_for(
    model: type[ChatRequest | CompletionRequest], fields: dict[str, Any]
) -> None:
    shared = {"model": "m", "prompt": "Hi"} if model is CompletionRequest else {"model": "m"}
    if model is ChatRequest:
        shared["messages"] = [USER]  # type: ignore[assignment]
    with pytest.raises(ValidationError) as raised:
        model.model_validate_json(json.dumps(shared | fields))
    assert raised.value.error_count() <= 2


def test_as_many_messages_as_the_contract_allows_are_taken_and_no_more() -> None:
    body = {"model": "m", "messages": [USER] * MOST_ENTRIES}
    chat("application/json", json.dumps(body).encode())
    body["messages"] = [USER] * (MOST_ENTRIES + 1)
    error = refusal(chat, body)
    assert error["param"] == "messages"
    assert str(MOST_ENTRIES) in error["message"]


def test_the_path_of_an_unknown_field_is_bounded() -> None:
    error = refusal(chat, {"model": "m", "messages": [USER], "x" * 10_000: 1})
    assert len(error["message"]) < 200
