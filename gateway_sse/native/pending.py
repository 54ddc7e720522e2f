"""Until the client library has them."""

from typing import NamedTuple


class ChatMessage(NamedTuple):
    """One message."""

    role: str
    content: str
    name: str = ""


class Chat(NamedTuple):
    """Messages."""

    messages: tuple[ChatMessage, ...]
