"""Conversations to prompts, by vLLM's own renderer with the model's own chat template.

Everything is one call of vLLM's synchronous `render_chat`, run as a whole on its renderer threads:
reading the messages, the template (Jinja) and the tokenizer. `render_chat_async` would not do: for
all renderers but Hugging Face's it runs the template on the event loop, and reads the messages
there for all. A template is Python in a thread, so it takes turns with the event loop, a few
milliseconds each, and never stops it (held by tests/engine/test_chat.py).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import HfRenderer, resolve_chat_template
from vllm.renderers.params import ChatParams
from vllm.utils.async_utils import make_async

from service.domain import ChatMessage, ChatPrompt

# As vLLM's OpenAI server has it: the template sees content as it wants it, text or parts, and
# begins the answer. Special tokens are the template's own, the tokenizer adds none.
_PARAMS = ChatParams(chat_template_kwargs={"add_generation_prompt": True, "tokenize": False})


class ChatRenderer:
    """Renders conversations for one engine."""

    def __init__(self, renderer: BaseRenderer[Any]) -> None:
        self._render: Callable[..., Awaitable[Any]] = make_async(
            renderer.render_chat, executor=renderer._executor
        )
        _keep_conversations_out_of_the_log()

    async def render(self, prompt: ChatPrompt) -> Any:
        """vLLM's engine input. Raises its `VLLMClientError` if the template refuses."""
        messages = [_as_openai(message) for message in prompt.messages]
        _, (engine_input,) = await self._render([messages], _PARAMS)
        return engine_input


def has_chat_template(renderer: BaseRenderer[Any]) -> bool:
    """Whether the model can be talked to; renderers but Hugging Face's have their own form."""
    if renderer.tokenizer is None:
        return False
    if not isinstance(renderer, HfRenderer):
        return True
    template = resolve_chat_template(
        renderer.tokenizer, None, None, model_config=renderer.model_config
    )
    return template is not None


def _as_openai(message: ChatMessage) -> dict[str, str]:
    named = {"role": message.role, "content": message.content}
    return named | {"name": message.name} if message.name else named


def _keep_conversations_out_of_the_log() -> None:
    """vLLM logs what a template says as it refuses, and that can repeat the caller's text."""
    logging.getLogger(HfRenderer.__module__).addFilter(_is_no_refusal)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Chat template rejected")
