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


# A choice's tag has its request's id, and above that its index plus one.
_ID_BITS = 32
LARGEST_ID = (1 << _ID_BITS) - 1


def tag_of(request_id: int, choice_index: int) -> int:
    """The tag of a choice of a request that has several."""
    return request_id | choice_index + 1 << _ID_BITS


def id_of(tag: int) -> int:
    """The request that a tag is of."""
    return tag & LARGEST_ID


def choice_of(tag: int) -> int:
    """The index of the choice that a tag is of."""
    return max(0, (tag >> _ID_BITS) - 1)


class Frame:
    """One message. The deltas' tags are the requests' ids, but of those with `several` choices."""

    __slots__ = ("deltas", "failed", "finished", "rejected", "several", "started")

    def __init__(self) -> None:
        self.several = False  # whether a tag may be that of a choice
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
