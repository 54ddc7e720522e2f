from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.domain import SchedulerReport
from service.telemetry.labels import BoundedLabels
from service.telemetry.scheduler_metrics import SchedulerMetrics


def samples(report: SchedulerReport) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(SchedulerMetrics(lambda: report, BoundedLabels(10)))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_newest_report_is_what_is_collected() -> None:
    report = SchedulerReport(
        parked=1,
        parked_away=2,
        parkings=3,
        evicted_parked=4,
        preemptions=5,
        given_up=6,
        recomputed_tokens=7,
        failures=8,
        decision_p99_s=0.5,
        shares={"a": 9.0, "b": 10.0},
    )
    assert samples(report) == {
        ("tokenstream_scheduler_parked", "held"): 1,
        ("tokenstream_scheduler_parked", "none"): 2,
        ("tokenstream_scheduler_parkings_total", ""): 3,
        ("tokenstream_scheduler_evicted_parked_total", ""): 4,
        ("tokenstream_scheduler_preemptions_total", ""): 5,
        ("tokenstream_scheduler_given_up_total", ""): 6,
        ("tokenstream_scheduler_recomputed_tokens_total", ""): 7,
        ("tokenstream_scheduler_failures_total", ""): 8,
        ("tokenstream_scheduler_decision_seconds_p99", ""): 0.5,
        ("tokenstream_scheduler_tenant_service", "a"): 9,
        ("tokenstream_scheduler_tenant_service", "b"): 10,
    }


def test_before_the_first_report_there_are_zeros() -> None:
    assert set(samples(SchedulerReport()).values()) == {0.0}
