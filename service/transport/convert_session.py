"""Between a session's messages and its actions and frames; no decisions."""

from google.protobuf.message import Message

from service.errors import ServiceError
from service.session.frame import ActionKind, Credit, Frame, choice_of, id_of
from service.transport.convert import from_finished, from_logprobs, from_started
from service.transport.status import to_status
from tokenstream.v1 import generation_pb2

_ACTIONS = {
    ActionKind.NONE: generation_pb2.SESSION_ACTION_UNSPECIFIED,
    ActionKind.START: generation_pb2.SESSION_ACTION_START,
    ActionKind.CANCEL: generation_pb2.SESSION_ACTION_CANCEL,
    ActionKind.CREDIT: generation_pb2.SESSION_ACTION_CREDIT,
    ActionKind.RESUME: generation_pb2.SESSION_ACTION_RESUME,
    ActionKind.CLOSE: generation_pb2.SESSION_ACTION_CLOSE,
}


def to_credit(message: generation_pb2.SessionCredit) -> Credit:
    """The credit that a message grants."""
    return Credit(message.ids, message.token_limits)


def timeout_of(message: generation_pb2.SessionStart) -> float | None:
    """Seconds until the request must have ended."""
    if not message.HasField("timeout"):
        return None
    return message.timeout.seconds + message.timeout.nanos / 1e9


def from_frame(frame: Frame) -> generation_pb2.SessionResponse:
    """The message for a frame."""
    message = generation_pb2.SessionResponse()
    for request_id, started in frame.started:
        message.started.add(id=request_id, started=from_started(started))
    columns = frame.deltas
    if columns.tags:
        deltas = message.deltas
        if frame.several:
            deltas.ids.extend(map(id_of, columns.tags))
            choice_indexes = [choice_of(tag) for tag in columns.tags]
            if any(choice_indexes):
                deltas.choice_indexes.extend(choice_indexes)
        else:
            deltas.ids.extend(columns.tags)
        deltas.first_token_indexes.extend(columns.first_token_indexes)
        deltas.token_counts.extend(columns.token_counts)
        deltas.token_ids.extend(columns.token_ids)
        deltas.texts.extend(columns.texts)
        if columns.logprobs:
            deltas.logprobs.extend(map(from_logprobs, columns.logprobs))
            counts = columns.logprob_counts
            deltas.logprob_counts.extend(counts + [0] * (len(columns.tags) - len(counts)))
    for request_id, finished in frame.finished:
        message.finished.add(id=request_id, finished=from_finished(finished))
    for request_id, failure in frame.failed:
        message.failed.add(id=request_id, failure=_failure(failure))
    for request_id, action, why in frame.rejected:
        message.rejected.add(id=request_id, action=_ACTIONS[action], failure=_failure(why))
    return message


def _failure(error: ServiceError) -> generation_pb2.Failure:
    """The status of an error, in the contract's own message of the same layout."""
    status: Message = to_status(error)
    return generation_pb2.Failure.FromString(status.SerializeToString())
