"""What goes out in one message of a session, and the kinds of messages that come in."""

from collections.abc import Sequence
from dataclasses import dataclass
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


class Frame:
    """One message; the deltas' tags are the requests' ids."""

    __slots__ = ("deltas", "failed", "finished", "rejected", "started")

    def __init__(self) -> None:
        self.deltas = DeltaColumns()
        self.started: list[tuple[int, Started]] = []
        self.finished: list[tuple[int, Finished]] = []
        self.failed: list[tuple[int, ServiceError]] = []
        self.rejected: list[tuple[int, ActionKind, ServiceError]] = []

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (
            self.deltas.tags or self.started or self.finished or self.failed or self.rejected
        )
