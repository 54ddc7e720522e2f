"""The bridge's metrics, for Prometheus: what it did, and what browsers say they saw.

docs/metrics.md lists them all. Counted is what has happened; gauges are set by `refresh`.
"""

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from gateway_sse.streaming.outcomes import Outcome

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
_LAST = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600)
_GAP = (0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)

# Reasons are the service's and the bridge's own; a service of another make could have any.
_MOST_REASONS: Final = 100
_OTHER: Final = "other"


class GatewayMetrics:
    """In a registry of its own, so that tests see one bridge's only. Times are in seconds."""

    def __init__(self) -> None:
        # Of every series it would make a second one, for when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "tokenstream_gateway_streams_total",
            "Streamed answers, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in Outcome:
            self._ended.labels(outcome.value)
        self._open = Gauge(
            "tokenstream_gateway_streams_open",
            "Streamed answers in progress.",
            registry=self.registry,
        )
        self._lingering = Gauge(
            "tokenstream_gateway_streams_lingering",
            "Streams whose client has just gone, and could come back.",
            registry=self.registry,
        )
        self._responses = Counter(
            "tokenstream_gateway_responses_total",
            "HTTP answers, by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._first_token = Histogram(
            "tokenstream_gateway_time_to_first_token_seconds",
            "From a request's arrival here to its first token's write.",
            buckets=_FIRST,
            registry=self.registry,
        )
        self._first_visible = Histogram(
            "tokenstream_gateway_perceived_first_token_seconds",
            "From the sending of a request to the first token on the screen, as browsers say.",
            buckets=_FIRST,
            registry=self.registry,
        )
        self._last_visible = Histogram(
            "tokenstream_gateway_perceived_last_token_seconds",
            "The same, to the last token.",
            buckets=_LAST,
            registry=self.registry,
        )
        self._tokens = Counter(
            "tokenstream_gateway_tokens_total",
            "Output tokens that were taken from the service for clients.",
            registry=self.registry,
        )
        self._refusals = Counter(
            "tokenstream_gateway_refusals_total",
            "Requests that were answered with an error, by its reason.",
            ["reason"],
            registry=self.registry,
        )
        self._reasons: set[str] = set()
        self._connections = Gauge(
            "tokenstream_gateway_connections_open",
            "HTTP connections that are open.",
            registry=self.registry,
        )
        self._buffered = Gauge(
            "tokenstream_gateway_buffered_bytes",
            "Bytes of answers that wait for slow clients in this process.",
            registry=self.registry,
        )
        self.event_loop_lag = Histogram(
            "tokenstream_gateway_event_loop_lag_seconds",
            "How much later than planned the event loop came round to a timer.",
            buckets=_LAG,
            registry=self.registry,
        )
        Gauge(
            "tokenstream_gateway_build_info",
            "Always 1; what is running.",
            ["version", "python"],
            registry=self.registry,
        ).labels(version("tokenstream"), platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._longest_gap = Histogram(
            "tokenstream_gateway_perceived_longest_gap_seconds",
            "The longest time between two changes on the screen, as browsers say.",
            buckets=_GAP,
            registry=self.registry,
        )

    def watch(self, open_now: Callable[[], int], lingering: Callable[[], int]) -> None:
        """Ask these for the gauges."""
        self._open.set_function(open_now)
        self._lingering.set_function(lingering)

    def refresh(self, unsent_bytes: Iterable[int]) -> None:
        """Set the gauges that are looked up: of each open connection, what waits for its client."""
        unsent = list(unsent_bytes)
        self._connections.set(len(unsent))
        self._buffered.set(sum(unsent))

    def ended(self, outcome: Outcome, tokens: int) -> None:
        """Count an answer's end, and what was taken for it."""
        self._ended.labels(outcome.value).inc()
        self._tokens.inc(tokens)

    def refused(self, reason: str) -> None:
        """Count an error that was answered."""
        if reason not in self._reasons:
            if len(self._reasons) >= _MOST_REASONS:
                reason = _OTHER
            self._reasons.add(reason)
        self._refusals.labels(reason).inc()

    def responded(self, route: str, status: int) -> None:
        """Count an HTTP answer."""
        self._responses.labels(route, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Note when an answer's first token went out."""
        self._first_token.observe(seconds)

    def perceived(self, first_s: float, last_s: float, longest_gap_s: float) -> None:
        """Note what a browser saw of one answer."""
        self._first_visible.observe(first_s)
        self._last_visible.observe(last_s)
        self._longest_gap.observe(longest_gap_s)
