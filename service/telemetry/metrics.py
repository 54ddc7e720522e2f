"""The service's metrics, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.domain import SchedulerReport
from service.telemetry.outcomes import Outcome
from service.telemetry.scheduler_metrics import SchedulerMetrics


class StreamMetrics:
    """Metrics of the streams, in a registry of their own so that tests see one service's only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter(
            "tokenstream_requests_total",
            "Generation requests, in calls and in sessions, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in Outcome:
            self.ended.labels(outcome.value)
        self.running = Gauge(
            "tokenstream_streams_running",
            "Streams that were admitted and have not ended.",
            registry=self.registry,
        )
        self.detached = Gauge(
            "tokenstream_streams_detached",
            "Streams that run without a reader, until one comes back or their time is over.",
            registry=self.registry,
        )
        self.retained = Gauge(
            "tokenstream_streams_retained",
            "Streams that have ended and can still be read again.",
            registry=self.registry,
        )
        self.sessions = Gauge(
            "tokenstream_sessions_open",
            "Session calls that are open.",
            registry=self.registry,
        )
        self.adaptive_delay = Gauge(
            "tokenstream_adaptive_delay_seconds",
            "Delay of deltas whose request names none.",
            registry=self.registry,
        )
        self.event_loop_lag = Histogram(
            "tokenstream_event_loop_lag_seconds",
            "How much later than planned the event loop came round to a timer.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1),
            registry=self.registry,
        )
        self.tokens = Counter(
            "tokenstream_tokens_delivered_total",
            "Output tokens handed to the wire.",
            registry=self.registry,
        )
        self.time_to_first_token = Histogram(
            "tokenstream_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )

        self.tokens_ahead = Gauge(
            "tokenstream_tokens_ahead_of_readers",
            "Decoded tokens that readers have not taken, over all running streams.",
            registry=self.registry,
        )

        self.credit_in_flight = Gauge(
            "tokenstream_credit_in_flight_tokens",
            "Tokens that were granted and not delivered yet, over all running streams with credit.",
            registry=self.registry,
        )

    def watch_scheduler(self, report: Callable[[], SchedulerReport]) -> None:
        """Let the engine scheduler's figures be metrics too."""
        self.registry.register(SchedulerMetrics(report))

    def count(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        value = self.registry.get_sample_value(
            "tokenstream_requests_total", {"outcome": outcome.value}
        )
        return int(value or 0)
