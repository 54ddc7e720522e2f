import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service.domain import (
    EngineFinish,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprobs,
    Usage,
)
from service.errors import (
    FieldViolation,
    IdUnknown,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StreamStalled,
)
from service.session.frame import ActionKind, Frame, tag_of
from service.transport.convert_session import from_frame, timeout_of, to_credit
from service.transport.status import to_status
from tokenstream.v1 import generation_pb2 as pb

FINISHED = Finished(EngineFinish(FinishReason.STOP, "END"), Usage(3, 2, 1), Timings(0.5, 1.25))


def sent(frame: Frame) -> pb.SessionResponse:
    return pb.SessionResponse.FromString(from_frame(frame).SerializeToString())


def test_a_frame_has_the_log_probabilities_of_those_who_asked() -> None:
    frame = Frame()
    one, two = TokenLogprobs(-1.0, b"a", ()), TokenLogprobs(-2.0, b"b", ())
    frame.deltas.add_token(1, 0, 7, "x")
    frame.deltas.add(2, 0, (8, 9), "ab", (one, two))
    frame.deltas.add_token(3, 0, 7, "x")
    deltas = sent(frame).deltas
    assert list(deltas.logprob_counts) == [0, 2, 0]
    assert list(deltas.logprobs) == [
        pb.TokenLogprobs(logprob=-1.0, token=b"a"),
        pb.TokenLogprobs(logprob=-2.0, token=b"b"),
    ]


def test_choices_are_told_where_one_is_not_the_first() -> None:
    frame = Frame()
    frame.several = True
    for tag in (7, tag_of(2**32 - 1, 0), tag_of(9, 15)):
        frame.deltas.add_token(tag, 0, 1, "x")
    deltas = sent(frame).deltas
    assert list(deltas.ids) == [7, 2**32 - 1, 9]
    assert list(deltas.choice_indexes) == [0, 0, 15]


def test_choices_are_not_told_where_all_are_the_first() -> None:
    frame = Frame()
    frame.several = True
    for tag in (7, tag_of(8, 0)):
        frame.deltas.add_token(tag, 0, 1, "x")
    deltas = sent(frame).deltas
    assert list(deltas.ids) == [7, 8]
    assert not deltas.choice_indexes


def test_an_empty_frame_has_no_field() -> None:
    assert from_frame(Frame()) == pb.SessionResponse()


def test_a_frame_has_each_of_its_parts() -> None:
    frame = Frame()
    frame.started.append((1, Started("id", "m", 3, "mine")))
    frame.deltas.add(1, 5, (7, 8), "ab")
    frame.deltas.add(2, 0, (), "tail")
    frame.deltas.add(9, 1, (2**32 - 1,), "")
    frame.finished.append((2, FINISHED))
    frame.failed.append((3, StreamStalled(30)))
    frame.rejected.append((4, ActionKind.CREDIT, IdUnknown(4)))
    message = sent(frame)

    assert message.started == [
        pb.SessionStarted(
            id=1,
            started=pb.Started(
                stream_id="id", model="m", prompt_tokens=3, client_request_id="mine"
            ),
        )
    ]
    assert message.deltas == pb.SessionDeltas(
        ids=[1, 2, 9],
        first_token_indexes=[5, 0, 1],
        token_counts=[2, 0, 1],
        token_ids=[7, 8, 2**32 - 1],
        texts=["ab", "tail", ""],
    )
    (finished,) = message.finished
    assert (finished.id, finished.finished.stop_string) == (2, "END")
    assert finished.finished.usage.completion_tokens == 2
    (failed,) = message.failed
    assert (failed.id, failed.failure.code) == (3, code_pb2.ABORTED)
    (rejected,) = message.rejected
    assert (rejected.id, rejected.action) == (4, pb.SESSION_ACTION_CREDIT)
    assert rejected.failure.code == code_pb2.NOT_FOUND


def test_a_frame_without_deltas_has_no_empty_columns() -> None:
    frame = Frame()
    frame.finished.append((2, FINISHED))
    assert not from_frame(frame).HasField("deltas")


def test_every_field_of_a_sessions_messages_is_known_here() -> None:
    def names(message: type) -> list[str]:
        return [field.name for field in message.DESCRIPTOR.fields]  # type: ignore[attr-defined]

    assert names(pb.SessionResponse) == ["started", "deltas", "finished", "failed", "rejected"]
    assert names(pb.SessionDeltas) == [
        "ids",
        "first_token_indexes",
        "token_counts",
        "token_ids",
        "texts",
        "choice_indexes",
        "logprobs",
        "logprob_counts",
    ]
    assert names(pb.SessionRequest) == ["start", "cancel", "credit", "resume", "close", "batch"]
    assert names(pb.SessionStart) == [
        "id",
        "request",
        "timeout",
        "api_key",
        "traceparent",
        "tracestate",
    ]
    assert names(pb.SessionResume) == ["id", "request", "api_key"]
    assert names(pb.ResumeRequest) == ["stream_id", "next_token_index", "stream"]


@pytest.mark.parametrize(
    "error",
    [
        StreamStalled(30),
        Overloaded(4, 2.5),
        InvalidRequest((FieldViolation("sampling.stop[1]", "is empty"),)),
        ServiceError("anything"),
    ],
)
def test_a_failure_is_read_as_the_status_that_its_own_call_would_have_had(
    error: ServiceError,
) -> None:
    frame = Frame()
    frame.failed.append((1, error))
    failure = sent(frame).failed[0].failure
    status = status_pb2.Status.FromString(failure.SerializeToString())
    assert status == to_status(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "tokenstream")


def test_a_failures_fields_have_the_numbers_of_a_status() -> None:
    ours, theirs = (
        {field.number: (field.name, field.type) for field in message.DESCRIPTOR.fields}
        for message in (pb.Failure, status_pb2.Status)
    )
    assert ours == theirs


def test_every_kind_of_action_has_its_own_value_on_the_wire() -> None:
    frame = Frame()
    for kind in ActionKind:
        frame.rejected.append((1, kind, IdUnknown(1)))
    assert {rejected.action for rejected in sent(frame).rejected} == set(pb.SessionAction.values())


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, None),
        (Duration(), 0.0),
        (Duration(seconds=2, nanos=500_000_000), 2.5),
        (Duration(seconds=-1), -1.0),
        (Duration(nanos=1000), 1e-6),
    ],
)
def test_a_starts_timeout_is_in_seconds_and_zero_is_one(
    timeout: Duration | None, seconds: float | None
) -> None:
    assert timeout_of(pb.SessionStart(timeout=timeout)) == seconds


def test_credit_is_carried_over_in_pairs() -> None:
    credit = to_credit(pb.SessionCredit(ids=[3, 1], token_limits=[0, 256]))
    assert list(zip(credit.ids, credit.token_limits, strict=True)) == [(3, 0), (1, 256)]
