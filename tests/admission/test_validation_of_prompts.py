"""Prompts and chats, and whether they fit the model."""

import dataclasses

import pytest

from service.admission import validation
from service.domain import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    SamplingOptions,
    TextPrompt,
    TokensPrompt,
)
from service.errors import InvalidRequest
from tests.admission.requests import (
    MODEL,
    NO_TOKENIZER,
    bad_fields,
    request,
)

USER = ChatMessage("user", "Hi")
BAD_CHATS = [
    ((), "chat.messages"),
    ((USER,) * 1025, "chat.messages"),
    ((USER, ChatMessage("", "Hi")), "chat.messages[1].role"),
    ((ChatMessage("r" * 65, "Hi"),), "chat.messages[0].role"),
    ((ChatMessage("r\0", "Hi"),), "chat.messages[0].role"),
    ((ChatMessage("user", "a\0b"),), "chat.messages[0].content"),
    ((ChatMessage("user", "Hi", "n" * 65),), "chat.messages[0].name"),
    ((ChatMessage("user", "Hi", "\0"),), "chat.messages[0].name"),
    ((USER, ChatMessage("", ""), ChatMessage("", "\0")), "chat.messages[1].role"),
]


@pytest.mark.parametrize(
    "messages",
    [(USER,), (USER,) * 1024, (ChatMessage("r" * 64, "", "n" * 64),)],
)
def test_a_chat_within_its_bounds_is_taken(messages: tuple[ChatMessage, ...]) -> None:
    assert bad_fields(request(ChatPrompt(messages))) == []


@pytest.mark.parametrize(("messages", "path"), BAD_CHATS)
def test_a_bad_chat_is_refused_by_its_first_bad_message(
    messages: tuple[ChatMessage, ...], path: str
) -> None:
    assert bad_fields(request(ChatPrompt(messages))) == [path]


def test_a_chat_needs_a_template_and_a_tokenizer() -> None:
    chat = request(ChatPrompt((USER,)))
    assert bad_fields(chat, dataclasses.replace(MODEL, has_chat_template=False)) == ["chat"]
    assert bad_fields(chat, NO_TOKENIZER) == ["chat"]


def test_a_chat_that_is_too_long_once_it_is_tokens_is_refused_as_a_chat() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.check_fits(100, request(ChatPrompt((USER,))), MODEL)
    assert [v.field for v in refused.value.violations] == ["chat"]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (None, ["prompt"]),
        (TextPrompt(""), ["text"]),
        (TextPrompt("a\0b"), ["text"]),
        (TextPrompt(" "), []),
        (TokensPrompt(()), ["token_ids.ids"]),
        (TokensPrompt((0,) * 99), []),
        (TokensPrompt((0,) * 100), ["token_ids.ids"]),
        (TokensPrompt((49,)), []),
        (TokensPrompt((50,)), ["token_ids.ids"]),
        (TokensPrompt((0, -1)), ["token_ids.ids"]),
    ],
)
def test_prompts(prompt: Prompt | None, fields: list[str]) -> None:
    assert bad_fields(GenerationRequest(prompt)) == fields


@pytest.mark.parametrize(
    ("prompt_tokens", "sampling", "fields"),
    [
        (60, SamplingOptions(max_tokens=40), []),
        (60, SamplingOptions(max_tokens=41), ["sampling.max_tokens"]),
        (60, SamplingOptions(min_tokens=40), []),
        (60, SamplingOptions(min_tokens=41), ["sampling.min_tokens"]),
        (60, SamplingOptions(min_tokens=40, max_tokens=40), []),
        (99, SamplingOptions(), []),
    ],
)
def test_prompt_and_output_must_fit_the_context_together(
    prompt_tokens: int, sampling: SamplingOptions, fields: list[str]
) -> None:
    found: list[str] = []
    asked = GenerationRequest(TextPrompt("x"), sampling=sampling)
    try:
        validation.check_fits(prompt_tokens, asked, MODEL)
    except InvalidRequest as refused:
        found = [v.field for v in refused.violations]
    assert found == fields


@pytest.mark.parametrize("prompt_tokens", [100, 101])
def test_a_prompt_that_leaves_no_room_does_not_fit_whatever_is_asked_for(
    prompt_tokens: int,
) -> None:
    with pytest.raises(InvalidRequest, match=r"^text: "):
        validation.check_fits(prompt_tokens, GenerationRequest(TextPrompt("x")), MODEL)
    with pytest.raises(InvalidRequest, match=r"^token_ids\.ids: "):
        validation.check_fits(prompt_tokens, GenerationRequest(TokensPrompt((1,))), MODEL)


def test_without_a_tokenizer_only_token_ids_go_in_and_no_stop_strings() -> None:
    assert bad_fields(request(TextPrompt("x"), stop=("s",)), NO_TOKENIZER) == [
        "text",
        "sampling.stop",
    ]
    assert bad_fields(request(TokensPrompt((1,))), NO_TOKENIZER) == []
    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        validation.check_text("x", NO_TOKENIZER)
    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        validation.check_token_ids([1], NO_TOKENIZER)


def test_texts_and_token_ids_to_translate_are_checked_too() -> None:
    validation.check_text("", MODEL)
    validation.check_token_ids([], MODEL)
    with pytest.raises(InvalidRequest, match=r"text: .*U\+0000"):
        validation.check_text("\0", MODEL)
    with pytest.raises(InvalidRequest, match="token_ids: 50 is not"):
        validation.check_token_ids([1, 50], MODEL)
