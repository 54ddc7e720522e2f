import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from gateway_sse.openai.asked import Asked
from gateway_sse.openai.chat_request import chat
from gateway_sse.problems import Refused
from tests.gateway_sse.openai.refusals import JSON, refusal
from tokenstream_client import Chat, ChatMessage

USER = {"role": "user", "content": "Hi"}
BODY: dict[str, Any] = {"model": "m", "messages": [USER]}


def read(**fields: Any) -> Asked:
    return chat(JSON, json.dumps(BODY | fields).encode())


def messages(*given: dict[str, Any]) -> tuple[ChatMessage, ...]:
    prompt = read(messages=list(given)).prompt
    assert isinstance(prompt, Chat)
    return tuple(prompt.messages)


def test_a_request_with_nothing_but_messages_leaves_the_rest_to_the_service() -> None:
    assert read() == Asked(
        prompt=Chat(messages=(ChatMessage("user", "Hi"),)),
        options={"model": "m"},
        choices=1,
        stream=False,
        include_usage=False,
        logprobs=False,
    )


def test_roles_and_names_are_passed_on_and_a_developer_is_the_system() -> None:
    assert messages(
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "Hello"},
    ) == (
        ChatMessage("system", "Be kind."),
        ChatMessage("system", ""),
        ChatMessage("user", "Hi", "Ann"),
        ChatMessage("assistant", "Hello"),
    )


def test_parts_of_text_are_put_below_each_other() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "user", "content": parts})[0].content == "a\nb"
    assert messages({"role": "user", "content": []})[0].content == ""


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    answer = ChatCompletionMessage(role="assistant", content="Hello", refusal=None)
    sent_back = {**answer.model_dump(), "annotations": [], "tool_calls": []}
    assert messages(USER, sent_back)[1] == ChatMessage("assistant", "Hello")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "3", "tool_call_id": "x"}, "messages[0].role"),
        ({"role": "function", "content": "3", "name": "f"}, "messages[0].role"),
        ({"role": "robot", "content": "3"}, "messages[0].role"),
        ({"content": "3"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "user", "content": ["Hi"]}, "messages[0].content[0]"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0]",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": 3}]},
            "messages[0].content[0].text",
        ),
        ({"role": "user", "content": "Hi", "mood": "good"}, "messages[0].mood"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ("Hi", "messages[0]"),
    ],
)
def test_a_message_that_cannot_be_rendered_is_refused_with_its_place(
    message: Any, param: str
) -> None:
    assert refusal(chat, BODY | {"messages": [message]})["param"] == param


def test_a_kind_of_part_that_is_not_there_is_named() -> None:
    parts = [{"type": "input_audio", "input_audio": {}}]
    error = refusal(chat, BODY | {"messages": [{"role": "user", "content": parts}]})
    assert "input_audio" in error["message"]
    assert error["code"] == "unsupported_parameter"


@pytest.mark.parametrize("value", [[], None, "Hi", {}])
def test_no_messages_are_refused(value: Any) -> None:
    assert refusal(chat, BODY | {"messages": value})["param"] == "messages"


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [({}, None), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 4}, 4)],
)
def test_both_names_of_the_most_tokens_are_known(
    fields: dict[str, Any], max_tokens: int | None
) -> None:
    assert read(**fields).options.get("max_tokens") == max_tokens


def test_both_names_at_once_are_refused() -> None:
    error = refusal(chat, BODY | {"max_tokens": 3, "max_completion_tokens": 3})
    assert error["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
    ],
)
def test_log_probabilities_are_asked_for_by_two_fields(
    fields: dict[str, Any], logprobs: int | None
) -> None:
    asked = read(**fields)
    assert asked.options.get("logprobs") == logprobs
    assert asked.logprobs is (logprobs is not None)


@pytest.mark.parametrize(
    "harmless",
    [
        {"tools": []},
        {"tools": None},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"parallel_tool_calls": True},
        {"functions": []},
        {"function_call": "auto"},
        {"modalities": ["text"]},
        {"verbosity": "medium"},
        {"store": False},
        {"service_tier": "auto"},
        {"metadata": {"a": "b"}},
        {"user": "me"},
        {"safety_identifier": "me"},
        {"prompt_cache_key": "k"},
        {"prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"ttl": "5m"}},
        {"reasoning_effort": None},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert read(**harmless).options == {"model": "m"}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"audio": {"voice": "x", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"reasoning_effort": "low"},
        {"verbosity": "high"},
        {"moderation": {"model": "x"}},
        {"store": True},
        {"service_tier": "flex"},
    ],
)
def test_what_the_service_has_not_is_refused_by_name(fields: dict[str, Any]) -> None:
    error = refusal(chat, BODY | fields)
    assert (error["param"], error["code"]) == (next(iter(fields)), "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": 3}, "logprobs", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"best_of": 1}, "best_of", "unknown_parameter"),
        ({"prompt": "Hi"}, "prompt", "unknown_parameter"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    fields: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(chat, BODY | fields)
    assert (error["param"], error["code"]) == (param, code)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    [
        "model",
        "messages",
        "stop",
        "n",
        "logit_bias",
        "response_format",
        "stream_options",
        "tools",
        "structured_outputs",
        "logprobs",
        "top_logprobs",
        "metadata",
        "modalities",
    ]
)


@given(st.dictionaries(KNOWN | st.text(), JSON_VALUES, max_size=4))
def test_any_json_is_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        asked = chat(JSON, json.dumps(BODY | values).encode())
    except Refused:
        return
    assert isinstance(asked.prompt, Chat)
