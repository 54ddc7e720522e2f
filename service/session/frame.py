"""What goes out in one message of a session, and the kinds of messages that come in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from service.domain import DeliveryOptions, Finished, GenerationRequest, Started
from service.errors import ServiceError
from service.stream.columns import DeltaColumns


class ActionKind(Enum):
    """What a message of the caller's wants."""

    NONE = auto()
    START = auto()
    CANCEL = auto()
    CREDIT = auto()
    RESUME = auto()
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a request; `timeout_s` until it must have ended."""

    id: int
    request: GenerationRequest
    tenant: str
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Resume:
    """Read a stream on from a token index."""

    id: int
    stream_id: str
    position: int
    delivery: DeliveryOptions
    tenant: str


@dataclass(frozen=True, slots=True)
class Credit:
    """Let tokens below these indexes be delivered, pairwise with the ids."""

    ids: Sequence[int]
    token_limits: Sequence[int]


@dataclass(slots=True)
class Frame:
    """One message; the deltas' tags are the requests' ids."""

    started: list[tuple[int, Started]] = field(default_factory=list)
    deltas: DeltaColumns = field(default_factory=DeltaColumns)
    finished: list[tuple[int, Finished]] = field(default_factory=list)
    failed: list[tuple[int, ServiceError]] = field(default_factory=list)
    rejected: list[tuple[int, ActionKind, ServiceError]] = field(default_factory=list)
