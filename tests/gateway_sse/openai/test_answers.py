"""Answers in one piece, held against the types of OpenAI's own client."""

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from gateway_sse.openai.answers import ChatCollector, Collector, CompletionCollector
from tests.gateway_sse.openai.events import (
    CREATED,
    STARTED,
    asked,
    delta,
    delta_of,
    finished,
)
from tokenstream_client import Event, FinishReason, Internal


def collected(
    kind: type[Collector], events: list[Event], choices: int = 1, *, logprobs: bool = False
) -> Any:
    collector = kind(asked(choices, stream=False, logprobs=logprobs))
    for event in events:
        collector.add(event)
    return json.loads(collector.body(CREATED))


TWO: list[Event] = [
    STARTED,
    delta("x", choice=1),
    delta("Hel"),
    delta("lo\u2028"),
    finished(1, choice=1, reason=FinishReason.STOP),
    finished(2),
]


def test_a_chat_has_its_choices_in_order_and_the_sum_of_their_tokens() -> None:
    body = collected(ChatCollector, TWO, 2)
    answer = ChatCompletion.model_validate(body, strict=True)
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-s7", "chat.completion", "demo")
    assert answer.created == CREATED
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "Hello\u2028", "length"),
        (1, "x", "stop"),
    ]
    assert all(choice.message.role == "assistant" for choice in answer.choices)
    assert all(choice.logprobs is None for choice in answer.choices)
    assert answer.usage is not None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 3, 6)


def test_a_completion_has_its_choices_in_order_and_the_sum_of_their_tokens() -> None:
    body = collected(CompletionCollector, TWO, 2)
    answer = Completion.model_validate(body, strict=True)
    assert (answer.id, answer.object, answer.model) == ("cmpl-s7", "text_completion", "demo")
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [
        (0, "Hello\u2028", "length"),
        (1, "x", "stop"),
    ]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6


def test_log_probabilities_of_several_deltas_are_one_list() -> None:
    events: list[Event] = [STARTED, delta_of(b"a", b"b"), delta_of(b"c"), finished(3)]
    body = collected(ChatCollector, events, logprobs=True)
    chat = ChatCompletion.model_validate(body, strict=True)
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["a", "b", "c"]
    body = collected(CompletionCollector, events, logprobs=True)
    text = Completion.model_validate(body, strict=True)
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.text_offset == [0, 1, 2]


@pytest.mark.parametrize("events", [[], TWO[:1], TWO[:-1], TWO[1:]])
def test_half_an_answer_is_none(events: list[Event]) -> None:
    with pytest.raises(Internal, match="half an answer"):
        collected(ChatCollector, events, 2)


def test_a_number_of_choices_that_nobody_has_checked_yet_costs_nothing() -> None:
    with pytest.raises(Internal):
        collected(ChatCollector, [STARTED], 2**60)


def test_an_answer_without_a_token_has_log_probabilities_all_the_same() -> None:
    events: list[Event] = [STARTED, finished(0)]
    chat = collected(ChatCollector, events, logprobs=True)
    assert chat["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    text = collected(CompletionCollector, events, logprobs=True)
    assert text["choices"][0]["logprobs"] == {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
