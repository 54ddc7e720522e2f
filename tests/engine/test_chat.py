"""Conversations, held against the model's own template and vLLM's own way."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from service.domain import ChatMessage, ChatPrompt, GenerationRequest
from service.errors import InvalidRequest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

TALK = ChatPrompt(
    (
        ChatMessage("system", "Be short."),
        ChatMessage("user", "  Grüße, 你好 <|end|> "),
        ChatMessage("assistant", ""),
        ChatMessage("user", "What is gRPC?", name="Ann"),
    )
)
# As the demo model's chat_template.jinja has it.
TALK_AS_TEXT = (
    "<|system|>\nBe short.<|end|>\n<|user|>\nGrüße, 你好 <|end|><|end|>\n"
    "<|assistant|>\n<|end|>\n<|user|>\nWhat is gRPC?<|end|>\n<|assistant|>\n"
)


def rendered(renderer: Any, prompt: ChatPrompt) -> Any:
    return asyncio.run(renderer.render("id", GenerationRequest(prompt))).handle


def test_a_chat_becomes_the_templates_text_with_no_special_token_twice(
    parts: tuple[Any, Any],
) -> None:
    renderer, processor = parts
    token_ids = rendered(renderer, TALK).prompt_token_ids
    assert token_ids == processor.tokenizer.encode(TALK_AS_TEXT, add_special_tokens=False)


def test_it_is_what_vllms_own_asynchronous_way_makes_of_it(parts: tuple[Any, Any]) -> None:
    from vllm.renderers.params import ChatParams

    renderer, processor = parts
    messages: Any = [{"role": m.role, "content": m.content} for m in TALK.messages]
    _, (vllms,) = asyncio.run(
        processor.renderer.render_chat_async(
            [messages],
            ChatParams(chat_template_kwargs={"add_generation_prompt": True, "tokenize": False}),
        )
    )
    assert rendered(renderer, TALK).prompt_token_ids == vllms["prompt_token_ids"]


def test_an_answer_ends_at_the_turns_end(parts: tuple[Any, Any]) -> None:
    renderer, processor = parts
    (turn_end,) = processor.tokenizer.encode("<|end|>", add_special_tokens=False)
    assert turn_end in rendered(renderer, TALK).sampling_params.all_stop_token_ids


def test_neither_the_template_nor_the_tokenizer_runs_on_the_event_loop(
    parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm.renderers.hf

    renderer, processor = parts
    threads: dict[str, threading.Thread] = {}
    inner = processor.renderer

    def noted(name: str, work: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            threads[name] = threading.current_thread()
            return work(*args, **kwargs)

        return run

    for where, name in (
        (vllm.renderers.hf, "parse_chat_messages"),
        (vllm.renderers.hf, "safe_apply_chat_template"),
        (inner, "_tokenize_prompt"),
    ):
        monkeypatch.setattr(where, name, noted(name, getattr(where, name)))
    rendered(renderer, TALK)
    assert len(threads) == 3
    assert threading.main_thread() not in threads.values()


def test_what_a_template_refuses_is_told_without_being_logged(
    parts: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    renderer, _ = parts
    with caplog.at_level(logging.DEBUG, "vllm"), pytest.raises(InvalidRequest) as refused:
        rendered(renderer, ChatPrompt((ChatMessage("critic", "secret"),)))
    (violation,) = refused.value.violations
    assert violation.field == "chat"
    assert violation.description == "The roles are system, user and assistant."
    assert "The roles" not in caplog.text
    assert "secret" not in caplog.text


def test_the_demo_model_can_be_talked_to(parts: tuple[Any, Any]) -> None:
    from service.engine.vllm_chat import has_chat_template

    _, processor = parts
    inner = processor.renderer
    assert has_chat_template(inner)


def test_a_model_without_a_template_can_not(
    parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engine.vllm_chat import has_chat_template

    _, processor = parts
    monkeypatch.setattr(processor.renderer.tokenizer, "chat_template", None)
    assert not has_chat_template(processor.renderer)
    monkeypatch.setattr(processor.renderer, "tokenizer", None)
    assert not has_chat_template(processor.renderer)
