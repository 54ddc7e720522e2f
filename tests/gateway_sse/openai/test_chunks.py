"""The chunks are held against the types of OpenAI's own client."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from gateway_sse.openai.chunks import ChatChunks, CompletionChunks
from gateway_sse.problems import Problem
from tests.gateway_sse.openai.events import (
    CREATED,
    STARTED,
    asked,
    delta,
    delta_of,
    finished,
)
from tokenstream_client import FinishReason

DONE = b"data: [DONE]\n\n"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def data_of(sent: bytes) -> list[Any]:
    """The chunks' JSON."""
    events = sent.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def chat_chunks(sent: bytes) -> list[ChatCompletionChunk]:
    return [ChatCompletionChunk.model_validate(data, strict=True) for data in data_of(sent)]


def completion_chunks(sent: bytes) -> list[Completion]:
    # The type is that of the whole answer, too, and wants a finish reason.
    return [Completion.construct(**data) for data in data_of(sent)]


def test_a_chat_is_a_role_texts_and_a_finish_reason() -> None:
    encoder = ChatChunks(asked(), CREATED)
    sent = encoder.started(STARTED) + encoder.delta(delta("Hel")) + encoder.delta(delta("lo"))
    sent += encoder.finished(finished(2, reason=FinishReason.STOP))
    chunks = chat_chunks(sent)
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None, None]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hel", "lo", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks} == {
        ("chatcmpl-s7", "chat.completion.chunk", CREATED, "demo")
    }
    assert encoder.end() == DONE
    assert all("usage" not in data for data in data_of(sent))


def test_a_completion_is_texts_and_a_finish_reason() -> None:
    encoder = CompletionChunks(asked(), CREATED)
    assert encoder.started(STARTED) == b""
    sent = encoder.delta(delta("Hel")) + encoder.delta(delta("lo")) + encoder.finished(finished(2))
    chunks = completion_chunks(sent)
    assert [chunk.choices[0].text for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks} == {
        ("cmpl-s7", "text_completion", CREATED, "demo")
    }
    assert encoder.end() == DONE


@pytest.mark.parametrize("encoder_type", [ChatChunks, CompletionChunks])
def test_a_delta_without_text_is_no_chunk(
    encoder_type: type[ChatChunks | CompletionChunks],
) -> None:
    encoder = encoder_type(asked(), CREATED)
    encoder.started(STARTED)
    assert encoder.delta(delta("")) == b""


def test_each_choice_has_its_own_role_and_end_and_the_usage_sums_them() -> None:
    encoder = ChatChunks(asked(2, include_usage=True), CREATED)
    sent = encoder.started(STARTED)
    sent += encoder.delta(delta("b", choice=1)) + encoder.delta(delta("a", choice=0))
    sent += encoder.finished(finished(4, choice=1, cached=2))
    sent += encoder.finished(finished(3, choice=0, reason=FinishReason.STOP, cached=1))
    end = encoder.end()
    assert end.endswith(DONE)
    chunks = chat_chunks(sent + end.removesuffix(DONE))
    usage = chunks.pop()
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 7,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert all(data["usage"] is None for data in data_of(sent))
    assert [(c.choices[0].index, c.choices[0].delta.role) for c in chunks[:2]] == [
        (0, "assistant"),
        (1, "assistant"),
    ]
    assert [(c.choices[0].index, c.choices[0].delta.content) for c in chunks[2:4]] == [
        (1, "b"),
        (0, "a"),
    ]
    assert [(c.choices[0].index, c.choices[0].finish_reason) for c in chunks[4:]] == [
        (1, "length"),
        (0, "stop"),
    ]


