from prometheus_client import generate_latest

from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome


def test_every_outcome_is_there_with_zero_before_the_first_request() -> None:
    page = generate_latest(StreamMetrics().registry).decode()
    for outcome in Outcome:
        assert f'tokenstream_requests_total{{outcome="{outcome.value}"}} 0.0' in page


def test_what_was_counted_can_be_asked_for() -> None:
    metrics = StreamMetrics()
    metrics.ended.labels(Outcome.STOP.value).inc()
    assert metrics.count(Outcome.STOP) == 1
    assert metrics.count(Outcome.LENGTH) == 0


def test_two_services_in_one_process_count_for_themselves() -> None:
    one, other = StreamMetrics(), StreamMetrics()
    one.ended.labels(Outcome.STOP.value).inc()
    assert other.count(Outcome.STOP) == 0
