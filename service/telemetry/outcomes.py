"""How requests end: every request that reaches the service is counted here exactly once."""

from enum import Enum

from service.domain import EngineFinish, FinishReason
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServiceError,
    ServiceStopping,
    StreamStalled,
    Unauthenticated,
    Unavailable,
)


class Outcome(Enum):
    """The one end of a request; the value is the metric's label.

    A call that the caller closed and one whose connection broke look the same to a gRPC server,
    so they share `DISCONNECTED`.
    """

    STOP = "stop"  # end-of-text token or stop token
    STOP_STRING = "stop_string"
    LENGTH = "length"
    REPETITION = "repetition"
    CANCELLED = "cancelled"  # the Cancel call
    DISCONNECTED = "disconnected"
    STALLED = "stalled"  # the reader took nothing for the stall limit
    EXPIRED = "expired"  # detached, and no reader came back in time
    DEADLINE = "deadline"
    STOPPING = "stopping"  # the service's, with the grace over or refusing
    REFUSED = "refused"  # bad request, unknown model
    UNAUTHENTICATED = "unauthenticated"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"  # the engine loading, or dead
    FAILED = "failed"


_FINISH_OUTCOMES = {
    FinishReason.STOP: Outcome.STOP,
    FinishReason.LENGTH: Outcome.LENGTH,
    FinishReason.CANCELLED: Outcome.CANCELLED,
    FinishReason.REPETITION: Outcome.REPETITION,
}


def outcome_of_finish(finish: EngineFinish) -> Outcome:
    """Which end of a request a complete generation is."""
    if finish.reason is FinishReason.STOP and isinstance(finish.matched, str):
        return Outcome.STOP_STRING
    return _FINISH_OUTCOMES[finish.reason]


def outcome_of(error: ServiceError) -> Outcome:
    """Which end of a request an error is."""
    match error:
        case InvalidRequest() | ModelNotFound():
            return Outcome.REFUSED
        case Overloaded():
            return Outcome.OVERLOADED
        case DeadlineExceeded():
            return Outcome.DEADLINE
        case StreamStalled():
            return Outcome.STALLED
        case Unauthenticated():
            return Outcome.UNAUTHENTICATED
        case ServiceStopping():
            return Outcome.STOPPING
        case Unavailable():
            return Outcome.UNAVAILABLE
        case _:
            return Outcome.FAILED