def test_an_answer_that_failed_has_an_error_and_no_usage() -> None:
    encoder = ChatChunks(asked(include_usage=True), CREATED)
    encoder.started(STARTED)
    problem = Problem(500, "INTERNAL", "ENGINE_FAILED", "the engine failed")
    assert data_of(encoder.failed(problem)) == [
        {
            "error": {
                "message": "the engine failed",
                "type": "server_error",
                "param": None,
                "code": "engine_failed",
            }
        }
    ]
    assert encoder.end() == DONE
    assert encoder.moved() is None


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.CANCELLED, "stop"),
        (FinishReason.REPETITION, "stop"),
        (FinishReason.UNKNOWN, "stop"),
    ],
)
def test_every_end_is_a_word_that_openais_clients_know(reason: FinishReason, word: str) -> None:
    encoder = ChatChunks(asked(), CREATED)
    encoder.started(STARTED)
    [chunk] = chat_chunks(encoder.finished(finished(1, reason=reason)))
    assert chunk.choices[0].finish_reason == word


def test_a_chats_log_probabilities_go_with_their_tokens_text_or_not() -> None:
    encoder = ChatChunks(asked(logprobs=True), CREATED)
    encoder.started(STARTED)
    sent = encoder.delta(delta_of(b"a", b"b")) + encoder.delta(delta_of(b"\xf0\x9f", text=""))
    chunks = chat_chunks(sent)
    both = chunks[0].choices[0].logprobs
    assert both is not None
    assert both.content is not None
    assert [entry.token for entry in both.content] == ["a", "b"]
    assert [(top.token, top.logprob, top.bytes) for top in both.content[0].top_logprobs] == [
        ("a", -0.5, [97]),
        ("other", -1.5, list(b"other")),
    ]
    half = chunks[1].choices[0]
    assert half.delta.content == ""
    assert half.logprobs is not None
    assert half.logprobs.content is not None
    assert (half.logprobs.content[0].token, half.logprobs.content[0].bytes) == (
        "\\xf0\\x9f",
        [0xF0, 0x9F],
    )


def test_a_completions_text_offsets_go_on_from_chunk_to_chunk_in_each_choice() -> None:
    encoder = CompletionChunks(asked(2, logprobs=True), CREATED)
    encoder.started(STARTED)
    sent = encoder.delta(delta_of("é".encode(), b"bc"))
    sent += encoder.delta(delta_of(b"x", choice=1)) + encoder.delta(delta_of(b"d"))
    logprobs = [data["choices"][0]["logprobs"] for data in data_of(sent)]
    assert [entry["text_offset"] for entry in logprobs] == [[0, 1], [0], [3]]
    assert logprobs[0]["tokens"] == ["é", "bc"]
    assert logprobs[0]["token_logprobs"] == [-0.5, -0.5]
    assert logprobs[0]["top_logprobs"][1] == {"bc": -0.5, "other": -1.5}


def test_a_delta_without_log_probabilities_in_an_answer_that_has_them_says_null() -> None:
    encoder = ChatChunks(asked(logprobs=True), CREATED)
    encoder.started(STARTED)
    [data] = data_of(encoder.delta(delta("rest", tokens=0)))
    assert data["choices"][0]["logprobs"] is None
    assert encoder.delta(delta("", tokens=0)) == b""


@given(TEXT)
def test_any_text_is_one_line_and_comes_back_as_it_was(text: str) -> None:
    for encoder in (ChatChunks(asked(), CREATED), CompletionChunks(asked(), CREATED)):
        encoder.started(STARTED)
        sent = encoder.delta(delta(text))
        if not text:
            assert sent == b""
            continue
        # What Python calls lines is more than any SSE parser does.
        assert len(sent.decode().splitlines()) == 2
        [data] = data_of(sent)
        choice = data["choices"][0]
        assert (choice["delta"]["content"] if "delta" in choice else choice["text"]) == text


def test_a_models_name_with_line_ends_in_it_stays_in_one_line() -> None:
    encoder = ChatChunks(asked(), CREATED)
    named = STARTED.__class__("s", "a\u2028b\x85", 1, "")
    [data] = data_of(encoder.started(named))
    assert data["model"] == "a\u2028b\x85"
    assert len(encoder.started(named).decode().splitlines()) == 2
