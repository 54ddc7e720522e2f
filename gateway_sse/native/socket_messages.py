"""What a client may say on a WebSocket. No I/O; `websocket` has the whole of it."""

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from gateway_sse.known_fields import KnownFields
from gateway_sse.native.request import checked
from gateway_sse.problems import Refused

_LONGEST_ID: Final = 64


class _Said(KnownFields):
    model_config = ConfigDict(strict=True)


class _OfRequest(_Said):
    id: str = Field(min_length=1, max_length=_LONGEST_ID, description="the client's own")


class Authorize(_Said):
    """Use this API key for what follows."""

    type: Literal["authorize"]
    api_key: str


class Start(_OfRequest):
    """Begin an answer; `request` is a `StreamRequest`."""

    type: Literal["start"]
    request: dict[str, Any]


class Resume(_OfRequest):
    """Go on with an answer; `delivery` is a `Delivery`."""

    type: Literal["resume"]
    last_event_id: str
    delivery: dict[str, Any] = Field(default_factory=dict)


class Ack(_OfRequest):
    """Tell how far an answer was read."""

    type: Literal["ack"]
    next_token_index: int = Field(ge=0)


class Stop(_OfRequest):
    """End an answer; it gets its ``finished``."""

    type: Literal["stop"]


Message = Authorize | Start | Resume | Ack | Stop

MESSAGES: Final[dict[str, type[Message]]] = {
    "authorize": Authorize,
    "start": Start,
    "resume": Resume,
    "ack": Ack,
    "stop": Stop,
}


def message_of(values: dict[str, Any]) -> Message:
    """Return what was said. Raises Refused, naming the fields at fault."""
    kind = values.get("type")
    model = MESSAGES.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise Refused("UNKNOWN_MESSAGE", f"must be one of {', '.join(MESSAGES)}", field="type")
    return checked(model, values)


def identity_of(values: dict[str, Any]) -> str | None:
    """Return the id that a message has, if it can be said back."""
    identity = values.get("id")
    if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_ID:
        return None
    try:
        identity.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return identity
