"""Everything that can go wrong with a request, and who must act.

::

    ServiceError
    ├── InvalidRequest        the caller: mend the named fields
    ├── ModelNotFound         the caller: ask ListModels
    ├── Unauthenticated       the caller: bring a key that this service knows
    ├── StreamNotFound        the caller: no stream of its own has that id
    ├── PositionOutOfRange    the caller: it asked for tokens that there are not
    ├── BrokenOff             the caller: its reading was ended, `reason` says why
    │   ├── StreamStalled         it took nothing for too long
    │   └── StreamTakenOver       another reader of the same stream has come
    ├── SessionMisuse         the caller: a session's message that cannot be followed
    │   ├── IdNotNew              its id is in use, or was
    │   ├── IdUnknown             no request of that id is running in this session
    │   └── ActionMissing         it says nothing that this service knows
    ├── Overloaded            the caller: come back after `retry_after_s`
    │   └── TooManySessions       the same, for session calls
    ├── Unavailable           the caller: try another replica, or come back
    │   ├── EngineLoading         the model is still loading
    │   ├── ServiceStopping       the service drains or has drained
    │   └── EngineDead            the engine process is gone; the service ends
    ├── DeadlineExceeded      the caller's own deadline passed
    └── RequestFailed         the operator: the engine failed this one request

`transport.status` turns each into a gRPC status; nothing else does. `reason` is the stable,
machine-readable name that goes into `google.rpc.ErrorInfo`. None of the messages carries
internals, a prompt or an answer.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request's message, and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """A request cannot be served, or not to its end. Expected; never a bug by itself."""

    reason: ClassVar[str] = "INTERNAL"


class InvalidRequest(ServiceError):
    """The request has bad fields. Raised before anything reaches the engine."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: tuple[FieldViolation, ...]) -> None:
        """Name at least one violation."""
        super().__init__(
            "; ".join(
                f"{v.field}: {v.description}" if v.field else v.description for v in violations
            )
        )
        self.violations = violations


class ModelNotFound(ServiceError):
    """The request names a model that this service does not serve."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, served: str) -> None:
        """Tell which model was asked for and which one there is."""
        super().__init__(f"model {model[:128]!r} is not served here; {served!r} is")


class Unauthenticated(ServiceError):
    """The caller did not say who it is, or not so that it can be believed."""

    reason = "UNAUTHENTICATED"


class StreamNotFound(ServiceError):
    """No stream of the caller's has that id: it ended, or never was, or is another tenant's."""

    reason = "STREAM_NOT_FOUND"

    def __init__(self) -> None:
        """The id itself is not repeated: it could be another caller's."""
        super().__init__("no stream of this id can be found")


class PositionOutOfRange(ServiceError):
    """A reader wants to begin behind the last token that was decoded."""

    reason = "POSITION_OUT_OF_RANGE"

    def __init__(self, next_token_index: int, count: int) -> None:
        """Tell how many tokens there are."""
        super().__init__(f"next_token_index is {next_token_index}; the stream has {count} tokens")


class BrokenOff(ServiceError):
    """A reader was ended from this side. The stream may live on without it."""


class StreamStalled(BrokenOff):
    """The reader took nothing for the stall limit, though something waited for it."""

    reason = "STREAM_STALLED"

    def __init__(self, limit_s: float) -> None:
        """Tell the limit."""
        super().__init__(f"the reader took nothing for {limit_s:g} s")


class StreamTakenOver(BrokenOff):
    """Another reader of the same stream has come; the newer one wins."""

    reason = "STREAM_TAKEN_OVER"

    def __init__(self) -> None:
        """Whoever took over had the stream's id and its tenant's key."""
        super().__init__("the stream is being read on by another reader")


class SessionMisuse(ServiceError):
    """A message in a session cannot be followed; the session goes on."""


class IdNotNew(SessionMisuse):
    """A start or resume has an id that is not larger than all before."""

    reason = "ID_NOT_NEW"

    def __init__(self, request_id: int, last: int) -> None:
        """Tell which ids are free."""
        super().__init__(f"id {request_id} is not new; ids must be larger than {last}")


class IdUnknown(SessionMisuse):
    """The id is none of a running request in this session."""

    reason = "ID_UNKNOWN"

    def __init__(self, request_id: int) -> None:
        """Tell the id, which is the caller's own."""
        super().__init__(f"no request {request_id} is running in this session")


class ActionMissing(SessionMisuse):
    """The message has no action that this service knows."""

    reason = "ACTION_MISSING"

    def __init__(self) -> None:
        """Name the choices."""
        super().__init__("action is missing: set start, cancel, credit, resume or close")


class Overloaded(ServiceError):
    """Too few places are free. `retry_after_s` seconds: when enough should be, from the load."""

    reason = "TOO_MANY_STREAMS"

    def __init__(self, limit: int, retry_after_s: float, places: int = 1) -> None:
        """Tell the limit that was met, by a request for so many places."""
        several = f"fewer than {places} of the {limit} streams of this service are free"
        super().__init__(
            several if places > 1 else f"all {limit} streams of this service are taken"
        )
        self.retry_after_s = retry_after_s


class TooManySessions(Overloaded):
    """All session calls are taken; sessions last, so it is not known for how long."""

    reason = "TOO_MANY_SESSIONS"

    def __init__(self, limit: int) -> None:
        """Tell the limit that was met."""
        ServiceError.__init__(self, f"all {limit} sessions of this service are taken")
        self.retry_after_s = 5.0


class Unavailable(ServiceError):
    """The service cannot take or finish requests now. `retry_after_s` in seconds."""

    reason = "UNAVAILABLE"
    message: ClassVar[str] = "the service is not available"
    retry_after_s: ClassVar[float] = 1.0

    def __init__(self) -> None:
        """The message is the class's own."""
        super().__init__(self.message)


class EngineLoading(Unavailable):
    """The model is still loading; health says NOT_SERVING."""

    reason = "ENGINE_LOADING"
    message = "the model is still loading"
    retry_after_s = 5.0


class ServiceStopping(Unavailable):
    """The service is being stopped: nothing new is taken, and the grace may have passed."""

    reason = "SERVICE_STOPPING"
    message = "the service is stopping"


class EngineDead(Unavailable):
    """The engine process ended by itself. The operator must look; callers go elsewhere."""

    reason = "ENGINE_DEAD"
    message = "the engine is not running"
    retry_after_s = 5.0


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed, in the queue or during decoding."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        """The deadline is the caller's; there is nothing to add."""
        super().__init__("the caller's deadline passed")


class RequestFailed(ServiceError):
    """The engine failed this request alone. The log has the cause."""

    reason = "ENGINE_FAILED"

    def __init__(self) -> None:
        """No internals in the text."""
        super().__init__("the engine could not complete this request")


class EngineStartFailed(Exception):
    """The engine cannot start: bad model, bad argument, no memory. The process ends so."""
