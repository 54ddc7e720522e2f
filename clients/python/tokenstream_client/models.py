"""A model and what it can do, and how it is made from the wire's message."""

from dataclasses import dataclass
from enum import StrEnum

from tokenstream.v1 import model_pb2 as pb


class Capability(StrEnum):
    """Something that a request to a model may use."""

    TEXT_PROMPT = "text_prompt"
    TOKEN_IDS_PROMPT = "token_ids_prompt"  # noqa: S105  # no password
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the service serves."""

    id: str
    context_length: int
    """Most tokens of prompt and answer together."""
    vocab_size: int
    """Each token id is below it."""
    capabilities: frozenset[Capability]
    """Those that this version of the library knows."""


_CAPABILITIES: dict[int, Capability] = {
    pb.CAPABILITY_TEXT_PROMPT: Capability.TEXT_PROMPT,
    pb.CAPABILITY_TOKEN_IDS_PROMPT: Capability.TOKEN_IDS_PROMPT,
    pb.CAPABILITY_CHAT: Capability.CHAT,
}


def model_from_message(message: pb.Model) -> Model:
    """Turn a model's message into a `Model`."""
    return Model(
        id=message.id,
        context_length=message.context_length,
        vocab_size=message.vocab_size,
        capabilities=frozenset(
            _CAPABILITIES[c] for c in message.capabilities if c in _CAPABILITIES
        ),
    )
