"""The engine scheduler's own figures, as metrics: read from its newest report when asked for."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.domain import SchedulerReport
from service.telemetry.labels import BoundedLabels

_PREFIX = "tokenstream_scheduler_"


class SchedulerMetrics(Collector):
    """Collects from `report`, which is called once for each collection."""

    def __init__(self, report: Callable[[], SchedulerReport], tenants: BoundedLabels) -> None:
        self._report = report
        self._tenants = tenants

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        report = self._report()
        parked = GaugeMetricFamily(
            _PREFIX + "parked",
            "Requests that wait for their readers, by whether they hold KV blocks.",
            labels=["blocks"],
        )
        parked.add_metric(["held"], report.parked)
        parked.add_metric(["none"], report.parked_away)
        yield parked
        for name, help_text, value in (
            ("parkings", "Times that a request was parked.", report.parkings),
            ("evicted_parked", "Parked requests that lost their blocks.", report.evicted_parked),
            ("preemptions", "Requests that lost their blocks for any reason.", report.preemptions),
            ("recomputed_tokens", "Tokens computed again.", report.recomputed_tokens),
            ("given_up", "Waiting requests ended for their deadline.", report.given_up),
            ("failures", "Steps in which our decisions failed.", report.failures),
        ):
            yield CounterMetricFamily(_PREFIX + name, help_text, value=value)
        yield GaugeMetricFamily(
            _PREFIX + "decision_seconds_p99",
            "99th percentile of the time that the newest thousand steps' decisions took.",
            value=report.decision_p99_s,
        )
        shares = GaugeMetricFamily(
            _PREFIX + "tenant_service",
            "What a tenant with requests has had for its weight: its virtual token counter.",
            labels=["tenant"],
        )
        for tenant, counter in report.shares.items():
            label = self._tenants.of(tenant)
            if label == tenant:  # others' counters have no sum that would mean anything
                shares.add_metric([label], counter)
        yield shares
