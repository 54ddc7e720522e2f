"""What an answer can be asked for: text, token ids or a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    """Who speaks, as the model's template names it: usually "system", "user", "assistant"."""
    content: str
    """What was said; may be empty."""
    name: str = ""
    """A name for the speaker, at most 64 characters, where the template uses one."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation so far, which the model's own chat template puts into text."""

    messages: tuple[ChatMessage, ...]
    """In order, 1 to 1024."""


Prompt = str | Sequence[int] | Chat
"""Text, token ids that are used as they are, or a conversation."""
