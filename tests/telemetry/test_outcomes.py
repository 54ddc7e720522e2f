import pytest
from prometheus_client import generate_latest

from service.domain import EngineFinish, FinishReason
from service.errors import (
    DeadlineExceeded,
    EngineDead,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestFailed,
    ServiceError,
    ServiceStopping,
    StreamStalled,
    Unauthenticated,
    Unavailable,
)
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome, outcome_of, outcome_of_finish


def test_every_outcome_is_there_with_zero_before_the_first_request() -> None:
    page = generate_latest(StreamMetrics().registry).decode()
    for outcome in Outcome:
        labels = f'outcome="{outcome.value}",tenant=""'
        assert f"tokenstream_requests_total{{{labels}}} 0.0" in page


def test_what_was_counted_can_be_asked_for() -> None:
    metrics = StreamMetrics()
    metrics.ended(Outcome.STOP)
    assert metrics.count(Outcome.STOP) == 1
    assert metrics.count(Outcome.LENGTH) == 0


def test_two_services_in_one_process_count_for_themselves() -> None:
    one, other = StreamMetrics(), StreamMetrics()
    one.ended(Outcome.STOP)
    assert other.count(Outcome.STOP) == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest(()), Outcome.REFUSED),
        (ModelNotFound("a", "b"), Outcome.REFUSED),
        (Overloaded(1, 1), Outcome.OVERLOADED),
        (DeadlineExceeded(), Outcome.DEADLINE),
        (StreamStalled(1), Outcome.STALLED),
        (Unauthenticated("who"), Outcome.UNAUTHENTICATED),
        (ServiceStopping(), Outcome.STOPPING),
        (EngineDead(), Outcome.UNAVAILABLE),
        (Unavailable(), Outcome.UNAVAILABLE),
        (RequestFailed(), Outcome.FAILED),
    ],
)
def test_every_error_is_counted_as_an_outcome(error: ServiceError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_every_finish_is_counted_as_an_outcome() -> None:
    finishes = [EngineFinish(reason) for reason in FinishReason]
    assert len({outcome_of_finish(finish) for finish in finishes}) == len(finishes)
    assert outcome_of_finish(EngineFinish(FinishReason.STOP, "x")) is Outcome.STOP_STRING
    assert outcome_of_finish(EngineFinish(FinishReason.STOP, 7)) is Outcome.STOP
