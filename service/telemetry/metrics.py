"""The service's metrics, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.outcomes import Outcome


class StreamMetrics:
    """Metrics of the streams, in a registry of their own so that tests see one service's only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter(
            "tokenstream_requests_total",
            "Generate requests by how they ended.",
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

    def count(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        value = self.registry.get_sample_value(
            "tokenstream_requests_total", {"outcome": outcome.value}
        )
        return int(value or 0)
